"""Slurm through submitit: one sbatch for each piece of an array. The only module that imports submitit."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor

from slurm import limits
from slurm.array import Array, Site, SubmitError, Submitted
from slurm.chunking import Chunk, dependency_clause, split_array
from slurm.commands import SlurmError, UnknownJobError, call, scrubbed_process
from slurm.element import Element, run_on_node, write_elements
from slurm.job_ids import compress
from slurm.output import Sent
from slurm.owned import own_folder, owner_writes, shell_checks
from slurm.query import JobState, states

DEFAULT_MAX_ARRAY_SIZE = 1001  # Slurm's own, for a dry run where no Slurm answers
COMMENT_LENGTH = 240
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
    """submitit's executor, which can also say what it would send."""

    @classmethod
    def affinity(cls) -> int:
        # A dry run needs no srun.
        return 2

    def text(self, command: str) -> str:
        return str(self._make_submission_file_text(command, ""))

    @property
    def command(self) -> str:
        return str(self._submitit_command_str)


@dataclass(slots=True)
class SlurmArrays:
    """The ``slurm`` executor: see ``slurm.executors.Executor``."""

    site: Site = field(default_factory=Site)
    _largest: int | None = None
    _cluster: str | None = None

    def submit(self, array: Array) -> Submitted:
        """Queue an array by as few sbatch calls as the site allows; what a limit refuses is left out and said."""
        ids: list[str | None] = [None] * len(array.elements)
        lanes: dict[int, list[str]] = {}
        scripts: list[Path] = []
        refused: str | None = None
        calls = 0
        waiting = list(split_array(array, largest=self._max_array_size()))
        while waiting:
            piece = waiting.pop(0)
            calls += 1
            try:
                sent, script = self._send(array, piece, lanes.get(piece.lane or 0, []))
            except _LimitError as error:
                refused = str(error)
                if len(piece.places) == 1:
                    break
                waiting[:0] = piece.halves()
                continue
            except SubmitError as error:
                # What is queued already must not be forgotten: it is reported with the rest as refused.
                if not any(ids):
                    raise
                refused = str(error)
                break
            scripts.append(script)
            for place, id_ in zip(piece.places, sent, strict=True):
                ids[place] = id_
            if piece.lane is not None:
                lanes[piece.lane] = sent[:1]
        return Submitted(
            ids=tuple(ids),
            refused=None if all(ids) else refused,
            calls=calls,
            scripts=tuple(scripts),
            comment=_clean(array.comment) if array.comment else None,
            cluster=self._cluster,
        )

    def states(self, ids: Iterable[str], *, sent: Mapping[str, Sent] | None = None) -> Mapping[str, JobState]:
        return states(ids, sent=sent)

    def cancel(self, ids: Iterable[str]) -> None:
        self._each(["scancel"], ids)

    def hold(self, ids: Iterable[str]) -> None:
        self._each(["scontrol", "hold"], ids, one_word=True)

    def release(self, ids: Iterable[str]) -> None:
        self._each(["scontrol", "release"], ids, one_word=True)

    def scripts(self, array: Array) -> tuple[str, ...]:
        """The sbatch scripts, one for each piece, as they would go."""
        pieces = split_array(array, largest=self._size_or_default())
        folders = (array.folder / f"{array.name}.{number}" for number in range(len(pieces)))
        return tuple(self._text(array, piece, folder) for piece, folder in zip(pieces, folders, strict=True))

    def write_scripts(self, array: Array, folder: Path) -> tuple[Path, ...]:
        """Write scripts to read, change and ``sbatch`` by hand; they need no pickles, only the JSON beside them."""
        own_folder(folder)
        paths = []
        pieces = split_array(array, largest=self._size_or_default())
        for number, piece in enumerate(pieces):
            stem = array.name if len(pieces) == 1 else f"{array.name}.{number}"
            elements = tuple(_element(array, place) for place in piece.places)
            write_elements(folder / f"{stem}.json", elements)
            command = f"{self._python()} -u -m slurm.element {shlex.quote(str(folder / f'{stem}.json'))}"
            path = folder / f"{stem}.sbatch"
            with owner_writes():
                path.write_text(self._text(array, piece, folder, command=command))
            paths.append(path)
        return tuple(paths)

    def _send(self, array: Array, piece: Chunk, ahead: Sequence[str]) -> tuple[list[str], Path]:
        folder = _fresh_folder(array)
        executor = self._executor(array, piece, folder, ahead)
        work = [SubmittedElement(_element(array, place)) for place in piece.places]
        try:
            # submitit prints what sbatch said of a refusal, and raises it: once is enough.
            with owner_writes(), scrubbed_process(), redirect_stderr(StringIO()), executor.batch():
                jobs = [executor.submit(element) for element in work]
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            # submitit leaves the pickles of a refused submission behind.
            shutil.rmtree(folder)
            raise _understood(str(error)) from error
        for leftover in folder.glob(".submission_file_*"):
            leftover.unlink()
        return [str(job.job_id) for job in jobs], jobs[0].paths.submission_file

    def _text(self, array: Array, piece: Chunk, folder: Path, *, command: str | None = None) -> str:
        executor = self._executor(array, piece, folder, ())
        if len(piece.places) > 1 or command:
            executor.parameters["map_count"] = len(piece.places)
        return executor.text(command or executor.command)

    def _executor(self, array: Array, piece: Chunk, folder: Path, ahead: Sequence[str]) -> _Submitit:
        executor = _Submitit(folder, max_num_timeout=MAX_TIMEOUTS, python=self._python())
        executor.update_parameters(**self._parameters(array, piece, folder, ahead))
        return executor

    def _parameters(self, array: Array, piece: Chunk, folder: Path, ahead: Sequence[str]) -> dict[str, Any]:
        given, site = array.resources, self.site
        gpus = f"{site.gres_type}:{given.gpus}" if site.gres_type else given.gpus
        return {
            "job_name": array.name,
            "partition": site.partition,
            "account": site.account,
            "qos": site.qos,
            "constraint": site.constraint,
            "exclude": ",".join(filter(None, (site.exclude, *array.exclude))) or None,
            "time": given.time_min,
            "cpus_per_task": given.cpus,
            "gpus_per_node": gpus if given.gpus else None,
            "ntasks_per_node": 1,
            "mem": f"{round(given.mem_gb * 1024)}M",
            "signal_delay_s": given.warning_s,
            "array_parallelism": piece.throttle or len(piece.places),
            "stderr_to_stdout": True,
            "wckey": None,
            "comment": _comment(array, piece),
            "setup": [*shell_checks(_loaded_from(array, folder)), *self._setup(array)],
            # From 22.05 on srun no longer takes over what sbatch was told.
            "srun_args": [f"--cpus-per-task={given.cpus}"],
            "additional_parameters": self._additional(array, piece, ahead),
        }

    def _additional(self, array: Array, piece: Chunk, ahead: Sequence[str]) -> dict[str, Any]:
        clause = dependency_clause(array, piece, ahead)
        return {
            "requeue": True,
            **({"dependency": clause, "kill-on-invalid-dep": "yes"} if clause else {}),
            **({"hold": True} if array.held else {}),
            **{name.replace("_", "-"): value for name, value in self.site.extra.items()},
        }

    def _setup(self, array: Array) -> list[str]:
        code = {"PYTHONPATH": str(array.code)} if array.code else {}
        # SAFEPATH: the working directory must not come before the code that was submitted.
        exports = {**self.site.environment, **array.environment, **code, "PYTHONSAFEPATH": "1"}
        return [
            *(f"module load {shlex.quote(module)}" for module in self.site.modules),
            *((self.site.activate,) if self.site.activate else ()),
            *(f"export {name}={shlex.quote(value)}" for name, value in exports.items()),
        ]

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
        except SubmitError:
            return DEFAULT_MAX_ARRAY_SIZE

    @staticmethod
    def _each(command: Sequence[str], ids: Iterable[str], *, one_word: bool = False) -> None:
        words = compress(ids)
        for start in range(0, len(words), IDS_PER_CALL):
            part = words[start : start + IDS_PER_CALL]
            try:
                call([*command, ",".join(part)] if one_word else [*command, *part])
            except UnknownJobError:
                continue


