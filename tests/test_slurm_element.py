"""One element of an array: children side by side, their ends, and when another start is asked for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slurm.element import AGAIN, FAILED, IDLE, OK, Element, read_element, write_elements

CHILD = (sys.executable, str(Path(__file__).with_name("slurm_child.py")))
ROOT = str(Path(__file__).parents[1])


def make_path(folder: Path, name: str, plan: str) -> Path:
    path = folder / name
    path.mkdir(parents=True)
    (path / "plan").write_text(plan)
    return path


def begin(folder: Path, *paths: Path, restart: int = 0, **facts: object) -> subprocess.Popen[bytes]:
    element = Element(paths=tuple(map(str, paths)), command=CHILD, **{"cpus": 4, **facts})  # type: ignore[arg-type]
    write_elements(folder / "elements.json", (element,))
    environment = {
        **os.environ, "PYTHONPATH": ROOT, "PYTHONSAFEPATH": "1", "TANDA_ELEMENT": "7_3", "TANDA_RESTART": str(restart),
    }  # fmt: skip
    command = [sys.executable, "-m", "slurm.element", str(folder / "elements.json"), "0"]
    return subprocess.Popen(command, env=environment)


def run(folder: Path, *paths: Path, **facts: object) -> int:
    return begin(folder, *paths, **facts).wait(timeout=30)


def wait_for(ready: Callable[[], bool], limit_s: float = 15) -> None:
    deadline = time.monotonic() + limit_s
    while not ready():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def notes(path: Path) -> list[list[str]]:
    file = path / "notes"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.parametrize(("plan", "status"), [("exit 0", OK), ("exit 1", FAILED), ("exit 3", FAILED), ("kill", FAILED)])
def test_the_element_fails_when_a_child_fails(tmp_path: Path, plan: str, status: int) -> None:
    assert run(tmp_path, make_path(tmp_path, "a", plan)) == status


def test_a_childs_output_goes_to_its_own_log_under_a_header(tmp_path: Path) -> None:
    path = make_path(tmp_path, "a", "nonsense")
    run(tmp_path, path)
    run(tmp_path, path, restart=1)
    lines = (path / "log.txt").read_text().splitlines()
    assert next(line for line in lines if line.startswith("==")).endswith("job 7_3 start 1 ==")
    assert lines.count("unknown word nonsense") == 2
    assert "start 2 ==" in (path / "log.txt").read_text()


@pytest.mark.parametrize(("folder", "log"), [(0o2775, 0o664), (0o755, 0o644)])
def test_a_log_is_for_others_to_change_where_its_folder_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: int, log: int
) -> None:
    monkeypatch.setenv("TANDA_UMASK", "002")
    path = make_path(tmp_path, "a", "exit 0")
    path.chmod(folder)
    assert run(tmp_path, path) == 0
    assert (path / "log.txt").stat().st_mode & 0o777 == log


def test_packed_children_run_side_by_side_and_share_the_cpus(tmp_path: Path) -> None:
    paths = [make_path(tmp_path, name, "sleep 0.5") for name in "ab"]
    assert run(tmp_path, *paths) == OK
    starts = [float(notes(path)[0][1]) for path in paths]
    ends = [float(notes(path)[1][1]) for path in paths]
    assert max(starts) < min(ends)
    assert {note[2] for path in paths for note in notes(path)} == {"2"}


@pytest.mark.parametrize(
    ("devices", "dealt"),
    [
        ("0", ["0", "0", "0"]),
        ("0,1", ["0", "1", "0"]),
        ("4,5,6,7", ["4,7", "5", "6"]),
        ("", [""] * 3),
        ("NoDevFiles", ["NoDevFiles"] * 3),
    ],
)
def test_gpus_are_dealt_out_or_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: str, dealt: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    paths = [make_path(tmp_path, name, "exit 0") for name in "abc"]
    assert run(tmp_path, *paths) == OK
    assert [(path / "devices").read_text() for path in paths] == dealt
    shared = [str(dealt.count(own)) for own in dealt]
    assert [(path / "gpu_tasks").read_text() for path in paths] == shared


def test_a_child_knows_what_its_element_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDA_GPUS", "8")  # of whatever started the element
    monkeypatch.setenv("TANDA_WARNING_S", "9")
    for number in (0, 2):
        path = make_path(tmp_path, f"with{number}", "exit 0")
        assert run(tmp_path, path, gpus=number, warn_s=30 + number) == OK
        assert (path / "gpus").read_text() == str(number)
        assert (path / "warning").read_text() == str(30 + number)


@pytest.mark.parametrize(
    ("gpus", "devices", "seen"),
    [(0, None, ""), (1, None, "not set"), (0, "2", "2"), (1, "2", "2"), (0, "NoDevFiles", "NoDevFiles")],
)
def test_who_was_given_no_gpu_sees_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, devices: str | None, seen: str
) -> None:
    if devices is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)  # by Slurm, of what it gave
    path = make_path(tmp_path, "a", "exit 0")
    assert run(tmp_path, path, gpus=gpus) == OK
    assert (path / "devices").read_text() == seen


def test_the_death_of_one_leaves_the_others_and_is_written_down(tmp_path: Path) -> None:
    dies, lives = make_path(tmp_path, "dies", "kill"), make_path(tmp_path, "lives", "sleep 0.3")
    assert run(tmp_path, dies, lives, restart=2) == FAILED
    assert notes(lives)[-1][0] == "end"
    end = json.loads((dies / "exits/7_3-2.json").read_text())
    assert (end["exit_code"], end["job_id"], end["restart"]) == (-signal.SIGKILL, "7_3", 2)
    assert end["peak_mb"] > 1 and abs(end["ended"] - time.time()) < 60
    assert not (lives / "exits").exists()


@pytest.mark.parametrize("plan", ["exit 0", "exit 1", "touch checkpoint.pt exit 75"])
def test_an_end_that_the_child_tells_of_itself_is_not_written_again(tmp_path: Path, plan: str) -> None:
    path = make_path(tmp_path, "a", plan)
    run(tmp_path, path, progress_files=("checkpoint.pt",))
    assert not (path / "exits").exists()


def test_a_warning_is_passed_on_and_a_saved_child_asks_for_another_start(tmp_path: Path) -> None:
    saves, ended = make_path(tmp_path, "saves", "save sleep 30"), make_path(tmp_path, "ended", "exit 0")
    element = begin(tmp_path, saves, ended, progress_files=("checkpoint.pt",))
    wait_for(lambda: bool(notes(saves)) and len(notes(ended)) == 2)
    time.sleep(0.2)
    element.send_signal(signal.SIGUSR2)
    assert element.wait(timeout=10) == AGAIN
    assert notes(saves)[-1][0] == "saved"


def test_a_cancelled_element_saves_but_does_not_come_back(tmp_path: Path) -> None:
    path = make_path(tmp_path, "a", "save sleep 30")
    element = begin(tmp_path, path, progress_files=("checkpoint.pt",))
    wait_for(lambda: bool(notes(path)))
    time.sleep(0.2)
    element.send_signal(signal.SIGTERM)
    assert element.wait(timeout=10) == FAILED
    assert notes(path)[-1][0] == "saved"


def test_a_child_that_the_warning_found_still_starting_gets_another_start(tmp_path: Path) -> None:
    # `sleep` sets no handlers: the signal ends it as it would end a Python that is still importing.
    path = make_path(tmp_path, "a", "sleep 30")
    element = begin(tmp_path, path)
    wait_for(lambda: bool(notes(path)))
    element.send_signal(signal.SIGUSR2)
    assert element.wait(timeout=10) == AGAIN


def test_one_that_saved_is_not_lost_because_its_neighbour_is_deaf(tmp_path: Path) -> None:
    saves, deaf = make_path(tmp_path, "saves", "save sleep 30"), make_path(tmp_path, "deaf", "deaf sleep 30")
    element = begin(tmp_path, saves, deaf, warn_s=1, progress_files=("checkpoint.pt",))
    wait_for(lambda: bool(notes(saves) and notes(deaf)))
    time.sleep(0.2)
    element.send_signal(signal.SIGUSR2)
    assert element.wait(timeout=10) == AGAIN


def test_without_progress_the_third_start_in_a_row_is_the_last(tmp_path: Path) -> None:
    path = make_path(tmp_path, "a", "exit 75")
    statuses = [run(tmp_path, path, restart=number, progress_files=("checkpoint.pt",)) for number in range(3)]
    assert statuses == [AGAIN, AGAIN, IDLE]


def test_progress_begins_the_count_anew(tmp_path: Path) -> None:
    path = make_path(tmp_path, "a", "exit 75\nexit 75\ntouch checkpoint.pt exit 75\nexit 75")
    statuses = [run(tmp_path, path, restart=number, progress_files=("checkpoint.pt",)) for number in range(6)]
    assert statuses == [AGAIN, AGAIN, AGAIN, AGAIN, AGAIN, IDLE]


def test_a_path_that_is_not_there_leaves_the_others(tmp_path: Path) -> None:
    path = make_path(tmp_path, "a", "exit 0")
    assert run(tmp_path, tmp_path / "absent", path) == FAILED
    assert notes(path)[-1][0] == "end"


def test_elements_survive_the_journey_through_json(tmp_path: Path) -> None:
    elements = tuple(Element(paths=(f"/p/{n}",), command=CHILD, progress_files=("a", "b"), warn_s=n) for n in range(3))
    write_elements(tmp_path / "e.json", elements)
    assert tuple(read_element(tmp_path / "e.json", place) for place in range(3)) == elements


def test_the_element_imports_nothing_but_the_standard_library() -> None:
    program = "import sys, slurm.element; print([m for m in ('numpy', 'submitit', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("damaged", ["", "[3]", "{}", '{"idle": null}', '{"idle": "many"}'])
def test_a_damaged_count_of_restarts_begins_anew(tmp_path: Path, damaged: str) -> None:
    path = make_path(tmp_path, "a", "exit 75")
    (path / "restarts.json").write_text(damaged)
    assert run(tmp_path, path) == AGAIN
    assert json.loads((path / "restarts.json").read_text())["idle"] == 1


@pytest.mark.parametrize(
    ("shown", "asked"),
    [
        pytest.param("echo 1", True, id="the start that Slurm knows of"),
        pytest.param("echo 2", False, id="Slurm has started it again meanwhile"),
        pytest.param("exit 1", True, id="Slurm is silent"),
    ],
)
def test_a_start_that_slurm_took_for_dead_does_not_end_its_successor(tmp_path: Path, shown: str, asked: bool) -> None:
    path = make_path(tmp_path, "one", "save")
    for program, text in (("squeue", shown), ("scontrol", f'echo "$@" >> {tmp_path}/asked')):
        (tmp_path / program).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / program).chmod(0o755)
    write_elements(tmp_path / "elements.json", (Element(paths=(str(path),), command=("/bin/sh", "-c", "exit 75")),))
    environment = {
        **os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": ROOT, "PYTHONSAFEPATH": "1",
        "TANDA_ELEMENT": "7_0", "TANDA_RESTART": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "slurm.element", str(tmp_path / "elements.json")]
    assert subprocess.run(command, env=environment, timeout=60, check=False).returncode == AGAIN
    assert (tmp_path / "asked").exists() == asked
