"""What a GPU computes, where there is one; and that no other test takes it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHECK = ("benchmarks/gpu_check.py", "--small", "machine", "waits", "failing", "exact", "correct", "tasks")


@pytest.mark.gpu
@pytest.mark.timeout(900)
def test_the_gpu_check_finds_nothing_wrong(gpu: Mapping[str, str]) -> None:
    environment = {name: value for name, value in gpu.items() if name != "PYTHONSAFEPATH"} | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, *CHECK], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_tests_see_no_gpu_of_a_workstation(tmp_path: Path) -> None:
    """Neither in their own process nor in those that they start, whatever the person has set."""
    (tmp_path / "test_it.py").write_text(
        "import os, subprocess, sys\n"
        "print_it = [sys.executable, '-c', 'import os; print(repr(os.environ.get(\\'CUDA_VISIBLE_DEVICES\\')))']\n"
        "SEEN = os.environ['CUDA_VISIBLE_DEVICES']  # as the module is imported\n"
        "def test_it():\n"
        "    assert SEEN == os.environ['CUDA_VISIBLE_DEVICES'] == ''\n"
        "    assert subprocess.run(print_it, capture_output=True, text=True).stdout == \"''\\n\"\n"
        "def test_gpu(gpu):\n"
        "    assert gpu['CUDA_VISIBLE_DEVICES'] == '7'\n"
    )
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "7", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "test_it.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 passed" in ended.stdout or ("1 passed, 1 skipped" in ended.stdout and "no GPU: " in ended.stdout)
