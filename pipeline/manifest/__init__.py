"""Manifests: read with the position of every value, validated in full, expanded into runs and searches."""

from pipeline.manifest.load import load
from pipeline.manifest.yaml_nodes import ManifestError, Problem

__all__ = ["ManifestError", "Problem", "load"]
