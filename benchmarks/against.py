"""This checkout's speed beside another's: start-up, an epoch, preprocess, plan and status of many runs, their report.

    git worktree add /tmp/before COMMIT
    python benchmarks/against.py /tmp/before [--rounds 15] [--runs 10000] [--reported 5000] [--rows N] [MEASURE ...]

Each round measures the one and the other in turn, first one first, then the other; each in a process of its own that
takes its code, and this folder's helpers, from its checkout. Printed is the median ratio of a round, ours to theirs,
with a 95 % interval: the percentile bootstrap over rounds (Efron 1979).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jobs.data.sample import write_sample

HERE = Path(__file__).resolve().parents[1]
DRAWS = 10_000

# Run in a checkout, with a folder and a size: what has to be there before anything is measured.
MANY = """
import sys
from pathlib import Path
from ten_thousand import _fill, _stand_ins, _write_manifest
from pipeline.manifest import load
from pipeline.plan import make_plan
folder = Path(sys.argv[1])
plan = make_plan(load(_write_manifest(folder, int(sys.argv[2]))))
_fill(plan)
_stand_ins(folder, plan)
"""
REPORTED = """
import sys
from pathlib import Path
from report import make_runs
make_runs(Path(sys.argv[1]), int(sys.argv[2]), 10)
"""
# Print seconds.
COMMAND = """
import os, subprocess, sys, time
folder, words = sys.argv[1], sys.argv[2:]
environment = {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}"}
began = time.perf_counter()
subprocess.run([sys.executable, "-m", "pipeline", *words], env=environment, stdout=subprocess.DEVNULL, check=True)
print(time.perf_counter() - began)
"""
REPORT = """
import sys, time
from pathlib import Path
import polars  # what it imports in turn, one checkout may have imported already
from report import _done, plan_runs
from pipeline.report import build
plan = plan_runs(Path(sys.argv[1]), int(sys.argv[2]), 10)
states = {planned.id: _done(planned.id) for planned in plan.tasks}
began = time.perf_counter()
build(plan, states, plots=False, mlflow=False)
print(time.perf_counter() - began)
"""
EPOCH = """
import sys
from epoch import SHARE, epoch_s
import _made
from _made import storage_with
from jobs.data.dataset import Dataset
name = sys.argv[1]
with storage_with(int(int(sys.argv[2]) * SHARE[name])) as (storage, made):
    recipe_of = getattr(_made, "recipe_of", None) or _made.settings_of  # its name in earlier checkouts
    print(epoch_s(recipe_of(name, epochs=2, patience_chance=99), storage, Dataset.open(storage.dataset(made)), 1))
"""
PREPROCESS = """
import sys
from pathlib import Path
from preprocess import ours
print(ours(Path(sys.argv[1]), Path(sys.argv[1]).parent)[0])
"""


def main() -> int:
    """Print a line a measure; exit status 1 where an interval lies wholly above 1.00 and reaches 1.03."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--reported", type=int, default=5_000)
    parser.add_argument("--titles", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=2_000_000, help="that preprocess reads")
    parser.add_argument("measures", nargs="*")
    given = parser.parse_intermixed_args()
    sides = (HERE, given.other.resolve())
    slower = False
    with tempfile.TemporaryDirectory(prefix="tanda-against-") as name:
        folders = {side: Path(name) / str(number) for number, side in enumerate(sides)}
        for side, folder in folders.items():
            for each, program, count in (("many", MANY, given.runs), ("reported", REPORTED, given.reported)):
                (folder / each).mkdir(parents=True)
                run(side, program, str(folder / each), str(count))

        def command(*words: str) -> Callable[[Path], float]:
            return lambda side: run(side, COMMAND, str(folders[side] / "many"), *words)

        def many(word: str) -> Callable[[Path], float]:
            return lambda side: command(word, str(folders[side] / "many" / "many.yaml"))(side)

        measures: dict[str, Callable[[Path], float]] = {"start-up": command("--help")}
        for architecture in ("mlp", "cnn", "rnn"):
            measures[f"epoch of {architecture}"] = lambda side, one=architecture: run(  # type: ignore[misc]
                side, EPOCH, one, str(given.titles)
            )
        sample = Path(name) / "sample" / "train.csv.gz"
        preprocess = f"preprocess of {given.rows} rows"
        measures |= {
            preprocess: lambda side: run(side, PREPROCESS, str(sample)),
            f"plan of {given.runs} runs": many("plan"),
            f"status of {given.runs} runs": many("status"),
            f"report of {given.reported} runs": lambda side: run(
                side, REPORT, str(folders[side] / "reported"), str(given.reported)
            ),
        }
        chosen = [one for one in measures if not given.measures or any(word in one for word in given.measures)]
        if preprocess in chosen:
            write_sample(sample.parent, given.rows, formats=["challenge"])
        for one in chosen:
            slower |= compare(one, measures[one], sides, given.rounds)
    return int(slower)


def run(side: Path, program: str, *arguments: str) -> float:
    """What a program prints last, as a number; 0 where it prints nothing. Raises RuntimeError with its errors."""
    path = f"{side}:{side / 'benchmarks'}"
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "COLUMNS": "200"}
    words = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(words, env=environment, cwd=side, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{side}: {done.stderr}")
    return float(done.stdout.split()[-1]) if done.stdout.split() else 0.0


def compare(name: str, measure: Callable[[Path], float], sides: Sequence[Path], rounds: int) -> bool:
    """Print the ratio with its interval; whether this checkout is slower beyond doubt."""
    for side in sides:
        measure(side)  # once to warm caches up
    taken = np.empty((rounds, 2))
    for number in range(rounds):
        for side in (0, 1) if number % 2 else (1, 0):
            taken[number, side] = measure(sides[side])
    ratios = taken[:, 0] / taken[:, 1]
    draws = np.random.default_rng(0).integers(rounds, size=(DRAWS, rounds))
    low, high = np.percentile(np.median(ratios[draws], axis=1), [2.5, 97.5])
    ours, theirs = np.median(taken, axis=0)
    print(
        f"{name}: {ours:.3f} s beside {theirs:.3f} s, ratio {np.median(ratios):.3f} (95 %: {low:.3f} to {high:.3f})",
        flush=True,
    )
    return bool(low > 1.0 and high >= 1.03)


if __name__ == "__main__":
    sys.exit(main())
