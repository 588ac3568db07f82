"""The whole job on local processes, as a person at a prompt sees it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_manifest import MANIFEST, tanda, with_only, write_manifest

from jobs.storage import Storage


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest that was run to its end; what it printed is beside it."""
    manifest = write_manifest(tmp_path_factory.mktemp("local"))
    (manifest.parent / "printed.txt").write_text(tanda("run", manifest))
    return manifest


def _plan(manifest: Path) -> dict[str, dict[str, object]]:
    return {f"{task['run']}/{task['stage']}": task for task in json.loads(tanda("plan", manifest, "--json"))["tasks"]}


def test_a_run_ends_with_a_report_and_every_architecture_above_chance(ran: Path) -> None:
    printed = (ran.parent / "printed.txt").read_text()
    page = ran.parent / "storage" / "reports" / "small" / "index.html"
    assert f"report: {page}" in " ".join(printed.split()) or str(page) in printed.replace("\n", "")
    with (page.parent / "results.csv").open() as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"MLP", "CNN", "RNN", "linear"}
    assert all(float(row["test_balanced_accuracy"]) > 0.5 for row in rows.values())


def test_plan_touches_nothing_and_status_says_done(ran: Path) -> None:
    before = sorted(path for path in (ran.parent / "storage").rglob("*"))
    document = json.loads(tanda("plan", ran, "--json"))
    assert all(task["done"] for task in document["tasks"])
    assert [array["stage"] for array in document["arrays"]] == ["preprocess", "train", "evaluate"]
    assert [array["after"] for array in document["arrays"]] == [[], [0], [0, 1]]
    status = json.loads(tanda("status", ran, "--json"))
    assert status["summary"] == {"done": 9}
    assert {"id", "stage", "group", "run", "state", "cause", "attempts", "gpu_hours", "progress"} <= set(
        status["tasks"][0]
    )
    assert sorted(path for path in (ran.parent / "storage").rglob("*")) == before


def test_a_second_submission_submits_nothing(ran: Path) -> None:
    document = json.loads(tanda("submit", ran, "--executor", "local", "--json"))
    assert document["submission"] is None and document["arrays"] == [] and document["already_done"] == 9


def test_a_removed_record_is_run_again_with_what_builds_on_it(ran: Path) -> None:
    task = str(_plan(ran)["MLP/train"]["id"])
    model = Storage(ran.parent / "storage").run(task) / "model.pt"
    before = model.read_bytes()
    (model.parent / "record.json").unlink()
    document = json.loads(tanda("submit", ran, "--executor", "inline", "--json"))
    assert [(array["stage"], array["tasks"]) for array in document["arrays"]] == [("train", 1), ("evaluate", 1)]
    assert json.loads(tanda("status", ran, "--json"))["summary"] == {"done": 9}
    assert model.read_bytes() == before


