"""docs/notebook.ipynb runs from its first cell to its last, for real, and shows what it says it shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import notebook
import pytest


@pytest.mark.timeout(290)
def test_it_runs_and_shows_what_it_says(tmp_path: Path) -> None:
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONSAFEPATH": "1", "PYTHONWARNINGS": "error::UserWarning"}
    ended = subprocess.run(
        [sys.executable, notebook.__file__], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (tmp_path / "tour/storage/reports/tour/index.html").is_file()


def test_a_cell_that_shows_something_else_is_named(tmp_path: Path) -> None:
    assert notebook.execute("x = 2\nprint(x)\nx + 1", {}) == [
        {"output_type": "stream", "name": "stdout", "text": ["2\n"]},
        {"output_type": "execute_result", "execution_count": None, "data": {"text/plain": ["3"]}, "metadata": {}},
    ]


def test_it_keeps_what_is_the_same_on_every_machine_alone() -> None:
    document = notebook.read()
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in document["cells"]}) == len(document["cells"])
    cells = notebook.code_cells(document)
    assert sum(map(notebook.is_stable, cells)) >= 6
    for cell in cells:
        assert bool(cell["outputs"]) == notebook.is_stable(cell) and cell["execution_count"] is None
    text = notebook.PATH.read_text(encoding="utf-8")
    assert text == json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    assert "/home/" not in text and "/tmp" not in text
