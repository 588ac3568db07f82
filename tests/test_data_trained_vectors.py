"""Word vectors made of titles: counted and factored as the papers say, and of no title that is judged."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_fixture import SHARED, contents, context_of, csv_file, jsonl_file, preprocess_into, task_of
from scipy.sparse import csr_array, random_array
from threadpoolctl import threadpool_limits

from jobs.data import trained_vectors, vectors
from jobs.data.dataset import UNK, Dataset, Ragged
from jobs.data.shards import shard_tasks
from jobs.stages import preprocess
from jobs.storage import Storage
from pipeline.manifest import load
from pipeline.plan import make_plan
from pipeline.vector_coverage import coverage_lines
from sharedfs.errors import InputError

TRAIN = {"train": {}, "size": 8}


def ragged(titles: list[list[int]]) -> Ragged:
    return Ragged(
        np.array([word for title in titles for word in title], np.int64),
        np.array([len(title) for title in titles], np.int64),
    )


def drawn(count: int, words: int, seed: int = 0) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(UNK, words, generator.integers(0, 9)).tolist() for _ in range(count)]


@pytest.mark.parametrize("window", [1, 2, 5, 100])
def test_pairs_are_those_of_a_loop_over_titles(window: int) -> None:
    titles, base = drawn(200, 30), 30
    expected: Counter[int] = Counter()
    for title in titles:
        for at, one in enumerate(title):
            for two in title[at + 1 : at + 1 + window]:
                if UNK not in (one, two):
                    expected[min(one, two) * base + max(one, two)] += 1
    assert Counter(trained_vectors.near_pairs(ragged(titles), window, base).tolist()) == expected
    assert not len(trained_vectors.near_pairs(ragged([]), window, base))


@pytest.mark.parametrize("smoothing", [1.0, 0.75])
def test_information_is_that_of_the_formula(smoothing: float) -> None:
    size = 12
    keys, counts = np.unique(trained_vectors.near_pairs(ragged(drawn(60, size)), 3, size), return_counts=True)
    seen = np.zeros((size, size))
    for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
        one, two = divmod(key, size)
        seen[one, two] += count
        seen[two, one] += count
    of_near = seen.sum(0) ** smoothing / (seen.sum(0) ** smoothing).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.nan_to_num(np.log(seen / seen.sum() / (seen.sum(1, keepdims=True) / seen.sum() * of_near)))
    found = trained_vectors.positive_information(keys, counts, size, smoothing=smoothing).toarray()
    np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-5)
    assert (found > 0).any() and (found[:UNK] == 0).all()


@pytest.mark.parametrize("weighting", [0.0, 0.5, 1.0])
def test_factors_are_those_of_a_whole_decomposition(weighting: float) -> None:
    generator = np.random.default_rng(1)
    # 40 x 40 of rank 5: what a random projection to more dimensions than that must find to the last digit.
    matrix = (generator.standard_normal((40, 5)) @ generator.standard_normal((5, 40))).astype(np.float32)
    left, values, _ = np.linalg.svd(matrix)
    expected = left[:, :5] * values[:5] ** weighting
    found = trained_vectors.factor(csr_array(matrix), 5, weighting=weighting)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, rtol=1e-3, atol=1e-3)
    assert np.array_equal(found, trained_vectors.factor(csr_array(matrix), 5, weighting=weighting))


def test_factors_are_the_same_bits_however_many_threads_blas_has() -> None:
    matrix = random_array((3000, 3000), density=0.003, rng=np.random.default_rng(2), dtype=np.float32, format="csr")
    made = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            made.append(trained_vectors.factor(matrix, 64, weighting=0.5))
    assert np.array_equal(*made)


COLOURS, SIZES = ("rojo", "verde", "azul"), ("grande", "chico", "enorme")
THINGS = ("zapato", "camisa", "gorra", "funda")


def rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """A thing with a colour, or a number word with a size: colours are alike by what they stand near."""
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        if generator.random() < 0.5:
            words, category = (generator.choice(THINGS), generator.choice(COLOURS), "nuevo"), "THING"
        else:
            words, category = (generator.choice(["uno", "tres", "ocho"]), generator.choice(SIZES), "usado"), "NUMBER"
        made.append({"title": " ".join(words), "category": category})
    return made


def parts(folder: Path, **given: list[dict[str, str]]) -> dict[str, Any]:
    """Three files of a data set with trained vectors, with these rows in place of those of a part."""
    folder.mkdir(exist_ok=True)
    made = {
        name: rows(count, seed) for seed, (name, count) in enumerate((("train", 300), ("validation", 40), ("test", 40)))
    }
    paths = {name: csv_file(folder / f"{name}.csv", given.get(name, made[name])) for name in made}
    return {**paths, "vocabulary": {"min_count": 1}, "embeddings": TRAIN, "same_file": True}


def made_of(tmp_path: Path, **changes: Any) -> Dataset:
    return preprocess_into(tmp_path / "s", **{**parts(tmp_path / "f"), **changes})


def test_words_of_like_company_have_like_vectors(tmp_path: Path) -> None:
    dataset = made_of(tmp_path)
    table = dict(zip(dataset.vocabulary, np.asarray(dataset.vectors(), np.float64), strict=True))

    def cosine(one: str, two: str) -> float:
        return float(table[one] @ table[two] / np.linalg.norm(table[one]) / np.linalg.norm(table[two]))

    assert min(cosine("rojo", "verde"), cosine("azul", "verde"), cosine("zapato", "camisa")) > 0.5
    assert max(cosine("rojo", "grande"), cosine("zapato", "uno")) < 0.3
    assert not table["<PAD>"].any() and np.isfinite(list(table.values())).all()
    own = np.flatnonzero(~np.asarray(dataset.drawn_vectors()))
    assert own.tolist() == list(range(2, dataset.vocabulary_size)), "every word stands near another"
    assert dataset.vectors()[own].std() == pytest.approx(1, abs=1e-3)
    assert np.array_equal(vectors.of_run(dataset, 3)[own], dataset.vectors()[own]), "no seed changes them"
    assert not np.array_equal(vectors.of_run(dataset, 3)[UNK], dataset.vectors()[UNK])


def test_coverage_is_told_where_people_look(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lonely = [*rows(300), *({"title": "solitario", "category": "THING"} for _ in range(3))]
    (tmp_path / "f").mkdir()
    jsonl_file(tmp_path / "f/more.jsonl", [{"title": row["title"]} for row in rows(50, 7)])
    parts(tmp_path / "f", train=lonely)
    manifest = tmp_path / "f/m.yaml"
    manifest.write_text(
        "name: m\nstorage: ../s\ndata: {train: train.csv, validation: validation.csv, test: test.csv, "
        "embeddings: {size: 8, train: {unlabelled: more.jsonl}}}\n"
        "experiments: {g: {runs: {linear: {architecture: linear}}}}\n"
    )
    plan = make_plan(load(manifest))
    (task,) = (planned.task for planned in plan.tasks if planned.stage == "preprocess")
    assert task.plumbing["files"]["unlabelled"] == (str(tmp_path / "f/more.jsonl"),)
    preprocess.run(context_of(Storage(plan.manifest.storage), task))
    said = "93.8% of the words and 99.7% of the training titles' tokens have a vector made of the titles"
    (line,) = coverage_lines(plan)
    assert line.endswith(said)
    assert f"word vectors: {said}" in (log := capsys.readouterr().err)
    assert "unlabelled: 50 rows read" in log


def test_titles_that_are_judged_leave_no_trace(tmp_path: Path) -> None:
    dataset = made_of(tmp_path)
    odd = [{"title": "rojo grande zapato uno", "category": "THING"}] * 30
    others = preprocess_into(tmp_path / "t", **parts(tmp_path / "g", validation=odd, test=odd))
    assert others.folder.name != dataset.folder.name and others.vocabulary == dataset.vocabulary
    assert np.array_equal(others.vectors(), dataset.vectors())


def test_unlabelled_titles_count_but_for_those_that_are_judged(tmp_path: Path) -> None:
    files, judged = parts(tmp_path / "f"), {"title": "Verde, gorra! (rojo)", "category": "THING"}
    files |= parts(tmp_path / "f", test=[*rows(40, 2), judged])
    free = [{"title": f"{colour} {size} pelota"} for colour in COLOURS for size in SIZES] * 20

    def made(name: str, titles: list[dict[str, str]]) -> Dataset:
        train = {"unlabelled": jsonl_file(tmp_path / f"{name}.jsonl", titles)}
        return preprocess_into(tmp_path / "s", **{**files, "embeddings": {**TRAIN, "train": train}})

    without = preprocess_into(tmp_path / "s", **files)
    few, many = made("few", free), made("many", [*free, *[judged] * 9])
    assert few.vocabulary == many.vocabulary == without.vocabulary
    assert np.array_equal(few.vectors(), many.vectors()) and not np.array_equal(few.vectors(), without.vectors())
    account = many.meta.parts["unlabelled"]
    assert (account.read, dict(account.kept)) == (189, {"word vectors": 180})
    assert dict(account.dropped) == {"title also in validation or test": 9}
    assert few.classes == without.classes and few.meta.splits == without.meta.splits


def test_the_identity_has_what_decides_and_no_path(tmp_path: Path) -> None:
    files = parts(tmp_path / "f")
    more, elsewhere, other = (
        csv_file(tmp_path / f"{name}.csv", rows(count)) for name, count in (("a", 9), ("b", 9), ("c", 10))
    )

    def id_of(**train: Any) -> str:
        return task_of(**{**files, "embeddings": {"size": 8, "train": train}}).id

    random = task_of(**{**files, "embeddings": {"size": 8}}).id
    ids = [random, id_of(), id_of(window=2), id_of(smoothing=1.0), id_of(weighting=0), id_of(unlabelled=more)]
    assert len(set(ids)) == len(ids)
    assert id_of(unlabelled=more) == id_of(unlabelled=elsewhere) != id_of(unlabelled=other)
    assert task_of(**{**files, "embeddings": {"size": 8, "train": None}}).id == random
    assert "train" not in task_of(**{**files, "embeddings": {"size": 8}}).settings["embeddings"]


def test_the_same_bytes_however_many_threads_and_shards(tmp_path: Path) -> None:
    files = parts(tmp_path / "f")
    files["embeddings"] = {**TRAIN, "train": {"unlabelled": csv_file(tmp_path / "f/more.csv", rows(99, 5))}}
    task = task_of(**files)
    made = []
    for number, (cpus, shards) in enumerate(((1, 0), (2, 0), (2, 4))):
        storage = Storage(tmp_path / f"s{number}")
        for shard in shard_tasks(task, shards) if shards else ():
            preprocess.run(context_of(storage, shard, cpus=cpus))
        preprocess.run(context_of(storage, task, cpus=cpus))
        made.append(contents(storage.dataset(task.id)))
    assert made[0] == made[1] == made[2]


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give either file or train: word vectors are read or made, not both"):
        made_of(tmp_path, embeddings={"file": "v.txt", "train": {}})
    alone = [{"title": f"palabra{'abc'[at % 3]}", "category": "A"} for at in range(9)]
    with pytest.raises(InputError, match=r"^data\.embeddings\.train: no two known words stand in one title"):
        preprocess_into(tmp_path / "s", **parts(tmp_path / "f", train=alone, validation=alone, test=alone))
    with pytest.raises(FileNotFoundError, match=r"data\.embeddings\.train\.unlabelled: no such file"):
        made_of(tmp_path, embeddings={"train": {"unlabelled": "/nowhere.csv"}})


@pytest.mark.skipif(not (SHARED / "instacart").exists(), reason="no titles in ../shared/data")
def test_real_titles_give_words_their_like(tmp_path: Path) -> None:
    dataset = preprocess_into(
        tmp_path, source=str(SHARED / "instacart/titles_aisles.csv"), split={}, embeddings={"size": 50, "train": {}}
    )
    table = np.asarray(dataset.vectors(), np.float64)
    table /= np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-9)
    words = dataset.vocabulary

    def nearest(word: str) -> list[str]:
        return [words[at] for at in np.argsort(-(table @ table[words.index(word)]))[1:11]]

    assert {"shampoo", "conditioner"} & set(nearest("conditioner") + nearest("shampoo")) and dataset.meta.vectors.text
    assert set(nearest("cheddar")) & {"mozzarella", "jack", "colby", "cheese", "provolone", "gouda", "swiss"}
