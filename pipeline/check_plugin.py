"""``tanda check-plugin``: the contract tests of a plugin's kind, run on it as a person waits."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from jobs import plugins
from jobs.testing.contracts import check_part


def print_findings(path: Path, console: Console) -> bool:
    """Print, a line each, what the plugins of a file or folder promise and whether they keep it; True if they all do.

    Their code runs. Raises InputError where there is none, or none that can be imported.
    """
    found = plugins.find(path)
    plugins.use(found)
    for plugin in found:
        plugin.module  # noqa: B018 - imported first: where that fails there is nothing to check
    kept = True
    for plugin in found:
        for finding in check_part(plugin.kind, plugin.name):
            kept &= finding.problem is None
            verdict = ("ok  ", "green") if finding.problem is None else ("FAIL", "red")
            problem = "" if finding.problem is None else f": {finding.problem}"
            console.print(Text.assemble(verdict, f" {plugin}: {finding.promise}{problem}"), soft_wrap=True)
    return kept
