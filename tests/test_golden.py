"""Results stay what they were: what ``tests/golden.py`` computes against ``tests/data/golden.json``."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from jobs.plugins import MODELS

PROGRAM = Path(__file__).parent / "golden.py"
EXPECTED = Path(__file__).parent / "data" / "golden.json"
STEP_TOLERANCE = 1e-4
# A whole training is several times as many steps as those looked at one by one: roundings have grown by then.
END_TOLERANCE = 1e-3
TITLES = 2

ADVICE = """
Results have moved. Where that is not what the change is for, it has a fault.
Where it is: `.venv/bin/python tests/golden.py --write` renews tests/data/golden.json. Read its diff; tell CHANGELOG.md.
"""


def moved(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What moved, a line each: what, where, expected and got; what comes first in a run comes first here."""
    lines = []
    for part, compare in (("data_sets", _plainly), ("runs", _run)):
        if expected[part].keys() != found[part].keys():
            lines.append(f"{part}: expected {', '.join(expected[part])}; got {', '.join(found[part])}")
        for name in (name for name in expected[part] if name in found[part]):
            lines += [f"{part}: {name}: {line}" for line in compare(expected[part][name], found[part][name])]
    return lines


def _plainly(expected: Any, found: Any, *, tolerance: float = STEP_TOLERANCE, where: str = "") -> Iterator[str]:
    """Values side by side; numbers with a fraction may differ by the tolerance."""
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        for name, value in expected.items():
            inner = f"{where}.{name}" if where else name
            yield from _plainly(value, found[name], tolerance=tolerance, where=inner)
        return
    numbers = isinstance(expected, float) and isinstance(found, int | float)
    if not (abs(expected - found) <= tolerance if numbers else expected == found):
        yield f"{where}: expected {expected}, got {found}"


def _run(expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    yield from _losses(expected["losses"], found["losses"])
    rest = [{name: run[name] for name in ("data_set", "trained")} for run in (expected, found)]
    yield from _plainly(*rest, tolerance=END_TOLERANCE)
    for split, scores in expected["evaluated"].items():
        yield from (f"evaluated on {split}: {line}" for line in _scores(scores, found["evaluated"][split]))


def _losses(expected: list[float], found: list[float]) -> Iterator[str]:
    if len(expected) != len(found):
        yield f"losses: expected {len(expected)} training steps, got {len(found)}"
    pairs = zip(expected, found, strict=False)
    # The steps after the first that moved only follow from it.
    for step, (before, now) in enumerate(pairs, start=1):
        if not abs(before - now) <= STEP_TOLERANCE:
            yield f"loss of step {step}: expected {before}, got {now}"
            return


def _scores(expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    """Labels are the same, two titles may be put elsewhere; the figures are exact where none is."""
    if expected["labels"] != found["labels"]:
        yield f"labels: expected {expected['labels']}, got {found['labels']}"
        return
    labels = expected["labels"]
    differ = sum(before != now for before, now in zip(expected["predicted"], found["predicted"], strict=True))
    if differ > TITLES:
        yield f"{differ} titles are put elsewhere: expected {expected['predicted']}, got {found['predicted']}"
    smallest = min(labels.count(label) for label in set(labels))
    allowed = {name: END_TOLERANCE + differ / len(labels) for name in ("accuracy", "top5")}
    # One title of the smallest category moves a mean over the categories by this much; of an F1, another's moves too.
    allowed["balanced_accuracy"] = END_TOLERANCE + differ / smallest / len(set(labels))
    allowed["macro_f1"] = END_TOLERANCE + 2 * differ / smallest / len(set(labels))
    figures = {name for name, value in expected.items() if isinstance(value, float)}
    for name in sorted(figures):
        if not abs(expected[name] - found[name]) <= allowed.get(name, END_TOLERANCE):
            yield f"{name}: expected {expected[name]}, got {found[name]}"


def test_results_have_not_moved() -> None:
    ended = subprocess.run([sys.executable, PROGRAM], capture_output=True, text=True, timeout=280, check=False)
    assert ended.returncode == 0, ended.stderr
    expected, found = json.loads(EXPECTED.read_text(encoding="utf-8")), json.loads(ended.stdout)
    lines = moved(expected, found)
    assert not lines, "\n".join([ADVICE, *lines, _versions(expected["made_with"], found["made_with"])])


def _versions(expected: Mapping[str, str], found: Mapping[str, str]) -> str:
    other = [f"{name} {found[name]}, not {version}" for name, version in expected.items() if found[name] != version]
    return f"The expected figures were made with other versions: here {'; '.join(other)}." if other else ""


def test_every_architecture_is_there_with_its_first_steps() -> None:

    runs = json.loads(EXPECTED.read_text(encoding="utf-8"))["runs"]
    # The small encoder of tests is random: what a pretrained one gives is compared in test_encoder.py.
    for architecture in [name for name in MODELS.names() if not MODELS.settings(name).takes_encoder]:
        of_it = [run for name, run in runs.items() if name.split("-")[0] == architecture]
        steps = 20 if MODELS.load(architecture).KIND == "network" else 0
        assert len(of_it) >= 2 and all(len(run["losses"]) == steps for run in of_it), architecture


def _set(*path: str | int, to: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        value = document[path[-1]]
        document[path[-1]] = to(value) if callable(to) else to

    return change


def _put_elsewhere(titles: int) -> Callable[[str], str]:
    return lambda predicted: "".join("?" if at < titles else label for at, label in enumerate(predicted))


CNN = ("runs", "cnn")
MLP_DATA = ("data_sets", "mlp")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (_set(*CNN, "losses", 6, to=9.5), "runs: cnn: loss of step 7: expected "),
        (_set(*CNN, "losses", 6, to=lambda loss: loss + 2e-4), "runs: cnn: loss of step 7: expected "),
        (_set(*CNN, "losses", 0, to=float("nan")), "runs: cnn: loss of step 1: expected "),
        (_set(*CNN, "losses", to=[]), "runs: cnn: losses: expected 20 training steps, got 0"),
        (_set(*CNN, "trained", "kept_epoch", to=7), "runs: cnn: trained.kept_epoch: expected "),
        (_set(*CNN, "evaluated", "test", "predicted", to=_put_elsewhere(3)), "runs: cnn: evaluated on test: 3 titles"),
        (_set(*CNN, "evaluated", "test", "labels", to="0"), "runs: cnn: evaluated on test: labels: expected "),
        (_set(*CNN, "evaluated", "test", "macro_f1", to=0.1), "runs: cnn: evaluated on test: macro_f1: expected "),
        (_set(*MLP_DATA, "categories", to=["B", "A"]), "data_sets: mlp: categories: expected "),
        (
            _set(*MLP_DATA, "splits", "test", "labels_sha256", to="0"),
            "data_sets: mlp: splits.test.labels_sha256: expected ",
        ),
        (_set("runs", to={}), "runs: expected mlp, cnn, "),
    ],
)
def test_what_moved_is_named(change: Callable[[Any], None], line: str) -> None:
    expected = json.loads(EXPECTED.read_text(encoding="utf-8"))
    found = copy.deepcopy(expected)
    change(found)
    lines = moved(expected, found)
    assert len(lines) == 1 and lines[0].startswith(line)


def test_roundings_and_two_titles_do_not_count() -> None:
    expected = json.loads(EXPECTED.read_text(encoding="utf-8"))
    found = copy.deepcopy(expected)
    found["runs"]["cnn"]["losses"][3] += 9e-5
    _set(*CNN, "evaluated", "test", "predicted", to=_put_elsewhere(2))(found)
    assert moved(expected, found) == []
