"""The model of Slurm against a real one: the same scripts of events on both, and the same rows in the end."""

from __future__ import annotations

import heapq
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rig import Rig
from slurm_model import Controller, Job

from slurm.commands import PRINT_WHOLE
from slurm.query import SACCT_FIELDS, SQUEUE_FIELDS, parse_accounting, parse_queue

VERSIONS = ("22.05", "24.11")


@dataclass(slots=True)
class _Model:
    """The model, with a virtual clock; what runs in a job sleeps for as long as its script says, and exits so."""

    version: str
    folder: Path
    now: float = 1_800_000_000.0
    agenda: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    count: int = 0
    slurm: Any = None

    def __post_init__(self) -> None:
        self.slurm = Controller(
            version=self.version, now=lambda: self.now, after=self._after, launch=self._launch,
            signal=self._signal, lag_s=0.5, nodes=("n1", "n2", "n3", "n4"), slots=4,
        )  # fmt: skip

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.agenda, (self.now + seconds, self.count, act))

    def _launch(self, job: Job) -> None:
        found = re.search(r"^sleep (\d+); exit \$\(\((.*)\)\)$", job.text, re.M)
        assert found is not None
        status = int(found[2]) if found[2].isdigit() else int(job.index == int(found[2].rpartition("==")[2])) * 3
        began = job.began
        self._after(float(found[1]), lambda: self.slurm.leave(job, status) if job.began == began else None)

    def _signal(self, job: Job, name: str) -> None:
        if name == "TERM":  # bash ends by it
            began = job.began
            self._after(0.1, lambda: self.slurm.leave(job, -15) if job.began == began else None)

    def call(self, *command: str) -> str:
        return str(self.slurm.run(command))

    def wait(self, ready: Callable[[], bool]) -> None:
        while not ready():
            assert self.agenda, "nothing is left to happen"
            self.now, _, act = heapq.heappop(self.agenda)
            act()


