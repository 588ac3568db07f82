"""A submission that is interrupted at its worst moment: nothing is queued that is not on record, no lock is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from slurm_output_fixture import queue_line
from small_manifest import wait_until, with_only, write_manifest

from pipeline.interruption import StoppedError, deferred, end_by_errors

INTERRUPTIONS = {"Ctrl-C": signal.SIGINT, "a hangup": signal.SIGHUP, "a kill": signal.SIGTERM}
COUNT = "number=$(($(cat {folder}/number 2>/dev/null || echo 40) + 1)); echo $number > {folder}/number\n"


def _programs(folder: Path, sbatch: str) -> Path:
    """Slurm's programs: sbatch counts its jobs up from 41 and does ``sbatch`` before it answers."""
    folder.mkdir(exist_ok=True)
    bodies = {
        "scontrol": "printf 'MaxArraySize = 1001\\nClusterName = lab\\n'",
        "squeue": f"cat {folder}/queue 2>/dev/null; true",
        "sacct": "echo 'Slurm accounting storage is disabled' >&2; exit 1",
        "scancel": f'echo "$@" >> {folder}/cancelled',
        "sbatch": f"{COUNT.format(folder=folder)}{sbatch}\necho Submitted batch job $number",
    }
    for name, body in bodies.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    return folder


def _submit(manifest: Path, programs: Path) -> tuple[int, str]:
    """The exit status and standard error of a submission in a session of its own, as in a terminal."""
    ended = subprocess.run(
        [sys.executable, "-m", "pipeline", "submit", str(manifest), "--executor", "slurm"],
        env={**os.environ, "PATH": f"{programs}:/usr/bin:/bin"},
        capture_output=True, text=True, timeout=120, check=False, start_new_session=True,
    )  # fmt: skip
    return ended.returncode, ended.stderr


def _recorded(manifest: Path) -> list[dict[str, Any]]:
    paths = sorted((manifest.parent / "storage/submissions").glob("*/submission.json"))
    return [json.loads(path.read_text()) for path in paths]


def _locks(manifest: Path) -> list[Path]:
    return list((manifest.parent / "storage/locks").iterdir())


