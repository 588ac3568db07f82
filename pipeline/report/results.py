"""results.csv and results.parquet: a row per run, every hyperparameter, metric, state and cost by its name."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.manifest.types import Manifest
from pipeline.report.collect import Collected, Result

PLACE = ("group", "run", "architecture", "seed", "id", "state", "cause")
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
METRICS = (
    "train_loss",
    "validation_loss",
    "test_loss",
    "validation_balanced_accuracy",
    "test_balanced_accuracy",
    "validation_accuracy",
    "test_accuracy",
    "validation_macro_f1",
    "test_macro_f1",
    "validation_top5",
    "test_top5",
    "best_epoch",
    "parameters",
    "epochs_run",
    "train_seconds",
)
COST = ("gpu_hours", "git_commit")
WHOLE = frozenset({"best_epoch", "parameters", "epochs_run"})
DECIMALS = {"train_seconds": 3, "gpu_hours": 4}


def hyperparameters(collected: Collected) -> tuple[str, ...]:
    """Every setting that some row has, the published ones first."""
    seen = dict.fromkeys(name for result in collected.results for name in result.settings if name != "seed")
    data = dict.fromkeys(name for values in data_settings(collected.manifest).values() for name in values)
    named = [name for name in PUBLISHED if name in seen]
    return (*named, *(name for name in (*seen, *data) if name not in PUBLISHED))


def data_settings(manifest: Manifest) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Keys of ``data`` that differ between runs, and always the language, by (group, run, seed)."""
    flat = {(run.group, run.name, run.seed): run.data for run in manifest.runs}
    for search in manifest.searches:
        flat[search.name, "", 0] = search.data
    # Hundreds of runs share one section: each distinct one is flattened once.
    sections = {id(data): dict(_flatten(data.model_dump())) for data in flat.values()}
    names = dict.fromkeys(name for section in sections.values() for name in section)
    first = next(iter(sections.values()), {})
    varying = [name for name in names if any(section.get(name) != first.get(name) for section in sections.values())]
    if "language" not in varying and first.get("language") is not None:
        varying.append("language")
    return {place: {name: sections[id(data)].get(name) for name in varying} for place, data in flat.items()}


def _flatten(section: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def settings_of(result: Result, data: Mapping[tuple[str, str, int], Mapping[str, Any]]) -> dict[str, Any]:
    """All of a result's settings: its own and the keys of ``data`` that tell it from others."""
    row = result.row
    place = (row.group, "", 0) if row.search else (row.group, row.run, row.seed)
    return {**data.get(place, {}), **result.settings}


def columns(collected: Collected) -> tuple[str, ...]:
    return (*PLACE, *hyperparameters(collected), *METRICS, *COST)


def table(collected: Collected) -> list[dict[str, Any]]:
    """A mapping per row with Python values, None where there is none."""
    names = hyperparameters(collected)
    data = data_settings(collected.manifest)
    return [_row(result, names, settings_of(result, data)) for result in collected.results]


def _row(result: Result, names: Iterable[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    row = result.row
    values: dict[str, Any] = {
        "group": row.group,
        "run": row.run,
        "architecture": row.architecture,
        "seed": row.seed,
        "id": result.id,
        "state": result.state,
        "cause": result.cause,
    }
    for name in names:
        values[name] = settings.get(name)
    for name in METRICS:
        value = result.figures.get(name)
        values[name] = int(value) if name in WHOLE and value is not None else value
    values["gpu_hours"] = result.gpu_hours
    values["git_commit"] = result.git_commit
    return values


def as_csv(collected: Collected) -> bytes:
    """results.csv: fixed decimals, lists as ``256,128``, true and false, nothing where there is no value."""
    names = columns(collected)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    kinds = [_kind(name) for name in names]
    for row in table(collected):
        writer.writerow([_text(value, kind) for value, kind in zip(row.values(), kinds, strict=True)])
    return out.getvalue().encode()


def _kind(name: str) -> int | None:
    if name in METRICS or name in COST:
        return DECIMALS.get(name, 6)
    return None


def _text(value: Any, decimals: int | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.{decimals}f}" if decimals is not None else repr(value)
    if isinstance(value, list | tuple):
        return ",".join(str(item) for item in value)
    return str(value)


def as_parquet(collected: Collected) -> bytes:
    """results.parquet: the same columns with their types, lists of numbers as lists."""
    # Loaded here: most commands of the pipeline never write one.
    import pyarrow
    import pyarrow.parquet

    rows = table(collected)
    arrays = {name: pyarrow.array(_column(name, rows)) for name in columns(collected)}
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(arrays), sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def _column(name: str, rows: Iterable[Mapping[str, Any]]) -> list[Any]:
    values = [row[name] for row in rows]
    if name in METRICS and name not in WHOLE:
        return [None if value is None else float(value) for value in values]
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and len(kinds) == 2:
        return [None if value is None else float(value) for value in values]
    # A setting whose types differ between architectures has no common column type but its text.
    return values if len(kinds) <= 1 else [None if value is None else json.dumps(value) for value in values]
