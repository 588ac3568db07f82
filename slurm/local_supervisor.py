"""Runs the local queue's elements, as many at once as the machine carries, until nothing is left.

``python -m slurm.local_supervisor FOLDER LOCK`` is started by the queue itself, detached: it outlives who submitted.
The protocol with those who submit, and what happens when one was killed, is described in ``slurm.executors.local``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

from sharedfs.files import OWNER_WRITES, open_plain
from slurm.array import Array, array_id, element_index
from slurm.element import AGAIN, IDLE, STORAGE, write_elements
from slurm.executors.local import LOCAL_GPUS, LocalQueue, Started, child_environment, process_ticks
from slurm.job_state import DONE, FAILED, GONE, RUNNING, WAITING, JobState
from slurm.machine import Machine, this_machine
from slurm.owned import OTHERS_WRITE, check_own, own_folder

POLL_S = 0.1
KILL_AFTER_S = 10.0
KEEP_S = 7 * 86400.0
NEVER = "DependencyNeverSatisfied"


@dataclass(slots=True)
class _Running:
    """A started element; ``stopping`` is the cause of its end, if it was asked to stop."""

    process: Popen[bytes] | None  # None: started by a supervisor that is gone
    started: Started
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
    """One ``step`` does everything there is to do now."""

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
        """Take over from the last supervisor, killed or not; what ended long ago is forgotten."""
        states, started = self.queue.states()
        kept = {int(array_id(id_)) for id_, state in states.items() if _is_recent(state)}
        old = {int(array_id(id_)) for id_ in states} - kept - set(self.queue.numbers()[-1:])
        self.queue.forget(old)
        self.states = {id_: state for id_, state in states.items() if int(array_id(id_)) not in old}
        for id_, state in self.states.items():
            process = started.get(id_)
            if state.state == RUNNING and process is not None and process.pid is not None:
                cpus, mem_gb, _ = self._allocation(self.queue.array(int(array_id(id_))))
                began = state.started or time.time()
                self.running[id_] = _Running(None, process, process.pid, began, cpus, mem_gb, process.devices)

    def step(self) -> bool:
        """Take what is new, watch what runs, start what fits; whether anything is left to do."""
        self._take_arrays()
        for order, ids in self.queue.take_orders():
            self._apply_order(order, ids)
        for id_ in list(self.running):
            self._watch(id_)
        for number in list(self._waiting):
            self._start_array(number)
        if self.states != self._written:
            self.queue.write_states(self.states, {id_: run.started for id_, run in self.running.items()})
            self._written = dict(self.states)
        return bool(self.running or self._waiting)

    def _take_arrays(self) -> None:
        for number in self.queue.numbers():
            if number in self.arrays:
                continue
            array = self.arrays[number] = self.queue.array(number)
            submitted = self.queue.submitted(number)
            for index in range(len(array.elements)):
                id_ = f"{number}_{index}"
                if array.held:
                    self.held.add(id_)
                self.states.setdefault(id_, JobState(id=id_, state=WAITING, submitted=submitted))
                if self.states[id_].state == WAITING:
                    self._waiting.setdefault(number, {})[index] = None

    def _apply_order(self, order: str, ids: Iterable[str]) -> None:
        for id_ in [element for job in ids for element in self._elements(job)]:
            if order == "hold":
                self.held.add(id_)
            elif order == "release":
                self.held.discard(id_)
            elif id_ in self.running:
                self._stop(id_, "cancelled")
            elif self.states[id_].state == WAITING:
                self._finish(id_, FAILED, cause="cancelled")

    def _elements(self, id_: str) -> list[str]:
        """The elements that an id stands for: itself, or a whole array's; none for one that is unknown."""
        if element_index(id_) is not None:
            return [id_] if id_ in self.states else []
        array = self.arrays.get(int(id_))
        return [f"{id_}_{index}" for index in range(len(array.elements))] if array else []

    def _watch(self, id_: str) -> None:
        run, array = self.running[id_], self.arrays[int(array_id(id_))]
        end = _ended(run)
        if end is not None:
            _kill_group(run)
            del self.running[id_]
            self._account(id_, run, *end)
            return
        now = time.time()
        limit_s = array.resources.time_min * 60
        if run.kill_at is not None and now > run.kill_at:
            _signal_group(run, signal.SIGKILL)
        elif now - run.began > limit_s:
            self._stop(id_, "time limit")
        elif now - run.began > limit_s - array.resources.warning_s and not run.warned:
            run.warned = True
            _signal_group(run, signal.SIGUSR2)

    def _stop(self, id_: str, cause: str) -> None:
        run = self.running[id_]
        if run.kill_at is None:
            run.stopping, run.kill_at = cause, time.time() + KILL_AFTER_S
            _signal_group(run, signal.SIGTERM)

    def _account(self, id_: str, run: _Running, code: int, peak_mb: float | None) -> None:
        elapsed_s = time.time() - run.began
        before = self.states[id_]
        self._update(
            id_,
            elapsed_s=before.elapsed_s + elapsed_s,
            gpu_hours=before.gpu_hours + elapsed_s * len(run.gpus) / 3600,
            max_rss_mb=max((mb for mb in (before.max_rss_mb, peak_mb) if mb is not None), default=None),
        )
        if run.process is None:
            self._finish(id_, GONE, reason="its supervisor was killed: how it ended is not known")
        elif code == AGAIN and run.stopping is None:
            self._update(id_, state=WAITING, restarts=before.restarts + 1)
            self._waiting.setdefault(int(array_id(id_)), {})[element_index(id_) or 0] = None
        elif code == 0:
            self._finish(id_, DONE, exit_code=0)
        else:
            of_code = {IDLE: "time limit", STORAGE: "storage"}
            cause = run.stopping or ("killed" if code < 0 else of_code.get(code, "error"))
            signalled = code < 0
            self._finish(
                id_,
                FAILED,
                cause=cause,
                signal=-code if signalled else None,
                exit_code=None if signalled else code,
            )

    def _finish(self, id_: str, state: str, *, reason: str | None = None, **facts: Any) -> None:
        self._update(id_, state=state, ended=time.time(), reason=reason, **facts)
        self._no_longer_waits(id_)

    def _update(self, id_: str, **facts: Any) -> None:
        self.states[id_] = replace(self.states[id_], **facts)

    def _no_longer_waits(self, id_: str) -> None:
        number = int(array_id(id_))
        indices = self._waiting.get(number, {})
        indices.pop(element_index(id_) or 0, None)
        if not indices:
            self._waiting.pop(number, None)

    def _start_array(self, number: int) -> None:
        array = self.arrays[number]
        reason = self._array_waits(array, number)
        if reason == NEVER:
            for index in list(self._waiting[number]):
                self._finish(f"{number}_{index}", FAILED, cause="cancelled", reason=NEVER)
            return
        for index in list(self._waiting[number]) if reason is None else ():
            id_ = f"{number}_{index}"
            own = self._element_waits(array, index, id_)
            if own == NEVER:
                self._finish(id_, FAILED, cause="cancelled", reason=NEVER)
            elif own is not None:
                self._update(id_, reason=own)
            elif (reason := self._no_room(array, number)) is None:
                self._try_start(id_, array, index)
            else:
                break
        if reason is not None and reason != self._reasons.get(number):
            for index in self._waiting.get(number, ()):
                self._update(f"{number}_{index}", reason=reason)
        self._reasons[number] = reason

    def _array_waits(self, array: Array, number: int) -> str | None:
        """Slurm's word for why no element of an array can start now, or None."""
        reasons = [self._unmet(after.way, after.jobs) for after in array.after if after.way != "aftercorr"]
        if NEVER in reasons:
            return NEVER
        return next(filter(None, reasons), None) or self._no_room(array, number)

    def _element_waits(self, array: Array, index: int, id_: str) -> str | None:
        if id_ in self.held:
            return "JobHeldUser"
        own = (
            self._unmet(after.way, after.jobs[index : index + 1]) for after in array.after if after.way == "aftercorr"
        )
        return next(filter(None, own), None)

    def _unmet(self, way: str, jobs: Iterable[str | None]) -> str | None:
        waited = [self.states[element] for job in jobs if job for element in self._elements(job)]
        if way != "afterany" and any(state.over and state.state != DONE for state in waited):
            return NEVER
        return None if all(state.over for state in waited) else "Dependency"

    def _no_room(self, array: Array, number: int) -> str | None:
        at_once = sum(1 for id_ in self.running if array_id(id_) == str(number))
        if array.throttle is not None and at_once >= array.throttle:
            return "JobArrayTaskLimit"
        cpus = self.machine.cpus - sum(run.cpus for run in self.running.values())
        mem_gb = self.machine.mem_gb - sum(run.mem_gb for run in self.running.values())
        needs = self._allocation(array)
        fits = needs[0] <= cpus and needs[1] <= mem_gb and needs[2] <= len(self._free_gpus(array))
        return None if fits else "Resources"

    def _allocation(self, array: Array) -> tuple[int, float, int]:
        # What is more than the whole machine runs alone on it.
        asked = array.resources
        cpus, mem_gb = min(asked.cpus, self.machine.cpus), min(asked.mem_gb, self.machine.mem_gb)
        return cpus, mem_gb, min(asked.gpus, len(self._gpus_of(array)))

    def _gpus_of(self, array: Array) -> tuple[str, ...]:
        return self.machine.gpus if array.visible_gpus is None else array.visible_gpus

    def _free_gpus(self, array: Array) -> list[str]:
        taken = {gpu for run in self.running.values() for gpu in run.gpus}
        return [gpu for gpu in self._gpus_of(array) if gpu not in taken]

    def _try_start(self, id_: str, array: Array, index: int) -> None:
        try:
            self._start(id_, array, index)
        except OSError as error:
            self._finish(id_, FAILED, cause="error", reason=f"not started: {error}")

    def _start(self, id_: str, array: Array, index: int) -> None:
        cpus, mem_gb, gpus = self._allocation(array)
        file = self._documents(array, int(array_id(id_)), cpus, gpus)
        devices = tuple(self._free_gpus(array)[:gpus])
        environment = {
            **child_environment(array.code, array.environment),
            "TANDA_ELEMENT": id_,
            "TANDA_RESTART": str(self.states[id_].restarts),
            "CUDA_VISIBLE_DEVICES": ",".join(devices),
            LOCAL_GPUS: ",".join(self._gpus_of(array)),
        }
        with open_plain(file.parent / f"{id_}.log", "ab", permissions=OWNER_WRITES) as log:
            process = Popen(
                [sys.executable, "-m", "slurm.element", str(file), str(index)],
                env=environment, stdin=DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        now = time.time()
        started = Started(pid=process.pid, ticks=process_ticks(process.pid), devices=devices)
        self.running[id_] = _Running(process, started, process.pid, now, cpus, mem_gb, devices)
        self._no_longer_waits(id_)
        before = self.states[id_]
        waited_s = now - (before.submitted or now) if not before.restarts else before.waited_s
        node = os.uname().nodename
        self._update(id_, state=RUNNING, reason=None, node=node, gpus=gpus, started=now, waited_s=waited_s)

    def _documents(self, array: Array, number: int, cpus: int, gpus: int) -> Path:
        """The array's elements as the element program reads them, written once; raises PermissionError where
        somebody else could say what runs."""
        folder = own_folder(own_folder(array.folder) / f"{array.name}.{number}")
        if array.code is not None and array.code.is_relative_to(array.folder):
            check_own(array.code)

        file = folder / "elements.json"
        if not file.exists():
            elements = (array.element(index) for index in range(len(array.elements)))
            write_elements(file, tuple(replace(element, cpus=cpus, gpus=gpus) for element in elements))
        return file


def _is_recent(state: JobState) -> bool:
    return not state.ended or state.ended > time.time() - KEEP_S


def _ended(run: _Running) -> tuple[int, float | None] | None:
    """Exit status (negative: a signal) and peak memory in MB of an element that has ended."""
    if run.process is None:
        return None if run.started.is_alive() else (1, None)
    pid, status, used = os.wait4(run.pid, os.WNOHANG)
    if not pid:
        return None
    run.process.returncode = os.waitstatus_to_exitcode(status)
    return run.process.returncode, round(used.ru_maxrss / 1024, 1)


def _signal_group(run: _Running, number: signal.Signals) -> None:
    if run.process is None and run.started.is_replaced():
        return
    # Gone, or another user's by now.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(run.pid, number)


def _kill_group(run: _Running) -> None:
    # An element that was killed leaves its children running, and nobody would watch them.
    _signal_group(run, signal.SIGKILL)


def supervise(folder: Path, lock: int) -> None:
    """Step until nothing is left, then give up the lock with the queue locked, so that no array is overlooked."""
    os.umask(os.umask(0o077) | OTHERS_WRITE)  # an element sets its tasks' own
    queue = LocalQueue(folder)
    supervisor = Supervisor(queue)
    supervisor.recover()
    while True:
        while _step(supervisor):
            time.sleep(POLL_S)
        with queue.locked():
            if not supervisor.step():
                os.close(lock)
                return


def _step(supervisor: Supervisor) -> bool:
    try:
        return supervisor.step()
    except OSError as error:
        # The disk is full or the storage away: what runs goes on, and the next step tries again.
        print(f"{time.ctime()} {error}", file=sys.stderr, flush=True)
        return True


if __name__ == "__main__":
    supervise(Path(sys.argv[1]), int(sys.argv[2]))
