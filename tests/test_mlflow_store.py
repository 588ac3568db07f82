"""MLflow's store: filled from storage, each run once, whatever is killed, repeated or deleted in between."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow_fixture import ask, serve
from report_fixture import (
    DROPOUT,
    START,
    Made,
    data_files,
    epoch_line,
    fail,
    finish_evaluate,
    finish_train,
    finish_trial,
    make,
    make_search,
    two_runs,
)

from jobs import attempt, metrics_log
from jobs.storage import Storage
from pipeline.mlflow import store
from pipeline.mlflow.runs import mlflow_runs
from pipeline.mlflow.writer import Updated
from pipeline.report.collect import collect
from sharedfs.lock import STALE_S, try_hold

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its tables and no run: making one takes seconds, so each test starts from a copy."""
    storage = Storage(tmp_path_factory.mktemp("store"))
    store._client(storage)
    return store.database(storage)


@pytest.fixture
def made(tmp_path: Path, empty_store: Path) -> Made:
    made = two_runs(tmp_path)
    shutil.copyfile(empty_store, store.database(made.storage))
    return made


def _update(made: Made) -> Updated:
    collected = collect(made.plan, made.states)
    return store.update(made.storage, "demo", mlflow_runs(collected, {}))


def _client(made: Made) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(store.uri(made.storage))


def _runs(made: Made) -> dict[str, Any]:
    client = _client(made)
    experiment = client.get_experiment_by_name("demo")
    runs = client.search_runs([experiment.experiment_id])
    found = {run.data.tags["tanda.id"]: run for run in runs}
    assert len(found) == len(runs), "a run is there twice"
    return found


def test_a_run_has_its_settings_curves_figures_tags_times_and_artifacts(made: Made) -> None:
    assert _update(made) == Updated(created=2)
    row = made.plan.rows[1]
    run = _runs(made)[row.train or ""]
    assert run.data.params["architecture"] == "cnn"
    assert run.data.params["filters_length"] == "2,3,4"
    assert run.data.params["freeze_embeddings"] == "true"
    assert run.data.params["language"] == "spanish"
    assert run.data.tags["tanda.group"] == "g"
    assert run.data.tags["tanda.manifest"] == "demo"
    assert run.data.tags["tanda.git_commit"] == "0123abc"
    assert run.data.tags["tanda.slurm_job"] == "77"
    assert run.info.status == "FINISHED"
    assert (run.info.start_time, run.info.end_time) == (START * 1000, (START + 60) * 1000)
    client = _client(made)
    history = client.get_metric_history(run.info.run_id, "validation_balanced_accuracy")
    lines = metrics_log.read(made.storage.run(row.train or ""))
    assert [(point.step, point.value, point.timestamp) for point in history] == [
        (line["epoch"], line["validation_balanced_accuracy"], round(line["ended"] * 1000)) for line in lines
    ]
    assert 0 < run.data.metrics["test_balanced_accuracy"] < 1
    assert run.data.metrics["final_validation_loss"] > 0
    names = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert names == {"model.pt", "log.txt", "evaluation.json"}
    model = Path(run.info.artifact_uri.removeprefix("file://")) / "model.pt"
    assert model.read_bytes() == (made.storage.run(row.train or "") / "model.pt").read_bytes()


