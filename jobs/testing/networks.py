"""What every network must keep to; see ``contracts``, which names these checks without importing torch."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from jobs.data.batches import Batch
from jobs.models.layers import WordEmbedding
from jobs.plugins import MODELS, torch_side
from jobs.settings import describe
from jobs.testing import settings_with
from jobs.testing.contracts import require
from jobs.training import optimiser

CPU = torch.device("cpu")
VOCABULARY, SIZE, CLASSES = 300, 12, 7
DROPOUTS = {"dropout": 0.5, "embedding_dropout": 0.3, "word_dropout": 0.3}
STEPS = 300  # at most, to learn fifty titles by heart


def make_batch(titles: list[list[int]], width: int = 0) -> Batch:
    """A batch of titles given as token ids, padded to the longest or to ``width``."""
    width = max(width, *(len(title) for title in titles))
    tokens = torch.tensor([title + [0] * (width - len(title)) for title in titles])
    lengths = torch.tensor([len(title) for title in titles])
    rows = torch.arange(len(titles))
    return Batch(padded=lambda: tokens, lengths=lengths, labels=rows % CLASSES, rows=rows)


def draw_titles(count: int, *, seed: int = 0) -> list[list[int]]:
    """Titles of 1 to 9 random tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 10, (count,), generator=generator).tolist()
    return [torch.randint(1, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def build(name: str, **changes: Any) -> nn.Module:
    """The network with these settings over random vectors, the same each time."""
    torch.manual_seed(3)
    vectors = torch.randn(VOCABULARY, SIZE)
    vectors[0] = 0
    settings, module = settings_with(name, **changes), torch_side(MODELS.load(name), "network")
    with TemporaryDirectory() as folder:
        own: dict[str, Any] = {}
        if settings.takes_encoder:
            from jobs.testing.encoders import write_encoder  # safetensors, which not everybody has

            own["folder"] = write_encoder(Path(folder), tokens=VOCABULARY, size=SIZE)
        made = module.build(settings, vectors=vectors, classes=CLASSES, max_length=31, **own)
    require(isinstance(made, nn.Module), f"build returns {type(made).__name__}, not a torch.nn.Module")
    network: nn.Module = made
    return network


def build_without_dropout(name: str, **changes: Any) -> nn.Module:
    """The same with every dropout at 0, the network's own ones too, but for ``changes``."""
    shares = [
        setting.name
        for setting in describe(MODELS.settings(name))
        if "dropout" in setting.name and setting.kind is float
    ]
    return build(name, **dict.fromkeys(shares, 0.0) | changes)


def score(model: nn.Module, batch: Batch) -> Tensor:
    """Logits (B, C) in evaluation."""
    model.eval()
    with torch.inference_mode():
        logits: Tensor = model(batch).clone()
    return logits


def train(model: nn.Module, batch: Batch, steps: int, rate: float = 0.01) -> None:
    """Some steps of Adam on one batch."""
    adam = optimiser.make(model, settings_with("mlp", learning_rate=rate), CPU)  # type: ignore[arg-type]
    model.train()
    for _ in range(steps):
        adam.zero_grad()
        nn.functional.cross_entropy(model(batch), batch.labels).backward()  # type: ignore[no-untyped-call]
        adam.step()
    adam.flush()


def gives_logits(name: str) -> None:
    """See ``contracts.NETWORK_CHECKS``, as for all below."""
    for frozen in (True, False):
        for count in (1, 5):
            model, batch = build(name, freeze_embeddings=frozen), make_batch(draw_titles(count))
            logits = model(batch)
            require(logits.shape == (count, CLASSES), f"logits {tuple(logits.shape)}, not {(count, CLASSES)}")
            require(bool(logits.isfinite().all()), "logits that are not finite")
            logits.sum().backward()
            without = [key for key, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
            require(not without, f"weights without a gradient: {', '.join(without)}")


def titles_stand_alone(name: str) -> None:
    model, titles = build(name, freeze_embeddings=False), draw_titles(20)
    together = score(model, make_batch(titles))
    others = {
        "padding": score(model, make_batch(titles, width=31)),
        "a batch of one": torch.cat([score(model, make_batch([title])) for title in titles]),
        "another order": score(model, make_batch(titles[::-1])).flip(0),
    }
    for what, other in others.items():
        off = float((other - together).abs().max())
        require(off <= 1e-5, f"{what} moves logits by {off:.2g}")


def dropout_is_a_setting(name: str) -> None:
    batch = make_batch(draw_titles(9))
    for frozen in (True, False):
        model = build_without_dropout(name, freeze_embeddings=frozen)
        off = float((model(batch).detach() - score(model, batch)).abs().max())
        require(off <= 1e-5, f"without dropout, training and evaluation differ by {off:.2g}")
    model = build(name, **DROPOUTS)
    require(torch.equal(score(model, batch), score(model, batch)), "evaluation is random")
    for setting, share in DROPOUTS.items():
        model = build_without_dropout(name, **{setting: share})
        require(not torch.equal(model(batch), model(batch)), f"{setting}: {share} drops nothing in training")


def learns_by_heart(name: str) -> None:
    batch = make_batch(draw_titles(50))
    for frozen in (True, False):
        model = build_without_dropout(name, freeze_embeddings=frozen)
        for _ in range(STEPS // 60):
            train(model, batch, 60)
            wrong = int((score(model, batch).argmax(1) != batch.labels).sum())
            if not wrong:
                break
        require(not wrong, f"{wrong} of 50 titles still wrong after {STEPS} steps of Adam")


def is_saved(name: str) -> None:
    batch = make_batch(draw_titles(12))
    for frozen in (True, False):
        model = build(name, freeze_embeddings=frozen)
        train(model, batch, 3)
        other = build(name, freeze_embeddings=frozen)
        score(other, batch)  # what is kept from an evaluation must not outlive new weights
        other.load_state_dict(model.state_dict())
        require(torch.equal(score(other, batch), score(model, batch)), "loaded weights give other predictions")
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        vectors = [key for key, shape in shapes.items() if shape == (VOCABULARY, SIZE)]
        require(bool(vectors) != frozen, "frozen word vectors are saved" if frozen else "trained ones are not saved")


def is_the_same_again(name: str) -> None:
    weights = []
    for _ in range(2):
        model = build(name, freeze_embeddings=False, dropout=0.3)
        train(model, make_batch(draw_titles(40)), 5)
        weights.append(nn.utils.parameters_to_vector(model.parameters()))
    require(torch.equal(*weights), "the same seed and steps give other weights")


def padding_stays_zero(name: str) -> None:
    model = build_without_dropout(name, freeze_embeddings=False)
    words = [module for module in model.modules() if isinstance(module, WordEmbedding)]
    require(len(words) == 1, "its word vectors are to be one jobs.models.layers.WordEmbedding")
    before = words[0].weight.detach().clone()
    train(model, make_batch([[5, 6, 7], [8]]), 2)
    moved = (words[0].weight != before).any(1).nonzero().view(-1).tolist()
    require(moved == [5, 6, 7, 8], f"titles have the words 5 to 8, and the vectors that moved are {moved}")


def takes_no_hidden_layer(name: str) -> None:
    model, batch = build(name, hidden_layers=[]), make_batch(draw_titles(5))
    require(model(batch).shape == (5, CLASSES), "no logits without a hidden layer")
