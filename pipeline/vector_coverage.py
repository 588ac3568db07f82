"""How many words of each of a plan's data sets have a vector in the file of word vectors, a line each."""

from __future__ import annotations

from jobs.data.dataset import Dataset
from jobs.storage import Storage
from pipeline.plan import Plan


def coverage_lines(plan: Plan) -> list[str]:
    """A line for each data set that is made and has word vectors of a file; little coverage is a warning."""
    lines = []
    for planned in plan.tasks:
        folder = Storage(plan.manifest.storage).dataset(planned.id)
        if planned.stage != "preprocess" or not folder.exists():
            continue
        try:
            vectors = Dataset.open(folder).meta.vectors
        except (OSError, ValueError):  # damaged, or being replaced: the state of its task says so
            continue
        if vectors.text is not None:
            lines.append(f"{'WARNING: ' if vectors.low else ''}word vectors of {planned.run}: {vectors.text}")
    return lines
