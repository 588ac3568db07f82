"""``python -m jobs.gpu_watch IDLE_MIN IDLE_BELOW STORAGE/runs/ID...``: measures the GPUs of an element's tasks.

``slurm.sidecar`` starts it beside them and says of each, in TANDA_CHILDREN, its process, its cores and its GPUs. It
looks once a second and rewrites ``attempts/<n>/gpu.json`` once a minute, at first more often. What cannot be measured
(no driver, a MIG slice, a call that is denied) is unknown time, said once in the element's log. Of a task's GPUs the
first counts: a task computes on one. A task whose GPU is used less than IDLE_BELOW percent for IDLE_MIN minutes in a
row, none of them unknown, is ended (``jobs.gpu_idle``); 0 minutes: never.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import orjson

from jobs import gpu_use
from jobs.attempt import Attempt, newest
from jobs.gpu_idle import IdleRule, IdleTask, end_idle
from jobs.gpu_use import BINS, GpuUse
from jobs.nvml import Look, Nvml, UnmeasuredError
from sharedfs.typed_json import decode

EVERY_S = 1.0
FIRST_WRITE_S, WRITE_EVERY_S = 5.0, 60.0
ALL_CORES = 0.9  # of a task's cores: used to this share, they leave the GPU waiting
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A task's process, as ``slurm.sidecar`` tells of it."""

    path: str
    pid: int
    cpus: int
    gpus: str | None


@dataclass(slots=True)
class Tally:
    """The sums of one attempt so far."""

    histogram: list[float] = field(default_factory=lambda: [0.0] * BINS)
    busy_s: float = 0.0
    waiting_s: float = 0.0
    unknown_s: float = 0.0
    peak_mb: float | None = None
    energy_j: float | None = 0.0

    def add(self, look: Look, share_s: float, *, cores_busy: bool) -> None:
        """Add one look that stands for so many seconds of the GPU."""
        busy_s = share_s * min(100, look.utilisation) / 100
        self.histogram[gpu_use.bin_of(look.utilisation)] += share_s
        self.busy_s += busy_s
        if cores_busy and look.utilisation > 0:
            self.waiting_s += share_s - busy_s

    def use(self) -> GpuUse:
        return GpuUse(
            histogram=tuple(round(seconds, 3) for seconds in self.histogram),
            busy_s=round(self.busy_s, 3),
            waiting_s=round(self.waiting_s, 3),
            unknown_s=round(self.unknown_s, 3),
            peak_mb=self.peak_mb,
            energy_j=None if self.energy_j is None or not any(self.histogram) else round(self.energy_j, 1),
        )


@dataclass(slots=True)
class Watched:
    """One task: what is known of its process, and what its GPU did in the attempt of that number."""

    child: Child
    number: int | None = None
    tally: Tally = field(default_factory=Tally)
    cpu_s: float = 0.0
    is_certain: bool = False  # that the GPU which is looked at is the task's
    idle_s: float = 0.0  # in which its GPU did nothing, up to now without a break
    idle_cpu_s: float = 0.0  # the processor time that it used meanwhile
    alive: bool = True

    @property
    def gpu(self) -> str:
        """The name of the GPU that it computes on."""
        return (self.child.gpus or "").split(",")[0].strip()

    @property
    def idle(self) -> IdleTask:
        """The time in which its GPU did nothing, up to now."""
        child = self.child
        return IdleTask(
            folder=Path(child.path), pid=child.pid, cpus=child.cpus, idle_s=self.idle_s, cpu_s=self.idle_cpu_s
        )

    def note_idle(self, seconds: float, spent_s: float, *, idle: bool) -> None:
        """Add to the time in which its GPU did nothing, or begin it anew."""
        self.idle_s = self.idle_s + seconds if idle else 0.0
        self.idle_cpu_s = self.idle_cpu_s + spent_s if idle else 0.0

    def write(self) -> None:
        """Write what there is to the attempt that this process makes; a new one begins from nothing."""
        folder = Path(self.child.path)
        # On a storage that is full or away it is left out: the next one has all of it.
        with suppress(OSError):
            attempt = newest(folder)
            number = attempt.number if attempt and attempt.pid == self.child.pid else self.number
            if number is None:
                return
            gpu_use.write(Attempt(folder, self.number or number).path, self.tally.use())
            if self.number not in (None, number):
                self.tally = Tally()
            self.number = number


