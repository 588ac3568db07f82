"""Stage train: one architecture with one set of settings on one data set."""

from __future__ import annotations

from jobs.context import Context, Outcome
from jobs.data.dataset import Dataset
from jobs.models import Recipe, read_recipe, training_units
from jobs.storage import Storage
from jobs.task import Task
from jobs.training.run import train


def run(context: Context) -> Outcome:
    """Train as the task says; raises TaskFailedError (diverged, at chance) or TaskInterruptedError."""
    recipe = recipe_of(context.storage, context.task)
    dataset = Dataset.open(context.storage.dataset(recipe.dataset))
    result = train(context, recipe=recipe, dataset=dataset, folder=context.folder)
    return Outcome(files=result.files, result=result.figures, units=training_units(recipe.architecture))


def recipe_of(storage: Storage, task: Task) -> Recipe:
    """What a train task trains by; a refit takes its search's winner's settings, with a seed of its own."""
    if "search" not in task.settings:
        return read_recipe({**task.plumbing, **task.settings}, storage.run(task.id) / "task.json")
    from jobs.search.summary import winner_recipe

    winner: Recipe = winner_recipe(storage, task.settings["search"], task.settings["trials"], task.plumbing)
    return winner.with_seed(task.settings["seed"])
