"""What a part of each kind must keep to: the checks that built-in parts are tested with, and plugins by check-plugin.

A check is a function of a part's name whose docstring says what must hold; it raises ContractError where that does not.
"""

from __future__ import annotations

import inspect
import io
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from jobs.data.dataset import Split
from jobs.plugins import ALGORITHMS, KINDS, METRICS, MODELS, OPTIMISERS, SCHEDULES, STOPPING, Room, torch_side
from jobs.search.algorithms import Observation, random
from jobs.search.space import Space, all_dimensions, read_space
from jobs.settings import Setting, Value, describe
from jobs.testing import settings_with
from jobs.training.metrics import of_parts

Check = Callable[[str], None]
TRIALS, TITLES, CLASSES, WORDS, EPOCHS = 15, 200, 5, 60, 27
SPACE: Mapping[str, Any] = {
    "learning_rate": {"loguniform": [1e-5, 1e-1]},
    "dropout": {"uniform": [0.0, 0.5]},
    "batch_size": {"quniform": [32, 256, 32]},
    "depth": {
        "choice": [{"hidden_layers": [64]}, {"hidden_layers": [128], "embedding_dropout": {"uniform": [0, 0.5]}}]
    },
}


class ContractError(Exception):
    """A part does not keep to what its kind promises: the text says in what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """How one check ended: ``problem`` is None where the part keeps to it."""

    promise: str
    problem: str | None


def check_part(kind: str, name: str) -> Iterator[Finding]:
    """Every check of a kind on one part, in turn."""
    for check in CONTRACTS[kind]:
        promise = inspect.cleandoc(check.__doc__ or "").partition("\n")[0].rstrip(".")
        try:
            check(name)
        except ContractError as error:
            yield Finding(promise=promise, problem=str(error))
        except Exception as error:  # noqa: BLE001 - a part's own code failed, in whatever way: that is the finding
            yield Finding(promise=promise, problem=f"{type(error).__name__}: {error}")
        else:
            yield Finding(promise=promise, problem=None)


def require(holds: object, problem: str) -> None:
    """Raise ContractError, saying what is wrong, unless something holds."""
    if not holds:
        raise ContractError(problem)


# Every part with settings.


def _of(room: Room) -> Check:
    def settings_are_described(name: str) -> None:
        """Its settings have types, defaults that are legal, and a meaning each."""
        for setting in describe(room.settings(name)):
            setting.read(setting.default)
            require(
                is_within(setting, setting.default),
                f"{setting.name}: its default {setting.default!r} is out of its range",
            )
            require(setting.doc, f"{setting.name}: Doc(...) is empty")

    return settings_are_described


def is_within(setting: Setting, value: Value) -> bool:
    """Whether a value, and each of a list's, is within a setting's range."""
    numbers = value if isinstance(value, list | tuple) else (value,)
    return all(
        (setting.low is None or number >= setting.low)
        and (setting.above is None or number > setting.above)
        and (setting.high is None or number <= setting.high)
        for number in numbers
        if isinstance(number, int | float)
    )


def imports_no_torch(kind: str) -> Check:
    """The check of one kind that a plan can import its plugins without torch."""

    def imported_without_torch(name: str) -> None:
        """Importing it does not import torch: `tanda plan` does that on a login node."""
        plugin = KINDS[kind].plugin(name)
        if plugin is None:  # of ours: tests of the command line see to it
            return
        # In a process of its own: this one has torch, from other checks.
        command = (sys.executable, "-c", _IMPORT, kind, name, str(plugin.path))
        path = os.pathsep.join(sys.path)
        ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=False)
        require(ended.returncode != TORCH, "it imports torch, or a module of ours that does: import that inside build")

    return imported_without_torch


TORCH = 77
_IMPORT = f"""
import sys
from pathlib import Path
from jobs import plugins
kind, name, path = sys.argv[1:]
plugins.use(plugins.find(Path(path)))
plugins.KINDS[kind].load(name)
sys.exit({TORCH} if "torch" in sys.modules else 0)
"""


# Models that are fitted in one go.


def _split(name: str, count: int, seed: int) -> Split:
    """Titles of which most words are of a part of the vocabulary that says the category."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, count)
    own = [2 + 10 * label + generator.integers(0, 10, generator.integers(1, 6)) for label in labels]
    titles = [np.concatenate([words, generator.integers(1, WORDS, 2)]) for words in own]
    return Split(
        name=name,
        tokens=np.concatenate(titles).astype(np.uint16),
        offsets=np.concatenate([[0], np.cumsum([len(title) for title in titles])]).astype(np.int64),
        labels=labels.astype(np.uint16),
        reliable=np.ones(count, np.uint8),
    )


