"""Slurm through submitit: one sbatch for each chunk of an array. The only module that imports submitit.

submitit pickles what an element runs, calls sbatch, and unpickles it on the node; the script is ``slurm.sbatch``'s.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass, field
from io import StringIO
from itertools import count
from pathlib import Path

from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError, JobPaths
from submitit.slurm.slurm import SlurmExecutor

from slurm import limits
from slurm.array import Array, Site, Submitted, compress_ids
from slurm.by_hand import Script, note_line
from slurm.chunking import Chunk, split_array
from slurm.commands import call, scrubbed_process
from slurm.element import Element, run_on_node, write_elements
from slurm.errors import SlurmError, SubmitError, UnknownJobError, one_line
from slurm.job_state import JobIdentity, JobState
from slurm.limits import DEFAULT_MAX_ARRAY_SIZE
from slurm.owned import own_folder, owner_writes
from slurm.query import states
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

    def __init__(self, folder: Path, script: str, time_min: int) -> None:
        super().__init__(folder)
        self._script = script
        self._time_min = time_min

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
        for number, element in enumerate(elements):
            work = DelayedSubmission(SubmittedElement(element))
            work.set_timeout(self._time_min, MAX_TIMEOUTS)
            pickles.append(self.folder / f"{number}.pkl")
            work.dump(pickles[-1])
        job = self._submit_command("")
        ids = [f"{job.job_id}_{index}" for index in range(len(elements))] if len(elements) > 1 else [str(job.job_id)]
        try:
            for id_, pickle in zip(ids, pickles, strict=True):
                pickle.rename(JobPaths(self.folder, id_).submitted_pickle)
        except OSError:
            # Queued without what it starts from: nobody would know of it, and its tasks would be queued again.
            with suppress(SlurmError):  # it fails on its node then, and the first error is the one to report
                call(["scancel", str(job.job_id)])
            raise
        return ids, job.paths.submission_file


@dataclass(slots=True)
class SlurmArrays:
    """The ``slurm`` executor: see ``slurm.executors.Executor``."""

    site: Site = field(default_factory=Site)
    _largest: int | None = None
    _cluster: str | None = None

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

    def write_scripts(self, array: Array, folder: Path) -> tuple[Script, ...]:
        """Write scripts to read, change and ``sbatch`` by hand.

        What they start from, and their logs, are in the array's folder: no pickles, only JSON.
        """
        own_folder(folder)
        written = []
        chunks = split_array(array, largest=self._size_or_default())
        for number, chunk in enumerate(chunks):
            name = array.name if len(chunks) == 1 else f"{array.name}.{number}"
            # Arrays of a stage that ask for different things have one name.
            same = sum(1 for path in folder.glob("*.sbatch") if re.fullmatch(rf"{re.escape(name)}(-\d+)?", path.stem))
            name = f"{name}-{same + 1}" if same else name
            own = _fresh_folder(array)
            elements = own / "elements.json"
            write_elements(elements, tuple(array.element(index) for index in chunk.indices))
            command = f"{self._python} -u -m slurm.element {shlex.quote(str(elements))}"
            note = note_line(array.folder, name)
            text = build_script(array, chunk, self.site, folder=own, command=command, as_array=True, note=note)
            path = folder / f"{name}.sbatch"
            with owner_writes(), path.open("x") as file:
                file.write(text)
            written.append(Script(path=path, indices=chunk.indices, lane=chunk.lane))
        return tuple(written)

    def _send(self, array: Array, chunk: Chunk, ahead: Sequence[str]) -> tuple[list[str], Path]:
        folder = _fresh_folder(array)
        executor = _Submitit(folder, self._script(array, chunk, folder, ahead), array.resources.time_min)
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
        return sent

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
                self._largest = limits.max_array_size(config)
            except SlurmError as error:
                raise SubmitError(str(error)) from error
            self._cluster = config.get("ClusterName")
        return self._largest

    def _size_or_default(self) -> int:
        try:
            return self._max_array_size()
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
    if any(part in text.lower() for part in _LIMITS):
        return _LimitError(text)
    return SubmitError(f"{text}{limits.legal_instead(text)}")


def make(*, folder: Path, site: Site, entry: Callable[[Path], int] | None) -> SlurmArrays:
    """Called by ``slurm.executors.make``; neither a folder nor an entry is needed here."""
    del folder, entry
    return SlurmArrays(site=site)
