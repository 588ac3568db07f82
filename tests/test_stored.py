"""A storage that an earlier version wrote (tests/stored.py): every command that reads one finds in it what is there."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kernels_fixture import KERNELS
from small_manifest import tanda
from stored import FOLDER, HOME, NODE

from jobs.attempt import begin, history
from jobs.context import Context
from jobs.data.dataset import Dataset
from jobs.search.study import Study, open_study, read_trials
from jobs.storage import Storage
from jobs.task import Task, read_record
from jobs.training.metrics import EVALUATION, PREDICTIONS
from jobs.training.run import train
from pipeline.mlflow import store


class Stored:
    """A copy of the stored folder: the manifest, its data and its storage."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(HOME, folder)
        self.manifest, self.storage = folder / "small.yaml", Storage(folder / "storage")

    @property
    def report(self) -> Path:
        return self.storage.reports / "small"

    @property
    def study(self) -> Study:
        (search,) = self.storage.searches.iterdir()
        return open_study(self.storage, search.name)

    def plan(self) -> dict[str, Any]:
        return dict(json.loads(tanda("plan", self.manifest, "--json")))

    def task(self, stage: str, run: str) -> Path:
        (id_,) = (task["id"] for task in self.plan()["tasks"] if (task["stage"], task["run"]) == (stage, run))
        return self.storage.run(id_)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """For what only reads."""
    return Stored(tmp_path_factory.mktemp("stored") / "small")


@pytest.fixture
def mine(tmp_path: Path) -> Stored:
    """For what writes."""
    return Stored(tmp_path / "small")


def _files() -> Iterator[Path]:
    return (path for path in HOME.rglob("*") if path.is_file())


def test_it_is_small_and_tells_of_no_machine() -> None:
    assert sum(path.stat().st_size for path in _files()) < 300_000
    documents = [path.read_text() for path in _files() if path.suffix == ".json"]
    assert sum(NODE in text for text in documents) >= 10 and sum(FOLDER in text for text in documents) == 2
    foreign = ("/home/", "/root", "/tmp", "/work", str(Path(__file__).parents[2]))
    assert not [path for text in documents for path in foreign if f'"{path}' in text]


def test_nothing_is_to_be_done_again(stored: Stored) -> None:
    assert "10 tasks (1 preprocess, 3 train, 2 trial, 4 evaluate); 0 to do, 10 done" in tanda("plan", stored.manifest)


def test_its_state_is_shown(stored: Stored) -> None:
    status = json.loads(tanda("status", stored.manifest, "--json"))
    assert status["summary"] == {"done": 10}
    (search,) = status["searches"]
    assert (search["name"], search["states"], search["epochs_saved"]) == ("tuned", {"stopped": 1, "done": 1}, 1)
    assert search["best"]["trial"] == 1 and search["best"]["point"].keys() == {"dropout"}
    assert "succeeded after 1 attempt" in tanda("why", stored.manifest, "MLP")


def test_all_that_it_holds_is_needed(stored: Stored) -> None:
    *lines, asked = tanda("gc", stored.manifest, status=None).splitlines()
    assert [line.split("/")[-1] for line in lines] == [
        "checkpoint.pt  the optimiser state of a stopped trial that cannot be promoted any more"
    ], "the search is over; everything else is of the manifest"
    assert asked.startswith("remove these 1 ")


@pytest.mark.parametrize("run", ["MLP", "linear"])
def test_its_models_answer(stored: Stored, run: str) -> None:
    titles = "celular liberado android\nvino malbec tinto\n"
    command = [sys.executable, "-m", "pipeline", "predict", str(stored.task("train", run))]
    reported = subprocess.run(command, input=titles, capture_output=True, text=True, check=True, timeout=120).stdout
    assert [line.split("\t")[0] for line in reported.splitlines()] == ["PHONES", "WINES"]


def test_its_runs_are_compared(stored: Stored) -> None:
    reported = tanda("compare", *(f"{stored.report}:architectures/{run}" for run in ("MLP", "linear")))
    assert "architectures/linear is ahead of architectures/MLP by 0.1389 on test" in reported


