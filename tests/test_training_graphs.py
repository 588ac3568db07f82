"""Steps replayed from graphs. No GPU is needed: what is captured here is the function, what is replayed is a call."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
import torch
from network_fixture import CLASSES, CPU, NETWORKS, VOCABULARY, build
from torch import Tensor, nn

from jobs.data.batches import TrainBatches, _DeviceMaker
from jobs.data.dataset import Split
from jobs.training import cuda_graphs, optimiser
from jobs.training.cuda_graphs import Launch, Replayer
from jobs.training.loop import HostMetricAccumulator, MetricAccumulator, Stepper
from jobs.training.settings import TrainingSettings

SIZE = 16


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


class Training:
    """A model, its optimiser and its metrics over one split that lies on a device, as a run has them."""

    def __init__(self, name: str, **changes: Any) -> None:
        generator = np.random.default_rng(0)
        # Widths of 3 to 9, which 4 does not divide, and a last batch that is smaller.
        lengths = generator.integers(1, np.repeat([4, 6, 10], SIZE * 4)[: 11 * SIZE + 5], endpoint=False)
        split = Split(
            name="train",
            tokens=generator.integers(1, VOCABULARY, int(lengths.sum())).astype(np.uint16),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            labels=generator.integers(0, CLASSES, len(lengths)).astype(np.uint16),
            reliable=np.ones(len(lengths), np.uint8),
        )
        self.batches = TrainBatches(split, batch_size=SIZE, seed=1, shuffle="buffer", random_buffer_size=SIZE)
        self.batches._maker = _DeviceMaker(split, CPU)
        self.model = build(name, **{"dropout": 0.3, **changes}).train()
        self.adam = optimiser.make(self.model, TrainingSettings(learning_rate=0.01, weight_decay=1e-4), CPU)
        self.metrics = MetricAccumulator(CLASSES, CPU)
        self.stepper = Stepper(self.model, self.adam, self.metrics, device=CPU, precision="float32")
        self.messages: list[str] = []
        self.multiple = 2 if name == "rnn" else 4  # a word of padding is a step in time
        torch.manual_seed(7)

    def replayer(self, capture: Callable[[Launch], Launch]) -> Replayer:
        return Replayer(
            self.stepper,
            self.batches.make,
            batch_size=SIZE,
            tensors=[*self.model.parameters(), *self.adam.tensors(), *self.metrics.tensors()],
            device=CPU,
            log=self.messages.append,
            capture=capture,
        )

    def replay(self, capture: Callable[[Launch], Launch]) -> list[list[Tensor]]:
        """Train for two epochs; the gradients after every step."""
        replayer, gradients = self.replayer(capture), []
        for epoch in range(2):
            for draw in self.batches.draws(epoch):
                replayer.step(draw)
                gradients.append([gradient.clone() for gradient in replayer.gradients()])
        return gradients

    def step(self) -> list[list[Tensor]]:
        """The same, step by step, in batches of the widths that graphs have."""
        gradients = []
        for epoch in range(2):
            for draw in self.batches.draws(epoch):
                width = -(-draw.width // self.multiple) * self.multiple if len(draw.rows) == SIZE else draw.width
                self.stepper.step(self.batches.make(draw.rows, width))
                gradients.append([gradient.clone() for gradient in self.stepper.gradients()])
        return gradients

    def left(self) -> list[Tensor]:
        return [*self.model.parameters(), *self.adam.tensors(), *self.metrics.tensors(), torch.get_rng_state()]


class Recorder:
    """Captures a function; replays it, and counts. Like a graph's, its gradients lie where they lay at first."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.captured = self.replayed = 0

    def __call__(self, launch: Launch) -> Launch:
        self.captured += 1
        before = [tensor.detach().clone() for tensor in self.training.left()[:-1]]
        random = torch.get_rng_state()
        launch()  # finds the gradients' buffers; what else it did is undone, for a capture runs nothing
        buffers = self.training.stepper.gradients()
        with torch.no_grad():
            for tensor, value in zip(self.training.left(), before, strict=False):
                tensor.copy_(value)
        torch.set_rng_state(random)

        def replay() -> None:
            self.replayed += 1
            launch()
            for buffer, gradient in zip(buffers, self.training.stepper.gradients(), strict=True):
                buffer.copy_(gradient)

        return replay


