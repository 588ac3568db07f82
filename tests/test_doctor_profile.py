"""What doctor says of a profile: what Slurm refuses of each stage, and what a container lacks."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_manifest import tanda

from pipeline.doctor_profile import check_container, examine_profile
from pipeline.manifest.load import load_profile
from slurm.array import Container, Site

# As a site's job_submit plugin does: GPUs on the one partition, none on the other.
SBATCH = """\
#!/bin/bash
echo "$@" >> {folder}/calls
cp "${{@: -1}}" {folder}/last
if grep -q partition=gpu "${{@: -1}}" && ! grep -q gpus-per-node "${{@: -1}}"; then
    echo "Welcome" >&2
    echo "sbatch: error: Jobs in partition gpu must ask for at least one GPU" >&2
    echo "allocation failure: Unspecified error" >&2
    exit 1
fi
echo "sbatch: Job 5 to start at 2026-01-01T00:00:00 using 1 processors on nodes n1" >&2
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    program(folder, "sbatch", SBATCH.format(folder=folder))
    program(folder, "scontrol", "#!/bin/sh\necho ClusterName = lab\n")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def profile(folder: Path, text: str) -> Path:
    path = folder / "site.yaml"
    path.write_text(text)
    return path


def test_each_stage_is_tried_and_none_is_queued(tmp_path: Path, programs: Path) -> None:
    text = "partition: gpu\nstages: {preprocess: {partition: cpu}}\nresources: {train: {gpus: 1}}\n"
    found = list(examine_profile(*load_profile(profile(tmp_path, text)), tmp_path))
    assert [(finding.name, finding.ok) for finding in found] == [
        ("stage preprocess", True), ("stage train", True), ("stage evaluate", False), ("stage close", False),
    ]  # fmt: skip
    assert found[2].reason == (
        "the site refuses it: sbatch: error: Jobs in partition gpu must ask for at least one GPU"
        " (2 CPUs, 0 GPUs, 8 GB, 30 min in partition gpu)"
    )
    calls = (programs / "calls").read_text().splitlines()
    assert len(calls) == 4 and all(call.startswith("--test-only ") for call in calls)
    assert "#SBATCH --time=60" in (programs / "last").read_text()


def test_nothing_is_tried_where_jobs_do_not_go_to_slurm(tmp_path: Path, programs: Path) -> None:
    assert list(examine_profile(*load_profile(profile(tmp_path, "executor: local\n")), tmp_path)) == []
    assert not (programs / "calls").exists()


def test_doctor_says_it_stage_by_stage_and_fails(tmp_path: Path, programs: Path) -> None:
    path = profile(
        tmp_path, "partition: gpu\ncontainer: {apptainer: /nowhere/torch.sif}\nresources: {train: {gpus: 1}}\n"
    )
    lines = tanda("doctor", tmp_path / "s", "--cluster", path, status=1).splitlines()
    verdicts = {line[5:].partition(":")[0]: line[:4] for line in lines}
    assert verdicts["stage train"] == "ok  " and verdicts["stage close"] == "FAIL"
    assert verdicts["container"] == "FAIL"


@pytest.mark.parametrize(
    ("there", "container", "ok", "reason"),
    [
        ({}, "apptainer", False, "no apptainer on PATH of "),
        ({"apptainer": "echo apptainer version 1.3"}, "apptainer", False, "no such image: "),
        ({"apptainer": "echo apptainer version 1.3", "image": ""}, "apptainer", True, "apptainer version 1.3: "),
        ({"apptainer": "echo apptainer version 1.3"}, "docker", True, "apptainer version 1.3: docker://torch"),
        ({"srun": "echo --job-name"}, "pyxis", False, "srun has no option --container-image: Pyxis is not installed"),
        ({"srun": "echo --container-image=IMAGE"}, "pyxis", True, "by Pyxis: torch"),
        ({}, "pyxis", False, "srun has no option --container-image"),
    ],
)
def test_what_a_container_lacks(
    there: dict[str, str], container: str, ok: bool, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "PATH", f"{tmp_path}:/usr/bin:/bin" if "srun" in there else f"{tmp_path}:{_without_srun(tmp_path)}"
    )
    for name, text in there.items():
        program(tmp_path, name, f"#!/bin/sh\n{text}\n")
    images = {
        "apptainer": Container(apptainer=str(tmp_path / "image")),
        "docker": Container(apptainer="docker://torch"),
        "pyxis": Container(pyxis="torch"),
    }
    found = check_container(Site(), images[container])
    assert found.ok is ok and found.reason.startswith(reason) and "\n" not in found.reason


def _without_srun(folder: Path) -> Path:
    """A folder with the few programs that the checks call, and no Slurm."""
    found = folder / "few"
    found.mkdir()
    for name in ("bash", "sh", "hostname", "echo"):
        path = next(Path(place, name) for place in ("/usr/bin", "/bin") if Path(place, name).exists())
        (found / name).symlink_to(path)
    return found


def test_a_module_may_bring_apptainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin", "apptainer", "#!/bin/sh\necho apptainer version 1.3\n")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    site = Site(activate=f"export PATH={tmp_path}/bin:$PATH")
    assert check_container(site, Container(apptainer="docker://torch")).ok