@dataclass(slots=True)
class _Real:
    """A real cluster, by the same calls."""

    rig: Rig
    folder: Path

    def call(self, *command: str) -> str:
        return self.rig.call("env", *(f"{name}={value}" for name, value in PRINT_WHOLE.items()), *command)

    def wait(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not ready():
            assert time.monotonic() < deadline, "not in time"
            time.sleep(0.3)


Site = _Model | _Real
Rows = dict[str, tuple[Any, ...]]


def submit(site: Site, name: str, body: str = "sleep 1; exit $((0))", **options: Any) -> str:
    given = {
        "job-name": name, "comment": name, "time": 5, "output": "/dev/null", "requeue": True, "mem": "100M", **options,
    }  # fmt: skip
    lines = [
        f"#SBATCH --{key.replace('_', '-')}" + ("" if value is True else f"={value}") for key, value in given.items()
    ]
    path = site.folder / f"{name}.sbatch"
    path.write_text("\n".join(["#!/bin/bash", *lines, body, ""]))
    return site.call("sbatch", "--parsable", str(path)).strip()


def queue(site: Site, job: str) -> Rows:
    """State, exit, restarts and reason of each element, as the product reads the queue."""
    columns = ",".join(f"{name}:{width}|" for name, width in SQUEUE_FIELDS.values())
    shown = parse_queue(site.call("squeue", "-h", "-r", "-t", "all", "-O", columns, "-j", job))
    assert not shown.unreadable
    return {
        id_.partition("_")[2]: (
            row.state,
            row.exit_code,
            row.signal,
            row.restarts,
            row.reason if not row.over else None,
        )
        for id_, (row,) in shown.rows.items()
    }


def account(site: Site, job: str) -> dict[str, list[tuple[Any, ...]]]:
    """State, exit and whether it ever began, of each start of each element, as the product reads the accounting."""
    shown = parse_accounting(site.call("sacct", "-P", "-D", "-n", "-o", ",".join(SACCT_FIELDS.values()), "-j", job))
    assert not shown.unreadable
    return {
        id_.partition("_")[2]: [(row.state, row.exit_code, row.signal) for row in rows]
        for id_, rows in shown.rows.items()
    }


def is_over(site: Site, job: str) -> bool:
    ends = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED")
    rows = queue(site, job)
    return all(row[0] in ends for row in rows.values())


def is_in(site: Site, job: str, state: str, element: str = "") -> bool:
    return queue(site, job).get(element, ("",))[0] == state


def an_array_of_which_one_fails(site: Site) -> list[Any]:
    job = submit(site, "one-fails", "sleep 1; exit $((SLURM_ARRAY_TASK_ID==1))", array="0-2")
    site.wait(lambda: is_over(site, job))
    ended = queue(site, job)
    site.wait(lambda: sum(map(len, account(site, job).values())) == 3 and "RUNNING" not in str(account(site, job)))
    return [{element: row[0] for element, row in ended.items()}, sorted(account(site, job))]


def one_cancelled_while_it_waits(site: Site) -> list[Any]:
    job = submit(site, "cancelled-waiting", array="0-2", hold=True)
    before = queue(site, job)
    site.call("scancel", f"{job}_1")
    site.wait(lambda: "1" not in queue(site, job) or queue(site, job)["1"][0] == "CANCELLED")
    after = queue(site, job)
    site.call("scancel", job)
    site.wait(lambda: is_over(site, job))
    return [before, {element: row[0] for element, row in after.items() if row[0] == "PENDING"}]


def one_cancelled_while_it_runs(site: Site) -> list[Any]:
    job = submit(site, "cancelled-running", "sleep 60; exit $((0))")
    site.wait(lambda: is_in(site, job, "RUNNING"))
    site.call("scancel", job)
    site.wait(lambda: is_over(site, job))
    site.wait(lambda: account(site, job).get("", [("",)])[-1][0] == "CANCELLED")
    # The accounting learns of the signal a moment after the state.
    return [queue(site, job)[""][0], [row[0] for row in account(site, job)[""]]]


def what_waits_for_a_parent_that_fails(site: Site) -> list[Any]:
    parent = submit(site, "parent", "sleep 8; exit $((SLURM_ARRAY_TASK_ID==1))", array="0-1")
    kill = {"kill_on_invalid_dep": "yes"}
    child = submit(site, "child", array="0-1", dependency=f"aftercorr:{parent}", **kill)
    afterok = submit(site, "afterok", dependency=f"afterok:{parent}", **kill)
    afterany = submit(site, "afterany", dependency=f"afterany:{parent}")
    every = (child, afterok, afterany)
    # Slurm says why a job waits once it has looked at it.
    site.wait(lambda: {row[4] for job in every for row in queue(site, job).values()} == {"Dependency"})
    waiting = [queue(site, job) for job in every]
    site.wait(lambda: is_over(site, afterany) and is_over(site, afterok) and is_over(site, child))
    ended = [{element: row[0] for element, row in queue(site, job).items()} for job in every]
    return [waiting, {element: state for element, state in ended[0].items() if element == "0"}, ended[1:]]


def one_that_is_requeued(site: Site) -> list[Any]:
    job = submit(site, "requeued", "sleep 4; exit $((0))")
    site.wait(lambda: is_in(site, job, "RUNNING"))
    site.call("scontrol", "requeue", job)
    site.wait(lambda: is_in(site, job, "PENDING"))
    waiting = queue(site, job)
    site.wait(lambda: is_over(site, job))
    site.wait(lambda: account(site, job).get("", [("",)])[-1][0] == "COMPLETED")
    return [
        {element: (row[0], row[3]) for element, row in waiting.items()},
        queue(site, job),
        len(account(site, job)[""]),
    ]


def one_held_and_released(site: Site) -> list[Any]:
    job = submit(site, "held", hold=True)
    held = queue(site, job)
    site.call("scontrol", "release", job)
    site.wait(lambda: is_over(site, job))
    return [held, queue(site, job)]


def one_that_exits_by_itself(site: Site) -> list[Any]:
    job = submit(site, "exits", "sleep 1; exit $((7))")
    site.wait(lambda: is_over(site, job))
    site.wait(lambda: account(site, job).get("", [("",)])[-1][0] == "FAILED")
    return [queue(site, job), account(site, job)]


def one_that_waits_for_its_turn(site: Site) -> list[Any]:
    job = submit(site, "throttled", "sleep 3; exit $((0))", array="0-1%1")
    site.wait(lambda: is_in(site, job, "RUNNING", "0") and queue(site, job)["1"][4] == "JobArrayTaskLimit")
    rows = queue(site, job)
    site.wait(lambda: is_over(site, job))
    return [rows]


SCRIPTS = (
    an_array_of_which_one_fails, one_cancelled_while_it_waits, one_cancelled_while_it_runs,
    what_waits_for_a_parent_that_fails, one_that_is_requeued, one_held_and_released, one_that_exits_by_itself,
    one_that_waits_for_its_turn,
)  # fmt: skip


def version_of(rig: Rig) -> str:
    """22.05 or 24.11, as the cluster's own programs say."""
    return ".".join(rig.call("sinfo", "--version").split()[1].split(".")[:2])


def check(rig: Rig, script: Callable[[Site], list[Any]], folder: Path) -> None:
    """Whether the model does as a real cluster of its version does."""
    real = script(_Real(rig, folder))
    assert script(_Model(version_of(rig), folder)) == real


@pytest.mark.cluster
@pytest.mark.both_slurms
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_the_model_does_as_slurm_does(cluster: Rig, tmp_path: Path, script: Callable[[Site], list[Any]]) -> None:
    check(cluster, script, tmp_path)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_the_model_does_the_same_in_the_words_of_both_versions(
    tmp_path: Path, version: str, script: Callable[[Site], list[Any]]
) -> None:
    assert script(_Model(version, tmp_path)) == script(_Model("22.05", tmp_path))
