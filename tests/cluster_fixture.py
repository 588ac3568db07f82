"""The fixture ``cluster``: one real Slurm cluster for the whole test run, started at its first use."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rig import Rig, Shape, missing

# One cluster at a time on a machine, whoever runs tests there.
LOCK = Path(tempfile.gettempdir()) / f"tanda-test-cluster.{os.getuid()}.lock"
REQUIRED = "TANDA_REQUIRE_SLURM"
_rig: Rig | None = None
_accounts = itertools.count()


@contextmanager
def machine_to_ourselves() -> Iterator[None]:
    """Wait for other test runs to end, and clear away a cluster that a killed one left."""
    with LOCK.open("a+") as file:
        # Waiting for another run is not this test's time: pytest-timeout's alarm rests meanwhile.
        alarm = signal.setitimer(signal.ITIMER_REAL, 0)
        fcntl.flock(file, fcntl.LOCK_EX)
        signal.setitimer(signal.ITIMER_REAL, *alarm)
        file.seek(0)
        left = file.read().strip()
        if left and Path(left).is_dir():
            Rig(Path(left)).stop()
            shutil.rmtree(left, ignore_errors=True)
        file.truncate(0)
        yield


@contextmanager
def running(shape: Shape | None = None) -> Iterator[Rig]:
    """A cluster in a folder of its own, with SLURM_CONF set; stopped and removed at the end, whatever happens."""
    # Not pytest's folder: that one is closed to the daemons' users.
    folder = Path(tempfile.mkdtemp(prefix="tanda-rig-"))
    folder.chmod(0o755)
    rig = Rig(folder, shape)
    before = os.environ.get("SLURM_CONF")
    try:
        rig.start()
        os.environ["SLURM_CONF"] = str(rig.conf)
        yield rig
    finally:
        rig.stop()
        if before is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = before
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Rig]:
    """Four nodes of 4 CPUs and 2 fake GPUs, with accounting; SLURM_CONF is set while it runs."""
    if absent := missing():
        told = f"no Slurm here: {', '.join(absent)} not installed (see tests/install_packages.sh)"
        # Where a change is judged, an unseen cluster is a failure and no matter of taste.
        if os.environ.get(REQUIRED):
            pytest.fail(told)
        pytest.skip(told)
    # A module that imports this fixture has one of its own: they share the one cluster.
    global _rig
    if _rig is not None:
        yield _rig
        return
    with machine_to_ourselves(), running() as rig:
        LOCK.write_text(str(rig.folder))
        _rig = rig
        try:
            yield rig
        finally:
            _rig = None
            LOCK.write_text("")


@pytest.fixture
def little_account(cluster: Rig) -> Iterator[str]:
    """A new account on which at most 5 elements may be queued."""
    name = f"little{next(_accounts)}"
    cluster.call("sacctmgr", "-i", "add", "account", name, "cluster=lab", "parent=root")
    cluster.call("sacctmgr", "-i", "add", "user", cluster.user, f"account={name}", "maxsubmitjobs=5")
    yield name
    cluster.call("sacctmgr", "-i", "delete", "user", cluster.user, f"account={name}")
