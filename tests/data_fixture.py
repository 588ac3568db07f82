"""Data sets made for tests: the preprocess stage run in this process on files written for the occasion."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from jobs.attempt import begin
from jobs.context import Context
from jobs.data.dataset import Dataset, Split
from jobs.data.identity import identify
from jobs.data.settings import Data
from jobs.stages import preprocess
from jobs.storage import Storage
from jobs.task import Task
from pipeline.manifest.validation import read

SHARED = Path(__file__).parents[2] / "shared/data"
Row = Mapping[str, Any]


def task_of(**data: Any) -> Task:
    """The preprocess task of these settings; rows of a source are split one by one unless ``split.by`` is given."""
    if "source" in data:
        data["split"] = {"by": "random", **(data.get("split") or {})}
    settings, plumbing = identify(read(Data, data))
    return Task(stage="preprocess", settings=settings, plumbing=plumbing)


def context_of(storage: Storage, task: Task, *, cpus: int = 2) -> Context:
    folder = task.write(storage)
    return Context(task=task, storage=storage, folder=folder, attempt=begin(folder), cpus=cpus)


def preprocess_into(root: Path, *, cpus: int = 2, **data: Any) -> Dataset:
    """The data set of these settings, made if it isn't there."""
    storage = Storage(root)
    task = task_of(**data)
    preprocess.run(context_of(storage, task, cpus=cpus))
    return Dataset.open(storage.dataset(task.id))


def csv_file(path: Path, rows: Sequence[Row], separator: str = ",") -> str:
    names = list(rows[0])
    text = io.StringIO()
    writer = csv.DictWriter(text, names, delimiter=separator, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")
    return str(path)


def jsonl_file(path: Path, rows: Sequence[Row]) -> str:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return str(path)


def titles(count: int, *, categories: int = 4) -> list[dict[str, str]]:
    """Rows that are easy to tell apart: the category's own word, a number word, and a common one."""
    return [
        {
            "title": f"Palabra{'abcdefghij'[at % categories]} Número {'xyzw'[at % 3] * (3 + at % 7)} común",
            "category": f"CLASS_{at % categories}",
        }
        for at in range(count)
    ]


def decoded(dataset: Dataset, split: Split) -> list[list[str]]:
    """Each title's tokens as text."""
    return [
        [dataset.vocabulary[token] for token in split.tokens[begin:end]]
        for begin, end in zip(split.offsets[:-1], split.offsets[1:], strict=True)
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
