"""One task in one process: how every end becomes a record, an attempt and an exit status."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from clock_fixture import OwnClock

from jobs import attempt, entry
from jobs.context import Context, Outcome, TaskFailedError, TaskInterruptedError
from jobs.provenance import provenance
from jobs.storage import Storage
from jobs.task import Task, read_record
from sharedfs.clock import SYSTEM, Clock
from sharedfs.documents import write_json

Stage = Callable[[Context], Outcome]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[int, Path]]]:
    """Run a task whose stage is the given function; returns the exit status and the task's folder."""
    import signal

    numbers = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]

    def run(stage: Stage, needs: tuple[str, ...] = (), clock: Clock = SYSTEM) -> tuple[int, Path]:
        module = ModuleType("jobs.stages.train")
        module.run = stage  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "jobs.stages.train", module)
        folder = Task(stage="train", settings={}, needs=needs).write(Storage(tmp_path))
        return entry.run(folder, clock), folder

    yield run
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def _good(context: Context) -> Outcome:
    (context.folder / "model.pt").write_bytes(b"weights")
    return Outcome(files=(context.folder / "model.pt",), result={"train_loss": 0.5})


def _fail(error: BaseException) -> Stage:
    def stage(context: Context) -> Outcome:
        raise error

    return stage


def test_a_finished_task_is_done_and_is_not_run_again(play: Callable[..., tuple[int, Path]]) -> None:
    status, folder = play(_good)
    record = read_record(folder)
    assert (status, record and record.state, record and record.result) == (0, "done", {"train_loss": 0.5})
    assert record is not None and record.files == {f"runs/{folder.name}/model.pt": 7}
    assert play(_fail(AssertionError("must not run")))[0] == 0
    assert [facts.state for facts in attempt.history(folder)] == ["done"]


class OutOfMemoryError(RuntimeError):
    """Named as torch's own, which a task that needs no torch must not import."""


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError("no such column"), "error"),
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
        (OutOfMemoryError("CUDA out of memory"), "GPU out of memory"),
        (TaskFailedError("diverged", "loss is nan at step 7", step=7), "diverged"),
    ],
)
def test_every_failure_is_a_record_with_its_cause(
    play: Callable[..., tuple[int, Path]], error: Exception, cause: str
) -> None:
    status, folder = play(_fail(error))
    record = read_record(folder)
    assert record is not None
    assert (status, record.state, record.cause) == (1, "failed", cause)
    assert record.message and str(error) in record.message
    assert [facts.cause for facts in attempt.history(folder)] == [cause]


def test_a_paused_task_has_no_record_and_the_next_attempt_counts_its_time(
    play: Callable[..., tuple[int, Path]],
) -> None:
    def pause(context: Context) -> Outcome:
        context.clock.sleep(200.0)
        raise TaskInterruptedError("saved at step 3")

    clock = OwnClock()
    status, folder = play(pause, clock=clock)
    assert (status, read_record(folder)) == (75, None)
    assert play(_good, clock=clock)[0] == 0
    record = read_record(folder)
    assert record is not None and record.attempt == 2 and record.running_s == 200.0
    assert [facts.state for facts in attempt.history(folder)] == ["paused", "done"]


def test_a_task_whose_need_is_not_done_ends_as_upstream_failed(play: Callable[..., tuple[int, Path]]) -> None:
    status, folder = play(_good, needs=("feedfeedfeedfeed",))
    record = read_record(folder)
    assert record is not None and (status, record.cause) == (1, "upstream failed")
    assert "feedfeedfeedfeed" in (record.message or "")


def test_an_attempt_that_was_overtaken_publishes_nothing(play: Callable[..., tuple[int, Path]]) -> None:
    def overtaken(context: Context) -> Outcome:
        outcome = _good(context)
        attempt.begin(context.folder)
        return outcome

    status, folder = play(overtaken)
    assert (status, read_record(folder)) == (75, None)


def test_an_attempt_that_was_overtaken_records_no_failure(play: Callable[..., tuple[int, Path]]) -> None:
    """It would take the place of what its successor has, or will have, to show."""

    def overtaken(context: Context) -> Outcome:
        attempt.begin(context.folder)
        raise TaskFailedError("upstream failed", "it looked for what it needs before its node was cut off")

    status, folder = play(overtaken)
    assert (status, read_record(folder)) == (75, None)
    assert [facts.state for facts in attempt.history(folder)] == ["superseded", None]


def _start(folder: Path, **facts: object) -> attempt.Attempt:
    begun = attempt.begin(folder)
    document = {"number": begun.number, "started": time.time(), "host": "elsewhere", "pid": 1, **facts}
    write_json(begun.path / "start.json", document)
    return begun


def test_an_attempt_on_another_host_lives_while_it_gives_signs_of_life(tmp_path: Path) -> None:
    begun = _start(tmp_path)
    (begun.path / "alive").touch()
    assert attempt.live(tmp_path)
    os.utime(begun.path / "alive", (1, 1))
    assert not attempt.live(tmp_path)


