"""The storage that tests/test_stored.py reads: written by one version of the program, read by every later one.

    python tests/stored.py           # say what is in it
    python tests/stored.py --write   # make tests/data/storage/ anew with this code

It stands for what people have on their disks. So it is made anew only where the format on disk has changed, and the
code that reads the format before is to stay, with a storage of that format beside this one. A test that fails is no
reason.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import tempfile
from collections import Counter
from pathlib import Path

from kernels_fixture import KERNELS
from small_manifest import tanda, with_only, write_manifest

HOME = Path(__file__).parent / "data" / "storage"
FOLDER, NODE = "/data", "node1"  # in place of this machine's
SEARCH = """
searches:
  tuned:
    architecture: mlp
    algorithm: random
    trials: 2
    space: {dropout: {uniform: [0, 0.5]}}
    stopping: {asha: {grace_epochs: 1, reduction: 2}}
    refit_seeds: [7]
"""


def write() -> None:
    """Run the small manifest with a search, evaluated and reported; keep what it left on its storage."""
    with tempfile.TemporaryDirectory(prefix="stored-") as root:
        folder = Path(root) / "small"
        manifest = write_manifest(folder, with_only("MLP", "linear") + SEARCH)
        tanda("submit", manifest, "--executor", "inline", environment=KERNELS)
        tanda("report", manifest, "--no-plots", "--no-mlflow")
        for submission in (folder / "storage" / "submissions").iterdir():
            shutil.rmtree(submission / "code")  # the program itself
        for path in folder.rglob("*"):
            if path.suffix in (".json", ".csv", ".md", ".tex", ".html"):
                text = path.read_text(encoding="utf-8")
                path.write_text(text.replace(str(folder), FOLDER).replace(socket.gethostname(), NODE), encoding="utf-8")
        shutil.rmtree(HOME, ignore_errors=True)
        shutil.copytree(folder, HOME)


def contents() -> str:
    """A line with what lies there."""
    stages = Counter(json.loads(path.read_text())["stage"] for path in HOME.glob("storage/runs/*/task.json"))
    size = sum(path.stat().st_size for path in HOME.rglob("*") if path.is_file())
    return f"{', '.join(f'{count} {stage}' for stage, count in sorted(stages.items()))}; {size / 1024:.0f} KB"


def main() -> None:
    """Print what is stored, after writing it where that is asked for."""
    parser = argparse.ArgumentParser(description="The storage of an earlier version that tests read.")
    parser.add_argument("--write", action="store_true", help=f"make {HOME.name} anew with this code")
    if parser.parse_args().write:
        write()
    print(contents())


if __name__ == "__main__":
    main()
