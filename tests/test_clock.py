"""Time is handed in: what waits, waits by the clock it was given, and no test has to."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from clock_fixture import OwnClock
from recording_fixture import Recording
from rich.console import Console
from small_manifest import write_manifest

from jobs.storage import Storage
from pipeline import live, submit, why
from pipeline.decisions.task_state import TaskState
from pipeline.manifest import load
from pipeline.plan import Plan, make_plan


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(load(write_manifest(tmp_path)))


def _every(plan: Plan, state: str, **facts: object) -> dict[str, TaskState]:
    return {planned.id: TaskState(id=planned.id, state=state, **facts) for planned in plan.tasks}  # type: ignore[arg-type]


def test_a_closing_job_without_room_is_tried_again_after_pauses(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "make_executor", lambda _name, _manifest: Recording(room=5))
    clock = OwnClock(began=1_700_000_000.0)
    result = submit.submit_plan(plan, executor="slurm", clock=clock)
    assert clock.passed == list(submit.RETRY_DELAYS_S)
    assert submit.CLOSE in result.held
    assert result.submission is not None and result.submission.time == 1_700_000_000.0


@pytest.mark.parametrize(("executor", "pause_s"), [("slurm", live.POLL_CLUSTER_S), ("local", live.POLL_LOCAL_S)])
def test_a_live_display_looks_again_after_a_pause(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, executor: str, pause_s: float
) -> None:
    turns = iter([*[_every(plan, "waiting", queued=True, executor=executor)] * 2, _every(plan, "done")])
    monkeypatch.setattr(live, "task_states", lambda _plan, *, clock: next(turns))
    clock, out = OwnClock(), io.StringIO()
    states = live.watch(plan, Console(file=out), clock=clock)
    assert clock.passed == [pause_s, pause_s]
    assert {state.state for state in states.values()} == {"done"}
    assert len(out.getvalue().splitlines()) == 2, "a line whenever something changed"


def test_a_log_is_followed_until_its_task_is_over(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Storage(plan.manifest.storage).run(next(task.id for task in plan.tasks if task.stage == "train")) / "log.txt"
    log.parent.mkdir(parents=True)
    log.write_text("epoch 1\n")

    class Training(OwnClock):
        """While somebody waits, the task gets on."""

        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            with log.open("a") as file:
                file.write(f"epoch {len(self.passed) + 1}\n")

    turns = iter([*[_every(plan, "running")] * 2, _every(plan, "done")])
    monkeypatch.setattr(why, "task_states", lambda _plan, *, clock: next(turns))
    clock = Training()
    pieces = list(why.read_log(plan, log.parent.name, follow=True, clock=clock))
    assert clock.passed == [why.POLL_S, why.POLL_S]
    assert pieces == ["epoch 1\n", "epoch 2\n", "epoch 3\n"]
    # Of Slurm no more is asked than anybody minds, while the log is read as often.
    turns = iter([*[_every(plan, "running", executor="slurm")] * 2, _every(plan, "done")])
    clock = Training()
    assert len(list(why.read_log(plan, log.parent.name, follow=True, clock=clock))) == 1 + 2 * why.ASK_CLUSTER_S
    assert clock.monotonic() == 2 * why.ASK_CLUSTER_S and set(clock.passed) == {why.POLL_S}
