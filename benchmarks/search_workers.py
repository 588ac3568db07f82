"""Many workers at once on one storage: every trial one result, whatever is killed.

    python benchmarks/search_workers.py                       64 processes at once, a trial each
    python benchmarks/search_workers.py --trials 16 --at-once 4 --kills 4 --halving --repeats 20

Real tasks, claims, attempts and proposals in real processes; only the network is a stand-in whose epochs sleep.
Checked: every trial once, none lost, none taken twice, points distinct, no trial left that should go on.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from search_fixture import fake_train, make_study, run_pool

from jobs.search.next_trial import next_promotable
from jobs.search.study import read_trials
from jobs.task import read_record
from sharedfs.documents import read_json


def main() -> None:
    """Print one line a repeat; an assertion fails where a trial was lost or doubled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--halving", action="store_true")
    parser.add_argument("--epoch-s", type=float, default=0.1)
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    for seed in range(given.repeats):
        with tempfile.TemporaryDirectory() as root:
            print(repeat(Path(root), given, seed), flush=True)


def repeat(root: Path, given: argparse.Namespace, seed: int) -> str:
    """One search from beginning to end."""
    stopping = {"asha": {"grace_epochs": 1, "reduction": 3}} if given.halving else None
    study = make_study(root, given.trials, epochs=9 if given.halving else 2, stopping=stopping, seed=seed)
    began = time.monotonic()
    statuses = run_pool(
        study,
        range(given.trials),
        fake_train(epoch_s=given.epoch_s),
        at_once=given.at_once,
        kills=given.kills,
        seed=seed,
    )
    spent = time.monotonic() - began
    found = read_trials(study)
    points = {json.dumps(trial.point, sort_keys=True) for trial in found}
    assert [trial.number for trial in found] == list(range(given.trials))
    assert len(points) == len({trial.task for trial in found}) == given.trials
    assert all(read_record(trial.folder) is not None and trial.state in ("done", "stopped") for trial in found)
    assert next_promotable(study, "another task") is None
    proposing = [read_json(study.trial(number) / "point.json")["proposing_s"] for number in range(given.trials)]
    kills = sum(status == -9 for tries in statuses.values() for status in tries)
    states = {state: sum(trial.state == state for trial in found) for state in ("done", "stopped")}
    return (
        f"seed {seed}: {len(found)} results of {given.trials} trials {states}, {len(points)} points, {kills} kills, "
        f"{spent:.1f} s; slowest proposal {max(proposing):.2f} s"
    )


if __name__ == "__main__":
    main()
