"""Events, on their way to those who observe them: in order, one at a time for each handler.

Source: protocol section 7.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from sepkit.app import App
from sepkit.calls import Calls
from sepkit.contexts import EventContext
from sepkit.errors import InvalidData, RpcError
from sepkit.handlers import ObserverSpec, name_of
from sepkit.lanes import Mailbox
from sepkit.results import Decision
from sepkit.services import Link
from sepkit.wire import messages
from sepkit.wire.converter import structure, unstructure

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
        self._mailboxes = {
            spec: Mailbox(f"{spec.name} handler {name_of(spec.fn)}", self._handler(spec))
            for specs in app.events.values()
            for spec in specs
        }
        self.started: asyncio.Future[None] | None = None  # what came in before it is done waits for it

    def take(self, params: dict[str, Any]) -> None:
        """Take in an ``event`` notification."""
        try:
            event: messages.EventParams = structure(params, messages.EventParams)
        except InvalidData as error:
            _log.warning("ignored a malformed event: %s", error)
            return
        subject = "topic" if event.event == "bus/event" else "widget_id"
        for spec in self._events.get(event.event, ()):
            if spec.only is None or spec.only == event.payload.get(subject):
                self._mailboxes[spec].put(event)

    @property
    def running(self) -> list[asyncio.Task[None]]:
        """The tasks of those that have something to observe."""
        return [box.task for box in self._mailboxes.values() if box.task is not None]

    def _handler(self, spec: ObserverSpec) -> Callable[[messages.EventParams], Awaitable[None]]:
        what = f"the {spec.name} handler {name_of(spec.fn)}"
        said = False

        async def observe(event: messages.EventParams) -> None:
            nonlocal said
            assert self.started is not None
            await asyncio.shield(self.started)
            value = event.payload.get("payload", {}) if event.event == "bus/event" else event.payload
            try:
                context = EventContext(self._link, unstructure(event.context), event.event, event.seq)
                returned = await self._calls.observe(spec, spec.convert(value), context)
            except InvalidData as error:
                _log.warning("%s was not called: the payload does not fit: %s", what, error)
                return
            except RpcError:
                return  # said, where it became one
            if isinstance(returned, Decision) and not said:
                said = True
                _log.error(
                    "%s returned a %s, which nobody heeds: an event has already happened. Use @app.hook to decide.",
                    what,
                    type(returned).__name__,
                )

        return observe
