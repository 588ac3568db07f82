"""The manifest's JSON schema, for editors: every key with its type, range, default and meaning."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from jobs import models
from jobs.data.settings import Data
from jobs.search import algorithms, stopping
from jobs.search.space import DISTRIBUTIONS
from jobs.settings import Setting
from pipeline.manifest.expansion import FIGURES
from pipeline.manifest.schema import Cluster, EarlyStopping, Root

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TYPES = {"int": "integer", "float": "number", "bool": "boolean", "str": "string"}
_NUMBERS: Schema = {"type": "array", "items": {"type": "number"}}


def manifest_schema() -> Schema:
    """The schema of a manifest."""
    whole = Root.model_json_schema()
    definitions = whole["$defs"]
    _take(definitions, "Data", Data)
    _take(definitions, "EarlyStopping", EarlyStopping)
    settings = every_setting()
    own = {name: _described(setting, _architectures(name)) for name, setting in settings.items()}
    keys = own | definitions["Data"]["properties"]
    for name in ("Run", "Group", "Search"):
        section = definitions[name]
        section["properties"] = keys | section["properties"]
        section["additionalProperties"] = False
    definitions["Data"].pop("required", None)
    definitions["Space"] = _space(settings)
    definitions["Search"]["properties"] |= {
        "space": {"$ref": "#/$defs/Space", "description": "what is searched: a distribution for each setting"},
        "algorithm": {"enum": list(algorithms.names()), "default": "tpe"},
        "stopping": _stopping(),
        "reference": _figures(),
    }
    _architecture(definitions)
    group = definitions["Group"]["properties"]
    axes = {
        "type": "object",
        "properties": {name: {"type": "array", "minItems": 1} for name in (*keys, "architecture")},
        "additionalProperties": False,
    }
    group["grid"] = axes | {"description": "every combination of these values, a run each"}
    group["zip"] = axes | {"description": "the first values together, the second ones together, ..."}
    group["reference"] = {"type": "object", "additionalProperties": _figures()}
    whole["properties"] |= _root(own)
    return {"$schema": DIALECT, **whole, "title": "tanda manifest", "required": ["name", "data"]}


def profile_schema() -> Schema:
    """The schema of a cluster profile."""
    return {"$schema": DIALECT, **Cluster.model_json_schema(), "title": "tanda cluster profile"}


def _take(definitions: dict[str, Any], name: str, model: type[BaseModel]) -> None:
    """A model's schema among the definitions, and those it is made of beside it."""
    schema = model.model_json_schema(ref_template="#/$defs/{model}")
    definitions |= schema.pop("$defs", {})
    definitions[name] = schema


def every_setting() -> dict[str, Setting]:
    """The settings of all architectures by name, each as its first architecture describes it."""
    found: dict[str, Setting] = {}
    for name in models.names():
        for setting in models.settings(name):
            found.setdefault(setting.name, setting)
    return found


def _architectures(setting: str) -> tuple[str, ...]:
    return tuple(name for name in models.names() if any(each.name == setting for each in models.settings(name)))


def setting_schema(setting: Setting) -> Schema:
    """One setting's type and range."""
    if setting.type == "ints":
        return {"type": "array", "minItems": setting.items, "items": _bounds(setting) | {"type": "integer"}}
    if setting.type == "str":
        return {"enum": list(setting.choices)}
    schema = _bounds(setting) | {"type": _TYPES[setting.type]}
    return {"anyOf": [schema, {"type": "null"}]} if setting.default is None else schema


def _bounds(setting: Setting) -> Schema:
    bounds = {"minimum": setting.low, "exclusiveMinimum": setting.above, "maximum": setting.high}
    return {name: bound for name, bound in bounds.items() if bound is not None}


def _described(setting: Setting, architectures: Iterable[str]) -> Schema:
    return setting_schema(setting) | {
        "description": f"{setting.doc} ({', '.join(architectures)})",
        "default": setting.default,
    }


def _space(settings: dict[str, Setting]) -> Schema:
    """A distribution for each setting; any other name is that of a conditional choice."""
    ranges: dict[str, Schema] = {
        kind: _NUMBERS | {"minItems": 3 if kind.startswith("q") else 2, "maxItems": 3 if kind.startswith("q") else 2}
        for kind in DISTRIBUTIONS
        if kind != "choice"
    }
    properties = {}
    for name, setting in settings.items():
        if setting.plumbing:
            continue
        kinds = {"choice": {"type": "array", "minItems": 1, "items": setting_schema(setting)}}
        kinds |= ranges if setting.type in ("int", "float") else {}
        properties[name] = {"type": "object", "properties": kinds, **_exactly_one()}
    options = {"type": "array", "minItems": 1, "items": {"type": "object", "minProperties": 1}}
    conditional = {"type": "object", "properties": {"choice": options}, "required": ["choice"], **_exactly_one()}
    return {"type": "object", "minProperties": 1, "properties": properties, "additionalProperties": conditional}


def _exactly_one() -> Schema:
    return {"additionalProperties": False, "minProperties": 1, "maxProperties": 1}


def _stopping() -> Schema:
    rules = {
        name: {
            "type": ["object", "null"],
            "properties": {
                setting.name: setting_schema(setting) | {"description": setting.doc, "default": setting.default}
                for setting in stopping.load(name).SETTINGS
            },
            "additionalProperties": False,
        }
        for name in stopping.names()
    }
    rule = {"type": "object", "properties": rules, **_exactly_one()}
    return {"anyOf": [rule, {"type": "null"}], "description": "how poor trials are stopped early"}


def _figures() -> Schema:
    return {
        "type": "object",
        "properties": {name: {"type": "number"} for name in FIGURES},
        "additionalProperties": False,
        "description": "published figures by metric, shown beside ours",
    }


def _architecture(definitions: dict[str, Any]) -> None:
    for name in ("Run", "Group", "Search"):
        key = definitions[name]["properties"]["architecture"]
        definitions[name]["properties"]["architecture"] = {
            "enum": list(models.names()),
            "description": key.get("description", ""),
        }


def _root(settings: Schema) -> Schema:
    path = {"type": "string", "description": "a path, relative to this file"}
    return {
        "include": {
            "anyOf": [path, {"type": "array", "items": path}],
            "description": "manifests below this one: its keys are merged over theirs",
        },
        "cluster": {
            "anyOf": [path, {"$ref": "#/$defs/Cluster"}, {"type": "null"}],
            "description": "a cluster profile's path; `--cluster` overrides it",
        },
        "data": {"$ref": "#/$defs/Data"},
        "defaults": {
            "anyOf": [
                {
                    "type": "object",
                    "properties": settings | {"early_stopping": {"$ref": "#/$defs/EarlyStopping"}},
                    "additionalProperties": False,
                },
                {"type": "null"},
            ],
            "description": "settings for every run whose architecture has them",
        },
    }
