"""The commands that look at single titles: options and words, as in ``pipeline.cli``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

PluginFiles = Annotated[
    list[Path] | None, typer.Option("--plugin", metavar="FILE", help="a plugin that the run was made with; repeatable")
]


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a trained run: STORAGE/runs/ID")],
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="a title a line, or csv, parquet, ...; standard input if none")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="this many categories of each, the most probable first")] = 1,
    column: Annotated[str | None, typer.Option("--column", help="of the titles, where not that of training")] = None,
    json: Annotated[bool, typer.Option("--json", help="a JSON document a title")] = False,
    plugin: PluginFiles = None,
) -> None:
    """Classify titles with a trained run: a line each of category, probability and title, in their order."""
    from pipeline.predict import print_answers

    print_answers(run, file, plugins=plugin or (), top=top, json=json, column=column)


def errors(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="the folder of an evaluated run: STORAGE/runs/ID")],
    split: Annotated[str, typer.Option("--split", metavar="test|validation", help="of which titles")] = "test",
    count: Annotated[int, typer.Option("--count", min=0, help="this many titles, the most certain errors first")] = 20,
    json: Annotated[bool, typer.Option("--json", help="one JSON document on standard output and nothing else")] = False,
) -> None:
    """List the titles that a run is most sure of and wrong about, and errors by category, language, length, overlap."""
    from jobs.data.dataset import EVALUATED
    from pipeline.errors import find_errors, print_errors

    if split not in EVALUATED:
        raise typer.BadParameter(f"must be one of {', '.join(EVALUATED)}, not {split}")
    found = find_errors(run, split=split, count=count)
    if json:
        import orjson

        sys.stdout.buffer.write(orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    else:
        print_errors(found, Console(width=None if sys.stdout.isatty() else 160))
