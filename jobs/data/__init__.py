"""Data sets: from text files to flat arrays that every run maps into memory."""

# Raised when the same settings and files would give other bytes: part of every data set's id.
DATASET_FORMAT = 1

REVISION = 1
