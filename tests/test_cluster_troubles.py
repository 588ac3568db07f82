"""Whole manifests on real clusters whose site has limits and misbehaves: runs go on, and every table is whole."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cluster_fixture import running
from rig import Rig, Shape
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

from jobs.attempt import AttemptFacts, history
from jobs.storage import Storage
from pipeline.submission import read_all

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(290)]

# A node has 4096 MB: one of 3.8 GB has it to itself, so that what happens to the node happens to no other run.
TROUBLED = """
  troubled:
    runs:
      preempted: {architecture: mlp, seed: 1, epochs: 2500, resources: {train: {mem_gb: 3.8}}}
      bereft: {architecture: mlp, seed: 2, epochs: 2500, resources: {train: {mem_gb: 3.8}}}
      limited: {architecture: mlp, seed: 3, resources: {train: {time_min: 1}}}
  packed:
    resources: {train: {pack: 2, mem_gb: 1}}
    runs:
      shot: {architecture: mlp, seed: 5}
      spared: {architecture: mlp, seed: 6}
"""
HEAD, ARCHITECTURES = MANIFEST.split("  architectures:")
RESOURCES = "resources:" + ARCHITECTURES.split("resources:")[1]


def _profile(folder: Path, **keys: str) -> Path:
    path = folder / "profile.yaml"
    path.write_text("executor: slurm\n" + "".join(f"{key}: {value}\n" for key, value in keys.items()))
    return path


def _quick(folder: Path, count: int) -> Path:
    """A manifest with so many quick runs of one group."""
    runs = "".join(f"      r{number}: {{architecture: linear, seed: {number}}}\n" for number in range(count))
    return write_manifest(folder, f"{HEAD}  many:\n    runs:\n{runs}{RESOURCES}")


def _bring_back(cluster: Rig, node: str) -> None:
    """Resume a node once nothing of its last life is left: a job that meets its own old step there drains the node."""
    wait_until(lambda: not cluster.steps(node), "the end of its steps")
    try:
        cluster.call("scontrol", "update", f"nodename={node}", "state=resume")
    except subprocess.CalledProcessError as error:
        # A node whose daemon reports just then is back already, and Slurm takes no word about it.
        if "Invalid node state" not in error.stderr:
            raise


@pytest.fixture(scope="module")
def troubled(cluster: Rig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The manifest after all that was done to it and its site; and its trainings by run."""
    folder = tmp_path_factory.mktemp("troubles")
    manifest = write_manifest(folder, HEAD.replace("epochs: 2", "epochs: 1200") + TROUBLED.lstrip("\n") + RESOURCES)
    tanda("submit", manifest, "--cluster", _profile(folder, partition="scavenger"))
    ids = trainings(manifest)

    def caught(run: str) -> AttemptFacts:
        return wait_until(lambda: in_training(manifest, ids[run]), f"training of {run}")

    # First, while they surely train. One that hangs does not save at the warning and meets its limit, however fast the
    # machine is.
    signal_in_training(manifest, ids["shot"], signal.SIGKILL)
    signal_in_training(manifest, ids["limited"], signal.SIGSTOP)
    node = caught("preempted").slurm["slurmd_nodename"]
    cluster.call("sbatch", "-p", "normal", "-w", node, "--mem=3500M", "-t", "5", "-o", "/dev/null", "--wrap", "sleep 3")
    lost = caught("bereft").slurm["slurmd_nodename"]
    cluster.call("scontrol", "update", f"nodename={lost}", "state=down", "reason=test")
    _bring_back(cluster, lost)
    _check_an_outage_is_no_failure(cluster, manifest)
    status = wait_until_over(manifest)
    return manifest, {task["run"]: task for task in status["tasks"] if task["stage"] == "train"}


def _check_an_outage_is_no_failure(cluster: Rig, manifest: Path) -> None:
    cluster.stop_daemon("slurmdbd")
    cluster.stop_daemon("slurmctld")
    try:
        summary = json.loads(tanda("status", manifest, "--json"))["summary"]
        assert summary.keys() <= {"done", "running", "unknown"}, summary
    finally:
        cluster.start_slurmctld()
        cluster.start_slurmdbd()


@pytest.mark.parametrize("run", ["preempted", "bereft", "limited", "shot", "spared"])
def test_each_goes_on_to_its_end(troubled: tuple[Path, dict[str, dict[str, Any]]], run: str) -> None:
    _, tasks = troubled
    assert (tasks[run]["state"], tasks[run]["cause"]) == ("done", None), tasks[run]
    assert (tasks[run]["attempts"] == 1) == (run == "spared"), tasks[run]


