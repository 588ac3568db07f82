"""On a real cluster: when work that is not queued could start, and when Slurm plans to start what waits."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rig import Rig
from small_manifest import tanda, wait_until, with_only, write_manifest

pytestmark = [pytest.mark.cluster, pytest.mark.both_slurms, pytest.mark.timeout(200)]
BUSY_S = 600


@pytest.fixture
def busy(cluster: Rig) -> Iterator[float]:
    """Every node taken for ten minutes by another job; until when."""
    job = cluster.call(
        "sbatch", "--parsable", f"--nodes={len(cluster.nodes)}", "--exclusive", "--time=10", "--output=/dev/null",
        "--wrap", f"srun sleep {BUSY_S}",
    ).strip()  # fmt: skip
    wait_until(lambda: cluster.call("squeue", "-h", "-j", job, "-o", "%T").strip() == "RUNNING", "a busy cluster")
    yield time.time() + BUSY_S
    cluster.call("scancel", job)
    wait_until(lambda: not cluster.call("squeue", "-h").strip(), "an empty queue")


def test_what_is_not_queued_could_start_when_others_end(cluster: Rig, busy: float, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, with_only("linear"))
    shown = tanda("plan", manifest, "--when")
    found = re.search(r"when: preprocess of data \(0 GPUs, 1 CPUs, 0.5 GB, 20 min\): not before (.+)", shown)
    assert found is not None, shown
    # Minutes are shown: those around the time at which the other job's limit ends.
    assert found[1][-5:] in {time.strftime("%H:%M", time.localtime(busy + 60 * part)) for part in (-1, 0, 1)}
    refused = tanda("plan", manifest, "--when", "--set", "resources.preprocess.cpus=400")
    assert "when: preprocess of data (0 GPUs, 400 CPUs, 0.5 GB, 20 min): refused: " in refused


def test_what_waits_is_shown_with_its_planned_start(cluster: Rig, busy: float, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, with_only("linear"))
    tanda("submit", manifest)

    def planned() -> dict[str, Any] | None:
        task: dict[str, Any] = json.loads(tanda("status", manifest, "--json"))["tasks"][0]
        return task if task["planned_start"] else None

    task = wait_until(planned, "a planned start")
    assert task["state"] == "waiting"
    assert abs(task["planned_start"] - busy) < 90
    assert re.search(r"; planned for (.* )?\d\d:\d\d", " ".join(tanda("status", manifest).split()))
    assert "Slurm plans to start it at " in tanda("why", manifest, task["id"])
    tanda("cancel", manifest)
