"""What is decided, as functions of values: no file, no clock and no executor is reached from here.

``pipeline.status``, ``pipeline.submit`` and ``pipeline.close`` collect the evidence and carry out what comes back; the
tables of cases are in ``tests/test_decisions_*.py``.
"""
