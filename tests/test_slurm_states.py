"""States from what Slurm was seen to say (22.05, recorded), and causes that do not lie."""

from __future__ import annotations

from pathlib import Path

import pytest
from slurm_output_fixture import SACCT, WIDTHS, accounted, fake_slurm, merged_state, queue_of

from slurm.errors import UnreachableError, classify_error
from slurm.executors.slurm import _classify_refusal
from slurm.job_state import CAUSES, STATES, JobIdentity
from slurm.query import parse_accounting, states
from slurm.reasons import explain, is_launch_held

__all__ = ["fake_slurm"]


@pytest.mark.parametrize(
    ("id_", "state", "cause", "exit_code", "signal"),
    [
        ("1_0", "done", None, 0, None),
        ("5", "failed", "error", 3, None),
        ("6", "failed", "killed", None, 9),
        ("7", "failed", "killed", None, 9),
        ("8", "failed", "out of memory", None, 9),
        ("9", "failed", "error", 0, None),
        ("10", "failed", "error", 9, None),
        ("11", "failed", "out of memory", 0, None),
        ("12", "failed", "cancelled", None, 15),
        ("13", "failed", "time limit", 0, None),
        ("14", "done", None, 0, None),
        ("15", "failed", "preempted", 0, None),
        ("16", "failed", "paused", 75, None),
        ("17", "failed", "time limit", 74, None),
        ("18", "failed", "killed", None, 11),
        ("1_2", "failed", "cancelled", None, None),
        ("19", "unknown", None, None, None),
        ("20", "gone", None, None, None),
    ],
)
def test_how_a_job_ended(id_: str, state: str, cause: str | None, exit_code: int | None, signal: int | None) -> None:
    found = merged_state(id_)
    assert (found.state, found.cause, found.exit_code, found.signal) == (state, cause, exit_code, signal)
    assert found.state in STATES and (found.cause is None or found.cause in CAUSES)


def test_live_in_the_queue_is_not_finished_whatever_the_accounting_says() -> None:
    waiting = merged_state("15", queue_of("PENDING", id_="15", reason="BeginTime"))
    assert (waiting.state, waiting.cause, waiting.reason, waiting.started) == ("waiting", None, "BeginTime", None)
    assert merged_state("15", queue_of("COMPLETING", id_="15")).state == "running"
    assert merged_state("13", queue_of("RUNNING", id_="13")).state == "running"


def test_an_end_that_the_accounting_has_not_heard_of_yet() -> None:
    found = merged_state("19", queue_of("FAILED", str(3 << 8), id_="19"))
    assert (found.state, found.cause, found.exit_code, found.restarts) == ("failed", "error", 3, 1)
    assert merged_state("99", queue_of("FAILED", str(137 << 8), id_="99")).signal == 9
    assert merged_state("99", queue_of("FAILED", "9", id_="99")).cause == "killed"
    assert merged_state("99", queue_of("COMPLETED", id_="99")).state == "done"


def test_every_start_is_counted() -> None:
    found = merged_state("14")
    assert (found.restarts, found.elapsed_s, found.node) == (1, 40, "n1")
    assert found.gpu_hours == pytest.approx(40 / 3600)
    assert found.waited_s == 1 + 20
    assert found.max_rss_mb == 2048


def test_rows_of_an_array_that_has_not_started_stand_for_each_element() -> None:
    rows = parse_accounting(accounted(SACCT)).rows
    assert [row.state for id_ in ("1_1", "1_2", "1_3") for row in rows[id_]] == ["PENDING"] * 3
    assert (rows["1_0"][0].max_rss_mb, rows["1_0"][0].gpus, rows["1_0"][0].node) == (3100 / 1024, 2, "n1")


