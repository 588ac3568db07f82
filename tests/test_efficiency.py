"""What became of GPU-hours: each cause by itself, all together, and as the command shows it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from report_fixture import Made, five_results
from rich.console import Console
from test_gpu_use import use

from jobs.attempt import begin
from jobs.gpu_use import GpuUse
from jobs.task import Provenance, read_record
from pipeline.efficiency import Held, efficiency_document, find_efficiency, judge, print_efficiency
from sharedfs.documents import write_json

HOUR = 3600.0


def _hours(*tasks: Held) -> dict[str, float]:
    return {waste.cause: round(waste.gpu_hours, 6) for waste in judge(tasks).wastes}


@pytest.mark.parametrize(
    ("task", "wasted"),
    [
        (Held(state="failed", cause="at chance", gpu_hours=2.0), {"at chance": 2.0}),
        (Held(state="failed", cause="diverged", gpu_hours=2.0), {"diverged": 2.0}),
        (Held(state="failed", cause="GPU idle", gpu_hours=2.0), {"idle": 2.0}),
        (Held(state="failed", cause="error", gpu_hours=2.0), {"failed otherwise": 2.0}),
        (Held(state="lost", gpu_hours=2.0), {"failed otherwise": 2.0}),
        (Held(state="done", gpu_hours=2.0, on_cpu=True), {"asked too much": 2.0}),
        (Held(state="done", gpu_hours=2.0, gpus=4), {"asked too much": 1.5}),
        (Held(state="done", gpu_hours=2.0, lost_hours=0.5), {"retried": 0.5}),
        (Held(state="done", gpu_hours=1.0, lost_hours=0.5, gpus=4), {"asked too much": 0.75, "retried": 0.25}),
        (Held(state="done", gpu_hours=1.0, gpu=use({0: HOUR / 4, 90: HOUR * 3 / 4})), {"idle": 0.25}),
        (Held(state="done", gpu_hours=1.0, gpu=use({20: HOUR})), {"packed too thin": 0.8}),
        (Held(state="done", gpu_hours=1.0, gpu=use({20: HOUR}, waiting_s=0.8 * HOUR)), {"waiting for data": 0.8}),
        (Held(state="done", gpu_hours=1.0, gpu=use({50: HOUR})), {}),
        (Held(state="running", gpu_hours=1.0, gpu=GpuUse(unknown_s=HOUR)), {}),
        (Held(state="done", gpu_hours=1.0), {}),
    ],
)
def test_each_cause(task: Held, wasted: dict[str, float]) -> None:
    assert _hours(task) == wasted


def test_the_parts_are_no_more_than_the_whole() -> None:
    tasks = [
        Held(state="done", gpu_hours=2.0, gpu=use({0: HOUR, 30: HOUR}, waiting_s=0.2 * HOUR)),
        # Measured for longer than what is left of the record's time.
        Held(state="done", gpu_hours=1.0, lost_hours=0.5, gpu=use({0: 0.5 * HOUR, 80: 0.5 * HOUR})),
        Held(state="done", gpu_hours=3.0, gpu=use({70: HOUR})),
    ]
    found = judge(tasks)
    assert found.held_hours == 6.0
    assert found.unknown_hours == pytest.approx(2.0)
    assert found.used_hours == pytest.approx(0.3 + 0.2 + 0.7)
    wasted = sum(waste.gpu_hours for waste in found.wastes)
    assert found.used_hours + found.unknown_hours + wasted <= found.held_hours
    assert [waste.gpu_hours for waste in found.wastes] == sorted((w.gpu_hours for w in found.wastes), reverse=True)


@pytest.mark.parametrize(("utilisation", "pack", "advised"), [(45, 1, 2), (20, 1, 4), (1, 1, 8), (40, 2, 4)])
def test_how_many_to_pack_follows_from_what_was_measured(utilisation: int, pack: int, advised: int) -> None:
    (waste,) = judge([Held(state="done", gpu_hours=1.0, pack=pack, gpu=use({utilisation: HOUR}))]).wastes
    assert waste.change.startswith(f"`pack: {advised}`") and f"in use {utilisation} %" in waste.change


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Five runs: of the first's training one attempt was lost, the second's failed, the third's GPU was mostly idle."""
    made = five_results(tmp_path)
    first, second, third = (row.train or "" for row in made.plan.rows[:3])
    folder = made.storage.run(first)
    lost = begin(folder, Provenance(gpus=1))
    write_json(lost.path / "start.json", {"started": 1000.0, "gpus": 1})
    lost.end(state="failed", ended=1000.0 + HOUR)
    begin(folder, Provenance(gpus=1)).end(state="done", ended=2000.0 + HOUR)
    made.states[first] = replace(made.states[first], gpu_hours=2.0, attempts=2)
    made.states[second] = replace(made.states[second], state="failed", cause="diverged", gpu_hours=0.5)
    made.states[third] = replace(made.states[third], gpu_hours=4.0, gpu=use({0: 3 * HOUR, 100: HOUR}))
    for task in set(made.states) - {first, second, third}:
        made.states[task] = replace(made.states[task], gpu_hours=0.0)
    return made


def test_a_plans_tasks_are_judged_by_what_the_storage_has(made: Made) -> None:
    record = read_record(made.storage.run(made.plan.rows[0].train or ""))
    assert record is not None and record.about.gpus <= 1
    found = find_efficiency(made.plan, made.states)
    assert {waste.cause: (waste.gpu_hours, waste.tasks) for waste in found.wastes} == {
        "idle": (3.0, 1), "retried": (1.0, 1), "diverged": (0.5, 1),
    }  # fmt: skip
    assert (found.held_hours, found.used_hours, found.unknown_hours) == (6.5, 1.0, 1.0)


def test_it_is_shown_with_the_change_to_make(made: Made) -> None:
    console = Console(width=160)
    with console.capture() as capture:
        print_efficiency("demo", find_efficiency(made.plan, made.states), console)
    lines = capture.get().splitlines()
    assert lines[0].strip() == "demo: 6.50 GPU-hours held, 15 % used, 15 % not measured"
    idle = next(line for line in lines if " idle " in line and "3.00" in line)
    assert "46 %" in idle and "`idle_min: 10`" in idle
    document = json.loads(json.dumps(efficiency_document(find_efficiency(made.plan, made.states))))
    assert document["wastes"][0] == {
        "cause": "idle", "gpu_hours": 3.0, "tasks": 1, "change": document["wastes"][0]["change"],
    }  # fmt: skip


def test_where_no_gpu_was_held_it_says_so(made: Made) -> None:
    states = {task: replace(state, gpu_hours=None) for task, state in made.states.items()}
    console = Console(width=160)
    with console.capture() as capture:
        print_efficiency("demo", find_efficiency(made.plan, states), console)
    assert capture.get().startswith("no GPU was held so far")
