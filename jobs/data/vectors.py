"""Word vectors for a vocabulary: word2vec and GloVe files, read once and stored; and random ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jobs.data.dataset import PAD, SPECIAL, Dataset
from jobs.data.encodings import BOM
from jobs.data.files import blocks, head, whole_lines
from jobs.data.meta import Coverage
from jobs.data.progress import in_order
from sharedfs.documents import digest
from sharedfs.errors import InputError
from sharedfs.files import write_whole

CHUNK_BYTES = 8 << 20
_HEADER = re.compile(rb"\s*(\d+)\s+(\d+)\s*\Z")
_TEXT_VALUE = re.compile(rb"\s*[-+.\deE]+\s")
_SPACE, _NEWLINE, _FLOAT_BYTES = 32, 10, 4
_SEED = 0  # of the vectors that a data set stores
_DRAWN_AT_ONCE = 1024  # vectors: few enough to be in a cache as they are written
_VERSION = 1  # raised when the same file and vocabulary would give other vectors


# Word vector files: word2vec and GloVe text, word2vec binary, plain or compressed; only wanted words are read.


@dataclass(frozen=True, slots=True)
class VectorBlock:
    """Token ids and their vectors (n, D), in the file's order."""

    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]


def read(
    path: Path, wanted: Mapping[bytes, int], size: int, *, threads: int, advance: Callable[[int], None]
) -> Iterator[VectorBlock]:
    """The vectors of the wanted words (UTF-8 -> token id), block by block.

    ``advance`` is called with how many bytes of the file were read. Raises ValueError naming the file, and the line
    where there is one, for another number of values than ``size`` or a value that is no number.
    """
    start = head(path, 1 << 16)
    mark = len(BOM) if start.startswith(BOM) else 0
    start = start[mark:]
    first = start.partition(b"\n")[0]
    header = _HEADER.match(first)
    if header is not None and int(header[2]) != size:
        raise InputError(f"{path}: vectors of {int(header[2])} values: set data.embeddings.size to that, not {size}")
    stream = blocks(path, advance)
    if header is not None and _is_binary(start[len(first) + 1 :]):
        yield from _binary(path, stream, wanted, size, mark + len(first) + 1, int(header[1]))
        return
    work = (
        (lambda text=text, line=line: _parse(path, text, line, wanted, size))
        for text, line in _lines(stream, header=header is not None)
    )
    yield from in_order(work, threads)


def _is_binary(record: bytes) -> bool:
    return _TEXT_VALUE.match(record.partition(b" ")[2]) is None


def _lines(stream: Iterator[bytes], *, header: bool) -> Iterator[tuple[bytes, int]]:
    """Whole lines after the header in chunks, each with the number of its first line."""
    for text, line in whole_lines(stream, CHUNK_BYTES):
        text = text.removeprefix(BOM) if line == 1 else text
        if header and line == 1:
            text, line = text.partition(b"\n")[2], 2
        if text.strip():
            yield text if text.endswith(b"\n") else text + b"\n", line


def _parse(path: Path, text: bytes, first_line: int, wanted: Mapping[bytes, int], size: int) -> VectorBlock:
    data = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(data == _NEWLINE)
    starts = np.concatenate([[0], ends[:-1] + 1])
    spaces = np.flatnonzero(data == _SPACE)
    # Spaces per line, one before each value; word2vec itself writes one more at the end.
    counts = np.searchsorted(spaces, ends) - np.searchsorted(spaces, starts)
    counts -= (ends > starts) & (data[np.maximum(ends - 1, 0)] == _SPACE)
    odd = set(np.flatnonzero(counts != size).tolist())
    ids, values = [], []
    for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        space = text.find(b" ", start, end)
        if number in odd:
            word, rest = _split_odd_line(path, text[start:end], first_line + number, size)
        else:
            word, rest = text[start:space], None
        if (token := wanted.get(word)) is not None:
            ids.append(token)
            values.append((first_line + number, text[space + 1 : end] if rest is None else rest))
    return VectorBlock(np.array(ids, np.int64), _numbers(path, values, size))


