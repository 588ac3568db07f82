"""A history: a laboratory (``history_world``) in which seeded things go wrong, and what must hold whatever happens.

Things go wrong for some minutes of the world's time: nodes, daemons, answers, disks and processes fail, people submit,
look, cancel. Then it is quiet, and somebody submits again, as a person would, until nothing is missing. What must
hold is looked after at every write (``Watch``), and at the end.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from history_watch import Watch
from history_world import World
from slurm_model import Job
from virtual_processes import Process

from jobs.attempt import STALE_S
from pipeline.status import task_states
from pipeline.submit import cancel_plan, submit_plan
from sharedfs.errors import TandaError

ROUNDS = 6
QUIET_S = 6 * 3600.0
STRANGER = 4242


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What came of a history: ``wrong`` is empty if all held; ``deeds`` counts what was done to it."""

    seed: int
    shape: str
    version: str
    wrong: list[str]
    deeds: dict[str, int]
    submissions: int
    seconds: float
    lines: list[tuple[float, str, str]] = field(repr=False)


class History:
    """One history of a seed, in a folder of memory."""

    def __init__(self, seed: int, home: Path) -> None:
        shutil.rmtree(home / "storage", ignore_errors=True)
        home.mkdir(parents=True, exist_ok=True)
        self.seed, self.home = seed, home
        self.world = World(seed, home)
        self.machine, self.slurm, self.draw = self.world.machine, self.world.slurm, self.world.draw
        self.watch = Watch(self.world)
        self.deeds: dict[str, int] = {}
        self.asked = 0
        self._events: dict[str, tuple[int, Callable[[], object]]] = {
            "submit": (5, self._submit), "submit twice": (2, self._submit_twice), "cancel": (2, self._cancel),
            "preempt": (6, self._preempt), "requeue": (3, self._requeue), "node fails": (5, self._node_fails),
            "launch fails": (3, self._launch_fails), "controller away": (5, self._controller_away),
            "accounting away": (5, self._accounting_away), "state lost": (1, self._state_lost),
            "process stalls": (5, self._stall), "process killed": (6, self._kill), "scancel": (2, self._scancel),
            "hold and release": (1, self._hold), "disk full": (1, self._disk_full), "strangers": (3, self._strangers),
        }  # fmt: skip

    def play(self) -> Verdict:
        """The whole of it."""
        with self.world.active():
            self.world.storage.root.mkdir(parents=True, exist_ok=True)
            self._plan_events()
            self.machine.run_until(lambda: not self.world.chaos, 3600.0)
            self._quieten()
            for _ in range(ROUNDS):
                self._wait_until_quiet()
                self._status()
                self._wait_for("status")
                if self.watch.all_ended():
                    break
                self._wait_for_heartbeats()
                self.watch.note_quiet()
                self._submit()
            else:
                self.watch.lost()
            self.watch.at_the_end()
        wrong = list(dict.fromkeys([*self.world.wrong, *self.machine.crashes]))
        return Verdict(
            seed=self.seed, shape=self.world.shape, version=self.world.version, wrong=wrong, deeds=self.deeds,
            submissions=len(self.watch.submissions), seconds=self.machine.now - self.watch.began,
            lines=self.machine.lines,
        )  # fmt: skip

    def _plan_events(self) -> None:
        horizon = self.draw.choice([60.0, 150.0, 300.0, 500.0])
        self._submit()
        if self.draw.random() < 0.25:
            self._submit()  # another, at the same moment
        for _ in range(int(self.draw.expovariate(1 / (6.0 * self.world.scale)))):
            name = self.draw.choices(list(self._events), [weight for weight, _ in self._events.values()])[0]
            self.machine.after(self.draw.uniform(0.0, horizon), lambda name=name: self._do(name))  # type: ignore[misc]
        moment = 0.0
        while moment < horizon:
            moment += self.draw.uniform(5.0, 60.0)
            self.machine.after(moment, self._status)
        self.machine.after(horizon, self._end_chaos)

    def _do(self, name: str) -> None:
        if not self.world.chaos:
            return
        self.machine.note(f"-- {name}")
        self.deeds[name] = self.deeds.get(name, 0) + 1
        self._events[name][1]()

    def _end_chaos(self) -> None:
        self.world.chaos = False

    def _quieten(self) -> None:
        self.machine.note("-- quiet")
        self.machine.full_until = self.world.slurm_down_until = self.world.database_down_until = 0.0
        for process in self.machine.processes.values():
            process.kill_at = None
        for job in list(self.slurm.jobs.values()):
            if job.held and job.ours and job.reason == "JobHeldUser":
                self.slurm.run(["scontrol", "release", job.id])
        if self.world.shape == "braked":  # the person mends the mistake
            self.world.doomed = set()

    def _wait_until_quiet(self) -> None:
        def quiet() -> bool:
            if any(not process.over for process in self.machine.processes.values()):
                return False
            ours = [job for job in self.slurm.jobs.values() if job.ours and not job.over]
            return all(job.held or self._waits_in_vain(job) for job in ours)

        if not self.machine.run_until(quiet, QUIET_S):
            live = [process.name for process in self.machine.processes.values() if not process.over]
            jobs = [(job.id, job.state, job.reason) for job in self.slurm.jobs.values() if not job.over and job.ours]
            self.world.wrong.append(f"it never gets quiet: processes {live}, jobs {jobs}")

    def _waits_in_vain(self, job: Job) -> bool:
        """Behind an element that is held: nothing happens to it before somebody sees to that one."""
        if job.state != "PENDING" or not job.dependency:
            return False
        parents = [parent for _, named in job.dependency for parent in named]
        return any(not parent.over and (parent.held or self._waits_in_vain(parent)) for parent in parents)

    def _wait_for_heartbeats(self) -> None:
        """What runs by its heartbeat alone is over once that is stale: a person looks again after a while."""
        if any(state.state == "running" for state in self.watch.states.values()):
            over: list[bool] = []
            self.machine.after(2 * STALE_S, lambda: over.append(True))
            self.machine.run_until(lambda: bool(over), 3 * STALE_S)

    def _wait_for(self, name: str) -> None:
        processes = [process for process in self.machine.processes.values() if process.name.startswith(name)]
        self.machine.run_until(lambda: all(process.over for process in processes), 3600.0)

    # What people do.

    def _start(self, name: str, work: Callable[[], int | None]) -> Process:
        self.asked += 1

        def edged() -> int | None:
            try:
                return work()
            except (TandaError, OSError) as error:  # a line at the edge, status 2
                self.machine.note(f"refused: {error}")
                return 2

        process = self.machine.start(f"{name}{self.asked}", "login", edged, on_end=self.watch.command_ended)
        process.facts["person"] = name
        if self.world.chaos and self.draw.random() < 0.06 * self.world.scale:
            process.kill_at = self.draw.randint(1, 120)
        return process

    def _submit(self) -> None:
        process = self._start("submit", lambda: submit_plan(self.world.plan).exit_status)
        self.watch.person_submits(process)

    def _submit_twice(self) -> None:
        self._submit()
        self._submit()

    def _cancel(self) -> None:
        self._start("cancel", lambda: cancel_plan(self.world.plan) and 0)

    def _status(self) -> None:
        def look() -> int:
            began = self.machine.now
            held, recorded = self.watch.having("held.json"), self.watch.having("record.json")
            self.watch.shown_states(began, held, recorded, task_states(self.world.plan))
            return 0

        self._start("status", look)

    # What befalls a site.

    def _pick(self, wanted: Callable[[Job], bool]) -> Job | None:
        jobs = [job for job in self.slurm.jobs.values() if job.ours and wanted(job)]
        return self.draw.choice(jobs) if jobs else None

    def _preempt(self) -> None:
        job = self._pick(lambda job: job.state == "RUNNING")
        if job is not None:
            self.slurm.preempt(job, self.draw.choice([1.0, 10.0, 30.0]))

    def _requeue(self) -> None:
        job = self._pick(lambda job: job.state == "RUNNING")
        if job is not None:
            self.slurm.requeue(job)

    def _node_fails(self) -> None:
        node = self.draw.choice(self.slurm.nodes)
        run_on, hung = self.draw.random() < 0.6, self.draw.random() < 0.5
        down_s = self.draw.uniform(20.0, 250.0)
        if run_on and hung:
            for process in self.machine.processes.values():
                if process.host == node and not process.over:
                    self.world.stall(process, down_s * self.draw.uniform(0.5, 0.99))
        self.slurm.node_fails(node, down_s=down_s, run_on=run_on)

    def _launch_fails(self) -> None:
        job = self._pick(lambda job: job.state == "RUNNING")
        if job is not None:
            self.slurm.fails_to_launch(job)

    def _controller_away(self) -> None:
        self.world.slurm_down_until = self.machine.now + self.draw.choice([5.0, 30.0, 120.0])

    def _accounting_away(self) -> None:
        self.world.database_down_until = self.machine.now + self.draw.choice([10.0, 60.0, 300.0])

    def _state_lost(self) -> None:
        """The controller forgets everything, and numbers begin again; somebody else's jobs take ours."""
        if any(process.facts.get("person") and not process.over for process in self.machine.processes.values()):
            return  # between a look and the deed lies a moment
        ours = [job for job in self.slurm.jobs.values() if job.ours]
        self.watch.state_lost()
        self.slurm.lose_state(self.draw.randint(1, 4))
        if ours and self.draw.random() < 0.7:
            # This user's own, from another storage of theirs: only the comment tells.
            twin = self.draw.choice(ours)
            options = {"job-name": twin.name, "time": "60", "comment": "tanda 20200101-000000-lab train storm"}
            held = {"hold": ""} if self.draw.random() < 0.5 else {}
            self.slurm.next_number = twin.number
            self.slurm.add({**options, **held}, [None] if twin.index is None else list(range(4)), ours=False)
        for _ in range(self.draw.randint(0, 3)):
            self._strangers()

    def _stall(self) -> None:
        process = self._some_process()
        if process is not None:
            self.world.stall(process, self.draw.choice([10.0, 70.0, 150.0]))

    def _kill(self) -> None:
        process = self._some_process()
        if process is not None:
            if process.name.startswith("job") and process.parent is None:
                self.machine.kill_tree(process)
            else:
                self.machine.kill(process)

    def _some_process(self) -> Process | None:
        live = [process for process in self.machine.processes.values() if not process.over]
        return self.draw.choice(live) if live else None

    def _scancel(self) -> None:
        job = self._pick(lambda job: not job.over)
        if job is not None:
            self.watch.by_hand(job)
            self.slurm.cancel(job)

    def _hold(self) -> None:
        job = self._pick(lambda job: job.state == "PENDING" and not job.held)
        if job is not None:
            self.slurm.run(["scontrol", "hold", job.id])

            def release() -> None:
                if self.slurm.jobs.get(job.id) is job:
                    self.slurm.run(["scontrol", "release", job.id])

            self.machine.after(self.draw.uniform(20.0, 100.0), release)

    def _disk_full(self) -> None:
        self.machine.full_until = self.machine.now + self.draw.choice([2.0, 20.0, 60.0])

    def _strangers(self) -> None:
        mine = self.draw.random() < 0.6  # this user's own, of other work
        name = self.draw.choice(["lab-close", "other", "lab-storm-train"]) if mine else "theirs"
        options = {"job-name": name, "time": "60", **({"comment": "mine"} if self.draw.random() < 0.5 else {})}
        indices = [None] if self.draw.random() < 0.5 else list(range(4))
        uid = os.geteuid() if mine else STRANGER
        held = {"hold": ""} if self.draw.random() < 0.3 else {}
        self.slurm.add({**options, **held}, indices, uid=uid, ours=False)


def play(seed: int, home: Path) -> Verdict:
    """The history of a seed."""
    return History(seed, home).play()


def last_lines(verdict: Verdict, count: int | None = None) -> list[str]:
    """The history as text: seconds since its beginning, whose deed, what."""
    lines = verdict.lines if count is None else verdict.lines[-count:]
    began = verdict.lines[0][0] if verdict.lines else 0.0
    return [f"{moment - began:9.2f}  {who:18} {what}" for moment, who, what in lines]


def digest_of(verdict: Verdict) -> str:
    """The same for the same history."""
    import hashlib

    return hashlib.sha256(orjson.dumps(verdict.lines)).hexdigest()[:16]


__all__: list[Any] = ["History", "Verdict", "digest_of", "last_lines", "play", "signal"]