def test_an_attempt_here_lives_while_its_process_does(tmp_path: Path) -> None:
    import socket

    _start(tmp_path, host=socket.gethostname(), pid=os.getppid())
    assert attempt.live(tmp_path)
    _start(tmp_path, host=socket.gethostname(), pid=2**22 - 1)
    assert not attempt.live(tmp_path)


def test_an_attempt_that_ended_is_over(tmp_path: Path) -> None:
    begun = _start(tmp_path)
    begun.end(state="failed", ended=time.time())
    assert not attempt.live(tmp_path)


def test_a_task_waits_for_a_live_attempt_elsewhere(
    play: Callable[..., tuple[int, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    play(_fail(TaskInterruptedError("saved")))
    asked = iter([True, True, False])
    monkeypatch.setattr(entry, "live", lambda *_: next(asked))
    clock = OwnClock()
    assert play(_good, clock=clock)[0] == 0
    assert next(asked, "all asked") == "all asked" and clock.passed == [entry.POLL_S] * 2


def test_only_the_end_of_an_attempt_knows_its_peak_of_memory(play: Callable[..., tuple[int, Path]]) -> None:
    def killed(context: Context) -> Outcome:
        newest = attempt.newest(context.folder)
        assert newest is not None and newest.peak_mb is None
        return _good(context)

    _, folder = play(killed)
    record, ended = read_record(folder), attempt.newest(folder)
    assert provenance().peak_mb is None
    assert record is not None and ended is not None and (record.about.peak_mb or 0) > 1 and (ended.peak_mb or 0) > 1


class _ReadOnly(OwnClock):
    """The clock of a storage where we may not write."""

    def on(self, folder: Path) -> float:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


@pytest.mark.parametrize(("age_s", "lives"), [(10.0, True), (attempt.STALE_S + 10, False)])
def test_who_may_only_read_sees_whether_an_attempt_lives(tmp_path: Path, age_s: float, lives: bool) -> None:
    begun, clock = _start(tmp_path), _ReadOnly()
    (begun.path / "alive").touch()
    os.utime(begun.path / "alive", (clock.now() - age_s,) * 2)
    assert attempt.live(tmp_path, clock) == lives


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (None, "no task.json here; must be a task's folder, STORAGE/runs/ID"),
        (ValueError("ours"), None),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), None),
        (PermissionError(errno.EACCES, "Permission denied", "/s/runs"), "/s/runs: user"),
    ],
)
def test_a_task_that_cannot_be_begun_is_a_line_for_people_or_a_fault_of_ours(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: Exception | None,
    line: str | None,
) -> None:
    folder = tmp_path / "runs" / "none" if fault is None else Task(stage="train", settings={}).write(Storage(tmp_path))

    def fail(*_: object) -> bool:
        assert fault is not None
        raise fault

    monkeypatch.setattr(entry, "is_done", fail)
    monkeypatch.setattr(entry, "InterruptFlag", lambda: lambda: False)
    monkeypatch.setattr(sys, "argv", ["jobs", str(folder)])
    assert entry.main() == 2
    message = capsys.readouterr().err
    if line is None:
        assert message.startswith("Traceback") and message.splitlines()[-1].startswith(type(fault).__name__)
    else:
        assert line in message and message.startswith("tanda: ") and message.count("\n") == 1


def test_an_attempt_that_another_began_and_ended_between_two_looks_is_seen(
    play: Callable[..., tuple[int, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record is there by then, and its number taken: the task is not run a second time."""
    ran: list[int] = []

    def stage(context: Context) -> Outcome:
        ran.append(context.attempt.number)
        return _good(context)

    def live(folder: Path, clock: Clock) -> bool:
        monkeypatch.setattr(entry, "live", attempt.live)
        before = attempt.live(folder, clock)
        assert entry.run(folder, clock) == 0  # another process, start to end
        return before

    monkeypatch.setattr(entry, "live", live)
    status, folder = play(stage)
    assert (status, ran) == (0, [1]) and attempt.numbers(folder) == [1]


def test_of_two_that_begin_at_once_one_waits(
    play: Callable[..., tuple[int, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both saw that nobody is at it; one claims the next number, and the other must not claim the one after that."""
    ran: list[int] = []

    def stage(context: Context) -> Outcome:
        ran.append(context.attempt.number)
        return _good(context)

    def hold(task: Task, storage: Storage) -> None:
        monkeypatch.setattr(entry.circuit_breaker, "hold", lambda task, storage: None)
        assert entry.run(storage.run(task.id)) == 0  # another process, start to end
        return

    monkeypatch.setattr(entry.circuit_breaker, "hold", hold)
    status, folder = play(stage, clock=OwnClock())
    assert (status, ran) == (0, [1]) and attempt.numbers(folder) == [1]
