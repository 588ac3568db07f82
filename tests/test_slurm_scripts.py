"""The sbatch text, whole, as it would go."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from slurm.array import Array, Dependency, Resources, Site
from slurm.commands import scrubbed
from slurm.element import Element, read_element
from slurm.errors import SubmitError
from slurm.executors.slurm import SlurmArrays, SubmittedElement

PLAIN = """\
#!/bin/bash

# Parameters
#SBATCH --array=0-2%3
#SBATCH --comment='a1 b2 c3'
#SBATCH --cpus-per-task=1
#SBATCH --job-name=tanda-train
#SBATCH --mem=1024M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/s/tanda-train.0/%A_%a_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=60

# setup
# Others write to this storage too: nothing is run from a folder that is not this user's own.
for folder in /s /s/tanda-train.0; do
    if [ ! -O "$folder" ] || [ -L "$folder" ] || [ -n "$(find "$folder" -maxdepth 0 -perm /022)" ]; then
        echo "tanda: $folder: not a folder that only $(id -un) can change: nothing was run" >&2
        exit 1
    fi
done
export PYTHONSAFEPATH=1

# command
unset SLURM_CLUSTERS  # who asks for another start means the cluster that the job is on
export SUBMITIT_EXECUTOR=slurm
srun --export=ALL --unbuffered --output /s/tanda-train.0/%A_%a_%t_log.out --cpus-per-task=1 \
python3.11 -u -m submitit.core._submit /s/tanda-train.0
"""

FULL = """\
#!/bin/bash

# Parameters
#SBATCH --account=lab
#SBATCH --array=0-2%2
#SBATCH --comment='meli/x baseline'
#SBATCH --constraint='a100|h100'
#SBATCH --cpus-per-task=4
#SBATCH --dependency=afterany:7
#SBATCH --exclude='bad[1-2],n9'
#SBATCH --gpus-per-node=a100:2
#SBATCH --hold
#SBATCH --job-name=tanda-train
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mail-user=me@here
#SBATCH --mem=16384M
#SBATCH --nice=100
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/s/tanda-train.0/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --qos=long
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=240

# setup
# Others write to this storage too: nothing is run from a folder that is not this user's own.
for folder in /s /s/code /s/tanda-train.0; do
    if [ ! -O "$folder" ] || [ -L "$folder" ] || [ -n "$(find "$folder" -maxdepth 0 -perm /022)" ]; then
        echo "tanda: $folder: not a folder that only $(id -un) can change: nothing was run" >&2
        exit 1
    fi
done
load_module() {
    local before=${LOADEDMODULES:-}
    module load "$1" || return
    [ -n "${LMOD_CMD:-}${MODULES_CMD:-}" ] || [ -z "${LOADEDMODULES+set}" ] || [ "$LOADEDMODULES" != "$before" ] \\
        || [[ ":$before:" = *":$1"[:/]* ]]
}
load_module cuda/12.1 || { echo 'tanda: `module load cuda/12.1` failed: nothing was run' >&2; exit 1; }
{
source /home/me/venv/bin/activate
} || { echo 'tanda: `source /home/me/venv/bin/activate` failed: nothing was run' >&2; exit 1; }
export HF_HOME='/scratch/a b'
export TANDA_COMMIT=abc
export PYTHONSAFEPATH=1
export PYTHONPATH=/s/code"${PYTHONPATH:+:$PYTHONPATH}"

