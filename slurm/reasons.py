"""Why a job waits: Slurm's reasons in plain words, and what to change. The texts are in ``reasons.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Reason:
    """What a reason means, and what a person can do about it; ``advice`` is empty where there is nothing to do."""

    meaning: str
    advice: str = ""


_LAUNCH_HELD = "launch_failed_requeued_held"
# Reasons that tell how a job ended, too; any other is of its waiting.
_OF_ENDS = ("JobLaunchFailure", "NodeFailure", "NodeDown", "DependencyNeverSatisfied")
# A limit's name says whose it is and what it counts: AssocMaxJobsLimit, QOSGrpCpuLimit, MaxGRESPerUser.
_OWNERS = (("QOS", "the QOS"), ("Assoc", "your account"), ("Max", "the site"), ("Grp", "your group"))
_LESS = "ask for less (cpus, mem_gb, gpus, time_min under `resources`), or for another partition in the profile"
_COUNTED = (
    ("submitjob", "jobs queued", "wait until some have ended, then submit again"),
    ("wall", "time", "lower `time_min` under `resources`"),
    ("gres", "GPUs", "lower `gpus` or `throttle` under `resources`"),
    ("cpu", "CPUs", "lower `cpus` or `throttle` under `resources`"),
    ("mem", "memory", "lower `mem_gb` or `throttle` under `resources`"),
    ("node", "nodes", "lower `throttle` under `resources`"),
    ("job", "jobs at once", "nothing: they start as others end"),
    ("billing", "billed resources", _LESS),
)


@cache
def _reasons() -> dict[str, Reason]:
    text = Path(__file__).with_name("reasons.toml").read_text()
    return {name: Reason(**reason) for name, reason in tomllib.loads(text).items()}


def is_launch_held(reason: str | None) -> bool:
    """Whether Slurm holds a job after a start that failed on the node: it never starts unless it is released."""
    return (reason or "").strip("()").replace(" ", "_") == _LAUNCH_HELD


def is_waiting_reason(reason: str | None) -> bool:
    """Whether a reason tells of waiting: the accounting keeps a job's last one, which does not tell of its end."""
    return explain(reason) is _reasons().get(reason or "") and reason not in _OF_ENDS


def explain(reason: str | None) -> Reason:
    """A pending reason in words; one that is not in the table is repeated as it is.

    >>> explain("QOSMaxCpuPerUserLimit").meaning
    'the QOS allows no more CPUs at present'
    """
    name = (reason or "None").strip("()").split(",")[0].strip().replace(" ", "_")
    reasons = _reasons()
    if name in reasons:
        return reasons[name]
    owner = next((owner for start, owner in _OWNERS if name.startswith(start)), None)
    if owner is not None:
        for part, counted, advice in _COUNTED:
            if part in name.lower():
                return Reason(f"{owner} allows no more {counted} at present", advice)
    if name.startswith("ReqNodeNotAvail"):
        return reasons["ReqNodeNotAvail"]
    return Reason(f"Slurm says {name}")
