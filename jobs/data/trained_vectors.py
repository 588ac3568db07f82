"""Word vectors made of titles alone: which words stand near each other more often than by chance, in few dimensions.

Positive pointwise mutual information of words and the words near them, factored by a truncated singular value
decomposition: Levy and Goldberg, *Neural Word Embedding as Implicit Matrix Factorization*, NeurIPS 2014; smoothing and
weighting as in Levy, Goldberg and Dagan, *Improving Distributional Similarity*, TACL 2015.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

from jobs.data.dataset import UNK, Ragged, positions_in_rows
from jobs.data.settings import TrainedVectors
from jobs.data.vectors import VectorTable, complete
from jobs.data.vocabulary import KeyCounter
from sharedfs.errors import InputError

_SEED = 0


def train(titles: Iterable[Ragged], count: int, size: int, settings: TrainedVectors) -> VectorTable:
    """Vectors (count, size) of the words of titles, given as token ids block by block; other tokens' are drawn.

    Words that are near no known word have no vector of their own. Raises InputError where no word has one.
    """
    counter = KeyCounter()
    for block in titles:
        counter.add(near_pairs(block, settings.window, count))
    information = positive_information(*counter.counts(), count, smoothing=settings.smoothing)
    in_titles = np.diff(information.indptr) > 0
    if not in_titles.any():
        raise InputError(
            "data.embeddings.train: no two known words stand in one title: leave it out, or lower vocabulary.min_count"
        )
    vectors = np.zeros((count, size), np.float32)
    vectors[:, : min(size, count)] = factor(information, min(size, count), weighting=settings.weighting)
    # Where a network begins is a matter of scale: that of vectors that are drawn.
    vectors /= vectors[in_titles].std()
    vectors[~in_titles] = 0
    return complete(vectors, in_titles)


def near_pairs(titles: Ragged, window: int, base: int) -> NDArray[np.uint64]:
    """Each two known words at most ``window`` places apart in a title, as smaller id x ``base`` + larger id."""
    ids = titles.values.astype(np.uint64)
    left = np.repeat(titles.lengths, titles.lengths) - positions_in_rows(titles.lengths)  # words to the title's end
    pairs = [np.zeros(0, np.uint64)]
    for distance in range(1, min(window, int(titles.lengths.max(initial=1)) - 1) + 1):
        one, two = ids[:-distance], ids[distance:]
        near = (left[:-distance] > distance) & (one != UNK) & (two != UNK)
        one, two = one[near], two[near]
        pairs.append(np.minimum(one, two) * np.uint64(base) + np.maximum(one, two))
    return np.concatenate(pairs)


def positive_information(
    pairs: NDArray[np.uint64], counts: NDArray[np.int64], size: int, *, smoothing: float
) -> csr_array:
    """log P(w, c) / (P(w) P(c)) of words w and near words c where it is above 0, (size, size) float32.

    P(c) is smoothed: of the counts of c to the power of ``smoothing``, or words seen once or twice, which are near
    whatever is in their one title, would be taken to say most.
    """
    one, two = (part.astype(np.int32) for part in np.divmod(pairs, np.uint64(size)))
    both = one != two  # each of two words is near the other, and a word that stands twice near itself
    word, near = np.concatenate([one, two[both]]), np.concatenate([two, one[both]])
    seen = np.concatenate([np.where(both, counts, 2 * counts), counts[both]])
    of_word = np.bincount(word, weights=seen, minlength=size)
    of_near = of_word**smoothing
    values = np.log(seen * (of_near.sum() / (of_word[word] * of_near[near]))).astype(np.float32)
    kept = values > 0
    return csr_array(coo_array((values[kept], (word[kept], near[kept])), shape=(size, size)))


def factor(matrix: csr_array, size: int, *, weighting: float) -> NDArray[np.float32]:
    """The left singular vectors of the ``size`` largest singular values, times these to a power.

    By random projection (Halko, Martinsson and Tropp, SIAM Review 2011), from one seed.
    """
    # On another number of threads BLAS adds up otherwise: a data set's bytes must not depend on it.
    with threadpool_limits(1):
        left, values, _ = randomized_svd(matrix, size, random_state=_SEED)
    return np.asarray(left * values**weighting, np.float32)
