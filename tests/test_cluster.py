"""The main job on a real Slurm cluster: submitted from outside, finished without a hand on it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from rig import Rig
from small_manifest import tanda, wait_until_over, with_only, write_manifest

from jobs.attempt import history
from jobs.storage import Storage
from pipeline.submission import read_all

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(280)]
PROFILE = Path(__file__).parents[1] / "configs" / "clusters" / "test.yaml"
LIMIT_S = 200


def _submit(manifest: Path) -> dict[str, object]:
    document: dict[str, object] = json.loads(tanda("submit", manifest, "--cluster", PROFILE, "--json"))
    return document


def _drain(manifest: Path) -> dict[str, dict[str, object]]:
    """Wait until every task and the closing job are over; tasks by run and stage."""
    return {f"{task['run']}/{task['stage']}": task for task in wait_until_over(manifest, LIMIT_S)["tasks"]}


@pytest.fixture(scope="module")
def drained(cluster: Rig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest submitted to the cluster and run to its end there."""
    manifest = write_manifest(tmp_path_factory.mktemp("cluster"))
    began = time.monotonic()
    document = _submit(manifest)
    assert time.monotonic() - began < 20  # at once: seconds of start-up, never the tasks' own time
    (manifest.parent / "submitted.json").write_text(json.dumps(document))
    _drain(manifest)
    return manifest


def test_one_array_a_group_and_its_resources_and_a_closing_job(drained: Path) -> None:
    document = json.loads((drained.parent / "submitted.json").read_text())
    stages = [(array["stage"], array["tasks"]) for array in document["arrays"]]
    assert stages == [("preprocess", 1), ("train", 3), ("train", 1), ("evaluate", 4), ("close", 0)]  # linear: no GPU
    assert all(array["job_id"].isdigit() for array in document["arrays"])


def test_everything_is_done_and_the_report_was_built_by_the_closing_job(drained: Path) -> None:
    status = json.loads(tanda("status", drained, "--json"))
    assert (status["summary"], status["closing"]) == ({"done": 9}, None)
    trained = [task for task in status["tasks"] if task["stage"] == "train"]
    assert [task["run"] for task in trained if not task["gpu_hours"]] == ["linear"]
    results = (drained.parent / "storage" / "reports" / "small" / "results.csv").read_text()
    assert results.count("done") == 4


def test_slurms_job_is_on_record(drained: Path) -> None:
    runs = drained.parent / "storage" / "runs"
    records = [json.loads(path.read_text()) for path in runs.glob("*/record.json")]
    queued = {
        job for submission in read_all(Storage(runs.parent)) for array in submission.arrays for job in array.job_ids
    }
    assert {
        record["about"]["slurm"].get("array_job_id", record["about"]["slurm"]["job_id"]) for record in records
    } <= queued


def test_again_submits_nothing_and_a_removed_record_just_that_run(drained: Path) -> None:
    assert _submit(drained)["arrays"] == []
    tasks = json.loads(tanda("plan", drained, "--json"))["tasks"]
    train = next(task["id"] for task in tasks if (task["run"], task["stage"]) == ("CNN", "train"))
    (drained.parent / "storage" / "runs" / train / "record.json").unlink()
    document = _submit(drained)
    arrays = document["arrays"]
    assert isinstance(arrays, list)
    assert [(array["stage"], array["tasks"]) for array in arrays] == [("train", 1), ("evaluate", 1), ("close", 0)]
    assert {task["state"] for task in _drain(drained).values()} == {"done"}


def test_a_task_whose_gpu_is_not_there_says_so_and_is_tried_on_another_node(cluster: Rig, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, with_only("MLP"))
    tanda("submit", manifest, "--cluster", PROFILE, "--set", "defaults.device=auto", "--set", "retries=1")
    tasks = _drain(manifest)
    train = tasks["MLP/train"]
    assert (train["state"], train["cause"]) == ("failed", "no GPU")
    assert "1 given, CUDA_VISIBLE_DEVICES: " in str(train["message"])
    assert tasks["MLP/evaluate"]["cause"] == "upstream failed"
    nodes = [
        attempt.slurm["slurmd_nodename"] for attempt in history(Storage(tmp_path / "storage").run(str(train["id"])))
    ]
    assert len(nodes) == len(set(nodes)) == 2


def test_a_preprocess_that_fails_ends_all_that_builds_on_it_and_says_so(cluster: Rig, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path)
    text = (tmp_path / "titles.csv").read_text()
    (tmp_path / "titles.csv").write_text(text.replace("category", "klass", 1))
    _submit(manifest)
    tasks = _drain(manifest)
    assert tasks["all/preprocess"]["cause"] == "error"
    others = [task for name, task in tasks.items() if name != "all/preprocess"]
    assert {task["cause"] for task in others} == {"upstream failed"}
    results = (tmp_path / "storage" / "reports" / "small" / "results.csv").read_text()
    assert results.count("upstream failed") == 4


def test_a_plugin_travels_with_what_is_queued(cluster: Rig, tmp_path: Path) -> None:
    """The GRU of the guide: submitted, broken the next moment, trained, reported, predicted with and compared."""
    text = with_only("MLP").replace("      MLP:", "      GRU: {architecture: gru}\n      MLP:")
    manifest = write_manifest(tmp_path, f"plugins: [lab]\n{text}")
    guide = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
    plugin = manifest.parent / "lab" / "gru.py"
    plugin.parent.mkdir()
    plugin.write_text(guide.split('title="lab/gru.py"\n')[1].split("```\n")[0], encoding="utf-8")
    _submit(manifest)
    kept = plugin.read_text(encoding="utf-8")
    plugin.write_text(f"{kept}\nraise RuntimeError('edited')\n", encoding="utf-8")
    assert "edited" in tanda("plan", manifest, status=2)
    plugin.write_text(kept, encoding="utf-8")
    tasks = _drain(manifest)
    assert {task["state"] for task in tasks.values()} == {"done"} and len(tasks) == 5
    storage = manifest.parent / "storage"
    page = storage / "reports" / "small"
    assert "gru" in (page / "results.csv").read_text()
    (titles := tmp_path / "titles.txt").write_text("zapatillas de cuero\n")
    assert "zapatillas" in tanda("predict", storage / "runs" / str(tasks["GRU/train"]["id"]), titles)
    compared = tanda("compare", f"{page}:architectures/GRU", f"{page}:architectures/MLP")
    assert "gru_features" in compared
