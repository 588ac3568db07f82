"""Metrics from outside of the package: each one file, from the evaluation to every place where figures are shown."""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from manifest_fixture import read
from report_fixture import data_files, finish_all, make, make_run, make_search
from sklearn import metrics as sklearn
from training_fixture import publish_dataset, train_task

from jobs import entry, metrics, metrics_log, plugins
from jobs.metrics import Counts, Metric, Pass
from jobs.search.study import best_so_far, score
from jobs.stages.evaluate import target
from jobs.storage import Storage
from jobs.task import Task, read_record
from jobs.training.metrics import of_logits, of_parts
from pipeline.manifest.expansion import figure_names
from pipeline.mlflow.runs import mlflow_runs
from pipeline.plan import make_plan
from pipeline.report import build
from pipeline.report.collect import collect
from pipeline.report.compare import compare
from sharedfs.documents import read_json, write_json
from sharedfs.errors import InputError

MATTHEWS = """
import numpy as np
from jobs.metrics import Counts, Metric

KIND = "metric"

def matthews(counts: Counts) -> float:
    titles, right = counts.titles, int(counts.correct.sum())
    agreement = right * titles - float(counts.support @ counts.predicted)
    squares = [float(titles**2 - each @ each) for each in (counts.support, counts.predicted)]
    return agreement / np.sqrt(squares[0] * squares[1]) if all(squares) else 0.0

METRIC = Metric(title={"en": "Matthews", "es": "correlación"}, higher_is_better=True, decimals=2, of_counts=matthews)
"""
TOP2 = """
import numpy as np
from jobs.metrics import Metric
KIND = "metric"

def among(logits, labels):
    return (np.argsort(-logits, axis=1)[:, :2] == labels[:, None]).any(1)

METRIC = Metric(title="top-2", higher_is_better=True, of_titles=among)
"""
CALIBRATION = """
import numpy as np
from jobs.metrics import Metric
KIND = "metric"
BINS = 10

def trust(logits, labels):
    chances = np.exp(logits - logits.max(1, keepdims=True))
    return np.stack([chances.max(1) / chances.sum(1), logits.argmax(1) == labels], axis=1)

def error(values):
    bins = np.minimum((values[:, 0] * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, values[:, 0] - values[:, 1], BINS)
    return float(np.abs(gaps).sum() / len(values))

METRIC = Metric(title="calibration error", unit="share", higher_is_better=False, of_titles=trust, over_titles=error)
"""
MISSES = """
from jobs.metrics import Metric, Pass
KIND = "metric"

def missed(sums: Pass) -> float:
    return 1.0 - float(sums.correct.sum() / sums.titles)

METRIC = Metric(title="misses", higher_is_better=False, of_pass=missed)
"""
FILES = {"matthews": MATTHEWS, "top2": TOP2, "calibration": CALIBRATION, "misses": MISSES}


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[Path]:
    """A folder of metrics, all of them in use."""
    folder = tmp_path / "lab"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    plugins.use(plugins.find(folder))
    yield folder
    plugins.use(())


