"""Optimisers and schedules in a manifest: how they are written, checked and told of, and what they do to ids."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from manifest_fixture import errors, read
from torch import Tensor
from training_fixture import publish_dataset, train_task

from jobs import entry, plugins
from jobs.models import all_settings
from jobs.search.space import all_dimensions
from jobs.search.study import Study
from jobs.settings import beside, deciding, text_of
from jobs.storage import Storage
from jobs.task import read_record
from jobs.testing import definition_with, recipe_with
from jobs.training.checkpoint import MODEL, read_model
from jobs.training.optimisers import adam, adamw, sgd
from jobs.training.run import read_trained_recipe
from jobs.training.schedules import warmup_cosine
from pipeline.manifest.expand_searches import canonical
from pipeline.plan import make_plan
from pipeline.show import cost_lines
from sharedfs.typed_json import decode

HEAD = "name: lab\nstorage: storage\ndata: {train: a.csv, validation: b.csv, test: c.csv}\n"
TRAINED: dict[str, Any] = {"freeze_embeddings": False, "weight_decay": 1e-4}


def test_parts_are_written_by_name_or_with_settings(tmp_path: Path) -> None:
    runs = read(
        tmp_path,
        """\
experiments:
  g:
    architecture: mlp
    optimiser: adamw
    runs:
      A: {}
      B: {optimiser: {sgd: {momentum: 0.8, nesterov: true}}}
      C: {schedule: {warmup_cosine: {warmup: 0.2}}, gradient_clip: 1}
""",
    ).runs
    assert [run.settings.optimiser for run in runs] == [
        adamw.Settings(),
        sgd.Settings(momentum=0.8, nesterov=True),
        adamw.Settings(),
    ]
    assert runs[2].settings.schedule == warmup_cosine.Settings(warmup=0.2)
    assert repr(runs[2].settings.gradient_clip) == "1.0"


def test_parts_are_axes_of_a_grid_and_values_of_defaults(tmp_path: Path) -> None:
    runs = read(
        tmp_path,
        """\
defaults: {schedule: one_cycle}
experiments: {g: {architecture: mlp, grid: {optimiser: [adam, {sgd: {momentum: 0.8}}], epochs: [1, 2]}}}
""",
    ).runs
    assert [text_of(run.settings.optimiser) for run in runs] == ["adam"] * 2 + ["sgd(momentum=0.8)"] * 2
    assert {text_of(run.settings.schedule) for run in runs} == {"one_cycle"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("optimiser: adan", "optimiser: unknown optimiser 'adan'; did you mean 'adam'"),
        ("optimiser: {sgd: {momentun: 0.8}}", "optimiser.sgd.momentun: unknown setting; did you mean 'momentum'"),
        ("optimiser: {sgd: {momentum: 7}}", "optimiser.sgd.momentum: must be at most 0.999, not 7"),
        ("optimiser: {sgd: {momentum: 0, nesterov: true}}", "optimiser: nesterov needs a momentum above 0"),
        ("optimiser: {adam: {beta1: 0.99, beta2: 0.95}}", "optimiser: beta1 0.99 is too high beside beta2 0.95"),
        ("optimiser: adamw, learning_rate: 2, weight_decay: 0.5", "learning_rate * weight_decay must be below 1"),
        ("schedule: {step: {parts: 0}}", "schedule.step.parts: must be at least 1, not 0"),
        ("gradient_clip: 0", "gradient_clip: must be above 0, not 0"),
    ],
)
def test_what_is_wrong_is_told_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str, words: str
) -> None:
    text = f"{HEAD}experiments: {{g: {{runs: {{A: {{architecture: mlp, {settings}}}}}}}}}"
    (line,) = errors(tmp_path, monkeypatch, text).splitlines()
    assert words in line


@pytest.mark.parametrize(
    ("changes", "varied", "in_id"),
    [
        ({}, (), False),
        (TRAINED, (), True),
        ({**TRAINED, "optimiser": {"adam": {"vector_decay": "when_used"}}}, (), False),
        ({**TRAINED, "freeze_embeddings": True}, (), False),
        ({**TRAINED, "weight_decay": 0}, (), False),
        ({**TRAINED, "freeze_embeddings": True}, ("freeze_embeddings",), True),
        ({**TRAINED, "weight_decay": 0}, ("weight_decay",), True),
        ({"weight_decay": 0}, ("freeze_embeddings",), False),
        ({"optimiser": "adamw"}, (), True),
    ],
)
def test_an_optimiser_is_in_an_id_where_it_changes_what_there_was(
    changes: dict[str, Any], varied: tuple[str, ...], in_id: bool
) -> None:
    settings = recipe_with("mlp", **changes).settings
    decides = deciding(settings, varied=frozenset(varied))
    assert ("optimiser" in decides) == in_id
    assert ("optimiser" in beside(settings, varied=frozenset(varied))) != in_id
    assert not {"schedule", "gradient_clip"} & decides.keys()


def test_a_stored_run_from_before_has_the_rules_of_then() -> None:
    settings: Any = recipe_with("mlp", **TRAINED).settings
    before = deciding(settings)
    del before["optimiser"]
    assert decode(type(settings), before).optimiser == adam.Settings(vector_decay="when_used")


def test_a_plan_tells_what_moves_every_word_vector(tmp_path: Path) -> None:
    manifest = read(
        tmp_path,
        """\
defaults: {freeze_embeddings: false, weight_decay: 1e-4}
experiments:
  g:
    architecture: mlp
    runs: {A: {}, B: {optimiser: adamw}, C: {optimiser: sgd}, D: {freeze_embeddings: true}, E: {weight_decay: 0}}
