"""Typed settings: frozen dataclasses whose annotations say type, range, meaning, and what a setting is to a task's id.

    @settings
    class Training:
        epochs: Annotated[int, Ge(1), Le(100_000), ORIGINAL, Doc("passes over the training rows")] = 3
        smoothing: Annotated[float, Ge(0), Lt(1), Baseline(0.0), Doc("share of the target ...")] = 0.1

A setting may be a section: settings of its own, in a class of theirs. A node builds them from stored JSON with
``sharedfs.typed_json.decode``, which checks types alone. The login node validates what a person wrote through the same
annotations (``pipeline.manifest``), and makes the JSON schema and docs/manifest.md of them. Code reads attributes.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Hashable, Mapping
from functools import cache
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    TypeVar,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import Ge, Gt, Le, MinLen

from jobs.plugins import Part, Room, name_of
from sharedfs.errors import did_you_mean
from sharedfs.typed_json import Undecodable, decoder, within

S = TypeVar("S")
if TYPE_CHECKING:
    Value = bool | int | float | str | None | tuple["Value", ...] | Mapping[str, "Value"]  # of a setting, of a section
else:
    Value = Any  # decoded as it stands


@dataclasses.dataclass(frozen=True, slots=True)
class Doc:
    """What a setting does, in a line."""

    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Baseline:
    """The value that means what the code did before the setting existed; it never changes.

    A setting that has it is left out of ids, so that a new setting gives no old result another id; one that is
    missing from what an older version stored is taken to have it.
    """

    value: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Named:
    """A setting that is a part of a room, by its name, with settings of its own: ``adam``, ``{sgd: {momentum: 0.8}}``.

    Its value is an instance of the part's class of settings; it is stored in the second form.
    """

    room: Room

    def decode(self, value: object) -> Any:
        """A stored or written value as the part's settings, types alone checked; raises Undecodable."""
        if dataclasses.is_dataclass(value):
            return value
        name, given = named(value)
        if name not in self.room.names():
            raise Undecodable(f"unknown {self.room.word} {name!r}{did_you_mean(name, self.room.names())}")
        return within(name, decoder(cast(Hashable, self.room.settings(name))), given)


def named(value: object) -> tuple[str, Mapping[str, Value]]:
    """Name and settings of a part as a person or a file has it; raises Undecodable."""
    if isinstance(value, str):
        return value, {}
    if isinstance(value, Mapping) and len(value) == 1:
        ((name, given),) = value.items()
        if isinstance(name, str) and (given is None or isinstance(given, Mapping)):
            return name, given or {}
    raise Undecodable(f"must be a name, or a name with its settings, such as {{name: {{setting: 1}}}}, not {value!r}")


class Role(enum.Enum):
    """What a setting without a baseline is to a task's id."""

    ORIGINAL = "in every id: the setting is as old as the ids of its kind"
    PLUMBING = "in no id: how, where or how often, never what"


ORIGINAL, PLUMBING = Role.ORIGINAL, Role.PLUMBING


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Setting:
    """One setting as its annotation describes it.

    ``kind`` is its type without metadata, ``low`` and ``high`` inclusive bounds (of each item of a list of whole
    numbers), ``above`` an exclusive lower one, ``items`` the least number of items, ``room`` where its parts are.
    """

    name: str
    annotation: Any
    kind: Any
    default: Any
    doc: str
    role: Role | Baseline
    low: float | None = None
    above: float | None = None
    high: float | None = None
    items: int = 0
    choices: tuple[str, ...] = ()
    room: Room | None = None

    @property
    def plumbing(self) -> bool:
        """Whether it is in no id."""
        return self.role is PLUMBING

    @property
    def optional(self) -> bool:
        """Whether none is a value of it."""
        return type(None) in get_args(self.kind)

    @property
    def whole(self) -> bool:
        """Whether it is one whole number."""
        return self.kind is int or (self.optional and int in get_args(self.kind))

    @property
    def is_number(self) -> bool:
        """Whether it is one number, whole or not."""
        return self.whole or self.kind is float

    @property
    def section(self) -> type | None:
        """The class of its own settings, where it is a section."""
        kinds: tuple[type, ...] = (self.kind, *get_args(self.kind))
        return next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)

    def read(self, value: object) -> Any:
        """A stored or drawn value in the setting's type; raises Undecodable."""
        return decoder(self.annotation)(value)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def settings(cls: type[S]) -> type[S]:
    """A frozen keyword dataclass of settings; raises TypeError for a field without a meaning or a role."""
    made = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    described = describe(made)
    # What a stored document lacks: see Baseline. One that lacks an original setting is damaged.
    made.WHEN_MISSING = {  # type: ignore[attr-defined]
        setting.name: setting.role.value if isinstance(setting.role, Baseline) else setting.default
        for setting in described
        if setting.role is not ORIGINAL
    }
    made.STRICT = True  # type: ignore[attr-defined]
    # How pydantic checks on the login node what a person wrote; nothing here imports it.
    made.__pydantic_config__ = {"extra": "forbid", "strict": True}  # type: ignore[attr-defined]
    return made


