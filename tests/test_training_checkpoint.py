"""Checkpoints that are cut short, damaged or of another run are passed over, and the log says so."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
import torch

from jobs.training import checkpoint
from jobs.training.checkpoint import Saver
from sharedfs.errors import DamagedFileError


def saved(folder: Path, *steps: int) -> None:
    for step in steps:
        checkpoint.save(folder, {"identity": "run", "step": step, "model": {"w": torch.full((64,), float(step))}})


def test_the_newest_is_loaded_and_the_one_before_is_kept(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3)
    messages: list[str] = []
    document = checkpoint.load(tmp_path, "run", messages.append)
    assert document is not None
    assert (document["step"], messages) == (3, [])
    assert checkpoint.unpack(tmp_path / checkpoint.PREVIOUS)["step"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [checkpoint.PREVIOUS, checkpoint.NAME]


@pytest.mark.parametrize(("method", "cause"), [(8, zlib.error), (12, OSError), (14, DamagedFileError)])
def test_contents_that_no_longer_unpack_are_damaged(tmp_path: Path, method: int, cause: type[Exception]) -> None:
    saved(tmp_path, 1, 2)
    path = tmp_path / checkpoint.NAME
    content = path.read_bytes()
    for header, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):  # of each file in the archive, both are stored
        at = -1
        while (at := content.find(header, at + 1)) >= 0:
            content = content[: at + place] + bytes([method]) + content[at + place + 1 :]
    path.write_bytes(content)
    with pytest.raises(DamagedFileError) as caught:
        checkpoint.unpack(path)
    assert isinstance(caught.value.__cause__, cause)
    messages: list[str] = []
    document = checkpoint.load(tmp_path, "run", messages.append)
    assert document is not None and document["step"] == 1
    assert "checkpoint.pt is damaged" in messages[0]


@pytest.mark.parametrize("name", [checkpoint.NAME, checkpoint.PREVIOUS])
def test_a_storage_that_does_not_give_one_is_no_damaged_one(tmp_path: Path, name: str) -> None:
    saved(tmp_path, 1, 2)
    if name == checkpoint.PREVIOUS:
        (tmp_path / checkpoint.NAME).unlink()
    path = tmp_path / name
    path.unlink()
    path.mkdir()  # whose bytes no read gives, also for root
    messages: list[str] = []
    with pytest.raises(IsADirectoryError):
        checkpoint.load(tmp_path, "run", messages.append)
    with pytest.raises(IsADirectoryError):
        checkpoint.read_model(path)
    assert messages == []


@pytest.mark.parametrize("kept_bytes", [0, 1, 100, -1])
def test_a_truncated_one_is_passed_over_for_the_one_before(tmp_path: Path, kept_bytes: int) -> None:
    saved(tmp_path, 1, 2)
    path = tmp_path / checkpoint.NAME
    path.write_bytes(path.read_bytes()[:kept_bytes])
    messages: list[str] = []
    document = checkpoint.load(tmp_path, "run", messages.append)
    assert document is not None
    assert document["step"] == 1
    assert "checkpoint.pt is damaged" in messages[0]


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    path = tmp_path / checkpoint.NAME
    content = bytearray(path.read_bytes())
    position = content.find(torch.full((64,), 2.0).numpy().tobytes())
    content[position + 17] ^= 1
    path.write_bytes(content)
    messages: list[str] = []
    document = checkpoint.load(tmp_path, "run", messages.append)
    assert document is not None
    assert (document["step"], len(messages)) == (1, 1)


def test_nothing_good_means_the_start(tmp_path: Path) -> None:
    (tmp_path / checkpoint.NAME).write_bytes(b"rubbish")
    (tmp_path / checkpoint.PREVIOUS).write_bytes(b"")
    messages: list[str] = []
    assert checkpoint.load(tmp_path, "run", messages.append) is None
    assert len(messages) == 2


def test_other_settings_and_other_versions_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 1)
    messages: list[str] = []
    assert checkpoint.load(tmp_path, "another run", messages.append) is None
    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    assert checkpoint.load(tmp_path, "run", messages.append) is None
    assert messages == [
        "checkpoint.pt belongs to other settings and is passed over",
        "checkpoint.pt is of another version of this program and is passed over",
    ]


def test_a_full_disk_leaves_the_last_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 1)

    def full(path: Path, *parts: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_whole", full)
    with pytest.raises(OSError, match="No space left"):
        saved(tmp_path, 2)
    document = checkpoint.load(tmp_path, "run", print)
    assert document is not None
    assert document["step"] == 1


def test_a_kill_between_the_two_renames_leaves_the_one_before(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    (tmp_path / checkpoint.NAME).replace(tmp_path / checkpoint.NEXT)
    document = checkpoint.load(tmp_path, "run", print)
    assert document is not None
    assert document["step"] == 1


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (print, ("run!",))

    torch.save({"format": 1, "identity": "run", "x": Evil()}, tmp_path / checkpoint.NAME)
    messages: list[str] = []
    assert checkpoint.load(tmp_path, "run", messages.append) is None
    assert "damaged" in messages[0]


def test_a_damaged_model_is_named(tmp_path: Path) -> None:
    path = checkpoint.write_model(tmp_path, {"w": torch.ones(3)})
    assert torch.equal(checkpoint.read_model(path)["w"], torch.ones(3))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"model\.pt: damaged"):
        checkpoint.read_model(path)


def test_a_save_slower_than_the_warning_is_reported_and_comes_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("jobs.training.checkpoint.time.monotonic", lambda: clock[0])
    monkeypatch.setenv("TANDA_WARNING_S", "20")
    messages: list[str] = []
    saver = Saver(cadence_s=600, log=messages.append)

    def slow() -> None:
        clock[0] += 15

    saver.save(slow)
    assert messages == [
        "a checkpoint took 15.0 s and the warning before a kill is 20 s: saving every 5.0 min from now on"
    ]
    clock[0] += 299
    assert not saver.due()
    clock[0] += 1
    assert saver.due()


def test_epochs_too_short_to_be_worth_a_save_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("jobs.training.checkpoint.time.monotonic", lambda: clock[0])
    saves: list[float] = []

    def save() -> None:
        clock[0] += 0.1
        saves.append(clock[0])

    saver = Saver(cadence_s=600, log=print)
    for _ in range(100):
        clock[0] += 1.0
        saver.on_epoch_end(save)
    assert 15 <= len(saves) <= 25
