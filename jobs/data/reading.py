"""Reading a preprocess task's files into a spool, with progress by bytes read."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.context import Context, PausedError
from jobs.data.identity import SOURCES, fingerprint
from jobs.data.source import Source
from jobs.data.spool import Recorder, Spool, Wanted


def spool(context: Context, folder: Path, files: Mapping[str, list[int]] | None = None) -> Spool:
    """Read the task's files (or those at these positions of each part) into a new spool.

    Raises ValueError when a file is not what was planned, or is not of its format.
    """
    settings, places = context.task.settings, context.task.plumbing["files"]
    chosen = [
        (part, number, Path(places[part][number]), described)
        for part in SOURCES
        for number, described in enumerate(settings["sources"].get(part, []))
        if files is None or number in files.get(part, [])
    ]
    for _, _, path, described in chosen:
        if fingerprint(path) != described["fingerprint"]:
            raise ValueError(f"{path}: changed since the manifest was submitted: submit it again")
    wanted = Wanted(
        language=settings["language"],
        tokens=settings["columns"]["tokens"] is not None,
        pairs=settings["deduplicate"],
    )
    recorder = Recorder(folder, wanted, threads=context.cpus)
    meter = _Meter(context, sum(path.stat().st_size for _, _, path, _ in chosen))
    for part, number, path, described in chosen:
        meter.begin()
        recorder.record(_source(settings, part, path, described["format"]), part, number, meter.advance)
    return recorder.finish()


def _source(settings: Mapping[str, Any], part: str, path: Path, format_: str) -> Source:
    columns = dict(settings["columns"])
    tokens = columns.pop("tokens")
    if tokens is not None:
        del columns["text"]
        columns["tokens"] = tokens
    required = {"label", "text" if tokens is None else "tokens"}
    if settings["language"] is not None:
        required.add("language")
    if settings["quality"] == "reliable" and part in ("train", "source"):
        required.add("quality")
    return Source(path=path, format=format_, columns=columns, required=frozenset(required), header=settings["header"])


class _Meter:
    """Tells progress: rows done, rows a second, and the time left by the share of bytes read."""

    def __init__(self, context: Context, total_bytes: int) -> None:
        self._context = context
        self._total = max(1, total_bytes)
        self._rows = self._before = self._here = 0
        self._started = time.monotonic()

    def begin(self) -> None:
        """A new file begins."""
        self._before += self._here
        self._here = 0

    def advance(self, rows: int, read_bytes: int) -> None:
        if self._context.interrupted():
            raise PausedError("asked to stop while reading; it starts over when it is started again")
        self._rows += rows
        self._here = read_bytes
        elapsed_s = max(1e-9, time.monotonic() - self._started)
        share = max(1e-9, min(1.0, (self._before + self._here) / self._total))
        self._context.progress(
            phase="reading",
            done=self._rows,
            total=max(self._rows, round(self._rows / share)),
            unit="rows",
            rate=self._rows / elapsed_s,
            left_s=elapsed_s * (1 - share) / share,
        )
