"""Resources that are `auto`: from what finished tasks of the same kind used, by rules of values and on a storage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from manifest_fixture import read
from small_manifest import write_manifest

from jobs.attempt import history
from jobs.storage import Storage
from jobs.task import RECORD, read_record
from pipeline.manifest import load
from pipeline.manifest.model import Resources
from pipeline.manifest.resources import DEFAULTS
from pipeline.manifest.yaml_nodes import ManifestError
from pipeline.plan import Plan, make_plan
from pipeline.show import plan_document, plan_table
from pipeline.sizing import Kind, Used, _Reader, size
from pipeline.submit import submit_plan
from sharedfs.documents import read_json, write_json

MLP = Kind(stage="train", architecture="mlp", rows=1000)
ALL = ("cpus", "mem_gb", "time_min")
GIVEN = Resources(cpus=4, mem_gb=16.0, time_min=240, auto=ALL)


def used(**facts: Any) -> Used:
    return Used(**{"kind": MLP, "peak_gb": 1.0, "minutes": 20.0, "epochs": 5, "cores": 1.0, "cpus": 4, **facts})


@pytest.mark.parametrize(
    ("other", "alike"),
    [
        (replace(MLP, rows=1000), True),
        (replace(MLP, rows=1111), True),
        (replace(MLP, rows=1112), False),
        (replace(MLP, rows=None), False),
        (replace(MLP, architecture="cnn"), False),
        (replace(MLP, stage="evaluate"), False),
    ],
)
def test_which_tasks_are_of_the_same_kind(other: Kind, alike: bool) -> None:
    assert MLP.is_like(other) == alike and other.is_like(MLP) == alike


def test_preprocessing_is_told_by_its_files() -> None:
    files = Kind(stage="preprocess", files="a")
    assert files.is_like(Kind(stage="preprocess", files="a"))
    assert not files.is_like(Kind(stage="preprocess", files="b"))
    assert not Kind(stage="preprocess").is_like(Kind(stage="preprocess"))


@pytest.mark.parametrize(
    ("past", "epochs", "cpus", "mem_gb", "time_min"),
    [
        ([], 5, 4, 16.0, 240),  # nothing tells: the values that are there
        ([used(kind=replace(MLP, rows=5))], 5, 4, 16.0, 240),
        ([used()], 5, 2, 1.5, 30),
        ([used(), used(peak_gb=2.0, minutes=40.0, cores=2.8)], 5, 4, 3.0, 60),
        ([used()], 10, 2, 1.5, 60),  # twice the epochs
        ([used(), used(epochs=1, minutes=10.0)], 5, 2, 1.5, 75),  # by the slowest epoch
        ([used(epochs=None)], 10, 2, 1.5, 30),
        ([used()], None, 2, 1.5, 30),
        ([used(minutes=0.5)], 5, 2, 1.5, 10),
        ([used(cores=3.9)], 5, 4, 1.5, 30),  # never more than they had
        ([used(cores=0.1)], 5, 1, 1.5, 30),
        ([used(cores=None)], 5, 4, 1.5, 30),
        ([used(peak_gb=8.0, finished=False, minutes=None, cores=None)], 5, 4, 10.5, 240),  # had too little
        ([used(), used(peak_gb=8.0, finished=False, minutes=99.0)], 5, 2, 10.5, 30),
    ],
)
def test_what_is_asked_for(past: list[Used], epochs: int | None, cpus: int, mem_gb: float, time_min: int) -> None:
    sizing = size(GIVEN, MLP, past, epochs=epochs)
    assert (sizing.resources.cpus, sizing.resources.mem_gb, sizing.resources.time_min) == (cpus, mem_gb, time_min)
    assert sizing.sources.keys() == set(ALL)


def test_packed_tasks_need_memory_and_cores_for_all_of_them() -> None:
    sizing = size(replace(GIVEN, pack=4), MLP, [used()], epochs=5)
    assert (sizing.resources.cpus, sizing.resources.mem_gb, sizing.resources.time_min) == (8, 5.5, 30)
    assert "for 4 side by side" in sizing.sources["mem_gb"]


def test_what_is_not_auto_stays_and_the_source_is_in_words() -> None:
    sizing = size(replace(GIVEN, auto=("mem_gb",)), MLP, [used(), used(peak_gb=1.5)], epochs=5)
    assert (sizing.resources.cpus, sizing.resources.time_min) == (4, 240)
    assert sizing.line == "train mlp, 1,000 titles: mem_gb 2: 1.50 GB at most in 2 finished tasks, x 1.3"
    nothing = size(GIVEN, replace(MLP, rows=None), [used()])
    assert "train mlp: cpus 4, the default: no finished task of this kind tells; mem_gb 16, the default" in nothing.line


LAYERS = [
    ("", "{cpus: auto, mem_gb: auto}", 2, 5.0, ("cpus", "mem_gb")),
    ("{cpus: auto}", "{mem_gb: auto}", 2, 5.0, ("cpus", "mem_gb")),
    ("{mem_gb: auto}", "{mem_gb: 3}", 2, 3.0, ()),
    ("{mem_gb: 3}", "{mem_gb: auto}", 2, 3.0, ("mem_gb",)),
]


@pytest.mark.parametrize(("manifest", "group", "cpus", "mem_gb", "auto"), LAYERS)
def test_a_number_above_takes_auto_away_and_one_below_is_its_default(
    tmp_path: Path, manifest: str, group: str, cpus: int, mem_gb: float, auto: tuple[str, ...]
) -> None:
    profile = tmp_path / "c.yaml"
    profile.write_text("resources: {train: {mem_gb: 5}}\n")
    text = f"resources: {{train: {manifest}}}\n" if manifest else ""
    made = read(
        tmp_path,
        f"{text}experiments:\n  g:\n    architecture: mlp\n    resources: {{train: {group}}}\n    runs: {{A: {{}}}}\n",
        cluster=profile,
    )
    found = made.runs[0].resources["train"]
    assert (found.cpus, found.mem_gb, found.auto) == (cpus, mem_gb, auto)


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ("{train: {cpus: much}}", "resources.train.cpus: must be a whole number from 1, or auto, not 'much'"),
        ("{train: {mem_gb: 0}}", "resources.train.mem_gb: must be a number above 0, or auto, not 0"),
        ("{train: {gpus: auto}}", "resources.train.gpus: must be a whole number, not 'auto'"),
        ("{close: {mem_gb: auto}}", "resources.close.mem_gb: must be a number, not 'auto'"),
    ],
)
def test_what_else_is_written_is_an_error(tmp_path: Path, resources: str, words: str) -> None:
    text = f"resources: {resources}\nexperiments: {{g: {{architecture: mlp, runs: {{A: {{}}}}}}}}\n"
    with pytest.raises(ManifestError, match=words.replace("(", r"\(")):
        read(tmp_path, text)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest whose tasks ran in this process, by the defaults of its profile."""
    path = write_manifest(tmp_path_factory.mktemp("sizing"))
    submit_plan(make_plan(load(path)), executor="inline")
    return path


