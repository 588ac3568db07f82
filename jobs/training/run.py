"""A training run of any architecture: trained, or opened again for its logits. Imports torch for networks alone."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs import metrics_log
from jobs.context import Context
from jobs.data.dataset import Dataset, Split
from jobs.metrics import every_epoch, searchable
from jobs.metrics_log import EpochMetrics
from jobs.models import Recipe, read_recipe
from jobs.plugins import MODELS, torch_side
from jobs.storage import Storage
from jobs.training.metrics import of_parts
from sharedfs.documents import read_json, write_json
from sharedfs.errors import DamagedFileError
from sharedfs.files import sync_file, sync_folder
from sharedfs.typed_json import Json

SETTINGS = "settings.json"
TRAINED_ON = "dataset_digest"  # in it: of the data set's content; missing in those of earlier versions
VECTORS_SEED = "vectors_seed"  # in it: by what word vectors were drawn; earlier versions drew all with seed 0
BATCH_TITLES, ESTIMATED_TITLES = 1024, 65_536  # scored at once by a network, by an estimator

Part = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]
StopCallback = Callable[[Sequence[EpochMetrics]], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a run leaves: its files, the lines of its metrics log, and its figures for the record.

    ``figures["stopped"]`` is why it ended before its last epoch, or None.
    """

    files: tuple[Path, ...]
    lines: tuple[EpochMetrics, ...]
    figures: Mapping[str, Json]


def write_recipe(folder: Path, recipe: Recipe, content_digest: str | None, vectors_seed: int = 0) -> Path:
    """Write beside the weights what is needed to use them, and what its data set's content was, where it is known."""
    aside: dict[str, Json] = {} if content_digest is None else {TRAINED_ON: content_digest}
    if vectors_seed:
        aside[VECTORS_SEED] = vectors_seed
    write_json(folder / SETTINGS, {**recipe.document, **aside})
    return folder / SETTINGS


def read_trained_recipe(folder: Path | str) -> Recipe:
    """What a run was trained by; raises FileNotFoundError before it begins, or ValueError for a damaged file."""
    document = _read_settings(folder)
    for aside in (TRAINED_ON, VECTORS_SEED):
        document.pop(aside, None)
    return read_recipe(document, f"{folder}/{SETTINGS}")


def trained_on(folder: Path) -> str | None:
    """The content digest of the data set that a run is trained on; None before it begins, and in earlier versions."""
    try:
        value = _read_settings(folder).get(TRAINED_ON)
    except FileNotFoundError:
        return None
    return None if value is None else str(value)


def vectors_seed(folder: Path) -> int:
    """By what seed the word vectors of a run that was begun are drawn."""
    value = _read_settings(folder).get(VECTORS_SEED, 0)
    if not isinstance(value, int):
        raise DamagedFileError(f"{folder}/{SETTINGS}: {VECTORS_SEED} is no whole number")
    return value


def check_trained_on(folder: Path, dataset: Dataset, remedy: str = "make it again with `tanda submit --rerun`") -> None:
    """Raise DamagedFileError where a run was trained on other content than its data set has now.

    A model means nothing to another vocabulary or other categories, whatever the data set is called.
    """
    was = trained_on(folder)
    if was not in (None, dataset.content_digest):
        raise DamagedFileError(
            f"{folder}: trained on data set {dataset.folder.name} as it was before it was made again "
            f"(content {was}, now {dataset.content_digest}): {remedy}"
        )


def _read_settings(folder: Path | str) -> dict[str, Json]:
    document = read_json(f"{folder}/{SETTINGS}")
    return document if isinstance(document, dict) else {}


def train(
    context: Context,
    *,
    recipe: Recipe,
    dataset: Dataset,
    folder: Path,
    stop_callback: StopCallback | None = None,
) -> TrainResult:
    """Train one architecture, or resume from the checkpoint in ``folder``.

    ``stop_callback`` is called with the lines of the metrics log after every epoch; the run stops if it returns a
    reason. A run stopped so keeps its checkpoint, and goes on from there when it is called again and
    ``stop_callback`` returns None. Raises TaskFailedError (diverged, at chance), TaskInterruptedError (saved, after
    the context was interrupted), and DamagedFileError where the checkpoint is of other data.
    """
    if MODELS.load(recipe.architecture).KIND == "estimator":
        return _fit(context, recipe=recipe, dataset=dataset, folder=folder)
    from jobs.training.trainer import Trainer

    trainer = Trainer(context, recipe, dataset, folder, stop_callback)
    finished = trainer.finished()
    if finished is not None:
        return finished
    trainer.prepare()
    return trainer.train()


def kept_figures(line: EpochMetrics) -> dict[str, Json]:
    """What of a line of the metrics log is in the record of a run whose weights are that epoch's."""
    return {name: metrics_log.figure(line, name) for name in ("train_loss", *searchable())}


# An architecture that is fitted in one go instead of stepping through epochs.


