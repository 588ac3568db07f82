"""What one element of an array does: a child process for each of its paths, side by side, watched to the end.

Nothing but the standard library is imported here and in ``slurm.owned``: it is on the way of every task's start.

A child's exit status: 0 done, 1 failed and recorded, 75 saved and wants to be started again; any other end is
written to ``<path>/exits/<element>-<restart>.json``. SIGUSR2 (time is nearly up, or preempted) and SIGTERM are passed
on to the children. ``python -m slurm.element FILE`` runs the element of a JSON document, without submitit.

``TANDA_BESIDE``, a command as a JSON list, is started once beside the children with their paths added to it. It gets
SIGTERM when they are over, and is gone some seconds later; whatever becomes of it changes nothing for them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

from slurm.machine import visible_gpus
from slurm.owned import READABLE, check_not_link, open_plain, read_own

OK, FAILED, IDLE, AGAIN = 0, 1, 74, 75
SHORTEST_POLL_S, LONGEST_POLL_S = 0.01, 0.2
SIDECAR = "TANDA_BESIDE"
UMASK = "TANDA_UMASK"
SIDECAR_S = 5.0  # for the last words of what runs beside the children


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """``cpus`` and ``gpus`` are what it was given, shared among the paths.

    ``signs`` are files in a path that change when its child gets on.
    After ``idle_restarts`` starts in a row that were cut short and changed no sign, it no longer asks for another.
    ``warn_s`` is how long after SIGUSR2 the time limit comes.
    """

    paths: tuple[str, ...]
    command: tuple[str, ...]
    cpus: int = 1
    gpus: int = 0
    signs: tuple[str, ...] = ()
    idle_restarts: int = 3
    warn_s: int = 120


@dataclass(slots=True)
class _Child:
    path: Path
    signs: dict[str, int]
    process: subprocess.Popen[bytes] | None = None
    code: int | None = None  # negative: the signal that ended it
    peak_mb: float | None = None


def run(element: Element) -> int:
    """Run the element to its end; 0 all well, 1 a child failed, 75 wants another start, 74 has got no further.

    A child that dies leaves the others alone. Must be called in the main thread: it takes the signals.
    """
    if os.environ.get(UMASK):
        # What is ours alone was made under a stricter one; what the tasks write is for everybody here.
        os.umask(int(os.environ[UMASK], 8))
    watch = _Watch()
    children = [_Child(Path(path), _progress_times(Path(path), element.signs)) for path in element.paths]
    watch.children = children
    for place, child in enumerate(children):
        _start(child, place, element, watch)
    beside = _start_sidecar(children)
    _wait(children, element, watch)
    for child in children:
        _write_exit(child)
    if beside is not None:
        _end_sidecar(beside, SIDECAR_S if watch.warned_at is None else min(SIDECAR_S, 0.1 * element.warn_s))
    again = [child for child in children if _wants_another(child, watch)]
    # After SIGTERM it is for Slurm to say what comes: a cancelled job must not come back.
    if again and not watch.stopped:
        getting_on = [_made_progress(child, element) for child in again]  # each keeps its own count
        return AGAIN if any(getting_on) else IDLE
    return FAILED if any(child.code != OK for child in children) else OK


class _Watch:
    """The signals that came; each is passed on to the children at once and remembered."""

    def __init__(self) -> None:
        self.warned_at: float | None = None
        self.stopped = False
        self.children: list[_Child] = []
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - Python's signature
        if number == signal.SIGUSR2:
            self.warned_at = self.warned_at or time.monotonic()
        else:
            self.stopped = True
        for child in self.children:
            if child.process is not None and child.code is None:
                _send(child.process.pid, signal.Signals(number))


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _start(child: _Child, place: int, element: Element, watch: _Watch) -> None:
    if watch.warned_at is not None or watch.stopped:
        child.code = AGAIN
        return
    try:
        check_not_link(child.path)
        with open_plain(child.path / "log.txt", "ab") as log:
            log.write(_header(element).encode())
            log.flush()
            child.process = subprocess.Popen(
                [*element.command, str(child.path)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(element, place),
            )  # fmt: skip
    except OSError as error:
        # The storage is away, or the program is: the other paths may fare better.
        print(f"{child.path}: not started: {error}", file=sys.stderr, flush=True)
        child.code = FAILED


def _start_sidecar(children: list[_Child]) -> subprocess.Popen[bytes] | None:
    given = os.environ.get(SIDECAR)
    if not given or all(child.process is None for child in children):
        return None
    try:
        command = [*json.loads(given), *(str(child.path) for child in children)]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    except (OSError, ValueError) as error:
        print(f"not started beside the tasks: {error}", file=sys.stderr, flush=True)
        return None


def _end_sidecar(process: subprocess.Popen[bytes], limit_s: float) -> None:
    process.terminate()
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _environment(element: Element, place: int) -> dict[str, str]:
    count = len(element.paths)
    cpus = str(max(1, element.cpus // count))
    environment = {**os.environ, "TANDA_CPUS": cpus, "OMP_NUM_THREADS": cpus, "PYTHONUNBUFFERED": "1"}
    # What was given: with a GPU a task must not fall back to the CPU, without one it leaves its neighbours' alone.
    environment["TANDA_GPUS"] = str(element.gpus)
    environment.pop(SIDECAR, None)
    devices = visible_gpus(os.environ)
    if count > 1 and len(devices) > 1:
        # Several GPUs are dealt out; a single one is shared by all.
        dealt = devices[place::count] or [devices[place % len(devices)]]
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(dealt)
    return environment


def _header(element: Element) -> str:
    began = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    packed = f", {len(element.paths)} side by side" if len(element.paths) > 1 else ""
    return f"== {began} {_host()} job {element_id()} start {restart() + 1}{packed} ==\n"


def element_id(environment: Mapping[str, str] = os.environ) -> str:
    """This element's id as the scheduler's user sees it: ``12_3`` in an array, else ``12``."""
    if environment.get("TANDA_ELEMENT"):
        return environment["TANDA_ELEMENT"]
    array = environment.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{environment.get('SLURM_ARRAY_TASK_ID', '0')}"
    return environment.get("SLURM_JOB_ID", f"pid{os.getpid()}")


def restart(environment: Mapping[str, str] = os.environ) -> int:
    """How many times this element was started before."""
    return int(environment.get("TANDA_RESTART") or environment.get("SLURM_RESTART_COUNT") or 0)


def _host() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _wait(children: list[_Child], element: Element, watch: _Watch) -> None:
    """Until every child is over; or, once warned, until no time is left for those that will not save."""
    pause_s = SHORTEST_POLL_S
    while any(child.code is None for child in children):
        for child in children:
            _reap(child)
        if watch.warned_at is not None and time.monotonic() - watch.warned_at > 0.8 * element.warn_s:
            _give_up(children)
        time.sleep(pause_s)
        pause_s = min(LONGEST_POLL_S, pause_s * 1.5)


def _reap(child: _Child) -> None:
    if child.code is not None or child.process is None:
        return
    pid, status, used = os.wait4(child.process.pid, os.WNOHANG)
    if pid:
        child.code = os.waitstatus_to_exitcode(status)
        child.process.returncode = child.code
        child.peak_mb = round(used.ru_maxrss / 1024, 1)


def _give_up(children: list[_Child]) -> None:
    # One that saved must not be lost because its neighbour does not listen; if none did, all go on to the limit.
    if not any(child.code == AGAIN for child in children):
        return
    for child in children:
        if child.code is None and child.process is not None:
            _send(child.process.pid, signal.SIGKILL)
            child.process.wait()
            child.code = AGAIN


def _wants_another(child: _Child, watch: _Watch) -> bool:
    # Python needs a moment until it listens: one that a passed-on signal ended had not begun.
    caught = watch.warned_at is not None and child.code in (-signal.SIGUSR2, -signal.SIGTERM)
    return child.code == AGAIN or caught


def _write_exit(child: _Child) -> None:
    """Leave word of an end that the child can't have told of itself."""
    if child.process is None or child.code in (OK, FAILED, AGAIN):
        return
    facts = {
        "exit_code": child.code,
        "job_id": element_id(),
        "restart": restart(),
        "host": _host(),
        "ended": time.time(),
        "peak_mb": child.peak_mb,
    }
    _write(child.path / "exits" / f"{element_id()}-{restart()}.json", facts)


