"""MLP: the mean of a title's word vectors, then hidden layers."""

from jobs.models import NETWORK_SPACE, NetworkSettings
from jobs.settings import settings

KIND = "network"
REVISION = 1
SPACE = {**NETWORK_SPACE, "hidden_layers": {"choice": [[256], [512], [256, 128], [512, 256]]}}


@settings
class Settings(NetworkSettings):
    """Those of every network."""
