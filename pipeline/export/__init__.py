"""`tanda export`: a manifest's results in one folder, for a paper's appendix or a colleague elsewhere.

The folder is filled under another name beside its own, and renamed at the end: half of one is never seen.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path

import orjson

from jobs import metrics_log, plugins
from jobs.data.dataset import CLASSES, META, NGRAMS, VOCABULARY
from jobs.settings import values
from jobs.storage import Storage
from jobs.task import RECORD, TASK, read_record
from jobs.training.metrics import EVALUATION, PREDICTIONS
from jobs.training.run import SETTINGS
from pipeline.decisions.task_state import TaskState
from pipeline.edge import version
from pipeline.export.contents import (
    ABOUT,
    CODE,
    DATASETS,
    ENVIRONMENT,
    FORMAT,
    MANIFEST,
    README,
    REPORT,
    STATES,
    SUMS,
    About,
    DatasetUsed,
    Export,
    Stood,
    report_files,
)
from pipeline.export.readme import readme
from pipeline.export.weights import weights_files
from pipeline.plan import Plan
from pipeline.report.card import make_cards
from pipeline.report.collect import Collected, collect
from pipeline.report.groups import make_groups
from pipeline.report.i18n import make_messages
from pipeline.status import task_states
from pipeline.submission import commit, snapshot
from sharedfs.documents import write_json
from sharedfs.errors import InputError
from sharedfs.files import publish_folder, read_plain, write_whole
from sharedfs.typed_json import Json

OF_TASK = (TASK, RECORD, SETTINGS, metrics_log.NAME, EVALUATION, PREDICTIONS)
OF_DATASET = (META, CLASSES, VOCABULARY, NGRAMS)
OF_PERSON = frozenset({"notify", "mail", "tracking"})


def export(plan: Plan, folder: Path, *, only: str | None = None) -> Path:
    """Write what a plan's runs are and gave into a new folder, and return it; works while others of them run.

    Raises InputError for a folder that is there, or where no run is done; OSError, DamagedFileError.
    """
    folder = folder.absolute()
    taken = InputError(f"{folder}: is there already; name a folder that is not")
    if folder.exists() or folder.is_symlink():
        raise taken
    states = task_states(plan)
    collected = collect(plan, states)
    if not any(result.done for result in collected.results):
        raise InputError(f"{plan.manifest.name}: no run is done: there is nothing to export")
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}.tmp")
    temporary.mkdir(parents=True)
    try:
        made = Export(temporary)
        _write_storage(plan, made)
        write_json(temporary / STATES, {name: asdict(Stood.of(state)) for name, state in states.items()})
        about = _write_documents(plan, made, only)
        _write_files(temporary, _texts(collected, _as_exported(plan, states, made), about))
        snapshot(temporary / CODE)
        for cache in (temporary / CODE).rglob("__pycache__"):
            cache.rmdir()  # empty: a snapshot has them for jobs
        _write_sums(temporary)
        if not publish_folder(temporary, folder):
            raise taken
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write_storage(plan: Plan, made: Export) -> None:
    """Copy what the report reads: everything but titles, checkpoints and logs."""
    storage = Storage(plan.manifest.storage)
    for planned in plan.tasks:
        copy_files(storage.run(planned.id), made.storage.run(planned.id), OF_TASK)
        if not (made.storage.run(planned.id) / TASK).exists():
            planned.task.write(made.storage)
        if planned.stage == "preprocess":
            copy_files(storage.dataset(planned.id), made.storage.dataset(planned.id), OF_DATASET)
    for search in plan.searches:
        root = storage.search(search.id)
        for path in sorted(path for path in root.rglob("*.json") if not path.name.startswith(".")):
            copy_files(path.parent, made.storage.search(search.id) / path.parent.relative_to(root), (path.name,))


def copy_files(folder: Path, target: Path, names: Iterable[str]) -> None:
    """Copy those of these files that there are, none through a link."""
    for name in names:
        try:
            content = read_plain(folder / name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        target.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)


def _write_documents(plan: Plan, made: Export, only: str | None) -> About:
    document: dict[str, Json] = {name: value for name, value in plan.manifest.document.items() if name not in OF_PERSON}
    cluster = document.get("cluster")
    if isinstance(cluster, Mapping):
        document["cluster"] = {name: value for name, value in cluster.items() if name not in OF_PERSON}
    # In its own order: that of the tables' rows.
    write_whole(made.folder / MANIFEST, orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    sections = {planned.id: planned.settings for planned in plan.tasks if planned.stage == "preprocess"}
    used = [DatasetUsed(data=values(data), task=name) for name, data in sections.items() if name in _datasets(plan)]
    write_json(made.folder / DATASETS, [asdict(each) for each in used])
    about = About(
        format=FORMAT,
        manifest=plan.manifest.name,
        only=only,
        git_commit=commit(),
        version=version(),
        python=platform.python_version(),
        plugins=tuple(sorted(str(plugin) for plugin in plugins.in_use())),
    )
    write_json(made.folder / ABOUT, asdict(about))
    return about


def _datasets(plan: Plan) -> set[str]:
    """The preprocess tasks that make a data set whole, and not a shard of it."""
    return {row.dataset for row in plan.rows} | {search.dataset for search in plan.searches}


def _as_exported(plan: Plan, states: Mapping[str, TaskState], made: Export) -> Collected:
    """The results as the folder tells of them, by the plan that there is: no plugin's code is run for it anew."""
    stood = {name: Stood.of(state).as_state(name) for name, state in states.items()}
    return collect(replace(plan, manifest=replace(plan.manifest, storage=made.storage.root)), stood)


def _texts(collected: Collected, exported: Collected, about: About) -> Iterator[tuple[str, bytes]]:
    """Tables from what the folder holds, cards from all that there is, weights, the environment, the README."""
    for name, content in report_files(exported).items():
        yield f"{REPORT}/{name}", content
    messages = make_messages(collected.manifest.language)
    for card in make_cards(make_groups(collected), collected, messages):
        yield card.path, card.text.replace(str(collected.storage.root), "STORAGE").encode()
    for trained in dict.fromkeys(result.id for result in collected.results if result.done and result.id):
        folder = collected.storage.run(trained)
        record = read_record(folder)
        if record is not None:
            yield from weights_files(folder, record).items()
    yield ENVIRONMENT, _environment().encode()
    yield README, readme(collected, about).encode()


def _environment() -> str:
    """Every installed package with its version, as pip reads it."""
    found = {each.metadata["Name"]: each.version for each in metadata.distributions() if each.metadata["Name"]}
    lines = [f"{name}=={found[name]}" for name in sorted(found, key=str.lower) if name != "tanda"]
    return "\n".join([f"# Python {platform.python_version()}, {platform.platform()}", *lines, ""])


def _write_files(folder: Path, files: Iterable[tuple[str, bytes]]) -> None:
    for name, content in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file in a folder but the list of them, by its path in it."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        name = path.relative_to(folder).as_posix()
        if name != SUMS:
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _write_sums(folder: Path) -> None:
    lines = [f"{digest}  {name}\n" for name, digest in sums(folder).items()]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")
