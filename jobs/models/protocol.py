"""What a network is to the training loop: what it may assume of what it is given, and what it must keep to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from jobs.models import NetworkSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from jobs.data.batches import Ahead, Batch


class Model(Protocol):
    """What ``build`` returns, a ``torch.nn.Module``.

    It may assume that

    - tokens are from 0 to V - 1 (with ``subwords`` unknown words have higher ones, which ``WordEmbedding`` knows), 0 is
      padding and stands only behind a title's own words, each title has at least one word and at most ``max_length``; B
      may be 1, and the last batch of an epoch is smaller;
    - word vectors (V, D) are float32, row 0 is zero, and the array may be a read-only map of a file that others share;
    - under ``precision: bfloat16`` its matrix products are done in it by autocast, and the loss is not.

    It must keep to this:

    - ``forward`` gives float logits (B, C); neither padding nor the other titles of a batch change those of a title;
    - every parameter that requires a gradient gets one in every step, or the step fails with its name; what is not
      trained requires none, or is a buffer;
    - all that is random in training is switched off by ``eval()`` and on by ``train()``, and drawn from torch's global
      generator, whose state a checkpoint holds; word vectors go through ``WordEmbedding``, which knows ``word_dropout``
      and trains those of a batch alone;
    - all that changes is in ``state_dict()``, with the same names after every ``build``; initial weights are drawn in
      ``build``, from the global generator;
    - with ``compile`` on a GPU, nothing in a step reads a number on the host.
    """

    words: nn.Module
    """A ``jobs.models.layers.WordEmbedding``, where it has word vectors that may be trained."""

    @property
    def ahead(self) -> Ahead | None:
        """Optional: what can be computed of titles before their step, many at once; None where training changes it.

        What it gives for a title must not depend on which others it is given with; ``forward`` finds it in
        ``batch.features``.
        """

    @property
    def fixed(self) -> Callable[[Batch], Tensor] | None:
        """Optional: what training never changes of a batch's titles, (B, F); None where it changes all.

        It is then computed once for each title, and ``forward`` finds it in ``batch.features``.
        """

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C) of ``batch.tokens`` (B, T) int64, padded with 0, of ``batch.lengths`` (B,)."""


class Build(Protocol):
    """``build`` of a network."""

    def __call__(self, settings: NetworkSettings, *, vectors: Tensor, classes: int, max_length: int) -> nn.Module:
        """A ``Model`` with ``classes`` logits over vectors (V, D), for titles of up to ``max_length`` tokens.

        Where its settings say ``takes_encoder``, D is 0 and it is also given ``folder``, which has the encoder's files.
        """
