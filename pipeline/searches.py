"""How each search of a plan stands: the best so far, its trials by state, what stopping has saved."""

from __future__ import annotations

from typing import Any

from jobs.search import Summary, summary
from jobs.storage import Storage
from pipeline.plan import Plan, PlannedSearch

ORDER = ("running", "paused", "lost", "stopped", "failed", "done", "waiting")


def searches_document(plan: Plan) -> list[dict[str, Any]]:
    """A mapping a search for ``status --json``; ``best`` is None as long as no trial has a value."""
    return [_document(planned, *_summary(plan, planned)) for planned in plan.searches]


def search_lines(plan: Plan) -> list[str]:
    """A line a search for people."""
    return [_line(entry) for entry in searches_document(plan)]


def _summary(plan: Plan, planned: PlannedSearch) -> tuple[Summary | None, str | None]:
    try:
        return summary(Storage(plan.manifest.storage), planned.id), None
    except ValueError as error:
        # One damaged file must not hide how everything else stands.
        return None, str(error)


def _document(planned: PlannedSearch, known: Summary | None, broken: str | None) -> dict[str, Any]:
    states = dict(known.states) if known else {}
    # A search whose number of trials was lowered has more than are asked for.
    states["waiting"] = max(0, len(planned.trials) - sum(states.values()))
    best = known.best if known else None
    return {
        "name": planned.search.name,
        "id": planned.id,
        "metric": planned.search.metric,
        "trials": len(planned.trials),
        "best": None
        if best is None
        else {"trial": best.number, "task": best.task, "state": best.state, "value": best.value, "point": best.point},
        "states": {state: states[state] for state in ORDER if states.get(state)},
        "epochs_spent": known.epochs_spent if known else 0,
        "epochs_saved": known.epochs_saved if known else 0,
        "message": broken,
    }


def _line(entry: dict[str, Any]) -> str:
    if entry["message"]:
        return f"search {entry['name']}: {entry['message']}"
    best = entry["best"]
    leading = f"best {entry['metric']} {best['value']:.4f} (trial {best['trial']})" if best else "no result yet"
    states = ", ".join(f"{count} {state}" for state, count in entry["states"].items())
    epochs = f"{entry['epochs_spent']} epochs spent"
    if entry["epochs_saved"]:
        epochs += f", {entry['epochs_saved']} saved by stopping"
    return f"search {entry['name']}: {leading}; trials: {states}; {epochs}"
