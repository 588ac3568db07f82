"""What a report says, in the language that the manifest asks for: every phrase is in ``<language>.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.metrics import all_metrics
from sharedfs.errors import InputError

SPLIT_WORDS = {"train": "training", "validation": "validation", "test": "test"}
HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Messages:
    """The phrases of one language by key; a key that is not among them raises KeyError."""

    phrases: Mapping[str, str]

    def __call__(self, key: str, **values: Any) -> str:
        phrase = self.phrases[key]
        return phrase.format(**values) if values else phrase

    def name(self, key: str) -> str:
        """A state, a cause, a metric or a setting; one that has no phrase, as a hyperparameter, stands as it is."""
        return self.phrases.get(key, key)


def languages() -> tuple[str, ...]:
    """The languages that there are, each a file."""
    return tuple(sorted(path.stem for path in HERE.glob("*.toml")))


def load_phrases(language: str) -> dict[str, str]:
    return tomllib.loads((HERE / f"{language}.toml").read_text(encoding="utf-8"))


def make_messages(language: str) -> Messages:
    """The phrases of ``report: {language: ..}``, metrics' titles among them; raises InputError naming the languages."""
    if language not in languages():
        raise InputError(f"report.language: must be one of {', '.join(languages())}, not {language!r}")
    phrases = load_phrases(language)
    for name, metric in all_metrics().items():
        for split, word in SPLIT_WORDS.items():
            title = phrases["figure of split"].format(metric=metric.title_in(language), split=phrases[word])
            phrases[f"{split}_{name}"] = title
    return Messages(phrases)
