"""Word vectors for a vocabulary: found in a file, once for each (file, vocabulary), or random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.data import vector_files
from jobs.data.dataset import PAD, SPECIAL
from jobs.storage import digest, write_whole

_SEED = 0
_VERSION = 1  # raised when the same file and vocabulary would give other vectors


@dataclass(frozen=True, slots=True)
class Table:
    """Vectors (V, D) float32 and which rows stood in the file (V,)."""

    vectors: NDArray[np.float32]
    found: NDArray[np.bool_]


def random_start(count: int, size: int) -> Table:
    """Standard normal vectors, the padding row zero: the same for the same shape."""
    vectors = _generator().standard_normal((count, size), dtype=np.float32)
    vectors[PAD] = 0
    return Table(vectors, np.zeros(count, bool))


def from_file(
    path: Path, tokens: Sequence[str], size: int, *, threads: int, advance: Callable[[int], None] = lambda _: None
) -> Table:
    """The vectors of the tokens in a file; a token that is not in it gets a random vector of the found ones' spread.

    The first of two vectors for a word counts. Raises ValueError as ``vector_files.read`` does.
    """
    wanted = {token.encode("utf-8", "surrogatepass"): at for at, token in enumerate(tokens) if at >= len(SPECIAL)}
    vectors = np.zeros((len(tokens), size), np.float32)
    found = np.zeros(len(tokens), bool)
    for block in vector_files.read(path, wanted, size, threads=threads, advance=advance):
        ids, first = np.unique(block.ids, return_index=True)
        new = ~found[ids]
        vectors[ids[new]] = block.vectors[first[new]]
        found[ids[new]] = True
    missing = ~found
    missing[PAD] = False
    noise = _generator().standard_normal((int(missing.sum()), size), dtype=np.float32)
    if found.sum() > 1:
        known = vectors[found].astype(np.float64)
        noise = noise * known.std(axis=0).astype(np.float32) + known.mean(axis=0).astype(np.float32)
    vectors[missing] = noise
    return Table(vectors, found)


def cached(
    cache: Path,
    fingerprint: str,
    path: Path,
    tokens: Sequence[str],
    size: int,
    *,
    threads: int,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[Table, Path]:
    """As ``from_file``, kept under the cache folder by (file, vocabulary); also the file that holds the vectors."""
    key = digest({"version": _VERSION, "file": fingerprint, "size": size, "tokens": list(tokens)})
    whole, marks = cache / f"{key}.bin", cache / f"{key}.found.bin"
    try:
        vectors = np.fromfile(whole, "<f4").reshape(len(tokens), size)
        return Table(vectors, np.fromfile(marks, "|u1").reshape(len(tokens)).astype(bool)), whole
    except (FileNotFoundError, ValueError):  # not there, or not of this shape: made (again)
        pass
    table = from_file(path, tokens, size, threads=threads, advance=advance)
    cache.mkdir(parents=True, exist_ok=True)
    write_whole(whole, table.vectors.astype("<f4").tobytes())
    write_whole(marks, table.found.astype(np.uint8).tobytes())
    return table, whole


def coverage(table: Table, counts: NDArray[np.int64]) -> dict[str, Any]:
    """Shares of types (distinct tokens) and of training tokens that have a vector of their own in the file.

    Unknown words count among the tokens: they have none.
    """
    types = len(table.found) - len(SPECIAL)
    total = int(counts.sum())
    return {
        "types_found": int(table.found.sum()),
        "types_share": float(table.found.sum() / types) if types else 0.0,
        "tokens_share": float(counts[table.found].sum() / total) if total else 0.0,
    }


def _generator() -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(_SEED))
