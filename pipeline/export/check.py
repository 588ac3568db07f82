"""Whether an exported folder is what it was, and gives the same again: `tanda repro FOLDER --check`."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jobs.data.dataset import META, Dataset
from jobs.metrics import Counts, all_metrics
from jobs.metrics.balanced_accuracy import recall
from jobs.storage import Storage
from jobs.task import RECORD, Record, read_record
from jobs.training.metrics import EVALUATION
from pipeline.export import OF_TASK, copy_files, sums
from pipeline.export.contents import DATASETS, REPORT, SUMS, Export, report_files
from pipeline.export.weights import weights_files
from pipeline.plan import Plan, Planned, make_arrays, make_plan
from pipeline.report.collect import Collected, Result
from pipeline.report.records import Predictions
from pipeline.repro import Difference, compare_file, run_again
from sharedfs.documents import read_json
from sharedfs.errors import DamagedFileError
from sharedfs.files import read_plain
from sharedfs.typed_json import Json

TOLERANCE = 1e-9  # of scores, which are sums of shares


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What differs, and what was and was not looked at, a line each."""

    differences: tuple[Difference, ...]
    notes: tuple[str, ...]


def is_export(folder: Path) -> bool:
    return (folder / SUMS).exists()


def describe_export(folder: Path) -> Mapping[str, Json]:
    """What made a folder, and of how many files; the digest of the list of their sums stands for them all."""
    about = Export(folder).about()
    return {
        "manifest": about.manifest,
        "only": about.only,
        "git_commit": about.git_commit,
        "tanda": about.version,
        "python": about.python,
        "plugins": list(about.plugins),
        "files": len(_listed(folder)),
        "sha256": hashlib.sha256(read_plain(folder / SUMS)).hexdigest(),
        "datasets": read_json(folder / DATASETS),
    }


def check_export(folder: Path, *, sets: Sequence[str] = (), train: bool = True) -> Checked:
    """Compare every file with its sum, then scores with the predictions, tables with both, and where the data are,
    runs with those trained again.

    ``sets`` are changes of the manifest that say where the data are here. Raises InputError and DamagedFileError for
    a folder that cannot be read as an export.
    """
    folder = folder.resolve()
    changed = tuple(_changed_files(folder))
    if changed:
        return Checked(differences=changed, notes=("files are not what they were: nothing was computed from them",))
    made = Export(folder)
    collected = made.collected()
    done = [result for result in collected.results if result.done]
    notes = [f"{len(sums(folder))} files are what they were"]
    differences = [found for result in done for found in _other_scores(collected, result)]
    notes.append(f"scores of {len(done)} runs computed again from their predictions")
    tables = report_files(collected)
    for name, content in tables.items():
        path = folder / REPORT / name
        if not path.exists() or read_plain(path) != content:
            differences.append(Difference(file=f"{REPORT}/{name}", why="other numbers, or made by another version"))
    notes.append(f"{len(tables)} tables made again")
    if train:
        again, said = _train_again(made, collected, sets)
        differences += again
        notes.append(said)
    return Checked(differences=tuple(differences), notes=tuple(notes))


# Whether the files are what they were.


def _listed(folder: Path) -> dict[str, str]:
    """The sums as they are listed, by path."""
    found = {}
    for number, line in enumerate(read_plain(folder / SUMS).decode(errors="replace").splitlines(), start=1):
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name:
            raise DamagedFileError(f"{folder / SUMS}:{number}: not a sum with a path behind it")
        found[name] = digest
    return found


def _changed_files(folder: Path) -> Iterator[Difference]:
    listed, found = _listed(folder), sums(folder)
    for name in sorted(listed.keys() | found.keys()):
        if name not in found:
            yield Difference(file=name, why="missing, or a link")
        elif name not in listed:
            yield Difference(file=name, why=f"not in {SUMS}")
        elif listed[name] != found[name]:
            yield Difference(file=name, why=f"sha256 {listed[name][:16]}, now {found[name][:16]}")


# Whether the scores are those of the predictions.


def _other_scores(collected: Collected, result: Result) -> Iterator[Difference]:
    """What of a run's scores does not follow from its answers."""
    file = f"runs/{result.row.evaluate}/{EVALUATION}"
    evaluation = collected.evaluation(result)
    for split in ("validation", "test"):
        predictions = collected.predictions(result, split)
        if predictions is None or split not in evaluation:
            yield Difference(file=file, why=f"no predictions of {split} to compute it from")
            continue
        counts = _counts(predictions, len(collected.classes(result)))
        stated = evaluation[split]
        if not np.array_equal(stated.support, counts.support) or not np.allclose(
            stated.recall, recall(counts.support, counts.correct), atol=TOLERANCE, equal_nan=True
        ):
            yield Difference(file=file, why=f"recalls on {split} are not those of its predictions")
        for name, value in _figures(counts).items():
            was = result.figures.get(f"{split}_{name}")
            if was is None or abs(was - value) > TOLERANCE:
                yield Difference(file=f"runs/{result.row.evaluate}/{RECORD}", why=f"{split}_{name} {was}, now {value}")


