"""Stage train: one architecture with one set of settings on one data set."""

from __future__ import annotations

from typing import Any

from jobs import models
from jobs.context import Context, Outcome
from jobs.data.dataset import Dataset
from jobs.settings import resolve
from jobs.storage import Storage
from jobs.task import Task
from jobs.training.run import train


def run(context: Context) -> Outcome:
    """Train as the task says; raises TaskFailedError (diverged, at chance) or TaskInterruptedError."""
    settings = resolved(context.storage, context.task)
    dataset = Dataset.open(context.storage.dataset(settings["dataset"]))
    result = train(context, settings=settings, dataset=dataset, folder=context.folder)
    return Outcome(files=result.files, result=result.figures)


def resolved(storage: Storage, task: Task) -> dict[str, Any]:
    """Every setting of a train task, with ``architecture`` and ``dataset``; a refit takes its search's winner's."""
    stated = {**task.plumbing, **task.settings}
    if "search" in stated:
        from jobs.search.summary import winner_settings

        stated = {**winner_settings(storage, stated["search"], stated["trials"]), **stated}
    architecture = stated["architecture"]
    values = resolve(models.settings(architecture), stated)
    return {"architecture": architecture, "dataset": stated["dataset"], **values}
