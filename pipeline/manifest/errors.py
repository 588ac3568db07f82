"""What is wrong with a manifest: where, which key, and what would be right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.errors import InputError, KeyPath


@dataclass(frozen=True, slots=True)
class Mark:
    """A place: a file with a line and a column counted from 1, or a source without lines such as `--set`."""

    source: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to correct; ``path`` is the key's, outermost first."""

    mark: Mark
    path: KeyPath
    message: str

    def __str__(self) -> str:
        parts = [str(self.mark), ".".join(map(str, self.path)), self.message]
        text = ": ".join(part for part in parts if part)
        # Keys are quoted as they stand: a line break or a terminal's escape in one must not act.
        return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


class ManifestError(InputError):
    """A manifest that can't be used; its text is one line per problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def shown(value: object) -> str:
    """A value as a message shows it: in YAML's words, short."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
