"""A second cluster on the accounting of the first, as at a site where one login serves several."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rig import SEARCH_PATH, Rig
from slurm_fixture import wait_for

NAME, NODE = "other", "m1"


@contextmanager
def second_cluster(rig: Rig) -> Iterator[Path]:
    """Cluster ``other`` with one node, up in about 4 s; its slurm.conf, for who logs in there."""
    folder = rig.folder / NAME
    for name in ("conf", "run", "log", "state", f"spool/{NODE}"):
        (folder / name).mkdir(parents=True)
    conf = folder / "conf/slurm.conf"
    conf.write_text(_conf(rig, folder))
    (folder / "conf/cgroup.conf").write_text((rig.folder / "conf/cgroup.conf").read_text())
    rig.call("sacctmgr", "-i", "add", "cluster", NAME)
    rig.call("sacctmgr", "-i", "add", "account", "lab", f"cluster={NAME}")
    rig.call("sacctmgr", "-i", "add", "user", rig.user, "account=lab", f"cluster={NAME}")
    environment = {**os.environ, "PATH": SEARCH_PATH, "SLURM_CONF": str(conf)}
    try:
        for daemon in (["slurmctld"], ["slurmd", "-N", NODE]):
            subprocess.run(daemon, env=environment, stdin=subprocess.DEVNULL, check=True, timeout=60)
        wait_for(lambda: _state(environment) == "idle", 30)
        yield conf
    finally:
        subprocess.run(["scancel", f"--user={rig.user}"], env=environment, check=False, timeout=30)
        wait_for(lambda: not _printed(environment, "squeue", "-h"), 30)
        for file in (folder / "run").glob("*.pid"):
            os.kill(int(file.read_text()), signal.SIGTERM)


def _conf(rig: Rig, folder: Path) -> str:
    lines = []
    for line in rig.conf.read_text().splitlines():
        if line.startswith(("GresTypes=", "AccountingStorageTRES=", "ClusterName=", "SlurmctldPort=", "NodeName=")):
            continue
        for name in ("run/slurm", "state", "spool", "log"):
            line = line.replace(f"{rig.folder}/{name}", f"{folder}/{name}")
        lines.append(line)
    (node,) = (line for line in rig.conf.read_text().splitlines() if line.startswith(f"NodeName={rig.nodes[0]} "))
    node = re.sub(r" Gres=\S+", "", node).replace(rig.nodes[0], NODE, 1)
    node = re.sub(r" Port=\d+", f" Port={_free_port()}", node)
    return "\n".join([f"ClusterName={NAME}", f"SlurmctldPort={_free_port()}", *lines, node]) + "\n"


def _state(environment: dict[str, str]) -> str:
    return _printed(environment, "sinfo", "-h", "-N", "-p", "normal", "-o", "%T")


def _printed(environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout.strip()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
