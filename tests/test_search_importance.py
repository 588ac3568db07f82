"""Importance: what matters comes out as mattering."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search_fixture import SPACE, fake_train, make_study, run_inline

from jobs import models
from jobs.search.algorithms import random
from jobs.search.importance import NOTHING, importance, main_effects
from jobs.search.space import Space, read_space
from jobs.search.study import Trial

FLAT = read_space(SPACE, models.all_settings("mlp"))


def trials_of(space: Space, count: int, value: Callable[[Mapping[str, Any]], float]) -> list[Trial]:
    found = []
    for number in range(count):
        draws = random.propose(space, [], 10_000 + number)
        point = space.point(draws)
        found.append(
            Trial(
                number=number,
                task="",
                folder=Path(),
                point=point,
                draws=draws,
                state="done",
                value=value(point),
                epochs=3,
                epochs_asked=3,
            )
        )
    return found


def test_a_setting_that_decides_everything_has_nearly_all_the_variance() -> None:
    effects = main_effects(FLAT, trials_of(FLAT, 60, lambda point: math.log(point["learning_rate"])))
    assert next(iter(effects.known)) == "learning_rate" and effects.shares["learning_rate"] > 0.9
    assert max(value for label, value in effects.shares.items() if label != "learning_rate") < 0.05


def test_two_settings_of_equal_weight_share_it() -> None:
    # Both are uniform over their range here: dropout in 0..0.5 and the logarithm over four decades.
    effects = main_effects(
        FLAT, trials_of(FLAT, 200, lambda point: point["dropout"] * 2 + math.log10(point["learning_rate"]) / 4)
    ).shares
    assert effects["dropout"] == pytest.approx(0.5, abs=0.12) == effects["learning_rate"]


def test_a_choice_counts_by_its_options_and_a_conditional_setting_where_it_exists() -> None:
    document = {
        "kind": {"choice": [{"hidden_layers": [64]}, {"hidden_layers": [128], "dropout": {"uniform": [0, 0.5]}}]},
        "learning_rate": {"loguniform": [1e-5, 1e-1]},
    }
    space = read_space(document, models.all_settings("mlp"))
    effects = main_effects(space, trials_of(space, 80, lambda point: 2 * point.get("dropout", 0.5))).shares
    assert effects["kind"] > 0.2 and effects["kind.1.dropout"] > 0.1 and effects["learning_rate"] < 0.05


def test_too_few_or_equal_trials_tell_nothing(tmp_path: Path) -> None:
    assert main_effects(FLAT, trials_of(FLAT, 9, lambda point: point["dropout"])) == NOTHING
    assert main_effects(FLAT, trials_of(FLAT, 30, lambda point: 0.5)) == NOTHING
    study = make_study(tmp_path, 12, epochs=2, algorithm="random")
    assert importance(study.storage, study.id) == NOTHING
    run_inline(study, range(12), fake_train())
    first = importance(study.storage, study.id)
    assert set(first.shares) == set(SPACE) and first == importance(study.storage, study.id)


def test_noise_has_no_importance() -> None:
    """Ten trials of nothing but chance once gave a setting half of the variance, without a word of doubt."""
    told = 0
    for seed in range(6):
        noise = np.random.default_rng(seed)
        found = main_effects(FLAT, trials_of(FLAT, 10, lambda _, noise=noise: float(noise.normal())))
        assert max(found.shares.values()) > 0.2
        told += bool(found.known)
    assert told <= 1


def test_searched_epochs_count_as_the_setting_that_they_are() -> None:
    space = read_space(
        {"epochs": {"quniform": [2, 40, 1]}, "dropout": {"uniform": [0.0, 0.5]}}, models.all_settings("mlp")
    )
    trials = [
        replace(trial, epochs=int(trial.point["epochs"]), epochs_asked=int(trial.point["epochs"]))
        for trial in trials_of(space, 120, lambda point: point["epochs"] / 38 + 2 * point["dropout"])
    ]
    shares = main_effects(space, trials).shares
    assert shares["epochs"] == pytest.approx(0.5, abs=0.12) == shares["dropout"]


def test_trials_that_diverged_say_which_setting_decides() -> None:
    trials = [
        replace(trial, state="failed", cause="diverged", value=None) if trial.point["learning_rate"] > 1e-3 else trial
        for trial in trials_of(FLAT, 60, lambda point: 0.5 + point["dropout"] / 50)
    ]
    found = main_effects(FLAT, trials)
    assert found.trials == 60
    assert next(iter(found.known)) == "learning_rate"
    # A failure of the cluster says nothing.
    lost = [replace(trial, cause="node failure") if trial.value is None else trial for trial in trials]
    assert main_effects(FLAT, lost).trials < 60
