"""Slurm: one sbatch for each chunk of an array. The only module that imports submitit.

What an element runs is pickled here and run on the node by submitit; the script is ``slurm.sbatch``'s.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from submitit.core.utils import DelayedSubmission, JobPaths

from slurm import limits
from slurm.array import Array, Site, Submitted, compress_ids
from slurm.by_hand import Script, note_line
from slurm.chunking import Chunk, split_array
from slurm.commands import PRINT_WHOLE, answer, call, on_cluster
from slurm.element import Element, run_on_node, write_elements
from slurm.errors import NotNowError, SlurmError, SubmitError, UnknownJobError, UnreachableError, one_line
from slurm.job_state import JobIdentity, JobState
from slurm.limits import DEFAULT_MAX_ARRAY_SIZE
from slurm.owned import own_folder, owner_writes
from slurm.query import states
from slurm.sbatch import build_script, shown_comment

IDS_PER_CALL = 200
# Whether another start is worth it is the element's to say: submitit is never to refuse one.
MAX_TIMEOUTS = 1_000_000
SCRIPT = "submission.sh"
# What sbatch answers, a line of its own: the second where a site's wrapper passes --parsable on to nobody.
_ANSWERS = (
    re.compile(r"(?P<id>\d+)(;(?P<cluster>[\w.-]+))?"),
    re.compile(r"Submitted batch job (?P<id>\d+)( on cluster (?P<cluster>[\w.-]+))?"),
)
_PATTERNS = ("%j", "%t", "%A", "%a")
_LIMITS = (
    "assocmaxsubmitjoblimit",
    "qosmaxsubmitjobperuserlimit",
    "maxsubmitjob",
    "grpsubmitjob",
    "violates accounting/qos policy",
    "job queue full",
    "temporarily unable to accept job",
)

# What sbatch prints to standard error of a job that it only tests.
_EARLIEST = re.compile(r"to start at ([0-9]+) using")


class _LimitError(NotNowError):
    """A limit on how much may be queued: less of it may still fit."""


@dataclass(frozen=True, slots=True)
class SubmittedElement:
    """What submitit pickles for one element: its paths and command, and nothing else."""

    element: Element

    def __call__(self) -> None:
        # Leaving by SystemExit keeps submitit from writing a result file: the tasks write their own records.
        raise SystemExit(run_on_node(self.element))

    def checkpoint(self) -> DelayedSubmission:
        """For a warning that comes before the element listens itself: start again as it was."""
        return DelayedSubmission(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as sbatch answers it; ``cluster`` is there where another than this machine's was named."""

    id: str
    cluster: str | None = None


def parse_answer(printed: str) -> Job | None:
    """The job that sbatch queued, by the one line of its output that says so; None where none does, or several."""
    lines = [line.strip() for line in printed.splitlines()]
    answers = [match for line in lines for pattern in _ANSWERS if (match := pattern.fullmatch(line))]
    return Job(id=answers[0]["id"], cluster=answers[0]["cluster"]) if len(answers) == 1 else None


