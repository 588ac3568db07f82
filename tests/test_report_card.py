"""Model cards: a file for what each group chose, with what its records tell."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_fixture import build_tables, data_files, finish_all, make, make_run
from small_manifest import tanda, with_only, write_manifest

from pipeline.report import build


@pytest.mark.parametrize("language", ["en", "es"])
def test_the_choice_of_a_group_has_a_card(tmp_path: Path, language: str) -> None:
    data = data_files(tmp_path / "data")
    runs = tuple(make_run(data, group="my group", name=name, dropout=rate, seed=seed)
                 for name, rate in (("good|one", 0.1), ("bad", 0.3)) for seed in (0, 1))  # fmt: skip
    made = make(tmp_path, runs=runs, language=language)
    finish_all(made, {"good|one": 0.6, "bad": 0.2})
    folder = build_tables(made)
    (path,) = sorted((folder / "cards").iterdir())
    text = path.read_text()
    title = {"en": "# Model card: my group / good", "es": "# Ficha del modelo: my group / good"}[language]
    assert text.startswith(title) and "bad" not in text
    assert "CATEGORY\\_A" in text and "±" in text and "[0." in text
    assert f"tanda predict {made.storage.run(made.plan.rows[0].train or '')} titles.txt" in text
    assert f"(cards/{path.name})" in (folder / "results.md").read_text()
    assert "one seed" not in text


def test_one_seed_is_said_to_tell_of_a_trained_model(tmp_path: Path) -> None:
    made = make(tmp_path, runs=(make_run(data_files(tmp_path / "data"), group="g", name="a"),))
    finish_all(made, {"a": 0.5})
    folder = build(made.plan, made.states, mlflow=False)
    assert "tell of this trained model, not of its settings" in (folder / "cards/g.md").read_text()
    card = (folder / "cards/g.md").read_text()
    assert "trained with one seed by the code" in card and "\nNo GPU; " in card
    assert '<a href="cards/g.md">Model card</a>' in (folder / "index.html").read_text()


def test_nothing_finished_means_no_card_and_an_old_one_goes(tmp_path: Path) -> None:
    made = make(tmp_path, runs=(make_run(data_files(tmp_path / "data"), group="g", name="a"),))
    folder = build_tables(made)
    assert not list(folder.glob("cards/*"))
    (folder / "cards").mkdir(exist_ok=True)
    (folder / "cards" / "gone.md").write_text("of another time")
    build_tables(made)
    assert not list(folder.glob("cards/*"))


def test_a_real_evaluation_fills_the_card_in(tmp_path: Path) -> None:
    manifest = write_manifest(
        tmp_path, with_only("linear").replace("by: random}", "by: random}\n  columns: {language: language}")
    )
    titles = tmp_path / "titles.csv"
    lines = titles.read_text().splitlines()
    mixed = [line.replace("spanish", "portuguese") if at % 5 == 0 else line for at, line in enumerate(lines)]
    titles.write_text("\n".join(mixed) + "\n")
    tanda("submit", manifest, "--executor", "inline")
    tanda("report", manifest)
    card = (tmp_path / "storage/reports/small/cards/architectures.md").read_text()
    assert "| portuguese |" in card and "| spanish |" in card
    assert "fitted on validation titles" in card and "test loss, calibrated" in card
    assert "Rare categories: mean recall" in card and "fingerprint of the titles" in card
    assert "- training: 216 titles (" in card and " 1.00 (" not in card
