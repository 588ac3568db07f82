"""How often equal settings, or equally good runs, are told apart, and how often different ones are.

    python benchmarks/false_alarms.py                                 # made-up answers, minutes
    python benchmarks/false_alarms.py --quick
    python benchmarks/false_alarms.py --titles FILE --seeds 200       # real networks, hours on two cores
    python benchmarks/false_alarms.py --titles FILE --seeds 200 --kept FOLDER    # goes on where it was

Settings: of many seeds of one configuration, 2, 3 and 5 are drawn for one side and as many others for the other, 2,000
times. The two are the same settings, so "more than chance" is false; at most 7 % of the draws may say it (5 % is meant,
and 2,000 draws are not independent: they share seeds). Beside it stands what titles alone, without seeds, say.

Runs: k equally good runs, of one seed or of several, on titles easy or hard; at most 6 % of the replications may leave
any of them out of bold. Power: two settings that are truly 1, 2 and 3 points apart.

A made-up answer is right where the title's ease, the seed's skill and a noise of its own are above 0 together.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jobs import entry
from jobs.data.identity import identify
from jobs.data.settings import Columns, Data, Embeddings, Split
from jobs.settings import Value, beside
from jobs.storage import Storage
from jobs.task import Task
from jobs.testing import recipe_with
from pipeline.report.answers import Answers, weights
from pipeline.report.confidence_set import confidence_set
from pipeline.report.records import read_predictions
from pipeline.report.seeds import own_spread, pooled_spread
from pipeline.report.significance import Sample, difference, make_contest, paired_p
from pipeline.report.standings import ALPHA, BOUND_ALPHA

METRIC = "balanced_accuracy"
SIDES = (2, 3, 5)
CONFIGURATIONS: dict[str, tuple[str, dict[str, Value]]] = {
    "mlp": ("mlp", {"hidden_layers": [128], "dropout": 0.2, "learning_rate": 3e-3}),
    "mlp frozen": ("mlp", {"hidden_layers": [256], "learning_rate": 3e-3, "freeze_embeddings": True}),
    "cnn": ("cnn", {"filters_count": 50, "filters_length": [1, 2], "learning_rate": 1e-3}),
}


@dataclass(frozen=True, slots=True)
class Titles:
    """Made-up test titles: categories, how easy each is; models differ by ``seed_sd``, their answers by ``noise``."""

    label: np.ndarray
    ease: np.ndarray
    seed_sd: float
    noise: float

    def answers(self, random: np.random.Generator, skills: np.ndarray) -> np.ndarray:
        """Of a model a skill, (k, N): what chance in training moves for all titles is added to the skill."""
        skills = skills + random.normal(0, self.seed_sd, skills.shape) if self.seed_sd else skills
        own = random.logistic(size=(len(skills), len(self.ease))) * self.noise
        return np.asarray(self.ease + skills[:, None] + own > 0)


def made_titles(random: np.random.Generator, *, titles: int, categories: int, ease: float, seed_sd: float) -> Titles:
    """Categories with a long tail, of which each has its own difficulty."""
    shares = np.arange(1, categories + 1.0) ** -0.7
    label = random.choice(categories, size=titles, p=shares / shares.sum())
    label[:categories] = np.arange(categories)
    own = random.normal(0, 0.7, categories)[label] + random.logistic(size=titles) + ease
    return Titles(label, own, seed_sd, noise=0.3)


def sample(right: np.ndarray, label: np.ndarray, weight: np.ndarray) -> Sample:
    """A run as the report sees it, from the answers of its seeds, (seeds, N)."""
    scores = tuple((right @ weight).tolist())
    made = Answers(label=label, right=right.mean(axis=0), seeds=len(right))
    return Sample(scores=scores, spread=own_spread(scores), answers=made)


def with_pooled(samples: Sequence[Sample]) -> list[Sample]:
    """The same with the spread of the seeds of all together, as for runs of one architecture."""
    pooled = pooled_spread([one.scores for one in samples])
    return [Sample(scores=one.scores, spread=pooled or one.spread, answers=one.answers) for one in samples]


# The same settings on both sides.


def told_apart(right: np.ndarray, label: np.ndarray, each: int, draws: int) -> tuple[float, float]:
    """The share of draws of ``each`` seeds a side that are "more than chance", and by titles alone."""
    random = np.random.default_rng(each)
    weight = weights(METRIC, label)
    ours = plain = 0
    for _ in range(draws):
        chosen = random.permutation(len(right))[: 2 * each]
        pair = with_pooled([sample(right[part], label, weight) for part in (chosen[:each], chosen[each:])])
        ours += difference(*pair).p <= ALPHA
        plain += paired_p(pair[0].answers.right, pair[1].answers.right, label) <= ALPHA
    return ours / draws, plain / draws


def settings(name: str, right: np.ndarray, label: np.ndarray, draws: int) -> float:
    """Print the false alarms of one configuration; the highest of them."""
    worst = 0.0
    scores = right @ weights(METRIC, label)
    for each in (each for each in SIDES if 2 * each <= len(right)):
        ours, plain = told_apart(right, label, each, draws)
        worst = max(worst, ours)
        what = f"{name}: {len(right)} seeds ({scores.mean():.3f} \u00b1 {scores.std(ddof=1):.4f}), {each} a side"
        print(f"{what}: {100 * ours:.1f} % told apart; by titles alone {100 * plain:.1f} %", flush=True)
    return worst


# Equally good runs in one table, and different ones.


def left_out(titles: Titles, runs: int, seeds: int, replications: int) -> float:
    """How often at least one of equally good runs is not bold."""
    random = np.random.default_rng(runs * 10 + seeds)
    weight = weights(METRIC, titles.label)
    lost = 0
    for _ in range(replications):
        answers = titles.answers(random, np.zeros(runs * seeds)).reshape(runs, seeds, -1)
        table = [sample(one.astype(np.float64), titles.label, weight) for one in answers]
        contest = make_contest(with_pooled(table) if seeds > 1 else table, METRIC)
        lost += len(confidence_set(contest, ALPHA - BOUND_ALPHA)) < runs
    return lost / replications


def tables(runs: Sequence[int], replications: int) -> float:
    """Print how often equally good runs are told apart; the highest."""
    worst = 0.0
    for ease, name in ((2.0, "easy"), (-0.5, "hard")):
        for seeds, seed_sd in ((1, 0.0), (3, 0.0), (3, 0.05)):
            titles = made_titles(np.random.default_rng(0), titles=1_500, categories=40, ease=ease, seed_sd=seed_sd)
            for k in runs:
                count = max(200, replications if k * seeds <= 30 else replications // 5)
                share = left_out(titles, k, seeds, count)
                worst = max(worst, share)
                effect = "with" if seed_sd else "without"
                error = 100 * (share * (1 - share) / count) ** 0.5
                what = f"{k} equal runs of {seeds} seeds, {name} titles, {effect} an effect of the seed"
                print(
                    f"{what}: {100 * share:.1f} % \u00b1 {error:.1f} leave one out ({count} replications)", flush=True
                )
    return worst


def power(replications: int) -> None:
    """Print how often settings that are truly so many points apart are told apart, by seeds a side."""
    random = np.random.default_rng(0)
    titles = made_titles(random, titles=6_000, categories=100, ease=0.5, seed_sd=0.02)
    weight = weights(METRIC, titles.label)

    def true_score(skill: float) -> float:
        return float((titles.answers(np.random.default_rng(1), np.full(200, skill)) @ weight).mean())

    steps = np.linspace(0, 0.4, 9)
    reached = [true_score(step) - true_score(0.0) for step in steps]
    for points in (1, 2, 3):
        skill = float(np.interp(points / 100, reached, steps))
        for each in SIDES:
            found = 0
            for _ in range(replications):
                answers = titles.answers(random, np.repeat([0.0, skill], each)).astype(np.float64)
                pair = [sample(part, titles.label, weight) for part in (answers[:each], answers[each:])]
                found += difference(*with_pooled(pair)).p <= ALPHA
            print(
                f"{points} points apart, {each} seeds a side: found in {100 * found / replications:.0f} %", flush=True
            )


# Real networks.


def trained(
    folder: Path, titles: Path, seeds: int, processes: int, rows: int
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The answers (seeds, N) of each configuration, and the labels; what was trained before is not trained again."""
    storage = Storage(folder / "storage")
    storage.root.mkdir(parents=True, exist_ok=True)
    os.environ["TANDA_CPUS"] = "1"
    dataset = _prepare(storage, titles, folder, rows)
    jobs = [(name, seed) for seed in range(seeds) for name in CONFIGURATIONS]
    with ProcessPoolExecutor(processes) as pool:
        futures = [pool.submit(_train, storage.root, dataset, name, seed) for name, seed in jobs]
        for done, future in enumerate(futures, start=1):
            future.result()
            if done % 30 == 0:
                print(f"trained {done} of {len(jobs)}", file=sys.stderr, flush=True)
    for name in CONFIGURATIONS:
        read = [_answers(storage, dataset, name, seed) for seed in range(seeds)]
        yield name, np.stack([right for right, _ in read]), read[0][1]


