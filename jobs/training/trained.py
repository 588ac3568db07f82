"""A trained run opened again: its settings, its data set, and logits for any titles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs import models
from jobs.data.dataset import Dataset, Split
from jobs.errors import DamagedFileError
from jobs.storage import Storage, read_json, write_json

SETTINGS = "settings.json"
BATCH_TITLES = 1024

Part = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]


def write_settings(folder: Path, settings: Mapping[str, Any], dataset: Dataset) -> Path:
    """Leave beside the weights what is needed to use them; ``settings`` holds ``architecture``."""
    write_json(folder / SETTINGS, {**settings, "dataset": dataset.folder.name})
    return folder / SETTINGS


class Trained:
    """A run's kept weights; ``settings`` are those it was trained with."""

    def __init__(self, settings: Mapping[str, Any], dataset: Dataset, folder: Path) -> None:
        self.settings = settings
        self.dataset = dataset
        self._folder = folder
        self._estimator = models.describe(settings["architecture"]).KIND == "estimator"
        self._open()

    @classmethod
    def open(cls, storage: Storage, folder: Path) -> Trained:
        """Open a run's folder; raises FileNotFoundError, or ValueError for a damaged file."""
        settings = read_json(folder / SETTINGS)
        if not isinstance(settings, dict) or not {"architecture", "dataset"} <= settings.keys():
            raise DamagedFileError(f"{folder / SETTINGS}: not a run's settings: train it again")
        return cls(settings, Dataset.open(storage.dataset(settings["dataset"])), folder)

    def _open(self) -> None:
        name = self.settings["architecture"]
        if self._estimator:
            self._fitted = import_module(f"jobs.models.{name}.estimator").load(self._folder)
            return
        from jobs.training import checkpoint, device
        from jobs.training.loop import build_network

        # Training's `cuda` says nothing of who computes now, with a GPU or without; its `cpu` is a choice.
        self._device = device.choose("cpu" if self.settings["device"] == "cpu" else "auto")
        weights = checkpoint.read_model(self._folder / checkpoint.MODEL)
        self._model = build_network(self.settings, self.dataset, self._device)
        try:
            self._model.load_state_dict(weights)
        except RuntimeError as error:  # how torch says that names or shapes differ
            path = self._folder / checkpoint.MODEL
            why = " ".join(str(error).split())
            raise DamagedFileError(f"{path}: not of these settings and this data set: train it again: {why}") from error
        self._model.eval()

    def prepare(self, *, cpus: int) -> None:
        """Set this process up to compute by the rules that the run was trained by."""
        if self._estimator:
            return
        from jobs.training import device

        device.prepare(
            self._device,
            cpus=cpus,
            deterministic=self.settings["deterministic"],
            precision=self.settings["precision"],
        )

    def logits(self, split: Split) -> Iterator[Part]:
        """(row numbers, logits (B, C), labels (B,)) in some order that covers the split once."""
        if self._estimator:
            yield np.arange(len(split)), self._fitted.scores(split), np.asarray(split.labels, dtype=np.int64)
            return
        import torch

        from jobs.data.batches import EvaluationBatches
        from jobs.training.loop import forward

        with torch.inference_mode():
            for batch in EvaluationBatches(split, BATCH_TITLES, self._device):
                logits, _ = forward(self._model, batch, self._device, self.settings["precision"])
                yield batch.rows.cpu().numpy(), logits.cpu().numpy(), batch.labels.cpu().numpy()
