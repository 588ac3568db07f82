"""``tanda check-plugin``: the contract tests of a plugin's kind, run on it as a person waits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jobs import plugins
from jobs.plugins import Plugin
from jobs.testing.contracts import Finding, check_part


def check(path: Path) -> Iterator[tuple[Plugin, Finding]]:
    """Each promise that the plugins of a file or folder make, and whether they keep it; their code runs.

    Raises InputError where there is none, or none that can be imported.
    """
    found = plugins.find(path)
    plugins.use(found)
    for plugin in found:
        for finding in check_part(plugin.kind, plugin.name):
            yield plugin, finding
