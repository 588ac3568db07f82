"""Runs docs/notebook.ipynb without Jupyter: its code cells in order, in this process, in the working directory.

    python tests/notebook.py           # what differs from the outputs that are kept; status 1 where something does
    python tests/notebook.py --write   # keep what came out, of cells tagged ``stable``, in the notebook

Figures differ between machines, so only what a cell tagged ``stable`` shows is kept: plans, names, states.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

PATH = Path(__file__).parents[1] / "docs" / "notebook.ipynb"
STABLE = "stable"


def read() -> dict[str, Any]:
    """The notebook's document (nbformat 4)."""
    document: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    return document


def code_cells(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in document["cells"] if cell["cell_type"] == "code"]


def is_stable(cell: dict[str, Any]) -> bool:
    return STABLE in cell["metadata"].get("tags", ())


def execute(source: str, names: dict[str, Any]) -> list[dict[str, Any]]:
    """What a cell shows: what it prints, then the value of its last line if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, str(PATH), "exec"), names)
        value = None if last is None else eval(compile(ast.Expression(last.value), str(PATH), "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        lines = printed.getvalue().splitlines(keepends=True)
        outputs.append({"output_type": "stream", "name": "stdout", "text": lines})
    if value is not None:
        data = {"text/plain": repr(value).splitlines(keepends=True)}
        outputs.append({"output_type": "execute_result", "execution_count": None, "data": data, "metadata": {}})
    return outputs


def main() -> int:
    """Run all cells; compare what the stable ones show, or keep it."""
    parser = argparse.ArgumentParser(description="The notebook of docs/, run without Jupyter.")
    parser.add_argument("--write", action="store_true", help="keep what the stable cells show")
    write = parser.parse_args().write
    document, names, differ = read(), {"__name__": "__main__"}, False
    for number, cell in enumerate(code_cells(document)):
        outputs = execute("".join(cell["source"]), names)
        kept = outputs if is_stable(cell) else []
        if not write and cell["outputs"] != kept:
            differ = True
            print(
                f"cell {number}:\n{json.dumps(outputs, indent=1)}\ninstead of\n{json.dumps(cell['outputs'], indent=1)}"
            )
        cell["outputs"], cell["execution_count"] = kept, None
    if write:
        PATH.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(differ)


if __name__ == "__main__":
    sys.exit(main())
