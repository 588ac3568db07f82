"""A laboratory in one process: its storage, its Slurm, its tasks, each of a few milliseconds and by the rules.

Everything that decides or writes is the product's own. Stood in for are: the stages' work (``history_stages``; a
trial's search is real), the snapshot of the code, the report, and the reading of a manifest that was read before. What
may go wrong in a task is drawn once an attempt.
"""

from __future__ import annotations

import os
import random
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from subprocess import CalledProcessError
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from history_manifests import SHAPES, plan_of
from history_stages import Stages
from process_door import as_processes
from slurm_model import CommandFailed, Controller, Job
from virtual_processes import Machine, Process, ProcessDied

from jobs import entry
from jobs.context import Context
from jobs.stages import trial as trial_stage
from jobs.storage import Storage
from pipeline import close, submission, submit
from sharedfs import faults
from sharedfs.errors import TandaError
from slurm import commands, element
from slurm.executors.slurm import DelayedSubmission, JobPaths

# What an attempt may meet, and how likely that is while things go wrong at all.
FATES = {
    "fine": 60, "exit 3": 3, "killed": 4, "leaves with 0": 2, "out of memory": 2, "hangs": 2, "stalls": 4,
    "killed at a write": 8, "element killed": 2,
}  # fmt: skip
DOWN = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
NO_DATABASE = "sacct: error: Problem talking to the database: Connection refused"
TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
PLANNED = "a planned error"


