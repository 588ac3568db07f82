"""What Slurm says of its limits, read by name; and what cannot be read is said, never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest
from slurm_output_fixture import fake_slurm

from slurm import limits
from slurm.commands import warn_once
from slurm.errors import SlurmError
from slurm.executors.slurm import _classify_refusal
from slurm.limits import (
    keeps_accounting,
    max_array_size,
    parse_config,
    parse_minutes,
    parse_partitions,
    parse_submit_limits,
)

__all__ = ["fake_slurm"]

CONFIGS = {
    "22.05": """\
Configuration data as of 2026-11-26T12:00:00
AccountingStorageBackupHost = (null)
AccountingStorageType   = accounting_storage/none
ClusterName             = lab
MaxArraySize            = 1001
MaxJobCount             = 10000
SLURM_VERSION           = 22.05.8
""",
    "24.11": """\
Configuration data as of 2026-11-26T12:00:00
AccountingStorageType   = (null)
ClusterName             = lab
MaxArraySize            = 1001
MaxJobCount             = 10000
SLURM_VERSION           = 24.11.5

Cgroup Support Configuration:
CgroupPlugin            = cgroup/v1
""",
}  # fmt: skip


@pytest.mark.parametrize("version", CONFIGS)
def test_a_configuration_is_read_by_name(version: str) -> None:
    config = parse_config("Welcome!\n" + CONFIGS[version])
    assert config["SLURM_VERSION"].startswith(version) and config["ClusterName"] == "lab"
    assert max_array_size(config) == 1001 and not keeps_accounting(config)
    assert max_array_size({**config, "MaxJobCount": "50"}) == 50
    for kind in ("accounting_storage/slurmdbd", "accounting_storage/ctld_relay"):
        assert keeps_accounting({**config, "AccountingStorageType": kind})


@pytest.mark.parametrize("printed", ["", "(null)", "1K", "-1", "1001 (max)", "1e3", "1_001"])
@pytest.mark.parametrize("name", ["MaxArraySize", "MaxJobCount"])
def test_a_size_that_cannot_be_read_is_not_guessed(name: str, printed: str) -> None:
    config = {**parse_config(CONFIGS["22.05"]), name: printed}
    with pytest.raises(SlurmError, match=f"{name} is "):
        max_array_size(config)


def test_a_configuration_without_a_size_is_not_guessed() -> None:
    with pytest.raises(SlurmError, match="MaxArraySize is 'nothing'"):
        max_array_size({"ClusterName": "lab"})


@pytest.mark.parametrize(
    ("printed", "minutes"),
    [("infinite", None), ("UNLIMITED", None), ("n/a", None), ("2-00:00:00", 2880), ("4:30:00", 270), ("30:00", 30),
     ("1-12", 2160), ("90", 90)],
)  # fmt: skip
def test_time_limits(printed: str, minutes: int | None) -> None:
    assert parse_minutes(printed) == minutes


@pytest.mark.parametrize("printed", ["", "a day", "-1:00", "1:2:3:4", "1-", "INVALID", "\u0661:00"])
def test_a_time_that_cannot_be_read_is_not_taken_for_no_limit(printed: str) -> None:
    with pytest.raises(ValueError, match="no time limit"):
        parse_minutes(printed)


def test_partitions_by_kind_of_node() -> None:
    text = "gpu*|1-00:00:00|2|gpu:a100:4(S:0-1)\ngpu*|1-00:00:00|1|gpu:v100:2,lscratch:900\ncpu|infinite|3|(null)\n"
    gpu, cpu, old = parse_partitions(text + "old|30:00|2|gpu:1\r\n")
    assert (gpu.name, gpu.gpus, gpu.time_limit_min) == ("gpu", {"a100": 8, "v100": 2}, 1440)
    assert (cpu.name, cpu.gpus, cpu.time_limit_min) == ("cpu", {}, None)
    assert (old.name, old.gpus, old.time_limit_min) == ("old", {"gpu": 2}, 30)


@pytest.mark.parametrize(
    "line",
    ["Welcome | to the cluster", "maintenance on Monday", "gpu|soon|2|gpu:2", "gpu|30:00|two|gpu:2",
     "gpu|30:00|2|gpu:a100:many:2", "gpu|30:00|2"],
)  # fmt: skip
def test_a_line_that_is_no_partitions_is_left_out_and_said(line: str, capfd: pytest.CaptureFixture[str]) -> None:
    warn_once.cache_clear()
    printed = f"{line}\n\nshort*|30:00|2|gpu:2\n"
    assert [(found.name, found.gpus) for found in parse_partitions(printed)] == [("short", {"gpu": 4})]
    assert capfd.readouterr().err == f"tanda: sinfo printed a line that is no partition's: {line!r}\n"


def test_submit_limits_are_those_of_this_users_own(capfd: pytest.CaptureFixture[str]) -> None:
    warn_once.cache_clear()
    assert parse_submit_limits("Welcome|7|8|9\n|200|normal,long\n4294967294|-1|\n5|x|y\n") == [
        ((200,), "normal,long"), ((), ""),
    ]  # fmt: skip
    assert capfd.readouterr().err.count("sacctmgr printed a line that holds no limits") == 2


def test_the_qos_of_others_limit_nobody_here(fake_slurm: Path) -> None:
    program = fake_slurm / "sacctmgr"
    program.write_text(
        '#!/bin/sh\ncase "$*" in *assoc*) echo "|500|normal,long";; *) printf "9||tiny\\n300||long\\n";; esac\n'
    )
    program.chmod(0o755)
    assert limits._max_submit_jobs(None) == 300
    program.write_text("#!/bin/sh\necho 'sacctmgr: error: Problem talking to the database' >&2; exit 1\n")
    assert limits._max_submit_jobs(None) is None


REFUSALS = {
    "sbatch: error: invalid partition specified: gpuu": "; partitions here: gpu, cpu",
    "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified": (
        "; your accounts: nlp, vision"
    ),
    "sbatch: error: Batch job submission failed: Invalid qos specification": "; your QOS: long, normal, short",
    "sbatch: error: Batch job submission failed: Requested node configuration is not available": "",
}  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_says_what_would_be_taken(refusal: str, fake_slurm: Path) -> None:
    answers = {
        "sinfo": "printf 'gpu\\ngpu\\ncpu\\n'",
        "sacctmgr": (
            "case \"$*\" in *Account*) printf 'nlp\\nvision\\n';; *) printf 'long,normal\\nnormal,short\\n';; esac"
        ),
    }
    for name, body in answers.items():
        (fake_slurm / name).write_text(f"#!/bin/sh\n{body}\n")
        (fake_slurm / name).chmod(0o755)
    assert str(_classify_refusal(refusal)) == refusal + REFUSALS[refusal]
    for name in answers:
        (fake_slurm / name).write_text("#!/bin/sh\nexit 1\n")
    assert str(_classify_refusal(refusal)) == refusal
