"""A pretrained encoder: its tokens in a data set, its states in a network, and what is said of one that is none."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_fixture import SHARED, contents, csv_file, decoded, preprocess_into, task_of
from data_fixture import context_of as data_context
from encoder_fixture import ENGLISH, write_small
from network_fixture import make_batch, score
from tokenizers import Tokenizer
from training_fixture import context_of, train_task

from jobs.context import TaskInterruptedError
from jobs.data import pretrained
from jobs.data.batches import Batch, EvaluationBatches, TrainBatches, _DeviceMaker
from jobs.data.dataset import Dataset
from jobs.models.encoder.network import Encoder, build
from jobs.predict import TitleEncoder, predict
from jobs.stages import evaluate, preprocess, train
from jobs.storage import Storage
from jobs.task import Task
from jobs.testing import settings_with
from jobs.training import checkpoint, fixed
from pipeline.manifest import load
from pipeline.manifest.yaml_nodes import ManifestError
from sharedfs.errors import InputError

WORDS = ("taladro", "martillo", "manzana", "pera", "rojo", "azul")
CATEGORY = {"taladro": "TOOLS", "martillo": "TOOLS", "manzana": "FRUIT", "pera": "FRUIT"}


def rows(count: int) -> list[dict[str, str]]:
    """Titles of a thing and one or two colours."""
    things = list(CATEGORY)
    return [
        {
            "title": f"{things[at % 4].upper()}  <b>{WORDS[4 + at % 2]}</b>{' rojo' * (at % 3 == 0)}",
            "category": CATEGORY[things[at % 4]],
        }
        for at in range(count)
    ]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def small(root: Path) -> Path:
    return write_small(root / "small", WORDS)


@pytest.fixture(scope="module")
def source(root: Path) -> str:
    return csv_file(root / "titles.csv", rows(240))


@pytest.fixture(scope="module")
def dataset(root: Path, small: Path, source: str) -> Dataset:
    return preprocess_into(root, source=source, encoder=str(small), max_length=6)


@pytest.fixture(scope="module")
def english(root: Path) -> Dataset:
    """Real English titles in the tokens of the English encoder."""
    return preprocess_into(
        root,
        source=str(SHARED / "instacart/titles_aisles.csv"),
        columns={"text": "title", "label": "category"},
        min_rows_per_category=900,
        train_rows=600,
        encoder=str(ENGLISH),
    )


# Tokens.


def test_titles_become_the_tokens_of_the_encoder(dataset: Dataset) -> None:
    found = {tuple(tokens) for split in dataset.splits.values() for tokens in decoded(dataset, split)}
    expected = {("[CLS]", thing, WORDS[4 + at % 2], *["rojo"] * (at % 3 == 0), "[SEP]") for at in range(12)
                for thing in [list(CATEGORY)[at % 4]]}  # fmt: skip
    assert found == expected
    assert dataset.vectors().shape == (len(WORDS) + 4, 0)
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= dataset.meta.files.keys()


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real rows are not in {SHARED}")
def test_real_titles_have_the_tokens_that_their_tokenizer_gives_them(english: Dataset) -> None:
    import polars as pl

    titles = pl.read_csv(SHARED / "instacart/titles_aisles.csv")["title"].to_list()
    tokenizer = Tokenizer.from_file(str(ENGLISH / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(32)
    facts, split = english.facts("test"), english.splits["test"]
    assert facts is not None and len(split) > 500
    expected = tokenizer.encode_batch([titles[row] for row in facts.rows])
    assert split.tokens.tolist() == [number for title in expected for number in title.ids]
    asked = [titles[row] for row in facts.rows[:50]]
    assert TitleEncoder(english).encode(asked).tokens.tolist() == split.tokens[: split.offsets[50]].tolist()


def test_shards_and_threads_change_no_byte(root: Path, small: Path, tmp_path: Path) -> None:
    files = [csv_file(tmp_path / f"{part}.csv", rows(240)[part::2]) for part in range(2)]
    made = [
        preprocess_into(tmp_path / str(cpus), cpus=cpus, source=files, encoder=str(small), max_length=6)
        for cpus in (1, 4)
    ]
    assert contents(made[0].folder) == contents(made[1].folder)


def test_a_title_is_cut_before_its_last_special_token(root: Path, small: Path, source: str) -> None:
    cut = preprocess_into(root, source=source, encoder=str(small), max_length=3)
    assert {(tokens[0], tokens[-1], len(tokens)) for tokens in decoded(cut, cut.splits["test"])} == {
        ("[CLS]", "[SEP]", 3)
    }


def test_which_encoder_it_is_decides_the_data_set_and_what_is_of_words_does_not(
    tmp_path: Path, small: Path, source: str
) -> None:
    alike = shutil.copytree(small, tmp_path / "elsewhere")
    first = task_of(source=source, encoder=str(small)).id
    assert task_of(source=source, encoder=str(alike)).id == first
    for data in ({"embeddings": {"size": 9}}, {"vocabulary": {"max_size": 5}}, {"text": {"subwords": [3, 4]}}):
        assert task_of(source=source, encoder=str(small), **data).id == first
    assert task_of(source=source, encoder=str(small), text={"digits": "keep"}).id != first
    weights = bytearray((alike / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (alike / "model.safetensors").write_bytes(weights)
    assert task_of(source=source, encoder=str(alike)).id != first
    assert task_of(source=source).id != first


def test_an_encoder_that_changed_in_the_queue_is_refused(tmp_path: Path, source: str) -> None:
    folder = write_small(tmp_path / "small", WORDS)
    task = task_of(source=source, encoder=str(folder))
    write_small(folder, (*WORDS, "verde"))
    storage = Storage(tmp_path)
    with pytest.raises(InputError, match="changed since the manifest was submitted"):
        preprocess.run(data_context(storage, task))
    assert not storage.dataset(task.id).exists()


# The network.


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_the_english_encoder_gives_what_transformers_gives_without_a_network(
    pooling: str, english: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModel

    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    settings: Any = settings_with(
        "encoder", title_state=pooling, hidden_layers=[], freeze_embeddings=False, dropout=0.0
    )
    network: Any = build(settings, vectors=torch.zeros(1, 0), classes=384, max_length=32, folder=english.folder).eval()
    network.head = torch.nn.Identity()
    plain = AutoModel.from_pretrained(ENGLISH, local_files_only=True).eval()
    tokens = [english.splits["test"].cut(at, at + 1).tokens.tolist() for at in range(20)]
    with torch.inference_mode():
        alone = [plain(input_ids=torch.tensor([title])).last_hidden_state[0] for title in tokens]
    expected = torch.stack([states[0] if pooling == "first" else states.mean(0) for states in alone])
    torch.testing.assert_close(score(network, make_batch(tokens)), expected, rtol=1e-4, atol=2e-5)


def test_other_kinds_of_encoder_know_their_padding_and_their_size(tmp_path: Path) -> None:
    """RoBERTa pads with token 1 and counts positions from there; Electra's vectors are smaller than its states."""
    import transformers

    sizes: dict[str, Any] = {
        "vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8
    }  # fmt: skip
    for config in (
        transformers.RobertaConfig(**sizes, pad_token_id=1),
        transformers.ElectraConfig(**sizes, embedding_size=8),
    ):
        torch.manual_seed(0)
        made = transformers.AutoModel.from_config(config)
        folder = tmp_path / config.model_type
        made.save_pretrained(folder)
        settings: Any = settings_with("encoder", hidden_layers=[])
        network: Any = build(settings, vectors=torch.zeros(1, 0), classes=4, max_length=31, folder=folder)
        titles = [[5, 6, 7, 8], [9, 10]]
        network.head = torch.nn.Identity()
        with torch.inference_mode():
            expected = torch.stack(
                [made.eval()(torch.tensor([title])).last_hidden_state[0].mean(0) for title in titles]
            )
        torch.testing.assert_close(score(network, make_batch(titles, width=9)), expected, rtol=1e-4, atol=1e-5)


