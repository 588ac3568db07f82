"""Metrics, each one file here, found by its name: titles, which way is better, how it is computed.

A file holds ``METRIC``, a ``Metric``. Its name is the file's; the figure of a split is called ``test_<name>``, in
evaluation.json, records, tables, MLflow and manifests alike. ``ORDER`` says where in tables it comes; one without comes
last. NumPy at most is imported, no torch.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jobs.plugins import METRICS
from sharedfs.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Counted = NDArray[np.int64]
    Logits = NDArray[np.floating[Any]]
    Values = NDArray[np.float64]

DEFAULT_LANGUAGE = "en"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What a pass over titles adds up, in training after every epoch and in evaluation.

    ``support`` (C,) are the titles of each category, ``correct`` (C,) those of them that were rightly classified,
    ``loss`` the sum over all titles of what training minimises.
    """

    support: Counted
    correct: Counted
    loss: float

    @property
    def titles(self) -> int:
        """How many titles there were."""
        return int(self.support.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts(Pass):
    """What evaluation counts besides: ``predicted`` (C,) are the titles that were classified as each category."""

    predicted: Counted


def probabilities(logits: Logits) -> Values:
    """Each title's softmax, (B, C), in float64."""
    import numpy as np

    # The highest logit is taken off first: the largest exponential is then 1 and none overflows.
    chances: Values = np.exp((logits - logits.max(1, keepdims=True)).astype(np.float64))
    chances /= chances.sum(1, keepdims=True)
    return chances


def mean(values: Values) -> float:
    """The mean of a value per title, (N,)."""
    return float(values.mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric, computed in exactly one of three ways.

    - ``of_pass``: from what every pass adds up. Training then computes it after every epoch too: it has curves, and a
      search may be judged by it.
    - ``of_counts``: from counts by category, when a run is evaluated.
    - ``of_titles``: from logits (B, C) and labels (B,), a part of the split at a time: a value per title, (B,), or
      several, (B, K). ``over_titles`` makes the figure of all of them, (N,) or (N, K), in the split's order.

    ``title`` is a text, or one a language, English where a language has none; ``unit`` what it is measured in, if
    anything; ``decimals`` are those of tables. A figure that is not finite counts as missing.
    """

    title: str | Mapping[str, str]
    higher_is_better: bool
    unit: str = ""
    decimals: int = 3
    of_pass: Callable[[Pass], float] | None = None
    of_counts: Callable[[Counts], float] | None = None
    of_titles: Callable[[Logits, Counted], NDArray[Any]] | None = None
    over_titles: Callable[[Values], float] = mean

    def __post_init__(self) -> None:
        ways = [way for way in ("of_pass", "of_counts", "of_titles") if getattr(self, way) is not None]
        if len(ways) != 1:
            raise ValueError(f"a metric has one of of_pass, of_counts and of_titles, not {len(ways)} of them")

    @property
    def sign(self) -> int:
        """What its values are multiplied by so that larger is better."""
        return 1 if self.higher_is_better else -1

    def title_in(self, language: str) -> str:
        """Its title with its unit."""
        titles = {DEFAULT_LANGUAGE: self.title} if isinstance(self.title, str) else self.title
        title = titles.get(language) or titles[DEFAULT_LANGUAGE]
        return f"{title} ({self.unit})" if self.unit else title

    def value(self, counts: Counts, values: Values | None) -> float:
        """The figure of an evaluated split; ``values`` are those of ``of_titles``, where it has that."""
        if values is not None:
            return float(self.over_titles(values))
        of_counts = self.of_counts or self.of_pass
        assert of_counts is not None
        return float(of_counts(counts))


def all_metrics() -> dict[str, Metric]:
    """Every metric by name, plugins among them, in the order of tables; raises InputError for a module without one."""
    metrics = {}
    for module in METRICS.modules():
        metric = getattr(module, "METRIC", None)
        if not isinstance(metric, Metric):
            raise InputError(f"{module.__file__}: a metric must have METRIC = Metric(...) of jobs.metrics")
        name = module.__name__.rpartition(".")[2]
        metrics[name] = metric if METRICS.plugin(name) is None else _guarded(name, metric)
    return metrics


def _guarded(name: str, metric: Metric) -> Metric:
    """A plugin's metric: where its function fails, its figure is missing, as the log says, and the run goes on."""

    def guard(function: Callable[..., Any], missing: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            try:
                return function(*given)
            except Exception as error:  # noqa: BLE001 - a person's own code, which no training may be lost for
                print(f"metric {name}: {type(error).__name__}: {error}: its figure is missing", file=sys.stderr)
                return missing(*given)

        return call

    def no_number(*_given: Any) -> float:
        return math.nan

    return replace(
        metric,
        of_pass=metric.of_pass and guard(metric.of_pass, no_number),
        of_counts=metric.of_counts and guard(metric.of_counts, no_number),
        of_titles=metric.of_titles and guard(metric.of_titles, lambda _logits, labels: labels * math.nan),
        over_titles=guard(metric.over_titles, no_number),
    )


def every_epoch() -> dict[str, Metric]:
    """Those that training computes after every epoch."""
    return {name: metric for name, metric in all_metrics().items() if metric.of_pass is not None}


def pass_figures(sums: Pass) -> dict[str, float]:
    """The figures of an epoch's pass over a split, by metric."""
    return {name: float(metric.of_pass(sums)) for name, metric in all_metrics().items() if metric.of_pass is not None}


def metric_of(figure: str) -> Metric:
    """The metric of a figure such as ``validation_loss``; raises InputError where there is none."""
    metric: Metric = METRICS.load(figure.partition("_")[2]).METRIC
    return metric


def searchable() -> tuple[str, ...]:
    """The figures that a search may be judged by: never one of the test split."""
    return tuple(f"validation_{name}" for name in every_epoch())
