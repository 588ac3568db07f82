"""Batches: every title once an epoch, in an order that is known beforehand, padded with what changes nothing."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.data.batches import Batch, EvaluationBatches, TrainBatches, _DeviceMaker
from jobs.data.dataset import Split


def split_of(lengths: list[int]) -> Split:
    """A split whose token values say where they stand."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Split(
        name="train",
        tokens=(np.arange(offsets[-1]) % 60_000 + 2).astype(np.uint16),
        offsets=offsets,
        labels=(np.arange(len(lengths)) % 5).astype(np.uint16),
        reliable=np.ones(len(lengths), np.uint8),
    )


def check(batch: Batch, split: Split) -> None:
    assert batch.tokens.dtype == batch.lengths.dtype == batch.labels.dtype == batch.rows.dtype == torch.int64
    assert batch.tokens.shape == (len(batch), int(batch.lengths.max()))
    assert batch.tokens.is_contiguous()
    for tokens, length, label, row in zip(batch.tokens, batch.lengths, batch.labels, batch.rows, strict=True):
        expected = split.tokens[split.offsets[row] : split.offsets[row + 1]].tolist()
        assert tokens.tolist() == expected + [0] * (len(tokens) - len(expected))
        assert int(length) == len(expected)
        assert int(label) == split.labels[row]
    if batch.flat_tokens is not None:
        assert torch.equal(batch.flat_tokens, batch.tokens[batch.tokens != 0])


_LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=60)
_WAYS = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 17),
        "seed": st.integers(0, 2**32),
        "shuffle": st.sampled_from(["full", "buffer"]),
        "random_buffer_size": st.integers(1, 70),
        "bucket_by_length": st.booleans(),
    }
)


@settings(deadline=None, max_examples=60)
@given(lengths=_LENGTHS, ways=_WAYS, epoch=st.integers(0, 1000))
def test_every_epoch_visits_every_title_once(lengths: list[int], ways: dict[str, Any], epoch: int) -> None:
    split = split_of(lengths)
    batches = TrainBatches(split, **ways)
    made = list(batches.epoch(epoch))
    assert len(made) == batches.steps
    for batch in made:
        check(batch, split)
    rows = [row for batch in made for row in batch.rows.tolist()]
    assert sorted(rows) == list(range(len(lengths)))
    assert all(len(batch) == ways["batch_size"] for batch in made[:-1])
    if ways["shuffle"] == "buffer" and not ways["bucket_by_length"]:
        size = ways["random_buffer_size"]
        assert [row // size for row in rows] == [at // size for at in range(len(rows))]


@settings(deadline=None, max_examples=40)
@given(lengths=_LENGTHS, ways=_WAYS, data=st.data())
def test_a_resumed_epoch_sees_the_same_batches(lengths: list[int], ways: dict[str, Any], data: st.DataObject) -> None:
    split = split_of(lengths)
    whole = list(TrainBatches(split, **ways).epoch(3))
    start = data.draw(st.integers(0, len(whole)))
    resumed = list(TrainBatches(split, **ways).epoch(3, start))
    assert len(resumed) == len(whole) - start
    for one, other in zip(whole[start:], resumed, strict=True):
        assert torch.equal(one.rows, other.rows)
        assert torch.equal(one.tokens, other.tokens)


@settings(deadline=None, max_examples=40)
@given(lengths=_LENGTHS, ways=_WAYS, data=st.data())
def test_features_made_ahead_are_those_of_their_own_titles(
    lengths: list[int], ways: dict[str, Any], data: st.DataObject
) -> None:
    def ahead(words: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        assert int(counts.sum()) == len(words)
        return torch.stack([torch.stack([title.sum(), title[-1]]) for title in words.split(counts.tolist())]).float()

    batches = TrainBatches(split_of(lengths), **ways, ahead=ahead)
    start = data.draw(st.integers(0, batches.steps))
    for batch in batches.epoch(2, start):
        assert batch.features is not None
        assert batch.flat_tokens is not None
        assert torch.equal(batch.features, ahead(batch.flat_tokens, batch.lengths))
    assert all(batch.features is None for batch in TrainBatches(split_of(lengths), **ways).epoch(2))


@settings(deadline=None, max_examples=30)
@given(lengths=_LENGTHS, size=st.integers(1, 20))
def test_evaluation_visits_every_title_once_with_little_padding(lengths: list[int], size: int) -> None:
    split = split_of(lengths)
    batches = EvaluationBatches(split, size)
    made = list(batches)
    assert len(made) == batches.steps
    for batch in made:
        check(batch, split)
    assert sorted(row for batch in made for row in batch.rows.tolist()) == list(range(len(lengths)))
    found = [length for batch in made for length in batch.lengths.tolist()]
    assert found == sorted(found)


@settings(deadline=None, max_examples=30)
@given(lengths=_LENGTHS, ways=_WAYS, start=st.integers(0, 5))
def test_batches_made_on_a_device_are_the_same(lengths: list[int], ways: dict[str, Any], start: int) -> None:
    split = split_of(lengths)
    batches = TrainBatches(split, **ways)
    maker = _DeviceMaker(split, torch.device("cpu"))
    rows, cuts = batches.order(1)
    made = list(maker.make(rows, cuts[start:], split.lengths.astype(np.int32)[rows]))
    for one, other in itertools.zip_longest(batches.epoch(1, start), made):
        for name in ("tokens", "lengths", "labels", "rows"):
            assert torch.equal(getattr(one, name), getattr(other, name))


def test_epochs_and_seeds_differ() -> None:
    split = split_of([3] * 200)
    orders = {
        tuple(TrainBatches(split, batch_size=8, seed=seed).order(epoch)[0].tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


def test_a_full_shuffle_moves_titles_everywhere() -> None:
    split = split_of([1] * 10_000)
    rows, _ = TrainBatches(split, batch_size=100, seed=0).order(0)
    assert abs(np.corrcoef(rows, np.arange(10_000))[0, 1]) < 0.05
    rows, _ = TrainBatches(split, batch_size=100, seed=0, shuffle="buffer", random_buffer_size=64).order(0)
    assert np.corrcoef(rows, np.arange(10_000))[0, 1] > 0.99


def test_bucketing_by_length_saves_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 30, 5000).tolist()
    split = split_of(lengths)

    def padded(bucket: bool) -> int:
        batches = TrainBatches(split, batch_size=32, seed=0, bucket_by_length=bucket)
        return sum(batch.tokens.numel() for batch in batches.epoch(0))

    assert padded(True) < 1.1 * sum(lengths) < 0.7 * padded(False)


def test_what_is_not_a_way_to_shuffle() -> None:
    with pytest.raises(ValueError, match="must be one of full, buffer, not 'none'"):
        TrainBatches(split_of([1]), batch_size=1, seed=0, shuffle="none")
    with pytest.raises(ValueError, match="at least 1"):
        TrainBatches(split_of([1]), batch_size=0, seed=0)
