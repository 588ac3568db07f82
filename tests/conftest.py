"""What tests share: the one real Slurm cluster, a storage with a data set, no settings of a person's own, no GPU."""

from __future__ import annotations

import os

import pytest
from cluster_fixture import cluster, little_account
from training_fixture import dataset, one_core, storage

__all__ = ["cluster", "dataset", "little_account", "one_core", "storage"]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "TANDA_STORAGE",
        "TANDA_CPUS",
        "TANDA_GPUS",
        "TANDA_SUBMISSION",
        "TANDA_GROUP",
        "TANDA_DEBUG",
        "NO_COLOR",
        "FORCE_COLOR",
    ):
        monkeypatch.delenv(name, raising=False)


# Before CUDA is begun, here and in every child: bit-for-bit tests are written for the CPU, and a workstation's
# GPU is nobody's to take. A test of the variable itself sets it.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
