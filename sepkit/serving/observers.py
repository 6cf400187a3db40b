"""Events, on their way to the handlers that observe them: in order, one at a time for each handler."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from sepkit.app import App
from sepkit.concurrency.lanes import Mailbox, Start
from sepkit.contexts.contexts import EventContext
from sepkit.contexts.link import Link
from sepkit.errors import InvalidData, RpcError
from sepkit.handlers import Fn, ObserverSpec, name_of
from sepkit.ownlog import OwnLog
from sepkit.results import Decision
from sepkit.serving.calls import Calls

_log = OwnLog("sepkit")


class Event(NamedTuple):
    """Something that has happened."""

    name: str
    payload: dict[str, Any]
    """Plain JSON data. It is not changed."""
    context: dict[str, Any]
    """The opaque token and the tier, as they came."""
    seq: int | None = None
    """Its number on this connection."""


_Delivery = tuple[Event, bool]
"""An event, and whether several handlers observe it."""

_Handler = Callable[[_Delivery], Awaitable[None]]


class Observers:
    """The mailboxes of an App's event handlers, for one connection.

    Args:
        app: Whose handlers they are.
        link: The connection, as handlers see it.
        calls: Calls them.
        start: Begins their work on an event.
    """

    def __init__(self, app: App, link: Link, calls: Calls, start: Start) -> None:
        self._events = app.events
        self._link = link
        self._calls = calls
        self._start = start
        self._handlers: dict[ObserverSpec, _Handler] = {}
        # One for each function, even where it observes several events: it has them in the wire's order all the same.
        self._mailboxes: dict[Fn, Mailbox[tuple[_Handler, _Delivery]]] = {}

    def take(self, event: Event) -> None:
        """Take in an event. Never waits: each handler that is idle makes its first step, where one can be made now."""
        subject = "topic" if event.name == "bus/event" else "widget_id"
        specs = [
            spec
            for spec in self._events.get(event.name, ())
            if spec.only is None or spec.only == event.payload.get(subject)
        ]
        for spec in specs:
            self._put(spec, (event, len(specs) > 1))

    def _put(self, spec: ObserverSpec, delivery: _Delivery) -> None:
        handler = self._handlers.get(spec)  # made at its first event: handlers may be added while the app is served
        if handler is None:
            handler = self._handlers[spec] = self._handler(spec)
        mailbox = self._mailboxes.get(spec.fn)
        if mailbox is None:
            name = f"{spec.name} handler {name_of(spec.fn)}"
            mailbox = self._mailboxes[spec.fn] = Mailbox(name, _handle, self._start)
        mailbox.put((handler, delivery))

    @property
    def busy(self) -> bool:
        """Whether any of them has something to observe."""
        return any(box.busy for box in self._mailboxes.values())

    async def wait_idle(self, seconds: float) -> bool:
        """Wait until all events so far have been observed, at most ``seconds``. Whether they have."""
        try:
            async with asyncio.timeout(seconds):
                for box in list(self._mailboxes.values()):
                    await box.wait_idle()
        except TimeoutError:
            return False
        return True

    def cancel(self) -> list[str]:
        """Cancel the handlers that run; what they have not begun to observe is dropped. The names of those that ran."""
        busy = [box for box in self._mailboxes.values() if box.busy]
        for box in busy:
            box.cancel()
        return [box.name for box in busy]

    def _handler(self, spec: ObserverSpec) -> _Handler:
        what = f"the {spec.name} handler {name_of(spec.fn)}"
        said = False

        async def observe(delivery: _Delivery) -> None:
            nonlocal said
            event, is_shared = delivery
            payload = event.payload
            if event.name == "bus/event" and spec.only is not None:  # @app.on_bus takes what was published
                payload = payload.get("payload", {})
            try:
                context = EventContext(self._link, event.context, event.name, event.seq)
                # A copy for each of several: what one handler does to its payload must not reach another.
                given = spec.given(payload) if is_shared else spec.convert(payload)
                returned = await self._calls.observe(spec, given, context)
            except InvalidData as error:
                _log.warning("%s was not called: the payload does not fit: %s", what, error, sure=True)
                return
            except RpcError:
                return  # said, where it became one
            if isinstance(returned, Decision) and not said:
                said = True
                _log.error(
                    "%s returned a %s, which has no effect: an event has already happened. Use @app.hook to decide.",
                    what,
                    type(returned).__name__,
                )

        return observe


def _handle(item: tuple[_Handler, _Delivery]) -> Awaitable[None]:
    handler, delivery = item
    return handler(delivery)
