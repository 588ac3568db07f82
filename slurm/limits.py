"""What this Slurm allows, by its own commands: sizes, counts, partitions, accounting."""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from slurm.commands import call, read_text, warn_once
from slurm.errors import SlurmError

DEFAULT_MAX_ARRAY_SIZE = 1001  # Slurm's own, where nothing says another


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """``time_limit_min`` is None where there is none; ``gpus`` counts those of all its nodes, by type."""

    name: str
    time_limit_min: int | None
    gpus: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """``max_array_size`` is the most elements of one array. ``max_submit_jobs`` is the tightest limit of this user's
    associations and QOS on queued elements, None where accounting sets none or does not answer."""

    version: str
    cluster: str
    max_array_size: int
    accounting: bool
    max_submit_jobs: int | None
    partitions: tuple[Partition, ...]


def read() -> Limits:
    """Ask Slurm for everything, by four commands. Raises SlurmError when the controller does not answer."""
    config = read_config()
    accounting = keeps_accounting(config)
    return Limits(
        version=config.get("SLURM_VERSION", "unknown"),
        cluster=config.get("ClusterName", "unknown"),
        max_array_size=int(config.get("MaxArraySize", DEFAULT_MAX_ARRAY_SIZE)),
        accounting=accounting,
        max_submit_jobs=_max_submit_jobs() if accounting else None,
        partitions=parse_partitions(call(["sinfo", "-h", "-o", "%P|%l|%D|%G"])),
    )


def read_config() -> dict[str, str]:
    """Slurm's configuration by name, by one command. Raises SlurmError."""
    return parse_config(call(["scontrol", "show", "config"]))


def parse_config(text: str) -> dict[str, str]:
    """Names and values of ``scontrol show config``."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def keeps_accounting(config: Mapping[str, str]) -> bool:
    """Whether the site keeps accounting: 22.05 calls none ``accounting_storage/none``, 24.11 prints ``(null)``."""
    kind = read_text(config.get("AccountingStorageType", ""))
    return bool(kind) and not kind.endswith("/none")


def parse_partitions(text: str) -> tuple[Partition, ...]:
    """Partitions from ``sinfo -h -o '%P|%l|%D|%G'``: a line for each kind of node in each; a banner is skipped."""
    partitions: dict[str, Partition] = {}
    for line in text.splitlines():
        name, *facts = line.split("|")
        if len(facts) != 3 or not facts[1].isdigit():
            if line.strip():
                warn_once(f"sinfo printed a line that is no partition's: {line.strip()!r}")
            continue
        limit, nodes, gres = facts
        name = name.rstrip("*")  # marks the default
        gpus = dict(partitions[name].gpus) if name in partitions else {}
        for kind, count in _gpus(gres):
            gpus[kind] = gpus.get(kind, 0) + count * int(nodes)
        partitions[name] = Partition(name=name, time_limit_min=parse_minutes(limit), gpus=gpus)
    return tuple(partitions.values())


def _gpus(gres: str) -> Iterable[tuple[str, int]]:
    for part in re.sub(r"\([^)]*\)", "", gres).split(","):
        kind, *counts = part.split(":")
        if kind == "gpu":
            yield (counts[0] if len(counts) > 1 else "gpu", int(counts[-1]) if counts and counts[-1].isdigit() else 1)


def parse_minutes(limit: str) -> int | None:
    """Minutes of a time limit as Slurm writes it (``2-00:00:00``, ``30:00``); None for infinite or none."""
    days, _, rest = limit.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in parts) or (days and not days.isdigit()):
        return None
    numbers = [int(part) for part in parts]
    if days:
        hours, minutes = [*numbers, 0, 0][:2]
    elif len(numbers) == 3:
        hours, minutes = numbers[:2]
    else:
        hours, minutes = 0, numbers[0]
    return int(days or 0) * 1440 + hours * 60 + minutes


def _max_submit_jobs() -> int | None:
    user = getpass.getuser()
    queries = (
        ["sacctmgr", "-n", "-P", "show", "assoc", f"user={user}", "format=MaxSubmitJobs,GrpSubmitJobs"],
        ["sacctmgr", "-n", "-P", "show", "qos", "format=MaxSubmitJobsPerUser,GrpSubmitJobs"],
    )
    try:
        values = [value for query in queries for line in call(query).splitlines() for value in line.split("|")]
    except SlurmError:
        return None
    return min((int(value) for value in values if value.isdigit()), default=None)
