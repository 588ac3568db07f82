"""Seeded histories on the model of Slurm: a hundred are clean, one replays exactly, planted faults are found."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "histories.py"


def histories(*words: object) -> subprocess.CompletedProcess[str]:
    # A process of its own: the order of sets is part of a history, and the model takes the system's calls.
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    command = [sys.executable, str(PROGRAM), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=environment)


def test_nothing_is_lost_double_or_untrue_in_a_hundred_histories() -> None:
    done = histories("--count", 100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^100 histories in .* 0 wrong$", done.stdout, re.M)


def test_a_history_replays_exactly() -> None:
    first, again = (histories("--seed", 41, "--trace") for _ in range(2))
    assert first.stdout == again.stdout and first.returncode == again.returncode == 0
    assert "seed 41: " in first.stdout and len(first.stdout.splitlines()) > 300
    assert histories("--seed", 42, "--trace").stdout != first.stdout


def test_a_planted_fault_is_found_and_the_seed_named() -> None:
    done = histories("--count", 50, "--fault", "retry counted twice")
    assert done.returncode == 1
    assert re.search(r"^seed \d+ .*:\n    .*: .* after \d tries, and not tried again$", done.stdout, re.M)
