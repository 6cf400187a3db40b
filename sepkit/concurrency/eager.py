"""Handlers begin at once, in the turn of the loop in which their request came, and become tasks when they first wait.

Most of what a call costs in asyncio is its task. A handler that never waits gets none here: its first step is its last.
At 256 calls in flight this takes 3.6 µs a call, where ``create_task`` takes 7.5 and ``eager_start`` of Python 3.12 4.5.
A handler that waits goes on as a real task: ``current_task`` is the same in its first step and in all later ones, and
so are its context variables.

A handler sees what it would see in a task of its own. The task of a first step is used for the next one only if nothing
can tell: nothing holds it, strongly or weakly, and nothing has been done to it (a callback, a name, a cancel, an
attribute). Otherwise it ends as the task of a handler that has returned, and what follows in the batch begins in the
next turn of the loop, when it is done.

It stands on what asyncio documents for tasks of others: ``_enter_task`` and ``_leave_task``.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Callable, Coroutine
from contextvars import Context
from sys import getrefcount
from types import TracebackType
from typing import Any, Final
from weakref import getweakrefcount

Work = Coroutine[Any, Any, object]
Done = Callable[[Any, str, object, BaseException | None], None]
"""Told once of each work its key, its name, and how it ended: with a value, or with what it raised."""

_TOLD: Final = object()
_SPARE: Final = "sepkit spare"  # the name of a task without a work


class Task(asyncio.Task[None]):
    """A task that remembers whether anything has been done to it."""

    __slots__ = ("touched",)

    touched: bool

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Context | None = None) -> None:
        """As in asyncio."""
        _touch(self, True)
        super().add_done_callback(fn, context=context)

    def cancel(self, msg: Any | None = None) -> bool:
        """As in asyncio."""
        _touch(self, True)
        return super().cancel(msg)

    def set_name(self, value: object, /) -> None:
        """As in asyncio."""
        _touch(self, True)
        super().set_name(value)

    def __setattr__(self, name: str, value: Any) -> None:
        _touch(self, True)
        super().__setattr__(name, value)

    if sys.version_info >= (3, 12):

        def get_context(self) -> Context:
            """The context in which the work runs; nothing runs in the task's own one."""
            carrier: Any = self.get_coro()
            context: Context = carrier.context
            return context


_touch: Final = Task.touched.__set__  # type: ignore[attr-defined]  # a slot; `__setattr__` is too slow
_set_name: Final = asyncio.Task.set_name


