"""MLflow: a store beside the report, and a tracking server that people watch while jobs run.

The protocol between tasks, followers and a server, whole:

- Tasks know nothing of a server. With ``tracking: {uri: ...}`` the element that starts training tasks starts a
  ``follower`` beside them, a process that shares nothing with them but the metrics logs that it reads every 5 s. It
  ends with its tasks: when each has a record, when the element is gone, or on SIGTERM after one last try.
- A run on the server is found by its tag ``tanda.id``, the task's id. Two followers (a task that was requeued, say)
  may both find none and create one each; each then waits longer than its own creation took, searches again, keeps the
  run with the smallest id and deletes its own if that is another. So all go on with the same run.
- Points carry the time at which their epoch ended, and MLflow stores equal points once: sending an epoch again has no
  effect. An epoch that was trained again after a cut is the same value at a later time, a second point of that step. A
  parameter never changes on a server: one that is refused keeps the value that it has.
- Every request has a time limit and none is repeated at once. A follower that fails pauses ever longer, to at most
  5 minutes, and says so once. What it could not send, the next report sends from storage (the closing job's, or
  a person's): a cache holds digests of what each run was last sent as, and of a run that differs what is new is sent.
- What a run looks like is in ``description``, what is sent of it in ``writer``, the same for followers and reports, a
  server and the ``store``, a database of the storage's own that one process at a time fills, under a lock.

Nothing heavy is imported here or in what ``follower`` imports, and no mlflow: there is a follower on every node that
trains. Only ``store`` imports mlflow.
"""
