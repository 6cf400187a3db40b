"""Events, on their way to those who observe them: in order, one at a time for each handler.

Source: docs/protocol.md, section 7.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from sepkit.app import App
from sepkit.concurrency.lanes import Mailbox
from sepkit.contexts.contexts import EventContext
from sepkit.contexts.services import Link
from sepkit.errors import InvalidData, RpcError
from sepkit.handlers import Fn, ObserverSpec, name_of
from sepkit.results import Decision
from sepkit.serving.calls import Calls
from sepkit.wire import messages
from sepkit.wire.converter import copied, structure, unstructure

_Delivery = tuple[messages.EventParams, dict[str, Any], asyncio.Future[None]]
"""An event, its payload for one handler, and the handshake that must have succeeded first."""

_Handler = Callable[[_Delivery], Awaitable[None]]

_log = logging.getLogger("sepkit")


class Observers:
    """The mailboxes of an App's event handlers.

    Args:
        app: Whose handlers they are.
        link: The connection, as handlers see it.
        calls: Calls them.
    """

    def __init__(self, app: App, link: Link, calls: Calls) -> None:
        self._events = app.events
        self._link = link
        self._calls = calls
        self._handlers: dict[ObserverSpec, _Handler] = {}
        # One for each function, even where it observes several events: it has them in the wire's order all the same.
        self._mailboxes: dict[Fn, Mailbox[tuple[_Handler, _Delivery]]] = {}
        self.started: asyncio.Future[None] | None = None  # what came in before it is done waits for it

    def take(self, params: dict[str, Any]) -> None:
        """Take in an ``event`` notification."""
        try:
            event: messages.EventParams = structure(params, messages.EventParams)
        except InvalidData as error:
            _log.warning("ignored a malformed event: %s", error)
            return
        assert self.started is not None
        subject = "topic" if event.event == "bus/event" else "widget_id"
        payload = None
        for spec in self._events.get(event.event, ()):
            if spec.only is None or spec.only == event.payload.get(subject):
                # What one handler does to its payload is no business of another's.
                payload = event.payload if payload is None else copied(event.payload)
                self._put(spec, (event, payload, self.started))

    def _put(self, spec: ObserverSpec, delivery: _Delivery) -> None:
        handler = self._handlers.get(spec)  # made at its first event: handlers may be added while the app is served
        if handler is None:
            handler = self._handlers[spec] = self._handler(spec)
        mailbox = self._mailboxes.get(spec.fn)
        if mailbox is None:
            mailbox = self._mailboxes[spec.fn] = Mailbox(f"{spec.name} handler {name_of(spec.fn)}", _handle)
        mailbox.put((handler, delivery))

    @property
    def running(self) -> list[asyncio.Task[None]]:
        """The tasks of those that have something to observe."""
        return [box.task for box in self._mailboxes.values() if box.task is not None]

    def _handler(self, spec: ObserverSpec) -> _Handler:
        what = f"the {spec.name} handler {name_of(spec.fn)}"
        said = False

        async def observe(delivery: _Delivery) -> None:
            nonlocal said
            event, payload, started = delivery
            if event.event == "bus/event" and spec.only is not None:  # @app.on_bus takes what was published
                payload = payload.get("payload", {})
            try:
                await asyncio.shield(started)
                context = EventContext(self._link, unstructure(event.context), event.event, event.seq)
                returned = await self._calls.observe(spec, spec.convert(payload), context)
            except InvalidData as error:
                _log.warning("%s was not called: the payload does not fit: %s", what, error)
                return
            except RpcError:
                return  # said, where it became one; or the handshake has failed
            if isinstance(returned, Decision) and not said:
                said = True
                _log.error(
                    "%s returned a %s, which nobody heeds: an event has already happened. Use @app.hook to decide.",
                    what,
                    type(returned).__name__,
                )

        return observe


async def _handle(item: tuple[_Handler, _Delivery]) -> None:
    handler, delivery = item
    await handler(delivery)