def _prepare(storage: Storage, titles: Path, folder: Path, rows: int) -> str:
    with titles.open(newline="") as file:
        header, *body = csv.reader(file)
    drawn = folder / "titles.csv"
    with drawn.open("w", newline="") as file:
        chosen = np.random.default_rng(0).permutation(len(body))[:rows]
        csv.writer(file).writerows([header, *(body[row] for row in sorted(chosen))])
    data = Data(
        source=str(drawn),
        split=Split(validation=0.1, test=0.2, seed=0),
        columns=Columns(text="title", label="category"),
        embeddings=Embeddings(size=64),
        min_rows_per_category=10,
        max_length=16,
    )
    identity, plumbing = identify(data)
    task = Task(stage="preprocess", settings=identity, plumbing={**plumbing, "shards": 1})
    with contextlib.redirect_stdout(io.StringIO()):
        assert entry.run(task.write(storage)) == entry.DONE
    return task.id


def _tasks(dataset: str, name: str, seed: int) -> tuple[Task, Task]:
    architecture, given = CONFIGURATIONS[name]
    fixed: dict[str, Value] = {"epochs": 6, "freeze_embeddings": False, "patience_chance": 1000, "device": "cpu"}
    recipe = recipe_with(architecture, dataset, **{**fixed, **given, "seed": seed})
    train = Task(stage="train", settings=recipe.identity, needs=(dataset,), plumbing=beside(recipe.settings))
    return train, Task(stage="evaluate", settings={"train": train.id}, needs=(dataset, train.id))