def _progress_times(path: Path, names: tuple[str, ...]) -> dict[str, int]:
    seen = {}
    for name in names:
        try:
            seen[name] = (path / name).stat().st_mtime_ns
        except OSError:
            continue
    return seen


def _made_progress(child: _Child, element: Element) -> bool:
    """Whether another start is worth it; counts starts in a row that got no further in ``<path>/restarts.json``."""
    file = child.path / "restarts.json"
    idle = 0
    if _progress_times(child.path, element.signs) == child.signs:
        try:
            with open_plain(file) as before:
                idle = int(json.load(before)["idle"]) + 1
        except (OSError, ValueError, KeyError):
            idle = 1
    _write(file, {"idle": idle, "job_id": element_id(), "restart": restart(), "ended": time.time()})
    return idle < element.idle_restarts


def _write(path: Path, facts: Mapping[str, Any], *, permissions: int = 0o666) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        check_not_link(path.parent)
        with open_plain(temporary, "x", permissions=permissions) as file:
            _dump(facts, file)
        temporary.replace(path)
    except OSError as error:
        print(f"{path}: {error}", file=sys.stderr, flush=True)


def _dump(facts: Mapping[str, Any], file: IO[str]) -> None:
    json.dump(facts, file, indent=2)
    file.flush()
    os.fsync(file.fileno())


def requeue() -> bool:
    """Ask Slurm to start this element, and no other of its array, again; False when it will not."""
    try:
        done = subprocess.run(
            ["scontrol", "requeue", element_id()], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"not requeued: {error}", file=sys.stderr, flush=True)
        return False
    if done.returncode != 0:
        print(f"not requeued: {done.stderr.strip()}", file=sys.stderr, flush=True)
    return done.returncode == 0


def run_on_node(element: Element) -> int:
    """Run the element on a node of Slurm's and see to another start if it wants one; the exit status."""
    code = run(element)
    if code == AGAIN:
        requeue()
    return code


def write_elements(file: Path, elements: tuple[Element, ...]) -> None:
    """Write elements as a JSON document that ``python -m slurm.element`` takes."""
    _write(file, {"elements": [asdict(element) for element in elements]}, permissions=READABLE)


def read_element(file: Path, place: int) -> Element:
    """The element at a place of such a document; raises OSError for one that others made or can change."""
    document = json.loads(read_own(file))["elements"][place]
    document.update({name: tuple(value) for name, value in document.items() if isinstance(value, list)})
    return Element(**document)


def main() -> int:
    """``python -m slurm.element FILE [PLACE]``.

    Without PLACE it is the index in Slurm's array. With it, whoever started us sees to another start.
    """
    if len(sys.argv) > 2:
        return run(read_element(Path(sys.argv[1]), int(sys.argv[2])))
    return run_on_node(read_element(Path(sys.argv[1]), int(os.environ.get("SLURM_ARRAY_TASK_ID") or 0)))


if __name__ == "__main__":
    sys.exit(main())
