"""A manifest small enough to run whole in seconds: a few hundred titles of six categories, four architectures."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from jobs.attempt import AttemptFacts, history
from jobs.storage import Storage
from pipeline.queue import is_closing

Found = TypeVar("Found")

WORDS = {
    "PHONES": ["celular", "pantalla", "liberado", "android"],
    "SHOES": ["zapatillas", "cuero", "talle", "deportivas"],
    "WINES": ["vino", "malbec", "botella", "tinto"],
    "LAMPS": ["lámpara", "led", "techo", "colgante"],
    "BOOKS": ["libro", "novela", "tapa", "autor"],
    "TOYS": ["muñeca", "juguete", "bebé", "peluche"],
}

MANIFEST = """
name: small
storage: storage
data:
  source: titles.csv
  split: {validation: 0.2, test: 0.2, seed: 0, by: random}
  embeddings: {size: 16}
defaults:
  {epochs: 2, hidden_layers: [16], freeze_embeddings: false, learning_rate: 1e-2, batch_size: 32, device: cpu}
experiments:
  architectures:
    runs:
      MLP: {architecture: mlp}
      CNN: {architecture: cnn, filters_count: 8, filters_length: [1, 2]}
      RNN: {architecture: rnn, lstm_layers: 1, lstm_features: 16}
      linear: {architecture: linear}
resources:
  preprocess: {cpus: 1, mem_gb: 0.5, time_min: 20}
  train: {cpus: 1, mem_gb: 0.5, time_min: 20}
  evaluate: {cpus: 1, mem_gb: 0.5, time_min: 20}
  close: {cpus: 1, mem_gb: 0.5, time_min: 20}
"""


def write_titles(path: Path, rows: int = 360, seed: int = 0) -> Path:
    """A csv file in the challenge's format."""
    choose = random.Random(seed)
    lines = ["title,label_quality,language,category"]
    for number in range(rows):
        category = list(WORDS)[number % len(WORDS)]
        words = choose.choices(WORDS[category], k=3) + choose.choices(["nuevo", "oferta", "original"], k=1)
        lines.append(f"{' '.join(words)},reliable,spanish,{category}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_manifest(folder: Path, text: str = MANIFEST) -> Path:
    """The small manifest with its data in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_titles(folder / "titles.csv")
    path = folder / "small.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def with_only(*runs: str) -> str:
    """The small manifest's text with only some of its runs."""
    dropped = tuple(f"{run}:" for run in ("MLP", "CNN", "RNN", "linear") if run not in runs)
    return "\n".join(line for line in MANIFEST.splitlines() if not line.lstrip().startswith(dropped)) + "\n"


def tanda(*words: object, status: int | None = 0, environment: dict[str, str] | None = None) -> str:
    """Run the command line as a person would; returns standard output."""
    command = [sys.executable, "-m", "pipeline", *map(str, words)]
    given = {**os.environ, "PYTHONSAFEPATH": "1", "COLUMNS": "200", **(environment or {})}
    ended = subprocess.run(command, capture_output=True, text=True, env=given, timeout=280, check=False)
    assert status is None or ended.returncode == status, f"{words}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout if status in (0, 1, None) else ended.stderr


def wait_until(ready: Callable[[], Found | None], what: str, limit_s: float = 270) -> Found:
    """Ask twice a second until there is an answer."""
    ends = time.monotonic() + limit_s
    while not (found := ready()):
        assert time.monotonic() < ends, f"{what} did not come"
        time.sleep(0.5)
    return found


def wait_until_over(manifest: Path, limit_s: float = 270) -> dict[str, Any]:
    """The status of a submitted manifest once nothing runs or waits, the closing job included."""
    storage = Storage(manifest.parent / "storage")
    name = yaml.safe_load(manifest.read_text(encoding="utf-8"))["name"]

    def over() -> dict[str, Any] | None:
        status: dict[str, Any] = json.loads(tanda("status", manifest, "--json", status=None))
        return None if {"waiting", "running"} & status["summary"].keys() or is_closing(storage, name) else status

    try:
        return wait_until(over, "the end", limit_s)
    except AssertionError as error:
        error.add_note(tanda("status", manifest, status=None))
        error.add_note(_of_slurm("squeue", "-r") + _of_slurm("sinfo", "-N", "-l"))
        raise


def _of_slurm(*command: str) -> str:
    """What a client program says, where there is a cluster."""
    if shutil.which(command[0]) is None or "SLURM_CONF" not in os.environ:
        return ""
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout


def trainings(manifest: Path) -> dict[str, str]:
    """The id of every training of a manifest, by run."""
    tasks = json.loads(tanda("plan", manifest, "--json"))["tasks"]
    return {task["run"]: task["id"] for task in tasks if task["stage"] == "train"}


def in_training(manifest: Path, task: str) -> AttemptFacts | None:
    """The present attempt of a training that has ended an epoch and has no record yet."""
    folder = Storage(manifest.parent / "storage").run(task)
    begun = (folder / "metrics.jsonl").exists() and not (folder / "record.json").exists()
    return history(folder)[-1] if begun else None


def signal_in_training(manifest: Path, task: str, number: signal.Signals) -> AttemptFacts:
    """Send a signal to the process of a training that is in the middle of it; the attempt that got it."""

    def sent() -> AttemptFacts | None:
        attempt = in_training(manifest, task)
        if attempt is None or attempt.pid is None:
            return None
        try:
            os.kill(attempt.pid, number)
        except ProcessLookupError:
            return None  # it ended between the look and the signal: its next attempt, if there is one
        return attempt

    return wait_until(sent, f"training of {task}")


def element_of(attempt: AttemptFacts) -> str:
    """Slurm's name for the element that an attempt ran in."""
    slurm = attempt.slurm
    return f"{slurm['array_job_id']}_{slurm['array_task_id']}" if "array_job_id" in slurm else str(slurm["job_id"])


def result_rows(manifest: Path) -> dict[str, dict[str, str]]:
    """The rows of the report's results.csv, by run."""
    with (manifest.parent / "storage" / "reports" / "small" / "results.csv").open() as file:
        return {row["run"]: row for row in csv.DictReader(file)}