@pytest.fixture(autouse=True)
def _hangups_are_heard() -> Iterator[None]:
    """Also where the tests were begun by nohup, which their processes would inherit."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_manifest(tmp_path / "m", with_only("linear"))


@pytest.mark.parametrize("case", INTERRUPTIONS)
@pytest.mark.parametrize("whom", ["kill -{number} $PPID", "kill -{number} 0"])
def test_a_signal_while_sbatch_runs_waits_until_its_job_is_on_record(
    case: str, whom: str, manifest: Path, tmp_path: Path
) -> None:
    """Also one that all in the terminal get, sbatch too: its request is on the way by then."""
    number = INTERRUPTIONS[case]
    programs = _programs(tmp_path / "bin", whom.format(number=int(number)))
    status, told = _submit(manifest, programs)
    assert status == 128 + number
    assert told == ("tanda: stopped\n" if number == signal.SIGINT else f"tanda: stopped by {number.name}\n")
    (made,) = _recorded(manifest)
    assert [array["job_ids"] for array in made["arrays"]] == [["41"]] and made["unconfirmed"] == []
    assert _locks(manifest) == []


def test_a_hangup_that_is_ignored_stays_so(manifest: Path, tmp_path: Path) -> None:
    programs = _programs(tmp_path / "bin", "kill -HUP $PPID")
    ended = subprocess.run(
        ["nohup", sys.executable, "-m", "pipeline", "submit", str(manifest), "--executor", "slurm"],
        env={**os.environ, "PATH": f"{programs}:/usr/bin:/bin"},
        capture_output=True, text=True, timeout=120, check=False, start_new_session=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert [array["stage"] for array in _recorded(manifest)[0]["arrays"]] == [
        "preprocess",
        "train",
        "evaluate",
        "close",
    ]


def _queue(programs: Path, job: int, array: dict[str, Any], submitted: float, state: str = "PENDING") -> None:
    whose = ("lab", str(os.geteuid()), array["name"], array["comment"])
    values = (str(job), state, "0", "Priority", "", "0", f"{submitted:.0f}", "N/A", "N/A", "")
    with (programs / "queue").open("a") as file:
        file.write(queue_line(*values, whose=whose) + "\n")


def _let_locks_grow_old(manifest: Path) -> None:
    for lock in _locks(manifest):
        for path in (lock, *lock.iterdir()):
            os.utime(path, (time.time() - 3600,) * 2)


def test_what_a_killed_submitter_queued_is_cancelled_by_the_next_and_queued_again(
    manifest: Path, tmp_path: Path
) -> None:
    programs = _programs(tmp_path / "bin", "[ $number = 42 ] && kill -KILL $PPID")
    assert _submit(manifest, programs)[0] == -signal.SIGKILL
    (made,) = _recorded(manifest)
    (announced,) = made["unconfirmed"]
    assert [array["job_ids"] for array in made["arrays"]] == [["41"]] and announced["stage"] == "train"
    _let_locks_grow_old(manifest)
    _queue(programs, 41, made["arrays"][0], made["time"])  # on record: it stays
    _queue(programs, 42, announced, made["time"])  # nobody has its number
    _queue(programs, 43, {**announced, "comment": "a job of the same name"}, made["time"])
    _queue(programs, 44, {**announced, "comment": "(null)"}, made["time"])
    (programs / "number").write_text("50\n")
    status, told = _submit(manifest, programs)
    assert (status, told) == (0, "tanda: 42 cancelled: queued by a submission that was interrupted\n")
    assert (programs / "cancelled").read_text() == "42\n"
    first, second = _recorded(manifest)
    assert first["unconfirmed"] == second["unconfirmed"] == []
    assert [array["stage"] for array in second["arrays"]] == ["train", "evaluate", "close"]
    assert _submit(manifest, programs)[0] == 0 and (programs / "cancelled").read_text() == "42\n", "once"


def test_what_sbatch_got_no_answer_for_may_be_queued_and_is_cancelled_by_the_next(
    manifest: Path, tmp_path: Path
) -> None:
    timed_out = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    programs = _programs(tmp_path / "bin", f"echo '{timed_out}' >&2; exit 1")
    status, told = _submit(manifest, programs)
    assert status == 1 and told == f"tanda: {timed_out}; nothing of it is in the queue\n"
    (made,) = _recorded(manifest)
    _queue(programs, 41, made["unconfirmed"][0], made["time"], state="RUNNING")
    _programs(programs, "")
    status, told = _submit(manifest, programs)
    assert (status, told) == (0, "tanda: 41 cancelled: queued by a submission that was interrupted\n")
    assert len(_recorded(manifest)[1]["arrays"]) == 4


def test_a_refused_submission_leaves_nothing(manifest: Path, tmp_path: Path) -> None:
    programs = _programs(tmp_path / "bin", "echo 'sbatch: error: invalid partition specified: x' >&2; exit 1")
    assert _submit(manifest, programs)[0] == 2
    assert _recorded(manifest) == [] and _locks(manifest) == []


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_submitter_that_is_stopped_gives_its_lock_back(number: int, manifest: Path, tmp_path: Path) -> None:
    """Before its first array it ends at once, and whoever waits goes on."""
    wait = "import time; from pipeline import submit; submit.commit = lambda: time.sleep(60)"
    program = f"{wait}; from pipeline.__main__ import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", program, "submit", str(manifest), "--executor", "slurm"],
        env={**os.environ, "PATH": f"{_programs(tmp_path / 'bin', '')}:/usr/bin:/bin"},
        stderr=subprocess.PIPE, text=True,
    ) as first:  # fmt: skip
        wait_until(lambda: list((manifest.parent / "storage/locks").glob("submit/alive-*")), "the lock", 60)
        first.send_signal(number)
        _, told = first.communicate(timeout=60)
    assert (first.returncode, told) == (128 + number, f"tanda: stopped by {signal.Signals(number).name}\n")
    assert _locks(manifest) == [] and _recorded(manifest) == []


def test_outside_a_block_signals_raise_and_inside_they_wait() -> None:
    handlers = {number: signal.getsignal(number) for number in INTERRUPTIONS.values()}
    done = []
    try:
        for number in handlers:  # as in a process of its own, whatever ran before in this one
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        end_by_errors()
        with pytest.raises(StoppedError) as stopped, deferred(programs=False):
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("all of it")
        assert done and stopped.value.number == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt), deferred(programs=True):
            os.kill(os.getpid(), signal.SIGINT)
            done.append("all of this")
        assert len(done) == 2
        with pytest.raises(StoppedError):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
