"""Runs the local queue's elements, as many at once as the machine carries, until nothing is left.

``python -m slurm.local_supervisor FOLDER LOCK`` is started by the queue itself, detached: it outlives who submitted.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

from slurm.array import Array
from slurm.commands import scrubbed
from slurm.element import AGAIN, IDLE, Element, write_elements
from slurm.job_ids import base, index
from slurm.local_queue import LocalQueue, import_path
from slurm.machine import Machine, this_machine
from slurm.owned import OTHERS_WRITE, READABLE, check_own, open_plain, own_folder
from slurm.query import DONE, FAILED, GONE, RUNNING, WAITING, JobState

POLL_S = 0.1
KILL_AFTER_S = 10.0
KEEP_S = 7 * 86400.0
NEVER = "DependencyNeverSatisfied"


@dataclass(slots=True)
class _Running:
    """A started element; ``stopping`` is the cause that its end will have, if somebody ends it."""

    process: Popen[bytes] | None  # None: started by a supervisor that is gone
    pid: int
    began: float
    cpus: int
    mem_gb: float
    gpus: tuple[str, ...]
    warned: bool = False
    stopping: str | None = None
    kill_at: float | None = None


@dataclass(slots=True)
class Supervisor:
    """One pass of ``turn`` does everything there is to do now."""

    queue: LocalQueue
    machine: Machine = field(default_factory=this_machine)
    arrays: dict[int, Array] = field(default_factory=dict)
    states: dict[str, JobState] = field(default_factory=dict)
    running: dict[str, _Running] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    _waiting: dict[int, dict[int, None]] = field(default_factory=dict)
    _reasons: dict[int, str | None] = field(default_factory=dict)
    _written: dict[str, JobState] = field(default_factory=dict)

    def recover(self) -> None:
        """Go on where the last supervisor left off, killed or not; what ended long ago is forgotten."""
        known = self.queue.states()
        kept = {int(base(id_)) for id_, facts in known.items() if _recent(facts)}
        # Never the newest: its number must not be given a second time.
        old = {int(base(id_)) for id_ in known} - kept - set(self.queue.numbers()[-1:])
        self.queue.forget(old)
        for id_, facts in known.items():
            if int(base(id_)) in old:
                continue
            pid = facts.pop("pid")
            self.states[id_] = JobState(**facts)
            if self.states[id_].state == RUNNING and pid:
                self.running[id_] = _Running(None, pid, facts["started"], 0, 0.0, ())

    def turn(self) -> bool:
        """Take what is new, see to what runs, start what can; whether anything is left to do."""
        self._take_arrays()
        for what, ids in self.queue.take_orders():
            self._apply_order(what, ids)
        for id_ in list(self.running):
            self._watch(id_)
        for number in list(self._waiting):
            self._start_array(number)
        if self.states != self._written:
            self.queue.write_states(self.states, {id_: run.pid for id_, run in self.running.items()})
            self._written = dict(self.states)
        return bool(self.running or self._waiting)

    def _take_arrays(self) -> None:
        for number in self.queue.numbers():
            if number in self.arrays:
                continue
            array = self.arrays[number] = self.queue.array(number)
            submitted = (self.queue.folder / "arrays" / f"{number}.json").stat().st_mtime
            for place in range(len(array.elements)):
                id_ = f"{number}_{place}"
                if array.held:
                    self.held.add(id_)
                self.states.setdefault(id_, JobState(id=id_, state=WAITING, said="PENDING", submitted=submitted))
                if self.states[id_].state == WAITING:
                    self._waiting.setdefault(number, {})[place] = None

    def _apply_order(self, what: str, ids: Iterable[str]) -> None:
        for id_ in [element for asked in ids for element in self._elements(asked)]:
            if what == "hold":
                self.held.add(id_)
            elif what == "release":
                self.held.discard(id_)
            elif id_ in self.running:
                self._stop(id_, "cancelled")
            elif self.states[id_].state == WAITING:
                self._finish(id_, FAILED, cause="cancelled", said="CANCELLED")

    def _elements(self, id_: str) -> list[str]:
        """The elements that an id stands for: itself, or a whole array's; none for one that is unknown."""
        if index(id_) is not None:
            return [id_] if id_ in self.states else []
        array = self.arrays.get(int(id_))
        return [f"{id_}_{place}" for place in range(len(array.elements))] if array else []

    def _watch(self, id_: str) -> None:
        run, array = self.running[id_], self.arrays[int(base(id_))]
        end = _ended(run)
        if end is not None:
            _kill_group(run.pid)
            del self.running[id_]
            self._account(id_, run, *end)
            return
        now = time.time()
        limit_s = array.resources.time_min * 60
        if run.kill_at is not None and now > run.kill_at:
            _signal_group(run.pid, signal.SIGKILL)
        elif now - run.began > limit_s:
            self._stop(id_, "time limit")
        elif now - run.began > limit_s - array.resources.warning_s and not run.warned:
            run.warned = True
            _signal_group(run.pid, signal.SIGUSR2)

    def _stop(self, id_: str, cause: str) -> None:
        run = self.running[id_]
        if run.kill_at is None:
            run.stopping, run.kill_at = cause, time.time() + KILL_AFTER_S
            _signal_group(run.pid, signal.SIGTERM)

    def _account(self, id_: str, run: _Running, code: int, peak_mb: float | None) -> None:
        elapsed_s = time.time() - run.began
        before = self.states[id_]
        self.states[id_] = replace(
            before,
            elapsed_s=before.elapsed_s + elapsed_s,
            gpu_hours=before.gpu_hours + elapsed_s * len(run.gpus) / 3600,
            max_rss_mb=max((mb for mb in (before.max_rss_mb, peak_mb) if mb is not None), default=None),
        )
        if run.process is None:
            reason = "its supervisor was killed: how it ended is not known"
            self._finish(id_, GONE, reason=reason)
        elif code == AGAIN and run.stopping is None:
            self.states[id_] = replace(self.states[id_], state=WAITING, said="REQUEUED", restarts=before.restarts + 1)
            self._waiting.setdefault(int(base(id_)), {})[index(id_) or 0] = None
        elif code == 0:
            self._finish(id_, DONE, said="COMPLETED", exit_code=0)
        else:
            cause = run.stopping or ("killed" if code < 0 else "time limit" if code == IDLE else "error")
            said = {"cancelled": "CANCELLED", "time limit": "TIMEOUT"}.get(cause, "FAILED")
            self._finish(
                id_, FAILED, cause=cause, said=said, exit_code=code if code >= 0 else None,
                signal=-code if code < 0 else None,
            )  # fmt: skip

    def _finish(self, id_: str, state: str, **facts: object) -> None:
        self.states[id_] = replace(
            self.states[id_],
            state=state,
            ended=time.time(),
            **{"reason": None, **facts},  # type: ignore[arg-type]
        )
        number = int(base(id_))
        places = self._waiting.get(number, {})
        places.pop(index(id_) or 0, None)
        if not places:
            self._waiting.pop(number, None)

    def _start_array(self, number: int) -> None:
        array = self.arrays[number]
        reason = self._array_waits(array, number)
        if reason == NEVER:
            for place in list(self._waiting[number]):
                self._finish(f"{number}_{place}", FAILED, cause="cancelled", said="CANCELLED", reason=NEVER)
            return
        for place in list(self._waiting[number]) if reason is None else ():
            id_ = f"{number}_{place}"
            own = self._element_waits(array, place, id_)
            if own == NEVER:
                self._finish(id_, FAILED, cause="cancelled", said="CANCELLED", reason=NEVER)
            elif own is not None:
                self._say(id_, own)
            elif (reason := self._no_room(array, number)) is None:
                self._try_start(id_, array, place)
            else:
                break
        if reason is not None and reason != self._reasons.get(number):
            for place in self._waiting.get(number, ()):
                self._say(f"{number}_{place}", reason)
        self._reasons[number] = reason

    def _say(self, id_: str, reason: str) -> None:
        if self.states[id_].reason != reason:
            self.states[id_] = replace(self.states[id_], reason=reason)

    def _array_waits(self, array: Array, number: int) -> str | None:
        """Slurm's word for why no element of an array can start now, or None."""
        words = [self._unmet(after.way, after.jobs) for after in array.after if after.way != "aftercorr"]
        return next((word for word in sorted(filter(None, words), reverse=True)), None) or self._no_room(array, number)

    def _element_waits(self, array: Array, place: int, id_: str) -> str | None:
        if id_ in self.held:
            return "JobHeldUser"
        own = (
            self._unmet(after.way, after.jobs[place : place + 1]) for after in array.after if after.way == "aftercorr"
        )
        return next(filter(None, own), None)

    def _unmet(self, way: str, jobs: Iterable[str | None]) -> str | None:
        waited = [self.states[element] for job in jobs if job for element in self._elements(job)]
        if way != "afterany" and any(state.over and state.state != DONE for state in waited):
            return NEVER
        return None if all(state.over for state in waited) else "Dependency"

    def _no_room(self, array: Array, number: int) -> str | None:
        at_once = sum(1 for id_ in self.running if base(id_) == str(number))
        if array.throttle is not None and at_once >= array.throttle:
            return "JobArrayTaskLimit"
        cpus = self.machine.cpus - sum(run.cpus for run in self.running.values())
        mem_gb = self.machine.mem_gb - sum(run.mem_gb for run in self.running.values())
        needs = self._allocation(array)
        fits = needs[0] <= cpus and needs[1] <= mem_gb and needs[2] <= len(self._free_gpus())
        return None if fits else "Resources"

    def _allocation(self, array: Array) -> tuple[int, float, int]:
        # What is more than the whole machine runs alone on it.
        asked = array.resources
        machine = self.machine
        return min(asked.cpus, machine.cpus), min(asked.mem_gb, machine.mem_gb), min(asked.gpus, len(machine.gpus))

    def _free_gpus(self) -> list[str]:
        taken = {gpu for run in self.running.values() for gpu in run.gpus}
        return [gpu for gpu in self.machine.gpus if gpu not in taken]

    def _try_start(self, id_: str, array: Array, place: int) -> None:
        try:
            self._start(id_, array, place)
        except OSError as error:
            self._finish(id_, FAILED, cause="error", said="FAILED", reason=f"not started: {error}")

    def _start(self, id_: str, array: Array, place: int) -> None:
        cpus, mem_gb, gpus = self._allocation(array)
        file = self._documents(array, int(base(id_)), cpus, gpus)
        devices = tuple(self._free_gpus()[:gpus])
        environment = {
            **scrubbed(os.environ),
            **array.environment,
            **import_path(array.code),
            "TANDA_ELEMENT": id_,
            "TANDA_RESTART": str(self.states[id_].restarts),
            "CUDA_VISIBLE_DEVICES": ",".join(devices),
        }
        with open_plain(file.parent / f"{id_}.log", "ab", permissions=READABLE) as log:
            process = Popen(
                [sys.executable, "-m", "slurm.element", str(file), str(place)],
                env=environment, stdin=DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        now = time.time()
        self.running[id_] = _Running(process, process.pid, now, cpus, mem_gb, devices)
        places = self._waiting[int(base(id_))]
        del places[place]
        if not places:
            del self._waiting[int(base(id_))]
        before = self.states[id_]
        waited_s = now - (before.submitted or now) if not before.restarts else before.waited_s
        self.states[id_] = replace(
            before, state=RUNNING, said="RUNNING", reason=None, node=os.uname().nodename, gpus=gpus,
            started=now, waited_s=waited_s, mem_mb=mem_gb * 1024,
        )  # fmt: skip

    def _documents(self, array: Array, number: int, cpus: int, gpus: int) -> Path:
        """The array's elements as the element program reads them, written once; raises PermissionError where
        somebody else could say what runs."""
        folder = own_folder(own_folder(array.folder) / f"{array.name}.{number}")
        if array.code is not None and array.code.is_relative_to(array.folder):
            check_own(array.code)

        file = folder / "elements.json"
        if not file.exists():
            given = array.resources
            elements = tuple(
                Element(
                    paths=tuple(map(str, paths)), command=array.command, cpus=cpus, gpus=gpus,
                    signs=array.signs, warn_s=given.warning_s,
                )
                for paths in array.elements
            )  # fmt: skip
            write_elements(file, elements)
        return file


def _recent(facts: Mapping[str, Any]) -> bool:
    return not facts["ended"] or facts["ended"] > time.time() - KEEP_S


def _ended(run: _Running) -> tuple[int, float | None] | None:
    """Exit status (negative: a signal) and peak memory in MB of an element that is over."""
    if run.process is None:
        return None if Path(f"/proc/{run.pid}").exists() else (1, None)
    pid, status, used = os.wait4(run.pid, os.WNOHANG)
    if not pid:
        return None
    run.process.returncode = os.waitstatus_to_exitcode(status)
    return run.process.returncode, round(used.ru_maxrss / 1024, 1)


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def _kill_group(pid: int) -> None:
    # What an element left behind when it was killed: its children must not go on unwatched.
    _signal_group(pid, signal.SIGKILL)


def supervise(folder: Path, lock: int) -> None:
    """Turn until nothing is left, then give up the lock with the queue held, so that no array is overlooked."""
    os.umask(os.umask(0o077) | OTHERS_WRITE)  # an element sets its tasks' own
    queue = LocalQueue(folder)
    supervisor = Supervisor(queue)
    supervisor.recover()
    while True:
        while _turn(supervisor):
            time.sleep(POLL_S)
        with queue.locked():
            if not supervisor.turn():
                os.close(lock)
                return


def _turn(supervisor: Supervisor) -> bool:
    try:
        return supervisor.turn()
    except OSError as error:
        # The disk is full or the storage away: what runs goes on, and the next turn tries again.
        print(f"{time.ctime()} {error}", file=sys.stderr, flush=True)
        return True


if __name__ == "__main__":
    supervise(Path(sys.argv[1]), int(sys.argv[2]))
