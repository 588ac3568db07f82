"""`notify` and `mail`: a person is told once that a submission is over and that a group is held, by jobs alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_manifest import (
    signal_in_training,
    tanda,
    trainings,
    wait_until,
    wait_until_over,
    with_only,
    write_manifest,
)

from jobs.notice import NOTICE, NOTICES, UNKNOWN, failures, tell
from pipeline import submission
from pipeline.closing_job import CLOSED
from pipeline.end_notice import OVER
from pipeline.manifest import ManifestError, load
from pipeline.plan import make_plan
from pipeline.scripts import scripts

KEEP = "cat > {folder}/message-$$.txt"  # a file a message


def _manifest(folder: Path, text: str, notify: str = KEEP) -> Path:
    command = json.dumps(notify.format(folder=folder))
    return write_manifest(folder, f"{text}\nnotify: {command}\n")


def _messages(manifest: Path) -> list[str]:
    return sorted(path.read_text() for path in manifest.parent.glob("message-*.txt"))


def _submissions(manifest: Path) -> list[Path]:
    return sorted((manifest.parent / "storage" / "submissions").iterdir())


@pytest.fixture(scope="module")
def over(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest whose submission is over, on local processes."""
    manifest = _manifest(tmp_path_factory.mktemp("over"), with_only("MLP", "linear"))
    tanda("submit", manifest, "--executor", "local")
    assert wait_until_over(manifest)["summary"] == {"done": 5}
    return manifest


def test_the_end_is_told_with_the_best_so_far_and_the_report(over: Path) -> None:
    (message,) = _messages(over)
    (folder,) = _submissions(over)
    subject, blank, best, report = message.splitlines()
    assert (subject, blank) == (f"tanda: {folder.name} is over: 5 done", "")
    assert best.startswith("best of architectures: linear, ")
    assert Path(report.removeprefix("report: ")).samefile(over.parent / "storage/reports/small/index.html")
    assert json.loads(tanda("status", over, "--json"))["notices"] == []


def test_a_closing_job_that_starts_again_tells_nothing_twice(over: Path) -> None:
    (folder,) = _submissions(over)
    (folder / CLOSED).unlink()
    tanda("close", folder)
    assert (folder / CLOSED).exists() and len(_messages(over)) == 1


def test_one_that_makes_up_for_another_tells_what_that_had_not_told(over: Path, tmp_path: Path) -> None:
    (folder,) = _submissions(over)
    # As where there was no room for its closing job, and the report is older than the results.
    document = json.loads((folder / submission.NAME).read_text())
    document["arrays"] = [array for array in document["arrays"] if array["stage"] != "close"]
    (folder / submission.NAME).write_text(json.dumps(document))
    (folder / CLOSED).unlink()
    for messages in (1, 2):
        os.utime(over.parent / "storage/reports/small/results.csv", (1, 1))
        made = json.loads(tanda("submit", over, "--executor", "local", "--json"))
        assert [array["stage"] for array in made["arrays"]] == ["close"]
        wait_until_over(over)
        made_up = _submissions(over)[-1]
        assert (made_up / CLOSED).exists() and submission.read(made_up).continues == folder.name
        assert len(_messages(over)) == messages
        shutil.rmtree(made_up)
        shutil.rmtree(folder / NOTICES, ignore_errors=True)  # and now as where it had died before it told anything
    assert {message.splitlines()[0] for message in _messages(over)} == {f"tanda: {folder.name} is over: 5 done"}


def test_what_is_tried_again_is_told_once_by_the_submission_that_ends_it(tmp_path: Path) -> None:
    text = (
        with_only("MLP").replace("epochs: 2", "epochs: 200, patience_chance: 200").replace("rate: 1e-2", "rate: 1e-5")
    )
    manifest = _manifest(tmp_path, text)
    tanda("submit", manifest, "--executor", "local")
    signal_in_training(manifest, trainings(manifest)["MLP"], signal.SIGKILL)
    wait_until(lambda: len(_submissions(manifest)) > 1, "the submission of what is tried again", limit_s=120)
    assert wait_until_over(manifest)["summary"] == {"done": 3}
    first, again = _submissions(manifest)
    assert submission.read(again).continues == first.name
    assert [(folder / NOTICES).exists() for folder in (first, again)] == [False, True]
    (message,) = _messages(manifest)
    assert message.startswith(f"tanda: {first.name} is over: 3 done\n")


