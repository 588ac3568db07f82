"""The training loop as docs/architecture.md shows it, and what a checkpoint holds."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path

from jobs.training import state
from jobs.training.state import EndState, TrainState
from jobs.training.trainer import Trainer

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
# Of checkpoints that lie on storages: none may be renamed.
KEYS = {
    "identity", "epoch", "step", "journal", "spent_s", "best_epoch", "best", "model", "optimiser", "tally", "random",
    "save_s",
}  # fmt: skip


def test_the_loop_fits_a_screen_and_is_shown_word_by_word() -> None:
    source = textwrap.dedent(inspect.getsource(Trainer.train))
    assert len(source.splitlines()) <= 60
    (shown,) = re.findall(r"^```python\n(def train.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert shown == source


def test_a_checkpoint_has_the_keys_that_it_always_had() -> None:
    document = state.document(TrainState(identity="x", epoch=2))
    assert document.keys() == KEYS
    assert state.read({**document, "newer": 1}, print) == TrainState(identity="x", epoch=2)
    end = EndState(identity="x", journal=[], figures={"a": 1}, model_bytes=7)
    assert state.document(end).keys() == {"identity", "finished", "journal", "figures", "model_bytes"}
    assert state.read(state.document(end), print) == end


def test_a_checkpoint_that_lacks_something_is_passed_over() -> None:
    document = state.document(TrainState(identity="x"))
    del document["tally"]
    messages: list[str] = []
    assert state.read(document, messages.append) is None
    assert messages == ["the checkpoint lacks tally and is passed over"]