def trained(dataset: Dataset, root: Path, **settings: Any) -> Path:
    small = {"epochs": 8, "batch_size": 16, "patience_chance": 50, "word_dropout": 0.1, **settings}
    task = train_task("encoder", dataset.folder.name, **small)
    train.run(context_of(task, Storage(root)))
    return Storage(root).run(task.id)


@pytest.mark.parametrize("frozen", [True, False])
def test_it_learns_and_is_used_again_and_a_frozen_one_is_not_stored_twice(
    dataset: Dataset, root: Path, frozen: bool
) -> None:
    rate = 0.1 if frozen else 0.003
    folder = trained(dataset, root, freeze_embeddings=frozen, learning_rate=rate)
    weights = checkpoint.read_model(folder / checkpoint.MODEL)
    assert any(name.startswith("body.") for name in weights) != frozen
    scored = evaluate.run(context_of(Task(stage="evaluate", settings={"train": folder.name}), Storage(root)))
    assert float(str(scored.result["test_accuracy"])) > 0.95
    answers = predict(root, folder, ["Taladro azul", "<i>pera</i>   ROJO", ""])
    assert [answer[0].category for answer in answers][:2] == ["TOOLS", "FRUIT"]


@pytest.mark.parametrize(("frozen", "word_dropout"), [(True, 0.0), (True, 0.2), (False, 0.2)])
def test_a_run_that_was_interrupted_ends_with_the_same_bits(
    dataset: Dataset, root: Path, tmp_path: Path, frozen: bool, word_dropout: float
) -> None:
    settings = {"epochs": 3, "batch_size": 16, "freeze_embeddings": frozen, "word_dropout": word_dropout, "seed": 7}
    alone = checkpoint.read_model(trained(dataset, root, **settings) / checkpoint.MODEL)
    other = Storage(tmp_path)
    shutil.copytree(dataset.folder, other.dataset(dataset.folder.name))
    task = train_task("encoder", dataset.folder.name, patience_chance=50, **settings)
    stops = 0
    for after in (5, 8, 7):
        asked = iter(range(after))
        with pytest.raises(TaskInterruptedError):
            train.run(context_of(task, other, interrupted=lambda asked=asked: next(asked, None) is None))
        stops += 1
    train.run(context_of(task, other))
    again = checkpoint.read_model(other.run(task.id) / checkpoint.MODEL)
    assert stops == 3 and again.keys() == alone.keys()
    assert all(torch.equal(again[name], alone[name]) for name in alone)