def assert_same(one: Training, other: Training) -> None:
    for actual, expected in zip(one.left(), other.left(), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_replayed_steps_are_the_steps_themselves(name: str) -> None:
    plain, graphs = Training(name), Training(name)
    recorder = Recorder(graphs)
    torch.manual_seed(7)
    expected = plain.step()
    torch.manual_seed(7)
    actual = graphs.replay(recorder)
    assert not graphs.messages
    # Widths of 3 and 5 to 8, and of 9: graphs of 4, 8 and 12 or 4 to 10, and all but the two last batches go by them.
    assert 2 <= recorder.captured <= (4 if name == "rnn" else 3)
    assert recorder.replayed == 2 * 11
    assert_same(graphs, plain)
    for one, other in zip(actual, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_capture_that_fails_is_reported_once_and_changes_nothing(fails_at: int) -> None:
    plain, graphs = Training("mlp"), Training("mlp")
    recorder = Recorder(graphs)

    def capture(launch: Launch) -> Launch:
        if recorder.captured == fails_at - 1:
            graphs.stepper.zero_grad()  # as a step begins: the capture was spoilt right after
            raise RuntimeError("operation not permitted when stream is capturing\nwith a long tale")
        return recorder(launch)

    torch.manual_seed(7)
    expected = plain.step()
    torch.manual_seed(7)
    actual = graphs.replay(capture)
    # Of the step whose capture failed too: the first step's gradient norm is in the metrics log.
    for one, other in zip(actual[0], expected[0], strict=True):
        assert torch.equal(one, other)
    message = "compile: a CUDA graph of the step does not work here, going on without: "
    assert graphs.messages == [message + "operation not permitted when stream is capturing"]
    assert recorder.captured == fails_at - 1
    for actual, expected in zip(graphs.left()[:-1], plain.left()[:-1], strict=True):
        torch.testing.assert_close(actual, expected)  # narrower batches from there on: sums in another order


def test_a_step_in_which_the_host_waits_is_found_without_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, graphs = Training("mlp"), Training("mlp")
    forbidden = [0]

    @contextmanager
    def forbid(_device: torch.device) -> Iterator[None]:
        forbidden[0] += 1
        yield
        # After the step has changed weights, moments, metrics and random state: all of it is undone.
        raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr(cuda_graphs, "forbid_waiting", forbid)
    torch.manual_seed(7)
    plain.step()
    torch.manual_seed(7)
    recorder = Recorder(graphs)
    graphs.replay(recorder)
    assert (recorder.captured, forbidden[0]) == (0, 1)
    message = (
        "compile: a CUDA graph of the step does not work here, going on without: the host waits for the device in it"
    )
    assert graphs.messages == [message]
    for actual, expected in zip(graphs.left()[:-1], plain.left()[:-1], strict=True):
        torch.testing.assert_close(actual, expected)


def test_any_other_error_of_a_first_step_is_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = Training("mlp")

    @contextmanager
    def forbid(_device: torch.device) -> Iterator[None]:
        raise RuntimeError("CUDA error: unspecified launch failure")
        yield

    monkeypatch.setattr(cuda_graphs, "forbid_waiting", forbid)
    with pytest.raises(RuntimeError, match="unspecified launch failure"):
        graphs.replay(Recorder(graphs))


class FakeGraph:
    """torch.cuda.CUDAGraph as torch 2.13 behaves: a spoilt capture raises again when it is ended."""

    def __init__(self, calls: list[str], spoilt: bool) -> None:
        self.calls, self.spoilt = calls, spoilt

    def capture_begin(self, pool: object) -> None:
        self.calls.append("begin")

    def capture_end(self) -> None:
        self.calls.append("end")
        if self.spoilt:
            raise RuntimeError("operation failed due to a previous error during capture")

    def replay(self) -> None:
        self.calls.append("replay")


@pytest.mark.parametrize("fails", ["in the step", "at the end", None])
def test_a_failed_capture_leaves_the_stream_as_it_was_and_says_what_failed(
    monkeypatch: pytest.MonkeyPatch, fails: str | None
) -> None:
    calls: list[str] = []

    @contextmanager
    def on_stream(_stream: object) -> Iterator[None]:
        calls.append("enter")
        try:
            yield
        finally:
            calls.append("leave")

    for name, stand_in in (
        ("graph_pool_handle", lambda: None), ("Stream", lambda: None), ("synchronize", lambda: None),
        ("empty_cache", lambda: None), ("CUDAGraph", lambda: FakeGraph(calls, fails is not None)),
        ("stream", on_stream),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, stand_in)

    def launch() -> None:
        calls.append("step")
        if fails == "in the step":
            raise RuntimeError("operation not permitted when stream is capturing")

    capture = cuda_graphs.cuda_graphs()
    if fails is None:
        capture(launch)()
        assert calls == ["enter", "begin", "step", "end", "leave", "replay"]
        return
    words = "not permitted" if fails == "in the step" else "previous error during capture"
    with pytest.raises(RuntimeError, match=words):
        capture(launch)
    assert calls == ["enter", "begin", "step", "end", "leave"]


@pytest.mark.parametrize("raises", [False, True])
def test_waiting_is_forbidden_on_a_gpu_for_as_long_as_the_step_takes(
    monkeypatch: pytest.MonkeyPatch, raises: bool
) -> None:
    modes: list[object] = [0]

    def set_mode(mode: object) -> None:
        modes.append(mode)
        if mode == "error":  # as torch does; a warning is an error here
            warnings.warn("Synchronization debug mode is a prototype feature and does not", stacklevel=2)

    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    with suppress(RuntimeError), cuda_graphs.forbid_waiting(torch.device("cuda")):
        if raises:
            raise RuntimeError
    assert modes == [0, "error", 0]
    with cuda_graphs.forbid_waiting(CPU):
        assert modes == [0, "error", 0]


@pytest.mark.parametrize("error", ["runs twice", "runs not at all", "spoils the weights"])
def test_a_graph_that_ends_elsewhere_is_found_out_at_once(error: str) -> None:
    plain, graphs = Training("mlp"), Training("mlp")

    def capture(launch: Launch) -> Launch:
        def replay() -> None:
            for _ in range({"runs twice": 2, "runs not at all": 0, "spoils the weights": 1}[error]):
                launch()
            if error == "spoils the weights":
                nn.init.constant_(next(graphs.model.head.parameters()), float("nan"))

        return replay

    torch.manual_seed(7)
    plain.step()
    torch.manual_seed(7)
    graphs.replay(capture)
    assert len(graphs.messages) == 1
    assert graphs.messages[0].endswith("going on without: it ends where the step itself does not")
    for actual, expected in zip(graphs.left()[:-1], plain.left()[:-1], strict=True):
        torch.testing.assert_close(actual, expected)


def test_equal_logits_are_the_first_category_on_every_device() -> None:
    logits = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0], [3.0, 3.0, 3.0], [0.0, 1.0, 2.0]]).repeat(20, 1)
    sums = []
    for kind in (MetricAccumulator, HostMetricAccumulator):
        for label in range(3):
            metrics = kind(3, CPU)
            metrics.add(torch.tensor(1.0), logits, torch.full((80,), label))
            sums.append(metrics.read().correct.tolist())
    assert sums == [[40, 0, 0], [0, 20, 0], [0, 0, 20]] * 2


def test_a_split_in_main_memory_has_nothing_to_draw_on() -> None:
    training = Training("mlp")
    training.batches._maker = None
    with pytest.raises(ValueError, match="main memory"):
        training.batches.draws(0)
