"""Batches of titles: which titles, in which order, padded to the longest, on the device that trains.

Order is a pure function of (seed, epoch, step): a resumed run sees the batches it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from jobs.data.dataset import PAD, Split

SHUFFLES = ("full", "buffer")
# Batches made together on the CPU: the cost of a numpy call is paid once for all of them.
_GROUP_TOKENS = 1 << 18
# Length bucketing sorts within this many batches, so that it stays nearly a shuffle.
_BUCKET_BATCHES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B titles padded with 0 on the right to the longest of them, T.

    ``tokens`` (B, T), ``lengths`` (B,), ``labels`` (B,) and ``rows`` (B,; positions in the split), all int64.
    ``words`` (N,) are the tokens without padding, one title after the other, where they lay at hand: on a CPU.
    """

    tokens: torch.Tensor
    lengths: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor
    words: torch.Tensor | None = None

    def __len__(self) -> int:
        return self.labels.shape[0]


class TrainBatches:
    """Every title of a split once an epoch, shuffled.

    ``shuffle``: ``full`` is a true permutation; ``buffer`` shuffles inside consecutive runs of
    ``random_buffer_size`` titles of the fixed order, as the published work did. ``bucket_by_length`` brings
    titles of like length together (less padding) and shuffles the batches.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int,
        shuffle: str = "full",
        random_buffer_size: int = 2048,
        bucket_by_length: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        if shuffle not in SHUFFLES:
            raise ValueError(f"shuffle: must be one of {', '.join(SHUFFLES)}, not {shuffle!r}")
        if batch_size < 1 or random_buffer_size < 1:
            raise ValueError("batch_size and random_buffer_size must be at least 1")
        self._maker = _maker(split, torch.device(device))
        self._lengths = split.lengths.astype(np.int32)
        self._batch_size = batch_size
        self._seed = seed
        self._buffer_size = random_buffer_size if shuffle == "buffer" else None
        self._bucket = bucket_by_length

    @property
    def steps(self) -> int:
        """Batches in an epoch; the last may be smaller."""
        return -(-len(self._lengths) // self._batch_size)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from step ``start_step`` (0 is the first) on."""
        rows, cuts = self.order(epoch)
        yield from self._maker.make(rows, cuts[start_step:], self._lengths[rows])

    def order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The titles of an epoch in order, (N,), and where its batches are cut, (steps + 1,)."""
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, epoch])))
        count = len(self._lengths)
        if self._buffer_size is None:
            rows = generator.permutation(count)
        else:
            rows = _shuffle_blocks(generator, count, self._buffer_size)
        if self._bucket:
            rows = self._bucketed(generator, rows)
        cuts = np.minimum(np.arange(self.steps + 1, dtype=np.int64) * self._batch_size, count)
        return rows, cuts

    def _bucketed(self, generator: np.random.Generator, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        size = self._batch_size
        bucket = np.arange(len(rows)) // (size * _BUCKET_BATCHES)
        rows = rows[np.lexsort((self._lengths[rows], bucket))]
        # The smaller last batch stays last: its place must not depend on the shuffle.
        whole = len(rows) // size
        batches = rows[: whole * size].reshape(whole, size)[generator.permutation(whole)]
        return np.concatenate([batches.reshape(-1), rows[whole * size :]])


def _shuffle_blocks(generator: np.random.Generator, count: int, size: int) -> NDArray[np.int64]:
    whole = count // size * size
    blocks = generator.permuted(np.arange(whole, dtype=np.int64).reshape(-1, size), axis=1)
    return np.concatenate([blocks.reshape(-1), whole + generator.permutation(count - whole)])


class EvaluationBatches:
    """Every title once, in order of length so that little is padding; ``rows`` says which is which."""

    def __init__(self, split: Split, batch_size: int, device: torch.device | str = "cpu") -> None:
        if batch_size < 1:
            raise ValueError("batch_size must be at least 1")
        self._maker = _maker(split, torch.device(device))
        self._lengths = split.lengths.astype(np.int32)
        self._rows = np.argsort(self._lengths, kind="stable")
        self._batch_size = batch_size

    @property
    def steps(self) -> int:
        return -(-len(self._rows) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        count = len(self._rows)
        cuts = np.minimum(np.arange(self.steps + 1, dtype=np.int64) * self._batch_size, count)
        yield from self._maker.make(self._rows, cuts, self._lengths[self._rows])


def _maker(split: Split, device: torch.device) -> _HostMaker | _DeviceMaker:
    return _HostMaker(split) if device.type == "cpu" else _DeviceMaker(split, device)


class _HostMaker:
    """Makes batches in main memory, several at a time."""

    def __init__(self, split: Split) -> None:
        self._split = split

    def make(self, rows: NDArray[np.int64], cuts: NDArray[np.int64], lengths: NDArray[np.int32]) -> Iterator[Batch]:
        first = 0
        while first < len(cuts) - 1:
            # As many batches as keep the group's padded tokens in the processor's cache.
            widest = int(lengths[cuts[first] : cuts[first + 1]].max())
            count = max(1, _GROUP_TOKENS // (widest * int(cuts[first + 1] - cuts[first])))
            last = min(first + count, len(cuts) - 1)
            # All of a group at once: between two steps each call would find the processor's caches full of the model.
            yield from list(self._group(rows, cuts[first : last + 1], lengths))
            first = last

    def _group(self, rows: NDArray[np.int64], cuts: NDArray[np.int64], lengths: NDArray[np.int32]) -> Iterator[Batch]:
        begin, end = int(cuts[0]), int(cuts[-1])
        chosen, long = rows[begin:end], lengths[begin:end].astype(np.int64)
        sizes, widths = np.diff(cuts), np.maximum.reduceat(long, cuts[:-1] - begin)
        # The batches' padded matrices lie end to end; each word is moved from its place in the split to its own there.
        padded = np.repeat(widths, sizes)
        first = np.cumsum(long) - long
        count = np.arange(int(long.sum()))
        words = self._split.tokens.take(np.repeat(self._split.offsets[chosen] - first, long) + count).astype(np.int64)
        tokens = np.zeros(int(padded.sum()), np.int64)  # PAD is 0
        tokens[np.repeat(np.cumsum(padded) - padded - first, long) + count] = words
        ends = np.cumsum(np.add.reduceat(long, cuts[:-1] - begin))
        pieces = zip(
            torch.split(torch.from_numpy(tokens), (sizes * widths).tolist()),
            torch.tensor_split(torch.from_numpy(words), ends[:-1].tolist()),
            *(torch.split(torch.from_numpy(part), sizes.tolist()) for part in (long, self._labels(chosen), chosen)),
            widths.tolist(),
            strict=True,
        )
        for flat, words_, lengths_, labels, rows_, width in pieces:
            yield Batch(tokens=flat.view(-1, width), lengths=lengths_, labels=labels, rows=rows_, words=words_)

    def _labels(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.asarray(self._split.labels[rows]).astype(np.int64)


class _DeviceMaker:
    """Keeps the whole split in the device's memory and makes batches there; nothing waits for the device."""

    def __init__(self, split: Split, device: torch.device) -> None:
        self._device = device
        # int32: unsigned 16-bit tensors lack the operations that are needed here.
        self._tokens = torch.from_numpy(split.tokens.astype(np.int32)).to(device)
        self._offsets = torch.from_numpy(np.array(split.offsets)).to(device)
        self._labels = torch.from_numpy(split.labels.astype(np.int64)).to(device)

    def make(self, rows: NDArray[np.int64], cuts: NDArray[np.int64], lengths: NDArray[np.int32]) -> Iterator[Batch]:
        if len(cuts) < 2:
            return
        # Widths are found on the host: asking the device for a maximum would stop it at every batch.
        begin = int(cuts[0])
        widths = np.maximum.reduceat(lengths[begin:], cuts[:-1] - begin).tolist()
        order = torch.from_numpy(np.ascontiguousarray(rows)).to(self._device)
        place = torch.arange(max(widths), device=self._device)
        for low, high, width in zip(cuts[:-1].tolist(), cuts[1:].tolist(), widths, strict=True):
            chosen = order[low:high]
            starts = self._offsets[chosen]
            long = self._offsets[chosen + 1] - starts
            index = (starts[:, None] + place[:width]).clamp_(max=self._tokens.shape[0] - 1)
            tokens = self._tokens[index].long().masked_fill_(place[:width] >= long[:, None], PAD)
            yield Batch(tokens=tokens, lengths=long, labels=self._labels[chosen], rows=chosen)
