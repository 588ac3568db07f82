"""Steps on a GPU as CUDA graphs: the many tiny kernels of a step are launched as one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.data.batches import Batch, Draw
from jobs.training import device as devices
from jobs.training.loop import Stepper

# A step of these networks is many kernels that take a few microseconds each, no more than the host needs to launch one.
# A graph holds all launches of a step and is launched at once. It repeats them on the same addresses and shapes, hence:
# the rows of a batch are copied to a fixed tensor; weights, optimiser state and metrics are updated in place; there is
# a graph for each width; nothing in a step may read a value on the host. Random generators are registered with a graph
# by torch, so that dropout draws new numbers in each replay.

# Titles are padded to a multiple of this: more padding, fewer graphs. Each graph takes two more steps and a capture. A
# model to which padding costs more has a ``width_multiple`` of its own.
WIDTH_MULTIPLE = 4
# What torch says under set_sync_debug_mode("error") (c10/cuda/CUDAFunctions.cpp).
WAITED = "called a synchronizing CUDA operation"
# How far a replayed step may end from the step itself, as a share of what the step moved: its kernels may be others, so
# bits may differ. A graph that left something out would be off by far more.
TOLERANCE = 0.05

Launch = Callable[[], None]


def cuda_graphs() -> Callable[[Launch], Launch]:
    """A function that captures what another launches on the current GPU, without running it, and returns its replay.

    See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs. Graphs share one memory pool, so together they
    take the memory of the largest: they must be replayed one after another, and a tensor that outlives a replay must be
    referenced until the last one. A capture that fails raises RuntimeError and leaves the current stream as it was.
    """
    pool = torch.cuda.graph_pool_handle()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def capture(launch: Launch) -> Launch:
        # As torch.cuda.graph, which ends the capture before it leaves its stream: when a capture was spoilt, its end
        # raises, and everything after it would run on the stream of the capture.
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        with torch.cuda.stream(stream):
            graph.capture_begin(pool=pool)
            try:
                launch()
            except BaseException:
                with suppress(RuntimeError):  # it was spoilt by the error that is on its way
                    graph.capture_end()
                raise
            graph.capture_end()
        return graph.replay

    return capture


@contextmanager
def forbid_waiting(device: torch.device) -> Iterator[None]:
    """What makes the host wait for a GPU raises RuntimeError (``WAITED``); it could not be captured either."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        # That it does not see every operation which waits is known: the capture finds the others.
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@dataclass(frozen=True)
class _Graph:
    replay: Launch
    gradients: Sequence[Tensor]


@dataclass(eq=False)
class Replayer:
    """Steps a model over drawn batches with one launch a step, which makes the batch as well.

    The first batch of each width is stepped normally, then undone and stepped by the new graph: if the graph does not
    end where the step did, it is not used, nor is any other from then on. Before the first one a step is taken to see
    whether the host waits for the device in it: then no capture is tried. The last, smaller batch of an epoch has no
    graph. ``tensors`` are all that a step changes, themselves and not copies; ``capture`` turns a function into one
    that repeats its launches.
    """

    stepper: Stepper
    make: Callable[[Tensor, int], Batch]
    batch_size: int
    tensors: Sequence[Tensor]
    device: torch.device
    log: Callable[[str], None]
    capture: Callable[[Launch], Launch]

    def __post_init__(self) -> None:
        self._rows = torch.zeros(self.batch_size, dtype=torch.int64, device=self.device)
        self._multiple = int(getattr(self.stepper.model, "width_multiple", WIDTH_MULTIPLE))
        self._graphs: dict[int, _Graph] | None = {}  # by width; None once one of them has failed
        self._replayed: _Graph | None = None  # the graph of the last step, if it had one

    def step(self, draw: Draw) -> None:
        """One update; after the first of a width nothing here waits for the device."""
        self._replayed = None
        if self._graphs is None or draw.rows.shape != self._rows.shape:
            self.stepper.step(self.make(draw.rows, draw.width))
            return
        self._rows.copy_(draw.rows)
        width = -(-draw.width // self._multiple) * self._multiple
        if width not in self._graphs:
            self._step_and_capture(width)
            return
        self._replayed = self._graphs[width]
        self._replayed.replay()

    def gradients(self) -> Sequence[Tensor]:
        """The gradients of the last step."""
        return self._replayed.gradients if self._replayed else self.stepper.gradients()

    def _step_and_capture(self, width: int) -> None:
        assert self._graphs is not None

        def launch() -> None:
            self.stepper.step(self.make(self._rows, width))

        before = self._snapshot()
        launch()  # also loads kernels and libraries, which may wait, and cannot be done during a capture
        expected = self._snapshot()
        waits = not self._graphs and self._waits(launch)
        self._restore(before)
        self.stepper.zero_grad()
        try:
            if waits:
                raise RuntimeError("the host waits for the device in it")
            replay = self.capture(launch)
            # The gradients that a capture allocates are those that each replay writes.
            graph = _Graph(replay, self.stepper.gradients())
            replay()
            agrees = _agree(before[0], expected[0], self.tensors)
            problem = None if agrees else "it ends where the step itself does not"
        except RuntimeError as error:  # whatever CUDA refuses in a capture: the step itself works, as seen above
            problem = (str(error).splitlines() or [type(error).__name__])[0]
        if problem is None:
            self._graphs[width] = self._replayed = graph
            return
        self.log(f"compile: a CUDA graph of the step does not work here, going on without: {problem}")
        self._graphs = None
        # The step itself counts, as if no graph had been tried; taken again for its gradients.
        self._restore(before)
        launch()

    def _waits(self, launch: Launch) -> bool:
        """Whether the host waits for the device in a step; takes one."""
        try:
            with forbid_waiting(self.device):
                launch()
        except RuntimeError as error:
            if WAITED not in str(error):
                raise
            return True
        return False

    def _snapshot(self) -> tuple[list[Tensor], dict[str, Tensor]]:
        return [tensor.detach().clone() for tensor in self.tensors], devices.random_state(self.device)

    def _restore(self, snapshot: tuple[list[Tensor], dict[str, Tensor]]) -> None:
        tensors, random = snapshot
        with torch.no_grad():
            for tensor, value in zip(self.tensors, tensors, strict=True):
                tensor.copy_(value)
        devices.set_random_state(self.device, random)


def _agree(before: Sequence[Tensor], expected: Sequence[Tensor], actual: Sequence[Tensor]) -> bool:
    """Whether each floating-point tensor moved as expected: |actual - expected| <= TOLERANCE x |expected - before|.

    A NaN agrees with a NaN alone.
    """
    for start, end, value in zip(before, expected, actual, strict=True):
        if not end.is_floating_point():
            continue
        if bool(end.isnan().any()) or bool(value.isnan().any()):
            if not torch.equal(end.isnan(), value.isnan()):
                return False
            continue
        moved, off = float((end - start).norm()), float((value.detach() - end).norm())
        if off > TOLERANCE * moved:
            return False
    return True
