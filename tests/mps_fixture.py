"""A stand-in for nvidia-cuda-mps-control: the calls that ``slurm.mps`` makes, without a GPU."""

from __future__ import annotations

from pathlib import Path

# The daemon is a process that sleeps, its server's pid the same; both end by SIGKILL, as `-d` leaves SIGTERM ignored.
SCRIPT = """#!/bin/sh
pipes=$CUDA_MPS_PIPE_DIRECTORY
if [ "$1" = -d ]; then
    echo "start $pipes ${{CUDA_VISIBLE_DEVICES-}}" >> {calls}
    [ -z "{refuses}" ] || {{ echo "Cannot start: not permitted" >&2; exit 1; }}
    sleep 300 &
    echo $! > "$pipes/daemon.pid"
    exit 0
fi
read -r line
echo "$line" >> {calls}
case $line in
    start_server*) [ -n "{serverless}" ] || cp "$pipes/daemon.pid" "$pipes/server.pid" ;;
    get_server_list) cat "$pipes/server.pid" 2> /dev/null || {{ echo "no server" >&2; exit 1; }} ;;
    quit) kill -9 "$(cat "$pipes/daemon.pid")" ;;
esac
"""


def mps_folder(folder: Path, *, refuses: bool = False, serverless: bool = False) -> Path:
    """A folder for PATH whose daemon notes each call in ``calls``; it does not start, or starts no server."""
    home = folder / "mps"
    home.mkdir()
    program = home / "nvidia-cuda-mps-control"
    program.write_text(
        SCRIPT.format(
            calls=home / "calls",
            refuses="yes" if refuses else "",
            serverless="yes" if serverless else "",
        )
    )
    program.chmod(0o755)
    return home


def mps_calls(home: Path) -> list[str]:
    """What the daemon was asked, in turn."""
    file = home / "calls"
    return file.read_text().splitlines() if file.exists() else []
