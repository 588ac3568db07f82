"""From storage to a row per run: figures, settings, and what is unfinished, broken or being written."""

from __future__ import annotations

import io
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from report_fixture import (
    Made,
    build_tables,
    epoch_line,
    fail,
    finish_evaluate,
    finish_train,
    five_results,
    rows_of,
)
from sklearn.metrics import balanced_accuracy_score, recall_score

from jobs import metrics_log
from pipeline.report import build, records
from pipeline.report.results_csv import as_parquet
from sharedfs.errors import DamagedFileError


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return five_results(tmp_path)


def test_a_row_per_run_with_settings_figures_cost_and_commit(made: Made) -> None:
    rows = rows_of(build_tables(made))
    assert [(row["run"], row["seed"], row["state"]) for row in rows] == [
        ("MLP", "0", "done"),
        ("CNN", "0", "done"),
        ("wide", "0", "done"),
        ("wide", "1", "done"),
        ("wide", "2", "done"),
    ]
    row = rows[2]
    assert row["hidden_layers"] == "512"
    assert rows[1]["filters_length"] == "2,3,4"
    assert row["freeze_embeddings"] == "true"
    assert row["language"] == "spanish"
    assert row["epochs_run"] == "5"
    assert row["git_commit"] == "0123abc"
    assert float(row["gpu_hours"]) == pytest.approx(20 / 3600, abs=1e-4)
    predictions = records.read_predictions(str(made.storage.run(made.plan.rows[2].evaluate)), "test", 12)
    assert predictions is not None
    score = balanced_accuracy_score(predictions.label, predictions.predicted)
    assert float(row["test_balanced_accuracy"]) == pytest.approx(score, abs=1e-6)
    assert row["id"] == made.plan.rows[2].train


def test_columns_are_those_of_the_design(made: Made) -> None:
    names = list(rows_of(build_tables(made))[0])
    assert names[:7] == ["group", "run", "architecture", "seed", "id", "state", "cause"]
    wanted = ["train_loss", "validation_loss", "test_loss", "validation_balanced_accuracy", "test_balanced_accuracy"]
    wanted += ["validation_accuracy", "test_accuracy"]
    start = names.index("train_loss")
    assert names[start : start + 7] == wanted
    end = names.index("git_commit")
    assert names[end - 3 : end + 1] == ["epochs_run", "train_seconds", "gpu_hours", "git_commit"]
    of_test = ["test_fingerprint", "test_titles", "test_unseen_titles", "test_unseen_balanced_accuracy"]
    calibrated = [f"test_calibrated_{name}" for name in ("loss", "brier", "calibration_error")]
    of_gpu = ["gpu_use", "gpu_use_q1", "gpu_use_median", "gpu_use_q3", "gpu_peak_gb", "gpu_energy_kwh"]
    assert names[end + 1 :] == [*of_test, "temperature", *calibrated, *of_gpu]
    hyperparameters = names[7:start]
    published = "hidden_layers dropout learning_rate weight_decay epochs batch_size freeze_embeddings"
    published += " filters_count filters_length random_buffer_size"
    network = "embedding_dropout embedding_scale word_dropout subwords"
    steps = "optimiser schedule gradient_clip"
    training = "shuffle logit_adjustment label_smoothing class_weights unreliable_weight bucket_by_length keep"
    training += " select_by patience patience_chance precision compile"
    assert hyperparameters == f"{published} {network} {steps} {training} deterministic tf32 language".split()


def test_parquet_holds_the_same_with_types(made: Made) -> None:
    import pyarrow.parquet

    folder = build_tables(made)
    table = pyarrow.parquet.read_table(folder / "results.parquet")
    assert table.column_names == list(rows_of(folder)[0])
    assert table.column("hidden_layers").to_pylist()[2] == [512]
    assert table.column("epochs_run").to_pylist() == [5] * 5


@pytest.mark.parametrize(
    ("values", "read"),
    [
        ([1, None, 2.5], [1.0, None, 2.5]),
        ([[1], [], None], [[1], [], None]),
        ([(1,), (), None], [[1], [], None]),
        ([[1], [2.5]], ["[1]", "[2.5]"]),
        ([(1,), (2.5,)], ["[1]", "[2.5]"]),
        ([1, "a"], ["1", '"a"']),
        ([{"a": 1}, None], ['{"a": 1}', None]),
        ([True, None], [True, None]),
        ([None, None], [None, None]),
    ],
)
def test_parquet_takes_a_setting_of_any_kind(values: list[object], read: list[object]) -> None:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(io.BytesIO(as_parquet({"setting": values})))
    assert table.column("setting").to_pylist() == read


