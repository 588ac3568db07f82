"""The console script ``tanda``, and ``python -m pipeline``."""

from __future__ import annotations


def main() -> None:
    """Run the command line; ``pipeline.edge`` says what becomes of errors."""
    from pipeline.edge import prepare_streams

    prepare_streams()
    from pipeline.cli import app
    from pipeline.interruption import end_by_errors

    end_by_errors()
    app(prog_name="tanda")


if __name__ == "__main__":
    main()
