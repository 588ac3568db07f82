"""Steps on a GPU as CUDA graphs: the many tiny kernels of a step are launched as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.data.batches import Batch, Draw
from jobs.training import device as devices
from jobs.training.loop import Stepper

# Titles are padded to a multiple of this, so that there are few shapes: each has a graph of its own.
WIDTHS = 4
# How far a replayed step may be from the step itself, in parts of what the step moved. Bits may differ, not more.
TOLERANCE = 0.05

Run = Callable[[], None]


def cuda_graphs() -> Callable[[Run], Run]:
    """A way to capture what a function launches on the present GPU and to launch it again; nothing runs meanwhile.

    See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs. Graphs share their memory: they are launched
    one after another, and what outlives a launch is held on to.
    """
    pool = torch.cuda.graph_pool_handle()

    def capture(run: Run) -> Run:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            run()
        return graph.replay

    return capture


@dataclass(frozen=True)
class _Graph:
    replay: Run
    gradients: Sequence[Tensor]


class Replayer:
    """Steps a model over drawn batches, making the batch included, by one launch a step.

    The first batch of each shape is stepped over as it is, then again, from where it began, by the graph: a graph that
    does not end where the step did is not used, and neither is any other from then on. The last, smaller batch of an
    epoch has no graph. ``tensors`` are all that a step changes, at the places where it changes them; ``capture`` turns
    a function into what repeats its launches.
    """

    def __init__(
        self,
        stepper: Stepper,
        make: Callable[[Tensor, int], Batch],
        *,
        batch_size: int,
        tensors: Sequence[Tensor],
        device: torch.device,
        say: Callable[[str], None],
        capture: Callable[[Run], Run],
    ) -> None:
        self._stepper = stepper
        self._make = make
        self._tensors = tensors
        self._device = device
        self._say = say
        self._capture = capture
        self._rows = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self._graphs: dict[int, _Graph] | None = {}
        self._last: _Graph | None = None

    def step(self, draw: Draw) -> None:
        """One update; after the first of a shape nothing here waits for the device."""
        self._last = None
        if self._graphs is None or draw.rows.shape != self._rows.shape:
            self._stepper.step(self._make(draw.rows, draw.width))
            return
        self._rows.copy_(draw.rows)
        width = -(-draw.width // WIDTHS) * WIDTHS
        if width not in self._graphs:
            self._first(width)
            return
        self._last = self._graphs[width]
        self._last.replay()

    def gradients(self) -> Sequence[Tensor]:
        """The gradients of the last step."""
        return self._last.gradients if self._last else self._stepper.gradients()

    def _first(self, width: int) -> None:
        assert self._graphs is not None

        def run() -> None:
            self._stepper.step(self._make(self._rows, width))

        before = self._state()
        run()  # loads kernels and libraries, too, which cannot be done while a graph is captured
        expected = self._state()
        self._go_to(before)
        self._stepper.forget()
        try:
            replay = self._capture(run)
            graph = _Graph(replay, self._stepper.gradients())
            replay()
            wrong = None if _agree(before[0], expected[0], self._tensors) else "it ends where the step itself does not"
        except RuntimeError as error:
            wrong = (str(error).splitlines() or [type(error).__name__])[0]
        if wrong is None:
            self._graphs[width] = self._last = graph
            return
        self._say(f"compile: a CUDA graph of the step does not work here, going on without: {wrong}")
        self._graphs = None
        # What the step gave counts, as if no graph had been tried.
        self._go_to(expected)

    def _state(self) -> tuple[list[Tensor], dict[str, Tensor]]:
        return [tensor.detach().clone() for tensor in self._tensors], devices.random_state(self._device)

    def _go_to(self, state: tuple[list[Tensor], dict[str, Tensor]]) -> None:
        tensors, random = state
        with torch.no_grad():
            for tensor, value in zip(self._tensors, tensors, strict=True):
                tensor.copy_(value)
        devices.set_random_state(self._device, random)


def _agree(before: Sequence[Tensor], expected: Sequence[Tensor], found: Sequence[Tensor]) -> bool:
    """Whether each tensor that counts in fractions moved as expected; a NaN agrees with a NaN alone."""
    for start, there, here in zip(before, expected, found, strict=True):
        if not there.is_floating_point():
            continue
        if bool(there.isnan().any()) or bool(here.isnan().any()):
            if not torch.equal(there.isnan(), here.isnan()):
                return False
            continue
        moved, off = float((there - start).norm()), float((here.detach() - there).norm())
        if off > TOLERANCE * moved:
            return False
    return True
