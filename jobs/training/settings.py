"""Settings of training that every network shares; read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from jobs.data import Shuffle
from jobs.metrics import searchable
from jobs.plugins import OPTIMISERS, SCHEDULES, name_of
from jobs.settings import ORIGINAL, PLUMBING, Baseline, DataShape, Doc, ModelSettings, Named, settings
from jobs.training.optimisers import OptimiserSettings, adam
from jobs.training.schedules import ScheduleSettings, constant

BALANCED = "validation_balanced_accuracy"


@settings
class TrainingSettings(ModelSettings):
    """How a network is trained."""

    optimiser: Annotated[
        OptimiserSettings,
        Named(OPTIMISERS),
        Baseline(adam.Settings(vector_decay="when_used")),
        Doc("how a step moves the weights: a name, or a name with settings, as in `{sgd: {momentum: 0.8}}`"),
    ] = adam.Settings()
    schedule: Annotated[
        ScheduleSettings,
        Named(SCHEDULES),
        Baseline(constant.Settings()),
        Doc("how the step size changes over the run: a name, or a name with settings"),
    ] = constant.Settings()
    learning_rate: Annotated[
        float, Gt(0), Le(10), ORIGINAL, Doc("the step size; under a schedule, the highest it gets")
    ] = 1e-3
    weight_decay: Annotated[
        float, Ge(0), Le(10), ORIGINAL, Doc("the decay: an L2 term of adam and sgd, decoupled in adamw")
    ] = 0.0
    gradient_clip: Annotated[
        Annotated[float, Gt(0)] | None,
        Baseline(None),
        Doc("the largest norm of all gradients together: above it they are scaled down to it; none: never"),
    ] = None
    epochs: Annotated[int, Ge(1), Le(100_000), ORIGINAL, Doc("passes over the training rows")] = 3
    batch_size: Annotated[int, Ge(1), Le(1_000_000), ORIGINAL, Doc("titles a step")] = 128
    freeze_embeddings: Annotated[bool, ORIGINAL, Doc("keep the word vectors, or the encoder, as they were read")] = True
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
    label_smoothing: Annotated[
        float, Ge(0), Le(0.9), Baseline(0.0), Doc("share of each target that is spread evenly over all categories")
    ] = 0.0
    class_weights: Annotated[
        Literal["none", "balanced", "square_root"],
        Baseline("none"),
        Doc("balanced: a title weighs as 1 / the titles of its category; square_root: as 1 / the square root of them"),
    ] = "none"
    unreliable_weight: Annotated[
        float, Ge(0), Le(1), Baseline(1.0), Doc("of a title whose label is marked unreliable, beside 1 of the others")
    ] = 1.0
    bucket_by_length: Annotated[bool, ORIGINAL, Doc("batches of titles of similar length")] = False
    seed: Annotated[int, Ge(0), Le(2**31 - 1), ORIGINAL, Doc("of initial weights, order and dropout")] = 0
    keep: Annotated[
        Literal["best", "last"],
        ORIGINAL,
        Doc("evaluate the epoch that is best by `select_by`, or the last one as the published work did"),
    ] = "best"
    select_by: Annotated[
        str,
        Baseline(BALANCED),
        Doc("the validation figure that decides: the kept epoch, early stopping, a search's promotions and winner, ★"),
    ] = BALANCED
    patience: Annotated[
        Annotated[int, Ge(1)] | None,
        ORIGINAL,
        Doc("stop after so many epochs without a better `select_by`; none: never (early_stopping)"),
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

    @property
    def trains_vectors(self) -> bool:
        """Whether vectors of words, or of parts of them, are trained."""
        return not self.freeze_embeddings

    def without_effect(self, varied: frozenset[str]) -> Mapping[str, Any]:
        """How word vectors decay is nothing where there is no decay or they are frozen, whatever a search decides."""
        no_decay = self.weight_decay == 0 and "weight_decay" not in varied
        frozen = not self.trains_vectors and varied.isdisjoint(("freeze_embeddings", "subwords"))
        return {"optimiser": self.optimiser.without_vector_decay()} if no_decay or frozen else {}

    def problem(self, shape: DataShape) -> str | None:
        if self.select_by not in (legal := searchable()):
            return f"select_by: must be one of {', '.join(legal)}, not {self.select_by!r}"
        wrong = self.optimiser.check(self.learning_rate, self.weight_decay)
        return super().problem(shape) if wrong is None else f"optimiser: {wrong}"

    def cost_note(self) -> str | None:
        """That a CPU moves all word vectors in every step, which may take many times a step's own work."""
        why = self.optimiser.dense_because(self.learning_rate, self.weight_decay)
        if why is None or not self.trains_vectors or self.device == "cuda":
            return None
        name = name_of(type(self.optimiser))
        return f"{name} {why}: on a CPU each step then moves all word vectors, not its batch's alone"
