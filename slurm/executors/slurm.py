"""Slurm through submitit: one sbatch for each chunk of an array. The only module that imports submitit.

submitit pickles what an element runs, calls sbatch, and unpickles it on the node; the script is ``slurm.sbatch``'s.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from itertools import count
from pathlib import Path

from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError, JobPaths
from submitit.slurm.slurm import SlurmExecutor

from slurm import limits
from slurm.array import Array, Site, Submitted, array_id, compress_ids
from slurm.chunking import Chunk, split_array
from slurm.commands import call, scrubbed_process
from slurm.element import Element, run_on_node, write_elements
from slurm.errors import SlurmError, SubmitError, UnknownJobError, is_unanswered, one_line
from slurm.job_state import JobIdentity, JobState
from slurm.limits import DEFAULT_MAX_ARRAY_SIZE
from slurm.owned import own_folder, owner_writes
from slurm.query import find_queued, states
from slurm.sbatch import build_script, shown_comment

IDS_PER_CALL = 200
# Whether another start is worth it is the element's to say: submitit is never to refuse one.
MAX_TIMEOUTS = 1_000_000
_LIMITS = (
    "assocmaxsubmitjoblimit",
    "qosmaxsubmitjobperuserlimit",
    "maxsubmitjob",
    "grpsubmitjob",
    "violates accounting/qos policy",
    "job queue full",
    "temporarily unable to accept job",
)


class _LimitError(SubmitError):
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


class _Submitit(SlurmExecutor):  # type: ignore[misc]
    """submitit's executor for one script, which is ours: that of an array it would write itself."""

    def __init__(self, folder: Path, script: str, time_min: int, find: Callable[[str], str | None]) -> None:
        """``find`` is given what sbatch failed with: the number of a job that is queued all the same, or None."""
        super().__init__(folder)
        self._script = script
        self._time_min = time_min
        self._find = find

    @classmethod
    def affinity(cls) -> int:
        # submitit asks for srun here, which only the nodes need.
        return 2

    def _make_submission_file_text(self, command: str, uid: str) -> str:  # noqa: ARG002 - submitit's signature
        return self._script

    def send(self, elements: Sequence[Element]) -> tuple[list[str], Path]:
        """Queue the elements by one call of sbatch: their ids, and the script as it was sent.

        The pickles get their names once the job has its id; submitit waits for them on the node.
        """
        pickles = []
        for place, element in enumerate(elements):
            work = DelayedSubmission(SubmittedElement(element))
            work.set_timeout(self._time_min, MAX_TIMEOUTS)
            pickles.append(self.folder / f"{place}.pkl")
            work.dump(pickles[-1])
        number = self._sbatch()
        ids = [f"{number}_{index}" for index in range(len(elements))] if len(elements) > 1 else [number]
        script = JobPaths(self.folder, ids[0]).submission_file
        try:
            for id_, pickle in zip(ids, pickles, strict=True):
                pickle.rename(JobPaths(self.folder, id_).submitted_pickle)
        except OSError:
            # Queued without what it starts from: nobody would know of it, and its tasks would be queued again.
            with suppress(SlurmError):  # it fails on its node then, and the first error is the one to report
                call(["scancel", number])
            raise
        return ids, script

    def _sbatch(self) -> str:
        """Queue the script: its job's number."""
        try:
            return str(self._submit_command("").job_id)
        except (FailedJobError, FailedSubmissionError) as error:
            # A controller that is slow to answer has queued it, as a rule.
            found = self._find(str(error))
            if found is None:
                raise
            (sent,) = self.folder.glob(".submission_file_*")
            sent.rename(self.folder / f"{found}_submission.sh")
            return found


