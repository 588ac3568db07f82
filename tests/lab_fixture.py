"""The fixture ``lab``: two real users of one group, ``alicex`` and ``bobx``, who type commands on shared storages."""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from small_manifest import write_titles

ROOT = Path(__file__).parents[1]
ALICE, BOB = "alicex", "bobx"
GROUP, USERS = "tlab", (ALICE, BOB)
# Everything below a folder, changed in one way or another.
WRITE = "open(sys.argv[1], 'ab')"
CREATE = "open(sys.argv[1] + '/new', 'x')"
RENAME = "os.rename(sys.argv[1], sys.argv[1] + '-away')"
REMOVE = "os.unlink(sys.argv[1])"
MANIFEST = """
name: {name}
storage: {storage}
umask: "007"
data: {{source: {data}, split: {{validation: 0.2, test: 0.2, seed: 0}}, embeddings: {{size: 4}}}}
defaults:
  {{epochs: {epochs}, hidden_layers: [8], freeze_embeddings: false, learning_rate: 1e-2, batch_size: 32}}
experiments:
  g:
    architecture: mlp
    runs: {{{runs}}}
retries: 0
resources:
  preprocess: {{cpus: 1, mem_gb: 0.5, time_min: 20}}
  train: {{cpus: 1, mem_gb: 0.5, time_min: 20}}
  evaluate: {{cpus: 1, mem_gb: 0.5, time_min: 20}}
  close: {{cpus: 1, mem_gb: 1, time_min: 20}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """``folder`` is open to everybody; ``python`` is an interpreter that every user can start."""

    folder: Path
    python: Path

    def storage(self, name: str, *, owner: str, mode: int) -> Path:
        """A new storage of the group's."""
        path = self.folder / name
        path.mkdir()
        shutil.chown(path, owner, GROUP)
        path.chmod(mode)
        return path

    def manifest(self, storage: Path, *, name: str = "small", runs: str = "a: {}", epochs: int = 1) -> Path:
        """A manifest on a storage, which everybody can read."""
        path = self.folder / f"{storage.name}-{name}.yaml"
        data = self.folder / "titles.csv"
        path.write_text(MANIFEST.format(name=name, storage=storage, data=data, epochs=epochs, runs=runs))
        path.chmod(0o644)
        return path

    def uid(self, user: str) -> int:
        return pwd.getpwnam(user).pw_uid

    def home(self, user: str) -> Path:
        return Path(pwd.getpwnam(user).pw_dir)

    def call(self, user: str, *words: object, umask: int = 0o022) -> subprocess.CompletedProcess[str]:
        """Run the interpreter as a user, whose own group is not the one that they share."""
        entry = pwd.getpwnam(user)
        kept = {name: os.environ[name] for name in ("PATH", "SLURM_CONF") if name in os.environ}
        environment = {
            **kept, "HOME": entry.pw_dir, "USER": user, "LOGNAME": user, "COLUMNS": "200",
            "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1",
        }  # fmt: skip
        return subprocess.run(
            [str(self.python), *map(str, words)], user=entry.pw_uid, group=entry.pw_gid, umask=umask,
            extra_groups=[entry.pw_gid, grp.getgrnam(GROUP).gr_gid], env=environment, cwd=self.folder,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip

    def tanda(self, user: str, *words: object, status: int | None = 0, umask: int = 0o022) -> str:
        """A command as a user types it; what it printed, on standard error where a failure is asked for."""
        done = self.call(user, "-m", "pipeline", *words, umask=umask)
        assert status is None or done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stderr if status == 2 else done.stdout

    def status(self, user: str, manifest: Path) -> dict[str, Any]:
        """``tanda status --json``."""
        document: dict[str, Any] = json.loads(self.tanda(user, "status", manifest, "--json", status=None))
        return document

    def may(self, user: str, program: str, *arguments: object) -> bool:
        """Whether a user can do what a program does; False when the system forbids it, and an error for all else."""
        done = self.call(user, "-c", f"import os, sys, json, shutil, pathlib\n{program}", *arguments)
        if done.returncode and "PermissionError" not in done.stderr:
            raise AssertionError(done.stderr)
        return done.returncode == 0


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Skipped where users can't be made, or can't read this checkout and its interpreter."""
    if os.geteuid() != 0:
        pytest.skip("two real users: only root can make them and act for them")
    subprocess.run(["groupadd", "-f", GROUP], check=True)
    for user in USERS:
        if subprocess.run(["id", user], capture_output=True, check=False).returncode:
            subprocess.run(["useradd", "-m", "-U", "-G", GROUP, user], check=True)
    # Not pytest's folder, which is closed to other users.
    folder = Path(tempfile.mkdtemp(prefix="tanda-lab-"))
    folder.chmod(0o755)
    try:
        write_titles(folder / "titles.csv").chmod(0o644)
        yield Lab(folder=folder, python=_python(folder))
    finally:
        shutil.rmtree(folder)


def _python(folder: Path) -> Path:
    """An interpreter with our packages that ordinary users can start, though ours may lie in root's own home."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    bases = [str(Path(sys.base_prefix, "bin", version)), f"/usr/bin/{version}"]
    wrong = ""
    for number, base in enumerate(base for base in bases if Path(base).exists()):
        home = folder / f"venv{number}"
        subprocess.run([base, "-m", "venv", "--without-pip", str(home)], check=True)
        packages = next(path for path in sys.path if path.endswith("site-packages"))
        (home / "lib" / version / "site-packages" / "ours.pth").write_text(f"{packages}\n")
        made = Lab(folder=folder, python=home / "bin" / "python")
        try:
            tried = made.call(USERS[0], "-c", "import jobs, pipeline, slurm, orjson, submitit, torch")
        except PermissionError as error:
            wrong = str(error)
            continue
        if tried.returncode == 0:
            return made.python
        wrong = tried.stderr.strip().splitlines()[-1]
    pytest.skip(f"ordinary users can't run this checkout with {' or '.join(bases)}: {wrong}")


def changeable_by_others(folder: Path) -> list[str]:
    """What in a folder others may write to, sticky folders left out."""
    paths = [folder, *folder.rglob("*")]
    modes = {str(path): path.lstat().st_mode for path in paths}
    return [path for path, mode in modes.items() if mode & 0o022 and not mode & stat.S_ISVTX and not stat.S_ISLNK(mode)]


def submission_of(storage: Path) -> Path:
    (folder,) = (storage / "submissions").iterdir()
    return folder


def states(lab: Lab, user: str, manifest: Path) -> set[str]:
    return set(lab.status(user, manifest)["summary"])


def not_the_groups(lab: Lab, storage: Path) -> list[str]:
    """What on a storage the group may not change, but for what has to be somebody's own."""
    group = grp.getgrnam(GROUP).gr_gid
    owned = [storage / name for name in ("submissions", "local", "plugins")]
    wrong = []
    for path in storage.rglob("*"):
        facts = path.lstat()
        wanted = 0o2070 if stat.S_ISDIR(facts.st_mode) else 0o060
        if path in owned or any(folder in path.parents for folder in owned):
            continue
        if facts.st_mode & wanted != wanted or facts.st_mode & 0o007 or facts.st_gid != group:
            wrong.append(f"{path} {stat.S_IMODE(facts.st_mode):o} of group {facts.st_gid}")
    return wrong
