"""The Debian 13 with Slurm 24.11 that ``tests/install_debian13.sh`` makes, as a machine to run a cluster on.

It has its own root folder and its own mount namespace, and shares everything else with this machine: processes, ports,
the temporary folder, this checkout and its Python. Whatever is mounted for it is mounted in that namespace alone, which
is gone with its last process. What is mounted outside later is seen inside if mounts are shared there
(``has_shared_mounts``), as they are in a process that ``SHARING_MOUNTS`` starts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["SHARING_MOUNTS", "Debian13", "absent", "has_shared_mounts"]

# The beginning of a command line, for a program whose own mounts are to be seen inside, and nowhere else.
SHARING_MOUNTS = ("unshare", "--mount", "--propagation=shared")

DEBIAN13 = Path(os.environ.get("TANDA_DEBIAN13") or "/var/cache/tanda-tests/debian13")
CHECKOUT = Path(__file__).resolve().parents[1]
# What a user of Slurm calls, and so does the product.
CLIENTS = ("sacct", "sacctmgr", "salloc", "sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun", "sstat")
# $0 is the name it is called by; the folder that one is in need not be there, as `scancel` does not care.
CLIENT = """\
#!/bin/sh
exec nsenter --target={pid} --mount --root --wdns="$(pwd -P)" -- "/usr/bin/${{0##*/}}" "$@"
"""
# The folder of the clients is hidden inside: there they are what is installed.
ENTER = """\
set -euo pipefail
root=$1 clients=$2
for shared in "${@:3}"; do
    mkdir -p "$root$shared"
    mount --rbind "$shared" "$root$shared"
done
touch "$root/etc/hosts"
mount --bind /etc/hosts "$root/etc/hosts"
mount -t tmpfs none "$root$clients"
echo ready
exec chroot "$root" cat
"""


def absent() -> tuple[str, bool] | None:
    """Why there is no such machine here, and whether that is the fault of nobody; None where there is one."""
    if os.geteuid() != 0:
        return "only root can enter a Debian 13", True
    mount = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    tried = subprocess.run(mount, capture_output=True, check=False)
    if tried.returncode != 0:
        return f"nothing may be mounted here: {tried.stderr.decode().strip()}", True
    if not (DEBIAN13 / "etc/tanda-made-by").exists():
        return f"{DEBIAN13} is not there: run tests/install_debian13.sh", False
    if Path(sys.base_prefix) == Path("/usr"):
        return f"{sys.base_prefix} cannot be shared with another Debian: its Python is no folder of its own", False
    return None


def has_shared_mounts() -> bool:
    """Whether what this process mounts in its temporary folder is seen inside a machine that it started."""
    words = ["findmnt", "--noheadings", "--output=PROPAGATION", f"--target={tempfile.gettempdir()}"]
    return "shared" in subprocess.run(words, capture_output=True, text=True, check=False).stdout


class Debian13:
    """Up from ``start`` to ``stop``; ``environment`` is what makes a process call its Slurm programs."""

    def __init__(self) -> None:
        self._holder: subprocess.Popen[bytes] | None = None
        self._clients: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.pathsep.join((str(self._clients), os.environ.get("PATH", "")))}

    def start(self, folder: Path) -> None:
        """Mount what it shares; the programs to call go to a subfolder. Raises OSError."""
        self._clients = folder / "clients"
        self._clients.mkdir(exist_ok=True)
        shared = {"/proc", "/dev", "/sys", tempfile.gettempdir(), folder.parent, CHECKOUT, sys.base_prefix}
        shared |= {Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
        words = ["bash", "-c", ENTER, "enter", DEBIAN13, self._clients, *sorted({str(path) for path in shared})]
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation=slave", *map(str, words)],
            # It ends when the pipe does, and so with this process, whatever ends that.
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"ready\n":
            _, wrong = self._holder.communicate()
            self._holder = None
            raise OSError(f"{DEBIAN13} can't be entered: {wrong.decode().strip()}")
        for name in CLIENTS:
            (self._clients / name).write_text(CLIENT.format(pid=self._holder.pid))
            (self._clients / name).chmod(0o755)

    def stop(self) -> None:
        """Unmount everything: whatever still runs inside keeps it until it ends."""
        if self._holder is not None:
            self._holder.communicate(timeout=20)
            self._holder = None

    def command(self, words: Sequence[str]) -> list[str]:
        """How to call a program of its own from outside."""
        assert self._holder is not None
        return ["nsenter", f"--target={self._holder.pid}", "--mount", "--root", "--wdns=/", "--", *words]
