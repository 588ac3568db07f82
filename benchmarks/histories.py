"""Histories of a laboratory on a model of Slurm: seeded things go wrong, and nothing may be lost, double or untrue.

Each history is a manifest submitted, run, retried, cancelled and submitted again by the product's own code, in one
process and a fraction of a second, while nodes, daemons, answers, disks and processes fail (``tests/histories.py``). A
failing seed replays exactly. With ``--faults`` each of the faults planted on purpose (``tests/histories_faults.py``)
must be found. Claims: 10,000 histories are clean, and every planted fault is found within 2,000.

    python benchmarks/histories.py --count 10000
    python benchmarks/histories.py --seed 263 --trace      # what happened in one
    python benchmarks/histories.py --faults
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if os.environ.get("PYTHONHASHSEED") != "0":  # the order of a set is part of a history
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from histories import Verdict, digest_of, last_lines, play  # noqa: E402
from histories_faults import FAULTS, planted  # noqa: E402

WITHIN = 2000
CHUNK = 25


@contextmanager
def memory() -> Iterator[Path]:
    """A folder in memory, where there is one; removed at the end, whatever became of those who work in it."""
    shared = Path("/dev/shm")  # in memory: a history writes thousands of small files
    folder = Path(tempfile.mkdtemp(prefix="tanda-histories-", dir=shared if shared.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a worker that is being ended may still write


def play_chunk(work: tuple[Path, str | None, tuple[int, ...]]) -> list[Verdict]:
    """The histories of some seeds, with a fault; the lines of those that held are left out."""
    home, fault, seeds = work
    with planted(fault):
        verdicts = [play(seed, home / str(os.getpid())) for seed in seeds]
    for verdict in verdicts:
        verdict.lines = verdict.lines if verdict.wrong else []
    return verdicts


def play_all(seeds: Iterable[int], processes: int, fault: str | None = None) -> Generator[Verdict, None, None]:
    """Verdicts in the order of the seeds."""
    every = list(seeds)
    with memory() as home, multiprocessing.get_context("fork").Pool(processes) as pool:
        chunks = [(home, fault, tuple(every[start : start + CHUNK])) for start in range(0, len(every), CHUNK)]
        for verdicts in pool.imap(play_chunk, chunks):
            yield from verdicts


def run_count(first: int, count: int, processes: int, fault: str | None) -> int:
    began, wrong, deeds, shapes = time.monotonic(), 0, Counter[str](), Counter[str]()
    for verdict in play_all(range(first, first + count), processes, fault):
        deeds.update(verdict.deeds)
        shapes[f"{verdict.shape} on {verdict.version}"] += 1
        if verdict.wrong:
            wrong += 1
            print(f"seed {verdict.seed} ({verdict.shape}, {verdict.version}):")
            print(*(f"    {line}" for line in verdict.wrong[:5]), sep="\n", flush=True)
    spent = time.monotonic() - began
    print(f"{count} histories in {spent:.0f} s ({spent / count:.3f} s each), {wrong} wrong")
    print(", ".join(f"{name} {number}" for name, number in shapes.most_common()))
    print(", ".join(f"{name} {number}" for name, number in deeds.most_common()))
    return int(bool(wrong))


def run_faults(names: Iterable[str], processes: int) -> int:
    """How many histories each planted fault takes to be found; exit status 1 where one is not."""
    missed = 0
    for name in names:
        found = None
        with closing(play_all(range(WITHIN), processes, name)) as verdicts:
            for number, verdict in enumerate(verdicts, start=1):
                if verdict.wrong:
                    found = (number, verdict.wrong[0].splitlines()[0])
                    break
        missed += found is None
        told = f"found after {found[0]}: {found[1]}" if found else f"NOT found within {WITHIN}"
        print(f"{name:36} {told}", flush=True)
    return int(bool(missed))


def run_one(seed: int, trace: bool, fault: str | None) -> int:
    with memory() as home, planted(fault):
        verdict = play(seed, home)
    if trace:
        print(*last_lines(verdict), sep="\n")
    print(
        f"seed {seed}: {verdict.shape} on {verdict.version}, {verdict.submissions} submissions, {verdict.seconds:.0f} s"
    )
    print(f"history {digest_of(verdict)}; {'wrong:' if verdict.wrong else 'all held'}")
    print(*(f"    {line}" for line in verdict.wrong), sep="\n")
    return int(bool(verdict.wrong))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--trace", action="store_true", help="with --seed: everything that happened")
    parser.add_argument("--fault", choices=list(FAULTS), help="planted in the product")
    parser.add_argument("--faults", action="store_true", help="each planted in turn: after how many it is found")
    given = parser.parse_args()
    if given.seed is not None:
        return run_one(given.seed, given.trace, given.fault)
    if given.faults:
        return run_faults([given.fault] if given.fault else FAULTS, given.processes)
    return run_count(given.first, given.count, given.processes, given.fault)


if __name__ == "__main__":
    sys.exit(main())
