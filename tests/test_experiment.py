"""``from tanda import Experiment``: its examples run, and its frames hold what the commands and files say."""

from __future__ import annotations

import ast
import csv
import doctest
import inspect
import json
import os
import re
import shutil
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

import orjson
import pandas
import pytest
from small_manifest import MANIFEST, tanda, with_only, write_manifest
from stored import HOME, SEARCH

from jobs.storage import Storage
from pipeline import experiment as module
from pipeline import live
from pipeline.decisions.task_state import TaskState
from pipeline.report import results_csv
from pipeline.report.collect import collect
from pipeline.show import plan_document
from pipeline.status import done_on_storage, states_document, task_states
from tanda import DamagedFileError, Experiment, FileAccessError, InputError, MissingFileError, TandaError

EXAMPLES = [test for test in doctest.DocTestFinder().find(module) if test.examples]
METHODS = {name for name, method in vars(Experiment).items() if callable(method) and not name.startswith("_")}
SEEDS = MANIFEST.replace("    runs:\n", "    seeds: [0, 1]\n    runs:\n")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stored storage with its manifest, as the working directory."""
    home = tmp_path / "small"
    shutil.copytree(HOME, home)
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def finished(folder: Path) -> Experiment:
    del folder
    return Experiment("small.yaml")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name.rpartition(".")[2])
def test_the_examples_give_what_they_say(example: doctest.DocTest, finished: Experiment) -> None:
    # The tasks that wrote this storage ran in one process, whose output was not kept.
    training = finished.plan("architectures").set_index(["run", "stage"]).id["MLP", "train"]
    log = Storage(Path("storage")).log(training)
    log.write_text("".join(f"epoch {epoch}/2: validation balanced accuracy 0.8611\n" for epoch in (1, 2)))
    example.globs = {**vars(module), "experiment": finished}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    runner.run(example, out=said.append, clear_globs=False)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)


def test_every_method_has_an_example() -> None:
    assert METHODS - {example.name.rpartition(".")[2] for example in EXAMPLES} == {"load", "make_plan"}


def test_frames_hold_what_the_documents_of_the_commands_hold(finished: Experiment) -> None:
    document = json.loads(tanda("plan", "small.yaml", "--json"))
    frame = finished.plan()
    for name in ("id", "stage", "group", "run", "done"):
        assert frame[name].to_list() == [task[name] for task in document["tasks"]]
    resources = {task: array["resources"] for array in document["arrays"] for task in array["tasks"]}
    for name in ("cpus", "gpus", "mem_gb", "time_min", "pack"):
        assert frame[name].to_list() == [resources[task][name] for task in frame.id]
    tasks = json.loads(tanda("status", "small.yaml", "--json"))["tasks"]
    states = finished.status()
    for name in ("id", "stage", "group", "run", "state", "attempts", "queued"):
        assert states[name].to_list() == [task[name] for task in tasks]
    assert [list(changed) for changed in states.changed] == [task["changed"] for task in tasks]


def test_the_commands_print_the_documents_of_the_same_values(finished: Experiment) -> None:
    plan = finished.make_plan()
    documents = {
        "plan": plan_document(plan, done_on_storage(plan)),
        "status": states_document(plan, task_states(plan)),
        "submit": finished.submit(executor="local").document(),
    }
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    for command, document in documents.items():
        assert tanda(command, "small.yaml", "--json") == orjson.dumps(document, option=options).decode()


def test_results_have_the_columns_and_values_of_results_csv(finished: Experiment) -> None:
    text = (finished.report(plots=False, mlflow=False) / "results.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    frame = finished.results()
    assert list(frame) == list(rows[0]) and len(frame) == len(rows) == 4
    for name, column in frame.items():
        for value, text in zip(column, (row[str(name)] for row in rows), strict=True):
            if not isinstance(value, tuple) and pandas.isna(value):
                assert text == ""
            elif column.dtype == "float64":
                assert float(text) == pytest.approx(value, abs=0.51 * 10 ** -len(text.partition(".")[2]))
            elif column.dtype == "boolean":
                assert text == str(value).lower()
            else:
                assert text == (",".join(map(str, value)) if isinstance(value, tuple) else str(value))
    kinds = {
        "run": "str",
        "seed": "int64",
        "hidden_layers": "object",
        "epochs": "Int64",
        "freeze_embeddings": "boolean",
    }
    assert {name: str(frame[name].dtype) for name in kinds} == kinds


def test_columns_and_types_are_the_same_before_anything_ran(finished: Experiment, tmp_path: Path) -> None:
    fresh = Experiment(write_manifest(tmp_path / "fresh", with_only("MLP", "linear") + SEARCH))
    assert not fresh.plan().done.any() and set(fresh.status().state) == {"waiting"} and fresh.epochs().empty
    assert fresh.trials("tuned").state.to_list() == ["waiting", "waiting"]
    assert set(fresh.results().state) == {"waiting"} and fresh.results().test_balanced_accuracy.isna().all()
    for way in (Experiment.plan, Experiment.status, Experiment.epochs):
        assert way(fresh).dtypes.to_dict() == way(finished).dtypes.to_dict()
    trials = [made.trials("tuned") for made in (fresh, finished)]
    assert list(trials[0]) == list(trials[1])
    was, now = fresh.results(), finished.results()
    assert list(was) == list(now)
    differ = {name for name in was if was[name].dtype != now[name].dtype}
    assert differ <= set(results_csv.hyperparameters(_collected(finished)))  # a setting that no run has yet


def _collected(experiment: Experiment) -> results_csv.Collected:
    plan = experiment.make_plan()
    return collect(plan, task_states(plan))


def test_a_run_is_named_in_every_way_of_tanda_why(finished: Experiment) -> None:
    row = finished.results().set_index("run").loc["MLP"]
    whole = finished.predictions("architectures/MLP")
    for name in ("MLP", "MLP:0", "architectures/MLP:0", row.id, row.id[:6]):
        assert finished.predictions(name).equals(whole)
        assert finished.epochs(name).id.unique().tolist() == [row.id]
        assert finished.why(name).startswith("architectures/MLP (train,")


def test_epochs_are_of_runs_winners_and_trials(finished: Experiment) -> None:
    results, trials = finished.results().set_index("run"), finished.trials("tuned").set_index("number")
    whole = finished.epochs()
    assert set(whole.id) == set(results.id) and whole.groupby("run").epoch.max().to_dict() == \
        {"MLP": 2, "linear": 1, "winner": 2, "refit": 2}  # fmt: skip
    assert results.id["winner"] == trials.id[1]
    assert finished.epochs("tuned").run.unique().tolist() == ["winner", "refit"]
    stopped = finished.epochs("tuned/trial 0")
    assert stopped.epoch.to_list() == [1] and stopped.id.to_list() == [trials.id[0]]
    assert stopped.validation_balanced_accuracy[0] == trials.value[0]


def test_predictions_give_the_figures_of_the_run(finished: Experiment) -> None:
    for split in ("validation", "test"):
        frame = finished.predictions("MLP", split)  # type: ignore[arg-type]
        hits = (frame.label == frame.predicted).groupby(frame.label, observed=True).mean()
        figure = finished.results().set_index("run")[f"{split}_balanced_accuracy"]["MLP"]
        assert hits.mean() == pytest.approx(figure) and frame.row.to_list() == list(range(len(frame)))
        assert frame.label.cat.categories.equals(frame.predicted.cat.categories)


BAD: dict[str, tuple[Callable[[Experiment], object], type[Exception], str]] = {
    "group": (lambda made: made.plan("architecture"), InputError, "did you mean 'architectures'?"),
    "run": (lambda made: made.predictions("MPL"), InputError, "no run 'MPL' in "),
    "seeds": (lambda made: made.predictions("MLP"), InputError, "'MLP' names 2 runs: architectures/MLP:0, architec"),
    "unfinished": (lambda made: made.predictions("MLP:1"), InputError, "architectures/MLP has no predictions yet: wai"),
    "split": (lambda made: made.predictions("MLP:1", "tset"), InputError, "did you mean 'test'?"),  # type: ignore[arg-type]
    "epochs": (lambda made: made.epochs("MPL"), InputError, "no task 'MPL' in "),
    "data set": (lambda made: made.epochs("data/all"), InputError, "no run 'data/all' in "),
    "search": (lambda made: made.trials("tuned"), InputError, "no search 'tuned' in "),
    "task": (lambda made: made.why("MLP:2"), InputError, "no task 'MLP:2' in "),
    "log": (lambda made: made.logs("MLP:1"), InputError, "has no log yet: it is waiting"),
    "rerun": (lambda made: made.submit(executor="inline", rerun="MPL"), InputError, "no task 'MPL' in"),
    "executor": (lambda made: made.submit(executor="inlin"), TandaError, "unknown executor 'inlin'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_a_person_can_fix_is_an_error_of_ours_in_one_line(case: str, tmp_path: Path) -> None:
    call, kind, text = BAD[case]
    with pytest.raises(kind) as raised:
        call(Experiment(write_manifest(tmp_path, SEEDS)))
    assert text in str(raised.value) and "\n" not in str(raised.value)


def test_errors_have_the_text_of_the_command(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, SEEDS)
    told = tanda("why", manifest, "MLPP", status=2)
    with pytest.raises(InputError) as unknown:
        Experiment(manifest).why("MLPP")
    assert told == f"tanda: {unknown.value}\n"
    told = tanda("plan", manifest, "--set", "defaults.epoch=1", status=2)
    with pytest.raises(InputError) as wrong:
        Experiment(manifest, sets=["defaults.epoch=1"]).plan()
    assert told == f"tanda: {wrong.value}\n"


def test_a_missing_data_file_is_warned_of_or_an_error(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path)
    (tmp_path / "titles.csv").unlink()
    with pytest.warns(UserWarning, match="titles.csv; ids are provisional until it is there") as told:
        assert len(Experiment(manifest).plan()) == 9
    assert told[0].filename == __file__
    with pytest.raises(MissingFileError, match="no such file"):
        Experiment(manifest).submit(executor="inline")


def test_an_error_of_the_file_system_is_of_ours_too(finished: Experiment) -> None:
    shutil.rmtree("storage/reports")
    Path("storage/reports").write_text("in the way")
    with pytest.raises(FileAccessError, match=r"storage/reports.*: (Not a directory|File exists)") as raised:
        finished.report(plots=False, mlflow=False)
    assert isinstance(raised.value, OSError) and isinstance(raised.value.__cause__, OSError)


def test_damaged_predictions_are_named(finished: Experiment) -> None:
    evaluation = finished.plan().set_index(["run", "stage"]).id["MLP", "evaluate"]
    damaged = Path("storage/runs") / evaluation / "predictions.npz"
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    with pytest.raises(DamagedFileError, match=f"{evaluation}: no evaluation with the predictions of test"):
        finished.predictions("MLP")


def test_a_whole_run_leaves_this_process_as_it_was(tmp_path: Path) -> None:
    """Ctrl-C stays the notebook's, its files keep its umask; nothing is shown."""
    experiment = Experiment(
        write_manifest(tmp_path, "umask: '007'\n" + with_only("MLP")), sets=["defaults.epochs=1", "defaults.seed=3"]
    )
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)]
    umask = os.umask(0o022)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's own
            states = experiment.run(executor="inline")
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(umask)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)] == before
    assert set(states.state) == {"done"} and (tmp_path / "storage/reports/small/index.html").exists()
    assert experiment.results().seed.to_list() == [3]
    assert experiment.submit(executor="inline").already_done == len(experiment.plan()) == 3


