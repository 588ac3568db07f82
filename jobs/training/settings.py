"""Settings of training that every network shares; read without torch."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from jobs.data import Shuffle
from jobs.settings import ORIGINAL, PLUMBING, Baseline, Doc, ModelSettings, settings


@settings
class TrainingSettings(ModelSettings):
    """How a network is trained."""

    learning_rate: Annotated[float, Gt(0), Le(10), ORIGINAL, Doc("Adam's step size")] = 1e-3
    weight_decay: Annotated[float, Ge(0), Le(10), ORIGINAL, Doc("Adam's L2 coefficient")] = 0.0
    epochs: Annotated[int, Ge(1), Le(100_000), ORIGINAL, Doc("passes over the training rows")] = 3
    batch_size: Annotated[int, Ge(1), Le(1_000_000), ORIGINAL, Doc("titles a step")] = 128
    freeze_embeddings: Annotated[bool, ORIGINAL, Doc("keep the word vectors as they were read")] = True
    shuffle: Annotated[
        Shuffle,
        ORIGINAL,
        Doc("a true permutation an epoch, or the published pseudo-shuffle through a buffer"),
    ] = "full"
    random_buffer_size: Annotated[int, Ge(1), ORIGINAL, Doc("titles in the buffer of `shuffle: buffer`")] = 2048
    logit_adjustment: Annotated[
        float,
        Ge(0),
        Le(10),
        ORIGINAL,
        Doc("1: train for balanced accuracy, by adding the log of each category's share to the logits of the loss"),
    ] = 0.0
    bucket_by_length: Annotated[bool, ORIGINAL, Doc("batches of titles of similar length")] = False
    seed: Annotated[int, Ge(0), Le(2**31 - 1), ORIGINAL, Doc("of initial weights, order and dropout")] = 0
    keep: Annotated[
        Literal["best", "last"],
        ORIGINAL,
        Doc("evaluate the epoch best by validation balanced accuracy, or the last one as the published work did"),
    ] = "best"
    patience: Annotated[
        Annotated[int, Ge(1)] | None,
        ORIGINAL,
        Doc("stop after so many epochs without a better validation balanced accuracy; none: never (early_stopping)"),
    ] = None
    patience_chance: Annotated[int, Ge(1), ORIGINAL, Doc("epochs at chance level before the run is stopped")] = 3
    precision: Annotated[
        Literal["float32", "bfloat16"],
        ORIGINAL,
        Doc("bfloat16: autocast of the matrix products, weights stay float32"),
    ] = "float32"
    compile: Annotated[bool, ORIGINAL, Doc("on a GPU: launch each step as one captured CUDA graph")] = False
    deterministic: Annotated[bool, ORIGINAL, Doc("only deterministic algorithms")] = True
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        PLUMBING,
        Doc("auto: the GPU that the task was given, which must be usable; the CPU where it was given none"),
    ] = "auto"
    checkpoint_min: Annotated[float, Gt(0), PLUMBING, Doc("minutes between checkpoints inside an epoch")] = 10.0
    tf32: Annotated[
        bool,
        Baseline(True),
        Doc("on a GPU: factors of float32 matrix products rounded to 10 bits of mantissa (TF32); false: full float32"),
    ] = True
