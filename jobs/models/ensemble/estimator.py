"""Members chosen on validation titles, and the mean of their probabilities, each at its own temperature."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.calibration import Sample
from jobs.context import Context, TaskInterruptedError, allotted_cpus
from jobs.data.dataset import Dataset, Split
from jobs.metrics import metric_of, probabilities
from jobs.models.ensemble import Settings
from jobs.search.summary import winner
from jobs.storage import Storage
from jobs.task import read_record
from jobs.training.metrics import of_logits
from jobs.training.run import Trained
from sharedfs.documents import decode_as, read_json, write_json
from sharedfs.errors import DamagedFileError, InputError

ENSEMBLE = "ensemble.json"
_LEAST = 1e-30  # a probability below it is taken for it: its logarithm is a number

Chances = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A run by its task's id, what its probabilities count, and the temperature at which they are calibrated."""

    run: str
    weight: float
    temperature: float


class Ensemble:
    """Members with their weights, which are those of the runs themselves, where these are."""

    def __init__(self, storage: Storage, members: Sequence[Member], dataset: str) -> None:
        self.members = tuple(members)
        self._storage, self._dataset = storage, dataset
        # Opened before any title: a plugin that one needs is looked for, and weights that are gone are told, at once.
        self._trained = tuple(_open(storage, member.run, dataset) for member in members)

    @property
    def parameters(self) -> int | None:
        """Of all members together; None where a member's record does not say."""
        records = [read_record(self._storage.run(member.run)) for member in self.members]
        counts = [None if record is None else record.result.get("parameters") for record in records]
        return sum(count for count in counts if isinstance(count, int)) if None not in counts else None

    def save(self, folder: Path) -> tuple[Path, ...]:
        write_json(folder / ENSEMBLE, {"dataset": self._dataset, "members": [asdict(one) for one in self.members]})
        return (folder / ENSEMBLE,)

    def scores(self, split: Split) -> NDArray[np.float32]:
        """The logarithm of the mean probability of each category, (N, C): logits whose softmax is that mean."""
        total: Chances | None = None
        for member, trained in zip(self.members, self._trained, strict=True):
            trained.prepare(cpus=allotted_cpus())
            for rows, logits, _ in trained.logits(split):
                if total is None:
                    total = np.zeros((len(split), logits.shape[1]), np.float32)
                total[rows] += member.weight * probabilities(logits / np.float32(member.temperature))
        assert total is not None  # an ensemble has members
        return _logarithm(total)


def fit(dataset: Dataset, settings: Settings, context: Context) -> Ensemble:
    """Choose among the members. Raises InputError for one of another data set, TaskInterruptedError when asked to."""
    folders = [_folder(context.storage, member) for member in settings.members]
    chances, temperatures = [], []
    for folder in folders:
        if context.interrupted():
            raise TaskInterruptedError("before all members were looked at; nothing is lost but a moment")
        trained = _open(context.storage, folder.name, dataset.folder.name)
        trained.prepare(cpus=context.cpus)
        split = dataset.splits["validation"]
        sample = Sample(titles=len(split))
        for _ in sample.seen(trained.logits(split)):
            pass
        temperatures.append(sample.temperature())
        # In single precision: all members' are in memory together (titles x categories x members).
        chances.append(probabilities(sample.logits / np.float32(temperatures[-1])).astype(np.float32))
        labels = sample.labels
    counts = choose(chances, labels, settings)
    members = [
        Member(run=folders[at].name, weight=count / sum(counts.values()), temperature=temperatures[at])
        for at, count in counts.items()
    ]
    for member in members:
        context.log(f"{member.run}: weight {member.weight:.3f}, temperature {member.temperature:.3f}")
    return Ensemble(context.storage, members, dataset.folder.name)


def load(folder: Path) -> Ensemble:
    """The ensemble that ``save`` left in a run's folder; its members are beside it."""
    document = decode_as(_Saved, read_json(folder / ENSEMBLE), folder / ENSEMBLE, "an ensemble")
    # Resolved: `predict` may name it from inside the runs, and `repro` through a link.
    return Ensemble(Storage(folder.resolve().parents[1]), document.members, document.dataset)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Saved:
    dataset: str
    members: tuple[Member, ...]


def choose(chances: Sequence[Chances], labels: NDArray[np.int64], settings: Settings) -> Counter[int]:
    """How often each member counts, by its position; ``chances`` are each one's probabilities, (N, C)."""
    metric = metric_of(settings.select_by)
    figure = settings.select_by.removeprefix("validation_")

    def value(mean: Chances) -> float:
        return metric.sign * float(of_logits(_logarithm(mean), labels).figures[figure])

    ranked = list(range(len(chances)))
    if settings.top is not None or settings.greedy is not None:
        alone = [value(each) for each in chances]
        ranked = sorted(ranked, key=lambda at: -alone[at])[: settings.top]
    if settings.greedy is None:
        return Counter(ranked)
    chosen = [ranked[0]]
    values = [alone[ranked[0]]]
    total = chances[ranked[0]].copy()
    for _ in range(settings.greedy):
        added = {at: value((total + chances[at]) / (len(chosen) + 1)) for at in ranked}
        best = max(ranked, key=lambda at: added[at])
        chosen.append(best)
        values.append(added[best])
        total += chances[best]
    # As many as were best together: what was added later made it worse.
    return Counter(chosen[: values.index(max(values)) + 1])


def _folder(storage: Storage, member: str) -> Path:
    search, _, place = member.partition("/")
    if not place:
        return storage.run(member)
    trials, _, rank = place.partition("/")
    return winner(storage, search, int(trials), int(rank))


def _open(storage: Storage, run: str, dataset: str) -> Trained:
    """A member; raises InputError where it is of another data set, DamagedFileError where it is not whole."""
    try:
        trained = Trained.open(storage, storage.run(run))
    except FileNotFoundError as error:
        raise DamagedFileError(f"{storage.run(run)}: a member whose weights are gone: train it again") from error
    if trained.recipe.dataset != dataset:
        raise InputError(f"member {run} is of data set {trained.recipe.dataset}, the ensemble of {dataset}")
    return trained


def _logarithm(chances: Chances) -> NDArray[np.float32]:
    return np.log(np.maximum(chances, _LEAST, dtype=np.float32))
