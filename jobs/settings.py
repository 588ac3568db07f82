"""Settings of a run: what one is, which values it takes, and those that every network shares."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.errors import InputError

# What a model, a stage or an algorithm can be set to: names, types, ranges and defaults, without torch.


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting: ``ints`` is a list of at least ``items`` whole numbers (layer widths, filter lengths).

    ``low`` and ``high`` are inclusive bounds, of each item for ``ints``; ``above`` is an exclusive lower one.
    """

    name: str
    type: str
    default: Any
    doc: str
    low: float | None = None
    above: float | None = None
    high: float | None = None
    items: int = 1
    choices: tuple[str, ...] = ()
    plumbing: bool = False  # how, where or how often, never what: not part of a task's id

    def read(self, value: object) -> Any:
        """The value in this setting's type; raises ValueError saying what would be right.

        None is a value only of a setting whose default is None.
        """
        if value is None and self.default is None:
            return None
        if self.type == "ints":
            if not isinstance(value, list | tuple) or len(value) < self.items:
                kind = "non-empty list" if self.items else "list"
                raise InputError(f"must be a {kind} of whole numbers, not {value!r}")
            return [self._number(item, whole=True) for item in value]
        if self.type == "bool":
            if not isinstance(value, bool):
                raise InputError(f"must be true or false, not {value!r}")
            return value
        if self.type == "str":
            if value not in self.choices:
                raise InputError(f"must be one of {', '.join(self.choices)}, not {value!r}")
            return value
        return self._number(value, whole=self.type == "int")

    def _number(self, value: object, *, whole: bool) -> int | float:
        kind = "a whole number" if whole else "a number"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"must be {kind}, not {value!r}")
        if not math.isfinite(value) or (whole and value != int(value)):
            raise InputError(f"must be {kind}, not {value!r}")
        if self.low is not None and value < self.low:
            raise InputError(f"must be at least {self.low:g}, not {value!r}")
        if self.above is not None and value <= self.above:
            raise InputError(f"must be above {self.above:g}, not {value!r}")
        if self.high is not None and value > self.high:
            raise InputError(f"must be at most {self.high:g}, not {value!r}")
        return int(value) if whole else float(value)


def by_name(settings: Iterable[Setting]) -> dict[str, Setting]:
    """Settings keyed by their names."""
    return {setting.name: setting for setting in settings}


def resolve(settings: Iterable[Setting], *layers: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting's value: the last layer that names it wins, else its default; unknown keys are ignored.

    Raises ValueError (``name: reason``) for a value of the wrong type or out of range.
    """
    values = {}
    for setting in settings:
        value = next((layer[setting.name] for layer in reversed(layers) if setting.name in layer), setting.default)
        try:
            values[setting.name] = setting.read(value)
        except ValueError as error:
            raise InputError(f"{setting.name}: {error}") from error
    return values


TRAINING = (
    Setting(name="learning_rate", type="float", default=1e-3, above=0.0, high=10.0, doc="Adam's step size"),
    Setting(name="weight_decay", type="float", default=0.0, low=0.0, high=10.0, doc="Adam's L2 coefficient"),
    Setting(name="epochs", type="int", default=3, low=1, high=100_000, doc="passes over the training rows"),
    Setting(name="batch_size", type="int", default=128, low=1, high=1_000_000, doc="titles a step"),
    Setting(name="freeze_embeddings", type="bool", default=True, doc="keep the word vectors as they were read"),
    Setting(
        name="shuffle",
        type="str",
        default="full",
        choices=("full", "buffer"),
        doc="a true permutation an epoch, or the published pseudo-shuffle through a buffer",
    ),
    Setting(
        name="random_buffer_size",
        type="int",
        default=2048,
        low=1,
        doc="titles in the buffer of `shuffle: buffer`",
    ),
    Setting(
        name="logit_adjustment",
        type="float",
        default=0.0,
        low=0.0,
        high=10.0,
        doc="1: train for balanced accuracy, by adding the log of each category's share to the logits of the loss",
    ),
    Setting(name="bucket_by_length", type="bool", default=False, doc="batches of titles of similar length"),
    Setting(name="seed", type="int", default=0, low=0, high=2**31 - 1, doc="of initial weights, order and dropout"),
    Setting(
        name="keep",
        type="str",
        default="best",
        choices=("best", "last"),
        doc="evaluate the epoch best by validation balanced accuracy, or the last one as the published work did",
    ),
    Setting(
        name="patience",
        type="int",
        default=None,
        low=1,
        doc="stop after so many epochs without a better validation balanced accuracy; none: never (early_stopping)",
    ),
    Setting(
        name="patience_chance",
        type="int",
        default=3,
        low=1,
        doc="epochs at chance level before the run is stopped",
    ),
    Setting(
        name="precision",
        type="str",
        default="float32",
        choices=("float32", "bfloat16"),
        doc="bfloat16: autocast of the matrix products, weights stay float32",
    ),
    Setting(name="compile", type="bool", default=False, doc="on a GPU: launch each step as one captured CUDA graph"),
    Setting(name="deterministic", type="bool", default=True, doc="only deterministic algorithms"),
    Setting(
        name="device",
        type="str",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        plumbing=True,
        doc="auto: the GPU that the task was given, which must be usable; the CPU where it was given none",
    ),
    Setting(
        name="checkpoint_min",
        type="float",
        default=10.0,
        above=0.0,
        plumbing=True,
        doc="minutes between checkpoints inside an epoch",
    ),
)
