"""Paths in manifests: environment variables, the home, and what a relative one is relative to."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from jobs.errors import InputError

_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|(?P<bare>[A-Za-z_]\w*)|\{(?P<name>[A-Za-z_]\w*)(?P<rest>:-[^}]*)?\}|)")


def expand(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """A path's text with `$NAME`, `${NAME}` and `${NAME:-default}` filled in; `$$` is a dollar.

    Raises ValueError for a variable that is not set and for a dollar that belongs to none.
    """

    def value(match: re.Match[str]) -> str:
        name, rest = match["bare"] or match["name"], match["rest"]
        if match["dollar"]:
            return "$"
        if name is None:
            raise InputError("a '$' with no variable's name after it; write '$$' for a dollar")
        if rest is not None:
            return environment.get(name) or rest[2:]
        if name not in environment:
            raise InputError(f"unknown environment variable {name!r}")
        return environment[name]

    return _VARIABLE.sub(value, text)


def absolute(text: str, folder: Path) -> str:
    """The absolute path that a manifest in ``folder`` means; raises ValueError as `expand` does.

    Links are left as they are: a site's `/home/me/data` stays what people call it.
    """
    if not text.strip():
        raise InputError("must be a path, not an empty text")
    if any(ord(character) < 32 for character in text):
        raise InputError("a path must not hold line breaks or other control characters")
    return os.path.abspath(folder / Path(os.path.expanduser(expand(text))))  # noqa: PTH100, PTH111
