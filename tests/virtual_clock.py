"""An event loop whose time jumps to the next timer when nothing is ready: an hour of timers takes milliseconds.

What would hang for ever in real time raises instead: :class:`Deadlock` where nothing is ready and no timer is armed,
:class:`BusyLoop` where the loop turns and turns and no time passes.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

_MAX_TURNS: Final = 100_000  # of the loop, at one moment


class Deadlock(AssertionError):
    """Nothing is ready and no timer is armed: nothing would ever happen again."""


class BusyLoop(AssertionError):
    """Something is always ready: no time would ever pass again."""


class _JumpingSelector(selectors.SelectSelector):
    """Where a loop would wait for its next timer, this moves its clock there."""

    now = 0.0
    turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            self.turns += 1
            if self.turns > _MAX_TURNS:
                self.turns = 0
                raise BusyLoop(f"{_MAX_TURNS} turns of the loop at {self.now} s")
            return ready
        if timeout is None:
            waiting = "\n".join(f"  {task!r}" for task in asyncio.all_tasks(asyncio.get_running_loop()))
            raise Deadlock(f"nothing is ready and no timer is armed at {self.now} s; waiting are\n{waiting}")
        self.turns = 0
        # Whole nanoseconds, so that 0.1 s after 0.2 s is 0.3 s; the loop's clock is no finer.
        self.now = round(self.now + timeout, 9)
        return []


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """A loop with a clock of its own, which begins at 0."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._jumping.now

    def armed(self) -> list[asyncio.TimerHandle]:
        """The timers that are still to go off."""
        # Nothing public says so. The list has been there under this name in every Python there is.
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        return [timer for timer in scheduled if not timer.cancelled()]


def run_virtual(work: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run``, on a virtual clock."""
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        return runner.run(work)


def current_loop() -> VirtualClockLoop:
    """The running loop, which must be a virtual one."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    return loop
