"""What a task loads: torch and what it runs, none of the heavy packages of the other stages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from training_fixture import publish_dataset, train_task

from jobs.storage import Storage
from jobs.task import Task

HEAVY = (
    "mlflow",
    "pydantic",
    "pandas",
    "sklearn",
    "scipy",
    "matplotlib",
    "polars",
    "pyarrow",
    "hyperopt",
    "submitit",
)
COMPILER = ("torch._dynamo", "torch._inductor", "sympy")

PROGRAM = """
import sys
from pathlib import Path
from jobs.entry import run
status = run(Path(sys.argv[1]))
print(status, *sorted({name for name in sys.modules}))
"""


def loaded_by(folder: Path) -> tuple[int, set[str]]:
    environment = {**os.environ, "TANDA_CPUS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.split()
    return int(output[0]), set(output[1:])


@pytest.mark.parametrize("architecture", ["mlp", "cnn", "rnn"])
def test_a_training_task_loads_torch_and_nothing_heavy(architecture: str, tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    dataset = publish_dataset(storage)
    train = train_task(architecture, dataset, epochs=1, freeze_embeddings=False, dropout=0.1)
    status, names = loaded_by(train.write(storage))
    assert status == 0
    assert "torch" in names
    assert not names & {*HEAVY, *COMPILER}
    if architecture == "mlp":
        evaluate = Task(stage="evaluate", settings={"train": train.id}, needs=(dataset, train.id))
        status, names = loaded_by(evaluate.write(storage))
        assert status == 0
        assert not names & ({*HEAVY, *COMPILER} - {"scipy"})  # which fits the temperature


def test_a_linear_run_does_without_torch(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    dataset = publish_dataset(storage)
    status, names = loaded_by(train_task("linear", dataset).write(storage))
    assert status == 0
    assert not names & {"torch", "mlflow", "matplotlib", "polars"}
