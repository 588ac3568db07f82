"""``python -m tanda``: the command line."""

from __future__ import annotations

from tanda import main

if __name__ == "__main__":
    main()
