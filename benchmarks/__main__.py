"""Runs the benchmarks one after the other and ends with a table: what is claimed, what was measured, whether it holds.

    python benchmarks [--quick] [--data FILE] [PROGRAM ...]

What a machine cannot run (no GPU, no Slurm, a package or a file that is not there) is left out and named. ``--quick``
takes tiny sizes: it shows in a few minutes that every program runs, and its figures judge nothing. Exit status 1 when
a program failed or a claim did not hold.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from _programs import DATA, PROGRAMS, Claim, Program

HERE = Path(__file__).resolve().parent
QUICK_LIMIT_S = 240.0
TINY = "not judged: tiny sizes"
# From tests/rig.py: what a cluster on one machine is made of.
SLURM = ("munged", "slurmctld", "slurmd", "sbatch", "slurmdbd", "mariadbd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of the table."""

    program: str
    claim: str
    figure: str
    verdict: str

    @property
    def bad(self) -> bool:
        return self.verdict == "no" or self.verdict.startswith("failed")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, a few minutes in all")
    default = HERE.parents[1] / "shared/data/instacart/titles_aisles.csv"
    parser.add_argument("--data", type=Path, default=default, help="titles for the programs that take real ones")
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help="by name; left out: all")
    given = parser.parse_args()
    chosen = [program for program in PROGRAMS if not given.programs or program.name in given.programs]
    if unknown := sorted(set(given.programs) - {program.name for program in chosen}):
        parser.error(f"no program {', '.join(unknown)}; there are {', '.join(sorted({p.name for p in PROGRAMS}))}")
    rows: list[Row] = []
    for program in chosen:
        rows += run(program, given.data, quick=given.quick)
    print("", *table(rows), sep="\n")
    return int(any(row.bad for row in rows))


def run(program: Program, data: Path, *, quick: bool) -> list[Row]:
    """Run a program, its output shown as it comes, and judge it."""
    words = [str(data) if word == DATA else word for word in (program.quick if quick else program.arguments)]
    print(f"== {' '.join([program.name, *words])}", flush=True)
    if why := cannot(program, data):
        print(f"left out: {why}", flush=True)
        return [Row(program=program.name, claim="", figure="", verdict=f"left out: {why}")]
    status, output = shown([sys.executable, str(HERE / f"{program.name}.py"), *words], QUICK_LIMIT_S if quick else None)
    if status is None or (status != 0 and not program.status_judges):
        how = f"no end within {QUICK_LIMIT_S:.0f} s" if status is None else f"exit status {status}"
        return [Row(program=program.name, claim="", figure="", verdict=f"failed: {how}")]
    rows = [judged(program.name, claim, output, quick=quick) for claim in program.claims]
    if program.status_judges:
        verdict = "no" if status else "yes"
        verdict = TINY if quick and not program.at_any_size else verdict
        rows.append(Row(program=program.name, claim=program.status_judges, figure="", verdict=verdict))
    return rows or [Row(program=program.name, claim="", figure="", verdict="ran")]


def cannot(program: Program, data: Path) -> str | None:
    """Why this machine cannot run it, or None."""
    for need in program.needs:
        if not CHECKS[need][0](data):
            return CHECKS[need][1]
    return None


def _has_gpu(_data: Path) -> bool:
    import torch

    return torch.cuda.is_available()


def _has_slurm(_data: Path) -> bool:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    return all(shutil.which(program, path=path) for program in SLURM)


CHECKS: dict[str, tuple[Callable[[Path], bool], str]] = {
    "gpu": (_has_gpu, "no GPU"),
    "slurm": (_has_slurm, "no Slurm with accounting here (tests/install_packages.sh installs one)"),
    "fasttext": (lambda _: find_spec("fasttext") is not None, "the package fasttext is absent (fasttext-wheel)"),
    "checkout": (lambda _: False, "it is given another checkout by hand: python benchmarks/against.py CHECKOUT"),
    "data": (lambda data: data.exists(), "no file of titles (--data FILE with the columns title and category)"),
}


def shown(command: Sequence[str], limit_s: float | None) -> tuple[int | None, str]:
    """The exit status, None when it was stopped at the limit, and what was printed."""
    # The programs import their neighbours, which PYTHONSAFEPATH, set by `make`, would hide.
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    began, lines = time.monotonic(), []
    with subprocess.Popen(
        ["timeout", "--kill-after=10", f"{limit_s:.0f}", *command] if limit_s else command,
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    print(f"-- {time.monotonic() - began:.0f} s", flush=True)
    return (None if limit_s and process.returncode in (124, 137) else process.returncode), "".join(lines)


def judged(program: str, claim: Claim, output: str, *, quick: bool) -> Row:
    """The worst of the figures that the output has for a claim."""
    found = [float(text.replace(",", "")) for text in re.findall(claim.figure, output, re.M)]
    if not found:
        return Row(program=program, claim=claim.words, figure="", verdict="failed: no such figure in its output")
    worst = min(found) if claim.least else max(found)
    holds = worst >= claim.bound if claim.least else worst <= claim.bound
    verdict = TINY if quick and not claim.at_any_size else "yes" if holds else "no"
    return Row(program=program, claim=claim.words, figure=f"{worst:g}", verdict=verdict)


def table(rows: Sequence[Row]) -> list[str]:
    """Lines as wide as their widest cells."""
    cells = [("program", "claimed", "measured", "holds")]
    cells += [(row.program, row.claim, row.figure, row.verdict) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(3)]
    return ["  ".join([*(line[i].ljust(widths[i]) for i in range(3)), line[3]]) for line in cells]


if __name__ == "__main__":
    sys.exit(main())