@dataclass(slots=True)
class SlurmArrays:
    """The ``slurm`` executor: see ``slurm.executors.Executor``."""

    site: Site = field(default_factory=Site)
    _configs: dict[str | None, Mapping[str, str]] = field(default_factory=dict)  # by named cluster

    def submit(self, array: Array) -> Submitted:
        """Queue an array by as few sbatch calls as the site allows; ``refused`` says what a limit left out."""
        ids: list[str | None] = [None] * len(array.elements)
        lanes: dict[int, list[str]] = {}
        scripts: list[Path] = []
        refused: SubmitError | None = None
        job: Job | None = None
        calls = 0
        config = self._config(self._site(array).clusters)
        waiting = list(split_array(array, largest=_largest_array(config)))
        while waiting:
            chunk = waiting.pop(0)
            calls += 1
            try:
                job, sent, script = self._send(array, chunk, lanes.get(chunk.lane or 0, []))
            except _LimitError as error:
                refused = error
                if len(chunk.indices) == 1:
                    break
                waiting[:0] = chunk.halves()
                continue
            except SubmitError as error:
                # What is queued already must not be forgotten: it is reported with the rest as refused.
                if not any(ids):
                    raise
                refused = error
                break
            scripts.append(script)
            for index, id_ in zip(chunk.indices, sent, strict=True):
                ids[index] = id_
            if chunk.lane is not None:
                lanes[chunk.lane] = sent[:1]
        return Submitted(
            ids=tuple(ids),
            refused=None if all(ids) or refused is None else str(refused),
            for_good=not all(ids) and not isinstance(refused, NotNowError),
            calls=calls,
            scripts=tuple(scripts),
            comment=shown_comment(array.comment) if array.comment else None,
            cluster=job.cluster if job and job.cluster else config.get("ClusterName"),
            named_cluster=job.cluster if job else None,
        )

    def test(self, array: Array) -> float | None:
        """When Slurm could start an element of an array at the earliest, in seconds since the epoch; nothing is queued.

        None where it does not say. Raises SubmitError with what it refuses.
        """
        chunk = split_array(array, largest=1)[0]
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / SCRIPT
            script.write_text(self._script(array, chunk, array.folder))
            try:
                _, told = answer(["sbatch", "--test-only", str(script)], environment=PRINT_WHOLE)
            except SlurmError as error:
                raise _classify_refusal(str(error)) from error
        found = _EARLIEST.search(told)
        return None if found is None else float(found[1])

    def states(self, ids: Iterable[str], *, sent: Mapping[str, JobIdentity] | None = None) -> Mapping[str, JobState]:
        return states(ids, sent=sent, cluster=self.site.clusters)

    def cancel(self, ids: Iterable[str]) -> None:
        self._each(on_cluster("scancel", self.site.clusters), ids)

    def hold(self, ids: Iterable[str]) -> None:
        self._each([*on_cluster("scontrol", self.site.clusters), "hold"], ids, comma_separated=True)

    def release(self, ids: Iterable[str]) -> None:
        self._each([*on_cluster("scontrol", self.site.clusters), "release"], ids, comma_separated=True)

    def scripts(self, array: Array) -> tuple[str, ...]:
        """The sbatch scripts, one for each chunk, as they would be sent."""
        chunks = split_array(array, largest=self._size_or_default(array))
        folders = (array.folder / f"{array.name}.{number}" for number in range(len(chunks)))
        return tuple(self._script(array, chunk, folder) for chunk, folder in zip(chunks, folders, strict=True))

    def write_scripts(self, array: Array, folder: Path) -> tuple[Script, ...]:
        """Write scripts to read, change and ``sbatch`` by hand.

        What they start from, and their logs, are in the array's folder: no pickles, only JSON.
        """
        own_folder(folder)
        written = []
        chunks = split_array(array, largest=self._size_or_default(array))
        for number, chunk in enumerate(chunks):
            name = array.name if len(chunks) == 1 else f"{array.name}.{number}"
            # Arrays of a stage that ask for different things have one name.
            same = sum(1 for path in folder.glob("*.sbatch") if re.fullmatch(rf"{re.escape(name)}(-\d+)?", path.stem))
            name = f"{name}-{same + 1}" if same else name
            own = _fresh_folder(array)
            elements = own / "elements.json"
            write_elements(elements, tuple(array.element(index) for index in chunk.indices))
            site = self._site(array)
            command = f"{_python(site)} -u -m slurm.element {shlex.quote(str(elements))}"
            note = note_line(array.folder, name)
            text = build_script(array, chunk, site, folder=own, command=command, as_array=True, note=note)
            path = folder / f"{name}.sbatch"
            with owner_writes(), path.open("x") as file:
                file.write(text)
            written.append(Script(path=path, indices=chunk.indices, lane=chunk.lane))
        return tuple(written)

    def _send(self, array: Array, chunk: Chunk, ahead: Sequence[str]) -> tuple[Job, list[str], Path]:
        """Queue a chunk by one call of sbatch: the job, its elements' ids, and the script as it was sent.

        The pickles get their names once the job has its id; submitit waits for them on the node.
        """
        folder = _fresh_folder(array)
        try:
            with owner_writes():
                script = folder / SCRIPT
                script.write_text(self._script(array, chunk, folder, ahead))
                pickles = _write_pickles(folder, array, chunk)
                job = self._call_sbatch(array, script)
                ids = [f"{job.id}_{number}" for number in range(len(pickles))] if len(pickles) > 1 else [job.id]
                try:
                    for id_, pickle in zip(ids, pickles, strict=True):
                        pickle.rename(JobPaths(folder, id_).submitted_pickle)
                except OSError:
                    # Queued without what it starts from: nobody would know of it, and its tasks would be queued again.
                    with suppress(SlurmError):  # it fails on its node then, and the first error is the one to report
                        call([*on_cluster("scancel", job.cluster), job.id])
                    raise
        except (SubmitError, OSError) as error:
            shutil.rmtree(folder, ignore_errors=True)  # the refusal is the error to report
            raise error if isinstance(error, SubmitError) else SubmitError(str(error)) from error
        return job, ids, script

    def _call_sbatch(self, array: Array, script: Path) -> Job:
        """Hand a script to sbatch; where its answer is lost or cannot be read, no job stays behind unseen."""
        cluster = self._site(array).clusters
        try:
            printed = call(["sbatch", "--parsable", str(script)])
        except UnreachableError as error:
            # A controller that is slow to answer has queued it, as a rule.
            number = _find_job(script, cluster, str(error))
            if number is None:
                raise NotNowError(f"{error}; nothing of it is in the queue") from error
            return Job(id=number, cluster=cluster)
        except SlurmError as error:
            raise _classify_refusal(str(error)) from error
        job = parse_answer(printed)
        if job is not None:
            return job
        wrong = f"sbatch printed no job's id that can be read: {one_line(printed)!r}"
        number = _find_job(script, cluster, wrong)
        if number is None:
            raise SubmitError(f"{wrong}; nothing was queued")
        try:
            call([*on_cluster("scancel", cluster), number])
        except SlurmError as error:
            raise SubmitError(f"{wrong}; it was queued as {number}, which could not be cancelled: {error}") from error
        raise SubmitError(f"{wrong}; it was queued as {number}, which is cancelled again")

    def _script(self, array: Array, chunk: Chunk, folder: Path, ahead: Sequence[str] = ()) -> str:
        folder, site = folder.absolute(), self._site(array)
        command = f"{_python(site)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
        return build_script(
            array, chunk, site, folder=folder, command=command, as_array=len(chunk.indices) > 1, ahead=ahead
        )

    def _site(self, array: Array) -> Site:
        return array.site or self.site

    def _config(self, cluster: str | None) -> Mapping[str, str]:
        if cluster not in self._configs:
            try:
                self._configs[cluster] = limits.read_config(cluster)
            except UnreachableError as error:
                raise NotNowError(str(error)) from error
            except SlurmError as error:
                raise SubmitError(str(error)) from error
        return self._configs[cluster]

    def _size_or_default(self, array: Array) -> int:
        try:
            return _largest_array(self._config(self._site(array).clusters))
        except SubmitError:  # no Slurm answers: scripts can be looked at all the same
            return DEFAULT_MAX_ARRAY_SIZE

    @staticmethod
    def _each(command: Sequence[str], ids: Iterable[str], *, comma_separated: bool = False) -> None:
        jobs = compress_ids(ids)
        refused: SlurmError | None = None
        for start in range(0, len(jobs), IDS_PER_CALL):
            part = jobs[start : start + IDS_PER_CALL]
            try:
                call([*command, ",".join(part)] if comma_separated else [*command, *part])
            except UnknownJobError:
                continue
            except SlurmError as error:  # of one job: the others are to hear of it all the same
                refused = refused or error
        if refused is not None:
            raise refused


