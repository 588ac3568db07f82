"""Architectures, each one folder here, found by its name; their settings are read without importing torch.

A folder's ``__init__`` holds ``KIND`` (``network`` or ``estimator``) and ``SETTINGS`` (its own), and may hold
``check(settings, max_length)``, which returns what is wrong between settings, or None. A network's ``network.py``
holds ``build``, and may hold ``unsupported(device, precision)``, which returns why that device can't compute it with
that precision, or None; an estimator's ``estimator.py`` holds ``fit`` and ``load``.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

from jobs import load_module, module_names
from jobs.settings import TRAINING, Setting


@cache
def names() -> tuple[str, ...]:
    """Every architecture there is, sorted."""
    return module_names(__name__, folders_only=True)


def describe(architecture: str) -> ModuleType:
    """The torch-free description of an architecture; raises ValueError naming the legal ones."""
    return load_module(__name__, architecture, names(), kind="architecture")


@cache
def settings(architecture: str) -> tuple[Setting, ...]:
    """Every setting an architecture takes: its own, and for a network those of training."""
    module = describe(architecture)
    own: tuple[Setting, ...] = module.SETTINGS
    return own + (TRAINING if module.KIND == "network" else ())


# Settings that several architectures take.

HIDDEN_LAYERS = Setting(
    name="hidden_layers",
    type="ints",
    default=[256, 128],
    items=0,
    low=1,
    high=65_536,
    doc="widths of the hidden layers; [] for none: a linear classifier of the pooled title",
)
DROPOUT = Setting(
    name="dropout", type="float", default=0.0, low=0.0, high=0.95, doc="share of each hidden layer dropped in training"
)
EMBEDDING_DROPOUT = Setting(
    name="embedding_dropout",
    type="float",
    default=0.0,
    low=0.0,
    high=0.95,
    doc="share of what the hidden layers are given (the pooled title) dropped in training",
)
WORD_DROPOUT = Setting(
    name="word_dropout",
    type="float",
    default=0.0,
    low=0.0,
    high=0.95,
    doc="share of a title's words hidden in training",
)
EMBEDDING_SCALE = Setting(
    name="embedding_scale",
    type="float",
    default=1.0,
    above=0.0,
    high=100.0,
    doc="the word vectors are multiplied by it at the start: 0.01 turns a random start into a small one",
)

WORDS = (EMBEDDING_SCALE, WORD_DROPOUT)
HEAD = (HIDDEN_LAYERS, DROPOUT, EMBEDDING_DROPOUT)
