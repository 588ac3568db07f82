"""The README is true: its commands run, its manifest plans, its tables are complete; so are those of docs/.

Commands of the README's ``console`` blocks run in a copy of the project's configs, in order, as a person would type
them. Three things differ: the sample has 2,000 rows instead of 60,000; ``source .venv/bin/activate`` finds a stand-in
that puts this test's own environment on the path; and what is submitted trains with ``device: cpu``, as the manifest
asks for GPUs and those of the cluster are not there. ``make demo`` and ``make test`` are not run, as the second would
run this very test: ``make -n`` shows that they are targets, and what they would do. Those of the section on the cluster
run on the real one. Commands in docs/ are checked to be commands with such options.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from rig import Rig

from jobs.task import CAUSES
from pipeline.cli import app
from pipeline.decisions.task_state import STATES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "RESULTS.md"]
PROJECT = ("jobs", "pipeline", "sharedfs", "slurm")
ROWS = ("--rows 60000", "--rows 2000")
ON_THE_CPU = ("tanda submit lab.yaml", "tanda submit lab.yaml --set defaults.device=cpu")
CLUSTER_SECTION = "## Three gestures on a cluster"


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def commands(text: str) -> list[str]:
    """What is typed in the console blocks: the lines behind a dollar sign."""
    return [line[2:] for block in blocks(text, "console") for line in block.splitlines() if line.startswith("$ ")]


def section(text: str, title: str) -> str:
    return re.split(r"^## ", text.split(title, 1)[1], flags=re.M)[0]


ALL = commands(README)
ON_THE_CLUSTER = commands(section(README, CLUSTER_SECTION))
MADE = [command for command in ALL if command.startswith("make ")]
LOCAL = [command for command in ALL if command not in (*MADE, *ON_THE_CLUSTER)]


def make_home(folder: Path) -> Path:
    """A folder as a clone of the project is: configs, an environment, and the README's manifest as lab.yaml."""
    folder.mkdir()
    shutil.copytree(ROOT / "configs", folder / "configs")
    (folder / ".venv" / "bin").mkdir(parents=True)
    activate = f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH\n"
    (folder / ".venv" / "bin" / "activate").write_text(activate)
    (folder / "lab.yaml").write_text(manifest())
    return folder


def manifest() -> str:
    (only,) = blocks(README, "yaml")
    return only


