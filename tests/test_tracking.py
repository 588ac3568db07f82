"""Live tracking: a server is told beside the jobs, filled from storage later, and never waited for."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow_fixture import ask, serve
from report_fixture import Made, two_runs
from small_manifest import tanda, wait_until_over, with_only, write_manifest

from jobs import metrics_log
from jobs.storage import Storage
from pipeline.arrays import ArrayBuilder, ArrayRequest
from pipeline.mlflow import store
from pipeline.mlflow.description import describe
from pipeline.mlflow.follower import follow
from pipeline.mlflow.runs import mlflow_runs
from pipeline.mlflow.server import Server, sync_server
from pipeline.report.collect import collect

NOWHERE = "http://127.0.0.1:9"
CHILD = (sys.executable, str(Path(__file__).with_name("slurm_child.py")))
PROFILE = Path(__file__).parents[1] / "configs" / "clusters" / "test.yaml"
ROOT = str(Path(__file__).parents[1])
RUN = "import sys; from slurm import element as e; e.sidecar.LAST_S = 1; sys.exit(e.run(e.read_element(FILE, 0)))"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    storage = Storage(tmp_path_factory.mktemp("server"))
    store._client(storage)
    with serve(storage) as url:
        yield url


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes every connection and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return two_runs(tmp_path)


def _stored(server: str, experiment: str) -> dict[str, dict[str, Any]]:
    """The runs that a server shows of an experiment, by our id."""
    api = f"{server}/api/2.0/mlflow"
    home = ask(f"{api}/experiments/get-by-name?experiment_name={experiment}")["experiment"]["experiment_id"]
    runs = ask(f"{api}/runs/search", {"experiment_ids": [home]}).get("runs", [])
    found = {}
    for run in runs:
        tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
        params = {param["key"]: param["value"] for param in run["data"].get("params", [])}
        found[tags["tanda.id"]] = {**run["info"], "tags": tags, "params": params}
    assert len(found) == len(runs), "a run is there twice"
    return found


def _steps(server: str, run_id: str) -> list[int]:
    address = f"{server}/api/2.0/mlflow/metrics/get-history?run_id={run_id}&metric_key=train_loss"
    return [point["step"] for point in ask(address).get("metrics", [])]


def test_a_manifest_with_a_server_is_told_live(server: str, tmp_path: Path) -> None:
    """The whole way: followed beside its tasks, filled by the closing job."""
    tanda("run", write_manifest(tmp_path, _told("live", server)))
    _check_told(server, "live")


@pytest.mark.cluster
@pytest.mark.timeout(280)
@pytest.mark.usefixtures("cluster")
def test_nodes_of_a_cluster_tell_a_server_live(server: str, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, _told("nodes", server))
    tanda("submit", manifest, "--cluster", PROFILE)
    wait_until_over(manifest, 200)
    _check_told(server, "nodes")


def _told(name: str, server: str) -> str:
    text = with_only("MLP", "CNN").replace("name: small", f"name: {name}")
    return f"{text}tracking: {{uri: {server!r}}}\n"


def _check_told(server: str, name: str) -> None:
    runs = _stored(server, name)
    assert {run["tags"]["tanda.run"] for run in runs.values()} == {"MLP", "CNN"}
    for run in runs.values():
        assert run["status"] == "FINISHED"
        assert run["tags"]["tanda.stage"] == "train", "only a follower says so"
        assert run["run_name"] == f"architectures / {run['tags']['tanda.run']}"
        assert run["params"]["hidden_layers"] == "16"
        assert _steps(server, run["run_id"]) == [1, 2]


def test_a_journal_is_followed_and_the_rest_filled_later(made: Made, server: str) -> None:
    row = made.plan.rows[0]
    folder = made.storage.run(row.train or "")
    lines = metrics_log.read(folder)
    record = (folder / "record.json").read_bytes()
    (folder / "record.json").unlink()
    later = [{**line, "ended": line["ended"] + 100} for line in lines]
    # Cut after two epochs; the second is done again, and then the rest but for the last.
    kept = iter([lines[:2], lines[:1], [lines[0], *later[1:4]]])
    looks = iter([False, False, True])

    def gone() -> bool:
        metrics_log.rewrite(folder, next(kept))
        return next(looks)

    follow(Server(server), "followed", [folder], gone=gone, every_s=0)
    (live,) = _stored(server, "followed").values()
    assert live["status"] == "RUNNING"
    assert live["params"]["architecture"] == "mlp"
    assert sorted(set(_steps(server, live["run_id"]))) == [1, 2, 3, 4]
    metrics_log.rewrite(folder, lines)
    (folder / "record.json").write_bytes(record)
    runs = mlflow_runs(collect(made.plan, made.states), {})
    assert sync_server(server, made.storage, "followed", runs) is None
    stored = _stored(server, "followed")
    assert len(stored) == 2
    assert stored[row.train or ""]["status"] == "FINISHED"
    assert stored[row.train or ""]["run_id"] == live["run_id"]
    assert sorted(set(_steps(server, live["run_id"]))) == [1, 2, 3, 4, 5]
    assert sync_server(NOWHERE, made.storage, "followed", []) is None


def test_of_several_who_make_a_run_all_get_the_same(server: str) -> None:
    home = Server(server).experiment("raced")
    facts: dict[str, Any] = {"settings": {}, "facts": {}, "points": ()}
    run = describe(run_id="same", manifest="m", name="name", state="running", started=1.0, ended=None, **facts)
    found: list[str] = []

    def make_it() -> None:
        found.append(Server(server).open(home, run, run.tags, None).run_id)

    threads = [threading.Thread(target=make_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(_stored(server, "raced")) == 1
    assert _stored(server, "raced")["same"]["run_id"] in found


def test_a_server_that_is_down_costs_a_note(made: Made) -> None:
    folder = made.storage.run(made.plan.rows[0].train or "")
    notes: list[str] = []
    looks = iter([False, False, True])
    follow(Server(NOWHERE), "demo", [folder], gone=lambda: next(looks), every_s=0, log=notes.append)
    assert len(notes) == 1
    assert "the report sends" in notes[0]
    runs = mlflow_runs(collect(made.plan, made.states), {})
    told = sync_server(NOWHERE, made.storage, "demo", runs)
    assert told is not None
    assert "the next report tries again" in told
    with pytest.raises(ValueError, match="must be http"):
        Server("file:///etc")


def test_a_slow_server_is_left_for_the_next_report(made: Made, server: str) -> None:
    runs = mlflow_runs(collect(made.plan, made.states), {})
    told = sync_server(server, made.storage, "slow", runs, limit_s=0)
    assert told == "the tracking server is slow: 2 of 2 runs are left for the next report"
    assert sync_server(server, made.storage, "slow", runs) is None
    assert len(_stored(server, "slow")) == 2


def _element(folder: Path, paths: list[Path], beside: list[str], *, cpus: int = 1) -> tuple[int, float, str]:
    """Status, seconds and last words of an element with something beside its children, which gets a second."""
    elements = folder / "elements.json"
    document = {"paths": [str(path) for path in paths], "command": CHILD, "cpus": cpus, "warn_s": 100}
    elements.write_text(json.dumps({"elements": [document]}))
    environment = {**os.environ, "PYTHONPATH": ROOT, "PYTHONSAFEPATH": "1", "TANDA_BESIDE": json.dumps([beside])}
    code = RUN.replace("FILE", "__import__('pathlib').Path(sys.argv[1])")
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, str(elements)], env=environment, capture_output=True, text=True, timeout=60
    )
    return done.returncode, time.monotonic() - began, done.stderr


def _path(folder: Path, name: str, plan: str) -> Path:
    (folder / name).mkdir()
    (folder / name / "plan").write_text(plan)
    (folder / name / "task.json").write_text(json.dumps({"id": name, "stage": "train", "settings": {}}))
    return folder / name


@pytest.mark.parametrize("command", [["/nowhere/at/all"], ["false"], ["true"]])
def test_what_ends_at_once_beside_the_tasks_changes_nothing(tmp_path: Path, command: list[str]) -> None:
    status, _, words = _element(tmp_path, [_path(tmp_path, "a", "exit 0")], command)
    assert status == 0
    assert ("not started beside the tasks" in words) == (command[0] == "/nowhere/at/all")


def test_what_does_not_end_with_the_tasks_is_ended(tmp_path: Path) -> None:
    deaf = "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    deaf += "open(sys.argv[1] + '/pid', 'w').write(str(os.getpid())); time.sleep(60)"
    path = _path(tmp_path, "a", "sleep 0.7 exit 1")
    status, seconds, _ = _element(tmp_path, [path], [sys.executable, "-c", deaf])
    assert status == 1
    assert seconds < 20
    assert not Path(f"/proc/{(path / 'pid').read_text()}").exists()


def test_a_server_that_never_answers_keeps_nobody(tmp_path: Path, silent: str) -> None:
    paths = [_path(tmp_path, name, "sleep 3.5 exit 0") for name in "ab"]
    beside = [sys.executable, "-m", "pipeline.mlflow.follower", silent, "demo"]
    status, seconds, words = _element(tmp_path, paths, beside, cpus=2)
    assert status == 0
    for path in paths:
        began, ended = (float(line.split()[1]) for line in (path / "notes").read_text().splitlines())
        assert ended - began < 3.5 + 1, "a task waited"
    assert seconds < 30
    assert "Traceback" not in words


@pytest.mark.parametrize(("stage", "told"), [("preprocess", False), ("train", True), ("evaluate", False)])
def test_followers_stand_beside_what_trains(made: Made, stage: str, told: bool) -> None:
    import dataclasses

    planned = next(planned for planned in made.plan.tasks if planned.stage == stage)
    for uri in (None, "http://host:5000"):
        manifest = dataclasses.replace(made.plan.manifest, tracking_uri=uri)
        maker = ArrayBuilder(manifest=manifest, storage=made.storage, folder=made.storage.root / "s", git_commit=None)
        environment = maker.array(ArrayRequest(stage=stage, group="g", packs=((planned,),)), {}).environment
        modules = [command[2] for command in json.loads(environment.get("TANDA_BESIDE", "[]"))]
        assert ("pipeline.mlflow.follower" in modules) == (told and uri is not None)
        assert ("jobs.gpu_watch" in modules) == (planned.resources.gpus > 0)


def test_a_follower_loads_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "pandas", "mlflow", "pydantic", "yaml")
    code = f"import sys, pipeline.mlflow.follower; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