searches:
  s: {architecture: mlp, space: {optimiser: {choice: [adamw, {sgd: {momentum: {uniform: [0.5, 0.9]}}}]}}}
""",
    )
    lines = cost_lines(make_plan(manifest, provisional=True))
    assert [line.partition(" adds ")[0] for line in lines] == ["g/A: adam", "g/C, trials of s: sgd"]


ATTENTION = """
KIND = "network"
REVISION = 1
from jobs.models import NetworkSettings
from jobs.settings import ORIGINAL, Doc, settings
from typing import Annotated

@settings
class Settings(NetworkSettings):
    attention_heads: Annotated[int, ORIGINAL, Doc("heads")] = 2

    def check(self, shape):
        if shape.vector_size % self.attention_heads:
            return f"attention_heads: {self.attention_heads} do not divide vectors of {shape.vector_size}"
"""


@pytest.fixture
def _attention(tmp_path: Path) -> Iterator[None]:
    path = tmp_path / "attention"
    path.mkdir()
    (path / "__init__.py").write_text(ATTENTION)
    plugins.use(plugins.find(path))
    yield
    plugins.use(())


@pytest.mark.usefixtures("_attention")
def test_a_model_says_what_does_not_fit_the_data_before_anything_is_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = "{g: {architecture: attention, embeddings: {size: 16}, runs: {A: {attention_heads: HEADS}}}}"
    text = f"plugins: [attention]\nexperiments: {runs}"
    assert read(tmp_path, text.replace("HEADS", "4")).runs
    (line,) = errors(tmp_path, monkeypatch, HEAD + text.replace("HEADS", "3")).splitlines()
    assert "attention_heads: 3 do not divide vectors of 16" in line


def test_a_search_trains_parts_with_settings_that_it_drew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDA_CPUS", "1")
    storage = Storage(tmp_path)
    space = {"optimiser": {"choice": ["adam", {"sgd": {"momentum": {"uniform": [0.5, 0.9]}}}]}}
    known = {setting.name: setting for setting in all_settings("mlp")}
    definition = definition_with(
        "mlp",
        publish_dataset(storage, rows=200),
        canonical(space, known),
        settings={"epochs": 1, "hidden_layers": [8], "learning_rate": 0.01, "schedule": "one_cycle"},
    )
    study = Study(storage, definition)
    folders = [study.task(number).write(storage) for number in range(4)]
    kept = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)}
    assert [entry.run(folder) for folder in folders] == [entry.DONE] * 4
    for number, handler in kept.items():
        signal.signal(number, handler)
    trained: list[Any] = [read_trained_recipe(folder).settings for folder in folders]
    assert {type(settings.optimiser) for settings in trained} == {adam.Settings, sgd.Settings}
    momenta = [settings.optimiser.momentum for settings in trained if isinstance(settings.optimiser, sgd.Settings)]
    assert len(momenta) == 3 and all(0.5 <= momentum <= 0.9 for momentum in momenta), "one point is not tried twice"
    record = read_record(folders[0])
    assert record is not None
    assert {"schedule one_cycle", "model mlp", "training", "algorithm random"} < record.made.keys()
    labels = [each.label for each in all_dimensions(study.space().dimensions)]
    assert labels == ["optimiser", "optimiser.1.momentum"]


def test_what_a_search_may_give_an_effect_is_in_its_definition(tmp_path: Path) -> None:
    """How vectors decay does nothing at a decay of 0, which the search's trials need not have."""
    text = """
searches:
  decayed: {architecture: mlp, freeze_embeddings: false, space: {weight_decay: {uniform: [0, 0.1]}}}
  plain: {architecture: mlp, freeze_embeddings: false, space: {dropout: {uniform: [0, 0.5]}}}
"""
    plan = make_plan(read(tmp_path, text), provisional=True)
    fixed = {task.group: task.task.settings["search"]["settings"] for task in plan.tasks if task.stage == "trial"}
    assert fixed["decayed"]["optimiser"]["adam"]["vector_decay"] == "always"
    assert "optimiser" not in fixed["plain"]


SGD = {"optimiser": {"sgd": {"momentum": 0.0}}, "keep": "last", "freeze_embeddings": False, "patience_chance": 99}


def weights_after(storage: Storage, dataset: str, **settings: Any) -> dict[str, Tensor]:
    task = train_task("mlp", dataset, **{**SGD, **settings})
    assert entry.run(task.write(storage)) == 0
    return read_model(storage.run(task.id) / MODEL)


def are_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_takes_its_steps_as_its_schedule_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step size of nothing from the second epoch on leaves the weights where the first one put them."""
    monkeypatch.setenv("TANDA_CPUS", "1")
    storage = Storage(tmp_path)
    dataset = publish_dataset(storage, rows=200)
    first = weights_after(storage, dataset, epochs=1)
    stopped = {"step": {"parts": 2, "multiplier": 1e-30}}
    assert are_equal(weights_after(storage, dataset, epochs=2, schedule=stopped), first)
    assert not are_equal(weights_after(storage, dataset, epochs=2), first)


def test_a_run_clips_its_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clipped to nothing, no step moves a weight, however many there are."""
    monkeypatch.setenv("TANDA_CPUS", "1")
    storage = Storage(tmp_path)
    dataset = publish_dataset(storage, rows=200)
    still = weights_after(storage, dataset, epochs=1, gradient_clip=1e-30)
    assert are_equal(weights_after(storage, dataset, epochs=2, gradient_clip=1e-30), still)
    assert not are_equal(weights_after(storage, dataset, epochs=1), still)
