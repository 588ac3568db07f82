"""A word2vec text file (gz) reduced to the words of a vocabulary, against ``gzip -dc`` of it; then once more.

python benchmarks/vectors.py [--words 1000000] [--size 300] [--vocabulary 50000] [--folder DIR]
"""

from __future__ import annotations

import argparse
import gzip
import os
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from jobs.data import vectors
from jobs.data.identity import fingerprint

_BLOCK = 2000


def write_file(path: Path, words: int, size: int) -> None:
    """A file of made-up words and numbers of six decimals; rows come from a pool, in another order each time."""
    generator = np.random.default_rng(0)
    pool = [" ".join(f"{value:.6f}" for value in row) for row in generator.standard_normal((_BLOCK, size)) * 0.2]
    with gzip.GzipFile(path, "wb", compresslevel=1, mtime=0) as file:
        file.write(f"{words} {size}\n".encode())
        for start in range(0, words, _BLOCK):
            order = generator.permutation(_BLOCK)[: words - start].tolist()
            file.write("".join(f"palabra{start + at} {pool[row]}\n" for at, row in enumerate(order)).encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=300)
    parser.add_argument("--vocabulary", type=int, default=50_000)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    step = max(1, given.words // given.vocabulary)
    tokens = ["<PAD>", "<UNK>", *(f"palabra{at}" for at in range(0, given.words, step))]
    with TemporaryDirectory(prefix="tanda-", dir=given.folder) as name:
        path = Path(name) / "vectors.txt.gz"
        write_file(path, given.words, given.size)
        began = time.perf_counter()
        subprocess.run(["gzip", "-dc", str(path)], check=True, stdout=subprocess.DEVNULL)
        bare_s = time.perf_counter() - began
        taken = []
        for _ in range(2):
            began = time.perf_counter()
            known = fingerprint(path)
            table, _ = vectors.cached(Path(name) / "cache", known, path, tokens, given.size, threads=threads)
            taken.append(time.perf_counter() - began)
        assert table.in_file.sum() == len(tokens) - 2
    print(f"{threads} cores, {given.words:,} x {given.size} to {len(tokens) - 2:,} words")
    print(f"  {taken[0]:.1f} s against gzip -dc ({bare_s:.1f} s): {taken[0] / bare_s:.2f} x its time (at most 2)")
    print(f"  once more: {taken[1]:.2f} s, {taken[1] / taken[0]:.3f} of the first")


if __name__ == "__main__":
    main()
