"""A network's whole run: epochs, validation, metrics log, checkpoints, and every way it can end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jobs import metrics_log
from jobs.context import Context, Progress, TaskFailedError, TaskInterruptedError
from jobs.data.batches import EvaluationBatches, TrainBatches
from jobs.data.dataset import Dataset
from jobs.metrics_log import EpochMetrics
from jobs.models import NetworkSettings, Recipe
from jobs.training import checkpoint, device, loop, metrics, optimiser, stops
from jobs.training.checkpoint import EndState, Saver, TrainState
from jobs.training.cuda_graphs import Replayer, cuda_graphs
from jobs.training.loop import Stepper, build_network, make_accumulator, validate
from jobs.training.run import (
    KEPT_FIGURES,
    SETTINGS,
    StopCallback,
    TrainResult,
    check_trained_on,
    trained_on,
    write_recipe,
)
from sharedfs.documents import digest
from sharedfs.typed_json import Json

GRAD_NORM_EVERY = 64  # steps
POLL_S = 0.5
EVALUATION_TITLES = 1024  # in a batch, at least


class Trainer:
    """A run in progress.

    Reading a number from a GPU makes the host wait for every step launched so far, so the loop reads none: what needs
    one (is the loss finite, is a checkpoint due, progress) is asked at most every ``POLL_S``.
    """

    def __init__(
        self,
        context: Context,
        recipe: Recipe,
        dataset: Dataset,
        folder: Path,
        stop_callback: StopCallback | None,
    ) -> None:
        self.context, self.folder, self.stop_callback = context, folder, stop_callback
        self.recipe = recipe
        self.identity = digest(recipe.identity)
        self.saved = checkpoint.load(folder, self.identity, context.log)
        if self.saved is not None:
            check_trained_on(folder, dataset, f"remove {folder}/checkpoint*.pt to train it from the start")
        # A run that goes on keeps what it was begun with, also that nothing is known.
        self.content_digest = dataset.content_digest if self.saved is None else trained_on(folder)
        self.dataset = dataset
        self.epoch = 0  # completed epochs, validation included
        self.step = 0  # completed steps of the current epoch
        self.lines: list[EpochMetrics] = []  # of the metrics log
        self.best_epoch = 0
        self.best: dict[str, Tensor] | None = None
        self.spent_s = 0.0  # in the current epoch, by earlier attempts
        self.next_poll_at = 0.0

    @property
    def settings(self) -> NetworkSettings:
        """The recipe's."""
        return self.recipe.network

    def finished(self) -> TrainResult | None:
        """The result of a run that was killed after its last epoch and before its record; else None."""
        model = self.folder / checkpoint.MODEL
        saved = self.saved
        if saved is None or "finished" not in saved or not model.exists():
            return None
        if model.stat().st_size != saved["model_bytes"]:
            return None
        self.lines = saved["journal"]
        metrics_log.rewrite(self.folder, self.lines)
        return self._result(saved["figures"])

    def prepare(self) -> None:
        """Build everything and resume from the checkpoint, if there is one."""
        self._build()
        self._resume()

    def go(self) -> TrainResult:
        """Train to the end; raises TaskFailedError or TaskInterruptedError."""
        self.prepare()
        epochs = self.settings.epochs
        # Killed between the search's decision and the record, or continued: the decision is asked for again.
        stopped = stops.SEARCH if self.lines and self.step == 0 and self._search_says_stop() else None
        while stopped is None and self.epoch < epochs:
            self._train_epoch()
            self._validate_epoch()
            stopped = self._should_stop()
            if stopped is None and self.epoch < epochs:
                self.saver.on_epoch_end(self._save)
        return self._finish(stopped)

    def _build(self) -> None:
        settings, split = self.settings, self.dataset.splits
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
        self.model = build_network(self.recipe, self.dataset, self.device)
        self.optimiser = optimiser.make(self.model, settings, self.device)
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
        size = max(EVALUATION_TITLES, settings.batch_size)
        self.validation = EvaluationBatches(split["validation"], size, self.device)
        self.stepper = Stepper(
            self.model,
            self.optimiser,
            self.train_metrics,
            device=self.device,
            precision=self.precision,
            logit_adjustment=loop.logit_adjustment(self.train_support, settings.logit_adjustment, self.device),
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
        if saved is not None and "finished" not in saved:
            self.epoch, self.step = saved["epoch"], saved["step"]
            self.lines, self.spent_s = saved["journal"], saved["spent_s"]
            self.best_epoch, self.best = saved["best_epoch"], saved["best"]
            self.model.load_state_dict(saved["model"])
            self.optimiser.load_state_dict(saved["optimiser"])
            self.train_metrics.load(saved["tally"])
            device.set_random_state(self.device, saved["random"])
            self.saver.last_save_s = saved["save_s"]
            self.context.log(f"going on at epoch {self.epoch + 1}, step {self.step}")
        self.context.attempt.check()
        write_recipe(self.folder, self.recipe, self.content_digest)
        metrics_log.rewrite(self.folder, self.lines)

    def _train_epoch(self) -> None:
        self.started = time.monotonic()
        self.model.train()
        if self.step == 0:
            self.train_metrics.clear()
        for step in self._steps_left():
            self._pause_if_asked()
            step()
            self.step += 1
            # Every so many steps and not seconds: a resumed run repeats it at the same steps.
            if self.step % GRAD_NORM_EVERY == 0 or self.step == 1:
                self.train_metrics.add_grad_norm(stops.norm_of(self._gradients()))
            if time.monotonic() >= self.next_poll_at:
                self._poll()
        self._stop_if_diverged()
        self.trained_s = self._spent_s()

    def _steps_left(self) -> Iterator[Callable[[], None]]:
        if self.replayer:
            return (partial(self.replayer.step, draw) for draw in self.batches.draws(self.epoch, self.step))
        return (partial(self.stepper.step, batch) for batch in self.batches.epoch(self.epoch, self.step))

    def _gradients(self) -> Sequence[Tensor]:
        return (self.replayer or self.stepper).gradients()

    def _poll(self) -> None:
        """Check that the loss is finite, save if a checkpoint is due, report progress."""
        if self.train_metrics.non_finite(self.step):
            self._stop_if_diverged()
        if self.saver.due():
            self._stop_if_diverged()
            self.saver.save(self._save)
        self._progress()
        self.next_poll_at = time.monotonic() + min(POLL_S, self.saver.cadence_s)

    def _progress(self) -> None:
        steps, epochs = self.batches.steps, self.settings.epochs
        spent = self._spent_s()
        done = min(self.step * self.settings.batch_size, len(self.dataset.splits["train"]))
        left = steps - self.step + (epochs - self.epoch - 1) * steps
        progress = Progress(
            phase="train",
            epoch=self.epoch + 1,
            epochs=epochs,
            done=done,
            total=len(self.dataset.splits["train"]),
            unit="titles",
            rate=done / spent if spent else None,
            left_s=left * spent / self.step,
        )
        self.context.progress(progress)

    def _stop_if_diverged(self) -> None:
        if int(self.train_metrics.finite) == self.step:
            return
        gradients = self._gradients()
        norm = float(stops.norm_of(gradients)) if gradients else None
        raise self._diverged("training", step=self.train_metrics.read().finite + 1, norm=norm)

    def _diverged(self, where: str, *, step: int, norm: float | None) -> TaskFailedError:
        before = self.lines[-1]["gradient_norm"] if self.lines else None
        return stops.diverged(epoch=self.epoch + 1, step=step, where=where, norm=norm, before=before)

    def _validate_epoch(self) -> None:
        # Rounding depends on when lazy rows are brought up to date. So that happens here and at no other time: when a
        # checkpoint is written must not change a bit.
        self.optimiser.flush()
        validate(
            self.model,
            self.validation,
            self.validation_metrics,
            device=self.device,
            precision=self.precision,
            on_batch=self._pause_if_asked,
        )
        line = self._line()
        if not np.isfinite(line["validation_loss"]):
            raise self._diverged("validation", step=self.step, norm=line["gradient_norm"])
        self.context.attempt.check()
        metrics_log.append(self.folder, line)
        self.lines.append(line)
        self.epoch, self.step, self.spent_s = self.epoch + 1, 0, 0.0
        self._note_best(line)
        self.context.log(
            f"epoch {line['epoch']}: train loss {line['train_loss']:.4f}, validation loss "
            f"{line['validation_loss']:.4f}, balanced accuracy {line['validation_balanced_accuracy']:.4f}, "
            f"{line['titles_per_s']:,.0f} titles/s"
        )

    def _line(self) -> EpochMetrics:
        trained, validated = self.train_metrics.read(), self.validation_metrics.read()
        titles = int(self.train_support.sum())
        return {
            "epoch": self.epoch + 1,
            "step": (self.epoch + 1) * self.batches.steps,
            "train_loss": trained.loss / titles,
            "train_balanced_accuracy": metrics.balanced_accuracy(self.train_support, trained.correct),
            "train_accuracy": metrics.accuracy(self.train_support, trained.correct),
            "validation_loss": validated.loss / int(self.validation_support.sum()),
            "validation_balanced_accuracy": metrics.balanced_accuracy(self.validation_support, validated.correct),
            "validation_accuracy": metrics.accuracy(self.validation_support, validated.correct),
            "gradient_norm": trained.norm,
            "seconds": self._spent_s(),
            "titles_per_s": titles / self.trained_s,  # without validation
            "ended": time.time(),
            "attempt": self.context.attempt.number,
        }

    def _note_best(self, line: EpochMetrics) -> None:
        score = line["validation_balanced_accuracy"]
        if self.best_epoch and score <= self.lines[self.best_epoch - 1]["validation_balanced_accuracy"]:
            return
        self.best_epoch = line["epoch"]
        if self.settings.keep == "best":
            self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def _should_stop(self) -> str | None:
        if stops.never_left_chance(self.lines, self.validation_support, self.settings.patience_chance):
            raise stops.at_chance_error(self.lines, stops.diagnose(self.model, next(iter(self.batches.epoch(0)))))
        if stops.has_stalled(self.lines, self.settings.patience):
            return stops.EARLY
        return stops.SEARCH if self._search_says_stop() else None

    def _search_says_stop(self) -> bool:
        return self.stop_callback is not None and self.stop_callback(self.lines) is not None

    def _pause_if_asked(self) -> None:
        if self.context.interrupted():
            self.saver.save(self._save)
            raise TaskInterruptedError(f"saved at epoch {self.epoch + 1}, step {self.step}")

    def _spent_s(self) -> float:
        return self.spent_s + time.monotonic() - self.started

    def _save(self) -> None:
        # All that the next step depends on. The order of titles is a function of seed, epoch and step, so that it takes
        # two numbers to go on in the same order.
        self.context.attempt.check()
        state: TrainState = {
            "identity": self.identity,
            "epoch": self.epoch,
            "step": self.step,
            "journal": self.lines,
            "spent_s": self._spent_s() if self.step else 0.0,
            "best_epoch": self.best_epoch,
            "best": self.best,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "tally": self.train_metrics.state(),
            "random": device.random_state(self.device),
            "save_s": self.saver.last_save_s,
        }
        checkpoint.save(self.folder, state)

    def _finish(self, stopped: str | None) -> TrainResult:
        kept = self.best_epoch if self.settings.keep == "best" else self.epoch
        weights = self.best if self.settings.keep == "best" else self.model.state_dict()
        assert weights is not None
        self.context.attempt.check()
        path = checkpoint.write_model(self.folder, weights)
        metrics_log.rewrite(self.folder, self.lines)
        figures = self._figures(self.lines[kept - 1], stopped)
        if stopped == stops.SEARCH:
            # The search may continue it: the checkpoint keeps everything that takes.
            self._save()
            return self._result(figures)
        # From here on a run that is killed has only its record to write.
        end: EndState = {
            "identity": self.identity,
            "finished": True,
            "journal": self.lines,
            "figures": figures,
            "model_bytes": path.stat().st_size,
        }
        checkpoint.save(self.folder, end)
        checkpoint.remove_all_but(self.folder, checkpoint.NAME)
        return self._result(figures)

    def _figures(self, line: EpochMetrics, stopped: str | None) -> dict[str, Json]:
        figures: dict[str, Json] = {
            **{name: metrics_log.figure(line, name) for name in KEPT_FIGURES},
            "kept_epoch": line["epoch"],
            "best_epoch": self.best_epoch,
            "epochs_run": self.epoch,
            "train_seconds": sum(past["seconds"] for past in self.lines),
            "titles_per_s": max(past["titles_per_s"] for past in self.lines),
            "parameters": sum(weight.numel() for weight in self.model.parameters() if weight.requires_grad),
            "stopped": stopped,
            "device": self.device.type,
        }
        if self.device.type == "cuda":
            figures["gpu_peak_mb"] = torch.cuda.max_memory_allocated(self.device) / 2**20
        return figures

    def _result(self, figures: Mapping[str, Json]) -> TrainResult:
        files = tuple(self.folder / name for name in (checkpoint.MODEL, SETTINGS, metrics_log.NAME))
        return TrainResult(files=files, lines=tuple(self.lines), figures=figures)
