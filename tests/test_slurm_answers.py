"""What sbatch answers: a job's id is read where one line says it, and guessed nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from slurm_fixture import make_array

from slurm.array import Site
from slurm.errors import NotNowError, SubmitError
from slurm.executors.slurm import Job, SlurmArrays, parse_answer

ANSWERS = {
    "a number": ("12\n", Job(id="12")),
    "a number and its cluster": ("12;other\n", Job(id="12", cluster="other")),
    "a banner before it": ("Welcome: job 99 is waiting for you\n\n12;other\n", Job(id="12", cluster="other")),
    "a notice after it": ("12\nNOTICE: maintenance on day 3\n", Job(id="12")),
    "in words": ("Submitted batch job 12\n", Job(id="12")),
    "in words, with a cluster": ("Submitted batch job 12 on cluster other\n", Job(id="12", cluster="other")),
    "in carriage returns": ("12\r\n", Job(id="12")),
    "nothing": ("", None),
    "a banner alone": ("Your quota: job 12 of 40\n", None),
    "two of them": ("12\n13\n", None),
    "a number in a sentence": ("submitted job 12 to the queue\n", None),
    "no number": ("twelve\n", None),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_the_id_is_read_where_one_line_says_it(case: str) -> None:
    printed, job = ANSWERS[case]
    assert parse_answer(printed) == job


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """sbatch as ``sbatch.sh`` says, a queue that has the script as job 41 and another's as 42, and a list of calls."""
    texts = {
        "scontrol": "echo ClusterName = lab; echo MaxArraySize = 1001",
        "sbatch": f'echo "${{@: -1}}" > {tmp_path}/script; . {tmp_path}/sbatch.sh',
        "squeue": f'for id in 41 41; do echo "$id|$(cat {tmp_path}/script)"; done; echo "42|/other/submission.sh"',
        "scancel": "true",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(f'#!/bin/bash\necho {name} "$@" >> {tmp_path}/calls\n{text}\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def calls(programs: Path, name: str) -> list[str]:
    return [line for line in (programs / "calls").read_text().splitlines() if line.startswith(f"{name} ")]


def test_warnings_on_either_stream_change_nothing(programs: Path) -> None:
    (programs / "sbatch.sh").write_text("echo Welcome; echo 'sbatch: lua: your job 3 is large' >&2; echo '12;other'\n")
    array = make_array(programs / "paths", "exit 0", "exit 0")
    submitted = SlurmArrays().submit(array)
    assert submitted.ids == ("12_0", "12_1") and (submitted.cluster, submitted.named_cluster) == ("other", "other")
    (folder,) = array.folder.glob(f"{array.name}.*")
    assert sorted(path.name for path in folder.iterdir()) == [
        "12_0_submitted.pkl", "12_1_submitted.pkl", "submission.sh",
    ]  # fmt: skip


def test_the_cluster_is_this_machines_where_none_was_named(programs: Path) -> None:
    (programs / "sbatch.sh").write_text("echo 12\n")
    submitted = SlurmArrays().submit(make_array(programs / "paths", "exit 0"))
    assert (submitted.ids, submitted.cluster, submitted.named_cluster) == (("12",), "lab", None)


@pytest.mark.parametrize("printed", ["", "echo 'Welcome, job 7'", "echo 12; echo 13"])
def test_a_job_whose_id_cannot_be_read_is_an_error_and_leaves_no_job_behind(printed: str, programs: Path) -> None:
    (programs / "sbatch.sh").write_text(printed + "\n")
    array = make_array(programs / "paths", "exit 0", "exit 0")
    with pytest.raises(
        SubmitError, match=r"no job's id that can be read: .*; it was queued as 41, which is cancelled"
    ) as one:
        SlurmArrays().submit(array)
    assert "\n" not in str(one.value) and not isinstance(one.value, NotNowError)
    assert calls(programs, "scancel") == ["scancel 41"]
    assert not list(array.folder.glob(f"{array.name}.*"))


LATE = "echo 'sbatch: error: Socket timed out on send/recv operation' >&2; exit 1\n"


def test_a_job_whose_answer_came_too_late_is_found_in_the_queue_by_its_script(programs: Path) -> None:
    (programs / "sbatch.sh").write_text(LATE)
    submitted = SlurmArrays(site=Site(clusters="other")).submit(make_array(programs / "paths", "exit 0", "exit 0"))
    assert submitted.ids == ("41_0", "41_1") and submitted.named_cluster == "other"
    (asked,) = calls(programs, "squeue")
    assert asked.startswith("squeue -M other -h ") and calls(programs, "scancel") == []


@pytest.mark.parametrize(
    ("sbatch", "queue", "error", "words"),
    [
        ("echo hello\n", "true", SubmitError, "; nothing was queued"),
        (LATE, "true", NotNowError, "Socket timed out .*; nothing of it is in the queue"),
        ("echo hello\n", "echo down >&2; exit 1", NotNowError, "'hello'; whether it was queued is unknown: down"),
        (LATE, "echo down >&2; exit 1", NotNowError, "Socket timed out .*; whether it was queued is unknown: down"),
    ],
)
def test_what_became_of_it_is_said(
    sbatch: str, queue: str, error: type[SubmitError], words: str, programs: Path
) -> None:
    (programs / "sbatch.sh").write_text(sbatch)
    (programs / "squeue").write_text(f"#!/bin/bash\n{queue}\n")
    array = make_array(programs / "paths", "exit 0")
    with pytest.raises(error, match=words) as one:
        SlurmArrays().submit(array)
    assert type(one.value) is error and "\n" not in str(one.value)
    assert calls(programs, "scancel") == [] and not list(array.folder.glob(f"{array.name}.*"))


def test_a_job_that_cannot_be_cancelled_again_is_named(programs: Path) -> None:
    (programs / "sbatch.sh").write_text("echo hello\n")
    (programs / "scancel").write_text("#!/bin/bash\necho down >&2; exit 1\n")
    with pytest.raises(SubmitError, match="it was queued as 41, which could not be cancelled: down"):
        SlurmArrays().submit(make_array(programs / "paths", "exit 0"))


def test_a_path_that_the_nodes_would_read_as_a_pattern_is_refused(programs: Path) -> None:
    (programs / "sbatch.sh").write_text("echo 12\n")
    with pytest.raises(SubmitError, match="'%j' in a path stands for a job's number"):
        SlurmArrays().submit(make_array(programs / "50%job", "exit 0"))
