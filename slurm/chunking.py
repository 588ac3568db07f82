"""An array cut into pieces that Slurm takes, and what each piece waits for. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from slurm.array import Array, Dependency
from slurm.job_ids import base, index


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """``places`` are positions of elements in the array, in the order in which they go.

    ``throttle`` caps the piece. Pieces in one ``lane`` run one after the other, so that the caps of all lanes add up
    to the array's.
    """

    places: tuple[int, ...]
    throttle: int | None = None
    lane: int | None = None

    def halves(self) -> tuple[Chunk, Chunk]:
        """The piece as two; with a throttle the second follows the first."""
        middle = len(self.places) // 2
        first, second = self.places[:middle], self.places[middle:]
        return (
            Chunk(places=first, throttle=self.throttle, lane=self.lane),
            Chunk(places=second, throttle=self.throttle, lane=self.lane),
        )


def split_array(array: Array, *, largest: int) -> tuple[Chunk, ...]:
    """Pieces of at most ``largest`` elements; elements whose counterparts are in one array stay together."""
    spans = [group[start : start + largest] for group in _grouped(array) for start in range(0, len(group), largest)]
    if array.throttle is None:
        return tuple(Chunk(places=span) for span in spans)
    lanes = min(len(spans), array.throttle)
    shares = _shares(array.throttle, [sum(map(len, spans[lane::lanes])) for lane in range(lanes)])
    return tuple(
        Chunk(places=span, throttle=shares[number % lanes], lane=number % lanes) for number, span in enumerate(spans)
    )


def _grouped(array: Array) -> list[tuple[int, ...]]:
    groups: dict[tuple[str | None, ...], list[int]] = {}
    corresponding = [dependency.jobs for dependency in array.after if dependency.way == "aftercorr"]
    for place in range(len(array.elements)):
        key = tuple(base(job) if (job := jobs[place]) else None for jobs in corresponding)
        groups.setdefault(key, []).append(place)
    if corresponding:
        for members in groups.values():
            members.sort(key=lambda place: (index(corresponding[0][place] or "") or 0, place))
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


def dependency_clause(array: Array, piece: Chunk, ahead: Iterable[str] = ()) -> str | None:
    """What sbatch is told with ``--dependency``; ``ahead`` are ids of pieces that go before in the same lane."""
    clauses: dict[str, dict[str, None]] = {}
    for dependency in array.after:
        way, jobs = _clause(dependency, piece)
        clauses.setdefault(way, {}).update(dict.fromkeys(jobs))
    if names := [base(id_) for id_ in ahead]:
        clauses.setdefault("afterany", {}).update(dict.fromkeys(names))
    parts = [f"{way}:{':'.join(jobs)}" for way, jobs in clauses.items() if jobs]
    return ",".join(parts) or None


def _clause(dependency: Dependency, piece: Chunk) -> tuple[str, list[str]]:
    if dependency.way != "aftercorr":
        return dependency.way, _whole(dependency.jobs)
    jobs = [job for place in piece.places if (job := dependency.jobs[place])]
    if len(piece.places) == 1:
        # A single element is a plain job, which corresponds to nothing.
        return "afterok", jobs
    if [index(job) for job in jobs] == list(range(len(piece.places))):
        return "aftercorr", _whole(jobs)
    return "afterany", _whole(jobs)


def _whole(jobs: Iterable[str | None]) -> list[str]:
    """Arrays rather than their elements: a clause of a thousand ids is refused."""
    return list(dict.fromkeys(base(job) for job in jobs if job))
