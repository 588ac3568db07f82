"""On a real cluster: what ends before a task begins is explained, and scripts submitted by hand lead to the report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rig import Rig
from small_manifest import tanda, wait_until_over, with_only, write_manifest

from jobs.storage import Storage
from pipeline.submission import read_all

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(200)]
LIMIT_S = 120


def _profile(folder: Path, text: str) -> Path:
    path = folder / "profile.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("broken", ["module", "python"])
def test_what_ends_before_a_task_begins_is_explained(cluster: Rig, tmp_path: Path, broken: str) -> None:
    """A module that is not there, and a Python that lacks submitit: nothing runs, the closing job neither."""
    manifest = write_manifest(tmp_path, with_only("linear"))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    text, reason = {
        "module": ("modules: [gone/2]\n", "tanda: `module load gone/2` failed: nothing was run"),
        "python": (f"python: {python}\n", "No module named 'submitit'"),
    }[broken]
    tanda("submit", manifest, "--cluster", _profile(tmp_path, text))
    status = wait_until_over(manifest, LIMIT_S)
    data, *later = status["tasks"]
    assert (data["state"], data["cause"]) == ("failed", "error") and reason in data["message"]
    assert {task["state"] for task in later} == {"failed"}
    log = Path(data["log"])
    assert reason in log.read_text() and log.is_relative_to(tmp_path / "storage" / "submissions")
    shown = tanda("status", manifest, status=1)
    assert "gone/2" in shown if broken == "module" else "submitit" in shown
    assert "the report was not rebuilt, 3 failed and not tried again; its log: " in shown
    assert reason in json.loads(tanda("status", manifest, "--json", status=1))["closing"]["reason"]
    why = tanda("why", manifest, data["id"])
    assert reason in why and str(log) in why
    assert why.splitlines()[-1].split()[5] == (str(python) if broken == "python" else sys.executable)
    assert reason in tanda("logs", manifest, data["id"])
    assert not (tmp_path / "storage" / "reports").exists()
    if broken == "module":
        # Mended, the next submission does all of it.
        tanda("submit", manifest)
        mended = wait_until_over(manifest, LIMIT_S)
        assert (mended["summary"], mended["closing"]) == ({"done": 3}, None)
        assert (tmp_path / "storage" / "reports" / "small" / "index.html").exists()


def test_scripts_submitted_by_hand_lead_to_the_report(cluster: Rig, tmp_path: Path) -> None:
    """Where a site exports nothing of the submitter's environment, too: neither sbatch nor, by itself, srun."""
    manifest = write_manifest(tmp_path, with_only("linear"))
    profile = _profile(tmp_path, "extra: {export: NONE}\n")
    scripts = tmp_path / "scripts"
    tanda("submit", manifest, "--cluster", profile, "--sbatch-only", scripts)
    assert {task["reason"] for task in json.loads(tanda("status", manifest, "--json"))["tasks"]} == {"not submitted"}
    subprocess.run([scripts / "submit.sh"], check=True, capture_output=True, timeout=60)
    status = json.loads(tanda("status", manifest, "--json"))
    # On a busy machine the first may be done by now, which no job is named for.
    assert all(task["state"] == "done" or (task["queued"] and task["job"]) for task in status["tasks"]), status
    assert wait_until_over(manifest, LIMIT_S)["summary"] == {"done": 3}
    storage = Storage(tmp_path / "storage")
    assert (storage.reports / "small" / "index.html").exists()
    (made,) = read_all(storage)
    assert (storage.submissions / made.name / "closed.json").exists()
    assert json.loads(tanda("status", manifest, "--json"))["closing"] is None
