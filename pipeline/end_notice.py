"""What a closing job tells a person whose submission is over, by the manifest's command `notify`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from jobs import notice
from jobs.storage import Storage
from pipeline import submission
from pipeline.decisions.closing import chain, tells_end
from pipeline.decisions.task_state import TaskState
from pipeline.plan import Plan
from pipeline.report.collect import collect
from pipeline.report.groups import choose, make_groups, selected_by
from pipeline.report.i18n import make_messages
from pipeline.report.table import number_text
from pipeline.state_words import describe
from pipeline.status import summary_line
from pipeline.submission import Submission

OVER = "over"
MOST_REASONS, MOST_NAMES = 10, 3
TEST = "test_balanced_accuracy"


def tell_end(plan: Plan, states: Mapping[str, TaskState], own: Submission, report: Path) -> None:
    """Tell that a submission is over, unless it goes on in a later one, or that was told before."""
    storage, command = Storage(plan.manifest.storage), plan.manifest.notify
    submissions = submission.read_all(storage)
    told = {each.name for each in submissions if notice.is_told(storage.submissions / each.name, OVER)}
    if command is not None and tells_end(own, submissions, told):
        text = end_message(plan, states, own, submissions, report)
        notice.tell(command, storage.submissions / own.name, OVER, text)


def end_message(
    plan: Plan, states: Mapping[str, TaskState], own: Submission, submissions: list[Submission], report: Path
) -> str:
    """A line that can be a subject, then how its tasks ended, what failed and why, the best so far, the report."""
    links = chain(own, submissions)
    tasks = frozenset[str]().union(*(link.tasks for link in links), *(link.held for link in links)) & states.keys()
    mine = {task: states[task] for task in (tasks or states)}
    lines = [f"tanda: {links[-1].name} is over: {summary_line(mine)}", "", *_reasons(plan, mine), *_best(plan, states)]
    return "\n".join([*lines, f"report: {report / 'index.html'}", ""])


def _reasons(plan: Plan, states: Mapping[str, TaskState]) -> Iterator[str]:
    """A line for each reason why some task is not done, with those of which it is."""
    names: dict[str, list[str]] = {}
    for planned in plan.tasks:
        state = states.get(planned.id)
        if state is not None and state.state != "done":
            why = f"{state.state}: {describe(state)}".removesuffix(": ")
            names.setdefault(why, []).append(f"{planned.group}/{planned.run}/{planned.stage}")
    for why, of in list(names.items())[:MOST_REASONS]:
        more = f", and {len(of) - MOST_NAMES} more" if len(of) > MOST_NAMES else ""
        yield f"{len(of)} {why} ({', '.join(of[:MOST_NAMES])}{more})"
    if len(names) > MOST_REASONS:
        yield f"and {len(names) - MOST_REASONS} other reasons: `tanda status` has all"


def _best(plan: Plan, states: Mapping[str, TaskState]) -> Iterator[str]:
    """A line for each group of the manifest that has a run to choose, by validation titles alone."""
    messages = make_messages("en")
    for group in make_groups(collect(plan, states)):
        entry, metric = choose(group.entries), selected_by(group.entries)
        if entry is None:
            continue
        scores = [(name, mean) for name in (metric, TEST) if (mean := entry.mean(name)) is not None]
        words = ", ".join(f"{messages.name(name)} {number_text(mean, 4)}" for name, mean in scores)
        yield f"best of {group.name}: {entry.run}, {words}"
