"""When to save: often enough that little is lost, seldom enough that it costs little."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

# A save at an epoch's end waits until this many times its own duration has passed since the last: at most 2 %.
WORTH = 50
WARNING_S = 60.0


class Saver:
    """Keeps the time between checkpoints.

    One is written every ``cadence_s``, at once when the run is asked to stop, and at an epoch's end unless
    epochs are so short that saving would take more than 2 % of the time. Exactness does not depend on it: a
    resumed run repeats what came after its last checkpoint, bit for bit.
    """

    def __init__(self, *, cadence_s: float, say: Callable[[str], None]) -> None:
        self.cadence_s = cadence_s
        self._say = say
        self._saved = time.monotonic()
        self._any = False
        self.last_save_s = 0.0

    def due(self) -> bool:
        """Whether the time between two checkpoints has passed."""
        return time.monotonic() - self._saved >= self.cadence_s

    def epoch_over(self, save: Callable[[], None]) -> None:
        """Save, unless the last one was only just written."""
        if not self._any or time.monotonic() - self._saved >= WORTH * self.last_save_s:
            self.save(save)

    def save(self, save: Callable[[], None]) -> None:
        """Save now; a save too slow for the warning that comes before a kill makes the next ones come earlier."""
        began = time.monotonic()
        save()
        self._saved = time.monotonic()
        self._any = True
        self.last_save_s = self._saved - began
        warning = warning_s()
        if self.last_save_s > warning / 2 and self.cadence_s > WORTH / 10 * self.last_save_s:
            self.cadence_s = max(self.cadence_s / 2, WORTH / 10 * self.last_save_s)
            self._say(
                f"a checkpoint took {self.last_save_s:.1f} s and the warning before a kill is {warning:g} s: "
                f"saving every {self.cadence_s / 60:.1f} min from now on"
            )


def warning_s() -> float:
    """Seconds between the request to stop and the kill: what the submission asked for, else a minute."""
    try:
        return float(os.environ["TANDA_WARNING_S"])
    except (KeyError, ValueError):
        return WARNING_S
