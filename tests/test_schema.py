"""The JSON schema that editors use agrees with what the program itself takes and refuses."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from manifest_fixture import HEAD

from jobs import models
from jobs.plugins import MODELS
from pipeline.manifest.reference import manifest_schema, profile_schema
from pipeline.manifest.yaml_nodes import read

CONFIGS = Path(__file__).parents[1] / "configs"
MANIFEST = Draft202012Validator(manifest_schema())
PROFILE = Draft202012Validator(profile_schema())


def test_the_schemas_are_sound() -> None:
    Draft202012Validator.check_schema(manifest_schema())
    Draft202012Validator.check_schema(profile_schema())
    json.dumps(manifest_schema(), allow_nan=False)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_manifest_that_comes_with_the_program_agrees(path: Path) -> None:
    assert [error.message for error in MANIFEST.iter_errors(read(path).plain())] == []


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("clusters/*.yaml")), ids=lambda path: path.name)
def test_every_profile_that_comes_with_the_program_agrees(path: Path) -> None:
    assert [error.message for error in PROFILE.iter_errors(read(path).plain())] == []


SOUND: dict[str, Any] = {
    **yaml.safe_load(HEAD),
    "include": ["a.yaml"],
    "defaults": {"dropout": 0.1, "early_stopping": {"patience": 2}},
    "experiments": {
        "g": {"runs": {"A": {"architecture": "mlp", "language": "spanish"}, "B": None}, "seeds": [0]},
        "o": {
            "architecture": "mlp",
            "grid": {"optimiser": ["adamw", {"sgd": {"momentum": 0.5}}], "schedule": [{"step": {"parts": 2}}]},
        },
        "h": {"architecture": "cnn", "grid": {"filters_length": [[2], [3, 4]], "quality": ["all"]}},
    },
    "searches": {
        "s": {
            "architecture": "rnn",
            "stopping": {"asha": {"reduction": 4}},
            "optimiser": {"adam": {"vector_decay": "when_used"}},
            "space": {
                "schedule": {"choice": ["constant", {"step": {"multiplier": {"uniform": [0.1, 0.9]}, "parts": 3}}]},
                "dropout": {"uniform": [0, 0.5]},
                "way": {"choice": [{"epochs": 1}, {"epochs": 2}]},
            },
        }
    },
}


def test_a_sound_manifest_agrees() -> None:
    assert [error.message for error in MANIFEST.iter_errors(SOUND)] == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("experimets",), {}),
        (("name",), 3),
        (("data", "max_lenght"), 3),
        (("data", "max_length"), 0),
        (("defaults", "droput"), 0.1),
        (("experiments", "g", "runs", "A", "hiden_layers"), [3]),
        (("experiments", "g", "runs", "A", "epochs"), "3"),
        (("experiments", "g", "runs", "A", "architecture"), "mpl"),
        (("experiments", "h", "grid", "dropout"), 0.1),
        (("experiments", "h", "reference"), {"x": {"test_los": 1}}),
        (("searches", "s", "algorithm"), "tep"),
        (("searches", "s", "space", "dropout"), {"unifrom": [0, 1]}),
        (("searches", "s", "space", "batch_size"), {"quniform": [1, 2]}),
        (("searches", "s", "stopping"), {"asha": {"reductoin": 3}}),
        (("resources",), {"train": {"shards": 3}}),
        (("umask",), "99"),
    ],
)
def test_what_the_program_refuses_the_schema_refuses(place: tuple[str, ...], value: Any) -> None:
    document = copy.deepcopy(SOUND)
    section = document
    for key in place[:-1]:
        section = section[key]
    section[place[-1]] = value
    assert not MANIFEST.is_valid(document)


def test_every_setting_of_every_architecture_is_described() -> None:
    properties = manifest_schema()["$defs"]["Run"]["properties"]
    for name in MODELS.names():
        for setting in models.all_settings(name):
            assert setting.doc in properties[setting.name]["description"] or setting.name in properties
