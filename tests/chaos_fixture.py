"""A storm: a manifest on a test cluster with a monkey about, and the verdict against a calm run of the same."""

from __future__ import annotations

import csv
import hashlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from monkey import Monkey, reporting, small_disk
from rig import Rig
from small_manifest import MANIFEST, write_manifest

from jobs import metrics_log
from jobs.attempt import AttemptFacts, history
from jobs.storage import Storage
from jobs.task import is_done, read_record
from pipeline.decisions.task_state import TaskState
from pipeline.manifest import load
from pipeline.plan import Plan, Planned, make_plan
from pipeline.queue import is_closing
from pipeline.repro import VOLATILE
from pipeline.status import all_finished, summary_line, task_states
from pipeline.submission import read_all
from slurm.reasons import is_launch_held

NAME = "small"
ROUNDS = 8
FREE = "halved"  # the search whose trials depend on who came first: counted, not compared

HEAD = MANIFEST.split("  architectures:")[0]
SEARCHES = """
searches:
  drawn:
    architecture: mlp
    algorithm: random
    trials: TRIALS
    parallel: 3
    metric: validation_balanced_accuracy
    space: {learning_rate: {loguniform: [1e-3, 1e-1]}, dropout: {uniform: [0, 0.5]}}
  halved:
    architecture: mlp
    algorithm: tpe
    trials: TRIALS
    parallel: 3
    metric: validation_balanced_accuracy
    space: {learning_rate: {loguniform: [1e-3, 1e-1]}, dropout: {uniform: [0, 0.5]}}
    stopping: {asha: {grace_epochs: 4, reduction: 3}}
"""
SHAPES = (
    "architecture: mlp",
    "architecture: cnn, filters_count: 8, filters_length: [1, 2]",
    "architecture: mlp, dropout: 0.3",
    "architecture: rnn, lstm_layers: 1, lstm_features: 8, epochs: 30",
    "architecture: linear",
)
RESOURCES = "resources:\n" + "".join(
    f"  {stage}: {{cpus: 1, mem_gb: 0.7, time_min: 20}}\n" for stage in ("preprocess", "train", "evaluate", "close")
)
PROFILE = "executor: slurm\npartition: scavenger\nenvironment: {OMP_NUM_THREADS: 1}\n"


def stormy_manifest(folder: Path, *, runs: int, trials: int, epochs: int) -> Path:
    """The manifest, its data and its cluster profile in a folder."""
    lines = "".join(
        f"      r{number:02d}: {{{SHAPES[number % len(SHAPES)]}, seed: {number}}}\n" for number in range(runs)
    )
    head = HEAD.replace("epochs: 2", f"epochs: {epochs}").replace("data:", "retries: 3\ndata:", 1)
    text = f"{head}  storm:\n    runs:\n{lines}" + SEARCHES.replace("TRIALS", str(trials)).lstrip("\n")
    manifest = write_manifest(folder, text + RESOURCES)
    (folder / "profile.yaml").write_text(PROFILE)
    return manifest


def pipeline(*words: object) -> list[str]:
    """A command line of tanda's."""
    return [sys.executable, "-m", "pipeline", *map(str, words)]


