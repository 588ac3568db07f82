"""Checks of a cluster profile: whether the site takes what jobs of each stage ask for, and has their container."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.doctor import Finding, examine
from pipeline.doctor_gpu import check_build, examine_gpu
from pipeline.manifest.load import load_profile
from pipeline.manifest.model import Cluster, Resources
from pipeline.manifest.resources import DEFAULTS
from pipeline.when import earliest_start
from slurm.array import Container, Site
from slurm.errors import SubmitError
from slurm.sbatch import apptainer_checks, setup_lines

TIMEOUT_S = 60


def examine_site(storage: Path, *, ask_gpu: bool, profile: Path | None) -> Iterator[Finding]:
    """Every check: of this machine and the storage, of a cluster profile if there is one, of a node's GPU if asked.

    Without Slurm it is this machine whose GPU is asked. Raises ManifestError for a profile that can't be read.
    """
    cluster, resources = (Cluster(), DEFAULTS) if profile is None else load_profile(profile)
    yield from examine(storage, cluster.clusters)
    yield check_build()
    if profile is not None:
        yield from examine_profile(cluster, resources, storage)
    if ask_gpu:
        yield from examine_gpu(cluster.site("train") if shutil.which("srun") else None)


def examine_profile(profile: Cluster, resources: Mapping[str, Resources], storage: Path) -> Iterator[Finding]:
    """Whether Slurm takes a job of each stage, which is not queued; and whether this machine has the container."""
    if profile.executor != "slurm" or shutil.which("sbatch") is None:
        return
    for stage, given in resources.items():
        yield _try_stage(stage, profile.site(stage), given, storage)
    if profile.container is not None:
        yield check_container(profile, profile.container)


def _try_stage(stage: str, site: Site, given: Resources, storage: Path) -> Finding:
    name = f"stage {stage}"
    asked = f"{given.cpus} CPUs, {given.gpus} GPUs, {given.mem_gb:g} GB, {given.time_min} min"
    place = f"partition {site.partition}" if site.partition else "the default partition"
    try:
        earliest_start(stage, site, given, storage)
    except SubmitError as error:
        return Finding(name=name, ok=False, reason=f"the site refuses it: {error} ({asked} in {place})")
    return Finding(name=name, ok=True, reason=f"the site takes it: {asked} in {place}")


def check_container(site: Site, container: Container) -> Finding:
    """Whether this machine has what starts the container, and the image where that is a file."""
    if container.pyxis:
        options = _printed(["srun", "--help"])
        ok = "--container-image" in options
        lacking = "srun has no option --container-image: Pyxis is not installed here"
        return Finding(name="container", ok=ok, reason=f"by Pyxis: {container.pyxis}" if ok else lacking)
    lines = [*setup_lines(site), *apptainer_checks(container), "apptainer --version"]
    printed = _printed(["bash", "-c", "\n".join(lines)])
    complaint = next((line for line in printed.splitlines() if line.startswith("tanda: ")), None)
    version = (printed.strip().splitlines() or ["apptainer"])[-1]
    reason = f"{version}: {container.apptainer}"
    return Finding(name="container", ok=complaint is None, reason=(complaint or reason).removeprefix("tanda: "))


def _printed(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"tanda: {error}"
    return done.stdout + done.stderr
