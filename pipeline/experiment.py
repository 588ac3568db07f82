"""A manifest from Python: the plan, submitting, the states and the results, as pandas data frames.

The command line calls these methods, or the one function beneath each. Importing this module is cheap: what a method
needs is imported by it.
"""

from __future__ import annotations

import errno
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, Literal, ParamSpec, TypeVar

from sharedfs.errors import FileAccessError, InputError, MissingFileError, TandaError, did_you_mean

if TYPE_CHECKING:
    import pandas
    from rich.console import Console

    from pipeline.decisions.task_state import TaskState
    from pipeline.manifest.model import Manifest
    from pipeline.plan import Plan
    from pipeline.report.collect import Progress
    from pipeline.submit_result import SubmitResult

P = ParamSpec("P")
T = TypeVar("T")
SPLITS = ("validation", "test")


def _interface(method: Callable[Concatenate[Experiment, P], T]) -> Callable[Concatenate[Experiment, P], T]:
    """What a person can fix rises as a TandaError with the line that the command would print; the umask is kept."""

    @wraps(method)
    def call(experiment: Experiment, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with experiment._umask_kept():
                return method(experiment, *args, **kwargs)
        except OSError as error:
            from pipeline.edge import one_line

            line = None if isinstance(error, TandaError) else one_line(error)
            if line is None:
                raise
            raise (MissingFileError if error.errno == errno.ENOENT else FileAccessError)(line) from error

    return call


class Experiment:
    """A manifest and what became of it on its storage.

    ``manifest`` is the YAML file; ``sets`` are changes of it as ``--set`` takes them (``"defaults.epochs=2"``),
    ``cluster`` a profile to use instead of the manifest's own. Making one reads nothing; each call of a method reads
    the manifest and the storage again.

    A *run* is named as ``tanda why`` takes it: RUN, GROUP/RUN, of one seed GROUP/RUN:SEED, or an id or its start. A
    *task* also by GROUP/RUN/STAGE. ``only`` is one group or search of the manifest.

    Whatever a person can fix (in the manifest, a name, a file, the storage, at Slurm) is raised as a TandaError, which
    is also the built-in error that fits, with the one line that the command ``tanda`` prints.

    >>> experiment = Experiment("small.yaml")
    >>> experiment
    Experiment('small.yaml')
    >>> Experiment("smal.yaml").plan()
    Traceback (most recent call last):
        ...
    pipeline.manifest.yaml_nodes.ManifestError: smal.yaml: no such file
    """

    keeps_umask = True  # a command lets go of its own: nothing follows that is not the manifest's

    def __init__(
        self,
        manifest: str | os.PathLike[str],
        *,
        sets: Sequence[str] = (),
        cluster: str | os.PathLike[str] | None = None,
    ) -> None:
        self.manifest = Path(manifest)
        self.sets = tuple(sets)
        self.cluster = None if cluster is None else Path(cluster)
        self._is_inside = False  # one of the methods

    def __repr__(self) -> str:
        sets = f", sets={self.sets!r}" if self.sets else ""
        cluster = f", cluster={str(self.cluster)!r}" if self.cluster else ""
        return f"Experiment({str(self.manifest)!r}{sets}{cluster})"

    @contextmanager
    def _umask_kept(self) -> Iterator[None]:
        """Give the process its umask again after the outermost call: a manifest's own is for what is written of it."""
        if self._is_inside or not self.keeps_umask:
            yield
            return
        before = os.umask(0o077)
        os.umask(before)
        self._is_inside = True
        try:
            yield
        finally:
            self._is_inside = False
            os.umask(before)

    @_interface
    def load(self, *, run_plugins: bool = False) -> Manifest:
        """The manifest as values, checked; raises ManifestError with every problem in it.

        The code of plugins that another user's file names runs only where ``run_plugins``.
        """
        from pipeline.manifest import load

        manifest = load(self.manifest, sets=self.sets, cluster=self.cluster, run_plugins=run_plugins)
        manifest.take_umask()
        return manifest

    @_interface
    def make_plan(self, only: str | None = None, *, provisional: bool = False, run_plugins: bool = False) -> Plan:
        """The plan as values: tasks, rows, searches; what all else is made from.

        Raises MissingFileError for a data file that is not there, unless a ``provisional`` plan will do; InputError
        for a group that the manifest lacks.
        """
        from pipeline.plan import make_plan

        return make_plan(self.load(run_plugins=run_plugins), only=only, provisional=provisional)

    @_interface
    def plan(self, only: str | None = None) -> pandas.DataFrame:
        """A row a task: what it is, whether it is done, what it asks for; touches nothing, asks no scheduler.

        Columns: ``id``, ``stage``, ``group``, ``run``, ``seed`` and ``architecture`` (none of a data set), ``done``,
        ``changed`` (in what the code that made it was not what it is now, a tuple of texts), ``cpus``, ``gpus``,
        ``mem_gb``, ``time_min`` of each, ``throttle`` (how many at once), ``pack`` (how many share an allocation).
        Warns of data files that are not there: ids are provisional until they are.

        >>> experiment.plan("tuned")[["stage", "run", "seed", "done", "mem_gb"]]
                stage      run  seed  done  mem_gb
        0  preprocess      all  <NA>  True     0.5
        1       train    refit     7  True     0.5
        2       trial  trial 0     0  True     0.5
        3       trial  trial 1     0  True     0.5
        4    evaluate   winner     0  True     0.5
        5    evaluate    refit     7  True     0.5
        """
        from pipeline.frames import plan_frame
        from pipeline.status import done_on_storage

        plan = self.make_plan(only, provisional=True)
        for missing in plan.missing:
            warnings.warn(f"{missing}; ids are provisional until it is there", stacklevel=3)
        return plan_frame(plan, done_on_storage(plan))

    @_interface
    def submit(self, only: str | None = None, executor: str | None = None, rerun: str | None = None) -> SubmitResult:
        """Queue what is missing or failed, and nothing else; returns at once (``inline``: when all is over).

        ``executor`` is ``slurm``, ``local`` or ``inline`` (this process), instead of the cluster profile's; ``rerun``
        names a run or group to make again although it is done, or is ``changed``: what earlier code made. Raises
        SubmitError when the executor takes nothing at all, UnknownExecutorError, InputError.

        >>> submitted = experiment.submit(executor="local")
        >>> submitted.already_done, submitted.submission
        (10, None)
        """
        from pipeline.submit import submit_plan

        return submit_plan(self.make_plan(only, run_plugins=True), executor=executor, rerun=rerun)

    @_interface
    def run(
        self, executor: str = "local", *, only: str | None = None, console: Console | None = None
    ) -> pandas.DataFrame:
        """Submit, wait until all has ended, report; returns the states, as ``status`` does.

        What happens is shown on ``console`` (of rich; none: nothing is shown). Raises as ``submit`` does.

        >>> experiment.run().state.unique().tolist()
        ['done']
        """
        from pipeline.frames import status_frame
        from pipeline.run import run_plan

        plan, shown = self.make_plan(only, run_plugins=True), console or _silent()
        whole = (lambda: plan) if only is None else partial(self.make_plan, run_plugins=True)
        ended = run_plan(plan, whole, executor=executor, console=shown, errors=shown)
        return status_frame(plan, ended.states)

    @_interface
    def status(self, only: str | None = None) -> pandas.DataFrame:
        """A row a task: where it stands; at most two Slurm commands, none where all is done.

        Columns: those of ``plan`` up to ``architecture``, then ``state`` (waiting, running, done, failed, lost,
        unknown), ``cause`` and ``message`` of a failure, ``reason`` why it waits, ``progress`` in words,
        ``attempts``, ``gpu_hours``, ``peak_mem_gb``, ``waited_s`` in the queue, ``job``, ``node``, ``executor``,
        ``queued`` (live in an executor's queue), ``changed``, ``gpu_use`` (percent, mean; then its quartiles:
        ``gpu_use_q1``, ``gpu_use_median``, ``gpu_use_q3``), ``gpu_peak_gb``, ``gpu_energy_kwh``.

        >>> experiment.status("architectures")[["group", "run", "stage", "state", "attempts"]]
                   group     run       stage state  attempts
        0           data     all  preprocess  done         1
        1  architectures     MLP       train  done         1
        2  architectures  linear       train  done         1
        3  architectures     MLP    evaluate  done         1
        4  architectures  linear    evaluate  done         1
        """
        from pipeline.frames import status_frame
        from pipeline.status import task_states

        plan = self.make_plan(only)
        return status_frame(plan, task_states(plan))

    @_interface
    def wait(self, only: str | None = None, *, limit_s: float | None = None) -> pandas.DataFrame:
        """Wait until every task has ended, the closing job too; returns the states then, or after ``limit_s`` seconds.

        Looks every 10 s while something is in Slurm's queue, else every second. Ctrl-C ends the waiting alone.

        >>> experiment.wait(limit_s=60).state.value_counts().to_dict()
        {'done': 10}
        """
        from pipeline.frames import status_frame
        from pipeline.live import poll

        plan, began = self.make_plan(only), time.monotonic()
        states: Mapping[str, TaskState] = {}
        for states in poll(plan, closing_too=True):  # noqa: B007 - the last of them
            if limit_s is not None and time.monotonic() - began >= limit_s:
                break
        return status_frame(plan, states)

    @_interface
    def results(self, only: str | None = None) -> pandas.DataFrame:
        """A row a run: the columns and values of results.csv, not rounded; works while jobs run.

        Columns: ``group``, ``run``, ``architecture``, ``seed``, ``id`` of the training, ``state``, ``cause``; a column
        a setting that some run has (lists are tuples); figures, losses a title and scores from 0 to 1, NaN until the
        run is done; ``train_seconds``, ``gpu_hours``, ``git_commit``; what its GPUs did, as in ``status``.

        >>> experiment.results()[["group", "run", "seed", "dropout", "best_epoch", "test_balanced_accuracy"]].round(3)
                   group     run  seed  dropout  best_epoch  test_balanced_accuracy
        0  architectures     MLP     0    0.000           2                   0.861
        1  architectures  linear     0      NaN           1                   1.000
        2          tuned  winner     0    0.299           2                   0.861
        3          tuned   refit     7    0.299           2                   0.708
        """
        from pipeline.frames import results_frame
        from pipeline.report.collect import collect
        from pipeline.status import task_states

        plan = self.make_plan(only)
        return results_frame(collect(plan, task_states(plan)))

    @_interface
    def epochs(self, run: str | None = None) -> pandas.DataFrame:
        """A row an epoch, from the metrics logs: of every run, of a group, of a run with all its seeds, of a trial.

        Columns: ``group``, ``run``, ``seed``, ``id`` of the training, then a line of the metrics log: ``epoch``,
        ``step`` (so far), losses a title, scores from 0 to 1, ``gradient_norm``, ``seconds``, ``titles_per_s``,
        ``ended`` (seconds since 1970), ``attempt``. Works while they train. Raises InputError for an unknown run.

        >>> experiment.epochs("architectures/MLP")[["run", "epoch", "step", "validation_balanced_accuracy"]].round(3)
           run  epoch  step  validation_balanced_accuracy
        0  MLP      1     7                         0.542
        1  MLP      2    14                         0.861
        """
        from pipeline.frames import epochs_frame
        from pipeline.named import find_rows, find_task
        from pipeline.report.collect import collect

        plan = self.make_plan()
        trials = {planned.id for planned in plan.tasks if planned.stage == "trial"}
        try:
            rows = plan.rows if run is None else find_rows(plan, run)
        except InputError:
            planned = find_task(plan, run or "")
            if planned.id not in trials:
                raise
            searches = collect(replace(plan, rows=()), {}).searches
            found = [trial for search in searches for trial in search.trials if trial.id == planned.id]
            return epochs_frame((planned, trial.id, trial.epochs) for trial in found)
        results = collect(replace(plan, rows=rows), {}).results
        return epochs_frame((result.row, result.id, result.epochs) for result in results)

    @_interface
    def predictions(self, run: str, split: Literal["validation", "test"] = "test") -> pandas.DataFrame:
        """A row a title of a split, in the data set's order: what it is, what the run took it for.

        Columns: ``row`` (from 0), ``label`` and ``predicted`` (Categorical, all categories of the data set in its
        order), ``reliable`` (whether the label is). Raises InputError for an unknown run or split, and while the run
        is not done; DamagedFileError.

        >>> test = experiment.predictions("MLP", "test")
        >>> test.head(3)
           row   label predicted  reliable
        0    0  PHONES    PHONES      True
        1    1    TOYS      TOYS      True
        2    2    TOYS      TOYS      True
        >>> print((test.label == test.predicted).mean().round(3))
        0.861
        """
        from pipeline.frames import predictions_frame
        from pipeline.named import find_row
        from pipeline.report.collect import collect
        from pipeline.status import task_states

        if split not in SPLITS:
            raise InputError(f"no predictions of a split {split!r}{did_you_mean(split, SPLITS)}")
        plan = self.make_plan()
        row = find_row(plan, run)
        alone = replace(plan, rows=(row,))
        collected = collect(alone, {})
        if not collected.results[0].done:
            (result,) = collect(alone, task_states(plan)).results
            raise InputError(f"{row.group}/{row.run} has no predictions yet: {result.reason()}")
        return predictions_frame(collected, collected.results[0], split)

    @_interface
    def trials(self, search: str) -> pandas.DataFrame:
        """A row a trial of a search, in order; works while they run.

        Columns: ``number``, ``id``, ``state`` (waiting, running, paused, lost, stopped early, done, failed), ``cause``,
        ``value`` of its metric (NaN: none yet), ``epochs_run``, settings drawn. Raises InputError, DamagedFileError.

        >>> experiment.trials("tuned")[["number", "state", "value", "epochs_run", "dropout"]].round(3)
           number    state  value  epochs_run  dropout
        0       0  stopped  0.514           1    0.196
        1       1     done  0.847           2    0.299
        """
        from jobs.storage import Storage
        from pipeline.frames import trials_frame
        from pipeline.named import find_search

        plan = self.make_plan()
        return trials_frame(Storage(plan.manifest.storage), find_search(plan, search))

    @_interface
    def report(
        self, only: str | None = None, *, plots: bool = True, mlflow: bool = True, progress: Progress | None = None
    ) -> Path:
        """Rebuild tables, plots, the page and MLflow's store from storage; returns the report's folder.

        Works while jobs run. Without ``plots`` (they and the page) or ``mlflow`` that part is left as it was.

        >>> sorted(path.name for path in experiment.report(plots=False, mlflow=False).glob("results.*"))
        ['results.csv', 'results.md', 'results.parquet', 'results.tex']
        """
        from pipeline.report import build
        from pipeline.status import task_states

        plan = self.make_plan(only)
        return build(plan, task_states(plan), plots=plots, mlflow=mlflow, only=only, progress=progress)

    @_interface
    def cancel(self, only: str | None = None) -> tuple[int, int]:
        """Cancel what is queued or running; how many tasks that ends, and how many are left as their state is unknown.

        >>> experiment.cancel()
        (0, 0)
        """
        from pipeline.submit import cancel_plan

        cancelled = cancel_plan(self.make_plan(only))
        return cancelled.ending, cancelled.unknown

    @_interface
    def logs(self, task: str) -> str:
        """A task's log, over all its attempts; raises InputError where it has none yet.

        >>> experiment.logs("MLP").splitlines()[-1]
        'epoch 2/2: validation balanced accuracy 0.8611'
        """
        from pipeline.why import read_log

        return "".join(read_log(self.make_plan(), task))

    @_interface
    def why(self, task: str) -> str:
        """Why a task waits or failed, and what to do about it, in words.

        >>> print(experiment.why("architectures/MLP"))
        architectures/MLP (train, ...): done
        succeeded after 1 attempt...
        """
        from pipeline.why import explain

        return explain(self.make_plan(), task)


def _silent() -> Console:
    from rich.console import Console

    return Console(quiet=True, force_terminal=False)
