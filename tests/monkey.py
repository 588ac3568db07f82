"""A seeded monkey let loose on a manifest that runs on a test cluster: it does what sites and people do to jobs.

It touches what a fault could touch and nothing else: processes, daemons, room on the disk, and files as a killed
writer may leave them (temporary ones, and those of attempts that are dead).
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rig import Rig
from small_manifest import element_of

from jobs.attempt import AttemptFacts, history, live
from jobs.storage import Storage

FULL_S = 6.0
AWAY_S = 3.0
BALLAST = ".ballast"


class MissedError(Exception):
    """There was nothing to do that to at the moment."""


class Monkey:
    """``submit`` is the command line of a submission; ``room`` says that the storage is a file system of its own."""

    def __init__(self, rig: Rig, storage: Storage, submit: list[str], *, seed: int, room: bool) -> None:
        self.rig, self.storage, self.submit, self.room = rig, storage, submit, room
        self.choose = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()
        self.tracebacks: list[str] = []
        self._later: list[threading.Timer] = []
        self._mounted: set[Path] = set()
        self._deeds: dict[str, tuple[int, Callable[[], None]]] = {
            "killed a task": (5, self._kill),
            "killed an element": (1, self._kill_element),
            "warned an element": (2, self._warn),
            "cancelled and submitted again": (1, self._cancel),
            "requeued": (2, self._requeue),
            "preempted": (2, self._preempt),
            "restarted slurmctld": (1, self._restart_slurmctld),
            "restarted slurmdbd": (1, self._restart_slurmdbd),
            "restarted slurmd": (1, self._restart_slurmd),
            "filled the disk": (2, self._fill),
            "made a folder read-only": (2, self._close_folder),
            "tore files of the dead": (4, self._tear),
            "submitted twice at once": (1, self._submit_twice),
        }

    def act(self) -> str:
        """Do one thing, drawn by weight; what could not be done counts as missed."""
        names = list(self._deeds)
        (name,) = self.choose.choices(names, [weight for weight, _ in self._deeds.values()])
        try:
            self._deeds[name][1]()
        except (MissedError, OSError, subprocess.SubprocessError):
            self.missed[name] += 1
            return f"{name}: missed"
        self.done[name] += 1
        return name

    def rest(self) -> None:
        """Make good what passes by itself: room on the disk, folders that can be written to."""
        for timer in self._later:
            timer.join()

    def _living(self) -> list[tuple[Path, AttemptFacts]]:
        return [(folder, attempts[-1]) for folder in self._runs() if live(folder) and (attempts := history(folder))]

    def _runs(self) -> list[Path]:
        return sorted(path for path in self.storage.runs.glob("*") if (path / "attempts").is_dir())

    def _one(self) -> tuple[Path, AttemptFacts]:
        living = [(folder, last) for folder, last in self._living() if last.pid is not None and last.slurm]
        if not living:
            raise MissedError
        return self.choose.choice(living)

    def _pid(self) -> int:
        pid = self._one()[1].pid
        assert pid is not None
        return pid

    def _kill(self) -> None:
        os.kill(self._pid(), signal.SIGKILL)

    def _kill_element(self) -> None:
        pid = self._pid()
        try:
            parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
            command = Path(f"/proc/{parent}/cmdline").read_bytes()
        except OSError as error:
            raise MissedError from error
        if b"submitit" not in command:
            raise MissedError
        os.kill(parent, signal.SIGKILL)

    def _warn(self) -> None:
        self.rig.call("scancel", "--signal=USR2", element_of(self._one()[1]))

    def _cancel(self) -> None:
        # A cancelled task is a person's will, and final: so the same person submits again.
        self.rig.call("scancel", element_of(self._one()[1]))
        self._after(8.0, lambda: self._tanda_submit())

    def _requeue(self) -> None:
        self.rig.call("scontrol", "requeue", element_of(self._one()[1]))

    def _preempt(self) -> None:
        node = self._one()[1].slurm["slurmd_nodename"]
        what = ("-p", "normal", "-w", node, f"-c{self.rig.shape.cpus}", "--mem=1500M", "-t", "5", "-o", "/dev/null")
        self.rig.call("sbatch", *what, "--wrap", "sleep 3")

    def _restart_slurmctld(self) -> None:
        self.rig.stop_daemon("slurmctld", hard=self.choose.random() < 0.5)
        time.sleep(self.choose.uniform(0, AWAY_S))
        self.rig.start_slurmctld()

    def _restart_slurmdbd(self) -> None:
        self.rig.stop_daemon("slurmdbd")
        time.sleep(self.choose.uniform(0, AWAY_S))
        self.rig.start_slurmdbd()

    def _restart_slurmd(self) -> None:
        node = self.choose.choice(self.rig.nodes)
        self.rig.stop_daemon(f"slurmd.{node}", hard=self.choose.random() < 0.5)
        time.sleep(self.choose.uniform(0, AWAY_S))
        self.rig.start_slurmd(node)

    def _fill(self) -> None:
        ballast = self.storage.root / BALLAST
        if not self.room or ballast.exists():
            raise MissedError
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(1 << 16)):
                pass
        self._after(FULL_S, lambda: ballast.unlink(missing_ok=True))

    def _close_folder(self) -> None:
        folder = self._one()[0]
        if not self.rig.sees_mounts or folder in self._mounted or not _mount("--bind", str(folder), str(folder)):
            raise MissedError
        self._mounted.add(folder)
        _mount("-o", "remount,bind,ro", str(folder))

        def open_again() -> None:
            # Lazily: whoever has a file open in it is not waited for.
            subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
            self._mounted.discard(folder)

        self._after(FULL_S, open_again)

    def _tear(self) -> None:
        dead = [path for path in self._runs() if not (path / "record.json").exists() and not live(path)]
        if not dead:
            raise MissedError
        folder = self.choose.choice(dead)
        for name in (".record.json.0123456789ab.tmp", ".checkpoint.next.pt.0123456789ab.tmp", ".progress.1.tmp"):
            (folder / name).write_bytes(self.choose.randbytes(100))
        for name in ("checkpoint.pt", "checkpoint.next.pt", "metrics.jsonl", "progress.json"):
            with contextlib.suppress(OSError):
                _tear(folder / name, self.choose)
        torn = self.storage.datasets / f".tmp-{folder.name}-9-0123456789ab"
        torn.mkdir(parents=True, exist_ok=True)
        (torn / "meta.json").write_text('{"for')

    def _submit_twice(self) -> None:
        threads = [threading.Thread(target=self._tanda_submit) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _tanda_submit(self) -> None:
        self.say(self.submit)

    def say(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command of a person's; a traceback in what it prints is kept."""
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        if "Traceback" in ended.stderr:
            self.tracebacks.append(f"{' '.join(command)}: {ended.stderr}")
        return ended

    def _after(self, seconds: float, what: Callable[[], Any]) -> None:
        timer = threading.Timer(seconds, what)
        timer.start()
        self._later.append(timer)


