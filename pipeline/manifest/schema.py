"""The shape of a manifest and of a cluster profile: every key, its type and its range.

Runs, groups and searches also take any setting of their architecture and any key of `data`; which of these are
legal depends on the architecture and is checked when they are expanded.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from jobs.search.study import METRIC
from sharedfs.typed_json import Json


class Section(BaseModel):
    """Keys beyond those named here are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ExtensibleSection(BaseModel):
    """Keys beyond those named here are settings of the architecture, or keys of `data`."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)


AUTO: Final = "auto"
AutoCount = Annotated[int, Field(ge=1)] | Literal["auto"] | None
AutoSize = Annotated[float, Field(ge=0.001)] | Literal["auto"] | None


class TaskResources(Section):
    """What a task of any stage is given."""

    cpus: AutoCount = Field(None, description="cores")
    gpus: int | None = Field(None, ge=0, description="GPUs")
    mem_gb: AutoSize = Field(None, description="memory, in gibibytes")
    time_min: AutoCount = Field(None, description="time limit, in minutes")
    throttle: int | None = Field(None, ge=1, description="tasks of an array that run at once, at most")


class Preprocess(TaskResources):
    """What a preprocess task is given."""

    shards: int | None = Field(None, ge=1, le=10_000, description="tasks that share the reading of one data set")


class Stage(TaskResources):
    """What a task of a stage is given."""

    pack: int | None = Field(None, ge=1, le=64, description="tasks that share one allocation, and its GPU")
    idle_min: int | None = Field(
        None, ge=0, description="minutes in which its GPU is idle before a task is ended (`GPU idle`); 0: never (0)"
    )
    idle_below: float | None = Field(
        None, gt=0, le=100, description="percent of utilisation under which a GPU is idle (1)"
    )


class Close(Stage):
    """What the closing job is given: it is no task, and tells nothing of what it used."""

    cpus: int | None = Field(None, ge=1, description="cores")
    mem_gb: float | None = Field(None, ge=0.001, description="memory, in gibibytes")
    time_min: int | None = Field(None, ge=1, description="time limit, in minutes")


class Stages(Section):
    """Resources by stage: a run's or search's own, else the manifest's, else the cluster profile's."""

    preprocess: Preprocess = Field(Preprocess(), description="reading text into a data set")
    train: Stage = Field(Stage(), description="training; a search's trials too")
    evaluate: Stage = Field(Stage(), description="evaluation of a trained run")
    close: Close = Field(Close(), description="the job that retries failures and rebuilds the report at the end")


class EarlyStopping(Section):
    """End a training that no longer improves."""

    patience: int = Field(ge=1, description="epochs without a better validation balanced accuracy before the end")


class Run(ExtensibleSection):
    """One fixed experiment; any setting of its architecture and any key of `data` is legal here too."""

    architecture: str | None = Field(None, description="the group's where it is left out")
    seeds: list[int] | None = Field(None, description="one run for each; instead of `seed`")
    early_stopping: EarlyStopping | None = Field(None, description="`{patience: n}`: the same as `patience: n`")
    resources: Stages = Field(Stages(), description="this run's own, by stage")


class Group(ExtensibleSection):
    """A group of runs, a table of the report: `runs`, `grid` or `zip`.

    Any setting and any key of `data` given here applies to all its runs.
    """

    architecture: str | None = Field(None, description="of the runs that name none")
    runs: dict[str, Run | None] | None = Field(None, description="runs by name")
    grid: dict[str, list[Json]] | None = Field(None, description="every combination of these values, a run each")
    zip: dict[str, list[Json]] | None = Field(None, description="the first values together, the second ones, ...")
    seeds: list[int] | None = Field(None, description="each run once for each seed; instead of `seed`")
    early_stopping: EarlyStopping | None = Field(None, description="`{patience: n}`: the same as `patience: n`")
    resources: Stages = Field(Stages(), description="the group's own, by stage")
    reference: dict[str, dict[str, float]] | None = Field(
        None, description="published figures by run and metric, shown beside ours"
    )


class Search(ExtensibleSection):
    """A search: one array of trials that share what they learn through the storage.

    Any setting of the architecture (but those of `space`) and any key of `data` may be fixed here.
    """

    architecture: str | list[str] | dict[str, list[str]] = Field(
        description="whose settings are searched; of several, `[mlp, cnn]` or `{choice: [mlp, cnn]}`, the best too"
    )
    algorithm: str = Field("tpe", description="how points are chosen")
    startup: int | None = Field(
        None, ge=1, le=100_000, description="of tpe: trials with a result, drawn at random, before it proposes (5)"
    )
    points: list[dict[str, Json]] | None = Field(
        None, description="tried first, a trial each: a value for each setting of `space`"
    )
    continue_: str | None = Field(
        None,
        alias="continue",
        description="a search whose trials, those that `space` could give, are history for this one's algorithm",
    )
    trials: int = Field(10, ge=1, le=100_000, description="raise it and submit again: the search continues")
    parallel: int = Field(4, ge=1, description="trials that run at once, at most")
    metric: str = Field(METRIC, description="the old name of the setting `select_by`")
    space: dict[str, Json] | str = Field(
        description="what is searched: a distribution for each setting, or `default`: the architecture's own space"
    )
    stopping: dict[str, dict[str, Json] | None] | None = Field(
        None, description="how poor trials are stopped early; left out: never"
    )
    seed: int | None = Field(None, ge=0, le=2**31 - 1, description="of points and of training")
    evaluate_best: int = Field(1, ge=1, description="how many of the best trials are evaluated on the test rows")
    refit_seeds: list[int] | None = Field(None, description="train the winner again with each of these seeds")
    early_stopping: EarlyStopping | None = Field(None, description="`{patience: n}`: the same as `patience: n`")
    resources: Stages = Field(Stages(), description="the search's own, by stage; its trials take those of `train`")
    reference: dict[str, float] | None = Field(None, description="published figures by metric, shown beside ours")


class Ensemble(Section):
    """The mean of the calibrated probabilities of runs of this manifest: it trains nothing, and is a row of the tables.

    All members are of one data set.
    """

    members: list[str] = Field(
        description="groups and searches by name, single runs as `group/run`; a run counts with all its seeds"
    )
    top: int | None = Field(None, ge=1, le=1000, description="only so many of them, the best on validation titles")
    greedy: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="begin with the best and add, so many times, the member with which the ensemble is best on "
        "validation titles; one may be added again, and then counts more (Caruana et al. 2004)",
    )
    select_by: str | None = Field(
        None, description="what `top` and `greedy` choose by; left out: the `select_by` of its members where they agree"
    )
    resources: Stages = Field(Stages(), description="the ensemble's own, by stage")


Option = str | int | float | bool | None
NOTIFY = Field(
    None,
    description="a shell command that gets a message on standard input, once when a submission is over and at once when"
    " a group is held; a job runs it; only from a file of your own or root's",
)
MAIL = Field(None, description="an address that Slurm writes to when the closing job has ended")


class Placement(Section):
    """Where jobs run, and on whose account. For a stage, null leaves an option of the whole profile out."""

    partition: str | None = Field(None, description="one partition, or several: `gpu,short`")
    account: str | None = Field(None, description="who is charged for the hours")
    qos: str | None = Field(None, description="quality of service")
    constraint: str | None = Field(None, description="node features: `a100|h100`")
    gres_type: str | None = Field(None, description="the type of GPU to ask for: `a100`")
    exclude: str | None = Field(None, description="nodes to avoid: `node[03-05]`")
    extra: dict[str, Option] = Field(
        {},
        description="any other sbatch option: `nice: 100`; true: one without a value; null or false: one that is left"
        " out, also of tanda's own (`requeue: false`)",
    )


class Places(Section):
    """Options by which jobs of a stage differ from the rest: a CPU partition for what needs no GPU."""

    preprocess: Placement = Field(Placement(), description="of reading text into a data set")
    train: Placement = Field(Placement(), description="of training; of a search's trials too")
    evaluate: Placement = Field(Placement(), description="of evaluation")
    close: Placement = Field(Placement(), description="of the closing job")


class Container(Section):
    """The image that tasks run in, which has Python and what tanda depends on: `pyxis` or `apptainer`.

    The storage and the submitted code are mounted. The closing job, which calls Slurm's programs, runs outside, by the
    Python that submits.
    """

    pyxis: str | None = Field(None, description="an image as srun's `--container-image` takes it")
    apptainer: str | None = Field(None, description="an image as `apptainer exec` takes it: `/images/torch.sif`")
    mounts: list[str] = Field([], description="further folders that it sees: `/data`, `/data:/inside:ro`")


class Cluster(Placement):
    """A cluster profile: a site's rules for jobs. Nothing in it changes a result."""

    executor: Literal["slurm", "local", "inline"] = Field("slurm", description="where tasks run")
    clusters: str | None = Field(
        None, description="the one cluster that jobs go to, of several behind one login; SLURM_CLUSTERS if left out"
    )
    gpu_option: Literal["gpus-per-node", "gres"] = Field(
        "gpus-per-node", description="how GPUs are asked for: `--gpus-per-node=a100:1` or `--gres=gpu:a100:1`"
    )
    least_min: int | None = Field(
        None,
        ge=10,
        description="minutes, at least what an epoch takes, with which Slurm may start a training task sooner than with"
        " its whole `time_min` (`--time-min`); cut short, it is queued again and resumes from its checkpoint",
    )
    memory: Literal["per_node", "per_cpu", "per_gpu", "none"] = Field(
        "per_node",
        description="how memory is asked for: `--mem`, `--mem-per-cpu`, `--mem-per-gpu` (without GPUs `--mem`), or not",
    )
    modules: list[str] = Field([], description="modules to load before each task, which fails if one cannot be")
    activate: str | None = Field(None, description="a shell line before each task, which fails if the line does")
    environment: dict[str, str | int | float | bool] = Field({}, description="environment variables of each task")
    container: Container | None = Field(None, description="the image that tasks run in")
    python: str | None = Field(
        None, description="the Python that runs tasks; left out: the one that submits, in a container `python3`"
    )
    stages: Places = Field(Places(), description="options by which jobs of a stage differ")
    plugins: list[str] = Field([], description="plugins for every manifest of the site, below the manifest's own")
    notify: str | None = NOTIFY
    mail: str | None = MAIL
    resources: Stages = Field(Stages(), description="by stage, below the manifest's own")