def _split_odd_line(path: Path, line: bytes, number: int, size: int) -> tuple[bytes, bytes]:
    """Word and values of a line of another number of spaces: a word with spaces (GloVe has some), tabs, or an error."""
    fields = line.split()
    surplus = len(fields) - 1 - size
    if not fields:
        return b"", b""
    if surplus > 0 and not any(map(_is_number, fields[1 : surplus + 1])):
        return b" ".join(fields[: surplus + 1]), b" ".join(fields[surplus + 1 :])
    if surplus == 0:  # separated by more than one space, or by tabs
        return fields[0], b" ".join(fields[1:])
    raise InputError(f"{path}:{number}: {len(fields) - 1} values where there should be {size} (data.embeddings.size)")


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _numbers(path: Path, values: list[tuple[int, bytes]], size: int) -> NDArray[np.float32]:
    table = np.empty((len(values), size), np.float32)
    for row, (line, text) in enumerate(values):
        try:
            table[row] = np.array(text.split(), dtype="S").astype(np.float32)
        except ValueError as error:
            raise InputError(f"{path}:{line}: not {size} numbers: {error}") from error
    finite = np.isfinite(table).all(axis=1)
    if not finite.all():
        raise InputError(f"{path}:{values[int(np.argmin(finite))][0]}: a value that is not finite")
    return table


def _binary(
    path: Path, stream: Iterator[bytes], wanted: Mapping[bytes, int], size: int, skip: int, count: int
) -> Iterator[VectorBlock]:
    """word2vec's binary format: a word, a space, ``size`` little-endian 32-bit floats, perhaps a newline."""
    pending, seen, record = b"", 0, size * _FLOAT_BYTES
    for block in stream:
        pending += block
        if len(pending) < skip:
            continue
        at, ids, values = skip, [], []
        while seen < count and (space := pending.find(b" ", at)) >= 0 and len(pending) > space + record:
            token = wanted.get(pending[at:space].lstrip(b"\n"))
            if token is not None:
                ids.append(token)
                values.append(pending[space + 1 : space + 1 + record])
            at = space + 1 + record
            seen += 1
        pending, skip = pending[at:], 0
        yield _binary_block(path, ids, values, size)
    if seen < count:
        raise InputError(f"{path}: ends after {seen} vectors where its header says {count}: fetch it again")


def _binary_block(path: Path, ids: list[int], values: list[bytes], size: int) -> VectorBlock:
    table = np.frombuffer(b"".join(values), "<f4").reshape(-1, size).astype(np.float32)
    if not np.isfinite(table).all():
        raise InputError(f"{path}: a value that is not finite: not a word2vec file of {size} values a word")
    return VectorBlock(np.array(ids, np.int64), table)


# Word vectors for a vocabulary: read from a file once for each (file, vocabulary), or random.


@dataclass(frozen=True, slots=True)
class VectorTable:
    """Vectors (V, D) float32 and which of them the file had, or the titles gave, (V,): the others are drawn."""

    vectors: NDArray[np.float32]
    in_file: NDArray[np.bool_]


def random_start(count: int, size: int) -> Iterator[NDArray[np.float32]]:
    """Standard normal vectors (count, size), the padding row zero, in blocks: the same for the same shape."""
    generator = _generator(_SEED)
    for start in range(0, count, _DRAWN_AT_ONCE):
        vectors = generator.standard_normal((min(_DRAWN_AT_ONCE, count - start), size), dtype=np.float32)
        if start == 0:
            vectors[PAD] = 0
        yield vectors


def complete(vectors: NDArray[np.float32], known: NDArray[np.bool_]) -> VectorTable:
    """These vectors with random ones, put in their place, for the words that have none."""
    _draw(vectors, known, _SEED)
    return VectorTable(vectors, known)


def _draw(vectors: NDArray[np.float32], in_file: NDArray[np.bool_], seed: int) -> None:
    """Put random vectors where the file has none: standard normal, or with the mean and spread of those it has.

    Where there is no file the padding row is drawn too and set to zero: so it was from the first version on, and with
    seed 0 the vectors are still those.
    """
    if not in_file.any():
        _generator(seed).standard_normal(out=vectors, dtype=np.float32)
        vectors[PAD] = 0
        return
    missing = ~in_file
    missing[PAD] = False
    noise = _generator(seed).standard_normal((int(missing.sum()), vectors.shape[1]), dtype=np.float32)
    if in_file.sum() > 1:
        read_vectors = vectors[in_file].astype(np.float64)
        noise = noise * read_vectors.std(axis=0).astype(np.float32) + read_vectors.mean(axis=0).astype(np.float32)
    vectors[missing] = noise


