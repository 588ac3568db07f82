"""The command line: options and words; each command's work is in the module named after it."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from jobs.data import Quotes
from pipeline import cli_results, cli_runs
from pipeline.cli_options import (
    Executor,
    Json,
    ManifestPath,
    Only,
    Profile,
    Sets,
    TaskName,
    make_console,
    open_experiment,
)  # fmt: skip
from pipeline.cli_runs import print_json
from pipeline.edge import Edge, version
from sharedfs.errors import InputError

app = typer.Typer(
    cls=Edge,
    pretty_exceptions_enable=False,
    help="Experiment batches on a shared Slurm GPU cluster: submit a manifest, queue a search, rebuild the report.",
)
data = typer.Typer(no_args_is_help=True, help="Make data to try things with.")
app.add_typer(data, name="data")


def _print_version(asked: bool) -> None:
    if asked:
        print(f"tanda {version()}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    traceback: Annotated[  # noqa: ARG001 - read by pipeline.edge
        bool, typer.Option("--traceback", envvar="TANDA_DEBUG", help="show where a one-line error came from")
    ] = False,
    version: Annotated[  # noqa: ARG001 - its callback ends the program
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="print the version")
    ] = False,
) -> None:
    """What comes before the command; without one: what to do next in this folder."""
    if context.invoked_subcommand is None:
        from pipeline.next_step import next_steps

        print("\n".join(next_steps(Path())))


@app.command()
def plan(
    manifest: ManifestPath,
    sets: Sets = None,
    cluster: Profile = None,
    only: Only = None,
    when: Annotated[bool, typer.Option("--when", help="ask Slurm when jobs like these could start")] = False,
    json: Json = False,
) -> None:
    """Validate a manifest and print its tasks, arrays, needs and resources; touches nothing."""
    from pipeline.show import plan_document, print_plan
    from pipeline.status import done_on_storage

    made = open_experiment(manifest, sets, cluster).make_plan(only, provisional=True)
    for missing in made.missing:
        print(f"tanda: {missing}; ids are provisional until it is there", file=sys.stderr)
    done = done_on_storage(made)
    if json:
        print_json(plan_document(made, done))
    else:
        print_plan(made, done, make_console())
    if when:
        from pipeline.when import when_lines

        for line in when_lines(made, done):
            print(line, file=sys.stderr if json else sys.stdout)


@app.command()
def submit(
    manifest: ManifestPath,
    sets: Sets = None,
    cluster: Profile = None,
    only: Only = None,
    executor: Executor = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the sbatch scripts, submit nothing")] = False,
    sbatch_only: Annotated[
        Path | None, typer.Option("--sbatch-only", metavar="FOLDER", help="write the sbatch scripts here instead")
    ] = None,
    rerun: Annotated[
        str | None,
        typer.Option(
            metavar="RUN|GROUP|changed",
            help="also make these again, though they are done; changed: what earlier code made",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Submit what is missing or failed, and nothing else; prints job ids and returns at once."""
    from pipeline.scripts import dry_run as shown
    from pipeline.scripts import write_scripts
    from pipeline.submit_result import print_submitted

    experiment = open_experiment(manifest, sets, cluster)
    if dry_run:
        print(shown(experiment.make_plan(only, run_plugins=True), executor=executor, rerun=rerun), end="")
        return
    if sbatch_only is not None:
        if rerun is not None:
            raise InputError("--sbatch-only moves no result aside, so --rerun can't go with it; --dry-run shows both")
        paths = write_scripts(experiment.make_plan(only, run_plugins=True), sbatch_only)
        print("\n".join(map(str, paths)) or "nothing to submit: `tanda status` shows what is queued")
        return
    submitted = experiment.submit(only, executor=executor, rerun=rerun)
    if json:
        print_json(submitted.document())
    else:
        print_submitted(submitted, make_console())
    raise typer.Exit(submitted.exit_status)


