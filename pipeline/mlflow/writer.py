"""The one way in which runs get into MLflow: what it lacks of each, through a store or a server."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import orjson

from pipeline.mlflow.description import MlflowRun, Point
from sharedfs.documents import digest, read_as
from sharedfs.files import plain_folder, write_whole
from sharedfs.typed_json import Json

if TYPE_CHECKING:
    from pipeline.report.collect import Progress

ARTIFACTS = "mlartifacts"  # on the storage, with the caches in it
# What MLflow takes at once: values, parameters or tags among them, and characters in one of these.
BATCH_SIZE = 1_000
BATCH_PAIRS = 100
PARAM_LENGTH = 6_000
TAG_LENGTH = 5_000
Texts = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What MLflow has of a run, by its id and folder of artifacts there: digests of its facts and its first points.

    ``stamps`` are size and time of the artifacts.
    """

    run_id: str
    home: str
    facts: str
    points: int
    points_digest: str
    stamps: Mapping[str, list[int]] = field(default_factory=dict)

    def is_all_of(self, run: MlflowRun) -> bool:
        """Whether MLflow has everything of the run but its artifacts."""
        return self.points == len(run.points) and self.facts == run.facts_digest() and self.is_start_of(run)

    def is_start_of(self, run: MlflowRun) -> bool:
        """Whether every point that MLflow has is still one of the run's."""
        return self.points_digest == run.points_digest(self.points)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A run in MLflow, by its id and folder of artifacts there; ``created`` just now, with its tags."""

    run_id: str
    home: str = ""
    created: bool = False


class Transport(Protocol):
    """A way to MLflow: ids are MLflow's but for a run's own; ``open`` and ``experiment`` make what is missing."""

    def experiment(self, name: str) -> str: ...

    def find(self, experiment: str, run_id: str) -> str | None: ...

    def open(self, experiment: str, run: MlflowRun, tags: Texts, sent: Sent | None) -> Opened: ...

    def log(self, run_id: str, points: Sequence[Point], params: Texts, tags: Texts) -> None: ...

    def update(self, run_id: str, run: MlflowRun) -> None: ...


def write(
    transport: Transport, experiment: str, run: MlflowRun, sent: Sent | None, *, parent: str | None = None
) -> tuple[Sent, bool]:
    """Write what MLflow lacks of a run, of which it has ``sent``; ``parent`` is MLflow's id. And: was it created?"""
    tags = {**run.tags, "mlflow.parentRunId": parent} if parent else run.tags
    opened = transport.open(experiment, run, tags, sent)
    if sent is not None and sent.run_id != opened.run_id:
        sent = None
    facts = run.facts_digest()
    changed = sent is None or sent.facts != facts
    points = run.points[sent.points :] if sent is not None and sent.is_start_of(run) else run.points
    new_tags = tags if changed and not opened.created else {}
    for batch in batches(points, run.params if changed else {}, new_tags):
        transport.log(opened.run_id, *batch)
    if changed:
        transport.update(opened.run_id, run)
    now = Sent(
        run_id=opened.run_id,
        home=opened.home,
        facts=facts,
        points=len(run.points),
        points_digest=run.points_digest(len(run.points)),
        stamps=sent.stamps if sent is not None else {},
    )
    return now, opened.created


def batches(points: Sequence[Point], params: Texts, tags: Texts) -> Iterator[tuple[Sequence[Point], Texts, Texts]]:
    """All of it in as few calls as MLflow allows; values that are too long are cut."""
    param_items, tag_items = list(shorten(params, PARAM_LENGTH).items()), list(shorten(tags, TAG_LENGTH).items())
    while param_items or tag_items or points:
        some_params, some_tags = dict(param_items[:BATCH_PAIRS]), dict(tag_items[:BATCH_PAIRS])
        room = BATCH_SIZE - len(some_params) - len(some_tags)
        yield points[:room], some_params, some_tags
        param_items, tag_items, points = param_items[BATCH_PAIRS:], tag_items[BATCH_PAIRS:], points[room:]


def shorten(values: Texts, length: int) -> dict[str, str]:
    """Values cut to what MLflow keeps of one."""
    return {name: value[:length] for name, value in values.items()}


@dataclass(slots=True)
class Cache:
    """What was sent to one place of one experiment, by our ids. ``place`` is what makes the cache another's."""

    path: Path
    place: list[Json]
    runs: dict[str, Sent]

    @classmethod
    def read(cls, folder: Path, name: str, place: list[Json]) -> Cache:
        """The cache in a folder, empty where it is not there, not sound, or of another place."""
        path = folder / f".sent-{digest(name)}.json"
        try:
            stored = read_as(_Stored, path, "what was sent to MLflow")
        except (OSError, ValueError):  # it saves time alone: without it, all runs are looked for by their tags
            stored = _Stored(place=(), runs={})
        return cls(path, place, dict(stored.runs) if list(stored.place) == place else {})

    def forget(self) -> None:
        """Delete the file: whoever is killed while runs are written has the next look for all of them by their tags."""
        self.path.unlink(missing_ok=True)

    def write(self) -> None:
        """Write the file."""
        plain_folder(self.path.parent)
        runs = {run_id: asdict(sent) for run_id, sent in self.runs.items()}
        write_whole(self.path, orjson.dumps({"place": self.place, "runs": runs}))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """A cache's file."""

    place: Sequence[Json]
    runs: Mapping[str, Sent]


@dataclass(frozen=True, slots=True, kw_only=True)
class Updated:
    """What an update did; ``left`` are runs for which there was no time, ``busy`` that another process was at it."""

    created: int = 0
    changed: int = 0
    unchanged: int = 0
    left: int = 0
    busy: bool = False


def update(
    transport: Transport,
    cache: Cache,
    experiment: str,
    runs: Sequence[MlflowRun],
    *,
    label: str,
    progress: Progress | None = None,
    limit_s: float | None = None,
) -> Updated:
    """Write all runs that MLflow lacks anything of, parents first, and note them in the cache; the caller writes it."""
    pending = [run for run in runs if run.id not in cache.runs or not cache.runs[run.id].is_all_of(run)]
    if not pending:
        return Updated(unchanged=len(runs))
    cache.forget()
    began, created = time.monotonic(), 0
    home = transport.experiment(experiment)
    for done, run in enumerate(pending):
        if limit_s is not None and time.monotonic() - began > limit_s:
            return Updated(changed=done, unchanged=len(runs) - len(pending), left=len(pending) - done)
        parent = None
        if run.parent:
            # A refit belongs to its search, which may not have been shown yet.
            known = cache.runs.get(run.parent)
            parent = known.run_id if known else transport.find(home, run.parent)
        cache.runs[run.id], is_new = write(transport, home, run, cache.runs.get(run.id), parent=parent)
        created += is_new
        if progress:
            progress(label, done + 1, len(pending))
    return Updated(created=created, changed=len(pending) - created, unchanged=len(runs) - len(pending))