def test_a_run_is_made_again_with_the_same_bits(stored: Stored) -> None:
    folder = stored.task("train", "MLP")
    record = read_record(folder)
    assert record is not None and json.loads(tanda("repro", folder))["host"] == NODE
    command = [sys.executable, "-m", "pipeline", "repro", str(folder), "--check"]
    environment = {**os.environ, **KERNELS}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    made_with = record.about.torch, record.about.numpy
    if made_with == (str(torch.__version__), np.__version__):
        assert done.returncode == 0 and "the same bits" in done.stderr, done.stderr
    else:  # other versions may round otherwise; what differs is named
        assert "the same bits" in done.stderr or "model.pt: " in done.stderr, done.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # MLflow's own
def test_its_tables_come_out_as_they_were_and_mlflow_gets_its_runs(mine: Stored) -> None:
    before = {path.name: path.read_text() for path in mine.report.rglob("*.csv")}
    shutil.rmtree(mine.report)
    tanda("report", mine.manifest, "--no-plots")
    after = {path.name: path.read_text() for path in mine.report.rglob("*.csv")}
    assert "tuned-trials.csv" in before and before.keys() <= after.keys()
    for name, text in before.items():
        assert _known_columns(after[name], text) == _known_columns(text, text), name
    trained = {path.parent.name for path in mine.storage.runs.glob("*/settings.json")}
    assert _mlflow_ids(mine.storage) == trained | {mine.study.id} and len(trained) == 5


def _known_columns(text: str, stored: str) -> list[dict[str, str]]:
    """The rows of a table, with the columns that the stored one has: later versions may know more.

    Without intervals, which are computed better now, hours, which are a seed's now, and losses, which are shown side by
    side only where they are of one kind, and a setting of linear alone that networks have, too, by now.
    """
    columns = next(csv.reader(stored.splitlines()))
    gone = ("95 % interval", "GPU-hours", "test loss", "validation loss", "training loss", "class_weights")
    known = [name for name in columns if not name.startswith(gone)]
    return [{name: row[name] for name in known} for row in csv.DictReader(text.splitlines())]


def _mlflow_ids(storage: Storage) -> set[str]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(store.uri(storage))
    experiment = client.get_experiment_by_name("small")
    return {run.data.tags["tanda.id"] for run in client.search_runs([experiment.experiment_id])}


def test_an_evaluation_is_made_again_and_gives_the_same(mine: Stored) -> None:
    folder = mine.task("evaluate", "linear")
    before = json.loads((folder / EVALUATION).read_text())
    for name in ("record.json", EVALUATION, PREDICTIONS):
        (folder / name).unlink()
    tanda("submit", mine.manifest, "--executor", "inline")
    assert len(history(folder)) == 2 and len(history(mine.task("train", "linear"))) == 1
    after = json.loads((folder / EVALUATION).read_text())
    assert after["classes"] == before["classes"]
    for split in ("validation", "test"):
        assert after[split]["support"] == before[split]["support"]
        assert after[split]["loss"] == pytest.approx(before[split]["loss"], rel=1e-4)
        assert after[split]["recall"] == pytest.approx(before[split]["recall"])


def test_a_stopped_trial_goes_on_from_its_checkpoint(
    mine: Stored, one_core: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it would after a promotion, here without its search's consent."""
    study = mine.study
    (stopped,) = (trial for trial in read_trials(study) if trial.state == "stopped")
    context = Context(
        task=Task.read(stopped.folder), storage=mine.storage, folder=stopped.folder, attempt=begin(stopped.folder)
    )
    recipe = study.recipe(stopped.point, context.task.plumbing)
    dataset = Dataset.open(mine.storage.dataset(recipe.dataset))
    result = train(context, recipe=recipe, dataset=dataset, folder=stopped.folder)
    assert "going on at epoch 2, step 0" in capsys.readouterr().err
    assert [(line["epoch"], line["attempt"]) for line in result.lines] == [(1, 1), (2, 2)]
    assert result.figures["epochs_run"] == 2 and result.lines[1]["train_loss"] < result.lines[0]["train_loss"]
