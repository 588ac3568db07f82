"""How time and memory of the linear baseline grow with titles: hashed terms, SGD, small weights dropped.

Beside it the baseline as it comes, at sizes that it can take. Made-up Spanish titles (``tanda data sample``) in 632
categories; each size is a task of its own, whose process is measured. Processor seconds count, which other work on the
machine disturbs less. What a size of ``--full`` would take is the straight line through two sizes: what a title more
takes does not grow with their number.

    python benchmarks/linear_size.py [--titles 100000 300000 1000000] [--as-it-comes 100000] [--folder DIR]
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from jobs.data.identity import identify
from jobs.data.sample import write_sample
from jobs.data.settings import Data, Embeddings, Split
from jobs.settings import Value, beside
from jobs.storage import Storage
from jobs.task import Task
from jobs.testing import recipe_with
from sharedfs.documents import read_json

LARGE: dict[str, Value] = {
    "solver": "sgd",
    "loss": "hinge",
    "max_passes": 5,
    "max_terms": 1 << 20,
    "drop_below": 0.03,
}
ROWS_A_TITLE = 2.5  # half of a sample's rows are Spanish, and most of these are for training


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a process took, in seconds of its processors and GB of memory, and the two accuracies on validation."""

    titles: int
    busy_s: float
    peak_gb: float
    accuracy: float
    balanced: float


def run(task: Task, storage: Storage, titles: int) -> Measured:
    """Run a task in a process of its own."""
    threads = str(len(os.sched_getaffinity(0)))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    folder = task.write(storage)
    environment = {**os.environ, "TANDA_CPUS": threads, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "jobs", str(folder)], check=True, env=environment, stderr=subprocess.DEVNULL)
    after, result = resource.getrusage(resource.RUSAGE_CHILDREN), read_json(folder / "record.json")["result"]
    return Measured(
        titles=titles,
        busy_s=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        peak_gb=float(read_json(folder / "attempts/0001/end.json")["peak_mb"]) / 1000,
        accuracy=float(result.get("validation_accuracy", 0)),
        balanced=float(result.get("validation_balanced_accuracy", 0)),
    )


def prepare(folder: Path, storage: Storage, titles: int) -> str:
    """The id of the data set of a sample with so many Spanish training titles."""
    write_sample(folder, round(titles * ROWS_A_TITLE), formats=("challenge",))
    data = Data(
        source=str(folder / "train.csv.gz"),
        language="spanish",
        split=Split(validation=0.1, test=0.05),
        train_rows=titles,
        embeddings=Embeddings(size=1),
    )
    settings, plumbing = identify(data)
    task = Task(stage="preprocess", settings=settings, plumbing=plumbing)
    run(task, storage, titles)
    return task.id


def measure(titles: int, settings: dict[str, Value], given: argparse.Namespace) -> Measured:
    """Make the data set, fit, and print a line."""
    with TemporaryDirectory(prefix="tanda-", dir=given.folder) as root:
        storage = Storage(Path(root) / "storage")
        dataset = prepare(Path(root) / "sample", storage, titles)
        recipe = recipe_with("linear", dataset, **settings)
        needs, plumbing = (dataset,), beside(recipe.settings)
        measured = run(Task(stage="train", settings=recipe.identity, needs=needs, plumbing=plumbing), storage, titles)
    print(
        f"{titles:,} titles {'large' if settings else 'as it comes'}: {measured.busy_s:.0f} processor seconds, peak "
        f"{measured.peak_gb:.2f} GB, validation accuracy {measured.accuracy:.4f}, balanced {measured.balanced:.4f}",
        flush=True,
    )
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--titles", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--as-it-comes", type=int, nargs="*", default=[100_000], help="sizes for the default settings")
    parser.add_argument("--full", type=int, default=4_900_000)
    parser.add_argument("--cores", type=int, default=16)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores; large: {LARGE}")
    # The penalty a title is that of liblinear's c of 1.
    sizes = [measure(titles, {**LARGE, "alpha": 1 / titles}, given) for titles in sorted(given.titles)]
    for titles in given.as_it_comes:
        measure(titles, {}, given)
    for less, more in pairwise(sizes):
        times, ratio = more.titles / less.titles, more.busy_s / less.busy_s
        print(f"{times:.1f} times the titles: {ratio:.2f} times the processor seconds")
    if len(sizes) < 2:
        return
    less, more = sizes[-2:]
    share = (given.full - more.titles) / (more.titles - less.titles)
    full_min = (more.busy_s + share * (more.busy_s - less.busy_s)) / given.cores / 60
    full_gb = more.peak_gb + share * (more.peak_gb - less.peak_gb)
    print(
        f"{given.full:,} titles, by {less.titles:,} and {more.titles:,}: {full_min:.0f} min on {given.cores} cores "
        f"(at most 60), {full_gb:.1f} GB (at most 8)"
    )


if __name__ == "__main__":
    main()
