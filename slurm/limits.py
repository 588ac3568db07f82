"""What this Slurm allows, by its own commands: sizes, counts, partitions, accounting.

What cannot be read is None, and said; a size without which no array can be cut to fit is an error.
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from slurm.commands import NO_VALUE, call, on_cluster, read_text, warn_once
from slurm.errors import SlurmError

DEFAULT_MAX_ARRAY_SIZE = 1001  # Slurm's own, for scripts that are only looked at
_ENDLESS = ("infinite", "unlimited", "n/a", "none", "not_set", "partition_limit")
_TIME = re.compile(r"(?:(?P<days>[0-9]+)-)?(?P<parts>[0-9]+(?::[0-9]+){0,2})")
_GRES = re.compile(r"gpu(?::(?P<kind>[^:,()=]*[^:,()=0-9][^:,()=]*))?(?::(?P<count>[0-9]+))?")
# What sbatch refuses, in lower case, and where those are listed that it would take.
_LISTED = {
    "invalid partition": ("partitions here", ["sinfo", "-h", "-o", "%R"]),
    "invalid account": ("your accounts", ["sacctmgr", "-n", "-P", "show", "assoc", "user={user}", "format=Account"]),
    "invalid qos": ("your QOS", ["sacctmgr", "-n", "-P", "show", "assoc", "user={user}", "format=QOS"]),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """``time_limit_min`` is None where there is none; ``gpus`` counts those of all its nodes, by type."""

    name: str
    time_limit_min: int | None
    gpus: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """``max_array_size`` is the most elements of one array. ``max_submit_jobs`` is the tightest limit of this user's
    associations and their QOS on queued elements, None where accounting sets none or does not answer."""

    version: str
    cluster: str
    max_array_size: int
    accounting: bool
    max_submit_jobs: int | None
    partitions: tuple[Partition, ...]


def read(cluster: str | None = None) -> Limits:
    """Ask Slurm for everything, by five commands at most, of the cluster of that name or this machine's.

    Raises SlurmError when the controller does not answer, or in words that cannot be read.
    """
    config = read_config(cluster)
    accounting = keeps_accounting(config)
    return Limits(
        version=config.get("SLURM_VERSION", "unknown"),
        cluster=config.get("ClusterName", "unknown"),
        max_array_size=max_array_size(config),
        accounting=accounting,
        max_submit_jobs=_max_submit_jobs(cluster) if accounting else None,
        partitions=parse_partitions(call([*on_cluster("sinfo", cluster), "-h", "-o", "%P|%l|%D|%G"])),
    )


def read_config(cluster: str | None = None) -> dict[str, str]:
    """The configuration by name of the cluster of that name or this machine's, by one command. Raises SlurmError."""
    return parse_config(call([*on_cluster("scontrol", cluster), "show", "config"]))


@cache
def local_cluster() -> str | None:
    """The name of this machine's cluster, asked once in the life of this process. Raises SlurmError."""
    return read_config().get("ClusterName")


