"""A storage that is full, over quota, read-only or closed to us: one clear line, what is saved kept, and on again."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from clock_fixture import OwnClock

from jobs import entry, storage
from jobs.attempt import history
from jobs.context import Context, Outcome
from jobs.storage import Storage
from jobs.task import Task, read_record
from sharedfs.files import write_whole

Stage = Callable[[Context], Outcome]
WEIGHTS = bytes(3 << 20)


class Disk:
    """A storage that can be filled up and emptied."""

    def __init__(self, root: Path, fill: Callable[[], None], clear: Callable[[], None]) -> None:
        self.root, self.fill, self.clear = root, fill, clear


def _patched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Full by saying so: where nothing may be mounted."""
    full, sync = threading.Event(), os.fsync

    def fsync(descriptor: int) -> None:
        if full.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return Disk(tmp_path, full.set, full.clear)


@pytest.fixture(params=["real", "patched"])
def disk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A file system of 8 MiB of its own, and one that only says that it is full."""
    if request.param == "patched":
        yield _patched(tmp_path, monkeypatch)
        return
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system may be mounted here; the patched one is tested")
    ballast = tmp_path / "ballast"

    def fill() -> None:
        with ballast.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                return

    yield Disk(tmp_path, fill, lambda: ballast.unlink(missing_ok=True))
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Leave the signal handlers as they were."""
    numbers = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@dataclass(frozen=True, kw_only=True)
class _Cleared(OwnClock):
    """At some moment of the wait somebody makes room."""

    disk: Disk
    at_s: float

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if self.monotonic() >= self.at_s:
            self.disk.clear()


def _play(stage: Stage, root: Path, monkeypatch: pytest.MonkeyPatch, clock: OwnClock | None = None) -> tuple[int, Path]:
    module = ModuleType("jobs.stages.train")
    module.run = stage  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jobs.stages.train", module)
    folder = Task(stage="train", settings={}).write(Storage(root))
    return entry.run(folder, clock or OwnClock()), folder


def _saving(disk: Disk) -> Stage:
    """Saves something, then finds the disk full at its first attempt."""

    def stage(context: Context) -> Outcome:
        if context.attempt.number == 1:
            write_whole(context.folder / "checkpoint.pt", b"saved")
            disk.fill()
        assert (context.folder / "checkpoint.pt").read_bytes() == b"saved"
        write_whole(context.folder / "model.pt", WEIGHTS)
        return Outcome(files=(context.folder / "model.pt",), result={})

    return stage


def test_a_full_disk_is_waited_for_and_the_task_goes_on(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    clock = _Cleared(disk=disk, at_s=17.0)
    status, folder = _play(_saving(disk), disk.root, monkeypatch, clock)
    record = read_record(folder)
    assert (status, record and record.state, record and record.attempt) == (0, "done", 2)
    assert clock.passed == [5.0] * 4 and record is not None and record.running_s == 20.0
    first, second = history(folder)
    assert first.state == "paused" and "no space is left" in (first.message or "")
    assert second.state == "done"
    message = capfd.readouterr().err
    assert "waiting for the storage" in message and "model.pt" in message and "Traceback" not in message
    assert not list(folder.glob(".*.tmp"))


def test_a_disk_that_stays_full_ends_the_task_in_one_line_and_submitting_again_goes_on(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    clock = OwnClock()
    status, folder = _play(_saving(disk), disk.root, monkeypatch, clock)
    # Not even its end could be recorded: the status says so, to its element and to Slurm.
    assert status == entry.AWAY and clock.monotonic() == storage.MAX_WAIT_S
    message = capfd.readouterr().err
    assert "Traceback" not in message
    assert re.search(r"failed \(storage\): .*model\.pt: no space is left; .*`tanda gc`.*`tanda submit` again", message)
    disk.clear()
    status, folder = _play(_saving(disk), disk.root, monkeypatch, _Cleared(disk=disk, at_s=0.0))
    record = read_record(folder)
    assert (status, record and record.state) == (0, "done")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EDQUOT, "Quota exceeded", "/s/x"), "/s/x: the disk quota is used up; what was saved is kept"),
        (OSError(errno.EROFS, "Read-only", "/s/x"), "/s/x: the file system is read-only; .* mount it for writing"),
        (OSError("100 requested and 7 written"), "no space is left"),
    ],
)
def test_what_may_pass_is_waited_for(
    error: OSError, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def stage(context: Context) -> Outcome:
        if context.attempt.number == 1:
            raise error
        return Outcome(files=(), result={})

    assert _play(stage, tmp_path, monkeypatch)[0] == 0
    expected = f"waiting for the storage: {message}" if message.startswith("/") else message
    assert re.search(expected, capfd.readouterr().err)


def test_what_is_not_allowed_fails_at_once_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def stage(context: Context) -> Outcome:
        raise PermissionError(errno.EACCES, "Permission denied", "/data/titles.csv")

    status, folder = _play(stage, tmp_path, monkeypatch)
    record = read_record(folder)
    assert status == 1 and record is not None and record.cause == "error"
    assert (
        record.message
        == f"/data/titles.csv: user {os.getuid()} may not do that here; grant it, then `tanda submit` again goes on"
    )
    assert "Traceback" not in capfd.readouterr().err


def test_asked_to_stop_while_it_waits_it_wants_to_be_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stage(context: Context) -> Outcome:
        os.kill(os.getpid(), signal.SIGUSR2)
        raise OSError(errno.ENOSPC, "No space left on device")

    status, folder = _play(stage, tmp_path, monkeypatch)
    assert status == 75
    assert read_record(folder) is None


def test_another_error_of_the_system_is_no_fault_of_the_storage() -> None:
    assert not storage.is_transient(OSError(errno.EINVAL, "Invalid argument"))
    assert storage.describe_error(OSError(errno.EINVAL, "Invalid argument"), Path("/s")) is None
    assert storage.describe_error(ValueError("a requested and b written"), Path("/s")) is None
