"""The manifest's reference page, made from the same sections and settings that manifests are checked with.

`make docs` writes it; a test compares the committed one with this.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from jobs import models
from jobs.data.settings import Columns, Data, Embeddings, Split, Text, Vocabulary
from jobs.search import algorithms, stopping
from jobs.settings import TRAINING, Setting
from pipeline.manifest.resources import DEFAULTS
from pipeline.manifest.schema import Cluster, Group, Preprocess, Report, Root, Run, Search, Stage, Tracking

_SIMPLE = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "anything"}
_NOTES = {
    "introduction": """\
A manifest says what to run: data, groups of fixed runs, searches. `tanda plan MANIFEST` checks it and shows what it
would do; nothing is written or submitted before every key has been checked. An error names file, line, column and key,
and the nearest legal one:

```
configs/lab.yaml:14:9: experiments.baseline.runs.MLP.hiden_layers: unknown setting; did you mean 'hidden_layers'?
```

`tanda init DATA MANIFEST` writes a first manifest from a data file, `tanda schema` a JSON schema for editors.""",
    "yaml": """\
- Scalars are YAML 1.2's: `1e-5` is a number; `no`, `yes`, `on`, `off` and `1:30` are text, `true` and `false` are not.
  A whole number with a leading zero stays text: `007`, and an `umask` of `027`.
- Keys are the text they are written as. A key that is there twice is an error. Anchors and merges (`<<: *base`) work.
- **Paths** are relative to the file that names them, `~` is the home. `$NAME`, `${NAME}` and `${NAME:-default}` are
  environment variables, one that is not set is an error; `$$` is a dollar. A path that expands to nothing, as
  `${VECTORS:-}` may, is as good as left out. `TANDA_STORAGE` stands above `storage`.
- **`include: other.yaml`**, or a list: this file's keys are merged over theirs, mapping by mapping, later files over
  earlier ones. Each file's paths are relative to itself.
- **`--set experiments.baseline.runs.MLP.epochs=1`** sets one value above all files; the value is YAML. A number
  picks an item of a list. Paths are relative to the manifest.
- **Names** of manifests, groups, runs and searches become folders, so they hold letters and digits of any script and
  `. _ - + = ,`, start with a letter, digit or `_`, and have at most 100 characters.""",
    "groups": """\
A group is a table of the report. It has `runs` (each with a name of its own), or a `grid` (every combination), or a
`zip` (the first values together, the second ones together, ...); an axis may be `architecture` or a key of `data` too.
Runs of a grid are called by what sets them apart: `hidden_layers=256-128,dropout=0.1`.

A setting's value is the run's own, else the group's, else that of `defaults`, else the architecture's default.
`defaults` apply where an architecture has such a setting; in a group or a run, one that it lacks is an error.

**Any key of `data`** may stand in a run, a group, an axis or a search as if it were a hyperparameter: `language:
portuguese`, `vocabulary: {max_size: 10000}`. Mappings are merged with the manifest's, and the run gets a data set
of its own, shared with every other run that asks for the same.""",
    "space": """\
| distribution | gives |
|---|---|
| `dropout: {uniform: [0, 0.5]}` | any number from low to high |
| `learning_rate: {loguniform: [1e-5, 1e-1]}` | the same, its logarithm uniform; low above 0 |
| `batch_size: {quniform: [128, 1024, 128]}` | low, low + step, ... up to high, equally likely |
| `lstm_features: {qloguniform: [64, 1024, 64]}` | the same values, as likely as in `loguniform` |
| `epochs: {randint: [1, 15]}` | a whole number, both ends included |
| `hidden_layers: {choice: [[256], [256, 128]]}` | one of these values |
| `depth: {choice: [{hidden_layers: [64]}, {hidden_layers: [512], dropout: {uniform: [0, 0.5]}}]}` | one of these \
mappings, each with settings and distributions of its own; the name is free |

Whole-number settings take `quniform`, `qloguniform`, `randint` or `choice`; settings that are no numbers take `choice`.
What makes a search another search: architecture, data set, algorithm, metric, space, stopping, seed and fixed settings.
`trials` and `parallel` do not: raise `trials`, submit again, and it goes on from what is there.""",
    "resources": """\
Resources come from the run or search itself, else its group, else the manifest, else the cluster profile, else what is
usual. None of them changes a result or a task's id. A search's trials take those of `train`, `parallel` at once.

