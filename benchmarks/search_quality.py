"""Quality for cost: epochs until a search matches the best of 30 sequential full-length hyperopt trials.

    python benchmarks/search_quality.py ../shared/data/instacart/titles_aisles.csv

On one data set and one space, for each seed: hyperopt's own ``fmin`` (TPE as it comes, 20 random trials first)
trains 30 points to the last epoch, one after the other; its best validation balanced accuracy is the mark. Then the
trial stage itself runs with TPE and halving, one worker, its real storage, checkpoints and promotions, until an
epoch of any trial reaches the mark or as many epochs are spent. Every epoch is a real one of the real engine.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs import entry, metrics_log
from jobs.data.identity import identify
from jobs.data.settings import Columns, Data, Embeddings, Split
from jobs.search.space import Distribution
from jobs.search.study import Study, best_so_far, read_trials
from jobs.settings import Value, beside
from jobs.storage import Storage
from jobs.task import Task
from jobs.testing import definition_with, recipe_with
from sharedfs.typed_json import decode

METRIC = "validation_balanced_accuracy"
SPACE: dict[str, Distribution] = {
    "hidden_layers": {"choice": [[128], [256, 128], [512, 256]]},
    "dropout": {"uniform": [0.0, 0.5]},
    "learning_rate": {"loguniform": [1e-5, 1e-1]},
    "weight_decay": {"loguniform": [1e-5, 1e-1]},
    "batch_size": {"choice": [128, 256, 514]},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Both searches for one seed: the mark, the epochs that hyperopt's trials took, and those that halving took."""

    seed: int
    mark: float
    full_epochs: int
    full_epochs_until_its_best: int
    epochs: int
    trials: int
    best: float
    share: float


def main() -> None:
    """Print one line a seed, median and upper quartile; exit status 1 when they are above a third and a half."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("titles", type=Path, help="a file with the columns title and category")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--trials", type=int, default=30, help="full-length trials that set the mark")
    parser.add_argument("--startup", type=int, default=5, help="random trials before TPE proposes with halving")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(20)))
    parser.add_argument("--rows", type=int, help="so many titles drawn at random; left out: all")
    parser.add_argument("--processes", type=int, default=1, help="seeds measured at once")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(asdict(measure(given, given.seeds[0]))))
        return
    results = []
    with ThreadPoolExecutor(given.processes) as pool:
        for done in as_completed([pool.submit(in_process, given, seed) for seed in given.seeds]):
            results.append(done.result())
            print(json.dumps(asdict(results[-1])), flush=True)
    shares = [result.share for result in results]
    print(f"share of the epochs: median {statistics.median(shares):.3f} of {[round(share, 3) for share in shares]}")
    upper = float(statistics.quantiles(shares, n=4, method="inclusive")[2]) if len(shares) > 1 else shares[0]
    print(f"share of the epochs: upper quartile {upper:.3f}")
    sys.exit(statistics.median(shares) > 1 / 3 or upper > 1 / 2)


def in_process(given: argparse.Namespace, seed: int) -> Measured:
    """Measure one seed in a process of its own."""
    command = [sys.executable, __file__, str(given.titles), "--one", "--seeds", str(seed)]
    command += ["--epochs", str(given.epochs), "--trials", str(given.trials), "--startup", str(given.startup)]
    command += ["--rows", str(given.rows)] if given.rows else []
    # One thread each: two networks that spin on the same cores are slower than one after the other.
    environment = {**os.environ, "TANDA_CPUS": "1"}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    )
    return decode(Measured, json.loads(done.stdout))


def measure(given: argparse.Namespace, seed: int) -> Measured:
    """Both searches for one seed, in a storage that is thrown away."""
    with tempfile.TemporaryDirectory() as root, contextlib.redirect_stdout(io.StringIO()):
        storage, epochs, count = Storage(Path(root) / "storage"), given.epochs, given.trials
        storage.root.mkdir()
        dataset = prepare(storage, drawn(given.titles.resolve(), given.rows, Path(root)))
        values = sequential(storage, dataset, epochs, count, seed)
        mark, full = max(values), epochs * count
        spent, best, used = halving(storage, dataset, epochs, seed, mark, full, given.startup)
    return Measured(
        seed=seed,
        mark=round(mark, 4),
        full_epochs=full,
        full_epochs_until_its_best=epochs * (values.index(mark) + 1),
        epochs=spent,
        trials=used,
        best=round(best, 4),
        share=spent / full if best >= mark else math.inf,
    )


def drawn(titles: Path, rows: int | None, folder: Path) -> Path:
    """The file itself, or one with so many of its rows, the same ones always."""
    if rows is None:
        return titles
    with titles.open(newline="") as file:
        header, *body = csv.reader(file)
    with (folder / "titles.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *random.Random(0).sample(body, rows)])
    return folder / "titles.csv"


def prepare(storage: Storage, titles: Path) -> str:
    """The data set: 70 % of the titles to train on, 20 % to judge by, random word vectors of 64 numbers."""
    data = Data(
        source=str(titles),
        split=Split(validation=0.2, test=0.1, seed=0),
        columns=Columns(text="title", label="category"),
        embeddings=Embeddings(size=64),
        max_length=16,
    )
    settings, plumbing = identify(data)
    task = Task(stage="preprocess", settings=settings, plumbing={**plumbing, "shards": 1})
    assert entry.run(task.write(storage)) == entry.DONE
    return task.id


def fixed(epochs: int, seed: int) -> dict[str, Value]:
    """What is not searched; no run is ended early for being at chance: the mark's trials are of full length."""
    return {"epochs": epochs, "seed": seed, "freeze_embeddings": False, "patience_chance": 1000, "device": "cpu"}


