"""The life of one connection, whatever its wire: served until its host ends it, then wound down within the grace.

A face's dispatcher adds what it answers, and what else there is to wait for at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import copy_context
from typing import Any, Final

from sepkit.contexts.link import Link
from sepkit.errors import LifespanEnded
from sepkit.ownlog import OwnLog
from sepkit.peer import Peer
from sepkit.serving.served import GRACE, Served

# What is kept of the grace for those that must be cancelled, for the lifespan's end, and for the last bytes.
RESERVE: Final = 1.0

_log = OwnLog("sepkit")


class Connection:
    """Serves an App over one peer, once. Its subclass makes the peer, with ``_input_ended`` as its ``on_end``.

    Args:
        served: The App, as it is served; it ends with its last connection, unless something holds it.
        grace: Seconds that accepted calls have to finish, once the connection ends.
    """

    _peer: Peer
    _link: Link

    def __init__(self, served: Served, grace: float = GRACE) -> None:
        self._served = served
        self._grace = grace
        self._ended: asyncio.Event = asyncio.Event()
        self._ending = False
        self._context = copy_context()
        self._failure: BaseException | None = None

    @property
    def peer(self) -> Peer:
        """The connection."""
        return self._peer

    async def serve(self) -> None:
        """Serve until the host ends it, or ``stop`` is called; everything has ended when this returns.

        Raises:
            LifespanEnded: The lifespan has ended by itself, in the middle of it.
            BadSettings: What flags and settings are set to does not fit; the host has been told.
            Exception: What the lifespan raised at its start; the host has been told.
        """
        if not self._ending:
            self._served.join(self._link)
        forget = self._served.failed(self._lifespan_ended)
        try:
            self._begin()
            await self._ended.wait()
        finally:  # the caller may have cancelled, and may do so again: the end goes on in a task of its own
            self._begin_end()
            try:
                await self._ended.wait()
            finally:
                forget()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End as at end-of-file: what was accepted finishes, within the grace."""
        self._begin_end()

    def _begin(self) -> None:
        self._peer.start()

    def _lifespan_ended(self, failure: LifespanEnded) -> None:
        self._failure = failure
        self._begin_end()

    def _input_ended(self, error: Exception | None) -> None:
        if error is not None:
            _log.info("the host is gone: %s", error)
            self._peer.cancel_all()  # there is no reader left for what they make
        self._begin_end()

    def _begin_end(self) -> None:
        if not self._ending:
            self._ending = True
            # Not in the context of what asked for it: a signal may come in the middle of a background task, and what
            # is started in the context of one is cancelled with it.
            self._finishing = asyncio.get_running_loop().create_task(self._finish(), context=self._context)

    async def _finish(self) -> None:
        try:
            await self._end(self._grace)
        finally:
            self._ended.set()

    async def _close(self, deadline: float) -> None:
        """Let the host read what waits for it, then close."""
        left = deadline - asyncio.get_running_loop().time()
        try:
            await within(max(RESERVE / 2, left), self._peer.aclose())
        finally:
            self._ended.set()

    async def _end(self, grace: float) -> None:
        self._ending = True
        deadline = asyncio.get_running_loop().time() + grace
        await self._wind_down(grace)
        await self._close(deadline)

    async def _wind_down(self, grace: float, asking: asyncio.Task[Any] | None = None) -> None:
        """Finish what was accepted, and leave what is served; with the last connection that ends, too.

        All of it within ``grace`` seconds. ``asking`` is the task that asked for it, and is not waited for.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        reserve = min(RESERVE, grace / 2)
        self._refuse_more()
        stopping_tasks = self._served.begin_leave(self._link, grace - reserve)
        idle = await self._peer.wait_idle(grace - reserve, except_for=asking)
        await self._wait_for_more(max(0.0, deadline - reserve - loop.time()))
        if not idle:
            _log.warning("still running at the end of the grace, cancelled: %s", self._names_of_running(asking))
            self._peer.cancel_all(except_for=asking)
        self._cancel_more()
        if not idle:
            await self._peer.wait_idle(reserve / 4, except_for=asking)
        if stopping_tasks is not None:
            await asyncio.wait([stopping_tasks], timeout=max(0.0, deadline - reserve / 2 - loop.time()))
        self._let_go()
        await self._served.leave(self._link, max(0.1, deadline - reserve / 4 - loop.time()))

    def _names_of_running(self, except_for: asyncio.Task[Any] | None) -> str:
        return ", ".join(
            f"{method} {self._subject(params)}".strip()
            for task, method, params in self._peer.working_on
            if task is not except_for
        )

    # -- what a face adds ----------------------------------------------------------------------------------------------

    def _subject(self, params: dict[str, Any]) -> object:
        """What a request is about, for the log."""
        raise NotImplementedError

    def _refuse_more(self) -> None:
        """From now on requests are refused."""
        raise NotImplementedError

    async def _wait_for_more(self, seconds: float) -> None:
        """Wait for what runs beside the requests, at most ``seconds``."""

    def _cancel_more(self) -> None:
        """Cancel what still runs beside the requests."""

    def _let_go(self) -> None:
        """Nothing changes any more that the host would be told of."""


async def within(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    """Await ``work``; after ``seconds`` it is cancelled, which is not an error."""
    task = asyncio.ensure_future(work)
    _, left = await asyncio.wait([task], timeout=seconds)
    if left:
        task.cancel()
        await asyncio.wait([task], timeout=0.1)
