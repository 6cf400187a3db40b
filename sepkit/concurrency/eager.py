"""Handlers begin at once, in the turn of the loop in which their request came, and become tasks when they first wait.

Most of what a call costs in asyncio is its task. A handler that never waits gets none here: its first step is its last.
The works of a batch are driven by one coroutine, which awaits one after another. When one of them waits, the coroutine
that drives goes on as the task of that work, and a new one drives the rest of the batch. So ``current_task`` is the
same in a work's first step and in all later ones, and so are its context variables.

A handler sees what it would see in a task of its own. The task of a first step is used for the next one only if nothing
can tell: nothing holds it, strongly or weakly, and nothing has been done to it (a callback, a name, a cancel, an
attribute). Otherwise it ends as the task of a handler that has returned, and what follows in the batch begins in the
next turn of the loop, when it is done. A handler that leaves a context variable changed takes its context with it.

It stands on what asyncio documents for tasks of others: ``_enter_task``, ``_leave_task`` and ``_unregister_task``.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.tasks import _enter_task, _leave_task, _unregister_task
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
    """A task that holds itself once anything is done to it while it has no work: one more reference to it tells."""

    __slots__ = ("_is_spare", "_itself")

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


# Slots, set without `__setattr__`, which is of Python and slow.
_set_spare: Final = Task._is_spare.__set__  # type: ignore[attr-defined]
_set_itself: Final = Task._itself.__set__  # type: ignore[attr-defined]
_set_name: Final = asyncio.Task.set_name


def _touch(task: Task) -> None:
    if task._is_spare:  # type: ignore[attr-defined]
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
    returns; where it is not ``as_before``, the driver returns, too.
    """

    __slots__ = (
        "_begun",
        "_blocks",
        "_driver",
        "_loop",
        "_over",
        "_waits_for",
        "context",
        "holders",
        "name",
        "pristine",
        "taken",
        "task",
        "watchers",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, base: Context, *, is_ours: bool) -> None:
        self._loop = loop
        self._begun: asyncio.Future[None] | None = None  # what the task waits for while there is no work
        self._driver: Coroutine[Any, Any, None] | None = None
        self._over = False
        self.taken = False
        """Whether a work goes on as the task."""
        self.context = context = base.copy()
        # Two contexts that hold the very same things are compared by one pointer, 200 instructions instead of 1,200,
        # and those of unequal size by their size. Others are compared by value, which may be equal, or may raise.
        self.pristine: object = base if is_ours else _Exactly(context)
        """Unequal to the context once a variable in it has been set."""
        self.name = _SPARE
        carrier = _carry(self)
        carrier.send(None)  # so that even a cancel before the task's first step is raised within it
        self.task = task = Task(carrier, loop=loop, name=_SPARE, context=context)
        _set_spare(task, True)
        _enter_task(loop, task)
        del task
        self.holders = getrefcount(self.task)
        """How many references there are to the task in a batch, if no work has kept one."""
        self.watchers = getweakrefcount(self.task)
        """How many weak references there are to it, if no work has made one."""

    def is_noticed(self) -> bool:
        """Whether the task is not as it was: what holds it, or has changed it, must not meet another work."""
        return getrefcount(self.task) != self.holders or getweakrefcount(self.task) != self.watchers

    def is_as_before(self) -> bool:
        """Whether the next work can begin here."""
        return not self.is_noticed() and self.context == self.pristine

    def is_changed(self, base: Context) -> bool:
        """Whether the context holds something else than ``base``, of which it is a copy."""
        if self.context != self.pristine:
            if len(self.context) != len(base):
                return True
            for variable, value in base.items():
                if self.context.get(variable, self) is not value:
                    return True
            self.pristine = _Exactly(self.context)  # set, and reset
        return False

    def rename(self, name: str) -> None:
        """Name the task after the work that is about to begin."""
        self.name = name
        _set_name(self.task, name)

    def go_on(self, driver: Coroutine[Any, Any, None], waits_for: Any) -> asyncio.Task[None]:
        """Go on as this task. The first step of its work has been made, and waits for ``waits_for``."""
        task = self._let_go()
        self.taken = True
        self._driver, self._waits_for = driver, waits_for
        # A future is marked by who awaits it, and the task takes the mark off. Until this task has made its first step,
        # others may await the same one.
        self._blocks = getattr(waits_for, "_asyncio_future_blocking", None) is True
        if self._blocks:
            waits_for._asyncio_future_blocking = False
        return task

    def end(self) -> None:
        """Have the task end, as if a work had returned."""
        self._over = True
        self._let_go()

    def _let_go(self) -> asyncio.Task[None]:
        task = self.task
        _set_spare(task, False)
        _set_itself(task, None)
        del self.task  # it holds this seat; and a task that has ended is gone at once, as in asyncio
        if self._begun is not None and not self._begun.done():
            self._begun.set_result(None)
        return task

    @coroutine
    def steps(self) -> Generator[Any, Any, None]:
        """What the task does."""
        cancelled = None
        try:
            yield  # to __init__; what comes next is the task's first step
            if self._driver is None and not self._over:
                self._begun = self._loop.create_future()
                self._begun._asyncio_future_blocking = True
                yield self._begun
        except GeneratorExit:  # the loop is closed, and forgets it
            if self._driver is not None:
                self._driver.close()
            raise
        except BaseException as error:
            if self._driver is None:
                raise
            cancelled = error
        if self._driver is None:
            return
        driver, waits_for = self._driver, self._waits_for
        self._driver = self._waits_for = None
        try:
            # Cancelled before it began to wait: what it waits for is cancelled instead, as it would be later on.
            if cancelled is not None and not (asyncio.isfuture(waits_for) and waits_for.cancel(*cancelled.args)):
                waits_for = driver.throw(cancelled)
            elif self._blocks:
                waits_for._asyncio_future_blocking = True
            cancelled = None  # it holds this frame
            while True:
                try:
                    yield waits_for
                except GeneratorExit:
                    driver.close()  # the collector may have closed it already, and then there is nothing to throw into
                    raise
                except BaseException as error:
                    waits_for = driver.throw(error)
                else:
                    break
        except StopIteration:
            return
        finally:
            cancelled = waits_for = None  # what came of it is not kept for as long as the work goes on
        yield from driver  # a coroutine, as in `await`, but one that has begun


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