def _element(array: Array, place: int) -> Element:
    return Element(
        paths=tuple(str(path) for path in array.elements[place]),
        command=array.command,
        cpus=array.resources.cpus,
        gpus=array.resources.gpus,
        signs=array.signs,
        warn_s=array.resources.warning_s,
    )


def _loaded_from(array: Array, folder: Path) -> list[Path]:
    """The folders that what runs is loaded from, outermost first; code that stays elsewhere is not ours to judge."""
    code = [array.code] if array.code is not None and array.code.is_relative_to(array.folder) else []
    return [array.folder, *code, folder]


def _comment(array: Array, piece: Chunk) -> str:
    paths = (path.name for place in piece.places for path in array.elements[place])
    return _clean(array.comment or " ".join(paths))


def _clean(text: str) -> str:
    # The accounting prints a table with this very separator.
    text = text.replace("|", "/").replace("\n", " ")
    return text if len(text) <= COMMENT_LENGTH else text[: COMMENT_LENGTH - 3] + "..."


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


def _understood(said: str) -> SubmitError:
    lines = [line.strip() for line in said.splitlines() if "sbatch: " in line or "error:" in line]
    text = " ".join(lines) or said.strip()
    return (_LimitError if any(words in text.lower() for words in _LIMITS) else SubmitError)(text)


def make(*, folder: Path, site: Site, entry: Callable[[Path], int] | None) -> SlurmArrays:
    """Called by ``slurm.executors.make``; neither a folder nor an entry is needed here."""
    del folder, entry
    return SlurmArrays(site=site)