def test_two_people_submit_at_once_and_everything_is_queued_once(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path)
    command = [sys.executable, "-m", "pipeline", "submit", str(manifest), "--executor", "local", "--json"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONSAFEPATH": "1"}) for _ in "12"]
    documents = [json.loads(process.communicate()[0]) for process in both]
    assert sorted(sum(array["tasks"] for array in document["arrays"]) for document in documents) == [0, 9]
    tanda("cancel", manifest)
    ends = time.monotonic() + 30
    while {"running", "waiting"} & (states := json.loads(tanda("status", manifest, "--json", status=None)))[
        "summary"
    ].keys():
        assert time.monotonic() < ends, states


def test_logs_why_repro_and_predict(ran: Path) -> None:
    assert "epoch 2" in tanda("logs", ran, "architectures/MLP")
    assert "succeeded" in tanda("why", ran, "MLP")
    assert "did you mean 'MLP'" in tanda("why", ran, "MPL", status=2)
    folder = ran.parent / "storage" / "runs" / str(_plan(ran)["CNN/train"]["id"])
    described = json.loads(tanda("repro", folder, "--check"))
    assert described["settings"]["architecture"] == "cnn" and described["datasets"]
    titles = ran.parent / "new.txt"
    titles.write_text("botella de vino malbec\nzapatillas deportivas de cuero\n")
    lines = tanda("predict", folder, titles).splitlines()
    assert [line.split("\t")[0] for line in lines] == ["WINES", "SHOES"]


def test_a_failure_is_told_with_its_cause_its_log_and_how_to_run_it(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, MANIFEST.replace("label_quality", "x"))
    text = (tmp_path / "titles.csv").read_text()
    (tmp_path / "titles.csv").write_text(text.replace("category", "klass", 1))
    tanda("submit", manifest, "--executor", "inline")
    status = json.loads(tanda("status", manifest, "--json", status=1))
    assert status["summary"] == {"failed": 9}
    causes = {task["stage"]: task["cause"] for task in status["tasks"]}
    assert causes == {"preprocess": "error", "train": "upstream failed", "evaluate": "upstream failed"}
    said = tanda("why", manifest, "data/preprocess")
    assert "klass" in said and "category" in said and "-m jobs" in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("plan", "nowhere.yaml"), "nowhere.yaml"),
        (("submit", "{manifest}", "--only", "architecture"), "no group or search 'architecture'"),
        (("submit", "{manifest}", "--executor", "slrum"), "slrum"),
        (("status", "{manifest}", "--set", "defaults.epocs=1"), "did you mean 'epochs'"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(tmp_path: Path, words: tuple[str, ...], expected: str) -> None:
    manifest = write_manifest(tmp_path)
    said = tanda(*(word.format(manifest=manifest) for word in words), status=2)
    assert expected in said and "Traceback" not in said
    assert not (tmp_path / "storage").exists()


def test_a_missing_data_file_can_be_planned_and_not_submitted(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path)
    (tmp_path / "titles.csv").unlink()
    assert len(json.loads(tanda("plan", manifest, "--json"))["tasks"]) == 9
    assert "titles.csv" in tanda("submit", manifest, status=2)
    assert not (tmp_path / "storage").exists()


@pytest.mark.parametrize(
    "words", [["--help"], ["plan", "{manifest}"], ["status", "{manifest}"], ["report", "{manifest}"]]
)
def test_the_login_node_never_imports_torch(tmp_path: Path, words: list[str]) -> None:
    manifest = write_manifest(tmp_path)
    program = f"""
import sys
sys.argv = ["tanda", *{[word.format(manifest=manifest) for word in words]!r}]
from pipeline.__main__ import main
try:
    main()
except SystemExit:
    pass
loaded = {{"torch", "mlflow"}} & set(sys.modules)
assert "torch" not in loaded, loaded
assert sys.argv[1] == "report" or not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=120)


def test_the_brake_holds_the_rest_of_a_group(tmp_path: Path) -> None:
    runs = "\n".join(f"      R{number}: {{architecture: mlp, seed: {number}}}" for number in range(1, 6))
    manifest = write_manifest(tmp_path, MANIFEST.replace("      linear: {architecture: linear}", runs))
    tanda("submit", manifest, "--executor", "inline", "--only", "architectures", "--set", "defaults.epochs=1")
    # Every training fails in the same way: its data set was damaged, with no change of size, after it was vouched for.
    for classes in (tmp_path / "storage" / "datasets").glob("*/classes.json"):
        classes.write_bytes(b"x" * classes.stat().st_size)
    tanda("submit", manifest, "--executor", "inline")
    tasks = json.loads(tanda("status", manifest, "--json", status=1))["tasks"]
    trains = [task for task in tasks if task["stage"] == "train"]
    failed = [task for task in trains if task["state"] == "failed"]
    held = [task for task in trains if task["state"] == "waiting"]
    assert (len(failed), len(held)) == (3, 5), trains
    assert all("the same error ended 3 tasks" in task["reason"] for task in held)
    assert "held" in tanda("why", manifest, "R5")


def test_shards_give_the_same_data_set_and_are_done_when_it_is(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, with_only("MLP").replace("source: titles.csv", "source: parts"))
    header, *rows = (tmp_path / "titles.csv").read_text().splitlines(keepends=True)
    (tmp_path / "parts").mkdir()
    for number in range(3):
        (tmp_path / "parts" / f"{number}.csv").write_text("".join([header, *rows[number::3]]))
    sharded = ("--set", "resources.preprocess.shards=3", "--set", "experiments.architectures.runs.MLP.epochs=1")

    def published(name: str, *words: str) -> dict[str, bytes]:
        tanda("submit", manifest, "--executor", "inline", "--set", f"storage={tmp_path / name}", *words)
        folder = next((tmp_path / name / "datasets").iterdir())
        return {f"{folder.name}/{path.name}": path.read_bytes() for path in folder.iterdir()}

    assert published("three", *sharded) == published("one")
    status = ("status", manifest, "--json", "--set", f"storage={tmp_path / 'one'}", "--set")
    assert json.loads(tanda(*status, "resources.preprocess.shards=3"))["summary"] == {"done": 6}
