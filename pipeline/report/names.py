"""Names of files made from names that people chose."""

from __future__ import annotations

import re

from jobs.storage import digest


def file_name(text: str) -> str:
    """A name that every file system and browser takes, and that no other text has.

    Letters, digits, dots, dashes and underscores stay; a name that held anything else gets a digest at its end.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:80]
    return plain if plain == text else f"{plain or 'unnamed'}-{digest(text)[:6]}"
