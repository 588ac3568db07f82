"""A run that was killed anywhere, any number of times, ends with the bits of one that was left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from training_fixture import publish_dataset, train_task

from jobs import metrics_log
from jobs.storage import Storage
from jobs.task import read_record
from jobs.training import checkpoint

MAY_DIFFER = {"seconds", "titles_per_s", "ended", "attempt", "train_seconds"}
RUNS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("mlp", {"freeze_embeddings": False, "dropout": 0.3, "weight_decay": 1e-4, "shuffle": "buffer"}),
    ("cnn", {"dropout": 0.2, "bucket_by_length": True, "keep": "last"}),
    ("rnn", {"freeze_embeddings": False, "dropout": 0.1}),
    ("mlp", {"dropout": 0.1, "embedding_dropout": 0.1}),
    ("mlp", {"freeze_embeddings": False, "optimiser": "adamw", "weight_decay": 0.1, "schedule": "warmup_cosine",
             "gradient_clip": 0.5}),
    ("cnn", {"freeze_embeddings": False, "optimiser": {"sgd": {"nesterov": True}}, "schedule": {"step": {"parts": 12}},
             "learning_rate": 0.05}),
)  # fmt: skip
ENOUGH_KILLS = 30


class Zygote:
    def __init__(self) -> None:
        environment = {**os.environ, "TANDA_CPUS": "1", "OMP_NUM_THREADS": "1"}
        program = [sys.executable, str(Path(__file__).with_name("training_zygote.py"))]
        self.process = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, request: str) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def run(self, folder: Path, *, signal_number: int | None = None, after_s: float = 0.0) -> int:
        """Run a task; send a signal after so long. Returns the exit status, negative for a signal."""
        pid = self.ask(f"start {folder}")
        if signal_number is not None:
            time.sleep(after_s)
            os.kill(pid, signal_number)
        return self.ask(f"wait {pid}")


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    zygote = Zygote()
    yield zygote
    assert zygote.process.stdin is not None
    zygote.process.stdin.close()
    zygote.process.wait(timeout=30)
    assert zygote.process.stdout is not None
    zygote.process.stdout.close()


def prepare(root: Path, number: int, **more: Any) -> Path:
    storage = Storage(root)
    dataset = publish_dataset(storage, rows=1500)
    architecture, settings = RUNS[number % len(RUNS)]
    plan = {"epochs": 12, "batch_size": 16, "seed": number, "checkpoint_min": 0.0005, **settings, **more}
    return train_task(architecture, dataset, **plan).write(storage)


def left_by(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, torch.Tensor]]:
    record = read_record(folder)
    assert record is not None
    assert record.state == "done", record.message
    result = {name: value for name, value in record.result.items() if name not in MAY_DIFFER}
    lines = [
        {name: value for name, value in line.items() if name not in MAY_DIFFER} for line in metrics_log.read(folder)
    ]
    assert (folder / metrics_log.NAME).read_bytes().count(b"\n") == len(lines)
    return result, lines, checkpoint.read_model(folder / checkpoint.MODEL)


def assert_same(folder: Path, alone: Path) -> None:
    result, lines, weights = left_by(folder)
    expected_result, expected_lines, expected_weights = left_by(alone)
    assert result == expected_result
    assert lines == expected_lines
    assert weights.keys() == expected_weights.keys()
    for name, value in weights.items():
        assert torch.equal(value.view(torch.uint8), expected_weights[name].view(torch.uint8)), name


def test_thirty_kills_at_random_moments_change_no_bit(zygote: Zygote, tmp_path: Path) -> None:
    moments = random.Random(4)
    kills, number = 0, 0
    while kills < ENOUGH_KILLS:
        alone = prepare(tmp_path / f"alone-{number}", number)
        began = time.monotonic()
        assert zygote.run(alone) == 0
        length_s = time.monotonic() - began
        folder = prepare(tmp_path / f"killed-{number}", number)
        before = kills
        status = -signal.SIGKILL
        while status == -signal.SIGKILL:
            # Now and then at the very start, mostly somewhere in the work, sometimes after its end.
            after_s = moments.uniform(0, length_s / 4)
            stop = kills - before < ENOUGH_KILLS // len(RUNS)
            status = zygote.run(folder, signal_number=signal.SIGKILL if stop else None, after_s=after_s)
            kills += status == -signal.SIGKILL
        assert status == 0
        assert_same(folder, alone)
        number += 1
    assert number >= len(RUNS)
    logs = [log.read_text() for log in tmp_path.glob("killed-*/runs/*/log.txt")]
    assert sum(text.count("going on at epoch") for text in logs) >= ENOUGH_KILLS // 2
    assert not any("passed over" in text for text in logs)


def test_a_polite_stop_saves_asks_to_be_started_again_and_changes_no_bit(zygote: Zygote, tmp_path: Path) -> None:
    # Without checkpoints on the way: what the stop itself saves is all there is.
    alone = prepare(tmp_path / "alone", 0, checkpoint_min=100.0, epochs=20)
    folder = prepare(tmp_path / "stopped", 0, checkpoint_min=100.0, epochs=20)
    assert zygote.run(alone) == 0
    statuses = [zygote.run(folder, signal_number=signal.SIGUSR2, after_s=0.25)]
    assert statuses == [75]
    assert checkpoint.load(folder, checkpoint.unpack(folder / checkpoint.NAME)["identity"], print) is not None
    while statuses[-1] == 75:
        statuses.append(zygote.run(folder, signal_number=signal.SIGTERM if len(statuses) < 3 else None, after_s=0.3))
    assert statuses[-1] == 0
    assert_same(folder, alone)


def test_the_command_itself_can_be_killed(tmp_path: Path) -> None:
    alone, folder = prepare(tmp_path / "alone", 1), prepare(tmp_path / "killed", 1)
    environment = {**os.environ, "TANDA_CPUS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "jobs"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    assert subprocess.run([*command, alone], check=False, **quiet).returncode == 0
    process = subprocess.Popen([*command, folder], **quiet)
    while not metrics_log.read(folder):
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert subprocess.run([*command, folder], check=False, **quiet).returncode == 0
    assert_same(folder, alone)


def test_the_same_seed_gives_the_same_bits_and_another_gives_others(zygote: Zygote, tmp_path: Path) -> None:
    first, again, other = (prepare(tmp_path / str(n), 0, epochs=2, seed=seed) for n, seed in enumerate((5, 5, 6)))
    for folder in (first, again, other):
        assert zygote.run(folder) == 0
    assert_same(first, again)
    assert left_by(first)[1] != left_by(other)[1]


def test_a_run_killed_after_its_last_epoch_only_writes_its_record(zygote: Zygote, tmp_path: Path) -> None:
    folder = prepare(tmp_path, 0, epochs=2)
    assert zygote.run(folder) == 0
    before = left_by(folder)
    (folder / "record.json").unlink()
    assert zygote.run(folder) == 0
    assert left_by(folder)[:2] == before[:2]
    assert (folder / "log.txt").read_text().count("epoch 2:") == 1
