"""Batches of titles: which titles, in which order, padded to the longest, on the device that trains.

Order is a pure function of (seed, epoch, step): a resumed run sees the batches it would have seen.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from jobs.data import Shuffle
from jobs.data.dataset import PAD, Split

SHUFFLES: tuple[Shuffle, ...] = get_args(Shuffle)
# Batches made together on the CPU, by their padded tokens and by titles: a call's cost is paid once for all of them.
_GROUP_TOKENS, _GROUP_TITLES = 1 << 18, 1 << 14
# Length bucketing sorts within this many batches, so that it stays nearly a shuffle.
_BUCKET_BATCHES = 64

Ahead = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B titles.

    ``lengths`` (B,), ``labels`` (B,) and ``rows`` (B,; positions in the split) are int64; ``padded`` gives ``tokens``.
    ``flat_tokens`` (N,) int64 are the tokens without padding, one title after the other; None unless on a CPU.
    ``features`` (B, F) float32 are those of the split, or what ``ahead`` made of them; None without either.
    """

    padded: Callable[[], torch.Tensor]
    lengths: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor
    flat_tokens: torch.Tensor | None = None
    features: torch.Tensor | None = None

    def __len__(self) -> int:
        return self.labels.shape[0]

    @property
    def tokens(self) -> torch.Tensor:
        """Tokens (B, T) int64, padded with 0 on the right to the longest title, T."""
        return self.padded()


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """A batch that is drawn and not made yet: its ``rows`` (B,) int64 on the device and its longest title's length."""

    rows: torch.Tensor
    width: int


class TrainBatches:
    """Every title of a split once an epoch, shuffled.

    ``shuffle``: ``full`` is a true permutation; ``buffer`` shuffles inside consecutive runs of
    ``random_buffer_size`` titles of the fixed order, as the published work did. ``bucket_by_length`` brings
    titles of similar length together (less padding) and shuffles the batches. ``ahead`` makes features (B, F) of the
    flat tokens (N,) and the lengths (B,) of titles, each title's from its own tokens alone: on a CPU it is called for
    several batches at once.
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
        ahead: Ahead | None = None,
    ) -> None:
        if shuffle not in SHUFFLES:
            raise ValueError(f"shuffle: must be one of {', '.join(SHUFFLES)}, not {shuffle!r}")
        if batch_size < 1 or random_buffer_size < 1:
            raise ValueError("batch_size and random_buffer_size must be at least 1")
        self._maker = _maker(split, torch.device(device), ahead)
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

    def draws(self, epoch: int, start_step: int = 0) -> Iterator[Draw]:
        """The same batches before they are made; raises ValueError where the split is not on a device."""
        rows, cuts = self.order(epoch)
        return self._resident().draws(rows, cuts[start_step:], self._lengths[rows])

    def make(self, rows: torch.Tensor, width: int) -> Batch:
        """The batch of these rows (B,), padded to any width that holds them; raises ValueError as ``draws`` does."""
        return self._resident().batch(rows, width)

    def _resident(self) -> _DeviceMaker:
        if not isinstance(self._maker, _DeviceMaker):
            raise ValueError("the split is in main memory: its batches are made, not drawn")
        return self._maker

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
        return rows, _cuts(count, self._batch_size)

    def _bucketed(self, generator: np.random.Generator, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows sorted by length within buckets of consecutive batches, and the batches shuffled.

        lexsort sorts by its last key first: by bucket, and within it by length. Ties keep their shuffled order.
        """
        size = self._batch_size
        bucket = np.arange(len(rows)) // (size * _BUCKET_BATCHES)
        rows = rows[np.lexsort((self._lengths[rows], bucket))]
        # The smaller last batch stays last, so that batches are cut at the same positions whatever the shuffle.
        whole = len(rows) // size
        batches = rows[: whole * size].reshape(whole, size)[generator.permutation(whole)]
        return np.concatenate([batches.reshape(-1), rows[whole * size :]])


