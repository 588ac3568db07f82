"""What sharing a GPU gained, and how many tasks are advised to share one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from report_fixture import Made, five_results
from rich.console import Console
from test_gpu_use import use

from jobs import metrics_log
from jobs.attempt import begin
from jobs.gpu_use import GpuUse
from jobs.metrics_log import make_line
from jobs.task import Provenance
from pipeline.efficiency import find_efficiency
from pipeline.packing import Epoch, gain_lines, pack_gain, pack_lines
from pipeline.status import print_states


def epochs(rate: float, *ended: float) -> list[Epoch]:
    return [Epoch(began=end - 10.0, ended=end, titles_per_s=rate) for end in ended]


def test_the_gain_is_that_of_the_window_in_which_all_train() -> None:
    first = epochs(60.0, 10.0, 20.0)
    # Its third epoch reaches over the end of the other task: it is neither side by side nor alone.
    second = [*epochs(60.0, 12.0, 18.0), *epochs(80.0, 26.0), *epochs(100.0, 36.0, 46.0)]
    assert pack_gain([first, second]) == pytest.approx(1.2)


@pytest.mark.parametrize(
    "tasks",
    [
        [epochs(60.0, 10.0, 20.0)],  # by itself from the start
        [epochs(60.0, 10.0, 20.0), epochs(60.0, 10.0, 21.0)],  # none went on alone for an epoch
        [epochs(60.0, 10.0), epochs(100.0, 40.0)],  # one after the other
        [[], epochs(100.0, 10.0, 20.0)],
    ],
)
def test_where_nothing_compares_the_gain_is_unknown(tasks: list[list[Epoch]]) -> None:
    assert pack_gain(tasks) is None


def _packed(made: Made, pack: int) -> Made:
    tasks = tuple(
        replace(planned, architecture="mlp", resources=replace(planned.resources, gpus=1, pack=pack))
        if planned.stage == "train"
        else planned
        for planned in made.plan.tasks
    )
    return replace(made, plan=replace(made.plan, tasks=tasks))


def _trained(made: Made, index: int, rate: float, count: int, tail: float | None = None) -> None:
    folder = made.storage.run(made.plan.rows[index].train or "")
    attempt = begin(folder, Provenance(gpus=1, host="n1", slurm={"array_job_id": "7", "array_task_id": "0"}))
    figures = {"loss": 1.0, "balanced_accuracy": 0.5, "accuracy": 0.5}
    metrics_log.rewrite(
        folder,
        [
            make_line(
                train=figures, validation=figures, epoch=epoch, step=epoch, gradient_norm=None, seconds=10.0,
                titles_per_s=tail if tail and epoch > 3 else rate, ended=1000.0 + 10 * epoch, attempt=attempt.number,
            )
            for epoch in range(1, count + 1)
        ],
    )  # fmt: skip


def test_efficiency_says_what_the_allocations_of_a_plan_gained(tmp_path: Path) -> None:
    made = _packed(five_results(tmp_path), 2)
    _trained(made, 0, 75.0, 3)
    _trained(made, 1, 75.0, 6, tail=100.0)
    line = (
        "train: 2 side by side trained 1.5 times as many titles a second as one alone"
        " (1 allocation in which one went on alone)"
    )
    assert gain_lines(made.plan) == [line]
    assert line in find_efficiency(made.plan, made.states).notes
    assert gain_lines(_packed(made, 1).plan) == []
    # One architecture's rate is no measure of another's.
    first = made.plan.rows[0].train
    mixed = [replace(each, architecture="rnn") if each.id == first else each for each in made.plan.tasks]
    assert gain_lines(replace(made.plan, tasks=tuple(mixed))) == []


@pytest.mark.parametrize(
    ("pack", "measured", "advised"),
    [
        (1, use({20: 100.0}, peak_mb=1536.0), "`pack: 4` in `resources`: a GPU was in use 20 % of the time in which"),
        (2, use({40: 100.0}), "`pack: 4` in `resources`: a GPU was in use 40 %"),
        (1, use({60: 100.0}), None),
        (1, use({0: 100.0}), None),  # idle: another task beside it would not mend that
        (1, use({20: 100.0}, waiting_s=80.0), None),  # its cores had no time to spare
        (8, use({5: 100.0}), None),
        (1, GpuUse(unknown_s=100.0), None),
    ],
)
def test_status_advises_a_pack_from_what_was_measured(
    tmp_path: Path, pack: int, measured: GpuUse, advised: str | None
) -> None:
    made = _packed(five_results(tmp_path), pack)
    task = made.plan.rows[0].train or ""
    states = {**made.states, task: replace(made.states[task], gpu=measured)}
    lines = pack_lines(made.plan, states)
    assert len(lines) == (advised is not None)
    if advised is not None:
        assert lines[0].startswith(f"train: {advised}")
        assert lines[0].endswith("a task held 1.5 GB of it at most") is (measured.peak_mb is not None)
    console = Console(width=300)
    with console.capture() as capture:
        print_states(made.plan, states, console)
    assert ("`pack: " in capture.get()) is (advised is not None)
