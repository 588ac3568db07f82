"""Stored JSON to frozen dataclasses: the one way in which a document of ours is read, by its class's annotations.

Types are checked, ranges are not: what is stored was checked before it was written. A whole number may stand for a
float and a float without a fraction for a whole number, so that 0 and 0.0 are one value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
if TYPE_CHECKING:
    Json = bool | int | float | str | None | Sequence["Json"] | Mapping[str, "Json"]
else:
    Json = Any  # decoded as it stands
Decode = Callable[[object], Any]


class Undecodable(ValueError):  # noqa: N818 - said of a document, caught where its file is known
    """A value that is not of the kind asked for: where in the document, and what would be right."""

    def __init__(self, message: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(f"{'.'.join(map(str, path))}: {message}" if path else message)
        self.message, self.path = message, path


def decode(kind: type[T], document: object) -> T:
    """The document as ``kind``, a dataclass or any type made of dataclasses, JSON values, tuples and mappings.

    A key that is missing takes its field's default (of a class with ``WHEN_MISSING``, what that mapping says), a key
    that no field has is ignored (of a class with ``STRICT = True``, an error). Raises Undecodable.
    """
    return cast(T, decoder(cast(Any, kind))(document))


@cache
def decoder(kind: Any) -> Decode:
    """The function that decodes one type, built once from its annotations: a plan reads thousands of documents.

    Metadata with a method ``decode`` decodes its type itself.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        own: list[Decode] = [each.decode for each in arguments[1:] if hasattr(each, "decode")]
        return own[0] if own else decoder(arguments[0])
    if kind is Any or kind is object:
        return lambda value: value
    if dataclasses.is_dataclass(kind):
        return _of_dataclass(cast(type[Any], kind))
    if set(arguments) == {int, float}:
        return _any_number  # as it was written
    if origin in (Union, UnionType):
        return _of_union(arguments)
    if origin is Literal:
        return _of_choices(arguments)
    if origin is tuple:
        return _of_tuple(arguments)
    if origin is not None and issubclass(origin, Mapping):
        return _of_mapping(_as_it_stands(arguments[1]), decoder(arguments[1]))
    if origin is not None and issubclass(origin, Sequence):
        return _of_items(decoder(arguments[0]), list)
    return _SCALARS[kind]


@cache
def _as_it_stands(kind: Any) -> frozenset[type]:
    """The types of which every value is one of ``kind``, and is taken without a call: records come by thousands."""
    if kind is Any or kind is object:
        return frozenset({bool, int, float, str, NoneType, list, dict})
    if get_origin(kind) is Annotated:
        return _as_it_stands(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return frozenset().union(*map(_as_it_stands, get_args(kind)))
    return frozenset({kind} & {bool, int, float, str, NoneType})


def _of_dataclass(kind: type[Any]) -> Decode:
    hints = get_type_hints(kind, include_extras=True)
    fields = [field for field in dataclasses.fields(kind) if field.init]
    decoders = {field.name: (_as_it_stands(hints[field.name]), decoder(hints[field.name])) for field in fields}
    missing: Mapping[str, object] | None = getattr(kind, "WHEN_MISSING", None)
    strict: bool = getattr(kind, "STRICT", False)
    optional = {
        field.name
        for field in fields
        if field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    }

    def read(value: object) -> Any:
        if type(value) is not dict and not isinstance(value, Mapping):
            raise Undecodable(f"must be a mapping, not {value!r}")
        if strict and (unknown := [key for key in value if key not in decoders]):
            raise Undecodable("not known to this version: written by a newer one", (str(unknown[0]),))
        given: dict[str, Any] = {}
        name = ""
        try:
            for name, (sound, of_field) in decoders.items():
                if name in value:
                    item = value[name]
                    given[name] = item if type(item) in sound else of_field(item)
                elif missing is not None and name in missing:
                    given[name] = missing[name]
                elif missing is not None or name not in optional:
                    raise Undecodable("is missing")
        except Undecodable as error:
            raise Undecodable(error.message, (name, *error.path)) from error
        return kind(**given)

    return read


def within(name: str | int, of_value: Decode, value: object) -> Any:
    """A value below ``name``, which goes before whatever is wrong with it."""
    try:
        return of_value(value)
    except Undecodable as error:
        raise Undecodable(error.message, (name, *error.path)) from error


def _of_union(members: tuple[Any, ...]) -> Decode:
    decoders = [decoder(member) for member in members]

    def read(value: object) -> Any:
        problems = []
        for of_member in decoders:
            try:
                return of_member(value)
            except Undecodable as error:
                problems.append(error)
        raise problems[0]

    return read


def _of_choices(choices: tuple[Any, ...]) -> Decode:
    def read(value: object) -> Any:
        for choice in choices:
            if value == choice and type(value) is type(choice):
                return value
        raise Undecodable(f"must be one of {', '.join(map(str, choices))}, not {value!r}")

    return read


def _of_tuple(members: tuple[Any, ...]) -> Decode:
    if len(members) == 2 and members[1] is Ellipsis:
        return _of_items(decoder(members[0]), tuple)
    decoders = [decoder(member) for member in members]

    def read(value: object) -> Any:
        if not isinstance(value, list | tuple) or len(value) != len(decoders):
            raise Undecodable(f"must be a list of {len(decoders)} items, not {value!r}")
        return tuple(within(number, *pair) for number, pair in enumerate(zip(decoders, value, strict=True)))

    return read


def _of_items(of_item: Decode, make: Callable[[list[Any]], Any]) -> Decode:
    def read(value: object) -> Any:
        if not isinstance(value, list | tuple):
            raise Undecodable(f"must be a list, not {value!r}")
        try:
            return make([of_item(item) for item in value])
        except Undecodable:  # which of them is asked only then: there are lists of ten thousand
            return make([within(number, of_item, item) for number, item in enumerate(value)])

    return read


def _of_mapping(sound: frozenset[type], of_value: Decode) -> Decode:
    def read(value: object) -> Any:
        if type(value) is not dict and not isinstance(value, Mapping):
            raise Undecodable(f"must be a mapping, not {value!r}")
        if sound.issuperset(map(type, value.values())):
            return dict(value)
        return {str(key): within(str(key), of_value, item) for key, item in value.items()}

    return read


def _whole(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise Undecodable(f"must be a whole number, not {value!r}")


def _number(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):  # of a whole number that no float can hold
            return float(value)
    raise Undecodable(f"must be a number, not {value!r}")


def _any_number(value: object) -> int | float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise Undecodable(f"must be a number, not {value!r}")


def _path(value: object) -> Path:
    if isinstance(value, str | Path):
        return Path(value)
    raise Undecodable(f"must be a path, not {value!r}")


def _exactly(kind: type, words: str) -> Decode:
    def read(value: object) -> Any:
        if not isinstance(value, kind):
            raise Undecodable(f"must be {words}, not {value!r}")
        return value

    return read


_SCALARS: Mapping[Any, Decode] = {
    int: _whole,
    float: _number,
    bool: _exactly(bool, "true or false"),
    str: _exactly(str, "text"),
    Path: _path,
    NoneType: _exactly(NoneType, "null"),
    None: _exactly(NoneType, "null"),
}
