"""The console script ``tanda``, and ``python -m pipeline``: the edge where errors become one line."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; status 0 all is well, 1 a task failed or is missing, 2 bad usage or manifest."""
    try:
        from pipeline.cli import app

        app(prog_name="tanda")
    except KeyboardInterrupt:
        print("tanda: stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # `tanda plan M | head`: the reader has seen enough.
        sys.stderr.close()
        sys.exit(0)
    except (ValueError, OSError, LookupError) as error:
        print(f"tanda: {_words(error)}", file=sys.stderr)
        sys.exit(2)


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


if __name__ == "__main__":
    main()
