"""What one element of an array does: a child process for each of its paths, side by side, watched to the end.

Nothing but the standard library is imported here, in ``slurm.owned``, ``slurm.sidecar``, ``slurm.mps`` and in what
they take of ``sharedfs``: it is on the way of every task's start.
``python -m slurm.element FILE`` runs the element of a JSON document, without submitit.
"""

# The protocol between an element and its children, whole:
#
# - A child is ``[*command, path]``, its output appended to ``<path>/log.txt`` under a header for each start. It gets
#   TANDA_CPUS and TANDA_GPUS, its share of the element's, and TANDA_GPU_TASKS, how many share its GPU, itself included;
#   with several GPUs for several children also which.
# - SIGUSR2 (time is nearly up, or preempted) and SIGTERM (cancelled, or the end of the grace time) that reach the
#   element are passed on to the children at once. A child that hears one saves and exits with 75.
# - A child's exit status: 0 done, 1 failed and recorded by itself, 75 saved and wants to be started again. Any other
#   end the child could not record: the element writes it to ``<path>/exits/<element>-<restart>.json``. One is 73,
#   the storage is full or away, which the element also gives a child that it cannot start for that, and itself ends
#   with where nothing else went wrong: Slurm keeps that where the storage cannot.
# - After SIGUSR2 a child that does not save is killed when most of the time is gone, if any other did save: the
#   element must not reach the limit with it.
# - The element asks for another start (75; on a node of Slurm's it requeues itself) if a child wants one that has not
#   yet had ``idle_restarts`` starts in a row without progress, which is a change of its progress files; if all that
#   want one have, it ends with 74. The count is kept in ``<path>/restarts.json``. After SIGTERM it never asks: what
#   comes is for Slurm to decide, and a cancelled job must not come back. Nor does a start that Slurm took for dead ask
#   once the element was started again: it would end its own successor.
# - TANDA_BESIDE, a JSON list of commands, are the sidecars (``slurm.sidecar``): started once beside the children with
#   their paths added, sent SIGTERM when they are over, killed some seconds later. Whatever becomes of one changes
#   nothing for them, unless it ends a child.
# - Children that share a GPU get an MPS daemon of the element's own (``slurm.mps``), which ends after them.

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path
from types import FrameType
from typing import IO

from sharedfs.faults import fault_of, patient
from sharedfs.files import OWNER_WRITES, check_plain, open_plain, take_umask, write_whole
from sharedfs.typed_json import Json, decode
from slurm import mps, sidecar
from slurm.owned import read_own

OK, FAILED, STORAGE, IDLE, AGAIN = 0, 1, 73, 74, 75
SHORTEST_POLL_S, LONGEST_POLL_S = 0.01, 0.2
PROGRESS_FILES = ("checkpoint.pt", "metrics.jsonl")
EXITS = "exits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """``cpus`` and ``gpus`` are what it was given, shared among the paths.

    ``progress_files`` are files in a path that its child rewrites when it makes progress. ``idle_restarts`` is after
    how many starts in a row without progress it no longer asks for another. ``warn_s`` is how long after SIGUSR2 the
    time limit comes.
    """

    paths: tuple[str, ...]
    command: tuple[str, ...]
    cpus: int = 1
    gpus: int = 0
    progress_files: tuple[str, ...] = PROGRESS_FILES
    idle_restarts: int = 3
    warn_s: int = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a child ended that could not record it itself: its status, negative for a signal; the most memory it had."""

    exit_code: int
    job_id: str = ""
    restart: int = 0
    host: str = ""
    ended: float | None = None
    peak_mb: float | None = None


@dataclass(slots=True)
class _Child:
    path: Path
    progress: dict[str, int]  # when each progress file was last written before the start
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    code: int | None = None  # negative: the signal that ended it
    peak_mb: float | None = None