def test_what_is_fixed_is_computed_once_where_it_fits(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    pooled = Encoder._pooled

    def counted(network: Encoder, batch: Batch) -> torch.Tensor:
        calls.append(len(batch))
        return pooled(network, batch)

    monkeypatch.setattr(Encoder, "_pooled", counted)
    titles = sum(len(dataset.splits[name]) for name in ("train", "validation"))
    losses = []
    for most, passes in ((fixed.MOST_BYTES, 1), (100, 5)):
        calls.clear()
        monkeypatch.setattr(fixed, "MOST_BYTES", most)
        shutil.copytree(dataset.folder, Storage(tmp_path / str(most)).dataset(dataset.folder.name))
        folder = trained(dataset, tmp_path / str(most), epochs=4, word_dropout=0.0)
        # Both splits are smaller than the first batch, which tells how much it would be.
        assert sum(calls) == titles * passes
        losses.append([json.loads(line)["train_loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_features_are_those_of_their_titles_in_every_batch(dataset: Dataset) -> None:
    split = dataset.splits["train"]
    marked = replace(split, features=np.arange(len(split), dtype=np.float32)[:, None])
    batches = [
        *TrainBatches(marked, batch_size=7, seed=1, bucket_by_length=True).epoch(2),
        *EvaluationBatches(marked, 7),
        _DeviceMaker(marked, torch.device("cpu")).batch(torch.tensor([3, 1, 2]), 6),
    ]
    assert all(batch.features is not None and batch.features[:, 0].tolist() == batch.rows.tolist() for batch in batches)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real rows are not in {SHARED}")
def test_frozen_it_tells_real_aisles_apart_after_an_epoch(english: Dataset, root: Path) -> None:
    folder = trained(english, root, epochs=1, learning_rate=0.003, word_dropout=0.0)
    chances = 1 / len(english.classes)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(english.classes) >= 4 and lines[0]["validation_balanced_accuracy"] > 2 * chances
    assert (folder / checkpoint.MODEL).stat().st_size < (1 << 20)


# What is said of one that can't be used.

Damage = Callable[[Path], Any]


def configured(**changes: Any) -> Damage:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: shutil.rmtree(folder), "no such folder"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json; it needs"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json; it needs"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
         "has no model.safetensors; .* pickles, are not read"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: not a JSON document"),
        (lambda folder: (folder / "config.json").write_text("{}"), "config.json: no model of text"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer.json: no tokenizer"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "damaged, or no safetensors file"),
        (configured(vocab_size=5), "10 tokens, and config.json vectors for 5: they are of two models"),
        (configured(is_encoder_decoder=True), "bert has a decoder"),
        (configured(auto_map={"AutoModel": "own.Model"}), "a model with code of its own"),
        (configured(max_position_embeddings=8), "data.max_length: 32 is more than the 8 tokens"),
    ],
)  # fmt: skip
def test_what_is_no_encoder_is_told_before_anything_is_queued(
    tmp_path: Path, source: str, damage: Damage, told: str
) -> None:
    folder = write_small(tmp_path / "small", WORDS)
    damage(folder)
    with pytest.raises((InputError, FileNotFoundError, ValueError), match=told):
        task_of(source=source, encoder=str(folder))


def test_no_room_beside_special_tokens_is_told(small: Path, source: str) -> None:
    with pytest.raises(InputError, match="max_length: 2 leaves no token of a title beside 2 special ones"):
        task_of(source=source, encoder=str(small), max_length=2)


def test_what_has_to_be_installed_is_told(small: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None if name == "transformers" else object())
    with pytest.raises(InputError, match=r"takes transformers, not installed here: .*pip install .*\[encoder\]"):
        task_of(source=source, encoder=str(small))


MANIFEST = """
name: tokens
storage: storage
data: {source: %s, %s}
experiments:
  one: {runs: {run: {%s}}}
"""


def plan(folder: Path, source: str, data: str, run: str) -> subprocess.CompletedProcess[str]:
    (folder / "m.yaml").write_text(MANIFEST % (source, data, run))
    command = [sys.executable, "-m", "pipeline", "plan", "m.yaml"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("data", "run", "told"),
    [
        ("encoder: small", "architecture: mlp", "has the tokens of an encoder: take architecture: encoder"),
        ("encoder: small", "architecture: linear", "has the tokens of an encoder"),
        ("max_length: 9", "architecture: encoder", "its data set has words: set encoder"),
        ("encoder: small", "architecture: encoder, embedding_scale: 0.1", "embedding_scale: an encoder's vectors stay"),
        ("encoder: small, columns: {tokens: words}", "architecture: encoder", "either encoder or columns.tokens"),
    ],
)
def test_words_and_tokens_are_not_mixed(tmp_path: Path, source: str, data: str, run: str, told: str) -> None:
    write_small(tmp_path / "small", WORDS)
    (tmp_path / "m.yaml").write_text(MANIFEST % (source, data, run))
    with pytest.raises(ManifestError, match=told):
        load(tmp_path / "m.yaml")


def test_a_folder_without_weights_ends_plan_in_one_line(tmp_path: Path, source: str) -> None:
    (write_small(tmp_path / "small", WORDS) / "model.safetensors").unlink()
    ended = plan(tmp_path, source, "encoder: small", "architecture: encoder")
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert "small has no model.safetensors" in ended.stderr


def test_beside_runs_on_words_in_one_manifest(tmp_path: Path, source: str) -> None:
    write_small(tmp_path / "small", WORDS)
    ended = plan(tmp_path, source, "embeddings: {size: 8}", "architecture: encoder, encoder: small")
    assert ended.returncode == 0 and "1 preprocess, 1 train, 1 evaluate" in ended.stdout
