"""What is decided, as functions of values: no file, no clock and no executor is reached from here.

Readers (``pipeline.status``, ``pipeline.close``) collect the evidence and carry out what comes back; the tables of
cases are in ``tests/test_decisions_*.py``.
"""