def test_a_group_that_is_held_is_told_at_once_and_at_the_end_why_its_tasks_failed(tmp_path: Path) -> None:
    runs = "\n".join(f"      R{number}: {{architecture: mlp, seed: {number}}}" for number in range(4))
    text = with_only("MLP").replace("      MLP: {architecture: mlp}", runs).replace("train: {", "train: {throttle: 1, ")
    manifest = _manifest(tmp_path, f"{text}\nbrake_after: 2\n")
    tanda("submit", manifest, "--executor", "inline", "--set", "defaults.epochs=1")
    # Every training fails in the same way: its data set was damaged, with no change of size, after it was vouched for.
    for classes in (tmp_path / "storage" / "datasets").glob("*/classes.json"):
        classes.write_bytes(b"x" * classes.stat().st_size)
    tanda("submit", manifest, "--executor", "local")
    folder = _submissions(manifest)[-1]
    name = folder.name
    wait_until(lambda: (folder / CLOSED).exists(), "the end of the closing job", limit_s=120)
    held, over = sorted(_messages(manifest), key=lambda message: "is over" in message)
    assert held.startswith(f"tanda: {name}: architectures is held\n\nthe same error ended 2 tasks of this group: ")
    subject, _, *lines = over.splitlines()
    assert subject == f"tanda: {name} is over: 2 waiting, 6 failed"
    assert lines[0].startswith("2 failed: error: ") and lines[0].endswith(
        "(architectures/R0/train, architectures/R1/train)"
    )
    assert any(line.startswith("2 waiting: held: the same error ended 2 tasks of this group: ") for line in lines)


def test_a_command_that_fails_costs_nothing_and_is_said(tmp_path: Path) -> None:
    manifest = _manifest(tmp_path, with_only("linear"), "cat > /dev/null; echo no such server >&2; exit 3")
    assert "report:" in tanda("run", manifest)
    said = "the command of `notify` (over): ended with status 3: no such server"
    assert json.loads(tanda("status", manifest, "--json"))["notices"] == [said]
    assert said in tanda("status", manifest)


def test_a_command_without_end_is_ended_with_what_it_started(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    tell(f"sleep 61 & echo $! > {tmp_path}/child; sleep 62", tmp_path, OVER, "text", limit_s=1.0)
    assert time.monotonic() - began < 30
    with pytest.raises(ProcessLookupError):
        while time.monotonic() - began < 30:
            os.kill(int((tmp_path / "child").read_text()), 0)
    assert list(failures(tmp_path)) == ["the command of `notify` (over): still ran after 1 s, and was ended"]
    assert capfd.readouterr().err == "notify: still ran after 1 s, and was ended\n"


def test_one_that_was_cut_short_is_said_and_never_begun_again(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from jobs.notice import tell
tell(f"kill -9 {{os.getpid()}}; sleep 1", Path({str(tmp_path)!r}), "over", "text")
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False, cwd=Path(__file__).parents[1])
    assert ended.returncode == -9
    tell(f"touch {tmp_path}/again", tmp_path, OVER, "text")
    assert not (tmp_path / "again").exists()
    assert list(failures(tmp_path)) == [f"the command of `notify` (over): {UNKNOWN}"]
    (tmp_path / NOTICES / OVER / NOTICE).unlink()  # killed before its first word
    assert list(failures(tmp_path)) == [f"the command of `notify` (over): {UNKNOWN}"]


def test_another_users_command_never_runs_as_this_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    manifest = write_manifest(tmp_path, f"{with_only('linear')}\ncluster: site.yaml\nnotify: touch theirs\n")
    (tmp_path / "site.yaml").write_text("executor: local\nnotify: touch ours\n")
    os.chown(manifest, 4711, 4711)
    loaded = load(manifest, run_plugins=True)
    assert loaded.notify == "touch ours"
    assert f"{manifest}:" in (said := capfd.readouterr().err) and "another user's `notify`: not run" in said
    os.chown(tmp_path / "site.yaml", 4711, 4711)
    loaded = load(manifest)
    assert loaded.notify is None
    # What jobs read is this user's own file, all of which they trust.
    assert "notify" not in loaded.document and "notify" not in json.dumps(loaded.document["cluster"])
    assert load(manifest, sets=["notify=touch typed"]).notify == "touch typed"


def test_slurm_mails_for_the_closing_job_alone(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, f"{with_only('linear')}\ncluster: site.yaml\nmail: me@here\nnotify: post $X\n")
    (tmp_path / "site.yaml").write_text("mail: site@here\n")
    plan = make_plan(load(manifest))
    found = dict(scripts(plan))
    asks = [name for name, text in found.items() if "--mail-user=me@here\n#SBATCH" in text and "END,FAIL" in text]
    assert asks == ["small-close"]
    assert all("export TANDA_NOTIFY='post $X'\n" in text for text in found.values())
    (tmp_path / "site.yaml").write_text("mail: site@here\nextra: {mail-type: ALL}\n")
    closing = dict(scripts(make_plan(load(manifest))))["small-close"]
    assert "--mail-type=ALL" in closing and "END,FAIL" not in closing


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("notify: ''", "notify: must be a shell command, not an empty text"),
        ('notify: "a\\nb"', "notify: must be one line"),
        ("mail: me and you", "mail: must be one address, not 'me and you'"),
        ("cluster: {mail: me and you}", "cluster.mail: must be one address, not 'me and you'"),
    ],
)
def test_what_is_no_command_or_address_is_refused(tmp_path: Path, line: str, wrong: str) -> None:
    with pytest.raises(ManifestError, match=wrong):
        load(write_manifest(tmp_path, f"{with_only('linear')}\n{line}\n"))
