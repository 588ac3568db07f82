"""The published program as its description has it: what ``published.py`` measures ours against.

Gzipped JSON lines parsed in every epoch, a pseudo-shuffle buffer, a DataLoader that pads, ``.item()`` every step,
dense Adam; its mean counts padding and its LSTM reads it, as the original's did.

    python benchmarks/_plain.py '{"folder": ..., "language": "spanish", "architecture": "mlp", ...}'
"""

from __future__ import annotations

import gzip
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

MIN_LENGTH = 5  # the longest filter must fit


class Titles(IterableDataset[dict[str, Any]]):
    def __init__(self, path: Path, buffer_size: int) -> None:
        self.path = path
        self.buffer_size = buffer_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        buffer: list[dict[str, Any]] = []
        with gzip.open(self.path, "rt") as lines:
            for line in lines:
                row = json.loads(line)
                buffer.append({"data": row["data"], "target": row["target"]})
                if len(buffer) >= self.buffer_size:
                    random.shuffle(buffer)
                    yield from buffer
                    buffer = []
        random.shuffle(buffer)
        yield from buffer


def pad(rows: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    length = max(MIN_LENGTH, *(len(row["data"]) for row in rows))
    tokens = [row["data"] + [0] * (length - len(row["data"])) for row in rows]
    return torch.tensor(tokens), torch.tensor([row["target"] for row in rows])


class Network(nn.Module):
    def __init__(self, settings: dict[str, Any], words: int, classes: int) -> None:
        super().__init__()
        self.kind = settings["architecture"]
        vectors = torch.randn(words, settings["size"])
        vectors[0] = 0
        self.embeddings = nn.Embedding.from_pretrained(vectors, freeze=settings["freeze_embeddings"], padding_idx=0)
        features = settings["size"]
        if self.kind == "cnn":
            count = settings["filters_count"]
            self.convolutions = nn.ModuleList(
                nn.Conv1d(features, count, length) for length in settings["filters_length"]
            )
            features = count * len(self.convolutions)
        if self.kind == "rnn":
            self.lstm = nn.LSTM(features, settings["lstm_features"], settings["lstm_layers"], batch_first=True)
            features = settings["lstm_features"]
        self.hidden = nn.ModuleList()
        for width in settings["hidden_layers"]:
            self.hidden.append(nn.Linear(features, width))
            features = width
        self.output = nn.Linear(features, classes)
        self.dropout = nn.Dropout(settings["dropout"])

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embeddings(tokens)
        if self.kind == "mlp":
            x = x.mean(dim=1)
        elif self.kind == "cnn":
            x = x.transpose(1, 2)
            x = torch.cat([torch.relu(convolution(x)).max(dim=2)[0] for convolution in self.convolutions], dim=1)
        else:
            x = self.lstm(x)[0][:, -1]
        for layer in self.hidden:
            x = self.dropout(torch.relu(layer(x)))
        output: Tensor = self.output(x)
        return output


def main() -> None:
    settings = json.loads(sys.argv[1])
    folder, language = Path(settings["folder"]), settings["language"]
    with gzip.open(folder / f"{language}_token_to_index.json.gz", "rt") as file:
        words = len(json.load(file))
    with gzip.open(folder / f"{language}.train.jsonl.gz", "rt") as file:
        classes = json.loads(file.readline())["n_labels"]
    random.seed(0)
    torch.manual_seed(0)
    model = Network(settings, words, classes)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    adam = torch.optim.Adam(trained, lr=settings["learning_rate"], weight_decay=settings["weight_decay"])
    loss_of = nn.CrossEntropyLoss()
    parts = {
        name: DataLoader(
            Titles(folder / f"{language}.{name}.jsonl.gz", settings["random_buffer_size"]),
            batch_size=settings["batch_size"],
            collate_fn=pad,
        )
        for name in ("train", "validation")
    }
    for epoch in range(settings["epochs"]):
        model.train()
        losses = []
        for tokens, targets in parts["train"]:
            adam.zero_grad()
            loss = loss_of(model(tokens), targets)
            loss.backward()
            adam.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: train loss {sum(losses) / len(losses):.4f}", flush=True)
        model.eval()
        losses, labels, predicted = [], [], []
        with torch.no_grad():
            for tokens, targets in parts["validation"]:
                logits = model(tokens)
                losses.append(loss_of(logits, targets).item())
                labels.extend(targets.tolist())
                predicted.extend(logits.argmax(dim=1).tolist())
        score = balanced_accuracy_score(labels, predicted)
        print(f"epoch {epoch + 1}: validation loss {sum(losses) / len(losses):.4f}, balanced accuracy {score:.4f}")


if __name__ == "__main__":
    main()
