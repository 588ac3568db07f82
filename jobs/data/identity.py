"""What a data set is: its settings, with what is in its files and not where they lie."""

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
# Settings that were added after data sets had ids, each with the value that means what was done before. A setting with
# that value is left out of the id, so that no earlier id changes.
BASELINES: Mapping[str, Any] = {"quotes": "checked"}


def identify(data: Data) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that decide a data set's content, and the plumbing that says where its files are.

    The settings hold the fingerprint and the format of each file, and a setting of ``BASELINES`` only where it differs
    from its baseline; the plumbing holds ``files`` (part -> absolute paths) and ``embeddings`` (path or None). Reads at
    most 64 MiB of each file.
    Raises FileNotFoundError for a missing file, ValueError for one whose format can't be told.
    """
    settings = data.model_dump(mode="json", exclude={*SOURCES, "format", "embeddings"})
    settings = {key: value for key, value in settings.items() if key not in BASELINES or value != BASELINES[key]}
    absolute: dict[str, list[str]] = {}
    settings["sources"] = {}
    for part in SOURCES:
        if (name := getattr(data, part)) is None:
            continue
        paths = files.find_files(name, part)
        absolute[part] = [str(path) for path in paths]
        settings["sources"][part] = [_describe(path, data.format) for path in paths]
    if data.source is not None and data.split is None:
        settings["split"] = Split().model_dump(mode="json")
    vectors = None if data.embeddings.file is None else files.find_files(data.embeddings.file, "embeddings.file")[0]
    settings["embeddings"] = {
        "size": data.embeddings.size,
        "fingerprint": None if vectors is None else fingerprint(vectors),
    }
    settings["dataset_format"] = DATASET_FORMAT
    return settings, {"files": absolute, "embeddings": None if vectors is None else str(vectors)}


def _describe(path: Path, format_: str) -> dict[str, str]:
    return {"format": files.file_format(path, format_), "fingerprint": fingerprint(path)}


def fingerprint(path: Path) -> str:
    """A file's content as a digest: of all of it up to 64 MiB, else of its size and 1024 blocks spread evenly.

    A change inside a large file that keeps its size may go unseen between blocks; any rewritten compressed
    file differs nearly everywhere.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE_BYTES:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        digest = hashlib.sha256(str(size).encode())
        for number in range(SAMPLED_BLOCKS):
            file.seek(number * (size - BLOCK_BYTES) // (SAMPLED_BLOCKS - 1))
            digest.update(file.read(BLOCK_BYTES))
    return f"sampled:{digest.hexdigest()}"
