"""SEP's requests about an App's handlers: each method, from its params to a call of ``serving``, and to its result.

A tool that fails in a way that the model can learn from gives a result with ``is_error``; what is wrong with the
request itself is an ``RpcError``.

Source: docs/protocol.md, sections 3 and 6.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from sepkit.app import App
from sepkit.contexts.contexts import CommandContext, HookContext, ProviderContext, ToolContext
from sepkit.errors import EncodeError, InvalidData, InvalidParams, sayable
from sepkit.faces.sep.link import SepLink
from sepkit.faces.sep.registrations import INSTRUCTED
from sepkit.faces.sep.results import (
    TEXT,
    command_result,
    completions_result,
    hook_result,
    tool_failure,
    tool_result,
)
from sepkit.handlers import ObserverSpec, ToolSpec
from sepkit.peer import RequestHandler, Route
from sepkit.results import Block, ToolResult
from sepkit.serving.calls import BadArguments, Calls, Unsendable, does_not_fit, fitted
from sepkit.serving.observers import Event
from sepkit.serving.served import Served
from sepkit.wire import messages, methods
from sepkit.wire.converter import structure
from sepkit.wire.writing import unstructure


class ToolCalls:
    """The calls of tools on one connection: a :class:`~sepkit.peer.Route`."""

    text: bytes | None = TEXT

    def __init__(self, app: App, calls: Calls, link: SepLink) -> None:
        self._tools = app.tools
        self._calls = calls
        self._slots = calls.slots
        self._watch = calls.watch
        self._link = link
        self._outgoing = link.outgoing
        self.waits = calls.tool_waits
        self.waited = calls.tool_waited

    # The shape is checked by hand. The converter finds the same faults, but takes 1.5 µs.
    def begin(self, params: dict[str, Any]) -> Coroutine[Any, Any, object]:
        """Begin a call."""
        try:
            call_id, arguments, raw = params["call_id"], params["arguments"], params["context"]
            token, tier = raw["token"], raw["tier"]  # of JSON, only an object has these
            tool = self._tools[params["tool"]]
        except (KeyError, TypeError):
            return self._odd(params)
        if type(call_id) is str and type(token) is str and type(tier) is str and type(arguments) is dict:
            slots = self._slots
            if tool.is_alone and slots.running < slots.size and not self._outgoing.congested and not self._watch.asleep:
                try:
                    return tool.call(arguments, None)  # type: ignore[no-any-return]
                except InvalidData as fault:
                    raise BadArguments(fault) from None
            return self._begin(tool, call_id, arguments, raw)
        return self._odd(params)

    def _odd(self, params: dict[str, Any]) -> Coroutine[Any, Any, object]:
        try:
            call = checked(params, messages.ToolExecuteParams)
        except InvalidParams as error:
            raise _Refused(error.message, data=error.data) from None
        tool = self._tools.get(call.tool)
        if tool is None:
            known = ", ".join(self._tools) or "none"
            return _at_once(ToolResult(f"There is no tool {call.tool!r}. Known: {known}.", is_error=True))
        return self._begin(tool, call.call_id, call.arguments, unstructure(call.context))

    def _begin(
        self, tool: ToolSpec, call_id: str, arguments: dict[str, Any], raw: dict[str, Any]
    ) -> Coroutine[Any, Any, object]:
        context = None if tool.context is None else ToolContext(self._link, raw, call_id, tool.name, self._slots)
        return self._calls.tool_work(tool, arguments, context, self._link)

    def returned(self, value: object) -> dict[str, Any]:
        """The result of a call that returned ``value``."""
        return _sendable(value)

    async def raised(self, error: BaseException, params: dict[str, Any]) -> object:
        """The result of a call that raised."""
        try:
            if isinstance(error, _Refused):
                raise error
            return await self._calls.tool_raised(params["tool"], error, _sendable, tool_failure)
        finally:
            del error  # it may hold this frame


class _Refused(InvalidParams):
    """A call that does not come to a tool."""


def _sendable(value: object) -> dict[str, Any]:
    try:
        return tool_result(value)
    except EncodeError as error:
        raise Unsendable(value, error) from None


class HookCalls:
    """The hooks on one connection: a :class:`~sepkit.peer.Route`."""

    text: bytes | None = None

    def __init__(self, app: App, calls: Calls, link: SepLink) -> None:
        self._instructions = app.instructions
        self._calls = calls
        self._link = link
        self.returned = hook_result

    def begin(self, params: dict[str, Any]) -> Coroutine[Any, Any, Block | dict[str, Any] | None]:
        """Ask the handlers of a hook."""
        try:
            name, value, raw = params["hook"], params["input"], params["context"]
            token, tier = raw["token"], raw["tier"]  # of JSON, only an object has these
            fits = type(name) is str and type(value) is dict and type(token) is str and type(tier) is str
        except (KeyError, TypeError):
            fits = False
        if not fits:
            call = checked(params, messages.HookParams)
            name, value, raw = call.hook, call.input, unstructure(call.context)
        context = HookContext(self._link, raw, name)
        if self._instructions is not None and name == INSTRUCTED:
            return self._instructed(self._instructions, value, context)
        return self._calls.hook(name, value, context)

    async def _instructed(
        self, instructions: str, value: dict[str, Any], context: HookContext
    ) -> Block | dict[str, Any] | None:
        """Add the app's instructions to the system prompt; its own handlers see them there."""
        prompt = value.get("system_prompt")
        # Another type than text is refused with the input; a prompt that has them already has come back from the host.
        if isinstance(prompt, str) and instructions not in prompt:
            now = {**value, "system_prompt": f"{prompt}\n\n{instructions}" if prompt else instructions}
        else:
            now = value
        outcome = await self._calls.hook(INSTRUCTED, now, context)
        return now if outcome is None and now is not value else outcome

    async def raised(self, error: BaseException, params: dict[str, Any]) -> object:
        """A hook that failed is answered with its error."""
        try:
            raise error
        finally:
            del error  # it holds this frame

    def waits(self) -> None:
        """It takes nothing while it waits."""

    def waited(self) -> None:
        """It has taken nothing."""


