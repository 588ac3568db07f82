"""Spaces of one architecture, or of several: then which one is drawn too, and each has settings of its own.

    learning_rate: {loguniform: [1e-5, 1e-1]}         of all of them, one dimension
    mlp: {hidden_layers: {choice: [[256], [512]]}}    of this one alone, drawn or fixed
    cnn: {filters_count: {quniform: [50, 150, 50]}, epochs: 5}

It is a conditional choice labelled ``architecture``, so that every algorithm takes it. A point of it says its
architecture beside its settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from jobs.models import all_settings
from jobs.plugins import MODELS
from jobs.search.space import Branch, Space, read_option, read_space
from sharedfs.typed_json import Json

ARCHITECTURE = "architecture"
DEFAULT = "default"


def joined(names: Sequence[str]) -> str:
    """What a search calls its architectures: ``cnn, mlp``."""
    return ", ".join(names)


def default_space(architecture: str) -> Mapping[str, Json] | None:
    """The space that an architecture declares as SPACE in its own module; None where it has none."""
    space: Mapping[str, Json] | None = getattr(MODELS.load(architecture), "SPACE", None)
    return space


def shared(space: Mapping[str, Json], names: Sequence[str]) -> Mapping[str, Json]:
    """What a space has for all architectures alike."""
    return {name: spec for name, spec in space.items() if len(names) == 1 or name not in names}


def own(space: Mapping[str, Json], name: str) -> Mapping[str, Json]:
    """What a space of several architectures has for one alone."""
    inside = space.get(name)
    return inside if isinstance(inside, Mapping) else {}


def space_of(space: Mapping[str, Json], names: Sequence[str]) -> Space:
    """A checked space of these architectures, ready to be drawn from."""
    common = read_space(shared(space, names), all_settings(names[0]))
    if len(names) == 1:
        return common
    options = []
    for name in names:
        settings = {setting.name: setting for setting in all_settings(name)}
        option = read_option(own(space, name), settings, f"{name}.")
        options.append(replace(option, fixed={ARCHITECTURE: name, **option.fixed}))
    return Space((Branch(label=ARCHITECTURE, options=tuple(options)), *common.dimensions))
