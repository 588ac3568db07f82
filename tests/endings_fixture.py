"""Every way in which a job of Slurm's ends, tried at once on a cluster: what Slurm prints of each, and what we read."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from rig import Rig
from slurm_fixture import wait_for

from slurm import query
from slurm.array import array_id
from slurm.errors import NoAccountingError
from slurm.job_state import JobState

EAT = f"{sys.executable} -c 'import time; kept = bytearray(600 * 1024**2); time.sleep(20)'"
DEAF = "trap true TERM USR2; while true; do sleep 1; done"
AGAIN = f"[ -z $SLURM_RESTART_COUNT ] || exit 0; {DEAF}"  # ends well when it is started again
MEMORY, BATCH_MEMORY = "over its memory", "its batch script over its memory"
# By what happens: the shell text that one srun runs, and the options of its sbatch: {0} is how nodes are called.
# Each is on the first node, but those to whose node something happens.
JOBS: dict[str, tuple[str, ...]] = {
    "status 0": ("true",),
    "status 1": ("exit 1",),
    "status 3": ("exit 3",),
    "SIGKILL from outside": ("kill -9 $$",),
    "SIGSEGV": ("kill -11 $$",),
    MEMORY: (EAT,),
    BATCH_MEMORY: (EAT,),
    "over its time": (DEAF, "-t1"),
    "cancelled while it ran": ("sleep 300",),
    "cancelled while it waited": ("true", "--hold"),
    "past its deadline": ("true", "-t1", "--deadline=now+120", "-c4", "--nice=1000"),
    "its log can't be written": ("true", "-o", "/dev/null/log"),
    "requeued by hand": (AGAIN, "--requeue"),
    "preempted": (AGAIN, "--requeue", "-p", "scavenger", "-w", "{0}3", "-c", "4"),
    "preempted, not to be requeued": (DEAF, "--no-requeue", "-p", "scavenger", "-w", "{0}2", "-c", "4"),
    "its node went down": (AGAIN, "--requeue", "-w", "{0}4"),
    "its node went down, not to be requeued": ("sleep 300", "--no-requeue", "-w", "{0}4"),
}
DEPENDENCY = "what it waited for failed"
NOT_STARTED = "one element of an array, cancelled while it waited"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """``accounting`` and ``queue`` are what Slurm printed; ``state`` what we make of both, ``alone`` of the queue."""

    accounting: str
    queue: str
    state: JobState
    alone: JobState

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """As a row of the table in docs/states.md, after how it ended and the version."""
        return self.accounting, self.queue, _verdict(self.state), _verdict(self.alone)


def all_endings(cluster: Rig, folder: Path, *ways: str) -> dict[str, Ending]:
    """Try the ways to end, all of them if none is named, side by side on an idle cluster of four nodes."""
    wanted = ways or tuple(JOBS)
    ids = {way: _submit(cluster, folder, *JOBS[way], srun=way != BATCH_MEMORY) for way in wanted}
    if not ways:
        pair = _submit(cluster, folder, "exit $SLURM_ARRAY_TASK_ID", "--array=0-1")
        after = _submit(cluster, folder, "true", "--array=0-1", f"-daftercorr:{pair}", "--kill-on-invalid-dep=yes")
        held = _submit(cluster, folder, "true", "--array=0-1", "--hold")
        ids |= {DEPENDENCY: f"{after}_1", NOT_STARTED: f"{held}_1"}
    _act(cluster, ids)
    wait_for(lambda: all(state.over for state in query.states(ids.values()).values()), 150)
    # The accounting lags: the queue's word of an end counts until it has it.
    wait_for(lambda: _agree(cluster, ids), 30)
    cluster.call("scancel", "--me")
    held_by = "a cgroup" if cluster.shape.cgroups else "slurmd"
    return {f"{way}, held by {held_by}" if "memory" in way else way: _look(cluster, id_) for way, id_ in ids.items()}


def _submit(cluster: Rig, folder: Path, text: str, *options: str, srun: bool = True) -> str:
    words = [word.format(cluster.shape.prefix) for word in options]
    if "-w" not in words:
        words += ["-w", f"{cluster.shape.prefix}1"]
    script = folder / f"{time.monotonic_ns()}.sh"
    script.write_text(f"#!/bin/bash\n{f'srun --unbuffered bash -c {shlex.quote(text)}' if srun else text}\n")
    common = ("--parsable", "--mem=256M", "-t5", "-o", f"{folder}/%j.log", "--open-mode=append", "--job-name=ends")
    return cluster.call("sbatch", *common, *words, str(script)).strip()


def _act(cluster: Rig, ids: Mapping[str, str]) -> None:
    """What comes from outside, once what it happens to runs."""
    prefix = cluster.shape.prefix
    for way, words in {
        "cancelled while it waited": ("scancel",),
        NOT_STARTED: ("scancel",),
        "cancelled while it ran": ("scancel",),
        "requeued by hand": ("scontrol", "requeue"),
    }.items():
        if way in ids:
            _wait_running(cluster, ids[way] if "ran" in way or "requeued" in way else "")
            cluster.call(*words, ids[way])
    # Both are of whole minutes where they are submitted; the controller looks at time limits every half a minute.
    for way, key in {"over its time": "EndTime", "past its deadline": "Deadline"}.items():
        if way in ids:
            _wait_running(cluster, ids["over its time"])
            then = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 2))
            cluster.call("scontrol", "update", f"jobid={ids[way]}", f"{key}={then}")
    for way, node in {"preempted": 3, "preempted, not to be requeued": 2}.items():
        if way in ids:
            _wait_running(cluster, ids[way])
            what = ("-p", "normal", "-w", f"{prefix}{node}", "-c4", "--mem=256M", "-t5", "-o", "/dev/null")
            cluster.call("sbatch", *what, "--wrap", "sleep 3")
    if "its node went down" in ids:
        _wait_running(cluster, ids["its node went down"])
        _wait_running(cluster, ids["its node went down, not to be requeued"])
        cluster.call("scontrol", "update", f"nodename={prefix}4", "state=down", "reason=test")
        wait_for(lambda: not cluster.steps(f"{prefix}4"))
        try:
            cluster.call("scontrol", "update", f"nodename={prefix}4", "state=resume")
        except subprocess.CalledProcessError as error:
            # A node whose daemon reports just then is back already.
            if "Invalid node state" not in error.stderr:
                raise


def _wait_running(cluster: Rig, id_: str) -> None:
    if id_:
        wait_for(lambda: f"{id_}.0" in cluster.call("squeue", "-h", "-s", "-j", id_, "-o", "%i").split())


def _agree(cluster: Rig, ids: Mapping[str, str]) -> bool:
    return all(
        _queue(cluster, id_).split(" ")[0] == _rows(cluster, id_)[-1].split(" ")[0]
        for id_ in ids.values()
        if _rows(cluster, id_) and _queue(cluster, id_)
    )


def _look(cluster: Rig, id_: str) -> Ending:
    with pytest.MonkeyPatch.context() as patch:
        state = query.states([id_])[id_]
        patch.setattr(query, "ask_accounting", _none)
        alone = query.states([id_])[id_]
    rows = _rows(cluster, id_)
    return Ending(accounting=", then ".join(rows) or "-", queue=_queue(cluster, id_) or "-", state=state, alone=alone)


def _none(*_: object) -> query.Answer:
    raise NoAccountingError("as at a site that keeps none")


def _rows(cluster: Rig, id_: str) -> list[str]:
    """The rows of a job in the accounting, oldest first, and of a failed one what its step adds."""
    fields = "JobID,State,ExitCode,DerivedExitCode"
    lines = cluster.call("sacct", "-n", "-P", "-D", "-o", fields, "-j", array_id(id_)).splitlines()
    rows: list[str] = []
    for line in lines:
        job, state, code, worst = line.split("|")
        if job == id_:
            # A step's end may reach a busy controller after its job's: then its status is missing from the worst.
            worst = code if worst == "0:0" and code.endswith(":0") else worst
            rows.append(f"{state.split(' ')[0]} {code}" + (f" {worst}" if state == "FAILED" else ""))
        elif job == f"{id_}.0" and rows[-1].startswith("FAILED") and state != "FAILED":
            rows[-1] += f" (step {state.split(' ')[0]})"
    return rows


def _queue(cluster: Rig, id_: str) -> str:
    columns = "JobArrayID:|,State:|,exit_code:|,Reason:40"
    lines = cluster.call("squeue", "-h", "-r", "-t", "all", "-O", columns, "-j", array_id(id_)).splitlines()
    rows = {words[0].strip(): [word.strip() for word in words[1:]] for words in (line.split("|") for line in lines)}
    return " ".join(rows[id_]) if id_ in rows else ""


def _verdict(state: JobState) -> str:
    code = "" if state.exit_code in (None, 0, 1) else f", status {state.exit_code}"
    code = f", signal {state.signal}" if state.signal else code
    again = f", {state.restarts + 1} starts" if state.restarts else ""
    return f"{state.state}{f': {state.cause}' if state.cause else ''}{code}{again}"
