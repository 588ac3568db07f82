"""`tanda init`: a starting manifest that loads and can be planned, from whatever data file there is."""

import gzip
from pathlib import Path

import polars as pl
import pytest

from pipeline.init import profile_data, starting_manifest, write_starting_manifest
from pipeline.manifest import load
from pipeline.plan import make_plan

REAL = Path(__file__).parents[2] / "shared/data"


def rows(count: int) -> list[tuple[str, str]]:
    return [(f"zapatilla número {number} roja", f"CAT_{number % 7}") for number in range(count)]


def csv_text(head: str, count: int = 70) -> str:
    return head + "\n" + "".join(f'"{title}",{category},1.5\n' for title, category in rows(count))


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_text(csv_text("nombre,categoria,precio"))
    seen = profile_data(path)
    assert seen.columns == {"text": "nombre", "label": "categoria"}
    assert (seen.rows, seen.complete, seen.categories, seen.rare_categories, seen.longest) == (70, True, 7, 0, 4)


def test_columns_are_found_by_what_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text(csv_text("uno,dos,tres").replace('"', "").replace(",", "\t"))
    assert profile_data(path).columns == {"text": "uno", "label": "dos"}


def test_the_manifest_loads_and_plans(tmp_path: Path) -> None:
    data = tmp_path / "data" / "my shop.csv.gz"
    data.parent.mkdir()
    with gzip.open(data, "wt", encoding="utf-8") as file:
        file.write(csv_text("nombre,categoria,precio"))
    target = write_starting_manifest(data, tmp_path / "shop.yaml")
    manifest = load(target)
    assert manifest.name == "my-shop"
    assert manifest.runs[0].data.source == str(data)
    assert manifest.runs[0].data.columns.text == "nombre"
    assert {run.architecture for run in manifest.runs} == {"linear", "mlp", "cnn", "rnn"}
    assert make_plan(manifest).tasks
    with pytest.raises(ValueError, match="exists already"):
        write_starting_manifest(data, target)


def test_three_files_of_a_split_are_taken_together(tmp_path: Path) -> None:
    for part in ("train", "validation", "test"):
        lines = "".join(
            f'{{"title": "{title}", "category": "{category}", "language": "{language}", "label_quality": "reliable"}}\n'
            for title, category in rows(10)
            for language in ("spanish", "portuguese", "spanish")
        )
        (tmp_path / f"spanish.{part}.jsonl").write_text(lines)
    text = starting_manifest(tmp_path / "spanish.train.jsonl", tmp_path / "m.yaml")
    (tmp_path / "m.yaml").write_text(text)
    data = load(tmp_path / "m.yaml").runs[0].data
    assert data.validation == str(tmp_path / "spanish.validation.jsonl")
    assert data.language == "spanish"
    assert "columns" not in text


def test_names_that_are_no_plain_yaml_are_quoted(tmp_path: Path) -> None:
    lines = [f'"{title}",{category},"es # {number % 3}"' for number, (title, category) in enumerate(rows(70))]
    (tmp_path / "x.csv").write_text("\n".join(['"uno, dos: tres",clase,lang', *lines]))
    data = load(write_starting_manifest(tmp_path / "x.csv", tmp_path / "m.yaml")).runs[0].data
    assert (data.columns.text, data.columns.label, data.language) == ("uno, dos: tres", "clase", "es # 0")


@pytest.mark.parametrize("name", ["label", "topic"])
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_numbers_may_be_the_label(tmp_path: Path, ending: str, name: str) -> None:
    table = pl.DataFrame({"title": [f"silla roja {at}" for at in range(40)], name: [at % 4 for at in range(40)]})
    table = table.with_columns(pl.int_range(40).alias("id"))
    path = tmp_path / f"news.{ending}"
    {"csv": table.write_csv, "jsonl": table.write_ndjson, "parquet": table.write_parquet}[ending](path)
    assert profile_data(path).columns == {"text": "title", "label": name}


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-8"])
def test_the_encoding_is_written_down_where_it_has_to_be(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "shop.csv"
    path.write_bytes(csv_text("nombre,categoria,precio").replace("zapatilla", "muñeca niño").encode(encoding))
    data = load(write_starting_manifest(path, tmp_path / "m.yaml")).runs[0].data
    assert data.encoding == ("cp1252" if encoding == "cp1252" else "auto")
    assert data.columns.text == "nombre"
    assert make_plan(load(tmp_path / "m.yaml")).tasks


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n", "has no rows"),
        ("a\nuno dos\ntres\n", "no column looks like the label; its columns are a"),
    ],
)
def test_what_makes_no_sense_is_said(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        profile_data(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("name", "text", "label"),
    [
        ("super_ec/combined_products.csv", "nombre", "categoria"),
        ("instacart/titles_aisles.csv", None, None),
        ("meli2019/train_first_rows.csv", "1", "2"),
    ],
)
def test_real_files_get_a_manifest_that_loads(name: str, text: str | None, label: str | None, tmp_path: Path) -> None:
    if not (REAL / name).is_file():
        pytest.skip(f"{REAL / name} is not here")
    manifest = load(write_starting_manifest(REAL / name, tmp_path / "m.yaml"))
    columns = manifest.runs[0].data.columns
    assert text is None or (columns.text, columns.label) == (text, label)
