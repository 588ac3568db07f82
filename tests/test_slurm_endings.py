"""Every way in which Slurm ends a job, tried on each version: what docs/states.md says of it is what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from cluster_fixture import running
from endings_fixture import BATCH_MEMORY, MEMORY, Ending, all_endings
from rig import Rig, Shape, has_cgroups
from slurm_fixture import make_array, wait_for

from slurm import limits, query
from slurm.executors.slurm import SlurmArrays
from slurm.job_state import JobIdentity

pytestmark = [pytest.mark.cluster, pytest.mark.both_slurms]
STATES = Path(__file__).parents[1] / "docs" / "states.md"
HEAD = "| how a job ended | Slurm | its accounting | its queue | so it is | without accounting |"
BOTH = "both"
OURS, ANOTHERS = "tanda-comment", "someone else's"


def _documented(version: str) -> dict[str, tuple[str, ...]]:
    """The table's rows for a version, by how a job ended."""
    lines = STATES.read_text(encoding="utf-8").split(f"{HEAD}\n")[1].split("\n\n")[0].splitlines()[1:]
    rows = [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in lines]
    return {way: tuple(cells) for way, slurm, *cells in rows if slurm in (version, BOTH)}


def _check_documented(found: Mapping[str, Ending]) -> set[str]:
    """That each is in the table as it was found; the ways in the table that are not among them."""
    version = limits.read().version[:5]
    documented = _documented(version)
    if version not in ("22.05", "24.11"):
        pytest.skip(f"docs/states.md says nothing of Slurm {version}")
    cells = {way: ending.cells for way, ending in found.items()}
    text = "\n".join(f"| {way} | {version} | `{a}` | `{b}` | {c} | {d} |" for way, (a, b, c, d) in cells.items())
    assert {way: documented.get(way) for way in cells} == cells, f"docs/states.md has to say:\n{text}"
    return documented.keys() - cells.keys()


def test_each_way_to_end_is_reported_and_read_as_documented(cluster: Rig, tmp_path: Path) -> None:
    left = _check_documented(all_endings(cluster, tmp_path))
    # Memory is held in one way or the other.
    assert all("memory" in way for way in left) and len(left) == 2


def test_a_site_of_other_ways(cluster: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is held in the other way, and the accounting keeps no comments, by which a job is told from another's."""
    assert _seen_by_the_accounting(tmp_path / "with", monkeypatch) == {OURS: "done", ANOTHERS: "gone"}
    cgroups = has_cgroups() and not cluster.shape.cgroups
    with running(Shape(nodes=1, prefix="m", cgroups=cgroups, comments=False), cluster.slurm) as other:
        found = all_endings(other, tmp_path, MEMORY, BATCH_MEMORY)
        _check_documented(found)
        assert {ending.state.cause for ending in found.values()} == {"out of memory"}
        assert any("OUT_OF_MEMORY" in ending.accounting for ending in found.values()) == cgroups
        assert _seen_by_the_accounting(tmp_path / "without", monkeypatch) == {OURS: "done", ANOTHERS: "done"}
    if not has_cgroups():
        pytest.skip("no memory cgroups of version 1 here that may be written to: memory was held by slurmd alone")


def _seen_by_the_accounting(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The state of a job that is done and that the queue has forgotten, as one of either comment."""
    folder.mkdir()
    (id_,) = SlurmArrays().submit(make_array(folder, "exit 0", comment=OURS)).queued
    wait_for(lambda: query.states([id_])[id_].over)
    with monkeypatch.context() as patch:
        patch.setattr(query, "ask_queue", lambda *_: query.Answer())
        wait_for(lambda: query.states([id_])[id_].over)
        sent = {comment: {id_: JobIdentity(comment=comment)} for comment in (OURS, ANOTHERS)}
        return {comment: query.states([id_], sent=by_id)[id_].state for comment, by_id in sent.items()}
