"""Data sets: from text files to flat arrays that every run maps into memory."""

from typing import Literal

# Raised when the same settings and files would give other bytes: part of every data set's id.
DATASET_FORMAT = 1
Format = Literal["csv", "tsv", "jsonl", "parquet"]
Language = Literal["spanish", "portuguese", "english"]  # those of stop_words.toml
Quotes = Literal["checked", "double", "none"]  # see data.quotes
Shuffle = Literal["full", "buffer"]  # see jobs.data.batches
REVISION = 2
