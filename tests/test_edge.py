"""The edge of the command line: a person's mistake is one line, the program's own shows its traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_manifest import write_manifest

from jobs.plugins import PluginNeededError
from pipeline import cli
from pipeline.manifest import ManifestError
from pipeline.manifest.validation import SettingError
from sharedfs.errors import TandaError
from slurm.errors import SchedulerError, UnreachableError

EMPTY = "name: small\n"
OURS = [
    OSError(13, "Permission denied", "m.yaml"),
    FileNotFoundError(2, "No such file or directory", "m.yaml"),
    NotADirectoryError(20, "Not a directory", "m.yaml/x"),
    OSError(28, "No space left on device"),
    OSError(122, "Disk quota exceeded"),
]
BUGS = [
    KeyError("pooling"), IndexError("list index out of range"), ValueError("not enough values to unpack"),
    RuntimeError("dictionary changed size during iteration"), AttributeError("weights"), LookupError("x"),
    OSError("a library's own"), OSError(9, "Bad file descriptor"), FileNotFoundError("with no name"),
]  # fmt: skip


def _kinds(root: type[Exception]) -> Iterator[type[Exception]]:
    yield root
    for kind in root.__subclasses__():
        if kind.__module__.startswith(("jobs", "pipeline", "sharedfs", "slurm")):
            yield from _kinds(kind)


def _command_that_raises(monkeypatch: pytest.MonkeyPatch, error: Exception, *options: str) -> object:
    """The exit status of ``tanda schema``, whose only work is to raise this."""

    def fail(_document: object) -> None:
        raise error

    monkeypatch.setattr(cli, "_print_json", fail)
    with pytest.raises(SystemExit) as ended:
        cli.app([*options, "schema"], prog_name="tanda")
    return ended.value.code


@pytest.mark.parametrize("kind", [*_kinds(TandaError), *_kinds(SchedulerError)], ids=lambda kind: kind.__name__)
def test_every_kind_that_a_person_can_cause_is_one_line(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    special = {
        ManifestError: ([],),
        PluginNeededError: ("runs/1", "model gru", "0123abcd"),
        SettingError: (((), "must be a number", False),),
    }
    error = kind(*special.get(kind, ("what, where, what would be right",)))
    assert _command_that_raises(monkeypatch, error) == (1 if kind is UnreachableError else 2)
    assert capsys.readouterr().err == f"tanda: {error}\n"


@pytest.mark.parametrize("error", OURS, ids=str)
def test_what_the_storage_refuses_is_one_line(
    error: OSError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _command_that_raises(monkeypatch, error) == 2
    where = f"{error.filename}: " if error.filename else ""
    assert capsys.readouterr().err == f"tanda: {where}{error.strerror}\n"


@pytest.mark.parametrize("error", BUGS, ids=repr)
def test_an_error_of_the_programs_own_rises(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(type(error)) as raised:
        _command_that_raises(monkeypatch, error)
    assert raised.value is error


def test_ctrl_c_is_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _command_that_raises(monkeypatch, KeyboardInterrupt()) == 130  # type: ignore[arg-type]
    assert capsys.readouterr().err == "tanda: stopped\n"


def _tanda(
    *words: object, environment: dict[str, str] | None = None, program: str = ""
) -> subprocess.CompletedProcess[str]:
    start = ["-c", program] if program else ["-m", "pipeline"]
    return subprocess.run(
        [sys.executable, *start, *map(str, words)],
        env=os.environ | (environment or {}), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_key_error_inside_a_command_shows_its_traceback_with_status_1() -> None:
    program = "from pipeline import cli, __main__; cli._print_json = lambda _: {}['pooling']; __main__.main()"
    ended = _tanda("schema", program=program)
    assert ended.returncode == 1
    assert "Traceback (most recent call last)" in ended.stderr and ended.stderr.endswith("KeyError: 'pooling'\n")


@pytest.mark.parametrize(("option", "environment"), [(("--traceback",), {}), ((), {"TANDA_DEBUG": "1"})])
def test_the_traceback_of_a_mistake_can_be_asked_for(option: tuple[str, ...], environment: dict[str, str]) -> None:
    ended = _tanda(*option, "plan", "nowhere.yaml", environment=environment)
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr and "nowhere.yaml: no such file" in ended.stderr


@pytest.mark.parametrize("words", [("plan",), ("status",), ("plan", "--json"), ("submit", "--dry-run")])
def test_a_reader_who_has_gone_is_no_error(words: tuple[str, ...], tmp_path: Path) -> None:
    command, *options = words
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "pipeline", command, write_manifest(tmp_path), *options],
            stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120, check=False,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize("closed", [">&-", "<&- >&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("command", ["plan", "schema", "status", "--version"])
def test_closed_streams_are_no_error(closed: str, command: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "pipeline", command]
    words += [] if command in ("schema", "--version") else [str(write_manifest(tmp_path))]
    ended = subprocess.run(
        ["bash", "-c", f'"$@" {closed}', "bash", *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def _path_with(folder: Path, **programs: str) -> dict[str, str]:
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    return {"PATH": str(folder)}


def test_no_slurm_on_this_machine_is_one_line(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    ended = _tanda("submit", write_manifest(tmp_path), "--executor", "slurm", environment=_path_with(programs))
    assert ended.returncode == 2
    assert ended.stderr == "tanda: scontrol: not found; is this a machine with Slurm?\n"


def test_a_refused_submission_is_one_line(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    path = _path_with(
        programs,
        scontrol="echo MaxArraySize = 1001",
        sbatch="echo 'sbatch: error: invalid partition specified: gpuu' >&2; exit 1",
    )
    ended = _tanda("submit", write_manifest(tmp_path), "--executor", "slurm", environment=path)
    assert ended.returncode == 2
    assert ended.stderr.startswith("tanda: sbatch: error: invalid partition specified: gpuu")
    assert ended.stderr.count("\n") == 1
