"""What tests share: a Slurm cluster, a storage with a data set, no settings of a person's own, no GPU unless asked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

# Before torch is imported, here and in every child: bit-for-bit tests are written for the CPU, and a workstation's GPU
# is nobody's to take. A test of the variable itself sets it; one marked ``gpu`` gets back what was there.
VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest  # noqa: E402
from cluster_fixture import cluster, clusters, is_on_debian13, little_account, on_both_slurms  # noqa: E402
from training_fixture import dataset, one_core, storage  # noqa: E402

__all__ = ["cluster", "clusters", "dataset", "little_account", "one_core", "storage"]
PROBE = "import torch; torch.cuda.init(); torch.zeros(1, device='cuda')"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    on_both_slurms(metafunc)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Clusters run one at a time: what is on the second one comes together, at the end.
    items.sort(key=is_on_debian13)


@pytest.fixture(scope="session")
def gpu() -> Mapping[str, str]:
    """The environment of a process that computes on this machine's GPU; tests marked ``gpu`` start one each.

    Skips, in torch's words, where there is no GPU to use.
    """
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    if VISIBLE is not None:
        environment["CUDA_VISIBLE_DEVICES"] = VISIBLE
    done = subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no GPU: {done.stderr.strip().splitlines()[-1]}")
    return environment


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "TANDA_STORAGE",
        "TANDA_CPUS",
        "TANDA_GPUS",
        "TANDA_GPU_TASKS",
        "TANDA_LOCAL_GPUS",
        "TANDA_SUBMISSION",
        "TANDA_GROUP",
        "TANDA_DEBUG",
        "NO_COLOR",
        "FORCE_COLOR",
    ):
        monkeypatch.delenv(name, raising=False)
