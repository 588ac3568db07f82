"""The page: ``index.html`` and a page per run, which work from disk with no network and no server."""

from pipeline.report.page.render import render

__all__ = ["render"]
