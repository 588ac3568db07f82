"""From raw text to words: every distinct piece of text is normalised once, whatever the number of rows.

A title is cut at spaces first; each distinct piece is then lower-cased, its digits kept or removed, and cut into
words at whatever is neither letter nor digit. ``Bolsa-mala 40L`` gives ``bolsa``, ``mala`` (and ``40l``).
"""

from __future__ import annotations

import html
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from jobs.data.dataset import Ragged
from jobs.data.settings import Text

TAG = r"</?[A-Za-z][^<>]*>"
_DIGITS = r"\p{N}"
_BETWEEN_WORDS = r"[^\p{L}\p{M}\p{N}]+"
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_MARKS = r"\p{Mn}"
_INVISIBLE, _SPACES = r"\p{Cf}+", r"[\s\p{Z}\p{Cc}]+"
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+(\.0*)?")


def split_titles(titles: pl.Series) -> tuple[pl.Series, NDArray[np.uint32]]:
    """Titles without HTML tags, cut at spaces: all pieces in order, and the number of them in each title."""
    lists = titles.str.replace_all(TAG, " ").str.split(" ")
    return lists.explode(), lists.list.len().to_numpy()


def without_markup(text: pl.Series) -> pl.Series:
    """Titles, or pieces of them, without HTML tags, and with what its entities stand for; nothing else is changed."""
    return _without_entities(text.str.replace_all(TAG, " "))


def joined(pieces: pl.Series, titles: Ragged) -> list[str]:
    """Titles, given as positions among pieces of text, each at least one, as they were before they were cut."""
    title = np.repeat(np.arange(len(titles)), titles.lengths)
    frame = pl.DataFrame({"title": title, "piece": pieces.gather(titles.values)})
    return frame.group_by("title", maintain_order=True).agg(pl.col("piece").str.join(" "))["piece"].to_list()


def split_words(distinct: pl.Series, settings: Text, language: str | None) -> tuple[pl.Series, Ragged]:
    """The distinct words in these pieces of text, and each piece's words as positions among them."""
    lists = _normalised(_without_entities(distinct), settings).str.split(" ")
    flat = lists.explode()
    dropped = _stop_words(settings.stop_words, language, accents=settings.accents)
    kept = (flat.str.len_chars() >= settings.min_letters).to_numpy()
    if dropped:
        kept &= ~flat.is_in(sorted(dropped)).to_numpy()
    ragged = Ragged(np.arange(len(flat)), lists.list.len().to_numpy().astype(np.int64)).keep_items(kept)
    return number_distinct(flat.filter(pl.Series(kept)), ragged.lengths)


def _stop_words(chosen: str, language: str | None, *, accents: str) -> frozenset[str]:
    """The words that ``text.stop_words`` names (``auto``: the language's); with stripped accents in both spellings."""
    name = language if chosen == "auto" else chosen
    if name is None or name == "none":
        return frozenset()
    lists = tomllib.loads(Path(__file__).with_name("stop_words.toml").read_text(encoding="utf-8"))
    words = lists[name].split()
    if accents == "strip":
        words += [strip_accents(word) for word in words]
    return frozenset(words)


def normalised_labels(labels: pl.Series) -> pl.Series:
    """Labels as people mean them: without invisible characters, any run of spaces and line breaks one space, in NFC.

    A chunk has few distinct labels, and most are as they should be: the others are replaced.
    """
    distinct = labels.unique()
    normal = distinct.str.normalize("NFC").str.replace_all(_INVISIBLE, "").str.replace_all(_SPACES, " ")
    normal = normal.str.strip_chars(" ")
    changed = distinct.ne_missing(normal)
    if not changed.any():
        return labels
    return labels.replace(distinct.filter(changed), normal.filter(changed))


def whole_number_labels(names: Sequence[str]) -> list[str]:
    """The names without ``.0`` where every one is a whole number, as spreadsheets and pandas write them."""
    if not all(_WHOLE_NUMBER.fullmatch(name) for name in names):
        return list(names)
    return [name.partition(".")[0] for name in names]


def alike(names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Names that differ in case, accents, spaces or punctuation alone: likely one category written in several ways."""
    groups: dict[str, list[str]] = {}
    for name in names:
        letters = "".join(filter(str.isalnum, strip_accents(unicodedata.normalize("NFKC", name).casefold())))
        groups.setdefault(letters, []).append(name)
    return tuple(tuple(group) for letters, group in groups.items() if letters and len(group) > 1)


def strip_accents(word: str) -> str:
    return "".join(letter for letter in unicodedata.normalize("NFD", word) if not unicodedata.combining(letter))


class Numbering:
    """Numbers distinct strings in the order in which they are first seen; any number of threads may call it at once."""

    def __init__(self) -> None:
        self._categories = pl.Categories.random()
        self._type = pl.Categorical(self._categories)
        # polars forgets the categories when no series of the type is left.
        self._alive = pl.Series([], dtype=self._type)

    def number(self, values: pl.Series) -> NDArray[np.uint32]:
        """Each string's number."""
        return values.cast(self._type).to_physical().to_numpy()

    def distinct(self) -> pl.Series:
        """The strings by their number."""
        return self._categories.to_series().rename("")


def number_distinct(flat: pl.Series, lengths: NDArray[Any]) -> tuple[pl.Series, Ragged]:
    """Distinct values in order of first appearance, and each row's values as positions among them."""
    numbering = Numbering()
    numbers = numbering.number(flat).astype(np.int64)
    return numbering.distinct(), Ragged(numbers, lengths)


def _without_entities(pieces: pl.Series) -> pl.Series:
    """The pieces with the characters that HTML's entities stand for; ``&amp;eacute;`` was escaped twice."""
    at = pieces.str.contains(_ENTITY.pattern).arg_true()
    if not len(at):
        return pieces
    decoded = [_decoded(_decoded(piece)) for piece in pieces.gather(at)]
    return pieces.scatter(at, decoded)


def _decoded(piece: str) -> str:
    # With its semicolon alone: without one, html.unescape takes `&notebook` for `¬ebook`.
    return _ENTITY.sub(lambda entity: html.unescape(entity[0]), piece)


def _normalised(text: pl.Series, settings: Text) -> pl.Series:
    # NFC first: "é" written as "e" and a combining accent is the same letter.
    text = text.str.normalize("NFC").str.to_lowercase()
    if settings.accents == "strip":
        text = text.str.normalize("NFD").str.replace_all(_MARKS, "").str.normalize("NFC")
    if settings.digits == "drop":
        text = text.str.replace_all(_DIGITS, "")
    elif settings.digits == "zero":
        text = text.str.replace_all(_DIGITS, "0")
    return text.str.replace_all(_BETWEEN_WORDS, " ").str.strip_chars(" ")
