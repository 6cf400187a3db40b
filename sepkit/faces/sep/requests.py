"""SEP's requests about an App's handlers: each method, from its params to a call of ``serving``, and to its result.

A tool that fails in a way that the model can learn from gives a result with ``is_error``; what is wrong with the
request itself is an ``RpcError``.

Source: docs/protocol.md, sections 3 and 6.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from sepkit.contexts.contexts import CommandContext, HookContext, ProviderContext, ToolContext
from sepkit.errors import InvalidData, InvalidParams, sayable
from sepkit.faces.sep.link import SepLink
from sepkit.faces.sep.results import (
    command_result,
    completions_result,
    hook_result,
    tool_failure,
    tool_result,
)
from sepkit.handlers import ObserverSpec
from sepkit.peer import RequestHandler
from sepkit.serving.calls import Calls, does_not_fit, fitted
from sepkit.serving.observers import Event
from sepkit.serving.served import Served
from sepkit.wire import messages, methods
from sepkit.wire.converter import structure
from sepkit.wire.writing import unstructure


class Requests:
    """The handlers' methods on one connection.

    Args:
        served: What the connection is to.
        link: The connection.
    """

    def __init__(self, served: Served, link: SepLink) -> None:
        self._app = served.app
        self._tools = served.app.tools
        self._calls: Calls = served.calls
        self._link = link

    def routes(self) -> dict[str, RequestHandler]:
        """The handler of each method."""
        return {
            methods.TOOL_EXECUTE: self._tool_execute,
            methods.HOOK: self._hook,
            methods.COMMAND_EXECUTE: self._command_execute,
            methods.COMMAND_COMPLETE: self._command_complete,
            methods.PROVIDER_COMPLETE: self._provider_complete,
            methods.PROVIDER_OAUTH_LOGIN: self._oauth_login,
            methods.PROVIDER_OAUTH_REFRESH: self._oauth_refresh,
        }

    # -- tools, hooks and commands -------------------------------------------------------------------------------------
    # The most frequent ones: their shape is checked by hand. The converter finds the same faults, but takes 1.5 µs.

    def _tool_execute(self, params: dict[str, Any]) -> Coroutine[Any, Any, object]:
        try:
            call_id, name, arguments, raw = params["call_id"], params["tool"], params["arguments"], params["context"]
            fits = (
                type(call_id) is str
                and type(name) is str
                and type(arguments) is dict
                and type(raw) is dict
                and type(raw["token"]) is str
                and type(raw["tier"]) is str
            )
        except KeyError:
            fits = False
        if not fits:
            call = checked(params, messages.ToolExecuteParams)
            call_id, name, arguments, raw = call.call_id, call.tool, call.arguments, unstructure(call.context)
        tool = self._tools.get(name)
        if tool is None:
            return _at_once(tool_failure(f"There is no tool {name!r}. Known: {', '.join(self._tools) or 'none'}."))
        calls, link = self._calls, self._link
        context = None if tool.context is None else ToolContext(link, raw, call_id, name, calls.slots)
        return calls.tool(tool, arguments, context, link, tool_result, tool_failure)

    async def _hook(self, params: dict[str, Any]) -> object:
        try:
            name, value, raw = params["hook"], params["input"], params["context"]
            fits = type(name) is str and type(value) is dict and is_context(raw)
        except (KeyError, TypeError):
            fits = False
        if not fits:
            call = checked(params, messages.HookParams)
            name, value, raw = call.hook, call.input, unstructure(call.context)
        return hook_result(await self._calls.hook(name, value, HookContext(self._link, raw, name)))

    def _command_execute(self, params: dict[str, Any]) -> Coroutine[Any, Any, object]:
        try:
            name, arguments, raw = params["command"], params["arguments"], params["context"]
            fits = type(name) is str and type(arguments) is dict and is_context(raw)
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
        spec = self._app.completers.get(call.command)
        if spec is None:  # of an unknown command, too
            return {"completions": []}
        context = CommandContext(self._link, unstructure(call.context), call.command, {})
        partial = fitted(spec, call.partial, f"what was typed does not fit the completer of {call.command!r}")
        return completions_result(await self._calls.observe(spec, partial, context))

    def event(self, params: dict[str, Any]) -> Event:
        """The event that a notification tells of.

        Raises:
            InvalidData: The params do not fit.
        """
        try:
            name, payload, raw, seq = params["event"], params["payload"], params["context"], params.get("seq")
            fits = type(name) is str and type(payload) is dict and type(seq) is int and seq >= 0 and is_context(raw)
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


def is_context(raw: Any) -> bool:
    """Whether this is the context of a call: a token and a tier.

    Raises:
        KeyError, TypeError: It is not.
    """
    return type(raw) is dict and type(raw["token"]) is str and type(raw["tier"]) is str


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
