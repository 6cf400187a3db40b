"""An event loop whose time jumps to the next timer when nothing is ready: an hour of timers takes milliseconds.

What would hang for ever in real time raises instead: :class:`Deadlock` where nothing is ready and no timer is armed,
:class:`BusyLoop` where the loop turns and turns and no time passes. While a thread works for the loop, time stands
still.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

_MAX_TURNS: Final = 100_000  # of the loop, at one moment
_STANDS_STILL: Final = 1.0  # real seconds; a thread that works longer may itself wait for a timer
_MAX_WORK: Final = 30.0  # real seconds that a thread may work while nothing else is going to happen


class Deadlock(AssertionError):
    """Nothing is ready and no timer is armed: nothing would ever happen again."""


class BusyLoop(AssertionError):
    """Something is always ready: no time would ever pass again."""


class _JumpingSelector(selectors.SelectSelector):
    """Where a loop would wait for its next timer, this moves its clock there."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.turns = 0
        self.at_work: set[asyncio.Future[Any]] = set()  # what only a thread will settle
        self._standing_since: float | None = None  # on the wall's clock; None while no thread is waited for

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            self.turns += 1
            if self.turns > _MAX_TURNS:
                self.turns = 0
                raise BusyLoop(f"{_MAX_TURNS} turns of the loop at {self.now} s")
            if not self.at_work:
                self._standing_since = None
            return ready
        if self.at_work:
            return self._wait_for_threads(timeout)
        self._standing_since = None
        if timeout is None:
            raise Deadlock(f"nothing is ready and no timer is armed at {self.now} s; waiting are\n{_waiting()}")
        self._move(timeout)
        return []

    def _wait_for_threads(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait on the wall's clock. Time stands still at first, so that a quick thread costs none; then it passes."""
        began = time.monotonic()
        if self._standing_since is None:
            self._standing_since = began
        stood = began - self._standing_since
        if stood < _STANDS_STILL:
            return super().select(_STANDS_STILL - stood)
        if timeout is None:
            ready = super().select(max(0.0, _MAX_WORK - stood))
            if not ready and time.monotonic() - self._standing_since >= _MAX_WORK:
                self._standing_since = None
                raise Deadlock(
                    f"a thread has worked for {_MAX_WORK:g} real seconds, nothing is ready and no timer is armed at "
                    f"{self.now} s; waiting are\n{_waiting()}"
                )
            return ready
        ready = super().select(timeout)
        self._move(min(timeout, time.monotonic() - began) if ready else timeout)
        return ready

    def _move(self, seconds: float) -> None:
        self.turns = 0
        # Whole nanoseconds, so that 0.1 s after 0.2 s is 0.3 s; the loop's clock is no finer.
        self.now = round(self.now + seconds, 9)


def _waiting() -> str:
    return "\n".join(f"  {task!r}" for task in asyncio.all_tasks(asyncio.get_running_loop()))


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """A loop with a clock of its own, which begins at 0.

    While ``def`` handlers or functions given to ``run_in_executor`` run in their threads, time stands still; after a
    real second it passes as on the wall, since they may wait for a timer themselves.
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        # asyncio takes the wall's, a nanosecond. After half a year a float is coarser, and no timer would ever go off.
        self._clock_resolution = 1e-7

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._jumping.now

    def armed(self) -> list[asyncio.TimerHandle]:
        """The timers that are still to go off."""
        # Nothing public says so. The list has been there under this name in every Python there is.
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        return [timer for timer in scheduled if not timer.cancelled()]

    def expect_from_thread(self, future: asyncio.Future[Any]) -> None:
        """A thread will settle ``future``, and time must not run away from it.

        For threads that the loop does not know of. It settles it with ``call_soon_threadsafe``.
        """
        self._jumping.at_work.add(future)
        future.add_done_callback(self._jumping.at_work.discard)

    def release_from_thread(self, future: asyncio.Future[Any]) -> None:
        """A thread will settle ``future`` only after the loop has done something for it, and time may pass."""
        self._jumping.at_work.discard(future)

    def run_in_executor(  # type: ignore[override]  # typeshed knows it as a coroutine; it gives a future
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Call ``func`` in a thread."""
        future: asyncio.Future[T] = super().run_in_executor(executor, func, *args)
        self.expect_from_thread(future)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for the threads of the default executor."""
        joined: asyncio.Future[None] = self.create_future()
        self.expect_from_thread(joined)
        try:
            # Without a limit: it would be one in virtual time, which is none for a thread.
            await super().shutdown_default_executor()
        finally:
            joined.cancel()


class WallClock:
    """A wall's clock that goes as the loop's does, from any moment on, and can be set.

    Args:
        loop: Whose clock it follows.
        start: What it shows now, in seconds since 1970.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, start: float) -> None:
        self._loop = loop
        self._base = start - loop.time()

    def time(self) -> float:
        """Seconds since 1970."""
        return self._base + self._loop.time()

    def jump(self, seconds: float) -> None:
        """Set it forward, or back."""
        self._base += seconds


def run_virtual(work: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run``, on a virtual clock."""
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        return runner.run(work)


def current_loop() -> VirtualClockLoop:
    """The running loop, which must be a virtual one."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    return loop
