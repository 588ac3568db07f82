"""What tasks are given, stage by stage: own before group, manifest, cluster profile and the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.manifest.model import Resources
from pipeline.manifest.schema import Stages

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "preprocess": {"cpus": 4, "mem_gb": 16.0, "time_min": 60},
    "train": {"cpus": 2, "mem_gb": 8.0, "time_min": 240},
    "evaluate": {"cpus": 2, "mem_gb": 8.0, "time_min": 30},
    "close": {"cpus": 1, "mem_gb": 4.0, "time_min": 60},
}

FITTED = ("train", "evaluate")  # the stages in which an architecture computes


def explicit(stages: Stages) -> dict[str, dict[str, Any]]:
    """What a section gives, stage by stage, without what it leaves open."""
    return {name: stage for name, stage in stages.model_dump(exclude_none=True).items() if stage}


def without_gpus(layer: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """A layer as an estimator takes it, which computes on the CPU: GPUs there are for networks."""
    return {
        stage: {name: value for name, value in values.items() if name != "gpus" or stage not in FITTED}
        for stage, values in layer.items()
    }


def resolve_resources(*layers: Mapping[str, Mapping[str, Any]]) -> dict[str, Resources]:
    """Resources by stage; of the layers, the last that names a value wins."""
    result = {stage: dict(values) for stage, values in DEFAULTS.items()}
    for layer in layers:
        for stage, values in layer.items():
            result[stage].update(values)
    return {stage: Resources(**values) for stage, values in result.items()}
