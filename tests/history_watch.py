"""What must hold in every history, looked after as it happens: what is written, what is shown, what Slurm is told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from history_world import World
from slurm_model import Job
from virtual_processes import Process

from jobs.attempt import STALE_S
from jobs.task import is_done, read_record
from pipeline.decisions.task_state import TaskState

_ATTEMPT = re.compile(r"runs/([0-9a-f]{16})/attempts/(\d+)$")
_RECORD = re.compile(r"runs/([0-9a-f]{16})/record\.json$")
_SUBMISSION = re.compile(r"submissions/([^/]+)/submission\.json$")
_FAILURE = re.compile(r"submissions/([^/]+)/failures/([^/]+)/([0-9a-f]{16})/([0-9a-f]{16})$")
# Tried again within the budget, whatever else is so: nothing about the task itself was shown.
RETRIED = ("killed", "node failure", None)
MOMENT_S = 3.0


@dataclass(slots=True, kw_only=True)
class _Begun:
    """An attempt as it was begun; ``older_writes`` is how much the process of the one before had written by then."""

    number: int
    process: Process
    when: float
    older_writes: int


@dataclass(slots=True, kw_only=True)
class _Task:
    """What was seen of a task."""

    begun: list[_Begun] = field(default_factory=list)
    done_by: int | None = None  # the attempt whose record says done
    done_since: float = 0.0
    stopped: bool = False  # that record is of a trial that was stopped early
    shown: tuple[float, str] | None = None  # when a status began to look, and the final state that it showed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Element:
    """Where a task was queued, as a submission names it since ``when``; ``job`` is Slurm's, None if it is gone."""

    submission: str
    id: str
    job: Job | None
    when: float
    slept: bool  # whoever queued it had slept just before


