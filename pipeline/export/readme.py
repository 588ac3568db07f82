"""The README of an exported folder: what is in it, whether the data are, and how to check it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jobs.data.identity import DataFiles, DatasetDefinition
from jobs.task import Task
from pipeline.export.contents import CODE, About
from pipeline.report.collect import Collected
from pipeline.report.groups import make_groups
from pipeline.report.i18n import make_messages
from pipeline.report.table import Cell, Column, Table, escape_markdown, number, to_markdown

CONTENTS = """\
## What is in it

| | |
|---|---|
| `manifest.json` | the manifest as it was composed; its paths are those of the machine that it was written on |
| `report/`, `cards/` | the tables in every format, a model card for what each group chose |
| `storage/` | of every task settings, record and metrics log; of every run its answers to validation and test titles \
(`predictions.npz`) and recalls (`evaluation.json`); of every data set categories and vocabulary |
| `weights/` | the trained models as safetensors, by the ids below |
| `code/` | the program that made this folder, with the plugins of the manifest |
| `environment.txt` | every package that it ran with |
| `SHA256SUMS` | of every file; `sha256sum -c SHA256SUMS` checks them |

`states.json`, `datasets.json` and `export.json` are for `tanda repro`.
"""

CHECK = """\
## To check it

```console
$ tanda repro FOLDER --check
```

compares every file with its sum, computes balanced accuracy, accuracy, macro F1 and recalls again from the predictions,
and the tables from these, anywhere. Losses, calibration and top-5 come of logits, which are not in it. Where the data
files are, the runs are trained again and compared bit for bit; `--set data.source=PATH` says where they are,
`--no-train` leaves that out. `tanda` of another version may make other tables: the one in `{code}/` is run by
`PYTHONSAFEPATH=1 PYTHONPATH=FOLDER/{code} python -B -m pipeline repro FOLDER --check`.
"""


def readme(collected: Collected, about: About) -> str:
    """The text, in Markdown."""
    what = f"the group {about.only} of {about.manifest}" if about.only else about.manifest
    done = sum(result.done for result in collected.results)
    made = f"tanda {about.version}, commit {about.git_commit or 'unknown'}, Python {about.python}"
    parts = [
        f"# {escape_markdown(f'Results of {what}')}\n",
        f"{done} of {len(collected.results)} runs are done. Exported by {escape_markdown(made)}.\n",
        *_made_with(collected, about),
        CONTENTS,
        "## The data\n",
        "The data are not in it: neither titles nor their tokens. What it was made from:\n",
        "".join(f"- {escape_markdown(line)}\n" for line in dict.fromkeys(_data_files(collected))),
        CHECK.format(code=CODE),
        "## Runs\n",
        to_markdown(_runs(collected)),
    ]
    return "\n".join(parts)


def _made_with(collected: Collected, about: About) -> Iterator[str]:
    """The plugins, and in what the code that made the results is not that of the folder."""
    if about.plugins:
        yield f"Made with plugins: {escape_markdown(', '.join(about.plugins))}.\n"
    changes = sorted({str(change) for result in collected.results for change in result.changed})
    if changes:
        yield "Made by other code than this folder has: " + escape_markdown("; ".join(changes)) + ".\n"


def _data_files(collected: Collected) -> Iterator[str]:
    """Each data file by name, with its fingerprint."""
    for dataset in dict.fromkeys(result.row.dataset for result in collected.results):
        task = Task.read(collected.storage.run(dataset))
        definition, files = task.settings_as(DatasetDefinition), task.plumbing_as(DataFiles)
        for part, sources in definition.sources.items():
            paths = files.files.get(part, ())
            for source, path in zip(sources, paths, strict=False):
                yield f"{part}: {Path(path).name}, {source.fingerprint}"
        if definition.embeddings.fingerprint is not None:
            yield f"word vectors: {Path(files.embeddings or '').name}, {definition.embeddings.fingerprint}"


def _runs(collected: Collected) -> Table:
    messages = make_messages("en")
    rows = []
    for entry in (entry for group in make_groups(collected) for entry in group.entries):
        for result in entry.results:
            score = number(result.figures.get("test_balanced_accuracy"), 4)
            state = Cell("done" if result.done else result.reason() or "")
            rows.append(
                (Cell(entry.group), Cell(entry.run), Cell(str(result.row.seed)), state, score, Cell(result.id or "–"))
            )
    keys = ("group", "run", "seed", "state", "test_balanced_accuracy", "id")
    columns = tuple(Column(key=key, title=messages.name(key), number=key.startswith("test")) for key in keys)
    return Table(name="runs", group="", title="runs", columns=columns, rows=tuple(rows))
