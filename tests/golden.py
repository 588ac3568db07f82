"""Golden figures: what the product computes today for a small fixed data set, printed as one JSON document.

    python tests/golden.py           # print what this code computes
    python tests/golden.py --write   # make that the expected file, tests/data/golden.json

Renew the expected file only where results are meant to change: it is what says whether a change of structure was one.

It goes through the command line and reads what lies on the storage, so that code can move without this program. Losses
are seen where every network's step has to pass: in torch's own cross-entropy.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH, which jobs are run with, leaves it out

from kernels_fixture import KERNELS

os.environ |= KERNELS

import argparse
import contextlib
import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import metadata
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jobs.data.dataset import Dataset
from pipeline.__main__ import main as tanda

DATA = Path(__file__).parent / "data"
MANIFEST = DATA / "golden.yaml"
EXPECTED = DATA / "golden.json"
STEPS = 20
FIRST_WORDS = 12
DECIMALS = 6
LIBRARIES = ("numpy", "polars", "scikit-learn", "scipy", "torch")
SPLITS = ("train", "validation", "test")
RESULTS = ("kept_epoch", "epochs_run", "parameters", "stopped")
FIGURES = ("train_loss", "validation_loss", "validation_balanced_accuracy", "validation_accuracy")


def collect() -> dict[str, Any]:
    """Every golden figure: of each data set, named for the first run on it, and of each run."""
    data_sets: dict[str, Any] = {}
    runs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        storage = Path(folder)
        os.environ["TANDA_STORAGE"] = folder
        tasks = json.loads(_command("plan", str(MANIFEST), "--json"))["tasks"]
        owner: dict[str, str] = {}
        for train in (task for task in tasks if task["stage"] == "train"):
            name = train["run"]
            with _seeing_losses() as losses:
                _command("submit", str(MANIFEST), "--executor", "inline", "--only", train["group"])
            (dataset,) = train["needs"]
            if owner.setdefault(dataset, name) == name:
                data_sets[name] = _describe_data(Dataset.open(storage / "datasets" / dataset))
            evaluate = next(
                task["id"] for task in tasks if task["stage"] == "evaluate" and train["id"] in task["needs"]
            )
            runs[name] = {
                "data_set": owner[dataset],
                "losses": losses[:STEPS],
                "trained": _describe_training(storage / "runs" / train["id"]),
                "evaluated": _describe_evaluation(storage / "runs" / evaluate),
            }
    versions = {library: metadata.version(library) for library in LIBRARIES}
    return {"made_with": versions, "data_sets": data_sets, "runs": runs}


def _command(*words: str) -> str:
    """Run a command of the product in this process; returns its standard output, raises RuntimeError for a failure."""
    output, errors = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    arguments, sys.argv = sys.argv, ["tanda", *words]
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            tanda()
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"tanda {' '.join(words)}: exit status {end.code}\n{errors.getvalue()}") from end
    finally:
        sys.argv = arguments
    output.seek(0)
    return output.read()


@contextlib.contextmanager
def _seeing_losses() -> Iterator[list[float]]:
    """The loss of every training step inside the block, in order."""
    losses: list[float] = []
    cross_entropy: Callable[..., Tensor] = torch.nn.functional.cross_entropy

    def seen(*arguments: Any, **options: Any) -> Tensor:
        loss = cross_entropy(*arguments, **options)
        if loss.requires_grad:  # and not one of a validation
            losses.append(_rounded(loss.item()))
        return loss

    torch.nn.functional.cross_entropy = seen
    try:
        yield losses
    finally:
        torch.nn.functional.cross_entropy = cross_entropy


def _describe_data(dataset: Dataset) -> dict[str, Any]:
    vectors = np.asarray(dataset.vectors(), np.float64)
    return {
        "rows": {part: asdict(account) for part, account in dataset.meta.parts.items()},
        "categories": dataset.classes,
        "vocabulary": {
            "size": len(dataset.vocabulary),
            "first": dataset.vocabulary[:FIRST_WORDS],
            "sha256": _digest("\n".join(dataset.vocabulary).encode()),
        },
        "vectors": {"sum": _rounded(vectors.sum()), "squares": _rounded((vectors**2).sum())},
        "splits": {name: _describe_split(dataset, name) for name in SPLITS},
    }


def _describe_split(dataset: Dataset, name: str) -> dict[str, Any]:
    split = dataset.splits[name]
    first = [dataset.vocabulary[token] for token in split.tokens[: split.offsets[1]]]
    return {
        "titles": len(split),
        "first_title": " | ".join(first),
        "token_ids_sha256": _digest_of_numbers(split.tokens),
        "offsets_sha256": _digest_of_numbers(split.offsets),
        "labels_sha256": _digest_of_numbers(split.labels),
        "reliable_sha256": _digest_of_numbers(split.reliable),
    }


def _describe_training(folder: Path) -> dict[str, Any]:
    result = json.loads((folder / "record.json").read_text())["result"]
    return {**{name: result[name] for name in RESULTS}, **{name: _rounded(result[name]) for name in FIGURES}}


def _describe_evaluation(folder: Path) -> dict[str, Any]:
    evaluation = json.loads((folder / "evaluation.json").read_text())
    with np.load(folder / "predictions.npz", allow_pickle=False) as arrays:
        return {
            split: {
                **{name: _rounded(value) for name, value in evaluation[split].items() if isinstance(value, float)},
                # A digit a title: under ten categories here, and a change of one can be seen in a diff.
                "labels": "".join(map(str, arrays[f"{split}_label"])),
                "predicted": "".join(map(str, arrays[f"{split}_predicted"])),
            }
            for split in ("validation", "test")
        }


def _rounded(value: float) -> float:
    return round(float(value), DECIMALS)


def _digest_of_numbers(values: NDArray[Any]) -> str:
    # As 64 bits each: how wide they are stored is no result.
    return _digest(np.asarray(values, "<i8").tobytes())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def main() -> None:
    """Print the golden figures, or make them the expected ones."""
    parser = argparse.ArgumentParser(description="What the product computes for a small fixed data set, as JSON.")
    parser.add_argument("--write", action="store_true", help=f"write {EXPECTED.name} instead of printing")
    write = parser.parse_args().write
    text = json.dumps(collect(), indent=1, ensure_ascii=False) + "\n"
    if write:
        EXPECTED.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
