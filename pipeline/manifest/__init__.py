"""Manifests: read with their positions, validated whole, expanded into runs and searches."""

from pipeline.manifest.load import load
from pipeline.manifest.yaml_nodes import ManifestError, Problem

__all__ = ["ManifestError", "Problem", "load"]
