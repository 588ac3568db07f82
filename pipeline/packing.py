"""Tasks that share a GPU: what sharing gained them, and how many could share it, by what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from jobs import metrics_log
from jobs.attempt import history
from jobs.gpu_use import GpuUse, total
from jobs.metrics_log import EpochMetrics
from jobs.storage import Storage
from pipeline.decisions.task_state import TaskState
from pipeline.plan import Plan

# A GPU in use for less of the time in which it had work could carry another run; above, what is left is gaps.
THIN = 0.5
FULL = 0.9  # of a GPU's time, up to which runs are packed on it
MOST_PACKED = 8
STAGES = ("train", "trial")


def is_thin(use: GpuUse) -> bool:
    """Whether the GPU was in use for less than half of the time in which it had work."""
    return use.busy_s < THIN * (use.measured_s - use.idle_s)


def advised_pack(share: float, pack: int) -> int:
    """How many tasks may share a GPU that so many used for this share of their time."""
    return min(MOST_PACKED, max(2, int(FULL * pack / max(share, 0.01))))


def pack_lines(plan: Plan, states: Mapping[str, TaskState]) -> list[str]:
    """Per stage that trains: the `pack` to ask for where its tasks left a GPU to spare, their cores not being busy."""
    lines = []
    for stage in STAGES:
        done = [
            (planned.resources.pack, use)
            for planned in plan.tasks
            if planned.stage == stage and states[planned.id].state == "done" and (use := states[planned.id].gpu)
        ]
        use, pack = total(each for _, each in done), max((pack for pack, _ in done), default=1)
        work_s = 0.0 if use is None else use.measured_s - use.idle_s
        if use is None or not work_s or not is_thin(use) or use.waiting_s > THIN * work_s:
            continue
        share, advised = use.busy_s / work_s, advised_pack(use.busy_s / work_s, pack)
        if advised > pack:
            held = "" if use.peak_gb is None else f", and a task held {use.peak_gb:.1f} GB of it at most"
            lines.append(
                f"{stage}: `pack: {advised}` in `resources`: a GPU was in use {100 * share:.0f} % of the time in which"
                f" it had work{held}"
            )
    return lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One epoch of a task: its span in seconds since the epoch, its titles a second without validation."""

    began: float
    ended: float
    titles_per_s: float


def pack_gain(tasks: Sequence[Sequence[Epoch]]) -> float | None:
    """How many times as many titles a second tasks of one allocation trained in the window in which all of them did.

    The measure is one of them alone: its whole epochs after the others were over. None where there are none.
    """
    if len(tasks) < 2 or not all(tasks):
        return None
    began, ended = max(epochs[0].began for epochs in tasks), min(epochs[-1].ended for epochs in tasks)
    last = max(tasks, key=lambda epochs: epochs[-1].ended)
    over = max(epochs[-1].ended for epochs in tasks if epochs is not last)
    alone = [epoch.titles_per_s for epoch in last if epoch.began >= over]
    common = [epoch.titles_per_s for epoch in last if began <= epoch.began and epoch.ended <= ended]
    return len(tasks) * fmean(common) / fmean(alone) if alone and common and fmean(alone) else None


def gain_lines(plan: Plan) -> list[str]:
    """Per stage that trains and number side by side: the mean gain of its allocations; reads the tasks' epochs."""
    storage = Storage(plan.manifest.storage)
    lines = []
    for stage in STAGES:
        shared: dict[tuple[str, ...], list[list[Epoch]]] = {}
        architectures: dict[tuple[str, ...], set[str | None]] = {}
        for planned in plan.tasks:
            # Of several GPUs it is not known which tasks shared one.
            if planned.stage == stage and planned.resources.pack > 1 and planned.resources.gpus == 1:
                folder = storage.run(planned.id)
                read = metrics_log.read(folder)
                for attempt in history(folder):
                    if attempt.slurm:
                        key = (
                            attempt.host or "",
                            *(f"{name}={value}" for name, value in sorted(attempt.slurm.items())),
                        )
                        shared.setdefault(key, []).append(_epochs(read, attempt.number))
                        architectures.setdefault(key, set()).add(planned.architecture)
        gains: dict[int, list[float]] = {}
        for key, tasks in shared.items():
            # One architecture's rate is no measure of another's.
            if len(architectures[key]) == 1 and (gain := pack_gain(tasks)) is not None:
                gains.setdefault(len(tasks), []).append(gain)
        lines += [
            f"{stage}: {count} side by side trained {fmean(found):.1f} times as many titles a second as one alone"
            f" ({len(found)} allocation{'s' * (len(found) != 1)} in which one went on alone)"
            for count, found in sorted(gains.items())
        ]
    return lines


def _epochs(lines: Iterable[EpochMetrics], attempt: int) -> list[Epoch]:
    """The epochs of an attempt but its first, in which kernels are chosen and graphs are made."""
    own = [line for line in lines if line["attempt"] == attempt][1:]
    return [
        Epoch(began=line["ended"] - line["seconds"], ended=line["ended"], titles_per_s=line["titles_per_s"])
        for line in own
    ]