def test_ten_thousand_in_two_commands(fake_slurm: Path) -> None:
    row = "|COMPLETED|0:0|0:0|3|billing=1,cpu=1,gres/gpu=2,mem=256M,node=1||None|n1|1795460771|1795460772|1795460775\n"
    step = "|COMPLETED|0:0||3|cpu=1,gres/gpu=2,mem=256M,node=1|3100K||n1|1795460772|1795460772|1795460775\n"
    ids = [f"{array}_{place}" for array in range(1, 11) for place in range(1000)]
    lines = (f"{id_}|{n}{row}{id_}.batch|{n}.batch{step}{id_}.0|{n}.0{step}" for n, id_ in enumerate(ids))
    (fake_slurm / "sacct.txt").write_text(accounted("".join(lines)))
    (fake_slurm / "squeue.txt").write_text("\n".join(queue_of("RUNNING", id_=id_) for id_ in ids[5000:]))
    found = states(ids)
    assert [state.state for state in found.values()] == ["done"] * 5000 + ["running"] * 5000
    assert (fake_slurm / "calls").read_text().split() == ["squeue", "sacct"]


def test_no_controller_is_unknown_and_not_failed(fake_slurm: Path) -> None:
    (fake_slurm / "sacct.txt").write_text(accounted(SACCT))
    answer = "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1\n"
    (fake_slurm / "squeue.answer").write_text(answer)
    found = states(["5", "14"])
    assert {state.state for state in found.values()} == {"unknown"}
    assert "Unable to contact" in (found["5"].reason or "")


def test_an_accounting_outage_changes_nothing(fake_slurm: Path) -> None:
    (fake_slurm / "squeue.txt").write_text(queue_of("RUNNING", id_="5"))
    answer = "echo 'sacct: error: Problem talking to the database: Connection refused' >&2; exit 1\n"
    (fake_slurm / "sacct.answer").write_text(answer)
    found = states(["5", "14"])
    assert (found["5"].state, found["14"].state) == ("running", "unknown")


def test_without_accounting_a_forgotten_job_is_gone(fake_slurm: Path) -> None:
    (fake_slurm / "sacct.answer").write_text("echo 'Slurm accounting storage is disabled' >&2; exit 1\n")
    assert states(["14"])["14"].state == "gone"


def test_an_id_that_was_used_before_is_not_confused(fake_slurm: Path) -> None:
    (fake_slurm / "sacct.txt").write_text(accounted(SACCT))
    assert states(["5"])["5"].state == "failed"
    later = states(["5"], sent={"5": JobIdentity(submitted=1795460790 + 3600)})["5"]
    assert (later.state, later.reason) == ("gone", "under its number Slurm has a job submitted before ours")


def test_elements_cancelled_before_they_started(fake_slurm: Path) -> None:
    # A whole array is left as one row under its own id; single elements vanish, their array does not.
    (fake_slurm / "sacct.txt").write_text(
        accounted(
            "30|30|CANCELLED by 0|0:0|0:0|0||||None assigned|1795460771|1795460781|1795460781\n"
            "31_[2-3]|31|PENDING|0:0|0:0|0||||None assigned|1795460771|Unknown|Unknown\n"
        )
    )
    (fake_slurm / "squeue.txt").write_text(queue_of("PENDING", id_="31_2") + "\n" + queue_of("CANCELLED", id_="30"))
    found = states(["30_4", "31_0", "31_2", "32_0"])
    assert [(state.state, state.cause) for state in found.values()] == [
        ("failed", "cancelled"), ("failed", "cancelled"), ("waiting", None), ("gone", None),
    ]  # fmt: skip


def test_another_element_shown_under_the_arrays_id_is_not_taken_for_this_one(fake_slurm: Path) -> None:
    # Seen for some seconds: 40_3, killed, is still the bare row 40 in the accounting; 40_1 has no row yet.
    row = "40|40|FAILED|9:0|0:9|1|billing=1,cpu=1,mem=1G,node=1||None|n1|1795460790|1795460841|1795460842\n"
    (fake_slurm / "sacct.txt").write_text(accounted(row))
    (fake_slurm / "squeue.txt").write_text(queue_of("FAILED", str(1 << 8), id_="40_1"))
    (state,) = states(["40_1"]).values()
    assert (state.state, state.cause, state.exit_code) == ("failed", "error", 1)


