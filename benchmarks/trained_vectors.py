"""What word vectors made of the training titles add to each network, over a random start, frozen and trained on.

    python benchmarks/trained_vectors.py --data FILE [--text title] [--label category] [--seeds 0 1 2] [mlp cnn rnn]

Each network starts from random vectors and from those of ``embeddings: {train: {}}``. The scale that they start with is
chosen on the validation titles, for each, by the first seed; what is printed is the mean and the standard deviation
over the seeds on the test titles, and whether no seed of one start reaches any of the other.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory

from jobs import entry
from jobs.data.identity import identify
from jobs.data.settings import Columns, Data, Embeddings, Split, Text, TrainedVectors, Vocabulary
from jobs.models import Recipe
from jobs.settings import Value, beside
from jobs.storage import Storage
from jobs.task import Task
from jobs.testing import recipe_with
from sharedfs.documents import read_json
from sharedfs.typed_json import Json

SIZE = 100
SHARED: dict[str, Value] = {
    "epochs": 6,
    "batch_size": 128,
    "logit_adjustment": 1.0,
    "hidden_layers": (),
    "device": "cpu",
    "patience_chance": 1000,
}
SHAPES: dict[str, dict[str, Value]] = {
    "mlp": {"learning_rate": 3e-3, "embedding_dropout": 0.3},
    "cnn": {"learning_rate": 1e-3, "embedding_dropout": 0.5, "filters_count": 100, "filters_length": (1, 2, 3)},
    "rnn": {"learning_rate": 3e-3, "embedding_dropout": 0.5, "lstm_layers": 1, "lstm_features": 128},
}
SCALES = (0.01, 0.1, 0.3, 1.0, 3.0)
CHOSEN_BY, JUDGED_BY = "validation_balanced_accuracy", ("test_balanced_accuracy", "test_accuracy")


def run(storage: Storage, task: Task) -> dict[str, Json]:
    """The result of a task that is done, now or before."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        folder = task.write(storage)
        assert entry.run(folder) == entry.DONE
    result = read_json(folder / "record.json")["result"]
    assert isinstance(result, dict)
    return result


def prepare(storage: Storage, given: argparse.Namespace, train: TrainedVectors | None) -> str:
    """The id of the data set: each title once, three quarters of them to train on."""
    data = Data(
        source=str(given.data.resolve()),
        split=Split(validation=0.1, test=0.15, seed=0),
        columns=Columns(text=given.text, label=given.label),
        deduplicate=True,
        min_rows_per_category=10,
        text=Text(digits="keep", min_letters=1, accents="strip"),
        vocabulary=Vocabulary(min_count=1, max_size=200_000),
        max_length=64,
        embeddings=Embeddings(size=SIZE, train=train),
    )
    settings, plumbing = identify(data)
    task = Task(stage="preprocess", settings=settings, plumbing=plumbing)
    print(f"{'random' if train is None else 'trained'} vectors: {run(storage, task)['vectors']}")
    return task.id


def train_task(recipe: Recipe) -> Task:
    """The task that trains by a recipe."""
    needs, plumbing = (recipe.dataset,), beside(recipe.settings)
    return Task(stage="train", settings=recipe.identity, needs=needs, plumbing=plumbing)


def measure(
    storage: Storage, name: str, dataset: str, frozen: bool, seeds: list[int]
) -> tuple[float, list[list[float]]]:
    """The scale that validation chose, and for each figure its value by seed."""

    def recipe(scale: float, seed: int) -> Recipe:
        own: dict[str, Value] = {"freeze_embeddings": frozen, "embedding_scale": scale, "seed": seed}
        return recipe_with(name, dataset, **{**SHARED, **SHAPES[name], **own})

    scale = max(SCALES, key=lambda each: float(run(storage, train_task(recipe(each, seeds[0])))[CHOSEN_BY]))
    figures: list[list[float]] = [[] for _ in JUDGED_BY]
    for seed in seeds:
        trained = train_task(recipe(scale, seed))
        run(storage, trained)
        result = run(storage, Task(stage="evaluate", settings={"train": trained.id}, needs=(trained.id,)))
        for values, figure in zip(figures, JUDGED_BY, strict=True):
            values.append(float(result[figure]))
    return scale, figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).parents[2] / "shared/data/instacart/titles_aisles.csv"
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--text", default="title", help="the column of titles")
    parser.add_argument("--label", default="category", help="the column of categories")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(SHAPES))
    given = parser.parse_args()
    with TemporaryDirectory(prefix="tanda-") as root:
        storage = Storage(Path(root))
        starts = {"random": prepare(storage, given, None), "trained": prepare(storage, given, TrainedVectors())}
        print(f"{given.data.name}, vectors of {SIZE}, seeds {given.seeds}: test balanced accuracy; accuracy")
        for name in given.networks or SHAPES:
            for frozen in (True, False):
                balanced = {}
                for start, dataset in starts.items():
                    scale, figures = measure(storage, name, dataset, frozen, given.seeds)
                    balanced[start] = figures[0]
                    shown = "; ".join(f"{statistics.mean(row):.4f} ± {spread(row):.4f}" for row in figures)
                    how = "frozen" if frozen else "trained on"
                    print(f"{name} {how:10} {start:8} scale {scale:<5g} {shown}", flush=True)
                gain = statistics.mean(balanced["trained"]) - statistics.mean(balanced["random"])
                apart = min(balanced["trained"]) > max(balanced["random"])
                print(f"{name} {how:10} gains {gain:+.4f}{', above every seed of a random start' if apart else ''}")


def spread(values: list[float]) -> float:
    """The standard deviation over seeds; 0 of one."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
