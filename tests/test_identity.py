"""What an upgrade does to results: none is orphaned, what earlier code made is named, and made again when asked."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytest
from annotated_types import Ge
from small_manifest import MANIFEST, tanda, write_manifest

from jobs import units
from jobs.data.identity import DatasetDefinition, identify
from jobs.data.settings import Data, Text
from jobs.models import mlp, model_unit, read_recipe
from jobs.plugins import MODELS, OPTIMISERS, SCHEDULES
from jobs.settings import ORIGINAL, PLUMBING, Baseline, Doc, beside, deciding, settings, values
from jobs.testing import recipe_with
from jobs.units import Unit, change_of, made
from sharedfs.documents import digest
from sharedfs.errors import DamagedFileError
from sharedfs.typed_json import Undecodable, decode

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = """
experiments:
  group:
    runs:
      MLP: {architecture: mlp}
      wide: {architecture: mlp, hidden_layers: [32]}
resources:"""
TEXT = MANIFEST.split("experiments:")[0] + EXPERIMENTS.strip() + MANIFEST.split("resources:")[1]


@settings
class Grown(mlp.Settings):
    """A later version: one setting more."""

    heads: Annotated[int, Ge(1), Baseline(1), Doc("heads")] = 1


@settings
class Turned(mlp.Settings):
    """A later version still: the new setting has another default."""

    heads: Annotated[int, Ge(1), Baseline(1), Doc("heads")] = 4


def test_a_setting_at_its_baseline_is_in_no_id_and_one_of_another_value_is() -> None:
    before = recipe_with("mlp", dropout=0.1).identity
    grown = Grown(dropout=0.1)
    assert deciding(grown) == {name: value for name, value in before.items() if name not in ("architecture", "dataset")}
    assert digest(deciding(Grown(dropout=0.1, heads=1))) == digest(deciding(grown))
    assert deciding(Grown(heads=2)) == {**deciding(Grown()), "heads": 2}
    assert deciding(Turned()) == {**deciding(Grown()), "heads": 4}, "a changed default is another run"
    assert deciding(Turned(heads=1)) == deciding(Grown()), "which named its value before keeps its id"
    assert "device" not in deciding(grown) and {"device", "heads"} <= beside(grown).keys()


def test_numbers_are_in_their_settings_types_so_that_0_and_0_0_are_one() -> None:
    assert digest(recipe_with("mlp", dropout=0, epochs=3.0).identity) == digest(recipe_with("mlp", epochs=3).identity)


@pytest.mark.parametrize(
    "metadata",
    [(), (Doc("no role"),), (ORIGINAL,), (ORIGINAL, Baseline(1), Doc("two roles")), (PLUMBING,)],
    ids=["nothing", "no role", "no meaning", "two roles", "plumbing without a meaning"],
)
def test_a_setting_without_a_meaning_or_a_role_is_refused_when_it_is_written(metadata: tuple[object, ...]) -> None:
    kind = Annotated[(int, *metadata)] if metadata else int  # type: ignore[misc]
    with pytest.raises(TypeError, match=r"Loose\.heads: say Doc.*Baseline"):
        settings(type("Loose", (), {"__annotations__": {"heads": kind}, "heads": 1, "__module__": __name__}))


def test_a_run_of_before_opens_with_the_baseline_of_what_came_later(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = recipe_with("mlp", "0123", dropout=0.25).document
    monkeypatch.setattr(mlp, "Settings", Turned)
    assert values(read_recipe(stored, "settings.json").settings) == {**values(Turned(dropout=0.25)), "heads": 1}
    with pytest.raises(DamagedFileError, match=r"settings.json: not settings of mlp: dropout: is missing"):
        read_recipe({name: value for name, value in stored.items() if name != "dropout"}, "settings.json")
    with pytest.raises(DamagedFileError, match="pooling: not known to this version: written by a newer one"):
        read_recipe({**stored, "pooling": "max"}, "settings.json")


@settings
class GrownText(Text):
    """A later version: one setting more, in a section."""

    stems: Annotated[bool, Baseline(False), Doc("words without their endings")] = False


@settings
class GrownData(Data):
    """A later version: one setting more, and one more in a section."""

    text: Annotated[GrownText, ORIGINAL, Doc("text")] = GrownText()
    lines: Annotated[int, Ge(1), Baseline(1), Doc("lines of a title")] = 1


def test_a_setting_of_data_at_its_baseline_is_in_no_id_and_one_of_another_value_is(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("title,category\n")
    source = str(tmp_path / "a.csv")
    before, _ = identify(Data(source=source))
    assert identify(GrownData(source=source))[0] == before
    assert identify(GrownData(source=source, lines=2))[0] == {**before, "lines": 2}
    stems, _ = identify(GrownData(source=source, text=GrownText(stems=True)))
    assert stems == {**before, "text": {**deciding(Text()), "stems": True}}
    assert "quotes" not in before and decode(DatasetDefinition, before).quotes == "checked"
    with pytest.raises(Undecodable, match=r"text\.stems: not known to this version: written by a newer one"):
        decode(DatasetDefinition, stems)
    with pytest.raises(Undecodable, match="max_length: is missing"):
        decode(DatasetDefinition, {name: value for name, value in before.items() if name != "max_length"})


# What code made a result.


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, which ``units`` takes for its own."""
    folder = tmp_path / "jobs"
    shutil.copytree(ROOT / "jobs", folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(units, "HOME", folder)
    for function in (units._files, units._revision, units._content, units._source, units._change):
        function.cache_clear()
    return folder


def _edit(path: Path, change: Callable[[str], str]) -> None:
    before = path.read_text()
    assert change(before) != before
    path.write_text(change(before))
    for function in (units._files, units._revision, units._content, units._source, units._change):
        function.cache_clear()


UNITS = [
    *map(model_unit, MODELS.names()),
    Unit("preprocess"), Unit("training"), Unit("evaluate"), Unit("algorithm", "tpe"), Unit("algorithm", "random"),
    Unit("stopping", "asha"),
    *(Unit(room.name, name) for room in (OPTIMISERS, SCHEDULES) for name in room.names()),
]  # fmt: skip


@pytest.mark.parametrize("unit", UNITS, ids=str)
def test_comments_change_nothing_an_edit_is_reported_and_a_revision_is_named(checkout: Path, unit: Unit) -> None:
    (was,) = made([unit]).values()
    assert unit.files[0].is_relative_to(checkout) and change_of(str(unit), was) is None
    _edit(unit.files[0], lambda text: text.replace('"""', '"""Other words. ', 1) + "\n# a comment\n")
    assert change_of(str(unit), was) is None
    _edit(unit.files[-1], lambda text: text + "\nEDITED = True\n")
    assert str(change_of(str(unit), was)) == f"made by other code of {unit}, whose revision is {was.revision} as before"
    raised = was.revision + 1
    _edit(unit.files[0], lambda text: re.sub(r"^REVISION = \d+$", f"REVISION = {raised}", text, flags=re.MULTILINE))
    assert str(change_of(str(unit), was)) == f"made by revision {was.revision} of {unit}, now {raised}"
    assert str(change_of("model gone", was)) == "made by model gone, which this version does not have"


@pytest.mark.parametrize(
    ("unit", "file"),
    [
        (Unit("estimator", "linear"), "models/linear/estimator.py"),
        (Unit("estimator", "linear"), "training/run.py"),
        (Unit("estimator", "linear"), "training/metrics.py"),
        (Unit("evaluate"), "training/run.py"),
        (Unit("algorithm", "tpe"), "search/algorithms/random.py"),
    ],
    ids=str,
)
def test_an_edit_of_what_a_unit_uses_is_an_edit_of_the_unit(checkout: Path, unit: Unit, file: str) -> None:
    (was,) = made([unit]).values()
    _edit(checkout / file, lambda text: text + "\nEDITED = True\n")
    assert change_of(str(unit), was) is not None


def test_an_estimator_knows_nothing_of_layers_and_steps() -> None:
    assert recipe_with("linear").units == (Unit("estimator", "linear"),)
    assert recipe_with("mlp").units == (
        Unit("model", "mlp"), Unit("optimiser", "adam"), Unit("schedule", "constant"), Unit("training"),
    )  # fmt: skip
    assert not {"layers.py", "optimiser.py"} & {path.name for path in Unit("estimator", "linear").files}


# On a finished storage, by the commands, from a copy of the code that is then edited.


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the code and a manifest, all of whose tasks are done."""
    folder = tmp_path_factory.mktemp("finished")
    for name in ("jobs", "pipeline", "sharedfs", "slurm"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    manifest = write_manifest(folder, TEXT)
    _tanda(folder, "submit", manifest, "--executor", "inline")
    _tanda(folder, "report", manifest)
    return manifest


@pytest.fixture
def upgraded(finished: Path, tmp_path: Path) -> Path:
    """The same in a folder of its own, to be edited."""
    shutil.copytree(finished.parent, tmp_path / "project", ignore=shutil.ignore_patterns("mlflow.*", "mlartifacts"))
    return tmp_path / "project" / finished.name


def _tanda(folder: Path, *words: object) -> str:
    return tanda(*words, environment={"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"})


def _add_setting(path: Path, after: str, text: str) -> None:
    before = path.read_text()
    assert after in before
    path.write_text(before.replace(after, f"{after}\n    {text}", 1))


def test_new_settings_orphan_nothing_and_a_changed_default_redoes_what_leaned_on_it(upgraded: Path) -> None:
    project = upgraded.parent
    folder = project / "storage" / "reports" / "small"
    before = (folder / "results.csv").read_text()
    smoothing = 'target_noise: Annotated[float, Ge(0), Baseline(0.0), Doc("share of the target")] = 0.0'
    training = project / "jobs/training/settings.py"
    _add_setting(training, '    """How a network is trained."""\n', smoothing)
    training.write_text(training.read_text().replace("import ORIGINAL,", "import ORIGINAL, Baseline,"))
    model = project / "jobs/models/mlp/__init__.py"
    model.write_text(
        model.read_text()
        .replace("from jobs.settings import settings", "from typing import Annotated\n\n"
                 "from jobs.settings import Baseline, Doc, settings")
        + '\n    pooling: Annotated[str, Baseline("mean"), Doc("how words are put together")] = "mean"\n'
    )  # fmt: skip
    plan = json.loads(_tanda(project, "plan", upgraded, "--json"))
    assert [task["done"] for task in plan["tasks"]] == [True] * len(plan["tasks"])
    assert _tanda(project, "gc", upgraded).strip() == "nothing to remove"
    _tanda(project, "report", upgraded)
    lines = [line.split(",") for line in (folder / "results.csv").read_text().splitlines()]
    new = [at for at, name in enumerate(lines[0]) if name in ("target_noise", "pooling")]
    assert len(new) == 2
    old = [[value for at, value in enumerate(line) if at not in new] for line in lines]
    assert "\n".join(",".join(line) for line in old) + "\n" == before, "the same but for the new columns"
    # A default that changes: the runs that leaned on it are other runs now.
    model.write_text(model.read_text().replace('= "mean"\n', '= "max"\n'))
    plan = json.loads(_tanda(project, "plan", upgraded, "--json", "--set", "experiments.group.runs.wide.pooling=mean"))
    assert {task["run"]: task["done"] for task in plan["tasks"] if task["stage"] == "train"} == {
        "MLP": False,
        "wide": True,
    }


def test_a_new_setting_of_data_orphans_nothing_and_data_sets_without_it_are_opened(upgraded: Path) -> None:
    project = upgraded.parent
    data = project / "jobs/data/settings.py"
    lines = 'lines: Annotated[int, Ge(1), Baseline(1), Doc("lines of a title")] = 1\n'
    _add_setting(data, '    """What is made of the rows, wherever they are."""\n', lines)
    stems = 'stems: Annotated[bool, Baseline(False), Doc("words without their endings")] = False\n'
    _add_setting(
        data,
        '    order see the words first. Unknown words are ``<UNK>``; unknown n-grams are left out.\n    """\n',
        stems,
    )
    assert "0 to do" in _tanda(project, "plan", upgraded)
    assert _tanda(project, "gc", upgraded).strip() == "nothing to remove"
    plan = json.loads(_tanda(project, "plan", upgraded, "--json"))
    run = next(task["id"] for task in plan["tasks"] if task["stage"] == "train")
    (project / "titles.txt").write_text("celular liberado\n")
    assert _tanda(project, "predict", project / "storage/runs" / run, project / "titles.txt").strip()
    for changed in ("data.lines=2", "data.text.stems=true"):
        assert ", 0 done" in _tanda(project, "plan", upgraded, "--set", changed)