def run_calmly(manifest: Path) -> Storage:
    """Every task once, one after the other, in one process; the storage."""
    environment = {**os.environ, "TANDA_CPUS": "1", "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}
    subprocess.run(
        pipeline("run", manifest, "--executor", "inline"),
        env=environment,
        check=True,
        capture_output=True,
        timeout=1500,
    )
    return Storage(manifest.parent / "storage")


@dataclass(kw_only=True)
class Storm:
    """What was done, what it took, and what is wrong with the outcome: nothing, if all is well."""

    deeds: Mapping[str, int]
    missed: int
    reports: int
    submissions: int
    again: int
    seconds: float
    tasks: int
    attempts: Mapping[int, int] = field(default_factory=dict)
    room: bool = True
    wrong: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        yield f"  {sum(self.deeds.values())} deeds ({self.missed} more found no victim): " + ", ".join(
            f"{name} {count}" for name, count in sorted(self.deeds.items(), key=lambda item: -item[1])
        )
        if not self.room:
            yield "  nothing that nodes see may be mounted here: the disk was not filled, no folder made read-only"
        yield f"  {self.reports} reports meanwhile, {self.submissions} submissions, {self.again} by hand at the end"
        took = ", ".join(f"{count} in {number}" for number, count in sorted(self.attempts.items()))
        yield f"  {self.tasks} tasks, attempts: {took}; {self.seconds:.0f} s"
        yield "  as calm: no bit differs, none lost, none double" if not self.wrong else "  WRONG:"
        yield from (f"    {line}" for line in self.wrong)


def weather(
    rig: Rig, manifest: Path, calm: Storage, *, seed: int, deeds: int, say: Callable[[str], None] = lambda _: None
) -> Storm:
    """Submit, let the monkey do so many deeds while it runs, wait for the end, submit what is missing; the verdict."""
    began = time.monotonic()
    storage = Storage(manifest.parent / "storage")
    with small_disk(rig, storage.root, 600) as room:
        submit = pipeline("submit", manifest, "--cluster", manifest.parent / "profile.yaml")
        plan = make_plan(load(manifest))
        monkey = Monkey(rig, storage, submit, seed=seed, room=room)
        subprocess.run(submit, check=True, capture_output=True, timeout=120)
        with reporting(manifest, monkey) as reports:
            for _ in range(deeds):
                time.sleep(monkey.choose.uniform(0.5, 3.5))
                if all(is_done(storage, planned.id) for planned in plan.tasks):
                    break
                say(monkey.act())
            monkey.rest()
            again = _to_the_end(plan, storage, monkey, say)
        wrong = [*monkey.tracebacks, *verdict(plan, storage, calm)]
        return Storm(
            deeds=monkey.done, missed=monkey.missed.total(), reports=reports.total(), room=room,
            submissions=len(read_all(storage)), again=again, seconds=time.monotonic() - began, tasks=len(plan.tasks),
            attempts=Counter(len(history(storage.run(planned.id))) for planned in plan.tasks), wrong=wrong,
        )  # fmt: skip


def _to_the_end(plan: Plan, storage: Storage, monkey: Monkey, say: Callable[[str], None]) -> int:
    """Wait, and submit again what the site ended for good, as a person would; how often that was."""
    for again in range(ROUNDS):
        quiet = time.monotonic()
        ends = quiet + 600
        while True:
            states = task_states(plan)
            waiting = [planned for planned in plan.tasks if states[planned.id].state == "waiting"]
            held = [planned for planned in waiting if _in_vain(planned, states)]
            quiet = time.monotonic() if not held else quiet  # what waits in vain for half a minute waits for ever
            stays = time.monotonic() - quiet > 30
            if (all_finished(states) and not is_closing(storage, NAME)) or stays or time.monotonic() > ends:
                break
            time.sleep(2)
        say(summary_line(states))
        for state in states.values():
            if state.state != "done":
                say(f"  {state.id} {state.state} {state.cause} {state.message or state.reason}")
        if all(state.state == "done" for state in states.values()):
            return again
        monkey.say(monkey.submit)
    return ROUNDS


def _in_vain(planned: Planned, states: Mapping[str, TaskState]) -> bool:
    """Held after a failed start, or behind an element that is, though all it needs is done: for a person to see to."""
    upstream = (*planned.task.needs, *planned.after)
    met = all(states[need].state == "done" for need in upstream)
    return is_launch_held(states[planned.id].reason) or (met and states[planned.id].reason == "Dependency")


def verdict(plan: Plan, storage: Storage, calm: Storage) -> list[str]:
    """What differs from the calm run, is lost, or was done twice."""
    wrong = []
    for planned in plan.tasks:
        folder = storage.run(planned.id)
        what = f"{planned.stage} {planned.group}/{planned.run} {planned.id}"
        if not is_done(storage, planned.id):
            wrong.append(f"{what}: lost, not done")
            continue
        wrong += [f"{what}: {reason}" for reason in _double(folder)]
        if planned.group != FREE:
            wrong += [f"{what}: {name} differs" for name in _different(planned.id, storage, calm)]
    return wrong + _trials(plan, storage) + _table(plan, storage)


def _double(folder: Path) -> list[str]:
    """Signs that two attempts were at it at once and both wrote, or that an attempt wrote after its successor began."""
    found = []
    attempts = history(folder)
    if sum(attempt.state == "done" for attempt in attempts) > 1 and not _continued(attempts):
        found.append("two attempts ended as done")
    lines = metrics_log.read(folder)
    numbers = [line["attempt"] for line in lines]
    if numbers != sorted(numbers):
        found.append(f"epochs of several attempts are mixed: {numbers}")
    ended = [line["ended"] for line in lines]
    if ended != sorted(ended):
        found.append("epochs overlapped in time")
    return found


def _continued(attempts: list[AttemptFacts]) -> bool:
    # A trial that was stopped early is done, and done again when it has risen.
    return any(attempt.by is not None for attempt in attempts)


def _different(task: str, storage: Storage, calm: Storage) -> list[str]:
    """The files of a task's record that differ, and its figures apart from times."""
    ours, theirs = read_record(storage.run(task)), read_record(calm.run(task))
    assert ours is not None and theirs is not None
    if ours.files.keys() != theirs.files.keys():
        return ["the list of files"]
    return [
        name
        for name in ours.files
        if Path(name).name != "meta.json" and _content(storage.root / name) != _content(calm.root / name)
    ]


def _content(path: Path) -> str:
    if path.name == metrics_log.NAME:
        lines = [{key: line[key] for key in sorted(line.keys() - VOLATILE)} for line in metrics_log.read(path.parent)]
        return hashlib.sha256(orjson.dumps(lines)).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _trials(plan: Plan, storage: Storage) -> list[str]:
    """Every trial of a search once: one folder with a point, one task, no point twice."""
    from search_fixture import trials

    wrong = []
    for search in plan.searches:
        found = trials(storage, search.id)
        asked = sum(planned.stage == "trial" and planned.group == search.search.name for planned in plan.tasks)
        if [trial.number for trial in found] != list(range(asked)):
            wrong.append(f"search {search.search.name}: trials {[trial.number for trial in found]} of {asked}")
        if len({orjson.dumps(trial.point, option=orjson.OPT_SORT_KEYS) for trial in found}) != len(found):
            wrong.append(f"search {search.search.name}: a point twice")
    return wrong


def _table(plan: Plan, storage: Storage) -> list[str]:
    """The report of the end: a row a run, all done."""
    subprocess.run(pipeline("report", plan.manifest.path, "--no-mlflow", "--no-plots"), check=True, capture_output=True)
    with (storage.reports / NAME / "results.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["group"] == "storm"]
    asked = sorted(planned.run for planned in plan.tasks if planned.stage == "train" and planned.group == "storm")
    if sorted(row["run"] for row in rows) != asked or {row["state"] for row in rows} != {"done"}:
        return [f"results.csv: {Counter(row['state'] for row in rows)} of {len(asked)} runs"]
    return []