def _tear(path: Path, choose: random.Random) -> None:
    """Cut a file short, or change bytes of it."""
    content = bytearray(path.read_bytes())
    if not content:
        return
    if choose.random() < 0.5:
        del content[choose.randrange(len(content)) :]
    else:
        for _ in range(8):
            content[choose.randrange(len(content))] ^= 0xFF
    path.write_bytes(content)


def _mount(*words: str) -> bool:
    return subprocess.run(["mount", *words], capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def small_disk(rig: Rig, folder: Path, size_mb: int) -> Iterator[bool]:
    """A file system of its own at a folder, so that it can be filled up; False where nodes would not see one."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = rig.sees_mounts and _mount("-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder))
    try:
        yield mounted
    finally:
        if mounted:
            # Inner ones first: a folder made read-only may still be there if all went wrong.
            mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
            for point in sorted((point for point in mounts if point.startswith(str(folder))), reverse=True):
                subprocess.run(["umount", "-l", point], capture_output=True, check=False)


@contextlib.contextmanager
def reporting(manifest: Path, monkey: Monkey, *, pause_s: float = 4.0) -> Iterator[Counter[str]]:
    """``tanda report`` all the time, with and without plots; counts how often, and by exit status."""
    stop, counts = threading.Event(), Counter[str]()

    def go() -> None:
        while not stop.is_set():
            plots = "--plots" if counts.total() % 4 == 3 else "--no-plots"
            command = [sys.executable, "-m", "pipeline", "report", str(manifest), "--no-mlflow", plots]
            counts[str(monkey.say(command).returncode)] += 1
            stop.wait(pause_s)

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield counts
    finally:
        stop.set()
        thread.join()
