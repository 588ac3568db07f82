"""Calibration: figures equal to those of their formulas, the temperature, what a report shows of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_fixture import Made, build_tables, data_files, finish_all, make, make_run, rows_of
from sklearn.metrics import brier_score_loss, log_loss

from jobs.calibration import Calibration
from jobs.metrics import probabilities
from jobs.metrics.brier import brier
from jobs.metrics.calibration_error import BINS, answers_of, calibration_error, reliability
from pipeline.report import build
from sharedfs.documents import read_json, write_json


def _case(titles: int, classes: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are their titles' log-probabilities, and labels drawn from these: calibrated by construction."""
    random = np.random.default_rng(seed)
    logits = (2 * random.standard_normal((titles, classes))).astype(np.float32)
    labels = np.array([random.choice(classes, p=chances) for chances in probabilities(logits)])
    return logits, labels


def test_the_brier_score_is_scikit_learns() -> None:
    logits, labels = _case(200, 7)
    chances = probabilities(logits)
    ours = brier(logits, labels)
    expected = brier_score_loss(labels, chances, labels=np.arange(7), scale_by_half=False)
    assert ours.mean() == pytest.approx(expected, abs=1e-9)
    assert brier(np.array([[1e4, -1e4]], np.float32), np.array([1])) == pytest.approx(2.0), "sure, and wrong"


def test_the_calibration_error_is_that_of_the_formula() -> None:
    logits, labels = _case(300, 5, seed=1)
    chances = probabilities(logits)
    sure, right = chances.max(1), chances.argmax(1) == labels
    expected = 0.0
    for number in range(BINS):
        inside = (sure > number / BINS) & (sure <= (number + 1) / BINS)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    answers = answers_of(logits, labels)
    assert calibration_error(answers) == pytest.approx(expected, abs=1e-7)
    diagram = reliability(answers)
    assert diagram.titles.sum() == 300 and np.isnan(diagram.accuracy[diagram.titles == 0]).all()
    assert calibration_error(np.array([[1.0, 1.0], [1.0, 0.0]])) == 0.5, "a confidence of 1 is in the last bin"


@pytest.mark.parametrize("sharpened", [0.25, 1.0, 4.0])
def test_the_temperature_undoes_what_logits_were_multiplied_by(sharpened: float) -> None:
    logits, labels = _case(4000, 6, seed=2)
    calibration = Calibration()
    scaled = logits * np.float32(sharpened)
    for split, rows in (("validation", slice(0, 2000)), ("test", slice(2000, 4000))):
        count = 2000
        parts = [(np.arange(count)[::-1], scaled[rows][::-1], labels[rows][::-1])]
        assert len(list(calibration.seen(split, parts, titles=count))) == 1
    result = calibration.result()
    assert result["temperature"] == pytest.approx(sharpened, rel=0.08)
    chances = probabilities(scaled[2000:] / np.float32(result["temperature"]))
    assert result["test_calibrated_loss"] == pytest.approx(log_loss(labels[2000:], chances), abs=1e-5)
    as_trained = calibration_error(answers_of(scaled[2000:], labels[2000:]))
    assert result["test_calibrated_calibration_error"] < 0.04
    assert (as_trained > 0.1) == (sharpened != 1.0), "what the temperature mends was there"


def test_titles_beyond_the_most_are_sampled_over_the_whole_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.calibration.MOST_TITLES", 500)
    logits, labels = _case(2000, 4, seed=3)
    logits[1000:] *= 3  # one half alone would give another temperature
    calibration = Calibration()
    list(calibration.seen("validation", [(np.arange(2000), logits, labels)], titles=2000))
    list(calibration.seen("test", [(np.arange(2000), logits, labels)], titles=2000))
    assert 1.1 < calibration.result()["temperature"] < 2.9


def test_no_validation_title_means_no_temperature() -> None:
    logits, labels = _case(20, 4)
    calibration = Calibration()
    list(calibration.seen("validation", [], titles=0))
    list(calibration.seen("test", [(np.arange(20), logits, labels)], titles=20))
    assert calibration.result()["temperature"] == 1.0


# What a report shows of it.


def _calibrated(tmp_path: Path, **second: Any) -> Made:
    data = data_files(tmp_path / "data")
    runs = (
        make_run(data, group="g", name="a", dropout=0.1),
        make_run(data, group="g", name="b", **second),
    )
    made = make(tmp_path, runs=runs)
    finish_all(made, {"a": 0.4, "b": 0.3})
    for number, row in enumerate(made.plan.rows):
        folder = made.storage.run(row.evaluate)
        diagram = {"titles": [0] * 14 + [400], "confidence": [None] * 14 + [0.95], "accuracy": [None] * 14 + [0.7]}
        document = read_json(folder / "evaluation.json")
        document["calibration"] = {
            "temperature": 1.5 + number,
            "at_temperature": {"loss": 1.25},
            "test": {"as_trained": diagram, "at_temperature": diagram},
        }
        write_json(folder / "evaluation.json", document)
        record = read_json(folder / "record.json")
        record["result"] |= {"temperature": 1.5 + number, "test_calibrated_loss": 1.25 + number}
        record["files"] = {name: (made.storage.root / name).stat().st_size for name in record["files"]}
        write_json(folder / "record.json", record)
    return made


def test_the_run_page_draws_the_diagram(tmp_path: Path) -> None:
    made = _calibrated(tmp_path, dropout=0.3)
    report = build(made.plan, made.states, mlflow=False)
    page = (report / "runs" / f"{made.plan.rows[0].evaluate}.html").read_text()
    assert page.count("<circle") == 2 and "expected calibration error 0.2500" in page and "temperature 1.500" in page
    line = rows_of(report)[0]
    assert (line["temperature"], line["test_calibrated_loss"]) == ("1.500000", "1.250000")


@pytest.mark.parametrize(("second", "shown"), [({"dropout": 0.3}, True), ({"architecture": "linear"}, False)])
def test_losses_stand_side_by_side_where_they_are_of_one_kind(
    second: dict[str, Any], shown: bool, tmp_path: Path
) -> None:
    made = _calibrated(tmp_path, **second)
    text = (build_tables(made) / "results.md").read_text()
    assert "| test loss, calibrated |" in text
    assert bool(re.search(r"\| (training|test) loss \|", text)) == shown
    assert ("not of one kind" in text) != shown
