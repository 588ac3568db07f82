"""What is submitted: an array of elements, what each is given, the site's options, what came of it, and job ids."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sharedfs.typed_json import Json
from slurm.element import Element

ARRAY_SIZE_MAX = 4_000_001  # the largest MaxArraySize
_SPAN = r"[0-9]+(-[0-9]+(:[0-9]+)?)?"
_JOB_ID = re.compile(rf"(?P<array>[0-9]+)(_[0-9]+|_\[(?P<list>{_SPAN}(,{_SPAN})*)(%[0-9]+)?\])?")
WAYS = ("afterany", "afterok", "aftercorr")


# A site's options: what sbatch is given there besides what a task asks for, none of which changes a result.

MEMORY_WAYS = ("per_node", "per_cpu", "per_gpu", "none")
GPU_OPTIONS = ("gpus-per-node", "gres")


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """The image that elements run in: by Pyxis, an option of srun's, or by Apptainer; one of the two is given.

    ``mounts`` are further folders that it sees, ``/data`` or ``/data:/inside:ro``.
    """

    pyxis: str | None = None
    apptainer: str | None = None
    mounts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """``modules`` are loaded and ``activate`` is run (a shell line) before each element.

    ``clusters`` names the one cluster that jobs go to, None that of this machine. ``memory`` is one of MEMORY_WAYS:
    what Slurm is told of an element's memory, if anything. ``gpu_option`` is one of GPU_OPTIONS. ``least_min`` are the
    minutes with which Slurm may start an element sooner than it could with its whole time limit. ``extra`` is any
    sbatch option by its long name (``{"mail-user": "me@here"}``) and has the last word: True for one without a value,
    None or False for one that is left out, also of those that are given here.
    """

    clusters: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres_type: str | None = None
    gpu_option: str = "gpus-per-node"
    least_min: int | None = None
    memory: str = "per_node"
    exclude: str | None = None
    modules: tuple[str, ...] = ()
    activate: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    container: Container | None = None
    python: str | None = None
    extra: Mapping[str, Json] = field(default_factory=dict)

    @property
    def python_command(self) -> str:
        """The Python of elements: in a container the image's own, for the one that submits is not in there."""
        return self.python or ("python3" if self.container else sys.executable)


