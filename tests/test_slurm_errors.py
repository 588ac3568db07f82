"""What Slurm's programs say when they do not answer, and what each of it stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
from slurm_output_fixture import SACCT, accounted, fake_slurm, queue_of

from pipeline import doctor
from slurm.commands import call, warn_once
from slurm.errors import (
    DeniedError,
    NoAccountingError,
    SlurmError,
    UnknownJobError,
    UnreachableError,
    UnusableError,
    classify_error,
)
from slurm.limits import Limits
from slurm.query import states

__all__ = ["fake_slurm"]

SAID: dict[str, type[SlurmError]] = {
    # 22.05
    "slurm_load_jobs error: Invalid job id specified": UnknownJobError,
    "scancel: error: Kill job error on job id 5: Job/step already completing or completed": UnknownJobError,
    "slurm_load_jobs error: Unable to contact slurm controller (connect failure)": UnreachableError,
    "slurm_load_jobs error: Socket timed out on send/recv operation": UnreachableError,
    "slurm_load_jobs error: Zero Bytes were transmitted or received": UnreachableError,
    "slurm_load_jobs error: Slurm backup controller in standby mode": UnreachableError,
    "scancel: error: Kill job error on job id 5: Access/permission denied": DeniedError,
    "Slurm accounting storage is disabled": NoAccountingError,
    "You are not running a supported accounting_storage plugin\nOnly 'accounting_storage/slurmdbd' is supported.": (
        NoAccountingError
    ),
    "sacct: error: slurmdbd: Access/permission denied": DeniedError,
    "sacct: error: slurmdbd: Operation not permitted": DeniedError,
    "sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection to host:db:6819: "
    "Connection refused\nsacct: error: Sending PersistInit msg: Connection refused\n"
    "sacct: error: Problem talking to the database: Connection refused": UnreachableError,
    "sacct: error: slurm_persist_conn_open: Something happened with the receiving/processing of the persistent "
    "connection init message to db:6819: Access/permission denied\nsacct: error: Problem talking to the database: "
    "Access/permission denied": DeniedError,
    "sacct: error: Couldn't find the specified plugin name for accounting_storage/slurmdbd looking at all files\n"
    "sacct: error: cannot find accounting_storage plugin for accounting_storage/slurmdbd\n"
    "sacct: error: cannot create accounting_storage context for accounting_storage/slurmdbd": UnusableError,
    "sacct: error: plugin_load_from_file: dlopen(/usr/lib/slurm/accounting_storage_slurmdbd.so): Permission denied": (
        UnusableError
    ),
    'sacct: error: Invalid field requested: "Comment"': UnusableError,
    "sacct: error: If munged is up, restart with --num-threads=10\nsacct: error: Munge encode failed: Failed to access "
    '"/run/munge/munge.socket.2": Permission denied': UnreachableError,
    # 24.11
    "sacct: error: _open_persist_conn: failed to open persistent connection to host:db:6819: Connection refused\n"
    "sacct: error: Sending PersistInit msg: Connection refused\n"
    "sacct: error: Problem talking to the database: Connection refused": UnreachableError,
    "sacct: fatal: failed to initialize accounting_storage plugin": UnusableError,
    "slurm_load_jobs error: Protocol authentication error": UnreachableError,
    "sbatch: error: invalid partition specified: x": SlurmError,
    "something that nobody has seen": SlurmError,
}  # fmt: skip


@pytest.mark.parametrize("message", SAID)
def test_what_slurms_complaints_stand_for(message: str) -> None:
    error = classify_error(message)
    assert type(error) is SAID[message] and "\n" not in str(error)


def test_a_refusal_among_jobs_that_are_over_is_not_swallowed() -> None:
    over = "scancel: error: Kill job error on job id 5: Invalid job id specified"
    refused = "scancel: error: Kill job error on job id 6: Access/permission denied"
    assert type(classify_error(f"{over}\n{refused}")) is DeniedError
    assert type(classify_error(f"{over}\n{over}")) is UnknownJobError


@pytest.mark.parametrize(
    ("lines", "kind"),
    {
        "254_0: Job has already finished\n254_1-2: No error": UnknownJobError,
        "254_0: Job has already finished\n254_1-2: Access/permission denied": DeniedError,
        "254_0: No error\n254_1: Requested operation not supported on this system": SlurmError,
    }.items(),
)
def test_elements_that_did_as_asked_are_no_refusal(lines: str, kind: type[SlurmError]) -> None:
    assert type(classify_error(lines)) is kind


NOT_FOR_US = {
    "refused": "echo 'sacct: error: slurmdbd: Access/permission denied' >&2; exit 1",
    "refused with status 0": "echo 'sacct: error: slurmdbd: Access/permission denied' >&2; exit 0",
    "by a site's own words": "echo 'sacct: error: Access/permission denied to accounting records here' >&2; exit 1",
    "no plugin": "echo 'sacct: error: cannot find accounting_storage plugin for accounting_storage/x' >&2; exit 1",
}


@pytest.mark.parametrize("case", [*NOT_FOR_US, "not installed", "may not be run"])
def test_an_accounting_that_may_not_be_asked_counts_as_none_and_is_told_once(
    case: str, fake_slurm: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    warn_once.cache_clear()
    if case in NOT_FOR_US:
        (fake_slurm / "sacct.answer").write_text(NOT_FOR_US[case] + "\n")
    else:
        monkeypatch.setenv("PATH", str(fake_slurm))  # no other sacct of this machine
        (fake_slurm / "squeue").write_text("#!/bin/sh\n")
        (fake_slurm / "sacct").write_text("no program\n")
    if case == "not installed":
        (fake_slurm / "sacct").unlink()
    for _ in range(2):
        assert states(["5"])["5"].state == "gone"
    told = capfd.readouterr().err
    assert told.count("\n") == 1 and "counts as lost" in told
    asked = Limits(version="24", cluster="c", max_array_size=9, accounting=True, max_submit_jobs=None, partitions=())
    found = doctor._accounting(asked)
    assert not found.ok and found.reason.startswith("sacct does not answer: ")


@pytest.mark.parametrize("status", [0, 1])
def test_an_accounting_that_does_not_answer_for_the_moment_changes_nothing(status: int, fake_slurm: Path) -> None:
    words = "sacct: error: Problem talking to the database: Connection refused"
    (fake_slurm / "sacct.answer").write_text(f"echo '{words}' >&2; exit {status}\n")
    assert states(["5"])["5"].state == "unknown"


@pytest.mark.parametrize("program", ["squeue", "sacct"])
def test_an_answer_that_was_cut_short_proves_nothing(program: str, fake_slurm: Path) -> None:
    """What is missing in it may have been further down: a job of an array would pass for cancelled."""
    (fake_slurm / "sacct.txt").write_text(accounted(SACCT))
    (fake_slurm / "squeue.txt").write_text(queue_of("PENDING", id_="1_2") + "\n")
    assert [state.state for state in states(["1_2", "1_3", "1_9"]).values()] == ["waiting", "failed", "failed"]
    (fake_slurm / f"{program}.answer").write_text(f"head -c -5 {fake_slurm}/{program}.txt\n")
    found = states(["1_3", "1_9"])
    assert {state.state for state in found.values()} == {"unknown"}
    assert f"{program} was cut short" in (found["1_9"].reason or "")


def test_words_are_read_as_utf8_whatever_the_locale(fake_slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locale.getpreferredencoding", lambda *_: "latin-1")
    monkeypatch.setattr("locale.getencoding", lambda: "latin-1", raising=False)
    (fake_slurm / "squeue.txt").write_text("café\n", encoding="utf-8")
    assert call(["squeue"]) == "café\n"
