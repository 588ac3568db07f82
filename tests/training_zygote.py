"""Starts task processes that have torch loaded already: ``start FOLDER`` answers a pid, ``wait PID`` a status.

A child is a whole process of its own, forked before any of torch's threads exist, that runs the task's entry point.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    import torch

    import jobs.models.cnn.network
    import jobs.models.mlp.network
    import jobs.models.rnn.network
    import jobs.stages.train  # noqa: F401
    from jobs.entry import run

    # What torch loads at its first use of an optimiser is loaded here once for all children.
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])

    for line in sys.stdin:
        word, argument = line.split(maxsplit=1)
        if word == "wait":
            print(os.waitstatus_to_exitcode(os.waitpid(int(argument), 0)[1]), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            log = os.open(Path(argument.strip()) / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os._exit(run(Path(argument.strip())))
        print(pid, flush=True)


main()
