"""Which task a person means: by id, by the start of an id, or by GROUP/RUN/STAGE."""

from __future__ import annotations

import difflib

from jobs.errors import InputError
from pipeline.plan import Plan, Planned


def choose(plan: Plan, words: str) -> Planned:
    """The one task that ``words`` name: an id or its start, RUN, GROUP/RUN or GROUP/RUN/STAGE.

    A run names its training (or trial) rather than its evaluation. Raises ValueError, with what would be right,
    where no task or more than one is meant.
    """
    found = [planned for planned in plan.tasks if planned.id.startswith(words)] if len(words) >= 4 else []
    if not found:
        found = [planned for planned in plan.tasks if words in _names(planned)]
    trained = [planned for planned in found if planned.stage != "evaluate"]
    if len(trained or found) == 1:
        return (trained or found)[0]
    if found:
        options = ", ".join(f"{planned.group}/{planned.run}/{planned.stage} {planned.id}" for planned in found[:8])
        raise InputError(f"{words!r} names {len(found)} tasks: {options}")
    known = sorted({name for planned in plan.tasks for name in _names(planned)})
    near = difflib.get_close_matches(words, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; runs: {', '.join(known[:12])}"
    raise InputError(f"no task {words!r} in {plan.manifest.path}{hint}")


def _names(planned: Planned) -> tuple[str, ...]:
    group = f"{planned.group}/{planned.run}"
    return planned.run, group, f"{group}/{planned.stage}", f"{planned.group}/{planned.stage}"
