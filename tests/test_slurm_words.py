"""Whatever is wrong with a line of Slurm's, no job vanishes and none takes a state that is not its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from slurm_output_fixture import WHOSE, WIDTHS, accounted, queue_line

from slurm import query
from slurm.array import array_id, expand_ids
from slurm.commands import warn_once
from slurm.job_state import JobIdentity
from slurm.query import SACCT_FIELDS, SQUEUE_FIELDS, parse_accounting, parse_queue, states
from slurm.sbatch import shown_comment

OURS = JobIdentity(submitted=1795460780, name=WHOSE[2], comment=WHOSE[3], uid=1000, cluster="lab")
FREE = {"name", "comment", "cluster"}  # texts of people's: any of them can be read, and tells whose the job is


def _queued(state: str, id_: str, exit_code: str = "0", *, node: str = "n1", reason: str = "None") -> str:
    started = "N/A" if state == "PENDING" else "1795460841"
    ended = "N/A" if state in ("PENDING", "RUNNING") else "1795460899"
    tres = "" if state == "PENDING" else "cpu=1,mem=256M,node=1,billing=1,gres/gpu=1"
    return queue_line(id_, state, exit_code, reason, node, "0", "1795460790", started, ended, tres)


def _row(id_: str, state: str, exit_code: str, derived: str, end: str = "1795460899") -> str:
    return accounted(
        f"{id_}|{id_}|{state}|{exit_code}|{derived}|58|billing=1,cpu=1,gres/gpu=1,mem=256M,node=1|120000K|None|n1|"
        f"1795460790|1795460841|{end}"
    )


# The queue of 22.05 has a raw wait status, that of 24.11 an exit code and a signal.
QUEUES = {
    "22.05": [
        _queued("PENDING", "21", node="", reason="Priority"),
        _queued("RUNNING", "22_3"),
        _queued("COMPLETED", "22_4"),
        _queued("FAILED", "23", "768"),
    ],
    "24.11": [
        _queued("PENDING", "21", "0:0", node="(null)", reason="ReqNodeNotAvail, UnavailableNodes:n[1-3],m7"),
        _queued("RUNNING", "22_3", "0:0"),
        _queued("COMPLETED", "22_4", "0:0"),
        _queued("FAILED", "23", "3:0"),
    ],
}
HISTORY = [
    _row("21", "NODE_FAIL", "0:0", "0:0"),  # before it was started again
    _row("22_3", "RUNNING", "0:0", "0:0", "Unknown"),
    _row("22_4", "COMPLETED", "0:0", "0:0"),
    _row("24_0", "COMPLETED", "0:0", "0:0"),
    _row("25_1", "CANCELLED by 1000", "0:15", "0:0"),
    _row("26", "OUT_OF_MEMORY", "0:125", "0:125"),
    _row("4294967297", "TIMEOUT", "0:0", "0:0"),  # of a federation
]
TRUE = {
    "21": "waiting", "22_3": "running", "22_4": "done", "23": "failed", "24_0": "done", "25_1": "failed",
    "26": "failed", "4294967297": "failed",
}  # fmt: skip
Answers = dict[str, list[str]]


def test_what_backfill_plans_is_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    line = queue_line("21", "PENDING", "0:0", "Resources", "", "0", "1795460790", "1795469999", "N/A", "")
    monkeypatch.setattr(query, "call", lambda command, **_: f"{line.rstrip()}\n" if command[0] == "squeue" else "")
    found = states(["21", "22"], sent={"21": OURS, "22": OURS})
    assert (found["21"].state, found["21"].started, found["21"].planned_start) == ("waiting", None, 1795469999)
    assert found["22"].planned_start is None


def _states(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    printed = {name: "".join(f"{line.rstrip(chr(10))}\n" for line in lines) for name, lines in answers.items()}
    monkeypatch.setattr(query, "call", lambda command, **_: printed[command[0]])
    return {id_: state.state for id_, state in states(TRUE, sent=dict.fromkeys(TRUE, OURS)).items()}


def _answers(version: str) -> Answers:
    return {"squeue": list(QUEUES[version]), "sacct": list(HISTORY)}


@pytest.mark.parametrize("version", QUEUES)
def test_what_both_versions_print_is_read(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _states(_answers(version), monkeypatch) == TRUE


def _fields(line: str) -> tuple[list[str], list[str]]:
    """The values of a line, and their names."""
    names = list(SQUEUE_FIELDS if line.count("|") == len(SQUEUE_FIELDS) else SACCT_FIELDS)
    return line.split("|"), names


def _with_value(line: str, choose: random.Random, values: tuple[str, ...], leave: set[str]) -> str:
    parts, names = _fields(line)
    position = choose.choice([number for number, name in enumerate(names) if name not in leave])
    parts[position] = choose.choice(values)
    return "|".join(parts)


def _cut(line: str, choose: random.Random) -> str:
    return line[: choose.randrange(1, len(line))]


def _without_a_separator(line: str, choose: random.Random) -> str:
    parts, _ = _fields(line)
    joint = choose.randrange(1, len(parts) - 1)
    return "|".join([*parts[: joint - 1], parts[joint - 1] + parts[joint], *parts[joint + 1 :]])


def _with_a_separator(line: str, choose: random.Random) -> str:
    """In a text of a site's own, such as a reason, or in any other field."""
    parts, names = _fields(line)
    position = choose.randrange(1, names.index("name"))
    return "|".join([*parts[:position], "a", *parts[position:]])


