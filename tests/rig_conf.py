"""The configuration files of the test cluster: what makes several slurmd on one machine work, as measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What kind of cluster: ``enforce`` is AccountingStorageEnforce, ``extra`` are lines for slurm.conf.

    Memory is enforced by cgroups (``cgroups``), or by slurmd, which looks every two seconds. ``comments`` is whether
    the accounting keeps a job's comment. Nodes are called ``prefix`` and their number, which no two clusters that run
    at once may share.
    """

    nodes: int = 4
    prefix: str = "n"
    cpus: int = 4
    gpus: int = 2
    memory_mb: int = 4096
    accounting: bool = True
    enforce: str = "associations,limits"
    max_array_size: int = 1001
    grace_s: int = 10
    cgroups: bool = False
    comments: bool = True
    extra: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a cluster is: its folder, and the ports of its daemons by name."""

    folder: Path
    host: str
    user: str
    ports: Mapping[str, int]


def slurm_conf(place: Place, shape: Shape, nodes: list[str]) -> str:
    """The text of slurm.conf."""
    ports = place.ports
    base = _BASE.format(R=place.folder, HOST=place.host, USER=place.user, CTLD=ports["slurmctld"])
    lines = [*base.splitlines(), f"MaxArraySize={shape.max_array_size}", *shape.extra]
    lines += (_CGROUPS if shape.cgroups else _NO_CGROUPS).splitlines()
    if shape.accounting:
        lines += _ACCOUNTING.format(R=place.folder, DBD=ports["slurmdbd"]).splitlines()
        lines += ["AccountingStoreFlags=job_comment"] if shape.comments else []
        lines += [f"AccountingStorageEnforce={shape.enforce}"] if shape.enforce else []
    else:
        lines += ["AccountingStorageType=accounting_storage/none"]
    lines += [
        f"NodeName={node} NodeHostname={place.host} NodeAddr=127.0.0.1 Port={ports[node]} CPUs={shape.cpus}"
        f" Sockets=1 CoresPerSocket={shape.cpus} ThreadsPerCore=1 RealMemory={shape.memory_mb}"
        f" Gres=gpu:{shape.gpus} State=UNKNOWN"
        for node in nodes
    ]
    partition = "Nodes=ALL MaxTime=INFINITE State=UP"
    lines += [
        f"PartitionName=normal {partition} Default=YES PriorityTier=10 PreemptMode=OFF",
        f"PartitionName=scavenger {partition} PriorityTier=1 PreemptMode=REQUEUE GraceTime={shape.grace_s}",
    ]
    return "\n".join(lines) + "\n"


def cgroup_conf(shape: Shape) -> str:
    """The text of cgroup.conf; slurmd initialises cgroups even when nothing uses them."""
    return "CgroupPlugin=cgroup/v1\n" + ("ConstrainRAMSpace=yes\n" if shape.cgroups else "")


def slurmdbd_conf(place: Place) -> str:
    """The text of slurmdbd.conf."""
    ports = place.ports
    return _SLURMDBD.format(R=place.folder, USER=place.user, DBD=ports["slurmdbd"], SQL=ports["mariadb"])


_BASE = """\
ClusterName=lab
SlurmctldHost={HOST}(127.0.0.1)
SlurmUser={USER}
SlurmdUser={USER}
AuthType=auth/munge
AuthInfo=socket={R}/run/munge.socket,cred_expire=10
CredType=cred/munge
SlurmctldPort={CTLD}
SlurmctldPidFile={R}/run/slurmctld.pid
SlurmdPidFile={R}/run/slurmd.%n.pid
StateSaveLocation={R}/state
SlurmdSpoolDir={R}/spool/%n
SlurmctldLogFile={R}/log/slurmctld.log
SlurmdLogFile={R}/log/slurmd.%n.log
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=256
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=20
InactiveLimit=0
KillWait=5
MinJobAge=300
UnkillableStepTimeout=20
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=100000,bf_interval=2,batch_sched_delay=1,default_queue_depth=1000
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
MaxJobCount=10000
KillOnBadExit=0
DependencyParameters=kill_invalid_depend"""

_ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={DBD}
AccountingStoragePass={R}/run/munge.socket
AccountingStorageTRES=gres/gpu"""

_CGROUPS = """\
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup"""

_NO_CGROUPS = """\
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherParams=OverMemoryKill"""

_SLURMDBD = """\
AuthType=auth/munge
AuthInfo=socket={R}/run/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={DBD}
SlurmUser={USER}
DebugLevel=info
LogFile={R}/log/slurmdbd.log
PidFile={R}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={SQL}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
"""
