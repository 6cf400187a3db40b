"""What each method that a host may ask does: from its params, through the App's handler, to its result.

A tool that fails in a way that the model can learn from gives a result with ``is_error``; what is wrong with the
request itself is an ``RpcError``. What handlers raise unforeseen never crosses.

Source: docs/protocol.md, sections 3 and 6.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final

from sepkit.app import App
from sepkit.concurrency.lanes import Slots
from sepkit.concurrency.threads import DaemonThreads
from sepkit.concurrency.watch import LoopWatch
from sepkit.contexts.contexts import CommandContext, HookContext, ProviderContext, ToolContext
from sepkit.contexts.services import Link
from sepkit.contexts.streams import StreamFold
from sepkit.errors import EncodeError, InternalError, InvalidData, InvalidParams, RpcError, ToolError
from sepkit.handlers import ObserverSpec, ToolSpec, as_stream, name_of
from sepkit.peer import RequestHandler, unexpected
from sepkit.results import (
    Block,
    argument_failure,
    blocked,
    command_result,
    completions_result,
    patched,
    tool_failure,
    tool_result,
)
from sepkit.wire import messages, methods
from sepkit.wire.converter import copied, structure, unstructure

_TIERS: Final = frozenset({"command", "event"})


class Calls:
    """The methods of one App on one connection.

    Args:
        app: Whose handlers they call.
        link: The connection, as handlers see it.
        slots: Bounds how many tool and provider calls run.
        threads: Where ``def`` handlers run.
        watch: Woken when a handler is called.
    """

    def __init__(self, app: App, link: Link, slots: Slots, threads: DaemonThreads, watch: LoopWatch) -> None:
        self._app = app
        self._tools = app.tools
        self._link = link
        self._peer = link.peer
        self._transport = link.peer.transport
        self._slots = slots
        self._threads = threads
        self._watch = watch

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

    # -- tools ---------------------------------------------------------------------------------------------------------

    async def _tool_execute(self, params: dict[str, Any]) -> object:
        # The shape is checked by hand: the converter finds the same faults, at five times the price (1.5 µs).
        try:
            call_id, name, arguments, raw = params["call_id"], params["tool"], params["arguments"], params["context"]
            fits = (
                type(call_id) is str
                and type(name) is str
                and type(arguments) is dict
                and type(raw) is dict
                and type(raw["token"]) is str
                and raw["tier"] in _TIERS
            )
        except (KeyError, TypeError):  # TypeError: a tier that has no hash
            fits = False
        if not fits:
            call = checked(params, messages.ToolExecuteParams)
            call_id, name, arguments, raw = call.call_id, call.tool, call.arguments, unstructure(call.context)
        tool = self._tools.get(name)
        if tool is None:
            return tool_failure(f"There is no tool {name!r}. Known: {', '.join(self._tools) or 'none'}.")
        slots = self._slots
        if slots.running < slots.size and not self._transport.congested:
            slots.running += 1
        else:
            await self._take_slot()
        if self._watch.asleep:
            self._watch.wake()
        context = None if tool.context is None else ToolContext(self._link, raw, call_id, name, slots)
        try:
            try:
                work = tool.call(arguments, context) if tool.is_plain else self._call_tool(tool, arguments, context)
            except InvalidData as error:
                return argument_failure(name, error)
            value = await work
            if type(value) is str and value.isascii():
                return {"content": value}  # most results; what else there is to see to costs 0.2 µs
            try:
                return tool_result(value)
            except EncodeError as error:
                return tool_failure(f"The result of {name} cannot be sent: {error}")
        except ToolError as error:
            return tool_failure(str(error))
        except BaseException as error:
            if _is_cancellation(error):
                raise
            return self._tool_broke(name, error)
        finally:
            if context is not None:
                context.close()
            slots.running -= 1
            if slots.queue:
                slots.hand_on()

    async def _take_slot(self) -> None:
        """Wait for a slot, and for the host to have read enough of what went before."""
        if self._slots.running < self._slots.size:
            self._slots.running += 1
        else:
            await self._slots.wait()
        try:
            await self._peer.drain()
        except BaseException:
            self._slots.release()
            raise

    def _call_tool(self, tool: ToolSpec, arguments: dict[str, Any], context: ToolContext | None) -> Awaitable[object]:
        """Call a tool that runs in a thread, or has a time limit."""
        values = tool.bind(arguments)
        if tool.context is not None:
            values[tool.context] = context
        return self._run_tool(tool, values)

    async def _run_tool(self, tool: ToolSpec, values: dict[str, Any]) -> object:
        limit = asyncio.timeout(tool.timeout)
        try:
            async with limit:
                return await (tool.fn(**values) if tool.is_async else self._threads.run(tool.fn, **values))
        except TimeoutError:
            if limit.expired():
                raise ToolError(f"{tool.name} was stopped: it took longer than {tool.timeout:g} s") from None
            raise

    def _tool_broke(self, name: str, error: BaseException) -> dict[str, Any]:
        internal = self.unexpected(error, f"The tool {name} failed")
        return tool_failure(internal.message, internal.data)

    # -- hooks ---------------------------------------------------------------------------------------------------------

    async def _hook(self, params: dict[str, Any]) -> object:
        call = checked(params, messages.HookParams)
        specs = self._app.hooks.get(call.hook, ())
        context = HookContext(self._link, unstructure(call.context), call.hook)
        value = call.input
        for spec in specs:
            decision = await self._decide(spec, call.hook, value, context)
            if isinstance(decision, Block):
                return blocked(decision)
            if decision is not None:
                value = decision
        return {"action": "continue"} if value is call.input else {"action": "modify", "patch": value}

    async def _decide(
        self, spec: ObserverSpec, hook: str, value: dict[str, Any], context: HookContext
    ) -> dict[str, Any] | Block | None:
        # A copy: what a handler changes in place is told from what came, and is no decision where it returns None.
        given = _fitted(spec, copied(value), f"the input does not fit the hook {hook!r}")
        try:
            return patched(hook, given, value, await self.observe(spec, given, context))
        except (TypeError, InvalidData, EncodeError) as error:
            raise self.unexpected(error, f"the {hook} hook {name_of(spec.fn)} gave a bad decision") from None

    # -- commands ------------------------------------------------------------------------------------------------------

    async def _command_execute(self, params: dict[str, Any]) -> object:
        call = checked(params, messages.CommandExecuteParams)
        command = self._app.commands.get(call.command)
        if command is None:
            raise InvalidParams(f"no command {call.command!r}", data={"known": list(self._app.commands)})
        arguments = call.arguments or {}
        try:
            values = command.bind(arguments)
        except InvalidData as error:
            raise InvalidParams(f"the arguments of {call.command} do not fit: {error}", data=_faults(error)) from None
        if command.context is not None:
            values[command.context] = CommandContext(self._link, unstructure(call.context), call.command, arguments)
        self._watch.wake()
        what = f"the command {call.command} failed"
        try:
            value = await (command.fn(**values) if command.is_async else self._threads.run(command.fn, **values))
        except ToolError as error:
            raise InternalError(str(error)) from None
        except BaseException as error:
            if _is_cancellation(error):
                raise
            raise self.unexpected(error, what) from None
        return command_result(value)

    async def _command_complete(self, params: dict[str, Any]) -> object:
        call = checked(params, messages.CommandCompleteParams)
        if call.command not in self._app.commands:
            raise InvalidParams(f"no command {call.command!r}", data={"known": list(self._app.commands)})
        spec = self._app.completers.get(call.command)
        if spec is None:
            return {"completions": []}
        context = CommandContext(self._link, unstructure(call.context), call.command, {})
        partial = _fitted(spec, call.partial, f"what was typed does not fit the completer of {call.command!r}")
        return completions_result(await self.observe(spec, partial, context))

    # -- providers -----------------------------------------------------------------------------------------------------

    async def _provider_complete(self, params: dict[str, Any]) -> object:
        call = checked(params, messages.ProviderCompleteParams)
        spec = self._app.providers.get(call.provider)
        if spec is None:
            raise InvalidParams(f"no provider {call.provider!r}", data={"known": list(self._app.providers)})
        request = _fitted(spec.observer, params, f"the request does not fit the provider {call.provider!r}")
        slots = self._slots
        await self._take_slot()
        self._watch.wake()
        raw = None if call.context is None else unstructure(call.context)
        fold = StreamFold()
        context = ProviderContext(self._link, raw, call.request_id, slots, fold=fold, streams=call.stream)
        stream = as_stream(spec, request, context)
        try:
            async for event in stream:
                await context.delta(event)  # type: ignore[arg-type]  # the fold checks it
            try:
                return fold.result()
            except EncodeError as error:  # most often the model was cut off within a tool call
                raise InternalError(f"the answer of provider {call.provider} cannot be put together: {error}") from None
        except RpcError:
            raise
        except BaseException as error:
            if _is_cancellation(error):
                raise
            raise self.unexpected(error, f"the provider {call.provider} failed") from None
        finally:
            try:
                # Its own `finally` runs now, not when the garbage is collected: it closes the upstream call.
                await stream.aclose()  # type: ignore[attr-defined]
            finally:
                context.close()
                slots.release()

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
        request = _fitted(spec, params, f"the request does not fit the OAuth handler of {call.provider!r}")
        # As in a completion, the host is told what the upstream said: a login that was denied is nobody's mistake.
        credentials = await self.observe(spec, request, ProviderContext(self._link, raw), crosses=RpcError)
        if not isinstance(credentials, messages.Credentials):
            got = type(credentials).__name__
            raise self.unexpected(
                TypeError(f"expected Credentials, got {got}"), f"the OAuth handler {name_of(spec.fn)} failed"
            )
        return unstructure(credentials)

    # -- what handlers share -------------------------------------------------------------------------------------------

    async def observe(
        self,
        spec: ObserverSpec,
        value: object,
        context: object,
        *,
        crosses: type[RpcError] | tuple[()] = (),
    ) -> object:
        """Call a handler of one value.

        Raises:
            InternalError: It raised; what it raised has been logged, and does not cross, unless it is a ``crosses``.
        """
        if self._watch.asleep:
            self._watch.wake()
        arguments = spec.arguments(value, context)
        try:
            return await (spec.fn(**arguments) if spec.is_async else self._threads.run(spec.fn, **arguments))
        except crosses:
            raise
        except BaseException as error:
            if _is_cancellation(error):
                raise
            raise self.unexpected(error, f"the {spec.name} handler {name_of(spec.fn)} failed") from None

    def unexpected(self, error: BaseException, what: str) -> InternalError:
        """The error that crosses for an exception nobody foresaw; its text only with ``App(expose_errors=True)``."""
        internal = unexpected(error, what)
        if self._app.expose_errors:
            return InternalError(f"{internal.message}: {type(error).__name__}: {error}", data=internal.data)
        return internal


def _is_cancellation(error: BaseException) -> bool:
    """Whether this very task is being cancelled: not where a handler awaited something else that was."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def checked(params: dict[str, Any], cls: Any) -> Any:
    """The params of a request as a record.

    Raises:
        InvalidParams: They do not fit; with every fault.
    """
    try:
        return structure(params, cls)
    except InvalidData as error:
        raise InvalidParams(f"invalid params: {error}", data=_faults(error)) from None


def _fitted(spec: ObserverSpec, value: object, what: str) -> Any:
    """The value that a handler takes, as it takes it."""
    try:
        return spec.convert(value)
    except InvalidData as error:
        raise InvalidParams(f"{what}: {error}", data=_faults(error)) from None


def _faults(error: InvalidData) -> dict[str, Any]:
    return {"errors": [fault.as_dict() for fault in error.told]}