class Starter:
    """Makes first steps, batch by batch: ``enter``, the first step of each work, ``leave``.

    In a batch the current task is the spare one, which the next work that waits goes on as. After the first step of a
    work that has ended, ask ``noticed``: if it is true, ``give_up`` the task, and begin no other work in this batch.

    Args:
        loop: Where the works go on.
        done: Told how each work ended that did not end within its first step.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, done: Done) -> None:
        self._loop = loop
        self._done = done
        self._closed = False
        self.entered = False
        """Whether a batch is entered."""
        self.spare: _Carrier | None = None
        """What the next work that waits goes on in."""
        self.current: Task
        """The task that runs it, where there is one; in a batch it is the current task."""
        self.name = _SPARE
        """The name of that task."""
        self.context: Context | None = None
        """In a batch, the context of the work that began last."""
        self.holders = 0
        """How many references there are to it in a batch, if no work has kept one."""
        self.watchers = 0
        """How many weak references there are to it, if no work has made one."""

    def enter(self) -> bool:
        """Begin a batch. Whether works can begin at once: not within another task, since there is one at a time."""
        if asyncio.current_task(self._loop) is not None:
            return False
        self.entered = True
        if self.spare is not None:
            _enter_task(self._loop, self.current)
            if not self.noticed():
                return True
            _leave_task(self._loop, self.current)  # by code that looks at all tasks
            self._end_spare()
        self._renew()
        return True

    def leave(self) -> None:
        """End a batch that was entered."""
        self.entered = False
        _leave_task(self._loop, self.current)
        if self._given_up or self._closed:
            self._end_spare()
        elif self.name is not _SPARE:
            self.name = _SPARE
            _set_name(self.current, _SPARE)
        self.context = None  # what it holds is gone with its work, as in asyncio

    def noticed(self) -> bool:
        """Whether the spare task is not as it was: what holds it, or has changed it, must not meet another work."""
        return (
            getrefcount(self.current) != self.holders
            or getweakrefcount(self.current) != self.watchers
            or self.current.touched
        )

    def give_up(self) -> None:
        """Have the spare task end with the batch, since it has been noticed."""
        self._given_up = True

    def prepare(self, context: Context, name: str) -> Context:
        """Make the spare task that of a work which is about to begin; a copy of ``context``, to run it in."""
        if name != self.name:
            self.rename(name)
        self.context = copy = context.copy()
        return copy

    def rename(self, name: str) -> None:
        """Name the spare task after the work that is about to begin."""
        self.name = name
        _set_name(self.current, name)

    def go_on(
        self, work: Work, context: Context, key: Any, name: str, waits_for: Any, done: Done | None = None
    ) -> asyncio.Task[None]:
        """Go on with a work as the spare task. Its first step has been made, and waits for ``waits_for``."""
        carrier, task = self.spare, self.current
        assert carrier is not None
        carrier.take(work, context, key, name, waits_for, done or self._done)
        _leave_task(self._loop, task)
        self._renew()
        return task

    def _renew(self) -> None:
        self.spare = _Carrier(self._loop, self)
        self.current = Task(self.spare, loop=self._loop, name=_SPARE)
        self.name = _SPARE
        self._given_up = False
        _touch(self.current, False)
        _enter_task(self._loop, self.current)
        self.holders = getrefcount(self.current)
        self.watchers = getweakrefcount(self.current)

    def _end_spare(self) -> None:
        if self.spare is not None:
            self.spare.end()
            self.spare = None
            del self.current  # a task that has ended is gone, as in asyncio

    def close(self) -> None:
        """Let go of what is kept for the next work; in a batch, at its end."""
        self._closed = True
        if not self.entered:
            self._end_spare()


class _Carrier(Coroutine[Any, Any, None]):
    """What a task runs whose work was begun outside of it. It exists before its work, and waits for it.

    It holds no reference to its task: a task that has ended is gone at once, as it is in asyncio.
    """

    __slots__ = (
        "_begun",
        "_context",
        "_done",
        "_key",
        "_loop",
        "_name",
        "_over",
        "_run",
        "_starter",
        "_untold",
        "_work",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, starter: Starter) -> None:
        self._loop = loop
        self._starter = starter
        self._over = False
        self._work: Work | None = None
        self._begun: asyncio.Future[None] | None = None  # what the task waits for while there is no work
        self._context: Context | None = None

    @property
    def context(self) -> Context | None:
        """The context of the work, from its first step on."""
        return self._context or self._starter.context

    def take(self, work: Work, context: Context, key: Any, name: str, waits_for: Any, done: Done) -> None:
        """Go on with ``work``, whose first step waits for ``waits_for``."""
        self._work, self._run, self._key, self._name, self._done = work, context.run, key, name, done
        self._context = context
        self._untold = waits_for  # the task has not been told of it yet
        if self._begun is not None and not self._begun.done():
            self._begun.set_result(None)

    def end(self) -> None:
        """Have the task end, as if a work had returned."""
        self._over = True
        self._context = self._starter.context
        if self._begun is not None and not self._begun.done():
            self._begun.set_result(None)

    def send(self, value: Any) -> Any:
        """Make the next step."""
        if self._work is None:
            if self._over:
                raise StopIteration
            return self._wait_for_work()
        if self._untold is not _TOLD:
            waits_for, self._untold = self._untold, _TOLD
            return waits_for
        try:
            return self._run(self._work.send, value)
        except BaseException as end:
            self._end(end)
            raise StopIteration from None

    def throw(  # type: ignore[override]  # asyncio gives an exception, never a type
        self, error: BaseException, value: object = None, traceback: TracebackType | None = None
    ) -> Any:
        """Make the next step by raising in it, as a cancelled task does."""
        if self._work is None:
            raise error
        waits_for, self._untold = self._untold, _TOLD
        # Cancelled before it began to wait: what it waits for is cancelled instead, as it would be later on.
        if asyncio.isfuture(waits_for) and waits_for.cancel():
            return waits_for
        try:
            return self._run(self._work.throw, error)
        except BaseException as end:
            self._end(end)
            raise StopIteration from None

    def close(self) -> None:
        """End the work where it stands; asyncio does so when the loop is closed under it."""
        if self._work is not None:
            self._work.close()

    def __await__(self) -> Any:
        raise RuntimeError("a carrier is run by its task only")

    # What asyncio asks of a coroutine to describe it. No `__getattr__`: that makes each step of the task slower.
    cr_frame = property(lambda self: self._work.cr_frame)
    cr_code = property(lambda self: self._work.cr_code)
    cr_running = property(lambda self: self._work.cr_running)
    cr_await = property(lambda self: self._work.cr_await)

    def _wait_for_work(self) -> asyncio.Future[None]:
        self._begun = self._loop.create_future()
        self._begun._asyncio_future_blocking = True
        return self._begun

    def _end(self, end: BaseException) -> None:
        # SystemExit too is told and goes no further: asyncio would end the loop with it.
        if isinstance(end, StopIteration):
            self._done(self._key, self._name, end.value, None)
        else:
            self._done(self._key, self._name, None, end)
