"""How the command, a notebook and a job start: quickly, and with our packages whatever the working directory holds."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from small_manifest import tanda, with_only, write_manifest

from pipeline.submission import PACKAGES
from tanda import own_packages

ROOT = Path(__file__).parents[1]
HOSTILE = "raise SystemExit('the wrong ' + __name__)\n"
SCRIPT = "import sys\nfrom {module} import {function}\nif __name__ == '__main__':\n    sys.exit({function}())\n"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A person's folder with files that are called like our packages, and a manifest."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in PACKAGES:
        (folder / f"{name}.py").write_text(HOSTILE)
    write_manifest(folder, with_only("MLP"))
    return folder


def _start(folder: Path, *command: object, **environment: str) -> str:
    """What a command prints, started in the folder by somebody who set nothing; an installation is on their path."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ended = subprocess.run(
        list(map(str, command)), cwd=folder, env={**plain, "PYTHONPATH": str(ROOT), **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=200, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def _script(folder: Path) -> Path:
    """The command as an installer writes it."""
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["tanda"]
    module, function = entry.split(":")
    path = folder / "bin" / "tanda"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\n" + SCRIPT.format(module=module, function=function))
    path.chmod(0o755)
    return path


def test_the_command_finds_its_own_packages(hostile: Path, tmp_path: Path) -> None:
    command = _script(tmp_path)
    assert "3 tasks" in _start(hostile, command, "plan", "small.yaml")
    # An empty entry of PYTHONPATH, which many have in their profile, is the working directory.
    assert "3 tasks" in _start(hostile, command, "plan", "small.yaml", PYTHONPATH=f":{ROOT}")
    assert "3 tasks" in _start(hostile, sys.executable, "-m", "tanda", "plan", "small.yaml")


def test_python_finds_them_too(hostile: Path) -> None:
    program = "from tanda import Experiment; print(len(Experiment('small.yaml').plan()))"
    assert _start(hostile, sys.executable, "-c", program) == "3\n"
    (hostile / "mine.py").write_text(program)
    assert _start(hostile, sys.executable, "mine.py") == "3\n"


def test_one_that_is_imported_already_is_named(hostile: Path) -> None:
    (hostile / "slurm.py").write_text("")
    told = _start(hostile, sys.executable, "-c", "import slurm\ntry: import tanda\nexcept ImportError as e: print(e)")
    assert "'slurm' of its own" in told and str(hostile / "slurm.py") in told


def test_queued_tasks_and_their_closing_job_find_them(hostile: Path) -> None:
    """Through the executor's own command line: its supervisor, elements, tasks, the closing job."""
    words = ("run", "small.yaml", "--set", "defaults.epochs=1")
    told = _start(hostile, sys.executable, "-m", "tanda", *words, CUDA_VISIBLE_DEVICES="")
    assert "report: " in told and "3 done" in told
    assert (hostile / "storage" / "reports" / "small" / "index.html").is_file()


def test_these_are_all_of_our_packages() -> None:
    assert set(PACKAGES) == own_packages.PACKAGES and own_packages.HOME == ROOT


@pytest.mark.parametrize("program", ["import tanda", "sys.argv = ['tanda', '--help']; import tanda; tanda.main()"])
def test_starting_imports_nothing_heavy(program: str, tmp_path: Path) -> None:
    heavy = ("pandas", "numpy", "torch", "pydantic", "polars", "mlflow", "yaml", "orjson", "jobs.models")
    show = f"print([name for name in {heavy} if name in sys.modules])"
    done = f"import sys\ntry:\n    {program}\nexcept SystemExit:\n    pass\n{show}"
    assert _start(tmp_path, sys.executable, "-c", done).splitlines()[-1] == "[]"


def test_the_command_says_what_python_m_says(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, with_only("MLP"))
    told = _start(tmp_path, sys.executable, "-m", "tanda", "plan", manifest, "--json")
    assert told == tanda("plan", manifest, "--json")


def test_a_users_type_checker_sees_the_types(tmp_path: Path) -> None:
    """mypy --strict in an environment where tanda is installed as pip's editable mode does it, outside the checkout."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    (packages,) = (tmp_path / "env").glob("lib/*/site-packages")
    installed = next(Path(entry) for entry in sys.path if Path(entry).name == "site-packages")
    (packages / "tanda.pth").write_text(f"{ROOT}\n{installed}\n")
    (tmp_path / "mine.py").write_text(
        "from tanda import Experiment\n"
        'experiment = Experiment("m.yaml")\n'
        "reveal_type(experiment.results())\n"
        "reveal_type(experiment.submit())\n"
        'reveal_type(experiment.predictions("a/b", "test"))\n'
        'experiment.predictions("a/b", "train")\n'
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    ended = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", "cache", "--python-executable",
         str(tmp_path / "env" / "bin" / "python"), "mine.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    told = [line for line in ended.stdout.splitlines() if line.startswith("mine.py")]
    # Where pandas defines its DataFrame differs between versions of mypy and the stubs.
    shown = [line.split('"')[1].split(".") for line in told[:3]]
    assert [(names[0], names[-1]) for names in shown] == [
        ("pandas", "DataFrame"), ("pipeline", "SubmitResult"), ("pandas", "DataFrame"),
    ], ended.stdout + ended.stderr  # fmt: skip
    assert len(told) == 4 and "Literal['train']" in told[3]
