"""What a task's GPU did: measured beside it, kept with attempts and records, shown by run, row and submission."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import pytest
from nvml_fixture import Board, FakeNvml, pynvml_folder
from report_fixture import Made, build_tables, five_results, rows_of

from jobs import gpu_use
from jobs.attempt import Attempt, begin, history
from jobs.gpu_use import GpuUse, bin_of, total
from jobs.gpu_watch import Child, Watch, Watched, processor_s
from jobs.nvml import Nvml, UnmeasuredError
from jobs.task import Provenance
from pipeline.report.collect import collect
from pipeline.status import states_document, states_table, summary_line
from sharedfs.documents import read_json

ROOT = Path(__file__).parents[1]
DENIED = {"nvmlDeviceGetUtilizationRates": "Insufficient Permissions"}


def use(seconds: dict[int, float], **facts: float) -> GpuUse:
    histogram = [0.0] * gpu_use.BINS
    for utilisation, spent in seconds.items():
        histogram[bin_of(utilisation)] += spent
    busy_s = sum(utilisation * spent for utilisation, spent in seconds.items()) / 100
    return GpuUse(histogram=tuple(histogram), busy_s=busy_s, **facts)


class Rig:
    """Tasks watched on boards that are not there, second by second; ``cpu`` is what each process spends in one."""

    def __init__(self, root: Path, nvml: FakeNvml, *gpus: str | None, cpus: int = 2) -> None:
        self.root, self.lines, self.cpu = root, list[str](), {100 + n: 1.0 for n in range(len(gpus))}
        self.spent = dict.fromkeys(self.cpu, 0.0)
        tasks = []
        for pid, gpu in zip(self.cpu, gpus, strict=True):
            folder = root / f"run{pid}"
            attempt = begin(folder, Provenance(gpus=1))
            start = read_json(attempt.path / "start.json")
            (attempt.path / "start.json").write_text(json.dumps({**start, "pid": pid}))
            tasks.append(Watched(Child(path=str(folder), pid=pid, cpus=cpus, gpus=gpu)))
        self.watch = Watch(tasks, Nvml(nvml), self.lines.append, self._process)

    def _process(self, pid: int) -> float | None:
        return self.spent.get(pid)

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            for pid in self.spent:
                self.spent[pid] += self.cpu[pid]
            self.watch.look(1.0)

    def use(self, position: int = 0) -> GpuUse:
        return self.watch.tasks[position].tally.use()


@pytest.mark.parametrize(("utilisation", "found"), [(0, 0), (1, 1), (5, 1), (6, 2), (100, 20), (101, 20)])
def test_bins_are_of_five_percent_and_nothing_is_one_of_its_own(utilisation: int, found: int) -> None:
    assert bin_of(utilisation) == found


def test_mean_and_quartiles_are_those_of_the_time() -> None:
    measured = use({0: 25.0, 50: 50.0, 100: 25.0})
    assert measured.mean == pytest.approx(50.0)
    assert measured.quartiles == pytest.approx((0.0, 47.5, 50.0))
    assert measured.idle_s == 25.0
    assert (GpuUse().mean, GpuUse(unknown_s=9.0).quartiles) == (None, None)


def test_the_whole_is_the_sum_of_its_parts_and_energy_needs_all_of_them() -> None:
    first, second = use({40: 10.0}, energy_j=5.0, peak_mb=100.0), use({80: 30.0}, energy_j=7.0, peak_mb=50.0)
    whole = total([first, None, second])
    assert whole is not None
    assert (whole.mean, whole.energy_j, whole.peak_mb) == (pytest.approx(70.0), 12.0, 100.0)
    partly = total([first, use({80: 30.0})])
    assert partly is not None and partly.energy_j is None
    unknown = total([first, GpuUse(unknown_s=5.0)])
    assert unknown is not None and (unknown.energy_j, unknown.unknown_s) == (5.0, 5.0)
    assert total([None]) is None


def test_a_task_alone_on_a_board_has_its_figures(tmp_path: Path) -> None:
    rig = Rig(tmp_path, FakeNvml(Board(utilisation=cycle([0, 60]), memory={100: 3 << 30})), "0")
    rig.run(10)
    found = rig.use()
    assert (found.measured_s, found.idle_s, found.mean) == (10.0, 5.0, pytest.approx(30.0))
    assert found.peak_mb == 3072.0
    assert found.energy_j == pytest.approx(9 * 2.0)  # from the first look on
    assert not rig.lines


def test_packed_tasks_share_seconds_and_energy_by_the_time_they_live(tmp_path: Path) -> None:
    rig = Rig(tmp_path, FakeNvml(Board(memory={100: 1 << 30, 101: 2 << 30})), "0", "0")
    rig.run(10)
    del rig.spent[101]
    rig.run(5)
    one, two = rig.use(0), rig.use(1)
    assert (one.measured_s, two.measured_s) == (10.0, 5.0)
    assert one.energy_j is not None and two.energy_j is not None
    assert one.energy_j + two.energy_j == pytest.approx(14 * 2.0)
    assert (one.peak_mb, two.peak_mb) == (1024.0, 2048.0)
    # The task that ended was written as it ended; the other is written when its time comes.
    assert gpu_use.read(Attempt(tmp_path / "run101", 1).path) == two
    assert history(tmp_path / "run101")[0].gpu == two and history(tmp_path / "run100")[0].gpu is None


def test_a_board_with_strangers_on_it_has_no_energy_of_ours(tmp_path: Path) -> None:
    rig = Rig(tmp_path, FakeNvml(Board(memory={100: 1 << 30, 4242: 1 << 30})), "0")
    rig.run(4)
    assert (rig.use().energy_j, rig.use().peak_mb, rig.use().mean) == (None, 1024.0, pytest.approx(50.0))


def test_time_that_the_gpu_waits_for_busy_cores_is_told_apart(tmp_path: Path) -> None:
    rig = Rig(tmp_path, FakeNvml(Board(utilisation=cycle([25]))), "0", cpus=1)
    rig.run(4)
    assert rig.use().waiting_s == pytest.approx(3.0)
    roomy = Rig(tmp_path / "roomy", FakeNvml(Board(utilisation=cycle([25]))), "0", cpus=4)
    roomy.run(4)
    assert roomy.use().waiting_s == 0.0


@pytest.mark.parametrize(
    ("nvml", "gpu", "words"),
    [
        (FakeNvml(Board(mig=True)), "0", "divided by MIG"),
        (FakeNvml(Board()), "MIG-4", "MIG slice"),
        (FakeNvml(Board(), errors=DENIED), "0", "NVML: Insufficient Permissions"),
        (FakeNvml(Board(), Board()), "7", "NVML: Invalid Argument"),
        (FakeNvml(Board(), Board()), None, "names no GPU"),
    ],
)
def test_what_cannot_be_measured_is_unknown_and_said_once(
    tmp_path: Path, nvml: FakeNvml, gpu: str | None, words: str
) -> None:
    rig = Rig(tmp_path, nvml, gpu)
    rig.run(5)
    assert (rig.use().measured_s, rig.use().unknown_s, rig.use().energy_j) == (0.0, 5.0, None)
    assert len(rig.lines) == 1 and words in rig.lines[0]


def test_no_driver_is_an_error_that_says_so() -> None:
    with pytest.raises(UnmeasuredError, match="NVML: Driver Not Loaded"):
        Nvml(FakeNvml(errors={"nvmlInit": "Driver Not Loaded"}))


def test_a_number_that_may_be_another_gpus_counts_once_the_task_is_seen_on_it(tmp_path: Path) -> None:
    board = Board(utilisation=cycle([0]))
    rig = Rig(tmp_path, FakeNvml(board, Board()), "0")
    rig.run(3)
    assert (rig.use().measured_s, rig.use().unknown_s) == (0.0, 3.0)
    board.memory[100] = 1 << 20
    rig.run(2)
    assert rig.use().measured_s == 2.0
    by_uuid = Rig(tmp_path / "uuid", FakeNvml(Board(), Board(uuid="GPU-2")), "GPU-2")
    by_uuid.run(1)
    assert by_uuid.use().measured_s == 1.0


def test_a_new_attempt_in_the_same_process_begins_from_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path, FakeNvml(Board()), "0")
    rig.run(3)
    (task,) = rig.watch.tasks
    task.write()
    following = begin(tmp_path / "run100", Provenance(gpus=1))
    start = read_json(following.path / "start.json")
    (following.path / "start.json").write_text(json.dumps({**start, "pid": 100}))
    rig.run(2)
    task.write()
    rig.run(4)
    task.write()
    seconds = [attempt.gpu.measured_s for attempt in history(tmp_path / "run100") if attempt.gpu]
    assert seconds == [5.0, 4.0]


def test_processor_time_is_that_of_a_child_of_ours() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time\nwhile True: time.sleep(0)"])
    try:
        time.sleep(0.5)
        spent = processor_s(child.pid, os.getpid())
        assert spent is not None and 0 <= spent < 30
        assert processor_s(child.pid, 1) is None
    finally:
        child.kill()
        child.wait()
    assert processor_s(child.pid, os.getpid()) is None


def _element(folder: Path, setup: str) -> tuple[Path, str]:
    """A real element with a real task folder, the watcher beside it, and a pynvml that is none."""
    path = folder / "run"
    (path / "attempts" / "0001").mkdir(parents=True)
    script = "import json, os, sys, time; from pathlib import Path; p = Path(sys.argv[1]) / 'attempts/0001/start.json';"
    script += "p.write_text(json.dumps({'pid': os.getpid(), 'started': time.time(), 'gpus': 1})); time.sleep(3)"
    document = {"paths": [str(path)], "command": [sys.executable, "-c", script], "cpus": 1, "gpus": 1}
    (folder / "elements.json").write_text(json.dumps({"elements": [document]}))
    environment = {
        **os.environ, "PYTHONPATH": f"{pynvml_folder(folder, setup)}{os.pathsep}{ROOT}", "PYTHONSAFEPATH": "1",
        "CUDA_VISIBLE_DEVICES": "0", "TANDA_BESIDE": json.dumps([[sys.executable, "-m", "jobs.gpu_watch", "0", "1"]]),
    }  # fmt: skip
    command = [sys.executable, "-m", "slurm.element", str(folder / "elements.json"), "0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return path, done.stderr


def test_the_watcher_beside_an_element_writes_what_its_gpu_did(tmp_path: Path) -> None:
    path, words = _element(tmp_path, "FakeNvml(Board(utilisation=cycle([70])))")
    (attempt,) = history(path)
    assert attempt.gpu is not None and attempt.gpu.mean == pytest.approx(70.0, abs=0.1)
    assert 1.0 < attempt.gpu.measured_s < 4.5
    assert words == ""


def test_a_watcher_without_a_driver_says_so_in_one_line_and_stops_nothing(tmp_path: Path) -> None:
    path, words = _element(tmp_path, "FakeNvml(errors={'nvmlInit': 'Driver Not Loaded'})")
    assert words.splitlines() == ["gpu: not measured: NVML: Driver Not Loaded"]
    (attempt,) = history(path)
    assert attempt.gpu is not None and attempt.gpu.unknown_s > 1 and attempt.gpu.mean is None


@pytest.fixture
def measured(tmp_path: Path) -> Made:
    """Five results; the first run's training and evaluation were measured."""
    made = five_results(tmp_path)
    row = made.plan.rows[0]
    figures = use({0: 900.0, 80: 2700.0}, energy_j=3.6e6, peak_mb=2048.0)
    for task in (row.train or "", row.evaluate):
        made.states[task] = replace(made.states[task], gpu=figures)
    return made


