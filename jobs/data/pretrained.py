"""A pretrained encoder in a local folder, as Hugging Face lays it out: what it must have, and which one it is."""

from __future__ import annotations

import hashlib
import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from sharedfs.documents import digest, read_json
from sharedfs.errors import InputError, MissingFileError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# A data set with an encoder has them under their own names: its folder is one that transformers reads.
CONFIG, TOKENIZER, WEIGHTS = FILES = ("config.json", "tokenizer.json", "model.safetensors")
_EXTRA = ("transformers", "tokenizers", "safetensors")


def check(folder: Path, max_length: int) -> str:
    """The fingerprint of an encoder that can be used for titles of so many tokens; raises InputError, saying why not.

    Reads all of its files, on a login node too: torch is not imported.
    """
    if absent := [name for name in _EXTRA if find_spec(name) is None]:
        raise InputError(
            f"data.encoder takes {', '.join(absent)}, not installed here: "
            "python -m pip install --constraint constraints.txt --editable '.[encoder]'"
        )
    if not folder.is_dir():
        raise MissingFileError(f"data.encoder: {folder}: no such folder")
    if absent := [name for name in FILES if not (folder / name).is_file()]:
        raise InputError(
            f"data.encoder: {folder} has no {' and no '.join(absent)}; it needs {', '.join(FILES)} "
            "(weights in other files, such as pickles, are not read)"
        )
    vectors = _check_config(folder / CONFIG, max_length)
    _check_weights(folder / WEIGHTS)
    tokens = max(open_tokenizer(folder / TOKENIZER, max_length).get_vocab(with_added_tokens=True).values()) + 1
    if tokens > vectors:
        raise InputError(
            f"data.encoder: {folder}: {TOKENIZER} has {tokens:,} tokens, and {CONFIG} vectors for {vectors:,}: "
            "they are of two models"
        )
    return fingerprint(folder)


def _check_config(path: Path, max_length: int) -> int:
    """For how many tokens a model has vectors."""
    config = read_json(path)
    if not isinstance(config, dict) or not {"model_type", "vocab_size"} <= config.keys():
        raise InputError(f"data.encoder: {path}: no model of text: it says no model_type or no vocab_size")
    if config.get("is_encoder_decoder"):
        raise InputError(f"data.encoder: {path}: {config['model_type']} has a decoder: take an encoder, such as BERT")
    if "auto_map" in config:
        raise InputError(f"data.encoder: {path}: a model with code of its own (auto_map): take one without")
    most = config.get("max_position_embeddings")
    if isinstance(most, int) and max_length > most:
        raise InputError(f"data.max_length: {max_length} is more than the {most} tokens that {path} has positions for")
    return int(config["vocab_size"])


def _check_weights(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise InputError(f"data.encoder: {path}: damaged, or no safetensors file: {error}") from error


def open_tokenizer(path: Path, max_length: int) -> Tokenizer:
    """The tokenizer of a file, of which a title keeps so many tokens, special ones included; raises InputError."""
    # Read when it is imported: each thread of ours tokenizes titles of its own.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise InputError(f"data.encoder: {path}: no tokenizer: {error}") from error
    special = tokenizer.num_special_tokens_to_add(False)
    if max_length <= special:
        raise InputError(f"data.max_length: {max_length} leaves no token of a title beside {special} special ones")
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer


def fingerprint(folder: Path) -> str:
    """A digest of the three files, of all their bytes: a model that was trained on may differ in few of them."""
    digests = {}
    for name in FILES:
        with (folder / name).open("rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digest(digests)


def copy(source: Path, planned: str, folder: Path) -> None:
    """Copy an encoder's files, which have to be those that were planned with, into a data set's folder."""
    for name in FILES:
        shutil.copyfile(source / name, folder / name)
    if fingerprint(folder) != planned:
        raise InputError(f"{source}: changed since the manifest was submitted: submit it again")
