"""Which tasks sepkit has cancelled. A handler may cancel its own task, and that is a failure like any other."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

_asked: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()


def cancel(task: asyncio.Task[Any]) -> None:
    """Cancel a task that runs a handler, because it is not wanted any more."""
    _asked.add(task)
    task.cancel()


def is_cancelled(task: asyncio.Task[Any] | None) -> bool:
    """Whether ``cancel`` was called for a task."""
    return task in _asked
