"""Plugins: found by their text, run only where they may be, in the ids of what they decide."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_manifest import tanda, with_only, write_manifest

from jobs import plugins, units
from jobs.plugins import MODELS, Part
from jobs.settings import ORIGINAL, describe
from jobs.storage import Storage
from jobs.testing.contracts import CONTRACTS, check_part
from pipeline.manifest import load
from pipeline.manifest import plugins as choosing
from pipeline.manifest.yaml_nodes import ManifestError
from pipeline.plan import make_plan
from pipeline.status import done_on_storage
from sharedfs.errors import InputError
from tanda import Experiment

GUIDE = Path(__file__).parents[1] / "docs" / "extending.md"
CENTROID = re.search(r'^```python title="lab/centroid.py"\n(.*?)^```$', GUIDE.read_text("utf-8"), re.M | re.S)[1]  # type: ignore[index]


@pytest.fixture(autouse=True)
def _none_left() -> Iterator[None]:
    yield
    plugins.use(())


def write(path: Path, text: str = 'KIND = "table"\nORDER = 1\n') -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def manifest_with(folder: Path, *listed: str) -> Path:
    """The small manifest with one run of the estimator of the guide."""
    text = with_only("linear").replace("linear: {architecture: linear}", "own: {architecture: centroid}")
    return write_manifest(folder, f"plugins: [{', '.join(listed)}]\n{text}")


# Found by their text.


def test_a_folder_is_one_plugin_or_holds_some(tmp_path: Path) -> None:
    write(tmp_path / "lab" / "price.py")
    write(tmp_path / "lab" / "own" / "__init__.py", 'KIND = "network"\nREVISION = 3\n')
    write(tmp_path / "lab" / "own" / "network.py", "")
    write(tmp_path / "lab" / "notes.py", "KINDS = 1\n")
    write(tmp_path / "lab" / ".hidden.py")
    found = {plugin.name: plugin for plugin in plugins.find(tmp_path / "lab")}
    assert {name: (plugin.kind, plugin.revision) for name, plugin in found.items()} == {
        "price": ("table", None), "own": ("network", 3),
    }  # fmt: skip
    assert plugins.find(tmp_path / "lab" / "own") == (found["own"],)
    assert [file.name for file in found["own"].files] == ["__init__.py", "network.py"]


def test_the_digest_is_of_every_file_and_a_revision_takes_its_place(tmp_path: Path) -> None:
    main = write(tmp_path / "own" / "__init__.py", 'KIND = "network"\n')
    (first,) = plugins.find(tmp_path / "own")
    write(tmp_path / "own" / "network.py", "x = 1\n")
    (second,) = plugins.find(tmp_path / "own")
    assert first.identity != second.identity == second.digest
    write(main, 'KIND = "network"\nREVISION = 2\n')
    (third,) = plugins.find(tmp_path / "own")
    assert third.identity == 2 and third.digest != second.digest


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.py", None, "no such plugin"),
        ("x.py", "", 'no plugin: no file in it says KIND = "...", one of network, estimator'),
        ("x.py", 'KIND = "netwrok"\n', "x.py:1: KIND 'netwrok'; did you mean 'network'"),
        ("x.py", "def (:\n", "no Python that this version reads: invalid syntax (x.py, line 1)"),
        ("a-b.py", 'KIND = "table"\n', "'a-b' must be letters, digits and _"),
        ("x.py", 'KIND = "table"\nREVISION = 0\n', "x.py:2: REVISION must be a whole number from 1"),
        ("mlp.py", 'KIND = "network"\n', "there is a built-in architecture 'mlp': rename the file"),
    ],
)
def test_what_is_no_plugin_is_told_in_a_line(tmp_path: Path, name: str, text: str | None, words: str) -> None:
    path = tmp_path / name
    if text is not None:
        write(path, text)
    with pytest.raises(InputError, match=re.escape(words)):
        plugins.use(plugins.find(path))
    assert plugins.in_use() == ()


def test_two_of_a_name_and_one_that_fails(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a" / "x.py"), write(tmp_path / "b" / "x.py", 'KIND = "table"\nORDER = 2\n')
    with pytest.raises(InputError, match="another table has this name too"):
        plugins.use((*plugins.find(first), *plugins.find(second)))
    plugins.use(plugins.find(write(tmp_path / "c.py", 'KIND = "network"\n1 / 0\n')))
    with pytest.raises(InputError, match=r"c.py: cannot be imported: ZeroDivisionError"):
        MODELS.load("c")


def test_an_installed_module_is_found_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "lab_tools" / "__init__.py", "raise RuntimeError('imported')\n")
    write(tmp_path / "lab_tools" / "price.py")
    monkeypatch.syspath_prepend(tmp_path)
    assert [str(plugin) for plugin in plugins.find_installed("lab_tools.price")] == ["table price"]
    assert [str(plugin) for plugin in plugins.find_installed("lab_tools")] == ["table price"]
    with pytest.raises(InputError, match="neither a path"):
        plugins.find_installed("lab_tolls.price")
    with pytest.raises(InputError, match="os: neither a path"):  # frozen into the interpreter, with no file
        plugins.find_installed("os")
    assert "lab_tools" not in sys.modules


def test_a_folder_imports_its_own_files_and_an_edited_one_is_imported_anew(tmp_path: Path) -> None:
    write(tmp_path / "own" / "__init__.py", 'KIND = "network"\nfrom .size import SIZE\n')
    write(tmp_path / "own" / "size.py", "SIZE = 1\n")
    plugins.use(plugins.find(tmp_path / "own"))
    assert MODELS.load("own").SIZE == 1
    write(tmp_path / "own" / "size.py", "SIZE = 22\n")
    del sys.modules["tanda_plugins.model.own"]
    with pytest.raises(InputError, match="edited this moment"):
        MODELS.load("own")
    plugins.use(plugins.find(tmp_path / "own"))
    assert MODELS.load("own").SIZE == 22


# In manifests, ids, submissions.


def test_problems_are_told_with_their_place(tmp_path: Path) -> None:
    manifest = manifest_with(tmp_path, "gone.py", "no_such_module")
    with pytest.raises(ManifestError) as caught:
        load(manifest)
    text = str(caught.value)
    assert "small.yaml:1:11" in text and "gone.py: no such plugin" in text
    assert "small.yaml:1:20" in text and "no_such_module: neither a path" in text


def test_plugins_of_an_included_file_are_joined(tmp_path: Path) -> None:
    write(tmp_path / "site" / "price.py")
    write(tmp_path / "site" / "base.yaml", "plugins: [price.py]\n")
    write(tmp_path / "centroid.py", CENTROID)
    manifest = manifest_with(tmp_path, "centroid.py")
    manifest.write_text(f"include: site/base.yaml\n{manifest.read_text()}")
    load(manifest)
    assert [str(plugin) for plugin in plugins.in_use()] == ["table price", "estimator centroid"]


def test_a_plugin_from_plan_to_prediction(tmp_path: Path) -> None:
    """Planned, run, reported, predicted with; edited, its runs are others; with a REVISION they stay."""
    plugin = write(tmp_path / "lab" / "centroid.py", CENTROID)
    manifest = manifest_with(tmp_path, "lab/centroid.py")
    tanda("run", manifest, "--executor", "inline")
    storage = Storage(tmp_path / "storage")
    plan = make_plan(load(manifest))
    (train,) = (task for task in plan.tasks if task.stage == "train")
    assert done_on_storage(plan).keys() == {task.id for task in plan.tasks}
    (made,) = plugins.in_use()
    assert train.task.settings["plugins"] == {"model centroid": made.digest}
    assert json.loads((storage.run(train.id) / "record.json").read_text())["made"].keys() == {"estimator centroid"}

    asked = (storage.run(train.id), write(tmp_path / "titles.txt", "zapatillas de cuero\n"))
    assert tanda("predict", *asked).startswith("SHOES")  # by what its own submission holds
    write(plugin, CENTROID.replace("10.0", "11.0"))
    assert tanda("predict", *asked).startswith("SHOES")
    tanda("repro", storage.run(train.id), "--check")
    (submission,) = storage.submissions.iterdir()
    submission.rename(tmp_path / "away")
    assert "made with the plugin model centroid (digest" in tanda("predict", *asked, status=2)
    assert f"give that with --plugin FILE, not {plugin} (digest" in tanda(
        "predict", *asked, "--plugin", plugin, status=2
    )
    copy = write(tmp_path / "copy" / "centroid.py", CENTROID)
    assert tanda("predict", *asked, "--plugin", copy).startswith("SHOES")

    document = json.loads(tanda("plan", manifest, "--json"))
    assert [task["stage"] for task in document["tasks"] if not task["done"]] == ["train", "evaluate"]
    revised = [CENTROID.replace('KIND = "estimator"', f'KIND = "estimator"\nREVISION = 1\n# {word}') for word in "ab"]
    ids = []
    for text in revised:
        write(plugin, text)
        ids.append([task.id for task in make_plan(load(manifest)).tasks])
    assert ids[0] == ids[1] != [task.id for task in plan.tasks]


def test_of_anothers_manifest_nothing_runs_and_everything_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = tmp_path / "ran"
    plugin = write(tmp_path / "centroid.py", f"{CENTROID}\nopen({str(ran)!r}, 'a').close()\n")
    write(tmp_path / "price.py", 'KIND = "table"\nORDER = 1\n')
    manifest = manifest_with(tmp_path, "centroid.py", "price.py")
    own = make_plan(load(manifest))
    assert ran.exists()
    storage = Storage(own.manifest.storage)
    monkeypatch.setattr(choosing, "is_trusted", lambda _source: False)
    with pytest.raises(ManifestError, match=r"another user's plugin, of which .* has no record: its code is not run"):
        load(manifest)
    assert plugins.in_use() == ()

    monkeypatch.undo()
    load(manifest)
    choosing.record_plugins(storage)
    ran.unlink()
    monkeypatch.setattr(choosing, "is_trusted", lambda _source: False)
    monkeypatch.delitem(sys.modules, "tanda_plugins.model.centroid")
    seen = make_plan(load(manifest))
    assert [task.id for task in seen.tasks] == [task.id for task in own.tasks]
    assert "another user's table price: not run, left out" in capsys.readouterr().err
    (setting,) = describe(MODELS.settings("centroid"))
    assert (setting.name, setting.kind, setting.default, setting.role) == ("sharpness", float, 10.0, ORIGINAL)
    assert not ran.exists() and "tanda_plugins.model.centroid" not in sys.modules
    assert load(manifest, run_plugins=True).runs and ran.exists()
    # What is recorded is of one version: an edit is another plugin, of which nothing is known.
    write(plugin, f"{CENTROID}\n# edited\n")
    with pytest.raises(ManifestError, match="has no record"):
        load(manifest)


def test_what_a_record_cannot_be_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "centroid.py", CENTROID)
    manifest = manifest_with(tmp_path, "centroid.py")
    load(manifest)
    storage = Storage(tmp_path / "storage")
    choosing.record_plugins(storage)
    (record,) = storage.plugins.iterdir()
    monkeypatch.setattr(choosing, "is_trusted", lambda _source: False)
    for kind in ("__import__('os')", {"room": "kitchen"}, {"choices": 3}, None):
        document = {"kind": "estimator", "settings": [
            {"name": "sharpness", "kind": kind, "default": 1, "doc": "", "role": "ORIGINAL"}
        ]}  # fmt: skip
        record.write_text(json.dumps(document))
        with pytest.raises(ValueError, match=f"{record.name}: not a plugin's record"):
            load(manifest)


def test_units_and_identities_know_a_plugin(tmp_path: Path) -> None:
    path = write(tmp_path / "own.py", 'KIND = "network"\n')
    plugins.use(plugins.find(path))
    unit = units.Unit("model", "own")
    was = units.made([unit])["model own"]
    assert (was.revision, was.content) == (0, plugins.in_use()[0].digest)
    assert plugins.identities([Part("model", "own"), Part("model", "mlp")]) == {"model own": was.content}
    write(path, 'KIND = "network"\n# a comment\n')
    plugins.use(plugins.find(path))
    assert units.changes({"model own": was}) == ()  # other bytes, the same code
    write(path, 'KIND = "network"\nx = 1\n')
    plugins.use(plugins.find(path))
    (change,) = units.changes({"model own": was})
    assert "made by other code of model own" in str(change)
    plugins.use(())
    (change,) = units.changes({"model own": was})
    assert "which this version does not have" in str(change)


# What a part of each kind must keep to.

PARTS = [
    (kind, name)
    for kind in CONTRACTS
    for name in plugins.KINDS[kind].names()
    if plugins.KINDS[kind] is not MODELS or kind == MODELS.load(name).KIND
]


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_built_in_parts_keep_to_their_contracts(kind: str, name: str) -> None:
    findings = list(check_part(kind, name))
    assert findings and [finding for finding in findings if finding.problem is not None] == []


@pytest.mark.parametrize(
    ("kept", "broken", "words"),
    [
        (
            "return (counts @ self",
            "return np.full((len(split), len(self.vectors)), np.nan) * (counts @ self",
            "not finite",
        ),
        ("return (counts @ self", "return (np.random.random() * counts @ self", "another fit gives other scores"),
        ("return self.vectors.size", "return 1.5", "parameters: 1.5"),
        ('sharpness=float(arrays["sharpness"])', "sharpness=1.0", "loaded, it gives other scores"),
    ],
)
def test_a_broken_promise_is_found(tmp_path: Path, kept: str, broken: str, words: str) -> None:
    plugins.use(plugins.find(write(tmp_path / "centroid.py", CENTROID.replace(kept, broken))))
    problems = [finding.problem for finding in check_part("estimator", "centroid") if finding.problem is not None]
    assert any(words in problem for problem in problems), problems


def test_check_plugin_ends_with_1_where_a_promise_is_broken(tmp_path: Path) -> None:
    path = write(tmp_path / "centroid.py", CENTROID)
    assert "FAIL" not in tanda("check-plugin", path)
    write(path, CENTROID.replace("return self.vectors.size", "return -1"))
    assert "FAIL estimator centroid: ``parameters`` is how many numbers were fitted: parameters: -1" in tanda(
        "check-plugin", path, status=1
    )
    assert "no such plugin" in tanda("check-plugin", tmp_path / "gone.py", status=2)
    write(path, "import nonesuch\n" + CENTROID.replace("from __future__ import annotations", ""))
    (line,) = tanda("check-plugin", path, status=2).splitlines()
    assert "centroid.py: cannot be imported: ModuleNotFoundError" in line


def guide(name: str) -> str:
    """A plugin of the guide."""
    found = re.search(rf'^```python title="lab/{name}.py"\n(.*?)^```$', GUIDE.read_text("utf-8"), re.M | re.S)
    assert found is not None
    return found[1]


def test_of_another_users_optimiser_schedule_and_metric_the_facts_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("lion", "straight", "matthews"):
        write(tmp_path / "lab" / f"{name}.py", guide(name))
    text = with_only("MLP").replace("MLP: {", "MLP: {optimiser: {lion: {beta1: 0.8}}, schedule: straight, ")
    manifest = write_manifest(tmp_path, f"plugins: [lab]\n{text}")
    own = make_plan(load(manifest))
    (train,) = (task for task in own.tasks if task.stage == "train")
    (evaluate,) = (task for task in own.tasks if task.stage == "evaluate")
    assert train.task.settings["plugins"].keys() == {"optimiser lion", "schedule straight"}  # type: ignore[union-attr]
    assert evaluate.task.settings["metrics"].keys() == {"metric matthews"}  # type: ignore[union-attr]
    choosing.record_plugins(Storage(own.manifest.storage))
    monkeypatch.setattr(choosing, "is_trusted", lambda _source: False)
    for name in ("optimiser.lion", "schedule.straight", "metric.matthews"):
        monkeypatch.delitem(sys.modules, f"tanda_plugins.{name}")
    assert [task.id for task in make_plan(load(manifest)).tasks] == [task.id for task in own.tasks]
    metric = plugins.METRICS.load("matthews").METRIC
    assert (metric.title_in("es"), metric.sign) == ("correlación de Matthews", 1) and metric.of_counts is not None
    with pytest.raises(InputError, match="its code is not run"):
        metric.of_counts(None)
    assert not {"tanda_plugins.optimiser.lion", "tanda_plugins.metric.matthews"} & sys.modules.keys()


OWN_DROPOUT = 'gru_dropout: Annotated[float, Ge(0), Le(0.9), ORIGINAL, Doc("dropout of the state")] = 0.2'
WRONG = {
    "imports torch": ("gru", "KIND =", "import jobs.models.layers\nKIND =", "it imports torch"),
    "default out of range": ("gru", "] = 32", "] = 0", "gru_features: its default 0 is out of its range"),
    "ignores a dropout": ("gru", "self.words.apply_word_dropout(batch.tokens)", "batch.tokens", "word_dropout: 0.3"),
    "state of its own": (
        "lion",
        "update.rate *",
        "update.rate / (vars(self).update(n=vars(self).get('n', 0) + 1) or self.n) *",
        "ends with other bits",
    ),
    "first draws alike": ("vicinity", "history, seed)", "history, seed if history else 0)", "another seed"),
    "no title of a category": ("matthews", " if spread and spread_predicted else 0.0", "", "ZeroDivisionError"),
}


@pytest.mark.parametrize(("name", "kept", "broken", "words"), WRONG.values(), ids=WRONG)
def test_a_subtle_fault_of_the_guides_parts_is_found(
    tmp_path: Path, name: str, kept: str, broken: str, words: str
) -> None:
    text = guide(name)
    assert kept in text
    (plugin,) = plugins.find(write(tmp_path / f"{name}.py", text.replace(kept, broken)))
    plugins.use([plugin])
    problems = [finding.problem for finding in check_part(plugin.kind, name) if finding.problem is not None]
    assert any(words in problem for problem in problems), problems


def test_a_dropout_of_a_networks_own_is_no_fault(tmp_path: Path) -> None:
    text = guide("gru").replace("] = 32", f"] = 32\n    {OWN_DROPOUT}")
    dropped = "nn.functional.dropout(state[-1], settings.gru_dropout, self.training)"
    plugins.use(plugins.find(write(tmp_path / "gru.py", text.replace("self.head(state[-1])", f"self.head({dropped})"))))
    assert [finding.problem for finding in check_part("network", "gru") if finding.problem is not None] == []


def test_a_table_and_a_plot_that_fail_are_left_out_of_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "lab" / "price.py", guide("price").replace("    return Table(", "    1 / 0\n    return Table("))
    write(tmp_path / "lab" / "seeds.py", guide("seeds").replace("    return figure\n", "    raise KeyError('x')\n"))
    manifest = write_manifest(tmp_path, f"plugins: [lab]\n{with_only('linear')}")
    tanda("run", manifest, "--executor", "inline")
    folder = Experiment(manifest).report(mlflow=False)
    errors = capsys.readouterr().err
    assert f"price.py: fails, left out: ZeroDivisionError: division by zero ({tmp_path}/lab/price.py:" in errors
    assert "seeds.py: fails, left out: KeyError: 'x'" in errors
    assert (folder / "index.html").exists() and "linear" in (folder / "results.md").read_text("utf-8")
