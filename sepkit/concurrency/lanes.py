"""Two ways of keeping work in order: ``Slots`` bounds how much of it runs, a ``Mailbox`` runs it one piece at a time.

They know nothing of what the work is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

from sepkit.concurrency.cancelling import cancel
from sepkit.errors import InternalError
from sepkit.ownlog import OwnLog

T = TypeVar("T")
R = TypeVar("R")

Start = Callable[[Coroutine[Any, Any, object], str, Callable[[], None]], None]
"""Begins a work under a name, and calls back once it has ended; that may be before it returns."""

_log = OwnLog("sepkit.lanes")


class Slots:
    """At most ``size`` calls run at once, and at most ``waiting`` more wait, first come first served.

    A call that waits for the other side lends its slot: what it asks for may need a slot in turn, and with one slot
    only it would wait for itself. When its answer comes it goes on at once, so that for a moment more than ``size`` may
    run.

    Invariant: ``running`` is the number of calls that have taken a slot, and have neither given it back nor lent it;
    nobody waits while it is below ``size``.
    """

    __slots__ = ("most_waiting", "queue", "running", "size")

    def __init__(self, size: int, waiting: int) -> None:
        self.size = size
        self.running = 0
        self.most_waiting = waiting
        self.queue: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Wait for a slot and take it. Where ``running < size``, ``running += 1`` does the same without a wait.

        Raises:
            InternalError: As many wait as may, with data ``{"reason": "overloaded"}``.
        """
        if len(self.queue) >= self.most_waiting:
            raise Overloaded(f"{self.running} calls are running and {len(self.queue)} are waiting")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()  # the slot had been handed over in the same moment
            elif turn in self.queue:  # else it was passed over already, as one that is done
                self.queue.remove(turn)
            raise

    def release(self) -> None:
        """Give a slot back. Where nobody is in the ``queue``, ``running -= 1`` does the same."""
        self.running -= 1
        if self.queue:
            self.hand_on()

    def hand_on(self) -> None:
        """Give free slots to those who wait longest."""
        while self.queue and self.running < self.size:
            turn = self.queue.popleft()
            if not turn.done():
                self.running += 1
                turn.set_result(None)

    def __len__(self) -> int:
        return len(self.queue)


class Overloaded(InternalError):
    """A call is refused, since too many wait already; with data ``{"reason": "overloaded"}``."""

    def __init__(self, why: str) -> None:
        super().__init__(f"overloaded: {why}", data={"reason": "overloaded"})


class Hold:
    """One call's hold on its slot. The call may ask the other side many things at once, and has one slot to lend.

    Invariant: the slot is lent exactly while ``_asking > 0``, until ``end``.
    """

    __slots__ = ("_asking", "_over", "_slots")

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._asking = 0
        self._over = False

    async def lend(self, waiting_for: Awaitable[R]) -> R:
        """Await something that the other side must do, and let others run meanwhile."""
        if self._over:  # a task that the call has left behind
            return await waiting_for
        self._asking += 1
        if self._asking == 1:
            self._slots.release()
        try:
            return await waiting_for
        finally:
            self._asking -= 1
            if self._asking == 0 and not self._over:
                self._slots.running += 1

    def end(self) -> None:
        """Take the slot back, since the call is about to release it; nothing is lent from now on."""
        if self._asking and not self._over:
            self._slots.running += 1
        self._over = True


class Mailbox(Generic[T]):
    """Hands each item to ``handle``, in order, one at a time, each in a task and a context of its own.

    Beyond ``size`` the oldest are shed, and it is said. A slow or failing handler delays nothing but its own mailbox.

    Args:
        name: What the log and the tasks call it.
        handle: Takes an item.
        start: Begins the work on an item.
        size: How many items may wait.
    """

    def __init__(self, name: str, handle: Callable[[T], Awaitable[Any]], start: Start, *, size: int = 1024) -> None:
        self.name = name
        self.shed = 0
        self.busy = False
        """Whether an item is being handled; none waits otherwise."""
        self._handle = handle
        self._start = start
        self._size = size
        self._items: deque[T] = deque()
        self._task: asyncio.Task[Any] | None = None  # handles an item
        self._going_on = False
        self._waiting: list[asyncio.Future[None]] = []  # until it is idle

    def put(self, item: T) -> None:
        """Add an item; never waits."""
        self._items.append(item)
        if len(self._items) > self._size:
            self._items.popleft()
            self.shed += 1
            if self.shed == 1:
                _log.warning(
                    "%s is too slow for its events: the oldest are shed (more than %d wait)", self.name, self._size
                )
        self._go_on()

    def _go_on(self) -> None:
        if self._going_on:  # an item has been handled at once, in the loop below
            return
        self._going_on = True
        while self._items and not self.busy:
            self.busy = True
            self._start(self._work(self._items.popleft()), self.name, self._handled)
        self._going_on = False
        if self._waiting and not self.busy:
            self._wake()

    async def _work(self, item: T) -> None:
        self._task = asyncio.current_task()
        try:
            await self._handle(item)
        except Exception:
            _log.exception("%s failed", self.name)
        finally:
            self._task = None

    def _handled(self) -> None:
        self.busy = False
        self._go_on()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def wait_idle(self) -> None:
        """Wait until all that has been put is handled."""
        if self.busy:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter

    def cancel(self) -> None:
        """Cancel what is being handled; what waits is dropped."""
        self._items.clear()
        if self._task is not None:
            cancel(self._task)
