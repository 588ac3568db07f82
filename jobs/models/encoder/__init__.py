"""Encoder: a pretrained language model over a title's tokens, its last states pooled, then hidden layers."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from jobs.models import NetworkSettings, Share, Width
from jobs.settings import ORIGINAL, DataShape, Doc, settings

KIND = "network"
REVISION = 1


@settings
class Settings(NetworkSettings):
    """Those of every network, and the encoder's; which one it is, the data set says."""

    takes_encoder: ClassVar[bool] = True

    hidden_layers: Annotated[
        tuple[Width, ...],
        ORIGINAL,
        Doc("widths of the hidden layers; [] for none: a linear classifier of the pooled title"),
    ] = (256,)
    dropout: Annotated[
        Share,
        ORIGINAL,
        Doc("share dropped in training of each hidden layer and, where the encoder is trained, in its layers"),
    ] = 0.1
    title_state: Annotated[
        Literal["mean", "first"],
        ORIGINAL,
        Doc("what becomes of the encoder's last states: the mean over a title's tokens, or the first token's ([CLS])"),
    ] = "mean"

    def check(self, shape: DataShape) -> str | None:  # noqa: ARG002
        """What is of word vectors alone."""
        if self.embedding_scale != 1.0:
            return "embedding_scale: an encoder's vectors stay as they were trained: leave it out"
        return None
