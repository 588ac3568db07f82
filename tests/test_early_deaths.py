"""What ends before a task's own first line is explained by its element's log: in `status`, `why` and `logs`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from report_fixture import Made, data_files, make, make_run

from pipeline import queue, why
from pipeline.decisions.task_state import TaskState
from pipeline.element_log import last_reason
from pipeline.plan import Plan
from pipeline.status import describe, task_states
from pipeline.submission import Queued, Submission, read_all, write_source
from pipeline.why import explain, read_log
from sharedfs.errors import InputError
from slurm.job_state import JobIdentity, JobState

NO_SUBMITIT = """\
/usr/bin/python3: Error while finding module specification for 'submitit.core._submit' (No module named 'submitit')
srun: error: n1: task 0: Exited with exit code 1
srun: Terminating StepId=7.0
"""
NO_MODULE = """\
/var/spool/slurmd/job00007/slurm_script: line 25: module: command not found
tanda: `module load cuda/12.4` failed: nothing was run
"""
STOLEN = "tanda: /s/submissions/x: not a folder that only me can change: nothing was run\n"
NO_PYTHON = """\
slurmstepd: error: execve(): /gone/bin/python: No such file or directory
srun: error: n1: task 0: Exited with exit code 2
"""
NO_LIBRARY = """\
/venv/bin/python: error while loading shared libraries: libpython3.11.so.1.0: cannot open shared object file
srun: error: n1: task 0: Exited with exit code 127
"""
STARTED = "submitit INFO (2026-01-01 00:00:00,000) - Starting with JobEnvironment(job_id=7_0)\n"


class Queue:
    """A training that was handed to Slurm as element 7_0 and has ended there as ``job`` says."""

    def __init__(self, made: Made) -> None:
        self.made, self.storage = made, made.storage
        self.job = JobState(id="7_0", state="failed", cause="error", exit_code=1, reason="NonZeroExitCode")
        (self.train,) = (planned.id for planned in made.plan.tasks if planned.stage == "train")
        self.sent = self.storage.submissions / "20260101-000000-small"
        (self.sent / "small-g-train.0").mkdir(parents=True)
        self.log = self.sent / "small-g-train.0" / "7_0_0_log.out"
        self.submit("slurm")

    @property
    def plan(self) -> Plan:
        return self.made.plan

    def submit(self, executor: str) -> None:
        array = Queued(stage="train", group="g", job_ids=("7",), elements={"7_0": (self.train,)}, mem_gb=1.0)
        Submission(
            name=self.sent.name, manifest="small", executor=executor, user="me", time=0.0, git_commit=None,
            arrays=(array,),
        ).write(self.storage)  # fmt: skip

    def begin(self, start: int, *lines: str) -> None:
        """Write to the task's own log what its element does at a start, and what the task says then."""
        with (self.storage.log(self.train)).open("a") as log:
            log.write("\n".join([f"== 2026-01-01T00:00:00+0000 n1 job 7_0 start {start} ==", *lines, ""]))

    def observe(self, _storage: object, _name: str, sent: Mapping[str, JobIdentity], *_: object) -> Any:
        assert list(sent) == ["7_0"]
        return {"7_0": self.job}

    def state(self) -> TaskState:
        return task_states(self.plan)[self.train]


@pytest.fixture
def queued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue]:
    made = make(tmp_path, runs=(make_run(data_files(tmp_path / "data"), group="g", name="a"),))
    queued = Queue(made)
    monkeypatch.setattr(queue, "observe", queued.observe)
    yield queued


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (NO_SUBMITIT, NO_SUBMITIT.splitlines()[0]),
        (NO_MODULE, "tanda: `module load cuda/12.4` failed: nothing was run"),
        (STOLEN, STOLEN.strip()),
        (NO_PYTHON, "slurmstepd: error: execve(): /gone/bin/python: No such file or directory"),
        (NO_LIBRARY, NO_LIBRARY.splitlines()[0]),
    ],
    ids=["no submitit", "no module", "another's folder", "no python", "no library"],
)
@pytest.mark.parametrize("state", ["failed", "gone"])
def test_all_three_show_it_with_the_elements_log(queued: Queue, log: str, reason: str, state: str) -> None:
    queued.log.write_text(log)
    if state == "gone":  # a site without accounting forgets a job in minutes
        queued.job = JobState(id="7_0", state="gone", reason="neither the queue nor the accounting knows it")
    shown = queued.state()
    assert (shown.state, shown.message, shown.log) == (
        "failed" if state == "failed" else "lost",
        reason,
        str(queued.log),
    )
    assert reason in describe(shown)
    lines = explain(queued.plan, queued.train).splitlines()
    assert reason in lines[1]
    start = lines.index(f"it ended before its first line; its element's log ends ({queued.log}):")
    assert lines[start + 1 : start + 1 + len(log.splitlines())] == [f"  {line}" for line in log.splitlines()]
    printed = "".join(read_log(queued.plan, queued.train))
    assert printed == f"== element 7_0, before the task's own first line: {queued.log} ==\n{log}"
    assert "".join(read_log(queued.plan, queued.train, follow=True)) == printed


