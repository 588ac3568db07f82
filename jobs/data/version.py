"""The format of published data sets."""

# Raised when the same settings and files would give other bytes: part of every data set's id.
FORMAT = 1
