"""A tracking server that people watch while jobs run: told by plain HTTP from beside a job, never from within it.

Nothing heavy is imported here, and no mlflow: a follower stands beside every training job that has one.
"""
