"""What submitting costs, on a real Slurm cluster on this machine: 1,000 trivial tasks.

Against submitit's own map_array and against one sbatch per task: time, calls of sbatch, files and bytes left. And
the overhead of a task, from the start of its batch script to the end of `import torch`, against a bare
``srun python -c "import torch"``. Prints ratios; starts and stops its own cluster.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from submitit import SlurmExecutor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from cluster_fixture import machine_to_ourselves, running  # noqa: E402
from rig import Rig  # noqa: E402

from slurm.array import Array, Resources, Site, Submitted  # noqa: E402
from slurm.executors.slurm import SlurmArrays  # noqa: E402
from slurm.query import states  # noqa: E402

SMALL = Resources(cpus=1, mem_gb=0.25, time_min=20)
FIRST_LINE = "import sys, time, torch; open(sys.argv[1] + '/first', 'w').write(str(time.time()))"


@dataclass(frozen=True)
class Cost:
    seconds: float
    calls: int


def make_array(folder: Path, count: int, *, held: bool) -> Array:
    paths = tuple(folder / "runs" / f"{number:04d}" for number in range(count))
    for path in paths:
        path.mkdir(parents=True)
    command = (sys.executable, "-c", "pass")
    return Array(
        name="tanda", elements=tuple((path,) for path in paths), command=command, folder=folder / "submission",
        resources=SMALL, code=ROOT, held=held,
    )  # fmt: skip


def ours(folder: Path, count: int, *, held: bool) -> tuple[Cost, Submitted]:
    array = make_array(folder, count, held=held)
    began = time.perf_counter()
    submitted = SlurmArrays().submit(array)
    return Cost(time.perf_counter() - began, submitted.calls), submitted


def map_array(folder: Path, count: int, *, held: bool) -> tuple[Cost, list[str]]:
    executor = SlurmExecutor(folder)
    extra = {"hold": True} if held else {}
    executor.update_parameters(time=20, mem="256M", additional_parameters=extra, wckey=None, array_parallelism=count)
    began = time.perf_counter()
    jobs = executor.map_array(abs, range(count))
    return Cost(time.perf_counter() - began, 1), [job.job_id for job in jobs]


def one_by_one(cluster: Rig, folder: Path, count: int) -> Cost:
    folder.mkdir()
    began = time.perf_counter()
    for _ in range(count):
        cluster.call("sbatch", "--hold", "--mem=256M", "--output", f"{folder}/%j.log", "--wrap", "true")
    return Cost(time.perf_counter() - began, count)


def drained(ids: Iterable[str]) -> float:
    began = time.perf_counter()
    asked = list(ids)
    while not all(state.over for state in states(asked).values()):
        time.sleep(0.5)
    return time.perf_counter() - began


def left(folder: Path) -> tuple[int, int]:
    """Files and bytes on disk (blocks, not lengths) in a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return len(files), sum(path.stat().st_blocks * 512 for path in files)


def until_torch(folder: Path, times: int) -> tuple[list[float], list[float]]:
    """Seconds from the batch script's first line until torch is imported: as our task, and by a bare srun."""
    tasks, bare = [], []
    for number in range(times):
        path, plain = folder / f"task{number}", folder / f"bare{number}"
        path.mkdir(parents=True)
        plain.mkdir(parents=True)
        executor = SlurmArrays(site=Site(activate=f"date +%s.%N > {path}/began"))
        command = (sys.executable, "-c", FIRST_LINE)
        array = Array(name="t", elements=((path,),), command=command, folder=folder / "s", resources=SMALL, code=ROOT)
        drained(executor.submit(array).queued)
        tasks.append(float((path / "first").read_text()) - float((path / "began").read_text()))
        script = plain / "script.sh"
        srun = f'srun --cpus-per-task=1 {sys.executable} -c "{FIRST_LINE}" {plain}'
        script.write_text(f"#!/bin/bash\ndate +%s.%N > {plain}/began\n{srun}\n")
        done = subprocess.run(
            ["sbatch", "--parsable", "--mem=256M", "--output", f"{plain}/log", str(script)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        drained([done.stdout.strip()])
        bare.append(float((plain / "first").read_text()) - float((plain / "began").read_text()))
    return tasks, bare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1000, help="to submit")
    parser.add_argument("--run", type=int, default=40, help="to run to their end, for what is left on disk")
    parser.add_argument("--times", type=int, default=5, help="single tasks, for the overhead")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tanda-submission-"))
    try:
        with machine_to_ourselves(), running() as cluster:
            submitting(cluster, folder, given.tasks)
            leaving(folder, given.run)
            starting(folder, given.times)
    finally:
        shutil.rmtree(folder)


def submitting(cluster: Rig, folder: Path, count: int) -> None:
    cost, submitted = ours(folder / "ours", count, held=True)
    theirs, ids = map_array(folder / "theirs", count, held=True)
    cluster.call("scancel", *submitted.jobs, ids[0].split("_")[0])
    single = one_by_one(cluster, folder / "single", count)
    cluster.call("scancel", f"--user={cluster.user}")
    for name, each in (("tanda", cost), ("submitit's map_array", theirs), ("one sbatch per task", single)):
        ratio = each.seconds / cost.seconds
        print(f"submit {count}: {name:22} {each.seconds:7.2f} s  {each.calls:5} sbatch  {ratio:6.1f} x ours")


def leaving(folder: Path, count: int) -> None:
    _, submitted = ours(folder / "ours-run", count, held=False)
    ours_s = drained(submitted.queued)
    _, ids = map_array(folder / "theirs-run", count, held=False)
    theirs_s = drained(ids)
    both = (("tanda", "ours-run/submission", ours_s), ("submitit's map_array", "theirs-run", theirs_s))
    for name, place, seconds in both:
        files, size = left(folder / place)
        print(
            f"left by {count}: {name:21} {files / count:5.2f} files  {size / count / 1024:5.1f} KiB a task;"
            f" run in {seconds:.1f} s"
        )


def starting(folder: Path, times: int) -> None:
    tasks, bare = until_torch(folder / "start", times)
    task_s, bare_s = statistics.median(tasks), statistics.median(bare)
    print(
        f"from the batch script to `import torch`: task {task_s:.2f} s, bare srun {bare_s:.2f} s:"
        f" {task_s / bare_s:.2f} x, {task_s - bare_s:+.2f} s"
    )


if __name__ == "__main__":
    main()
