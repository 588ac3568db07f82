"""Batch scripts that a person submits: ``submit.sh``, which does so in the right order, and which jobs they became.

A job is noted as an empty file of its number, in ``queued/<script>/`` of the folder that the jobs start from: by
``submit.sh`` as sbatch prints the number, and by the job itself as it starts, for a script that was given to sbatch
without ``submit.sh``. Each note is whole at once, and the same however often it is made.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sharedfs.errors import DamagedFileError

NOTES = "queued"


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A batch script for the elements ``indices`` of an array; chunks of one ``lane`` run one after the other."""

    path: Path
    indices: tuple[int, ...]
    lane: int | None = None

    @property
    def name(self) -> str:
        return self.path.stem


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of sbatch: by a script's name, after jobs of other scripts, and after jobs that are queued already."""

    script: str
    after: tuple[str, ...] = ()
    after_jobs: tuple[str, ...] = ()


def note_line(folder: Path, script: str) -> str:
    """The line of a batch script by which its job is noted as it starts."""
    return f': >> {shlex.quote(str(folder / NOTES / script))}/"${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}"'


def noted_jobs(folder: Path, script: str) -> list[str]:
    """The jobs that a script became, oldest first; raises DamagedFileError for a note that names none."""
    notes = folder / NOTES / script
    try:
        names = [path.name for path in notes.iterdir() if not path.name.startswith(".")]
    except FileNotFoundError:
        return []
    for name in names:
        if not name.isdecimal():
            raise DamagedFileError(f"{notes / name}: not a job's number")
    return sorted(names, key=int)


_SUBMIT = """\
#!/bin/bash
# Queues the scripts beside it, each after those that it waits for, and notes their jobs, by which `tanda status` knows
# them. Started again, it goes on where it stopped; with names it queues those alone: submit.sh {example}
set -euo pipefail
here=$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)
queued={notes}
chosen=" $* "
unset "${{!SBATCH_@}}"  # they would override what the scripts ask for

for name in "$@"; do
    if [ ! -f "$here/$name.sbatch" ]; then
        echo "submit.sh: there is no $name.sbatch here" >&2
        exit 2
    fi
done

# queue SCRIPT JOBS OTHER...: a script after jobs that are queued already (:1:2) and those of other scripts
queue() {{
    local script=$1 after=$2 other job answer
    shift 2
    if [ "$chosen" != "  " ] && [[ "$chosen" != *" $script "* ]]; then
        return
    fi
    if [ -n "$(ls "$queued/$script")" ]; then
        echo "$script: queued already, as" $(ls "$queued/$script")
        return
    fi
    for other in "$@"; do
        for job in $(ls "$queued/$other"); do
            after+=":$job"
        done
    done
    if ! answer=$(sbatch --parsable ${{after:+"--dependency=afterany$after"}} "$here/$script.sbatch"); then
        echo "submit.sh: $script was refused, and what comes after it was not queued; start this again to go on" >&2
        exit 1
    fi
    job=$(grep -oE '^[0-9]+(;|$)' <<< "$answer" | tail -n 1 | tr -d ';' || true)
    if [ -z "$job" ]; then
        echo "submit.sh: $script: sbatch printed no job's number, so nothing after it was queued: $answer" >&2
        exit 1
    fi
    : >> "$queued/$script/$job"
    echo "$job $script"
}}

{calls}
"""


def submit_text(calls: Sequence[Call], folder: Path) -> str:
    """``submit.sh`` for these calls, in their order; the jobs start from ``folder``."""
    lines = (
        shlex.join(["queue", call.script, "".join(f":{job}" for job in call.after_jobs), *call.after]) for call in calls
    )
    notes = shlex.quote(str(folder / NOTES))
    return _SUBMIT.format(example=calls[0].script, notes=notes, calls="\n".join(lines))


def make_notes(folder: Path, scripts: Iterable[Script]) -> None:
    """Make the folders of the scripts' notes, which this user alone can change."""
    for notes in (folder / NOTES, *(folder / NOTES / script.name for script in scripts)):
        notes.mkdir(mode=0o755, exist_ok=True)
