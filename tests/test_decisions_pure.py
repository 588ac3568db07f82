"""Decisions are functions of values: their modules reach no file, no clock and no executor."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pipeline.decisions
from slurm import reasons

DECISIONS = sorted(Path(pipeline.decisions.__path__[0]).glob("*.py"))
# Values and words alone; these keep to the same rule.
OURS = {"pipeline.decisions.retry", "pipeline.decisions.task_state", "slurm.reasons"}
STANDARD = {"__future__", "collections", "collections.abc", "dataclasses", "typing"}
# What ``slurm.reasons`` explains is in a file of its own beside it, which no decision reads.
TABLE = {"functools", "pathlib", "tomllib"}


def _imports(node: ast.AST) -> set[str]:
    """What is imported when the module runs: what only a type checker reads is left out."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return set()
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return {node.module or ""}
    return set().union(*map(_imports, ast.iter_child_nodes(node)))


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_only_values_are_imported(path: Path) -> None:
    assert _imports(ast.parse(path.read_text())) <= OURS | STANDARD


def test_reasons_import_values_and_their_own_table() -> None:
    assert _imports(ast.parse(Path(reasons.__file__).read_text())) <= STANDARD | TABLE


def test_telling_that_a_launch_is_held_reads_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons._reasons.cache_clear()
    monkeypatch.setattr(Path, "read_text", lambda path: pytest.fail(f"{path} was read"))
    assert reasons.is_launch_held("(launch failed requeued held)") and not reasons.is_launch_held("Priority")


def test_there_are_decisions() -> None:
    assert {path.stem for path in DECISIONS} >= {"task_state", "retry", "submission", "closing"}


def test_an_import_of_a_file_system_would_be_seen() -> None:
    assert _imports(ast.parse("def f():\n    import os\n    from pathlib import Path\n")) == {"os", "pathlib"}
