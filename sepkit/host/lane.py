"""Events on their way to one extension. Dispatching never waits; what is unsent is bounded, and shed ones are counted.

Which extension has subscribed to which event is not known here.

Source: docs/protocol.md, section 7.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from sepkit.errors import ConnectionClosed
from sepkit.host.budget import Budget, weight_of
from sepkit.host.kept import Kept
from sepkit.peer import Peer
from sepkit.wire import methods

MOST_UNSENT: Final = 1024
MOST_UNSENT_BYTES: Final = 4 * 1024 * 1024


class EventLane:
    """The events of one connection, numbered in the order in which they were dispatched.

    Args:
        peer: The connection.
        context: What each event carries, of the tier ``event``.
        budget: The extension's.
    """

    def __init__(self, peer: Peer, context: dict[str, str], budget: Budget) -> None:
        self._peer = peer
        self._context = context
        self._seq = 0
        self._unsent: Kept[int, dict[str, Any]] = budget.table("events", MOST_UNSENT, MOST_UNSENT_BYTES, self._shed)
        self._lost = 0  # shed since the last `events_lost`; all of them came before what is unsent
        self._sending: asyncio.Task[None] | None = None

    def dispatch(self, event: str, payload: Any, size: int | None = None) -> None:
        """Send an event, or keep it until the extension reads. Never waits.

        Args:
            event: Its name.
            payload: Plain JSON data, or what orjson writes as such.
            size: How many bytes the payload takes, where that is known.
        """
        self._seq += 1
        params = {"event": event, "seq": self._seq, "context": self._context, "payload": payload}
        if self._sending is None and not self._peer.congested:
            self._peer.notify(methods.EVENT, params)
            return
        self._unsent.keep(self._seq, params, weight_of(params) if size is None else size)
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._catch_up(), name="sepkit events")

    def _shed(self) -> None:
        self._lost += 1

    async def _catch_up(self) -> None:
        try:
            while self._unsent:
                await self._peer.drain()
                if self._lost:
                    lost, self._lost = self._lost, 0
                    self._peer.notify(
                        methods.EVENT, {"event": "events_lost", "context": self._context, "payload": {"lost": lost}}
                    )
                self._peer.notify(methods.EVENT, self._unsent.pop(next(iter(self._unsent))))
        except ConnectionClosed:
            self._unsent.clear()
        finally:
            self._sending = None
