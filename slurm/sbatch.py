"""The batch script that sbatch is given for a chunk of an array, whole. Pure: values in, text out."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from sharedfs.typed_json import Json
from slurm.array import Array, Container, Resources, Site
from slurm.chunking import Chunk, dependency_clause
from slurm.owned import shell_checks

Options = dict[str, Json]  # by their long names; True has no value, None is left out
SHOWN_BYTES = 240  # the queue is asked for 256 of a name or comment, the accounting keeps 255 of a name
MEMORY = frozenset({"mem", "mem-per-cpu", "mem-per-gpu"})
# In a container there is no scontrol with which an element could ask for another start (75).
REQUEUE = (
    "status=$?",
    'if [ "$status" -eq 75 ]; then',
    '    scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"',
    "fi",
    'exit "$status"',
)


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
    # A % begins a pattern of Slurm's.
    log = f"{str(folder).replace('%', '%%')}/{'%A_%a' if as_array else '%j'}_%t_log.out"
    options = {
        **_resource_options(array.resources, site),
        **_placement_options(array, site),
        **_start_options(array, chunk, ahead),
        "job-name": array.name.encode()[:SHOWN_BYTES].decode(errors="ignore"),
        "comment": _comment(array, chunk),
        "array": f"0-{len(chunk.indices) - 1}%{_at_once(chunk)}" if as_array else None,
        "output": log.replace("%t", "0"),
        "open-mode": "append",
    }
    stated = _with_extra(options, site.extra)
    # From 22.05 on srun no longer takes over what sbatch was given. What it does take over is what is exported: where
    # that is nothing, by an option or the site, the environment that this script makes would not reach the element.
    cpus = f"--cpus-per-task={array.resources.cpus}"
    srun = ["srun", "--export=ALL", "--unbuffered", "--output", log, cpus]
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
        "unset SLURM_CLUSTERS  # who asks for another start means the cluster that the job is on",
        "export SUBMITIT_EXECUTOR=slurm",
        *_command_lines(srun, command, site, _mounts(array, folder, site)),
        "",
    ]
    return "\n".join(lines)


def _with_extra(options: Options, extra: Mapping[str, Json]) -> Options:
    """The options that are stated, after the profile's own, which may leave any of ours out."""
    own = {name.replace("_", "-"): value for name, value in extra.items()}
    # One way to ask for memory excludes the others.
    ours = {name: value for name, value in options.items() if name not in MEMORY or own.keys().isdisjoint(MEMORY)}
    return {name: value for name, value in {**ours, **own}.items() if value is not None and value is not False}


def _directive(name: str, value: Json) -> str:
    return f"#SBATCH --{name}" if value is True else f"#SBATCH --{name}={shlex.quote(str(value))}"


def _resource_options(given: Resources, site: Site) -> Options:
    return {
        "nodes": 1,
        "ntasks-per-node": 1,
        "cpus-per-task": given.cpus,
        **gpu_option(given.gpus, site),
        **_memory_option(given, site),
        "time": given.time_min,
        "time-min": site.least_min if site.least_min and site.least_min < given.time_min else None,
        "signal": f"USR2@{given.warning_s}",
    }


def gpu_option(gpus: int, site: Site) -> Options:
    """How the site is asked for GPUs, if for any."""
    if not gpus:
        return {}
    count = f"{site.gres_type}:{gpus}" if site.gres_type else gpus
    return {"gres": f"gpu:{count}"} if site.gpu_option == "gres" else {"gpus-per-node": count}


def _memory_option(given: Resources, site: Site) -> Options:
    """What is said of memory: of a share never less than the whole comes to; without a GPU there is none per GPU."""
    if site.memory == "none":
        return {}
    if site.memory == "per_cpu":
        return {"mem-per-cpu": f"{math.ceil(given.mem_mb / given.cpus)}M"}
    if site.memory == "per_gpu" and given.gpus:
        return {"mem-per-gpu": f"{math.ceil(given.mem_mb / given.gpus)}M"}
    return {"mem": f"{given.mem_mb}M"}


def _placement_options(array: Array, site: Site) -> Options:
    """Where it may run, and on whose account."""
    return {
        "clusters": site.clusters,
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


# What runs an element: srun, in a container where the site has one.


def _command_lines(srun: Sequence[str], command: str, site: Site, mounts: Sequence[str]) -> list[str]:
    if site.container is None:
        return [f"{shlex.join(srun)} {command}"]
    checks = apptainer_checks(site.container) if site.container.apptainer else []
    words = [*srun, *pyxis_options(site.container, mounts), *apptainer_words(site.container, mounts)]
    return [*checks, f"{shlex.join(words)} {command}", *REQUEUE]


def pyxis_options(container: Container, mounts: Sequence[str]) -> list[str]:
    """What srun is given to start a command in the image; nothing where it is not srun that does so."""
    if not container.pyxis:
        return []
    return [f"--container-image={container.pyxis}", f"--container-mounts={','.join(mounts)}"]


def apptainer_words(container: Container, mounts: Sequence[str]) -> list[str]:
    """What goes in front of a command to run it in the image; nothing where it is srun that does so."""
    if not container.apptainer:
        return []
    return ["apptainer", "exec", "--nv", *(word for mount in mounts for word in ("--bind", mount)), container.apptainer]


def apptainer_checks(container: Container) -> list[str]:
    """Shell lines that end a script, and say why, where an element could not start in its image."""
    image = shlex.quote(str(container.apptainer))
    checks = [
        "if ! command -v apptainer > /dev/null; then",
        '    echo "tanda: no apptainer on PATH of $(hostname): a module of the profile must bring it" >&2',
        "    exit 1",
        "fi",
    ]
    if not is_image_file(container):
        return checks
    return [*checks, f"if [ ! -e {image} ]; then", f"    echo tanda: no such image: {image} >&2", "    exit 1", "fi"]


def is_image_file(container: Container) -> bool:
    """Whether the image is a file or a folder of the site's, and not one of a registry."""
    return "://" not in (container.apptainer or "://")


def _mounts(array: Array, folder: Path, site: Site) -> list[str]:
    """The folders that a container is given: what elements read and write, and the profile's own."""
    if site.container is None:
        return []
    code = [array.code] if array.code else []
    wanted = sorted({path.absolute() for path in (*array.storage, array.folder, *code, folder)})
    outermost = [path for path in wanted if not any(path != other and path.is_relative_to(other) for other in wanted)]
    return [*(f"{path}:{path}" for path in outermost), *site.container.mounts]


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
