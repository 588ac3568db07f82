"""What a search takes from an earlier one: the trials that its own space could have given."""

from __future__ import annotations

from dataclasses import replace

from jobs.search.across import ARCHITECTURE
from jobs.search.points import IllegalPointError, draws_of
from jobs.search.space import Draws, Point
from jobs.search.study import Study, Trial, open_study, read_trials
from jobs.settings import values


def earlier_trials(study: Study) -> list[Trial]:
    """The trials of the search that this one continues, with this space's draws: history, and nothing else.

    Those that are over when it is asked. One counts where this space and these fixed settings could have given it; a
    search that has not begun, or is gone, has none.
    """
    if study.definition.continues is None:
        return []
    try:
        earlier = open_study(study.storage, study.definition.continues)
    except FileNotFoundError:
        return []
    found = [(trial, _draws_here(study, earlier, trial)) for trial in read_trials(earlier) if trial.over]
    return [replace(trial, draws=draws) for trial, draws in found if draws is not None]


def _draws_here(study: Study, earlier: Study, trial: Trial) -> Draws | None:
    """A trial's draws in the space of the search that continues; None where that could not have given it."""
    were = _settings(earlier, trial.point)
    space = study.space()
    try:
        draws = draws_of(space, were, whole=False)
    except IllegalPointError:
        return None
    point = space.point(draws)
    are = _settings(study, point)
    # What the earlier search varied and this one fixes must be what is fixed.
    return draws if all(are[name] == were[name] for name in (ARCHITECTURE, *point, *trial.point)) else None


def _settings(study: Study, point: Point) -> Point:
    """All settings of a point, and its architecture."""
    recipe = study.recipe(point)
    return {ARCHITECTURE: recipe.architecture, **values(recipe.settings)}