class Requests:
    """The handlers' methods on one connection.

    Args:
        served: What the connection is to.
        link: The connection.
    """

    def __init__(self, served: Served, link: SepLink) -> None:
        self._app = served.app
        self._calls: Calls = served.calls
        self._link = link

    def routes(self) -> dict[str, RequestHandler | Route]:
        """The handler of each method."""
        return {
            methods.TOOL_EXECUTE: ToolCalls(self._app, self._calls, self._link),
            methods.HOOK: HookCalls(self._app, self._calls, self._link),
            methods.COMMAND_EXECUTE: self._command_execute,
            methods.COMMAND_COMPLETE: self._command_complete,
            methods.PROVIDER_COMPLETE: self._provider_complete,
            methods.PROVIDER_OAUTH_LOGIN: self._oauth_login,
            methods.PROVIDER_OAUTH_REFRESH: self._oauth_refresh,
        }

    # -- tools, hooks and commands -------------------------------------------------------------------------------------
    # The most frequent ones: their shape is checked by hand. The converter finds the same faults, but takes 1.5 µs.

    def _command_execute(self, params: dict[str, Any]) -> Coroutine[Any, Any, object]:
        try:
            name, arguments, raw = params["command"], params["arguments"], params["context"]
            token, tier = raw["token"], raw["tier"]
            fits = type(name) is str and type(arguments) is dict and type(token) is str and type(tier) is str
        except (KeyError, TypeError):
            fits = False
        if not fits:
            call = checked(params, messages.CommandExecuteParams)
            name, arguments, raw = call.command, call.arguments, unstructure(call.context)
        command = self._app.commands.get(name)
        if command is None:
            # As the reference SDK does: content, not an error. Its conformance runner asks for unknown commands.
            known = ", ".join(self._app.commands) or "none"
            return _at_once(command_result(sayable(f"There is no command {name!r}. Known: {known}.")))
        return self._calls.command(command, CommandContext(self._link, raw, name, arguments), command_result)

    async def _command_complete(self, params: dict[str, Any]) -> object:
        call = checked(params, messages.CommandCompleteParams)
        spec = self._app.commands.get(call.command)
        if spec is None:
            return {"completions": []}
        context = CommandContext(self._link, unstructure(call.context), call.command, {})
        return completions_result(await self._calls.complete(spec, None, call.partial, context))

    def event(self, params: dict[str, Any]) -> Event:
        """The event that a notification tells of.

        Raises:
            InvalidData: The params do not fit.
        """
        try:
            name, payload, raw, seq = params["event"], params["payload"], params["context"], params.get("seq")
            token, tier = raw["token"], raw["tier"]
            fits = type(name) is str and type(payload) is dict and type(token) is str and type(tier) is str
            fits = fits and type(seq) is int and seq >= 0
        except (KeyError, TypeError):
            fits = False
        if not fits:
            event: messages.EventParams = structure(params, messages.EventParams)
            name, payload, raw, seq = event.event, event.payload, unstructure(event.context), event.seq
        return Event(name, payload, raw, seq)

    # -- providers -----------------------------------------------------------------------------------------------------

    async def _provider_complete(self, params: dict[str, Any]) -> object:
        call = checked(params, messages.ProviderCompleteParams)
        spec = self._app.providers.get(call.provider)
        if spec is None:
            raise InvalidParams(f"no provider {call.provider!r}", data={"known": list(self._app.providers)})
        request = fitted(spec.observer, params, f"the request does not fit the provider {call.provider!r}")
        raw = None if call.context is None else unstructure(call.context)
        context = ProviderContext(self._link, raw, call.request_id, slots=self._calls.slots, streams=call.stream)
        return await self._calls.provider(spec, request, context, self._link)

    async def _oauth_login(self, params: dict[str, Any]) -> object:
        return await self._oauth(self._app.oauth_logins, params)

    async def _oauth_refresh(self, params: dict[str, Any]) -> object:
        return await self._oauth(self._app.oauth_refreshes, params)

    async def _oauth(self, table: dict[str, ObserverSpec], params: dict[str, Any]) -> object:
        call = checked(params, messages.OAuthParams)
        spec = table.get(call.provider)
        if spec is None:
            raise InvalidParams(f"no OAuth handler for provider {call.provider!r}", data={"known": list(table)})
        raw = None if call.context is None else unstructure(call.context)
        request = fitted(spec, params, f"the request does not fit the OAuth handler of {call.provider!r}")
        return await self._calls.oauth(spec, request, ProviderContext(self._link, raw))


async def _at_once(result: object) -> object:
    return result


def checked(params: dict[str, Any], cls: Any) -> Any:
    """The params of a request as a record.

    Raises:
        InvalidParams: They do not fit; with every fault.
    """
    try:
        return structure(params, cls)
    except InvalidData as error:
        raise does_not_fit("invalid params", error) from None
