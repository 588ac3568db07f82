"""`tanda export` and `tanda repro FOLDER --check`: results in a folder that is checked, and made again, anywhere."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from small_manifest import tanda, with_only, write_manifest
from test_plugins import CENTROID, manifest_with, write

from jobs.storage import Storage
from jobs.training.checkpoint import read_model
from pipeline.export import SUMS, export, sums
from pipeline.manifest import load
from pipeline.plan import make_plan
from sharedfs.documents import read_json, write_json
from sharedfs.errors import DamagedFileError

SEARCH = """
searches:
  tuned:
    architecture: mlp
    algorithm: random
    trials: 2
    space: {dropout: {uniform: [0, 0.5]}}
    refit_seeds: [7]
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a manifest whose runs are done."""
    manifest = write_manifest(
        tmp_path_factory.mktemp("lab") / "here", f"{with_only('MLP', 'CNN', 'linear')}{SEARCH}notify: 'true'\n"
    )
    tanda("submit", manifest, "--executor", "inline")
    return manifest.parent


@pytest.fixture(scope="module")
def exported(lab: Path) -> Path:
    """Its export, in another folder, from which neither its storage nor its data can be seen."""
    folder = lab / "out"
    assert tanda("export", lab / "small.yaml", folder) == f"{folder}\n"
    elsewhere = lab.parent / "elsewhere" / "small"
    elsewhere.parent.mkdir()
    shutil.move(folder, elsewhere)
    shutil.move(lab, lab.parent / "there")
    return elsewhere


def _check(folder: Path, *options: object, code: Path | None = None) -> tuple[int, list[str]]:
    """The status and what is said on standard error."""
    environment = {**os.environ, "PYTHONSAFEPATH": "1", **({"PYTHONPATH": str(code)} if code else {})}
    command = [sys.executable, "-B", "-m", "pipeline", "repro", str(folder), "--check", *map(str, options)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280, check=False)
    return ended.returncode, [line.removeprefix("tanda: ") for line in ended.stderr.splitlines() if "tanda: " in line]


def _resum(folder: Path) -> None:
    """Sums as they would be if the folder had been made so."""
    (folder / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums(folder).items()))


def test_tables_are_made_again_from_predictions_where_neither_storage_nor_data_are(exported: Path) -> None:
    status, said = _check(exported)
    assert status == 0 and said[-1] == "the same bits", said
    assert said[0] == f"{len(sums(exported))} files are what they were"
    assert said[1] == "scores of 5 runs computed again from their predictions"
    assert said[2].endswith("tables made again")
    assert said[3].startswith("nothing was trained again: data.source: no such file")
    assert not list(exported.rglob("__pycache__"))


def test_the_runs_are_trained_again_where_the_data_are(exported: Path) -> None:
    there = exported.parents[1] / "there"
    status, said = _check(exported, "--set", f"data.source={there / 'titles.csv'}")
    assert (status, said[3:]) == (0, ["11 tasks run again, 0 files of them differ", "the same bits"]), said
    other = exported.parents[1] / "other.csv"
    other.write_text((there / "titles.csv").read_text().replace("vino", "agua"))
    status, said = _check(exported, "--set", f"data.source={other}")
    assert status == 0 and "the data files here are not those that the results were made from" in said[3]


def test_what_training_gives_otherwise_is_named(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    (weights,) = (path for path in (folder / "weights").iterdir() if path.name.startswith("447457b7"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    _resum(folder)
    status, said = _check(folder, "--set", f"data.source={exported.parents[1] / 'there/titles.csv'}")
    assert (status, said[-2:]) == (1, [f"weights/{weights.name}: other weights", "not reproduced"]), said


def test_its_own_code_says_the_same(exported: Path) -> None:
    status, said = _check(exported, "--no-train", code=exported / "code")
    assert status == 0 and len(said) == 4 and said[-1] == "the same bits", said


def test_a_changed_byte_is_found_and_named(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    for name in ("README.md", "code/jobs/entry.py", "storage/searches"):
        path = folder / name if (folder / name).is_file() else next((folder / name).rglob("point.json"))
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        status, (note, line, last) = _check(folder)
        was = hashlib.sha256((exported / path.relative_to(folder)).read_bytes()).hexdigest()
        assert line.startswith(f"{path.relative_to(folder)}: sha256 {was[:16]}, now ")
        assert (status, last) == (1, "not reproduced") and "nothing was computed" in note
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    (folder / "more").touch()
    (folder / "report" / "results.csv").unlink()
    (folder / "report" / "results.csv").symlink_to(exported / "report" / "results.csv")
    assert _check(folder)[1][1:] == [
        f"more: not in {SUMS}", "report/results.csv: missing, or a link", "not reproduced"
    ]  # fmt: skip


def test_scores_that_do_not_follow_from_the_predictions_are_named(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    path = folder / "storage/runs/35d90866878b4fc4/record.json"
    record = read_json(path)
    was = record["result"]["test_balanced_accuracy"]
    record["result"]["test_balanced_accuracy"] = 0.99
    write_json(path, record)
    _resum(folder)
    status, said = _check(folder, "--no-train")
    assert status == 1
    assert f"runs/35d90866878b4fc4/record.json: test_balanced_accuracy 0.99, now {was}" in said
    assert any(line.startswith("report/results.csv: other numbers") for line in said)
    # And answers that are not those of the scores.
    write_json(path, {**record, "result": {**record["result"], "test_balanced_accuracy": was}})
    with np.load(folder / "storage/runs/35d90866878b4fc4/predictions.npz") as stored:
        arrays = dict(stored)
    arrays["test_predicted"][0] = (arrays["test_predicted"][0] + 1) % 6
    np.savez_compressed(folder / "storage/runs/35d90866878b4fc4/predictions.npz", **arrays)
    _resum(folder)
    said = _check(folder, "--no-train")[1]
    assert "runs/35d90866878b4fc4/evaluation.json: recalls on test are not those of its predictions" in said


def test_weights_are_those_of_the_models_and_say_of_what(exported: Path) -> None:
    storage = Storage(exported.parents[1] / "there" / "storage")
    with (exported / "report" / "results.csv").open() as file:
        ids = {row["run"]: row["id"] for row in csv.DictReader(file)}
    assert {path.stem for path in (exported / "weights").iterdir()} == set(ids.values())
    for run in ("MLP", "winner", "refit"):
        path = exported / "weights" / f"{ids[run]}.safetensors"
        tensors = read_model(storage.run(ids[run]) / "model.pt")
        written = load_file(path)
        assert written.keys() == tensors.keys()
        assert all(np.array_equal(written[name], tensor.numpy()) for name, tensor in tensors.items())
        with safe_open(path, "numpy") as opened:
            recipe = json.loads(opened.metadata()["recipe"])
        assert recipe["architecture"] == "mlp" and recipe["settings"]["hidden_layers"] == [16]
    with np.load(storage.run(ids["linear"]) / "model.npz") as arrays:
        written = load_file(exported / "weights" / f"{ids['linear']}.safetensors")
        assert written.keys() == set(arrays.files)
        assert all(np.array_equal(written[name], arrays[name]) for name in arrays.files)
        assert all(written[name].shape == arrays[name].shape for name in arrays.files)


def test_it_says_whether_the_data_are_in_it_and_holds_none(exported: Path) -> None:
    text = (exported / "README.md").read_text()
    there = exported.parents[1] / "there"
    assert "The data are not in it" in text
    fingerprint = hashlib.sha256((there / "titles.csv").read_bytes()).hexdigest()
    assert f"- source: titles.csv, sha256:{fingerprint}" in text
    assert "| tuned | refit | 7 | done |" in text
    title = (there / "titles.csv").read_text().splitlines()[1].split(",")[0]
    assert not [path for path in exported.rglob("*") if path.is_file() and title.encode() in path.read_bytes()]
    manifest = read_json(exported / "manifest.json")
    assert "notify" not in manifest and manifest["name"] == "small"
    assert any(line.startswith("numpy==") for line in (exported / "environment.txt").read_text().splitlines())
    assert sorted(path.name for path in (exported / "cards").iterdir()) == ["architectures.md", "tuned.md"]
    assert not [path for path in (exported / "cards").iterdir() if str(there.parent) in path.read_text()]
    listed = subprocess.run(["sha256sum", "-c", "--quiet", SUMS], cwd=exported, check=False)
    assert listed.returncode == 0
    described = json.loads(tanda("repro", exported))
    assert described["files"] == len(sums(exported)) and described["manifest"] == "small"


def test_a_folder_that_is_there_is_refused_and_half_of_one_never_left(exported: Path, tmp_path: Path) -> None:
    there = exported.parents[1] / "there"
    at_home = ("--set", f"storage={there / 'storage'}", "--set", f"data.source={there / 'titles.csv'}")
    (tmp_path / "taken").mkdir()
    said = tanda("export", there / "small.yaml", tmp_path / "taken", *at_home, status=2)
    assert said == f"tanda: {tmp_path / 'taken'}: is there already; name a folder that is not\n"
    broken = Path(shutil.copytree(there / "storage", tmp_path / "storage"))
    model = next(broken.glob("runs/447457b7*/model.pt"))
    model.write_bytes(bytes(model.stat().st_size))
    plan = make_plan(load(there / "small.yaml", sets=[f"storage={broken}", f"data.source={there / 'titles.csv'}"]))
    with pytest.raises(DamagedFileError, match=r"model\.pt: damaged"):
        export(plan, tmp_path / "new" / "out")
    assert list((tmp_path / "new").iterdir()) == []
    # Killed half way: what is left is no export, and stands in nobody's way.
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "export",
        str(there / "small.yaml"),
        str(tmp_path / "killed"),
        *at_home,
    ]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONSAFEPATH": "1"}, start_new_session=True)
    ends = time.monotonic() + 60
    while not list(tmp_path.glob(".killed.*.tmp/report")):
        assert process.poll() is None and time.monotonic() < ends
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed").exists()
    tanda("export", there / "small.yaml", tmp_path / "killed", *at_home)
    assert (tmp_path / "killed" / SUMS).exists()


def test_one_group_and_what_is_not_done(exported: Path, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, with_only("MLP", "linear"))
    assert "no run is done: there is nothing to export" in tanda("export", manifest, tmp_path / "out", status=2)
    tanda("submit", manifest, "--executor", "inline")
    for path in (tmp_path / "storage/runs").glob("2a204df4*"):
        shutil.rmtree(path)
    tanda("export", manifest, tmp_path / "out", "--only", "architectures")
    assert "1 of 2 runs are done" in (tmp_path / "out/README.md").read_text()
    assert "| architectures | linear | 0 | lost | – | " in (tmp_path / "out/README.md").read_text()
    status, said = _check(tmp_path / "out")
    assert (status, said[3:]) == (0, ["3 tasks run again, 0 files of them differ", "the same bits"]), said


def test_a_plugins_code_runs_only_by_the_command_that_says_so(tmp_path: Path) -> None:
    write(tmp_path / "centroid.py", CENTROID)
    manifest = manifest_with(tmp_path, "centroid.py")
    tanda("submit", manifest, "--executor", "inline")
    folder = tmp_path / "out"
    tanda("export", manifest, folder)
    assert "Made with plugins: estimator centroid." in (folder / "README.md").read_text()
    status, (said,) = _check(folder)
    assert status == 2 and f"PYTHONPATH={folder / 'code'} python -B -m pipeline repro {folder} --check" in said
    status, said = _check(folder, code=folder / "code")
    assert (status, said[3:]) == (0, ["3 tasks run again, 0 files of them differ", "the same bits"]), said


def test_a_plugin_that_an_export_hides_is_not_run(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    (folder / "evil.py").write_text(f'KIND = "table"\nORDER = 1\nopen({str(tmp_path / "ran")!r}, "w")\n')
    (folder / "other.yaml").write_text("plugins: [evil.py]\n")
    whole = json.dumps(read_json(exported / "manifest.json"))[:-1]
    for line in (
        '"plugins": ["evil.py"]',
        '"cluster": {"plugins": ["evil.py"]}',
        '"cluster": "other.yaml"',
        '"include": "other.yaml"',
        "<<: {plugins: [evil.py]}",
    ):
        (folder / "manifest.json").write_text(f"{whole}, {line}}}")
        _resum(folder)
        status, said = _check(folder)
        assert status == 2 and "whose code is not run" in said[-1], (line, said)
        assert not (tmp_path / "ran").exists()
