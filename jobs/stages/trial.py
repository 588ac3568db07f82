"""Stage trial: one point of a search, proposed, stored, trained, and compared with others at each rung."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs import entry
from jobs.context import Context, Outcome
from jobs.data.dataset import Dataset
from jobs.models import Recipe
from jobs.search.next_trial import StopAtRung, claim_point, next_promotable
from jobs.search.study import study_of, value_of
from jobs.storage import Storage
from jobs.task import Task, is_done

if TYPE_CHECKING:
    from jobs.training.run import TrainResult


@dataclass(frozen=True, slots=True, kw_only=True)
class _Numbered:
    """What a trial's task has beside its search's definition."""

    number: int


def run(context: Context) -> Outcome:
    """Train this task's trial, at its own point and from its checkpoint if it has begun before.

    Raises TaskFailedError (diverged, at chance) or TaskInterruptedError, as any training does.
    """
    study = study_of(context.storage, context.task)
    number = context.task.settings_as(_Numbered).number
    point = claim_point(study, number)
    context.log(f"trial {number} of search {study.id}: {', '.join(f'{name} {point[name]}' for name in sorted(point))}")
    recipe = study.recipe(point, context.task.plumbing)
    stop_at_rung = StopAtRung(study, number, recipe.settings)
    result = _train(context, recipe, stop_at_rung)
    return Outcome(
        files=result.files,
        result={
            **result.figures,
            "stopped": stop_at_rung.stopped or result.figures.get("stopped"),
            "trial": number,
            "metric": study.definition.metric,
            "value": value_of(study, result.lines, recipe.settings),
        },
        units=(*recipe.units, *study.definition.units),
    )


def after_done(task: Task, storage: Storage, interrupted: Callable[[], bool]) -> int:
    """Continue stopped trials that have been promoted since, until there is none; returns an exit status.

    See ``jobs.search.next_trial`` for the protocol. Where continuing one fails for a reason that is not the trial's
    own, this process ends as failed: whatever is broken on its node, its GPU say, would fail the next trial too, and
    these are the best there are.
    """
    study = study_of(storage, task)
    while (promotable := next_promotable(study, task.id)) is not None:
        if interrupted():
            return entry.PAUSED
        trial, attempt = promotable
        print(f"trial {trial.number} is continued after epoch {trial.epochs}", file=sys.stderr, flush=True)
        status = entry.take_over(trial.folder, after=attempt, by=task.id, interrupted=interrupted)
        if status == entry.FAILED and is_done(storage, trial.task):
            return entry.FAILED
    return entry.PAUSED if interrupted() else entry.DONE


def _train(context: Context, recipe: Recipe, stop_at_rung: StopAtRung) -> TrainResult:
    # Here: `after_done` is called for every finished trial, and torch takes a second to import.
    from jobs.training.run import train

    dataset = Dataset.open(context.storage.dataset(recipe.dataset))
    return train(context, recipe=recipe, dataset=dataset, folder=context.folder, stop_callback=stop_at_rung)