A task that was given `gpus` and can use none ends at once (`no GPU`); it computes on the CPU only where `device: cpu`
says so, or `gpus: 0`. An estimator (`linear`) computes on the CPU: `gpus` of the manifest and of the profile are meant
for networks, and it gets a GPU only where its own run, group or search asks for one.""",
}


def page() -> str:
    """The whole page as Markdown."""
    parts = [
        "<!-- written by `make docs`; do not edit -->",
        "# The manifest",
        _NOTES["introduction"],
        "## How it is written",
        _NOTES["yaml"],
        "## Top level",
        _table(Root, also={"include": "manifests below this one: a path, or a list of paths"}),
        "## `data`",
        _doc(Data),
        _table(Data),
        *_subsections("data", {"columns": Columns, "split": Split, "text": Text}),
        *_subsections("data", {"vocabulary": Vocabulary, "embeddings": Embeddings}),
        "## `experiments`",
        _NOTES["groups"],
        "### A group",
        _table(Group),
        "### A run",
        _table(Run),
        "## Settings",
        "### of every network's training",
        _settings(TRAINING),
        *_architectures(),
        "## `searches`",
        _table(Search),
        f"Algorithms: {_listed(algorithms.names())}.",
        "### `space`",
        _NOTES["space"],
        "### `stopping`",
        *(_stopping(name) for name in stopping.names()),
        "## `resources`",
        _NOTES["resources"],
        "### `preprocess`",
        _table(Preprocess, defaults=DEFAULTS["preprocess"]),
        "### `train`, `evaluate`, `close`",
        _table(Stage),
        _usual(),
        "## A cluster profile",
        "A file of its own, named by `cluster:` or `--cluster`. " + _doc(Cluster),
        _table(Cluster),
        *_subsections("report", {"": Report}),
        *_subsections("tracking", {"": Tracking}),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _subsections(above: str, sections: Mapping[str, type[BaseModel]]) -> list[str]:
    parts = []
    for name, model in sections.items():
        parts += [f"### `{above}.{name}`" if name else f"## `{above}`", _doc(model), _table(model)]
    return parts


def _doc(model: type[BaseModel]) -> str:
    """A section's own description; pydantic's inherited one is none."""
    own = model.__dict__.get("__doc__") or ""
    return re.sub(r"\s+", " ", own).replace("``", "`").strip()


def _table(
    model: type[BaseModel], *, defaults: Mapping[str, Any] | None = None, also: Mapping[str, str] | None = None
) -> str:
    rows = [
        (name, _type(field.annotation), _default(field, (defaults or {}).get(name)), field.description or "")
        for name, field in model.model_fields.items()
    ]
    rows += [(name, "", "", meaning) for name, meaning in (also or {}).items()]
    return _markdown(("key", "type", "default", "meaning"), rows)


def _markdown(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| `{row[0]}` | {' | '.join(cell.replace('|', chr(92) + '|') for cell in row[1:])} |" for row in rows]
    return "\n".join(lines)


def _type(annotation: Any) -> str:
    """A type in a manifest's words."""
    origin, members = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_type(member) for member in members if member is not NoneType))
    if origin is Literal:
        return ", ".join(f"`{member}`" for member in members)
    if origin is dict:
        return "mapping"
    if origin in (list, tuple):
        return "list"
    return _SIMPLE.get(annotation, "mapping")


def _default(field: FieldInfo, usual: Any) -> str:
    if usual is not None:
        return f"`{_value(usual)}`"
    if field.is_required():
        return "required"
    default = field.get_default()
    if default is None or default is PydanticUndefined or isinstance(default, BaseModel) or default in ({}, []):
        return ""
    return f"`{_value(default)}`"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _architectures() -> list[str]:
    parts = []
    for name in models.names():
        module = models.describe(name)
        trained = "" if module.KIND == "estimator" else " Those of training come on top."
        parts += [f"### of `{name}`", (module.__doc__ or "").splitlines()[0] + trained, _settings(module.SETTINGS)]
    return parts


def _settings(settings: Iterable[Setting]) -> str:
    rows = [
        (
            setting.name,
            _setting_type(setting),
            "" if setting.default is None else f"`{_value(setting.default)}`",
            setting.doc,
        )
        for setting in settings
    ]
    return _markdown(("setting", "type", "default", "meaning"), rows)


def _setting_type(setting: Setting) -> str:
    if setting.type == "str":
        return ", ".join(f"`{choice}`" for choice in setting.choices)
    words = {"int": "whole number", "float": "number", "bool": "true or false", "ints": "list of whole numbers"}
    bounds = [
        f"{word} {int(bound) if bound == int(bound) else bound}"
        for word, bound in (("from", setting.low), ("above", setting.above), ("to", setting.high))
        if bound is not None
    ]
    return " ".join([words[setting.type], *bounds])


def _stopping(name: str) -> str:
    rule = stopping.load(name)
    return f"`{name}`: {(rule.__doc__ or '').splitlines()[0]}\n\n{_settings(rule.SETTINGS)}"


def _usual() -> str:
    words = [
        f"`{stage}` " + ", ".join(f"{key} {_value(value)}" for key, value in values.items())
        for stage, values in DEFAULTS.items()
        if stage != "preprocess"
    ]
    return f"Usual: {'; '.join(words)}; no GPU."


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    print(page(), end="")