def test_the_end_of_an_earlier_start_is_not_taken_for_this_one() -> None:
    found = merged_state("5", queue_of("FAILED", "9", id_="5"))
    assert (found.cause, found.signal, found.started) == ("killed", 9, 1795460841)


def test_asking_about_nothing_asks_nobody(fake_slurm: Path) -> None:
    assert states([]) == {}
    assert not (fake_slurm / "calls").exists()


def test_a_log_that_could_not_be_written_has_no_status() -> None:
    found = [merged_state("7", queue_of("FAILED", printed, "7")) for printed in ("4021", "0:53")]
    assert {(state.cause, state.exit_code, state.signal) for state in found} == {("error", 0, None)}


@pytest.mark.parametrize(
    ("word", "printed", "cause", "signal"),
    [("NODE_FAIL", "1", "node failure", None), ("NODE_FAIL", "0:1", "node failure", None),
     ("DEADLINE", "0:1", "time limit", None), ("CANCELLED", "0:15", "cancelled", 15)],
)  # fmt: skip
def test_a_signal_that_nobody_sent_is_none(word: str, printed: str, cause: str, signal: int | None) -> None:
    found = merged_state("7", queue_of(word, printed, "7"))
    assert (found.cause, found.signal) == (cause, signal)


@pytest.mark.parametrize(
    ("reason", "meaning"),
    [
        ("AssocMaxJobsLimit", "your account allows no more jobs at once at present"),
        ("QOSMaxSubmitJobPerUserLimit", "the QOS allows no more jobs queued at present"),
        ("QOSGrpGRES", "the QOS allows no more GPUs at present"),
        ("(ReqNodeNotAvail, UnavailableNodes:n1)", "a node it needs is down, drained or reserved"),
        ("DependencyNeverSatisfied", "what it waits for failed, so it can never start"),
        ("SomethingNew", "Slurm says SomethingNew"),
        (None, "the scheduler has not looked at it yet"),
    ],
)
def test_reasons_in_words(reason: str | None, meaning: str) -> None:
    assert explain(reason).meaning == meaning


def test_the_recorded_widths_are_those_asked_for(fake_slurm: Path) -> None:
    (fake_slurm / "squeue.answer").write_text(f'echo "$@" > {fake_slurm}/arguments\n')
    states(["3_1", "12"])
    arguments = (fake_slurm / "arguments").read_text().split()
    fields = arguments[arguments.index("-O") + 1]
    assert [field.rsplit(":", 1)[1] for field in fields.split(",")] == [f"{width}|" for width in WIDTHS]
    assert arguments[-1] == "3,12"


def test_why_it_last_waited_does_not_tell_how_it_ended() -> None:
    assert merged_state("14").reason is None
    assert merged_state("7", queue_of("FAILED", "9", "7", "BeginTime")).reason is None
    assert merged_state("7", queue_of("FAILED", "9", "7", "JobLaunchFailure")).reason == "JobLaunchFailure"


def test_a_job_held_after_a_start_that_failed_is_known_however_it_is_spelt() -> None:
    for said in ("launch_failed_requeued_held", "launch failed requeued held", "(launch failed requeued held)"):
        assert is_launch_held(said) and "tanda submit" in explain(said).advice
    assert not is_launch_held("JobHeldUser") and not is_launch_held(None)


def test_a_start_in_the_future_by_our_clock_took_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slurm.job_state.time.time", lambda: 1795460841.0 - 30)
    found = merged_state("99", queue_of("RUNNING", id_="99"))
    assert (found.state, found.elapsed_s, found.gpu_hours) == ("running", 0.0, 0.0)


def test_an_error_of_several_lines_is_one() -> None:
    error = classify_error("sacct: error: slurm_persist_conn_open\nsacct: error: Problem talking to the database\n")
    assert type(error) is UnreachableError
    assert str(error) == "sacct: error: slurm_persist_conn_open; sacct: error: Problem talking to the database"
    refused = _classify_refusal("Command failed\nfor reasons\n of its own\n")
    assert str(refused) == "Command failed; for reasons; of its own"