def parse_config(text: str) -> dict[str, str]:
    """Names and values of ``scontrol show config``."""
    pairs = (line.split("=", 1) for line in text.split("\n") if "=" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def max_array_size(config: Mapping[str, str]) -> int:
    """The most elements of one array: an array counts with all of them against MaxJobCount.

    Raises SlurmError where the configuration does not say, or not in a number.
    """
    sizes = [_size("MaxArraySize", config.get("MaxArraySize", "nothing"))]
    if "MaxJobCount" in config:
        sizes.append(_size("MaxJobCount", config["MaxJobCount"]))
    return max(1, min(sizes))


def _size(name: str, printed: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", printed):
        raise SlurmError(f"scontrol show config: {name} is {printed!r}: not a number")
    return int(printed)


def keeps_accounting(config: Mapping[str, str]) -> bool:
    """Whether the controller sends its jobs to a database: 22.05 says accounting_storage/none where not, 24.11 (null).

    Where it does not say, sacct is asked, which knows.
    """
    kind = read_text(config.get("AccountingStorageType", "?"))
    return kind != "" and not kind.endswith("/none")


def parse_partitions(text: str) -> tuple[Partition, ...]:
    """Partitions from ``sinfo -h -o '%P|%l|%D|%G'``: a line for each kind of node in each.

    A line that is none, or holds what cannot be read, is left out and warned of.
    """
    partitions: dict[str, Partition] = {}
    for line in text.split("\n"):
        try:
            name, limit, nodes, gres = (field.strip() for field in line.split("|"))
            time_limit_min, count = parse_minutes(limit), _size("nodes", nodes)
            own = tuple(_gpus(gres))
        except (ValueError, SlurmError):
            if line.strip():
                warn_once(f"sinfo printed a line that is no partition's: {line.strip()!r}")
            continue
        name = name.removesuffix("*")  # marks the default
        gpus = dict(partitions[name].gpus) if name in partitions else {}
        for kind, each in own:
            gpus[kind] = gpus.get(kind, 0) + each * count
        partitions[name] = Partition(name=name, time_limit_min=time_limit_min, gpus=gpus)
    return tuple(partitions.values())


def _gpus(gres: str) -> Iterable[tuple[str, int]]:
    for part in re.sub(r"\([^)]*\)", "", gres).split(","):
        if part.strip().split(":")[0] != "gpu":
            continue
        match = _GRES.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{part}: not a number of GPUs")
        yield match["kind"] or "gpu", int(match["count"] or 1)


def parse_minutes(limit: str) -> int | None:
    """Minutes of a time limit as Slurm writes it (``2-00:00:00``, ``30:00``); None where it says that there is none.

    Raises ValueError for anything else.
    """
    if limit.casefold() in _ENDLESS:
        return None
    match = _TIME.fullmatch(limit)
    if match is None:
        raise ValueError(f"{limit!r}: no time limit")
    numbers = [int(part) for part in match["parts"].split(":")]
    if match["days"]:
        hours, minutes = [*numbers, 0, 0][:2]
    elif len(numbers) == 3:
        hours, minutes = numbers[:2]
    else:
        hours, minutes = 0, numbers[0]
    return int(match["days"] or 0) * 1440 + hours * 60 + minutes


def _max_submit_jobs(cluster: str | None) -> int | None:
    owner = [f"user={getpass.getuser()}", *([f"cluster={cluster}"] if cluster else [])]
    own = ["sacctmgr", "-n", "-P", "show", "assoc", *owner, "format=MaxSubmitJobs,GrpSubmitJobs,QOS"]
    every = ["sacctmgr", "-n", "-P", "show", "qos", "format=MaxSubmitJobsPerUser,GrpSubmitJobs,Name"]
    try:
        associations = parse_submit_limits(call(own))
        names = {name for _, listed in associations for name in listed.split(",")}
        qos = [(limits, name) for limits, name in parse_submit_limits(call(every)) if name in names]
    except SlurmError:
        return None
    return min((limit for limits, _ in (*associations, *qos) for limit in limits), default=None)


def parse_submit_limits(text: str) -> list[tuple[tuple[int, ...], str]]:
    """Rows of sacctmgr's of two limits and a name or names: the limits that are set, and the third field.

    A line that is no such row is left out and warned of.
    """
    rows: list[tuple[tuple[int, ...], str]] = []
    for line in filter(str.strip, text.split("\n")):
        *limits, names = (field.strip() for field in line.split("|"))
        if len(limits) != 2 or not all(re.fullmatch("-1|[0-9]{0,10}", limit) for limit in limits):
            warn_once(f"sacctmgr printed a line that holds no limits: {line.strip()!r}")
            continue
        given = (int(limit) for limit in limits if limit not in ("", "-1"))
        rows.append((tuple(limit for limit in given if limit < NO_VALUE), names))
    return rows


def legal_instead(refusal: str) -> str:
    """The end of a message that sbatch refused something: what this user may name in its place, where Slurm says so."""
    for words, (title, command) in _LISTED.items():
        if words not in refusal.lower():
            continue
        try:
            text = call([part.format(user=getpass.getuser()) for part in command])
        except SlurmError:  # the refusal itself is the error to report
            return ""
        names = dict.fromkeys(name.strip() for line in text.splitlines() for name in line.split(",") if name.strip())
        return f"; {title}: {', '.join(names)}" if names else ""
    return ""
