"""A real Slurm cluster on one machine, without systemd: munge, MariaDB, slurmdbd, slurmctld and several slurmd.

Four virtual nodes of 4 CPUs, 4 GB and 2 fake GPUs each by default; two partitions, of which ``scavenger`` is
preempted by ``normal``. Every daemon runs as whoever starts it. Also a program:
``python tests/rig.py up FOLDER`` prints SLURM_CONF, ``python tests/rig.py down FOLDER`` stops it. The Slurm is that of
the machine, or that of another root folder (``debian13.py``).
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from debian13 import Debian13, has_shared_mounts
from rig_conf import Place, Shape, cgroup_conf, slurm_conf, slurmdbd_conf

__all__ = ["DEBIAN13", "INSTALLED", "Rig", "RigError", "Shape", "has_cgroups", "missing"]

# Whose Slurm a cluster is of: that of this machine, or that of a Debian 13 in a folder of it.
INSTALLED, DEBIAN13 = "installed", "24.11"
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
NEEDED_FOR_ACCOUNTING = ("slurmdbd", "mariadbd", "mariadb-install-db", "sacctmgr")
SEARCH_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/local/sbin"))
DATABASE_OPTIONS = (
    "--bind-address=127.0.0.1",
    "--skip-log-bin",
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=64M",
    "--innodb-lock-wait-timeout=900",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--performance-schema=0",
)


class RigError(RuntimeError):
    """The cluster did not come up; the text holds the ends of the daemons' logs."""


def missing(*, accounting: bool = True) -> list[str]:
    """The programs that the rig needs and that are not installed."""
    wanted = (*NEEDED, *(NEEDED_FOR_ACCOUNTING if accounting else ()))
    return [program for program in wanted if shutil.which(program, path=SEARCH_PATH) is None]


def has_cgroups() -> bool:
    """Whether slurmd can enforce memory here by cgroups of version 1, as ``Shape.cgroups`` asks."""
    files = [Path("/sys/fs/cgroup", name, "cgroup.procs") for name in ("memory", "freezer")]
    return os.geteuid() == 0 and all(file.exists() and os.access(file, os.W_OK) for file in files)


