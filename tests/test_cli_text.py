"""What the command line prints: every command's help, and text that others wrote, as it is."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from rich.console import Console
from small_manifest import write_manifest
from typer.core import TyperGroup

from pipeline import doctor, doctor_profile, live, show, status, submit_result
from pipeline.cli import app
from pipeline.decisions.task_state import TaskState
from pipeline.edge import Terminal
from pipeline.manifest import load
from pipeline.plan import Plan, make_plan

BRACKETED = ["[x]", "a message with [/red] in it", "[bold]loud[/bold]", "[link=x]y", ":smile:", r"\[x]"]


def _commands(command: object, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    if isinstance(command, TyperGroup):
        for name, below in command.commands.items():
            yield from _commands(below, (*words, name))


def _written(text: str) -> str:
    """Text without the borders, line breaks and spaces that a layout puts into it."""
    return re.sub(r"[\s│]+", "", text)


@pytest.mark.parametrize("words", list(_commands(typer.main.get_command(app))), ids=" ".join)
def test_the_help_of_every_command_has_each_option_as_it_was_written(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as ended:
        app([*words, "--help"], prog_name="tanda")
    assert ended.value.code == 0
    shown = _written(capsys.readouterr().out)
    command = typer.main.get_command(app)
    for word in words:
        assert isinstance(command, TyperGroup)
        command = command.commands[word]
    for text in [getattr(parameter, "help", "") for parameter in command.params] + [command.help]:
        assert _written(text or "") in shown
    for metavar in filter(None, (parameter.metavar for parameter in command.params)):
        assert _written(metavar) in shown


def _terminal(colours: bool) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Terminal(file=out, width=400, force_terminal=colours, color_system="standard" if colours else None), out


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return make_plan(load(write_manifest(tmp_path_factory.mktemp("a") / "[x]")))


@pytest.mark.parametrize("colours", [False, True])
@pytest.mark.parametrize("text", BRACKETED)
def test_states_show_messages_as_they_are(text: str, colours: bool, plan: Plan) -> None:
    console, out = _terminal(colours)
    states = {one.id: TaskState(id=one.id, state="failed", cause="error", message=text) for one in plan.tasks}
    status.print_states(plan, states, console)
    assert _plain(out.getvalue()).count(f"error: {text}") == len(plan.tasks)
    assert ("\x1b[31mfailed" in out.getvalue()) == colours


@pytest.mark.parametrize("text", BRACKETED)
def test_a_plan_shows_paths_and_changes_as_they_are(text: str, plan: Plan) -> None:
    console, out = _terminal(colours=True)
    odd = replace(plan, manifest=replace(plan.manifest, storage=Path("/srv") / text))
    show.print_plan(odd, {plan.tasks[0].id: [text]}, console)
    assert f"small on /srv/{text}" in _plain(out.getvalue())
    assert f"1 done, {text}: data/" in _plain(out.getvalue())


@pytest.mark.parametrize("text", BRACKETED)
def test_submit_shows_reasons_as_they_are_and_does_not_cut_them(text: str) -> None:
    console, out = _terminal(colours=True)
    reason = f"{text} {'long ' * 100}."
    submit_result.print_submitted(
        submit_result.SubmitResult(submission=None, held={"a": reason}, already_done=0, already_queued=0), console
    )
    assert f"1 not queued: {reason};" in _plain(out.getvalue())


@pytest.mark.parametrize("text", BRACKETED)
def test_doctor_shows_findings_as_they_are(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor_profile, "examine", lambda *_: [doctor.Finding(name="Slurm", ok=False, reason=text)])
    with pytest.raises(SystemExit):
        app(["doctor", "storage"], prog_name="tanda")
    assert capsys.readouterr().out.startswith(f"FAIL Slurm: {text}\n")


def test_a_progress_bar_shows_names_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SHOWN_AFTER_S", -1.0)
    console, out = _terminal(colours=True)
    with live.progress_bar(console) as update:
        assert update is not None
        update("[x] [/red]", 1, 2)
    assert "[x] [/red]" in _plain(out.getvalue())


@pytest.mark.parametrize("name", ["[x]", "[/red]", "[/red]/m.yaml"])
def test_errors_show_paths_as_they_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        app(["plan", name], prog_name="tanda")
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"tanda: {name}: no such file\n"
