"""The commands on what runs gave and cost: options and words, as in ``pipeline.cli``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli_options import Json, ManifestPath, Only, Sets, make_console, open_experiment
from pipeline.cli_runs import print_json


def report(
    manifest: ManifestPath,
    sets: Sets = None,
    only: Only = None,
    plots: Annotated[bool, typer.Option(help="draw the plots and the page")] = True,
    mlflow: Annotated[bool, typer.Option(help="bring MLflow's store up to date")] = True,
) -> None:
    """Collect records, rebuild tables, plots and the page, update MLflow's store; works while jobs run.

    With --only the group's report lies in a folder of its own, only/GROUP below the whole one's.
    """
    from pipeline.live import progress_bar
    from pipeline.report import build
    from pipeline.status import task_states

    made = open_experiment(manifest, sets).make_plan(only)
    states = task_states(made)
    with progress_bar(make_console(stderr=True)) as progress:
        folder = build(made, states, plots=plots, mlflow=mlflow, only=only, progress=progress)
    print(folder / "index.html" if plots else folder / "results.md")
    raise typer.Exit(int(any(state.state in ("failed", "lost") for state in states.values())))


def results(
    manifest: ManifestPath,
    sets: Sets = None,
    only: Only = None,
    form: Annotated[str, typer.Option("--format", metavar="csv|json|parquet|latex")] = "csv",
) -> None:
    """Write a row a run to standard output: every setting, figure and cost; in LaTeX what differs, and the scores."""
    from pipeline.results import render_results

    sys.stdout.buffer.write(render_results(open_experiment(manifest, sets).make_plan(only), form))


def export(
    manifest: ManifestPath,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="a new one")],
    sets: Sets = None,
    only: Only = None,
) -> None:
    """Write manifest, code, environment, tables, predictions, weights, model cards and digests into one folder."""
    from pipeline.export import export as export_plan

    print(export_plan(open_experiment(manifest, sets).make_plan(only), folder, only=only))


def leaderboard(
    storage: Annotated[Path, typer.Argument(metavar="STORAGE", help="what manifests call `storage`")],
    form: Annotated[str, typer.Option("--format", metavar="text|csv|json|latex")] = "text",
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="draw score against GPU-hours: a .png or .svg file")
    ] = None,
) -> None:
    """Rank all evaluated runs of a storage, of every manifest, among those judged on the same test titles."""
    from pipeline.leaderboard import make_leaderboard, render_leaderboard
    from pipeline.live import progress_bar

    with progress_bar(make_console(stderr=True)) as progress:
        made = make_leaderboard(storage, progress)
    sys.stdout.buffer.write(render_leaderboard(made, form))
    if plot is not None:
        from pipeline.leaderboard.plot import write_plot

        write_plot(made, plot)
    for problem in made.problems:
        print(f"tanda: {problem}", file=sys.stderr)
    raise typer.Exit(int(bool(made.problems)))


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="a report's folder, or REPORT:GROUP/RUN[:SEED]")],
    second: Annotated[str, typer.Argument(metavar="B", help="the same, to compare with")],
) -> None:
    """Compare two reports or two runs: settings and metrics that differ, and whether it is more than chance."""
    from pipeline.report.compare import compare as compare_reports

    print(compare_reports(first, second).text())


def overlap(
    manifest: ManifestPath,
    sets: Sets = None,
    only: Only = None,
    near: Annotated[bool, typer.Option("--near", help="also look for test titles with few words changed")] = False,
    count: Annotated[int, typer.Option("--count", min=0, help="with --near: list this many, the nearest first")] = 20,
    json: Json = False,
) -> None:
    """Count the titles of validation and test that training has too, in each data set that is made."""
    from pipeline.overlap import find_overlap, print_overlap

    found = find_overlap(open_experiment(manifest, sets).make_plan(only), near=near, count=count)
    if json:
        print_json(found)
    else:
        print_overlap(found, make_console())


def efficiency(manifest: ManifestPath, sets: Sets = None, only: Only = None, json: Json = False) -> None:
    """Show GPU-hours that were held and not used, by cause, each with the change to make."""
    from pipeline.efficiency import efficiency_document, find_efficiency, print_efficiency
    from pipeline.status import task_states

    made = open_experiment(manifest, sets).make_plan(only)
    found = find_efficiency(made, task_states(made))
    if json:
        print_json(efficiency_document(found))
    else:
        print_efficiency(made.manifest.name, found, make_console())