@app.command()
def run(manifest: ManifestPath, sets: Sets = None, only: Only = None, executor: Executor = "local") -> None:
    """Submit on local processes, wait with a live display, then report."""
    from pipeline.run import run_plan
    from pipeline.status import print_states

    experiment, console = open_experiment(manifest, sets), make_console()
    made = experiment.make_plan(only, run_plugins=True)
    whole = (lambda: made) if only is None else partial(experiment.make_plan, run_plugins=True)
    ended = run_plan(made, whole, executor=executor or "local", console=console, errors=make_console(stderr=True))
    print_states(made, ended.states, console)
    console.print(f"report: {ended.page}", soft_wrap=True)
    raise typer.Exit(int(any(state.state != "done" for state in ended.states.values())))


@app.command()
def status(
    manifest: ManifestPath,
    sets: Sets = None,
    only: Only = None,
    watching: Annotated[bool, typer.Option("--watch", help="until all tasks have ended")] = False,
    json: Json = False,
) -> None:
    """Show the state of every task: waiting, running (how far), done, failed and why, GPU-hours."""
    from pipeline.live import watch
    from pipeline.status import print_states, standing, states_document

    made = open_experiment(manifest, sets).make_plan(only)
    if watching:
        watch(made, make_console())
    now = standing(made)
    if json:
        print_json(states_document(made, now.states, now.undone, now.notices))
    else:
        print_states(made, now.states, make_console(), now.undone, now.notices)
    raise typer.Exit(now.exit_status)


@app.command()
def logs(
    manifest: ManifestPath,
    task: TaskName,
    sets: Sets = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="until the task has ended")] = False,
) -> None:
    """Print a task's log."""
    from pipeline.why import read_log

    for text in read_log(open_experiment(manifest, sets).make_plan(), task, follow=follow):
        print(text, end="", flush=True)


@app.command()
def cancel(manifest: ManifestPath, sets: Sets = None, only: Only = None) -> None:
    """Cancel what of a manifest is queued or running."""
    from pipeline.submit import cancel_plan

    cancelled = cancel_plan(open_experiment(manifest, sets).make_plan(only))
    count, unknown = cancelled.ending, cancelled.unknown
    print(f"{count} task{'s' * (count != 1)} cancelled", file=sys.stderr)
    for user, left in cancelled.left.items():
        print(f"{left} left to {user}, who queued {'them' if left > 1 else 'it'}", file=sys.stderr)
    if unknown:
        print(f"{unknown} not cancelled: their state is unknown (`tanda status`); try again", file=sys.stderr)
    raise typer.Exit(2 if cancelled.left else int(unknown > 0))


@app.command()
def why(manifest: ManifestPath, task: TaskName, sets: Sets = None) -> None:
    """Explain why a task waits or failed, and what to do about it."""
    print(open_experiment(manifest, sets).why(task))


app.command()(cli_results.report)
app.command()(cli_results.results)
app.command()(cli_results.export)
app.command()(cli_results.leaderboard)
app.command()(cli_results.compare)
app.command()(cli_results.efficiency)
app.command()(cli_results.overlap)
app.command()(cli_runs.predict)
app.command()(cli_runs.errors)


@app.command()
def doctor(
    storage: Annotated[Path, typer.Argument(metavar="STORAGE", help="the shared storage; made if missing")],
    gpu: Annotated[bool, typer.Option("--gpu", help="ask a node what it sees of a GPU")] = False,
    cluster: Profile = None,
    json: Json = False,
) -> None:
    """Check versions, Slurm, each stage of a profile, GPUs, the storage's file system, and free space."""
    from rich.text import Text

    from pipeline.doctor_profile import examine_site

    findings = []
    for finding in examine_site(storage, ask_gpu=gpu, profile=cluster):
        findings.append(finding)
        if not json:
            verdict = ("ok  ", "green") if finding.ok else ("FAIL", "red")
            make_console().print(Text.assemble(verdict, f" {finding.name}: {finding.reason}"), soft_wrap=True)
    if json:
        print_json(findings)  # dataclasses, which orjson knows
    raise typer.Exit(int(not all(finding.ok for finding in findings)))