def _counts(predictions: Predictions, classes: int) -> Counts:
    label, predicted = predictions.label.astype(np.int64), predictions.predicted.astype(np.int64)
    return Counts(
        support=np.bincount(label, minlength=classes),
        correct=np.bincount(label[label == predicted], minlength=classes),
        predicted=np.bincount(predicted, minlength=classes),
        loss=math.nan,  # which logits alone could tell: what is made of it is left out
    )


def _figures(counts: Counts) -> dict[str, float]:
    """The metrics that follow from counts of answers."""
    values = {name: metric.value(counts, None) for name, metric in all_metrics().items() if metric.of_titles is None}
    return {name: value for name, value in values.items() if math.isfinite(value)}


# Whether training gives the same again.


def _train_again(made: Export, collected: Collected, sets: Sequence[str]) -> tuple[list[Difference], str]:
    """Make the data sets, train and evaluate every run that is done again, and compare; or why that was left out."""
    with tempfile.TemporaryDirectory(prefix="tanda-repro-") as name:
        again = Storage(Path(name))
        try:
            plan = make_plan(replace(made.manifest(sets), storage=again.root), only=made.about().only)
        except FileNotFoundError as error:
            return [], f"nothing was trained again: {error}"
        known = {planned.id for planned in made.plan().tasks}
        if not {planned.id for planned in plan.tasks} <= known:
            return [], "nothing was trained again: the data files here are not those that the results were made from"
        _copy_trials(made, again, plan)
        wanted = _wanted(collected, plan)
        differences: list[Difference] = []
        for planned in wanted:
            differences += _make_again(made, again, planned)
        return differences, f"{len(wanted)} tasks run again, {len(differences)} files of them differ"


def _wanted(collected: Collected, plan: Plan) -> list[Planned]:
    """The tasks that led to the runs that are done, each after what it needs; of a search its winner's trial alone."""
    done = [result for result in collected.results if result.done]
    ids = {id_ for result in done for id_ in (result.row.dataset, result.id, result.row.evaluate)}
    ordered = [planned for array in make_arrays(plan.tasks) for planned in array.tasks]
    ids |= {
        shard for planned in ordered if planned.id in ids and planned.stage == "preprocess" for shard in planned.after
    }
    return [planned for planned in ordered if planned.id in ids]


def _copy_trials(made: Export, again: Storage, plan: Plan) -> None:
    """A search's points and records, by which its winner is known, as they were."""
    for search in plan.searches:
        home = made.storage.search(search.id)
        for path in sorted(home.rglob("*.json")):
            copy_files(path.parent, again.search(search.id) / path.parent.relative_to(home), (path.name,))
        for trial in search.trials:
            copy_files(made.storage.run(trial), again.run(trial), OF_TASK)


def _make_again(made: Export, again: Storage, planned: Planned) -> Iterator[Difference]:
    record = read_record(made.storage.run(planned.id))
    where = f"runs/{planned.id}"
    if record is None:
        yield Difference(file=where, why="no record to compare with")
        return
    folder = planned.task.write(again)
    for name in set(OF_TASK) - {"task.json"}:
        (folder / name).unlink(missing_ok=True)
    status = run_again(folder, record)
    made_again = read_record(folder)
    if status != 0 or made_again is None:
        yield Difference(file=where, why=f"it ended with status {status} when it was started again")
    elif planned.stage == "preprocess":
        yield from _compare_dataset(made, again, planned)
    else:
        yield from _compare_run(made, again, record, made_again)


def _compare_dataset(made: Export, again: Storage, planned: Planned) -> Iterator[Difference]:
    """By the digests of its files: the files themselves are not in the folder."""
    if not again.dataset(planned.id).exists():
        return  # a shard
    was, now = (Dataset.open(storage.dataset(planned.id)).meta.files for storage in (made.storage, again))
    for name in sorted(was.keys() | now.keys()):
        if was.get(name) != now.get(name):
            yield Difference(file=f"datasets/{planned.id}/{name}", why=f"not as {META} has it")


def _compare_run(made: Export, again: Storage, record: Record, made_again: Record) -> Iterator[Difference]:
    for file in record.files:
        if Path(file).name in OF_TASK and (found := compare_file(made.storage.root, again.root, file)):
            yield found
    if record.stage == "evaluate":
        return
    for name, content in weights_files(again.run(record.id), made_again).items():
        path = made.folder / name
        if not path.exists() or read_plain(path) != content:
            yield Difference(file=name, why="other weights")
