"""A manifest of runs and two searches on a real cluster with a seeded monkey about; then compared with a calm run.

The monkey kills, cancels, warns, requeues and preempts tasks, restarts Slurm's daemons, fills the disk, makes folders
read-only, tears files of dead attempts and submits twice at once, while reports are built all the time. What the site
ended for good is submitted again until all is done. Then every file that a record names (weights, journal without its
times, evaluation, predictions) must have the bits of a run in one process that nothing disturbed, each task one
record, each search its trials once. Claims: nothing differs, is lost, or is double. Needs Slurm, and root to mount the
small disk (as another user that part is left out, and said).

    python benchmarks/chaos.py --seeds 0 1 2 --runs 36
    python benchmarks/chaos.py --slurm 24.11         # on the Debian 13 that tests/install_debian13.sh makes
    python benchmarks/chaos.py --calm-faults         # 40 runs, preemption and two failures, not a hand on it
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from calm_faults import play  # noqa: E402
from chaos_fixture import run_calmly, stormy_manifest, weather  # noqa: E402
from cluster_fixture import machine_to_ourselves, running  # noqa: E402
from debian13 import SHARING_MOUNTS, has_shared_mounts  # noqa: E402
from rig import DEBIAN13, INSTALLED, Shape  # noqa: E402

SHAPE = Shape(nodes=3, cpus=2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--trials", type=int, default=6, help="of each search")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--deeds", type=int, default=60, help="of the monkey, at most")
    parser.add_argument("--calm-faults", action="store_true", help="the transcript of 40 runs instead")
    parser.add_argument("--verbose", action="store_true", help="each deed as it is done")
    parser.add_argument("--slurm", choices=(INSTALLED, DEBIAN13), default=INSTALLED)
    given = parser.parse_args()
    if given.slurm == DEBIAN13 and not has_shared_mounts():
        # The small disk is mounted by this program, and has to be seen by nodes with mounts of their own.
        os.execvp(SHARING_MOUNTS[0], [*SHARING_MOUNTS, sys.executable, *sys.argv])
    with tempfile.TemporaryDirectory(prefix="tanda-chaos-") as name:
        folder = Path(name)
        if given.calm_faults:
            with machine_to_ourselves(), running(SHAPE, given.slurm) as rig:
                return play(rig, folder)
        sizes = {"runs": given.runs, "trials": given.trials, "epochs": given.epochs}
        calm = run_calmly(stormy_manifest(folder / "calm", **sizes))
        wrong = 0
        for seed in given.seeds:
            with machine_to_ourselves(), running(SHAPE, given.slurm) as rig:
                manifest = stormy_manifest(folder / f"seed{seed}", **sizes)
                say = (lambda line: print(f"    {line}", flush=True)) if given.verbose else lambda _: None
                storm = weather(rig, manifest, calm, seed=seed, deeds=given.deeds, say=say)
            print(f"seed {seed}: {given.runs} runs, 2 searches of {given.trials} trials")
            print(*storm.lines(), sep="\n", flush=True)
            wrong += len(storm.wrong)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
