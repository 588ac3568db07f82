"""The data sets that runs ask for: the manifest's `data` with what a run changes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from jobs.data.settings import SPLITS, Data
from jobs.errors import KeyPath
from pipeline.manifest.validation import Findings, explain, read


class DataSets:
    """Each distinct data set read once, however many runs share it."""

    def __init__(self, base: Mapping[str, Any], found: Findings) -> None:
        self._base = base
        self._found = found
        self._read: dict[str, Data | None] = {}

    def get(self, changes: Mapping[str, Any], path: KeyPath) -> Data | None:
        """The data set of a run that changes these keys at ``path``; None with the problems noted."""
        key = json.dumps(changes, sort_keys=True)
        if key not in self._read:
            self._read[key] = self._make(changes, path)
        return self._read[key]

    def _make(self, changes: Mapping[str, Any], path: KeyPath) -> Data | None:
        try:
            return read(Data, merged(_without_other_sources(self._base, changes), changes))
        except ValidationError as error:
            for place, message, key in explain(Data, error):
                mine = bool(place) and place[0] in changes and _reaches(changes, place)
                above = path if mine or (not place and changes) else ("data",)
                self._found.add((*above, *place), message, key=key)
            return None


def _reaches(changes: Mapping[str, Any], place: KeyPath) -> bool:
    """Whether the value at a place is the run's own, rather than the manifest's beside it."""
    value: Any = changes
    for part in place:
        if not isinstance(value, Mapping):
            return True
        if part not in value:
            return False
        value = value[part]
    return True


def _without_other_sources(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Mapping[str, Any]:
    """A run with its own `source` leaves the manifest's three files aside, and the other way round."""
    if changes.get("source") is not None:
        return {key: value for key, value in base.items() if key not in SPLITS}
    if any(changes.get(part) is not None for part in SPLITS):
        return {key: value for key, value in base.items() if key not in ("source", "split")}
    return base


def merged(base: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two sections merged key by key, ``above`` winning."""
    whole = dict(base)
    for key, value in above.items():
        old = whole.get(key)
        whole[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return whole
