"""How a run's confidence compares with how often it is right: what its evaluation says, for its page and its card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from jobs.training.metrics import EVALUATION
from pipeline.report.collect import Collected, Result
from sharedfs.documents import decode_as
from sharedfs.errors import DamagedFileError
from sharedfs.files import read_plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagram:
    """Test titles in bins of equal width by the confidence in their answer; None in a bin without titles."""

    titles: Sequence[int]
    confidence: Sequence[float | None]
    accuracy: Sequence[float | None]

    @property
    def error(self) -> float:
        """The expected calibration error of the bins, as they are rounded."""
        total = sum(self.titles) or 1
        return sum(titles * abs(right - sure) for titles, sure, right in self.filled) / total

    @property
    def filled(self) -> list[tuple[int, float, float]]:
        """Titles, mean confidence and accuracy of the bins that have titles."""
        bins = zip(self.titles, self.confidence, self.accuracy, strict=True)
        return [
            (titles, sure, right) for titles, sure, right in bins if titles and sure is not None and right is not None
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagrams:
    """The diagrams of logits as trained, and divided by the temperature."""

    as_trained: Diagram
    at_temperature: Diagram


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The part ``calibration`` of evaluation.json."""

    temperature: float
    at_temperature: dict[str, float]
    test: Diagrams


def read_calibration(collected: Collected, result: Result) -> Calibration | None:
    """The calibration of a result; None where it is not done, or an earlier version made it, or it is damaged."""
    if not result.done:
        return None
    folder = collected.storage.run(result.row.evaluate)
    try:
        document = orjson.loads(read_plain(folder / EVALUATION))
        part = document.get("calibration") if isinstance(document, dict) else None
        return None if part is None else decode_as(Calibration, part, folder, "a calibration")
    except (OSError, orjson.JSONDecodeError, DamagedFileError):  # the table says that the evaluation is damaged
        return None
