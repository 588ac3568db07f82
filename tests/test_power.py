"""What a test set and its seeds can show, before anything is run."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from report_fixture import data_files, finish_all, make, make_run

from pipeline import power


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_the_smallest_difference_is_found_in_four_cases_of_five(seeds: int) -> None:
    random, support = np.random.default_rng(seeds), np.full(50, 20)
    least = power.smallest_difference(support, seeds, disagreement=0.2, seed_sd=0.01)
    titles, training = 0.2 / 1000, 2 * 0.01**2 / seeds
    gaps = random.normal(least, math.sqrt(titles + training), 20_000)
    spread = training * random.chisquare(2 * (seeds - 1), 20_000) / (2 * (seeds - 1))
    freedom = 2 * (seeds - 1) * ((titles + training) / training) ** 2
    from scipy import stats

    found = np.abs(gaps) > stats.t.ppf(0.975, freedom) * np.sqrt(titles + spread)
    assert found.mean() == pytest.approx(0.8, abs=0.03)


def test_more_titles_and_seeds_show_less() -> None:
    def least(titles: int, seeds: int) -> float:
        return power.smallest_difference(np.full(20, titles), seeds, disagreement=0.15, seed_sd=0.01)

    assert least(100, 3) > least(400, 3) > least(400, 10)


def test_a_plan_tells_it_once_the_data_set_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = data_files(tmp_path / "data")
    runs = [
        make_run(data, group="g", name=name, dropout=rate, seed=seed)
        for name, rate in (("a", 0.1), ("b", 0.2))
        for seed in range(3)
    ]
    made = make(tmp_path, runs=tuple(runs))
    dataset = made.plan.rows[0].dataset
    assert power.power_lines(made.plan, ()) == []
    monkeypatch.setattr(power, "_support", lambda _storage, _dataset: np.bincount(made.labels["test"]))
    (line,) = power.power_lines(made.plan, {dataset})
    assert "with 3 seeds a run, a difference of 0." in line and "by default: 15% of titles" in line
    finish_all(made, {"a": 0.5, "b": 0.7})
    (line,) = power.power_lines(made.plan, {dataset, *(row.evaluate for row in made.plan.rows)})
    assert "as seen here" in line
