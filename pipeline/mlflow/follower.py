"""``python -m pipeline.mlflow.follower URI MANIFEST STORAGE/runs/ID...``: sends tasks' epochs while they train.

It stands beside the tasks of one element of an array and shares nothing with them but the journals that it reads: a
server that is slow or down costs them nothing. It ends with its tasks: when each has a record, when whoever started
it is gone, or soon after SIGTERM. What was not sent by then, the report sends later, from storage.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from jobs import metrics_log
from jobs.attempt import history
from jobs.storage import read_json
from pipeline.mlflow.server import Server, Unreachable, curves, milliseconds, params

EVERY_S = 5.0
LONGEST_PAUSE_S = 300.0  # between two tries at a server that does not answer
LAST_TIMEOUT_S = 2.0  # a request once the tasks are over: the node waits for it
PLUMBING = ("dataset", "search")  # what a task's settings name that is no setting


@dataclass(slots=True)
class Followed:
    """One task: what of its journal the server has, by epoch and the time of its end."""

    folder: Path
    run: str | None = None
    sent: set[tuple[int, float | None]] = field(default_factory=set)
    seen: tuple[int, int] | None = None  # the journal's size and time when all of it was sent

    def over(self) -> bool:
        return (self.folder / "record.json").exists()

    def send(self, server: Server, home: str, manifest: str) -> None:
        """Send the epochs that the server lacks; a journal that did not change is not even read."""
        stamp = _stamp(self.folder / metrics_log.NAME)
        if self.run is not None and stamp == self.seen:
            return
        if self.run is None:
            self.run = self._begin(server, home, manifest)
        # After a cut some epochs are done again: the same values, at a later time.
        new = {(line["epoch"], line.get("ended")): line for line in metrics_log.read(self.folder)}
        points = list(curves((line for key, line in new.items() if key not in self.sent), time.time()))
        if points:
            server.log(self.run, points)
        self.sent |= new.keys()
        self.seen = stamp

    def _begin(self, server: Server, home: str, manifest: str) -> str:
        """Our run on the server, running; its final name and tags come with the report."""
        task = read_json(self.folder / "task.json")
        settings = task["settings"] if "architecture" in task["settings"] else {}
        attempts = history(self.folder)
        started = float(attempts[0].get("started", time.time())) if attempts else time.time()
        group = os.environ.get("TANDA_GROUP", "")
        tags = {"tanda.manifest": manifest, "tanda.state": "running", "tanda.stage": task["stage"]}
        tags |= {"tanda.group": group} if group else {}
        name = " / ".join(part for part in (group, settings.get("architecture"), self.folder.name[:8]) if part)
        run = server.ensure(home, self.folder.name, name, milliseconds(started), tags)
        server.update(run, "RUNNING")
        server.log(run, [], params=params({key: settings[key] for key in settings if key not in PLUMBING}))
        return run


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    return facts.st_size, facts.st_mtime_ns


class _Over(Exception):  # noqa: N818 - no error
    """SIGTERM came: the tasks are over. ``hung`` says that the server was keeping us waiting."""

    def __init__(self, *, hung: bool) -> None:
        super().__init__(hung)
        self.hung = hung


def follow(
    server: Server,
    manifest: str,
    folders: Iterable[Path],
    *,
    gone: Callable[[], bool],
    every_s: float = EVERY_S,
    tell: Callable[[str], None] = lambda _note: None,
) -> None:
    """Send what is new of every task until all are over, or whoever waits for it is gone.

    A server that fails is told of once, and asked again after ever longer pauses.
    """
    tasks = [Followed(folder) for folder in folders]
    home: str | None = None
    failures = 0
    try:
        while True:
            last = gone() or all(task.over() for task in tasks)
            try:
                home = home or server.experiment(manifest)
                for task in tasks:
                    task.send(server, home, manifest)
                failures = 0
            except (Unreachable, OSError) as error:
                failures += 1
                if failures == 1:
                    tell(f"not sent for now; what is missing at the end, the report sends: {error}")
            if last:
                return
            time.sleep(every_s if not failures else min(every_s * 2 ** min(failures, 10), LONGEST_PAUSE_S))
    except _Over as over:
        # One last try, and none at a server that failed or hangs: a node waits for the end of it.
        if not failures and not over.hung:
            _finish(server, home, manifest, tasks, tell)


def _finish(
    server: Server, home: str | None, manifest: str, tasks: Iterable[Followed], tell: Callable[[str], None]
) -> None:
    server.timeout_s = LAST_TIMEOUT_S
    try:
        home = home or server.experiment(manifest)
        for task in tasks:
            task.send(server, home, manifest)
    except (Unreachable, OSError) as error:
        tell(f"the last epochs were not sent, the report sends them: {error}")


def main(words: list[str]) -> int:
    """Follow tasks for the process that started this one."""
    if len(words) < 3:
        print("usage: python -m pipeline.mlflow.follower URI MANIFEST STORAGE/runs/ID...", file=sys.stderr)
        return 2
    uri, manifest, *folders = words
    server, parent = Server(uri), os.getppid()
    over = False

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - Python's signature
        nonlocal over
        # The second one, from whoever else signals the whole group, must not cut the last request short.
        if not over:
            over = True
            raise _Over(hung=server.waiting_s() > LAST_TIMEOUT_S)

    for number in (signal.SIGUSR2, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # they are for the tasks
    os.nice(10)
    try:
        signal.signal(signal.SIGTERM, end)
        follow(
            server, manifest, [Path(folder) for folder in folders],
            gone=lambda: os.getppid() != parent,
            tell=lambda note: print(f"tracking: {note}", file=sys.stderr, flush=True),
        )  # fmt: skip
    except _Over:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
