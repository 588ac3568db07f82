"""What one user of a shared storage tries on another, and what she then does: none of it succeeds."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab_fixture import ALICE, BOB, Lab, lab, submission_of

__all__ = ["lab"]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """``plant`` is a program of his, given her storage, a folder of her home, and the ids of the tasks by stage.

    ``command`` is hers afterwards; it ends with one of ``status``, and says ``words`` somewhere. ``missing`` is what is
    not there yet: what she has put into the storage's own folder, its sticky bit keeps.
    """

    plant: str
    command: tuple[str, ...]
    status: tuple[int, ...]
    words: str = ""
    missing: tuple[str, ...] = ()


PRELUDE = """
os.umask(0o007)
storage, private = map(pathlib.Path, sys.argv[1:3])
ids = json.loads(sys.argv[3])
runs = {stage: storage / 'runs' / task for stage, task in ids.items()}
def pipe(path):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
def link(path, target):
    path.parent.mkdir(exist_ok=True, parents=True)
    if path.is_dir() and not path.is_symlink(): path.rename(path.with_name('moved'))
    path.unlink(missing_ok=True)
    os.symlink(target, path)
def code(path):
    import pickle
    class Evil:
        def __reduce__(self): return os.system, (f'touch {private}/ran',)
    path.unlink(missing_ok=True)
    path.write_bytes(pickle.dumps(Evil()))
"""
DERIVED = ("mlflow.db", "mlartifacts")
ATTEMPTS = {
    "a pipe for a record": Attempt(
        plant="pipe(runs['evaluate'] / 'record.json')", command=("status", "MANIFEST"), status=(1,),
        words="is no ordinary file",
    ),
    "a pipe for a submission": Attempt(
        plant="pipe(storage / 'submissions/99991231-000000-small/submission.json')\n"
        "(runs['evaluate'] / 'record.json').unlink()",
        command=("status", "MANIFEST"), status=(0, 1), words="ignored",
    ),
    "a pipe for a log": Attempt(
        plant="pipe(runs['train'] / 'log.txt')", command=("logs", "MANIFEST", "a"), status=(2,),
        words="is no ordinary file",
    ),
    "a pipe for a metrics log": Attempt(
        plant="pipe(runs['train'] / 'metrics.jsonl')", command=("report", "MANIFEST", "--no-plots"), status=(0, 1, 2),
        words="is no ordinary file",
    ),
    "pipes for a task's own files": Attempt(
        plant="for name in ('record.json', 'held.json', 'progress.json', 'checkpoint.pt', 'log.txt'): "
        "pipe(runs['train'] / name)",
        command=("run", "MANIFEST"), status=(1,), words="error",
    ),
    "a record without an end": Attempt(
        plant="(runs['evaluate'] / 'record.json').open('wb').truncate(1 << 40)", command=("status", "MANIFEST"),
        status=(1,), words="has 1099511627776 bytes",
    ),
    "a link for a page": Attempt(
        plant="link(storage / 'reports/small/index.html', private / 'thesis')", command=("report", "MANIFEST"),
        status=(0,),
    ),
    "a link for the database": Attempt(
        missing=DERIVED, plant="link(storage / 'mlflow.db', private / 'thesis')",
        command=("report", "MANIFEST", "--no-plots"), status=(2,), words="mlflow.db: is a link",
    ),
    "a link for the database's journal": Attempt(
        missing=DERIVED, plant="link(storage / 'mlflow.db-journal', private / 'thesis')",
        command=("report", "MANIFEST", "--no-plots"), status=(2,), words="mlflow.db-journal: is a link",
    ),
    "a link for the artifacts": Attempt(
        missing=DERIVED, plant="link(storage / 'mlartifacts', private)",
        command=("report", "MANIFEST", "--no-plots"), status=(2,), words="mlartifacts: is a link",
    ),
    "a pipe for a lock": Attempt(
        plant="pipe(storage / 'locks/submit')", command=("submit", "MANIFEST", "--executor", "inline"), status=(2,),
        words="locks/submit",
    ),
    "a link among the runs, for gc": Attempt(
        plant="link(storage / 'runs/old', private)", command=("gc", "MANIFEST", "--yes"), status=(0,), words="runs/old",
    ),
    "a link in a run, for gc": Attempt(
        plant="(storage / 'runs/old').mkdir()\nlink(storage / 'runs/old/x', private)",
        command=("gc", "MANIFEST", "--yes"), status=(0,), words="runs/old",
    ),
    "code for a checkpoint": Attempt(
        plant="(runs['train'] / 'record.json').unlink()\ncode(runs['train'] / 'checkpoint.pt')",
        command=("run", "MANIFEST"), status=(0,),
    ),
    "code for a model": Attempt(
        plant="code(runs['train'] / 'model.pt')", command=("predict", "TRAIN", "/dev/null"), status=(2,),
        words="damaged",
    ),
    "code for predictions": Attempt(
        plant="code(runs['evaluate'] / 'predictions.npz')", command=("report", "MANIFEST"), status=(0, 1, 2),
    ),
    "a run's folder swapped": Attempt(
        plant="old = runs['train']\nold.rename(old.with_name('moved'))\nlink(old, private)",
        command=("run", "MANIFEST"), status=(2,), words="is a link",
    ),
    "a report's folder swapped": Attempt(
        plant="(storage / 'reports/small').rename(storage / 'reports/moved')\n"
        "link(storage / 'reports/small', private)", command=("report", "MANIFEST"), status=(2,), words="is a link",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(lab: Lab) -> tuple[Path, Path, dict[str, str]]:
    """Her storage with all done and reported, her manifest, and the tasks' ids by stage."""
    storage = lab.storage("finished", owner=ALICE, mode=0o2770)
    manifest = lab.manifest(storage)
    lab.tanda(ALICE, "submit", manifest, "--executor", "inline")
    lab.tanda(ALICE, "report", manifest)
    tasks = json.loads(lab.tanda(ALICE, "plan", manifest, "--json"))["tasks"]
    subprocess.run(["cp", "-a", storage, f"{storage}-kept"], check=True)
    return storage, manifest, {task["stage"]: task["id"] for task in tasks}


