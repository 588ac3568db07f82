"""Whether tanda does on a real GPU what it says: stage by stage, each in a process and with a time limit of its own.

    python benchmarks/gpu_check.py                                  # every stage
    python benchmarks/gpu_check.py machine waits:120 exact          # some of them, one with 120 s
    python benchmarks/gpu_check.py --small --device cpu exact meta  # what a machine without a GPU can be asked

Claimed: no step waits for the device; runs have the same bits twice and after any interruption, with graphs and
without; loss and gradients are those of float64 on a CPU; a step that cannot be captured is taken without; whole tasks
end well. What is fast is told and not judged. With ``--facts FILE`` every fact is also a line of JSON. Exit status 1
when a stage found something wrong or took too long. ``mps`` is the stage ``side`` under an MPS daemon of its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from _gpu_ground import Ground, Stage
from _gpu_right import correct, exact, failing, halves, meta, waits
from _gpu_speed import errors, full, machine, micro, side, tasks

STAGES: Mapping[str, tuple[Stage, int]] = {
    "machine": (machine, 60),
    "meta": (meta, 60),
    "waits": (waits, 120),
    "failing": (failing, 60),
    "exact": (exact, 240),
    "correct": (correct, 120),
    "tasks": (tasks, 180),
    "halves": (halves, 120),
    "errors": (errors, 120),
    "micro": (micro, 180),
    "full": (full, 400),
    "side": (side, 180),
    "mps": (side, 180),
}
NEEDS_GPU = ("waits", "failing", "errors", "micro", "mps")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="few titles")
    parser.add_argument("--facts", type=Path, metavar="FILE", help="add every fact to this file, a line of JSON each")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("stages", nargs="*", metavar="STAGE[:SECONDS]", help=", ".join(STAGES))
    given = parser.parse_args()
    asked = [_stage(parser, word) for word in given.stages or STAGES]
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no GPU is present: nothing was checked (--device cpu for what can be checked without)")
        return 0
    if given.here:
        return _here(asked[0][0], given)
    ended = {name: _apart(name, limit_s, given) for name, limit_s in asked}
    bad = {name: how for name, how in ended.items() if how not in ("right", "left out")}
    print("; ".join(f"{name}: {how}" for name, how in ended.items()))
    return int(bool(bad))


def _stage(parser: argparse.ArgumentParser, word: str) -> tuple[str, int]:
    name, _, seconds = word.partition(":")
    if name not in STAGES or (seconds and not seconds.isdigit()):
        parser.error(f"{word}: no stage of that name; there are {', '.join(STAGES)}")
    return name, int(seconds or STAGES[name][1])


def _here(name: str, given: argparse.Namespace) -> int:
    """Run a stage in this process; status 1 when it found something wrong."""
    ground = Ground(stage=name, device=given.device, small=given.small, facts=given.facts)
    STAGES[name][0](ground)
    return int(bool(ground.wrong))


def _apart(name: str, limit_s: int, given: argparse.Namespace) -> str:
    """Run a stage in a process of its own: an error that no later CUDA call survives must not end the others."""
    if name in NEEDS_GPU and given.device == "cpu":
        return "left out"
    if name == "mps" and shutil.which("nvidia-cuda-mps-control") is None:
        return "left out"
    options = ["--device", given.device, *(["--small"] if given.small else [])]
    options += ["--facts", str(given.facts)] if given.facts else []
    with _mps_daemon() if name == "mps" else _as_it_is() as environment:
        try:
            ended = subprocess.run(
                [sys.executable, __file__, *options, "--here", name], env=environment, timeout=limit_s, check=False
            )
        except subprocess.TimeoutExpired:
            return f"no end within {limit_s} s"
    return {0: "right", 1: "WRONG"}.get(ended.returncode, f"ended with status {ended.returncode}")


@contextmanager
def _as_it_is() -> Iterator[dict[str, str]]:
    yield dict(os.environ)


@contextmanager
def _mps_daemon() -> Iterator[dict[str, str]]:
    """The environment in which processes share the GPU by a daemon that lives as long as the stage."""
    with tempfile.TemporaryDirectory(prefix="tanda-mps-") as folder:
        environment = {**os.environ, "CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        subprocess.run(["nvidia-cuda-mps-control", "-d"], env=environment, check=True)
        try:
            yield environment
        finally:
            subprocess.run(["nvidia-cuda-mps-control"], input="quit\n", env=environment, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