def test_waiting_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment(write_manifest(tmp_path))
    assert set(experiment.wait().state) == {"waiting"}  # nothing is queued: nothing to wait for
    running = {id_: TaskState(id=id_, state="running", queued=True) for id_ in experiment.plan().id}
    monkeypatch.setattr(live, "task_states", lambda _plan, *, clock: running)
    assert set(experiment.wait(limit_s=0).state) == {"running"}


def test_the_page_has_every_method_with_its_parameters() -> None:
    page = (Path(__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
    calls = [
        call for line in re.findall(r"^\| (`.*?) \|", page, re.M) for call in re.findall(r"`(\w+)\((.*?)\)`", line)
    ]
    assert {name for name, _ in calls} == METHODS - {"load", "make_plan"}  # which give the program's own values
    for name, parameters in calls:
        (stated,) = [node.args for node in ast.parse(f"def f(self, {parameters}): ...").body]  # type: ignore[attr-defined]
        real = inspect.signature(getattr(Experiment, name)).parameters
        for position, argument in enumerate(stated.args):
            assert list(real)[position] == argument.arg
        for argument in stated.kwonlyargs:
            assert real[argument.arg].kind is inspect.Parameter.KEYWORD_ONLY
        optional = [argument.arg for argument in (*stated.args[len(stated.args) - len(stated.defaults):],
                                                  *stated.kwonlyargs)]  # fmt: skip
        values = [ast.literal_eval(value) for value in (*stated.defaults, *stated.kw_defaults)]
        assert [real[argument].default for argument in optional] == values
