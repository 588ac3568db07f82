"""The stages of a laboratory's tasks: each reads, writes and looks as the real one does; nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
from search_fixture import objective
from virtual_processes import Machine

from jobs import metrics_log
from jobs.context import Context, Outcome, TaskFailedError, TaskInterruptedError
from jobs.search.summary import winner
from sharedfs.documents import write_json
from sharedfs.files import publish_folder, write_whole


class Stages:
    """``work`` lets time pass in a task, and whatever befalls it happen."""

    machine: Machine

    def work(self, context: Context, seconds: float) -> None:
        raise NotImplementedError

    def preprocess(self, context: Context) -> Outcome:
        final = context.storage.dataset(context.task.id)
        self.work(context, 10.0)
        self._stop_if_asked(context)
        if not final.exists():
            home = final.with_name(f".tmp-{final.name}-{context.attempt.number}")
            home.mkdir(parents=True)
            write_json(home / "meta.json", {"titles": 8})
            context.attempt.check()
            publish_folder(home, final)
        return Outcome(files=(final / "meta.json",), result={})

    def train(self, context: Context) -> Outcome:
        lines = self._train(context, SimpleNamespace(epochs=4, learning_rate=0.01, dropout=0.1), lambda lines: None)
        return Outcome(files=self._finish(context), result={"epochs_run": len(lines)})

    def train_trial(self, context: Context, recipe: Any, stop_at_rung: Any) -> Any:
        """In place of ``jobs.stages.trial._train``."""
        lines = self._train(context, recipe.settings, stop_at_rung)
        figures = {"stopped": None, "epochs_run": len(lines)}
        return SimpleNamespace(files=self._finish(context), lines=tuple(lines), figures=figures)

    def _train(self, context: Context, settings: Any, stop: Callable[[list[Any]], str | None]) -> list[Any]:
        for need in context.task.needs:
            assert (context.storage.dataset(need) / "meta.json").exists(), "trains on a data set that is not there"
        saved = context.folder / "checkpoint.pt"
        lines: list[Any] = orjson.loads(saved.read_bytes()) if saved.exists() else []
        context.attempt.check()
        metrics_log.rewrite(context.folder, lines)
        ended = bool(lines) and stop(lines) is not None
        while len(lines) < settings.epochs and not ended:
            self.work(context, 12.0)
            self._stop_if_asked(context)
            value = objective(settings, len(lines) + 1)
            line: Any = {
                "epoch": len(lines) + 1, "validation_balanced_accuracy": value, "validation_loss": 1 - value,
                "ended": self.machine.now, "attempt": context.attempt.number,
            }  # fmt: skip
            context.attempt.check()
            metrics_log.append(context.folder, line)
            lines.append(line)
            ended = stop(lines) is not None
            context.attempt.check()
            write_whole(saved, orjson.dumps(lines))
        return lines

    def _finish(self, context: Context) -> tuple[Path, ...]:
        context.attempt.check()
        write_whole(context.folder / "model.pt", context.task.id.encode())
        return (context.folder / "model.pt", context.folder / metrics_log.NAME)

    def _stop_if_asked(self, context: Context) -> None:
        if context.interrupted():
            raise TaskInterruptedError("asked to stop")

    def evaluate(self, context: Context) -> Outcome:
        settings = context.task.settings
        if "train" in settings:
            target = context.storage.run(settings["train"])
        else:
            target = winner(context.storage, settings["search"], settings["trials"], settings["rank"])
        if not (target / "model.pt").exists():
            raise TaskFailedError("error", f"{target}: no model")
        self.work(context, 5.0)
        self._stop_if_asked(context)
        context.attempt.check()
        write_json(context.folder / "evaluation.json", {"of": target.name})
        return Outcome(files=(context.folder / "evaluation.json",), result={})
