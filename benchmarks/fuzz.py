"""Thousands of made-up inputs to everything that is read: each must be taken, or refused in words that name it.

Runs the property tests of tests/ for manifests, profiles and `--set`; for csv, tsv, jsonl and parquet files, packed or
not; for word vectors; and for files found damaged on a storage (records, tasks, attempts, journals, checkpoints,
models, data sets and their arrays, submissions, searches). Prints how many cases each has passed. Claims: only clean
errors. The tests themselves run a hundred or so of each.

    python benchmarks/fuzz.py --examples 5000
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = ("test_stored_fuzz.py", "test_manifest_fuzz.py", "test_data_vectors.py", "test_data_bad_input.py")
# A test's heading in hypothesis's statistics, and the count below it.
HEADING = re.compile(r"^tests/(\w+)\.py::(\w+)\S*:$")
PASSING = re.compile(r"(\d+) passing(?: examples?)?, (\d+) failing")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=2000, help="of each test")
    parser.add_argument("-k", dest="only", default="fuzz or any_bytes", help="pytest's own choice of tests")
    given = parser.parse_args()
    began = time.monotonic()
    total, failed = 0, 0
    for name in FILES:
        ended = run(name, given.only, given.examples)
        failed = failed or ended.returncode
        for (file, test), passed in counted(ended.stdout).items():
            total += passed
            print(
                f"{passed:8,}  {file.removeprefix('test_')}: {test.removeprefix('test_').replace('_', ' ')}", flush=True
            )
        if ended.returncode != 0:
            print(ended.stdout[-6000:], ended.stderr[-2000:], sep="\n", flush=True)
    print(f"{total:8,}  in {time.monotonic() - began:.0f} s")
    return failed


def run(name: str, only: str, examples: int) -> subprocess.CompletedProcess[str]:
    """The tests of one file with so many cases each."""
    command = [sys.executable, "-m", "pytest", "-q", "-k", only, "--hypothesis-show-statistics", "-o", "timeout=0"]
    environment = {**os.environ, "TANDA_FUZZ_EXAMPLES": str(examples)}
    return subprocess.run(
        [*command, f"tests/{name}"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def counted(text: str) -> dict[tuple[str, str], int]:
    """Cases passed by test, from hypothesis's statistics."""
    cases: dict[tuple[str, str], int] = {}
    name = ("", "")
    for line in text.splitlines():
        if heading := HEADING.match(line.strip()):
            name = (heading[1], heading[2])
        elif found := PASSING.search(line):
            cases[name] = cases.get(name, 0) + int(found[1])
    return cases


if __name__ == "__main__":
    sys.exit(main())
