"""Searches over settings: any number of workers on shared storage, no driver, no database.

Nothing here imports torch or hyperopt; the algorithm that needs hyperopt does so when it is asked for a point.
"""

from jobs.search.space_validation import validate_space
from jobs.search.stopping import check_stopping
from jobs.search.study import METRICS
from jobs.search.summary import NoWinnerError, Summary, best_so_far, summary, trial_settings, winner, winner_settings
from jobs.search.trial import Trial, trials

__all__ = [
    "METRICS",
    "NoWinnerError",
    "Summary",
    "Trial",
    "best_so_far",
    "check_stopping",
    "summary",
    "trial_settings",
    "trials",
    "validate_space",
    "winner",
    "winner_settings",
]
