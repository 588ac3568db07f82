"""The one place where the pipeline's words become the executors': sites, folders, and who ran what."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

from jobs.storage import Storage
from pipeline.manifest.types import Cluster, Manifest
from slurm.answers import Sent
from slurm.executors import Executor, make
from slurm.site import Site
from slurm.states import JobState


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
    return make(name, folder=_local_folder(Storage(manifest.storage)), site=site(manifest.cluster), entry=_run_here)


def observe(storage: Storage, name: str, sent: Mapping[str, Sent]) -> Mapping[str, JobState]:
    """What an executor says of the elements that were ``sent`` to it."""
    return make(name, folder=_local_folder(storage), entry=_run_here).states(sent, sent=sent)


def _local_folder(storage: Storage) -> Path:
    # Process ids mean something on their own machine only.
    return storage.root / "local" / socket.gethostname()


def _run_here(path: Path) -> int:
    from jobs.entry import run

    return run(path)
