"""Manifests written for tests: a sound one, and any other below its head."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.manifest import ManifestError, load
from pipeline.manifest.model import Manifest

HEAD = """\
name: lab
storage: storage
data: {train: a.csv, validation: b.csv, test: c.csv}
"""


def write(folder: Path, text: str, name: str = "m.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def read(folder: Path, below: str, sets: tuple[str, ...] = (), cluster: Path | None = None) -> Manifest:
    """The manifest of a head of three lines and what stands below it."""
    return load(write(folder, HEAD + below), sets=sets, cluster=cluster)


def errors(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, sets: tuple[str, ...] = (), cluster: Path | None = None
) -> str:
    """What is said of a manifest that is wrong, which is written to m.yaml in the working directory."""
    monkeypatch.chdir(folder)
    write(folder, text)
    before = sorted(folder.rglob("*"))
    with pytest.raises(ManifestError) as caught:
        load(Path("m.yaml"), sets=sets, cluster=cluster)
    assert sorted(folder.rglob("*")) == before, "a manifest that is wrong must leave nothing behind"
    return str(caught.value)
