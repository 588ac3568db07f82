"""What runs on a node: the task, its run folder, data, models, training, search, the stages.

Models, search algorithms and stopping rules (and a report's tables and plots) are each one file or folder, found by its
name in the package it lies in: these two functions are all the registry there is.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from sharedfs.errors import InputError, did_you_mean


def module_names(package: str, *, folders_only: bool = False) -> tuple[str, ...]:
    """The names of what lies in a package, sorted; nothing of it is imported."""
    import pkgutil  # here: `tanda --help` needs none of it

    modules = pkgutil.iter_modules(import_module(package).__path__)
    return tuple(sorted(module.name for module in modules if module.ispkg or not folders_only))


def load_module(package: str, name: str, names: tuple[str, ...], *, kind: str) -> ModuleType:
    """One of a package's modules by its name; raises ValueError naming the legal ones."""
    if name not in names:
        raise InputError(f"unknown {kind} {name!r}{did_you_mean(name, names)}")
    return import_module(f"{package}.{name}")