class Rig:
    """One cluster in one folder; ``environment`` is what its clients need."""

    def __init__(self, folder: Path, shape: Shape | None = None, slurm: str = INSTALLED) -> None:
        self.folder = folder
        self.shape = shape or Shape()
        self.slurm = slurm
        self.machine = Debian13() if slurm == DEBIAN13 else None
        self.user = getpass.getuser()
        self.host = socket.gethostname().split(".")[0]
        self.nodes = [f"{self.shape.prefix}{number}" for number in range(1, self.shape.nodes + 1)]
        self._database: subprocess.Popen[bytes] | None = None
        # One set of ports for the life of the rig: a restarted daemon must come back where it was.
        self._ports = {name: _free_port() for name in ("slurmctld", "slurmdbd", "mariadb", *self.nodes)}

    @property
    def conf(self) -> Path:
        return self.folder / "conf" / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        own = {} if self.machine is None else self.machine.environment
        return {**own, "SLURM_CONF": str(self.conf)}

    @property
    def sees_mounts(self) -> bool:
        """Whether its nodes see what this process mounts from now on."""
        return self.machine is None or has_shared_mounts()

    def start(self) -> None:
        """From nothing to every node idle, in 3-8 s; raises RigError with the logs and leaves nothing running."""
        try:
            if self.machine is not None:
                self.machine.start(self.folder)
            self._prepare()
            self._start_munge()
            if self.shape.accounting:
                self._start_database()
                self.start_slurmdbd()
            self.start_slurmctld()
            for node in self.nodes:
                self.start_slurmd(node)
            self._wait("every node idle", self._all_idle, 60)
        except (RigError, OSError, subprocess.SubprocessError) as error:
            logs = self.logs()
            self.stop()
            raise RigError(f"{error}\n{logs}") from error

    def stop(self) -> None:
        """Stop every daemon and every step that is left, however the cluster fares; can be called twice."""
        if (self.folder / "run/slurmctld.pid").exists():
            with contextlib.suppress(subprocess.SubprocessError):
                self.call("scancel", f"--user={self.user}", timeout_s=10)
                time.sleep(0.3)
        self.stop_daemon("slurmctld")
        for node in self.nodes:
            self.stop_daemon(f"slurmd.{node}")
        self._kill_steps()
        self.stop_daemon("slurmdbd")
        self.stop_daemon("mariadb")
        if self._database is not None:
            self._database.wait(timeout=20)
        self.stop_daemon("munged")
        self._remove_cgroups()
        if self.machine is not None:
            self.machine.stop()

    def call(self, *command: str, timeout_s: float = 30) -> str:
        """Run a client program on this cluster; its standard output. Raises CalledProcessError."""
        try:
            done = subprocess.run(
                self._command(*command), env=self._environment, capture_output=True, text=True, timeout=timeout_s,
                check=True,
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            error.add_note(error.stderr)
            raise
        return done.stdout

    def logs(self, lines: int = 15) -> str:
        """The last lines of every daemon's log."""
        parts = []
        for path in sorted((self.folder / "log").glob("*.log")):
            parts += [f"== {path.name}", *path.read_text(errors="replace").splitlines()[-lines:]]
        return "\n".join(parts)

    def start_slurmctld(self) -> None:
        self._daemon("slurmctld")
        self._wait("slurmctld answers", lambda: "is UP" in self._try("scontrol", "ping"), 20)

    def start_slurmd(self, node: str) -> None:
        self._daemon("slurmd", "-N", node)

    def steps(self, node: str) -> list[str]:
        """The steps whose daemons still live on a node, like ``12.0``; a node that really failed comes back without."""
        return [path.name.partition("_")[2] for path in (self.folder / "spool" / node).glob(f"{node}_*")]

    def start_slurmdbd(self) -> None:
        self._daemon("slurmdbd")
        self._wait("slurmdbd answers", lambda: self._try("sacctmgr", "-n", "show", "user") != "", 20)
        if "lab" not in self._try("sacctmgr", "-n", "-P", "show", "cluster", "format=cluster").split():
            self.call("sacctmgr", "-i", "add", "cluster", "lab")
            self.call("sacctmgr", "-i", "add", "account", "lab", "cluster=lab")
            self.call("sacctmgr", "-i", "add", "user", self.user, "account=lab", "cluster=lab", "defaultaccount=lab")

    def stop_daemon(self, name: str, *, hard: bool = False) -> None:
        """Stop one daemon by its pid file (``slurmctld``, ``slurmd.n1``, ``slurmdbd``, ...)."""
        path = self.folder / "run" / f"{name}.pid"
        try:
            pid = int(path.read_text())
        except (FileNotFoundError, ValueError):
            return
        # Never a recycled pid: the process must be one of ours by name.
        if _alive(pid) and _name(pid).startswith(("slurm", "mariadbd", "munged")):
            _end(pid, signal.SIGKILL if hard else signal.SIGTERM)
        path.unlink(missing_ok=True)

    def _prepare(self) -> None:
        if self.machine is None and (absent := missing(accounting=self.shape.accounting)):
            raise RigError(f"not installed: {', '.join(absent)}")
        for name in ("conf", "run", "log", "state", "munge", "dev", *(f"spool/{node}" for node in self.nodes)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "munge").chmod(0o700)
        (self.folder / "run").chmod(0o755)
        self.conf.write_text(slurm_conf(self._place, self.shape, self.nodes))
        (self.folder / "conf/gres.conf").write_text(self._gres_conf())
        (self.folder / "conf/cgroup.conf").write_text(cgroup_conf(self.shape))
        if self.shape.accounting:
            path = self.folder / "conf/slurmdbd.conf"
            path.touch(mode=0o600)
            path.write_text(slurmdbd_conf(self._place))

    def _start_munge(self) -> None:
        key = self.folder / "munge/munge.key"
        if not key.exists():
            key.write_bytes(os.urandom(1024))
            key.chmod(0o400)
        self._daemon(
            "munged",
            f"--socket={self._socket}",
            f"--key-file={key}",
            f"--log-file={self.folder}/log/munged.log",
            f"--pid-file={self.folder}/run/munged.pid",
            f"--seed-file={self.folder}/munge/munged.seed",
        )

    def _start_database(self) -> None:
        data, sock = self.folder / "mariadb", self.folder / "run/mariadb.sock"
        with (self.folder / "log/mariadb.log").open("a") as log:
            self._run_database(data, sock, log)
        client = ("mariadb", "--no-defaults", f"--user={self.user}", f"--socket={sock}", "-e")
        self._wait("MariaDB answers", lambda: self._try(*client, "select 1") != "", 30)
        grants = "".join(
            f"create user if not exists slurm@'{host}' identified by 'slurm';"
            f"grant all on slurm_acct.* to slurm@'{host}';"
            for host in ("127.0.0.1", "localhost")
        )
        self.call(*client, f"create database if not exists slurm_acct; {grants}")

    def _run_database(self, data: Path, sock: Path, log: IO[str]) -> None:
        if not data.exists():
            options = ["--no-defaults", f"--user={self.user}", f"--datadir={data}", "--skip-test-db"]
            root = ["--auth-root-authentication-method=socket", f"--auth-root-socket-user={self.user}"]
            install = self._command("mariadb-install-db", *options, *root)
            subprocess.run(install, check=True, stdout=log, stderr=log, env=self._environment, timeout=60)
        command = self._command("mariadbd", "--no-defaults", f"--user={self.user}", f"--datadir={data}")
        place = [f"--socket={sock}", f"--pid-file={self.folder}/run/mariadb.pid", f"--port={self._ports['mariadb']}"]
        self._database = subprocess.Popen(
            [*command, *place, *DATABASE_OPTIONS],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=self._environment,
            start_new_session=True,
        )

    def _command(self, program: str, *arguments: str) -> list[str]:
        words = [program, *arguments]
        return [_program(program), *arguments] if self.machine is None else self.machine.command(words)

    @property
    def _environment(self) -> dict[str, str]:
        return {**_outside(), "SLURM_CONF": str(self.conf)}

    @property
    def _place(self) -> Place:
        return Place(folder=self.folder, host=self.host, user=self.user, ports=self._ports)

    @property
    def _socket(self) -> Path:
        return self.folder / "run/munge.socket"

    def _gres_conf(self) -> str:
        # Character devices: with plain files jobs are scheduled, but CUDA_VISIBLE_DEVICES stays empty.
        count, first = self.shape.gpus, f"{self.folder}/dev/fakegpu[0-{self.shape.gpus - 1}]"
        try:
            for number in range(count):
                path = self.folder / f"dev/fakegpu{number}"
                if not path.exists():
                    os.mknod(path, 0o20666, os.makedev(240, number))
        except PermissionError:
            first = f"/dev/tty[10-{9 + count}]"
        return f"NodeName={','.join(self.nodes)} Name=gpu File={first}\n"

    def _daemon(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            self._command(name, *arguments),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise RigError(f"{name} did not start: {done.stdout}{done.stderr}")

    def _try(self, *command: str) -> str:
        try:
            return self.call(*command, timeout_s=5) or " "
        except subprocess.SubprocessError:
            return ""

    def _all_idle(self) -> bool:
        listing = self._try("sinfo", "-h", "-N", "-p", "normal", "-t", "idle", "-o", "%N")
        return set(listing.split()) == set(self.nodes)

    def _wait(self, what: str, ready: Callable[[], bool], limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while not ready():
            # The daemons detach before they fail: status 0 means nothing.
            if "fatal:" in (text := self.logs()):
                raise RigError(f"a daemon failed before: {what}")
            if time.monotonic() > deadline:
                raise RigError(f"not within {limit_s} s: {what}\n{text}")
            time.sleep(0.1)

    def _remove_cgroups(self) -> None:
        """What slurmd made for each node: in the hierarchies of this machine, whose root it was in."""
        for top in Path("/sys/fs/cgroup").glob("*/slurm_*"):
            if top.name.removeprefix("slurm_") in self.nodes:
                for folder, _, _ in os.walk(top, topdown=False):
                    with contextlib.suppress(OSError):  # a process that is about to go is in it
                        Path(folder).rmdir()

    def _kill_steps(self) -> None:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _name(int(entry.name)) == "slurmstepd":
                with contextlib.suppress(OSError):
                    if str(self.folder).encode() in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes():
                        os.kill(int(entry.name), signal.SIGKILL)


def _outside() -> Mapping[str, str]:
    """This process's environment without what a job or another cluster left in it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
    return {**kept, "PATH": SEARCH_PATH}


def _program(name: str) -> str:
    return shutil.which(name, path=SEARCH_PATH) or name


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _alive(pid: int) -> bool:
    # A zombie is gone: process 1 may reap late.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def _end(pid: int, how: signal.Signals, patience_s: float = 10) -> None:
    os.kill(pid, how)
    deadline = time.monotonic() + patience_s
    while _alive(pid):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.05)


def main() -> int:
    action, folder = sys.argv[1:]
    rig = Rig(Path(folder).resolve())
    if action == "down":
        rig.stop()
        return 0
    began = time.monotonic()
    try:
        rig.start()
    except RigError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"SLURM_CONF={rig.conf}")
    print(f"{len(rig.nodes)} nodes idle after {time.monotonic() - began:.1f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