@dataclass(slots=True)
class Watch:
    """The tasks of an element and the GPUs that they compute on, or in ``nvml`` why none can be measured."""

    tasks: Sequence[Watched]
    nvml: Nvml | UnmeasuredError
    log: Callable[[str], None]
    process: Callable[[int], float | None]
    rule: IdleRule = field(default_factory=IdleRule)
    stop: Callable[[IdleTask, IdleRule, Callable[[str], None]], bool] = end_idle
    _handles: dict[str, Any] = field(default_factory=dict)
    _energy_mj: dict[str, int] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    def look(self, seconds: float) -> None:
        """Look at every GPU once, for the seconds since the last look."""
        cpu_s: dict[int, float] = {}
        for task in self.tasks:
            now_s = self.process(task.child.pid) if task.alive else None
            if now_s is not None:
                cpu_s[task.child.pid] = now_s
            elif task.alive:
                task.alive = False
                task.write()
        living = [task for task in self.tasks if task.alive]
        for gpu in dict.fromkeys(task.gpu for task in living):
            self._look_at(gpu, [task for task in living if task.gpu == gpu], cpu_s, seconds)
        for task in living:
            if self.rule.is_over(task.idle_s):
                task.write()
                self.stop(task.idle, self.rule, self.log)
                task.note_idle(0.0, 0.0, idle=False)

    def _look_at(self, gpu: str, tasks: Sequence[Watched], cpu_s: dict[int, float], seconds: float) -> None:
        share_s = seconds / len(tasks)
        try:
            look = self._ask(gpu)
        except UnmeasuredError as error:
            self.say(f"not measured: {error}")
            self._energy_mj.pop(gpu, None)
            for task in tasks:
                self._unknown(task, share_s)
            return
        energy_j = self._energy_since(gpu, look)
        for task in tasks:
            pid = task.child.pid
            spent_s, task.cpu_s = cpu_s[pid] - task.cpu_s, cpu_s[pid]
            # A number may be another GPU's, where CUDA and NVML count differently. Then the task's process is not on
            # it, or there is only one.
            is_alone = isinstance(self.nvml, Nvml) and self.nvml.count == 1
            task.is_certain |= gpu.startswith("GPU-") or is_alone or pid in (look.memory_mb or ())
            if not task.is_certain:
                self._unknown(task, share_s)
                continue
            task.note_idle(seconds, spent_s, idle=look.utilisation < self.rule.below)
            task.tally.add(look, share_s, cores_busy=spent_s >= ALL_CORES * task.child.cpus * seconds)
            self._add_sums(task.tally, look, pid, None if energy_j is None else energy_j / len(tasks))

    def _ask(self, gpu: str) -> Look:
        if isinstance(self.nvml, UnmeasuredError):
            raise self.nvml
        if not gpu and self.nvml.count != 1:
            raise UnmeasuredError("CUDA_VISIBLE_DEVICES names no GPU")
        if gpu not in self._handles:
            self._handles[gpu] = self.nvml.find(gpu or "0")
        return self.nvml.look(self._handles[gpu])

    def _energy_since(self, gpu: str, look: Look) -> float | None:
        """What the board used since the last look, in joules; None where others than these tasks compute on it."""
        before, now = self._energy_mj.get(gpu), look.energy_mj
        others = (look.memory_mb or {}).keys() - self._pids
        # The server of MPS computes nothing of its own, and its clients are listed beside it.
        if now is None or look.memory_mb is None or not all(map(is_mps_server, others)):
            self._energy_mj.pop(gpu, None)
            return None
        self._energy_mj[gpu] = now
        return 0.0 if before is None else max(0, now - before) / 1000

    @property
    def _pids(self) -> set[int]:
        # Of those that are over too: a driver may list one for a moment longer.
        return {task.child.pid for task in self.tasks}

    def _add_sums(self, tally: Tally, look: Look, pid: int, energy_j: float | None) -> None:
        held_mb = (look.memory_mb or {}).get(pid)
        if held_mb is not None:
            tally.peak_mb = max(round(held_mb, 1), tally.peak_mb or 0.0)
        known = energy_j is not None and tally.energy_j is not None
        tally.energy_j = tally.energy_j + energy_j if known else None  # type: ignore[operator]

    def _unknown(self, task: Watched, share_s: float) -> None:
        task.note_idle(0.0, 0.0, idle=False)
        task.tally.unknown_s += share_s
        task.tally.energy_j = None

    def say(self, line: str) -> None:
        """Print a line to the element's log, once."""
        if line not in self._said:
            self._said.add(line)
            self.log(line)


