"""Why a job waits: Slurm's reasons in plain words, and what to change."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """What a reason means, and what a person can do about it; ``advice`` is empty where there is nothing to do."""

    meaning: str
    advice: str = ""


_SMALLER = "ask for less (cpus, mem_gb, gpus, time_min under `resources`), or for another partition in the profile"
_REASONS = {
    "Priority": Reason("jobs with a higher priority go first"),
    "Resources": Reason("next in line; the nodes it needs are busy"),
    "Dependency": Reason("waits for other jobs to end"),
    "DependencyNeverSatisfied": Reason(
        "what it waits for failed, so it can never start", "mend what failed, then submit again"
    ),
    "JobArrayTaskLimit": Reason(
        "as many of its array run as `throttle` allows", "raise `throttle` under `resources` if the site can spare it"
    ),
    "JobHeldUser": Reason("held by a user", "`scontrol release` lets it start"),
    "JobHeldAdmin": Reason("held by an administrator, or after too many failed starts", "ask the administrators"),
    "BeginTime": Reason("was started before, and may begin again in a moment"),
    "Reservation": Reason("waits for its reservation to begin"),
    "ReqNodeNotAvail": Reason(
        "a node it needs is down, drained or reserved", "leave out `nodelist` or `constraint`, or wait for maintenance"
    ),
    "PartitionTimeLimit": Reason(
        "asks for more time than its partition allows", "lower `time_min` under `resources`, or change the partition"
    ),
    "PartitionNodeLimit": Reason("asks for more nodes than its partition has", "change the partition in the profile"),
    "PartitionConfig": Reason("asks for more than its partition allows", _SMALLER),
    "PartitionDown": Reason("its partition takes no jobs at present", "change the partition in the profile, or wait"),
    "PartitionInactive": Reason("its partition is closed", "change the partition in the profile"),
    "BadConstraints": Reason("no node has what it asks for", "change `constraint` in the profile, or ask for less"),
    "NodeDown": Reason("the node it needs is down", "leave out `nodelist`, or wait"),
    "AccountNotAllowed": Reason("this account may not use the partition", "change `account` or `partition`"),
    "QOSNotAllowed": Reason("this QOS may not be used there", "change `qos` or `partition`"),
    "InvalidAccount": Reason("the account is not known", "set `account` in the profile"),
    "InvalidQOS": Reason("the QOS is not known", "set `qos` in the profile"),
    "Licenses": Reason("waits for a licence"),
    "Prolog": Reason("its node is being made ready"),
    "Cleaning": Reason("its last start is being cleared away"),
    "None": Reason("the scheduler has not looked at it yet"),
    "JobLaunchFailure": Reason(
        "could not be started on its node (file system, log folder or account there)", "see the log of the element"
    ),
    "launch_failed_requeued_held": Reason(
        "could not be started on its node, and Slurm holds it", "`tanda submit` again lets it start"
    ),
    "job_requeued_in_held_state": Reason("was requeued and is held", "`scontrol release` lets it start"),
    "NodeFailure": Reason("its node failed; it starts again elsewhere"),
}
_STUCK = "launch_failed_requeued_held"
_ENDS = ("JobLaunchFailure", "NodeFailure", "NodeDown", "DependencyNeverSatisfied")
# A limit's name says whose it is and what it counts: AssocMaxJobsLimit, QOSGrpCpuLimit, MaxGRESPerUser.
_OWNERS = (("QOS", "the QOS"), ("Assoc", "your account"), ("Max", "the site"), ("Grp", "your group"))
_COUNTED = (
    ("submitjob", "jobs queued", "wait until some have ended, then submit again"),
    ("wall", "time", "lower `time_min` under `resources`"),
    ("gres", "GPUs", "lower `gpus` or `throttle` under `resources`"),
    ("cpu", "CPUs", "lower `cpus` or `throttle` under `resources`"),
    ("mem", "memory", "lower `mem_gb` or `throttle` under `resources`"),
    ("node", "nodes", "lower `throttle` under `resources`"),
    ("job", "jobs at once", "nothing: they start as others end"),
    ("billing", "billed resources", _SMALLER),
)


def is_launch_held(reason: str | None) -> bool:
    """Whether Slurm holds a job after a start that failed on the node: it never starts unless it is released."""
    return (reason or "").strip("()").replace(" ", "_") == _STUCK


def waits(reason: str | None) -> bool:
    """Whether a reason tells of waiting: the accounting keeps a job's last one, which does not tell of its end."""
    return explain(reason) is _REASONS.get(reason or "") and reason not in _ENDS


def explain(reason: str | None) -> Reason:
    """A pending reason in words; one that is not known is given back as it is.

    >>> explain("QOSMaxCpuPerUserLimit").meaning
    'the QOS allows no more CPUs at present'
    """
    word = (reason or "None").strip("()").split(",")[0].strip().replace(" ", "_")
    if word in _REASONS:
        return _REASONS[word]
    owner = next((name for start, name in _OWNERS if word.startswith(start)), None)
    if owner is not None:
        for part, counted, advice in _COUNTED:
            if part in word.lower():
                return Reason(f"{owner} allows no more {counted} at present", advice)
    if word.startswith("ReqNodeNotAvail"):
        return _REASONS["ReqNodeNotAvail"]
    return Reason(f"Slurm says {word}")
