"""Stage evaluate: the kept weights of a run on validation and test titles."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jobs.calibration import Calibration
from jobs.context import Context, Outcome, Progress, TaskInterruptedError
from jobs.data.dataset import SEEN, Dataset
from jobs.models import model_unit
from jobs.storage import Storage
from jobs.task import Task
from jobs.training.metrics import EVALUATION, PREDICTIONS, TitleScores, most_probable, titles_of
from jobs.training.run import Part, Trained
from jobs.units import Unit
from sharedfs.documents import write_json
from sharedfs.files import write_whole
from sharedfs.typed_json import Json

REVISION = 3
SPLITS = ("validation", "test")
# How many categories of each title are kept with their probabilities: errors are looked at on test titles.
TOP = {"validation": 1, "test": 5}


@dataclass(frozen=True, slots=True, kw_only=True)
class OfTraining:
    """An evaluation of a train task, by its id; ``metrics`` are in the id what metrics that are plugins compute."""

    train: str
    metrics: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OfTrial:
    """An evaluation of the trial of this rank among so many of a search."""

    search: str
    trials: int
    rank: int
    metrics: Mapping[str, str | int] = field(default_factory=dict)


def run(context: Context) -> Outcome:
    """Write evaluation.json and predictions.npz; raises TaskInterruptedError when asked to stop between splits."""
    run_folder = target(context.storage, context.task)
    trained = Trained.open(context.storage, run_folder)
    trained.prepare(cpus=context.cpus)
    classes = trained.dataset.classes
    evaluation: dict[str, Json] = {"classes": classes}
    arrays: dict[str, np.ndarray] = {}
    # Which trial won is recorded: a search that is extended may get another winner, this evaluation may not.
    result: dict[str, Json] = {} if "train" in context.task.settings else {"train": run_folder.name}
    calibration = Calibration()
    for name in SPLITS:
        if context.interrupted():
            raise TaskInterruptedError(f"before the {name} titles; nothing is lost but a moment")
        split = trained.dataset.splits[name]
        context.progress(Progress(phase=f"evaluate {name}", done=0, total=len(split), unit="titles"), force=True)
        top = _Top(titles=len(split), count=min(TOP[name], len(classes)))
        parts = top.seen(calibration.seen(name, trained.logits(split), titles=len(split)))
        titles = titles_of(parts, titles=len(split), classes=len(classes))
        scores = titles.scores()
        about, figures = _of_subsets(trained.dataset, name, titles)
        evaluation[name] = {**scores.figures, **scores.per_category(), **about}
        result |= {f"{name}_{figure}": value for figure, value in {**scores.figures, **figures}.items()}
        arrays[f"{name}_label"] = np.asarray(split.labels)
        arrays[f"{name}_predicted"] = scores.predicted.astype(split.labels.dtype)
        arrays[f"{name}_reliable"] = np.asarray(split.reliable)
        arrays[f"{name}_top"] = top.categories.astype(split.labels.dtype)
        arrays[f"{name}_probability"] = top.probabilities
        score, loss = scores.figures["balanced_accuracy"], scores.figures["loss"]
        context.log(f"{name}: balanced accuracy {score:.4f}, loss {loss:.4f}")
    context.attempt.check()
    evaluation["calibration"] = calibration.document()
    result |= calibration.result()
    units = (model_unit(trained.recipe.architecture), Unit("evaluate"))
    return Outcome(files=_publish(context.folder, evaluation, arrays), result=result, units=units)


class _Top:
    """The most probable categories of each title, (N, count), and their probabilities, noted as logits pass by."""

    def __init__(self, *, titles: int, count: int) -> None:
        self.categories = np.empty((titles, count), np.int64)
        self.probabilities = np.empty((titles, count), np.float32)

    def seen(self, parts: Iterable[Part]) -> Iterator[Part]:
        """The same parts."""
        for rows, logits, labels in parts:
            self.categories[rows], self.probabilities[rows] = most_probable(logits, self.categories.shape[1])
            yield rows, logits, labels


def _of_subsets(dataset: Dataset, split: str, titles: TitleScores) -> tuple[dict[str, Json], dict[str, Json]]:
    """What evaluation.json says beside the figures of all titles, and what of it is in the record.

    ``fingerprint`` of the titles; ``unseen``: the figures of those that training does not have; ``languages``: of each
    language where there are several. A data set of an earlier version knows none of these.
    """
    statement, facts = dataset.meta.statement.get(split), dataset.facts(split)
    if statement is None or facts is None:
        return {}, {}
    unseen = (facts.seen & SEEN) == 0
    about: dict[str, Json] = {"fingerprint": statement.fingerprint}
    result: dict[str, Json] = {
        "fingerprint": statement.fingerprint,
        "titles": len(unseen),
        "unseen_titles": int(unseen.sum()),
    }
    if unseen.any():
        figures = titles.scores(unseen).figures
        about["unseen"] = {"titles": int(unseen.sum()), **figures}
        result |= {f"unseen_{name}": figures[name] for name in ("balanced_accuracy", "accuracy")}
    if len(statement.languages) > 1:
        masks = {name: np.asarray(facts.languages == at) for at, name in enumerate(facts.names)}
        about["languages"] = {
            name: {"titles": int(mask.sum()), **titles.scores(mask).figures}
            for name, mask in masks.items()
            if mask.any()
        }
    return about, result


def target(storage: Storage, task: Task) -> Path:
    """The folder of the run to evaluate: a train task's, or that of a search's trial by its rank."""
    if "train" in task.settings:
        return storage.run(task.settings_as(OfTraining).train)
    from jobs.search.summary import winner

    ranked = task.settings_as(OfTrial)
    return winner(storage, ranked.search, ranked.trials, ranked.rank)


def _publish(folder: Path, evaluation: dict[str, Json], arrays: dict[str, np.ndarray]) -> tuple[Path, ...]:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_whole(folder / PREDICTIONS, buffer.getvalue())
    write_json(folder / EVALUATION, evaluation)
    return folder / EVALUATION, folder / PREDICTIONS