def run(element: Element) -> int:
    """Run the element to its end; 0 all well, 1 a child failed, 75 wants another start, 74 made no progress, 73 the
    storage was away.

    A child that dies leaves the others alone. Must be called in the main thread: it takes the signals.
    """
    take_umask()  # what is ours alone was made under a stricter one; what the tasks write is for everybody here
    watch = _Watch()
    children = [_Child(Path(path), _progress_times(Path(path), element.progress_files)) for path in element.paths]
    watch.children = children
    shared = None if watch.stopped else mps.start(len(children), len(visible_gpus(os.environ)) or element.gpus)
    try:
        return _run_children(children, element, watch, shared)
    finally:
        if shared is not None:
            shared.end()


def _run_children(children: list[_Child], element: Element, watch: _Watch, shared: mps.Mps | None) -> int:
    for index, child in enumerate(children):
        _start(child, index, element, watch, shared)
    sidecars = sidecar.start([_beside(child) for child in children if child.process is not None])
    _wait(children, element, watch)
    for child in children:
        _write_exit(child)
    sidecar.end(sidecars, sidecar.LAST_S if watch.warned_at is None else min(sidecar.LAST_S, 0.1 * element.warn_s))
    again = [child for child in children if _wants_another(child, watch)]
    if again and not watch.stopped:
        progress = [_made_progress(child, element) for child in again]  # a list: each keeps its own count
        return AGAIN if any(progress) else IDLE
    failed = {child.code for child in children} - {OK}
    return STORAGE if failed == {STORAGE} else FAILED if failed else OK


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