def test_recall_read_back_is_scikit_learns(made: Made) -> None:
    row = made.plan.rows[1]
    folder = str(made.storage.run(row.evaluate))
    found = records.read_evaluation(folder)
    predictions = records.read_predictions(folder, "test", 12)
    assert found is not None
    assert predictions is not None
    wanted = recall_score(predictions.label, predictions.predicted, average=None)
    assert found[1]["test"].recall == pytest.approx(wanted)


def test_categories_parsed_once_are_those_of_every_file(made: Made, tmp_path: Path) -> None:
    folders = [str(made.storage.run(row.evaluate)) for row in made.plan.rows]
    known = records.ClassCache()
    for folder in [*folders, *folders]:
        alone, together = records.read_evaluation(folder), records.read_evaluation(folder, known)
        assert alone is not None
        assert together is not None
        assert alone[0] == together[0]
        assert all(np.array_equal(alone[1][name].recall, together[1][name].recall) for name in alone[1])
    assert known.head
    odd = {"test": {"recall": [1.0], "support": [1]}, "classes": ['a],"b']}
    (tmp_path / "evaluation.json").write_text(json.dumps(odd))
    for _ in range(2):
        found = records.read_evaluation(str(tmp_path), known)
        assert found is not None
        assert found[0] == ('a],"b',)


def test_failures_and_unfinished_are_rows_with_their_reason(made: Made) -> None:
    wide = [row for row in made.plan.rows if row.run == "wide"]
    fail(made, wide[1].train or "", "out of memory", "killed at 16 GB")
    shutil.rmtree(made.storage.run(wide[1].evaluate))
    made.state(wide[1].evaluate, "waiting")
    (made.storage.run(made.plan.rows[0].train or "") / "record.json").unlink()
    made.state(made.plan.rows[0].train or "", "running")
    shutil.rmtree(made.storage.run(made.plan.rows[0].evaluate))
    made.state(made.plan.rows[0].evaluate, "waiting")
    folder = build_tables(made)
    rows = rows_of(folder)
    assert (rows[3]["state"], rows[3]["cause"], rows[3]["test_loss"]) == ("failed", "out of memory", "")
    assert (rows[0]["state"], rows[0]["test_balanced_accuracy"]) == ("running", "")
    text = (folder / "results.md").read_text()
    assert "2/3, 1 out of memory" in text
    assert "2 of 5 runs have no final figures yet (1 out of memory, 1 running)" in text


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"state": "done"}', b'{"state": "odd"}', b"\xff\xfe"])
def test_a_broken_record_is_a_row_that_says_so(made: Made, content: bytes) -> None:
    (made.storage.run(made.plan.rows[1].train or "") / "record.json").write_bytes(content)
    rows = rows_of(build_tables(made))
    assert (rows[1]["state"], rows[1]["cause"]) == ("failed", "broken record")
    assert len(rows) == 5


@pytest.mark.parametrize("name", ["evaluation.json", "predictions.npz"])
@pytest.mark.parametrize("content", [b"", b'{"classes": ["A"]', b"PK\x03\x04 torn"])
def test_a_broken_evaluation_costs_its_intervals_and_nothing_else(made: Made, name: str, content: bytes) -> None:
    (made.storage.run(made.plan.rows[1].evaluate) / name).write_bytes(content)
    rows = rows_of(build(made.plan, made.states, mlflow=False))
    assert all(row["state"] == "done" and row["test_balanced_accuracy"] for row in rows)


FOREIGN = {
    "fewer predictions": {"test_predicted": np.zeros(5, np.uint16)},
    "fewer marks": {"test_reliable": np.zeros(5, np.uint8)},
    "a category too many": {"test_predicted": np.full(400, 12, np.uint16)},
    "a label too many": {"test_label": np.full(400, 12, np.uint16)},
    "a negative label": {"test_label": np.full(400, -1)},
    "fractions": {"test_label": np.full(400, 0.5)},
    "text": {"test_label": np.full(400, "a")},
}


