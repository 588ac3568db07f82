"""Manifests: read with their positions, validated whole, expanded into runs and searches."""

from pipeline.manifest.errors import ManifestError, Problem
from pipeline.manifest.load import load

__all__ = ["ManifestError", "Problem", "load"]
