"""`tanda efficiency`: GPU-hours that were held and not used, by cause, each with the change to make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table

from jobs.attempt import history
from jobs.gpu_use import GpuUse
from jobs.storage import Storage
from jobs.task import read_record
from pipeline.decisions.task_state import TaskState
from pipeline.packing import advised_pack, gain_lines, is_thin
from pipeline.plan import Plan, Planned
from pipeline.status import advice
from sharedfs.errors import DamagedFileError
from sharedfs.typed_json import Json

Cause = Literal[
    "idle",
    "waiting for data",
    "at chance",
    "diverged",
    "retried",
    "failed otherwise",
    "packed too thin",
    "asked too much",
]
CHANGES: Mapping[Cause, str] = {
    "idle": "`idle_min: 10` ends such a task; `tanda why` says what it was doing; `gpus: 0` for work on the CPU",
    "waiting for data": "all cores were busy: more `cpus`, a larger `batch_size`, or `compile: true`",
    "at chance": "a lower `patience_chance`; `canary: true` tries one run of each architecture first",
    "diverged": "a lower `learning_rate`, or `gradient_clip`",
    "retried": "a lower `checkpoint_min`; `tanda why` names what ended the attempts",
    "failed otherwise": "`tanda why` of each; `canary: true` and `brake_after` hold the others back",
    "packed too thin": "`pack: {pack}` in `resources`: a GPU was in use {use:.0f} % of the time in which it had work",
    "asked too much": "`gpus: 1` where a task was given more, as it computes on one; `gpus: 0` where on the CPU",
}
OF_FAILURES: Mapping[str | None, Cause] = {"at chance": "at chance", "diverged": "diverged", "GPU idle": "idle"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What is known of one task's GPU-hours: ``lost_hours`` are those of attempts whose work was cut short.

    ``pack`` is how many tasks shared its allocation, ``on_cpu`` that it computed without its GPU.
    """

    state: str
    cause: str | None = None
    gpu_hours: float
    gpus: int = 1
    pack: int = 1
    on_cpu: bool = False
    lost_hours: float = 0.0
    gpu: GpuUse | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waste:
    """GPU-hours that one cause cost, of so many tasks."""

    cause: Cause
    gpu_hours: float
    tasks: int
    change: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """GPU-hours held, in which a kernel ran (utilisation x time), of which nothing is known; and what was wasted.

    What is left of them is the gaps between kernels of GPUs that were in use most of the time. ``notes`` say which
    stage asked for twice the memory that it used, or more, and what packing gained.
    """

    held_hours: float
    used_hours: float
    unknown_hours: float
    wastes: tuple[Waste, ...]
    notes: tuple[str, ...] = ()


def judge(tasks: Sequence[Held], notes: Sequence[str] = ()) -> Efficiency:
    """What became of the GPU-hours of these tasks, the largest waste first."""
    hours: dict[Cause, list[float]] = {}
    used = unknown = packed_busy = packed_work = 0.0
    pack = 1
    for task in tasks:
        parts, left = _unmeasured_parts(task)
        if left > 0:
            use = task.gpu or GpuUse()
            measured = use.measured_s / 3600
            # What was measured of attempts that are counted as lost, or of more than the record's time, counts once.
            scale = min(1.0, left / measured) / 3600 if measured else 0.0
            work_s = use.measured_s - use.idle_s
            used += use.busy_s * scale
            unknown += max(0.0, left - measured)
            parts["idle"] = use.idle_s * scale
            parts["waiting for data"] = use.waiting_s * scale
            if is_thin(use):
                parts["packed too thin"] = max(0.0, work_s - use.busy_s - use.waiting_s) * scale
                packed_busy, packed_work = packed_busy + use.busy_s, packed_work + work_s
                pack = max(pack, task.pack)
        for cause, spent in parts.items():
            if spent > 0:
                hours.setdefault(cause, []).append(spent)
    share = packed_busy / packed_work if packed_work else 1.0
    wastes = [
        Waste(
            cause=cause,
            gpu_hours=sum(spent),
            tasks=len(spent),
            change=CHANGES[cause].format(pack=advised_pack(share, pack), use=100 * share),
        )
        for cause, spent in hours.items()
    ]
    return Efficiency(
        held_hours=sum(task.gpu_hours for task in tasks),
        used_hours=used,
        unknown_hours=unknown,
        wastes=tuple(sorted(wastes, key=lambda waste: -waste.gpu_hours)),
        notes=tuple(notes),
    )