# command
unset SLURM_CLUSTERS  # who asks for another start means the cluster that the job is on
export SUBMITIT_EXECUTOR=slurm
srun --export=ALL --unbuffered --output /s/tanda-train.0/%A_%a_%t_log.out --cpus-per-task=4 \
python3.11 -u -m submitit.core._submit /s/tanda-train.0
"""

SITE = Site(
    partition="gpu", account="lab", qos="long", constraint="a100|h100", gres_type="a100", exclude="bad[1-2]",
    modules=("cuda/12.1",), activate="source /home/me/venv/bin/activate", environment={"HF_HOME": "/scratch/a b"},
    python="python3.11", extra={"mail-user": "me@here", "nice": 100},
)  # fmt: skip

ROOT = Path(__file__).parents[1]
ELEMENTS = tuple((Path(f"/storage/runs/{name}"),) for name in ("a1", "b2", "c3"))


@pytest.fixture(autouse=True)
def no_slurm_in_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")


def make_array(**facts: object) -> Array:
    facts = {"folder": Path("/s"), **facts}
    return Array(name="tanda-train", elements=ELEMENTS, command=("python3.11", "-m", "jobs"), **facts)  # type: ignore[arg-type]


def test_a_plain_array() -> None:
    assert SlurmArrays(site=Site(python="python3.11")).scripts(make_array()) == (PLAIN,)


def test_every_key_of_a_profile() -> None:
    array = make_array(
        resources=Resources(cpus=4, gpus=2, mem_gb=16, time_min=240, warn_s=90), throttle=2, held=True,
        after=(Dependency(jobs=("7_0", "7_1")),), comment="meli|x\nbaseline", exclude=("n9",),
        code=Path("/s/code"), environment={"TANDA_COMMIT": "abc"},
    )  # fmt: skip
    assert SlurmArrays(site=SITE).scripts(array) == (FULL,)


@pytest.mark.parametrize("name", ["cpus-per-task", "cpus_per_task"])
def test_a_profiles_extra_options_have_the_last_word(name: str) -> None:
    (text,) = SlurmArrays(site=Site(python="python3.11", extra={name: 2, "exclusive": True})).scripts(make_array())
    expected = PLAIN.replace("#SBATCH --cpus-per-task=1", "#SBATCH --cpus-per-task=2\n#SBATCH --exclusive")
    assert text == expected


def test_one_element_is_a_plain_job() -> None:
    array = Array(name="tanda-close", elements=ELEMENTS[:1], command=("true",), folder=Path("/s"))
    (text,) = SlurmArrays(site=Site(python="python3.11")).scripts(array)
    assert "--array" not in text and "--output=/s/tanda-close.0/%j_0_log.out" in text


def test_a_script_to_submit_by_hand_needs_no_pickles(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    array = replace(make_array(), folder=folder)
    (script,) = SlurmArrays(site=Site(python="python3.11")).write_scripts(array, tmp_path / "scripts")
    note = f': >> {folder}/queued/tanda-train/"${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}"'
    elements = folder / "tanda-train.0" / "elements.json"
    assert script.path.read_text() == (
        PLAIN.replace("/s", str(folder))
        .replace("done\nexport", f"done\n{note}\nexport")
        .replace(f"submitit.core._submit {folder}/tanda-train.0", f"slurm.element {elements}")
    )
    assert (script.name, script.indices) == ("tanda-train", (0, 1, 2)) and read_element(elements, 2).command


def test_two_arrays_of_one_name_have_a_script_each(tmp_path: Path) -> None:
    slurm = SlurmArrays(site=Site(python="python3.11"))
    array = replace(make_array(), folder=tmp_path / "s")
    names = [script.name for _ in range(3) for script in slurm.write_scripts(array, tmp_path / "scripts")]
    assert names == ["tanda-train", "tanda-train-2", "tanda-train-3"]


def test_a_warning_before_the_element_listens_starts_it_again_as_it_was() -> None:
    element = SubmittedElement(Element(paths=("/storage/runs/a1",), command=("true",)))
    assert element.checkpoint().function == element
    assert pickle.loads(pickle.dumps(element)) == element
    assert len(pickle.dumps(element)) < 400


def test_a_long_comment_is_cut() -> None:
    (text,) = SlurmArrays().scripts(make_array(comment="x" * 1000))
    line = next(line for line in text.splitlines() if "--comment" in line)
    assert len(line) < 270 and line.endswith("...")


def test_submitting_without_slurm_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SubmitError, match=r"scontrol: not found; is this a machine with Slurm\?"):
        SlurmArrays().submit(make_array())


def test_a_job_inside_a_job_inherits_nothing_of_it() -> None:
    inherited = {"SLURM_JOB_ID": "1", "SBATCH_ACCOUNT": "x", "SUBMITIT_FOLDER": "y", "TANDA_CPUS": "4"}
    inherited |= {"SLURM_EXPORT_ENV": "NONE", "SLURM_HINT": "multithread", "SRUN_EXPORT_ENV": "NONE"}
    kept = {"SLURM_CONF": "/etc/slurm.conf", "HOME": "/home/me", "TANDA_STORAGE": "/storage"}
    # Where its cluster is and who it is, on sites without a file of their own or without munge.
    kept |= {"SLURM_CONF_SERVER": "ctl:6817", "SLURM_JWT": "token", "SLURM_SACK_SOCKET": "/run/slurm/sack.socket"}
    assert scrubbed({**inherited, **kept}) == kept


@pytest.mark.parametrize(
    ("inherited", "left"),
    [(f"{ROOT}:/modules/torch", "/modules/torch"), ("/a::/b", "/a::/b"), (str(ROOT), None), (None, None)],
)
def test_the_code_of_a_surrounding_job_leaves_the_path_and_the_rest_stays(
    monkeypatch: pytest.MonkeyPatch, inherited: str | None, left: str | None
) -> None:
    environment = {} if inherited is None else {"PYTHONPATH": inherited}
    assert scrubbed(environment).get("PYTHONPATH") == left


def test_the_script_for_a_bare_login_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    script = Path(__file__).parents[1] / "slurm/tanda.sbatch"
    bin_ = tmp_path / ".venv/bin"
    bin_.mkdir(parents=True)
    (bin_ / "activate").write_text(f"export PATH={bin_}:$PATH\n")
    (bin_ / "tanda").write_text(f"#!{sys.executable}\nimport sys, os; print(sys.argv[1:], os.getcwd())\n")
    (bin_ / "tanda").chmod(0o755)
    environment = {**os.environ, "SLURM_SUBMIT_DIR": str(tmp_path)}
    command = ["bash", str(script), "configs/meli.yaml", "--only", "baseline"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"['submit', 'configs/meli.yaml', '--only', 'baseline'] {tmp_path}"
    bare = subprocess.run(command[:2], env=environment, capture_output=True, text=True, check=False)
    assert bare.returncode == 2 and "usage: sbatch" in bare.stderr