def sequential(storage: Storage, dataset: str, epochs: int, count: int, seed: int) -> list[float]:
    """The best epoch of each of hyperopt's trials, in order."""
    import numpy as np
    from hyperopt import fmin, hp, tpe

    space = {
        name: hp.choice(name, arguments)
        if kind == "choice"
        else hp.uniform(name, *arguments)
        if kind == "uniform"
        else hp.loguniform(name, *map(math.log, arguments))
        for name, spec in SPACE.items()
        for kind, arguments in spec.items()
    }
    values: list[float] = []

    def loss(point: dict[str, Value]) -> float:
        values.append(trained(storage, dataset, {**fixed(epochs, seed), **point}))
        return -values[-1]

    fmin(loss, space, algo=tpe.suggest, max_evals=count, rstate=np.random.default_rng(seed), show_progressbar=False)
    return values


def trained(storage: Storage, dataset: str, given: dict[str, Value]) -> float:
    """The best validation balanced accuracy of a plain run; nothing for one that diverged."""
    recipe = recipe_with("mlp", dataset, **given)
    task = Task(stage="train", settings=recipe.identity, needs=(dataset,), plumbing=beside(recipe.settings))
    folder = task.write(storage)
    entry.run(folder)
    return max((float(line[METRIC]) for line in metrics_log.read(folder)), default=0.0)


def halving(
    storage: Storage, dataset: str, epochs: int, seed: int, mark: float, most: int, startup: int
) -> tuple[int, float, int]:
    """(epochs spent until the mark is reached or ``most``, best value, trials begun)."""
    halved = {"asha": {"grace_epochs": 1, "reduction": 3}}
    given = {"algorithm": "tpe", "metric": METRIC, "stopping": halved, "seed": seed, "settings": fixed(epochs, seed)}
    # A definition without it is one from before there was the setting, of 10.
    study = Study(storage, definition_with("mlp", dataset, SPACE, **given, startup=None if startup == 10 else startup))
    folders = [study.task(number).write(storage) for number in range(most)]
    for folder in folders:
        entry.run(folder)
        lines = [line for trial in read_trials(study) for line in metrics_log.read(trial.folder)]
        lines.sort(key=lambda line: float(line["ended"]))
        values = [line[study.definition.metric] for line in lines]
        curve = list(enumerate(best_so_far(study.definition.metric, values), start=1))
        reached = [(spent, best) for spent, best in curve if best is not None and best >= mark]
        if reached or curve[-1][0] >= most:
            break
    spent, best = reached[0] if reached else curve[-1]
    return spent, best, len(read_trials(study))


if __name__ == "__main__":
    main()
