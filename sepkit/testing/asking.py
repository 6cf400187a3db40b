"""What a test host asks of an extension, and tells it, method by method. How that gets there is ``host.py``.

Source: docs/protocol.md, sections 3, 4, 6 and 7; docs/tasks.md, "On the wire".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import attrs

from sepkit.errors import InternalError, InvalidData
from sepkit.testing.seen import Seen
from sepkit.wire import messages, methods
from sepkit.wire.converter import structure

R = TypeVar("R")

OnUpdate = Callable[[messages.ToolUpdateParams], object]
OnDelta = Callable[[messages.StreamEvent], object]


@attrs.frozen
class ToolAnswer:
    """What a tool answered, and what it told before."""

    content: str
    is_error: bool
    details: Any
    updates: list[messages.ToolUpdateParams]
    """Its progress, in order."""


@attrs.frozen
class ProviderAnswer:
    """What a provider answered, and what it streamed before."""

    content: str
    tool_calls: list[messages.ToolCallResult]
    finish_reason: str
    usage: messages.Usage | None
    reasoning_content: str | None
    resolved_model: str | None
    deltas: list[messages.StreamEvent]
    """The pieces, in order; none where no stream was asked for."""


class Asking(Seen):
    """The methods of a test host that reach the extension.

    Args:
        kv: What the key-value store holds at the beginning.
        token: Of the contexts that the host gives out.
        on_fault: Told what a callback raised.
    """

    def __init__(self, kv: Mapping[str, Any], *, token: str, on_fault: Callable[[BaseException], None]) -> None:
        super().__init__(kv)
        self._token = token
        self._on_fault = on_fault
        self._calls = itertools.count(1)
        self._updates: dict[str, tuple[list[messages.ToolUpdateParams], OnUpdate | None]] = {}  # by call_id
        self._deltas: dict[str, tuple[list[messages.StreamEvent], OnDelta | None]] = {}  # by request_id

    # -- what the subclass does ----------------------------------------------------------------------------------------

    async def _ask(self, method: str, params: dict[str, Any], timeout: float | None) -> Any:
        """Send a request; its result."""
        raise NotImplementedError

    async def _tell(
        self, name: str, payload: dict[str, Any], *, seq: int | None, wait: bool, timeout: float | None
    ) -> None:
        """Send an event, and wait for its handlers if ``wait`` says so."""
        raise NotImplementedError

    # -- what the host asks --------------------------------------------------------------------------------------------

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        on_update: OnUpdate | None = None,
        timeout: float | None = None,
    ) -> ToolAnswer:
        """Call a tool.

        Args:
            name: Its bare name.
            arguments: As a model would send them.
            on_update: Called with each ``tool/update`` when it comes.
            timeout: Seconds until it is cancelled.

        Raises:
            RequestTimeout: It took too long, and has been told to stop.
            RpcError: The extension refused the call. A tool that fails gives an answer with ``is_error``.

        Source: docs/protocol.md, section 3, ``tool/execute``.
        """
        call_id = f"call-{next(self._calls)}"
        updates: list[messages.ToolUpdateParams] = []
        self._updates[call_id] = (updates, on_update)
        params = {"call_id": call_id, "tool": name, "arguments": dict(arguments or {}), "context": self._context()}
        try:
            result = fitted(await self._ask(methods.TOOL_EXECUTE, params, timeout), messages.ToolExecuteResult)
        finally:
            del self._updates[call_id]
        return ToolAnswer(result.content, result.is_error, result.details, updates)

    async def call_hook(
        self,
        name: str,
        input: Mapping[str, Any],  # noqa: A002  (the wire's word)
        *,
        timeout: float | None = None,
    ) -> messages.HookOutcome:
        """Ask a hook what it makes of an input; a ``ContinueOutcome``, a ``BlockOutcome`` or a ``ModifyOutcome``.

        Raises:
            InvalidParams: The input does not fit the hook; no handler has run.
            RpcError: A handler failed.

        Source: docs/protocol.md, section 6.
        """
        params = {"hook": name, "context": self._context(), "input": dict(input)}
        union: Any = messages.HookOutcome
        outcome: messages.HookOutcome = fitted(await self._ask(methods.HOOK, params, timeout), union)
        return outcome

    async def run_command(
        self, name: str, arguments: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> str | None:
        """Run a command, its name without the slash; what it shows in the session.

        Raises:
            RpcError: The arguments do not fit, or it failed.

        Source: docs/protocol.md, section 3, ``command/execute``.
        """
        params = {"command": name, "context": self._context(), "arguments": dict(arguments or {})}
        answer = await self._ask(methods.COMMAND_EXECUTE, params, timeout)
        return fitted(answer, messages.CommandExecuteResult).content

    async def complete_command(
        self, name: str, partial: str = "", *, timeout: float | None = None
    ) -> list[messages.Completion]:
        """The ways to complete what was typed after a command.

        Raises:
            RpcError: Its completer failed.

        Source: docs/protocol.md, section 3, ``command/complete``.
        """
        params = {"command": name, "context": self._context(), "partial": partial}
        answer = await self._ask(methods.COMMAND_COMPLETE, params, timeout)
        return fitted(answer, messages.CommandCompleteResult).completions

    async def complete(
        self,
        provider: str,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        stream: bool = True,
        response_format: Mapping[str, Any] | None = None,
        thinking: str | None = None,
        on_delta: OnDelta | None = None,
        timeout: float | None = None,
    ) -> ProviderAnswer:
        """Have a provider answer messages.

        Args:
            provider: Its name.
            model: The model's id.
            messages: As the host shapes them.
            tools: As the host shapes them, too.
            stream: Whether the pieces should come while it answers.
            response_format: In the host's own form.
            thinking: How hard it should think.
            on_delta: Called with each piece when it comes.
            timeout: Seconds until it is cancelled.

        Raises:
            RequestTimeout: It took too long, and has been told to stop.
            RpcError: There is no such provider, or it failed.

        Source: docs/protocol.md, section 3, ``provider/complete``.
        """
        request_id = f"request-{next(self._calls)}"
        deltas: list[Any] = []
        self._deltas[request_id] = (deltas, on_delta)
        params: dict[str, Any] = {
            "request_id": request_id,
            "provider": provider,
            "model": model,
            "messages": [dict(message) for message in messages],
            "stream": stream,
            "context": self._context(),
        }
        optional = {"tools": tools and [dict(tool) for tool in tools], "response_format": response_format}
        for name, value in {**optional, "thinking": thinking}.items():
            if value is not None:
                params[name] = value
        try:
            answer = await self._ask(methods.PROVIDER_COMPLETE, params, timeout)
        finally:
            del self._deltas[request_id]
        result = fitted(answer, _ProviderResult)
        return ProviderAnswer(
            result.content,
            result.tool_calls,
            result.finish_reason,
            result.usage,
            result.reasoning_content,
            result.resolved_model,
            deltas,
        )

    async def oauth_login(self, provider: str, *, timeout: float | None = None) -> messages.Credentials:
        """Log in to a provider.

        Raises:
            RpcError: The provider has no login, or it failed.

        Source: docs/protocol.md, section 3, ``provider/oauth_login``.
        """
        params = {"provider": provider, "context": self._context()}
        return fitted(await self._ask(methods.PROVIDER_OAUTH_LOGIN, params, timeout), messages.Credentials)

    async def oauth_refresh(
        self, provider: str, refresh_token: str, *, timeout: float | None = None
    ) -> messages.Credentials:
        """Get newer credentials of a provider.

        Raises:
            RpcError: The provider cannot refresh, or failed.

        Source: docs/protocol.md, section 3, ``provider/oauth_refresh``.
        """
        params = {"provider": provider, "refresh_token": refresh_token, "context": self._context()}
        return fitted(await self._ask(methods.PROVIDER_OAUTH_REFRESH, params, timeout), messages.Credentials)

    async def start_task(
        self,
        name: str,
        *,
        id: str | None = None,  # noqa: A002  (as in app.tasks.start)
        user_id: str | None = None,
        payload: Any = None,
        timeout: float | None = None,
    ) -> messages.TaskHealth:
        """Start a background task; how it is then.

        Raises:
            InvalidParams: There is no such task, its id is running, or it lacks its user.

        Source: docs/tasks.md, "On the wire".
        """
        given = {"name": name, "task_id": id, "user_id": user_id, "payload": payload}
        params = {key: value for key, value in given.items() if value is not None}
        return fitted(await self._ask(methods.TASK_START, params, timeout), messages.TaskHealth)

    async def stop_task(self, id: str, *, timeout: float | None = None) -> messages.TaskHealth:  # noqa: A002
        """Stop a background task, and wait until it has ended; how it is then.

        Raises:
            InvalidParams: No task was started under this id.

        Source: docs/tasks.md, "On the wire".
        """
        return fitted(await self._ask(methods.TASK_STOP, {"task_id": id}, timeout), messages.TaskHealth)

    async def list_tasks(self, *, timeout: float | None = None) -> list[messages.TaskHealth]:
        """The background tasks that were started.

        Source: docs/tasks.md, "On the wire".
        """
        return fitted(await self._ask(methods.TASK_LIST, {}, timeout), messages.TaskListResult).tasks

    async def ping(self, *, timeout: float | None = None) -> None:
        """Wait for a sign of life: what was sent before has been read, and what was written before has come."""
        await self._ask(methods.PING, {}, timeout)

    # -- what the host tells -------------------------------------------------------------------------------------------

    async def send_event(
        self,
        name: str,
        payload: Mapping[str, Any] | None = None,
        *,
        seq: int | None = None,
        wait: bool = True,
        timeout: float | None = None,
    ) -> None:
        """Tell the extension that something has happened, and wait until its handlers have handled it.

        Args:
            name: The event's name.
            payload: What goes with it.
            seq: Its number; by default one more than the last one. ``events_lost`` has none.
            wait: Whether to wait for the handlers.
            timeout: Seconds to wait for them.

        Raises:
            ValueError: Nothing subscribes to it, so that no host would send it.
            RequestTimeout: The handlers took too long.

        Source: docs/protocol.md, section 7.
        """
        if name not in self.registrations.subscriptions:
            known = ", ".join(self.registrations.subscriptions) or "nothing"
            raise ValueError(f"nothing subscribes to {name!r}, and a host would not send it; subscribed to: {known}")
        await self._tell(name, dict(payload or {}), seq=seq, wait=wait, timeout=timeout)

    async def press_key(self, widget_id: str, key: str, *, wait: bool = True, timeout: float | None = None) -> None:
        """Press a key in a widget, and wait until its handlers have handled it. It needs no subscription.

        Source: docs/protocol.md, section 7, ``widget/key``.
        """
        await self._tell("widget/key", {"widget_id": widget_id, "key": key}, seq=None, wait=wait, timeout=timeout)

    async def publish(
        self,
        topic: str,
        payload: Mapping[str, Any] | None = None,
        *,
        from_: str = "another-extension",
        wait: bool = True,
        timeout: float | None = None,
    ) -> None:
        """Publish on the bus as another extension, and wait until the handlers have handled it.

        Raises:
            ValueError: Nothing listens to the bus.

        Source: docs/protocol.md, section 7, ``bus/event``.
        """
        event = {"from": from_, "topic": topic, "payload": dict(payload or {})}
        await self.send_event("bus/event", event, wait=wait, timeout=timeout)

    # -- how -----------------------------------------------------------------------------------------------------------

    def _context(self, tier: Literal["command", "event"] = "command") -> dict[str, Any]:
        return {"token": self._token, "tier": tier}

    def _updated(self, params: dict[str, Any]) -> None:
        update: messages.ToolUpdateParams = structure(params, messages.ToolUpdateParams)
        updates, on_update = self._updates.get(update.call_id, (None, None))
        if updates is not None:  # else its caller has given up
            updates.append(update)
            self._call_back(on_update, update)

    def _streamed(self, params: dict[str, Any]) -> None:
        deltas, on_delta = self._deltas.get(params["request_id"], (None, None))
        if deltas is not None:
            event: messages.StreamEvent = structure(params["event"], messages.StreamEvent)
            deltas.append(event)
            self._call_back(on_delta, event)

    def _call_back(self, callback: Callable[[Any], object] | None, value: object) -> None:
        if callback is not None:
            try:
                callback(value)
            except Exception as error:
                self._on_fault(error)


_ProviderResult = messages.ProviderCompleteResult  # where a parameter is named `messages`


def fitted(answer: object, record: type[R]) -> R:
    """The extension's answer as a record. What it lacks has been told as a violation."""
    try:
        made: R = structure(answer, record)
    except InvalidData as error:
        raise InternalError(f"the extension's answer does not fit the protocol: {error}") from None
    return made
