"""One manifest on a real cluster while tasks are killed, cancelled, requeued and starved: the table tells the truth."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rig import Rig
from small_manifest import MANIFEST, tanda, write_manifest

from jobs.attempt import history
from jobs.storage import Storage
from pipeline.queue import closing

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(290)]
PROFILE = Path(__file__).parents[1] / "configs" / "clusters" / "test.yaml"
LIMIT_S = 270

RUNS = """
      calm: {architecture: mlp, seed: 1}
      killed: {architecture: mlp, seed: 2}
      cancelled: {architecture: mlp, seed: 3}
      requeued: {architecture: mlp, seed: 4}
      warned: {architecture: mlp, seed: 5}
      hopeless: {architecture: mlp, seed: 6, learning_rate: 1e-12}
      starved: {architecture: mlp, seed: 7, resources: {train: {mem_gb: 0.15}}}
"""


def _long(manifest: str) -> str:
    """The small manifest with these runs, long enough to be caught in the middle."""
    head, tail = manifest.split("    runs:")
    return head.replace("epochs: 2", "epochs: 300") + "    runs:" + RUNS + tail[tail.index("resources:") :]


def _wait(ready: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> Any:
    ends = time.monotonic() + limit_s
    while not (found := ready()):
        assert time.monotonic() < ends, f"{what} did not come"
        time.sleep(0.5)
    return found


@pytest.fixture(scope="module")
def tried(cluster: Rig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The manifest after all that was done to it; and its trainings by run."""
    manifest = write_manifest(tmp_path_factory.mktemp("faults"), _long(MANIFEST))
    storage = Storage(manifest.parent / "storage")
    submitted = json.loads(tanda("submit", manifest, "--cluster", PROFILE, "--json"))
    train = next(array["job_id"] for array in submitted["arrays"] if array["stage"] == "train")
    plan = json.loads(tanda("plan", manifest, "--json"))["tasks"]
    ids = {task["run"]: task["id"] for task in plan if task["stage"] == "train"}

    def training(run: str) -> dict[str, Any] | None:
        folder = storage.run(ids[run])
        started = (folder / "metrics.jsonl").exists() and not (folder / "record.json").exists()
        return history(folder)[-1] if started else None

    killed = _wait(lambda: training("killed"), "the run to kill")
    os.kill(killed["pid"], signal.SIGKILL)
    cancelled = _wait(lambda: training("cancelled"), "the run to cancel")
    cluster.call("scancel", _element(cancelled))
    requeued = _wait(lambda: training("requeued"), "the run to requeue")
    cluster.call("scontrol", "requeue", _element(requeued))
    warned = _wait(lambda: training("warned"), "the run to warn")
    cluster.call("scancel", "--signal=USR2", _element(warned))
    assert _element(killed).startswith(train)

    def over() -> dict[str, Any] | None:
        status = json.loads(tanda("status", manifest, "--json", status=None))
        live = {"waiting", "running"} & status["summary"].keys()
        return None if live or closing(storage, "small") else status

    status = _wait(over, "the end")
    return manifest, {task["run"]: task for task in status["tasks"] if task["stage"] == "train"}


def _element(attempt: dict[str, Any]) -> str:
    slurm = attempt["slurm"]
    return f"{slurm['array_job_id']}_{slurm['array_task_id']}" if "array_job_id" in slurm else str(slurm["job_id"])


@pytest.mark.parametrize(
    ("run", "state", "cause"),
    [
        ("calm", "done", None),
        ("killed", "done", None),
        ("cancelled", "failed", "cancelled"),
        ("requeued", "done", None),
        ("warned", "done", None),
        ("hopeless", "failed", "at chance"),
        ("starved", "failed", "out of memory"),
    ],
)
def test_each_ends_as_it_should(
    tried: tuple[Path, dict[str, dict[str, Any]]], run: str, state: str, cause: str | None
) -> None:
    task = tried[1][run]
    assert (task["state"], task["cause"]) == (state, cause), task


def test_what_was_interrupted_went_on_in_another_attempt(tried: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    attempts = {run: task["attempts"] for run, task in tried[1].items()}
    assert attempts["calm"] == 1 and attempts["hopeless"] == 1
    assert all(attempts[run] == 2 for run in ("killed", "requeued", "warned")), attempts
    assert attempts["starved"] >= 2  # once more, with 1.5 times the memory


def test_interruptions_change_no_bit(tried: tuple[Path, dict[str, dict[str, Any]]], tmp_path: Path) -> None:
    manifest, tasks = tried
    for run in ("killed", "requeued", "warned"):
        tanda("repro", manifest.parent / "storage" / "runs" / tasks[run]["id"], "--check")


def test_the_table_is_complete_and_says_why_a_figure_is_missing(
    tried: tuple[Path, dict[str, dict[str, Any]]],
) -> None:
    report = tried[0].parent / "storage" / "reports" / "small"
    with (report / "results.csv").open() as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(tried[1])
    assert {run: row["cause"] for run, row in rows.items() if row["state"] != "done"} == {
        "cancelled": "cancelled",
        "hopeless": "at chance",
        "starved": "out of memory",
    }
    assert all(rows[run]["test_balanced_accuracy"] for run in ("calm", "killed", "requeued", "warned"))


def test_why_tells_what_to_do(tried: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    manifest, _ = tried
    assert "mem_gb" in tanda("why", manifest, "starved")
    assert "learned nothing" in tanda("why", manifest, "hopeless")
    assert "cancelled it" in tanda("why", manifest, "cancelled")
