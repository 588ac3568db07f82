"""The manifests of histories: runs, packed runs, a search with successive halving, both, runs under a tight brake."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pipeline.manifest import load
from pipeline.plan import Plan, make_plan

MANIFEST = """
name: lab
storage: STORAGE
retries: 2
brake_after: BRAKE
cluster: {executor: slurm, partition: normal}
data:
  source: titles.csv
  split: {validation: 0.2, test: 0.2, seed: 0}
  embeddings: {size: 16}
defaults: {epochs: 4, hidden_layers: [16], freeze_embeddings: false, learning_rate: 1e-2, batch_size: 32}
"""
RUNS = """
experiments:
  storm:
    runs:
      a: {architecture: mlp, dropout: 0.1}
      b: {architecture: mlp, dropout: 0.2}
      c: {architecture: mlp, dropout: 0.3}
"""
SEARCH = """
searches:
  halved:
    architecture: mlp
    algorithm: random
    trials: 4
    parallel: 2
    space: {learning_rate: {loguniform: [1e-3, 1e-1]}, dropout: {uniform: [0, 0.5]}}
    stopping: {asha: {grace_epochs: 1, reduction: 2}}
"""
RESOURCES = """
resources:
  preprocess: {cpus: 1, mem_gb: 1, time_min: 5}
  train: {cpus: 1, mem_gb: 1, time_min: 5, pack: PACK}
  evaluate: {cpus: 1, mem_gb: 1, time_min: 5}
  close: {cpus: 1, mem_gb: 1, time_min: 5}
"""
SHAPES = {  # by name: what is asked for, how many share an element, after how many equal errors others are held
    "runs": (RUNS, 1, 3), "packed": (RUNS, 2, 3), "search": (SEARCH, 1, 3), "both": (RUNS + SEARCH, 1, 3),
    "braked": (RUNS, 1, 1),
}  # fmt: skip


@cache
def plan_of(shape: str, home: Path) -> tuple[Path, Plan]:
    """A manifest of that shape on ``home/storage``, and its plan."""
    what, pack, brake = SHAPES[shape]
    rows = [f"title {number} {kind},reliable,spanish,{kind}" for kind in "AB" for number in range(4)]
    (home / "titles.csv").write_text("\n".join(["title,label_quality,language,category", *rows]) + "\n")
    text = MANIFEST.replace("STORAGE", str(home / "storage")).replace("BRAKE", str(brake))
    path = home / f"{shape}.yaml"
    path.write_text(text + what + RESOURCES.replace("PACK", str(pack)))
    return path, make_plan(load(path))