def _automatic(path: Path, *sets: str) -> Plan:
    stages = [f"resources.{stage}.{name}=auto" for stage in ("preprocess", "train", "evaluate") for name in ALL]
    return make_plan(load(path, sets=[*stages, *sets]))


def test_a_plan_asks_for_what_its_storage_tells_and_ids_stay(manifest: Path) -> None:
    before, after = make_plan(load(manifest)), _automatic(manifest)
    assert [planned.id for planned in after.tasks] == [planned.id for planned in before.tasks]
    storage = Storage(before.manifest.storage)
    by_kind = {(sizing.kind.stage, sizing.kind.architecture): sizing for sizing in after.sizings}
    assert {stage for stage, _ in by_kind} == {"preprocess", "train", "evaluate"}
    sizing = by_kind["train", "mlp"]
    peaks = []
    for planned in before.tasks:
        record = read_record(storage.run(planned.id))
        if planned.stage == "train" and planned.architecture == "mlp" and record is not None:
            peaks.append(record.about.peak_mb or 0.0)
            assert record.about.cores is not None and 0 < record.about.cores <= (record.about.cpus or 0)
    assert peaks and f"{max(peaks) / 1024:.2f} GB at most in {len(peaks)} finished task" in sizing.sources["mem_gb"]
    assert sizing.resources.mem_gb >= 1.3 * max(peaks) / 1024
    assert all("default" not in source for each in after.sizings for source in each.sources.values())
    assert (sizing.resources.time_min, sizing.resources.gpus) == (10, before.tasks[1].resources.gpus)


def test_the_plan_shows_where_each_is_from(manifest: Path) -> None:
    plan = _automatic(manifest)
    document = json.loads(json.dumps(plan_document(plan, {})))
    (train,) = [each for each in document["sizings"] if (each["stage"], each["architecture"]) == ("train", "linear")]
    assert train["resources"]["mem_gb"] > 0 and set(train["sources"]) == set(ALL)
    assert plan_table(plan, ()).row_count == len(document["arrays"])
    assert make_plan(load(manifest)).sizings == ()


def test_an_empty_storage_leaves_the_defaults(manifest: Path, tmp_path: Path) -> None:
    plan = _automatic(manifest, f"storage={tmp_path}")
    for planned in plan.tasks:
        below = DEFAULTS[planned.stage]
        given = planned.resources
        assert (given.cpus, given.mem_gb, given.time_min) == (below.cpus, below.mem_gb, below.time_min)
    assert all("the default" in source for each in plan.sizings for source in each.sources.values())


def test_trials_and_what_evaluates_a_winner_are_known_by_their_search() -> None:
    reader = _Reader(Storage(Path(__file__).parent / "data" / "storage" / "storage"))
    kinds = [used.kind for used in reader.read_used({"train", "trial", "evaluate", "preprocess"})]
    assert all(kind.rows == 360 for kind in kinds if kind.stage != "preprocess")
    found = {stage: {kind.architecture for kind in kinds if kind.stage == stage} for stage in ("trial", "evaluate")}
    assert found["trial"] == {"mlp"} and found["evaluate"] >= {"mlp", "linear"}
    assert [kind.files is None for kind in kinds if kind.stage == "preprocess"] == [False]


def test_a_task_killed_for_want_of_memory_raises_what_is_asked(manifest: Path) -> None:
    plan = make_plan(load(manifest))
    train = next(planned for planned in plan.tasks if (planned.stage, planned.architecture) == ("train", "mlp"))
    folder = Storage(plan.manifest.storage).run(train.id)
    record = read_json(folder / RECORD)
    assert len(history(folder)) == 1
    (folder / RECORD).unlink()
    (folder / "exits").mkdir()
    write_json(folder / "exits" / "7_0-0.json", {"exit_code": -9, "peak_mb": 20 * 1024.0})
    try:
        again = {planned.id: planned for planned in _automatic(manifest).tasks}[train.id]
        assert again.resources.mem_gb == 26.0
    finally:
        (folder / "exits" / "7_0-0.json").unlink()
        write_json(folder / RECORD, record)