def _shuffle_blocks(generator: np.random.Generator, count: int, size: int) -> NDArray[np.int64]:
    """Positions 0 to ``count`` in order but for a shuffle within each block of ``size``; the last may be smaller.

    ``permuted`` shuffles each row of a matrix by itself: all whole blocks in one call.
    """
    whole = count // size * size
    blocks = generator.permuted(np.arange(whole, dtype=np.int64).reshape(-1, size), axis=1)
    return np.concatenate([blocks.reshape(-1), whole + generator.permutation(count - whole)])


class EvaluationBatches:
    """Every title once, in order of length so that little is padding; ``rows`` says which is which."""

    def __init__(self, split: Split, batch_size: int, device: torch.device | str = "cpu") -> None:
        if batch_size < 1:
            raise ValueError("batch_size must be at least 1")
        self._maker = _maker(split, torch.device(device), None)
        self._lengths = split.lengths.astype(np.int32)
        self._rows = np.argsort(self._lengths, kind="stable")
        self._cuts = _cuts(len(self._rows), batch_size)

    @property
    def steps(self) -> int:
        """How many batches there are."""
        return len(self._cuts) - 1

    def __iter__(self) -> Iterator[Batch]:
        yield from self._maker.make(self._rows, self._cuts, self._lengths[self._rows])


def _cuts(count: int, size: int) -> NDArray[np.int64]:
    """Where the batches of this many titles begin, and the end of the last, (steps + 1,)."""
    return np.append(np.arange(0, count, size, dtype=np.int64), count)


def _maker(split: Split, device: torch.device, ahead: Ahead | None) -> _HostMaker | _DeviceMaker:
    return _HostMaker(split, ahead) if device.type == "cpu" else _DeviceMaker(split, device)


