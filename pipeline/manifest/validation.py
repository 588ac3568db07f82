"""What is wrong with a manifest: pydantic's errors in plain words, at their positions; which names are safe."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from jobs.plugins import Room
from jobs.settings import Setting, describe, named
from pipeline.manifest.yaml_nodes import ManifestError, Node, Problem, composed
from sharedfs.errors import InputError, KeyPath, did_you_mean
from sharedfs.typed_json import Json, Undecodable

Section = TypeVar("Section")
NAME_LENGTH_MAX = 100
NAME_BYTES_MAX = 200  # of a file system's 255: a submission's folder has its time before the name
_SIGNS = re.compile(r"[\w.,=+-]")  # \w: letters and digits of any script, and _
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
    "dataclass_type": "a mapping",
}
_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")  # of a section, of settings
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "above"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "below"),
}


class Findings:
    """Problems of one document, each listed once and at its position."""

    def __init__(self, root: Node) -> None:
        self.root = root
        self._problems: dict[Problem, None] = {}

    def add(self, path: KeyPath, message: str, *, key: bool = False) -> None:
        """``key``: the key itself is wrong, not its value."""
        written = path
        if path[:1] == ("cluster",) and len(path) > 1 and self._profile_in_a_file():
            written = path[1:]  # as the profile's own file has it
        self._problems[Problem(self.root.locate(path, key=key), written, message)] = None

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


def validate(model: type[Section], value: Json, findings: Findings, at: KeyPath = ()) -> Section | None:
    """A section read strictly, or None with what is wrong added to the findings."""
    try:
        return read(model, value)
    except ValidationError as error:
        for path, message, key in explain(model, error):
            findings.add((*at, *path), message, key=key)
        return None


def read(model: type[Section], value: Json) -> Section:
    """A section of the manifest's shape, or a class of settings, read strictly; raises pydantic's ValidationError."""
    # Through JSON: strict there still takes a list for a tuple and a whole number for a float.
    section: Section = _section_adapter(cast(Any, model)).validate_json(json.dumps(value), strict=True)
    return section


@cache
def _section_adapter(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter(model)


@cache
def _adapter(setting: Setting) -> TypeAdapter[Any]:
    return TypeAdapter(setting.annotation, config=ConfigDict(strict=True, allow_inf_nan=False))


class SettingError(InputError):
    """What is wrong with a setting's value: for each problem its path below the setting, what would be right, and
    whether the key itself is wrong.
    """

    def __init__(self, *problems: tuple[KeyPath, str, bool]) -> None:
        super().__init__("; ".join(message for _, message, _ in problems))
        self.problems = problems


def read_value(setting: Setting, value: object) -> Any:
    """What a person wrote for a setting, in its type and range; raises SettingError saying what would be right."""
    if setting.room is not None:
        return read_part(setting.room, value)
    try:
        return _adapter(setting).validate_python(setting.read(value))
    except Undecodable as error:
        raise SettingError(((), error.message, False)) from error
    except ValidationError as error:
        raise SettingError(((), _message(error.errors(include_url=False)[0], (), BaseModel), False)) from error


def read_part(room: Room, value: object) -> Any:
    """A part that a person chose by name, its settings in their types and ranges; raises SettingError."""
    if is_dataclass(value):  # a default
        return value
    try:
        name, given = named(value)
    except Undecodable as error:
        raise SettingError(((), f"{error.message}; {room.word}s: {', '.join(room.names())}", False)) from error
    if name not in room.names():
        at = (name,) if isinstance(value, Mapping) else ()
        raise SettingError((at, f"unknown {room.word} {name!r}{did_you_mean(name, room.names())}", bool(at)))
    settings = room.settings(name)
    known = {setting.name: setting for setting in describe(settings)}
    read: dict[str, Any] = {}
    problems: list[tuple[KeyPath, str, bool]] = []
    for key, item in given.items():
        if key not in known:
            problems.append(((name, key), f"unknown setting{did_you_mean(key, known)}", True))
            continue
        try:
            read[key] = read_value(known[key], item)
        except SettingError as error:
            problems += [((name, key, *path), message, wrong) for path, message, wrong in error.problems]
    if problems:
        raise SettingError(*problems)
    return settings(**read)


def explain(model: type[Any], error: ValidationError) -> list[tuple[KeyPath, str, bool]]:
    """What is wrong: (path, what would be right, whether the key itself is wrong)."""
    explained: dict[KeyPath, tuple[KeyPath, str, bool]] = {}
    for item in error.errors(include_url=False):
        path, choices = _resolve(model, item["loc"])
        one = explained.setdefault(path, (path, _message(item, path, model), item["type"] in _UNKNOWN_KEY))
        if choices and one[1].startswith("must be "):
            explained[path] = (path, f"must be {choices}, not {shown(item['input'])}", False)
    return list(explained.values())


def _message(item: Any, path: KeyPath, model: type[Any]) -> str:
    kind, context, value = item["type"], item.get("ctx", {}), item["input"]
    if kind == "missing":
        return "is missing"
    if kind in _UNKNOWN_KEY:
        return f"unknown key{did_you_mean(str(path[-1]), _legal_keys(model, path[:-1]))}"
    if kind == "string_pattern_mismatch" or path == ("umask",):
        return f"must be octal digits after a zero, such as 027, not {shown(value)}"
    if kind in _KINDS:
        return f"must be {_KINDS[kind]}, not {shown(value)}"
    if kind in _BOUNDS:
        name, bound = _BOUNDS[kind]
        return f"must be {bound} {context[name]:g}, not {shown(value)}"
    if kind == "literal_error":
        return f"must be {context['expected']}, not {shown(value)}"
    if kind == "value_error":
        return str(context["error"])
    message: str = item["msg"]
    return message[:1].lower() + message[1:]


def shown(value: object) -> str:
    """A value as a message shows it: in YAML's notation, short."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _resolve(model: type[Any], location: KeyPath) -> tuple[KeyPath, str]:
    """A location without the names pydantic gives to a union's members, and what that union takes, in words."""
    annotation: Any = model
    for position, part in enumerate(location):
        annotation = _without_none(annotation)
        if get_origin(annotation) in (Union, UnionType):
            members = get_args(annotation)
            return location[:position], _words_of_union(members)
        annotation = _below(annotation, part)
    return location, ""


