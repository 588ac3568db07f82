"""What a proposal costs: a new trial's point, read from and written to storage, beside 10, 100 and 1,000 past trials.

    python benchmarks/search_propose.py [--epoch-s 60 --epochs 10]

Each figure is the median of five processes, as a cluster's elements are: the import of hyperopt is in it. The share
is that of a trial of so many epochs of so many seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jobs.plugins import ALGORITHMS
from jobs.search.next_trial import claim_point, observations_of, propose
from jobs.search.space import Distribution
from jobs.search.study import Study, read_trials
from jobs.storage import Storage
from jobs.task import Record
from jobs.testing import definition_with
from sharedfs.documents import write_json

SPACE: dict[str, Distribution] = {
    "hidden_layers": {"choice": [[256, 128], [256, 514, 256], [514, 256, 128]]},
    "dropout": {"uniform": [0.0, 0.5]},
    "learning_rate": {"loguniform": [1e-5, 1e-1]},
    "weight_decay": {"loguniform": [1e-5, 1e-1]},
    "epochs": {"choice": [1, 3, 5, 10, 15]},
    "batch_size": {"choice": [128, 256, 514]},
    "freeze_embeddings": {"choice": [True, False]},
}


def main() -> None:
    """Print a row for each number of past trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--past", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--epoch-s", type=float, default=60.0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(propose_once(given.one)))
        return
    print(f"{'past trials':>11}  {'read s':>7}  {'import s':>8}  {'ask s':>7}  {'whole s':>7}  share of a trial")
    for past in given.past:
        with tempfile.TemporaryDirectory() as root:
            write_past(make_study(Path(root)), past)
            tries = [one(Path(root)) for _ in range(5)]
        middle = {name: statistics.median(times[name] for times in tries) for name in tries[0]}
        share = middle["whole"] / (given.epochs * given.epoch_s)
        print(
            f"{past:>11}  {middle['read']:>7.3f}  {middle['import']:>8.3f}  {middle['ask']:>7.3f}  "
            f"{middle['whole']:>7.3f}  {share:.2%} of {given.epochs} epochs of {given.epoch_s:g} s"
        )


def make_study(root: Path) -> Study:
    """A search of the published MLP space."""
    return Study(Storage(root), definition_with("mlp", "0123456789abcdef", SPACE, algorithm="tpe"))


def write_past(study: Study, count: int) -> None:
    """Trials that are done, with points at random and made-up values."""
    study.write()
    space, random = study.space(), ALGORITHMS.load("random")
    for number in range(count):
        task, draws = study.task(number), random.propose(study.space(), [], number)
        point = space.point(draws)
        home = study.trial(number)
        home.mkdir()
        write_json(home / "point.json", {"number": number, "task": task.id, "draws": draws, "point": point})
        task.write(study.storage)
        result = {"value": 1 - abs(0.3 - point["dropout"]), "epochs_run": point["epochs"], "stopped": None}
        Record(
            id=task.id, stage="trial", state="done", result=result, started=0, ended=1, running_s=1, attempt=1
        ).write(study.storage)


def one(root: Path) -> dict[str, float]:
    """A proposal in a fresh process, seconds by part; the point is taken back."""
    done = subprocess.run([sys.executable, __file__, "--one", str(root)], capture_output=True, text=True, check=True)
    times: dict[str, float] = json.loads(done.stdout)
    return times


def propose_once(root: Path) -> dict[str, float]:
    """Seconds to read the trials, to import hyperopt, to ask it, and for all that a trial does for its point."""
    study = make_study(root)
    number = len(study.numbers())
    began = time.perf_counter()
    trials = read_trials(study)
    read = time.perf_counter() - began
    began = time.perf_counter()
    import hyperopt  # noqa: F401

    imported = time.perf_counter() - began
    began = time.perf_counter()
    propose(study, number, trials)
    ask = time.perf_counter() - began
    assert len(observations_of(study, trials)) == number
    began = time.perf_counter()
    claim_point(study, number)
    whole = time.perf_counter() - began + imported
    home = study.trial(number)
    home.rename(home.with_name(f".{home.name}"))
    (home.with_name(f".{home.name}") / "point.json").unlink()
    home.with_name(f".{home.name}").rmdir()
    return {"read": read, "import": imported, "ask": ask, "whole": whole}


if __name__ == "__main__":
    main()
