"""Names of files made from names that people chose."""

from __future__ import annotations

import re


def file_name(text: str) -> str:
    """A name that every file system and browser takes: letters, digits, dots, dashes, underscores."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "unnamed"
