"""An array cut into chunks that Slurm takes, and what each chunk waits for. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from slurm.array import Array, Dependency, array_id, element_index


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """``indices`` are those of its elements in the array, in the order in which they go.

    ``throttle`` caps the chunk. Chunks in one ``lane`` run one after the other, so that the caps of all lanes add up
    to the array's.
    """

    indices: tuple[int, ...]
    throttle: int | None = None
    lane: int | None = None

    def halves(self) -> tuple[Chunk, Chunk]:
        """The chunk as two; with a throttle the second follows the first."""
        middle = len(self.indices) // 2
        return replace(self, indices=self.indices[:middle]), replace(self, indices=self.indices[middle:])


def split_array(array: Array, *, largest: int) -> tuple[Chunk, ...]:
    """Chunks of at most ``largest`` elements; elements whose counterparts are in one array stay together."""
    spans = [group[start : start + largest] for group in _grouped(array) for start in range(0, len(group), largest)]
    if array.throttle is None:
        return tuple(Chunk(indices=span) for span in spans)
    lanes = min(len(spans), array.throttle)
    shares = _shares(array.throttle, [sum(map(len, spans[lane::lanes])) for lane in range(lanes)])
    return tuple(
        Chunk(indices=span, throttle=shares[number % lanes], lane=number % lanes) for number, span in enumerate(spans)
    )


def _grouped(array: Array) -> list[tuple[int, ...]]:
    groups: dict[tuple[str | None, ...], list[int]] = {}
    corresponding = [dependency.jobs for dependency in array.after if dependency.way == "aftercorr"]
    for index in range(len(array.elements)):
        key = tuple(array_id(job) if (job := jobs[index]) else None for jobs in corresponding)
        groups.setdefault(key, []).append(index)
    if corresponding:
        for members in groups.values():
            members.sort(key=lambda index: (element_index(corresponding[0][index] or "") or 0, index))
    return [tuple(members) for members in groups.values()]


def _shares(total: int, sizes: list[int]) -> list[int]:
    """``total`` split over parts by their sizes, each at least 1 (there are no more parts than ``total``)."""
    exact = [total * size / sum(sizes) for size in sizes]
    shares = [max(1, int(value)) for value in exact]
    by_rest = sorted(range(len(sizes)), key=lambda part: exact[part] - shares[part], reverse=True)
    turn = 0
    while sum(shares) != total:
        part = by_rest[turn % len(sizes)] if sum(shares) < total else by_rest[-1 - turn % len(sizes)]
        step = 1 if sum(shares) < total else -1
        if shares[part] + step >= 1:
            shares[part] += step
        turn += 1
    return shares


def dependency_clause(array: Array, chunk: Chunk, ahead: Iterable[str] = ()) -> str | None:
    """What sbatch is given as ``--dependency``; ``ahead`` are ids of chunks that go before in the same lane."""
    clauses: dict[str, dict[str, None]] = {}
    for dependency in array.after:
        way, jobs = _clause(dependency, chunk)
        clauses.setdefault(way, {}).update(dict.fromkeys(jobs))
    if names := [array_id(id_) for id_ in ahead]:
        clauses.setdefault("afterany", {}).update(dict.fromkeys(names))
    parts = [f"{way}:{':'.join(jobs)}" for way, jobs in clauses.items() if jobs]
    return ",".join(parts) or None


def _clause(dependency: Dependency, chunk: Chunk) -> tuple[str, list[str]]:
    if dependency.way != "aftercorr":
        return dependency.way, _whole(dependency.jobs)
    jobs = [job for index in chunk.indices if (job := dependency.jobs[index])]
    if len(chunk.indices) == 1:
        # A single element is a plain job, which corresponds to nothing.
        return "afterok", jobs
    if [element_index(job) for job in jobs] == list(range(len(chunk.indices))):
        return "aftercorr", _whole(jobs)
    return "afterany", _whole(jobs)


def _whole(jobs: Iterable[str | None]) -> list[str]:
    """Arrays rather than their elements: a clause of a thousand ids is refused."""
    return list(dict.fromkeys(array_id(job) for job in jobs if job))
