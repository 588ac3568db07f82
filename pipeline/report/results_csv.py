"""results.csv and results.parquet: a row per run, every hyperparameter, metric, state and cost by its name."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import dropwhile, takewhile
from types import NoneType
from typing import Any

from jobs.gpu_use import FIGURES as OF_GPU
from jobs.gpu_use import figures as gpu_figures
from jobs.metrics import all_metrics
from jobs.settings import Value
from pipeline.report.collect import Collected

CSV, PARQUET = "results.csv", "results.parquet"
OF_ROW = ("group", "run", "architecture", "seed")
IDENTITY = (*OF_ROW, "id", "state", "cause")
PUBLISHED = (  # the order in which the published tables name them; others follow
    "hidden_layers",
    "dropout",
    "learning_rate",
    "weight_decay",
    "epochs",
    "batch_size",
    "freeze_embeddings",
    "filters_count",
    "filters_length",
    "lstm_layers",
    "lstm_features",
    "random_buffer_size",
)
# What the test titles are, so that runs on other titles are not taken for comparable; and the figure of unseen ones.
UNSEEN = "test_unseen_balanced_accuracy"
OF_TEST = ("test_fingerprint", "test_titles", "test_unseen_titles", UNSEEN)
# Of logits divided by the temperature that fits the validation titles best: comparable between architectures.
CALIBRATED = ("temperature", "test_calibrated_loss", "test_calibrated_brier", "test_calibrated_calibration_error")
OF_TRAINING = ("best_epoch", "parameters", "epochs_run", "train_seconds")
COST = ("gpu_hours", "git_commit")
SCALARS = frozenset({bool, int, float, str})
WHOLE = frozenset({"best_epoch", "parameters", "epochs_run"})
DECIMALS = {"train_seconds": 3, "gpu_hours": 4, **dict.fromkeys(OF_GPU, 2), "gpu_energy_kwh": 4}


def figure_names() -> tuple[str, ...]:
    """A run's figures: every metric's on the splits that it is judged by, then those of its training."""
    evaluated = (f"{split}_{metric}" for metric in all_metrics() for split in ("validation", "test"))
    return ("train_loss", *evaluated, *OF_TRAINING)


def figures_of(columns: Iterable[str]) -> tuple[str, ...]:
    """Which of a results.csv's columns are figures, those of metrics too that are not there now."""
    from_first = dropwhile(lambda name: name != "train_loss", columns)
    return tuple(takewhile(lambda name: name != "git_commit", from_first))


def hyperparameters(collected: Collected) -> tuple[str, ...]:
    """Every setting that some row has, the published ones first."""
    # Thousands of runs have the settings of a handful of architectures.
    kinds = dict.fromkeys(tuple(result.settings) for result in collected.results)
    seen = dict.fromkeys(name for names in kinds for name in names)
    seen.pop("seed", None)
    named = [name for name in PUBLISHED if name in seen]
    return (*named, *(name for name in seen if name not in PUBLISHED))


def columns(collected: Collected) -> dict[str, Sequence[Value]]:
    """Every column with a Python value per row, None where there is none."""
    results = collected.results
    table: dict[str, Sequence[Value]] = {}
    for name in IDENTITY:
        table[name] = [getattr(result.row if name in OF_ROW else result, name) for result in results]
    for name in hyperparameters(collected):
        table[name] = [result.settings.get(name) for result in results]
    for name in figure_names():
        values = [result.figures.get(name) for result in results]
        table[name] = [None if value is None else int(value) for value in values] if name in WHOLE else values
    table |= {name: [getattr(result, name) for result in results] for name in COST}
    table["test_fingerprint"] = [result.fingerprint for result in results]
    for name in OF_TEST[1:]:
        values = [result.figures.get(name) for result in results]
        table[name] = [value if value is None or name == UNSEEN else int(value) for value in values]
    table |= {name: [result.figures.get(name) for result in results] for name in CALIBRATED}
    of_gpu = [gpu_figures(result.gpu) for result in results]
    return table | {name: [each[name] for each in of_gpu] for name in OF_GPU}


def as_csv(table: Mapping[str, Sequence[Value]]) -> bytes:
    """results.csv: fixed decimals, lists as ``256,128``, true and false, nothing where there is no value."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table)
    figures = {*figures_of(table), *CALIBRATED, *OF_GPU}
    writer.writerows(zip(*(_texts(name, values, figures) for name, values in table.items()), strict=True))
    return out.getvalue().encode()


def _texts(name: str, values: Sequence[Value], figures: Container[str]) -> list[str]:
    if name in figures:
        decimals = DECIMALS.get(name, 6)
        return [f"{value:.{decimals}f}" if isinstance(value, float) else _text(value) for value in values]
    # Most settings are the same in all of thousands of runs.
    if values and values.count(values[0]) == len(values):
        return [_text(values[0])] * len(values)
    return [_text(value) for value in values]


def _text(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ",".join(str(item) for item in value)
    return str(value)


def as_parquet(table: Mapping[str, Sequence[Value]]) -> bytes:
    """results.parquet: the same columns with their types, lists of numbers as lists."""
    # Loaded here: most commands of the pipeline never write one. pyarrow would load all of pandas to look at a list.
    import polars

    numbers = frozenset((*figures_of(table), *CALIBRATED, *OF_GPU)) - WHOLE - {"gpu_hours"}
    series = (polars.Series(name, _one_type(values, name in numbers)) for name, values in table.items())
    frame = polars.DataFrame(series)
    sink = io.BytesIO()
    frame.write_parquet(sink, compression="zstd")
    return sink.getvalue()


def _one_type(values: Sequence[Value], number: bool) -> Sequence[Value]:
    kinds: set[Any] = set(map(type, values)) - {NoneType}
    if not kinds <= SCALARS:
        kinds = {kind for value in values for kind in _kinds(value)}
    if number or kinds == {int, float}:
        return [float(value) if isinstance(value, int | float) else None for value in values]
    # A setting whose types differ between architectures has no common column type but its text.
    return [None if value is None else json.dumps(value) for value in values] if len(kinds) > 1 else values


def _kinds(value: Any) -> Iterable[Any]:
    """A value's type, and of a list those of what is in it; a mapping counts as several."""
    if value is None:
        return ()
    if isinstance(value, list | tuple):
        return [(list, type(item)) for item in value]
    return (dict, object) if isinstance(value, dict) else (type(value),)
