"""What is particular to one architecture: each against the plainest way to compute it."""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from network_fixture import SIZE, build, draw_titles, make_batch, score
from torch import Tensor, nn

from jobs.data.batches import Batch
from jobs.models.cnn.network import Filters, Packed, max_over_time
from jobs.models.layers import Dropout
from jobs.models.rnn.network import OVERHEAD, Groups, cheapest_groups, unsupported
from jobs.settings import DataShape
from jobs.testing import settings_with


def gradients(model: nn.Module, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
    model.zero_grad()
    nn.functional.cross_entropy(logits, batch.labels).backward()
    return {
        name: weight.grad.to_dense().clone() for name, weight in model.named_parameters() if weight.grad is not None
    }


def test_mlp_averages_a_titles_own_words() -> None:
    model = build("mlp")
    title = [5, 9, 9]
    expected = model.head(model.words.weight[title].mean(0, keepdim=True))
    torch.testing.assert_close(score(model, make_batch([title, [1] * 8]))[:1], expected)


@pytest.mark.parametrize("lengths", [[1], [2, 3, 4], [5, 2], [12]])
def test_cnn_equals_convolutions_over_each_title_and_zeros(lengths: list[int]) -> None:
    model, titles = build("cnn", filters_length=lengths, filters_count=4), draw_titles(15)
    expected = torch.cat([_convolve(model, title, lengths, 4) for title in titles])
    torch.testing.assert_close(score(model, make_batch(titles)), expected)


def _convolve(model: nn.Module, title: list[int], lengths: list[int], count: int) -> Tensor:
    maxima, row = [], 0
    for position, length in enumerate(lengths):
        vectors = torch.cat([model.words.weight[title], torch.zeros(length - 1, SIZE)])
        kernel = model.weight[row : row + length * count].view(length, count, SIZE).permute(1, 2, 0)
        bias = model.bias[position * count : (position + 1) * count]
        maxima.append(nn.functional.conv1d(vectors.t(), kernel, bias).relu().amax(1))
        row += length * count
    return model.head(torch.cat(maxima)[None]).detach()


def test_rnn_equals_an_lstm_over_each_title() -> None:
    model, titles = build("rnn", lstm_layers=3, lstm_features=8), draw_titles(15)
    expected = torch.cat([model.head(model.lstm(model.words.weight[title])[0][-1:]) for title in titles])
    torch.testing.assert_close(score(model, make_batch(titles)), expected)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("pooling", ["last", "max", "mean", "max_mean"])
def test_rnn_equals_torchs_own_layers_over_each_title(cell: str, bidirectional: bool, pooling: str) -> None:
    chosen = {"cell": cell, "bidirectional": bidirectional, "pooling": pooling}
    model, titles = build("rnn", lstm_layers=2, lstm_features=8, **chosen), draw_titles(15)
    plain = {"lstm": nn.LSTM, "gru": nn.GRU}[cell](SIZE, 8, 2, bidirectional=bidirectional)
    if bidirectional:
        for way, suffix in ((model.lstm.ahead, ""), (model.lstm.back, "_reverse")):
            for number, layer in enumerate(way):
                for name, weight in layer.named_parameters():
                    getattr(plain, f"{name[:-1]}{number}{suffix}").data.copy_(weight)
    else:
        plain.load_state_dict(model.lstm.state_dict())
    expected = torch.cat([model.head(_pool(plain, model.words.weight[title], pooling)) for title in titles])
    torch.testing.assert_close(score(model, make_batch(titles)), expected)


def _pool(plain: nn.Module, vectors: Tensor, pooling: str) -> Tensor:
    """One title's states of torch's layers, pooled; each direction's maximum and mean together, as in the network."""
    halves = plain(vectors)[0].split(8, 1)
    if pooling == "last":
        return torch.cat([half[place] for half, place in zip(halves, (-1, 0), strict=False)])[None]
    ways = {"max": [lambda half: half.amax(0)], "mean": [lambda half: half.mean(0)]}
    ways["max_mean"] = [*ways["max"], *ways["mean"]]
    return torch.cat([way(half) for half in halves for way in ways[pooling]])[None]


RECURRENT = [
    ("rnn", {"lstm_layers": 2, "lstm_features": 9}),
    ("rnn", {"cell": "gru", "bidirectional": True, "pooling": "max_mean", "lstm_layers": 2, "lstm_features": 9}),
]


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize(("name", "changes"), [("cnn", {"filters_count": 5}), *RECURRENT])
def test_word_by_word_has_the_gradients_of_place_by_place(
    name: str, changes: dict[str, Any], frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = build(name, freeze_embeddings=frozen, **changes), make_batch(draw_titles(23))
    quick = gradients(model, model(batch), batch)
    monkeypatch.setattr(f"jobs.models.{name}.network.per_word_path", lambda tokens: False)
    plain = gradients(model, model(batch), batch)
    assert set(quick) == set(plain)
    for weight in plain:
        torch.testing.assert_close(quick[weight], plain[weight], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_mlp_ahead_gives_the_bits_of_a_step_in_any_company(scale: float) -> None:
    model, titles = build("mlp", embedding_scale=scale), draw_titles(40)
    whole = make_batch(titles)
    words, lengths = whole.tokens[whole.tokens != 0], whole.lengths
    features = model.ahead(words, lengths)
    for first, last in ((0, 40), (3, 4), (11, 30)):
        batch = make_batch(titles[first:last])
        # Where titles lie between others must not change a bit: a resumed run groups its batches differently.
        ready = replace(batch, features=features[first:last].clone())
        assert torch.equal(model(ready), model(batch))
        for name, gradient in gradients(model, model(ready), ready).items():
            assert torch.equal(gradient, gradients(model, model(batch), batch)[name]), name


@pytest.mark.parametrize("changes", [{"freeze_embeddings": False}, {"word_dropout": 0.1}])
def test_mlp_computes_nothing_ahead_that_training_may_change(changes: dict[str, Any]) -> None:
    assert build("mlp", **changes).ahead is None


def test_mlp_has_the_gradients_of_a_plain_mean() -> None:
    model, batch = build("mlp", freeze_embeddings=False), make_batch(draw_titles(23))
    quick = gradients(model, model(batch), batch)
    vectors = nn.functional.embedding(batch.tokens, model.words.weight, padding_idx=0)
    plain = gradients(model, model.head(vectors.sum(1) / batch.lengths[:, None]), batch)
    for weight in plain:
        torch.testing.assert_close(quick[weight], plain[weight], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["cnn", "rnn", "mlp"])
def test_bfloat16_trains_on_a_cpu_or_is_refused(name: str) -> None:
    model, batch = build(name, freeze_embeddings=False), make_batch(draw_titles(8))
    refused = name == "rnn" and unsupported(torch.device("cpu"), "bfloat16")
    # Refused where it would fail, and nowhere else: some processors have no LSTM in it.
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(RuntimeError) if refused else nullcontext():
        logits = model(batch)
    if refused:
        return
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.detach().float(), score(model, batch), rtol=0, atol=0.05)
    assert all(torch.isfinite(gradient).all() for gradient in gradients(model, logits.float(), batch).values())


def test_sums_of_bfloat16_products_are_float32() -> None:
    """The sums over a filter's places: in bfloat16 each addition would round to 8 bits."""
    generator = torch.Generator().manual_seed(0)
    filters = Filters((3,), 4)
    products = torch.randn(2, 6, 12, generator=generator).bfloat16()
    lengths = torch.tensor([6, 4])
    maxima = max_over_time(products, lengths, filters)
    assert maxima.dtype == torch.float32
    assert torch.equal(maxima, max_over_time(products.float(), lengths, filters))


def test_hiding_every_word_leaves_a_sound_title() -> None:
    for name in ("mlp", "cnn", "rnn"):
        model = build(name, word_dropout=0.95, freeze_embeddings=False)
        assert torch.isfinite(model(make_batch(draw_titles(30)))).all()


def test_embedding_scale_shrinks_the_start() -> None:
    torch.testing.assert_close(build("mlp", embedding_scale=0.01).words.weight, build("mlp").words.weight * 0.01)


def test_cnn_refuses_a_filter_longer_than_any_title() -> None:
    settings = settings_with("cnn", filters_length=[2, 9])
    assert "longer than max_length, 8" in str(settings.check(DataShape(max_length=8, vector_size=12)))
    assert settings.check(DataShape(max_length=9, vector_size=12)) is None


def test_cnn_refuses_a_length_named_twice() -> None:
    assert "twice" in str(settings_with("cnn", filters_length=[2, 2]).check(DataShape(max_length=8, vector_size=12)))


def test_a_gru_in_bfloat16_is_refused() -> None:
    shape = DataShape(max_length=8, vector_size=12)
    assert "no GRU" in str(settings_with("rnn", cell="gru", precision="bfloat16").check(shape))
    assert settings_with("rnn", cell="gru").check(shape) is None


def test_packed_lays_titles_out_by_time_longest_first() -> None:
    packed = Packed.of(torch.tensor([1, 3, 2]), width=4)
    assert packed.counts == [3, 2, 1]
    assert packed.position.tolist() == [4, 8, 0, 5, 9, 6]


def _cost(counts: list[int], widths: list[int]) -> int:
    return sum(width * (count + OVERHEAD) for count, width in zip(counts, widths, strict=True))


@settings(deadline=None, max_examples=60)
@given(having=st.lists(st.integers(0, 400), min_size=1, max_size=5).filter(any))
def test_groups_are_the_cheapest_way_to_cut_a_batch(having: list[int]) -> None:
    counts, widths = cheapest_groups([0, *having])
    assert widths == sorted(widths, reverse=True)
    lengths = [length for length, count in enumerate([0, *having]) if count][::-1]
    ways = []
    for bits in itertools.product([True, False], repeat=len(lengths) - 1):
        firsts = [lengths[0], *(length for length, starts in zip(lengths[1:], bits, strict=True) if starts)]
        sums = dict.fromkeys(firsts, 0)
        for length in lengths:
            sums[min(first for first in firsts if first >= length)] += having[length - 1]
        ways.append((list(sums.values()), list(sums)))
    assert (counts, widths) in ways
    assert _cost(counts, widths) == min(_cost(*way) for way in ways)


def test_groups_have_every_title_once_whole_and_by_time() -> None:
    batch = make_batch(draw_titles(200))
    groups = Groups.of(batch.lengths)
    assert len(groups.counts) > 1
    columns = [column for piece in groups.tokens(batch.tokens) for column in piece.t().tolist()]
    for position, title in zip(groups.rank.tolist(), batch.tokens.tolist(), strict=True):
        assert [token for token in columns[position] if token] == [token for token in title if token]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(share: float) -> None:
    torch.manual_seed(0)
    dropout = Dropout(share)
    outputs = dropout(torch.ones(499, 401))
    assert float((outputs == 0).float().mean()) == pytest.approx(share, abs=0.005)
    assert float(outputs.mean()) == pytest.approx(1.0, abs=0.03)
    # No pattern across titles or units.
    dropped = (outputs == 0).float()
    assert float(dropped.mean(0).std()) < 0.03
    assert float(dropped.mean(1).std()) < 0.03
    assert torch.equal(dropout.eval()(outputs), outputs)