def _unmeasured_parts(task: Held) -> tuple[dict[Cause, float], float]:
    """What was wasted by how a task ended and what it asked for; and the hours that are left to what was measured."""
    if task.state in ("failed", "lost"):
        return {OF_FAILURES.get(task.cause, "failed otherwise"): task.gpu_hours}, 0.0
    if task.on_cpu:
        return {"asked too much": task.gpu_hours}, 0.0
    unused = task.gpu_hours * (task.gpus - 1) / task.gpus if task.gpus > 1 else 0.0
    lost = min(task.lost_hours, task.gpu_hours - unused)
    return {"asked too much": unused, "retried": lost}, task.gpu_hours - unused - lost


def find_efficiency(plan: Plan, states: Mapping[str, TaskState]) -> Efficiency:
    """The efficiency of a plan's tasks so far; reads their records, and the attempts of those that had several."""
    storage = Storage(plan.manifest.storage)
    held = [
        _held(storage, planned, states[planned.id])
        for planned in plan.tasks
        if (states[planned.id].gpu_hours or 0.0) > 0
    ]
    return judge(held, [*advice(plan, states), *gain_lines(plan)])


def _held(storage: Storage, planned: Planned, state: TaskState) -> Held:
    folder, pack = storage.run(planned.id), planned.resources.pack
    gpus, on_cpu = planned.resources.gpus, False
    try:
        record = read_record(folder)
    except DamagedFileError:
        record = None
    if record is not None and record.state == "done":
        gpus, on_cpu = record.about.gpus, record.result.get("device") == "cpu"
    attempts = history(folder) if state.attempts > 1 else []
    lost_s = sum(each.ran_s * each.gpus for each in attempts[:-1] if each.state in (None, "failed"))
    return Held(
        state=state.state,
        cause=state.cause,
        gpu_hours=state.gpu_hours or 0.0,
        gpus=max(1, gpus),
        pack=pack,
        on_cpu=on_cpu,
        lost_hours=lost_s / 3600 / pack,
        gpu=state.gpu,
    )


def efficiency_document(efficiency: Efficiency) -> Mapping[str, Json]:
    """It as one JSON document, for ``efficiency --json``."""
    return asdict(efficiency)


def print_efficiency(name: str, efficiency: Efficiency, console: Console) -> None:
    """A line a cause, what was used and what is unknown above it, what was asked for below."""
    held = efficiency.held_hours
    if not held:
        console.print("no GPU was held so far")
    else:
        table = Table(title=f"{name}: {_summary(efficiency)}", title_justify="left")
        for column in ("not used", "GPU-hours", "of all", "tasks", "change"):
            table.add_column(column, justify="left" if column in ("not used", "change") else "right", overflow="fold")
        for waste in efficiency.wastes:
            share = f"{100 * waste.gpu_hours / held:.0f} %"
            table.add_row(waste.cause, f"{waste.gpu_hours:.2f}", share, str(waste.tasks), waste.change)
        console.print(table)
    for note in efficiency.notes:
        console.print(note, soft_wrap=True)


def _summary(efficiency: Efficiency) -> str:
    held = efficiency.held_hours
    parts = [f"{held:.2f} GPU-hours held", f"{100 * efficiency.used_hours / held:.0f} % used"]
    if efficiency.unknown_hours >= 0.005 * held:
        parts.append(f"{100 * efficiency.unknown_hours / held:.0f} % not measured")
    return ", ".join(parts)
