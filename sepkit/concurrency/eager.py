"""Handlers begin at once, in the turn of the loop in which their request came, and become tasks when they first wait.

Most of what a call costs in asyncio is its task. Here the works of a batch share one, as long as none of them waits:
one coroutine drives them, which awaits one after another. When one of them waits, the coroutine that drives goes on as
the task of that work, and a new one drives the rest of the batch. So ``current_task`` is the same in a work's first
step and in all later ones, and so are its context variables.

A handler sees what it would see in a task of its own. The task of a first step is used for the next one only if nothing
can tell: nothing holds it, strongly or weakly, and nothing has been done to it (a callback, a name, a cancel, an
attribute). Otherwise it ends as the task of a handler that has returned, and what follows in the batch begins in a new
one. A handler that leaves a context variable changed takes its context with it.

A task makes its steps in callbacks of the loop. The callback of its first step is called at once here, and not by the
loop, which is what Python 3.12 has as ``eager_start``. Between two batches a task rests, and is woken in the same way.
It stands on this: a task that is made gives its first step to ``loop.call_soon``, and one that waits for anything with
``_asyncio_future_blocking`` treats it as a future.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from gc import get_referents
from sys import getrefcount
from types import coroutine
from typing import Any, Final, TypeVar
from weakref import getweakrefcount

R = TypeVar("R")

_SPARE: Final = "sepkit spare"  # the name of a task without a work


class Task(asyncio.Task[None]):
    """A task that holds itself once anything is done to it in its first step: one more reference to it tells."""

    __slots__ = ("_itself",)  # not set in its first step, as long as nothing is done to it; None afterwards

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Context | None = None) -> None:
        """As in asyncio."""
        _touch(self)
        super().add_done_callback(fn, context=context)

    def cancel(self, msg: Any | None = None) -> bool:
        """As in asyncio."""
        _touch(self)
        return super().cancel(msg)

    def set_name(self, value: object, /) -> None:
        """As in asyncio."""
        _touch(self)
        super().set_name(value)

    def __setattr__(self, name: str, value: Any) -> None:
        _touch(self)
        super().__setattr__(name, value)

    if sys.version_info >= (3, 12):

        def get_context(self) -> Context:
            """As in asyncio."""
            _touch(self)  # who has it may change it later
            return super().get_context()


# Set without `__setattr__`, which is of Python and slow.
_set_itself: Final = Task._itself.__set__  # type: ignore[attr-defined]
_set_name: Final = asyncio.Task.set_name


def _touch(task: Task) -> None:
    if not hasattr(task, "_itself"):
        _set_itself(task, task)


class _Exactly:
    """Unequal to a context that holds something else, even if that is equal to what it held."""

    __slots__ = ("_context", "_variables")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._variables = get_referents(context)[-1]

    def __eq__(self, other: object) -> bool:
        return get_referents(self._context)[-1] is self._variables

    __hash__ = None  # type: ignore[assignment]


class Seat:
    """A task and its context, in which first steps are made until a work waits, which goes on as this task.

    The driver asks after each work: where it is ``taken``, that work has waited, and the driver finishes it and
    returns; where it is not ``as_before``, the driver returns, too. Where there is nothing to drive it may ``rest``.
    """

    # To its task, a seat that rests is a future. A task asks no more of one than what stands here.

    __slots__ = (
        "_asyncio_future_blocking",
        "_loop",
        "_over",
        "context",
        "holders",
        "name",
        "pristine",
        "taken",
        "task",
        "wake",
        "watchers",
    )

    task: Task  # until it is taken

    def __init__(
        self, loop: asyncio.AbstractEventLoop, context: Context, pristine: object, counts: tuple[int, int]
    ) -> None:
        self._loop = loop
        self._over = False
        self.context = context
        self.pristine = pristine
        """Unequal to the context once a variable in it has been set."""
        self.holders, self.watchers = counts
        """How many references there are to the task, strong and weak, if no work has made one."""
        self.name = _SPARE
        self.taken = False
        """Whether a work goes on as the task."""
        self.wake: Callable[[Seat], object] | None = None
        """Ends its rest; None where it does not rest."""

    def is_as_before(self) -> bool:
        """Whether the next work can begin here: the task is as it was, and so is the context."""
        return (
            getrefcount(self.task) == self.holders
            and getweakrefcount(self.task) == self.watchers
            and self.context == self.pristine
        )

    def rename(self, name: str) -> None:
        """Name the task after the work that is about to begin."""
        self.name = name
        _set_name(self.task, name)

    @coroutine
    def rest(self) -> Generator[Any, Any, bool]:
        """Wait for the next batch. Whether it can be taken here."""
        if self.name is not _SPARE:
            self.rename(_SPARE)
        self._asyncio_future_blocking = True
        yield self
        return not self._over and self.is_as_before()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """As of a future."""
        return self._loop

    def add_done_callback(self, wake: Callable[[Seat], object], *, context: Context) -> None:
        """As of a future: the task begins to rest."""
        self.wake = wake

    def result(self) -> None:
        """As of a future."""

    def cancel(self, msg: Any | None = None) -> bool:
        """As of a future: the task is cancelled. It ends."""
        self.end()
        return False  # it is the task that raises the error

    def end(self) -> None:
        """Have the task end in the next turn of the loop."""
        self._over = True
        if self.wake is not None:
            self._loop.call_soon(self.wake, self, context=self.context)
            self.wake = None


@coroutine
def noting(work: Awaitable[R], waits: Callable[[], None]) -> Generator[Any, Any, R]:
    """Await ``work``, and call ``waits`` when its first step has ended and it has not."""
    steps = _awaiting(work)  # has `throw`, which an awaitable's iterator need not have
    try:
        waits_for = steps.send(None)
        waits()
        while True:
            try:
                yield waits_for
            except GeneratorExit:
                steps.close()  # the collector may have closed them already, and then there is nothing to throw into
                raise
            except BaseException as error:
                waits_for = steps.throw(error)
            else:
                waits_for = steps.send(None)
    except StopIteration as end:
        value: R = end.value
        return value


async def _awaiting(work: Awaitable[R]) -> R:
    return await work


class Starter:
    """Makes first steps, batch by batch.

    Args:
        loop: Where the works go on.
        context: The context variables of which each work gets a copy.
        items: What is to be taken. A batch ends when there is none, or when the rest must wait for the next turn.
        drive: Takes ``items`` and awaits the work of each, in a :class:`Seat`.
        went_on: Told of the task of each work that waits.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: Context,
        items: deque[Any],
        drive: Callable[[Seat], Coroutine[Any, Any, None]],
        went_on: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self._loop = loop
        self._context = context
        # What handlers never set. An author's variable may have such a name, and a value that is equal to others.
        self._is_ours = all(
            variable.name.startswith("sepkit") and all("__eq__" not in vars(cls) for cls in type(value).__mro__[:-1])
            for variable, value in context.items()
        )
        self._items = items
        self._drive = drive
        self._went_on = went_on
        self._counts = 0, 0  # of references to a task that nobody keeps
        self._seat: Seat | None = None  # one that rests
        self._closed = False
        self._making: Context | None = None  # that of the task which is being made
        self._first: Callable[[], object] | None = None  # its first step
        self.entered = False
        """Whether a batch is being taken."""
        self.paused = False
        """Whether the rest of this batch is left for the next turn; the driver returns when it sees it."""

    def run(self) -> None:
        """Take a batch. What is left in ``items`` afterwards can only be taken in a later turn of the loop."""
        if asyncio.current_task(self._loop) is not None:  # there is one at a time
            return
        items = self._items
        self.entered = True
        self.paused = False
        try:
            seat, self._seat = self._seat, None
            if seat is not None and seat.wake is not None:
                wake, seat.wake = seat.wake, None
                try:
                    seat.context.run(wake, seat)
                finally:
                    del wake  # it holds the task
                    self._stepped(seat)
            while items and not self.paused:
                if self._counts == (0, 0):
                    self._begin(self._count)
                self._begin(self._drive)
        finally:
            self.entered = False
            if self._closed:
                self.close()

    def _begin(self, drive: Callable[[Seat], Coroutine[Any, Any, None]]) -> None:
        """Make a first step."""
        loop = self._loop
        context = self._context.copy()
        # Two contexts that hold the very same things are compared by one pointer, 200 instructions instead of 1,200,
        # and those of unequal size by their size. Others are compared by value, which may be equal, or may raise.
        seat = Seat(loop, context, self._context if self._is_ours else _Exactly(context), self._counts)
        self._making = context
        kept = vars(loop).get("call_soon")
        loop.call_soon = self._call_soon  # type: ignore[method-assign, assignment]
        try:
            seat.task = Task(drive(seat), loop=loop, name=_SPARE, context=context)
        finally:
            if kept is None:
                del loop.call_soon
            else:
                loop.call_soon = kept  # type: ignore[method-assign]
        step, self._first = self._first, None
        assert step is not None
        try:
            context.run(step)
        finally:
            del step  # it holds the task
            self._stepped(seat)

    def _stepped(self, seat: Seat) -> None:
        """A step has been made: the seat rests, or its task has ended, or waits."""
        if seat.wake is not None:
            self._seat = seat
            return
        task = seat.task
        _set_itself(task, None)
        if task.done():
            if not task.cancelled():
                task.result()  # what the driver raised is raised here, too
        else:
            del seat.task  # it holds this seat; and a task that has ended is gone at once, as in asyncio
            seat.taken = True
            self._went_on(task)

    async def _count(self, seat: Seat) -> None:
        self._counts = getrefcount(seat.task), getweakrefcount(seat.task)

    def _call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Any:
        """The loop's own, while a task is made: its first step is kept, and not scheduled."""
        if context is self._making:
            self._making, self._first = None, callback
            return None
        return type(self._loop).call_soon(self._loop, callback, *args, context=context)

    def close(self) -> None:
        """Let go of what is kept for the next batch; in a batch, at its end."""
        self._closed = True
        if not self.entered and self._seat is not None:
            self._seat.end()
            self._seat = None
