"""The batch script that sbatch is given for a chunk of an array, whole. Pure: values in, text out."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from sharedfs.typed_json import Json
from slurm.array import Array, Site
from slurm.chunking import Chunk, dependency_clause
from slurm.owned import shell_checks

Options = dict[str, Json]  # by their long names; True has no value, None is left out
SHOWN_BYTES = 240  # the queue is asked for 256 of a name or comment, the accounting keeps 255 of a name


def build_script(
    array: Array,
    chunk: Chunk,
    site: Site,
    *,
    folder: Path,
    command: str,
    as_array: bool,
    ahead: Iterable[str] = (),
    note: str | None = None,
) -> str:
    """The script for a chunk, whose logs go to ``folder``.

    ``command`` is shell text that runs one element. ``as_array`` is False for a single element as a plain job.
    ``ahead`` are the ids of jobs that go before the chunk in its lane. ``note`` is a shell line that notes the job.
    """
    log = f"{folder}/{'%A_%a' if as_array else '%j'}_%t_log.out"
    # From 22.05 on srun no longer takes over what sbatch was given. What it does take over is what is exported: where
    # that is nothing, by an option or the site, the environment that this script makes would not reach the element.
    cpus = f"--cpus-per-task={array.resources.cpus}"
    srun = shlex.join(["srun", "--export=ALL", "--unbuffered", "--output", log, cpus])
    options = {
        **_resource_options(array, site),
        **_placement_options(array, site),
        **_start_options(array, chunk, ahead),
        "job-name": array.name.encode()[:SHOWN_BYTES].decode(errors="ignore"),
        "comment": _comment(array, chunk),
        "array": f"0-{len(chunk.indices) - 1}%{_at_once(chunk)}" if as_array else None,
        "output": log.replace("%t", "0"),
        "open-mode": "append",
    }
    stated: Options = {name: value for name, value in options.items() if value is not None}
    stated.update({name.replace("_", "-"): value for name, value in site.extra.items()})
    lines = [
        "#!/bin/bash",
        "",
        "# Parameters",
        *(_directive(name, stated[name]) for name in sorted(stated)),
        "",
        "# setup",
        *shell_checks(_loaded_from(array, folder)),
        *([note] if note else []),
        *_setup(array, site),
        "",
        "# command",
        "export SUBMITIT_EXECUTOR=slurm",
        f"{srun} {command}",
        "",
    ]
    return "\n".join(lines)


def _directive(name: str, value: Json) -> str:
    return f"#SBATCH --{name}" if value is True else f"#SBATCH --{name}={shlex.quote(str(value))}"


def _resource_options(array: Array, site: Site) -> Options:
    given = array.resources
    gpus = f"{site.gres_type}:{given.gpus}" if site.gres_type else given.gpus
    return {
        "nodes": 1,
        "ntasks-per-node": 1,
        "cpus-per-task": given.cpus,
        "gpus-per-node": gpus if given.gpus else None,
        "mem": f"{round(given.mem_gb * 1024)}M",
        "time": given.time_min,
        "signal": f"USR2@{given.warning_s}",
    }


def _placement_options(array: Array, site: Site) -> Options:
    """Where it may run, and on whose account."""
    return {
        "partition": site.partition,
        "account": site.account,
        "qos": site.qos,
        "constraint": site.constraint,
        "exclude": ",".join(filter(None, (site.exclude, *array.exclude))) or None,
    }


def _start_options(array: Array, chunk: Chunk, ahead: Iterable[str]) -> Options:
    """When it may start, and start again."""
    clause = dependency_clause(array, chunk, ahead)
    return {
        "requeue": True,
        "dependency": clause,
        "kill-on-invalid-dep": "yes" if clause else None,
        "hold": True if array.held else None,
    }


def _at_once(chunk: Chunk) -> int:
    return min(len(chunk.indices), chunk.throttle or len(chunk.indices))


def _comment(array: Array, chunk: Chunk) -> str:
    names = (path.name for index in chunk.indices for path in array.elements[index])
    return shown_comment(array.comment or " ".join(names))


def shown_comment(text: str) -> str:
    """A comment as Slurm is to show it: the accounting prints a table with ``|`` between its columns."""
    text = text.replace("|", "/").replace("\n", " ")
    if len(text.encode()) <= SHOWN_BYTES:
        return text
    return text.encode()[: SHOWN_BYTES - 3].decode(errors="ignore") + "..."


def _loaded_from(array: Array, folder: Path) -> list[Path]:
    """The folders that what runs is loaded from, outermost first; code that stays elsewhere is not ours to judge."""
    code = [array.code] if array.code is not None and array.code.is_relative_to(array.folder) else []
    return [array.folder, *code, folder]


# Environment Modules 3 ends with status 0 whatever happens: there what it lists tells. Its successors, and Lmod, end
# with another where a module could not be loaded, and set the variables that are looked for.
_LOAD_MODULE = """\
load_module() {
    local before=${LOADEDMODULES:-}
    module load "$1" || return
    [ -n "${LMOD_CMD:-}${MODULES_CMD:-}" ] || [ -z "${LOADEDMODULES+set}" ] || [ "$LOADEDMODULES" != "$before" ] \\
        || [[ ":$before:" = *":$1"[:/]* ]]
}"""


def setup_lines(site: Site) -> Iterator[str]:
    """The shell lines by which a site's modules and environment are loaded; the first that fails ends the shell."""
    if site.modules:
        yield from _LOAD_MODULE.splitlines()
    for module in site.modules:
        yield f"load_module {shlex.quote(module)} || {_refusal(f'module load {module}')}"
    if site.activate:
        # On lines of their own, so that it may end in a comment.
        yield from ("{", site.activate, f"}} || {_refusal(site.activate)}")


def _refusal(line: str) -> str:
    return f"{{ echo {shlex.quote(f'tanda: `{line}` failed: nothing was run')} >&2; exit 1; }}"


def _setup(array: Array, site: Site) -> Iterator[str]:
    yield from setup_lines(site)
    # SAFEPATH: the working directory must not come before the code that was submitted.
    exports = {**site.environment, **array.environment, "PYTHONSAFEPATH": "1"}
    yield from (f"export {name}={shlex.quote(value)}" for name, value in exports.items())
    if array.code:
        # In front of the rest, by which modules may deliver packages.
        yield f'export PYTHONPATH={shlex.quote(str(array.code))}"${{PYTHONPATH:+:$PYTHONPATH}}"'
