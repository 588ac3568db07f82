"""Preprocess of sample rows (csv.gz) against a plain Python loop doing the same work, and against bare decompression.

The loop reads the file twice, as it must: once for the vocabulary, once to encode; its rate is taken on the first
--loop-rows rows. Preprocess runs as a task does, in a process of its own, its start counted. With several sizes the
last lines compare rows a second with the first size's.

    python benchmarks/preprocess.py [--rows 2000000 20000000] [--loop-rows 200000] [--folder DIR]
"""

from __future__ import annotations

import argparse
import csv
import gzip
import itertools
import os
import re
import subprocess
import sys
import time
from array import array
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from jobs.data.identity import identify
from jobs.data.sample import write_sample
from jobs.data.settings import Data
from jobs.storage import Storage
from jobs.task import Task
from sharedfs.documents import read_json

TAG, BETWEEN, DIGITS = re.compile(r"</?[A-Za-z][^<>]*>"), re.compile(r"[\W_]+"), re.compile(r"\d")


def words_of(title: str) -> list[str]:
    """The published normalisation: lower case, no tags, digits or punctuation, words of three letters or more."""
    plain = DIGITS.sub("", TAG.sub(" ", title).lower())
    return [word for word in BETWEEN.sub(" ", plain).split() if len(word) > 2]


def loop_s(path: Path, rows: int) -> float:
    """Seconds that a plain loop takes over the first rows: vocabulary of four rows in five, then encoding."""
    began = time.perf_counter()
    counts: Counter[str] = Counter()
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for number, row in enumerate(itertools.islice(csv.DictReader(file), rows)):
            if number % 5:
                counts.update(words_of(row["title"]))
    known = [word for word, count in counts.most_common(50_000) if count > 1]
    index = {word: number for number, word in enumerate(known, start=2)}
    classes: dict[str, int] = {}
    tokens, offsets, labels = array("H"), array("q", [0]), array("H")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in itertools.islice(csv.DictReader(file), rows):
            if not row["title"].strip() or not row["category"]:
                continue
            tokens.extend([index.get(word, 1) for word in words_of(row["title"])[:32]] or [1])
            offsets.append(len(tokens))
            labels.append(classes.setdefault(row["category"], len(classes)))
    return time.perf_counter() - began


def bare_s(path: Path) -> float:
    """Seconds of ``gzip -dc FILE | wc -l``."""
    began = time.perf_counter()
    subprocess.run(f"gzip -dc '{path}' | wc -l", shell=True, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def ours(path: Path, folder: Path) -> tuple[float, float]:
    """Seconds and peak memory in GB of the preprocess task, in a process of its own."""
    with TemporaryDirectory(dir=folder) as root:
        settings, plumbing = identify(Data(source=str(path)))
        task = Task(stage="preprocess", settings=settings, plumbing=plumbing)
        place = task.write(Storage(Path(root)))
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "jobs", str(place)], check=True)
        seconds = time.perf_counter() - began
        peak_mb = float(read_json(place / "attempts/0001/end.json")["peak_mb"])
    return seconds, peak_mb / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[2_000_000])
    parser.add_argument("--loop-rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=2, help="the best time counts")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores")
    rates = []
    for rows in given.rows:
        with TemporaryDirectory(prefix="tanda-", dir=given.folder) as name:
            folder = Path(name)
            write_sample(folder, rows, formats=["challenge"])
            rates.append(measure(folder, rows, given.loop_rows, given.rounds))
    for rows, rate in zip(given.rows[1:], rates[1:], strict=True):
        print(f"{rows:,} rows: {rate / rates[0]:.2f} of the rows a second at {given.rows[0]:,} (at least 0.80)")


def measure(folder: Path, rows: int, loop_rows: int, rounds: int) -> float:
    """Print one size's figures; returns rows a second."""
    path = folder / "train.csv.gz"
    bare, times, peaks = [], [], []
    for _ in range(rounds):
        bare.append(bare_s(path))
        seconds, peak_gb = ours(path, folder)
        times.append(seconds)
        peaks.append(peak_gb)
    loop_rows = min(rows, loop_rows)
    loop_rate = loop_rows / loop_s(path, loop_rows)
    rate = rows / min(times)
    print(f"{rows:,} rows: {min(times):.1f} s, {rate:,.0f} rows/s, peak {max(peaks):.2f} GB (under 6)")
    print(f"  against a plain loop ({loop_rate:,.0f} rows/s): {rate / loop_rate:.1f} x (at least 7, aim 12)")
    print(f"  against gzip -dc | wc -l ({min(bare):.1f} s): {min(times) / min(bare):.1f} x its time (at most 7, aim 5)")
    return rate


if __name__ == "__main__":
    main()
