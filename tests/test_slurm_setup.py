"""What a batch script does before its element starts, run by bash: modules, environment, path, the call of srun."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from slurm.array import Array, Site
from slurm.executors.local import child_environment
from slurm.executors.slurm import SlurmArrays

# What each kind of site defines for its batch shells.
LMOD = """
export LMOD_CMD=/opt/lmod
module() { [ "$2" = here/1 ] || { echo 'Lmod has detected the following error: unknown module' >&2; false; }; }
"""
MODULES_3 = """
export LOADEDMODULES=${LOADEDMODULES:-}
module() {
    if [ "$2" != here/1 ] && [ "$2" != here ]; then
        echo "ModuleCmd_Load.c(213):ERROR:105: Unable to locate a modulefile for '$2'" >&2; return 0
    fi
    [[ ":$LOADEDMODULES:" = *:here/1:* ]] || LOADEDMODULES=${LOADEDMODULES:+$LOADEDMODULES:}here/1
}
"""
OF_ITS_OWN = 'unset LOADEDMODULES; module() { [ "$2" = here/1 ]; }'


def run_script(folder: Path, site: Site, *, shell: str = "", **environment: str) -> tuple[int, str, str]:
    """Status, output and errors of a script whose srun prints how it was called, and what it sees of Python's path."""
    folder.mkdir(mode=0o755, exist_ok=True)
    (folder / "code").mkdir(mode=0o755, exist_ok=True)
    bin_ = folder / "bin"
    bin_.mkdir(exist_ok=True)
    srun = bin_ / "srun"
    srun.write_text('#!/bin/bash\necho "ran $1 PYTHONPATH=$PYTHONPATH LAB=$LAB"\n')
    srun.chmod(0o755)
    array = Array(name="a", elements=((folder / "t",),), command=("true",), folder=folder, code=folder / "code")
    (folder / "a.0").mkdir(mode=0o755, exist_ok=True)
    (text,) = SlurmArrays(site=site).scripts(array)
    (folder / "defined").write_text(shell)
    done = subprocess.run(
        ["bash", "-c", text], capture_output=True, text=True, check=False,
        env={"PATH": f"{bin_}:/usr/bin:/bin", "BASH_ENV": str(folder / "defined"), **environment},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(autouse=True)
def no_slurm_in_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


@pytest.mark.parametrize("shell", [LMOD, MODULES_3, OF_ITS_OWN, ""], ids=["lmod", "modules 3", "its own", "none"])
def test_a_module_that_is_not_there_ends_the_element_and_is_named(tmp_path: Path, shell: str) -> None:
    status, output, errors = run_script(tmp_path / "s", Site(modules=("gone/2",)), shell=shell)
    assert (status, output) == (1, "")
    assert errors.splitlines()[-1] == "tanda: `module load gone/2` failed: nothing was run"
    if not shell:
        assert "module: command not found" in errors


@pytest.mark.parametrize("shell", [LMOD, MODULES_3, OF_ITS_OWN], ids=["lmod", "modules 3", "its own"])
@pytest.mark.parametrize("loaded", ["", "here/1"], ids=["not loaded yet", "loaded already"])
def test_a_module_that_is_there_is_loaded(tmp_path: Path, shell: str, loaded: str) -> None:
    site = Site(modules=("here/1",))
    status, output, errors = run_script(tmp_path / "s", site, shell=shell, LOADEDMODULES=loaded)
    assert (status, errors) == (0, "") and output.startswith("ran --export=ALL")


def test_a_module_without_its_version_is_loaded_already(tmp_path: Path) -> None:
    status, output, _ = run_script(tmp_path / "s", Site(modules=("here",)), shell=MODULES_3, LOADEDMODULES="here/1")
    assert status == 0 and output.startswith("ran")


@pytest.mark.parametrize(
    "line", ["conda activate lab", "source /nowhere/bin/activate", "false  # our own", "true; exit 3", "if true; then"]
)
def test_an_environment_that_cannot_be_activated_ends_the_element(tmp_path: Path, line: str) -> None:
    status, output, errors = run_script(tmp_path / "s", Site(activate=line))
    assert status != 0 and output == ""
    # A line that ends the shell itself says what it likes.
    assert "exit" in line or "syntax error" in errors or f"tanda: `{line}` failed: nothing was run" in errors


def test_an_activation_script_may_touch_unset_variables_and_fail_on_its_way(tmp_path: Path) -> None:
    (tmp_path / "activate").write_text('false\n[ "$CONDA_BACKUP" = x ] || export LAB="it\'s on"\n')
    status, output, _ = run_script(tmp_path / "s", Site(activate=f"source {tmp_path}/activate  # the lab's"))
    assert status == 0 and output.endswith("LAB=it's on\n")


def test_our_code_comes_first_and_the_rest_of_the_path_stays(tmp_path: Path) -> None:
    """A module or an activation delivers packages by it, and so may a profile."""
    folder = tmp_path / "a folder"
    _, output, _ = run_script(folder, Site(), PYTHONPATH="/modules/torch")
    assert f"PYTHONPATH={folder}/code:/modules/torch " in output
    _, output, _ = run_script(folder, Site(activate="export PYTHONPATH=/venv"))
    assert f"PYTHONPATH={folder}/code:/venv " in output
    _, output, _ = run_script(folder, Site(environment={"PYTHONPATH": "/profile"}))
    assert f"PYTHONPATH={folder}/code:/profile " in output
    _, output, _ = run_script(folder, Site())
    assert f"PYTHONPATH={folder}/code " in output


def test_local_processes_keep_the_rest_of_the_path_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/modules/torch")
    assert child_environment(Path("/s/code"))["PYTHONPATH"] == "/s/code:/modules/torch"
    assert child_environment(Path("/s/code"), {"PYTHONPATH": "/lab"})["PYTHONPATH"] == "/s/code:/lab"
    monkeypatch.delenv("PYTHONPATH")
    assert child_environment(Path("/s/code"))["PYTHONPATH"] == "/s/code"
