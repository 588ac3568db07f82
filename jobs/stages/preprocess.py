"""Text to a published data set: read once, by whichever run needs it first, and never again."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from jobs.context import Context, Outcome, Progress
from jobs.data import shards
from jobs.data.dataset import IN_FILE, VECTORS, Dataset
from jobs.data.identity import DataFiles, DatasetDefinition, VectorSource, check_unchanged
from jobs.data.meta import Account, Coverage, Meta
from jobs.data.progress import Meter, stop_if_asked
from jobs.units import Unit
from sharedfs.errors import DamagedFileError
from sharedfs.files import publish_folder
from sharedfs.typed_json import Json

if TYPE_CHECKING:
    from jobs.data.assembly import Assembly
    from jobs.data.tokens import TokenEncoder
    from jobs.data.vectors import VectorTable
    from jobs.data.vocabulary import Encoder


def run(context: Context) -> Outcome:
    """Make and publish the data set of this task (or find it published), or read the files of one shard of it.

    Raises ValueError for data that can't be used, saying which file and why.
    """
    # polars reads this once, when it is first imported.
    os.environ.setdefault("POLARS_MAX_THREADS", str(context.cpus))
    if "shard" in context.task.settings:
        return _run_shard(context)
    final = context.storage.dataset(context.task.id)
    if not _published(context, final):
        with _temporary_folder(context, final) as home:
            _make(context, home)
            context.attempt.check()
            publish_folder(home / "dataset", final)
    shards.remove_spools(context.storage, context.task.id)
    dataset = Dataset.open(final)
    files = tuple(sorted(path for path in final.iterdir() if path.is_file()))
    return Outcome(files=files, result=_result(dataset.meta), units=(Unit("preprocess"),))


def _run_shard(context: Context) -> Outcome:
    """Publish the spool of one shard; its files are no part of the record, as the merge removes them."""
    from jobs.data import shard_store

    shard = context.task.settings_as(shards.Shard)
    dataset = shards.whole_task(context.task).id
    final = shards.spool_folder(context.storage, dataset, shard.shard, shard.of)
    if not final.exists() and not context.storage.dataset(dataset).exists():
        paths = context.task.plumbing_as(DataFiles).files
        files = shards.shard_files(paths, shard.shard, shard.of)
        with _temporary_folder(context, final) as home:
            shard_store.read_files(context, shard.data, paths, files, home / "spool")
            context.attempt.check()
            publish_folder(home / "spool", final)
    return Outcome(files=(), result={"shard": shard.shard, "of": shard.of})


def _published(context: Context, folder: Path) -> bool:
    """Whether a whole data set is there; a damaged one is moved out of the way. Raises OSError."""
    if not folder.exists():
        return False
    try:
        dataset = Dataset.open(folder)
        sizes = {name: (folder / name).stat().st_size for name in dataset.meta.files}
        wrong = [name for name, file in dataset.meta.files.items() if sizes[name] != file.bytes]
        if not wrong:
            return True
        reason = f"{folder / wrong[0]}: {sizes[wrong[0]]} bytes, not {dataset.meta.files[wrong[0]].bytes}"
    except (FileNotFoundError, DamagedFileError) as error:  # another OSError is the storage's: it may be whole
        reason = str(error)
    context.log(f"the data set is damaged, made again: {reason}")
    folder.rename(folder.with_name(f".tmp-{folder.name}-damaged-{uuid.uuid4().hex[:12]}"))
    return False


@contextmanager
def _temporary_folder(context: Context, final: Path) -> Iterator[Path]:
    """A temporary folder beside the published ones, gone afterwards; what killed attempts left is removed."""
    final.parent.mkdir(parents=True, exist_ok=True)
    name = final.name.removeprefix(".")
    # Attempts at one task follow one another, so nobody uses what an earlier one left.
    for leftover in final.parent.glob(f".tmp-{name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    home = final.with_name(f".tmp-{name}-{context.attempt.number}-{uuid.uuid4().hex[:12]}")
    home.mkdir()
    try:
        yield home
    except OSError:
        # A newer attempt may have removed the folder under us: then this attempt is superseded and has not failed.
        context.attempt.check()
        raise
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _make(context: Context, home: Path) -> None:
    """Write the data set into ``home/dataset``: spools first, from shards or read here, then the arrays."""
    from jobs.data import assembly, shard_store
    from jobs.data.shard_store import ShardStore

    definition, folder = context.task.settings_as(DatasetDefinition), home / "dataset"
    where = context.task.plumbing_as(DataFiles)
    folder.mkdir()
    spools = []
    read: set[tuple[str, int]] = set()
    for path in shards.published_spools(context.storage, context.task.id):
        try:
            spool = ShardStore.open(path)
        except (FileNotFoundError, DamagedFileError) as error:
            context.log(f"a shard's spool is damaged, its files are read again: {error}")
            continue
        if read.isdisjoint(spool.files):
            spools.append(spool)
            read |= spool.files
    if unread := shards.unread_files(where.files, read):
        spools.append(shard_store.read_files(context, definition, where.files, unread, home / "spool"))

    def advance(phase: str, done: int, total: int) -> None:
        stop_if_asked(context)
        context.progress(Progress(phase=phase, done=done, total=total, unit="rows"))

    work = assembly.Assembly(
        spools, definition, threads=context.cpus, advance=advance, tokens=_tokens(definition, where, folder)
    )
    encoder, counts, contents = work.write(folder)
    for part, account in contents.parts.items():
        context.log(f"{part}: {_in_words(account)}")
    for name, overlap in contents.overlap.items():
        context.log(
            f"{name}: of {overlap.titles:,} titles {overlap.exact:,} are in training too, "
            f"{overlap.same_words:,} in any order of words; {overlap.other_label:,} of them under another label, "
            f"{overlap.no_same_label:,} under other labels only"
        )
    for names in contents.alike:
        context.log(f"categories that look alike: {', '.join(map(repr, names))}")
    coverage = _write_vectors(context, work, encoder, counts, folder)
    assembly.write_meta(folder, context.task.settings, contents, coverage, threads=context.cpus)


def _tokens(definition: DatasetDefinition, where: DataFiles, folder: Path) -> TokenEncoder | None:
    """The tokenizer of the encoder that the data set is made for, whose files it then has; None without one."""
    planned = definition.embeddings.encoder
    if planned is None:
        return None
    assert where.encoder is not None
    from jobs.data import pretrained
    from jobs.data.tokens import TokenEncoder

    pretrained.copy(Path(where.encoder), planned, folder)
    return TokenEncoder(folder, definition.max_length)


def _in_words(account: Account) -> str:
    """Where the rows of a part went, and how many have characters that could not be read."""
    parts = [f"{account.read:,} rows read"]
    parts += [f"{count:,} for {split}" for split, count in account.kept.items()]
    parts += [f"{count:,} dropped ({cause})" for cause, count in account.dropped.items()]
    if account.with_replaced_bytes:
        parts.append(f"{account.with_replaced_bytes:,} with U+FFFD in title or label for what could not be read")
    return ", ".join(parts)


def _write_vectors(
    context: Context, work: Assembly, encoder: Encoder, counts: NDArray[np.int64], folder: Path
) -> Coverage:
    from jobs.data import vectors

    source = context.task.settings_as(DatasetDefinition).embeddings
    if source.is_random:
        with (folder / VECTORS).open("xb") as file:
            for block in vectors.random_start(len(encoder.vocabulary.tokens), source.size):
                block.astype("<f4", copy=False).tofile(file)
        return Coverage(size=source.size, fingerprint=None)
    table, cached = _vectors(context, source, work, encoder)
    with suppress(OSError):  # a file system without hard links
        if cached is not None:
            (folder / VECTORS).hardlink_to(cached)
    if not (folder / VECTORS).exists():
        with (folder / VECTORS).open("xb") as file:
            table.vectors.astype("<f4", copy=False).tofile(file)
    with (folder / IN_FILE).open("xb") as file:
        table.in_file.astype(np.uint8).tofile(file)
    coverage = vectors.coverage(table, counts, source.fingerprint)
    context.log(f"word vectors: {coverage.text}")
    if coverage.low:
        context.log("WARNING: vectors for few of the words: is their file of this language, and spelt alike?")
    return coverage


def _vectors(
    context: Context, source: VectorSource, work: Assembly, encoder: Encoder
) -> tuple[VectorTable, Path | None]:
    """The vectors of an encoder's tokens, from a file or the titles, and the file that holds them where one does."""
    from jobs.data import vectors

    tokens, name = encoder.vocabulary.tokens, context.task.plumbing_as(DataFiles).embeddings
    if source.train is not None:
        from jobs.data import trained_vectors  # and with it scikit-learn, a second for all the others

        return trained_vectors.train(work.known_words(encoder), len(tokens), source.size, source.train), None
    assert source.fingerprint is not None and name is not None  # neither random nor made of the titles
    path = Path(name)
    check_unchanged(path, source.fingerprint)
    meter = Meter(context, "word vectors", path.stat().st_size)
    return vectors.cached(
        context.storage.vectors,
        source.fingerprint,
        path,
        tokens,
        source.size,
        threads=context.cpus,
        advance=meter.add_bytes,
    )


def _result(meta: Meta) -> dict[str, Json]:
    contents = asdict(meta)
    return {name: contents[name] for name in ("splits", "parts", "classes", "vocabulary")} | {
        "vectors": meta.vectors.document
    }
