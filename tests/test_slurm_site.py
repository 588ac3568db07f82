"""A site's ways in the sbatch text: memory, GPUs, options left out, another cluster, containers."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from test_slurm_scripts import PLAIN, make_array

from sharedfs.typed_json import Json
from slurm.array import Array, Container, Resources, Site
from slurm.executors.slurm import SlurmArrays
from slurm.srun import srun_command

MEM = "#SBATCH --mem=1024M\n"
SRUN = "srun --export=ALL --unbuffered --output /s/tanda-train.0/%A_%a_%t_log.out --cpus-per-task=1"


@pytest.fixture(autouse=True)
def no_slurm_in_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")


def script(site: Site, **facts: object) -> str:
    (text,) = SlurmArrays(site=replace(site, python="python3.11")).scripts(make_array(**facts))
    return text


@pytest.mark.parametrize(
    ("memory", "given", "line"),
    [
        ("per_node", Resources(), MEM),
        ("per_cpu", Resources(cpus=3), "#SBATCH --mem-per-cpu=342M\n"),
        ("per_gpu", Resources(gpus=2), "#SBATCH --mem-per-gpu=512M\n"),
        ("per_gpu", Resources(), MEM),
        ("none", Resources(gpus=2), ""),
    ],
)
def test_memory_is_asked_for_in_the_sites_way(memory: str, given: Resources, line: str) -> None:
    text = script(Site(memory=memory), resources=given)
    assert [part for part in text.splitlines(keepends=True) if "--mem" in part] == ([line] if line else [])


@pytest.mark.parametrize("mem_gb", [0.0004, 0, -1])
def test_a_memory_that_comes_to_nothing_is_refused(mem_gb: float) -> None:
    with pytest.raises(ValueError, match="mem_gb from"):
        Resources(mem_gb=mem_gb)


EXTRA: Mapping[str, tuple[dict[str, Json], str, str]] = {
    "null leaves one of ours out": ({"mem": None}, MEM, ""),
    "false does, too": ({"requeue": False}, "#SBATCH --requeue\n", ""),
    "null of one that is not ours": ({"nice": None}, "", ""),
    "another way for memory replaces ours": ({"mem_per_cpu": "500M"}, MEM, "#SBATCH --mem-per-cpu=500M\n"),
    "true has no value": ({"requeue": True}, "", ""),
    "a number": ({"nodes": 0}, "--nodes=1", "--nodes=0"),
}


@pytest.mark.parametrize("case", EXTRA)
def test_extra_adds_replaces_and_leaves_out(case: str) -> None:
    extra, ours, theirs = EXTRA[case]
    assert script(Site(extra=extra)) == PLAIN.replace(ours, theirs)


@pytest.mark.parametrize(
    ("site", "line"),
    [
        (Site(), "#SBATCH --gpus-per-node=2"),
        (Site(gres_type="a100"), "#SBATCH --gpus-per-node=a100:2"),
        (Site(gpu_option="gres"), "#SBATCH --gres=gpu:2"),
        (Site(gpu_option="gres", gres_type="a100"), "#SBATCH --gres=gpu:a100:2"),
    ],
)
def test_gpus_are_asked_for_by_the_sites_option(site: Site, line: str) -> None:
    text = script(site, resources=Resources(gpus=2))
    assert [part for part in text.splitlines() if "gpu" in part] == [line]
    assert "gpu" not in script(site)


@pytest.mark.parametrize(("least_min", "line"), [(None, []), (60, []), (59, ["#SBATCH --time-min=59"])])
def test_less_time_is_taken_where_the_site_says_so_and_it_is_less(least_min: int | None, line: list[str]) -> None:
    text = script(Site(least_min=least_min), resources=Resources(time_min=60))
    assert [part for part in text.splitlines() if "time-min" in part] == line


def test_another_cluster_is_named_in_the_script() -> None:
    named = PLAIN.replace("#SBATCH --comment", "#SBATCH --clusters=other\n#SBATCH --comment")
    assert script(Site(clusters="other")) == named
    command = srun_command(["true"], Site(clusters="other"), gpus=1, wait_s=1, code=Path("/c"))
    assert "--clusters=other" in command


def test_an_arrays_own_options_stand_above_the_executors() -> None:
    (text,) = SlurmArrays(site=Site(partition="gpu")).scripts(make_array(site=Site(python="python3.11")))
    assert text == PLAIN


def test_a_percent_in_a_path_is_no_pattern_of_slurms() -> None:
    (text,) = SlurmArrays().scripts(Array(name="x", elements=((Path("/r"),),), command=("a",), folder=Path("/50%done")))
    assert "#SBATCH --output=/50%%done/x.0/%j_0_log.out" in text
    assert "srun --export=ALL --unbuffered --output /50%%done/x.0/%j_%t_log.out" in text
    assert "submitit.core._submit /50%done/x.0" in text


# Containers.

REQUEUE = """\
status=$?
if [ "$status" -eq 75 ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
fi
exit "$status"
"""
APPTAINER = """\
if ! command -v apptainer > /dev/null; then
    echo "tanda: no apptainer on PATH of $(hostname): a module of the profile must bring it" >&2
    exit 1
fi
if [ ! -e /images/torch.sif ]; then
    echo tanda: no such image: /images/torch.sif >&2
    exit 1
fi
"""


def test_apptainer_runs_the_elements_command_with_all_that_it_reads_mounted() -> None:
    site = Site(container=Container(apptainer="/images/torch.sif", mounts=("/data:/data:ro",)))
    inside = "apptainer exec --nv --bind /elsewhere:/elsewhere --bind /s:/s --bind /data:/data:ro /images/torch.sif"
    expected = PLAIN.replace(f"{SRUN} ", f"{APPTAINER}{SRUN} {inside} ") + REQUEUE
    assert script(site, storage=(Path("/s"), Path("/elsewhere"))) == expected


def test_pyxis_is_an_option_of_sruns() -> None:
    site = Site(container=Container(pyxis="nvcr.io#nvidia/pytorch:25.01-py3", mounts=("/data",)))
    options = "'--container-image=nvcr.io#nvidia/pytorch:25.01-py3' --container-mounts=/s:/s,/data"
    assert script(site, storage=(Path("/s"),)) == PLAIN.replace(SRUN, f"{SRUN} {options}") + REQUEUE


def test_an_image_of_a_registry_is_not_looked_for_as_a_file() -> None:
    text = script(Site(container=Container(apptainer="docker://pytorch/pytorch")))
    assert "no such image" not in text and "--bind /s:/s docker://pytorch/pytorch python3.11" in text


def test_python_in_a_container_is_the_images_own() -> None:
    (text,) = SlurmArrays(site=Site(container=Container(apptainer="/i.sif"))).scripts(make_array())
    assert "/i.sif python3 -u -m submitit.core._submit" in text


def test_a_node_is_asked_from_inside_the_container() -> None:
    apptainer = Site(modules=("apptainer",), container=Container(apptainer="/i.sif", mounts=("/data",)))
    *_, shell = srun_command(["python3", "-m", "x"], apptainer, gpus=1, wait_s=1, code=Path("/c"))
    assert shell.endswith("exec apptainer exec --nv --bind /c:/c --bind /data /i.sif python3 -m x")
    pyxis = Site(modules=("python",), container=Container(pyxis="image"))
    command = srun_command(["python3", "-m", "x"], pyxis, gpus=1, wait_s=1, code=Path("/c"))
    assert command[-5:] == ["--container-image=image", "--container-mounts=/c:/c", "python3", "-m", "x"]


PROGRAMS = {
    "srun": 'while [ "$1" != apptainer ]; do shift; done; exec "$@"',
    "apptainer": "echo in the image; exit $(cat status)",
    "scontrol": 'echo "$*" > requeued',
}


@pytest.mark.parametrize(
    ("status", "missing", "code", "said", "requeued"),
    [
        ("0", None, 0, "in the image", False),
        ("1", None, 1, "in the image", False),
        ("75", None, 75, "in the image", True),
        ("0", "apptainer", 1, "tanda: no apptainer on PATH of ", False),
        ("0", "image", 1, "tanda: no such image: ", False),
    ],
)
def test_the_script_says_what_the_node_lacks_and_starts_again_what_asks_for_it(
    status: str, missing: str | None, code: int, said: str, requeued: bool, tmp_path: Path
) -> None:
    for name, text in PROGRAMS.items():
        if name != missing:
            (tmp_path / name).write_text(f"#!/bin/bash\ncd {tmp_path}\n{text}\n")
            (tmp_path / name).chmod(0o755)
    (tmp_path / "status").write_text(status)
    image = tmp_path / "torch.sif"
    if missing != "image":
        image.touch()
    (tmp_path / "s").mkdir(mode=0o755)
    array = make_array(folder=tmp_path / "s")
    (text,) = SlurmArrays(site=Site(container=Container(apptainer=str(image)))).scripts(array)
    (tmp_path / "s" / "tanda-train.0").mkdir(mode=0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    done = subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code and said in done.stdout + done.stderr
    assert (tmp_path / "requeued").exists() == requeued
    if requeued:
        assert (tmp_path / "requeued").read_text() == "requeue 7_2\n"