def is_mps_server(pid: int) -> bool:
    """Whether a process is the server through which the tasks of a pack share their GPU."""
    try:
        # The kernel keeps 15 characters of a program's name.
        return Path(f"/proc/{pid}/comm").read_text().strip() == "nvidia-cuda-mps-server"[:15]
    except OSError:
        return False


def processor_s(pid: int, parent: int) -> float | None:
    """The processor time of a process that this parent started, in seconds; None where it is over."""
    # proc(5): after the command in parentheses come state and parent; user and system time are the 12th and 13th.
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    if fields[0] in "ZX" or int(fields[1]) != parent:
        return None
    return (int(fields[11]) + int(fields[12])) / TICKS


def watch(tasks: Watch, *, gone: Callable[[], bool], every_s: float = EVERY_S) -> None:
    """Look until all tasks are over, or ``gone`` says that their element is; writes at ever longer intervals."""
    began = last = time.monotonic()
    write_at = began + FIRST_WRITE_S
    while any(task.alive for task in tasks.tasks) and not gone():
        time.sleep(every_s)
        now = time.monotonic()
        tasks.look(now - last)
        last = now
        if now >= write_at:
            write_all(tasks.tasks)
            # A record holds what was written before it: of a short task at least half.
            write_at = now + min(WRITE_EVERY_S, now - began)


def write_all(tasks: Iterable[Watched]) -> None:
    """Write what is known of the tasks that run."""
    for task in tasks:
        if task.alive:
            task.write()


class _Terminated(Exception):  # noqa: N818 - no error
    """SIGTERM came: the tasks have ended."""


def main(arguments: list[str], children: str) -> int:
    """Watch the tasks for the process that started this one."""
    if len(arguments) < 3 or not children:
        print("usage: python -m jobs.gpu_watch IDLE_MIN IDLE_BELOW STORAGE/runs/ID...", file=sys.stderr)
        return 2
    rule = IdleRule(minutes=float(arguments[0]), below=float(arguments[1]))

    def terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - Python's signature
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one is enough: what is being written must end
        raise _Terminated

    def say(line: str) -> None:
        print(f"gpu: {line}", file=sys.stderr, flush=True)

    for number in (signal.SIGUSR2, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # they are for the tasks
    os.nice(10)
    parent = os.getppid()
    tasks = [Watched(child) for child in decode(tuple[Child, ...], orjson.loads(children))]
    nvml: Nvml | UnmeasuredError
    try:
        nvml = Nvml()
    except UnmeasuredError as error:
        nvml = error
    whole = Watch(tasks, nvml, say, lambda pid: processor_s(pid, parent), rule)
    try:
        signal.signal(signal.SIGTERM, terminate)
        watch(whole, gone=lambda: os.getppid() != parent)
    except _Terminated:
        pass
    write_all(tasks)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ.get("TANDA_CHILDREN", "")))
