"""The linear baseline."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import SGDClassifier

from jobs.data.dataset import Split
from jobs.models.linear import estimator
from jobs.models.linear.hashed import HashedTerms
from jobs.models.linear.terms import Terms
from jobs.settings import DataShape
from jobs.testing import settings_with
from jobs.training.run import _save
from sharedfs.errors import DamagedFileError

CLASSES = 5


def make_split(name: str, titles: list[list[int]], labels: list[int]) -> Split:
    lengths = [len(title) for title in titles]
    return Split(
        name=name,
        tokens=np.array([token for title in titles for token in title], np.uint16),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=np.array(labels, np.uint16),
        reliable=np.ones(len(titles), np.uint8),
    )


def draw(count: int, seed: int, *, classes: int = CLASSES) -> tuple[list[list[int]], list[int]]:
    """Titles whose tokens come from a part of the vocabulary that says the category, and some from anywhere."""
    generator = np.random.default_rng(seed)
    labels = [int(label) for label in generator.integers(0, classes, count)]
    titles = [
        [int(2 + 10 * label + word) for word in generator.integers(0, 10, generator.integers(1, 6))]
        + [int(word) for word in generator.integers(1, 60, 2)]
        for label in labels
    ]
    return titles, labels


def dataset(classes: int = CLASSES, seen: int = CLASSES) -> Any:
    splits = {
        name: make_split(name, *draw(count, seed, classes=seen))
        for seed, (name, count) in enumerate({"train": 400, "validation": 100, "test": 100}.items())
    }
    return SimpleNamespace(
        splits=splits,
        vocabulary_size=60,
        classes=[str(number) for number in range(classes)],
        meta=SimpleNamespace(vocabulary=SimpleNamespace(words=58)),
    )


def settings(**changes: Any) -> dict[str, Any]:
    return settings_with("linear", **changes)


@pytest.mark.parametrize("changes", [{}, {"solver": "sgd", "loss": "log_loss"}, {"class_weights": "balanced"}])
def test_learns_to_tell_categories_apart(changes: dict[str, Any]) -> None:
    data = dataset()
    fitted = estimator.fit(data, settings(**changes))
    scores = fitted.scores(data.splits["test"])
    assert scores.shape == (100, CLASSES)
    assert scores.dtype == np.float32
    assert (scores.argmax(1) == data.splits["test"].labels).mean() > 0.85


def test_probabilities_are_calibrated_on_the_validation_titles() -> None:
    data = dataset()
    fitted = estimator.fit(data, settings())
    labels = data.splits["validation"].labels
    logits = fitted.scores(data.splits["validation"]).astype(np.float64)

    def loss(scale: float) -> float:
        scaled = logits * scale
        return float(-(scaled[np.arange(100), labels] - np.log(np.exp(scaled).sum(1))).mean())

    assert loss(1.0) == pytest.approx(min(loss(0.9), loss(1.0), loss(1.1)))


def test_same_seed_same_scores() -> None:
    first, second = (
        estimator.fit(dataset(), settings(solver="sgd", seed=3)).scores(dataset().splits["test"]) for _ in range(2)
    )
    assert np.array_equal(first, second)


def test_saved_and_loaded_scores_the_same_without_pickle(tmp_path: Path) -> None:
    data = dataset()
    fitted = estimator.fit(data, settings())
    (file,) = fitted.save(tmp_path)
    with np.load(file, allow_pickle=False) as arrays:
        assert all(arrays[name].dtype.kind in "iufb" for name in arrays.files)
    assert np.array_equal(estimator.load(tmp_path).scores(data.splits["test"]), fitted.scores(data.splits["test"]))


def _packed_by(method: int, archive: bytes) -> bytes:
    for header, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = -1
        while (at := archive.find(header, at + 1)) >= 0:
            archive = archive[: at + place] + bytes([method]) + archive[at + place + 1 :]
    return archive


def test_a_damaged_one_is_named_and_a_storage_error_is_not_damage(tmp_path: Path) -> None:
    (file,) = estimator.fit(dataset(), settings(ngrams=1)).save(tmp_path)
    sound = file.read_bytes()
    directory = sound.index(b"PK\x01\x02")
    damaged = {
        "cut": sound[:-30],
        "empty": b"",
        "a number changed": sound[:1000] + bytes([sound[1000] ^ 1]) + sound[1001:],
        "an entry missing": sound.replace(b"bias.npy", b"bios.npy"),
        "an entry before the beginning": sound[: directory + 42] + b"\xff\xff\xff\xff" + sound[directory + 46 :],
        "packed by bz2": _packed_by(12, sound),
        "packed by lzma": _packed_by(14, sound),
        "another file's place": sound[:-6] + b"\xff\xff\xff\x7f" + sound[-2:],
    }
    for how, content in damaged.items():
        file.write_bytes(content)
        with pytest.raises(DamagedFileError, match=rf"^{file}: damaged, train the run again"):
            raise AssertionError(f"{how}: read as {estimator.load(tmp_path)}")
    file.unlink()
    with pytest.raises(FileNotFoundError):
        estimator.load(tmp_path)
    file.mkdir()
    with pytest.raises(IsADirectoryError):
        estimator.load(tmp_path)


def test_its_file_has_its_content_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, bool]] = []
    sync = os.fsync

    def watch(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        synced.append((name, (tmp_path / estimator.FILE).exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    _save(estimator.fit(dataset(), settings(ngrams=1)), tmp_path, 1)
    assert synced == [(estimator.FILE, False), (tmp_path.name, True)]
    assert [path.name for path in tmp_path.iterdir()] == [estimator.FILE]


@pytest.mark.parametrize(("classes", "seen"), [(2, 2), (6, 5)])
def test_two_categories_and_one_never_seen(classes: int, seen: int) -> None:
    data = dataset(classes, seen)
    scores = estimator.fit(data, settings()).scores(data.splits["test"])
    assert scores.shape == (100, classes)
    assert (scores.argmax(1) == data.splits["test"].labels).mean() > 0.85


@pytest.mark.parametrize("sublinear", [False, True])
@pytest.mark.parametrize("longest", [1, 2, 3])
def test_tf_idf_equals_scikit_learns(longest: int, sublinear: bool) -> None:
    titles, labels = draw(80, 5)
    train, test = make_split("train", titles[:50], labels[:50]), make_split("test", titles[50:], labels[50:])
    terms = Terms.fit(train, vocabulary=60, longest=longest, min_count=1, sublinear=sublinear)
    theirs = TfidfVectorizer(
        ngram_range=(1, longest), sublinear_tf=sublinear, token_pattern=None, tokenizer=str.split, lowercase=False
    )
    text = [" ".join(map(str, title)) for title in titles]
    theirs.fit(text[:50])
    for split, part in ((train, text[:50]), (test, text[50:])):
        ours, expected = terms.transform(split, 0, len(split)), theirs.transform(part)
        assert ours.shape == expected.shape
        # Columns are ordered differently: products of titles are not.
        np.testing.assert_allclose((ours @ ours.T).toarray(), (expected @ expected.T).toarray(), atol=1e-5)


@pytest.mark.parametrize("longest", [1, 2, 3])
def test_hashed_terms_without_collisions_are_the_terms(longest: int) -> None:
    train, test = make_split("train", *draw(80, 5)), make_split("test", *draw(30, 6))
    exact = Terms.fit(train, vocabulary=60, longest=longest, min_count=2, sublinear=True)
    hashed = HashedTerms.fit(train, size=1 << 26, vocabulary=60, words=60, longest=longest, min_count=2, sublinear=True)
    ours, expected = hashed.transform(test, 0, 30), exact.transform(test, 0, 30)
    np.testing.assert_allclose((ours @ ours.T).toarray(), (expected @ expected.T).toarray(), atol=1e-6)
    assert (hashed.idf > 0).sum() == exact.size


def test_n_grams_of_the_data_are_terms_and_join_no_longer_one() -> None:
    # Tokens 50 and above are n-grams, which a data set puts behind a title's words.
    split = make_split("train", [[2, 3, 50, 51], [4, 51]], [0, 1])
    hashed = HashedTerms.fit(split, size=99, vocabulary=60, words=50, longest=2, min_count=1, sublinear=False)
    first, second = hashed.counts(split, 0, 2).toarray()
    assert np.flatnonzero(first[:60]).tolist() == [2, 3, 50, 51] and first[60:].sum() == 1, "2 3, and no pair else"
    assert np.flatnonzero(second).tolist() == [4, 51]


def test_hashed_terms_are_no_fewer_than_tokens() -> None:
    with pytest.raises(ValueError, match="max_terms: 60 are not more than the data set's 60 tokens: take more"):
        estimator.fit(dataset(), settings(max_terms=60))


@pytest.mark.parametrize("changes", [{}, {"class_weights": "balanced", "seed": 3}, {"loss": "log_loss"}])
@pytest.mark.parametrize("seen", [5, 2])  # two are one problem, and stay so
def test_categories_fitted_one_by_one_are_those_fitted_at_once(changes: dict[str, Any], seen: int) -> None:
    data, chosen = dataset(6, seen), settings(solver="sgd", **changes)
    train = data.splits["train"]
    fitted = estimator.fit(data, chosen, SimpleNamespace(cpus=3, log=lambda _: None, progress=lambda *_, **__: None))
    theirs = SGDClassifier(
        loss=chosen.loss, alpha=chosen.alpha, max_iter=chosen.max_passes, random_state=chosen.seed,
        class_weight=None if chosen.class_weights == "none" else "balanced",
    )  # fmt: skip
    theirs.fit(fitted.terms.transform(train, 0, len(train)), train.labels.astype(np.int64))
    expected = theirs.coef_ if seen > 2 else np.concatenate([-theirs.coef_, theirs.coef_])
    assert np.array_equal(fitted.weights[:, :seen].T, expected.astype(np.float32))
    assert fitted.bias[seen:] == pytest.approx([fitted.bias[:seen].min() - 10] * (6 - seen))


def test_vectors_made_block_by_block_are_those_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    train = dataset().splits["train"]
    chosen = Terms.fit(train, vocabulary=60, longest=2, min_count=1, sublinear=False)
    whole = chosen.transform(train, 0, len(train))
    monkeypatch.setattr(estimator, "ROWS", 37)
    blocks = estimator._features(chosen, train)
    for name in estimator.SPARSE:
        assert np.array_equal(getattr(blocks, name), getattr(whole, name))


@pytest.mark.parametrize("solver", ["sgd", "liblinear"])
def test_small_weights_are_dropped_and_the_others_stored_alone(tmp_path: Path, solver: str) -> None:
    data, changes = dataset(6, 5), {"solver": solver, "loss": "hinge", "max_terms": 5000}
    whole, few = (estimator.fit(data, settings(**changes, drop_below=below)) for below in (0.0, 0.2))
    expected = np.where(np.abs(whole.weights) >= np.float32(0.2), whole.weights, 0)
    assert np.array_equal(few.weights.toarray(), expected) and 0 < few.weights.nnz < whole.weights.size / 20
    assert few.parameters == few.weights.nnz + 6
    test = data.splits["test"]
    assert (few.scores(test).argmax(1) == test.labels).mean() > 0.85
    few.save(tmp_path)
    loaded = estimator.load(tmp_path)
    assert np.array_equal(loaded.scores(test), few.scores(test)) and loaded.terms.size == 5000
    with np.load(tmp_path / estimator.FILE) as stored:
        arrays = dict(stored)
    arrays["indices"][0] = 6  # of a seventh category
    np.savez(tmp_path / estimator.FILE, **arrays)
    with pytest.raises(DamagedFileError, match="damaged, train the run again"):
        estimator.load(tmp_path)


def test_many_validation_titles_are_not_all_needed_for_the_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset()
    all_of_them = estimator.fit(data, settings(max_terms=5000)).scale
    monkeypatch.setattr(estimator, "SCALED_BY", 60)
    monkeypatch.setattr(estimator, "RUN", 10)
    some = estimator.fit(data, settings(max_terms=5000)).scale
    assert some != all_of_them and some == pytest.approx(all_of_them, rel=0.2)
    assert estimator.fit(data, settings()).scale == pytest.approx(all_of_them, rel=0.2)


def test_an_empty_vocabulary_says_what_to_change() -> None:
    with pytest.raises(ValueError, match="min_count"):
        Terms.fit(make_split("train", [[2], [3]], [0, 1]), vocabulary=9, longest=1, min_count=2, sublinear=False)


def test_liblinear_refuses_a_loss_it_does_not_know() -> None:
    assert "needs solver: sgd" in str(settings(loss="log_loss").check(DataShape(max_length=32, vector_size=12)))
