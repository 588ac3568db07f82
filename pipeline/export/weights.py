"""A trained model's weights as safetensors, which any program reads and which can run no code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from jobs import metrics_log
from jobs.settings import values
from jobs.task import Record
from jobs.training.run import SETTINGS, read_trained_recipe
from pipeline.export.contents import WEIGHTS
from sharedfs.errors import DamagedFileError
from sharedfs.files import open_plain, read_plain

TORCH, NUMPY = ".pt", ".npz"
NO_WEIGHTS = frozenset({SETTINGS, metrics_log.NAME})
NUMBERS = "biuf"  # the kinds of arrays that safetensors has


def weights_files(folder: Path, record: Record) -> dict[str, bytes]:
    """The weights of a trained run, by path within an export; a file of another kind, of a plugin's, as it is.

    Raises OSError, or DamagedFileError naming a damaged file.
    """
    recipe = read_trained_recipe(folder)
    about = {"architecture": recipe.architecture, "dataset": recipe.dataset, "settings": values(recipe.settings)}
    # One entry: several have no order, and the same model is to be the same bytes.
    note = {"recipe": json.dumps(about, sort_keys=True)}
    files = {}
    for name in sorted(Path(file).name for file in record.files):
        path = folder / name
        if name in NO_WEIGHTS:
            continue
        if path.suffix == TORCH:
            files[f"{WEIGHTS}/{folder.name}.safetensors"] = _of_torch(path, note)
        elif path.suffix == NUMPY and (arrays := _arrays(path)) is not None:
            files[f"{WEIGHTS}/{folder.name}.safetensors"] = _of_numpy(arrays, note)
        else:
            files[f"{WEIGHTS}/{folder.name}/{name}"] = read_plain(path)
    return files


def _of_torch(path: Path, note: Mapping[str, str]) -> bytes:
    from safetensors.torch import save

    from jobs.training.checkpoint import read_model

    # Tensors that share memory, as tied weights do, are each written whole.
    tensors = {name: tensor.contiguous().clone() for name, tensor in read_model(path).items()}
    content: bytes = save(tensors, dict(note))
    return content


def _of_numpy(arrays: Mapping[str, np.ndarray], note: Mapping[str, str]) -> bytes:
    from safetensors.numpy import save

    content: bytes = save(dict(arrays), dict(note))
    return content


def _arrays(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a file; None where some are no numbers."""
    try:
        with open_plain(path) as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: np.asarray(array, order="C") for name, array in stored.items()}
    except (ValueError, KeyError, EOFError, BadZipFile) as error:
        raise DamagedFileError(f"{path}: damaged, train the run again: {error}") from error
    return arrays if all(array.dtype.kind in NUMBERS for array in arrays.values()) else None