@pytest.fixture
def victim(lab: Lab, finished: tuple[Path, Path, dict[str, str]]) -> tuple[Path, Path, dict[str, str]]:
    """The same, as it was."""
    storage = finished[0]
    shutil.rmtree(storage)
    subprocess.run(["cp", "-a", f"{storage}-kept", storage], check=True)
    return finished


def private_folder(lab: Lab) -> Path:
    private = lab.home(ALICE) / "private"
    shutil.rmtree(private, ignore_errors=True)
    private.mkdir()
    (private / "thesis").write_text("three years\n")
    for path in (private, private / "thesis"):
        shutil.chown(path, ALICE, ALICE)
    (private / "thesis").chmod(0o600)
    return private


@pytest.mark.parametrize("name", ATTEMPTS)
def test_an_attempt_of_a_colleague_fails(lab: Lab, victim: tuple[Path, Path, dict[str, str]], name: str) -> None:
    (storage, manifest, ids), attempt, private = victim, ATTEMPTS[name], private_folder(lab)
    for gone in attempt.missing:
        subprocess.run(["rm", "-r", storage / gone], check=True)
    assert lab.may(BOB, PRELUDE + attempt.plant, storage, private, json.dumps(ids))
    places = {"MANIFEST": str(manifest), "TRAIN": str(storage / "runs" / ids["train"])}
    # A command that waits for ever runs into the time limit of ``call``.
    done = lab.call(ALICE, "-m", "pipeline", *(places.get(word, word) for word in attempt.command))
    text = done.stdout + done.stderr
    assert done.returncode in attempt.status and attempt.words in text and "Traceback" not in text, text
    assert {path.name: path.read_text() for path in private.iterdir()} == {"thesis": "three years\n"}
    assert (private / "thesis").stat().st_mode & 0o777 == 0o600


FORBIDDEN = {
    "rename her submission": "os.rename(submission, str(submission) + '-away')",
    "write her submission": "open(submission / 'submission.json', 'ab')",
    "change her code": "open(submission / 'code/jobs/entry.py', 'ab')",
    "add to her code": "open(submission / 'code/jobs/numpy.py', 'x')",
    "add bytecode to her code": "open(submission / 'code/jobs/__pycache__/x.pyc', 'x')",
    "link hard to her code": "os.link(submission / 'code/jobs/entry.py', storage / 'runs' / 'entry.py')",
    "link hard to her file": "os.link(private / 'thesis', storage / 'runs' / 'thesis')",
    "rename the folder of submissions": "os.rename(storage / 'submissions', storage / 'moved')",
    "read her file": "open(private / 'thesis')",
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_the_system_forbids_it(lab: Lab, victim: tuple[Path, Path, dict[str, str]], name: str) -> None:
    storage, _, ids = victim
    submission = submission_of(storage)
    program = f"{PRELUDE}\nsubmission = pathlib.Path({str(submission)!r})\n{FORBIDDEN[name]}"
    assert not lab.may(BOB, program, storage, private_folder(lab), json.dumps(ids))


def test_a_task_that_was_pointed_at_a_private_file_publishes_nothing_of_it(
    lab: Lab, victim: tuple[Path, Path, dict[str, str]]
) -> None:
    storage, _, ids = victim
    private = private_folder(lab)
    (private / "thesis").write_text("title,category,language,label_quality\nsecret word,A,spanish,reliable\n" * 50)
    program = """
shutil.rmtree(storage / 'datasets' / ids['preprocess'])
(runs['preprocess'] / 'record.json').unlink()
path = runs['preprocess'] / 'task.json'
task = json.loads(path.read_text())
def point(value):
    if isinstance(value, dict): return {key: point(item) for key, item in value.items()}
    if isinstance(value, list): return [point(item) for item in value]
    return str(private / 'thesis') if isinstance(value, str) and value.endswith('titles.csv') else value
pointed = json.dumps({**task, 'plumbing': point(task['plumbing'])})
assert str(private) in pointed
path.write_text(pointed)
"""
    assert lab.may(BOB, PRELUDE + program, storage, private, json.dumps(ids))
    done = lab.call(ALICE, "-m", "jobs", storage / "runs" / ids["preprocess"])
    assert done.returncode == 1, done.stderr
    assert "secret" not in done.stderr and not list((storage / "datasets").glob(f"{ids['preprocess']}"))
    assert "secret" not in (storage / "runs" / ids["preprocess"] / "record.json").read_text()
