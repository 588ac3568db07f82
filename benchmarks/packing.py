"""Runs side by side on one device against one alone: what `pack: k` gains in titles a second.

Both rates are taken over the time in which all runs train, with as many cores a run (``_side.py``). Claimed on a GPU:
four at batch 128 train at least 2.5 times as many titles a second as one. On a CPU it shows how cores are shared.
Exit status 1 when ``--compile`` asked for graphs and a run went on without.

    python benchmarks/packing.py [--pack 4] [--titles 200000] [--compile]
"""

from __future__ import annotations

import argparse
import sys

import torch
from _made import storage_with
from _side import cores_each, side_by_side


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", type=int, default=4)
    parser.add_argument("--titles", type=int, default=200_000)
    parser.add_argument("--architecture", default="mlp")
    parser.add_argument("--compile", action="store_true", help="steps as CUDA graphs")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU is present: this shows how cores are shared, not what packing is for")
    with storage_with(given.titles) as (storage, _):
        asked = {"architecture": given.architecture, "titles": given.titles, "compile": given.compile}
        alone, packed = (
            side_by_side(storage, count, cpus=cores_each(given.pack), batch_size=128, **asked)
            for count in (1, given.pack)
        )
    for line in sorted({*alone.told, *packed.told}):
        print(line)
    print(
        f"one: {alone.titles_per_s:,.0f} titles/s over {alone.window_s:.1f} s; {given.pack} side by side: "
        f"{packed.titles_per_s:,.0f} titles/s over {packed.window_s:.1f} s; "
        f"{packed.titles_per_s / alone.titles_per_s:.2f} times"
    )
    return int(bool(alone.told or packed.told))


if __name__ == "__main__":
    sys.exit(main())
