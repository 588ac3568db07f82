"""Rows of Slurm's that cannot be read, and rows of jobs that are not ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from slurm_output_fixture import SACCT, WHOSE, accounted, fake_slurm, merged_state, queue_of

from slurm.commands import warn_once
from slurm.job_state import JobIdentity
from slurm.limits import local_cluster
from slurm.query import states

__all__ = ["fake_slurm"]


@pytest.mark.parametrize(
    ("printed", "exit_code", "signal"),
    [("0", 0, None), ("768", 3, None), ("9", None, 9), ("35072", None, 9),  # 22.05: a raw wait status
     ("0:0", 0, None), ("3:0", 3, None), ("0:9", None, 9), ("137:0", None, 9)],  # 24.11
)  # fmt: skip
def test_how_a_job_ended_is_read_as_either_slurm_prints_it(printed: str, exit_code: int, signal: int) -> None:
    ended = merged_state("99", queue_of("COMPLETED" if printed[0] == "0" else "FAILED", printed, id_="99"))
    assert (ended.exit_code, ended.signal) == (exit_code, signal)
    assert merged_state("99", queue_of("PENDING", printed, id_="99")).state == "waiting"


BROKEN_QUEUE = {
    "an exit code": queue_of("PENDING", "?", id_="5"),
    "a state that is none": queue_of("LEVITATING", id_="5"),
    "a time": queue_of("RUNNING", id_="5").replace("1795460841", "yesterday "),
    "too few columns": queue_of("PENDING", id_="5")[:300],
}


@pytest.mark.parametrize("case", BROKEN_QUEUE)
def test_a_row_of_the_queue_that_cannot_be_read_is_unknown_and_told_once(
    case: str, fake_slurm: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    warn_once.cache_clear()
    (fake_slurm / "sacct.txt").write_text(accounted(SACCT))
    (fake_slurm / "squeue.txt").write_text(BROKEN_QUEUE[case] + "\n" + queue_of("PENDING", id_="14") + "\n")
    for _ in range(2):
        found = states(["5", "14"])
        assert (found["5"].state, found["14"].state) == ("unknown", "waiting")
        assert "squeue printed what cannot be read: '5|" in (found["5"].reason or "")
    assert capfd.readouterr().err.count("squeue printed") == 1


BROKEN_ACCOUNTING = {
    "too few columns": "50|50|FAILED|3:0|3:0|0",
    "a state that is none": accounted(SACCT.splitlines()[3]).replace("FAILED", "LEVITATING").replace("5|5", "50|50"),
    "memory": accounted(SACCT.splitlines()[3]).replace("mem=256M", "mem=256Q").replace("5|5", "50|50"),
}


@pytest.mark.parametrize("case", BROKEN_ACCOUNTING)
def test_a_row_of_the_accounting_that_cannot_be_read_is_unknown_unless_the_queue_knows(
    case: str, fake_slurm: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    warn_once.cache_clear()
    (fake_slurm / "sacct.txt").write_text(BROKEN_ACCOUNTING[case] + "\n" + accounted(SACCT))
    found = states(["50", "6"])
    assert (found["50"].state, found["6"].state) == ("unknown", "failed")
    assert "sacct printed what cannot be read: '50|50|" in capfd.readouterr().err
    (fake_slurm / "squeue.txt").write_text(queue_of("RUNNING", id_="50"))
    assert states(["50"])["50"].state == "running"


def test_a_banner_and_a_comment_of_two_lines_are_no_rows(fake_slurm: Path, capfd: pytest.CaptureFixture[str]) -> None:
    warn_once.cache_clear()
    first, *others = accounted(SACCT).splitlines()
    (fake_slurm / "sacct.txt").write_text("\n".join(["Welcome!", first, "a second line|of words", *others]))
    assert states(["1_0"])["1_0"].state == "done"
    assert "sacct printed a line that is no job's: 'Welcome!'" in capfd.readouterr().err


OURS = JobIdentity(submitted=1795460821, name=WHOSE[2], comment=WHOSE[3], uid=1000, cluster="lab")
NOT_OURS = {
    "a cluster": ("other", *WHOSE[1:]),
    "a user": ("lab", "1001", *WHOSE[2:]),
    "a name": ("lab", "1000", "mywork", WHOSE[3]),
    "a name with a separator": ("lab", "1000", "my|work", ""),
    "a comment": (*WHOSE[:3], "tanda 20261126-other train g"),
}
OURS_ALL_THE_SAME = {
    "all": WHOSE,
    "no comment is kept": (*WHOSE[:3], ""),
    "no comment in the queue": (*WHOSE[:3], "(null)"),
    "the site added to it": (*WHOSE[:3], f"checked; {WHOSE[3]}"),
    "nothing is shown": ("", "", "", ""),
}


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "COMPLETED"])
@pytest.mark.parametrize("case", NOT_OURS)
def test_a_job_of_somebody_elses_under_our_number_is_not_ours(case: str, state: str, fake_slurm: Path) -> None:
    (fake_slurm / "squeue.txt").write_text(queue_of(state, whose=NOT_OURS[case]))
    row = next(line for line in SACCT.splitlines() if line.startswith("14|14|NODE_FAIL"))
    (fake_slurm / "sacct.txt").write_text(accounted(row, NOT_OURS[case]))
    found = states(["14"], sent={"14": OURS})["14"]
    assert found.state == "gone" and (found.reason or "").startswith("under its number Slurm has a job")
    (fake_slurm / "sacct.txt").write_text(accounted(row, NOT_OURS[case]) + accounted(row))
    assert states(["14"], sent={"14": OURS})["14"].cause == "node failure", "our own row still counts"


@pytest.mark.parametrize("case", OURS_ALL_THE_SAME)
def test_what_is_not_shown_proves_nothing(case: str, fake_slurm: Path) -> None:
    (fake_slurm / "squeue.txt").write_text(queue_of("RUNNING", whose=OURS_ALL_THE_SAME[case]))
    assert states(["14"], sent={"14": OURS})["14"].state == "running"


@pytest.mark.parametrize(
    ("submitted_s", "state"), [(-3600, "gone"), (-30, "running"), (0, "running"), (7200, "running")]
)
def test_a_requeue_makes_a_submit_time_later_and_nothing_makes_it_earlier(
    submitted_s: int, state: str, fake_slurm: Path
) -> None:
    line = queue_of("RUNNING").replace("1795460821", str(1795460821 + submitted_s))
    (fake_slurm / "squeue.txt").write_text(line)
    assert states(["14"], sent={"14": OURS})["14"].state == state


def test_clocks_may_disagree_by_more_where_a_comment_names_our_submission(fake_slurm: Path) -> None:
    (fake_slurm / "squeue.txt").write_text(queue_of("RUNNING"))
    ahead = replace(OURS, submitted=1795460821 + 120)
    assert states(["14"], sent={"14": ahead})["14"].state == "running"
    (fake_slurm / "squeue.txt").write_text(queue_of("RUNNING", whose=(*WHOSE[:3], "(null)")))
    assert states(["14"], sent={"14": ahead})["14"].state == "gone"


def test_a_list_that_was_cut_short_says_nothing_of_an_element_with_a_row_of_its_own(fake_slurm: Path) -> None:
    warn_once.cache_clear()
    rows = [
        queue_of("RUNNING", id_="12_15"),
        queue_of("CANCELLED", id_="12_[0,150,15"),
        queue_of("RUNNING", id_="12_16"),
    ]
    (fake_slurm / "squeue.txt").write_text("\n".join([*rows, queue_of("CANCELLED", id_="12_[16-17]")]))
    found = states(["12_15", "12_16", "12_17", "12_399"])
    assert [state.state for state in found.values()] == ["running", "running", "failed", "unknown"]


def test_elements_of_anothers_array_under_our_number_were_not_cancelled(fake_slurm: Path) -> None:
    row = SACCT.splitlines()[0].replace("1_0|2", "12_0|12")
    (fake_slurm / "sacct.txt").write_text(accounted(row, NOT_OURS["a user"]))
    found = states(["12_0", "12_3"], sent=dict.fromkeys(("12_0", "12_3"), OURS))
    assert [(state.state, state.cause) for state in found.values()] == [("gone", None), ("gone", None)]


@pytest.mark.parametrize("cluster", ["(null)", "N/A", "LAB"])
def test_words_for_none_and_a_notice_after_the_last_row_prove_nothing(cluster: str, fake_slurm: Path) -> None:
    line = queue_of("RUNNING", whose=(cluster, *WHOSE[1:3], "(null)"))
    (fake_slurm / "squeue.txt").write_text(f"{line}\nNOTICE: maintenance on Friday\n")
    assert states(["14"], sent={"14": OURS})["14"].state == "running"
    row = next(line for line in SACCT.splitlines() if line.startswith("14|14|NODE_FAIL"))
    (fake_slurm / "squeue.txt").write_text("")
    (fake_slurm / "sacct.txt").write_text(accounted(row, (*WHOSE[:3], "")) + "NOTICE: maintenance\n")
    assert states(["14"], sent={"14": OURS})["14"].cause == "node failure"


# Several clusters: ids are unique within one.


def test_a_named_cluster_is_asked_by_two_commands_and_no_other(fake_slurm: Path) -> None:
    ours = replace(OURS, cluster="other")
    (fake_slurm / "squeue.txt").write_text(queue_of("PENDING"))  # another's job of this number, here
    (fake_slurm / "squeue.other.txt").write_text(queue_of("RUNNING", whose=("other", *WHOSE[1:])))
    found = states(["14"], sent={"14": ours}, cluster="other")["14"]
    assert (found.state, found.named_cluster) == ("running", "other")
    assert (fake_slurm / "calls").read_text().split() == ["squeue", "sacct"]


@pytest.mark.parametrize("there", ["RUNNING", "PENDING", None])
@pytest.mark.parametrize("here", ["another's job of its number", "nothing"])
def test_what_was_submitted_on_another_login_nodes_cluster_is_asked_of_that_one(
    here: str, there: str | None, fake_slurm: Path
) -> None:
    if here != "nothing":
        (fake_slurm / "squeue.txt").write_text(queue_of("RUNNING", whose=("lab", *WHOSE[1:])))
    if there:
        (fake_slurm / "squeue.other.txt").write_text(queue_of(there, whose=("other", *WHOSE[1:])))
    found = states(["14"], sent={"14": replace(OURS, cluster="other")})["14"]
    expected = {"RUNNING": "running", "PENDING": "waiting", None: "gone"}[there]
    assert (found.state, found.named_cluster) == (expected, "other")
    assert (fake_slurm / "calls").read_text().split() == ["squeue", "sacct"] * 2


def test_what_is_gone_from_its_own_cluster_is_asked_of_no_other(fake_slurm: Path) -> None:
    assert states(["14"], sent={"14": OURS})["14"].state == "gone"
    assert (fake_slurm / "calls").read_text().split() == ["squeue", "sacct"]


def test_a_cluster_that_cannot_be_asked_makes_its_jobs_unknown_and_not_gone(fake_slurm: Path) -> None:
    (fake_slurm / "squeue.answer").write_text('[ $asked = squeue ] || { echo "No cluster known" >&2; exit 1; }\n')
    assert states(["14"], sent={"14": replace(OURS, cluster="other")})["14"].state == "unknown"
    assert states(["14"], sent={"14": OURS}, cluster="other")["14"].state == "unknown"
    local_cluster.cache_clear()
    (fake_slurm / "scontrol").write_text("#!/bin/sh\necho Connection refused >&2; exit 1\n")
    found = states(["14", "15"], sent={"14": OURS})
    assert (found["14"].state, found["15"].state) == ("unknown", "gone")
