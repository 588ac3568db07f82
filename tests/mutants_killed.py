"""How many mutants the tests killed, by mutmut's statistics; exit status 1 where too few were, or none was made."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ENOUGH = 0.9


def main() -> int:
    """``python tests/mutants_killed.py STATISTICS``."""
    counts = json.loads(Path(sys.argv[1]).read_text())
    # A mutant that never ends is seen as well as one that fails.
    killed, total = counts["killed"] + counts["timeout"], counts["total"]
    print(f"{killed} of {total} mutants killed, {ENOUGH:.0%} are asked for")
    return int(total == 0 or killed < ENOUGH * total)


if __name__ == "__main__":
    sys.exit(main())
