"""What doctor says of a machine and a storage, and what gc takes away: never what a manifest refers to."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from clock_fixture import OwnClock
from small_manifest import tanda, write_manifest

from jobs.attempt import begin
from jobs.storage import Storage
from jobs.task import Task
from pipeline import doctor
from pipeline.doctor import examine
from pipeline.gc import find_unreferenced, remove
from pipeline.manifest import load
from pipeline.plan import make_plan
from sharedfs.documents import digest
from slurm.errors import UnreachableError, classify_error
from slurm.limits import Limits

CHECKS = (
    "exclusive folders", "exclusive files", "rename replaces a file", "rename refuses a full folder",
    "fsync of files and folders", "a fresh name is seen at once", "the clock",
)  # fmt: skip


def test_a_sound_storage_keeps_every_promise_and_is_left_as_it_was(tmp_path: Path) -> None:
    findings = {finding.name: finding for finding in examine(tmp_path / "storage")}
    assert set(CHECKS) | {"versions", "free space", "Slurm"} <= set(findings)
    assert all(findings[name].ok for name in (*CHECKS, "versions"))
    assert not list((tmp_path / "storage").iterdir())


def test_slurms_error_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_cluster: str | None) -> None:
        raise classify_error(
            "scontrol: error: resolve\nscontrol: error: DNS\nscontrol: fatal: Could not establish a source\n"
        )

    monkeypatch.setattr(doctor.shutil, "which", lambda _: "/usr/bin/sbatch")
    monkeypatch.setattr(doctor, "read", read)
    (found,) = doctor._slurm()
    assert not found.ok
    assert found.reason == (
        "the controller does not answer: Could not establish a source: is this a machine of the cluster?"
    )


def test_accounting_is_asked_and_not_only_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(
        version="24", cluster="c", max_array_size=1001, accounting=True, max_submit_jobs=None, partitions=()
    )
    monkeypatch.setattr(doctor, "ask_accounting", lambda _jobs, _cluster: None)
    assert doctor._accounting(limits).ok

    def silent(_jobs: list[str], _cluster: str | None) -> None:
        raise UnreachableError("sacct: error: slurm_persist_conn_open; Problem talking to the database")

    monkeypatch.setattr(doctor, "ask_accounting", silent)
    found = doctor._accounting(limits)
    assert not found.ok and found.reason.startswith("sacct does not answer: Problem talking to the database: states")


def _claim_loosely(folders: list[Path]) -> int:
    for folder in folders:
        folder.mkdir(exist_ok=True)
    return len(folders)


def test_a_promise_that_is_broken_is_told_with_what_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_claim_all", _claim_loosely)
    monkeypatch.setattr(doctor, "CLOCK_S", -1.0)
    broken = {finding.name: finding.reason for finding in examine(tmp_path) if not finding.ok}
    assert "two would run the same task" in broken["exclusive folders"]
    assert "set both by NTP" in broken["the clock"]


def test_one_line_a_finding_on_the_command_line(tmp_path: Path) -> None:
    printed = tanda("doctor", tmp_path / "s", status=None).splitlines()
    assert all(line.startswith(("ok  ", "FAIL ")) for line in printed)
    assert [entry["name"] for entry in json.loads(tanda("doctor", tmp_path / "s", "--json", status=None))] == [
        line[5:].partition(":")[0] for line in printed
    ]


def test_gc_takes_what_no_manifest_refers_to_and_nothing_that_lives(tmp_path: Path) -> None:
    plan = make_plan(load(write_manifest(tmp_path)))
    storage = Storage(plan.manifest.storage)
    kept = plan.tasks[0].task.write(storage)
    stale, living = (Task(stage="train", settings={"seed": seed}).write(storage) for seed in (1, 2))
    begin(living)
    (stale / "model.pt").write_bytes(bytes(1000))
    left, fresh = storage.runs / ".left.tmp", storage.runs / ".fresh.tmp"
    left.write_bytes(b"x")
    fresh.write_bytes(b"x")
    os.utime(left, (time.time() - 2 * 24 * 3600,) * 2)
    told: list[str] = []
    waste = find_unreferenced(storage, [plan], lambda what, _done, _total: told.append(what))
    assert {found.path for found in waste} == {stale, left}
    assert told.count("looking through runs") == len(list(storage.runs.iterdir()))
    assert {found.path for found in find_unreferenced(storage, [plan], clock=OwnClock(ahead=3600))} == {
        stale, left, living,
    }, "by the storage's clock the last heartbeat is an hour old"  # fmt: skip
    assert remove(storage, waste) > 1000
    assert kept.exists() and living.exists() and fresh.exists() and not stale.exists() and not left.exists()


def test_gc_leaves_what_a_run_uses_that_began_meanwhile(tmp_path: Path) -> None:
    plan = make_plan(load(write_manifest(tmp_path)))
    storage = Storage(plan.manifest.storage)
    data, other = (Task(stage="preprocess", settings={"number": number}) for number in range(2))
    search = {"seed": 0}
    trial = Task(stage="trial", settings={"search": search, "number": 0}, needs=(data.id,))
    folders = [storage.dataset(data.id), storage.dataset(other.id), storage.search(digest(search))]
    for folder in (*folders, trial.write(storage)):
        folder.mkdir(parents=True, exist_ok=True)
    waste = find_unreferenced(storage, [plan])
    assert {found.path for found in waste} == {*folders, storage.run(trial.id)}
    begin(storage.run(trial.id))
    assert {found.path for found in find_unreferenced(storage, [plan])} == {storage.dataset(other.id)}
    remove(storage, waste)
    assert [folder.exists() for folder in folders] == [True, False, True] and storage.run(trial.id).exists()


def test_gc_asks_first_and_refuses_a_plan_of_another_storage(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path)
    plan = make_plan(load(manifest))
    stale = Task(stage="train", settings={"seed": 1}).write(Storage(plan.manifest.storage))
    assert "a run of no manifest" in tanda("gc", manifest, status=1)  # nobody answers: nothing goes
    assert stale.exists()
    assert "removed" in tanda("gc", manifest, "--yes")
    assert not stale.exists()
    with pytest.raises(ValueError, match="its storage is"):
        find_unreferenced(Storage(tmp_path / "other"), [plan])
