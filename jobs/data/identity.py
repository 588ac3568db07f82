"""What a data set is: its settings with the files' contents, not their places, in them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.data import DATASET_FORMAT, files
from jobs.data.settings import SPLITS, Data, Split

WHOLE_BYTES = 64 << 20
SAMPLED_BLOCKS = 1024
BLOCK_BYTES = 64 << 10
SOURCES = (*SPLITS, "source")
# Settings that came after data sets had ids, each with the value that means what was done before: a setting that has it
# is left out, so that no id changes.
BASELINES: Mapping[str, Any] = {"quotes": "checked"}


def identify(data: Data) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that decide a data set's content, and the plumbing that says where its files are.

    In the settings every file stands as its fingerprint and its format, and a setting of ``BASELINES`` only where it
    differs from its baseline; the plumbing holds
    ``files`` (part -> absolute paths) and ``embeddings`` (path or None). Reads at most 64 MiB of each file.
    Raises FileNotFoundError for a missing file, ValueError for one whose format can't be told.
    """
    settings = data.model_dump(mode="json", exclude={*SOURCES, "format", "embeddings"})
    settings = {key: value for key, value in settings.items() if key not in BASELINES or value != BASELINES[key]}
    places: dict[str, list[str]] = {}
    settings["sources"] = {}
    for part in SOURCES:
        if (named := getattr(data, part)) is None:
            continue
        paths = files.find(named, part)
        places[part] = [str(path) for path in paths]
        settings["sources"][part] = [_describe(path, data.format) for path in paths]
    if data.source is not None and data.split is None:
        settings["split"] = Split().model_dump(mode="json")
    vectors = None if data.embeddings.file is None else files.find(data.embeddings.file, "embeddings.file")[0]
    settings["embeddings"] = {
        "size": data.embeddings.size,
        "fingerprint": None if vectors is None else fingerprint(vectors),
    }
    settings["dataset_format"] = DATASET_FORMAT
    return settings, {"files": places, "embeddings": None if vectors is None else str(vectors)}


def _describe(path: Path, asked: str) -> dict[str, str]:
    return {"format": files.file_format(path, asked), "fingerprint": fingerprint(path)}


def fingerprint(path: Path) -> str:
    """A file's content as a digest: of all of it up to 64 MiB, else of its size and 1024 blocks spread evenly.

    A change inside a large file that keeps its size may go unseen between blocks; any rewritten compressed
    file differs nearly everywhere.
    """
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if size <= WHOLE_BYTES:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
            return f"sha256:{digest.hexdigest()}"
        digest.update(str(size).encode())
        for number in range(SAMPLED_BLOCKS):
            file.seek(number * (size - BLOCK_BYTES) // (SAMPLED_BLOCKS - 1))
            digest.update(file.read(BLOCK_BYTES))
    return f"sampled:{digest.hexdigest()}"
