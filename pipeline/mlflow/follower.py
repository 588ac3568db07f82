"""``python -m pipeline.mlflow.follower URI MANIFEST STORAGE/runs/ID...``: sends tasks' epochs while they train.

It runs beside the tasks of one element of an array; ``pipeline.mlflow`` has the protocol. A server that is slow or
down costs the tasks nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from jobs import metrics_log
from jobs.attempt import history
from jobs.models import read_recipe
from jobs.settings import shown
from jobs.task import RECORD, Task
from pipeline.mlflow.description import MlflowRun, curves, describe
from pipeline.mlflow.server import Server, Unreachable
from pipeline.mlflow.writer import Sent, write

EVERY_S = 5.0
LONGEST_PAUSE_S = 300.0  # between two tries at a server that does not answer
LAST_TIMEOUT_S = 2.0  # a request once the tasks are over: the node waits for it
NO_SETTINGS = ("dataset", "search")  # what a task's settings hold besides settings


@dataclass(slots=True)
class Followed:
    """One task, and what the server has of it."""

    folder: Path
    manifest: str
    sent: Sent | None = None
    seen: tuple[int, int] | None = None  # the metrics log's size and time when all of it was sent
    seen_at: float = field(default_factory=time.time)

    def has_record(self) -> bool:
        return (self.folder / RECORD).exists()

    def send(self, server: Server, experiment: str) -> None:
        """Send what the server lacks; a metrics log that did not change is not even read."""
        stamp = _stamp(self.folder / metrics_log.NAME)
        if self.sent is not None and stamp == self.seen:
            return
        self.sent, _ = write(server, experiment, self._describe(), self.sent)
        self.seen = stamp

    def _describe(self) -> MlflowRun:
        """The task's run, as running; its final name and tags come with the report."""
        task, group = Task.read(self.folder), os.environ.get("TANDA_GROUP", "")
        settings = task.settings if "architecture" in task.settings else {}
        attempts = history(self.folder)
        began = attempts[0].started if attempts else None
        texts = shown(read_recipe({**task.plumbing, **settings}, self.folder).settings) if settings else {}
        parts = (group, settings.get("architecture"), self.folder.name[:8])
        return describe(
            run_id=self.folder.name,
            manifest=self.manifest,
            name=" / ".join(str(part) for part in parts if part),
            state="running",
            started=self.seen_at if began is None else began,
            ended=None,
            settings={key: texts.get(key, settings[key]) for key in settings if key not in NO_SETTINGS},
            facts={"group": group, "stage": task.stage},
            # After a cut some epochs are done again: the same values, at a later time.
            points=curves(metrics_log.read(self.folder), self.seen_at),
        )


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    return facts.st_size, facts.st_mtime_ns


class _Terminated(Exception):  # noqa: N818 - no error
    """SIGTERM came: the tasks have ended. ``hung`` says that a request was waiting for its answer."""

    def __init__(self, *, hung: bool) -> None:
        super().__init__(hung)
        self.hung = hung


def follow(
    server: Server,
    manifest: str,
    folders: Iterable[Path],
    *,
    gone: Callable[[], bool],
    every_s: float = EVERY_S,
    log: Callable[[str], None] = lambda _line: None,
) -> None:
    """Send what is new of every task until all have a record, or ``gone`` says that their element has ended.

    A server that fails is logged once, and tried again after ever longer pauses.
    """
    tasks = [Followed(folder, manifest) for folder in folders]
    experiment: str | None = None
    failures = 0

    def send() -> None:
        nonlocal experiment
        experiment = experiment or server.experiment(manifest)
        for task in tasks:
            task.send(server, experiment)

    try:
        while True:
            last = gone() or all(task.has_record() for task in tasks)
            try:
                send()
                failures = 0
            except (Unreachable, OSError) as error:
                failures += 1
                if failures == 1:
                    log(f"not sent for now; what is missing at the end, the report sends: {error}")
            if last:
                return
            time.sleep(every_s if not failures else min(every_s * 2 ** min(failures, 10), LONGEST_PAUSE_S))
    except _Terminated as terminated:
        # One last try, and none at a server that failed or hangs: a node waits for the end of it.
        if failures or terminated.hung:
            return
        server.timeout_s = LAST_TIMEOUT_S
        try:
            send()
        except (Unreachable, OSError) as error:
            log(f"the last epochs were not sent, the report sends them: {error}")


def main(arguments: list[str]) -> int:
    """Follow tasks for the process that started this one."""
    if len(arguments) < 3:
        print("usage: python -m pipeline.mlflow.follower URI MANIFEST STORAGE/runs/ID...", file=sys.stderr)
        return 2
    uri, manifest, *folders = arguments
    server, parent = Server(uri), os.getppid()
    terminated = False

    def terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - Python's signature
        nonlocal terminated
        # A second one, from a sender that signals the whole group, must not cut the last request short.
        if not terminated:
            terminated = True
            raise _Terminated(hung=server.waiting_s() > LAST_TIMEOUT_S)

    for number in (signal.SIGUSR2, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # they are for the tasks
    os.nice(10)
    try:
        signal.signal(signal.SIGTERM, terminate)
        follow(
            server, manifest, [Path(folder) for folder in folders],
            gone=lambda: os.getppid() != parent,
            log=lambda line: print(f"tracking: {line}", file=sys.stderr, flush=True),
        )  # fmt: skip
    except _Terminated:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
