"""Plan and status of 10,000 runs: seconds, memory, and how many Slurm commands a status takes.

Half of the runs are done on storage, half wait in a queue. The two Slurm commands are stand-ins that print what
Slurm would (an array of 10,000 elements), so that what is measured is our own time beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jobs.storage import Storage
from jobs.task import Record
from pipeline.manifest import load
from pipeline.plan import Plan, make_plan
from pipeline.submission import Queued, begin
from slurm.query import SQUEUE_FIELDS

MANIFEST = """
name: many
storage: storage
data: {{source: titles.csv, split: {{validation: 0.2, test: 0.2}}}}
experiments:
  grid:
    architecture: mlp
    grid: {{dropout: {dropouts}, learning_rate: {rates}}}
"""


def main() -> int:
    """Print one line a figure; everything is made in a temporary folder and removed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory(prefix="tanda-many-") as name:
        folder = Path(name)
        manifest = _write_manifest(folder, runs)
        planning_s, peak_mb = _command(folder, "plan", manifest)
        print(f"plan of {runs} runs: {planning_s:.2f} s, {peak_mb:.0f} MB, as a command with its start")
        plan = make_plan(load(manifest))
        _fill(plan)
        _stand_ins(folder, plan)
        status_s, peak_mb = _command(folder, "status", manifest)
        calls = (folder / "calls").read_text().split()
        empty_s, _ = _command(folder, "--help")
        tasks = len(plan.tasks)
        print(f"status of {tasks} tasks: {status_s:.2f} s, {peak_mb:.0f} MB, {len(calls)} Slurm commands ({calls})")
        print(f"of that, starting tanda at all: {empty_s:.2f} s; ratio {status_s / empty_s:.1f}")
    return 0


def _write_manifest(folder: Path, runs: int) -> Path:
    (folder / "titles.csv").write_text("title,category\n" + "una casa,A\notra cosa,B\n" * 10)
    side = round(runs**0.5)
    dropouts = json.dumps([round(number / side * 0.9, 6) for number in range(side)])
    rates = json.dumps([round((number + 1) * 1e-5, 8) for number in range(side)])
    path = folder / "many.yaml"
    path.write_text(MANIFEST.format(dropouts=dropouts, rates=rates))
    return path


def _fill(plan: Plan) -> None:
    """Records for half of the tasks, one submission for the others."""
    storage = Storage(plan.manifest.storage)
    half = len(plan.tasks) // 2
    for planned in plan.tasks[:half]:
        folder = storage.run(planned.id)
        folder.mkdir(parents=True)
        record = Record(
            id=planned.id, stage=planned.stage, state="done", started=1.0, ended=2.0, running_s=1.0, attempt=1
        )
        record.write(storage)
    elements = {f"7_{index}": (planned.id,) for index, planned in enumerate(plan.tasks[half:])}
    queued = Queued(stage="train", group="grid", job_ids=("7",), elements=elements, mem_gb=8.0)
    submission = begin(storage, manifest="many", executor="slurm", git_commit=None)
    submission.with_array(queued).write(storage)


def _stand_ins(folder: Path, plan: Plan) -> None:
    programs = folder / "bin"
    programs.mkdir()
    rows = []
    for index in range(len(plan.tasks) - len(plan.tasks) // 2):
        values = {"JobArrayID": f"7_{index}", "State": "PENDING", "Reason": "Priority", "SubmitTime": str(time.time())}
        fields = (values.get(name, "").split(".")[0].ljust(width) for name, width in SQUEUE_FIELDS.values())
        rows.append("".join(f"{field}|" for field in fields))
    (folder / "queue.txt").write_text("\n".join(rows) + "\n")
    for name, body in (("squeue", f"cat {folder}/queue.txt"), ("sacct", "true"), ("scontrol", "true")):
        program = programs / name
        program.write_text(f"#!/bin/sh\necho {name} >> {folder}/calls\n{body}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)


def _command(folder: Path, *words: object) -> tuple[float, float]:
    """Seconds and peak memory in MB of one command."""
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONSAFEPATH": "1"}
    program = [sys.executable, "-m", "pipeline", *map(str, words)]
    began = time.perf_counter()
    child = subprocess.Popen(program, env=environment, stdout=subprocess.DEVNULL)
    _, _, used = os.wait4(child.pid, 0)
    return time.perf_counter() - began, resource.struct_rusage(used).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