def _with_junk(line: str, choose: random.Random) -> str:
    parts, names = _fields(line)
    position = choose.choice([number for number, name in enumerate(names) if name not in FREE | {"reason", "node"}])
    place = choose.randrange(len(parts[position].strip()) + 1)
    junk = choose.choice(("?", "x", "é", "\N{ARABIC-INDIC DIGIT FIVE}", "\0", "\ufffd"))
    parts[position] = parts[position][:place] + junk + parts[position][place:]
    return "|".join(parts)


def _with_another_word(line: str, choose: random.Random) -> str:
    parts, names = _fields(line)
    words = ("", "COMPLETED+", "CANCELLED+", "OUT_OF_ME+", "completed", "REVOKED", "LAUNCH_FAILED", "CD", "LEVITATING",
             "COMPLETED by accident", "Unknown", "INVALID", "COMPLETED,FAILED")  # fmt: skip
    parts[names.index("state")] = choose.choice(words)
    return "|".join(parts)


def _with_another_number(line: str, choose: random.Random) -> str:
    """None of these can stand in a field of numbers; where one can be read it says nothing of a state."""
    values = ("-5", "4294967294", "99999999999999999999", "1e9", "nan", "inf", "1_0", "+3", "0x10", "1.5G", "16Gn",
              "0?", "INVALID", "NONE", "Unknown", "2026-11-26T12:00:00", "1-02:03:04", "")  # fmt: skip
    return _with_value(line, choose, values, FREE | {"id", "raw_id", "reason", "node", "uid"})


MISHAPS: dict[str, Callable[[str, random.Random], str]] = {
    "cut": _cut,
    "one separator less": _without_a_separator,
    "one separator more": _with_a_separator,
    "junk": _with_junk,
    "another word for a state": _with_another_word,
    "another number": _with_another_number,
    "an id of components": lambda line, _: line.replace("|", "+0|", 1),
    "carriage returns": lambda line, _: line.rstrip("\n") + "\r",
    "space before it": lambda line, _: f"   {line}",
}
BANNERS = ("Welcome to the lab!", "| a | table |", "squeue: 14 jobs", "", "\t", "*** 5 nodes down ***", "ñandú")


def _histories() -> Iterator[tuple[str, str, int]]:
    for version in QUEUES:
        for mishap in MISHAPS:
            yield from ((version, mishap, seed) for seed in range(150))


