"""One command on one node of the cluster, waited for: what a person asks a node, and no task."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from slurm.array import Site
from slurm.commands import call
from slurm.sbatch import apptainer_words, pyxis_options, setup_lines

TIME_MIN = 5


def run_on_node(
    command: Sequence[str],
    site: Site,
    *,
    gpus: int,
    wait_s: int,
    code: Path,
    environment: Mapping[str, str] | None = None,
) -> str:
    """What the command printed as one task of a job with so many GPUs, set up as the site's elements are.

    ``code`` is the folder that it imports from. Raises SlurmError: also where no node is free within ``wait_s``.
    """
    words = srun_command(command, site, gpus=gpus, wait_s=wait_s, code=code)
    return call(words, environment={**site.environment, **(environment or {})}, timeout_s=wait_s + 60 * TIME_MIN)


def srun_command(command: Sequence[str], site: Site, *, gpus: int, wait_s: int, code: Path) -> list[str]:
    """The call of srun: a short job of one task, by the site's partition, account and other options."""
    placed = {
        "clusters": site.clusters,
        "partition": site.partition,
        "account": site.account,
        "qos": site.qos,
        "constraint": site.constraint,
        "exclude": site.exclude,
    }
    options = {
        "ntasks": 1,
        "gpus": f"{site.gres_type}:{gpus}" if site.gres_type else gpus,
        "time": TIME_MIN,
        "immediate": wait_s,
        "job-name": "tanda-doctor",
        **{name: value for name, value in placed.items() if value is not None},
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    mounts = [f"{code}:{code}", *(site.container.mounts if site.container else ())]
    if site.container is not None and site.container.pyxis:
        # The shell is in the image, too, where the site's modules are not.
        return ["srun", *words, *pyxis_options(site.container, mounts), *command]
    inside = apptainer_words(site.container, mounts) if site.container else []
    lines = [*setup_lines(site), f"exec {shlex.join([*inside, *command])}"]
    return ["srun", *words, "bash", "-c", "\n".join(lines)]