class World(Stages):
    """One laboratory; ``chaos`` says whether anything goes wrong by itself at the moment."""

    def __init__(self, seed: int, home: Path) -> None:
        self.home, self.storage = home, Storage(home / "storage")
        self.machine = Machine(seed, home / "storage")
        self.draw = random.Random(seed * 7919 + 13)
        self.version = self.draw.choice(["22.05", "24.11"])
        self.shape = self.draw.choice(list(SHAPES))
        self.path, self.plan = plan_of(self.shape, home)
        self.chaos = True
        self.slurm = Controller(
            version=self.version, now=lambda: self.machine.now, after=self.machine.after, launch=self._launch,
            signal=self._signal, seed=seed, lag_s=self.draw.choice([0.5, 2.0, 5.0, 60.0]),
            accounting=self.draw.random() < 0.9,
        )  # fmt: skip
        self.slurm.change = self._slurm_changed
        self.on_change: Callable[[Job, str], None] = lambda job, what: None
        self.slurm_down_until = self.database_down_until = 0.0
        self.doomed = self._draw_doomed()
        self.built: list[tuple[float, Process | None]] = []
        self.wrong: list[str] = []
        self.spy: Callable[[Any, Any], None] = lambda evidence, actions: None
        self.scale = self.draw.choice([0.3, 1.0, 1.0, 3.0])  # of how much goes wrong

    def _draw_doomed(self) -> set[str]:
        trainings = [planned.id for planned in self.plan.tasks if planned.stage in ("train", "trial")]
        often = 0.8 if self.shape == "braked" else 0.25
        return {self.draw.choice(trainings)} if self.draw.random() < often else set()

    # Slurm's programs, and what runs in jobs.

    def run_program(self, command: list[str], **_: Any) -> SimpleNamespace:
        """In place of ``subprocess.run`` for Slurm's programs."""
        machine = self.machine
        machine.note(f"$ {' '.join([command[0], *command[-2:]])}".replace(f"{self.home}/", ""))
        if machine.current is not None:
            machine.look()
        if machine.now < self.slurm_down_until and command[0] != "sacct":
            machine.pause(9.0)
            self._blind(command)
            return SimpleNamespace(returncode=1, stdout="", stderr=DOWN)
        if command[0] == "sacct" and machine.now < self.database_down_until:
            machine.pause(1.0)
            return SimpleNamespace(returncode=1, stdout="", stderr=NO_DATABASE)
        try:
            if command[0] == "sbatch":
                return self._sbatch(command)
            text = self.slurm.run(command)
        except CommandFailed as failure:
            return SimpleNamespace(returncode=1, stdout="", stderr=str(failure))
        if command[0] in ("squeue", "sacct"):
            whole, text = text, self._spoil(text)
            if whole != text:
                self._blind(command)
            # What was true when it was asked may no longer be when the answer comes.
            machine.pause(self.draw.expovariate(2.0 if self.chaos else 20.0))
        return SimpleNamespace(returncode=0, stdout=text, stderr="")

    def _blind(self, command: list[str]) -> None:
        """Note that whoever looks for a job by its name cannot know of it."""
        if "-o" in command and command[0] == "squeue" and self.machine.current is not None:
            self.machine.current.facts["blind"] = True

    def _spoil(self, text: str) -> str:
        if not self.chaos or self.draw.random() > 0.06 * self.scale or not text:
            return text
        lines = text.splitlines()
        number = self.draw.randrange(len(lines))
        how = self.draw.choice(["banner", "cut", "word", "field"])
        self.machine.note(f"the answer is spoilt: {how} in row {number}")
        if how == "banner":
            lines.insert(0, "NOTICE: maintenance on Sunday")
        elif how == "cut":
            lines[-1] = lines[-1][: max(lines[-1].find("|") + 1, len(lines[-1]) // 3)]
        elif how == "word":
            lines[number] = re.sub(r"\b(PENDING|RUNNING|COMPLETED|FAILED|COMPLETING)\b", "BOGUS", lines[number])
        else:
            lines[number] = re.sub(r"\b18\d{8}\b", "??", lines[number])
        return "\n".join(lines) + "\n"

    def _sbatch(self, command: list[str]) -> SimpleNamespace:
        """Queue a job: the answer may be lost on its way, or the process that waits for it be killed."""
        machine = self.machine
        process = machine.current
        assert process is not None
        timed_out = SimpleNamespace(returncode=1, stdout="", stderr=TIMED_OUT)
        if self.chaos and self.draw.random() < 0.01 * self.scale:
            return timed_out
        before = set(self.slurm.jobs)
        answer = self.slurm.run(command)
        queued = [job for id_, job in self.slurm.jobs.items() if id_ not in before]
        process.facts.setdefault("queued", []).extend(queued)
        machine.note(f"$ sbatch: {answer.strip()} ({queued[0].name}, {len(queued)})")
        if self.chaos and self.draw.random() < 0.03 * self.scale:
            machine.pause(10.0)
            machine.note("the answer of sbatch is lost")
            return timed_out
        if self.chaos and self.draw.random() < 0.01 * self.scale:
            machine.kill(process)
        machine.pause(0.05)
        return SimpleNamespace(returncode=0, stdout=answer, stderr="")

    def _slurm_changed(self, job: Job | None, what: str) -> None:
        self.machine.note(f"slurm: {job.id if job else ''} {what}")
        if job is not None:
            self.on_change(job, what)
        elif self.machine.current is None and "is back" in what:
            # A node that comes back ends what Slurm no longer knows there.
            for process in list(self.machine.processes.values()):
                lost = process.facts.get("job")
                if lost is not None and f"node {process.host} " in what and lost.run is not process:
                    self.machine.kill_tree(process)

    def _launch(self, job: Job) -> Process | None:
        if job.script is None:  # somebody else's
            began = job.began
            self.machine.after(
                self.draw.uniform(20, 200), lambda: self.slurm.leave(job, 0) if job.began == began else None
            )
            return None
        environment = {
            "SLURM_JOB_ID": str(job.raw), "SLURM_RESTART_COUNT": str(job.restarts), "SLURMD_NODENAME": job.node,
        }  # fmt: skip
        if job.index is not None:
            environment |= {"SLURM_ARRAY_JOB_ID": str(job.number), "SLURM_ARRAY_TASK_ID": str(job.index)}
        name = f"job{job.id}.{job.began}"
        kept, self.machine.current = self.machine.current, None
        process = self.machine.start(name, job.node, lambda: self._run_script(job), environment=environment)
        self.machine.current = kept
        process.facts["job"] = job
        process.on_end = lambda ended: self.slurm.leave(job, ended.code or 0) if job.run is ended else None
        return process

    def _run_script(self, job: Job) -> int:
        assert job.script is not None and self.machine.current is not None
        folder = job.script.parent
        if not folder.is_dir():
            return 1  # the script looks whose the folder is
        os.environ.update(
            {
                name: shlex.split(value)[0] if value else ""
                for name, value in re.findall(r"^export (\w+)=(.*)$", job.text, re.M)
            }
        )
        pickle = JobPaths(folder, job.id).submitted_pickle
        waited = 0
        while not pickle.exists():
            waited += 1
            if waited > 60:
                return 1
            self.machine.pause(1.0)

        def save_and_requeue(number: int, frame: Any) -> None:  # as submitit does, until the element listens itself
            self.slurm.requeue(job)
            raise SystemExit(255)

        self.machine.current.handlers = {signal.SIGUSR2: save_and_requeue, signal.SIGTERM: signal.SIG_IGN}
        DelayedSubmission.load(pickle).function()
        raise AssertionError("an element leaves by SystemExit")

    def _signal(self, job: Job, name: str) -> None:
        process = job.run
        if not isinstance(process, Process):
            return
        if name == "KILL":
            self.machine.kill_tree(process)
        else:
            self.machine.send(process, signal.Signals[f"SIG{name}"])

    def child(self, command: list[str]) -> Callable[[], int | None]:
        """What a child of an element does."""
        path = Path(command[-1])
        if "close" in command:
            return lambda: self._close(path)

        def task() -> int:
            sys.argv = ["jobs", str(path)]
            self._maybe_kill_at()
            return entry.main()

        return task

    def _close(self, folder: Path) -> int:
        process = self.machine.current
        assert process is not None
        process.facts["closes"] = folder.name
        self._maybe_kill_at()
        try:
            status = close.close_submission(folder)
        except (TandaError, OSError) as error:
            process.facts["refused"] = str(error)
            return 2
        process.facts["closed"] = True
        return status

    def _maybe_kill_at(self) -> None:
        process = self.machine.current
        if process is not None and self.chaos and self.draw.random() < 0.05 * self.scale:
            process.kill_at = self.draw.randint(1, 60)

    def job_of(self, process: Process | None) -> Job | None:
        """The job in which a process runs."""
        while process is not None:
            if "job" in process.facts:
                return process.facts["job"]  # type: ignore[no-any-return]
            process = process.parent
        return None

    # The stages, stood in for.

    def work(self, context: Context, seconds: float) -> None:
        """So much work, in which what was drawn for the attempt happens; saves nothing."""
        process = self.machine.current
        assert process is not None
        if process.facts.get("attempt") != context.attempt.path:
            process.facts["attempt"] = context.attempt.path
            likely = [weight if name == "fine" else weight * self.scale for name, weight in FATES.items()]
            (fate,) = self.draw.choices(list(FATES), likely) if self.chaos else ("fine",)
            process.facts["fate"] = fate
            if fate != "fine":
                self.machine.note(f"draws: {fate}")
            if fate == "killed at a write":
                process.kill_at = process.writes + self.draw.randint(1, 12)
        self.machine.pause(seconds * self.draw.uniform(0.5, 1.5))
        if context.task.id in self.doomed:
            raise RuntimeError(PLANNED)
        if process.facts["fate"] != "fine" and self.draw.random() < 0.4:
            fate, process.facts["fate"] = process.facts["fate"], "fine"
            self._meet(fate, process)

    def _meet(self, fate: str, process: Process) -> None:
        job = self.job_of(process)
        if fate == "exit 3":
            process.code = 3
            raise ProcessDied
        if fate == "killed":
            self.machine.kill(process)
        if fate == "element killed" and job is not None and isinstance(job.run, Process):
            for child in job.run.children:
                child.code = -signal.SIGKILL if child is process else child.code
            self.machine.kill_tree(job.run)
            raise ProcessDied
        if fate == "leaves with 0":
            raise SystemExit(0)
        if fate == "out of memory" and job is not None and job.live and job.run is process.facts.get("element"):
            self.machine.after(0.0, lambda: self.slurm.runs_out_of_memory(job) if job.live else None)
            self.machine.pause(1000.0)
        if fate == "hangs":
            while True:
                self.machine.pause(1000.0)
        if fate == "stalls":
            self.stall(process, self.draw.uniform(20.0, 200.0))
            self.machine.pause(0.1)

    def stall(self, process: Process, seconds: float) -> None:
        """It does nothing for so long, not even touch a file."""
        self.machine.note(f"{process.name} stalls for {seconds:.0f} s")
        process.stalled_until = self.machine.now + seconds
        process.facts["stalled"] = process.stalled_until

    # All of it in place.

    @contextmanager
    def active(self) -> Iterator[None]:
        """For the block, the product runs in this world."""
        stages: Mapping[str, Any] = {
            "jobs.stages.preprocess": SimpleNamespace(run=self.preprocess),
            "jobs.stages.train": SimpleNamespace(run=self.train),
            "jobs.stages.evaluate": SimpleNamespace(run=self.evaluate),
        }
        programs = SimpleNamespace(
            run=self.run_program, TimeoutExpired=commands.subprocess.TimeoutExpired, DEVNULL=commands.subprocess.DEVNULL
        )
        decide = close.closing_actions

        def decided(evidence: Any) -> Any:
            actions = decide(evidence)
            self.spy(evidence, actions)
            return actions

        changes: list[tuple[Any, str, Any]] = [
            (commands, "subprocess", programs),
            (entry, "import_module", lambda name: stages.get(name) or import_module(name)),
            (trial_stage, "_train", self.train_trial),
            (submit, "snapshot", lambda folder: folder.mkdir(mode=0o755)),
            (submit, "commit", lambda: None), (submit, "record_plugins", lambda storage: None),
            (close, "load", lambda path: path.read_bytes() and self.plan.manifest),
            (close, "make_plan", lambda manifest: self.plan),
            (submit, "deferred", lambda programs: nullcontext()),  # no signal is sent to a submitter
            (faults._Patience, "monotonic", lambda: self.machine.now),
            (faults._Patience, "sleep", self.machine.pause),
            (close, "build", lambda plan, states: self.built.append((self.machine.now, self.machine.current))),
            (close, "closing_actions", decided),
        ]  # fmt: skip
        commands.warn_once.cache_clear()
        with ExitStack() as stack:
            stack.enter_context(as_processes(self.machine, self.child, self._requeue_program))
            for owner, name, value in changes:
                stack.enter_context(patch.object(owner, name, value))
            yield

    def _requeue_program(self, command: tuple[str, ...], **_: Any) -> SimpleNamespace:
        """In place of ``subprocess.run`` for what an element itself asks Slurm, with ``check``."""
        done = self.run_program(list(command))
        if done.returncode != 0:
            raise CalledProcessError(done.returncode, command, stderr=done.stderr)
        return done


__all__ = ["World", "element", "submission"]
