"""Cluster profiles: read like a manifest, never more than one line of a script."""

import sys
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from manifest_fixture import HEAD, errors, read, write

from pipeline.manifest import load
from pipeline.manifest.model import Cluster
from pipeline.plan import make_plan
from pipeline.scripts import scripts
from slurm.array import Container, Site

RUN = "experiments:\n  g:\n    runs:\n      A: {architecture: mlp}\n"


def test_a_profile_in_full(tmp_path: Path) -> None:
    profile = write(
        tmp_path,
        """\
executor: local
partition: gpu,short
account: nlp
qos: high
constraint: a100|h100
gres_type: a100
exclude: node[03-05]
modules: [python/3.11, cuda/12.4]
activate: source /opt/env/bin/activate
environment: {OMP_NUM_THREADS: 1, DEBUG: true}
python: /opt/env/bin/python
extra: {nice: 100, mail-type: FAIL, mem: null}
clusters: tier1
gpu_option: gres
least_min: 30
memory: per_gpu
container: {apptainer: /images/torch.sif, mounts: [/data, "/scratch:/tmp:rw"]}
stages:
  preprocess: {partition: cpu, constraint: null}
  train: {qos: long, extra: {nice: 0}}
resources: {train: {gpus: 1}}
""",
        "c.yaml",
    )
    assert read(tmp_path, RUN, cluster=profile).cluster == Cluster(
        executor="local",
        partition="gpu,short",
        account="nlp",
        qos="high",
        constraint="a100|h100",
        gres_type="a100",
        exclude="node[03-05]",
        modules=("python/3.11", "cuda/12.4"),
        activate="source /opt/env/bin/activate",
        environment={"OMP_NUM_THREADS": "1", "DEBUG": "true"},
        python="/opt/env/bin/python",
        extra={"nice": 100, "mail-type": "FAIL", "mem": None},
        clusters="tier1",
        gpu_option="gres",
        least_min=30,
        memory="per_gpu",
        container=Container(apptainer="/images/torch.sif", mounts=("/data", "/scratch:/tmp:rw")),
        stages={
            "preprocess": {"partition": "cpu", "constraint": None},
            "train": {"qos": "long", "extra": {"nice": 0}},
        },
    )


def test_a_stages_own_options_stand_above_the_profiles_and_null_leaves_one_out() -> None:
    stages = {"train": {"partition": "gpu", "qos": None, "extra": {"nice": 0, "exclusive": True}}}
    cluster = Cluster(partition="cpu", qos="high", account="lab", extra={"nice": 9, "mem": None}, stages=stages)
    everywhere = Site(partition="cpu", qos="high", account="lab", extra={"nice": 9, "mem": None})
    assert cluster.site("preprocess") == cluster.site("evaluate") == cluster.site("close") == everywhere
    train = replace(everywhere, partition="gpu", qos=None, extra={"nice": 0, "mem": None, "exclusive": True})
    assert cluster.site("train") == cluster.site("trial") == train


def test_only_training_may_be_started_with_less_time() -> None:
    cluster = Cluster(least_min=30)
    assert cluster.site("train").least_min == cluster.site("trial").least_min == 30
    assert {cluster.site(stage).least_min for stage in ("preprocess", "evaluate", "close")} == {None}


def test_the_closing_job_runs_outside_the_container_where_slurms_programs_are() -> None:
    cluster = Cluster(container=Container(apptainer="/i.sif"), python="/opt/conda/bin/python", partition="cpu")
    assert cluster.site("train").python_command == "/opt/conda/bin/python"
    assert cluster.site("close") == Site(partition="cpu") and cluster.site("close").python_command == sys.executable


PROFILE = """\
partition: gpu
stages: {preprocess: {partition: cpu}, close: {partition: small}}
resources: {train: {gpus: 1}, evaluate: {gpus: 1}, close: {gpus: 1}}
"""


def test_each_stage_and_the_closing_job_go_where_the_profile_says(tmp_path: Path) -> None:
    profile = write(tmp_path, PROFILE, "c.yaml")
    (tmp_path / "train.csv").touch()
    texts = dict(scripts(make_plan(read(tmp_path, RUN, cluster=profile), provisional=True)))
    asked = {
        name.rpartition("-")[2]: [line[10:] for line in text.splitlines() if "--partition" in line or "--gpus" in line]
        for name, text in texts.items()
    }
    assert asked == {
        "preprocess": ["partition=cpu"],
        "train": ["gpus-per-node=1", "partition=gpu"],
        "evaluate": ["gpus-per-node=1", "partition=gpu"],
        "close": ["gpus-per-node=1", "partition=small"],
    }


