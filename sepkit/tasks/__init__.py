"""Supervised background tasks: what a task is, when it runs again, and who sees to that.

Nothing here knows an App, a context or a connection: a supervisor is told how to launch a task, and whom to tell of a
change.
"""

from __future__ import annotations

from sepkit.tasks.policy import MIN_DELAY, RestartPolicy, TaskOptions, TaskSpec, task_spec
from sepkit.tasks.run import TaskRun
from sepkit.tasks.supervisor import Supervisor, TaskHandle, TaskRefused, UnknownTask
from sepkit.wire.messages import TaskHealth

__all__ = [
    "MIN_DELAY",
    "RestartPolicy",
    "Supervisor",
    "TaskHandle",
    "TaskHealth",
    "TaskOptions",
    "TaskRefused",
    "TaskRun",
    "TaskSpec",
    "UnknownTask",
    "task_spec",
]
