"""A search's trials as storage tells of them: readable at any moment, by any number of readers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import metrics_log
from jobs.attempt import history, live, numbers
from jobs.errors import DamagedFileError
from jobs.record import Record, read_record
from jobs.search import stopping
from jobs.search.study import Study, open_study
from jobs.storage import Storage, read_json

STATES = ("running", "paused", "lost", "stopped", "done", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A trial that has a point.

    ``state``: running; paused (saved, waits to be started again); lost (no sign of life, and its newest attempt has
    no end); stopped early; done; failed, with its ``cause``. A stopped trial that is being continued is running,
    paused or lost, although it has a record. ``value`` is that of the search's metric, the best epoch's or the
    last one's as ``keep`` says; ``folder`` is the run's, with journal and model.
    """

    number: int
    task: str
    folder: Path
    point: Mapping[str, Any]
    draws: Mapping[str, float]
    state: str
    cause: str | None = None
    message: str | None = None
    value: float | None
    epochs: int
    epochs_asked: int

    @property
    def over(self) -> bool:
        """Whether its result is there; a stopped trial may still be continued."""
        return self.state in ("stopped", "done", "failed")


def trials(storage: Storage, search_id: str) -> list[Trial]:
    """Every trial of a search in the order of their numbers; none when nothing has started.

    Raises ValueError for files that were damaged.
    """
    try:
        study = open_study(storage, search_id)
    except FileNotFoundError:
        return []
    return read_trials(study)


def read_trials(study: Study) -> list[Trial]:
    """Every trial that has a point, in the order of their numbers."""
    return [read_trial(study, number) for number in study.numbers()]


def read_trial(study: Study, number: int) -> Trial:
    """One trial that has a point; raises FileNotFoundError when it has none."""
    written = read_point(study, number)
    folder = study.storage.run(written["task"])
    settings = study.settings(written["point"])
    record = _record(folder)
    continued = continuation(folder, record)
    value, epochs = _reached(study, folder, None if continued else record, settings)
    return Trial(
        number=number,
        task=written["task"],
        folder=folder,
        point=written["point"],
        draws=written["draws"],
        state=continued or _state(folder, record),
        cause=record.cause if record else None,
        message=record.message if record else None,
        value=value,
        epochs=epochs,
        epochs_asked=int(settings.get("epochs", 1)),
    )


def read_point(study: Study, number: int) -> dict[str, Any]:
    """A trial's point.json: ``task``, ``point``, ``draws``; raises ValueError naming a damaged one."""
    path = study.trial(number) / "point.json"
    written = read_json(path)
    kinds = {"task": str, "point": dict, "draws": dict}
    if not isinstance(written, dict) or not all(isinstance(written.get(name), kind) for name, kind in kinds.items()):
        raise DamagedFileError(f"{path}: not a trial's point: it is damaged")
    return written


def _reached(
    study: Study, folder: Path, record: Record | None, settings: Mapping[str, Any]
) -> tuple[float | None, int]:
    """Value and epochs so far: from the record of a trial that ended well, else from its journal."""
    if record is not None and "value" in record.result:
        return record.result["value"], int(record.result["epochs_run"])
    lines = metrics_log.read(folder)
    return value_of(study, lines, settings), len(lines)


def value_of(study: Study, lines: Iterable[Mapping[str, Any]], settings: Mapping[str, Any]) -> float | None:
    """The search's metric after some epochs: the last one's under ``keep: last``, else the best so far."""
    values = [line.get(study.definition["metric"]) for line in lines]
    finite = [float(value) for value in values if value is not None and math.isfinite(value)]
    if not finite:
        return None
    return finite[-1] if settings.get("keep") == "last" else max(finite, key=study.score)


def continuation(folder: Path, record: Record | None) -> str | None:
    """How an attempt that continues a stopped trial past its record stands: running, paused or lost.

    None where there is no such attempt, and where it failed: then the record holds.
    """
    # Of most records nothing but this is asked: the rules are looked up in a folder.
    stopped = None if record is None else record.result.get("stopped")
    if record is None or stopped is None or stopped not in stopping.names():
        return None
    begun = numbers(folder)
    if not begun or begun[-1] <= record.attempt:
        return None
    if live(folder):
        return "running"
    return {None: "lost", "paused": "paused"}.get(history(folder)[-1].get("state"))


def is_continued(folder: Path) -> bool:
    """Whether an attempt goes on, or was cut short going on, past the record of a stopped trial."""
    try:
        return continuation(folder, read_record(folder)) is not None
    except ValueError:
        return False  # damaged: there is no record to go on from


def continued_by(folder: Path) -> str | None:
    """The id of the task that began a run's newest attempt, when it was another's; see ``jobs.search.next_trial``."""
    attempts = history(folder)
    by: str | None = attempts[-1].get("by") if attempts else None
    return by


def _record(folder: Path) -> Record | None:
    try:
        return read_record(folder)
    except ValueError:
        # Damaged: the run is as good as without one, and is trained on from its checkpoint.
        return None


def _state(folder: Path, record: Record | None) -> str:
    if record is not None:
        if record.state == "failed":
            return "failed"
        return "stopped" if record.result.get("stopped") in stopping.names() else "done"
    if live(folder):
        return "running"
    attempts = history(folder)
    return "paused" if attempts and attempts[-1].get("state") == "paused" else "lost"
