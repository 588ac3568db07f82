"""MPS of an element's own: started where tasks share a GPU, gone with the element, and never in the way of a task."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest
from mps_fixture import mps_calls, mps_folder
from nvml_fixture import Board, FakeNvml
from test_slurm_element import begin, make_path, notes, run, wait_for

from jobs.gpu_watch import Child, Watch, Watched
from jobs.nvml import Nvml
from slurm import mps
from slurm.element import OK

PathTo = Callable[[Path], None]


@pytest.fixture
def path_to(monkeypatch: pytest.MonkeyPatch) -> PathTo:
    """Put a folder first on PATH; nothing of the site's is in the environment."""
    monkeypatch.delenv(mps.PIPES, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    return lambda folder: monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def folder_of(calls: list[str]) -> Path:
    return Path(calls[0].split()[1])


def test_tasks_that_share_a_gpu_get_a_daemon_that_ends_with_them(
    tmp_path: Path, path_to: PathTo, capfd: pytest.CaptureFixture[str]
) -> None:
    home = mps_folder(tmp_path)
    path_to(home)
    paths = [make_path(tmp_path, name, "sleep 0.2") for name in "ab"]
    assert run(tmp_path, *paths, gpus=1) == OK
    calls = mps_calls(home)
    assert [call.split()[0] for call in calls] == ["start", "start_server", "get_server_list", "quit"]
    assert calls[0].endswith(" 3")  # the daemon has the element's GPU, and calls it 0
    assert [(path / "devices").read_text() for path in paths] == ["0", "0"]
    assert {(path / "mps").read_text() for path in paths} == {str(folder_of(calls))}
    assert str(folder_of(calls)).startswith("/tmp/tanda-mps-")
    assert not folder_of(calls).exists()
    assert "mps:" not in capfd.readouterr().err


def test_a_cancelled_element_ends_it_once_its_tasks_have_saved(tmp_path: Path, path_to: PathTo) -> None:
    home = mps_folder(tmp_path)
    path_to(home)
    paths = [make_path(tmp_path, name, "save sleep 30") for name in "ab"]
    element = begin(tmp_path, *paths, gpus=1)
    wait_for(lambda: all(notes(path) for path in paths))
    folder = folder_of(mps_calls(home))
    daemon = int((folder / "daemon.pid").read_text())
    os.kill(daemon, signal.SIGTERM)  # as Slurm sends it to all of an allocation: the tasks still need it
    os.kill(daemon, 0)
    element.send_signal(signal.SIGTERM)
    element.wait(timeout=30)
    assert [notes(path)[-1][0] for path in paths] == ["saved", "saved"]
    assert mps_calls(home)[-1] == "quit"
    assert not folder.exists()
    wait_for(lambda: not Path(f"/proc/{daemon}").exists() or " Z " in Path(f"/proc/{daemon}/stat").read_text())


@pytest.mark.parametrize(
    ("stand_in", "line"),
    [
        ({"refuses": True}, "mps: not started: Cannot start: not permitted: 2 tasks take turns on their GPU"),
        ({"serverless": True}, "mps: not started: get_server_list: no server: 2 tasks take turns on their GPU"),
        (None, "mps: nvidia-cuda-mps-control is not on PATH: 2 tasks take turns on their GPU"),
    ],
)
def test_where_it_cannot_be_one_line_says_so_and_nothing_stops(
    tmp_path: Path, path_to: PathTo, capfd: pytest.CaptureFixture[str], stand_in: dict[str, bool] | None, line: str
) -> None:
    if stand_in is not None:
        path_to(mps_folder(tmp_path, **stand_in))
    paths = [make_path(tmp_path, name, "exit 0") for name in "ab"]
    assert run(tmp_path, *paths, gpus=1) == OK
    assert capfd.readouterr().err.splitlines().count(line) == 1
    assert [(path / "devices").read_text() for path in paths] == ["3", "3"]
    assert {(path / "mps").read_text() for path in paths} == {""}


@pytest.mark.parametrize(("tasks", "gpus", "site"), [(1, 1, ""), (2, 2, ""), (2, 0, ""), (2, 1, "/run/site-mps")])
def test_it_is_not_started_where_nothing_is_shared_or_the_site_has_one(
    tmp_path: Path, path_to: PathTo, monkeypatch: pytest.MonkeyPatch, tasks: int, gpus: int, site: str
) -> None:
    home = mps_folder(tmp_path)
    path_to(home)
    monkeypatch.setenv(mps.PIPES, site)
    assert mps.start(tasks, gpus) is None
    assert mps_calls(home) == []


def test_numbers_are_counted_anew_and_uuids_are_not() -> None:
    daemon = mps.Mps(folder="/tmp/x", environment={})
    assert daemon.for_task({"CUDA_VISIBLE_DEVICES": "6,4"}, ("4", "5", "6"))["CUDA_VISIBLE_DEVICES"] == "2,0"
    assert daemon.for_task({"CUDA_VISIBLE_DEVICES": "GPU-b"}, ("GPU-a", "GPU-b"))["CUDA_VISIBLE_DEVICES"] == "GPU-b"
    assert "CUDA_VISIBLE_DEVICES" not in daemon.for_task({}, ())


def test_the_server_beside_its_clients_takes_no_energy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients of MPS are the tasks; a process of somebody else's still makes the energy unknown."""
    mb = 1 << 20
    board = Board(utilisation=cycle([50]), memory={900: 30 * mb}, clients={11: 2 * mb, 12: 3 * mb})
    monkeypatch.setattr("jobs.gpu_watch.is_mps_server", lambda pid: pid == 900)
    tasks = [Watched(Child(path=str(tmp_path), pid=pid, cpus=1, gpus="0")) for pid in (11, 12)]
    watch = Watch(tasks, Nvml(FakeNvml(board)), print, lambda _pid: 0.0)
    watch.look(1.0)
    watch.look(1.0)
    assert [task.tally.peak_mb for task in tasks] == [2, 3]
    assert [task.tally.energy_j for task in tasks] == [1.0, 1.0]
    board.clients[13] = mb
    watch.look(1.0)
    assert [task.tally.energy_j for task in tasks] == [None, None]
