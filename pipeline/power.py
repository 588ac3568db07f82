"""The smallest difference that a test set with so many seeds can show, told before anything is run.

After Card et al., *With Little Power Comes Great Responsibility*, EMNLP 2020: a comparison that cannot find what is
there is not worth its hours.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from jobs.storage import Storage
from jobs.task import read_record
from pipeline.plan import Plan, Row
from sharedfs.errors import TandaError

if TYPE_CHECKING:
    import numpy as np

POWER = 0.8
# Where nothing on the storage tells: of networks on 15,000 product titles (benchmarks/false_alarms.py).
DISAGREEMENT = 0.15  # the share of titles that one of two runs answers rightly and the other does not
SEED_SD = 0.007  # of balanced accuracy from seed to seed
MOST_READ = 6  # runs of a data set whose predictions are read


def smallest_difference(support: np.ndarray, seeds: int, *, disagreement: float, seed_sd: float) -> float:
    """The difference in balanced accuracy that a test at 5 % finds in four cases of five.

    ``support`` (C,) are titles by category. With one seed it is that of two trained models, over titles alone.
    """
    from scipy.special import ndtri, stdtrit

    counts = support[support > 0]
    titles = disagreement * float((1 / counts).sum()) / len(counts) ** 2
    if seeds < 2:
        return float(ndtri(0.975) + ndtri(POWER)) * math.sqrt(titles)
    training = 2 * seed_sd**2 / seeds
    # Satterthwaite's: the part of the seeds alone is uncertain.
    freedom = 2 * (seeds - 1) * ((titles + training) / training) ** 2 if training else math.inf
    both = float(stdtrit(min(freedom, 1e9), 0.975) + stdtrit(min(freedom, 1e9), POWER))
    return both * math.sqrt(titles + training)


def power_lines(plan: Plan, done: Collection[str]) -> list[str]:
    """A line for each data set that is made and on which runs are compared."""
    storage, lines = Storage(plan.manifest.storage), []
    rows: dict[str, list[Row]] = {}
    for row in plan.rows:
        rows.setdefault(row.dataset, []).append(row)
    names = {planned.id: planned.run for planned in plan.tasks if planned.stage == "preprocess"}
    for dataset, members in rows.items():
        runs = Counter((row.group, row.run) for row in members)
        if dataset not in done or len(runs) < 2:
            continue
        support = _support(storage, dataset)
        if support is None:
            continue
        seeds = Counter(runs.values()).most_common(1)[0][0]
        disagreement, seed_sd, known = _seen(storage, [row for row in members if row.evaluate in done])
        least = smallest_difference(support, seeds, disagreement=disagreement, seed_sd=seed_sd)
        of = "of trained models, with one seed" if seeds == 1 else f"with {seeds} seeds a run"
        lines.append(
            f"{names.get(dataset, dataset)}: {of}, a difference of {least:.3f} in test balanced accuracy is found in "
            f"{POWER:.0%} of cases ({known}: {disagreement:.0%} of titles differ, seeds are {seed_sd:.3f} apart)"
        )
    return lines


def _support(storage: Storage, dataset: str) -> np.ndarray | None:
    """Test titles by category; None where the data set cannot be read, which whoever needs it will say."""
    import numpy as np

    from jobs.data.dataset import Dataset

    try:
        labels = Dataset.open(storage.dataset(dataset)).splits["test"].labels
    except (OSError, KeyError, TandaError):
        return None
    return np.bincount(np.asarray(labels)) if len(labels) else None


def _seen(storage: Storage, rows: Sequence[Row]) -> tuple[float, float, str]:
    """Disagreement and the spread of seeds among runs that are done, and how they are known."""
    from pipeline.report.records import read_predictions
    from pipeline.report.seeds import pooled_spread

    read = (read_predictions(f"{storage.runs}/{row.evaluate}", "test", 1 << 31) for row in rows[:MOST_READ])
    right = [one.predicted == one.label for one in read if one is not None]
    apart = [float((one != other).mean()) for one, other in combinations(right, 2) if len(one) == len(other)]
    scores: dict[tuple[str, str], list[float]] = {}
    for row in rows[: 10 * MOST_READ]:
        if (value := _score(storage, row)) is not None:
            scores.setdefault((row.group, row.run), []).append(value)
    spread = pooled_spread(scores.values())
    disagreement = math.fsum(apart) / len(apart) if apart else DISAGREEMENT
    seed_sd = math.sqrt(spread.variance) if spread else SEED_SD
    return disagreement, seed_sd, _known(apart, spread is not None)


def _known(apart: Iterable[float], spread: bool) -> str:
    return {(True, True): "as seen here", (False, False): "by default"}.get((bool(apart), spread), "partly by default")


def _score(storage: Storage, row: Row) -> float | None:
    try:
        record = read_record(storage.run(row.evaluate))
    except ValueError:  # a damaged record, which status names
        return None
    return record.figure("test_balanced_accuracy") if record is not None else None
