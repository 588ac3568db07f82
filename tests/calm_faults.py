"""Forty runs on a cluster where some are preempted, one can't work and one is killed: told as it goes, untouched."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

from chaos_fixture import HEAD, NAME, RESOURCES, SHAPES, pipeline
from rig import Rig
from small_manifest import element_of, in_training, write_manifest

from jobs.attempt import history
from jobs.storage import Storage
from pipeline.manifest import load
from pipeline.plan import Plan, make_plan
from pipeline.queue import is_closing
from pipeline.status import all_finished, summary_line, task_states

RUNS = 40
KILLED, HOPELESS = "r05", "r11"
PREEMPTED = ("r00", "r02", "r06")


def _manifest(folder: Path) -> Path:
    lines = []
    for number in range(RUNS):
        shape = SHAPES[number % len(SHAPES)]
        rate = ", learning_rate: 1e-12" if f"r{number:02d}" == HOPELESS else ""
        lines.append(f"      r{number:02d}: {{{shape}, seed: {number}{rate}}}\n")
    (folder / "profile.yaml").write_text("executor: slurm\npartition: scavenger\n")
    head = HEAD.replace("epochs: 2", "epochs: 800") + "  forty:\n    runs:\n"
    return write_manifest(folder, head + "".join(lines) + RESOURCES)


def play(rig: Rig, folder: Path) -> int:
    """Submit, preempt, kill, and print what happens until the end; 0 if the table is as it must be."""
    manifest = _manifest(folder)
    plan = make_plan(load(manifest))
    submit = pipeline("submit", manifest, "--cluster", folder / "profile.yaml")
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {line}", flush=True)

    print(f"$ tanda submit {manifest.name} --cluster profile.yaml")
    print(subprocess.run(submit, check=True, capture_output=True, text=True).stdout, flush=True)
    ids = {planned.run: planned.id for planned in plan.tasks if planned.stage == "train"}
    to_kill, to_preempt, said = {KILLED}, set(PREEMPTED), ""
    storage = Storage(folder / "storage")
    while True:
        for run in sorted(to_kill | to_preempt):
            attempt = in_training(manifest, ids[run])
            if attempt is None or attempt.pid is None or not attempt.slurm:
                continue
            if run in to_kill:
                os.kill(attempt.pid, signal.SIGKILL)
                say(f"-- the site: kill -9 of {run}'s process {attempt['pid']}")
            else:
                node, cpus = attempt.slurm["slurmd_nodename"], rig.shape.cpus
                what = ("-p", "normal", "-w", node, f"-c{cpus}", "--mem=3000M", "-t", "5", "-o", "/dev/null")
                rig.call("sbatch", *what, "--wrap", "sleep 3")
                say(f"-- the site: a job of higher priority takes {node}, where {run} ({element_of(attempt)}) runs")
            to_kill.discard(run)
            to_preempt.discard(run)
        states = task_states(plan)
        if (line := summary_line(states)) != said:
            say(line)
            said = line
        if all_finished(states) and not is_closing(storage, NAME):
            break
        time.sleep(3)
    _print_again(storage)
    return _print_table(plan, storage)


def _print_again(storage: Storage) -> None:
    print("\nwhat the closing jobs did:")
    for log in sorted(storage.submissions.glob("*/log.txt")):
        print("".join(f"  {line}\n" for line in log.read_text().splitlines()), end="")


def _print_table(plan: Plan, storage: Storage) -> int:
    print("\n" + (storage.reports / NAME / "results.md").read_text())
    with (storage.reports / NAME / "results.csv").open() as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    counts = Counter((row["state"], row["cause"]) for row in rows.values())
    tries = {planned.run: len(history(storage.run(planned.id))) for planned in plan.tasks if planned.stage == "train"}
    print(f"attempts: {', '.join(f'{run} {tries[run]}' for run in (KILLED, HOPELESS, *PREEMPTED))}")
    expected = {("done", ""): RUNS - 1, ("failed", "at chance"): 1}
    print("complete and true" if counts == expected else f"NOT as it must be: {counts}")
    return int(counts != expected)
