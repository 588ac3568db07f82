"""A manifest small enough to run whole in seconds: a few hundred titles of six categories, four architectures."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

WORDS = {
    "PHONES": ["celular", "pantalla", "liberado", "android"],
    "SHOES": ["zapatillas", "cuero", "talle", "deportivas"],
    "WINES": ["vino", "malbec", "botella", "tinto"],
    "LAMPS": ["lámpara", "led", "techo", "colgante"],
    "BOOKS": ["libro", "novela", "tapa", "autor"],
    "TOYS": ["muñeca", "juguete", "bebé", "peluche"],
}

MANIFEST = """
name: small
storage: storage
data:
  source: titles.csv
  split: {validation: 0.2, test: 0.2, seed: 0}
  embeddings: {size: 16}
defaults: {epochs: 2, hidden_layers: [16], freeze_embeddings: false, learning_rate: 1e-2, batch_size: 32}
experiments:
  architectures:
    runs:
      MLP: {architecture: mlp}
      CNN: {architecture: cnn, filters_count: 8, filters_length: [1, 2]}
      RNN: {architecture: rnn, lstm_layers: 1, lstm_features: 16}
      linear: {architecture: linear}
resources:
  preprocess: {cpus: 1, mem_gb: 0.5, time_min: 20}
  train: {cpus: 1, mem_gb: 0.5, time_min: 20}
  evaluate: {cpus: 1, mem_gb: 0.5, time_min: 20}
  close: {cpus: 1, mem_gb: 0.5, time_min: 20}
"""


def write_titles(path: Path, rows: int = 360, seed: int = 0) -> Path:
    """A csv file in the challenge's format."""
    choose = random.Random(seed)
    lines = ["title,label_quality,language,category"]
    for number in range(rows):
        category = list(WORDS)[number % len(WORDS)]
        words = choose.choices(WORDS[category], k=3) + choose.choices(["nuevo", "oferta", "original"], k=1)
        lines.append(f"{' '.join(words)},reliable,spanish,{category}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_manifest(folder: Path, text: str = MANIFEST) -> Path:
    """The small manifest with its data in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_titles(folder / "titles.csv")
    path = folder / "small.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def tanda(*words: object, status: int | None = 0, environment: dict[str, str] | None = None) -> str:
    """Run the command line as a person would; returns standard output."""
    command = [sys.executable, "-m", "pipeline", *map(str, words)]
    given = {**os.environ, "PYTHONSAFEPATH": "1", "COLUMNS": "200", **(environment or {})}
    ended = subprocess.run(command, capture_output=True, text=True, env=given, timeout=280, check=False)
    assert status is None or ended.returncode == status, f"{words}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout if status in (0, 1, None) else ended.stderr