def test_a_line_that_went_wrong_changes_no_state_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line of one program, in every way that lines were seen to go wrong, with banners before and between."""
    monkeypatch.setattr(query, "warn_once", lambda _message: None)
    monkeypatch.setattr("slurm.commands.warn_once", lambda _message: None)
    outcomes = set()
    for version, mishap, seed in _histories():
        choose = random.Random(f"{mishap} {seed}")
        answers = _answers(version)
        lines = answers[choose.choice(("squeue", "sacct"))]
        position = choose.randrange(len(lines))
        lines[position] = MISHAPS[mishap](lines[position].rstrip("\n"), choose)
        went_wrong = lines[position]
        for lines in answers.values():
            lines.insert(choose.randrange(len(lines) + 1), choose.choice(BANNERS))
        found = _states(answers, monkeypatch)
        wrong = {id_: state for id_, state in found.items() if state not in (TRUE[id_], "unknown")}
        assert not wrong, f"{version}, {mishap}, {seed}: {went_wrong!r}"
        outcomes |= set(found.values())
    assert outcomes == {"waiting", "running", "done", "failed", "unknown"}


@pytest.mark.parametrize("mishap", ["another word for a state", "one separator more", "an id of components"])
def test_a_line_that_cannot_be_read_is_quoted_once(
    mishap: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    warn_once.cache_clear()
    answers = _answers("24.11")
    answers["sacct"][5] = MISHAPS[mishap](answers["sacct"][5].rstrip("\n"), random.Random(0))
    for _ in range(2):
        assert _states(answers, monkeypatch) == TRUE | {"26": "unknown"}
    assert capfd.readouterr().err.count("sacct printed what cannot be read: '26") == 1


def test_a_row_with_no_id_may_be_that_of_any_job_that_has_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = _answers("22.05")
    answers["squeue"][0] = answers["squeue"][0].replace("21", "??", 1)
    found = _states(answers, monkeypatch)
    assert found == TRUE | dict.fromkeys(("21", "24_0", "25_1", "26", "4294967297"), "unknown")


def test_a_step_without_its_job_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = _answers("22.05")
    answers["sacct"][3] = _row("24_0.batch", "COMPLETED", "0:0", "")
    assert _states(answers, monkeypatch) == TRUE | {"24_0": "unknown"}


def test_a_step_whose_end_was_never_known_is_no_riddle() -> None:
    """What 24.11 prints of a step that was cancelled while its node was away."""
    rows = [_row("24", "CANCELLED", "0:0", "0:0"), _row("24.batch", "CANCELLED", "", "")]
    answer = parse_accounting("".join(rows))
    assert answer.unreadable == {} and answer.rows["24"][0].steps == ("CANCELLED",)
    assert "24" in parse_accounting(_row("24", "CANCELLED", "", "")).unreadable, "a job has an exit code"


@pytest.mark.parametrize(
    ("resources", "gpus"),
    [("cpu=1,gres/gpu=2,gres/gpu:a100=2", 2), ("gres/gpu:a100=2,gres/gpu:v100=1", 3), ("cpu=1", 0), ("", 0)],
)
def test_gpus_are_counted_also_where_a_site_counts_them_by_type(resources: str, gpus: int) -> None:
    row = _row("24", "COMPLETED", "0:0", "0:0").replace("billing=1,cpu=1,gres/gpu=1,mem=256M,node=1", resources)
    assert parse_accounting(row).rows["24"][0].gpus == gpus


def test_resources_that_the_width_cut_are_not_taken_for_fewer() -> None:
    tres = ("cpu=1," + "x" * 141 + "=1,gres/gpu=12")[: WIDTHS[9]]
    line = queue_line("7", "RUNNING", "0", "None", "n1", "0", "1795460790", "1795460841", "NONE", tres)
    assert tres.endswith("gres/gpu=1") and "7" in parse_queue(line).unreadable


@pytest.mark.parametrize(
    ("printed", "peak_mb"),
    [("3100K", 3100 / 1024), ("1.5G", 1536), ("16Gn", 16384), ("0", 0), ("0?", 0), ("2T", 2 * 1024**2), ("", None),
     ("18446744073709551614", None), ("16E", None)],
)  # fmt: skip
def test_memory_in_every_unit(printed: str, peak_mb: float | None) -> None:
    row = _row("24", "FAILED", "9:0", "0:9").replace("120000K", printed)
    assert parse_accounting(row).rows["24"][0].max_rss_mb == peak_mb


@pytest.mark.parametrize("printed", ["16?", "16Gc", "-3K", "3 100K", "1e3K", "K"])
def test_an_amount_of_memory_that_is_none_is_not_guessed(printed: str) -> None:
    assert "24" in parse_accounting(_row("24", "FAILED", "9:0", "0:9").replace("120000K", printed)).unreadable


@pytest.mark.parametrize(
    "id_", ["12_[5-3]", "12_[0-4000000000]", "12_[0-3:0]", "12_", "12_[]", "1x", "", "12_[a]", "１２"]
)
def test_what_is_no_id_is_none(id_: str) -> None:
    with pytest.raises(ValueError, match=r"no |invalid|zero"):
        expand_ids(id_)


NAMES = {
    "longer than the queue shows": ("m" * 200 + "-" + "g" * 100, lambda text: text[:256]),
    "cut within a letter": ("ж" * 150, lambda text: text.encode()[:255].decode(errors="replace")),
    "ASCII alone in the accounting": ("café-ñ-train", lambda text: text.encode("ascii", "replace").decode()),
    "two marks for a letter": ("café-ñ-train", lambda text: "caf??-??-train"),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMES)
def test_a_name_that_slurm_shows_in_part_is_ours(case: str) -> None:
    sent, show = NAMES[case]
    assert JobIdentity(name=show(sent)).difference(JobIdentity(name=sent)) is None
    assert JobIdentity(name="another" + show(sent)).difference(JobIdentity(name=sent)) is not None


def test_a_comment_fits_into_what_the_queue_shows() -> None:
    text = shown_comment("tanda 20261126-120000-" + "ж" * 100 + " train " + "語" * 66)
    assert len(text.encode()) <= dict(SQUEUE_FIELDS.values())["Comment"] - 16 and "\ufffd" not in text


def test_ids_of_a_federation_are_ids() -> None:
    assert expand_ids("4294967297_[0-1]") == ["4294967297_0", "4294967297_1"]
    assert array_id("4294967297_1") == "4294967297"
