"""Our MLP with trained word vectors against fastText on instacart: the balanced accuracy each reaches, and when.

fastText (``pip install fasttext-wheel``, for this program alone) is trained as it is usually used: 5 epochs, learning
rate 0.5. Both learn from the same titles and words and are scored on the same test titles, with vectors of the same
size and on the same cores, in turn. Start-up is left out on both sides: for fastText the time of a run of no epochs,
for ours everything before the first step. Ours counts validation after every epoch as training time. Our learning rate
and number of epochs are those of the grid's best run on the validation titles, found first; a tie goes to fewer epochs.

    python benchmarks/against_fasttext.py [--data ../shared/data/instacart/titles_aisles.csv] [--rounds 3]

Claimed: ours reaches fastText's balanced accuracy in at most fastText's time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import time
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fasttext
import numpy as np
from sklearn.metrics import balanced_accuracy_score

from jobs.attempt import begin
from jobs.context import Context
from jobs.data.dataset import Dataset, Split
from jobs.data.identity import identify
from jobs.data.settings import Columns, Data, Embeddings, Text, Vocabulary
from jobs.data.settings import Split as Shares
from jobs.stages import preprocess
from jobs.storage import Storage
from jobs.task import Task
from jobs.testing import recipe_with
from jobs.training.run import Trained, train

SIZE = 100
OURS = {
    "hidden_layers": [],
    "freeze_embeddings": False,
    "embedding_scale": 0.01,
    "logit_adjustment": 1.0,
    "batch_size": 512,
    "keep": "last",
}
GRID = [{"epochs": epochs, "learning_rate": rate} for epochs in (1, 2, 3) for rate in (5e-3, 1e-2, 2e-2, 4e-2)]


def cores() -> int:
    return len(os.sched_getaffinity(0))


def run_context(storage: Storage, stage: str, settings: Any, plumbing: Any = None) -> Context:
    task = Task(stage=stage, settings=settings, plumbing=plumbing or {})
    folder = task.write(storage)
    return Context(task=task, storage=storage, folder=folder, attempt=begin(folder), cpus=cores())


def prepare(file: Path, storage: Storage) -> str:
    """The data set's id: words as they stand, the split of configs/instacart.yaml."""
    data = Data(
        source=str(file.resolve()),
        split=Shares(validation=0.05, test=0.15, seed=0),
        columns=Columns(text="title", label="category"),
        deduplicate=True,
        min_rows_per_category=10,
        text=Text(digits="keep", min_letters=1, accents="strip"),
        vocabulary=Vocabulary(min_count=1, max_size=200_000),
        max_length=64,
        embeddings=Embeddings(size=SIZE),
    )
    context = run_context(storage, "preprocess", *identify(data))
    preprocess.run(context)
    return context.task.id


def lines(split: Split, *, labelled: bool) -> list[str]:
    """fastText's lines: its words are our token ids, so that both read the very same."""
    ends = split.offsets.tolist()
    words = [" ".join(f"w{token}" for token in split.tokens[low:high]) for low, high in pairwise(ends)]
    if not labelled:
        return words
    return [f"__label__{label} {title}" for label, title in zip(split.labels, words, strict=True)]


def run_fasttext(file: Path, test: list[str]) -> tuple[float, list[int]]:
    """Seconds of its five epochs, and the labels it gives to the test titles."""
    spent = {}
    for epochs in (0, 5):
        began = time.perf_counter()
        model = fasttext.train_supervised(
            str(file), epoch=epochs, lr=0.5, dim=SIZE, minCount=1, thread=cores(), verbose=0
        )
        spent[epochs] = time.perf_counter() - began
    # Past its Python wrapper, which does not know NumPy 2.
    found = [model.f.predict(title + "\n", 1, 0.0, "strict")[0][1] for title in test]
    return spent[5] - spent[0], [int(label.removeprefix("__label__")) for label in found]


def train_ours(storage: Storage, dataset: Dataset, name: str, given: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """A training's folder and figures."""
    recipe = recipe_with("mlp", dataset.folder.name, **given)
    context = run_context(storage, "train", {**recipe.document, "round": name})
    with contextlib.redirect_stderr(io.StringIO()):
        return context.folder, dict(train(context, recipe=recipe, dataset=dataset, folder=context.folder).figures)


def choose(storage: Storage, dataset: Dataset) -> dict[str, Any]:
    """The grid's settings with the best balanced accuracy on the validation titles."""
    scores = []
    for number, given in enumerate(GRID):
        _, figures = train_ours(storage, dataset, f"grid {number}", {**OURS, **given})
        scores.append(float(figures["validation_balanced_accuracy"]))
    best = int(np.argmax(scores))
    print(f"chosen on validation ({scores[best]:.4f}): {GRID[best]}")
    return {**OURS, **GRID[best]}


def run_ours(storage: Storage, dataset: Dataset, number: int, given: dict[str, Any]) -> tuple[float, np.ndarray]:
    """Seconds of our epochs, and the labels we give to the test titles."""
    folder, figures = train_ours(storage, dataset, f"round {number}", given)
    with contextlib.redirect_stderr(io.StringIO()):
        parts = list(Trained.open(storage, folder).logits(dataset.splits["test"]))
    predicted = np.empty(len(dataset.splits["test"]), np.int64)
    for rows, logits, _ in parts:
        predicted[rows] = logits.argmax(1)
    return float(figures["train_seconds"]), predicted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).parents[2] / "shared/data/instacart/titles_aisles.csv"
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with TemporaryDirectory(prefix="tanda-") as root:
        storage = Storage(Path(root))
        dataset = Dataset.open(storage.dataset(prepare(given.data, storage)))
        file = Path(root) / "train.txt"
        file.write_text("\n".join(lines(dataset.splits["train"], labelled=True)) + "\n")
        test, labels = lines(dataset.splits["test"], labelled=False), np.asarray(dataset.splits["test"].labels)
        ours = choose(storage, dataset)
        rounds = [
            (*run_fasttext(file, test), *run_ours(storage, dataset, number, ours)) for number in range(given.rounds)
        ]
    print(f"{len(labels)} test titles, vectors of {SIZE}, {cores()} cores, best and worst of {given.rounds}")
    for name, at in (("fastText", 0), ("ours", 2)):
        times = [row[at] for row in rounds]
        scores = [balanced_accuracy_score(labels, row[at + 1]) for row in rounds]
        print(
            f"{name:9} {min(times):5.2f} to {max(times):5.2f} s   "
            f"balanced accuracy {min(scores):.4f} to {max(scores):.4f}"
        )
    theirs_s, ours_s = (min(row[at] for row in rounds) for at in (0, 2))
    print(f"best times: ours takes {ours_s / theirs_s:.2f} of fastText's")


if __name__ == "__main__":
    main()
