"""From groups to runs: defaults, grids, zips, seeds, names, data sets and resources of their own."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifest_fixture import read

from jobs import models
from jobs.settings import values
from pipeline.manifest.expand_groups import name_of_values
from pipeline.manifest.model import Manifest, Resources
from pipeline.manifest.validation import name_problem


def group(folder: Path, text: str, above: str = "") -> Manifest:
    return read(folder, f"{above}experiments:\n  g: {text}\n")


def test_every_setting_of_an_architecture_is_resolved(tmp_path: Path) -> None:
    manifest = group(tmp_path, "{runs: {A: {architecture: mlp}, B: {architecture: linear}}}")
    for run in manifest.runs:
        known = {setting.name: setting for setting in models.all_settings(run.architecture)}
        assert set(values(run.settings)) == set(known)
        assert all(getattr(run.settings, name) == setting.default for name, setting in known.items())


def test_defaults_apply_where_the_architecture_has_them_and_the_nearest_layer_wins(tmp_path: Path) -> None:
    above = "defaults: {dropout: 0.1, epochs: 9, early_stopping: {patience: 4}}\n"
    text = "{dropout: 0.2, runs: {A: {architecture: mlp}, B: {architecture: mlp, dropout: 0.3, patience: null}}}"
    first, second = group(tmp_path, text, above).runs
    assert (first.settings.dropout, second.settings.dropout) == (0.2, 0.3)
    assert first.settings.epochs == 9
    assert (first.settings.patience, second.settings.patience) == (4, None)
    linear = group(tmp_path, "{runs: {L: {architecture: linear}}}", above).runs[0]
    assert not hasattr(linear.settings, "epochs")


def test_numbers_are_in_their_settings_types(tmp_path: Path) -> None:
    run = group(tmp_path, "{runs: {A: {architecture: mlp, weight_decay: 0, epochs: 3.0}}}").runs[0]
    assert repr(run.settings.weight_decay) == "0.0"
    assert repr(run.settings.epochs) == "3"


def test_a_grid_is_every_combination_in_order_and_named_by_it(tmp_path: Path) -> None:
    manifest = group(tmp_path, "{architecture: mlp, grid: {hidden_layers: [[256, 8], [512]], dropout: [0.1, 0.3]}}")
    assert [run.name for run in manifest.runs] == [
        "hidden_layers=256-8,dropout=0.1",
        "hidden_layers=256-8,dropout=0.3",
        "hidden_layers=512,dropout=0.1",
        "hidden_layers=512,dropout=0.3",
    ]
    assert [run.settings.hidden_layers for run in manifest.runs] == [(256, 8), (256, 8), (512,), (512,)]


def test_a_zip_pairs_its_lists(tmp_path: Path) -> None:
    manifest = group(tmp_path, "{architecture: mlp, zip: {epochs: [1, 2], freeze_embeddings: [true, false]}}")
    assert [run.name for run in manifest.runs] == [
        "epochs=1,freeze_embeddings=true",
        "epochs=2,freeze_embeddings=false",
    ]


def test_an_axis_may_be_the_architecture_or_a_key_of_data(tmp_path: Path) -> None:
    text = "{grid: {architecture: [mlp, rnn], language: [spanish, portuguese]}}"
    manifest = group(tmp_path, text)
    assert [(run.architecture, run.data.language) for run in manifest.runs] == [
        ("mlp", "spanish"),
        ("mlp", "portuguese"),
        ("rnn", "spanish"),
        ("rnn", "portuguese"),
    ]


def test_a_run_per_seed_under_one_name(tmp_path: Path) -> None:
    text = "{architecture: mlp, seeds: [3, 1], runs: {A: {}, B: {seeds: [7]}}}"
    manifest = group(tmp_path, text)
    assert [(run.name, run.seed, run.settings.seed) for run in manifest.runs] == [
        ("A", 3, 3),
        ("A", 1, 1),
        ("B", 7, 7),
    ]


def test_names_of_a_grid_are_unique_and_safe(tmp_path: Path) -> None:
    vectors = "{file: a/v.gz}, {file: b/v.gz}, {file: 'c/v w.gz'}"
    manifest = group(tmp_path, f"{{architecture: mlp, grid: {{embeddings: [{vectors}]}}}}")
    assert [run.name for run in manifest.runs] == ["embeddings=v.gz", "embeddings=v.gz-2", "embeddings=v_w.gz"]
    assert [run.data.embeddings.file for run in manifest.runs] == [
        str(tmp_path / name) for name in ("a/v.gz", "b/v.gz", "c/v w.gz")
    ]


@settings(deadline=None, max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from(["a", "long_setting_name", "x"]),
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=200), st.lists(st.integers())),
        min_size=1,
    )
)
def test_a_name_made_of_any_values_is_safe(values: dict[str, object]) -> None:
    assert name_problem(name_of_values(values)) is None


def test_parts_with_settings_are_told_apart_by_them() -> None:
    names = [
        name_of_values({"optimiser": each}) for each in ("sgd", {"sgd": {"momentum": 0.8}}, {"adam": {"beta1": 0.8}})
    ]
    assert names == ["optimiser=sgd", "optimiser=sgd-momentum=0.8", "optimiser=adam-beta1=0.8"]


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=120))
def test_a_safe_name_stays_in_its_folder(name: str) -> None:
    if name_problem(name) is None:
        assert Path("/s", name).parent == Path("/s")
        assert not name.startswith((".", "-"))
        assert not set(name) & set("/\\\0\n <>&\"'`$;|*?")


def test_a_run_with_a_key_of_data_has_its_own_data_set(tmp_path: Path) -> None:
    text = (
        "{architecture: mlp, quality: reliable, "
        "runs: {A: {}, B: {language: portuguese, vocabulary: {max_size: 9}}, C: {source: all.csv}}}"
    )
    a, b, c = group(tmp_path, text).runs
    assert (a.data.quality, a.data.language, a.data.vocabulary.max_size) == ("reliable", None, 50_000)
    assert (b.data.quality, b.data.language, b.data.vocabulary.max_size) == ("reliable", "portuguese", 9)
    assert b.data.vocabulary.min_count == 2
    assert (c.data.source, c.data.train) == (str(tmp_path / "all.csv"), None)


def test_resources_come_from_the_nearest_layer_that_says(tmp_path: Path) -> None:
    profile = tmp_path / "c.yaml"
    profile.write_text("resources: {train: {gpus: 2, mem_gb: 5}, preprocess: {shards: 3}}\n")
    manifest = read(
        tmp_path,
        "resources: {train: {mem_gb: 6, pack: 4}}\nexperiments:\n  g:\n    architecture: mlp\n"
        "    resources: {train: {cpus: 3}}\n    runs: {A: {}, B: {resources: {train: {cpus: 7}}}}\n",
        cluster=profile,
    )
    a, b = manifest.runs
    assert a.resources["train"] == Resources(cpus=3, gpus=2, mem_gb=6.0, time_min=240, pack=4)
    assert b.resources["train"].cpus == 7
    assert a.resources["preprocess"].shards == 3
    assert manifest.resources["train"].cpus == 2


def test_an_estimator_gets_a_gpu_only_where_its_own_run_group_or_search_asks(tmp_path: Path) -> None:
    profile = tmp_path / "c.yaml"
    profile.write_text("resources: {train: {gpus: 2, cpus: 3}, evaluate: {gpus: 1}}\n")
    manifest = read(
        tmp_path,
        "resources: {train: {gpus: 1, mem_gb: 6}}\n"
        "experiments:\n"
        "  all: {grid: {architecture: [linear, mlp]}}\n"
        "  own:\n    architecture: linear\n    runs: {A: {}, B: {resources: {train: {gpus: 1}}}}\n"
        "  group: {architecture: linear, resources: {evaluate: {gpus: 3}}, runs: {A: {}}}\n"
        "searches:\n"
        "  s: {architecture: linear, space: {c: {uniform: [1, 2]}}}\n",
        cluster=profile,
    )
    asked = {
        (run.group, run.name): (run.resources["train"].gpus, run.resources["evaluate"].gpus) for run in manifest.runs
    }
    assert asked == {
        ("all", "architecture=linear"): (0, 0),
        ("all", "architecture=mlp"): (1, 1),
        ("own", "A"): (0, 0),
        ("own", "B"): (1, 0),
        ("group", "A"): (0, 3),
    }
    assert (manifest.runs[0].resources["train"].cpus, manifest.runs[0].resources["train"].mem_gb) == (3, 6.0)
    assert manifest.searches[0].resources["train"].gpus == 0


def test_references_reach_the_runs_they_name(tmp_path: Path) -> None:
    text = "{architecture: mlp, grid: {epochs: [1, 2]}, reference: {epochs=2: {test_loss: 1}}}"
    first, second = group(tmp_path, text).runs
    assert (first.reference, second.reference) == ({}, {"test_loss": 1.0})


def test_a_run_may_be_empty_where_its_group_says_all(tmp_path: Path) -> None:
    manifest = read(tmp_path, "experiments:\n  g:\n    architecture: mlp\n    runs:\n      A:\n      B: {epochs: 2}\n")
    assert [run.name for run in manifest.runs] == ["A", "B"]


def test_loading_and_planning_import_nothing_heavy(tmp_path: Path) -> None:
    read(tmp_path, "experiments:\n  g: {grid: {architecture: [mlp, cnn, rnn, linear]}}\nsearches:\n"
         "  s: {architecture: cnn, stopping: {asha: {}}, space: {dropout: {uniform: [0, 0.5]}}}\n")  # fmt: skip
    for name in "abc":
        (tmp_path / f"{name}.csv").write_text(f"title,category\nuno dos {name},x\n")
    code = (
        "import sys; from pathlib import Path; from pipeline.manifest import load; from pipeline.plan import make_plan;"
        f"assert make_plan(load(Path({str(tmp_path / 'm.yaml')!r}))).tasks;"
        "heavy = {'torch', 'mlflow', 'pandas', 'polars', 'sklearn', 'hyperopt', 'matplotlib', 'submitit'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("form", ["grid", "runs"])
def test_a_manifest_of_10_000_runs_loads_in_seconds(form: str, tmp_path: Path) -> None:
    import time

    if form == "grid":
        layers = ", ".join(f"[{width}]" for width in range(1, 101))
        epochs = ", ".join(map(str, range(1, 101)))
        text = f"{{architecture: cnn, grid: {{hidden_layers: [{layers}], epochs: [{epochs}]}}}}"
    else:
        runs = ", ".join(f"r{seed}: {{seed: {seed}}}" for seed in range(10_000))
        text = f"{{architecture: cnn, runs: {{{runs}}}}}"
    start = time.perf_counter()
    manifest = group(tmp_path, text)
    assert len(manifest.runs) == 10_000
    assert time.perf_counter() - start < 10  # 0.1 s and 1 s on a quiet machine
