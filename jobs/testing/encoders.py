"""A small encoder with random weights, as a folder that transformers reads: what tests of networks are given."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

LAYERS, POSITIONS, SEED = 1, 64, 5


def write_encoder(folder: Path, *, tokens: int, size: int) -> Path:
    """Write config.json and model.safetensors of a BERT of one layer over so many tokens, the same each time."""
    config = {
        "model_type": "bert", "vocab_size": tokens, "hidden_size": size, "num_hidden_layers": LAYERS,
        "num_attention_heads": 2, "intermediate_size": 2 * size, "max_position_embeddings": POSITIONS,
        "type_vocab_size": 1, "pad_token_id": 0,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(SEED)
    save_file(_weights(tokens, size, generator), folder / "model.safetensors")
    return folder


def _weights(tokens: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
    made = {
        f"embeddings.{name}_embeddings.weight": torch.randn(rows, size, generator=generator)
        for name, rows in (("word", tokens), ("position", POSITIONS), ("token_type", 1))
    }
    layer = "encoder.layer.0."
    products = {f"{layer}attention.self.{name}": (size, size) for name in ("query", "key", "value")}
    products |= {f"{layer}attention.output.dense": (size, size), f"{layer}intermediate.dense": (2 * size, size)}
    products |= {f"{layer}output.dense": (size, 2 * size)}
    for name, (rows, columns) in products.items():
        made[f"{name}.weight"] = torch.randn(rows, columns, generator=generator) / columns**0.5
        made[f"{name}.bias"] = torch.zeros(rows)
    for name in ("embeddings", f"{layer}attention.output", f"{layer}output"):
        made |= {f"{name}.LayerNorm.weight": torch.ones(size), f"{name}.LayerNorm.bias": torch.zeros(size)}
    return made