@app.command()
def check_plugin(file: Annotated[Path, typer.Argument(metavar="FILE", help="a plugin's file or folder")]) -> None:
    """Run the contract tests of a plugin's kind on it: what it must keep to before a job may use it."""
    from pipeline.check_plugin import print_findings

    raise typer.Exit(int(not print_findings(file, make_console())))


@app.command()
def gc(
    manifests: Annotated[list[Path], typer.Argument(metavar="MANIFEST...", help="what these refer to is kept")],
    yes: Annotated[bool, typer.Option("--yes", help="remove without asking")] = False,
) -> None:
    """Show what on the storage none of these manifests refers to, with sizes, and remove it if you confirm."""
    from jobs.storage import Storage
    from pipeline.gc import find_unreferenced, remove
    from pipeline.live import progress_bar

    plans = [open_experiment(manifest).make_plan() for manifest in manifests]
    with progress_bar(make_console(stderr=True)) as progress:
        waste = find_unreferenced(Storage(plans[0].manifest.storage), plans, progress)
    for found in waste:
        print(f"{found.size / 1e6:10.1f} MB  {found.path}  {found.why}")
    total_mb = sum(found.size for found in waste) / 1e6
    if not waste:
        print("nothing to remove")
    elif yes or typer.confirm(f"remove these {len(waste)} ({total_mb:.1f} MB)?", default=False):
        with progress_bar(make_console(stderr=True)) as progress:
            freed = remove(Storage(plans[0].manifest.storage), waste, progress)
        print(f"{freed / 1e6:.1f} MB removed")


app.command()(cli_runs.repro)


@app.command()
def init(
    data_file: Annotated[Path, typer.Argument(metavar="DATA", help="a csv, tsv, jsonl or parquet file of titles")],
    target: Annotated[Path, typer.Argument(metavar="MANIFEST", help="the manifest to write; must not exist yet")],
    quotes: Annotated[
        Quotes, typer.Option(metavar="checked|double|none", help="csv, tsv: how quotes are read, as in data.quotes")
    ] = "checked",
) -> None:
    """Write a starting manifest from a data file: its columns, languages, categories and sizes."""
    from pipeline.init import write_starting_manifest

    print(write_starting_manifest(data_file, target, quotes))


@app.command()
def schema(
    profile: Annotated[bool, typer.Option("--profile", help="of a cluster profile instead of a manifest")] = False,
) -> None:
    """Print the JSON schema of manifests, for editors."""
    from pipeline.manifest.reference import manifest_schema, profile_schema

    print_json(profile_schema() if profile else manifest_schema())


@app.command()
def mlflow(
    manifest: ManifestPath,
    sets: Sets = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="where it listens, on this machine alone")] = 5000,
) -> None:
    """Start MLflow's own page on the storage's runs, until Ctrl-C."""
    from jobs.storage import Storage
    from pipeline.mlflow.store import server_command

    storage = Storage(open_experiment(manifest, sets).load().storage)
    command, environment = server_command(storage, port=port)
    os.execvpe(command[0], command, environment)  # noqa: S606 - the page takes this process's place


@data.command()
def sample(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a new or existing folder")],
    rows: Annotated[int, typer.Option(min=100, help="in train.csv.gz, both languages")] = 20_000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    categories: Annotated[
        int | None, typer.Option(min=2, max=1600, help="of each language; else 632 and 773, as the real ones have")
    ] = None,
) -> None:
    """Write a data set of made-up titles in both real formats, the same bytes for the same options."""
    from jobs.data.sample import write_sample

    write_sample(folder, rows, seed=seed, categories=categories)
    print(folder)


@app.command(hidden=True)
def close(submission: Annotated[Path, typer.Argument(metavar="SUBMISSION")]) -> None:
    """The closing job of a submission: retry what can succeed, then rebuild the report."""
    from pipeline.close import close_submission

    raise typer.Exit(close_submission(submission))
