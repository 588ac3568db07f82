"""One manifest on a real cluster while tasks are killed, cancelled, requeued and starved: the table tells the truth."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from rig import Rig
from small_manifest import (
    MANIFEST,
    element_of,
    in_training,
    result_rows,
    signal_in_training,
    tanda,
    trainings,
    wait_until,
    wait_until_over,
    write_manifest,
)

from jobs.attempt import AttemptFacts

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(580)]
SLOW_S = 500  # on two cores with others at work on them
PROFILE = Path(__file__).parents[1] / "configs" / "clusters" / "test.yaml"

RUNS = """
      calm: {architecture: mlp, seed: 1}
      killed: {architecture: mlp, seed: 2}
      cancelled: {architecture: mlp, seed: 3}
      requeued: {architecture: mlp, seed: 4}
      warned: {architecture: mlp, seed: 5}
      hopeless: {architecture: mlp, seed: 6, learning_rate: 1e-12, embedding_scale: 1e-9}
      starved: {architecture: mlp, seed: 7, resources: {train: {mem_gb: 0.15}}}
"""


def _long(manifest: str) -> str:
    """The small manifest with these runs, long enough to be caught in the middle."""
    head, tail = manifest.split("    runs:")
    return head.replace("epochs: 2", "epochs: 300") + "    runs:" + RUNS + tail[tail.index("resources:") :]


@pytest.fixture(scope="module")
def tried(cluster: Rig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The manifest after all that was done to it; and its trainings by run."""
    manifest = write_manifest(tmp_path_factory.mktemp("faults"), _long(MANIFEST))
    submitted = json.loads(tanda("submit", manifest, "--cluster", PROFILE, "--json"))
    train = next(array["job_id"] for array in submitted["arrays"] if array["stage"] == "train")
    ids = trainings(manifest)

    def caught(run: str) -> AttemptFacts:
        return wait_until(lambda: in_training(manifest, ids[run]), f"training of {run}")

    killed = signal_in_training(manifest, ids["killed"], signal.SIGKILL)
    cluster.call("scancel", element_of(caught("cancelled")))
    cluster.call("scontrol", "requeue", element_of(caught("requeued")))
    cluster.call("scancel", "--signal=USR2", element_of(caught("warned")))
    assert element_of(killed).startswith(train)
    status = wait_until_over(manifest, SLOW_S)
    return manifest, {task["run"]: task for task in status["tasks"] if task["stage"] == "train"}


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
    rows = result_rows(tried[0])
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
    assert "it was cancelled; submit again" in tanda("why", manifest, "cancelled")
