"""The manifests that come with the program: sound, and the published experiments exactly as published."""

import csv
from pathlib import Path
from typing import Any

import pytest

from jobs.settings import values
from pipeline.manifest import load
from pipeline.manifest.model import Manifest, Run

CONFIGS = Path(__file__).parents[1] / "configs"
PUBLISHED = Path(__file__).parents[2] / "shared/data/meli2019/published_runs.csv"
FIGURES = (
    "test_balanced_accuracy",
    "validation_balanced_accuracy",
    "test_loss",
    "validation_loss",
    "train_loss",
)


@pytest.fixture(scope="module")
def meli() -> Manifest:
    return load(CONFIGS / "meli.yaml")


@pytest.fixture(scope="module")
def published() -> list[dict[str, str]]:
    if not PUBLISHED.is_file():
        pytest.skip(f"{PUBLISHED} is not here: the published runs can't be compared")
    with PUBLISHED.open(newline="") as file:
        return list(csv.DictReader(file))


def value(name: str, text: str) -> Any:
    """A published hyperparameter in its setting's type."""
    if name in ("hidden_layers", "filters_length"):
        return [int(part) for part in text.split(",")]
    if name == "freeze_embeddings":
        return {"true": True, "false": False}[text]
    return float(text)


def hyperparameters(row: dict[str, str]) -> dict[str, Any]:
    names = list(row)[list(row).index("hidden_layers") : list(row).index("test_balanced_accuracy")]
    return {name: value(name, row[name]) for name in names if row[name]}


def figures(row: dict[str, str]) -> dict[str, float]:
    return {name: float(row[name]) for name in FIGURES}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def test_the_twelve_fixed_runs_are_as_published(meli: Manifest, published: list[dict[str, str]]) -> None:
    fixed = {(row["group"], row["run"]): row for row in published if row["group"] != "search"}
    runs: dict[tuple[str, str], Run] = {(run.group, run.name): run for run in meli.runs}
    assert list(runs) == list(fixed)
    assert len(runs) == len(meli.runs) == 12
    for name, row in fixed.items():
        asked = hyperparameters(row)
        settings = values(runs[name].settings)
        assert {key: _plain(settings[key]) for key in asked} == asked
        assert runs[name].architecture == row["architecture"]
        assert runs[name].reference == figures(row)
        assert (runs[name].settings.keep, runs[name].settings.shuffle) == ("last", "buffer")


def test_the_three_searches_have_the_published_spaces(meli: Manifest, published: list[dict[str, str]]) -> None:
    rows = {row["architecture"]: row for row in published if row["group"] == "search"}
    assert [search.name for search in meli.searches] == list(rows) == ["mlp", "cnn", "rnn"]
    every = {
        "dropout": {"uniform": [0.0, 0.5]},
        "learning_rate": {"loguniform": [1e-5, 1e-1]},
        "weight_decay": {"loguniform": [1e-5, 1e-1]},
        "epochs": {"choice": [1, 3, 5, 10, 15]},
        "batch_size": {"choice": [128, 256, 514]},
        "freeze_embeddings": {"choice": [True, False]},
    }
    own: dict[str, dict[str, list[Any]]] = {
        "mlp": {
            "hidden_layers": [
                [256, 128],
                [256, 514, 256],
                [514, 256, 128],
                [514, 1024, 514, 256],
                [514, 1024, 514, 256, 128],
            ]
        },
        "cnn": {
            "hidden_layers": [[128], [256, 128], [256, 514, 256]],
            "filters_count": [50, 100, 150],
            "filters_length": [[2, 3], [2, 3, 4], [2, 3, 4, 5]],
        },
        "rnn": {
            "hidden_layers": [[128], [256, 128], [256, 514, 256]],
            "lstm_features": [128, 256, 514],
            "lstm_layers": [1, 3, 5],
        },
    }
    for search in meli.searches:
        assert (search.architecture, search.algorithm, search.trials) == (search.name, "tpe", 10)
        assert search.space == every | {name: {"choice": options} for name, options in own[search.name].items()}
        assert search.reference == figures(rows[search.name])
        assert search.settings.random_buffer_size == int(rows[search.name]["random_buffer_size"])


def test_the_published_settings_of_the_searches_lie_in_their_spaces(
    meli: Manifest, published: list[dict[str, str]]
) -> None:
    for row in (row for row in published if row["group"] == "search"):
        space = next(search.space for search in meli.searches if search.name == row["architecture"])
        for name, found in hyperparameters(row).items():
            if name in space and "choice" in space[name]:
                assert found in space[name]["choice"]


def test_quickstart_shows_all_architectures_a_grid_and_seeds() -> None:
    manifest = load(CONFIGS / "quickstart.yaml")
    assert {run.architecture for run in manifest.runs} >= {"mlp", "cnn", "rnn", "linear"}
    assert {run.seed for run in manifest.runs if run.group == "filters"} == {0, 1}
    assert manifest.storage == CONFIGS.parent / "demo/storage"
    assert manifest.runs[0].data.train == str(CONFIGS.parent / "demo/data/spanish.train.jsonl.gz")


@pytest.mark.parametrize("profile", sorted(CONFIGS.glob("clusters/*.yaml")), ids=lambda path: path.name)
@pytest.mark.parametrize("manifest", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_manifest_loads_with_every_profile(manifest: Path, profile: Path) -> None:
    assert load(manifest, cluster=profile).cluster.executor == "slurm"


def test_what_the_test_cluster_is_asked_for_fits_its_nodes() -> None:
    for name in ("quickstart.yaml", "meli.yaml"):
        manifest = load(CONFIGS / name, cluster=CONFIGS / "clusters/test.yaml")
        asked = [given for run in manifest.runs for given in run.resources.values()]
        asked += [given for search in manifest.searches for given in search.resources.values()]
        asked += list(manifest.resources.values())
        assert all(given.cpus <= 4 and given.mem_gb <= 4 and given.gpus <= 2 for given in asked)


def test_the_site_example_is_sound_with_all_its_lines_uncommented(tmp_path: Path) -> None:
    lines = (CONFIGS / "clusters/site.yaml").read_text(encoding="utf-8").splitlines()
    keys = ("partition", "account", "qos", "constraint", "gres_type", "exclude", "modules", "activate", "python")
    keys += ("environment", "extra", "  mail-type", "  nice", "clusters", "gpu_option", "memory", "container")
    keys += ("least_min", "stages", "  preprocess", "  close")
    opened = [line[2:] if line.startswith(tuple(f"# {key}:" for key in keys)) else line for line in lines]
    (tmp_path / "site.yaml").write_text("\n".join(opened), encoding="utf-8")
    cluster = load(CONFIGS / "meli.yaml", cluster=tmp_path / "site.yaml").cluster
    assert (cluster.partition, cluster.constraint, cluster.exclude) == ("gpu", "a100|h100", "node[03-05]")
    assert cluster.extra == {"mail-type": "FAIL", "nice": 100}
    assert (cluster.clusters, cluster.memory, cluster.site("close").partition) == ("tier1", "per_cpu", "cpu")
