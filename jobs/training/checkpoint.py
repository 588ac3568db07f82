"""Checkpoints: everything that a run needs to resume with the same bits, and when to write one."""

from __future__ import annotations

import io
import lzma
import os
import pickle
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharedfs.errors import DamagedFileError
from sharedfs.faults import patient
from sharedfs.files import read_plain, sync_folder, write_whole

NAME = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"
NEXT = "checkpoint.next.pt"
MODEL = "model.pt"
FORMAT = 1

# What parsing a damaged file's bytes was observed to raise, in a fuzz test of thousands of files; OSError is bz2's.
BROKEN = (
    EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError,
    OSError, struct.error, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
# A save at an epoch's end is left out until this many times its own duration has passed since the last one, so that
# saving takes at most 2 % of the time.
MIN_INTERVAL_FACTOR = 50
WARNING_S = 60.0


# Checkpoints: written whole, the last good one kept until the next one is complete, every checksum verified on reading.


def save(folder: Path, document: Mapping[str, Any]) -> None:
    """Write a checkpoint: the document of a ``TrainState`` or an ``EndState``. Raises OSError.

    The order of the renames matters: whenever the process is killed, NAME or PREVIOUS holds a whole checkpoint.
    """
    write_whole(folder / NEXT, _pack({"format": FORMAT, **document}))
    _turn(folder)
    sync_folder(folder)


@patient
def _turn(folder: Path) -> None:
    """The next checkpoint becomes the newest, which becomes the one before; where that is so already, nothing."""
    if not (folder / NEXT).exists():
        return
    if (folder / NAME).exists():
        (folder / NAME).replace(folder / PREVIOUS)
    (folder / NEXT).replace(folder / NAME)


def load(folder: Path, identity: str, log: Callable[[str], None]) -> Mapping[str, Any] | None:
    """The newest whole checkpoint of this run, on the CPU, or None; logs why a checkpoint is passed over.

    Raises OSError where the storage does not give what it has: passed over for that, hours of training would be lost.
    """
    for name in (NAME, PREVIOUS):
        try:
            document = unpack(folder / name)
        except FileNotFoundError:
            continue
        except DamagedFileError as error:
            log(f"{name} is damaged and is passed over: {error}")
            continue
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            log(f"{name} is of another version of this program and is passed over")
        elif document.get("identity") != identity:
            log(f"{name} belongs to other settings and is passed over")
        else:
            return document
    return None


def remove_all_but(folder: Path, keep: str) -> None:
    """Remove every checkpoint file but the one named."""
    for name in (NAME, PREVIOUS, NEXT):
        if name != keep:
            (folder / name).unlink(missing_ok=True)


def write_model(folder: Path, weights: Mapping[str, Tensor]) -> Path:
    """Write model.pt whole: names and tensors, loadable with ``weights_only``."""
    path = folder / MODEL
    write_whole(path, _pack(dict(weights)))
    return path


def read_model(path: Path) -> dict[str, Tensor]:
    """The tensors of a model.pt, on the CPU; raises OSError, or DamagedFileError naming a damaged file."""
    try:
        return dict(unpack(path))
    except (DamagedFileError, TypeError, ValueError) as error:  # the latter of what is no mapping
        raise DamagedFileError(f"{path}: damaged, train the run again: {error}") from error


def unpack(path: Path) -> Any:
    """Read a torch file after checking every checksum in it; nothing in it can run code.

    Raises OSError of the storage, DamagedFileError for a damaged file.
    """
    content = read_plain(path)
    try:
        return _parse(content)
    except BROKEN as error:  # of bytes in memory: none of them is the storage's
        raise DamagedFileError(str(error).partition("\n")[0] or type(error).__name__) from error


def _parse(content: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        # torch.load does not verify the archive's checksums and would return flipped bits as numbers.
        damaged = archive.testzip()
    if damaged is not None:
        raise DamagedFileError(f"{damaged}: its checksum is wrong")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _pack(document: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(document, buffer)
    return buffer.getvalue()


# When to save: often enough that little work is lost, seldom enough that it costs little.


class Saver:
    """Decides when a checkpoint is due.

    One is written every ``cadence_s``, at once when the run is asked to stop, and at an epoch's end unless
    epochs are so short that saving would take more than 2 % of the time. Exactness does not depend on it: a
    resumed run repeats what came after its last checkpoint, bit for bit.
    """

    def __init__(self, *, cadence_s: float, log: Callable[[str], None]) -> None:
        self.cadence_s = cadence_s
        self._log = log
        self._saved_at = time.monotonic()
        self._has_saved = False
        self.last_save_s = 0.0

    def due(self) -> bool:
        """Whether ``cadence_s`` has passed since the last checkpoint."""
        return time.monotonic() - self._saved_at >= self.cadence_s

    def on_epoch_end(self, save: Callable[[], None]) -> None:
        """Save, unless the last checkpoint is too recent to be worth the time."""
        if not self._has_saved or time.monotonic() - self._saved_at >= MIN_INTERVAL_FACTOR * self.last_save_s:
            self.save(save)

    def save(self, save: Callable[[], None]) -> None:
        """Save now; shortens ``cadence_s`` where a save is slow beside the warning that comes before a kill."""
        began = time.monotonic()
        save()
        self._saved_at = time.monotonic()
        self._has_saved = True
        self.last_save_s = self._saved_at - began
        warning = warning_s()
        if self.last_save_s > warning / 2 and self.cadence_s > MIN_INTERVAL_FACTOR / 10 * self.last_save_s:
            self.cadence_s = max(self.cadence_s / 2, MIN_INTERVAL_FACTOR / 10 * self.last_save_s)
            self._log(
                f"a checkpoint took {self.last_save_s:.1f} s and the warning before a kill is {warning:g} s: "
                f"saving every {self.cadence_s / 60:.1f} min from now on"
            )


def warning_s() -> float:
    """Seconds between the request to stop and the kill: what the submission asked for, else a minute."""
    try:
        return float(os.environ["TANDA_WARNING_S"])
    except (KeyError, ValueError):
        return WARNING_S
