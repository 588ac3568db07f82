"""What a manifest may say, made from the sections and settings that manifests are checked with.

For editors as JSON schemas, which `tanda schema` prints; for people as docs/manifest.md, which `make docs` writes: its
tables are those schemas, its text is `reference.md.jinja`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypedDict, cast

from pydantic import TypeAdapter

from jobs import models
from jobs.data.settings import Data
from jobs.metrics import searchable
from jobs.plugins import ALGORITHMS, MODELS, OPTIMISERS, SCHEDULES, STOPPING, Room
from jobs.search.across import DEFAULT, default_space
from jobs.search.space import DISTRIBUTIONS
from jobs.settings import Setting, describe, text_of
from jobs.training.settings import TrainingSettings
from pipeline.manifest.expansion import figure_names, setting_owners
from pipeline.manifest.resources import DEFAULTS
from pipeline.manifest.schema import Cluster, EarlyStopping, Root
from sharedfs.typed_json import Json

TEMPLATE = Path(__file__).with_name("reference.md.jinja")
DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = TypedDict(
    "Schema",
    {
        "$schema": str,
        "$defs": "dict[str, Schema]",
        "$ref": str,
        "title": str,
        "description": str,
        "default": Json,
        "type": str | list[str],
        "enum": list[str],
        "anyOf": "list[Schema]",
        "const": str,
        "properties": "dict[str, Schema]",
        "required": list[str],
        "additionalProperties": "bool | Schema",
        "minProperties": int,
        "maxProperties": int,
        "items": "Schema",
        "minItems": int,
        "maxItems": int,
        "minimum": float,
        "exclusiveMinimum": float,
        "maximum": float,
        "exclusiveMaximum": float,
    },
    total=False,
)
_NUMBERS: Schema = {"type": "array", "items": {"type": "number"}}
_EXACTLY_ONE: Schema = {"additionalProperties": False, "minProperties": 1, "maxProperties": 1}


# JSON schemas. Pydantic makes those of sections; the settings and names that depend on the code are filled in.


def manifest_schema() -> Schema:
    """The schema of a manifest."""
    manifest = _schema_of(Root)
    definitions = manifest["$defs"]
    for model in (Data, EarlyStopping):
        schema = _schema_of(model)
        definitions |= schema.pop("$defs", {}) | {model.__name__: schema}
    _say_what_settings_do(Data, definitions)
    owners = setting_owners()
    settings = {name: next(iter(described.values())) for name, described in owners.items()}
    described: dict[str, Schema] = {
        name: setting_schema(setting) | {"description": f"{setting.doc} ({', '.join(owners[name])})"}
        for name, setting in settings.items()
    }
    keys = described | definitions["Data"]["properties"]
    for name in ("Run", "Group", "Search"):
        section = definitions[name]
        section["properties"] = keys | section["properties"]
        section["additionalProperties"] = False
        _refine(section, architecture={"enum": list(MODELS.names())})
    axes = _object({name: {"type": "array", "minItems": 1} for name in (*keys, "architecture")})
    figures = _object({name: {"type": "number"} for name in figure_names()})
    _refine(definitions["Group"], grid=axes, zip=axes, reference={"type": "object", "additionalProperties": figures})
    names: Schema = {"type": "array", "minItems": 1, "items": {"enum": list(MODELS.names())}}
    several: Schema = {"type": "object", "properties": {"choice": names}, "required": ["choice"], **_EXACTLY_ONE}
    _refine(
        definitions["Search"],
        architecture={"anyOf": [{"enum": list(MODELS.names())}, names, several]},
        space={"anyOf": [{"const": DEFAULT}, _space(settings.values())]},
        algorithm={"enum": list(ALGORITHMS.names())},
        metric={"enum": list(searchable())},
        stopping=_stopping(),
        reference=figures,
    )
    _refine_root(manifest, described)
    return {"$schema": DIALECT, **manifest, "title": "tanda manifest", "required": ["name", "data"]}


def _say_what_settings_do(cls: type, definitions: Mapping[str, Schema]) -> None:
    """Add what pydantic does not know of a class of settings, and of those in its sections, to their schemas."""
    for setting in describe(cls):
        definitions[cls.__name__]["properties"][setting.name]["description"] = setting.doc
        if setting.section is not None:
            _say_what_settings_do(setting.section, definitions)


def profile_schema() -> Schema:
    """The schema of a cluster profile."""
    return {"$schema": DIALECT, **_schema_of(Cluster), "title": "tanda cluster profile"}


def _schema_of(section: Any) -> Schema:
    """The schema of a section, a class of settings, or a setting's type."""
    return cast(Schema, TypeAdapter(section).json_schema())


