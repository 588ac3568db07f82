"""What `tanda` alone says: of an empty folder, and of manifests from the first look to the report."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_manifest import tanda, with_only, write_manifest

from pipeline.next_step import MOST, next_steps


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("version: 3\n")
    (tmp_path / "broken.yaml").write_text("{name: ")
    (tmp_path / "bytes.yml").write_bytes(b"\xff\xfe\x00")
    first, *_ = next_steps(tmp_path)
    assert first.startswith("no manifest here: `tanda init DATA titles.yaml`")


def test_a_manifest_from_the_first_look_to_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_manifest(tmp_path, with_only("linear"))

    def said() -> str:
        return next(iter(next_steps(tmp_path)))

    assert said().startswith("small.yaml: 3 tasks to do: `tanda plan small.yaml` shows them, `tanda submit small.yaml`")
    tanda("run", manifest, "--executor", "inline")
    assert said() == f"small.yaml: all 3 tasks are done: the report is {tmp_path}/storage/reports/small/index.html"
    manifest.write_text(manifest.read_text().replace("      linear:", "      MLP: {architecture: mlp}\n      linear:"))
    assert said().startswith("small.yaml: 3 of 5 tasks are done: `tanda status small.yaml` says")
    manifest.write_text(manifest.read_text().replace("architecture: mlp", "architecture: mpl"))
    assert said().startswith("small.yaml: `tanda plan small.yaml` says more of: ") and "mpl" in said()
    # As a person would, and with no word of a command.
    monkeypatch.chdir(tmp_path)
    assert tanda().startswith("small.yaml: `tanda plan small.yaml` says more of: ")


def test_many_manifests_are_counted(tmp_path: Path) -> None:
    for number in range(MOST + 2):
        (tmp_path / f"m{number}.yaml").write_text("{name: m, storage: s, data: {}}")
    *lines, more, _ = next_steps(tmp_path)
    assert len(lines) == MOST and more == "and 2 more manifests"
