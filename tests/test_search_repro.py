"""A search's winner and its refit come out the same again: by the page's command, and by `tanda repro --check`."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from small_manifest import MANIFEST, tanda, write_manifest

from jobs.storage import Storage
from jobs.task import read_record
from pipeline.manifest import load
from pipeline.plan import make_plan
from pipeline.report.collect import Collected, collect
from pipeline.report.page.run_page import command
from pipeline.status import task_states

SEARCH = """
searches:
  tuned:
    architecture: mlp
    algorithm: random
    trials: 4
    epochs: 4
    patience_chance: 100
    space: {dropout: {uniform: [0, 0.5]}, batch_size: {choice: [16, 32]}}
    stopping: {asha: {grace_epochs: 1, reduction: 2}}
    refit_seeds: [3]
"""


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Collected:
    """A finished search of four trials, its winner evaluated and trained again."""
    head, tail = MANIFEST.split("experiments:")
    text = head + SEARCH + "resources:" + tail.split("resources:")[1]
    path = write_manifest(tmp_path_factory.mktemp("search"), text)
    tanda("submit", path, "--executor", "inline")
    plan = make_plan(load(path))
    return collect(plan, task_states(plan))


@pytest.mark.parametrize("place", [0, 1], ids=["winner", "refit"])
def test_the_pages_command_makes_it_again(searched: Collected, tmp_path: Path, place: int) -> None:
    result = searched.results[place]
    assert result.done
    lines = [line for line in command(result, searched).splitlines() if not line.startswith("git checkout")]
    shell = "\n".join(lines).replace("python -m jobs", f"{shlex.quote(sys.executable)} -m jobs")
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    subprocess.run(["bash", "-ec", shell], cwd=tmp_path, env=environment, check=True, timeout=120)
    again = Storage(tmp_path / "again")
    for task in (result.id or "", result.row.evaluate):
        first, second = read_record(searched.storage.run(task)), read_record(again.run(task))
        assert first is not None and second is not None and second.state == "done"
        timed = ("train_seconds", "titles_per_s")
        assert {k: v for k, v in first.result.items() if k not in timed} == {
            k: v for k, v in second.result.items() if k not in timed
        }


def test_repro_checks_every_task_of_a_search_and_leaves_the_search_alone(searched: Collected) -> None:
    storage = searched.storage
    before = sorted((path, path.stat().st_mtime_ns) for path in (storage.root / "searches").rglob("*"))
    winner, refit = searched.results
    for task in (winner.id, winner.row.evaluate, refit.id):
        tanda("repro", storage.run(task or ""), "--check")
    assert sorted((path, path.stat().st_mtime_ns) for path in (storage.root / "searches").rglob("*")) == before