def test_an_edited_model_is_reported_and_made_again_when_asked(upgraded: Path) -> None:
    project, storage = upgraded.parent, upgraded.parent / "storage"
    model = project / "jobs/models/mlp/network.py"
    model.write_text(model.read_text() + "\nEDITED = True\n")
    text = _tanda(project, "plan", upgraded)
    assert "0 to do" in text
    assert "4 done, made by other code of model mlp, whose revision is 1 as before: group/MLP/train seed 0" in text
    assert "--rerun changed" in text
    states = json.loads(_tanda(project, "status", upgraded, "--json"))["tasks"]
    assert {state["stage"] for state in states if state["changed"]} == {"train", "evaluate"}
    _tanda(project, "report", upgraded)
    note = "Not made by the code of this version: MLP, wide (other code of model mlp, whose revision is 1 as before)."
    assert note in (storage / "reports/small/results.md").read_text()
    before = {path: path.read_bytes() for path in storage.glob("runs/*/record.json")}
    _tanda(project, "submit", upgraded, "--executor", "inline", "--rerun", "changed")
    assert "made by" not in _tanda(project, "plan", upgraded)
    kept = {
        path.parents[2] / "record.json": path.read_bytes() for path in storage.glob("runs/*/superseded/*/record.json")
    }
    assert len(kept) == 4 and kept.items() <= before.items()
    assert "0 to do" in _tanda(project, "plan", upgraded)


def test_a_run_named_is_made_again_with_what_was_made_of_it(upgraded: Path) -> None:
    project, storage = upgraded.parent, upgraded.parent / "storage"
    submitted = json.loads(
        _tanda(project, "submit", upgraded, "--executor", "inline", "--rerun", "group/wide", "--json")
    )
    assert {(array["stage"], array["tasks"]) for array in submitted["arrays"]} == {("train", 1), ("evaluate", 1)}
    assert len(list(storage.glob("runs/*/superseded/0001/record.json"))) == 2
    submitted = json.loads(_tanda(project, "submit", upgraded, "--executor", "inline", "--rerun", "data", "--json"))
    assert {array["stage"]: array["tasks"] for array in submitted["arrays"]} == {
        "preprocess": 1, "train": 2, "evaluate": 2,
    }  # fmt: skip
    assert "0 to do" in _tanda(project, "plan", upgraded)
