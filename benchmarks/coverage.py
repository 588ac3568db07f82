"""How often the report's 95 % interval of a balanced accuracy holds the truth, and how wide it is.

    python benchmarks/coverage.py            # 2,000 test sets a cell, a few minutes
    python benchmarks/coverage.py --quick    # 400 a cell: errors of two points

A cell is a pattern of titles per category, a true score and a spread of recalls. For each of its test sets the recalls
of all categories are drawn from Beta(score x s, (1 - score) x s), s = 2 (recalls all over the place), 8 and 50
(nearly equal), and then every category's right answers. What has to be held is the mean of the drawn recalls.

Patterns for which the report says "too few titles" get no interval and are named. Width is compared with that of the
true 95 % range, 2 x 1.96 standard deviations of the score given the recalls, over test sets in which at least five of
the titles that decide (intervals.effective_titles) can be expected to be right, and five to be wrong: below that a
score has only a handful of values, and their range is no measure.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import numpy as np

from pipeline.report.intervals import Estimates, balanced_parts, effective_titles, intervals, too_few

SCORES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.99)
SPREADS = (2, 8, 50)
CATEGORIES = (2, 5, 20, 100, 250, 632)
TITLES = (1, 2, 3, 5, 10, 30, 100, 300, 1000)
EXPECTED = 5  # right and wrong titles below which widths are not compared
MOST_TITLES = 700_000


def patterns() -> Iterator[tuple[str, np.ndarray]]:
    """Titles per category by name: equal ones, long tails, and 250 categories of which 150 have one."""
    for categories in CATEGORIES:
        for titles in TITLES:
            if categories * titles <= MOST_TITLES:
                yield f"{categories} x {titles}", np.full(categories, titles)
    for categories, titles, power in ((10, 400, 1), (40, 300, 1), (250, 487, 0.7), (632, 4000, 1), (632, 60_000, 1.3)):
        shares = np.arange(1, categories + 1.0) ** -power
        yield f"tail of {categories}", np.maximum(1, np.round(titles * shares / shares.sum())).astype(int)
    yield "150 x 1 and 100 x 3.4", np.concatenate([np.ones(150, int), np.full(60, 3), np.full(40, 4)])
    yield "15 and 1000", np.array([15, 1000])
    yield "60 and 1000", np.array([60, 1000])
    yield "40, 40 and 1000", np.array([40, 40, 1000])


def cell(
    counts: np.ndarray, score: float, spread: float, sets: int, random: np.random.Generator
) -> tuple[float, float]:
    """Coverage, and the mean width over that of the true range (NaN where too few sets can be compared)."""
    recall = random.beta(score * spread, (1 - score) * spread, (sets, len(counts)))
    right = random.binomial(counts, recall)
    parts = balanced_parts(right / counts, np.broadcast_to(counts, right.shape))
    found = intervals(Estimates(score=parts[0], variance=parts[1], freedom=parts[2], titles=parts[3]))
    truth = recall.mean(axis=1)
    # What is equal but for rounding is held: a recall of 1 of every category.
    held = (found[:, 0] <= truth + 1e-9) & (truth <= found[:, 1] + 1e-9)
    comparable = np.minimum(truth, 1 - truth) * effective_titles(counts) >= EXPECTED
    if np.count_nonzero(comparable) < sets / 10:
        return float(held.mean()), np.nan
    deviation = np.sqrt((recall * (1 - recall) / counts).sum(axis=1)) / len(counts)
    widths = found[comparable, 1] - found[comparable, 0]
    return float(held.mean()), float(widths.mean() / (2 * 1.96 * deviation[comparable]).mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    sets = 400 if parser.parse_args().quick else 2_000
    random = np.random.default_rng(0)
    lowest, means, widest, few = (1.0, ""), [], (0.0, ""), []
    for name, counts in patterns():
        if too_few(counts):
            few.append(name)
            continue
        cells = [(*cell(counts, score, spread, sets, random), score, spread) for score in SCORES for spread in SPREADS]
        least = min(cells)
        mean = float(np.mean([held for held, *_ in cells]))
        wide = max((width for _, width, *_ in cells if not np.isnan(width)), default=np.nan)
        print(
            f"{name:22} coverage {100 * mean:.1f} %, least {100 * least[0]:.1f} % (score {least[2]}, s = {least[3]});"
            f" width at most {wide:.2f}",
            flush=True,
        )
        lowest = min(lowest, (least[0], name))
        means.append(mean)
        if counts.min() >= 5 and not np.isnan(wide):
            widest = max(widest, (wide, name))
    print(f"too few titles: {', '.join(few)}")
    print(f"least of all cells: {100 * lowest[0]:.1f} % ({lowest[1]}); at least 90")
    print(f"mean of a pattern: from {100 * min(means):.1f} % to {100 * max(means):.1f} %; 93 to 98")
    print(f"width over the true range's, five titles or more a category: {widest[0]:.2f} ({widest[1]}); at most 1.3")
    return int(lowest[0] < 0.9 or min(means) < 0.93 or max(means) > 0.98 or widest[0] > 1.3)


if __name__ == "__main__":
    sys.exit(main())
