"""When what is not queued yet could start: Slurm is asked for each kind of job, and nothing is queued."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from pipeline.manifest.model import Resources
from pipeline.plan import Plan, make_arrays
from pipeline.state_words import time_words
from sharedfs.clock import SYSTEM, Clock
from slurm.array import Array, Site
from slurm.array import Resources as Given
from slurm.errors import SubmitError
from slurm.executors.slurm import SlurmArrays

SHAPES = 3  # kinds of jobs that are asked about: each is a call of sbatch


def earliest_start(stage: str, site: Site, given: Resources, folder: Path) -> float | None:
    """When Slurm could start a job of a stage at the earliest, None where it does not say.

    Raises SubmitError with what it refuses.
    """
    array = Array(
        name=f"tanda-test-{stage}",
        elements=((folder,),),
        command=("true",),
        folder=folder,
        resources=Given(cpus=given.cpus, gpus=given.gpus, mem_gb=given.mem_gb, time_min=given.time_min),
        site=site,
    )
    return SlurmArrays().test(array)


def when_lines(plan: Plan, done: Collection[str], clock: Clock = SYSTEM) -> Iterator[str]:
    """Of each kind of job that is to do, the first three: when Slurm could start one at the earliest.

    That is with the queue as it is, and without what the job itself has to wait for.
    """
    cluster = plan.manifest.cluster
    if cluster.executor != "slurm":
        yield f"when: jobs of the executor {cluster.executor} wait for no one else's"
        return
    shapes: set[tuple[str, tuple[float, ...]]] = set()
    for array in make_arrays([planned for planned in plan.tasks if planned.id not in done]):
        given, site = array.resources, cluster.site(array.stage)
        shape = (repr(site), (given.cpus, given.gpus, given.mem_gb, given.time_min))
        if shape in shapes:
            continue
        if len(shapes) == SHAPES:
            yield f"when: there are more kinds of jobs; {SHAPES} were asked about"
            return
        shapes.add(shape)
        words = f"{given.gpus} GPUs, {given.cpus} CPUs, {given.mem_gb:g} GB, {given.time_min} min"
        yield f"when: {array.stage} of {array.group} ({words}): {_earliest(array.stage, site, given, plan, clock)}"


def _earliest(stage: str, site: Site, given: Resources, plan: Plan, clock: Clock) -> str:
    try:
        found = earliest_start(stage, site, given, plan.manifest.storage)
    except SubmitError as error:
        return f"refused: {error}"
    return "Slurm does not say" if found is None else f"not before {time_words(found, clock)}"
