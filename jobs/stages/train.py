"""Stage train: one architecture with one set of settings on one data set."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.context import Context, Outcome
from jobs.data.dataset import Dataset
from jobs.models import Recipe, read_recipe
from jobs.storage import Storage
from jobs.task import TASK, Task
from jobs.training.run import train


@dataclass(frozen=True, slots=True, kw_only=True)
class Refit:
    """A task that trains by the settings of a search's winner among so many trials, with a seed of its own."""

    search: str
    trials: int
    seed: int


def run(context: Context) -> Outcome:
    """Train as the task says; raises TaskFailedError (diverged, at chance) or TaskInterruptedError."""
    recipe = recipe_of(context.storage, context.task)
    dataset = Dataset.open(context.storage.dataset(recipe.dataset))
    result = train(context, recipe=recipe, dataset=dataset, folder=context.folder)
    return Outcome(files=result.files, result=result.figures, units=recipe.units)


def recipe_of(storage: Storage, task: Task) -> Recipe:
    """What a train task trains by; a refit takes its search's winner's settings, with a seed of its own."""
    if "search" not in task.settings:
        return read_recipe({**task.plumbing, **task.settings}, storage.run(task.id) / TASK)
    from jobs.search.summary import winner_recipe

    refit = task.settings_as(Refit)
    return winner_recipe(storage, refit.search, refit.trials, task.plumbing).with_seed(refit.seed)