def _train(root: Path, dataset: str, name: str, seed: int) -> None:
    import torch

    torch.set_num_threads(1)
    storage = Storage(root)
    # A task that is done is not done again.
    with contextlib.redirect_stdout(io.StringIO()):
        for task in _tasks(dataset, name, seed):
            entry.run(task.write(storage))


def _answers(storage: Storage, dataset: str, name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    folder = storage.run(_tasks(dataset, name, seed)[1].id)
    found = read_predictions(str(folder), "test", 1 << 16)
    assert found is not None, folder
    return (found.predicted == found.label).astype(np.float64), found.label


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--titles", type=Path, help="a file with the columns title and category: real networks alone")
    parser.add_argument("--seeds", type=int, default=200, help="of each of three configurations")
    parser.add_argument("--rows", type=int, default=15_000, help="titles drawn from the file")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--draws", type=int, default=2_000)
    parser.add_argument("--kept", type=Path, help="a folder to keep what is trained in, and to go on from")
    given = parser.parse_args()
    draws, replications = (200, 200) if given.quick else (given.draws, 5_000)
    if given.titles is not None:
        with tempfile.TemporaryDirectory() as root:
            sets = trained(given.kept or Path(root), given.titles.resolve(), given.seeds, given.processes, given.rows)
            alarms = max(settings(name, right, label, draws) for name, right, label in sets)
        print(f"told apart, of the same settings: {100 * alarms:.1f} %; at most 7")
        return int(alarms > 0.07)
    random = np.random.default_rng(0)
    alarms = 0.0
    for seed_sd in (0.0, 0.02, 0.1):
        titles = made_titles(random, titles=3_000, categories=100, ease=0.5, seed_sd=seed_sd)
        right = titles.answers(random, np.zeros(200)).astype(np.float64)
        alarms = max(alarms, settings(f"seeds {seed_sd} apart", right, titles.label, draws))
    print(f"told apart, of the same settings: {100 * alarms:.1f} %; at most 7")
    lost = tables((2, 10) if given.quick else (2, 3, 5, 10, 20, 50), replications)
    print(f"left out, of equally good runs: {100 * lost:.1f} %; at most 6")
    power(50 if given.quick else 500)
    return int(alarms > 0.07 or lost > 0.06)


if __name__ == "__main__":
    sys.exit(main())