def test_a_second_start_that_ended_early_is_not_explained_by_the_first(queued: Queue) -> None:
    queued.begin(1, "epoch 1/8: validation balanced accuracy 0.5")
    queued.log.write_text(STARTED + NO_PYTHON)
    assert queued.state().log is None
    queued.job = JobState(id="7_0", state="failed", cause="error", restarts=1)
    assert queued.state().log == str(queued.log)
    assert queued.state().message == NO_PYTHON.splitlines()[0]


def test_an_earlier_submissions_log_does_not_explain_it_either(queued: Queue) -> None:
    queued.storage.log(queued.train).write_text("== 2026-01-01T00:00:00+0000 n1 job 6_0 start 1 ==\nepoch 1/8\n")
    queued.log.write_text(NO_MODULE)
    assert queued.state().log == str(queued.log)
    printed = "".join(read_log(queued.plan, queued.train))
    assert printed.startswith("== 2026-01-01T00:00:00+0000 n1 job 6_0") and printed.endswith(NO_MODULE)


def test_a_task_that_could_not_import_what_it_needs_says_so_itself(queued: Queue) -> None:
    """Its element ran, and its own log has the reason; it left no record."""
    queued.begin(1, "Traceback (most recent call last):", "ModuleNotFoundError: No module named 'numpy'")
    queued.log.write_text(STARTED)
    state = queued.state()
    assert (state.cause, state.message, state.log) == ("error", "ModuleNotFoundError: No module named 'numpy'", None)
    assert "ModuleNotFoundError" in "".join(read_log(queued.plan, queued.train))


@pytest.mark.parametrize("cause", ["killed", "node failure", "time limit", "cancelled"])
def test_the_last_line_of_a_task_that_was_ended_from_outside_is_not_why(queued: Queue, cause: str) -> None:
    queued.begin(1, "epoch 1/8: validation balanced accuracy 0.5")
    queued.job = JobState(id="7_0", state="failed", cause=cause, reason="its word")
    assert (queued.state().cause, queued.state().message) == (cause, "its word")


def test_an_elements_usual_lines_are_no_reason() -> None:
    assert (
        last_reason(STARTED + "srun: error: n1: task 0: Killed\nslurmstepd: error: *** STEP 7.0 ON n1 CANCELLED\n")
        is None
    )
    assert last_reason("x" * 1000 + "\n") == "x" * 297 + "..."


def test_a_log_that_is_a_link_hides_no_other_task(queued: Queue, tmp_path: Path) -> None:
    queued.storage.log(queued.train).symlink_to(tmp_path / "elsewhere")
    assert "its log cannot be read" in str(queued.state().message)


def test_the_command_to_run_it_alone_names_the_profiles_python(queued: Queue) -> None:
    """That of the submission: `why` is not told which profile that went by."""
    queued.log.write_text(NO_MODULE)
    write_source(queued.sent, queued.plan)
    assert "PYTHONSAFEPATH=1 /lab/bin/python -m jobs" not in explain(queued.plan, queued.train)
    source = queued.sent / "manifest.json"
    source.write_text('{"cluster": {"python": "/lab/bin/python"}}')
    folder = shlex.quote(str(queued.storage.run(queued.train)))
    assert explain(queued.plan, queued.train).endswith(f"PYTHONSAFEPATH=1 /lab/bin/python -m jobs {folder}")


def test_a_task_without_a_log_says_where_it_went(queued: Queue) -> None:
    with pytest.raises(InputError, match="left no log, nor did its element: it is failed"):
        "".join(read_log(queued.plan, queued.train))
    queued.job = JobState(id="7_0", state="waiting")
    with pytest.raises(InputError, match="has no log yet: it is waiting"):
        "".join(read_log(queued.plan, queued.train))


def test_what_ran_inline_printed_where_it_was_submitted(queued: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    done = {queued.train: TaskState(id=queued.train, state="done")}
    monkeypatch.setattr(why, "task_states", lambda _plan, **_how: done)
    with pytest.raises(InputError, match="has no log: it is done, and the log has been removed since"):
        "".join(read_log(queued.plan, queued.train))
    queued.submit("inline")
    with pytest.raises(InputError, match="has no log: it ran inline, in the process that submitted it"):
        "".join(read_log(queued.plan, queued.train))


@pytest.mark.parametrize("name", ["../elsewhere", "20250101-000000-other"])
def test_a_submission_has_the_name_of_its_folder_whatever_it_says(queued: Queue, name: str) -> None:
    """Others write there too, and what a name leads to is read, and cleared away."""
    file = queued.sent / "submission.json"
    file.write_text(file.read_text().replace(queued.sent.name, name))
    assert [made.name for made in read_all(queued.storage)] == [queued.sent.name]
