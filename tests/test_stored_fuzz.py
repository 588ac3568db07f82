"""Whatever a file on the storage holds, cut short, overwritten or edited: it is read, or refused by its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_manifest import tanda, with_only, write_manifest
from training_fixture import write_dataset

from jobs import attempt, metrics_log
from jobs.data.dataset import Dataset
from jobs.search.study import Study, open_study, read_point
from jobs.storage import Storage
from jobs.task import Provenance, Record, Task, is_done, read_record
from jobs.testing import definition_with
from jobs.training import checkpoint
from pipeline import submission
from sharedfs.documents import write_json

EXAMPLES = int(os.environ.get("TANDA_FUZZ_EXAMPLES", "60"))
FUZZ = settings(
    deadline=None,
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=8))
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)
TASK = Task(stage="train", settings={"architecture": "mlp", "seed": 0}, needs=("0123456789abcdef",))
RECORD = Record(
    id=TASK.id, stage="train", state="done", result={"train_loss": 0.5}, files={"runs/x/model.pt": 3},
    started=1.0, ended=2.0, running_s=1.0, attempt=1, about=Provenance(gpus=1, peak_mb=10.0),
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A file cut short, with bytes changed, inserted or replaced by anything."""
    how = draw(st.sampled_from(["cut", "flip", "insert", "other"]))
    position = draw(st.integers(0, len(content)))
    if how == "cut":
        return content[:position]
    if how == "insert":
        return content[:position] + draw(st.binary(max_size=20)) + content[position:]
    if how == "flip":
        changed = bytearray(content)
        for place in draw(st.lists(st.integers(0, len(content) - 1), max_size=8)):
            changed[place] ^= draw(st.integers(1, 255))
        return bytes(changed)
    return draw(st.binary(max_size=60))


@st.composite
def edited(draw: st.DrawFn, document: Any) -> Any:
    """A JSON document with something in it replaced, removed or added, however deep."""
    if not isinstance(document, dict | list) or not document or draw(st.integers(0, 3)) == 0:
        return draw(ANYTHING)
    if isinstance(document, list):
        place = draw(st.integers(0, len(document) - 1))
        return [*document[:place], draw(edited(document[place])), *document[place + 1 :]]
    key = draw(st.sampled_from(sorted(document)))
    if draw(st.integers(0, 4)) == 0:
        return {name: value for name, value in document.items() if name != key}
    return {**document, key: draw(edited(document[key]))}


@st.composite
def stored(draw: st.DrawFn, document: Any) -> bytes:
    """A JSON file as it may be found."""
    if draw(st.booleans()):
        return draw(damaged(orjson.dumps(document)))
    return orjson.dumps(draw(edited(document)))


def refused(read: Callable[[], Any], named: str) -> Any:
    """What is read, or None where it is refused in words that name the file."""
    try:
        return read()
    except (ValueError, FileNotFoundError) as error:
        assert named in str(error), str(error)
        return None


@FUZZ
@given(content=stored(orjson.loads(orjson.dumps(RECORD))))
def test_any_record_is_read_or_refused(content: bytes, tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    folder = storage.run(TASK.id)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "record.json").write_bytes(content)
    assert is_done(storage, TASK.id) in (True, False)
    record = refused(lambda: read_record(folder), "record.json")
    if record is not None:
        assert record.files_intact(storage) in (True, False)


@FUZZ
@given(content=stored({"id": TASK.id, "stage": "train", "settings": {"a": 1}, "needs": ["x"], "plumbing": {}}))
def test_any_task_is_read_or_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "task.json").write_bytes(content)
    refused(lambda: Task.read(tmp_path), "task.json")


@FUZZ
@given(start=stored({"number": 1, "started": 1.0, "host": "n1", "pid": 1}), end=stored({"ended": 2.0, "state": "done"}))
def test_any_attempt_is_read(start: bytes, end: bytes, tmp_path: Path) -> None:
    home = tmp_path / "attempts" / "0001"
    home.mkdir(parents=True, exist_ok=True)
    (home / "start.json").write_bytes(start)
    (home / "end.json").unlink(missing_ok=True)
    assert attempt.live(tmp_path) in (True, False)
    (home / "end.json").write_bytes(end)
    (facts,) = attempt.history(tmp_path)
    assert not attempt.live(tmp_path)
    assert facts.number == 1 and isinstance(facts.ended, float | None)


LINE = {"epoch": 1, "step": 7, "train_loss": 0.5, "validation_balanced_accuracy": 0.3, "ended": 1.0, "attempt": 1}


@FUZZ
@given(content=st.lists(stored(LINE), max_size=4).map(b"\n".join))
def test_any_journal_is_read(content: bytes, tmp_path: Path) -> None:
    (tmp_path / metrics_log.NAME).write_bytes(content)
    epochs = [line["epoch"] for line in metrics_log.read(tmp_path)]
    assert epochs == sorted(set(epochs))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A checkpoint's bytes."""
    folder = tmp_path_factory.mktemp("weights")
    checkpoint.save(folder, {"identity": "x", "epoch": 3, "model": {"w": torch.ones(40, 3)}, "journal": [LINE]})
    return (folder / checkpoint.NAME).read_bytes()


