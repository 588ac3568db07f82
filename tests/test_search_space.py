"""Spaces: what a manifest may say, and points in their settings' own types."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import models
from jobs.search.algorithms import random
from jobs.search.space import Space, all_dimensions, decided, read_space, samples
from pipeline.manifest.expand_searches import canonical, check_stopping
from pipeline.manifest.space_validation import validate_space

MLP = models.all_settings("mlp")
CONDITIONAL: dict[str, Any] = {
    "depth": {
        "choice": [
            {"hidden_layers": [64]},
            {"hidden_layers": {"choice": [[256, 128], [512, 256]]}, "dropout": {"uniform": [0.1, 0.5]}},
            {"inner": {"choice": [{"hidden_layers": [8]}, {"hidden_layers": [9], "dropout": 0.2}]}},
        ]
    },
    "learning_rate": {"loguniform": [1e-5, 1e-1]},
}


def space_of(document: dict[str, Any]) -> Space:
    return read_space(document, MLP)


def test_the_published_spaces_are_legal_and_give_points_in_the_settings_types() -> None:
    document = {
        "hidden_layers": {"choice": [[256, 128], [256, 514, 256]]},
        "dropout": {"uniform": [0, 0.5]},
        "learning_rate": {"loguniform": [1e-5, 1e-1]},
        "batch_size": {"quniform": [128, 1024, 128]},
        "epochs": {"randint": [1, 15]},
        "freeze_embeddings": {"choice": [True, False]},
    }
    assert validate_space(document, MLP) == []
    first, second = samples(space_of(document))
    assert first == {
        "batch_size": 128,
        "dropout": 0.0,
        "epochs": 1,
        "freeze_embeddings": True,
        "hidden_layers": (256, 128),
        "learning_rate": 1e-5,
    }
    assert (second["batch_size"], second["epochs"], second["hidden_layers"]) == (1024, 15, (256, 514, 256))
    assert type(first["batch_size"]) is int and type(first["epochs"]) is int and type(first["dropout"]) is float


@pytest.mark.parametrize(
    ("document", "path", "words"),
    [
        ({}, (), "or map settings"),
        ({"dropout": 0.3}, ("dropout",), "must be a distribution"),
        ({"dropuot": {"uniform": [0, 0.5]}}, ("dropuot",), "did you mean 'dropout'"),
        ({"lstm_layers": {"choice": [1]}}, ("lstm_layers",), "the architecture has no such setting"),
        ({"dropout": {"unifrom": [0, 0.5]}}, ("dropout", "unifrom"), "did you mean 'uniform'"),
        ({"dropout": {"uniform": [0, 0.5], "choice": [1]}}, ("dropout",), "exactly one distribution"),
        ({"dropout": {}}, ("dropout",), "exactly one distribution"),
        ({"dropout": {"uniform": [0.5, 0]}}, ("dropout", "uniform"), "wrong way round"),
        ({"dropout": {"uniform": [0.5, 0.5]}}, ("dropout", "uniform"), "low must be below high"),
        ({"dropout": {"uniform": [0.5]}}, ("dropout", "uniform"), "must be [low, high]"),
        ({"dropout": {"uniform": "0..1"}}, ("dropout", "uniform"), "must be [low, high]"),
        ({"dropout": {"uniform": [0, "1"]}}, ("dropout", "uniform", 1), "must be a number"),
        ({"dropout": {"uniform": [0, True]}}, ("dropout", "uniform", 1), "must be a number"),
        ({"dropout": {"uniform": [0, math.nan]}}, ("dropout", "uniform", 1), "must be a number"),
        ({"dropout": {"uniform": [0, 7]}}, ("dropout", "uniform", 1), "must be"),
        ({"learning_rate": {"loguniform": [0, 1]}}, ("learning_rate", "loguniform", 0), "zero has no logarithm"),
        ({"batch_size": {"uniform": [1, 9]}}, ("batch_size", "uniform"), "use quniform with a step, or randint"),
        ({"batch_size": {"quniform": [1, 9, 0.5]}}, ("batch_size", "quniform", 2), "whole number"),
        ({"batch_size": {"quniform": [1, 9, 0]}}, ("batch_size", "quniform", 2), "step must be above 0"),
        ({"batch_size": {"quniform": [1, 9, 10]}}, ("batch_size", "quniform", 2), "at most high - low"),
        ({"batch_size": {"quniform": [1, 9]}}, ("batch_size", "quniform"), "must be [low, high, step]"),
        ({"batch_size": {"randint": [0, 9]}}, ("batch_size", "randint", 0), "at least 1"),
        ({"freeze_embeddings": {"uniform": [0, 1]}}, ("freeze_embeddings", "uniform"), "use choice"),
        ({"freeze_embeddings": {"choice": [True, "no"]}}, ("freeze_embeddings", "choice", 1), "true or false"),
        ({"hidden_layers": {"choice": []}}, ("hidden_layers", "choice"), "non-empty list"),
        ({"hidden_layers": {"choice": [[64], [0]]}}, ("hidden_layers", "choice", 1), "at least"),
        ({"device": {"choice": ["cpu", "cuda"]}}, ("device",), "never changes a result"),
        ({"a": {"choice": [{"dropout": 0.1}, 3]}}, ("a", "choice", 1), "like the other options"),
        ({"a": {"choice": [{"dropout": 0.1}, {}]}}, ("a", "choice", 1), "like the other options"),
        ({"a": {"choice": [{"dropout": "x"}]}}, ("a", "choice", 0, "dropout"), "must be a number"),
        ({"a": {"choice": [{"dropout": {"uniform": [1, 0]}}]}}, ("a", "choice", 0, "dropout", "uniform"), "wrong way"),
        ({"a": {"choice": [{"dropout": 0.1}]}, "dropout": {"uniform": [0, 0.5]}}, ("dropout",), "already decided"),
        ({1: {"uniform": [0, 1]}}, (1,), "no such setting"),
    ],
)
def test_a_mistake_is_found_with_its_place(document: dict[Any, Any], path: tuple[Any, ...], words: str) -> None:
    ((found, message),) = validate_space(document, MLP)
    assert found == path and words in message


def test_every_option_of_nested_choices_is_shown_to_checks_between_settings() -> None:
    points = samples(space_of(CONDITIONAL))
    assert {tuple(point["hidden_layers"]) for point in points} == {(64,), (256, 128), (512, 256), (8,), (9,)}


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_point_holds_the_settings_of_the_options_that_were_chosen_and_no_others(seed: int) -> None:
    space = space_of(CONDITIONAL)
    draws = random.propose(space, [], seed)
    point = space.point(draws)
    widths = tuple(point["hidden_layers"])
    expected = {"hidden_layers", "learning_rate"} | ({"dropout"} if widths in ((256, 128), (512, 256), (9,)) else set())
    assert set(point) == expected
    assert 1e-5 <= point["learning_rate"] <= 1e-1
    assert ("depth.1.dropout" in draws) == (widths in ((256, 128), (512, 256)))


@settings(deadline=None, max_examples=60)
@given(
    low=st.integers(1, 50),
    step=st.integers(1, 20),
    count=st.integers(1, 9),
    kind=st.sampled_from(["quniform", "qloguniform", "randint"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_steps_start_at_low_and_end_at_high(low: int, step: int, count: int, kind: str, seed: int) -> None:
    high = low + step * count
    arguments = [low, high] if kind == "randint" else [low, high, step]
    space = space_of({"batch_size": {kind: arguments}})
    value = space.point(random.propose(space, [], seed))["batch_size"]
    assert value in range(low, high + 1, 1 if kind == "randint" else step)
    assert [point["batch_size"] for point in samples(space)] == [low, high]


def test_steps_are_equally_likely_at_the_ends_too() -> None:
    space = space_of({"batch_size": {"quniform": [100, 300, 100]}})
    drawn = [space.point(random.propose(space, [], seed))["batch_size"] for seed in range(3000)]
    for value in (100, 200, 300):
        assert drawn.count(value) == pytest.approx(1000, abs=110)  # four standard deviations


def test_the_end_of_a_log_range_stays_within_the_settings_bounds() -> None:
    space = space_of({"learning_rate": {"loguniform": [1e-5, 10.0]}})
    assert space.point({"learning_rate": math.exp(math.log(10.0))})["learning_rate"] == 10.0


def test_decimal_steps_are_decimal_numbers() -> None:
    space = space_of({"dropout": {"quniform": [0.1, 0.5, 0.1]}})
    assert {space.point({"dropout": 0.1 * k})["dropout"] for k in range(1, 6)} == {0.1, 0.2, 0.3, 0.4, 0.5}


def test_the_order_of_a_space_does_not_matter() -> None:
    turned = dict(reversed(CONDITIONAL.items()))
    assert random.propose(space_of(CONDITIONAL), [], 7) == random.propose(space_of(turned), [], 7)


@pytest.mark.parametrize(
    ("stopping", "path", "words"),
    [
        ({}, (), "must be a name"),
        ({"ahsa": {}}, ("ahsa",), "did you mean 'asha'"),
        ({"asha": {"reduction": 1}}, ("asha", "reduction"), "at least 2"),
        ({"asha": {"grace_epoch": 1}}, ("asha", "grace_epoch"), "did you mean 'grace_epochs'"),
    ],
)
def test_a_mistake_in_stopping_is_found_with_its_place(stopping: Any, path: tuple[Any, ...], words: str) -> None:
    ((found, message),) = check_stopping(stopping)
    assert found == path and words in message
    assert check_stopping(None) == check_stopping({"asha": {"grace_epochs": 2}}) == check_stopping({"asha": None}) == []


def test_reading_searches_imports_neither_torch_nor_hyperopt() -> None:
    code = (
        "import sys, jobs.plugins, jobs.search, jobs.search.algorithms, jobs.search.next_trial, jobs.stages.trial; "
        "jobs.plugins.ALGORITHMS.load('tpe'); "
        "print(sorted({'torch', 'hyperopt', 'sklearn', 'pandas', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


PARTS: dict[str, Any] = {
    "optimiser": {"choice": ["adam", {"adamw": {"beta1": 0.8}}, {"sgd": {"momentum": {"uniform": [0.5, 0.99]}}}]}
}
KNOWN = {setting.name: setting for setting in MLP}


def test_parts_are_searched_with_settings_of_their_own() -> None:
    assert validate_space(PARTS, MLP) == []
    space = canonical(PARTS, KNOWN)
    assert space == canonical(space, KNOWN), "what is stored is read as what was written"
    whole = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-08, "vector_decay": "always"}
    assert space["optimiser"]["choice"][0] == {"adam": whole}
    dimensions = space_of(space)
    assert [each.label for each in all_dimensions(dimensions.dimensions)] == ["optimiser", "optimiser.2.momentum"]
    points = samples(dimensions)
    assert points[0] == {"optimiser": {"adam": whole}}
    assert points[2] == {"optimiser": {"sgd": {"momentum": 0.5, "nesterov": False}}}
    assert KNOWN["optimiser"].read(points[1]["optimiser"]).beta1 == 0.8
    assert decided(space, KNOWN) == {"optimiser"}
    drawn = [random.propose(dimensions, [], seed) for seed in range(40)]
    momenta = [dimensions.point(draws)["optimiser"]["sgd"]["momentum"] for draws in drawn if draws["optimiser"] == 2]
    assert len(momenta) > 5 and all(0.5 <= momentum <= 0.99 for momentum in momenta)


def test_a_part_may_be_one_value_of_a_conditional_choice() -> None:
    document = {"way": {"choice": [{"optimiser": {"sgd": {"momentum": 0.8}}, "dropout": 0}, {"optimiser": "adamw"}]}}
    assert validate_space(document, MLP) == []
    space = canonical(document, KNOWN)
    assert decided(space, KNOWN) == {"optimiser", "dropout"}
    first, second = samples(space_of(space))
    assert first == {"optimiser": {"sgd": {"momentum": 0.8, "nesterov": False}}, "dropout": 0.0}
    assert [*second["optimiser"]] == ["adamw"]


@pytest.mark.parametrize(
    ("option", "path", "words"),
    [
        ("adan", (), "did you mean 'adam'"),
        ({"sdg": {}}, ("sdg",), "did you mean 'sgd'"),
        ({"sgd": {"momentun": 0.1}}, ("sgd", "momentun"), "did you mean 'momentum'"),
        ({"sgd": {"momentum": 7}}, ("sgd", "momentum"), "at most 0.999"),
        ({"sgd": {"momentum": {"uniform": [0, 7]}}}, ("sgd", "momentum", "uniform", 1), "at most 0.999"),
        ({"sgd": {}, "adam": {}}, (), "must be a name"),
        (3, (), "must be a name"),
    ],
)
def test_a_wrong_part_of_a_space_is_told_where_it_is(option: object, path: tuple[str, ...], words: str) -> None:
    ((where, message),) = validate_space({"optimiser": {"choice": ["adam", option]}}, MLP)
    assert where == ("optimiser", "choice", 1, *path)
    assert words in message
