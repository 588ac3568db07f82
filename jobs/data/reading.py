"""Reading a preprocess task's files into a spool."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.context import Context
from jobs.data.identity import BASELINES, fingerprint
from jobs.data.meter import Meter
from jobs.data.source import Source
from jobs.data.spool import Recorder, Spool, Wanted
from jobs.errors import InputError


def spool(context: Context, settings: Mapping[str, Any], files: Mapping[str, list[int]], folder: Path) -> Spool:
    """Read the files at these positions of each part into a new spool.

    ``settings`` are those of the data set. Raises ValueError when a file is not what was planned, or is not of its
    format.
    """
    places = context.task.plumbing["files"]
    chosen = [
        (part, number, Path(places[part][number]), settings["sources"][part][number])
        for part, numbers in files.items()
        for number in numbers
    ]
    for _, _, path, described in chosen:
        if fingerprint(path) != described["fingerprint"]:
            raise InputError(f"{path}: changed since the manifest was submitted: submit it again")
    wanted = Wanted(
        language=settings["language"],
        tokens=settings["columns"]["tokens"] is not None,
        pairs=settings["deduplicate"],
    )
    recorder = Recorder(folder, wanted, threads=context.cpus)
    meter = Meter(context, "reading", sum(path.stat().st_size for _, _, path, _ in chosen))
    for part, number, path, described in chosen:
        source = _source(settings, part, path, described["format"])
        recorder.record(source, part, number, read=meter.add_bytes, rows=meter.add_rows)
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
    return Source(
        path=path,
        format=format_,
        columns=columns,
        required=frozenset(required),
        header=settings["header"],
        quotes=settings.get("quotes", BASELINES["quotes"]),
    )
