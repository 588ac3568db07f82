"""Stored JSON to values: numbers as they were written, and what a class itself refuses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sharedfs.documents import decode_as, read_as, write_json
from sharedfs.errors import DamagedFileError
from sharedfs.typed_json import Undecodable, decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A class with a rule of its own."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low above high")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """The same, nested."""

    spans: tuple[Span, ...]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (int | float, 1, "1"),
        (float | int, 1.0, "1.0"),
        (tuple[int, float], [1, 2], "(1, 2.0)"),
        (tuple[float, int], [1, 2.0], "(1.0, 2)"),
        (tuple[int | float, ...], [1, 2.0], "(1, 2.0)"),
    ],
)
def test_a_number_has_the_type_of_its_place(kind: Any, value: object, expected: str) -> None:
    assert repr(decode(kind, value)) == expected


def test_what_a_class_refuses_is_named_with_its_place(tmp_path: Path) -> None:
    document = {"spans": [{"low": 1, "high": 2}, {"low": 2, "high": 1}]}
    with pytest.raises(Undecodable, match=r"^spans\.1: low above high$"):
        decode(Spans, document)
    path = tmp_path / "spans.json"
    write_json(path, document)
    for read in (lambda: read_as(Spans, path, "some spans"), lambda: decode_as(Spans, document, path, "some spans")):
        with pytest.raises(DamagedFileError, match=rf"^{path}: not some spans: spans\.1: low above high$"):
            read()
