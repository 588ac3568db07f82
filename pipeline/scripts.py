"""The sbatch scripts of a plan: to look at, or to change and submit by hand."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.storage import Storage
from pipeline import submission
from pipeline.arrays import ArrayBuilder, ArrayRequest, make_requests, needs_of
from pipeline.decisions.closing import CLOSE
from pipeline.decisions.submission import pending, queued_elements, to_submit
from pipeline.manifest.plugins import record_plugins
from pipeline.plan import Plan
from pipeline.rerun import choose
from pipeline.status import done_on_storage, task_states
from pipeline.submission import Queued, Submission, commit, snapshot, write_source
from pipeline.submit import archive_record
from slurm.array import Array, array_id
from slurm.by_hand import Call, Script, make_notes, submit_text
from slurm.executors import check_name
from slurm.owned import own_folder, owner_writes
from slurm.sbatch import shown_comment

if TYPE_CHECKING:
    from slurm.executors.slurm import SlurmArrays

SUBMIT = "submit.sh"


def dry_run(plan: Plan, *, executor: str | None = None, rerun: str | None = None) -> str:
    """What ``submit`` would do, as text: a line for each task that is made again, then every script.

    Raises UnknownExecutorError, and InputError for what can't be made again.
    """
    check_name(executor or plan.manifest.cluster.executor)
    again = choose(plan, rerun, done_on_storage(plan))
    tasks = [planned for planned in plan.tasks if planned.id in again.remade]
    names = [f"# made again: {planned.group}/{planned.run}/{planned.stage} {planned.id}\n" for planned in tasks]
    return "".join([*names, *(f"# --- {name}\n{text}\n" for name, text in scripts(plan, again.remade))])


def scripts(plan: Plan, remade: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """The scripts that ``submit`` would send, with their names; nothing is written. ``remade`` tasks count as not done.

    Slurm has given no job ids yet: 1, 2, ... stand for those of the first array, the second, and so on.
    """
    slurm = _slurm(plan)
    folder = Storage(plan.manifest.storage).submissions / f"TIME-{plan.manifest.name}"
    for array in _arrays(plan, folder, remade):
        pieces = slurm.scripts(array)
        for number, text in enumerate(pieces):
            yield array.name if len(pieces) == 1 else f"{array.name}.{number}", text


def _slurm(plan: Plan) -> SlurmArrays:
    from slurm.executors.slurm import SlurmArrays  # here: it imports submitit, which a submission elsewhere never needs

    return SlurmArrays(site=plan.manifest.cluster)


def _arrays(plan: Plan, folder: Path, remade: Collection[str]) -> Iterator[Array]:
    builder = ArrayBuilder(
        manifest=plan.manifest, storage=Storage(plan.manifest.storage), folder=folder, git_commit=commit()
    )
    element_ids: dict[str, str] = {}
    done = done_on_storage(plan).keys() - set(remade)
    requests = make_requests(pending(plan.tasks, done), {}, canary=plan.manifest.canary)
    for number, request in enumerate(requests, start=1):
        yield builder.array(request, element_ids)
        for index, pack in enumerate(request.packs):
            job = str(number) if len(request.packs) == 1 else f"{number}_{index}"
            element_ids.update(dict.fromkeys((planned.id for planned in pack), job))
    if element_ids:
        yield builder.closing(tuple(dict.fromkeys(element_ids.values())))


# Scripts to submit by hand.


def write_scripts(plan: Plan, folder: Path) -> list[Path]:
    """Write the scripts of what is missing, and ``submit.sh``, which queues all in the right order; their paths.

    The folder, a new one, may be anywhere: what the jobs read is a submission on the storage, as if it had been
    submitted from here, and known to everybody once the jobs are. Nothing is written where nothing is missing.
    Raises FileExistsError when the folder is there already.
    """
    storage = Storage(plan.manifest.storage)
    if plan.manifest.umask is not None:
        os.umask(plan.manifest.umask)
    with submission.exclusively(storage):
        states = task_states(plan)
        for reason, count in Counter(state.reason for state in states.values() if state.state == "unknown").items():
            print(f"tanda: {count} left alone, as their state is unknown: {reason}", file=sys.stderr)
        tasks = to_submit(plan.tasks, states)
        if not tasks:
            return []
        folder = folder.resolve()
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o755)
        for unguarded in submission.guard(storage):
            print(f"tanda: {unguarded}: {submission.UNGUARDED.format(unguarded)}", file=sys.stderr)
        begun = submission.begin(storage, manifest=plan.manifest.name, executor="slurm", git_commit=commit())
        with ExitStack() as undo:
            undo.callback(shutil.rmtree, storage.submissions / begun.name)
            undo.callback(shutil.rmtree, folder)
            snapshot(storage.submissions / begun.name / "code")
            write_source(storage.submissions / begun.name, plan)
            record_plugins(storage)
            for planned in tasks:
                planned.task.write(storage)
                archive_record(storage.run(planned.id), undo)
            writer = _Writer(plan=plan, submission=begun, folder=folder, queued=queued_elements(states, "slurm", ()))
            paths = writer.write(make_requests(tasks, {}, canary=plan.manifest.canary))
            undo.pop_all()
        return paths


@dataclass(slots=True, kw_only=True)
class _Writer:
    """Scripts as they are written; ``queued`` are elements of tasks that are in the queue, ``scripts`` of the others.

    ``arrays`` are what each script will be once it is a job, its elements by their index in it.
    """

    plan: Plan
    submission: Submission
    folder: Path
    queued: Mapping[str, str]
    scripts: dict[str, str] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    arrays: dict[str, Queued] = field(default_factory=dict)

    @property
    def _home(self) -> Path:
        return Storage(self.plan.manifest.storage).submissions / self.submission.name

    def write(self, requests: list[ArrayRequest]) -> list[Path]:
        builder = ArrayBuilder(
            manifest=self.plan.manifest, storage=Storage(self.plan.manifest.storage), folder=self._home,
            git_commit=self.submission.git_commit,
        )  # fmt: skip
        slurm = _slurm(self.plan)
        own_folder(self.folder)
        paths: list[Path] = []
        for request in requests:
            # What it waits for has no number yet: submit.sh puts it in.
            array = builder.array(request, {})
            packs = tuple(tuple(planned.id for planned in pack) for pack in request.packs)
            needs = dict.fromkeys([*request.canaries, *needs_of(request)])
            written = slurm.write_scripts(array, self.folder)
            self._note(array, written, needs, packs, request.stage, request.group)
            paths += [script.path for script in written]
        closing = builder.closing(())
        written = slurm.write_scripts(closing, self.folder)
        self._note(closing, written, self.scripts, ((),), CLOSE, CLOSE)
        replace(self.submission, by_hand=self.arrays).write(Storage(self.plan.manifest.storage))
        start = self.folder / SUBMIT
        with owner_writes():
            start.write_text(submit_text(self.calls, self._home))
        start.chmod(0o755)
        return [*paths, *(script.path for script in written), start]

    def _note(
        self,
        array: Array,
        scripts: tuple[Script, ...],
        needs: Collection[str],
        packs: tuple[tuple[str, ...], ...],
        stage: str,
        group: str,
    ) -> None:
        """Note what an array's scripts wait for, and what is in them."""
        make_notes(self._home, scripts)
        after = dict.fromkeys(self.scripts[need] for need in needs if need in self.scripts)
        after_jobs = dict.fromkeys(array_id(self.queued[need]) for need in needs if need in self.queued)
        lanes: dict[int, str] = {}
        for script in scripts:
            ahead = [lanes[script.lane]] if script.lane in lanes else []
            self.calls.append(Call(script=script.name, after=(*after, *ahead), after_jobs=tuple(after_jobs)))
            if script.lane is not None:
                lanes[script.lane] = script.name
            elements = {str(place): packs[index] for place, index in enumerate(script.indices)}
            self.scripts.update({task: script.name for tasks in elements.values() for task in tasks})
            self.arrays[script.name] = Queued(
                stage=stage, group=group, job_ids=(), elements=elements, mem_gb=array.resources.mem_gb, name=array.name,
                comment=shown_comment(array.comment) if array.comment else None,
                named_cluster=array.site.clusters if array.site else None,
            )  # fmt: skip
