"""Executors: Slurm through submitit, local processes, in-process. Knows nothing of text or models."""
