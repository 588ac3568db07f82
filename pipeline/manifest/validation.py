"""Pydantic's findings in this program's words, at their places."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from jobs.errors import KeyPath, did_you_mean
from pipeline.manifest.errors import ManifestError, Problem, shown
from pipeline.manifest.yaml_nodes import Node

Model = TypeVar("Model", bound=BaseModel)
_KINDS = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "above"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "below"),
}


class Findings:
    """Problems of one document, each named once and at its place."""

    def __init__(self, root: Node) -> None:
        self.root = root
        self._problems: dict[Problem, None] = {}

    def add(self, path: KeyPath, message: str, *, key: bool = False) -> None:
        """``key``: the key itself is wrong, not its value."""
        shown_path = path
        if path[:1] == ("cluster",) and len(path) > 1 and self._profile_in_a_file():
            shown_path = path[1:]
        self._problems[Problem(self.root.locate(path, key=key), shown_path, message)] = None

    def _profile_in_a_file(self) -> bool:
        node = self.root.find(("cluster",))
        return node is not None and node.mark.source != self.root.mark.source

    def __len__(self) -> int:
        return len(self._problems)

    def flush(self) -> None:
        """Raise ManifestError if there is anything to correct, in the order of the files."""
        if self._problems:
            ordered = sorted(
                self._problems, key=lambda each: (each.mark.source, each.mark.line or 0, each.mark.column or 0)
            )
            raise ManifestError(ordered)


def validate(model: type[Model], value: Mapping[str, Any], found: Findings, at: KeyPath = ()) -> Model | None:
    """A section read strictly, or None with what is wrong added to the findings."""
    try:
        return read(model, value)
    except ValidationError as error:
        for path, message, key in explain(model, error):
            found.add((*at, *path), message, key=key)
        return None


def read(model: type[Model], value: Mapping[str, Any]) -> Model:
    # Through JSON: strict there still takes a list for a tuple and a whole number for a float.
    return model.model_validate_json(json.dumps(value), strict=True)


def explain(model: type[BaseModel], error: ValidationError) -> list[tuple[KeyPath, str, bool]]:
    """What is wrong: (path, what would be right, whether the key itself is wrong)."""
    explained: dict[KeyPath, tuple[KeyPath, str, bool]] = {}
    for item in error.errors(include_url=False):
        path, choices = _resolve(model, item["loc"])
        one = explained.setdefault(path, (path, _message(item, path, model), item["type"] == "extra_forbidden"))
        if choices and one[1].startswith("must be "):
            explained[path] = (path, f"must be {choices}, not {shown(item['input'])}", False)
    return list(explained.values())


def _message(item: Any, path: KeyPath, model: type[BaseModel]) -> str:
    kind, context, value = item["type"], item.get("ctx", {}), item["input"]
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return f"unknown key{did_you_mean(str(path[-1]), _fields(model, path[:-1]))}"
    if kind == "string_pattern_mismatch" or path == ("umask",):
        return f"must be octal digits after a zero, such as 027, not {shown(value)}"
    if kind in _KINDS:
        return f"must be {_KINDS[kind]}, not {shown(value)}"
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"must be {words} {context[name]:g}, not {shown(value)}"
    if kind == "literal_error":
        return f"must be {context['expected']}, not {shown(value)}"
    if kind == "value_error":
        return str(context["error"])
    message: str = item["msg"]
    return message[:1].lower() + message[1:]


def _resolve(model: type[BaseModel], location: KeyPath) -> tuple[KeyPath, str]:
    """A location without the names pydantic gives to a union's members, and that union in words."""
    annotation: Any = model
    path: list[str | int] = []
    for position, part in enumerate(location):
        annotation = _bare(annotation)
        if get_origin(annotation) in (Union, UnionType):
            return tuple(path), _words(annotation)
        path.append(part)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = annotation.model_fields.get(str(part))
            if field is None:
                return (*path, *location[position + 1 :]), ""
            annotation = field.annotation
        else:
            members = get_args(annotation)
            annotation = members[-1] if get_origin(annotation) is dict else members[0] if members else Any
    return tuple(path), ""


def _bare(annotation: Any) -> Any:
    """An annotation without its None, where one other member is left."""
    if get_origin(annotation) in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        if len(members) == 1:
            return members[0]
    return annotation


def _words(union: Any) -> str:
    members = get_args(union)
    if float in members:
        return "a single value"
    return "a path, or a list of paths"


def _fields(model: type[BaseModel], path: KeyPath) -> list[str]:
    """The legal keys at a path."""
    annotation: Any = model
    for part in path:
        annotation = _bare(annotation)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = annotation.model_fields.get(str(part))
            annotation = Any if field is None else field.annotation
        elif get_origin(annotation) in (dict, list):
            annotation = get_args(annotation)[-1]
    annotation = _bare(annotation)
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return list(annotation.model_fields) if is_model else []
