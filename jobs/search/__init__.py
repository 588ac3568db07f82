"""Searches over settings: any number of workers on shared storage, no driver, no database.

Nothing here imports torch or hyperopt; the algorithm that needs hyperopt does so when it is asked for a point.
"""
