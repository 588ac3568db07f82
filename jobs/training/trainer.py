"""A network's whole run: epochs, validation, checkpoints, and every way it can end; first of all its loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from jobs import metrics_log
from jobs.context import Context, TaskFailedError, TaskInterruptedError
from jobs.data.batches import EvaluationBatches, TrainBatches
from jobs.data.dataset import Dataset
from jobs.metrics_log import EpochMetrics
from jobs.models import NetworkSettings, Recipe
from jobs.training import checkpoint, device, loss, optimiser, progress, stops
from jobs.training.checkpoint import Saver
from jobs.training.cuda_graphs import Replayer, cuda_graphs
from jobs.training.fixed import with_features
from jobs.training.loop import Stepper, build_network, make_accumulator, validate
from jobs.training.run import (
    SETTINGS,
    StopCallback,
    TrainResult,
    check_trained_on,
    trained_on,
    vectors_seed,
    write_recipe,
)
from jobs.training.state import EndState, TrainState, document
from jobs.training.state import read as read_state
from sharedfs.documents import digest
from sharedfs.typed_json import Json

GRAD_NORM_EVERY = 64  # steps
POLL_S = 0.5
EVALUATION_TITLES = 1024  # in a batch, at least


class Trainer:
    """A run in progress: ``state`` is what its checkpoint holds, the rest is made from settings and data.

    Reading a number from a GPU makes the host wait for every step launched so far, so the loop reads none: what needs
    one (is the loss finite, is a checkpoint due, progress) is asked at most every ``POLL_S``.
    """

    def train(self) -> TrainResult:
        """Train to the end; raises TaskFailedError or TaskInterruptedError."""
        state = self.state
        stopped = self.stopped_before()
        while stopped is None and state.epoch < self.settings.epochs:
            self.begin_epoch()
            for step in self.steps_left():
                self.pause_if_asked()
                self.optimiser.set_rate(state.epoch * self.batches.steps + state.step)
                step()  # forward, loss, backward, clipping, update: Stepper.step, or the graph of it
                state.step += 1
                # Every so many steps and not seconds: a resumed run repeats it at the same steps.
                if state.step % GRAD_NORM_EVERY == 0 or state.step == 1:
                    self.train_metrics.add_grad_norm(stops.norm_of(self.gradients()))
                if time.monotonic() >= self.next_poll_at:
                    self.poll()
            self.stop_if_diverged()
            trained_s = self.spent_s()
            # Rounding depends on when lazy rows are brought up to date. So that happens here and at no other time: when
            # a checkpoint is written must not change a bit.
            self.optimiser.flush()
            self.validate()
            self.end_epoch(trained_s)
            stopped = self.should_stop()
            if stopped is None and state.epoch < self.settings.epochs:
                self.saver.on_epoch_end(self.save)
        return self.finish(stopped)

    # Before the first step.

    def __init__(
        self,
        context: Context,
        recipe: Recipe,
        dataset: Dataset,
        folder: Path,
        stop_callback: StopCallback | None,
    ) -> None:
        self.context, self.folder, self.stop_callback = context, folder, stop_callback
        self.recipe, self.dataset = recipe, dataset
        self.state = TrainState(identity=digest(recipe.identity))
        self.saved = read_state(checkpoint.load(folder, self.state.identity, context.log), context.log)
        if self.saved is not None:
            check_trained_on(folder, dataset, f"remove {folder}/checkpoint*.pt to train it from the start")
        # A run that goes on keeps what it was begun with, also that nothing is known.
        self.content_digest = dataset.content_digest if self.saved is None else trained_on(folder)
        self.vectors_seed = recipe.network.seed if self.saved is None else vectors_seed(folder)
        self.next_poll_at = 0.0

    @property
    def settings(self) -> NetworkSettings:
        """The recipe's."""
        return self.recipe.network

    def finished(self) -> TrainResult | None:
        """The result of a run that was killed after its last epoch and before its record; else None."""
        model = self.folder / checkpoint.MODEL
        saved = self.saved
        if not isinstance(saved, EndState) or not model.exists() or model.stat().st_size != saved.model_bytes:
            return None
        self.state.journal = saved.journal
        metrics_log.rewrite(self.folder, saved.journal)
        return self._result(saved.figures)

    def prepare(self) -> None:
        """Build everything and resume from the checkpoint, if there is one."""
        self._build()
        self._resume()

    def _build(self) -> None:
        settings, split = self.settings, self.dataset.splits
        if settings.subwords:
            split = {name: each.with_words() for name, each in split.items()}
        self.device = device.choose(settings.device)
        self.precision = settings.precision
        set_up = device.prepare(
            self.device,
            cpus=self.context.cpus,
            deterministic=settings.deterministic,
            precision=self.precision,
            tf32=settings.tf32,
        )
        self.context.log(f"{self.recipe.architecture} on {set_up}")
        classes = len(self.dataset.classes)
        self.model = build_network(self.recipe, self.dataset, self.device, vectors_seed=self.vectors_seed)
        split = {
            name: with_features(self.model, split[name], self.device, self.precision, self.context)
            for name in ("train", "validation")
        }
        self.train_support = np.bincount(split["train"].labels, minlength=classes)
        self.validation_support = np.bincount(split["validation"].labels, minlength=classes)
        self.train_metrics = make_accumulator(classes, self.device)
        self.validation_metrics = make_accumulator(classes, self.device)
        self.batches = TrainBatches(
            split["train"],
            batch_size=settings.batch_size,
            seed=settings.seed,
            shuffle=settings.shuffle,
            random_buffer_size=settings.random_buffer_size,
            bucket_by_length=settings.bucket_by_length,
            device=self.device,
            ahead=getattr(self.model, "ahead", None),
        )
        steps = settings.epochs * self.batches.steps
        self.optimiser = optimiser.make(self.model, settings, self.device, steps=steps)
        size = max(EVALUATION_TITLES, settings.batch_size)
        self.validation = EvaluationBatches(split["validation"], size, self.device)
        self.stepper = Stepper(
            self.model,
            self.optimiser,
            self.train_metrics,
            device=self.device,
            precision=self.precision,
            loss=loss.make(settings, split["train"], self.train_support, self.device),
            gradient_clip=settings.gradient_clip,
        )
        self.replayer = self._replayer() if settings.compile else None
        self.saver = Saver(cadence_s=60 * settings.checkpoint_min, log=self.context.log)

    def _replayer(self) -> Replayer | None:
        if self.device.type != "cuda":
            self.context.log("compile: it takes a GPU, and this run has none: steps are launched as they are")
            return None
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        return Replayer(
            self.stepper,
            self.batches.make,
            batch_size=self.settings.batch_size,
            tensors=[*weights, *self.optimiser.tensors(), *self.train_metrics.tensors()],
            device=self.device,
            log=self.context.log,
            capture=cuda_graphs(),
        )

    def _resume(self) -> None:
        saved, self.saved = self.saved, None
        if isinstance(saved, TrainState):
            self.state = saved
            self.model.load_state_dict(saved.model)
            self.optimiser.load_state_dict(saved.optimiser)
            self.train_metrics.load(saved.tally)
            device.set_random_state(self.device, saved.random)
            before = "cuda" if "cuda" in saved.random else "cpu"
            if before != self.device.type:
                self.context.log(f"the checkpoint was made on {before}: from here on the bits are {self.device.type}'s")
            self.saver.last_save_s = saved.save_s
            self.context.log(f"going on at epoch {saved.epoch + 1}, step {saved.step}")
        self.context.attempt.check()
        write_recipe(self.folder, self.recipe, self.content_digest, self.vectors_seed)
        metrics_log.rewrite(self.folder, self.state.journal)

    def stopped_before(self) -> str | None:
        """Whether the search stops it before any further step."""
        # Killed between the search's decision and the record, or continued: the decision is asked for again.
        return stops.SEARCH if self.state.journal and self.state.step == 0 and self._search_says_stop() else None

    # Of the loop, in its order.

    def begin_epoch(self) -> None:
        """Begin, or go on, with an epoch."""
        self.started = time.monotonic()
        self.model.train()
        if self.state.step == 0:
            self.train_metrics.clear()

    def steps_left(self) -> Iterator[Callable[[], None]]:
        """The steps of this epoch that are still to be taken."""
        epoch, first = self.state.epoch, self.state.step
        if self.replayer:
            return (partial(self.replayer.step, draw) for draw in self.batches.draws(epoch, first))
        return (partial(self.stepper.step, batch) for batch in self.batches.epoch(epoch, first))

    def pause_if_asked(self) -> None:
        """Save and raise TaskInterruptedError where the task was asked to stop."""
        if self.context.interrupted():
            self.saver.save(self.save)
            raise TaskInterruptedError(f"saved at epoch {self.state.epoch + 1}, step {self.state.step}")

    def gradients(self) -> Sequence[Tensor]:
        """Those of the last step, clipped where they were."""
        return (self.replayer or self.stepper).gradients()

    def poll(self) -> None:
        """Check that the loss is finite, save if a checkpoint is due, report progress."""
        if self.train_metrics.non_finite(self.state.step):
            self.stop_if_diverged()
        if self.saver.due():
            self.stop_if_diverged()
            self.saver.save(self.save)
        titles, spent_s = len(self.dataset.splits["train"]), self.spent_s()
        self.context.progress(
            progress.progress_of(self.state, self.settings, titles=titles, steps=self.batches.steps, spent_s=spent_s)
        )
        self.next_poll_at = time.monotonic() + min(POLL_S, self.saver.cadence_s)

    def stop_if_diverged(self) -> None:
        """Raise TaskFailedError where a loss of this epoch was not finite."""
        if int(self.train_metrics.finite) == self.state.step:
            return
        gradients = self.gradients()
        norm = float(stops.norm_of(gradients)) if gradients else None
        raise self._diverged("training", step=self.train_metrics.read().finite + 1, norm=norm)

    def _diverged(self, where: str, *, step: int, norm: float | None) -> TaskFailedError:
        lines = self.state.journal
        before = lines[-1]["gradient_norm"] if lines else None
        return stops.diverged(epoch=self.state.epoch + 1, step=step, where=where, norm=norm, before=before)

    def spent_s(self) -> float:
        """Seconds of this epoch so far, in all attempts."""
        return self.state.spent_s + time.monotonic() - self.started

    def validate(self) -> None:
        """Add up the metrics of the validation split."""
        validate(
            self.model,
            self.validation,
            self.validation_metrics,
            device=self.device,
            precision=self.precision,
            on_batch=self.pause_if_asked,
        )

    def end_epoch(self, trained_s: float) -> None:
        """Write the epoch's line, and keep its weights if they are the best; raises TaskFailedError."""
        state = self.state
        line = progress.epoch_line(
            self.train_metrics.read(),
            self.validation_metrics.read(),
            epoch=state.epoch + 1,
            steps=self.batches.steps,
            support=(self.train_support, self.validation_support),
            trained_s=trained_s,
            spent_s=self.spent_s(),
            attempt=self.context.attempt.number,
        )
        if not np.isfinite(line["validation_loss"]):
            raise self._diverged("validation", step=state.step, norm=line["gradient_norm"])
        self.context.attempt.check()
        metrics_log.append(self.folder, line)
        state.journal.append(line)
        state.epoch, state.step, state.spent_s = state.epoch + 1, 0, 0.0
        self._note_best(line)
        self.context.log(progress.describe_line(line))

    def _note_best(self, line: EpochMetrics) -> None:
        state = self.state
        if state.best_epoch and not stops.better(line, state.journal[state.best_epoch - 1], self.settings.select_by):
            return
        state.best_epoch = line["epoch"]
        if self.settings.keep == "best":
            state.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def should_stop(self) -> str | None:
        """Why the run ends after this epoch, or None; raises TaskFailedError at chance level."""
        lines = self.state.journal
        if stops.never_left_chance(lines, self.validation_support, self.settings.patience_chance):
            raise stops.at_chance_error(lines, stops.diagnose(self.model, next(iter(self.batches.epoch(0)))))
        if stops.has_stalled(lines, self.settings.patience, self.settings.select_by):
            return stops.EARLY
        return stops.SEARCH if self._search_says_stop() else None

    def _search_says_stop(self) -> bool:
        return self.stop_callback is not None and self.stop_callback(self.state.journal) is not None

    def save(self) -> None:
        """Write a checkpoint of all that the next step depends on."""
        self.context.attempt.check()
        state = self.state
        state.model, state.optimiser = self.model.state_dict(), self.optimiser.state_dict()
        state.tally, state.random = self.train_metrics.state(), device.random_state(self.device)
        state.save_s = self.saver.last_save_s
        spent_s = self.spent_s() if state.step else 0.0
        checkpoint.save(self.folder, document(replace(state, spent_s=spent_s)))

    # The end.

    def finish(self, stopped: str | None) -> TrainResult:
        """Write the weights and the last checkpoint."""
        state, keep_best = self.state, self.settings.keep == "best"
        kept = state.best_epoch if keep_best else state.epoch
        weights = state.best if keep_best else self.model.state_dict()
        assert weights is not None
        self.context.attempt.check()
        path = checkpoint.write_model(self.folder, weights)
        metrics_log.rewrite(self.folder, state.journal)
        figures = progress.figures(
            state.journal,
            kept,
            best_epoch=state.best_epoch,
            stopped=stopped,
            model=self.model,
            device=self.device,
        )
        if stopped == stops.SEARCH:
            # The search may continue it: the checkpoint keeps everything that takes.
            self.save()
            return self._result(figures)
        # From here on a run that is killed has only its record to write.
        size = path.stat().st_size
        end = EndState(identity=state.identity, journal=state.journal, figures=figures, model_bytes=size)
        checkpoint.save(self.folder, document(end))
        checkpoint.remove_all_but(self.folder, checkpoint.NAME)
        return self._result(figures)

    def _result(self, figures: Mapping[str, Json]) -> TrainResult:
        files = tuple(self.folder / name for name in (checkpoint.MODEL, SETTINGS, metrics_log.NAME))
        return TrainResult(files=files, lines=tuple(self.state.journal), figures=figures)
