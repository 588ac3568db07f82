"""Text to a published data set: read once, by whichever run needs it first, and never again."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.context import Context, Outcome, Progress
from jobs.data import shards
from jobs.data.dataset import Dataset
from jobs.data.progress import Meter, stop_if_asked
from jobs.units import Unit
from sharedfs.files import publish_folder


def run(context: Context) -> Outcome:
    """Make and publish the data set of this task (or find it published), or read the files of one shard of it.

    Raises ValueError for data that can't be used, saying which file and why.
    """
    # polars reads this once, when it is first imported.
    os.environ.setdefault("POLARS_MAX_THREADS", str(context.cpus))
    if "shard" in context.task.settings:
        return _run_shard(context)
    final = context.storage.dataset(context.task.id)
    if not _published(final):
        with _temporary_folder(context, final) as home:
            _make(context, home)
            context.attempt.check()
            publish_folder(home / "dataset", final)
    shards.remove_spools(context.storage, context.task.id)
    dataset = Dataset.open(final)
    files = tuple(sorted(path for path in final.iterdir() if path.is_file()))
    return Outcome(files=files, result=_result(dataset), units=(Unit("preprocess"),))


def _run_shard(context: Context) -> Outcome:
    """Publish the spool of one shard; its files are no part of the record, as the merge removes them."""
    from jobs.data import shard_store

    settings = context.task.settings
    dataset = shards.whole_task(settings).id
    final = shards.spool_folder(context.storage, dataset, settings["shard"], settings["of"])
    if not final.exists() and not context.storage.dataset(dataset).exists():
        files = shards.shard_files(context.task.plumbing["files"], settings["shard"], settings["of"])
        with _temporary_folder(context, final) as home:
            shard_store.read_files(context, settings["data"], files, home / "spool")
            context.attempt.check()
            publish_folder(home / "spool", final)
    return Outcome(files=(), result={"shard": settings["shard"], "of": settings["of"]})


def _published(folder: Path) -> bool:
    """Whether a whole data set is there; a damaged one is moved out of the way."""
    if not folder.exists():
        return False
    try:
        dataset = Dataset.open(folder)
        whole = all((folder / name).stat().st_size == file["bytes"] for name, file in dataset.meta["files"].items())
    except (OSError, ValueError, KeyError):
        whole = False
    if not whole:
        folder.rename(folder.with_name(f".tmp-{folder.name}-damaged-{uuid.uuid4().hex[:12]}"))
    return whole


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

    settings, folder = context.task.settings, home / "dataset"
    folder.mkdir()
    spools = []
    read: set[tuple[str, int]] = set()
    for path in shards.published_spools(context.storage, context.task.id):
        spool = ShardStore.open(path)
        if read.isdisjoint(spool.files):
            spools.append(spool)
            read |= spool.files
    if unread := shards.unread_files(context.task.plumbing["files"], read):
        spools.append(shard_store.read_files(context, settings, unread, home / "spool"))

    def advance(phase: str, done: int, total: int) -> None:
        stop_if_asked(context)
        context.progress(Progress(phase=phase, done=done, total=total, unit="rows"))

    work = assembly.Assembly(spools, settings, threads=context.cpus, advance=advance)
    vocabulary, counts, facts = work.write(folder)
    facts["vectors"] = _write_vectors(context, folder, vocabulary.tokens, counts)
    assembly.write_meta(folder, settings, facts, context.cpus)


def _write_vectors(context: Context, folder: Path, tokens: Sequence[str], counts: Any) -> dict[str, Any]:
    from jobs.data import vectors

    embeddings = context.task.settings["embeddings"]
    size, fingerprint, target = embeddings["size"], embeddings["fingerprint"], folder / "vectors.bin"
    if fingerprint is None:
        with target.open("xb") as file:
            vectors.random_start(len(tokens), size).vectors.astype("<f4").tofile(file)
        return {"size": size, "fingerprint": None}
    path = Path(context.task.plumbing["embeddings"])
    meter = Meter(context, "word vectors", path.stat().st_size)
    table, cached = vectors.cached(
        context.storage.vectors, fingerprint, path, tokens, size, threads=context.cpus, advance=meter.add_bytes
    )
    try:
        target.hardlink_to(cached)
    except OSError:  # a file system without hard links
        with target.open("xb") as file:
            table.vectors.astype("<f4").tofile(file)
    return {"size": size, "fingerprint": fingerprint, **vectors.coverage(table, counts)}


def _result(dataset: Dataset) -> dict[str, Any]:
    return {name: dataset.meta[name] for name in ("splits", "parts", "classes", "vocabulary", "vectors")}