def test_the_table_is_whole(troubled: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    rows = result_rows(troubled[0])
    assert {run: row["state"] for run, row in rows.items()} == dict.fromkeys(troubled[1], "done")
    assert all(float(row["test_balanced_accuracy"]) > 0.2 for row in rows.values())


def test_what_hung_until_its_time_limit_goes_on_from_its_last_checkpoint(
    troubled: tuple[Path, dict[str, dict[str, Any]]],
) -> None:
    manifest, tasks = troubled
    folder = Storage(manifest.parent / "storage").run(tasks["limited"]["id"])
    first, second = history(folder)[0], history(folder)[-1]
    # Slurm wakes it to end it: it saves then and is requeued, or it is killed and the closing job tries again.
    assert (second.started or 0.0) - (first.started or 0.0) > 30
    assert "going on at epoch" in (folder / "log.txt").read_text()
    epochs = [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert epochs == list(range(1, 1201))


def test_more_than_the_largest_array_without_accounting(cluster: Rig, tmp_path: Path) -> None:
    with running(Shape(nodes=2, prefix="m", accounting=False, max_array_size=3), cluster.slurm):
        manifest = _quick(tmp_path, 7)
        submitted = json.loads(tanda("submit", manifest, "--cluster", _profile(tmp_path), "--json"))
        pieces = {array["stage"]: len(array["job_id"].split(",")) for array in submitted["arrays"]}
        assert pieces == {"preprocess": 1, "train": 3, "evaluate": 3, "close": 1}
        assert wait_until_over(manifest)["summary"] == {"done": 15}
    rows = result_rows(manifest)
    assert len(rows) == 7 and {row["state"] for row in rows.values()} == {"done"}


def test_what_a_limit_refused_is_queued_by_the_closing_jobs(little_account: str, tmp_path: Path) -> None:
    manifest = _quick(tmp_path, 6)
    profile = _profile(tmp_path, account=little_account)
    submitted = json.loads(tanda("submit", manifest, "--cluster", profile, "--json", status=1))
    assert sum(array["tasks"] for array in submitted["arrays"]) == 4  # and the closing job
    assert len(submitted["not_queued"]) == 9
    assert all("MaxSubmitJob" in reason for reason in submitted["not_queued"].values())
    assert "not submitted" in tanda("status", manifest)
    storage = Storage(tmp_path / "storage")
    wait_until(lambda: len(read_all(storage)) > 1, "a second submission")
    assert wait_until_over(manifest)["summary"] == {"done": 13}
    assert {row["state"] for row in result_rows(manifest).values()} == {"done"}
    queued = [
        task for one in read_all(storage) for array in one.arrays for tasks in array.elements.values() for task in tasks
    ]
    assert len(queued) == len(set(queued)) == 13


def test_a_storage_that_can_not_be_written(cluster: Rig, tmp_path: Path) -> None:
    runs = "  architectures:\n    runs:\n      shut: {architecture: mlp, epochs: 600}\n"
    manifest = write_manifest(tmp_path, HEAD + runs + "      open: {architecture: linear}\n" + RESOURCES)
    storage = Storage(tmp_path / "storage")
    profile = _profile(tmp_path)
    tanda("submit", manifest, "--cluster", profile)
    task = trainings(manifest)["shut"]
    attempt = wait_until(lambda: in_training(manifest, task), "training")
    # A file in the folder's place stops root as well.
    storage.run(task).rename(tmp_path / "away")
    storage.run(task).write_text("")
    wait_until(lambda: element_of(attempt) not in cluster.call("squeue", "-h", "-r", "-o", "%i").split(), "its end")
    storage.run(task).unlink()
    (tmp_path / "away").rename(storage.run(task))
    states = {f"{one['run']}/{one['stage']}": one for one in wait_until_over(manifest)["tasks"]}
    assert states["shut/train"]["state"] == "failed"
    assert states["shut/evaluate"]["cause"] == "upstream failed"
    assert result_rows(manifest)["shut"]["cause"] == states["shut/train"]["cause"]
    tanda("submit", manifest, "--cluster", profile)
    assert wait_until_over(manifest)["summary"] == {"done": 5}
    assert result_rows(manifest)["shut"]["state"] == "done"
    assert len(history(storage.run(task))) == 2
