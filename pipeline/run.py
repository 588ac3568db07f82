"""``tanda run``: submit, wait, report, in one go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from jobs.storage import Storage
from pipeline.closing_job import open_submission
from pipeline.decisions.task_state import TaskState
from pipeline.live import progress_bar, watch
from pipeline.plan import Plan
from pipeline.report import build
from pipeline.status import task_states
from pipeline.submit import submit_plan
from pipeline.submit_result import print_submitted


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a run of a plan ended: the states of its tasks, and the report's page."""

    states: Mapping[str, TaskState]
    page: Path


def run_plan(plan: Plan, whole: Callable[[], Plan], *, executor: str, console: Console, errors: Console) -> Ended:
    """Submit what is missing of a plan, wait until all has ended, and report the ``whole`` manifest.

    What happens is shown on ``console``, the progress of the report on ``errors``. Raises as ``submit_plan`` does.
    """
    submitted = submit_plan(plan, executor=executor)
    print_submitted(submitted, console)
    states = watch(plan, console, closing_too=True)
    page = Storage(plan.manifest.storage).reports / plan.manifest.name / "index.html"
    # The closing job builds it, unless it failed; there is none where nothing was left to do, or all ran here.
    unclosed = open_submission(Storage(plan.manifest.storage), plan.manifest.name) is not None
    if submitted.submission is None or executor == "inline" or unclosed or not page.exists():
        all_of_it = whole()
        with progress_bar(errors) as progress:
            build(all_of_it, states if all_of_it is plan else task_states(all_of_it), progress=progress)
    return Ended(states=states, page=page)
