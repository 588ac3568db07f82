"""Cluster profiles: read like a manifest, never more than one line of a script."""

from pathlib import Path

import pytest
from manifest_fixture import HEAD, errors, read, write

from pipeline.manifest.model import Cluster

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
extra: {nice: 100, mail-type: FAIL}
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
        extra={"nice": 100, "mail-type": "FAIL"},
    )


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
        "c.yaml:1:9: extra.clusters: belongs in the profile's own key `clusters`, by which jobs are followed",
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
