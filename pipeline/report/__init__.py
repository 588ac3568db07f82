"""Builds a manifest's report from storage: the tables, the plots, the page and MLflow's store."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from jobs.plugins import PLOTS, left_out_where_it_fails
from pipeline.decisions.task_state import TaskState
from pipeline.memory import collection_paused
from pipeline.plan import Plan
from pipeline.report import results_csv
from pipeline.report.collect import Collected, Progress, collect
from pipeline.report.files import ReportData, document_files, file_name, publish
from pipeline.report.groups import Group, make_groups
from pipeline.report.i18n import Messages, make_messages
from pipeline.report.insights import find_insights
from pipeline.report.tables import build_all
from sharedfs.files import touch

OWN = ("plots", "tables", "runs", "assets")  # folders in which what an earlier report left over is removed


def build(
    plan: Plan,
    states: Mapping[str, TaskState],
    *,
    progress: Progress | None = None,
    plots: bool = True,
    mlflow: bool = True,
    only: str | None = None,
) -> Path:
    """Build ``<storage>/reports/<manifest name>/`` and return it; the same bytes when nothing changed.

    A plan of one group alone is reported below that, in ``only/<group>/``: the whole report stays as it is.

    Works while jobs run: what is not finished, or broken, is a row that says so. Without ``plots``
    (they and the page) or ``mlflow`` that part is left as an earlier report made it.
    """
    messages = make_messages(plan.manifest.language)
    with collection_paused():
        collected = collect(plan, states, progress=progress)
        groups = make_groups(collected)
        tables = tuple(table for group in groups for table in build_all(group, collected, messages))
    observations = find_insights(groups, collected, messages)
    pictures, files = _draw(groups, collected, messages, progress) if plots else ({}, {})
    report = ReportData(
        collected=collected,
        groups=groups,
        tables=tables,
        observations=observations,
        pictures=pictures,
        messages=messages,
    )
    columns = results_csv.columns(collected)
    files |= {results_csv.CSV: results_csv.as_csv(columns), results_csv.PARQUET: results_csv.as_parquet(columns)}
    files |= document_files(report)
    if plots:
        from pipeline.report.page import render

        files |= render(report, progress=progress)
    folder = collected.storage.reports / plan.manifest.name
    if only is not None:
        folder = folder / "only" / file_name(only)
    publish(folder, files, own=OWN if plots else ("tables",))
    with suppress(PermissionError):  # another's, with the same bytes: then there was nothing to bring up to date
        touch(folder / results_csv.CSV)  # its time tells when the report was built, also where no byte has changed
    if mlflow:
        # A run keeps the pictures of the whole report: those of one group have other colours.
        note = update_mlflow(collected, folder, pictures if only is None else {}, progress=progress)
        if note is not None:
            print(note, file=sys.stderr)
    return folder


def update_mlflow(
    collected: Collected,
    folder: Path,
    pictures: Mapping[str, Iterable[str]],
    *,
    progress: Progress | None = None,
) -> str | None:
    """Bring MLflow's store, and the tracking server if there is one, up to date; a note when one was left behind."""
    paths = {group: [folder / name for name in names] for group, names in pictures.items()}
    # They read what this package has collected: imported here, they can also be imported first.
    from pipeline.mlflow import server, store
    from pipeline.mlflow.runs import mlflow_runs

    runs = mlflow_runs(collected, paths)
    storage, manifest = collected.storage, collected.manifest
    updated = store.update(storage, manifest.name, runs, progress=progress)
    if manifest.tracking_uri is not None:
        return server.sync_server(manifest.tracking_uri, storage, manifest.name, runs, progress=progress)
    return "MLflow's store is being updated by another process" if updated.busy else None


def _draw(
    groups: tuple[Group, ...], collected: Collected, messages: Messages, progress: Progress | None
) -> tuple[dict[str, list[str]], dict[str, bytes]]:
    """The pictures' paths by group, and their files."""
    import matplotlib as mpl

    from pipeline.report.plots import files, style

    pictures: dict[str, list[str]] = {}
    drawn: dict[str, bytes] = {}
    wanted = [
        (module, group) for module in PLOTS.modules() for group in ((None,) if module.SCOPE == "manifest" else groups)
    ]
    with mpl.rc_context(style()):
        for done, (module, group) in enumerate(wanted, start=1):
            with left_out_where_it_fails(module):
                for data in module.build(group, collected, messages):
                    drawn |= files(data.name, module.draw(data, messages))
                    pictures.setdefault(group.name if group else "", []).append(f"plots/{data.name}.png")
            if progress:
                progress("plots", done, len(wanted))
    return pictures, drawn
