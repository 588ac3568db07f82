"""Keys of the manifest's ``data`` that tell runs apart: shown as if they were hyperparameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.manifest.types import Manifest
from pipeline.plan import Row

Place = tuple[str, str, int]


def place(row: Row) -> Place:
    """Where a row's keys are found in ``data_settings``."""
    return (row.group, "", 0) if row.search else (row.group, row.run, row.seed)


def data_settings(manifest: Manifest) -> dict[Place, dict[str, Any]]:
    """Keys of ``data`` that differ between runs, and always the language, by (group, run, seed)."""
    flat = {(run.group, run.name, run.seed): run.data for run in manifest.runs}
    for search in manifest.searches:
        flat[search.name, "", 0] = search.data
    # Hundreds of runs share one section, or have equal ones: each distinct one is flattened once.
    distinct: dict[str, dict[str, Any]] = {}
    sections: dict[int, dict[str, Any]] = {}
    for data in {id(data): data for data in flat.values()}.values():
        text = data.model_dump_json()
        if text not in distinct:
            distinct[text] = dict(_flatten(data.model_dump()))
        sections[id(data)] = distinct[text]
    names = dict.fromkeys(name for section in distinct.values() for name in section)
    first = next(iter(distinct.values()), {})
    varying = [name for name in names if any(section.get(name) != first.get(name) for section in distinct.values())]
    if "language" not in varying and first.get("language") is not None:
        varying.append("language")
    return {place: {name: sections[id(data)].get(name) for name in varying} for place, data in flat.items()}


def _flatten(section: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
