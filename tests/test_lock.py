"""A lock on shared storage: one holder at a time, kept by a heartbeat, broken when that stops."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from clock_fixture import OwnClock

from sharedfs import lock
from sharedfs.lock import STALE_S, heartbeat, hold, holder, try_hold


def _age(folder: Path, seconds: float) -> None:
    for path in (folder, *folder.iterdir()):
        os.utime(path, (time.time() - seconds,) * 2)


@contextmanager
def _held_by_another(folder: Path) -> Iterator[None]:
    """The lock as another process left it that was killed: no heartbeat any more."""
    with hold(folder):
        left = {path.name: path.read_bytes() for path in folder.iterdir()}
    folder.mkdir()
    for name, content in left.items():
        (folder / name).write_bytes(content)
    yield


def test_one_holds_it_and_it_is_gone_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "locks" / "submit"
    with try_hold(folder) as first:
        assert first
        who = holder(folder)
        assert who is not None and who.pid == os.getpid() and abs(who.since - time.time()) < 60
        with try_hold(folder) as second:
            assert not second
    assert list(folder.parent.iterdir()) == [] and holder(folder) is None


def test_it_is_given_back_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), hold(tmp_path / "lock"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("age_s", "free"), [(STALE_S - 5, False), (STALE_S + 5, True)])
def test_a_dead_holders_is_taken_over_once_its_heartbeat_is_stale(tmp_path: Path, age_s: float, free: bool) -> None:
    folder = tmp_path / "lock"
    with _held_by_another(folder):
        _age(folder, age_s)
        with try_hold(folder) as held:
            assert held == free


def test_ages_are_taken_by_the_storages_clock(tmp_path: Path) -> None:
    """A node whose clock is an hour fast takes no lock away; a storage that is an hour on does."""
    folder = tmp_path / "lock"
    with _held_by_another(folder):
        with try_hold(folder, clock=OwnClock()) as held:
            assert not held
        with try_hold(folder, clock=OwnClock(ahead=3600)) as held:
            assert held


def test_whoever_waits_is_shown_the_holder_once(tmp_path: Path) -> None:
    folder, shown = tmp_path / "lock", list[str]()

    class Impatient(OwnClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if self.monotonic() > 10:
                _age(folder, STALE_S + 5)  # its holder died meanwhile

    with _held_by_another(folder), hold(folder, report=shown.append, clock=Impatient()):
        pass
    assert len(shown) == 1
    assert f"process {os.getpid()} on" in shown[0] and str(folder) in shown[0]


def test_a_holder_whose_lock_was_broken_takes_nobody_elses_away(tmp_path: Path) -> None:
    """It slept (a suspended node), was taken for dead, and woke up: what stands there is another's."""
    folder = tmp_path / "lock"
    first = hold(folder)
    first.__enter__()
    _age(folder, STALE_S + 5)
    second = hold(folder, clock=OwnClock())
    second.__enter__()
    first.__exit__(None, None, None)
    with try_hold(folder) as third:
        assert not third, "the second holder's"
    second.__exit__(None, None, None)
    assert not folder.exists()


def test_of_two_who_find_a_dead_holder_one_gets_the_lock(tmp_path: Path) -> None:
    """The second takes it between the first one's look and its deed."""
    folder, rival = tmp_path / "lock", ExitStack()

    class Overtaken(OwnClock):
        def on(self, storage: Path) -> float:
            assert rival.enter_context(try_hold(folder))
            return super().on(storage)

    with _held_by_another(folder), rival:
        _age(folder, STALE_S + 5)
        with try_hold(folder, clock=Overtaken()) as late:
            assert not late
        who = holder(folder)
        assert who is not None and time.time() - who.since < STALE_S, "the rival's lock stands"


def test_a_heartbeat_goes_on_through_a_storage_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.01)
    beats = list[int]()

    def beat() -> None:
        beats.append(1)
        raise OSError("no space is left")

    with heartbeat(beat):
        while len(beats) < 3:
            time.sleep(0.01)


def _count(folder: Path, times: int) -> None:
    file = folder / "count"
    for _ in range(times):
        with hold(folder / "lock"):
            value = int(file.read_text())
            file.write_text(str(value + 1))


def _die_holding(folder: Path) -> None:
    with hold(folder / "lock"):
        os.kill(os.getpid(), signal.SIGKILL)


def test_processes_take_turns_and_one_that_is_killed_holds_nobody_up_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "STALE_S", 0.5)
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    monkeypatch.setattr(lock, "POLL_S", 0.002)
    (tmp_path / "count").write_text("0")
    context = multiprocessing.get_context("fork")
    dead = context.Process(target=_die_holding, args=(tmp_path,))
    dead.start()
    dead.join()
    assert (tmp_path / "lock").exists()
    workers = [context.Process(target=_count, args=(tmp_path, 20)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert (tmp_path / "count").read_text() == "80"
