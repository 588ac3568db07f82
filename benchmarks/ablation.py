"""What each addition to a network brings on real titles, beside the network without it, with a 95 % interval.

    python benchmarks/ablation.py --data ../shared/data/instacart/titles_aisles.csv [--text title] [--label category]
        [--seeds 0 1 2] [--epochs 6] [--storage FOLDER] [ADDITION ...]

Titles are split at random, seed 0: 10 % validation, 15 % test. Printed is balanced accuracy on test, the mean of the
seeds, and the difference to the base: a percentile bootstrap over titles, within each category, and over seeds (Efron
1979). With ``--storage`` what was trained before is not trained again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from jobs import entry
from jobs.data.identity import identify
from jobs.data.settings import Columns, Data, Embeddings, Split, Text, Vocabulary
from jobs.settings import Value, beside
from jobs.storage import Storage
from jobs.task import Task
from jobs.testing import recipe_with
from jobs.training.metrics import PREDICTIONS

DRAWS = 2_000
SHARED: dict[str, Value] = {
    "batch_size": 128,
    "logit_adjustment": 1.0,
    "hidden_layers": (),
    "freeze_embeddings": False,
    "device": "cpu",
}
BASES: dict[str, dict[str, Value]] = {
    "mlp": {"learning_rate": 3e-3, "embedding_scale": 0.01, "embedding_dropout": 0.3},
    "cnn": {"embedding_scale": 0.1, "embedding_dropout": 0.5, "filters_length": (1, 2, 3)},
    "rnn": {"learning_rate": 3e-3, "embedding_scale": 0.1, "embedding_dropout": 0.5},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """Settings and settings of ``text`` that are changed, for these architectures."""

    settings: Mapping[str, Value] = field(default_factory=dict)
    text: Mapping[str, Value] = field(default_factory=dict)
    of: tuple[str, ...] = ("mlp", "cnn", "rnn")


ADDITIONS = {
    "subwords": Addition(settings={"subwords": True}, text={"subwords": (3, 5)}),
    "digits-zero": Addition(text={"digits": "zero"}),
    "label-smoothing": Addition(settings={"label_smoothing": 0.1}),
    # In place of the logit adjustment, which serves the same end.
    "balanced": Addition(settings={"class_weights": "balanced", "logit_adjustment": 0.0}),
    "square-root": Addition(settings={"class_weights": "square_root", "logit_adjustment": 0.5}),
    "gru": Addition(settings={"cell": "gru"}, of=("rnn",)),
    "bidirectional": Addition(settings={"bidirectional": True}, of=("rnn",)),
    "pooling": Addition(settings={"pooling": "max"}, of=("rnn",)),
}
BASE = Addition()


def done(storage: Storage, task: Task) -> Path:
    """The folder of a task that is done, now or before; raises RuntimeError with what it printed."""
    folder = storage.run(task.id)
    if (folder / "record.json").exists():
        return folder
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        status = entry.run(task.write(storage))
    if status != entry.DONE:
        raise RuntimeError(told.getvalue())
    return folder


def dataset(storage: Storage, given: argparse.Namespace, text: Mapping[str, Value]) -> str:
    """The id of the data set."""
    data = Data(
        source=str(given.data.resolve()),
        split=Split(validation=0.1, test=0.15, seed=0, by="random"),
        columns=Columns(text=given.text, label=given.label),
        deduplicate=True,
        min_rows_per_category=10,
        text=Text(**{"digits": "keep", "min_letters": 1, "accents": "strip", **text}),
        vocabulary=Vocabulary(min_count=1, max_size=200_000),
        max_length=64,
        embeddings=Embeddings(size=100),
    )
    settings, plumbing = identify(data)
    task = Task(stage="preprocess", settings=settings, plumbing=plumbing)
    done(storage, task)
    return task.id


def answers(
    storage: Storage, given: argparse.Namespace, architecture: str, addition: Addition
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Whether each test title was answered rightly, (seeds, N), and its category, (N,)."""
    made = dataset(storage, given, addition.text)
    rows = []
    for seed in given.seeds:
        settings = {**SHARED, **BASES[architecture], **addition.settings, "epochs": given.epochs, "seed": seed}
        recipe = recipe_with(architecture, made, **settings)
        trained = Task(stage="train", settings=recipe.identity, needs=(made,), plumbing=beside(recipe.settings))
        done(storage, trained)
        scored = done(storage, Task(stage="evaluate", settings={"train": trained.id}, needs=(trained.id,)))
        with np.load(scored / PREDICTIONS) as arrays:
            labels = arrays["test_label"].astype(np.int64)
            rows.append(arrays["test_predicted"] == labels)
    return np.stack(rows), labels


def interval(differences: NDArray[np.float64], labels: NDArray[np.int64]) -> tuple[float, float]:
    """Of the mean over categories of what titles gained, (seeds, N): 2.5 and 97.5 % of the draws."""
    generator = np.random.default_rng(0)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    gains = []
    for _ in range(DRAWS):
        seeds = generator.integers(len(differences), size=len(differences))
        titles = differences[seeds].mean(0)
        gains.append(np.mean([titles[generator.choice(each, len(each))].mean() for each in members]))
    low, high = np.percentile(gains, [2.5, 97.5])
    return float(low), float(high)


def balanced(right: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Balanced accuracy, the mean over seeds."""
    titles = right.mean(0)
    return float(np.mean([titles[labels == label].mean() for label in np.unique(labels)]))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--text", default="title", help="the column of titles")
    parser.add_argument("--label", default="category", help="the column of categories")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--networks", nargs="+", choices=[*BASES], default=[*BASES])
    parser.add_argument("--storage", type=Path)
    parser.add_argument("additions", nargs="*", metavar="ADDITION", help=", ".join(ADDITIONS))
    given = parser.parse_intermixed_args(arguments)
    with TemporaryDirectory(prefix="tanda-") as root:
        storage = Storage((given.storage or Path(root)).resolve())
        for architecture in given.networks:
            base, labels = answers(storage, given, architecture, BASE)
            print(f"{architecture}: {balanced(base, labels):.4f}", flush=True)
            for name in given.additions or ADDITIONS:
                if architecture not in ADDITIONS[name].of:
                    continue
                right, same = answers(storage, given, architecture, ADDITIONS[name])
                assert (same == labels).all()
                gain = right.astype(np.float64) - base
                low, high = interval(gain, labels)
                print(
                    f"{architecture} {name}: {balanced(right, labels):.4f}, {balanced(gain, labels):+.4f} "
                    f"(95 %: {low:+.4f} to {high:+.4f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