@FUZZ
@given(data=st.data())
def test_any_checkpoint_is_whole_or_passed_over(data: st.DataObject, weights: bytes, tmp_path: Path) -> None:
    content = data.draw(damaged(weights))
    (tmp_path / checkpoint.NAME).write_bytes(content)
    messages: list[str] = []
    found = checkpoint.load(tmp_path, "x", messages.append)
    assert (found is None) == bool(messages)
    assert found is None or torch.equal(found["model"]["w"], torch.ones(40, 3))


@FUZZ
@given(data=st.data())
def test_any_model_is_read_or_refused(data: st.DataObject, weights: bytes, tmp_path: Path) -> None:
    path = tmp_path / checkpoint.MODEL
    path.write_bytes(data.draw(damaged(weights)))
    refused(lambda: checkpoint.read_model(path), "model.pt")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    write_dataset(folder, rows=40)
    return folder


def _open(folder: Path) -> None:
    found = Dataset.open(folder)
    assert found.max_length >= 0 and found.vocabulary_size >= 0
    assert all(isinstance(name, str) for name in [*found.classes, *found.vocabulary])
    assert found.vectors().shape[0] == found.vocabulary_size
    assert all(len(split) >= 0 for split in found.splits.values())


@FUZZ
@given(data=st.data())
def test_any_data_set_is_opened_or_refused(data: st.DataObject, dataset: Path) -> None:
    name = data.draw(st.sampled_from(["meta.json", "meta.json", "classes.json", "vocabulary.json"]))
    sound = (dataset / name).read_bytes()
    try:
        (dataset / name).write_bytes(data.draw(stored(orjson.loads(sound))))
        refused(lambda: _open(dataset), dataset.name)
    finally:
        (dataset / name).write_bytes(sound)


@FUZZ
@given(data=st.data())
def test_any_array_that_was_cut_or_grew_is_refused(data: st.DataObject, dataset: Path) -> None:
    path = data.draw(st.sampled_from(sorted(dataset.glob("*.bin"))))
    sound = path.read_bytes()
    content = data.draw(damaged(sound))
    try:
        path.write_bytes(content)
        refused(lambda: _open(dataset), path.name)
        if len(content) != len(sound):
            with pytest.raises(ValueError, match="the data set is damaged"):
                _open(dataset)
    finally:
        path.write_bytes(sound)


ARRAY = {"stage": "train", "group": "g", "job_ids": ["7"], "elements": {"7_0": [TASK.id]}, "mem_gb": 1.5}
SUBMITTED = {
    "name": "20260101-000000-lab", "manifest": "lab", "executor": "slurm", "user": "ana", "time": 1.0,
    "git_commit": None, "arrays": [ARRAY], "held": {TASK.id: "MaxSubmitJobs"},
}  # fmt: skip


@FUZZ
@given(content=stored(SUBMITTED))
def test_any_submission_is_read_or_left_out(content: bytes, tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    folder = storage.submissions / "one"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "submission.json").write_bytes(content)
    refused(lambda: submission.read(folder), "submission.json")
    assert len(submission.read_all(storage)) <= 1


POINT = {"number": 0, "task": TASK.id, "draws": {"a": 0.5}, "point": {"a": 0.5}, "proposed": 1.0, "proposing_s": 0.1}
SEARCH = definition_with("mlp", TASK.id, {"dropout": {"uniform": [0, 0.5]}})


@FUZZ
@given(search=stored(SEARCH.document), point=stored(POINT))
def test_any_search_and_point_are_read_or_refused(search: bytes, point: bytes, tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    study = Study(storage, SEARCH)
    folder = study.folder
    (folder / "trials" / "0000").mkdir(parents=True, exist_ok=True)
    (folder / "search.json").write_bytes(search)
    (folder / "trials" / "0000" / "point.json").write_bytes(point)
    found = refused(lambda: open_study(storage, study.id), "search.json")
    assert found is None or found.id == study.id
    refused(lambda: read_point(study, 0), "point.json")


def test_the_fuzz_begins_with_files_that_are_sound(tmp_path: Path) -> None:
    write_json(tmp_path / "record.json", RECORD)
    assert read_record(tmp_path) == RECORD
    TASK.write(Storage(tmp_path))
    assert Task.read(Storage(tmp_path).run(TASK.id)) == TASK


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest whose one run was trained."""
    manifest = write_manifest(tmp_path_factory.mktemp("ran"), with_only("MLP"))
    tanda("submit", manifest, "--executor", "inline", "--set", "defaults.epochs=1")
    (manifest.parent / "titles.txt").write_text("celular liberado\n")
    return manifest


@pytest.mark.parametrize("content", [b"{}", b"[]", b"x"])
@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("repro", "datasets/*/meta.json"), ("repro", "{run}/record.json"), ("repro", "{run}/task.json"),
        ("predict", "{run}/settings.json"), ("predict", "{run}/model.pt"), ("predict", "datasets/*/classes.json"),
        ("predict", "datasets/*/meta.json"),
    ],
)  # fmt: skip
def test_a_command_says_of_a_damaged_file_in_one_line_which_it_is(
    command: str, file: str, content: bytes, ran: Path
) -> None:
    storage = ran.parent / "storage"
    (model,) = storage.glob("runs/*/model.pt")
    (path,) = storage.glob(file.format(run=model.parent.relative_to(storage)))
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        message = tanda(command, model.parent, *([ran.parent / "titles.txt"] if command == "predict" else []), status=2)
    finally:
        path.write_bytes(before)
    assert message.startswith("tanda: ") and message.count("\n") == 1 and str(path.parent) in message
