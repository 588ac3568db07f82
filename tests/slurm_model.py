"""A model of Slurm's controller and accounting: jobs, arrays, dependencies, requeues, limits.

It answers the programs that the product calls, by the options that it passes, in the text of two versions: 22.05 and
24.11 (``slurm_model_text``). What runs in a job is its owner's to say. The model is held
against both real versions by the scripts of ``tests/test_slurm_model.py``.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from slurm_model_text import CommandFailed, Job, Start, print_accounting, print_queue

from slurm.array import expand_ids

__all__ = ["CommandFailed", "Controller", "Job"]

MIN_JOB_AGE_S = 300.0
KILL_WAIT_S = 5.0
REQUEUE_DELAY_S = 15.0


class Controller:
    """``launch`` starts what runs in a job, ``signal`` and ``kill`` reach it; ``at`` lets things happen later."""

    def __init__(
        self, *, version: str, now: Callable[[], float], after: Callable[[float, Callable[[], None]], None],
        launch: Callable[[Job], Any], signal: Callable[[Job, str], None], seed: int = 0,
        nodes: Sequence[str] = ("n1", "n2", "n3"), slots: int = 2, accounting: bool = True, lag_s: float = 2.0,
    ) -> None:  # fmt: skip
        self.version, self.now, self.after = version, now, after
        self.launch, self.signal = launch, signal
        self.choose = random.Random(seed)
        self.nodes, self.slots, self.down = nodes, slots, set[str]()
        self.accounting, self.lag_s = accounting, lag_s
        self.next_number = 1
        self.jobs: dict[str, Job] = {}
        self.accounted: list[Job] = []  # in the order in which they were submitted
        self.refuse: Callable[[], str | None] = lambda: None
        self.start_delay_s = (0.2, 3.0)
        self.change = lambda job, what: None
        self._ticking = False

    # What the programs do.

    def run(self, command: Sequence[str]) -> str:
        """Standard output of a program; raises CommandFailed."""
        program, *words = command
        if program == "sbatch":
            return self._sbatch(words)
        if program == "squeue":
            return print_queue(self.jobs.values(), words, self.version)
        if program == "sacct":
            if not self.accounting:
                raise CommandFailed("Slurm accounting storage is disabled")
            return print_accounting(self.accounted, words, self.now())
        if program == "scancel":
            return self._scancel(words)
        if program == "scontrol":
            return self._scontrol(words)
        raise AssertionError(f"the model knows no {program}")

    def _sbatch(self, words: Sequence[str]) -> str:
        *flags, path = words
        text = Path(path).read_text()
        options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", text, re.M))
        options = {name: value.strip("'") for name, value in options.items()}
        indices = (
            [int(id_.split("_")[1]) for id_ in expand_ids(f"0_[{options['array']}]")] if "array" in options else []
        )
        reason = self.refuse()
        if reason is not None:
            raise CommandFailed(f"sbatch: error: {reason}")
        number = self.add(options, indices or [None], script=Path(path), text=text)
        return f"{number}\n" if "--parsable" in flags else f"Submitted batch job {number}\n"

    def add(
        self, options: dict[str, str], indices: Sequence[int | None], *, script: Path | None = None, text: str = "",
        uid: int | None = None, ours: bool = True,
    ) -> int:  # fmt: skip
        """Queue a job or an array; its number."""
        number = self.next_number
        self.next_number += len(indices)
        for place, index in enumerate(indices):
            job = Job(
                number=number, index=index, raw=number + place, name=options.get("job-name", "job"), ours=ours,
                comment=options.get("comment", ""), uid=os.geteuid() if uid is None else uid, script=script,
                text=text, options=options, submit=self.now(), queued=self.now(), eligible=self.now(),
                held="hold" in options, dependency=self._parents(options.get("dependency", "")),
            )  # fmt: skip
            job.reason = "JobHeldUser" if job.held else "Dependency" if job.dependency else "None"
            job.rows.append(Start(state="PENDING", submit=job.submit))
            self.jobs[job.id] = job
            self.accounted.append(job)
            self._account(job)
        self.tick()
        return number

    def _scancel(self, words: Sequence[str]) -> str:
        for job in self._named([word for word in words if not word.startswith("-")]):
            self.cancel(job)
        return ""

    def cancel(self, job: Job) -> None:
        self.change(job, "scancel")
        if job.over:
            return
        if job.live:
            job.state = "COMPLETING"
            self.signal(job, "TERM")
            began = job.began
            self.after(KILL_WAIT_S, lambda: self._finish(job, began, "CANCELLED", (0, 15)))
        else:
            self._end(job, "CANCELLED", (0, 0))

    def _finish(self, job: Job, began: int, state: str, code: tuple[int, int]) -> None:
        """End what is still the same start."""
        if job.live and job.began == began:
            self.signal(job, "KILL")
            self._end(job, state, code)

    def _scontrol(self, words: Sequence[str]) -> str:
        if tuple(words[:2]) == ("show", "config"):
            return (
                f"Configuration data as of now\nClusterName             = lab\nMaxArraySize            = 1001\n"
                f"MaxJobCount             = 10000\nSLURM_VERSION           = {self.version}.8\n"
            )
        for job in self._named(re.split(r",(?![^\[]*\])", words[1])):
            if words[0] == "requeue" and job.state == "PENDING":
                raise CommandFailed(f"Job is pending execution for job {job.id}")
            if words[0] == "requeue":
                self.requeue(job)
            elif words[0] == "hold" and job.state == "PENDING":
                job.held, job.reason = True, "JobHeldUser"
            elif words[0] == "release" and job.state == "PENDING":
                self.change(job, "release")
                job.held, job.reason = False, "None"
        self.tick()
        return ""

    def _named(self, names: Iterable[str]) -> list[Job]:
        found: list[Job] = []
        for name in names:
            for id_ in expand_ids(name):
                found += self.members(id_)
        if not found:
            raise CommandFailed("error: Invalid job id specified")
        return found

    def members(self, id_: str) -> list[Job]:
        """The jobs that an id stands for: an element, or all of an array."""
        return [job for job in self.jobs.values() if id_ in (job.id, str(job.number))]

    def requeue(self, job: Job, *, old: str = "REQUEUED", delay_s: float = REQUEUE_DELAY_S) -> None:
        """Start it again: what runs in it is ended, its row in the accounting has that state."""
        was_live = job.live
        job.rows[-1] = replace(job.rows[-1], state=old, end=self.now())
        job.rows.append(Start(state="PENDING", submit=self.now()))
        job.state, job.reason, job.restarts = "PENDING", "BeginTime", job.restarts + 1
        job.submit, job.eligible, job.start, job.end, job.node = self.now(), self.now() + delay_s, None, None, ""
        job.exit = (0, 0)
        self.change(job, f"requeued ({old})")
        self._account(job)
        self.after(delay_s + 0.1, self.tick)
        if was_live:  # last: it may be who asked
            self.signal(job, "KILL")

    # What happens to jobs.

    def leave(self, job: Job, status: int) -> None:
        """What ran in it has ended with this status, negative for a signal."""
        if not job.live:
            return
        if job.state == "COMPLETING":
            self._end(job, "CANCELLED", (0, 15))
        elif status == 0:
            self._end(job, "COMPLETED", (0, 0))
        else:
            # srun turns a signal into 128 + it, and the batch script ends with that.
            self._end(job, "FAILED", (status, 0) if status > 0 else (128 - status, 0), signal=max(0, -status))

    def _end(self, job: Job, state: str, code: tuple[int, int], *, signal: int = 0) -> None:
        now = self.now()
        never = job.start is None
        job.state, job.exit, job.end, job.reason = state, code, now, "None"
        shown = code[0] - 128 if code[0] > 128 else code[0]
        worst = f"0:{signal}" if signal else f"{code[0]}:0" if code[0] else "0:0"
        told = "CANCELLED by 0" if state == "CANCELLED" else state
        job.rows[-1] = replace(
            job.rows[-1],
            state=told,
            exit=f"{shown}:{code[1]}",
            derived=worst,
            end=now,
            start=now if never else job.start,
        )
        self.change(job, f"ends as {state} {shown}:{code[1]}")
        if never and job.index is not None and self._siblings_left(job):
            # Cancelled before it starts, one by one: queue and accounting both forget it.
            del self.jobs[job.id]
        self._account(job)
        self.after(MIN_JOB_AGE_S, lambda: self._forget(job))
        self._look_at_dependents(job)
        self.tick()

    def _siblings_left(self, job: Job) -> bool:
        return any(other.number == job.number and other is not job and not other.over for other in self.jobs.values())

    def _forget(self, job: Job) -> None:
        if job.over and job.end is not None and self.now() - job.end >= MIN_JOB_AGE_S and self.jobs.get(job.id) is job:
            del self.jobs[job.id]

    def _look_at_dependents(self, parent: Job) -> None:
        for job in self.jobs.values():
            if job.state == "PENDING" and job.dependency and parent.state != "COMPLETED":
                self._see_failed_parents(job)

    def node_fails(self, node: str, *, down_s: float, run_on: bool) -> None:
        """``run_on`` leaves what runs there running, unseen."""
        self.down.add(node)
        for job in [job for job in self.jobs.values() if job.live and job.node == node]:
            if not run_on:
                self.signal(job, "KILL")
            job.run = None
            if "requeue" in job.options:
                self.requeue(job, old="NODE_FAIL")
            else:
                self._end(job, "NODE_FAIL", (0, 0))
        self.after(down_s, lambda: self._node_back(node))

    def _node_back(self, node: str) -> None:
        self.down.discard(node)
        self.change(None, f"node {node} is back")
        self.tick()

    def fails_to_launch(self, job: Job) -> None:
        """Slurm holds it: a start failed on its node."""
        self.requeue(job, old="REQUEUED", delay_s=0.0)
        job.held, job.reason = True, "launch failed requeued held"

    def lose_state(self, next_number: int) -> None:
        """The controller starts anew and knows no job; numbers begin again from there."""
        for job in list(self.jobs.values()):
            if job.live:
                self.signal(job, "KILL")
            if not job.over:
                # A cold start closes in the accounting whatever was open.
                job.rows[-1] = replace(job.rows[-1], state="CANCELLED", end=self.now())
                self._account(job)
        self.jobs.clear()
        self.next_number = next_number

    def tick(self) -> None:
        if not self._ticking:
            self._ticking = True
            self.after(self.choose.uniform(*self.start_delay_s), self._schedule)

    def _schedule(self) -> None:
        self._ticking = False
        waiting = False
        for job in list(self.jobs.values()):
            if job.state != "PENDING" or job.held:
                continue
            self._see_failed_parents(job)
            if job.failed_parents and "kill-on-invalid-dep" in job.options:
                self._end(job, "CANCELLED", (0, 0))
                continue
            if not self._depends_no_more(job):
                job.reason = "Dependency"
                continue
            if job.eligible > self.now():
                continue
            waiting = True
            if self._is_throttled(job):
                job.reason = "JobArrayTaskLimit"
            elif (node := self._free_node(job)) is None:
                job.reason = "Resources"
            else:
                self._begin(job, node)
        if waiting and not self._ticking:
            self._ticking = True
            self.after(10.0, self._schedule)

    def _parents(self, clause: str) -> list[tuple[str, list[Job]]]:
        """By way, the jobs that a dependency names; of what the controller does not know nothing is waited for."""
        parts = [(way, ids.split(":")) for way, _, ids in (part.partition(":") for part in clause.split(",") if part)]
        return [(way, [parent for id_ in ids for parent in self.members(id_)]) for way, ids in parts]

    def _see_failed_parents(self, job: Job) -> None:
        for way, parents in job.dependency:
            for parent in parents if way != "afterany" else []:
                concerns = way == "afterok" or parent.index == job.index
                # Kept: a dependency that failed once never recovers, even if the parent is started again.
                if concerns and parent.over and parent.state != "COMPLETED":
                    job.failed_parents.add(parent.id)

    def _depends_no_more(self, job: Job) -> bool:
        return not job.failed_parents and all(
            parent.over
            for way, parents in job.dependency
            for parent in parents
            if way != "aftercorr" or parent.index == job.index
        )

    def _is_throttled(self, job: Job) -> bool:
        limit = job.options.get("array", "").partition("%")[2]
        running = sum(other.number == job.number and other.live for other in self.jobs.values())
        return bool(limit) and running >= int(limit)

    def _free_node(self, job: Job) -> str | None:
        excluded = job.options.get("exclude", "").split(",")
        for node in self.nodes:
            busy = sum(other.live and other.node == node for other in self.jobs.values())
            if node not in self.down and node not in excluded and busy < self.slots:
                return node
        return None

    def _begin(self, job: Job, node: str) -> None:
        job.state, job.reason, job.node, job.start = "RUNNING", "None", node, self.now()
        job.began += 1
        job.rows[-1] = replace(job.rows[-1], state="RUNNING", start=self.now(), node=node)
        self.change(job, f"starts on {node}")
        self._account(job)
        limit_s = 60.0 * int(job.options.get("time", "60"))
        began = job.began
        warning = job.options.get("signal", "").partition("@")[2]
        if warning:
            self.after(limit_s - int(warning), lambda: self._warn(job, began))
        self.after(limit_s, lambda: self._time_is_up(job, began))
        job.run = self.launch(job)

    def _warn(self, job: Job, began: int) -> None:
        if job.live and job.began == began:
            self.signal(job, "USR2")

    def _time_is_up(self, job: Job, began: int) -> None:
        if job.state == "RUNNING" and job.began == began:
            self.signal(job, "TERM")
            self.after(KILL_WAIT_S, lambda: self._finish(job, began, "TIMEOUT", (0, 0)))

    def preempt(self, job: Job, grace_s: float) -> None:
        """USR2 now, the place is taken when the grace time is over, or the job has left it."""
        self.signal(job, "USR2")
        began = job.began
        self.after(grace_s, lambda: self._preempted(job, began))

    def _preempted(self, job: Job, began: int) -> None:
        if job.live and job.began == began:
            self.requeue(job, old="PREEMPTED")

    def runs_out_of_memory(self, job: Job) -> None:
        self.signal(job, "KILL")
        self._end(job, "OUT_OF_MEMORY", (0, 125), signal=125)

    # What is printed.

    def _account(self, job: Job) -> None:
        lag = self.choose.uniform(0.1, self.lag_s)
        before = job.seen[-1][0] if job.seen else 0.0
        job.seen.append((max(before, self.now() + lag), tuple(job.rows)))