class _HostMaker:
    """Makes batches in main memory, a group of several at a time."""

    def __init__(self, split: Split, ahead: Ahead | None) -> None:
        self._split = split
        self._ahead = ahead

    def make(self, rows: NDArray[np.int64], cuts: NDArray[np.int64], lengths: NDArray[np.int32]) -> Iterator[Batch]:
        first = 0
        while first < len(cuts) - 1:
            # As many batches as keep the group in the processor's cache.
            widest = int(lengths[cuts[first] : cuts[first + 1]].max())
            titles = min(_GROUP_TOKENS // widest, _GROUP_TITLES)
            last = min(first + max(1, titles // int(cuts[first + 1] - cuts[first])), len(cuts) - 1)
            # All of a group at once: between two steps each call would find the processor's caches full of the model.
            yield from self._group(rows, cuts[first : last + 1], lengths)
            first = last

    def _group(self, rows: NDArray[np.int64], cuts: NDArray[np.int64], lengths: NDArray[np.int32]) -> list[Batch]:
        """The batches between these cuts, copied out of the split together.

        A call of numpy or torch has a fixed cost, and a batch is a few hundred short titles. So all titles of the group
        are taken in one call into one flat array, in the order of the batches, and a batch's tensors are slices of the
        group's (``split`` copies nothing).
        """
        begin, end = int(cuts[0]), int(cuts[-1])
        titles, counts = rows[begin:end], lengths[begin:end].astype(np.int64)
        # Title i begins at offsets[i] in the split and at the sum of the earlier titles' lengths here: each of its
        # tokens lies the same distance, ``shift``, further on in the split than here.
        shift = self._split.offsets[titles] - (np.cumsum(counts) - counts)
        tokens = self._split.tokens.take(_shifted_positions(shift, counts)).astype(np.int64)
        sizes: list[int] = np.diff(cuts).tolist()
        ends = np.cumsum(np.add.reduceat(counts, cuts[:-1] - begin))
        flat, long, chosen = torch.from_numpy(tokens), torch.from_numpy(counts), torch.from_numpy(titles)
        labels = torch.from_numpy(np.asarray(self._split.labels[titles]).astype(np.int64))
        made = self._features(titles, flat, long)
        features = [None] * len(sizes) if made is None else torch.split(made, sizes)
        # Made when the first batch asks for its matrix: not every network needs them.
        matrices = functools.cache(partial(_padded_matrices, tokens, counts, cuts - begin))
        pieces = zip(
            *(torch.split(part, sizes) for part in (long, labels, chosen)),
            torch.tensor_split(flat, ends[:-1].tolist()),
            features,
            strict=True,
        )
        return [
            Batch(
                padded=partial(_item, matrices, number),
                lengths=lengths_,
                labels=labels_,
                rows=rows_,
                flat_tokens=flat_,
                features=features_,
            )
            for number, (lengths_, labels_, rows_, flat_, features_) in enumerate(pieces)
        ]

    def _features(self, titles: NDArray[np.int64], flat: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor | None:
        if self._split.features is not None:
            return torch.from_numpy(self._split.features[titles])
        return self._ahead(flat, lengths) if self._ahead else None


def _item(matrices: Callable[[], list[torch.Tensor]], number: int) -> torch.Tensor:
    return matrices()[number]


def _padded_matrices(
    tokens: NDArray[np.int64], lengths: NDArray[np.int64], cuts: NDArray[np.int64]
) -> list[torch.Tensor]:
    """The (B, T) tokens of each batch of a group, T its longest title's length, padded with 0 on the right.

    The matrices lie end to end in one array as the titles do in ``tokens``; all tokens are moved in one assignment.
    """
    sizes, widths = np.diff(cuts), np.maximum.reduceat(lengths, cuts[:-1])
    padded_lengths = np.repeat(widths, sizes)
    padded = np.zeros(int(padded_lengths.sum()), np.int64)  # PAD is 0
    shift = np.cumsum(padded_lengths) - padded_lengths - (np.cumsum(lengths) - lengths)
    padded[_shifted_positions(shift, lengths)] = tokens
    flat = torch.split(torch.from_numpy(padded), (sizes * widths).tolist())
    return [part.view(-1, width) for part, width in zip(flat, widths.tolist(), strict=True)]


def _shifted_positions(shift: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the tokens of titles that lie end to end are after each title is shifted: (B,), (B,) -> (N,)."""
    positions = np.repeat(shift, lengths)
    positions += np.arange(len(positions))
    return positions


class _DeviceMaker:
    """Keeps the whole split in the device's memory and makes batches there; nothing waits for the device."""

    def __init__(self, split: Split, device: torch.device) -> None:
        self._device = device
        # int32: unsigned 16-bit tensors lack the operations that are needed here.
        self._tokens = torch.from_numpy(split.tokens.astype(np.int32)).to(device)
        self._offsets = torch.from_numpy(np.array(split.offsets)).to(device)
        self._labels = torch.from_numpy(split.labels.astype(np.int64)).to(device)
        self._features = None if split.features is None else torch.from_numpy(split.features).to(device)

    def make(self, rows: NDArray[np.int64], cuts: NDArray[np.int64], lengths: NDArray[np.int32]) -> Iterator[Batch]:
        for draw in self.draws(rows, cuts, lengths):
            yield self.batch(draw.rows, draw.width)

    def draws(self, rows: NDArray[np.int64], cuts: NDArray[np.int64], lengths: NDArray[np.int32]) -> Iterator[Draw]:
        if len(cuts) < 2:
            return
        # Widths are found on the host: asking the device for a maximum would stop it at every batch.
        begin = int(cuts[0])
        widths = np.maximum.reduceat(lengths[begin:], cuts[:-1] - begin).tolist()
        order = torch.from_numpy(np.ascontiguousarray(rows)).to(self._device)
        for low, high, width in zip(cuts[:-1].tolist(), cuts[1:].tolist(), widths, strict=True):
            yield Draw(rows=order[low:high], width=width)

    def batch(self, rows: torch.Tensor, width: int) -> Batch:
        column = torch.arange(width, device=self._device)
        starts = self._offsets[rows]
        lengths = self._offsets[rows + 1] - starts
        # Read beyond a title's end and overwrite with PAD: shapes depend on the width alone, so that no kernel waits
        # for a length to reach the host. Only the split's last titles could read beyond the array.
        index = (starts[:, None] + column).clamp_(max=self._tokens.shape[0] - 1)
        tokens = self._tokens[index].long().masked_fill_(column >= lengths[:, None], PAD)
        features = None if self._features is None else self._features[rows]
        return Batch(padded=lambda: tokens, lengths=lengths, labels=self._labels[rows], rows=rows, features=features)
