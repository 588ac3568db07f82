"""`--sbatch-only`: scripts that a person submits; their jobs are known as if `tanda submit` had queued them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from small_manifest import MANIFEST, write_manifest

from jobs.storage import Storage
from pipeline import queue, submission
from pipeline.manifest import load
from pipeline.plan import Plan, make_plan
from pipeline.scripts import dry_run, write_scripts
from pipeline.status import task_states
from pipeline.submission import read_all
from pipeline.submit import submit_plan
from sharedfs.errors import DamagedFileError
from slurm.element import read_element
from slurm.job_state import JobState

STEMS = [
    "small-data-preprocess", "small-architectures-train", "small-architectures-train-2",
    "small-architectures-evaluate", "small-close",
]  # fmt: skip
# Gives numbers from 101 on, with a notice of the site's before; refuses what $REFUSED names, prints none for $MUTE.
SBATCH = """#!/bin/bash
echo "$@" >> "$CALLS"
for name in $REFUSED; do
    if [[ "$*" == *"/$name.sbatch" ]]; then echo "sbatch: error: invalid account" >&2; exit 1; fi
done
for name in $MUTE; do
    if [[ "$*" == *"/$name.sbatch" ]]; then echo "welcome"; exit 0; fi
done
echo "Your quota: 12 of 40"
echo "$((100 + $(wc -l < "$CALLS")));lab"
"""


class Desk:
    """Scripts of the small manifest, and a person who runs them where sbatch is a stand-in."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # The networks get a GPU, and so an array beside that of `linear`.
        text = MANIFEST.replace(", device: cpu", "").replace("  train: {", "  train: {gpus: 1, ")
        self.plan: Plan = make_plan(load(write_manifest(root, text)))
        self.storage = Storage(self.plan.manifest.storage)
        self.scripts = root / "my scripts"
        self.calls = root / "calls"
        (root / "bin").mkdir()
        (root / "bin" / "sbatch").write_text(SBATCH)
        (root / "bin" / "sbatch").chmod(0o755)
        self.path = f"{root / 'bin'}:/usr/bin:/bin"
        monkeypatch.setenv("PATH", "/usr/bin:/bin")
        monkeypatch.setattr(queue, "observe", self.observe)

    def observe(self, _storage: object, _name: str, sent: Mapping[str, object], *_: object) -> Any:
        return {job: JobState(id=job, state="waiting", reason="Priority") for job in sent}

    @property
    def home(self) -> Path:
        (folder,) = self.storage.submissions.iterdir()
        return folder

    def submit(self, *names: str, status: int = 0, **environment: str) -> str:
        done = subprocess.run(
            ["bash", str(self.scripts / "submit.sh"), *names], capture_output=True, text=True, check=False,
            env={"PATH": self.path, "CALLS": str(self.calls), **environment},
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done.stderr if status else done.stdout

    def sent(self, since: int = 0) -> list[tuple[str, str]]:
        """What each call of sbatch was given: the dependency and the script."""
        lines = self.calls.read_text().splitlines()[since:]
        found = [re.fullmatch(r"--parsable (?:--dependency=(\S+) )?(.*)/(.*)\.sbatch", line) for line in lines]
        assert all(match and match[2] == str(self.scripts) for match in found)
        return [(match[1] or "", match[3]) for match in found if match]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    desk = Desk(tmp_path, monkeypatch)
    paths = write_scripts(desk.plan, desk.scripts)
    assert [path.name for path in paths] == [*(f"{stem}.sbatch" for stem in STEMS), "submit.sh"]
    return desk


def test_the_script_queues_everything_in_order_the_closing_job_last(desk: Desk) -> None:
    printed = desk.submit()
    assert [line.split() for line in printed.splitlines()] == [[str(101 + n), stem] for n, stem in enumerate(STEMS)]
    assert desk.sent() == [
        ("", STEMS[0]),
        ("afterany:101", STEMS[1]),
        ("afterany:101", STEMS[2]),
        ("afterany:101:102:103", STEMS[3]),
        ("afterany:101:102:103:104", STEMS[4]),
    ]


def test_every_element_is_that_of_its_script(desk: Desk) -> None:
    """The number of an element in its script's array names the same task to the node and to status."""
    (made,) = read_all(desk.storage)
    for script, array in made.by_hand.items():
        text = (desk.scripts / f"{script}.sbatch").read_text()
        file = Path(re.findall(r"slurm\.element (\S+)", text)[0])
        for index, tasks in array.elements.items():
            paths = read_element(file, int(index)).paths
            assert paths == (tuple(str(desk.storage.run(task)) for task in tasks) or (str(desk.home),))
    every = [task for array in made.by_hand.values() for tasks in array.elements.values() for task in tasks]
    assert sorted(every) == sorted(planned.id for planned in desk.plan.tasks)
    assert all((desk.storage.run(task) / "task.json").exists() for task in every)


def test_status_knows_what_was_queued_by_hand_and_submit_leaves_it_alone(desk: Desk) -> None:
    states = task_states(desk.plan)
    assert {state.reason for state in states.values()} == {"not submitted"} and read_all(desk.storage)[0].arrays == ()
    desk.submit()
    states = task_states(desk.plan)
    assert {(state.state, state.queued, state.mine) for state in states.values()} == {("waiting", True, True)}
    assert sorted(str(state.job) for state in states.values()) == sorted(
        f"{job}_{index}" for job, count in ((101, 1), (102, 3), (103, 1), (104, 4)) for index in range(count)
    )
    again = submit_plan(desk.plan, executor="slurm")
    assert (again.submission, again.already_queued) == (None, 9)
    assert write_scripts(desk.plan, desk.scripts.parent / "more") == []
    assert not (desk.scripts.parent / "more").exists()


def test_what_is_missing_waits_for_what_was_queued_before(desk: Desk) -> None:
    desk.submit(STEMS[0])
    seen = len(desk.sent())
    desk.scripts = desk.scripts.parent / "rest"
    names = [path.stem for path in write_scripts(desk.plan, desk.scripts)]
    assert names == [*STEMS[1:], "submit"]
    desk.submit()
    assert desk.sent(seen) == [
        ("afterany:101", STEMS[1]),
        ("afterany:101", STEMS[2]),
        ("afterany:101:102:103", STEMS[3]),
        ("afterany:102:103:104", STEMS[4]),
    ]


def test_a_refused_script_stops_the_rest_and_starting_again_goes_on(desk: Desk) -> None:
    told = desk.submit(status=1, REFUSED=STEMS[2])
    assert told.splitlines() == [
        "sbatch: error: invalid account",
        f"submit.sh: {STEMS[2]} was refused, and what comes after it was not queued; start this again to go on",
    ]
    assert [stem for _, stem in desk.sent()] == STEMS[:3]
    printed = desk.submit().splitlines()
    assert printed[:2] == [f"{STEMS[0]}: queued already, as 101", f"{STEMS[1]}: queued already, as 102"]
    assert desk.sent()[3:] == [
        ("afterany:101", STEMS[2]),
        ("afterany:101:102:104", STEMS[3]),
        ("afterany:101:102:104:105", STEMS[4]),
    ]
    assert {state.state for state in task_states(desk.plan).values()} == {"waiting"}


def test_an_answer_without_a_number_stops_it_too(desk: Desk) -> None:
    assert f"submit.sh: {STEMS[1]}: sbatch printed no job's number" in desk.submit(status=1, MUTE=STEMS[1])
    assert [stem for _, stem in desk.sent()] == STEMS[:2]


def test_single_scripts_are_queued_by_name(desk: Desk) -> None:
    desk.submit(STEMS[0], STEMS[2])
    assert desk.sent() == [("", STEMS[0]), ("afterany:101", STEMS[2])]
    assert sum(state.queued for state in task_states(desk.plan).values()) == 2
    assert desk.submit("gone", status=2) == "submit.sh: there is no gone.sbatch here\n"


def test_a_persons_own_defaults_change_no_job(desk: Desk) -> None:
    (desk.scripts.parent / "bin" / "sbatch").write_text('#!/bin/bash\necho "${SBATCH_QOS-none}" >> "$CALLS"\necho 7\n')
    desk.submit(STEMS[0], SBATCH_QOS="debug")
    assert desk.calls.read_text() == "none\n"


def test_a_script_given_to_sbatch_by_itself_notes_its_job_as_it_starts(desk: Desk) -> None:
    text = (desk.scripts / f"{STEMS[1]}.sbatch").read_text()
    environment = {"PATH": "/usr/bin:/bin", "SLURM_ARRAY_JOB_ID": "57", "SLURM_JOB_ID": "58"}
    subprocess.run(["bash", "-c", text], env=environment, capture_output=True, check=False)
    jobs = sorted(str(state.job) for state in task_states(desk.plan).values() if state.queued)
    assert jobs == ["57_0", "57_1", "57_2"]


def test_a_note_that_is_no_jobs_number_is_damage_and_named(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    (desk.home / "queued" / STEMS[0] / "copy of 101").touch()
    (desk.home / "queued" / STEMS[0] / ".nfs0001").touch()
    with pytest.raises(DamagedFileError, match="copy of 101: not a job's number"):
        submission.read(desk.home)
    assert read_all(desk.storage) == []
    assert "copy of 101: not a job's number; ignored" in capfd.readouterr().err


def test_what_was_written_and_not_submitted_is_not_cleared_away(desk: Desk) -> None:
    from pipeline.decisions.closing import finished_submissions

    assert finished_submissions("small", read_all(desk.storage), {}) == ()


def test_a_folder_that_is_there_already_is_left_alone(desk: Desk) -> None:
    before = sorted(desk.storage.submissions.iterdir())
    with pytest.raises(FileExistsError):
        write_scripts(desk.plan, desk.scripts)
    assert sorted(desk.storage.submissions.iterdir()) == before


def test_what_fails_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(tmp_path, monkeypatch)
    monkeypatch.setattr("pipeline.scripts.submit_text", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_scripts(desk.plan, desk.scripts)
    assert list(desk.storage.submissions.iterdir()) == [] and not desk.scripts.exists()


def test_a_dry_run_shows_every_script_also_two_of_one_name(desk: Desk) -> None:
    heads = re.findall(r"^# --- (\S+)$", dry_run(desk.plan, executor="slurm"), flags=re.MULTILINE)
    train = "small-architectures-train"
    assert heads == ["small-data-preprocess", train, train, "small-architectures-evaluate", "small-close"]


def test_the_record_says_what_each_job_is(desk: Desk) -> None:
    desk.submit()
    document = json.loads((desk.home / "submission.json").read_text())
    assert document["arrays"] == [] and list(document["by_hand"]) == sorted(STEMS)
    (closing,) = (array for array in read_all(desk.storage)[0].arrays if array.stage == "close")
    assert (closing.elements, closing.name) == ({"105_0": ()}, "small-close")
    assert os.access(desk.scripts / "submit.sh", os.X_OK)