async def _carry(seat: Seat) -> None:
    await seat.steps()  # a task of Python 3.12 takes no generator


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
        self._seat: Seat | None = None
        self._closed = False
        self.entered = False
        """Whether a batch is being taken."""
        self.paused = False
        """Whether the rest of this batch is left for the next turn; the driver returns when it sees it."""

    def run(self) -> None:
        """Take a batch. What is left in ``items`` afterwards can only be taken in a later turn of the loop."""
        loop, items = self._loop, self._items
        if asyncio.current_task(loop) is not None:  # there is one at a time
            return
        seat = self._seat
        if seat is not None:
            _enter_task(loop, seat.task)
            if seat.is_noticed():  # by code that looks at all tasks
                self._leave()
                seat = None
        self.entered = True
        self.paused = False
        try:
            while items and not self.paused:
                if seat is None:
                    seat = self._seat = Seat(loop, self._context, is_ours=self._is_ours)
                driver = self._drive(seat)
                try:
                    waits_for = seat.context.run(driver.send, None)
                except StopIteration:
                    if seat.is_noticed():
                        self._leave()
                        return  # its task has to be done before another work begins
                    if seat.is_changed(self._context):
                        _unregister_task(seat.task)  # so that the next work does not see it
                        self._leave()
                        seat = None
                else:
                    self._seat = None
                    task = seat.go_on(driver, waits_for)
                    _leave_task(loop, task)
                    self._went_on(task)
                    seat = None
        finally:
            self.entered = False
            if (seat := self._seat) is not None:
                if self._closed:
                    self._leave()
                else:
                    _leave_task(loop, seat.task)
                    if seat.name is not _SPARE:
                        seat.rename(_SPARE)

    def _leave(self) -> None:
        """Leave the seat for good."""
        seat, self._seat = self._seat, None
        assert seat is not None
        if self.entered or asyncio.current_task(self._loop) is seat.task:
            _leave_task(self._loop, seat.task)
        seat.end()

    def close(self) -> None:
        """Let go of what is kept for the next work; in a batch, at its end."""
        self._closed = True
        if not self.entered and self._seat is not None:
            self._seat.end()
            self._seat = None
