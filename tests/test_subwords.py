"""Sub-words: the character n-grams of every word in a data set, and the vectors that networks give them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_fixture import SHARED, csv_file, preprocess_into
from network_fixture import OF_WORDS, SIZE, VOCABULARY, build, draw_titles, make_batch
from training_fixture import context_of, train_task

from jobs.data.dataset import NGRAMS, SUBWORD_LENGTHS, SUBWORDS, UNK, Dataset, Ragged, Split, offsets
from jobs.data.vocabulary import character_ngrams
from jobs.models.layers import WordEmbedding
from jobs.models.subwords import SubwordVectors
from jobs.predict import TitleEncoder, predict
from jobs.settings import deciding
from jobs.stages import evaluate, train
from jobs.storage import Storage
from jobs.task import Task
from jobs.testing import settings_with
from pipeline.manifest import load
from pipeline.manifest.yaml_nodes import ManifestError

# Each category has a root of its own; an ending makes a word of it, and those of the test titles are no others'.
ROOTS = {"TOOLS": "martill", "FRUIT": "manzan", "SHOES": "zapati", "BOOKS": "novelis"}


def rows(endings: str, count: int) -> list[dict[str, str]]:
    """Titles of a word that begins with its category's root and ends with one of ``endings``, twice."""
    return [
        {"title": root + endings[at % len(endings)] + "x" * (at // len(endings)), "category": name}
        for name, root in ROOTS.items()
        for at in range(count)
    ]


def made(folder: Path, **text: Any) -> Dataset:
    """Training titles of 80 words that each come twice, others for validation and test."""
    return preprocess_into(
        folder,
        train=csv_file(folder / "train.csv", 2 * rows("aeiou", 20)),
        validation=csv_file(folder / "validation.csv", rows("bcd", 6)),
        test=csv_file(folder / "test.csv", rows("fgh", 6)),
        embeddings={"size": 8},
        text={"min_letters": 1, **text},
    )


def ngrams_of(names: list[str], split: Split) -> list[list[str]]:
    """The n-grams of each token of a split."""
    assert split.words is not None and split.subwords is not None
    found = split.subwords.take(split.words)
    return [
        [names[number - 1] for number in found.values[begin:end]] for begin, end in pairwise(offsets(found.lengths))
    ]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def dataset(root: Path) -> Dataset:
    return made(root, subwords=[3, 4])


def test_each_word_has_its_frequent_parts_and_tokens_stay_as_they_were(tmp_path: Path, dataset: Dataset) -> None:
    plain = made(tmp_path)
    counts: dict[str, int] = {}
    for row in 2 * rows("aeiou", 20):
        for ngram in character_ngrams(row["title"], 3, 4):
            counts[ngram] = counts.get(ngram, 0) + 1
    assert set(dataset.subword_ngrams) == {ngram for ngram, count in counts.items() if count >= 2}
    for name, asked in (("train", 2 * rows("aeiou", 20)), ("validation", rows("bcd", 6)), ("test", rows("fgh", 6))):
        split = dataset.splits[name]
        assert split.tokens.tolist() == plain.splits[name].tokens.tolist()
        expected = [[ngram for ngram in character_ngrams(row["title"], 3, 4) if ngram in counts] for row in asked]
        assert sorted(ngrams_of(dataset.subword_ngrams, split)) == sorted(expected)
        assert split.words is not None
        known = split.tokens != UNK
        assert split.words[known].tolist() == split.tokens[known].tolist()
        assert (split.words[~known] >= dataset.vocabulary_size).all() and known.any() == (name == "train")
    assert plain.splits["test"].words is None and plain.subwords is None
    new = {NGRAMS, SUBWORDS, SUBWORD_LENGTHS, *(f"{name}.words.bin" for name in dataset.splits)}
    assert {*dataset.meta.files} - {*plain.meta.files} == new
    assert all(dataset.meta.files[name] == file for name, file in plain.meta.files.items())


def test_the_setting_is_in_no_id_until_it_is_used() -> None:
    assert "subwords" not in deciding(settings_with("rnn"))
    assert deciding(settings_with("rnn", subwords=True))["subwords"] is True


def test_new_titles_have_the_parts_of_their_words(dataset: Dataset) -> None:
    asked = [row["title"] for row in rows("fgh", 6)]
    encoded = TitleEncoder(dataset).encode([*asked, "¡!", "martilla jjj"])
    expected = ngrams_of(dataset.subword_ngrams, dataset.splits["test"])
    found = ngrams_of(dataset.subword_ngrams, encoded)
    assert sorted(found[: len(asked)]) == sorted(expected)
    assert found[len(asked) :] == [
        [],
        [g for g in character_ngrams("martilla", 3, 4) if g in dataset.subword_ngrams],
        [],
    ]


def test_a_part_of_a_long_word_is_bounded(tmp_path: Path) -> None:
    long = [{"title": "abcdefgh" * 40, "category": name} for name in ("A", "B")] * 20
    source = csv_file(tmp_path / "long.csv", long)
    dataset = preprocess_into(tmp_path, source=source, text={"subwords": [3, 5]}, embeddings={"size": 4})
    assert dataset.subwords is not None and int(dataset.subwords.lengths.max()) == 64
    encoded = TitleEncoder(dataset).encode([long[0]["title"]])
    assert (
        ngrams_of(dataset.subword_ngrams, encoded)[0] == ngrams_of(dataset.subword_ngrams, dataset.splits["train"])[0]
    )


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real rows are not in {SHARED}")
def test_unknown_words_of_real_titles_have_parts(tmp_path: Path) -> None:
    dataset = preprocess_into(
        tmp_path,
        source=str(SHARED / "super_ec/combined_products.csv"),
        columns={"text": "nombre", "label": "categoria"},
        text={"subwords": [3, 5]},
        embeddings={"size": 2},
    )
    test = dataset.splits["test"]
    assert test.words is not None and dataset.subwords is not None
    unknown = np.flatnonzero(test.tokens == UNK)
    lengths = dataset.subwords.lengths[test.words[unknown]]
    assert len(unknown) > 300 and (lengths > 0).mean() > 0.9


# Vectors.

TABLE = Ragged(
    np.array([1, 2, 3, 4, 2, 2]), np.array([0, 0, 3, *[0] * (VOCABULARY - 4), 2, 1])
)  # word 2 has three n-grams, the last word of the vocabulary two, an unknown word one


def with_subwords(network: torch.nn.Module) -> torch.nn.Module:
    """The network with n-gram vectors that are not zero."""
    for words in [module for module in network.modules() if isinstance(module, WordEmbedding)]:
        words.subwords = SubwordVectors(TABLE, 4, words.size)
        torch.nn.init.normal_(words.subwords.vectors.weight.detach()[1:])
    return network


@pytest.mark.parametrize("frozen", [True, False])
def test_a_words_vector_is_its_own_and_the_mean_of_its_parts(frozen: bool) -> None:
    words = WordEmbedding(torch.randn(VOCABULARY, SIZE), frozen=frozen, scale=1.0, dropout=0.0)
    with_subwords(words)
    assert words.subwords is not None
    ngrams = words.subwords.vectors.weight.detach()
    tokens = torch.tensor([[2, VOCABULARY - 1, 5], [VOCABULARY, UNK, VOCABULARY]])
    own = words.weight.detach()[tokens.clamp(max=VOCABULARY - 1)]
    own[1, 0] = own[1, 2] = words.weight.detach()[UNK]
    own[0, 0] += ngrams[1:4].mean(0)
    own[0, 1] += (ngrams[4] + ngrams[2]) / 2
    own[1, ::2] += ngrams[2]
    for training in (True, False):
        words.train(training)
        assert torch.allclose(words(tokens), own, atol=1e-6)
        rows, index = words.distinct(tokens)
        assert torch.allclose(rows[index], own, atol=1e-6)
    # What a GPU does, in shapes that no content decides.
    assert torch.allclose(words.subwords.of_tokens(tokens), words.subwords.of_words(tokens.view(-1)).view(2, 3, -1))


def test_gradients_are_those_of_the_padded_computation() -> None:
    words = WordEmbedding(torch.randn(VOCABULARY, SIZE), frozen=False, scale=1.0, dropout=0.0)
    with_subwords(words)
    assert words.subwords is not None
    weight = words.subwords.vectors.weight
    tokens = torch.tensor([[2, VOCABULARY - 1, 0], [VOCABULARY, 2, VOCABULARY]])
    slopes = torch.randn(2, 3, SIZE)
    torch.autograd.backward((words(tokens) * slopes).sum())
    assert weight.grad is not None and words.weight.grad is not None
    ours, own = weight.grad.to_dense(), words.weight.grad.to_dense()
    weight.grad = None
    torch.autograd.backward((words.subwords.of_tokens(tokens) * slopes).sum())
    assert torch.allclose(ours, weight.grad, atol=1e-6)
    assert torch.allclose(own[UNK], slopes[1, 0] + slopes[1, 2]) and torch.allclose(own[2], slopes[0, 0] + slopes[1, 1])


@pytest.mark.parametrize("name", OF_WORDS)
def test_networks_begin_as_without_and_tell_unknown_words_apart_with_trained_parts(name: str) -> None:
    batch, network = make_batch(draw_titles(6)), build(name).eval()
    with torch.inference_mode():
        before = network(batch)
    for words in [module for module in network.modules() if isinstance(module, WordEmbedding)]:
        words.subwords = SubwordVectors(TABLE, 4, words.size)
    with torch.inference_mode():
        assert torch.allclose(network(batch), before, atol=1e-5)
        with_subwords(network)
        unknown = make_batch([[3, VOCABULARY], [3, UNK]])
        scores = network(unknown)
    assert not torch.allclose(scores[0], scores[1])


# From a manifest to an answer.


@pytest.mark.parametrize("name", OF_WORDS)
def test_words_that_training_never_had_are_known_by_their_parts(root: Path, dataset: Dataset, name: str) -> None:
    storage = Storage(root)
    accuracy = {}
    for subwords in (False, True):
        own: dict[str, Any] = {"filters_length": [1]} if name == "cnn" else {}
        own |= {"epochs": 20, "batch_size": 16, "keep": "last", "patience_chance": 100}
        own |= {"subwords": subwords, "embedding_scale": 0.1, "freeze_embeddings": False}
        task = train_task(name, dataset.folder.name, **own)
        train.run(context_of(task, storage))
        scored = evaluate.run(context_of(Task(stage="evaluate", settings={"train": task.id}), storage))
        accuracy[subwords] = scored.result["test_accuracy"]
    assert accuracy[False] == 0.25 and isinstance(accuracy[True], float) and accuracy[True] > 0.95
    answers = predict(root, storage.run(task.id), ["zapatiz", "martillz", "manzanz", "novelisz"])
    assert [answer[0].category for answer in answers] == ["SHOES", "TOOLS", "FRUIT", "BOOKS"]


def test_a_network_with_subwords_needs_a_data_set_that_has_them(tmp_path: Path) -> None:
    source = csv_file(tmp_path / "titles.csv", rows("aeiou", 4))
    text = """
name: parts
storage: storage
data: {source: %s, text: {min_letters: 2}}
experiments:
  parts: {runs: {CNN: {architecture: cnn, subwords: true}}}
"""
    path = tmp_path / "parts.yaml"
    path.write_text(text % source)
    with pytest.raises(ManifestError, match=r"subwords: the data set has none: set text.subwords"):
        load(path)
    path.write_text((text % source).replace("min_letters: 2", "subwords: [3, 5]"))
    assert load(path)
