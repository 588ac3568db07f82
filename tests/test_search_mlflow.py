"""A search's refit in MLflow's store: it may come out with other settings than it was first shown with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_fixture import (
    DROPOUT,
    data_files,
    fail,
    finish_trial,
    make,
    make_search,
)

from jobs.attempt import begin
from jobs.settings import values
from pipeline.mlflow import store
from pipeline.mlflow.runs import mlflow_runs
from pipeline.report.collect import collect
from sharedfs.documents import write_json

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.mark.parametrize("forget", [False, True])
def test_a_refit_follows_its_searchs_winner(tmp_path: Path, forget: bool) -> None:
    data = data_files(tmp_path / "data")
    made = make(tmp_path, searches=(make_search(data, name="s", space=DROPOUT, trials=2, refit_seeds=(3,)),))
    for number in range(2):
        finish_trial(made, 0, number, skill=0.5)
    refit = made.plan.rows[1].train or ""
    begin(made.storage.run(refit))
    fail(made, refit, "upstream failed", "a trial has not come to an end")

    def shown() -> dict[str, Any]:
        runs = mlflow_runs(collect(made.plan, made.states), {})
        store.update(made.storage, "demo", runs)
        if forget:
            next((made.storage.root / "mlartifacts").glob(".sent-*.json")).unlink()
        from mlflow.tracking import MlflowClient

        client = MlflowClient(store.uri(made.storage))
        experiment = client.get_experiment_by_name("demo")
        found = client.search_runs([experiment.experiment_id], "tags.`tanda.run` = 'refit'")
        assert len(found) == 1
        params: dict[str, Any] = found[0].data.params
        return params

    assert shown()["seed"] == "3"
    for dropout in (0.125, 0.25):
        settings = {
            **values(made.plan.searches[0].search.settings),
            "dropout": dropout,
            "seed": 3,
            "architecture": "mlp",
            "dataset": "d",
        }
        write_json(made.storage.run(refit) / "settings.json", settings)
        fail(made, refit, "diverged", f"at {dropout}")
        assert (shown()["seed"], float(shown()["dropout"])) == ("3", dropout)
