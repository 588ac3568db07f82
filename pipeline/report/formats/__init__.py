"""A table in each format that people paste: one module a format, each with ``write(table) -> str``."""
