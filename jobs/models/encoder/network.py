"""A pretrained encoder as a network. The one module that imports transformers, which reads local files alone here."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from jobs.models.layers import WordEmbedding, build_head
from sharedfs.errors import DamagedFileError

if TYPE_CHECKING:
    from jobs.data.batches import Batch
    from jobs.models.encoder import Settings

BODY = "body."


class Encoder(nn.Module):
    """The encoder's states of a title's tokens, pooled, then the head.

    A frozen encoder is no part of the state that is saved: the data set has it, as it has frozen word vectors. Its own
    dropout is then off in training too.
    """

    def __init__(self, body: nn.Module, head: nn.Module, settings: Settings, *, padding: int) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.frozen = settings.freeze_embeddings
        self.first = settings.title_state == "first"
        self.word_dropout = settings.word_dropout
        self.padding = padding
        if self.frozen:
            body.requires_grad_(False)
            self.register_state_dict_post_hook(_leave_out)  # type: ignore[no-untyped-call]
            self.register_load_state_dict_post_hook(_expect_left_out)  # type: ignore[no-untyped-call]

    @property
    def words(self) -> nn.Module:
        """The vectors of its tokens."""
        return self.body.get_input_embeddings()  # type: ignore[operator, no-any-return]

    def train(self, mode: bool = True) -> Encoder:
        """As of every module, but for a frozen encoder, which is never trained."""
        super().train(mode)
        if self.frozen:
            self.body.eval()
        return self

    @property
    def fixed(self) -> Callable[[Batch], Tensor] | None:
        """Pools the states of a batch's titles, (B, H), where no training changes them."""
        return self._pooled if self.frozen and not self.word_dropout else None

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C) of a batch."""
        logits: Tensor = self.head(self._pooled(batch) if batch.features is None else batch.features)
        return logits

    def _pooled(self, batch: Batch) -> Tensor:
        tokens = batch.tokens
        inside = torch.arange(tokens.shape[1], device=tokens.device) < batch.lengths[:, None]
        seen = inside
        if self.training and self.word_dropout:
            # A title that lost all of its tokens would be a mean over none: the first one stays.
            seen = torch.rand(tokens.shape, device=tokens.device) >= self.word_dropout
            seen = (seen & inside).index_fill(1, torch.zeros(1, dtype=torch.int64, device=tokens.device), True)
        # Where its padding is another token than 0: some count positions by the tokens that are none.
        tokens = tokens.where(inside, self.padding)
        states = self.body(input_ids=tokens, attention_mask=seen.long()).last_hidden_state  # (B, T, H)
        pooled: Tensor = states[:, 0] if self.first else (states * seen[:, :, None]).sum(1) / seen.sum(1)[:, None]
        return pooled


def _leave_out(_module: nn.Module, state: dict[str, Tensor], prefix: str, _local: Any) -> None:
    for name in [name for name in state if name.startswith(prefix + BODY)]:
        del state[name]


def _expect_left_out(_module: nn.Module, keys: Any) -> None:
    keys.missing_keys[:] = [name for name in keys.missing_keys if not name.startswith(BODY)]


def build(
    settings: Settings,
    *,
    vectors: Tensor,  # noqa: ARG001 - it brings its own
    classes: int,
    max_length: int,  # noqa: ARG001 - checked before anything is queued
    folder: Path,
) -> nn.Module:
    """An encoder of the files in a data set's folder with ``classes`` logits; raises DamagedFileError."""
    body, config = _read(folder, dropout=0.0 if settings.freeze_embeddings else settings.dropout)
    # As in other networks a step then moves, on a CPU, the vectors of its batch's tokens alone.
    words = WordEmbedding(body.get_input_embeddings().weight, frozen=settings.freeze_embeddings, scale=1.0, dropout=0.0)
    body.set_input_embeddings(words)
    head = build_head(settings, features=config.hidden_size, classes=classes)
    return Encoder(body, head, settings, padding=config.pad_token_id or 0)


def _read(folder: Path, *, dropout: float) -> tuple[Any, Any]:
    """The encoder, without what it has on top of its last states, and its configuration."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when it is imported
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(folder, **local)
        for name, value in config.to_dict().items():
            # Its own dropout, by whatever name: hidden_dropout_prob, attention_dropout; a layerdrop drops whole layers.
            if "drop" in name and isinstance(value, int | float) and not isinstance(value, bool):
                setattr(config, name, 0.0 if "layer" in name else dropout)
        # Plain products: titles are short, and faster attention is not the same to the bit on a GPU.
        body, found = AutoModel.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            attn_implementation="eager",
            dtype=torch.float32,
            output_loading_info=True,
            **local,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DamagedFileError(f"{folder}: no encoder that transformers reads: {error}") from error
    # Trained for another end, and no part of what is made of a title: without a gradient it could not be trained.
    body.pooler = None
    if lacking := sorted(name for name in found["missing_keys"] if "pooler" not in name):
        raise DamagedFileError(f"{folder}: the encoder's weights lack {', '.join(lacking[:3])}: not of its config.json")
    return body, config
