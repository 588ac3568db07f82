"""The architectures as a manifest sees them: what each can be told, and what a layer of settings says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jobs import models
from jobs.data.settings import Data
from jobs.errors import KeyPath, did_you_mean
from jobs.settings import Setting, by_name
from pipeline.manifest.schema import EarlyStopping
from pipeline.manifest.validation import Findings, validate

DATA_KEYS = tuple(Data.model_fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One architecture: its settings by name, their values where a run says nothing, and its own check.

    ``kind`` is network or estimator.
    """

    name: str
    kind: str
    settings: Mapping[str, Setting]
    base: Mapping[str, Any]
    check: Callable[[Mapping[str, Any], int], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What one place of a manifest sets: settings in their types, and keys of `data` as written."""

    settings: Mapping[str, Any]
    data: Mapping[str, Any]


class Catalogue:
    """Every architecture, each described once, with the manifest's defaults in its base."""

    def __init__(self, defaults: Mapping[str, Any], found: Findings) -> None:
        self._found = found
        self._kinds: dict[str, Architecture] = {}
        self._owners: dict[str, list[str]] = {}
        for name in models.names():
            for setting in models.settings(name):
                self._owners.setdefault(setting.name, []).append(name)
        self._defaults = self._read_defaults(defaults)

    def _read_defaults(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        known = {}
        for name, value in defaults.items():
            path = ("defaults", name)
            if name == "early_stopping":
                stopping = validate(EarlyStopping, value if isinstance(value, dict) else {}, self._found, path)
                known["patience"] = None if stopping is None else stopping.patience
            elif name in self._owners:
                known[name] = value
            elif name in DATA_KEYS:
                self._found.add(path, "is no setting of an architecture: it belongs in data", key=True)
            else:
                hint = did_you_mean(name, [*self._owners, "early_stopping"])
                self._found.add(path, f"unknown setting{hint}", key=True)
        if "early_stopping" in defaults and "patience" in defaults:
            self._found.add(("defaults", "patience"), "early_stopping says so too: give one", key=True)
        for name, value in known.items():  # each is read even where no run uses it
            setting = by_name(models.settings(self._owners[name][0]))[name] if name in self._owners else None
            if setting is not None:
                self.value_of(setting, value, ("defaults", name))
        return known

    def get(self, name: str | None, path: KeyPath) -> Architecture | None:
        """The architecture that ``path`` names, or None with the problem noted."""
        if name is None:
            self._found.add(path, "has no architecture: name one here or in the group")
            return None
        if name not in self._kinds:
            if name not in models.names():
                legal = did_you_mean(name, models.names())
                self._found.add((*path, "architecture"), f"unknown architecture {name!r}{legal}")
                return None
            self._kinds[name] = self._describe(name)
        return self._kinds[name]

    def _describe(self, name: str) -> Architecture:
        settings = by_name(models.settings(name))
        base = {}
        for setting in settings.values():
            value = self._defaults.get(setting.name, setting.default)
            base[setting.name] = self.value_of(setting, value, ("defaults", setting.name))
        described = models.describe(name)
        return Architecture(name=name, kind=described.KIND, settings=settings, base=base, check=described.check)

    def layer(
        self,
        architecture: Architecture,
        keys: Mapping[str, Any],
        path: KeyPath,
        *,
        stopping: EarlyStopping | None = None,
        also: tuple[str, ...] = (),
    ) -> Layer:
        """One place's keys, each a setting of the architecture or a key of `data`; ``also`` are other legal ones."""
        settings: dict[str, Any] = {}
        data: dict[str, Any] = {}
        for name, value in keys.items():
            if name in architecture.settings:
                settings[name] = self.value_of(architecture.settings[name], value, (*path, name))
            elif name in DATA_KEYS:
                data[name] = value
            else:
                self._found.add((*path, name), self.unknown(architecture, name, also), key=True)
        if stopping is not None:
            self._stop_early(architecture, settings, stopping, path)
        return Layer(settings=settings, data=data)

    def _stop_early(
        self, architecture: Architecture, settings: dict[str, Any], stopping: EarlyStopping, path: KeyPath
    ) -> None:
        if "patience" not in architecture.settings:
            message = f"{architecture.name} is not trained by epochs: it can't stop early"
            self._found.add((*path, "early_stopping"), message, key=True)
        elif "patience" in settings:
            self._found.add((*path, "patience"), "early_stopping says so too: give one", key=True)
        else:
            settings["patience"] = stopping.patience

    def unknown(self, architecture: Architecture, name: str, also: tuple[str, ...]) -> str:
        """What to say of a key that is no setting here."""
        owners = self._owners.get(name)
        if owners:
            return (
                f"{architecture.name} has no such setting; {', '.join(owners)} {'has' if len(owners) == 1 else 'have'}"
            )
        return f"unknown setting{did_you_mean(name, [*architecture.settings, *DATA_KEYS, *also])}"

    def value_of(self, setting: Setting, value: Any, path: KeyPath) -> Any:
        """A value in its setting's type; the setting's default with the problem noted."""
        if value is None and setting.default is None:
            return None
        try:
            return setting.read(value)
        except (ValueError, OverflowError) as error:
            self._found.add(path, str(error))
            return setting.default
