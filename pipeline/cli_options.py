"""What commands have in common: their options and arguments, a manifest's experiment, the terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pipeline.edge import Terminal

if TYPE_CHECKING:
    from pipeline.experiment import Experiment

ManifestPath = Annotated[Path, typer.Argument(metavar="MANIFEST", help="the experiment manifest, a YAML file")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="change one value of the manifest")]
Profile = Annotated[Path | None, typer.Option("--cluster", metavar="PROFILE", help="a cluster profile to use instead")]
Only = Annotated[str | None, typer.Option("--only", metavar="GROUP", help="one group or search of the manifest")]
Json = Annotated[bool, typer.Option("--json", help="one JSON document on standard output and nothing else")]
Executor = Annotated[
    str | None, typer.Option("--executor", metavar="slurm|local|inline", help="instead of the cluster profile's")
]
TaskName = Annotated[
    str, typer.Argument(metavar="TASK", help="a task's id, or its run's name, or GROUP/RUN, or GROUP/RUN/STAGE")
]


def open_experiment(manifest: Path, sets: list[str] | None = None, cluster: Path | None = None) -> Experiment:
    from pipeline.experiment import Experiment

    experiment = Experiment(manifest, sets=sets or (), cluster=cluster)
    experiment.keeps_umask = False
    return experiment


def make_console(*, stderr: bool = False) -> Console:
    # A pipe has no width: tables are laid out for 160 columns there, and never wrapped to 80.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    return Terminal(stderr=stderr, width=width)