def _start(child: _Child, index: int, element: Element, watch: _Watch, shared: mps.Mps | None) -> None:
    if watch.warned_at is not None or watch.stopped:
        child.code = AGAIN
        return
    environment = child.environment = _environment(element, index)
    if shared is not None:
        # The watch beside it asks NVML, which goes on counting as the node does.
        environment = {**environment, **shared.for_task(environment, visible_gpus(os.environ))}
    try:
        with _begin_log(child.path / "log.txt", _header(element)) as log:
            child.process = subprocess.Popen(
                [*element.command, str(child.path)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
            )  # fmt: skip
    except OSError as error:
        # The storage or the program is missing: the other paths may still run.
        print(f"{child.path}: not started: {error}", file=sys.stderr, flush=True)
        child.code = FAILED if fault_of(error) is None else STORAGE


@patient
def _begin_log(path: Path, header: str) -> IO[bytes]:
    check_plain(path.parent)
    # Others may change the log where they may change its folder: a run's, not a submission's.
    log = open_plain(path, "ab", permissions=OWNER_WRITES | (path.parent.stat().st_mode & 0o022))
    try:
        log.write(header.encode())
        log.flush()
    except OSError:
        log.close()
        raise
    return log


def _beside(child: _Child) -> sidecar.Child:
    """A child that was started, for what runs beside it."""
    assert child.process is not None
    cpus, gpus = int(child.environment["TANDA_CPUS"]), child.environment.get("CUDA_VISIBLE_DEVICES")
    return sidecar.Child(path=str(child.path), pid=child.process.pid, cpus=cpus, gpus=gpus)


def _environment(element: Element, index: int) -> dict[str, str]:
    count = len(element.paths)
    cpus = str(max(1, element.cpus // count))
    environment = {**os.environ, "TANDA_CPUS": cpus, "OMP_NUM_THREADS": cpus, "PYTHONUNBUFFERED": "1"}
    # What was allotted: with a GPU a task must not fall back to the CPU, without one it leaves its neighbours' alone.
    environment["TANDA_GPUS"] = str(element.gpus)
    environment["TANDA_WARNING_S"] = str(element.warn_s)
    environment.pop(sidecar.SIDECARS, None)
    devices = visible_gpus(os.environ)
    gpus = len(devices) or element.gpus or 1
    environment["TANDA_GPU_TASKS"] = str(len(range(index % gpus, count, gpus)))
    if not element.gpus and "CUDA_VISIBLE_DEVICES" not in os.environ:
        # A node that hides no GPU shows its tasks those of others. Where a site's own option asked for some, Slurm
        # has set it.
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if count > 1 and len(devices) > 1:
        # Several GPUs are dealt out; a single one is shared by all.
        dealt = devices[index::count] or [devices[index % len(devices)]]
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


def visible_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES names, up to the first that is none, as ``jobs.context.visible_gpus`` does."""
    names = (name.strip() for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(","))
    return tuple(takewhile(lambda name: name not in ("", "NoDevFiles") and not name.startswith("-"), names))


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
    # If none saved, nothing is won by killing: all go on to the limit.
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
    """Record an exit that the child could not record."""
    if child.code is None or child.code in (OK, FAILED, AGAIN):
        return
    end = Exit(
        exit_code=child.code,
        job_id=element_id(),
        restart=restart(),
        host=_host(),
        ended=time.time(),
        peak_mb=child.peak_mb,
    )
    _write(child.path / EXITS / f"{end.job_id}-{end.restart}.json", asdict(end))


def _progress_times(path: Path, names: tuple[str, ...]) -> dict[str, int]:
    times = {}
    for name in names:
        try:
            times[name] = (path / name).stat().st_mtime_ns
        except OSError:
            continue
    return times


def _made_progress(child: _Child, element: Element) -> bool:
    """Whether another start is worth it: too few in a row were without progress; counts them."""
    file = child.path / "restarts.json"
    idle = 0
    if _progress_times(child.path, element.progress_files) == child.progress:
        try:
            with open_plain(file) as before:
                idle = int(json.load(before)["idle"]) + 1
        except (OSError, ValueError, KeyError, TypeError):  # none yet, or damaged: counted from here
            idle = 1
    _write(file, {"idle": idle, "job_id": element_id(), "restart": restart(), "ended": time.time()})
    return idle < element.idle_restarts


def _write(path: Path, facts: Mapping[str, Json], *, permissions: int = 0o666) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        check_plain(path.parent)
        write_whole(path, json.dumps(facts, indent=2).encode(), permissions=permissions)
    except OSError as error:
        print(f"{path}: {error}", file=sys.stderr, flush=True)


def _ask_slurm(*command: str) -> str | None:
    """What one of Slurm's programs prints; None, once it is said why, where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"{error}: {getattr(error, 'stderr', None) or ''}".strip(), file=sys.stderr, flush=True)
        return None
    return done.stdout


def is_superseded() -> bool:
    """Whether Slurm has started this element again meanwhile, as it took this start for dead; False if it is silent."""
    shown = (_ask_slurm("squeue", "-h", "-j", element_id(), "-O", "RestartCnt:12") or "").strip()
    return shown.isdigit() and int(shown) > restart()


def run_on_node(element: Element) -> int:
    """Run the element on a node of Slurm's, requeue it, and no other of its array, if it wants another start; the
    exit status."""
    code = run(element)
    # A start on a node that was only cut off must not end, or begin again, the one that took its place.
    if code == AGAIN and not is_superseded():
        _ask_slurm("scontrol", "requeue", element_id())
    return code


def write_elements(file: Path, elements: tuple[Element, ...]) -> None:
    """Write elements as a JSON document that ``python -m slurm.element`` takes."""
    documents = [asdict(element) for element in elements]
    for document in documents:
        document["signs"] = document.pop("progress_files")  # its name on disk
    _write(file, {"elements": documents}, permissions=OWNER_WRITES)


def read_element(file: Path, index: int) -> Element:
    """The element of that index in such a document; raises OSError for one that others made or can change."""
    document = json.loads(read_own(file))["elements"][index]
    return decode(Element, {**document, "progress_files": document.get("signs", ())})


def main() -> int:
    """``python -m slurm.element FILE [INDEX]``.

    Without INDEX it is Slurm's index in the array. With it, the process that started this one starts it again.
    """
    by_slurm = len(sys.argv) == 2
    index = int(os.environ.get("SLURM_ARRAY_TASK_ID") or 0) if by_slurm else int(sys.argv[2])
    try:
        element = read_element(Path(sys.argv[1]), index)
    except OSError as error:
        if fault_of(error) is None:
            raise
        print(f"not started: {error}", file=sys.stderr, flush=True)
        return STORAGE
    return run_on_node(element) if by_slurm else run(element)


if __name__ == "__main__":
    sys.exit(main())
