"""The training engine: loop, optimiser, checkpoints, metrics, and the reasons to stop."""

REVISION = 2