def _dataset() -> Any:
    splits = {
        part: _split(part, count, seed)
        for seed, (part, count) in enumerate({"train": TITLES, "validation": TITLES // 2, "test": TITLES // 2}.items())
    }
    return SimpleNamespace(splits=splits, vocabulary_size=WORDS, classes=[f"category {k}" for k in range(CLASSES)])


def _fit(name: str) -> tuple[Any, Any, Any]:
    """The estimator's module, a data set, and what it fitted to that."""
    module, dataset = torch_side(MODELS.load(name), "estimator"), _dataset()
    return module, dataset, module.fit(dataset, settings_with(name), None)


def estimator_scores(name: str) -> None:
    """``scores`` gives a finite logit for each title and category, and tells easy categories apart."""
    _, dataset, fitted = _fit(name)
    split = dataset.splits["test"]
    scores = np.asarray(fitted.scores(split))
    require(scores.shape == (len(split), CLASSES), f"scores {scores.shape}, not {(len(split), CLASSES)}")
    require(np.isfinite(scores).all(), "scores that are not finite")
    right = float((scores.argmax(1) == split.labels).mean())
    require(right > 2 / CLASSES, f"{right:.0%} of easy titles right, where guessing gives {1 / CLASSES:.0%}")
    require(len(fitted.scores(_split("empty", 1, 9))) == 1, "one title is not scored")


def estimator_is_the_same_again(name: str) -> None:
    """The same data and settings give the same scores to the bit."""
    (_, dataset, first), (_, _, second) = _fit(name), _fit(name)
    split = dataset.splits["test"]
    require(np.array_equal(first.scores(split), second.scores(split)), "another fit gives other scores")


def estimator_is_saved(name: str) -> None:
    """``save`` writes files into a folder, and ``load`` gives what was saved back, to the bit."""
    module, dataset, fitted = _fit(name)
    with tempfile.TemporaryDirectory() as folder:
        files = fitted.save(Path(folder))
        require(
            files and all(path.parent == Path(folder) and path.is_file() for path in files), "no files in the folder"
        )
        loaded = module.load(Path(folder))
        split = dataset.splits["test"]
        require(np.array_equal(loaded.scores(split), fitted.scores(split)), "loaded, it gives other scores")


def estimator_counts_its_parameters(name: str) -> None:
    """``parameters`` is how many numbers were fitted."""
    _, _, fitted = _fit(name)
    require(type(fitted.parameters) is int and fitted.parameters >= 0, f"parameters: {fitted.parameters!r}")


# Search algorithms.


def _space() -> Space:
    return read_space(SPACE, describe(MODELS.settings("mlp")))


def _history(name: str, space: Space, trials: int) -> list[Observation]:
    algorithm, history = ALGORITHMS.load(name), list[Observation]()
    for number in range(trials):
        draws = algorithm.propose(space, history, number)
        rate = float(draws.get("learning_rate", 1e-3))
        history.append(Observation(draws=draws, loss=abs(math.log10(rate) + 3)))
    return history


def algorithm_draws_are_legal(name: str) -> None:
    """Draws are numbers within their ranges, of the options that were chosen alone, and plain JSON."""
    space = _space()
    for past in _history(name, space, TRIALS):
        require(json.loads(json.dumps(past.draws)) == past.draws, f"not plain JSON: {past.draws}")
        unknown = set(past.draws) - {dimension.label for dimension in all_dimensions(space.dimensions)}
        require(not unknown, f"draws of no dimension: {sorted(unknown)}")
        inner = "depth.1.embedding_dropout" in past.draws
        require(inner == (past.draws["depth"] == 1), "an option that was not chosen is drawn, or one that was is not")
        point = space.point(past.draws)
        require(1e-5 <= float(str(point["learning_rate"])) <= 1e-1, f"learning_rate {point['learning_rate']}")


def algorithm_is_a_function(name: str) -> None:
    """The same history and seed give the same draws; another seed gives others."""
    space = _space()
    history = _history(name, space, TRIALS)
    propose = ALGORITHMS.load(name).propose
    for past in (history, []):
        first = propose(space, list(past), 99)
        require(propose(space, list(past), 99) == first, "asked again, it answers otherwise")
        alike = propose(space, list(past), 100) == first
        require(not alike, "another seed gives the same draws: parallel workers would all try it")


def algorithm_takes_any_history(name: str) -> None:
    """Trials that still run (no loss) and that failed (an infinite loss) are taken; so is no history at all."""
    space = _space()
    history = _history(name, space, TRIALS)
    losses = (None, math.inf, 1.0)
    mixed = [Observation(draws=past.draws, loss=losses[number % 3]) for number, past in enumerate(history)]
    for past in ([], mixed, [Observation(draws=each.draws, loss=None) for each in history]):
        space.point(ALGORITHMS.load(name).propose(space, past, 5))
    space.point(ALGORITHMS.load(name).propose(space, [Observation(draws=random.propose(space, [], 1), loss=1.0)], 2))


# Stopping rules.


def rule_has_rising_rungs(name: str) -> None:
    """``milestones`` are epochs that rise and lie below the last one."""
    rule = STOPPING.settings(name)()
    for epochs in (1, 2, EPOCHS):
        rungs = tuple(rule.milestones(epochs))
        require(all(type(rung) is int for rung in rungs), f"milestones({epochs}): {rungs}: not whole numbers")
        require(rungs == tuple(sorted(set(rungs))), f"milestones({epochs}): {rungs}: they do not rise")
        require(all(0 < rung < epochs for rung in rungs), f"milestones({epochs}): {rungs}: not all below {epochs}")


def rule_promotes_some(name: str) -> None:
    """``promoted`` names trials among those it is given, the best one in the end; the same each time."""
    rule = STOPPING.settings(name)()
    values = {number: math.sin(number) for number in range(9)}
    for final in (False, True):
        promoted = rule.promoted(values, final=final)
        require(promoted <= set(values), f"promoted trials that it was not given: {promoted - set(values)}")
        require(promoted == rule.promoted(dict(reversed(values.items())), final=final), "another order, other trials")
    require(
        max(values, key=lambda number: values[number]) in promoted, "the best trial is not trained to its last epoch"
    )
    require(not rule.promoted({}, final=True), "promoted a trial where there is none")


# Metrics.


def metric_is_a_number(name: str) -> None:
    """Its figure is one finite number, the same however the titles are cut into parts, and better for right answers."""
    metric = METRICS.load(name).METRIC
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, TITLES)
    right = np.eye(CLASSES, dtype=np.float32)[labels] * 4 + generator.normal(size=(TITLES, CLASSES)).astype(np.float32)
    wrong = -right
    whole, cut, worse = (_figure(name, *each) for each in ((right, labels, 1), (right, labels, 7), (wrong, labels, 1)))
    require(math.isfinite(whole) and math.isfinite(worse), f"figures {whole} and {worse}")
    require(math.isclose(whole, cut, rel_tol=1e-9), f"{whole} of all titles at once, {cut} of them in parts")
    better = whole * metric.sign >= worse * metric.sign
    require(better, f"{whole} for mostly right answers, {worse} for wrong ones: see higher_is_better")


def metric_takes_any_split(name: str) -> None:
    """Categories that no title has, and one that is predicted always, rightly or wrongly, are no error."""
    same = np.zeros(TITLES, np.int64)
    for predicted in (0, 1):
        _figure(name, np.eye(CLASSES, dtype=np.float32)[same + predicted], same, 1)


def _figure(name: str, logits: Any, labels: Any, parts: int) -> float:
    cuts = np.array_split(np.arange(len(labels)), parts)
    log = io.StringIO()
    with redirect_stderr(log):  # where a plugin's metric that fails is reported: in a run, it is missing and no more
        scores = of_parts(((rows, logits[rows], labels[rows]) for rows in cuts), titles=len(labels), classes=CLASSES)
    require(not log.getvalue(), log.getvalue().strip())
    return float(scores.figures[name])


# Tables and plots of a report.


def _has(room: Room, *functions: tuple[str, int]) -> Check:
    def has_what_a_report_calls(name: str) -> None:
        """It has ORDER and what a report calls, with as many arguments as a report gives."""
        module = room.load(name)
        order = getattr(module, "ORDER", None)
        require(isinstance(order, int | float), "no ORDER, a number: its place among the others")
        for function, arguments in functions:
            found = getattr(module, function, None)
            if not callable(found):
                raise ContractError(f"no function {function}")
            inspect.signature(found).bind(*range(arguments))

    return has_what_a_report_calls


def plot_has_a_scope(name: str) -> None:
    """SCOPE is group or manifest."""
    scope = getattr(KINDS["plot"].load(name), "SCOPE", None)
    require(scope in ("group", "manifest"), f"SCOPE is {scope!r}")


# Schedules.


def schedule_stays_within(name: str) -> None:
    """Its factors are from 0 to 1, for runs of any length, and the same each time."""
    schedule = SCHEDULES.settings(name)()
    for steps in (1, 2, 7, 1000):
        factors = [schedule.factor(step, steps) for step in range(steps)]
        wrong = [step for step, factor in enumerate(factors) if not 0 <= factor <= 1]
        require(not wrong, f"of {steps} steps {wrong[:3]} have factors {[factors[step] for step in wrong[:3]]}")
        require(factors == [schedule.factor(step, steps) for step in range(steps)], "asked again, it answers otherwise")
        require(any(factors), f"of {steps} steps none moves anything")


# What needs torch is checked in modules of its own, imported when one is checked.


def _of_module(module: str, promises: Mapping[str, str]) -> tuple[Check, ...]:
    def make(check: str, promise: str) -> Check:
        def imported(name: str) -> None:
            getattr(import_module(f"jobs.testing.{module}"), check)(name)

        imported.__doc__ = promise
        return imported

    return tuple(make(check, promise) for check, promise in promises.items())


NETWORK_CHECKS = {
    "gives_logits": "It gives a finite logit for each title and category, and every weight a gradient in every step",
    "titles_stand_alone": "Neither padding nor the company of other titles changes a prediction",
    "dropout_is_a_setting": "All dropout follows its settings, and is on in training alone",
    "learns_by_heart": "It learns fifty titles by heart",
    "is_saved": "Weights saved and loaded give the same predictions; frozen word vectors are no part of them",
    "is_the_same_again": "A step is the same to the bit again",
    "padding_stays_zero": "Trained word vectors move where a title has the word, and the padding's stays zero",
    "takes_no_hidden_layer": "No hidden layer is a legal choice",
}
OPTIMISER_CHECKS = {
    "moves_weights": "It moves weights and its own states in place, against their gradients",
    "goes_on_to_the_bit": "A run that was saved and goes on ends with the same bits",
    "lazy_is_dense": "Word vectors whose steps it catches up with end where those moved in every step do",
}
SPACE_CHECKS = _of_module("spaces", {"default_space_is_legal": "What it declares as SPACE, if anything, is legal"})
ESTIMATOR_CHECKS = (estimator_scores, estimator_is_the_same_again, estimator_is_saved, estimator_counts_its_parameters)
CONTRACTS: Mapping[str, Sequence[Check]] = {
    "network": (imports_no_torch("network"), _of(MODELS), *SPACE_CHECKS, *_of_module("networks", NETWORK_CHECKS)),
    "estimator": (imports_no_torch("estimator"), _of(MODELS), *SPACE_CHECKS, *ESTIMATOR_CHECKS),
    "optimiser": (imports_no_torch("optimiser"), _of(OPTIMISERS), *_of_module("optimisers", OPTIMISER_CHECKS)),
    "schedule": (imports_no_torch("schedule"), _of(SCHEDULES), schedule_stays_within),
    "search algorithm": (algorithm_draws_are_legal, algorithm_is_a_function, algorithm_takes_any_history),
    "stopping rule": (_of(STOPPING), rule_has_rising_rungs, rule_promotes_some),
    "metric": (metric_is_a_number, metric_takes_any_split),
    "table": (_has(KINDS["table"], ("build", 3)),),
    "plot": (_has(KINDS["plot"], ("build", 3), ("draw", 2)), plot_has_a_scope),
}
