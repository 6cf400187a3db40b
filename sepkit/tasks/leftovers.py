"""What a run has started with ``asyncio.create_task``, and left behind: it is ended with the run, and named in the log.

An asyncio task has a copy of the context in which it was started. The context of a run holds an :class:`Owner`, so what
is left of a run is found by its owner. That owner is dead once no context holds it any more: then nothing is left, and
nothing has to be looked for. So a run that leaves nothing behind costs no look at all tasks.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Collection
from contextvars import Context, ContextVar
from itertools import islice
from typing import Final

from sepkit.ownlog import OwnLog

_PATIENCE: Final = 0.1  # seconds after a run within which all tasks are looked at
_TASKS_FOR_ONE_RUN: Final = 1000  # that are looked at: where there are more, a look waits for more runs to end
_MOST_NAMED: Final = 10


class Owner:
    """The run in whose context a task was started."""

    __slots__ = ("__weakref__", "name")

    def __init__(self, name: str) -> None:
        self.name = name


_OWNER: Final[ContextVar[Owner]] = ContextVar("sepkit_task_run")


class Leftovers:
    """Ends what runs have left behind.

    Args:
        log: Gets the names of it.
        grace: Seconds that a cancelled task has to end before it is named again.
    """

    def __init__(self, log: OwnLog, grace: float) -> None:
        self._log = log
        self._grace = grace
        self.living: set[asyncio.Task[object]] = set()
        """What has been cancelled and has not ended."""
        self._ended: list[weakref.ref[Owner]] = []  # runs that have ended since the last look
        self._seen = 0  # tasks that there were at the last look
        self._timer: asyncio.TimerHandle | None = None
        self._context = Context()

    def owned(self, context: Context, name: str) -> weakref.ref[Owner]:
        """Have what is started in ``context`` belong to a run; what tells it apart."""
        owner = Owner(name)
        context.run(_OWNER.set, owner)
        return weakref.ref(owner)

    def run_ended(self, owner: weakref.ref[Owner], loop: asyncio.AbstractEventLoop) -> None:
        """A run has ended. Its task still holds its context: what is left of it is looked for in the next turn."""
        if not self._ended:
            loop.call_soon(self._look_soon, loop, context=self._context)
        self._ended.append(owner)

    def _look_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        self._ended = [owner for owner in self._ended if owner() is not None]
        if not self._ended:
            return
        if self._seen <= _TASKS_FOR_ONE_RUN * len(self._ended):
            self.look(loop)
        elif self._timer is None:
            self._timer = loop.call_later(_PATIENCE, self.look, loop, context=self._context)

    def look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel what is left of the runs that have ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ended = {owner() for owner in self._ended}
        self._ended = []
        if not ended - {None}:
            return
        left: dict[Owner, list[asyncio.Task[object]]] = {}
        tasks = asyncio.all_tasks(loop)
        self._seen = len(tasks)
        for task in tasks:
            context = _context_of(task)
            owner = None if context is None else context.get(_OWNER)
            if owner is not None and owner in ended:
                left.setdefault(owner, []).append(task)
        for owner, own in left.items():
            self._log.warning("%s has left asyncio tasks behind, which are cancelled: %s", owner.name, _names(own))
            self._cancel(owner, set(own), loop)

    def _cancel(self, owner: Owner, left: set[asyncio.Task[object]], loop: asyncio.AbstractEventLoop) -> None:
        def ended(task: asyncio.Task[object]) -> None:
            left.discard(task)
            self.living.discard(task)
            if not left:
                timer.cancel()

        def still_there() -> None:
            self._log.error("%s has left tasks that ignore their cancellation: %s", owner.name, _names(left))

        timer = loop.call_later(self._grace, still_there, context=self._context)
        self.living |= left
        for task in list(left):
            task.add_done_callback(ended, context=self._context)
            task.cancel()


def _context_of(task: asyncio.Task[object]) -> Context | None:
    if hasattr(task, "get_context"):
        found: Context | None = task.get_context()
        return found
    # In Python 3.11 a task shows its context to the garbage collector alone.
    return next((one for one in gc.get_referents(task) if isinstance(one, Context)), None)


def _names(tasks: Collection[asyncio.Task[object]]) -> str:
    first = islice(tasks, _MOST_NAMED)
    named = [f"{task.get_name()} ({getattr(task.get_coro(), '__qualname__', '?')})" for task in first]
    more = len(tasks) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")
