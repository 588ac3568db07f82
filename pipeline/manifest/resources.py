"""What tasks are given, stage by stage: own before group, manifest, cluster profile and the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipeline.manifest.model import Resources
from pipeline.manifest.schema import AUTO, Stages

DEFAULTS: Mapping[str, Resources] = {
    "preprocess": Resources(cpus=4, mem_gb=16.0, time_min=60),
    "train": Resources(cpus=2, mem_gb=8.0, time_min=240),
    "evaluate": Resources(cpus=2, mem_gb=8.0, time_min=30),
    "close": Resources(cpus=1, mem_gb=4.0, time_min=60),
}


def without_gpus(stages: Stages) -> Stages:
    """A section as an estimator takes it, which computes on the CPU: GPUs there are for networks."""
    no_gpus = {"gpus": None}
    return stages.model_copy(
        update={
            "train": stages.train.model_copy(update=no_gpus),
            "evaluate": stages.evaluate.model_copy(update=no_gpus),
        }
    )


def resolve_resources(below: Mapping[str, Resources], *sections: Stages) -> Mapping[str, Resources]:
    """Resources by stage: those ``below``, but for what these sections give; the last that names a value wins."""
    for section in sections:
        given = section.model_dump(exclude_none=True)
        below = {
            stage: _with(resources, given[stage]) if given[stage] else resources for stage, resources in below.items()
        }
    return below


def _with(below: Resources, given: Mapping[str, Any]) -> Resources:
    """Resources with what is given on top; under an `auto` the value stays, as the default where nothing tells."""
    automatic = {name for name, value in given.items() if value == AUTO}
    stay = (automatic | set(below.auto)) - (given.keys() - automatic)
    values = {name: value for name, value in given.items() if name not in automatic}
    return replace(below, **values, auto=tuple(sorted(stay)))
