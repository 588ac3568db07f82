"""A person is told something by a command of theirs: of each subject once, by the job that is first to see it.

The protocol, whole. ``notices/<subject>/`` in a submission's folder is made by exclusive creation: who makes it runs
the command, and nobody else ever does, so that a job that starts again tells nothing twice. notice.json in it says at
first that the command's end is not known, and then how it ended. A job that is killed in between leaves the first: one
message may then be missing, which ``tanda status`` says, and none comes twice.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sharedfs.documents import read_as, write_json
from sharedfs.files import OWNER_WRITES, claim

NOTICES, NOTICE = "notices", "notice.json"
COMMAND = "TANDA_NOTIFY"  # in the environment of tasks
LIMIT_S = 60.0
UNKNOWN = "its end is not known: it still runs, or its job was cut short"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """notice.json: when a command was begun, and why it failed, None where it ended well."""

    began: float
    failed: str | None


def tell(command: str, submission: Path, subject: str, text: str, *, limit_s: float = LIMIT_S) -> None:
    """Give a message to a person's command, unless one on this subject was given to it before.

    What goes wrong is noted and in the job's log, and stops nothing.
    """
    folder, began = submission / NOTICES / subject, time.time()
    try:
        folder.parent.mkdir(mode=0o755, exist_ok=True)
        if not claim(folder, permissions=0o755):
            return
        write_json(folder / NOTICE, Notice(began=began, failed=UNKNOWN), permissions=OWNER_WRITES)
        failed = _run(command, text, limit_s)
        write_json(folder / NOTICE, Notice(began=began, failed=failed), permissions=OWNER_WRITES)
    except OSError as error:  # of the storage, or there is no shell: the tasks have their results all the same
        failed = str(error)
    if failed is not None:
        print(f"notify: {failed}", file=sys.stderr, flush=True)


def is_told(submission: Path, subject: str) -> bool:
    """Whether the command was begun on a subject."""
    return (submission / NOTICES / subject).exists()


def failures(submission: Path) -> Iterator[str]:
    """A line for each message that was not, or may not have been, sent."""
    folders = sorted((submission / NOTICES).glob("*"))
    for folder in folders:
        try:
            failed = read_as(Notice, folder / NOTICE, "a notice").failed
        except (OSError, ValueError):
            failed = UNKNOWN
        if failed is not None:
            yield f"the command of `notify` ({folder.name}): {failed}"


def _run(command: str, text: str, limit_s: float) -> str | None:
    """Why the command failed. Files and no pipes: what it leaves running could hold a pipe open for ever."""
    with tempfile.TemporaryFile() as message, tempfile.TemporaryFile() as output:
        message.write(text.encode())
        message.seek(0)
        process = subprocess.Popen(
            ["/bin/sh", "-c", command], stdin=message, stdout=output, stderr=output, start_new_session=True
        )
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"still ran after {limit_s:g} s, and was ended"
        return None if status == 0 else f"ended with status {status}{_last_line(output)}"


def _last_line(output: IO[bytes]) -> str:
    output.seek(max(0, output.seek(0, os.SEEK_END) - 4096))
    lines = output.read().decode(errors="replace").split("\n")
    words = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {words}" if words else ""
