"""Results from storage: one tidy table, tables to publish, plots, observations, a page, MLflow's store."""

from pipeline.report.assemble import build

__all__ = ["build"]
