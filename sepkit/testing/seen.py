"""What the extension under test did, and what the host keeps for it.

``Kept`` and ``KvInMemory`` are the room and the store that ``sepkit.capabilities.services`` stands on here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import orjson

from sepkit.capabilities.registrations import merged
from sepkit.records import Record, record
from sepkit.wire import messages, methods

SessionCall = (
    messages.SessionSendMessageParams
    | messages.SessionSendUserMessageParams
    | messages.SessionAppendEntryParams
    | messages.SessionSetModelParams
    | messages.SessionStateParams
)


@record
class Fetched(Record):
    """A request that the extension sent to a server; each redirect makes one more."""

    method: str
    url: str
    headers: Mapping[str, str]
    """By name, in any case; also those that the client adds."""
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return orjson.loads(self.body)


class Seen:
    """What the extension did, so far."""

    def __init__(self, kv: Mapping[str, Any]) -> None:
        self.kv: dict[str, Any] = dict(kv)
        """The key-value store, by key."""
        self.ui_requests: list[messages.UiRequest] = []
        """What it wanted to be shown, or asked the user."""
        self.session_calls: list[SessionCall] = []
        """What it asked of the session; the type of a record says which method it was."""
        self.exec_calls: list[messages.ExecRunParams] = []
        """The commands that it wanted to be run, those that were denied included."""
        self.bus: list[messages.BusPublishParams] = []
        """What it published."""
        self.fetched: list[Fetched] = []
        """The requests that it sent to servers; those that its ``needs`` do not allow are not sent."""
        self.logs: list[messages.LogParams] = []
        """What it logged."""
        self.task_updates: list[messages.TaskHealth] = []
        """How its background tasks were, each time it told."""
        self.active_tools: list[str] = []
        """The tools that are active since it last asked for some; none before that."""
        self.registrations: messages.Registrations = messages.Registrations()
        """What it brings: of the handshake, with each ``registry/update`` merged in by name."""


class Kept:
    """The host around the services: it keeps what the extension tells, and does nothing else with it.

    Args:
        seen: Where it keeps that.
        allowed_tools: The tools that may be active; None where all may.
    """

    def __init__(self, seen: Seen, allowed_tools: Collection[str] | None) -> None:
        self._seen = seen
        self._allowed_tools = allowed_tools

    def told(self, method: str, record: Any) -> None:
        """A notification of the extension."""
        if method == methods.LOG:
            self._seen.logs.append(record)
        elif method == methods.TASK_UPDATE:
            self._seen.task_updates.append(record)
        elif method == methods.REGISTRY_UPDATE:
            self._seen.registrations = merged(self._seen.registrations, record)

    # -- the room of the services --------------------------------------------------------------------------------------

    def publish(self, sender: str, topic: str, payload: dict[str, Any]) -> None:
        """Keep what was published; there is no other extension."""
        self._seen.bus.append(messages.BusPublishParams(topic, payload))

    def owns_widget(self, extension: str, widget_id: str) -> None:
        """Nothing to note: there is one extension, and all keys go to it."""

    def set_active(self, extension: str, names: list[str]) -> list[str]:
        """Make these tools the active ones, as far as they are allowed."""
        allowed = self._allowed_tools
        self._seen.active_tools[:] = [name for name in names if allowed is None or name in allowed]
        return list(self._seen.active_tools)


class KvInMemory:
    """The store of one extension, whatever its namespace: the dict that a test reads and writes as ``host.kv``."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen  # and not its dict: a test may put another one in its place

    async def get(self, namespace: str, key: str) -> Any:
        """The value; None where there is none."""
        return self._seen.kv.get(key)

    async def set(self, namespace: str, key: str, value: object) -> None:
        """Store a value."""
        self._seen.kv[key] = value

    async def delete(self, namespace: str, key: str) -> None:
        """Forget a key, known or not."""
        self._seen.kv.pop(key, None)

    async def keys(self, namespace: str, prefix: str = "") -> list[str]:
        """The keys that begin with ``prefix``, in order."""
        return sorted(key for key in self._seen.kv if key.startswith(prefix))
