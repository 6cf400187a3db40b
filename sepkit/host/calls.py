"""The running calls of one extension, tools and completions, and what they stream while they run.

Which extension has a tool or a provider is the host's to know.

Source: docs/protocol.md, section 3.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs

from sepkit.errors import ConnectionClosed, InvalidData, SepkitError
from sepkit.host.budget import MOST_BYTES, Budget, weight_of
from sepkit.host.life import Life, fitted
from sepkit.host.lives import Lives
from sepkit.wire import messages, methods
from sepkit.wire.converter import structure

OnUpdate = Callable[[messages.ToolUpdateParams], None]


@attrs.frozen
class UnknownEvent:
    """A stream event of a type that sepkit does not know; ``fields`` holds the rest of it as it came."""

    type: str
    fields: dict[str, Any]


StreamedEvent = messages.StreamEvent | UnknownEvent
OnEvent = Callable[[StreamedEvent, int], None]
"""Told of an event, and of how many bytes it takes."""


class RunningCalls:
    """The running calls of one extension, and the callbacks that follow them.

    Args:
        lives: The extension's lives; updates and events of one that is not current any more are dropped.
    """

    def __init__(self, lives: Lives) -> None:
        self._lives = lives
        self._updates: dict[str, OnUpdate] = {}  # by the id of the call
        self._events: dict[str, OnEvent] = {}  # by the id of the request

    async def tool(
        self, tool: str, arguments: dict[str, Any], call_id: str, on_update: OnUpdate | None, timeout: float | None
    ) -> messages.ToolExecuteResult:
        """Call a tool by its bare name."""
        life = self._lives.alive()
        params = {"call_id": call_id, "tool": tool, "arguments": arguments, "context": life.contexts["command"]}
        if on_update is not None:
            self._updates[call_id] = on_update
        try:
            # As Life.request does, without a coroutine of it: 3 % of what a call costs with 256 in flight.
            answer = await life.peer.request(methods.TOOL_EXECUTE, params, timeout=timeout)
        except ConnectionClosed:
            raise await life.last_words() from None
        finally:
            if on_update is not None:
                del self._updates[call_id]
        # The shape of most results; the general way takes 0.6 µs more.
        if type(answer) is dict and len(answer) == 1 and type(content := answer.get("content")) is str:
            return messages.ToolExecuteResult(content)
        result: messages.ToolExecuteResult = fitted(life.name, answer, messages.ToolExecuteResult)
        return result

    def completion(self, request_id: str, params: dict[str, Any], timeout: float | None) -> CompletionStream:
        """A completion, which begins when its events are iterated over."""
        return CompletionStream(self._lives, self._events, request_id, params, timeout)

    def updated(self, life: Life, params: dict[str, Any]) -> None:
        """A tool has told how far it is (``tool/update``)."""
        call_id = params.get("call_id")
        on_update = self._updates.get(call_id) if isinstance(call_id, str) else None
        if on_update is None or life is not self._lives.current:
            return
        try:
            update: messages.ToolUpdateParams = structure(params, messages.ToolUpdateParams)
        except InvalidData as error:
            self._lives.budget.complain("malformed tool/update", "ignored a malformed tool/update: %s", error)
            return
        try:
            on_update(update)
        except Exception as error:
            self._lives.budget.complain("on_update failed", "the on_update of a call failed", error=error)

    def streamed(self, life: Life, params: dict[str, Any]) -> None:
        """A completion has told its next event (``provider/delta``)."""
        request_id = params.get("request_id")
        on_event = self._events.get(request_id) if isinstance(request_id, str) else None
        if on_event is None or life is not self._lives.current:
            return
        try:
            event = _event_of(structure(params, messages.DeltaParams).event)
        except InvalidData as error:
            self._lives.budget.complain("malformed provider/delta", "ignored a malformed provider/delta: %s", error)
            return
        on_event(event, weight_of(params))


class TakenTooSlowly(SepkitError):
    """The events of a completion came faster than they were taken, and more of them waited than a host holds."""


class _Waiting:
    """The events of a completion that have not been taken, as far as there is room for them."""

    def __init__(self, budget: Budget) -> None:
        self.overflown = False
        """Whether some of them are lost: then no more are taken in."""
        self._budget = budget
        self._events: asyncio.Queue[tuple[StreamedEvent, int] | None] = asyncio.Queue()

    def put(self, event: StreamedEvent, weight: int) -> None:
        if self.overflown:
            return
        if self._budget.hold(weight):
            self._events.put_nowait((event, weight))
        else:
            self._budget.counts["overflown streams"] += 1
            self.overflown = True
            self.end()

    def end(self) -> None:
        self._events.put_nowait(None)

    async def get(self) -> StreamedEvent | None:
        """The next one; None after the last."""
        found = await self._events.get()
        if found is None:
            return None
        event, weight = found
        self._budget.release(weight)
        return event

    def drop(self) -> None:
        while not self._events.empty():
            if (found := self._events.get_nowait()) is not None:
                self._budget.release(found[1])


def _event_of(told: dict[str, Any]) -> StreamedEvent:
    if told["type"] not in messages.STREAM_EVENTS:
        return UnknownEvent(told["type"], {name: value for name, value in told.items() if name != "type"})
    event: messages.StreamEvent = structure(told, messages.StreamEvent)
    return event


class CompletionStream:
    """The events of a completion, as they come; ``result`` when they are over. To stop early cancels the request.

    An event of a type that sepkit does not know is an :class:`UnknownEvent`.
    """

    def __init__(
        self,
        lives: Lives,
        following: dict[str, OnEvent],
        request_id: str,
        params: dict[str, Any],
        timeout: float | None,
    ) -> None:
        self._lives = lives
        self._following = following
        self._request_id = request_id
        self._params = params
        self._timeout = timeout
        self.result: messages.ProviderCompleteResult | None = None
        """The whole completion; None until the events are over."""

    def __aiter__(self) -> AsyncIterator[StreamedEvent]:
        return self._events()

    async def _events(self) -> AsyncIterator[StreamedEvent]:
        lives = self._lives
        events = _Waiting(lives.budget)
        params = {"request_id": self._request_id, "context": lives.context, **self._params}
        self._following[self._request_id] = events.put
        try:
            asking = asyncio.ensure_future(lives.ask(methods.PROVIDER_COMPLETE, params, self._timeout))
            asking.add_done_callback(lambda _: events.end())
            try:
                while (event := await events.get()) is not None:
                    yield event
                if events.overflown:
                    raise TakenTooSlowly(f"{lives.name}: over {MOST_BYTES:,} bytes of events waited to be taken")
                self.result = fitted(lives.name, asking.result(), messages.ProviderCompleteResult)
            finally:
                if not asking.done():
                    asking.cancel()
                    await asyncio.wait([asking])
        finally:
            del self._following[self._request_id]
            events.drop()