@pytest.mark.parametrize("case", FOREIGN)
def test_predictions_of_other_titles_or_categories_are_none(case: str, made: Made) -> None:
    folder = made.storage.run(made.plan.rows[1].evaluate)
    with np.load(folder / "predictions.npz") as sound:
        np.savez(folder / "predictions.npz", **{**dict(sound), **FOREIGN[case]})
    assert records.read_predictions(str(folder), "test", 12) is None
    rows = rows_of(build(made.plan, made.states, mlflow=False))
    assert all(row["state"] == "done" and row["test_balanced_accuracy"] for row in rows)


@pytest.mark.parametrize(("name", "values"), [
    ("support", [-1]), ("support", [2**63]), ("support", [[1]]), ("support", [None]),
    ("recall", [1.5]), ("recall", [-0.5]), ("recall", [[1]]), ("recall", ["x"]),
    ("classes", [1]), ("classes", [["A"]]),
])  # fmt: skip
def test_an_evaluation_of_anything_else_is_refused_and_costs_its_intervals(
    name: str, values: list[object], made: Made
) -> None:
    folder = made.storage.run(made.plan.rows[1].evaluate)
    document = json.loads((folder / "evaluation.json").read_text())
    (document if name == "classes" else document["test"])[name] = values * 12
    (folder / "evaluation.json").write_text(json.dumps(document))
    with pytest.raises(DamagedFileError, match=r"evaluation\.json: not an evaluation: "):
        records.read_evaluation(str(folder))
    rows = rows_of(build(made.plan, made.states, mlflow=False))
    assert all(row["state"] == "done" and row["test_balanced_accuracy"] for row in rows)


def test_done_since_the_states_were_taken_counts_as_done(made: Made) -> None:
    for state in list(made.states):
        made.state(state, "waiting")
    assert {row["state"] for row in rows_of(build_tables(made))} == {"done"}


def test_a_done_record_without_its_files_is_not_done(made: Made) -> None:
    row = made.plan.rows[0]
    (made.storage.run(row.train or "") / "model.pt").unlink()
    made.state(row.train or "", "waiting")
    made.state(row.evaluate, "waiting")
    (made.storage.run(row.evaluate) / "evaluation.json").unlink()
    assert rows_of(build_tables(made))[0]["state"] == "waiting"


def test_a_torn_journal_line_is_an_epoch_not_yet_written(tmp_path: Path) -> None:
    lines = [epoch_line(epoch, skill=0.5, random=np.random.default_rng(0)) for epoch in (1, 2, 3)]
    text = metrics_log.encode(lines)
    ends = [len(metrics_log.encode(lines[:count])) for count in range(4)]
    for cut in range(0, len(text) + 1, 7):
        (tmp_path / "metrics.jsonl").write_bytes(text[:cut])
        whole = sum(cut >= end - 1 for end in ends[1:])  # a line needs all but its line break
        assert metrics_log.read(tmp_path) == lines[:whole]
    (tmp_path / "metrics.jsonl").write_bytes(text + metrics_log.encode([{**lines[1], "train_loss": 9.0}]))
    assert metrics_log.read(tmp_path) == [lines[0], {**lines[1], "train_loss": 9.0}, lines[2]]


def test_two_hundred_reports_while_runs_are_being_written(made: Made) -> None:
    rows = [row for row in made.plan.rows if row.train]
    over = threading.Event()
    # The journal's fsyncs are real: the writer works as jobs do, only without pause.

    def write() -> None:
        number = 0
        while not over.is_set():
            row = rows[number % len(rows)]
            shutil.rmtree(made.storage.run(row.evaluate), ignore_errors=True)
            (made.storage.run(row.train or "") / "record.json").unlink(missing_ok=True)
            finish_train(made, row.train or "", skill=0.5)
            finish_evaluate(made, row.evaluate, skill=0.5)
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    try:
        for _ in range(200):
            for row in rows_of(build_tables(made)):
                whole = bool(row["test_balanced_accuracy"]) and bool(row["train_loss"])
                assert whole == (row["state"] == "done"), row
                seen.add(row["state"])
    finally:
        over.set()
        writer.join()
    assert "done" in seen
