"""What a client is told of changes: of its lists, and of resources that it has subscribed to.

A legacy client is told what the handshake declared. A modern one opens streams by ``subscriptions/listen``, each of
which says what it wants to be told; it is answered when the server ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from sepkit.errors import InternalError
from sepkit.faces.mcp.protocol import SUBSCRIPTION, may, need
from sepkit.peer import Peer
from sepkit.wire.frames import Id

MOST_STREAMS: Final = 64
MOST_RESOURCES: Final = 1024  # that one stream, or a legacy client, may subscribe to
_LISTS: Final = {
    "tools": ("toolsListChanged", "notifications/tools/list_changed"),
    "prompts": ("promptsListChanged", "notifications/prompts/list_changed"),
    "resources": ("resourcesListChanged", "notifications/resources/list_changed"),
}
_UPDATED: Final = "notifications/resources/updated"


class _Stream:
    """A ``subscriptions/listen`` that is open."""

    __slots__ = ("end", "honoured", "rid")

    def __init__(self, rid: Id, honoured: dict[str, Any], end: asyncio.Future[None]) -> None:
        self.rid = rid
        self.honoured = honoured
        self.end = end


class Changes:
    """Tells one connection of changes.

    Args:
        peer: The connection.
        declared: The capabilities that the server declares now.
        knows: Whether there is a resource of this URI.
        declared_to: The same, as the legacy client has been told; None before its handshake has ended.
    """

    def __init__(
        self,
        peer: Peer,
        knows: Callable[[str], bool],
        declared: Callable[[], dict[str, Any]],
        declared_to: Callable[[], dict[str, Any] | None],
    ) -> None:
        self._peer = peer
        self._knows = knows
        self._declared = declared
        self._declared_to = declared_to
        self._streams: list[_Stream] = []
        self._subscribed: set[str] = set()
        self._closed = False

    # -- modern --------------------------------------------------------------------------------------------------------

    async def listen(self, params: dict[str, Any], rid: Id) -> dict[str, Any]:
        """Serve a stream until the server ends; ``_meta`` of its answer.

        Raises:
            InvalidParams: The params do not fit.
            InternalError: There are too many streams.
        """
        wanted = need(params, "notifications", dict)
        declared = self._declared()
        honoured: dict[str, Any] = {}
        for kind, (word, _) in _LISTS.items():
            if may(wanted, word, bool, "notifications.") and declared.get(kind, {}).get("listChanged"):
                honoured[word] = True
        uris = may(wanted, "resourceSubscriptions", list, "notifications.") or []
        if uris and declared.get("resources", {}).get("subscribe"):
            known = [uri for uri in uris if type(uri) is str and self._knows(uri)]
            if known:
                honoured["resourceSubscriptions"] = list(dict.fromkeys(known))[:MOST_RESOURCES]
        if len(self._streams) >= MOST_STREAMS:
            raise InternalError(f"{MOST_STREAMS} streams are open already", data={"reason": "overloaded"})
        stream = _Stream(rid, honoured, asyncio.get_running_loop().create_future())
        self._streams.append(stream)
        try:
            self._tell(stream, "notifications/subscriptions/acknowledged", {"notifications": honoured})
            if not self._closed:
                await stream.end
        finally:
            self._streams.remove(stream)
        return {SUBSCRIPTION: rid}

    def _tell(self, stream: _Stream, method: str, params: dict[str, Any]) -> None:
        self._peer.notify(method, {**params, "_meta": {SUBSCRIPTION: stream.rid}})

    # -- legacy --------------------------------------------------------------------------------------------------------

    def subscribe(self, uri: str) -> None:
        """A legacy client wants to be told of a resource.

        Raises:
            InternalError: It has subscribed to too many.
        """
        if len(self._subscribed) >= MOST_RESOURCES and uri not in self._subscribed:
            raise InternalError(f"at most {MOST_RESOURCES} resources can be subscribed to")
        self._subscribed.add(uri)

    def unsubscribe(self, uri: str) -> None:
        """It does not want that any more."""
        self._subscribed.discard(uri)

    # -- both ----------------------------------------------------------------------------------------------------------

    def list_changed(self, kind: str) -> None:
        """The list of ``tools``, ``prompts`` or ``resources`` is another now."""
        word, method = _LISTS[kind]
        declared = self._declared_to()
        if declared is not None and declared.get(kind, {}).get("listChanged"):
            self._peer.notify(method, {})
        for stream in list(self._streams):
            if stream.honoured.get(word):
                self._tell(stream, method, {})

    def resource_updated(self, uri: str) -> None:
        """What a resource holds is another now."""
        if uri in self._subscribed:
            self._peer.notify(_UPDATED, {"uri": uri}, lossy=True)
        for stream in list(self._streams):
            if uri in stream.honoured.get("resourceSubscriptions", ()) and not self._peer.congested:
                self._tell(stream, _UPDATED, {"uri": uri})

    def close(self) -> None:
        """The server ends: the streams are answered."""
        self._closed = True
        for stream in self._streams:
            if not stream.end.done():
                stream.end.set_result(None)
