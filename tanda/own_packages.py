"""Our packages have common names: they are found beside this one, whatever lies in the working directory.

``python -m tanda``, a notebook and a script look in their own folder first, where a person may have a ``pipeline.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

PACKAGES = frozenset({"jobs", "pipeline", "sharedfs", "slurm"})
HOME = Path(__file__).resolve().parents[1]


class _OwnPackages(MetaPathFinder):
    """Finds these four beside this package, and leaves all else to the finders after it."""

    def find_spec(self, name: str, _path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [str(HOME)], target) if name in PACKAGES else None


def find_own_packages_first() -> None:
    """Have ``import pipeline`` and the like find ours; raises ImportError where another one is imported already."""
    for name in sorted(PACKAGES & sys.modules.keys()):
        origin = getattr(sys.modules[name], "__file__", None)
        if origin is None or HOME not in Path(origin).resolve().parents:
            raise ImportError(
                f"tanda has a package {name!r} of its own, and {origin or 'another one'} is imported already: "
                "import tanda first, or rename that"
            )
    sys.meta_path.insert(0, _OwnPackages())
