"""Our train task against a plain PyTorch program written as the published work describes its own (``_plain.py``).

Both are whole processes, from start to end, one epoch with validation over the same titles with the same settings,
in turn; the ratio is that of the best times, and beside it that of the processor's seconds, which other work on the
machine disturbs less. Ours reads a data set that was preprocessed once for all runs (the time
that took is printed); the plain program reads gzipped JSON lines, already tokenised, in every run. Word vectors start
at random on both sides, which spares the plain program its reading of a million lines of vectors. So many titles are
trained on: the sample is made larger by its other language and by the titles set aside.

    python benchmarks/published.py [--titles 200000] [--rounds 1] [CASE ...]

Cases: mlp, cnn, rnn (frozen vectors), mlp-trained. Claimed: at least 3, 1.5, 1.3 and 8 times as fast.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jobs.data.dataset import Dataset
from jobs.data.identity import identify
from jobs.data.sample import write_sample
from jobs.data.settings import Data, Embeddings
from jobs.settings import beside
from jobs.storage import Storage
from jobs.task import Task
from jobs.testing import recipe_with
from sharedfs.documents import read_json

CLAIMED = {"mlp": 3.0, "cnn": 1.5, "rnn": 1.3, "mlp-trained": 8.0}
SHAPES: dict[str, dict[str, Any]] = {
    "mlp": {"hidden_layers": [256, 128]},
    "cnn": {"hidden_layers": [128], "filters_count": 100, "filters_length": [2, 3, 4]},
    "rnn": {"hidden_layers": [256, 128], "lstm_layers": 3, "lstm_features": 128},
}
SHARED = {
    "dropout": 0.3,
    "learning_rate": 1e-3,
    "weight_decay": 1e-5,
    "epochs": 1,
    "batch_size": 128,
    "random_buffer_size": 2048,
}
SIZE = 300


def seconds(command: list[str], log: Path) -> tuple[float, float]:
    """A process's seconds from start to end, and its processor's; raises CalledProcessError when it fails."""
    threads = str(len(os.sched_getaffinity(0)))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "TANDA_CPUS": threads}
    with log.open("ab") as file:
        began, busy = time.perf_counter(), processor_s()
        subprocess.run(command, stdout=file, stderr=file, env=environment, check=True)
        return time.perf_counter() - began, processor_s() - busy


def processor_s() -> float:
    """Seconds of processor that ended children took."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def prepare(folder: Path, storage: Storage) -> tuple[str, float]:
    """Preprocess the sample; returns the data set's id and the seconds of the whole process."""
    parts = {name: str(folder / f"spanish.{name}.jsonl.gz") for name in ("train", "validation", "test")}
    settings, plumbing = identify(Data(**parts, embeddings=Embeddings(size=SIZE)))
    task = Task(stage="preprocess", settings=settings, plumbing=plumbing)
    log = folder / "ours.log"
    return task.id, seconds([sys.executable, "-m", "jobs", str(task.write(storage))], log)[0]


def ours(case: str, dataset: str, storage: Storage, folder: Path) -> tuple[tuple[float, float], float]:
    """Seconds of our process, and its validation balanced accuracy."""
    name, _, trained = case.partition("-")
    given = {**SHAPES[name], **SHARED, "freeze_embeddings": not trained}
    recipe = recipe_with(name, dataset, **given)
    task = Task(stage="train", settings=recipe.identity, needs=(dataset,), plumbing=beside(recipe.settings))
    shutil.rmtree(storage.run(task.id), ignore_errors=True)  # of the round before: what is done is not run again
    spent = seconds([sys.executable, "-m", "jobs", str(task.write(storage))], folder / "ours.log")
    record = read_json(storage.run(task.id) / "record.json")
    return spent, float(record["result"]["validation_balanced_accuracy"])


def plain(case: str, folder: Path) -> tuple[float, float]:
    """Seconds of the plain program."""
    name, _, trained = case.partition("-")
    settings = {
        "folder": str(folder),
        "language": "spanish",
        "architecture": name,
        "size": SIZE,
        "freeze_embeddings": not trained,
        **SHAPES[name],
        **SHARED,
    }
    program = Path(__file__).parent / "_plain.py"
    return seconds([sys.executable, str(program), json.dumps(settings)], folder / "plain.log")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--titles", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CLAIMED))
    given = parser.parse_args()
    with TemporaryDirectory(prefix="tanda-") as root:
        folder, storage = Path(root) / "data", Storage(Path(root) / "storage")
        folder.mkdir()
        # Half of a sample is Spanish, and four fifths of that are for training.
        write_sample(folder, rows=round(given.titles * 2.5), formats=("university",))
        dataset, spent = prepare(folder, storage)
        trained, validated = (Dataset.open(storage.dataset(dataset)).splits[name] for name in ("train", "validation"))
        print(
            f"{len(trained)} titles to train on, {len(validated)} for validation, "
            f"{len(os.sched_getaffinity(0))} cores; preprocessed once in {spent:.1f} s"
        )
        for case in given.cases or CLAIMED:
            rounds = [(*ours(case, dataset, storage, folder), plain(case, folder)) for _ in range(given.rounds)]
            (best, busy), score = min(times[0] for times in rounds), rounds[0][1]
            other, other_busy = min(times[2] for times in rounds)
            print(
                f"{case:12} ours {best:7.1f} s   plain {other:7.1f} s   {other / best:5.2f} times as fast "
                f"(claimed {CLAIMED[case]:g}; "
                f"{other_busy / busy:.2f} by the processor's seconds)   our validation balanced accuracy {score:.3f}",
                flush=True,
            )
        last = (folder / "plain.log").read_text().strip().splitlines()
        print(f"the plain program's last line: {last[-1]}")


if __name__ == "__main__":
    main()
