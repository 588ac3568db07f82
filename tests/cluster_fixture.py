"""The fixture ``cluster``: a real Slurm cluster, started at its first use; of the Slurm installed here, or of 24.11."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import debian13
import pytest
from rig import DEBIAN13, INSTALLED, Rig, Shape, has_cgroups, missing

# One cluster at a time on a machine, whoever runs tests there.
LOCK = Path(tempfile.gettempdir()) / f"tanda-test-cluster.{os.getuid()}.lock"
REQUIRED = "TANDA_REQUIRE_SLURM"
# Which Slurm all tests of the cluster run on, where it is to be one alone: ``installed`` or ``24.11``.
ONLY = "TANDA_TEST_SLURM"
# They differ in what sites differ in, too: how memory is enforced.
SHAPES = {INSTALLED: Shape(), DEBIAN13: Shape(cgroups=has_cgroups())}
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
def running(shape: Shape | None = None, slurm: str = INSTALLED) -> Iterator[Rig]:
    """A cluster in a folder of its own, which this process then calls; stopped and removed at the end in any case."""
    # Not pytest's folder: that one is closed to the daemons' users.
    folder = Path(tempfile.mkdtemp(prefix="tanda-rig-"))
    folder.chmod(0o755)
    rig = Rig(folder, shape, slurm)
    before = dict(os.environ)
    try:
        rig.start()
        os.environ.update(rig.environment)
        yield rig
    finally:
        rig.stop()
        for name in ("PATH", "SLURM_CONF"):
            os.environ.pop(name, None)
            os.environ.update({name: before[name]} if name in before else {})
        shutil.rmtree(folder, ignore_errors=True)


class Clusters:
    """The cluster that runs, one at a time: started at its first use, stopped when another one is asked for."""

    def __init__(self) -> None:
        self._rig: Rig | None = None
        self._stack = ExitStack()

    def get(self, slurm: str) -> Rig:
        """Four nodes of 4 CPUs and 2 fake GPUs, with accounting; skips where there is no such Slurm."""
        if self._rig is None or self._rig.slurm != slurm:
            self.stop()
            _check_installed(slurm)
            self._stack.enter_context(machine_to_ourselves())
            self._rig = self._stack.enter_context(running(SHAPES[slurm], slurm))
            LOCK.write_text(str(self._rig.folder))
            self._stack.callback(LOCK.write_text, "")
        return self._rig

    def stop(self) -> None:
        self._rig = None
        self._stack.close()


def _check_installed(slurm: str) -> None:
    """Skip the test where there is no such Slurm; fail it where there has to be one."""
    told, may_be = "", False
    if slurm == DEBIAN13:
        told, may_be = debian13.absent() or ("", False)
    elif absent := missing():
        told = f"no Slurm here: {', '.join(absent)} not installed (see tests/install_packages.sh)"
    if not told:
        return
    # Where a change is judged, an unseen cluster is a failure and no matter of taste.
    if os.environ.get(REQUIRED) and not may_be:
        pytest.fail(told)
    pytest.skip(told)


@pytest.fixture(scope="session")
def clusters() -> Iterator[Clusters]:
    """What ``cluster`` is taken from."""
    made = Clusters()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def cluster(clusters: Clusters, request: pytest.FixtureRequest) -> Rig:
    """The test's cluster: of the Slurm installed here, or, in tests marked ``both_slurms``, of each of the two."""
    return clusters.get(getattr(request, "param", os.environ.get(ONLY) or INSTALLED))


def on_both_slurms(metafunc: pytest.Metafunc) -> None:
    """Have the tests marked ``both_slurms`` run on the cluster of each."""
    if metafunc.definition.get_closest_marker("both_slurms") and "cluster" in metafunc.fixturenames:
        only = os.environ.get(ONLY)
        metafunc.parametrize("cluster", [only] if only else [INSTALLED, DEBIAN13], indirect=True, scope="session")


def is_on_debian13(item: pytest.Item) -> bool:
    """Whether a test is one on the second cluster."""
    return (
        isinstance(item, pytest.Function)
        and hasattr(item, "callspec")
        and any(value is DEBIAN13 for value in item.callspec.params.values())
    )


@pytest.fixture
def little_account(cluster: Rig) -> Iterator[str]:
    """A new account on which at most 5 elements may be queued."""
    name = f"little{next(_accounts)}"
    cluster.call("sacctmgr", "-i", "add", "account", name, "cluster=lab", "parent=root")
    user = ("user", cluster.user, f"account={name}", "cluster=lab")
    cluster.call("sacctmgr", "-i", "add", *user, "maxsubmitjobs=5")
    yield name
    cluster.call("sacctmgr", "-i", "delete", *user)