def test_a_row_a_task_and_the_whole_show_what_the_gpus_did(measured: Made) -> None:
    row, *others = rows_of(build_tables(measured))
    assert (row["gpu_use"], row["gpu_peak_gb"], row["gpu_energy_kwh"]) == ("60.00", "2.00", "2.0000")
    assert float(row["gpu_use_median"]) == pytest.approx(76.67, abs=0.1)
    assert all(other["gpu_use"] == "" for other in others)
    collected = collect(measured.plan, measured.states)
    assert collected.gpu is not None and collected.gpu.measured_s == pytest.approx(7200.0)
    report = (build_tables(measured) / "results.md").read_text()
    assert "GPUs were measured for 2.00 hours: 60 % in use, 2 kWh." in report
    assert "GPU use (%)" in report


def test_status_shows_it_and_json_has_the_figures(measured: Made) -> None:
    assert "GPU 60 % (0 to 78), 2.0 GB, 2 kWh" in summary_line(measured.states)
    assert [column.header for column in states_table(measured.plan, measured.states).columns][6:8] == [
        "GPU-hours", "GPU use",
    ]  # fmt: skip
    tasks = states_document(measured.plan, measured.states)["tasks"]
    figures = next(task["gpu"] for task in tasks if task["gpu"])
    assert figures["gpu_use"] == pytest.approx(60.0) and set(figures) == set(gpu_use.FIGURES)