def _fit(context: Context, *, recipe: Recipe, dataset: Dataset, folder: Path) -> TrainResult:
    """Fit, save and score on training and validation titles: a metrics log of one line."""
    began = time.monotonic()
    estimator = torch_side(MODELS.load(recipe.architecture), "estimator")
    fitted = estimator.fit(dataset, recipe.settings, context)
    scores = {}
    for part in ("train", "validation"):
        split = dataset.splits[part]
        scores[part] = of_parts(_scored(fitted, split), titles=len(split), classes=len(dataset.classes))
    spent = time.monotonic() - began
    curves = {part: {name: scores[part].figures[name] for name in every_epoch()} for part in scores}
    line = metrics_log.make_line(
        train=curves["train"],
        validation=curves["validation"],
        epoch=1,
        step=1,
        gradient_norm=None,
        seconds=spent,
        titles_per_s=len(dataset.splits["train"]) / spent,
        ended=time.time(),
        attempt=context.attempt.number,
    )
    context.attempt.check()
    files = _save(fitted, folder, context.attempt.number)
    files = (*files, write_recipe(folder, recipe, dataset.content_digest), folder / metrics_log.NAME)
    metrics_log.rewrite(folder, [line])
    figures: dict[str, Json] = {
        **kept_figures(line),
        "kept_epoch": 1,
        "best_epoch": 1,
        "epochs_run": 1,
        "train_seconds": spent,
        "titles_per_s": line["titles_per_s"],
        "parameters": getattr(fitted, "parameters", None),  # an older plugin's may lack it: not after the whole fit
        "stopped": None,
        "device": "cpu",
    }
    return TrainResult(files=files, lines=(line,), figures=figures)


def _scored(fitted: Any, split: Split) -> Iterator[Part]:
    """Parts of the split, as ``Trained.logits``: all titles' logits at once may be more than memory holds."""
    for start in range(0, len(split), ESTIMATED_TITLES):
        part = split.cut(start, start + ESTIMATED_TITLES)
        rows = np.arange(start, start + len(part))
        yield rows, fitted.scores(part), np.asarray(part.labels, dtype=np.int64)


def _save(fitted: Any, folder: Path, attempt: int) -> tuple[Path, ...]:
    """Save into a temporary folder, then move each file to its name: a file at its name is complete. Raises OSError."""
    temporary = folder / f".fitted-{attempt}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    files = []
    for path in fitted.save(temporary):
        sync_file(path)  # before its name: after a crash the name must not stand for a file without content
        files.append(path.replace(folder / path.name))
    temporary.rmdir()
    sync_folder(folder)
    return tuple(files)


# A trained run opened again.


class Trained:
    """A run's kept weights; ``recipe`` is what it was trained by."""

    def __init__(self, recipe: Recipe, dataset: Dataset, folder: Path) -> None:
        self.recipe = recipe
        self.dataset = dataset
        self._folder = folder
        self._estimator = MODELS.load(recipe.architecture).KIND == "estimator"
        self._open()

    @classmethod
    def open(cls, storage: Storage, folder: Path) -> Trained:
        """Open a run's folder; raises FileNotFoundError, or ValueError for a damaged file, or for a run whose data
        set is no longer the one that it was trained on."""
        recipe = read_trained_recipe(folder)
        dataset = Dataset.open(storage.dataset(recipe.dataset))
        check_trained_on(folder, dataset)
        return cls(recipe, dataset, folder)

    def _open(self) -> None:
        if self._estimator:
            name = self.recipe.architecture
            self._fitted = torch_side(MODELS.load(name), "estimator").load(self._folder)
            return
        from jobs.training import checkpoint, device
        from jobs.training.loop import build_network

        # `cpu` was a choice; `cuda` only says what training ran on, and this process may have no GPU.
        self._device = device.choose("cpu" if self.recipe.network.device == "cpu" else "auto")
        weights = checkpoint.read_model(self._folder / checkpoint.MODEL)
        self._model = build_network(self.recipe, self.dataset, self._device, vectors_seed=vectors_seed(self._folder))
        try:
            self._model.load_state_dict(weights)
        except RuntimeError as error:  # how torch says that names or shapes differ
            path = self._folder / checkpoint.MODEL
            why = " ".join(str(error).split())
            raise DamagedFileError(f"{path}: not of these settings and this data set: train it again: {why}") from error
        self._model.eval()

    def prepare(self, *, cpus: int) -> None:
        """Set this process up to compute as the run was trained."""
        if self._estimator:
            return
        from jobs.training import device

        device.prepare(
            self._device,
            cpus=cpus,
            deterministic=self.recipe.network.deterministic,
            precision=self.recipe.network.precision,
            tf32=self.recipe.network.tf32,
        )

    def logits(self, split: Split) -> Iterator[Part]:
        """Parts of the split, which together cover it once: row numbers (B,), logits (B, C), labels (B,)."""
        if self._estimator:
            yield from _scored(self._fitted, split)
            return
        import torch

        from jobs.data.batches import EvaluationBatches
        from jobs.models.subwords import read_subwords
        from jobs.training.loop import forward

        if self.recipe.network.subwords and split.subwords is not None:
            read_subwords(self._model, split.subwords, self._device)
            split = split.with_words()
        with torch.inference_mode():
            for batch in EvaluationBatches(split, BATCH_TITLES, self._device):
                logits, _ = forward(self._model, batch, self._device, self.recipe.network.precision)
                yield batch.rows.cpu().numpy(), logits.cpu().numpy(), batch.labels.cpu().numpy()