def _words_of_union(members: tuple[Any, ...]) -> str:
    words = [choice for member in members if get_origin(member) is Literal for choice in get_args(member)]
    if words:
        numbers = {get_args(member)[0] for member in members if get_origin(member) is Annotated}
        return f"{'a number above 0' if float in numbers else 'a whole number from 1'}, or {', '.join(words)}"
    if any(get_origin(member) is dict for member in members):
        return "a name, a list or a mapping"
    return "a single value" if float in members else "a path, or a list of paths"


def _legal_keys(model: type[Any], path: KeyPath) -> list[str]:
    annotation: Any = model
    for part in path:
        annotation = _below(_without_none(annotation), part)
    return list(_fields(_without_none(annotation)) or ())


def _below(annotation: Any, part: str | int) -> Any:
    """The annotation of a section's key, a mapping's value or a list's item."""
    fields = _fields(annotation)
    if fields is not None:
        return fields.get(str(part), Any)
    members = get_args(annotation)
    if not members:
        return Any
    return members[-1] if get_origin(annotation) is dict else members[0]


def _without_none(annotation: Any) -> Any:
    """An annotation without its None, where one other member is left."""
    if get_origin(annotation) in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        if len(members) == 1:
            return members[0]
    return annotation


def _fields(annotation: Any) -> dict[str, Any] | None:
    """The keys of a section or of a class of settings, and their annotations; None for any other type."""
    if is_dataclass(annotation):
        return {setting.name: setting.kind for setting in describe(cast(type, annotation))}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {field.alias or name: field.annotation for name, field in annotation.model_fields.items()}
    return None


# Names of manifests, groups, runs and searches become folders, job names and links.


def name_problem(name: str) -> str | None:
    """Why a name can't be a folder's, or None.

    Letters and digits of any script are fine, with their marks, and `. _ - + = ,` after the first: never a slash, a
    space, a leading dot, or anything that a shell or a page would read as more than a name.
    """
    if len(name) > NAME_LENGTH_MAX:
        return f"a name of {len(name)} characters: at most {NAME_LENGTH_MAX}"
    if not re.match(r"\w", name) or not all(map(is_safe, name)):
        return "no safe name: it may hold letters, digits and . _ - + = , and starts with a letter, digit or _"
    if len(name.encode()) > NAME_BYTES_MAX:
        return f"a name of {len(name.encode())} bytes in UTF-8: at most {NAME_BYTES_MAX}"
    return None


def is_safe(character: str) -> bool:
    """Whether a name may hold it. A vowel's sign, a tone's mark, an accent that no letter holds is a mark (M)."""
    return _SIGNS.match(character) is not None or unicodedata.category(character).startswith("M")


def safe_name(text: str) -> str:
    """A name made of a text, with ``-`` for what a name can't hold; empty where none is left."""
    name = re.sub("-+", "-", "".join(character if is_safe(character) else "-" for character in composed(text)))
    name = name.strip("-.+=,")[:NAME_LENGTH_MAX]
    return name if name_problem(name) is None else ""
