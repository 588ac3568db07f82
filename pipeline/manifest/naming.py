"""Names that become folders, job names and links: what is safe, and how a grid's runs are called."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from jobs.storage import digest

LENGTH_MAX = 100
_SAFE = re.compile(r"\w[\w.,=+-]*\Z")
_UNSAFE = re.compile(r"[^\w.=+-]+")


def unsafe(name: str) -> str | None:
    """Why a name can't be a folder's, or None.

    Letters and digits of any script are fine, and `. _ - + = ,` after the first: never a slash, a space, a leading
    dot, or anything that a shell or a page would read as more than a name.
    """
    if len(name) > LENGTH_MAX:
        return f"a name of {len(name)} characters: at most {LENGTH_MAX}"
    if not _SAFE.match(name):
        return "no safe name: it may hold letters, digits and . _ - + = , and starts with a letter, digit or _"
    if len(name.encode()) > 255:
        return "a name of more than 255 bytes in UTF-8"
    return None


def of_values(values: Mapping[str, Any]) -> str:
    """A run's name from what sets it apart: `hidden_layers=256-128,dropout=0.1`."""
    name = ",".join(f"{key}={_UNSAFE.sub('_', _text(value))}" for key, value in values.items())
    if unsafe(name) is None:
        return name
    return f"{name[:40]}-{digest(json.dumps(values, sort_keys=True))}"


def unique(names: Iterable[str]) -> list[str]:
    """The names with `-2`, `-3`, .. behind those that were there before."""
    taken: set[str] = set()
    found = []
    for name in names:
        candidate, number = name, 2
        while candidate in taken:
            candidate, number = f"{name}-{number}", number + 1
        taken.add(candidate)
        found.append(candidate)
    return found


def _text(value: Any) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "-".join(map(_text, value))
    if isinstance(value, Mapping):
        return "-".join(map(_text, value.values()))
    return PurePath(value).name if isinstance(value, str) else str(value)
