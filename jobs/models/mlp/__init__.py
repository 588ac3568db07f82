"""MLP: the mean of a title's word vectors, then hidden layers."""

from jobs.models import NetworkSettings
from jobs.settings import settings

KIND = "network"
REVISION = 1


@settings
class Settings(NetworkSettings):
    """Those of every network."""
