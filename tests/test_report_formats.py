"""The formats of a table: Markdown, LaTeX, HTML."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cluster_fixture import REQUIRED

from pipeline.report.table import (
    Cell,
    Column,
    Table,
    latex_document,
    to_html,
    to_latex,
    to_markdown,
)


def test_formats_show_a_table_each_in_its_way() -> None:
    table = Table(
        name="t",
        group="g",
        title="T",
        columns=(Column(key="run", title="run", number=False), Column(key="x", title="x_1")),
        rows=((Cell("a|b"), Cell("0.5", 0.5, bold=True)),),
        caption="All: 1 %.",
    )
    assert to_markdown(table) == "All: 1 %.\n\n| run | x\\_1 |\n| --- | ---: |\n| a\\|b | **0.5** |\n"
    assert "\\textbf{0.5} \\\\" in to_latex(table)
    assert "x\\_1" in to_latex(table)
    assert '<th scope="col" class="number" data-key="x">x_<wbr>1</th>' in to_html(table)
    assert '<td class="number" data-value="0.5"><strong>0.5</strong></td>' in to_html(table)


@pytest.mark.skipif(
    shutil.which("pdflatex") is None and not os.environ.get(REQUIRED), reason="pdflatex is not installed"
)
def test_latex_compiles_and_no_table_is_wider_than_its_page(tmp_path: Path) -> None:
    titles = [f"a_rather_long_setting_{n}" for n in range(12)] + ["a column of several words"] * 6
    wide = Table(
        name="t",
        group="g",
        title="T <&%$#_{}~^\\>",
        columns=tuple(Column(key=title, title=title, number=n % 3 > 0) for n, title in enumerate(titles)),
        rows=tuple(
            (Cell("1024, 512, 1024, 512, 256, 128"), Cell("0.123 ± 0.012"), Cell("1e-05")) * 6 for _ in range(3)
        ),
        caption="Every mark: − ± ≥ ≤ ★ – … ñ.",
    )
    few = replace(wide, columns=wide.columns[:4], rows=tuple(row[:4] for row in wide.rows))
    (tmp_path / "t.tex").write_text(latex_document("All & sundry", [to_latex(wide), to_latex(few)]))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2_000:]
    assert "Overfull" not in (tmp_path / "t.log").read_text(errors="replace")