def test_an_update_with_nothing_new_does_not_even_import_mlflow(made: Made) -> None:
    _update(made)
    before = store.database(made.storage).stat().st_mtime_ns
    assert _update(made) == Updated(unchanged=2)
    assert store.database(made.storage).stat().st_mtime_ns == before
    imports = "import sys; from pipeline.mlflow import store as m; from jobs.storage import Storage; "
    imports += f"from pathlib import Path; m.update(Storage(Path({str(made.storage.root)!r})), 'demo', []); "
    done = subprocess.run(
        [sys.executable, "-c", imports + "print('mlflow' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_without_the_cache_nothing_is_written_twice(made: Made) -> None:
    _update(made)
    before = {key: run.info.run_id for key, run in _runs(made).items()}
    next((made.storage.root / "mlartifacts").glob(".sent-*.json")).unlink()
    assert _update(made) == Updated(changed=2)
    after = _runs(made)
    assert {key: run.info.run_id for key, run in after.items()} == before
    run = next(iter(after.values()))
    assert len(_client(made).get_metric_history(run.info.run_id, "train_loss")) == 5


def test_a_running_run_grows_and_ends(made: Made, tmp_path: Path) -> None:
    import numpy as np

    row = made.plan.rows[0]
    folder = made.storage.run(row.train or "")
    (folder / "record.json").unlink()
    shutil.rmtree(made.storage.run(row.evaluate))
    made.state(row.train or "", "running")
    made.state(row.evaluate, "waiting")
    lines = [epoch_line(number, skill=0.5, random=np.random.default_rng(0)) for number in (1, 2, 3)]
    metrics_log.rewrite(folder, lines[:1])
    _update(made)
    run = _runs(made)[row.train or ""]
    assert (run.info.status, run.info.end_time) == ("RUNNING", None)
    (folder / "metrics.jsonl").write_bytes(metrics_log.encode(lines[:2]) + metrics_log.encode(lines[2:])[:40])
    assert _update(made) == Updated(changed=1, unchanged=1)
    history = _client(made).get_metric_history(run.info.run_id, "train_loss")
    assert [point.step for point in history] == [1, 2]
    finish_train(made, row.train or "", skill=0.5)
    finish_evaluate(made, row.evaluate, skill=0.5)
    _update(made)
    assert _runs(made)[row.train or ""].info.status == "FINISHED"


@pytest.mark.parametrize("forget", [False, True])
def test_epochs_done_again_after_a_kill_are_not_there_twice(made: Made, forget: bool) -> None:
    row = made.plan.rows[0]
    folder = made.storage.run(row.train or "")
    _update(made)
    lines = metrics_log.read(folder)
    metrics_log.rewrite(folder, [*lines[:3], *({**line, "ended": line["ended"] + 500} for line in lines[3:])])
    if forget:
        next((made.storage.root / "mlartifacts").glob(".sent-*.json")).unlink()
    _update(made)
    run = _runs(made)[row.train or ""]
    history = _client(made).get_metric_history(run.info.run_id, "train_loss")
    assert [point.step for point in history] == [1, 2, 3, 4, 5]


def test_failures_and_losses_are_told_by_us(made: Made) -> None:
    first, second = made.plan.rows
    fail(made, first.train or "", "diverged", "loss is not a number", epochs=1)
    (made.storage.run(second.train or "") / "record.json").unlink()
    made.state(second.train or "", "lost")
    _update(made)
    runs = _runs(made)
    assert runs[first.train or ""].info.status == "FAILED"
    assert runs[first.train or ""].data.tags["tanda.cause"] == "diverged"
    assert runs[second.train or ""].info.status == "KILLED"


def test_what_has_not_begun_is_not_there(made: Made) -> None:
    row = made.plan.rows[0]
    shutil.rmtree(made.storage.run(row.train or ""))
    made.state(row.train or "", "waiting")
    assert _update(made).created == 1


def test_a_search_is_a_parent_and_its_trials_are_children(tmp_path: Path, empty_store: Path) -> None:
    data = data_files(tmp_path / "data")
    made = make(tmp_path, searches=(make_search(data, name="s", space=DROPOUT, trials=3),))
    for number in range(3):
        finish_trial(made, 0, number, skill=0.3 + 0.1 * number)
    finish_evaluate(made, made.plan.rows[0].evaluate, skill=0.6)
    shutil.copyfile(empty_store, store.database(made.storage))
    assert _update(made) == Updated(created=4)
    runs = _runs(made)
    search = made.plan.searches[0]
    parent = runs[search.id]
    assert parent.data.params["algorithm"] == "tpe"
    assert json.loads(parent.data.params["space.dropout"]) == DROPOUT["dropout"]
    for trial in search.trials:
        assert runs[trial].data.tags["mlflow.parentRunId"] == parent.info.run_id
    winner = runs[search.trials[2]]
    assert "test_balanced_accuracy" in winner.data.metrics
    assert winner.data.tags["tanda.also"] == "s / winner"
    assert parent.data.metrics["best_validation_balanced_accuracy"] == pytest.approx(
        max(runs[trial].data.metrics["validation_balanced_accuracy"] for trial in search.trials), abs=0.05
    )


def test_a_second_importer_leaves_it_to_the_first(made: Made) -> None:
    with try_hold(made.storage.locks / "mlflow") as held:
        assert held
        assert _update(made) == Updated(busy=True)
    assert _update(made).created == 2


def test_a_dead_importers_claim_is_taken_over(made: Made) -> None:
    folder = made.storage.locks / "mlflow"
    folder.mkdir(parents=True)
    assert _update(made).busy
    long_ago = time.time() - STALE_S - 5
    os.utime(folder, (long_ago, long_ago))
    assert _update(made).created == 2
    assert not folder.exists()


def test_a_deleted_store_is_rebuilt_by_whoever_comes_first(made: Made) -> None:
    """Several importers at once, no database and a cache that still speaks of the old one."""
    _update(made)
    store.database(made.storage).unlink()
    shutil.rmtree(store.artifacts(made.storage))
    runs = made.storage.root / "runs.pickle"
    runs.write_bytes(pickle.dumps(mlflow_runs(collect(made.plan, made.states), {})))
    code = "import sys; sys.path.insert(0, sys.argv[2]); from test_mlflow_store import again; again(sys.argv[1])"
    command = [sys.executable, "-c", code, str(made.storage.root), str(Path(__file__).parent)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)]
    said = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert sorted(int(out) for out, _ in said) == [0, 0, 2]
    with sqlite3.connect(f"file:{store.database(made.storage)}?mode=ro", uri=True) as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (2,)
    database.close()


def again(root: str) -> None:
    """What each of several importers does in a process of its own; prints how many runs it created."""
    runs = pickle.loads((Path(root) / "runs.pickle").read_bytes())
    while (done := store.update(Storage(Path(root)), "demo", runs)).busy:
        time.sleep(0.1)
    print(done.created)


def test_an_importer_killed_half_way_is_made_good(made: Made) -> None:
    class Killed(BaseException):
        pass

    def kill(_name: str, done: int, _total: int) -> None:
        if done == 1:
            raise Killed

    runs = mlflow_runs(collect(made.plan, made.states), {})
    with pytest.raises(Killed):
        store.update(made.storage, "demo", runs, progress=kill)
    _update(made)
    assert len(_runs(made)) == 2


def test_an_importer_killed_while_it_adds_runs_is_made_good(made: Made) -> None:
    class Killed(BaseException):
        pass

    def kill(_name: str, _done: int, _total: int) -> None:
        raise Killed

    runs = mlflow_runs(collect(made.plan, made.states), {})
    store.update(made.storage, "demo", runs[:1])
    with pytest.raises(Killed):
        store.update(made.storage, "demo", runs, progress=kill)
    _update(made)
    assert len(_runs(made)) == 2


def test_a_run_that_is_evaluated_again_shows_its_new_figures(made: Made) -> None:
    _update(made)
    row = made.plan.rows[0]
    path = made.storage.run(row.evaluate) / "record.json"
    record = json.loads(path.read_bytes())
    record["result"] |= {"test_accuracy": 0.125, "test_matthews": 0.25}
    path.write_text(json.dumps(record))
    assert _update(made) == Updated(created=1, unchanged=1)  # MLflow can't unlearn the former ones
    shown = _runs(made)[row.train or ""].data.metrics
    assert (shown["test_accuracy"], shown["test_matthews"]) == (0.125, 0.25)


@pytest.fixture
def server(made: Made) -> Iterator[str]:
    """MLflow's own server on the store, as ``tanda mlflow`` starts it."""
    _update(made)
    with serve(made.storage) as url:
        yield url


def test_mlflows_server_shows_runs_curves_and_artifacts(made: Made, server: str) -> None:
    api = f"{server}/api/2.0/mlflow"
    found = ask(f"{api}/experiments/get-by-name?experiment_name=demo")["experiment"]
    runs = ask(f"{api}/runs/search", {"experiment_ids": [found["experiment_id"]]})["runs"]
    assert {tag["value"] for run in runs for tag in run["data"]["tags"] if tag["key"] == "tanda.run"} == {"a", "b"}
    run_id = runs[0]["info"]["run_id"]
    curve = ask(f"{api}/metrics/get-history?run_id={run_id}&metric_key=train_loss")["metrics"]
    assert [point["step"] for point in curve] == [1, 2, 3, 4, 5]
    listed = ask(f"{api}/artifacts/list?run_id={run_id}")["files"]
    assert "model.pt" in {item["path"] for item in listed}
    with urllib.request.urlopen(f"{server}/get-artifact?run_uuid={run_id}&path=log.txt", timeout=60) as answer:
        assert b"epoch 1" in answer.read()


def test_attempts_of_a_run_that_never_wrote_a_record_give_its_start(made: Made) -> None:
    row = made.plan.rows[0]
    folder = made.storage.run(row.train or "")
    (folder / "record.json").unlink()
    made.state(row.train or "", "running")
    _update(made)
    started = attempt.history(folder)[0].started
    assert started is not None
    assert _runs(made)[row.train or ""].info.start_time == round(started * 1000)


def test_artifacts_go_nowhere_but_below_the_storage(made: Made, tmp_path: Path) -> None:
    _update(made)
    cache = next((made.storage.root / "mlartifacts").glob(".sent-*.json"))
    document = json.loads(cache.read_bytes())
    for memory in document["runs"].values():
        memory |= {"home": str(tmp_path / "elsewhere"), "stamps": {}}
    cache.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"mlflow\.db: it keeps artifacts in .*elsewhere, not below"):
        _update(made)
    assert not (tmp_path / "elsewhere").exists()


def test_a_link_in_the_place_of_the_database_is_refused(made: Made, tmp_path: Path) -> None:
    (made.storage.root / "mlflow.db").unlink(missing_ok=True)
    (made.storage.root / "mlflow.db").symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(OSError, match="is a link"):
        _update(made)
    assert not (tmp_path / "elsewhere.db").exists()
