"""What ten trials gain by TPE: their best against the best of ten random ones, over many seeds.

    python benchmarks/search_ten.py ../shared/data/instacart/titles_aisles.csv

For each seed both searches run whole, one trial after the other, without halving, on the data and the space of
``search_quality``; TPE proposes after ``--startup`` random trials. The gain is a difference of balanced accuracies of
the winners on validation titles, paired by seed, with Student's 95 % interval. One that holds 0 shows no gain.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

from search_quality import METRIC, SPACE, drawn, fixed, prepare

from jobs import entry
from jobs.search.study import Study, read_trials
from jobs.storage import Storage
from jobs.testing import definition_with
from sharedfs.typed_json import decode

ALGORITHMS = ("random", "tpe")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bests:
    """The best validation score of each search with one seed."""

    seed: int
    random: float
    tpe: float


def main() -> None:
    """Print a line a seed, and the gain with its interval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("titles", type=Path, help="a file with the columns title and category")
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--startup", type=int, default=5, help="random trials before TPE proposes")
    parser.add_argument("--seeds", type=int, default=20, help="so many, from 0 on")
    parser.add_argument("--rows", type=int, help="so many titles drawn at random; left out: all")
    parser.add_argument("--processes", type=int, default=1, help="seeds measured at once")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(asdict(measure(given, given.one))))
        return
    results = []
    with ThreadPoolExecutor(given.processes) as pool:
        for done in as_completed([pool.submit(in_process, seed) for seed in range(given.seeds)]):
            results.append(done.result())
            print(json.dumps(asdict(results[-1])), flush=True)
    mean, low, high = gain([result.tpe - result.random for result in results])
    shown = "holds 0: no gain is shown" if low <= 0 <= high else "does not hold 0"
    print(f"gain of {given.trials} trials: {mean:+.4f}, 95 % interval [{low:+.4f}, {high:+.4f}], which {shown}")


def gain(differences: list[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval of paired differences; a single one has no end to its interval."""
    from scipy.special import stdtrit

    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return mean, -math.inf, math.inf
    half = float(stdtrit(len(differences) - 1, 0.975)) * statistics.stdev(differences) / math.sqrt(len(differences))
    return mean, mean - half, mean + half


def in_process(seed: int) -> Bests:
    """Measure one seed in a process of its own, on one thread."""
    command = [sys.executable, *sys.argv, "--one", str(seed)]
    environment = {**os.environ, "TANDA_CPUS": "1"}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    )
    return decode(Bests, json.loads(done.stdout))


def measure(given: argparse.Namespace, seed: int) -> Bests:
    """Both searches with one seed, in a storage that is thrown away."""
    with tempfile.TemporaryDirectory() as root, contextlib.redirect_stdout(io.StringIO()):
        storage = Storage(Path(root) / "storage")
        storage.root.mkdir()
        dataset = prepare(storage, drawn(given.titles.resolve(), given.rows, Path(root)))
        bests = {name: best_of(storage, dataset, name, given, seed) for name in ALGORITHMS}
    return Bests(seed=seed, random=round(bests["random"], 4), tpe=round(bests["tpe"], 4))


def best_of(storage: Storage, dataset: str, algorithm: str, given: argparse.Namespace, seed: int) -> float:
    """The best value of a search of full-length trials; nothing for one whose trials all failed."""
    startup = {"startup": given.startup} if algorithm == "tpe" else {}
    definition = definition_with(
        "mlp",
        dataset,
        SPACE,
        algorithm=algorithm,
        metric=METRIC,
        seed=seed,
        settings=fixed(given.epochs, seed),
        **startup,
    )
    study = Study(storage, definition)
    for folder in [study.task(number).write(storage) for number in range(given.trials)]:
        entry.run(folder)
    return max((trial.value for trial in read_trials(study) if trial.value is not None), default=0.0)


if __name__ == "__main__":
    main()
