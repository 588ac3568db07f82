"""What a model's default space must keep to; see ``contracts``, which names these checks."""

from __future__ import annotations

from jobs.models import all_settings
from jobs.search.across import default_space
from jobs.search.algorithms import random
from jobs.search.space import read_space, samples
from jobs.settings import DataShape, Setting, Value
from jobs.testing import settings_with
from jobs.testing.contracts import is_within, require

DRAWS = 64
SHAPE = DataShape(max_length=32, vector_size=300)


def default_space_is_legal(name: str) -> None:
    """A default space, where it has one, draws values that its settings take, alone and together."""
    given, known = default_space(name), {setting.name: setting for setting in all_settings(name)}
    if given is None:
        return
    require(given, "SPACE is empty: leave it out")
    require("seed" not in given, "SPACE has the seed, which is not searched")
    space = read_space(given, known.values())
    require(space.dimensions, "SPACE draws nothing")
    for point in (*samples(space), *(space.point(random.propose(space, [], seed)) for seed in range(DRAWS))):
        for setting, value in ((known[key], value) for key, value in point.items()):
            require(not setting.plumbing, f"{setting.name} never changes a result, so there is nothing to search")
            require(_takes(setting, value), f"{setting.name}: {value!r} is out of its range")
        problem = settings_with(name, **point).problem(SHAPE)
        require(problem is None, f"{problem}, at {point}")


def _takes(setting: Setting, value: Value) -> bool:
    return (not setting.choices or value in setting.choices) and is_within(setting, value)
