"""A sign of life every 10 s for each request that wants progress: clients give up what they hear nothing of."""

from __future__ import annotations

import asyncio
from typing import Final

from sepkit.faces.mcp.link import ConnectionLink, RequestLink

SECONDS: Final = 10.0


class Beats:
    """The requests of one connection that are worked on."""

    def __init__(self, link: ConnectionLink) -> None:
        self._link = link
        self._running: set[RequestLink] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, request: RequestLink) -> None:
        """A request has begun."""
        if not request.wants_progress:
            return
        request.last_told = self._link.loop.time()
        self._running.add(request)
        if self._timer is None:
            self._timer = self._link.loop.call_later(SECONDS, self._beat)

    def remove(self, request: RequestLink) -> None:
        """It is about to be answered."""
        self._running.discard(request)
        if not self._running and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        now = self._link.loop.time()
        for request in list(self._running):
            if now - request.last_told >= SECONDS - 0.001:
                request.beat()
        next_one = min((request.last_told for request in self._running), default=now)
        self._timer = self._link.loop.call_later(max(0.1, next_one + SECONDS - now), self._beat)