def of_run(dataset: Dataset, seed: int) -> NDArray[np.float32]:
    """A data set's word vectors for a run: those of its file, the others drawn by the run's seed. Row 0 is zeros.

    With seed 0 they are the stored ones, mapped into memory and so shared by every run on the node; with another each
    run has a copy. Those of a data set that does not say which are its file's stay as they are.
    """
    stored = dataset.vectors()
    drawn = None if seed == _SEED else dataset.drawn_vectors()
    if drawn is None:
        return stored
    vectors = np.array(stored)
    _draw(vectors, ~drawn, seed)
    return vectors


def from_file(
    path: Path, tokens: Sequence[str], size: int, *, threads: int, advance: Callable[[int], None] = lambda _: None
) -> VectorTable:
    """The vectors of the tokens in a file, and random ones for the others, with the mean and spread of those.

    The first of two vectors for a word counts. Raises ValueError as ``read`` does.
    """
    wanted = {token.encode("utf-8", "surrogatepass"): at for at, token in enumerate(tokens) if at >= len(SPECIAL)}
    vectors = np.zeros((len(tokens), size), np.float32)
    in_file = np.zeros(len(tokens), bool)
    for block in read(path, wanted, size, threads=threads, advance=advance):
        ids, first = np.unique(block.ids, return_index=True)
        new = ~in_file[ids]
        vectors[ids[new]] = block.vectors[first[new]]
        in_file[ids[new]] = True
    return complete(vectors, in_file)


def cached(
    cache: Path,
    fingerprint: str,
    path: Path,
    tokens: Sequence[str],
    size: int,
    *,
    threads: int,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[VectorTable, Path]:
    """As ``from_file``, stored in the cache folder by (file, vocabulary); also the file that holds the vectors.

    Raises InputError where the file has none of the words.
    """
    key = digest({"version": _VERSION, "file": fingerprint, "size": size, "tokens": list(tokens)})
    vectors_path, in_file_path = cache / f"{key}.bin", cache / f"{key}.found.bin"
    try:
        vectors = np.fromfile(vectors_path, "<f4").reshape(len(tokens), size)
        table = VectorTable(vectors, np.fromfile(in_file_path, "|u1").reshape(len(tokens)).astype(bool))
        _check_found(path, table, tokens)
        return table, vectors_path
    except (FileNotFoundError, ValueError) as error:  # absent, or not of this shape: written below
        if isinstance(error, InputError):
            raise
    table = from_file(path, tokens, size, threads=threads, advance=advance)
    _check_found(path, table, tokens)
    cache.mkdir(parents=True, exist_ok=True)
    write_whole(vectors_path, table.vectors.astype("<f4").tobytes())
    write_whole(in_file_path, table.in_file.astype(np.uint8).tobytes())
    return table, vectors_path


def _check_found(path: Path, table: VectorTable, tokens: Sequence[str]) -> None:
    words = tokens[len(SPECIAL) :]
    if len(words) and not table.in_file.any():
        raise InputError(
            f"{path}: has a vector for none of the data set's {len(words):,} words ({', '.join(words[:3])}, ...): "
            "is it of another language, in upper case, or without accents (data.text.accents: strip)?"
        )


def coverage(table: VectorTable, counts: NDArray[np.int64], fingerprint: str | None) -> Coverage:
    """Shares of types (distinct tokens) and of training tokens that have a vector of their own, not a drawn one.

    Unknown words count among the tokens: they have none.
    """
    types = len(table.in_file) - len(SPECIAL)
    total = int(counts.sum())
    return Coverage(
        size=table.vectors.shape[1],
        fingerprint=fingerprint,
        types_found=int(table.in_file.sum()),
        types_share=float(table.in_file.sum() / types) if types else 0.0,
        tokens_share=float(counts[table.in_file].sum() / total) if total else 0.0,
    )


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))
