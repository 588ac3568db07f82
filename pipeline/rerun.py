"""What is made again although it is done: which tasks, and their former results, moved aside until they can go back."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.attempt import mark_former
from jobs.search.study import open_study
from jobs.storage import LOG, Storage
from jobs.task import RECORD, TASK
from pipeline.decisions.submission import to_remake
from pipeline.named import find_tasks
from pipeline.plan import Plan, Planned
from sharedfs.errors import DamagedFileError, InputError
from sharedfs.files import claim, plain_folder

CHANGED = "changed"
KEPT_FILES = (TASK, LOG)
SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerun:
    """Ids of tasks: ``remade`` are done and made again, ``left_out`` are trials that were chosen, and stay as they are.

    ``restarted`` are those remade and what had begun on their results: nothing of what they left is gone on from.
    """

    remade: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()
    restarted: frozenset[str] = frozenset()

    def within(self, tasks: Collection[str]) -> Rerun:
        """The same of these tasks alone, as those that are submitted."""
        return replace(self, remade=self.remade.intersection(tasks), restarted=self.restarted.intersection(tasks))


def choose(plan: Plan, rerun: str | None, done: Mapping[str, Sequence[str]]) -> Rerun:
    """The tasks of a plan that are made again for ``rerun``, a group, a run or ``changed``.

    ``done`` says of each task that is done in what the code that made it was not what it is now. Raises InputError
    where no task is meant, or trials alone, or a data set on which a search has trials.
    """
    if rerun is None:
        return Rerun()
    if rerun == CHANGED:
        chosen = {task for task, changed in done.items() if changed}
    else:
        chosen = {planned.id for planned in find_tasks(plan, rerun)}
    trials = {planned.id for planned in plan.tasks if planned.stage == "trial" and planned.id in chosen}
    if trials and trials == chosen:
        raise InputError(
            f"{rerun}: {len(trials)} trials and nothing else: trials are never made again, as they were compared with "
            "each other; another seed of the search makes another search"
        )
    restarted = to_remake(plan.tasks, done.keys(), chosen)
    made = Rerun(
        remade=restarted.intersection(done), left_out=frozenset(trials.intersection(done)), restarted=restarted
    )
    _check_searches(plan, made.remade)
    return made


def _check_searches(plan: Plan, remade: Collection[str]) -> None:
    """Raise InputError where a search has trials on a data set that is made again.

    They would stay, beside later trials on other data, and their models would be read in another vocabulary.
    """
    storage = Storage(plan.manifest.storage)
    sets = {planned.id for planned in plan.tasks if planned.stage == "preprocess" and planned.id in remade}
    names = {planned.id: planned.search.name for planned in plan.searches}
    for folder in sorted(storage.searches.iterdir()) if sets and storage.searches.is_dir() else ():
        try:
            study = open_study(storage, folder.name)
        except (OSError, DamagedFileError):
            continue  # nothing is trained by it any more
        if study.definition.dataset in sets and (trials := study.numbers()):
            raise InputError(
                f"data set {study.definition.dataset} can't be made again: search {names.get(study.id, study.id)} has "
                f"{len(trials)} trials on it, which stay as they are; take the search out of its manifest, remove it "
                "with `tanda gc`, make the data set again, then put the search back"
            )


def move_aside(storage: Storage, planned: Planned, undo: ExitStack) -> None:
    """Move a result that is made again aside, its record first: without it nothing here counts as done.

    ``undo`` is given what puts it back, the record last.
    """
    folder = storage.run(planned.id)
    names = sorted((path.name for path in folder.iterdir() if path.is_file()), key=lambda name: name != RECORD)
    names = [name for name in names if name not in KEPT_FILES]
    if names:
        aside = _new_folder(plain_folder(folder / SUPERSEDED))
        undo.callback(aside.rmdir)
        for name in names:
            move(folder / name, aside / name, undo)
    note = mark_former(folder)
    if note is not None:
        undo.callback(note.unlink)
    dataset = storage.dataset(planned.id)
    if planned.stage == "preprocess" and dataset.exists():
        # Whoever reads it has it open; its next attempt removes what is called so.
        move(dataset, dataset.with_name(f".tmp-{planned.id}-superseded-{uuid.uuid4().hex[:12]}"), undo)


def move(path: Path, target: Path, undo: ExitStack) -> None:
    """Rename; ``undo`` is given what renames it back."""
    path.replace(target)
    undo.callback(target.replace, path)


def _new_folder(parent: Path) -> Path:
    number = len(list(parent.iterdir())) + 1
    while not claim(parent / f"{number:04d}"):
        number += 1
    return parent / f"{number:04d}"