# What is submitted: an array of elements, what each is given, and what came of it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one element is given. ``warn_s`` is how long before its time limit it is warned (SIGUSR2)."""

    cpus: int = 1
    gpus: int = 0
    mem_gb: float = 1.0
    time_min: int = 60
    warn_s: int = 120

    def __post_init__(self) -> None:
        if self.cpus < 1 or self.gpus < 0 or self.mem_mb < 1 or self.time_min < 1:
            # Slurm takes a memory of 0 for all that the node has.
            raise ValueError(
                f"resources out of range: {self}; cpus and time_min from 1, gpus from 0, mem_gb from 0.001"
            )

    @property
    def mem_mb(self) -> int:
        return round(self.mem_gb * 1024)

    @property
    def warning_s(self) -> int:
        """The warning time, never more than a third of the time limit: a short job must not be warned at its start."""
        return max(1, min(self.warn_s, self.time_min * 20))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """When an array may begin: ``jobs`` are ids as ``Submitted`` gives them.

    ``afterany`` waits until all of them are over, ``afterok`` until all are done; with ``aftercorr`` element i
    waits for ``jobs[i]`` to be done, and is cancelled when that one fails (there is one job for each element, None
    for one that waits for nothing). Where the indices in the two arrays can't be brought to agree, ``aftercorr``
    becomes ``afterany`` over the other array: the task itself must check that what it needs is done.
    """

    way: str = "afterany"
    jobs: tuple[str | None, ...]

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            raise ValueError(f"unknown dependency {self.way!r}; legal: {', '.join(WAYS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """Elements that are given the same: each is one or more paths, run side by side as ``[*command, path]``.

    ``folder`` takes Slurm's files (scripts, pickles, the elements' own logs). ``code`` is the folder that the
    elements import from. ``throttle`` caps how many elements run at once. ``held`` submits without starting.
    ``visible_gpus`` are those of a local machine that it may use, by their names for CUDA_VISIBLE_DEVICES; None: all.
    ``site`` is the site's options for this array, None those of the executor. ``storage`` are folders that elements
    read and write besides those of their own code.
    """

    name: str
    elements: tuple[tuple[Path, ...], ...]
    command: tuple[str, ...]
    folder: Path
    resources: Resources = field(default_factory=Resources)
    after: tuple[Dependency, ...] = ()
    throttle: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    code: Path | None = None
    comment: str | None = None
    exclude: tuple[str, ...] = ()
    held: bool = False
    visible_gpus: tuple[str, ...] | None = None
    site: Site | None = None
    storage: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if not self.elements or not all(self.elements):
            raise ValueError(f"array {self.name!r} has no elements, or one without a path")
        for dependency in self.after:
            if dependency.way == "aftercorr" and len(dependency.jobs) != len(self.elements):
                raise ValueError(
                    f"array {self.name!r}: aftercorr names {len(dependency.jobs)} jobs"
                    f" for {len(self.elements)} elements; one each is needed"
                )
        if self.throttle is not None and self.throttle < 1:
            raise ValueError(f"array {self.name!r}: throttle {self.throttle}; must be at least 1")

    def element(self, index: int) -> Element:
        """What the element of that index does."""
        return Element(
            paths=tuple(str(path) for path in self.elements[index]),
            command=self.command,
            cpus=self.resources.cpus,
            gpus=self.resources.gpus,
            warn_s=self.resources.warning_s,
        )

    @property
    def command_lines(self) -> str:
        """The commands that it runs, a line for each path."""
        lines = [" ".join([*self.command, str(path)]) for paths in self.elements for path in paths]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What came of an array: an id for each element in order, None for one that could not be queued.

    ``refused`` says why, in the scheduler's words; ``for_good`` that trying again changes nothing. ``calls`` counts
    calls of sbatch, ``scripts`` are what was sent. ``comment`` and ``cluster`` are what the scheduler shows of each of
    the jobs, where it shows any; ``named_cluster`` is the cluster that has to be named to reach them, None for that of
    this machine.
    """

    ids: tuple[str | None, ...]
    refused: str | None = None
    for_good: bool = False
    calls: int = 0
    scripts: tuple[Path, ...] = ()
    comment: str | None = None
    cluster: str | None = None
    named_cluster: str | None = None

    @property
    def queued(self) -> tuple[str, ...]:
        """The ids of the elements that were queued."""
        return tuple(id_ for id_ in self.ids if id_ is not None)

    @property
    def jobs(self) -> tuple[str, ...]:
        """The ids of the scheduler's arrays, in order: ``12_0`` and ``12_1`` are both in ``12``."""
        return tuple(dict.fromkeys(array_id(id_) for id_ in self.queued))


# Slurm's job ids: ``12`` a plain job or a whole array, ``12_3`` one element, ``12_[0-3,7%2]`` several.


def array_id(job_id: str) -> str:
    """The array's id of an element's id: ``12_3`` -> ``12``; a plain job's is its own."""
    return job_id.split("_", 1)[0]


def element_index(job_id: str) -> int | None:
    """An element's index in its array: ``12_3`` -> 3; None for a plain job."""
    _, _, number = job_id.partition("_")
    return int(number) if number.isdigit() else None


def expand_ids(job_id: str) -> list[str]:
    """Every element that an id stands for: ``12_[0-2,7%2]`` -> 12_0, 12_1, 12_2, 12_7.

    Raises ValueError for what is no such id, and for a list that Slurm cut short (``...``): SLURM_BITSTR_LEN=0 makes it
    whole.
    """
    match = _JOB_ID.fullmatch(job_id)
    if match is None:
        raise ValueError(f"{job_id}: no id of a job, an array or its elements")
    if match["list"] is None:
        return [job_id]
    indices: list[int] = []
    for part in match["list"].split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        found = range(int(first), int(last or first) + 1, int(step or 1))
        if not 0 < len(found) <= ARRAY_SIZE_MAX:
            raise ValueError(f"{job_id}: {part} is no range of array elements")
        indices += found
    return [f"{match['array']}_{index}" for index in indices]


def compress_ids(ids: Iterable[str]) -> list[str]:
    """The same jobs in as few ids as Slurm understands: 12_0, 12_1, 12_2, 13 -> ``12_[0-2]``, ``13``."""
    arrays: dict[str, list[int]] = {}
    plain: list[str] = []
    for id_ in dict.fromkeys(ids):
        index = element_index(id_)
        if index is None:
            plain.append(id_)
        else:
            arrays.setdefault(array_id(id_), []).append(index)
    return [f"{array}_[{_spans(sorted(indices))}]" for array, indices in arrays.items()] + plain


def _spans(indices: list[int]) -> str:
    spans: list[list[int]] = []
    for index in indices:
        if spans and index == spans[-1][1] + 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
