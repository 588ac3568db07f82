"""A site's ways: what sbatch is told there besides what a task asks for, none of which changes a result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """``modules`` are loaded and ``activate`` is run (a shell line) before each element; ``extra`` is any sbatch
    option by its long name (``{"mail-user": "me@here"}``; True for one without a value) and has the last word."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres_type: str | None = None
    exclude: str | None = None
    modules: tuple[str, ...] = ()
    activate: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    python: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