def describe(cls: type) -> tuple[Setting, ...]:
    """The settings of a class, in the order of its fields, those it inherits first."""
    return _described(cast(Hashable, cls))


@cache
def _described(cls: Any) -> tuple[Setting, ...]:
    hints = get_type_hints(cls, include_extras=True)
    return tuple(_describe(cls, field, hints[field.name]) for field in dataclasses.fields(cls))


def _describe(cls: type[Any], field: dataclasses.Field[Any], annotation: Any) -> Setting:
    metadata = annotation.__metadata__ if get_origin(annotation) is Annotated else ()
    roles = [each for each in metadata if isinstance(each, Role | Baseline)]
    docs = [each.text for each in metadata if isinstance(each, Doc)]
    if len(roles) != 1 or len(docs) != 1:
        raise TypeError(
            f"{cls.__qualname__}.{field.name}: say Doc(...) and one of ORIGINAL (for a class that is new), PLUMBING, "
            "and Baseline(value): the value that means what the code did before this setting existed"
        )
    kind, bounds = _bare(annotation)
    return Setting(
        name=field.name,
        annotation=annotation,
        kind=kind,
        default=field.default,
        doc=docs[0],
        role=roles[0],
        low=_bound(bounds, Ge, "ge"),
        above=_bound(bounds, Gt, "gt"),
        high=_bound(bounds, Le, "le"),
        items=next((each.min_length for each in bounds if isinstance(each, MinLen)), 0),
        choices=get_args(kind) if get_origin(kind) is Literal else (),
        room=next((each.room for each in metadata if isinstance(each, Named)), None),
    )


def _bound(metadata: list[Any], kind: type, name: str) -> float | None:
    return next((float(getattr(each, name)) for each in metadata if isinstance(each, kind)), None)


def _bare(annotation: Any) -> tuple[Any, list[Any]]:
    """A type without metadata, and all metadata found on it, its items and its members."""
    if get_origin(annotation) is Annotated:
        kind, *metadata = get_args(annotation)
        bare, inner = _bare(kind)
        return bare, [*metadata, *inner]
    members = [_bare(member) for member in get_args(annotation) if get_origin(annotation) is not Literal]
    if not members:
        return annotation, []
    metadata = [each for _, inner in members for each in inner]
    kinds = tuple(kind for kind, _ in members)
    origin = get_origin(annotation)
    if origin is tuple:
        return tuple[kinds], metadata  # type: ignore[valid-type]
    bare = kinds[0]
    for kind in kinds[1:]:
        bare = bare | kind
    return bare, metadata


class _ByRole(NamedTuple):
    """Names of a class's settings, of all and by what each is to an id; of those with a baseline its value too."""

    every: tuple[str, ...]
    original: tuple[str, ...]
    baselines: tuple[tuple[str, Any], ...]
    plumbing: tuple[str, ...]
    sections: tuple[str, ...]
    parts: tuple[str, ...]


@cache
def _by_role(cls: Any) -> _ByRole:
    described = describe(cls)
    return _ByRole(
        every=tuple(setting.name for setting in described),
        original=tuple(setting.name for setting in described if setting.role is ORIGINAL),
        baselines=tuple(
            (setting.name, setting.role.value) for setting in described if isinstance(setting.role, Baseline)
        ),
        plumbing=tuple(setting.name for setting in described if setting.plumbing),
        sections=tuple(setting.name for setting in described if setting.section is not None and setting.room is None),
        parts=tuple(setting.name for setting in described if setting.room is not None),
    )