@dataclass(slots=True)
class SlurmArrays:
    """The ``slurm`` executor: see ``slurm.executors.Executor``."""

    site: Site = field(default_factory=Site)
    _largest: int | None = None
    _cluster: str | None = None
    _numbers: set[str] = field(default_factory=set)  # of what this process has queued

    def submit(self, array: Array) -> Submitted:
        """Queue an array by as few sbatch calls as the site allows; ``refused`` says what a limit left out."""
        ids: list[str | None] = [None] * len(array.elements)
        lanes: dict[int, list[str]] = {}
        scripts: list[Path] = []
        refused: str | None = None
        calls = 0
        waiting = list(split_array(array, largest=self._max_array_size()))
        while waiting:
            chunk = waiting.pop(0)
            calls += 1
            try:
                sent, script = self._send(array, chunk, lanes.get(chunk.lane or 0, []))
            except _LimitError as error:
                refused = str(error)
                if len(chunk.indices) == 1:
                    break
                waiting[:0] = chunk.halves()
                continue
            except SubmitError as error:
                # What is queued already must not be forgotten: it is reported with the rest as refused.
                if not any(ids):
                    raise
                refused = str(error)
                break
            scripts.append(script)
            for index, id_ in zip(chunk.indices, sent, strict=True):
                ids[index] = id_
            if chunk.lane is not None:
                lanes[chunk.lane] = sent[:1]
        return Submitted(
            ids=tuple(ids),
            refused=None if all(ids) else refused,
            calls=calls,
            scripts=tuple(scripts),
            comment=shown_comment(array.comment) if array.comment else None,
            cluster=self._cluster,
        )

    def states(self, ids: Iterable[str], *, sent: Mapping[str, JobIdentity] | None = None) -> Mapping[str, JobState]:
        return states(ids, sent=sent)

    def cancel(self, ids: Iterable[str]) -> None:
        self._each(["scancel"], ids)

    def hold(self, ids: Iterable[str]) -> None:
        self._each(["scontrol", "hold"], ids, comma_separated=True)

    def release(self, ids: Iterable[str]) -> None:
        self._each(["scontrol", "release"], ids, comma_separated=True)

    def scripts(self, array: Array) -> tuple[str, ...]:
        """The sbatch scripts, one for each chunk, as they would be sent."""
        chunks = split_array(array, largest=self._size_or_default())
        folders = (array.folder / f"{array.name}.{number}" for number in range(len(chunks)))
        return tuple(self._script(array, chunk, folder) for chunk, folder in zip(chunks, folders, strict=True))

    def write_scripts(self, array: Array, folder: Path) -> tuple[Path, ...]:
        """Write scripts to read, change and ``sbatch`` by hand; they need no pickles, only the JSON beside them."""
        own_folder(folder)
        paths = []
        chunks = split_array(array, largest=self._size_or_default())
        for number, chunk in enumerate(chunks):
            stem = array.name if len(chunks) == 1 else f"{array.name}.{number}"
            elements = folder / f"{stem}.json"
            write_elements(elements, tuple(array.element(index) for index in chunk.indices))
            command = f"{self._python} -u -m slurm.element {shlex.quote(str(elements))}"
            path = folder / f"{stem}.sbatch"
            with owner_writes():
                path.write_text(
                    build_script(array, chunk, self.site, folder=folder.absolute(), command=command, as_array=True)
                )
            paths.append(path)
        return tuple(paths)

    def _send(self, array: Array, chunk: Chunk, ahead: Sequence[str]) -> tuple[list[str], Path]:
        folder = _fresh_folder(array)
        script = self._script(array, chunk, folder, ahead)
        executor = _Submitit(folder, script, array.resources.time_min, partial(self._find_queued, array))
        try:
            # submitit prints sbatch's refusal and raises it, too: once is enough.
            with owner_writes(), scrubbed_process(), redirect_stderr(StringIO()):
                sent = executor.send([array.element(index) for index in chunk.indices])
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            # submitit leaves the pickles of a refused submission behind.
            shutil.rmtree(folder, ignore_errors=True)  # the refusal is the error to report
            raise _classify_refusal(str(error)) from error
        for leftover in folder.glob(".submission_file_*"):
            leftover.unlink()
        self._numbers.add(array_id(sent[0][0]))
        return sent

    def _find_queued(self, array: Array, failure: str) -> str | None:
        """The number of an array that was queued although sbatch says that it failed; None where none is known of.

        One that is queued after the look finds its folder gone, and ends at once.
        """
        if not array.comment or not is_unanswered(failure):
            return None
        try:
            queued = find_queued(array.name, shown_comment(array.comment))
        except SlurmError:  # silent still: what sbatch said is the error to report
            return None
        # The comment names the submission, whose arrays are queued one after the other by this process alone.
        return next((number for number in map(array_id, queued) if number not in self._numbers), None)

    def _script(self, array: Array, chunk: Chunk, folder: Path, ahead: Sequence[str] = ()) -> str:
        folder = folder.absolute()
        command = f"{self._python} -u -m submitit.core._submit {shlex.quote(str(folder))}"
        return build_script(
            array, chunk, self.site, folder=folder, command=command, as_array=len(chunk.indices) > 1, ahead=ahead
        )

    @property
    def _python(self) -> str:
        return self.site.python or shlex.quote(sys.executable)

    def _max_array_size(self) -> int:
        if self._largest is None:
            try:
                config = limits.read_config()
            except SlurmError as error:
                raise SubmitError(str(error)) from error
            self._cluster = config.get("ClusterName")
            # An array counts with all its elements against MaxJobCount.
            sizes = (int(config.get(name, DEFAULT_MAX_ARRAY_SIZE)) for name in ("MaxArraySize", "MaxJobCount"))
            self._largest = max(1, min(sizes))
        return self._largest

    def _size_or_default(self) -> int:
        try:
            return self._max_array_size()
        except SubmitError:  # no Slurm answers: scripts can be looked at all the same
            return DEFAULT_MAX_ARRAY_SIZE

    @staticmethod
    def _each(command: Sequence[str], ids: Iterable[str], *, comma_separated: bool = False) -> None:
        jobs = compress_ids(ids)
        for start in range(0, len(jobs), IDS_PER_CALL):
            part = jobs[start : start + IDS_PER_CALL]
            try:
                call([*command, ",".join(part)] if comma_separated else [*command, *part])
            except UnknownJobError:
                continue


def _fresh_folder(array: Array) -> Path:
    own_folder(array.folder)
    for number in count():
        folder = array.folder / f"{array.name}.{number}"
        try:
            folder.mkdir(mode=0o755)
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable")


def _classify_refusal(message: str) -> SubmitError:
    lines = [line.strip() for line in message.splitlines() if "sbatch: " in line or "error:" in line]
    text = " ".join(lines) or one_line(message)
    return (_LimitError if any(part in text.lower() for part in _LIMITS) else SubmitError)(text)


def make(*, folder: Path, site: Site, entry: Callable[[Path], int] | None) -> SlurmArrays:
    """Called by ``slurm.executors.make``; neither a folder nor an entry is needed here."""
    del folder, entry
    return SlurmArrays(site=site)