class Report(Section):
    language: Literal["en", "es"] = Field("en", description="English or Spanish")


class Tracking(Section):
    uri: str | None = Field(None, description="an MLflow server that runs also log to, live: `http://host:5000`")


class Root(Section):
    """A manifest."""

    name: str = Field(description="the report's folder, and the name in job lists")
    storage: str = Field(description="the shared storage; TANDA_STORAGE overrides it")
    cluster: Cluster | None = Field(None, description="a cluster profile's path; `--cluster` overrides it")
    data: dict[str, Json] = Field(description="the data set of every run without one of its own")
    defaults: dict[str, Json] | None = Field(None, description="settings for every run whose architecture has them")
    plugins: list[str] = Field(
        [], description="files and folders (`lab/gru.py`), or installed modules (`lab_tools.gru`), that add parts"
    )
    experiments: dict[str, Group | None] | None = Field(None, description="groups of fixed runs, by name")
    searches: dict[str, Search] | None = Field(None, description="hyperparameter searches, by name")
    ensembles: dict[str, Ensemble] | None = Field(None, description="of runs and trials of this manifest, by name")
    resources: Stages = Field(Stages(), description="what tasks are given, by stage")
    report: Report = Field(Report(), description="how the report is written")
    tracking: Tracking = Field(Tracking(), description="where else runs are logged")
    retries: int = Field(2, ge=0, le=100, description="how often a task is retried after a failure that may pass")
    canary: bool = Field(False, description="run one task of each architecture before the rest is released")
    brake_after: int = Field(3, ge=1, description="hold the rest of a group once this many failed with the same error")
    notify: str | None = NOTIFY
    mail: str | None = MAIL
    umask: str | None = Field(None, pattern=r"^0[0-7]{2,3}$", description="of what is written to storage: `027`")
