"""What every test gets: the one real Slurm cluster, and an environment without a person's own settings."""

from __future__ import annotations

import os

import pytest
from cluster_fixture import cluster, little_account

__all__ = ["cluster", "little_account"]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "TANDA_STORAGE",
        "TANDA_CPUS",
        "TANDA_SUBMISSION",
        "TANDA_GROUP",
        "TANDA_DEBUG",
        "NO_COLOR",
        "FORCE_COLOR",
    ):
        monkeypatch.delenv(name, raising=False)


# Before anything imports torch, and for every child: bit-for-bit tests are written for the CPU, and a workstation's
# GPU is nobody's to take. A test of the variable itself sets it.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
