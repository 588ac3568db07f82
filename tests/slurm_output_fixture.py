"""What Slurm's programs were seen to print, and programs that print it again."""

from __future__ import annotations

from pathlib import Path

import pytest

from slurm.job_state import JobState, merge_sources
from slurm.limits import local_cluster
from slurm.query import parse_accounting, parse_queue

SACCT = """\
1_0|2|COMPLETED|0:0|0:0|3|billing=1,cpu=1,gres/gpu=2,mem=256M,node=1||None|n1|1795460771|1795460772|1795460775
1_0.batch|2.batch|COMPLETED|0:0||3|cpu=1,gres/gpu=2,mem=256M,node=1|3100K||n1|1795460772|1795460772|1795460775
1_[1-3]|1|PENDING|0:0|0:0|0||||None assigned|1795460771|Unknown|Unknown
5|5|FAILED|3:0|0:0|0|billing=1,cpu=1,mem=256M,node=1||None|n1|1795460790|1795460790|1795460790
6|6|FAILED|9:0|0:9|0|billing=1,cpu=1,mem=256M,node=1||None|n1|1795460790|1795460790|1795460790
6.batch|6.batch|FAILED|9:0||0|cpu=1,mem=256M,node=1|||n1|1795460790|1795460790|1795460790
6.0|6.0|CANCELLED|0:9||0|cpu=1,mem=256M,node=1|||n1|1795460790|1795460790|1795460790
7|7|FAILED|0:9|0:0|0|billing=1,cpu=1,mem=256M,node=1||None|n1|1795460790|1795460790|1795460790
8|8|FAILED|9:0|0:9|2|billing=1,cpu=1,mem=300M,node=1||None|n1|1795460790|1795460790|1795460792
8.batch|8.batch|FAILED|9:0||2|cpu=1,mem=300M,node=1|10712K||n1|1795460790|1795460790|1795460792
8.0|8.0|CANCELLED by 0|0:9||2|cpu=1,mem=300M,node=1|892320K||n1|1795460790|1795460790|1795460792
9|9|FAILED|0:53|0:0|0|billing=1,cpu=1,mem=256M,node=1||None|n1|1795460790|1795460791|1795460791
10|10|FAILED|9:0|9:0|0|billing=1,cpu=1,mem=256M,node=1||None|n1|1795460790|1795460791|1795460791
11|11|OUT_OF_MEMORY|0:125|0:125|7|billing=1,cpu=1,mem=1G,node=1||None|n1|1795460790|1795460791|1795460798
12|12|CANCELLED by 1000|0:15|0:0|7|billing=1,cpu=1,mem=1G,node=1||None|n1|1795460790|1795460791|1795460798
13|13|TIMEOUT|0:0|0:0|60|billing=1,cpu=1,mem=1G,node=1||None|n1|1795460790|1795460791|1795460851
14|14|NODE_FAIL|0:0|0:0|30|billing=1,cpu=1,gres/gpu=1,mem=1G,node=1||None|n4|1795460790|1795460791|1795460821
14|14|COMPLETED|0:0|0:0|10|billing=1,cpu=1,gres/gpu=1,mem=1G,node=1||BeginTime|n1|1795460821|1795460841|1795460851
14.0|14.0|COMPLETED|0:0||10|cpu=1,mem=1G,node=1|2G||n1|1795460841|1795460841|1795460851
15|15|PREEMPTED|0:0|0:0|30|billing=1,cpu=1,mem=1G,node=1||None|n4|1795460790|1795460791|1795460821
16|16|FAILED|75:0|75:0|30|billing=1,cpu=1,mem=1G,node=1||None|n4|1795460790|1795460791|1795460821
17|17|FAILED|74:0|74:0|30|billing=1,cpu=1,mem=1G,node=1||None|n4|1795460790|1795460791|1795460821
18|18|FAILED|11:0|0:11|1|billing=1,cpu=1,mem=1G,node=1||None|n4|1795460790|1795460791|1795460792
19|19|RUNNING|0:0|0:0|8|billing=1,cpu=1,mem=256M,node=1||None|n1|1795460790|1795460791|Unknown
"""

WIDTHS = (240, 20, 12, 60, 64, 8, 24, 24, 24, 160, 40, 12, 256, 256)


WHOSE = ("lab", "1000", "m-g-train", "tanda 20261126-m train g")


def accounted(text: str, whose: tuple[str, ...] = WHOSE) -> str:
    """Rows of sacct with whose they are at their ends; a step's row has the cluster and its own name alone."""
    lines = text.splitlines()
    return "".join(
        f"{line}|{whose[0]}||batch|\n" if "." in line.split("|")[0] else f"{line}|{'|'.join(whose)}\n" for line in lines
    )


def queue_line(*values: str, whose: tuple[str, ...] = WHOSE) -> str:
    return "".join(f"{value.ljust(width)}|" for value, width in zip((*values, *whose), WIDTHS, strict=True))


def queue_of(
    state: str, exit_code: str = "0", id_: str = "14", reason: str = "None", whose: tuple[str, ...] = WHOSE
) -> str:
    tres = "cpu=1,mem=256M,node=1,billing=1,gres/gpu=1"
    return queue_line(id_, state, exit_code, reason, "n1", "1", "1795460821", "1795460841", "NONE", tres, whose=whose)


def merged_state(id_: str, queue: str = "") -> JobState:
    history = parse_accounting(accounted(SACCT))
    assert not history.unreadable
    (row,) = parse_queue(queue).rows.get(id_, [None])
    return merge_sources(id_, row, history.rows.get(id_, []))


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs squeue and sacct that print a file each and count their calls, of cluster ``lab``.

    Asked of another cluster they print ``squeue.CLUSTER.txt`` and ``sacct.CLUSTER.txt``.
    """
    local_cluster.cache_clear()
    for name in ("squeue", "sacct"):
        program = tmp_path / name
        program.write_text(
            f'#!/bin/sh\necho {name} >> {tmp_path}/calls\nasked={name}; [ "$1" = -M ] && asked={name}.$2\n'
            f". {tmp_path}/{name}.answer\n"
        )
        program.chmod(0o755)
        # Each row ends its line, also the last.
        (tmp_path / f"{name}.answer").write_text(f"sed -e '$a\\' {tmp_path}/$asked.txt 2>/dev/null; true\n")
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho ClusterName = lab\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path
