"""The one place where the pipeline's words become the executors': sites, folders, and who ran what."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from jobs.storage import Storage
from pipeline.manifest.types import Cluster, Manifest
from slurm.answers import Sent
from slurm.executors import Executor, make
from slurm.owned import check_own
from slurm.site import Site
from slurm.states import GONE, JobState


def site(cluster: Cluster) -> Site:
    """A cluster profile as Slurm's executor takes it."""
    return Site(
        partition=cluster.partition,
        account=cluster.account,
        qos=cluster.qos,
        constraint=cluster.constraint,
        gres_type=cluster.gres_type,
        exclude=cluster.exclude,
        modules=cluster.modules,
        activate=cluster.activate,
        environment=cluster.environment,
        python=cluster.python,
        extra=cluster.extra,
    )


def make_executor(name: str, manifest: Manifest) -> Executor:
    """The executor of that name for a manifest's cluster and storage; raises ValueError for an unknown one."""
    folder = local_folder(Storage(manifest.storage), os.geteuid())
    return make(name, folder=folder, site=site(manifest.cluster), entry=_run_here)


def observe(storage: Storage, name: str, sent: Mapping[str, Sent], uid: int | None) -> Mapping[str, JobState]:
    """What an executor says of the elements that the user ``uid`` ``sent`` to it; None stands for a submission of an
    earlier version, which had one local queue for everybody."""
    if uid is None and name == "local":
        reason = "queued by an earlier version of tanda"
        return {element: JobState(id=element, state=GONE, reason=reason) for element in sent}
    folder = local_folder(storage, os.geteuid() if uid is None else uid)
    if name == "local" and folder.exists():
        check_own(folder, uid)
    return make(name, folder=folder, entry=_run_here).states(sent, sent=sent)


def local_folder(storage: Storage, uid: int) -> Path:
    """The queue of one user's local processes on this machine."""
    # Process ids mean something on their own machine only.
    return storage.local / socket.gethostname() / str(uid)


def _run_here(path: Path) -> int:
    from jobs.entry import run

    return run(path)
