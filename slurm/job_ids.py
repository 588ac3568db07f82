"""Slurm's job ids: ``12`` a plain job or a whole array, ``12_3`` one element, ``12_[0-3,7%2]`` several."""

from __future__ import annotations

from collections.abc import Iterable


def base(job_id: str) -> str:
    """The array's id of an element's id: ``12_3`` -> ``12``; a plain job's is its own."""
    return job_id.split("_", 1)[0]


def index(job_id: str) -> int | None:
    """An element's place in its array: ``12_3`` -> 3; None for a plain job."""
    _, _, number = job_id.partition("_")
    return int(number) if number.isdigit() else None


def expand(job_id: str) -> list[str]:
    """Every element that an id stands for: ``12_[0-2,7%2]`` -> 12_0, 12_1, 12_2, 12_7.

    Raises ValueError for a list that Slurm cut short (``...``): SLURM_BITSTR_LEN=0 makes it whole.
    """
    array, _, rest = job_id.partition("_")
    if not rest.startswith("["):
        return [job_id]
    if not rest.endswith("]"):
        raise ValueError(f"{job_id}: a list of array elements that was cut short")
    places: list[int] = []
    for part in rest.strip("[]").split("%")[0].split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise ValueError(f"{job_id}: not a list of array elements")
        places += range(int(first), int(last or first) + 1, int(step or 1))
    return [f"{array}_{place}" for place in places]


def compress(ids: Iterable[str]) -> list[str]:
    """The same jobs in as few words as Slurm understands: 12_0, 12_1, 12_2, 13 -> ``12_[0-2]``, ``13``."""
    arrays: dict[str, list[int]] = {}
    plain: list[str] = []
    for id_ in dict.fromkeys(ids):
        place = index(id_)
        if place is None:
            plain.append(id_)
        else:
            arrays.setdefault(base(id_), []).append(place)
    return [f"{array}_[{_spans(sorted(places))}]" for array, places in arrays.items()] + plain


def _spans(places: list[int]) -> str:
    spans: list[list[int]] = []
    for place in places:
        if spans and place == spans[-1][1] + 1:
            spans[-1][1] = place
        else:
            spans.append([place, place])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
