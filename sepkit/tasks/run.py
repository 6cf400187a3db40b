"""What one run of a task is given: who it is, the signal to stop, and a way to say how it is."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final

_LAST_NAP: Final = 0.01


class Latch:
    """A signal that is given once. An ``asyncio.Event`` would cost every task 700 bytes, waited for or not."""

    __slots__ = ("_waiters", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        # Each waiter has a future of its own: to cancel one waiter cancels only that.
        self._waiters: set[asyncio.Future[None]] | None = None

    def set(self) -> None:
        """Give the signal. Waiters wake in the loop's next turn."""
        self.is_set = True
        for waiter in self._waiters or ():
            _wake(waiter)

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait for the signal, ``timeout`` seconds at most; whether it was given."""
        if self.is_set:
            return True
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        if self._waiters is None:
            self._waiters = set()
        self._waiters.add(waiter)
        timer = (
            None
            if timeout is None or timeout == math.inf
            else loop.call_later(timeout, _wake, waiter, context=Context())
        )
        try:
            await waiter
        finally:
            if timer is not None:
                timer.cancel()
            self._waiters.discard(waiter)
            if not self._waiters:
                self._waiters = None
        return self.is_set


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class TaskRun:
    """One run of a task, as the run sees it.

    ``number`` counts the runs since the task was started, from 1. What an old run reports is dropped.
    """

    __slots__ = ("_report", "_signal", "name", "number", "payload", "task_id", "user_id")

    def __init__(
        self,
        *,
        task_id: str,
        name: str,
        user_id: str | None,
        payload: Any,
        number: int,
        report: Callable[[TaskRun, str], None],
    ) -> None:
        self.task_id = task_id
        self.name = name
        self.user_id = user_id
        self.payload = payload
        self.number = number
        self._report = report
        self._signal = Latch()

    @property
    def stopping(self) -> bool:
        """Whether this run should end, or has. May be read in any thread."""
        return self._signal.is_set

    def signal_stop(self) -> None:
        """Say that the run should end."""
        self._signal.set()

    async def wait_stop(self, timeout: float | None = None) -> bool:
        """Wait until the run should end, ``timeout`` seconds at most; whether it should.

        At least one turn of the loop passes: polling with 0 does not starve the others.
        """
        if timeout is not None:
            timeout = _duration(timeout)
        if self.stopping or timeout == 0:
            await asyncio.sleep(0)
            return self.stopping
        return await self._signal.wait(timeout)

    async def sleep(self, seconds: float) -> None:
        """Sleep, but not past the stop signal.

        After the signal a sleep still lasts 10 milliseconds (or less, where less was asked for): a loop around it that
        never looks at ``stopping`` would spin until it is cancelled.
        """
        seconds = _duration(seconds)
        if self.stopping or seconds == 0:
            await asyncio.sleep(min(seconds, _LAST_NAP))
        else:
            await self._signal.wait(seconds)

    def report_health(self, text: str) -> None:
        """Say how the run is, in 2,000 characters at most (the rest is cut off). May be called in any thread."""
        if not isinstance(text, str):
            raise TypeError(f"report_health takes a string, not {type(text).__name__}")
        self._report(self, text)


def _duration(seconds: float) -> float:
    # A timer at NaN would upset the order of all the loop's timers.
    if math.isnan(seconds):
        raise ValueError("NaN is not a number of seconds")
    return max(seconds, 0)
