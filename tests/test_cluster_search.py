"""A search on a real cluster, 4 of 16 trials at once, a quarter of them killed: one result a trial, and a winner."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rig import Rig
from search_fixture import trials
from small_manifest import MANIFEST, tanda, write_manifest

from jobs import metrics_log
from jobs.attempt import history, live
from jobs.search.summary import winner
from jobs.storage import Storage
from jobs.task import Task, read_record
from pipeline.queue import is_closing
from sharedfs.documents import read_json

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(290)]
PROFILE = Path(__file__).parents[1] / "configs" / "clusters" / "test.yaml"
TRIALS, KILLS, LIMIT_S = 16, 4, 270.0
Searched = tuple[Path, dict[str, Any], dict[Path, int]]
EPOCHS = 9

SEARCH = f"""
searches:
  tuned:
    architecture: mlp
    algorithm: tpe
    trials: {TRIALS}
    parallel: 4
    epochs: {EPOCHS}
    patience_chance: 100
    space:
      hidden_layers: {{choice: [[8], [16], [16, 8]]}}
      dropout: {{uniform: [0, 0.5]}}
      learning_rate: {{loguniform: [1e-4, 1e-1]}}
    stopping: {{asha: {{grace_epochs: 1, reduction: 3}}}}
    refit_seeds: [3]
"""


def _manifest() -> str:
    head, tail = MANIFEST.split("experiments:")
    return head.replace("hidden_layers: [16], ", "").replace("learning_rate: 1e-2, ", "") + SEARCH + _resources(tail)


def _resources(tail: str) -> str:
    return "resources:" + tail.split("resources:")[1]


class _Killer:
    """Kills running trials, each a seeded moment after its process was first seen; ``killed`` are their attempts."""

    def __init__(self, folders: list[Path], seed: int) -> None:
        self._folders, self._source = folders, random.Random(seed)
        self._delays_s: dict[tuple[Path, int], float] = {}
        self.killed: dict[Path, int] = {}

    def turn(self) -> None:
        histories = {folder: history(folder) for folder in self._folders}
        # On a machine so slow that many got away, those that come last are not given a moment.
        late = sum(not attempts for attempts in histories.values()) < KILLS - len(self.killed)
        for folder, attempts in histories.items():
            if len(self.killed) >= KILLS or folder in self.killed or not attempts or not live(folder):
                continue
            number = attempts[-1].number
            if (folder, number) not in self._delays_s:
                doomed = self._source.random() < 2 * KILLS / TRIALS
                self._delays_s[folder, number] = self._source.uniform(0, 3) if doomed else math.inf
            # An attempt is a folder first; what started in it is written a moment later.
            pid, started = attempts[-1].pid, attempts[-1].started
            if pid is None or started is None:
                continue
            if late or time.time() >= started + self._delays_s[folder, number]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.killed[folder] = number


@pytest.fixture(scope="module")
def searched(cluster: Rig, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """The manifest when all is over, its status, and the attempts that were killed by their trials' folders."""
    manifest = write_manifest(tmp_path_factory.mktemp("search"), _manifest())
    storage = Storage(manifest.parent / "storage")
    submitted = json.loads(tanda("submit", manifest, "--cluster", PROFILE, "--json"))
    assert {array["stage"]: array["tasks"] for array in submitted["arrays"]}["trial"] == TRIALS
    plan = json.loads(tanda("plan", manifest, "--json"))["tasks"]
    killer = _Killer([storage.run(task["id"]) for task in plan if task["stage"] == "trial"], seed=5)
    ends, asked = time.monotonic() + LIMIT_S, 0.0
    while True:
        killer.turn()
        if time.monotonic() > asked + 3:
            asked = time.monotonic()
            status = json.loads(tanda("status", manifest, "--json", status=None))
            if not {"waiting", "running"} & status["summary"].keys() and not is_closing(storage, "small"):
                return manifest, status, killer.killed
        assert time.monotonic() < ends, f"the end did not come: {status['summary']}, {status['searches']}"
        time.sleep(0.1)


def test_every_trial_has_exactly_one_result(searched: Searched) -> None:
    manifest, status, killed = searched
    storage = Storage(manifest.parent / "storage")
    assert len(killed) == KILLS
    assert status["summary"] == {"done": 1 + TRIALS + 1 + 1 + 1}  # data, trials, the winner, a refit and its evaluation
    (search,) = status["searches"]
    assert search["states"].keys() <= {"stopped", "done"} and sum(search["states"].values()) == TRIALS
    assert search["best"]["state"] == "done" and search["epochs_saved"] > 0
    found = trials(storage, search["id"])
    assert [trial.number for trial in found] == list(range(TRIALS))
    assert len({json.dumps(trial.point, sort_keys=True) for trial in found}) == TRIALS
    folders = [folder for folder in storage.runs.iterdir() if Task.read(folder).stage == "trial"]
    assert sorted(folders) == sorted(trial.folder for trial in found)
    for trial in found:
        record = read_record(trial.folder)
        assert record is not None and record.state == "done" and record.result["trial"] == trial.number
        assert [line["epoch"] for line in metrics_log.read(trial.folder)] == list(range(1, trial.epochs + 1))
        assert trial.epochs in (1, 3, EPOCHS)
    assert search["epochs_spent"] == sum(trial.epochs for trial in found)


def test_who_was_killed_went_on_in_another_attempt(searched: Searched) -> None:
    for folder, killed in searched[2].items():
        record, attempts = read_record(folder), history(folder)
        assert record is not None and attempts[killed - 1].ended is None
        # Unless it was killed in the moment between its record and its end.
        assert len(attempts) > killed or record.attempt == killed


def test_the_winner_of_all_trials_is_evaluated_and_trained_again(
    searched: Searched,
) -> None:
    manifest, status, _ = searched
    storage, search = Storage(manifest.parent / "storage"), status["searches"][0]
    best = winner(storage, search["id"], TRIALS)
    assert best.name == search["best"]["task"]
    report = storage.reports / "small"
    with (report / "results.csv").open() as file:
        first, refit = csv.DictReader(file)
    assert (first["run"], first["id"], refit["run"], refit["seed"]) == ("winner", best.name, "refit", "3")
    assert float(first["test_balanced_accuracy"]) > 0.5 and float(refit["test_balanced_accuracy"]) > 0.5
    point = read_json(storage.search(search["id"]) / "trials" / f"{search['best']['trial']:04d}" / "point.json")[
        "point"
    ]
    for row in (first, refit):
        assert float(row["learning_rate"]) == pytest.approx(point["learning_rate"])
        assert row["hidden_layers"] == ",".join(map(str, point["hidden_layers"]))


def test_the_closing_jobs_went_well(searched: Searched) -> None:
    logs = list((searched[0].parent / "storage" / "submissions").glob("*/log.txt"))
    assert logs and not any("Traceback" in log.read_text() for log in logs)


def test_the_report_has_the_search(searched: Searched) -> None:
    report = Storage(searched[0].parent / "storage").reports / "small"
    with (report / "tables" / "tuned-trials.csv").open() as file:
        assert sorted(int(row[0]) for row in list(csv.reader(file))[1:]) == list(range(TRIALS))
    page = (report / "index.html").read_text()
    assert "plots/tuned-search.png" in page and "functional analysis of variance" in page
    assert (report / "plots" / "tuned-search.png").stat().st_size > 10_000
