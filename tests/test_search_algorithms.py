"""What every search algorithm keeps to; a new file in ``jobs/search/algorithms`` is covered by being there."""

from __future__ import annotations

import json
import math
import statistics
from types import SimpleNamespace
from typing import Any

import pytest
from search_fixture import SPACE, objective

from jobs import models
from jobs.plugins import ALGORITHMS
from jobs.search.algorithms import Observation
from jobs.search.space import Range, Space, all_dimensions, read_space

CONDITIONAL: dict[str, Any] = {
    "depth": {
        "choice": [
            {"hidden_layers": [64]},
            {"hidden_layers": {"choice": [[256, 128], [512, 256]]}, "dropout": {"uniform": [0.1, 0.5]}},
        ]
    },
    "learning_rate": {"loguniform": [1e-5, 1e-1]},
}
FLAT = read_space(SPACE, models.all_settings("mlp"))
NESTED = read_space(CONDITIONAL, models.all_settings("mlp"))


def loss_of(space: Space, draws: Any) -> float:
    point = {"dropout": 0.0, **space.point(draws)}
    return -objective(SimpleNamespace(**point), 9)


def search(name: str, space: Space, trials: int, seed: int = 0) -> list[Observation]:
    algorithm, history = ALGORITHMS.load(name), []
    for number in range(trials):
        draws = algorithm.propose(space, history, seed * 1000 + number)
        history.append(Observation(draws=draws, loss=loss_of(space, draws)))
    return history


@pytest.fixture(params=ALGORITHMS.names())
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def test_the_algorithms_are_found_by_their_files() -> None:
    assert {"random", "tpe"} <= set(ALGORITHMS.names())
    with pytest.raises(ValueError, match="unknown algorithm 'tpee'; did you mean 'tpe'"):
        ALGORITHMS.load("tpee")


@pytest.mark.parametrize("space", [FLAT, NESTED], ids=["flat", "conditional"])
def test_draws_are_legal_json_and_make_a_point(name: str, space: Space) -> None:
    ranges = {dimension.label: dimension for dimension in space.dimensions if isinstance(dimension, Range)}
    for past in search(name, space, 25):
        assert json.loads(json.dumps(past.draws)) == past.draws
        assert set(past.draws) <= {dimension.label for dimension in all_dimensions(space.dimensions)}
        assert all(ranges[label].low <= past.draws[label] <= ranges[label].high for label in ranges)
        assert space.point(past.draws)


def test_an_option_that_was_not_chosen_is_not_drawn(name: str) -> None:
    for past in search(name, NESTED, 25):
        assert ("depth.1.dropout" in past.draws) == (past.draws["depth"] == 1)


@pytest.mark.parametrize("space", [FLAT, NESTED], ids=["flat", "conditional"])
def test_the_same_history_and_seed_give_the_same_draws(name: str, space: Space) -> None:
    history = search(name, space, 15)
    algorithm = ALGORITHMS.load(name)
    first = algorithm.propose(space, history, 99)
    assert algorithm.propose(space, list(history), 99) == first
    assert algorithm.propose(space, json_round_trip(history), 99) == first
    assert algorithm.propose(space, history, 100) != first


def test_running_and_failed_trials_are_taken_and_change_nothing_about_determinism(name: str) -> None:
    history = search(name, FLAT, 14)
    mixed = [
        Observation(draws=past.draws, loss=(past.loss, None, math.inf)[number % 3])
        for number, past in enumerate(history * 3)
    ]
    algorithm = ALGORITHMS.load(name)
    assert algorithm.propose(FLAT, mixed, 5) == algorithm.propose(FLAT, mixed, 5)
    nothing_yet = [Observation(draws=past.draws, loss=None) for past in history * 2]
    assert algorithm.propose(FLAT, nothing_yet, 5) == ALGORITHMS.load("random").propose(FLAT, nothing_yet, 5)


def test_sixteen_seeds_beside_one_history_give_sixteen_points(name: str) -> None:
    history = search(name, FLAT, 15)
    points = [FLAT.point(ALGORITHMS.load(name).propose(FLAT, history, seed)) for seed in range(16)]
    assert len({json.dumps(point) for point in points}) == 16


def test_tpe_finds_more_than_random_draws_do() -> None:
    best = {
        name: statistics.median(
            min(past.loss or 0.0 for past in search(name, FLAT, 40, seed)[20:]) for seed in range(5)
        )
        for name in ("random", "tpe")
    }
    assert best["tpe"] < best["random"]


def test_running_trials_push_tpe_away_from_where_they_are() -> None:
    history = search("tpe", FLAT, 30)
    tpe = ALGORITHMS.load("tpe")

    def spread(liar: bool) -> float:
        known, logs = list(history), []
        for seed in range(12):
            draws = tpe.propose(FLAT, known, seed)
            logs.append(math.log10(draws["learning_rate"]))
            if liar:
                known.append(Observation(draws=draws, loss=None))
        return statistics.pstdev(logs)

    assert spread(liar=True) > spread(liar=False)


def json_round_trip(history: list[Observation]) -> list[Observation]:
    return [Observation(draws=json.loads(json.dumps(past.draws)), loss=past.loss) for past in history]
