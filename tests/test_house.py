"""The house itself: pins and versions that agree, one door for each third-party library, no pickles."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from pipeline.edge import version
from pipeline.submission import snapshot

ROOT = Path(__file__).parents[1]
PACKAGES = ("jobs", "pipeline", "sharedfs", "slurm")
# Where a heavy or quirky library may be imported: one module each.
DOORS = {
    "mlflow": "pipeline/mlflow/store.py",
    "submitit": "slurm/executors/slurm.py",
    "hyperopt": "jobs/search/algorithms/tpe.py",
    "pynvml": "jobs/nvml.py",
    "tokenizers": "jobs/data/pretrained.py",
    "transformers": "jobs/models/encoder/network.py",
}


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line.strip() and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), "every line of constraints.txt is name==version"
    return {_canonical(name): version for name, version in pairs}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _required() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    return {_canonical(re.split(r"[<>=~!]", name)[0]) for name in names}


def test_every_dependency_is_pinned_exactly() -> None:
    assert _required() <= _pins().keys()


def test_the_pins_are_what_is_installed() -> None:
    installed = {name: metadata.version(name).split("+")[0] for name in _required()}
    assert installed == {name: _pins()[name] for name in installed}


def test_what_is_mutated_is_there_and_so_are_its_tests() -> None:
    """A module that moved would be mutated no more, and nothing would say so."""
    mutmut = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]
    files = [*mutmut["only_mutate"], *mutmut["pytest_add_cli_args_test_selection"]]
    assert files and not [name for name in files if not (ROOT / name).is_file()]


def test_conda_takes_the_same_pins() -> None:
    document = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [entry for entry in document["dependencies"] if isinstance(entry, str)]
    pip = next(entry["pip"] for entry in document["dependencies"] if isinstance(entry, dict))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    python = next(entry.split("=")[1] for entry in plain if entry.startswith("python="))
    assert project["requires-python"] == f">={python}"
    assert pip == ["-c constraints.txt", "-e ."]


def test_the_version_is_told_in_one_way() -> None:
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == stated
    # What is installed reads it from pyproject.toml: after a change of it, `make setup` again.
    assert metadata.version("tanda") == version() == stated
    told = subprocess.run(
        [sys.executable, "-m", "pipeline", "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    assert told.stdout == f"tanda {stated}\n"


def test_the_packages_are_shipped_with_their_data_files(tmp_path: Path) -> None:
    """Type marker, word lists and templates reach who installs a wheel, and a job that runs from the snapshot."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    # hatchling takes along what lies in a package and is not ignored by git.
    assert wheel == {"packages": [*PACKAGES, "tanda"]}
    assert (ROOT / "tanda/py.typed").is_file()
    # A job runs from the four that it is given.
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    files = {name for name in listed if (ROOT / name).is_file()}
    assert {f"{package}/py.typed" for package in PACKAGES} <= files
    assert {"jobs/data/stop_words.toml", "jobs/data/sample_words.toml", "pipeline/report/i18n/en.toml"} <= files
    snapshot(tmp_path)
    assert files <= {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}


def test_the_forges_files_are_sound() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    fast, cluster = workflow["jobs"]["fast"], workflow["jobs"]["cluster"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={fast['strategy']['matrix']['python'][0]}"
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    for step in [*fast["steps"], *cluster["steps"]]:
        if step.get("run", "").startswith("make "):
            assert step["run"].split()[1] in targets
    assert ".ci/run" in [step.get("run") for step in cluster["steps"]]
    for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        fields = yaml.safe_load(path.read_text()).get("body", [])
        named = [field["id"] for field in fields if field["type"] != "markdown"]
        assert len(set(named)) == len(named)


@pytest.mark.parametrize("library", sorted(DOORS))
def test_one_door_for_each_library(library: str) -> None:
    found = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if library in {name.split(".")[0] for name in _imports(path)}
    }
    assert found == {DOORS[library]}


def test_every_dependency_is_imported() -> None:
    """In the program itself: what only a test or a benchmark needs is no dependency of whoever installs it."""
    modules = metadata.packages_distributions()
    imported = {
        _canonical(distribution)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for name in _imports(path, when_run=True)
        for distribution in modules.get(name.split(".")[0], ())
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {_canonical(re.split(r"[<>=~!]", name)[0]) for name in project["dependencies"]}
    assert required - imported == set()


def test_manifests_alone_are_checked_by_pydantic() -> None:
    """What is stored is decoded by ``sharedfs.typed_json``: a task's start and ``tanda status`` do not wait for it."""
    folders = {
        path.relative_to(ROOT).parent.as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if {"pydantic", "pydantic_core"} & {name.split(".")[0] for name in _imports(path)}
    }
    assert folders == {"pipeline/manifest"}


def _imports(path: Path, *, when_run: bool = False) -> set[str]:
    """The modules that a file imports; with ``when_run`` those for a type checker alone left out."""
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    for_types = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    left_out = {inside for node in for_types for inside in ast.walk(node)} if when_run else set()
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
    return names


def test_every_file_that_the_architecture_names_is_there() -> None:
    section = (ROOT / "docs/architecture.md").read_text().split("## Where is ...?")[1].split("\n## ")[0]
    files = re.findall(r"`((?:jobs|pipeline|sharedfs|slurm|tanda)/[\w/.]+)`", section)
    assert len(files) >= 20
    assert [name for name in files if not (ROOT / name).is_file()] == []


def test_no_test_package_can_shadow_ours() -> None:
    assert not [path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name in PACKAGES]


def test_nothing_loads_pickles() -> None:
    """``torch.load`` only with ``weights_only=True``, numpy never with ``allow_pickle``, no unpickling of ours."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    _check_call(path, node)
            assert not {"cloudpickle", "joblib", "dill"} & _imports(path), path


def _check_call(path: Path, node: ast.Call) -> None:
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    allowed = keywords.get("allow_pickle")
    assert allowed is None or (isinstance(allowed, ast.Constant) and allowed.value is False), path
    assert ast.unparse(node.func) not in ("pickle.load", "pickle.loads", "pickle.Unpickler"), f"{path}:{node.lineno}"
    if ast.unparse(node.func) == "torch.load":
        only = keywords.get("weights_only")
        assert isinstance(only, ast.Constant) and only.value is True, f"{path}:{node.lineno}"


def test_no_registry_is_named() -> None:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    hosts = re.compile(r"pypi\.(org|python)|pythonhosted|debian\.org|npmjs\.|download\.pytorch|conda\.anaconda", re.I)
    for name in filter(None, files):
        path = ROOT / name
        if path.suffix in {".py", ".md", ".yml", ".yaml", ".toml", ".txt", ".sh"} and path.name != "test_house.py":
            assert not hosts.search(path.read_text(encoding="utf-8")), name