def shell(home: Path, *lines: str, status: tuple[int, ...] = (0,)) -> str:
    """What lines print, typed one after the other in one shell; standard output and errors together."""
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "COLUMNS": "160"}
    script = "\n".join(["set -e", "source .venv/bin/activate", *(line.replace(*ROWS) for line in lines)])
    ended = subprocess.run(
        ["bash", "-c", script],
        cwd=home,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode in status, f"{lines}: {ended.returncode}\n{ended.stdout}"
    return ended.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the local commands were run in order; what they printed is in told.txt."""
    made = make_home(tmp_path_factory.mktemp("readme") / "tanda")
    (made / "told.txt").write_text(shell(made, *LOCAL))
    return made


def test_every_command_has_a_test() -> None:
    assert MADE == ["make demo", "make test"]
    assert LOCAL and all(command.split()[0] in ("source", "tanda") for command in LOCAL)
    assert {command.split()[1] for command in ON_THE_CLUSTER} >= {"submit", "report"}


@pytest.mark.parametrize("target", sorted({word.split()[1] for page in PAGES for word in commands(page.read_text())
                                           if word.startswith("make ")}))  # fmt: skip
def test_make_targets_exist(target: str) -> None:
    told = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    doing = {"demo": "tanda run configs/quickstart.yaml", "test": "-m pytest", "setup": "-m venv"}
    assert target not in doing or doing[target] in told.stdout or "Nothing to be done" in told.stdout


def test_the_local_commands_run_in_order(home: Path) -> None:
    assert (home / "demo" / "data" / "train.csv.gz").exists()
    told = (home / "told.txt").read_text()
    assert "tasks (1 preprocess" in told


def test_the_mistake_is_told_in_these_words(home: Path) -> None:
    line = "MLP: {architecture: mlp}"
    assert line in manifest()
    (home / "typo").mkdir()
    text = manifest().replace(line, "MLP: {architecture: mlp, hiden_layers: [8]}").replace("demo/", "../demo/")
    (home / "typo" / "lab.yaml").write_text(text.replace("configs/", "../configs/"))
    told = shell(home, "cd typo", "tanda plan lab.yaml", status=(2,))
    assert told.strip() in README


@pytest.mark.cluster
@pytest.mark.timeout(280)
def test_the_three_gestures_on_a_real_cluster(cluster: Rig, home: Path) -> None:
    for command in ON_THE_CLUSTER:
        shell(home, command.replace(*ON_THE_CPU))
    assert (home / "demo" / "storage" / "reports" / "lab" / "index.html").exists()
    states = _over(home)
    assert [task["run"] + ": " + (task["message"] or "") for task in states if task["state"] != "done"] == []
    assert {task["stage"] for task in states} == {"preprocess", "train", "trial", "evaluate"}
    shell(home, "tanda cancel lab.yaml")
    _drain(cluster)


def _over(home: Path, limit_s: float = 150) -> list[dict[str, Any]]:
    """What was submitted, once every task of it has ended."""
    ends = time.monotonic() + limit_s
    while True:
        document = json.loads(shell(home, "tanda status lab.yaml --json", status=(0, 1)))
        submitted = [task for task in document["tasks"] if task["group"] in ("data", "baseline", "mlp")]
        if not any(task["state"] in ("waiting", "running") for task in submitted):
            return submitted
        assert time.monotonic() < ends, submitted
        time.sleep(0.5)


def _drain(cluster: Rig, limit_s: float = 100) -> None:
    ends = time.monotonic() + limit_s
    while any(line.startswith("lab-") for line in cluster.call("squeue", "-h", "-o", "%j").splitlines()):
        assert time.monotonic() < ends, cluster.call("squeue")
        time.sleep(0.5)


def test_the_table_of_commands_is_complete() -> None:
    group: Any = typer.main.get_command(app)
    shown = {name for name, command in group.commands.items() if not command.hidden}
    listed = set(re.findall(r"^\| `tanda ([a-z-]+)", section(README, "## Commands"), re.M))
    assert listed == shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_such_options(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for line in commands(text):
        if line.startswith("tanda "):
            _parse(shlex.split(line)[1:], typed=True)
    for line in re.findall(r"`(tanda [^`]+)`", text):
        # What stands in brackets or ends in dots is no word to type.
        if not re.search(r"\[|\.\.\.", line):
            _parse(shlex.split(line)[1:], typed=False)


def _parse(words: list[str], *, typed: bool) -> None:
    """Raises where there is no such command or option; a command in running text may leave out arguments."""
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        name, *words = words
        if name.startswith("--"):
            return
        assert name in command.commands, name
        command = command.commands[name]
    # A bare name (`tanda why`) is one being spoken of; with arguments it is one being typed.
    if not words:
        return
    try:
        command.make_context(name, words)
    except Exception as error:
        if typed or type(error).__name__ != "MissingParameter":
            raise


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Files that are there, and headings in them by the names that forges make of them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    targets = [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r"^\[[^\]]+\]: (\S+)", text, re.M)]
    broken = []
    for target in targets:
        name, _, anchor = target.partition("#")
        aim = page.parent / name if name else page
        if not target.startswith("https://") and not (aim.exists() and (not anchor or anchor in anchors(aim))):
            broken.append(target)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """The names of a page's headings; of two that are called the same the second ends in -1."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    names: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", text, re.M):
        shown = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", heading).replace("`", "")
        name = re.sub(r"[^\w\- ]", "", shown.lower()).strip().replace(" ", "-")
        names.append(f"{name}-{again}" if (again := sum(re.sub(r"-\d+$", "", had) == name for had in names)) else name)
    return set(names)


def test_pictures_are_small() -> None:
    assert [path.name for path in (ROOT / "docs" / "pictures").glob("*.png") if path.stat().st_size > 400_000] == []


def test_every_state_and_cause_is_explained() -> None:
    text = (ROOT / "docs" / "states.md").read_text(encoding="utf-8")
    for title, words in (("## States", STATES), ("## Causes of a failure", CAUSES)):
        told = re.findall(r"^\| `([^`]+)` \|", section(text, title), re.M)
        assert sorted(told) == sorted(words)


def test_every_benchmark_is_listed() -> None:
    """A new program needs its row in docs/performance.md."""
    told = set(re.findall(r"^\| `benchmarks/(\w+\.py)`", (ROOT / "docs/performance.md").read_text(), re.M))
    assert told == {path.name for path in (ROOT / "benchmarks").glob("[a-z]*.py")}


EXTENSIONS_CHECKED = '''
"""The examples of docs/extending.md at work: plugins out of the tree, and a copy of the project with the others."""
import json, sys
from pathlib import Path
import numpy as np
import pytest
from report_fixture import data_files, finish_all, make, make_run
from small_manifest import tanda, write_manifest
from jobs import plugins
from jobs.storage import Storage
from jobs.task import Task
from pipeline.report import build
from slurm.array import Array, Resources
from slurm.executors import make as make_executor

LAB = Path(__file__).parents[1] / "lab"

def test_every_plugin_keeps_its_contract():
    said = tanda("check-plugin", LAB)
    assert "FAIL" not in said
    networks = ("network gru", "network maxpool", "estimator centroid")
    trained = ("optimiser lion", "schedule straight")
    for plugin in (*networks, *trained, "search algorithm vicinity", "metric matthews", "table price", "plot seeds"):
        assert f"ok   {plugin}: " in said

def test_a_table_and_a_plot_are_in_the_report(tmp_path):
    data = data_files(tmp_path / "data")
    made = make(tmp_path, runs=(make_run(data, group="baseline", name="MLP"),))
    finish_all(made, {"MLP": 0.5})
    plugins.use(plugins.find(LAB))
    folder = build(made.plan, made.states, mlflow=False)
    plugins.use(())
    assert "MLP" in (folder / "tables/baseline-price.csv").read_text()
    assert (folder / "plots/baseline-seeds.png").exists()

def test_models_stage_and_algorithm_are_found_from_a_manifest(tmp_path):
    manifest = write_manifest(tmp_path)
    manifest.write_text(manifest.read_text() + f"""
plugins: [{LAB}]
searches:
  near: {{architecture: maxpool, algorithm: vicinity, trials: 2, space: {{dropout: {{uniform: [0, 0.5]}}}}}}
""")
    runs = """experiments={architectures: {runs: {G: {architecture: gru}, C: {architecture: centroid}, M: {
      architecture: maxpool, optimiser: {lion: {beta1: 0.8}}, schedule: straight, learning_rate: 1e-3}}}}"""
    words = (manifest, "--set", runs, "--set", "defaults.epochs=1")
    tanda("run", *words, "--executor", "inline")
    assert json.loads(tanda("status", *words, "--json"))["summary"] == {"done": 10}
    tasks = json.loads(tanda("plan", *words, "--json"))["tasks"]
    dataset = next(task["id"] for task in tasks if task["stage"] == "preprocess")
    from jobs.entry import run
    task = Task(stage="lengths", settings={"dataset": dataset}, needs=(dataset,))
    folder = task.write(Storage(tmp_path / "storage"))
    assert run(folder) == 0
    assert sum(json.loads((folder / "lengths.json").read_text())["train"]) > 100

def test_a_metric_outside_of_the_package_is_computed():
    from sklearn.metrics import matthews_corrcoef
    from jobs import plugins
    from jobs.training.metrics import of_logits
    plugins.use(plugins.find(Path("lab/matthews.py")))
    labels, logits = np.arange(90) % 7, np.random.default_rng(0).standard_normal((90, 7)).astype(np.float32)
    assert of_logits(logits, labels).figures["matthews"] == pytest.approx(matthews_corrcoef(labels, logits.argmax(1)))
    plugins.use(())

def test_the_executor_runs_what_it_is_given(tmp_path):
    import os, time
    path = tmp_path / "run"
    path.mkdir()
    say = "import os, pathlib, sys; (pathlib.Path(sys.argv[1]) / 'nice').write_text(str(os.nice(0)))"
    array = Array(name="x", elements=((path,),), command=(sys.executable, "-c", say), folder=tmp_path / "s",
                  resources=Resources(mem_gb=0.1))
    executor = make_executor("nice", folder=tmp_path / "q")
    ids = executor.submit(array).queued
    while not all(state.over for state in executor.states(ids).values()):
        time.sleep(0.1)
    assert int((path / "nice").read_text()) >= 19
'''


@pytest.mark.timeout(400)
def test_the_examples_of_extending_work(tmp_path: Path) -> None:
    """Each example is written beside or into a copy of the project, and put to work there."""
    for name in (*PROJECT, "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    examples = re.findall(r'^```python title="([^"]+)"\n(.*?)^```$', text, re.M | re.S)
    assert len(examples) == 12
    for name, body in examples:
        path = tmp_path / name
        assert not path.exists(), f"{name} is there already"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body, encoding="utf-8")
    (tmp_path / "tests" / "test_extensions.py").write_text(EXTENSIONS_CHECKED, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_extensions.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