def values(of: object) -> dict[str, Value]:
    """Settings by name, as they are stored; a section is a mapping."""
    by_role = _by_role(cast(Hashable, type(of)))
    return _plain({name: getattr(of, name) for name in by_role.every}, by_role, values)


def divided(of: object, *, varied: frozenset[str] = frozenset()) -> tuple[dict[str, Value], dict[str, Value]]:
    """The settings that are part of an id, and the others, which are stored beside it.

    In no id are plumbing, and a setting that equals its baseline or has no effect, which is then at its baseline; the
    same in sections. ``varied`` are those that a search decides, which may have any value.
    """
    by_role = _by_role(cast(Hashable, type(of)))
    idle = of.without_effect(varied) if isinstance(of, ModelSettings) else {}
    decide = {name: getattr(of, name) for name in by_role.original}
    rest = {name: getattr(of, name) for name in by_role.plumbing}
    for name, baseline in by_role.baselines:
        value = idle[name] if name in idle else getattr(of, name)
        (rest if value == baseline else decide)[name] = value
    return _plain(decide, by_role, deciding), _plain(rest, by_role, values)


def deciding(of: object, *, varied: frozenset[str] = frozenset()) -> dict[str, Value]:
    """The settings that are part of an id; see ``divided``."""
    return divided(of, varied=varied)[0]


def beside(of: object, *, varied: frozenset[str] = frozenset()) -> dict[str, Value]:
    """The settings that are no part of an id; see ``divided``."""
    return divided(of, varied=varied)[1]


def _plain(of: dict[str, Any], by_role: _ByRole, read: Callable[[object], dict[str, Value]]) -> dict[str, Value]:
    for name in by_role.sections:
        if of.get(name) is not None:
            of[name] = read(of[name])
    for name in by_role.parts:
        if of.get(name) is not None:
            of[name] = {name_of(type(of[name])): read(of[name])}
    return of


def parts_of(of: object) -> tuple[Part, ...]:
    """The parts that settings choose by name."""
    chosen = ((setting.room, getattr(of, setting.name)) for setting in describe(type(of)))
    return tuple(Part(room.name, name_of(type(part))) for room, part in chosen if room is not None and part is not None)


def text_of(part: object) -> str:
    """A part with its settings, for people: ``adam``, ``sgd(momentum=0.8)``; those at their defaults are left out."""
    given = [
        f"{setting.name}={value}"
        for setting in describe(type(part))
        if (value := getattr(part, setting.name)) != setting.default
    ]
    return name_of(type(part)) + (f"({', '.join(given)})" if given else "")


def shown(of: object) -> dict[str, Value]:
    """Settings by name, as tables and pages show them: a part by its name, with those of its settings that were set."""
    by_role = _by_role(cast(Hashable, type(of)))
    parts = {name: text_of(part) for name in by_role.parts if (part := getattr(of, name)) is not None}
    return {name: getattr(of, name) for name in by_role.every} | parts


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DataShape:
    """What is known of data before there is any: the most tokens of a title, how many numbers a vector has, whether
    words have sub-words, and whether its tokens are those of a pretrained encoder instead of words."""

    max_length: int
    vector_size: int
    subwords: bool = False
    encoder: bool = False


@settings
class ModelSettings:
    """The settings of an architecture, of which each has one class in its folder.

    ``takes_encoder``: its titles are tokens of a pretrained encoder, whose files are in the data set.
    """

    takes_encoder: ClassVar[bool] = False

    def check(self, shape: DataShape) -> str | None:  # noqa: ARG002 - some architectures need it
        """What is wrong between an architecture's settings, or with this data, as ``SETTING: what``; or None."""
        return None

    def problem(self, shape: DataShape) -> str | None:
        """What is wrong between all settings, those that architectures share among them; or None."""
        if self.takes_encoder and not shape.encoder:
            return "its data set has words: set encoder, the folder of a pretrained model, in data or for this run"
        if shape.encoder and not self.takes_encoder:
            return "its data set has the tokens of an encoder: take architecture: encoder, or encoder: null here"
        return self.check(shape)

    def cost_note(self) -> str | None:
        """What a person should know of the time that these settings take, in a line; or None."""
        return None

    def without_effect(self, varied: frozenset[str]) -> Mapping[str, Any]:  # noqa: ARG002 - some have such settings
        """Settings that do nothing beside the others, with the values to put in their place; see ``divided``."""
        return {}
