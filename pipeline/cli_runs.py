"""The commands that take the folder of a finished run: options and words, as in ``pipeline.cli``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from pipeline.repro import Difference

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
        print_json(found)
    else:
        print_errors(found, Console(width=None if sys.stdout.isatty() else 160))


def repro(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="the folder of a finished task, STORAGE/runs/ID, or an exported folder"),
    ],
    check: Annotated[
        bool, typer.Option("--check", help="run it again and compare bits; of an export tables too")
    ] = False,
    plugin: PluginFiles = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="of an export: where its data files are here"),
    ] = None,
    train: Annotated[bool, typer.Option(help="of an export: train again too, where the data are")] = True,
) -> None:
    """Print how a run, or what an export has, was made: commit, settings, data digests, the exact command."""
    from pipeline import repro as reproduction
    from pipeline.export.check import check_export, describe_export, is_export

    if is_export(run):
        print_json(describe_export(run))
        if check:
            checked = check_export(run, sets=sets or (), train=train)
            for note in checked.notes:
                print(f"tanda: {note}", file=sys.stderr)
            _end_check(checked.differences)
        return
    print_json(reproduction.describe(run))
    if check:
        _end_check(reproduction.check(run, plugin or ()))


def _end_check(differences: Sequence[Difference]) -> None:
    """Name what differs, and end with status 1 where something does."""
    for difference in differences:
        print(f"tanda: {difference.file}: {difference.why}", file=sys.stderr)
    print("tanda: the same bits" if not differences else "tanda: not reproduced", file=sys.stderr)
    raise typer.Exit(int(bool(differences)))


def print_json(document: object) -> None:
    """One JSON document on standard output, and nothing else."""
    import orjson  # here: a start that prints no JSON is faster without it

    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    sys.stdout.buffer.write(orjson.dumps(document, option=options))