class Watch:
    """Looks on, and notes in ``world.wrong`` what must not be."""

    def __init__(self, world: World) -> None:
        self.world, self.machine, self.slurm = world, world.machine, world.slurm
        self.began = self.machine.now
        self.tasks = {planned.id: _Task() for planned in world.plan.tasks}
        self.submissions: dict[str, dict[str, Any]] = {}
        self.elements: dict[str, list[_Element]] = {task: [] for task in self.tasks}
        self.excused: set[str] = set()  # submissions whose closing job something ended for good
        self.excused_jobs: set[str] = set()
        self.closed: set[str] = set()
        self.failures: dict[tuple[str, str, str], list[float]] = {}
        self.states: Mapping[str, TaskState] = {}
        self.machine.on_write = self.written
        world.on_change = self.slurm_changed
        world.spy = self.decided

    def wrong(self, text: str) -> None:
        self.machine.note(f"WRONG: {text}")
        self.world.wrong.append(text)

    # What is written.

    def written(self, kind: str, path: str) -> None:
        if kind == "mkdir" and (found := _ATTEMPT.search(path)):
            self._attempt_begun(found[1], int(found[2]))
        elif kind in ("replace", "rename") and (found := _RECORD.search(path)):
            self._record_written(found[1])
        elif kind == "replace" and path.endswith("record.superseded.json"):
            self.tasks[Path(path).parent.name].done_by = None
        elif kind == "replace" and (found := _SUBMISSION.search(path)):
            self._submission_written(found[1], Path(path))
        elif kind == "open" and (found := _FAILURE.search(path)):
            self.failures.setdefault((found[1], found[2], found[3]), []).append(self.machine.now)

    def _attempt_begun(self, task: str, number: int) -> None:
        process, seen = self.machine.current, self.tasks[task]
        assert process is not None
        before = seen.begun[-1] if seen.begun else None
        seen.begun.append(
            _Begun(
                number=number, process=process, when=self.machine.now,
                older_writes=before.process.writes if before else 0,
            )
        )  # fmt: skip
        if before is not None:
            self._check_alone(task, before, number)
        if Path(process.facts["command"][-1]).name != task:
            return  # a stopped trial that is continued
        is_late = self.machine.now - seen.done_since > MOMENT_S and not self._stalled_since(process, seen.done_since)
        if seen.done_by is not None and not seen.stopped and is_late:
            self.wrong(f"{task}: attempt {number} begins although attempt {seen.done_by} is done")
        self._check_brake(task, process)
        job = self.world.job_of(process)
        # A stopped trial may go on in its own task's process, too.
        if seen.shown is not None and not seen.stopped and job is not None and self.elements[task]:
            since, state = seen.shown
            newest = self.elements[task][-1]
            # What Slurm takes for dead may live on, and is no start of it.
            if newest.job is job and newest.when < since and job.run is process.facts["element"]:
                self.wrong(f"{task}: shown as {state}, and then attempt {number} begins in {job.id}, queued before")

    def _check_alone(self, task: str, before: _Begun, number: int) -> None:
        older = before.process
        ended = (self.world.storage.run(task) / "attempts" / f"{before.number:04d}" / "end.json").exists()
        if ended or older.over or self._stalled_since(older, self.machine.now - 10 * STALE_S):
            return
        if older is not self.machine.current:
            self.wrong(f"{task}: attempt {number} begins beside attempt {before.number}, which is at work")

    def _stalled_since(self, process: Process, since: float) -> bool:
        return max(process.facts.get("stalled", 0.0), process.stalled_until) > since

    def _check_brake(self, task: str, process: Process) -> None:
        brake = int(process.environment.get(b"TANDA_BRAKE_AFTER", b"0"))
        folder, group = (process.environment.get(name, b"").decode() for name in (b"TANDA_SUBMISSION", b"TANDA_GROUP"))
        for (submission, its_group, _), moments in self.failures.items():
            if submission == Path(folder).name and its_group == group and 0 < brake <= len(moments):
                since = sorted(moments)[brake - 1]
                if self.machine.now - since > MOMENT_S and not self._stalled_since(process, since):
                    self.wrong(f"{task}: begins although the same error ended {len(moments)} of its group")

    def _record_written(self, task: str) -> None:
        process, seen = self.machine.current, self.tasks[task]
        record = read_record(self.world.storage.run(task))
        assert record is not None and process is not None
        newer = [begun for begun in seen.begun if begun.number > record.attempt]
        ours = [begun for begun in seen.begun if begun.number == record.attempt and begun.process is process]
        # Between the look for a newer attempt and the record lie two writes: those of the record itself.
        if newer and ours and process.writes - newer[0].older_writes > 2:
            self.wrong(f"{task}: attempt {record.attempt} writes its record after attempt {newer[0].number} has begun")
        for name in record.files:
            if not (self.world.storage.root / name).exists():
                self.wrong(f"{task}: a record is written before its file {name}")
        if record.state != "done":
            return
        if seen.done_by not in (None, record.attempt) and not seen.stopped and not newer:
            self.wrong(f"{task}: made twice, by attempt {seen.done_by} and by attempt {record.attempt}")
        seen.done_by, seen.done_since = record.attempt, self.machine.now
        seen.stopped = record.result.get("stopped") is not None

    def _submission_written(self, name: str, path: Path) -> None:
        process = self.machine.current
        assert process is not None
        document = orjson.loads(path.read_bytes())
        # Between a look at the lock and the array that is queued then lies a moment.
        slept, process.facts["slept"] = process.facts.get("slept", 0.0), process.stalled_until
        known = {element for array in self.submissions.get(name, {}).get("arrays", ()) for element in array["elements"]}
        self.submissions[name] = document
        for array in document["arrays"]:
            for element, tasks in array["elements"].items():
                if element in known:
                    continue
                job = self.slurm.jobs.get(element)
                for task in tasks:
                    has_slept = slept != process.stalled_until
                    if not has_slept:
                        self._check_queued_once(task, element, process)
                    queued = _Element(submission=name, id=element, job=job, when=self.machine.now, slept=has_slept)
                    self.elements[task].append(queued)

    def _check_queued_once(self, task: str, element: str, process: Process) -> None:
        """An element that is live must not have been seen as over by whoever queues another."""
        for other in self.elements[task]:
            job = other.job
            if (
                other.slept
                or job is None
                or job.over
                or job.state == "COMPLETING"
                or self.slurm.jobs.get(job.id) is not job
            ):
                continue
            if other.id != element and not self._recorded_as_failed(task):
                self.wrong(f"{task}: queued again as {element}, while {other.id} is {job.state}")

    def _recorded_as_failed(self, task: str) -> bool:
        """A task of a packed element may have ended by itself, while others in it run."""
        begun = self.tasks[task].begun
        record = read_record(self.world.storage.run(task))
        superseded = self.world.storage.run(task) / "record.superseded.json"
        return record is None and superseded.exists() and bool(begun) and begun[-1].process.over

    # What is shown.

    def having(self, name: str) -> set[str]:
        """The tasks in whose folders is a file of that name."""
        return {task for task in self.tasks if (self.world.storage.run(task) / name).exists()}

    def shown_states(self, began: float, held: set[str], recorded: set[str], states: Mapping[str, TaskState]) -> None:
        """What a look has shown that began then, when these tasks had a note of being held, and these a record."""
        self.states = states
        held &= self.having("held.json") - self.having("record.json")
        for task, state in states.items():
            # That an attempt failed is a fact once it is recorded, whatever becomes of its element.
            final = state.state in ("done", "lost") or (state.state == "failed" and task not in recorded)
            self.tasks[task].shown = (began, state.state) if final else None
            if task in held and state.state in ("failed", "lost"):
                self.wrong(f"{task}: held, and shown as {state.state}: {state.cause}")
        self.machine.note("shows " + " ".join(f"{state.state}{state.cause or ''}" for state in states.values()))

    # What Slurm is told.

    def slurm_changed(self, job: Job, what: str) -> None:
        if what in ("scancel", "release") and not job.ours and self.machine.current is not None:
            self.wrong(f"{what} of {job.id} ({job.name}), which is not ours")
        closing = job.name == "lab-close" and job.ours
        failed = what.startswith("ends as FAILED")
        # Or its submitter slept before it wrote down what the element starts from.
        full = failed and (self.machine.now < self.machine.full_until or not getattr(job.run, "children", True))
        if closing and (full or what in ("scancel",) or re.match(r"ends as (CANCELLED|TIMEOUT|OUT_OF|FAILED 9)", what)):
            self._excuse(job)

    def _excuse(self, job: Job) -> None:
        self.excused_jobs.add(job.id)

    def by_hand(self, job: Job) -> None:
        self._excuse(job)

    def state_lost(self) -> None:
        self.excused |= self.submissions.keys()

    def person_submits(self, process: Process) -> None:
        process.facts["asked"] = self.machine.now

    def command_ended(self, process: Process) -> None:
        """A person's command is over: unless it was killed, every job that it queued is on record."""
        self._check_recorded(process)

    def _check_recorded(self, process: Process) -> None:
        if (process.code is not None and process.code < 0) or process.facts.get("blind"):
            return  # killed, or Slurm could not say either
        named = {
            element for document in self.submissions.values() for array in document["arrays"]
            for element in array["elements"]
        }  # fmt: skip
        # Announced is as good: the next submitter finds it by its name and comment.
        announced = {array["comment"] for document in self.submissions.values() for array in document["unconfirmed"]}
        for job in process.facts.get("queued", ()):
            is_live = not job.over and job.state != "COMPLETING" and self.slurm.jobs.get(job.id) is job
            if is_live and job.id not in named and job.comment not in announced:
                self.wrong(f"{process.name} ends, and {job.id} ({job.name}) is queued that no submission names")

    # What closing jobs decide, against a count of our own.

    def decided(self, evidence: Any, actions: Any) -> None:
        own = evidence.submission.name
        for planned in evidence.tasks:
            state, elements = evidence.states[planned.id], self.elements[planned.id]
            if not elements or elements[-1].submission != own or state.state not in ("failed", "lost"):
                continue
            upstream = [*planned.task.needs, *planned.after]
            if state.cause not in RETRIED or any(need in actions.retries for need in upstream):
                continue
            again, tries = planned.id in actions.retries, len(elements)
            if again != (tries <= evidence.retries):
                word = "tried again" if again else "not tried again"
                self.wrong(f"{planned.id}: {state.cause or state.state} after {tries} tries, and {word}")

    # At the end.

    def all_ended(self) -> bool:
        """Whether every task is done, or failed by what a person has to mend."""
        return all(self._has_ended(planned) for planned in self.world.plan.tasks)

    def _has_ended(self, planned: Any) -> bool:
        state = self.states.get(planned.id)
        if state is None:
            return False
        if state.state == "done":
            return True
        final = state.state == "failed" and state.cause in ("error", "upstream failed")
        return final and bool(self._doomed(planned))

    def _doomed(self, planned: Any) -> bool:
        upstream = {planned.id, *planned.task.needs}
        return bool(upstream & self.world.doomed)

    def note_quiet(self) -> None:
        """Everything is quiet, and nobody has submitted again yet: the closing jobs have done their work."""
        for process in self.machine.processes.values():
            command = process.facts.get("command", ())
            if "close" not in command:
                continue
            submission = Path(command[-1]).name
            if process.facts.get("closed"):
                self.closed.add(submission)
            elif process.code is not None and (process.code < 0 or "refused" in process.facts):
                self.excused.add(submission)
        for name, document in self.submissions.items():
            closing = [
                element for array in document["arrays"] if array["stage"] == "close" for element in array["elements"]
            ]
            live = [id_ for id_ in closing if id_ in self.slurm.jobs and not self.slurm.jobs[id_].over]
            if closing and not live and name not in self.closed | self.excused and closing[0] not in self.excused_jobs:
                self.wrong(f"{name}: its closing job {closing[0]} is over and has not closed it")
        built = {process.facts.get("closes") for _, process in self.world.built if process is not None}
        for name in self.closed - built:
            self.wrong(f"{name}: closed without a report")

    def lost(self) -> None:
        for planned in self.world.plan.tasks:
            if not self._has_ended(planned):
                state = self.states.get(planned.id)
                told = (
                    "never shown"
                    if state is None
                    else f"{state.state} ({state.cause or state.reason or state.message})"
                )
                self.wrong(f"{planned.stage} {planned.run} {planned.id}: lost: {told}")

    def at_the_end(self) -> None:
        self.note_quiet()
        for process in self.machine.processes.values():
            text = process.stderr.getvalue()
            if "Traceback" in text and "planned" not in text and "No space left" not in text:
                self.wrong(f"{process.name}: {text}")
        shards = {shard for planned in self.world.plan.tasks for shard in planned.after}
        for task in self.tasks.keys() - shards:
            state = self.states.get(task)
            if state is not None and state.state == "done" and not is_done(self.world.storage, task):
                self.wrong(f"{task}: shown as done, and is not")