def _refine(section: Schema, **keys: Schema) -> None:
    """Say of some keys of a section what pydantic can't know; descriptions and defaults stay."""
    for name, schema in keys.items():
        old, refined = section["properties"].get(name, {}), schema.copy()
        if "description" in old:
            refined["description"] = old["description"]
        if "default" in old:
            refined["default"] = old["default"]
        section["properties"][name] = refined


def _refine_root(manifest: Schema, settings: dict[str, Schema]) -> None:
    path: Schema = {"type": "string", "description": "a path, relative to this file"}
    early_stopping: dict[str, Schema] = {"early_stopping": {"$ref": "#/$defs/EarlyStopping"}}
    manifest["properties"]["include"] = {
        "description": "manifests below this one, a path or a list of paths: its keys are merged over theirs"
    }
    _refine(
        manifest,
        include={"anyOf": [path, {"type": "array", "items": path}]},
        cluster={"anyOf": [path, {"$ref": "#/$defs/Cluster"}, {"type": "null"}]},
        data={"$ref": "#/$defs/Data"},
        defaults={"anyOf": [_object({**settings, **early_stopping}), {"type": "null"}]},
    )


def _object(properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def setting_schema(setting: Setting) -> Schema:
    """One setting's type, range, default and meaning."""
    default = list(setting.default) if isinstance(setting.default, tuple) else setting.default
    if setting.room is not None:
        default = text_of(setting.default)
    return {**_values_of(setting), "description": setting.doc, "default": default}


def _values_of(setting: Setting) -> Schema:
    """What a setting may be; of one that names a part, a name or a name with settings."""
    if setting.room is None:
        return _schema_of(setting.annotation)
    return {"anyOf": [{"enum": list(setting.room.names())}, _part_of(setting.room)]}


def _part_of(room: Room, *, drawn: bool = False) -> Schema:
    """One part of a room with its settings, of which some may be ``drawn`` from distributions."""
    parts: dict[str, Schema] = {}
    for name in room.names():
        known = describe(room.settings(name))
        own = _settings(known)
        if drawn:
            spaces = _drawn(known)
            own = _object({key: {"anyOf": [schema, spaces[key]]} for key, schema in own["properties"].items()})
        parts[name] = {**own, "type": ["object", "null"]}
    return {"type": "object", "properties": parts, **_EXACTLY_ONE}


def _settings(settings: Iterable[Setting]) -> Schema:
    return _object({setting.name: setting_schema(setting) for setting in settings})


def _space(settings: Iterable[Setting]) -> Schema:
    """A distribution for each setting; any other name is that of a conditional choice."""
    options: Schema = {"type": "array", "minItems": 1, "items": {"type": "object", "minProperties": 1}}
    conditional: Schema = {"type": "object", "properties": {"choice": options}, "required": ["choice"], **_EXACTLY_ONE}
    own: Schema = {"anyOf": [{"const": DEFAULT}, {"type": "object"}]}  # of one architecture of several
    properties = _drawn(settings) | dict.fromkeys(MODELS.names(), own)
    return {"type": "object", "minProperties": 1, "properties": properties, "additionalProperties": conditional}


def _drawn(settings: Iterable[Setting]) -> dict[str, Schema]:
    """Distributions over each setting, by its name."""
    lengths = {kind: 3 if kind.startswith("q") else 2 for kind in DISTRIBUTIONS if kind != "choice"}
    ranges: dict[str, Schema] = {
        kind: {**_NUMBERS, "minItems": length, "maxItems": length} for kind, length in lengths.items()
    }
    properties: dict[str, Schema] = {}
    for setting in settings:
        if setting.plumbing:
            continue
        items = _values_of(setting)
        if setting.room is not None:
            items = {"anyOf": [{"enum": list(setting.room.names())}, _part_of(setting.room, drawn=True)]}
        kinds: dict[str, Schema] = {"choice": {"type": "array", "minItems": 1, "items": items}}
        kinds |= ranges if setting.is_number else {}
        properties[setting.name] = {"type": "object", "properties": kinds, **_EXACTLY_ONE}
    return properties


def _stopping() -> Schema:
    return {"anyOf": [_part_of(STOPPING), {"type": "null"}]}


# The page: each table is a schema's properties.

_WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "mapping",
    "array": "list",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """An architecture, of a ``kind``, or another part, as the page describes it."""

    name: str
    kind: str | None
    summary: str
    settings: Schema
    space: str | None = None


def page() -> str:
    """The whole page as Markdown."""
    import jinja2

    manifest, root = manifest_schema(), _schema_of(Root)
    sections: dict[str, Schema] = {
        **manifest["$defs"],
        **root["$defs"],
        "Root": {**manifest, "required": root["required"]},
    }
    _refine(sections["Search"], algorithm={"enum": list(ALGORITHMS.names())}, metric={"enum": list(searchable())})
    _refine(sections["Ensemble"], select_by={"enum": list(searchable())})
    template = jinja2.Template(  # nothing is escaped: it is Markdown, of our own text
        TEMPLATE.read_text(encoding="utf-8"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    text: str = template.render(
        sections=sections,
        text=_text,
        table=_table,
        training=_settings(describe(TrainingSettings)),
        architectures=[_described(name, MODELS.load(name), models.own_settings(name)) for name in MODELS.names()],
        optimisers=_parts(OPTIMISERS),
        schedules=_parts(SCHEDULES),
        stopping_rules=_parts(STOPPING),
        default_resources={
            stage: {name: getattr(given, name) for name in ("cpus", "mem_gb", "time_min")}
            for stage, given in DEFAULTS.items()
        },
        value=_value,
    )
    return text


def _parts(room: Room) -> list[Described]:
    return [_described(name, room.load(name), describe(room.settings(name))) for name in room.names()]


def _described(name: str, module: ModuleType, settings: Iterable[Setting]) -> Described:
    summary = (module.__doc__ or "").partition("\n")[0]
    kind = getattr(module, "KIND", None)
    space = default_space(name) if kind in MODELS.kinds else None
    drawn = None if space is None else ", ".join(f"{key}: {_flow(spec)}" for key, spec in space.items())
    return Described(name=name, kind=kind, summary=summary, settings=_settings(settings), space=drawn)


def _flow(value: Json) -> str:
    """A value as YAML writes it in a line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_flow, value))}]"
    return _value(value)


def _text(section: Schema) -> str:
    return re.sub(r"\s+", " ", section["description"]).replace("``", "`")


def _table(section: Schema, head: str = "key", *, defaults: Mapping[str, Json] | None = None) -> str:
    lines = [f"| {head} | type | default | meaning |", "|---|---|---|---|"]
    for name, schema in section["properties"].items():
        default = (defaults or {}).get(name, schema.get("default"))
        shown = "" if default is None or default == [] or isinstance(default, dict) else f"`{_value(default)}`"
        cells = (
            _type(schema),
            "required" if name in section.get("required", ()) else shown,
            schema.get("description", "").replace("|", r"\|"),
        )
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _type(schema: Schema) -> str:
    """A schema's type in a manifest's words."""
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "anyOf" in schema:
        members = [_type(member) for member in schema["anyOf"] if member.get("type") != "null"]
        if "enum" in schema["anyOf"][0]:  # a part
            return f"{members[0]}, or one with settings"
        return " or ".join(dict.fromkeys(members))
    kind = schema.get("type", "object")  # a reference to a section has none
    items = schema.get("items", {})
    if items.get("type") in ("integer", "number"):
        return f"list of {_WORDS[str(items['type'])]}s{_range(items)}"
    return _WORDS[str(kind)] + _range(schema)


def _range(schema: Schema) -> str:
    bounds = (
        ("from", schema.get("minimum")),
        ("above", schema.get("exclusiveMinimum")),
        ("to", schema.get("maximum")),
        ("below", schema.get("exclusiveMaximum")),
    )
    return "".join(f" {word} {_number(bound)}" for word, bound in bounds if bound is not None)


def _number(value: float) -> str:
    return str(int(value) if value == int(value) else value)


def _value(value: Json) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    print(page(), end="")