def _python(site: Site) -> str:
    # A profile's own may be more than a path: `conda run python`.
    return site.python_command if site.python else shlex.quote(site.python_command)


def _largest_array(config: Mapping[str, str]) -> int:
    # An array counts with all its elements against MaxJobCount.
    return max(1, min(int(config.get(name, DEFAULT_MAX_ARRAY_SIZE)) for name in ("MaxArraySize", "MaxJobCount")))


def _write_pickles(folder: Path, array: Array, chunk: Chunk) -> list[Path]:
    """What each element of a chunk starts from, written under names that no job has yet."""
    pickles = []
    for number, index in enumerate(chunk.indices):
        work = DelayedSubmission(SubmittedElement(array.element(index)))
        work.set_timeout(array.resources.time_min, MAX_TIMEOUTS)
        pickles.append(folder / f"{number}.pkl")
        work.dump(pickles[-1])
    return pickles


def _find_job(script: Path, cluster: str | None, wrong: str) -> str | None:
    """The number of the job that Slurm made of a script, which is one call's alone; None where there is none.

    Raises NotNowError, beginning with what went ``wrong`` before, where the queue does not answer.
    """
    command = [*on_cluster("squeue", cluster), "-h", "-t", "all", "-u", str(os.geteuid()), "-o", "%F|%o"]
    try:
        rows = [line.partition("|") for line in call(command).splitlines()]
    except SlurmError as error:
        raise NotNowError(f"{wrong}; whether it was queued is unknown: {error}") from error
    return next((number for number, _, path in rows if path == str(script) and number.isdigit()), None)


def _fresh_folder(array: Array) -> Path:
    if pattern := next((pattern for pattern in _PATTERNS if pattern in str(array.folder.absolute())), None):
        raise SubmitError(f"{array.folder}: {pattern!r} in a path stands for a job's number on the nodes; rename it")
    own_folder(array.folder)
    for number in count():
        folder = (array.folder / f"{array.name}.{number}").absolute()
        try:
            folder.mkdir(mode=0o755)
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable")


def _classify_refusal(message: str) -> SubmitError:
    """sbatch's refusal, without what a site prints around it."""
    parts = one_line(message).split("; ")
    text = " ".join(part for part in parts if "sbatch: " in part or "error:" in part) or one_line(message)
    if any(part in text.lower() for part in _LIMITS):
        return _LimitError(text)
    return SubmitError(f"{text}{limits.legal_instead(text)}")


def make(*, folder: Path, site: Site, entry: Callable[[Path], int] | None) -> SlurmArrays:
    """Called by ``slurm.executors.make``; neither a folder nor an entry is needed here."""
    del folder, entry
    return SlurmArrays(site=site)
