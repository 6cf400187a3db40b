"""Events, on their way to one extension: never waited for, at most 1,024 unsent, and what is shed is said.

Source: docs/protocol.md, section 7.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

from sepkit.errors import ConnectionClosed
from sepkit.peer import Peer
from sepkit.wire import methods

MOST_UNSENT: Final = 1024


class EventLane:
    """The events of one connection, numbered in the order in which they were dispatched.

    Args:
        peer: The connection.
        context: What each event carries, of the tier ``event``.
    """

    def __init__(self, peer: Peer, context: dict[str, str]) -> None:
        self._peer = peer
        self._context = context
        self._seq = 0
        self._unsent: deque[dict[str, Any]] = deque()
        self._lost = 0  # shed since the last `events_lost`; all of them came before what is unsent
        self._sending: asyncio.Task[None] | None = None

    def dispatch(self, event: str, payload: dict[str, Any]) -> None:
        """Send an event, or keep it until the extension reads. Never waits."""
        self._seq += 1
        params = {"event": event, "seq": self._seq, "context": self._context, "payload": payload}
        if self._sending is None and not self._peer.congested:
            self._peer.notify(methods.EVENT, params)
            return
        if len(self._unsent) >= MOST_UNSENT:
            self._unsent.popleft()
            self._lost += 1
        self._unsent.append(params)
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._catch_up(), name="sepkit events")

    async def _catch_up(self) -> None:
        try:
            while self._unsent:
                await self._peer.drain()
                if self._lost:
                    lost, self._lost = self._lost, 0
                    self._peer.notify(
                        methods.EVENT, {"event": "events_lost", "context": self._context, "payload": {"lost": lost}}
                    )
                self._peer.notify(methods.EVENT, self._unsent.popleft())
        except ConnectionClosed:
            self._unsent.clear()
        finally:
            self._sending = None