def _classified(titles: int = 700, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    labels = generator.integers(classes, size=titles)
    logits = generator.standard_normal((titles, classes)).astype(np.float32)
    logits[np.arange(titles), labels] += 1.0
    return labels, logits


@pytest.mark.usefixtures("foreign")
def test_they_are_computed_whatever_the_parts() -> None:
    labels, logits = _classified()
    figures = of_logits(logits, labels).figures
    predicted = logits.argmax(1)
    assert figures["matthews"] == pytest.approx(sklearn.matthews_corrcoef(labels, predicted))
    assert figures["top2"] == pytest.approx(sklearn.top_k_accuracy_score(labels, logits, k=2))
    assert figures["misses"] == pytest.approx(sklearn.zero_one_loss(labels, predicted))
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    trust, right = chances.max(1), predicted == labels
    bins = np.minimum((trust * 10).astype(int), 9)
    gaps = [abs(trust[bins == one].mean() - right[bins == one].mean()) * (bins == one).mean() for one in set(bins)]
    assert figures["calibration"] == pytest.approx(sum(gaps), abs=1e-6)
    order = np.random.default_rng(0).permutation(len(labels))
    parts = ((rows, logits[rows], labels[rows]) for rows in np.array_split(order, 9))
    assert of_parts(parts, titles=len(labels), classes=6).figures == figures


def test_every_metric_has_one_way_to_be_computed() -> None:
    with pytest.raises(ValueError, match="one of of_pass, of_counts and of_titles, not 0"):
        Metric(title="x", higher_is_better=True)
    with pytest.raises(ValueError, match="not 2"):
        Metric(title="x", higher_is_better=True, of_pass=lambda _: 0.0, of_counts=lambda _: 0.0)


def test_a_file_without_a_metric_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text('KIND = "metric"\n')
    plugins.use(plugins.find(tmp_path / "empty.py"))
    try:
        with pytest.raises(InputError, match=r"empty\.py: a metric must have METRIC = Metric"):
            metrics.all_metrics()
    finally:
        plugins.use(())


def test_builtins_come_in_the_order_of_tables_and_foreign_ones_last(foreign: Path) -> None:
    assert foreign.exists()
    ours = ["loss", "balanced_accuracy", "accuracy", "macro_f1", "top5"]
    assert list(metrics.all_metrics()) == [*ours, "calibration", "matthews", "misses", "top2"]
    assert list(metrics.every_epoch()) == ["loss", "balanced_accuracy", "accuracy", "misses"]


@pytest.mark.parametrize(
    ("figure", "best"),
    [("validation_loss", 1.0), ("validation_accuracy", 3.0), ("validation_misses", 1.0), ("test_matthews", 3.0)],
)
@pytest.mark.usefixtures("foreign")
def test_the_direction_is_the_metrics(figure: str, best: float) -> None:
    assert max([3.0, 1.0, 2.0], key=lambda value: score(figure, value)) == best
    assert list(best_so_far(figure, [None, 3.0, 1.0, 2.0, 3.0]))[-1] == best


def test_epochs_and_evaluations_agree() -> None:
    """What training computes of a pass is what evaluation computes of the same counts, to the bit."""
    labels, logits = _classified()
    scores = of_logits(logits, labels)
    correct = np.bincount(labels[scores.predicted == labels], minlength=6)
    loss = scores.figures["loss"] * len(labels)
    sums = Pass(support=scores.support, correct=correct, loss=loss)
    figures = metrics.pass_figures(sums)
    assert figures == {
        name: pytest.approx(scores.figures[name], abs=0 if name != "loss" else 1e-12) for name in figures
    }
    counts = Counts(support=scores.support, correct=correct, loss=loss, predicted=scores.support)
    assert metrics.all_metrics()["accuracy"].value(counts, None) == figures["accuracy"]


@pytest.mark.parametrize("architecture", ["mlp", "linear"])
@pytest.mark.usefixtures("foreign", "one_core")
def test_a_run_has_them_in_its_epochs_evaluation_and_records(tmp_path: Path, architecture: str) -> None:
    storage = Storage(tmp_path / "storage")
    dataset = publish_dataset(storage)
    train = train_task(architecture, dataset, **({"epochs": 3} if architecture == "mlp" else {}))
    assert entry.run(train.write(storage)) == 0
    named = plugins.identities(plugins.Part("metric", name) for name in plugins.METRICS.names())
    task = Task(stage="evaluate", settings={"train": train.id, "metrics": named}, needs=(dataset, train.id))
    assert target(storage, task) == storage.run(train.id)
    folder = task.write(storage)
    assert entry.run(folder) == 0
    for line in metrics_log.read(storage.run(train.id)):
        assert metrics_log.figure(line, "validation_misses") == pytest.approx(1 - line["validation_accuracy"])
        assert "train_misses" in line
        assert "validation_matthews" not in line
    trained, evaluated = read_record(storage.run(train.id)), read_record(folder)
    assert trained is not None
    assert evaluated is not None
    assert trained.figure("validation_misses") == pytest.approx(evaluated.figure("validation_misses"))
    evaluation = read_json(folder / "evaluation.json")
    with np.load(folder / "predictions.npz") as arrays, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = sklearn.matthews_corrcoef(arrays["test_label"], arrays["test_predicted"])
    assert evaluated.figure("test_matthews") == evaluation["test"]["matthews"] == pytest.approx(expected)
    assert {f"{split}_{name}" for split in ("validation", "test") for name in FILES} <= evaluated.result.keys()


@pytest.mark.usefixtures("one_core")
def test_a_figure_that_is_no_number_is_missing(tmp_path: Path) -> None:
    text = MISSES.replace("1.0 - float(sums.correct.sum() / sums.titles)", 'float("nan")')
    (tmp_path / "misses.py").write_text(text, encoding="utf-8")
    plugins.use(plugins.find(tmp_path / "misses.py"))
    storage = Storage(tmp_path / "storage")
    dataset = publish_dataset(storage)
    train = train_task("mlp", dataset, epochs=2)
    evaluate = Task(stage="evaluate", settings={"train": train.id}, needs=(dataset, train.id))
    try:
        for task in (train, evaluate):
            assert entry.run(task.write(storage)) == 0
            record = read_record(storage.run(task.id))
            assert record is not None
            assert record.figure("validation_misses") is None
            assert record.figure("validation_loss") is not None
    finally:
        plugins.use(())
    assert {line.get("validation_misses") for line in metrics_log.read(storage.run(train.id))} == {None}


def test_a_plugin_is_in_the_ids_of_evaluations_and_of_nothing_else(tmp_path: Path) -> None:
    data = data_files(tmp_path / "data")
    search = make_search(data, name="s", space={"dropout": {"uniform": [0.0, 0.5]}}, trials=2, refit_seeds=(1,))
    manifest = make(tmp_path, runs=(make_run(data, group="g", name="a"),), searches=(search,)).plan.manifest

    def ids() -> tuple[set[str], set[str]]:
        tasks = make_plan(manifest).tasks
        return {one.id for one in tasks if one.stage == "evaluate"}, {
            one.id for one in tasks if one.stage != "evaluate"
        }

    plain = ids()
    seen = []
    for text in (MATTHEWS, MATTHEWS + "# edited\n", MATTHEWS + "REVISION = 1\n", MATTHEWS + "REVISION = 1\n# edited\n"):
        (tmp_path / "matthews.py").write_text(text, encoding="utf-8")
        plugins.use(plugins.find(tmp_path / "matthews.py"))
        seen.append(ids())
    plugins.use(())
    assert ids() == plain
    assert {frozenset(others) for _, others in seen} == {frozenset(plain[1])}
    assert len({frozenset(evaluations) for evaluations, _ in (plain, *seen)}) == 4
    assert seen[2] == seen[3], "its revision stands for it"


@pytest.mark.usefixtures("foreign")
def test_a_search_may_be_judged_by_one_of_every_epoch(tmp_path: Path) -> None:
    assert metrics.searchable()[-1] == "validation_misses"
    legal = "validation_loss, validation_balanced_accuracy, validation_accuracy, validation_misses"
    with pytest.raises(InputError, match=f"searches.s.metric: must be one of {legal}, not 'validation_matthews'"):
        read(tmp_path, SEARCHED.format(metric="validation_matthews"))
    (search,) = read(tmp_path, SEARCHED.format(metric="validation_misses")).searches
    assert search.metric == "validation_misses"
    assert "test_matthews" in figure_names()


SEARCHED = """
plugins: [lab]
searches:
  s: {{architecture: mlp, metric: {metric}, space: {{dropout: {{uniform: [0, 0.5]}}}}}}
"""


@pytest.mark.usefixtures("foreign")
def test_a_report_shows_them_and_what_lacks_one_is_empty(tmp_path: Path) -> None:
    data = data_files(tmp_path / "data")
    runs = (
        make_run(data, group="g", name="a", reference={"test_matthews": 0.5}),
        make_run(data, group="g", name="b", dropout=0.25),
        make_run(data, group="g", name="old", dropout=0.5),
    )
    made = make(tmp_path, runs=runs, language="es")
    finish_all(made, {"a": 0.5, "b": 0.6, "old": 0.4})
    for row, (matthews, calibration) in zip(made.plan.rows, ((0.4251, 0.09), (0.6159, 0.02)), strict=False):
        path = made.storage.run(row.evaluate) / "record.json"
        record = read_json(path)
        record["result"] |= {"test_matthews": matthews, "test_calibration": calibration}
        write_json(path, record)
    folder = build(made.plan, made.states, mlflow=False)
    with (folder / "results.csv").open(newline="") as file:
        lines = {line["run"]: line for line in csv.DictReader(file)}
    assert [lines[run]["test_matthews"] for run in ("a", "b", "old")] == ["0.425100", "0.615900", ""]
    table = (folder / "results.md").read_text()
    assert "correlación de prueba" in table
    assert "calibration error (share) de prueba" in table
    assert "| 0.62 |" in table, "decimals are the metric's; bold is what was tested"
    assert "| 0.020 |" in table
    assert "−0.07" in table, "against the published figure"
    page = next((folder / "runs").glob(f"{made.plan.rows[0].evaluate}*")).read_text()
    assert "correlación de prueba" in page
    plugins.use(())
    text = compare(f"{folder}:g/a", f"{folder}:g/b").text()
    before, after = text.split("Metrics that differ", 1)
    assert "matthews" not in before, "a figure is no setting, its metric there or not"
    assert "test_matthews" in after


@pytest.mark.usefixtures("foreign")
def test_mlflow_gets_them(tmp_path: Path) -> None:
    data = data_files(tmp_path / "data")
    made = make(tmp_path, runs=(make_run(data, group="g", name="a"),))
    finish_all(made, {"a": 0.5})
    (row,) = made.plan.rows
    path = made.storage.run(row.evaluate) / "record.json"
    record = read_json(path)
    record["result"] |= {"test_matthews": 0.4}
    write_json(path, record)
    lines = metrics_log.read(made.storage.run(row.train or ""))
    metrics_log.rewrite(made.storage.run(row.train or ""), [{**line, "validation_misses": 0.1} for line in lines])
    (run,) = mlflow_runs(collect(made.plan, made.states), {})
    points = [point for point in run.points if point.metric in ("test_matthews", "validation_misses")]
    assert [(point.metric, point.value) for point in points] == [
        *(("validation_misses", 0.1) for _ in lines),
        ("test_matthews", 0.4),
    ]


@pytest.mark.parametrize(
    ("way", "raises"),
    [("of_counts=fail", "counts"), ("of_pass=fail", "sums"), ("of_titles=fail", "logits, labels")],
)
def test_a_metric_that_fails_is_missing_and_the_log_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str, raises: str
) -> None:
    text = (
        "from jobs.metrics import Metric\nKIND = 'metric'\n"
        f"def fail({raises}):\n    raise ZeroDivisionError('x')\n"
        f"METRIC = Metric(title='x', higher_is_better=True, {way})\n"
    )
    (tmp_path / "wrong.py").write_text(text, encoding="utf-8")
    plugins.use(plugins.find(tmp_path / "wrong.py"))
    try:
        logits, labels = np.eye(3, dtype=np.float32), np.arange(3)
        figures = of_logits(logits, labels).figures
    finally:
        plugins.use(())
    assert math.isnan(figures["wrong"]) and figures["accuracy"] == 1.0
    assert "metric wrong: ZeroDivisionError: x: its figure is missing" in capsys.readouterr().err