@pytest.mark.parametrize(
    ("profile", "shell", "cluster"),
    [
        ("partition: gpu\n", "other", "other"),
        ("clusters: lab\n", "other", "lab"),
        ("clusters: null\n", "other", None),
        ("partition: gpu\n", "", None),
        ("partition: gpu\n", "a,b", None),
        ("partition: gpu\n", "all", None),
        (None, "other", "other"),
    ],
)
def test_the_login_shells_cluster_is_the_default_and_kept_with_what_is_submitted(
    profile: str | None, shell: str, cluster: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CLUSTERS", shell)
    path = None if profile is None else write(tmp_path, profile, "c.yaml")
    manifest = read(tmp_path, RUN, cluster=path)
    assert manifest.cluster.clusters == cluster
    monkeypatch.setenv("SBATCH_CLUSTERS", "for-sbatch")
    assert read(tmp_path, RUN, cluster=write(tmp_path, "qos: q\n", "c.yaml")).cluster.clusters == "for-sbatch"
    monkeypatch.delenv("SBATCH_CLUSTERS")
    kept = tmp_path / "kept.json"
    kept.write_bytes(orjson.dumps(manifest.document))
    monkeypatch.setenv("SLURM_CLUSTERS", "elsewhere")
    assert load(kept).cluster.clusters == (cluster if cluster or profile == "clusters: null\n" else "elsewhere")


def test_the_command_lines_profile_replaces_the_manifests(tmp_path: Path) -> None:
    write(tmp_path, "partition: one\naccount: a\n", "one.yaml")
    two = write(tmp_path, "partition: two\n", "two.yaml")
    assert read(tmp_path, RUN + "cluster: one.yaml\n").cluster.partition == "one"
    cluster = read(tmp_path, RUN + "cluster: one.yaml\n", cluster=two).cluster
    assert (cluster.partition, cluster.account) == ("two", None)


def test_set_reaches_into_the_profile_and_can_replace_it(tmp_path: Path) -> None:
    write(tmp_path, "partition: one\n", "one.yaml")
    write(tmp_path, "account: a\n", "two.yaml")
    changed = read(tmp_path, RUN + "cluster: one.yaml\n", ("cluster.qos=high",)).cluster
    assert (changed.partition, changed.qos) == ("one", "high")
    changed = read(tmp_path, RUN + "cluster: one.yaml\n", ("cluster.qos=high", "cluster=two.yaml")).cluster
    assert (changed.partition, changed.account, changed.qos) == (None, "a", "high")


WRONG = {
    "an unknown key": ("partion: gpu\n", "c.yaml:1:1: partion: unknown key; did you mean 'partition'?"),
    "an executor": ("executor: slrm\n", "c.yaml:1:11: executor: must be 'slurm', 'local' or 'inline', not 'slrm'"),
    "two words": ("partition: gpu --hold\n", "c.yaml:1:12: partition: must be one word, not 'gpu --hold'"),
    "two lines": (
        'activate: "source x\\n#SBATCH --uid=0"\n',
        "c.yaml:1:11: activate: must be one line",
    ),
    "a variable": (
        "environment: {A-B: 1}\n",
        "c.yaml:1:15: environment.A-B: must be a variable's name: letters, digits and _",
    ),
    "an option": (
        "extra: {--nice: 1}\n",
        "c.yaml:1:9: extra.--nice: must be an sbatch option's long name, without dashes in front",
    ),
    "another cluster": (
        "extra: {clusters: other}\n",
        "c.yaml:1:9: extra.clusters: belongs in the profile's key `clusters`, by which jobs are followed",
    ),
    "several clusters": ("clusters: a,b\n", "c.yaml:1:11: clusters: must be the name of one cluster, not 'a,b'"),
    "all clusters": ("clusters: all\n", "c.yaml:1:11: clusters: must be the name of one cluster, not 'all'"),
    "a way for memory": (
        "memory: per_core\n",
        "c.yaml:1:9: memory: must be 'per_node', 'per_cpu', 'per_gpu' or 'none', not 'per_core'",
    ),
    "a stage of options": (
        "stages: {evaluat: {}}\n",
        "c.yaml:1:10: stages.evaluat: unknown key; did you mean 'evaluate'?",
    ),
    "an option of a stage": (
        "stages: {close: {partion: cpu}}\n",
        "c.yaml:1:18: stages.close.partion: unknown key; did you mean 'partition'?",
    ),
    "two words for a stage": (
        "stages: {close: {partition: cpu --hold}}\n",
        "c.yaml:1:29: stages.close.partition: must be one word, not 'cpu --hold'",
    ),
    "another cluster for a stage": (
        "stages: {close: {extra: {cluster: x}}}\n",
        "c.yaml:1:26: stages.close.extra.cluster: belongs in the profile's key `clusters`, by which jobs are followed",
    ),
    "no image": (
        "container: {mounts: [/data]}\n",
        "c.yaml:1:1: container: must have one of pyxis and apptainer, with an image",
    ),
    "two images": (
        "container: {pyxis: a, apptainer: b}\n",
        "c.yaml:1:1: container: must have one of pyxis and apptainer, with an image",
    ),
    "a mount": (
        "container: {pyxis: a, mounts: [data]}\n",
        "c.yaml:1:32: container.mounts.0: must be an absolute path, or two with a colon, not 'data'",
    ),
    "a container's key": (
        "container: {apptaner: a}\n",
        "c.yaml:1:13: container.apptaner: unknown key; did you mean 'apptainer'?",
    ),
    "a module": ("modules: [a; rm -rf b]\n", "c.yaml:1:11: modules.0: must be a module's name, not 'a; rm -rf b'"),
    "a stage": ("resources: {trian: {}}\n", "c.yaml:1:13: resources.trian: unknown key; did you mean 'train'?"),
    "a list as option": ("extra: {nice: [1]}\n", "c.yaml:1:15: extra.nice: must be a single value, not [1]"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_profiles_mistakes_are_named_in_its_file(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, expected = WRONG[case]
    write(tmp_path, text, "c.yaml")
    assert errors(tmp_path, monkeypatch, HEAD + RUN, cluster=Path("c.yaml")) == expected


def test_a_missing_profile_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert errors(tmp_path, monkeypatch, HEAD + RUN, cluster=Path("x.yaml")) == "--cluster: no such file: x.yaml"
