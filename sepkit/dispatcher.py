"""SEP's face of an App: binds one App to one Peer for the life of a connection.

handshake → method → handler → result, events, shutdown. The states, and what may be asked in each:

=========  ==========================================================================================
new        ``initialize`` and ``ping``; anything else is refused with -32600
starting   the lifespan is being entered; what comes in waits for it
ready      everything
ending     ``ping``; anything else is refused. Accepted calls finish, at most for the grace
=========  ==========================================================================================
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

import orjson

from sepkit.app import App
from sepkit.contexts import CommandContext, EventContext, HookContext, ProviderContext, TaskContext, ToolContext
from sepkit.errors import EncodeError, InternalError, InvalidData, InvalidParams, InvalidRequest, RpcError, ToolError
from sepkit.handlers import ObserverSpec, ToolSpec, as_stream
from sepkit.lanes import Mailbox, Slots
from sepkit.peer import Peer, RequestHandler, unexpected, unknown_method
from sepkit.results import (
    Block,
    Decision,
    argument_failure,
    command_result,
    completions_result,
    patched,
    tool_failure,
    tool_result,
)
from sepkit.services import Link
from sepkit.streams import StreamFold
from sepkit.tasks import Supervisor, TaskHealth, TaskRun, TaskSpec
from sepkit.threads import DaemonThreads
from sepkit.transports.base import Transport
from sepkit.watch import LoopWatch
from sepkit.wire import messages, methods
from sepkit.wire.converter import structure, unstructure

MAX_CONCURRENCY: Final = 256
MAX_WAITING: Final = 1024
GRACE: Final = 5.0
SHUTDOWN_GRACE: Final = 4.0  # the host waits 5 s for the answer and for the exit together

# What is kept of the grace for those that must be cancelled, for the lifespan's end, and for the last bytes.
_RESERVE: Final = 1.0

_TIERS: Final = ("event", "command")

_log = logging.getLogger("sepkit")


class Dispatcher:
    """Serves one App over one transport, once.

    Args:
        app: What is served.
        transport: Where the host is.
        max_concurrency: How many tool and provider calls run at once.
        max_waiting: How many more may wait; past that they are refused as overloaded.
        grace: Seconds that accepted calls have to finish, once the connection ends.
        on_ready: Called once when the handshake has been answered.
    """

    def __init__(
        self,
        app: App,
        transport: Transport,
        *,
        max_concurrency: int = MAX_CONCURRENCY,
        max_waiting: int = MAX_WAITING,
        grace: float = GRACE,
        on_ready: Callable[[Peer], None] | None = None,
    ) -> None:
        self._app = app
        self._on_ready = on_ready
        self._transport = transport
        self._grace = grace
        self._slots = Slots(max_concurrency, max_waiting)
        self._threads = DaemonThreads()
        self._peer = Peer(transport, notifications={methods.EVENT: self._event}, on_end=self._input_ended)
        self._link = Link(app.name, self._peer)
        self._supervisor = Supervisor(self._launch_task, on_change=self._task_changed)
        self._registrations = app.registrations()
        self._mailboxes = {
            spec: Mailbox(f"{spec.name} handler {spec.fn.__name__}", self._observer(spec))
            for specs in app.events.values()
            for spec in specs
        }
        self._watch = LoopWatch(_handlers_by_code(app), self._busy)
        self._starting: asyncio.Future[None] | None = None  # done when the handshake has succeeded or failed
        self._lifespan: _Lifespan | None = None
        self._ended: asyncio.Event = asyncio.Event()
        self._ending = False
        self._failure: BaseException | None = None
        self._be_new()

    @property
    def peer(self) -> Peer:
        """The connection."""
        return self._peer

    def _busy(self) -> bool:
        return self._peer.busy or any(box.task for box in self._mailboxes.values()) or bool(self._app.tasks.status())

    # -- the life ------------------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Serve until the host ends it, or ``stop`` is called; everything has ended when this returns.

        Raises:
            Exception: What the lifespan raised at its start; the host has been told.
        """
        self._peer.start()
        try:
            await self._ended.wait()
        finally:
            if not self._ending:  # the caller cancelled
                await self._end(self._grace)
            self._watch.stop()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End as at end-of-file: what was accepted finishes, within the grace."""
        self._begin_end()

    def _input_ended(self, error: Exception | None) -> None:
        if error is not None:
            _log.info("the host is gone: %s", error)
            self._peer.cancel_all()  # nobody is left to read what they make
        self._begin_end()

    def _begin_end(self) -> None:
        if not self._ending:
            self._ending = True
            self._finishing = asyncio.get_running_loop().create_task(self._finish())

    async def _finish(self) -> None:
        try:
            await self._end(self._grace)
        finally:
            self._ended.set()

    async def _shutdown(self, params: dict[str, Any]) -> object:
        """The answer to ``shutdown`` is the last thing that the host reads."""
        if self._ending:
            raise InvalidRequest("already shutting down")
        self._ending = True
        await self._wind_down(min(self._grace, SHUTDOWN_GRACE))
        # Only now: a task that has not written its answer yet must not find the transport closed.
        asyncio.get_running_loop().call_soon(self._hang_up)
        return {}

    def _hang_up(self) -> None:
        self._finishing = asyncio.get_running_loop().create_task(self._close())

    async def _close(self) -> None:
        try:
            await _within(1.0, self._peer.aclose())
        finally:
            self._ended.set()

    async def _end(self, grace: float) -> None:
        self._ending = True
        await self._wind_down(grace)
        await _within(_RESERVE / 2, self._peer.aclose())

    async def _wind_down(self, grace: float) -> None:
        """Finish what was accepted, then end tasks, observers and the lifespan; all within ``grace`` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        self._peer.routes, self._peer.fallback = {methods.PING: self._ping}, _refuse_ending
        this = asyncio.current_task()
        stopping_tasks = loop.create_task(self._supervisor.aclose(max(0.0, grace - _RESERVE)))
        idle = await self._peer.wait_idle(grace - _RESERVE, except_for=this)
        observing = [box.task for box in self._mailboxes.values() if box.task is not None]
        if observing:
            await asyncio.wait(observing, timeout=max(0.0, deadline - _RESERVE - loop.time()))
        if not idle:
            _log.warning("still running at the end of the grace, cancelled: %s", self._names_of_running(this))
            self._peer.cancel_all(except_for=this)
        for task in observing:
            task.cancel()
        if not idle:
            await self._peer.wait_idle(_RESERVE / 4, except_for=this)
        await asyncio.wait([stopping_tasks], timeout=max(0.0, deadline - _RESERVE / 2 - loop.time()))
        if self._lifespan is not None:
            await self._lifespan.leave(max(0.1, deadline - _RESERVE / 4 - loop.time()))
        self._app.tasks.bind(None)
        if stuck := self._threads.running:
            _log.warning("left behind in their threads: %s", ", ".join(stuck))

    def _names_of_running(self, except_for: asyncio.Task[Any] | None) -> str:
        names = []
        for task, method, params in self._peer.working_on:
            if task is not except_for:
                subject = (
                    params.get("tool") or params.get("command") or params.get("hook") or params.get("provider") or ""
                )
                names.append(f"{method} {subject}".strip())
        return ", ".join(names)

    # -- the states ----------------------------------------------------------------------------------------------------

    def _be_new(self) -> None:
        self._starting = None
        self._peer.routes = {methods.INITIALIZE: self._initialize, methods.PING: self._ping}
        self._peer.fallback = _refuse_new

    def _be_starting(self) -> None:
        self._starting = asyncio.get_running_loop().create_future()
        self._peer.routes = {methods.PING: self._ping, methods.INITIALIZE: _refuse_second}
        self._peer.fallback = self._later

    def _be_ready(self) -> None:
        self._peer.routes = {
            methods.TOOL_EXECUTE: self._tool_execute,
            methods.HOOK: self._hook,
            methods.COMMAND_EXECUTE: self._command_execute,
            methods.COMMAND_COMPLETE: self._command_complete,
            methods.PROVIDER_COMPLETE: self._provider_complete,
            methods.PROVIDER_OAUTH_LOGIN: self._oauth_login,
            methods.PROVIDER_OAUTH_REFRESH: self._oauth_refresh,
            methods.PING: self._ping,
            methods.SHUTDOWN: self._shutdown,
            methods.INITIALIZE: _refuse_second,
        }
        self._peer.fallback = unknown_method

    def _later(self, method: str) -> RequestHandler:
        """The handler of a request that came while the lifespan was being entered."""

        async def wait(params: dict[str, Any]) -> object:
            assert self._starting is not None
            await asyncio.shield(self._starting)
            return await (self._peer.routes.get(method) or self._peer.fallback(method))(params)

        return wait

    # -- handshake -----------------------------------------------------------------------------------------------------

    def _initialize(self, params: dict[str, Any]) -> Coroutine[Any, Any, object]:
        # The state changes before the next frame is looked at, so that a call in the same write is no stranger.
        self._be_starting()
        return self._handshake(params)

    async def _handshake(self, params: dict[str, Any]) -> object:
        starting = self._starting
        assert starting is not None
        try:
            handshake = _checked(params, messages.InitializeParams)
            self._link.greet(handshake)
            self._app.set_flags(handshake.flags or {})
            self._app.tasks.bind(self._supervisor)
            if self._app.lifespan is not None:
                self._lifespan = _Lifespan(self._app)
                self._link.state = await self._lifespan.enter()
        except InvalidParams as error:
            self._be_new()
            starting.set_exception(InvalidRequest("the handshake failed"))
            starting.exception()  # nobody may be waiting
            raise error
        except Exception as error:
            # An extension that could not start serves nobody: answer, then end.
            self._failure = error
            starting.set_exception(InternalError("the extension could not start"))
            starting.exception()
            asyncio.get_running_loop().call_soon(self._begin_end)
            raise self._unexpected(error, "the extension's lifespan failed") from None
        if not self._ending:
            self._be_ready()
        starting.set_result(None)
        asyncio.get_running_loop().call_soon(self._after_handshake)
        return unstructure(
            messages.InitializeResult(
                protocol_version=min(handshake.protocol_version, methods.PROTOCOL_VERSION),
                extension=messages.ExtensionInfo(name=self._app.name, version=self._app.version),
                registrations=self._registrations,
            )
        )

    def _after_handshake(self) -> None:
        if self._on_ready is not None:
            self._on_ready(self._peer)
        if not self._ending:
            self._supervisor.autostart(list(self._app.task_specs.values()))

    async def _ping(self, params: dict[str, Any]) -> object:
        return {}

    # -- tools ---------------------------------------------------------------------------------------------------------

    async def _tool_execute(self, params: dict[str, Any]) -> object:
        # The shape is checked by hand: the converter finds the same faults, at three times the price (1.5 µs).
        call_id, name, arguments = params.get("call_id"), params.get("tool"), params.get("arguments")
        raw = params.get("context")
        if not (
            type(call_id) is str
            and type(name) is str
            and type(arguments) is dict
            and type(raw) is dict
            and type(raw.get("token")) is str
            and raw.get("tier") in _TIERS
        ):
            checked = _checked(params, messages.ToolExecuteParams)
            call_id, name, arguments, raw = (
                checked.call_id,
                checked.tool,
                checked.arguments,
                unstructure(checked.context),
            )
        tool = self._app.tools.get(name)
        if tool is None:
            return tool_failure(f"There is no tool {name!r}. Known: {', '.join(self._app.tools) or 'none'}.")
        try:
            values = tool.bind(arguments)
        except InvalidData as error:
            return argument_failure(name, error)
        slots = self._slots
        if slots.running < slots.size and not self._transport.congested:
            slots.running += 1
        else:
            await self._take_slot()
        if self._watch.asleep:
            self._watch.wake()
        context = None
        if tool.context is not None:
            assert type(raw) is dict
            context = values[tool.context] = ToolContext(self._link, raw, call_id, name, slots)
        try:
            value = await (
                tool.fn(**values) if tool.is_async and tool.timeout is None else self._call_tool(tool, values)
            )
            return tool_result(value)
        except ToolError as error:
            return tool_failure(str(error))
        except EncodeError as error:
            return tool_failure(f"The result of {name} cannot be sent: {error}")
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            return self._tool_broke(name, error)
        finally:
            if context is not None:
                context.close()
            slots.release()

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

    async def _call_tool(self, tool: ToolSpec, values: dict[str, Any]) -> object:
        """Call a tool that runs in a thread, or has a time limit."""
        limit = asyncio.timeout(tool.timeout)
        try:
            async with limit:
                return await (tool.fn(**values) if tool.is_async else self._threads.run(tool.fn, **values))
        except TimeoutError:
            if limit.expired():
                raise ToolError(f"{tool.name} was stopped: it took longer than {tool.timeout:g} s") from None
            raise

    def _tool_broke(self, name: str, error: BaseException) -> dict[str, Any]:
        internal = self._unexpected(error, f"The tool {name} failed")
        return tool_failure(internal.message, internal.data)

    # -- hooks ---------------------------------------------------------------------------------------------------------

    async def _hook(self, params: dict[str, Any]) -> object:
        call = _checked(params, messages.HookParams)
        specs = self._app.hooks.get(call.hook, ())
        context = HookContext(self._link, unstructure(call.context), call.hook)
        value = call.input
        for spec in specs:
            # Each handler has a copy: what it changes in place and does not return is no decision.
            mine = orjson.loads(orjson.dumps(value)) if len(specs) > 1 else value
            decision = await self._decide(spec, call.hook, mine, context)
            if isinstance(decision, Block):
                return {"action": "block", "reason": decision.reason} if decision.reason else {"action": "block"}
            if decision is not None:
                value = decision
        return {"action": "continue"} if value is call.input else {"action": "modify", "patch": value}

    async def _decide(
        self, spec: ObserverSpec, hook: str, value: dict[str, Any], context: HookContext
    ) -> dict[str, Any] | Block | None:
        try:
            given = spec.convert(value)
        except InvalidData as error:
            raise InvalidParams(f"the input does not fit the hook {hook!r}: {error}", data=_faults(error)) from None
        try:
            return patched(hook, given, value, await self._call(spec, given, context))
        except (TypeError, InvalidData, EncodeError) as error:
            raise self._unexpected(error, f"the {hook} hook {spec.fn.__name__} gave a bad decision") from None

    # -- events --------------------------------------------------------------------------------------------------------

    def _event(self, params: dict[str, Any]) -> None:
        if self._starting is None or self._ending:
            _log.debug("ignored an event outside of the session")
            return
        try:
            event: messages.EventParams = structure(params, messages.EventParams)
        except InvalidData as error:
            _log.warning("ignored a malformed event: %s", error)
            return
        payload = event.payload
        for spec in self._app.events.get(event.event, ()):
            if spec.only is not None and spec.only != payload.get(
                "topic" if event.event == "bus/event" else "widget_id"
            ):
                continue
            self._mailboxes[spec].put((event, payload))

    def _observer(self, spec: ObserverSpec) -> Callable[[tuple[messages.EventParams, dict[str, Any]]], Any]:
        said: set[str] = set()
        what = f"the {spec.name} handler {spec.fn.__name__}"

        async def observe(item: tuple[messages.EventParams, dict[str, Any]]) -> None:
            event, payload = item
            assert self._starting is not None
            await asyncio.shield(self._starting)
            value = payload.get("payload", {}) if event.event == "bus/event" else payload
            try:
                context = EventContext(self._link, unstructure(event.context), event.event, event.seq)
                returned = await self._call(spec, spec.convert(value), context)
            except InvalidData as error:
                _log.warning("%s was not called: the payload does not fit: %s", what, error)
            except RpcError:
                return  # said, where it became one
            else:
                if isinstance(returned, Decision) and "decision" not in said:
                    said.add("decision")
                    _log.error(
                        "%s returned a %s, which nobody heeds: an event has already happened. Use @app.hook to decide.",
                        what,
                        type(returned).__name__,
                    )

        return observe

    # -- commands ------------------------------------------------------------------------------------------------------

    async def _command_execute(self, params: dict[str, Any]) -> object:
        call = _checked(params, messages.CommandExecuteParams)
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
            return command_result(
                await (command.fn(**values) if command.is_async else self._threads.run(command.fn, **values))
            )
        except ToolError as error:
            raise InternalError(str(error)) from None
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            raise self._unexpected(error, what) from None

    async def _command_complete(self, params: dict[str, Any]) -> object:
        call = _checked(params, messages.CommandCompleteParams)
        if call.command not in self._app.commands:
            raise InvalidParams(f"no command {call.command!r}", data={"known": list(self._app.commands)})
        spec = self._app.completers.get(call.command)
        if spec is None:
            return {"completions": []}
        context = CommandContext(self._link, unstructure(call.context), call.command, {})
        return completions_result(await self._call(spec, spec.convert(call.partial or ""), context))

    # -- providers -----------------------------------------------------------------------------------------------------

    async def _provider_complete(self, params: dict[str, Any]) -> object:
        call = _checked(params, messages.ProviderCompleteParams)
        spec = self._app.providers.get(call.provider)
        if spec is None:
            raise InvalidParams(f"no provider {call.provider!r}", data={"known": list(self._app.providers)})
        slots = self._slots
        await self._take_slot()
        self._watch.wake()
        context = ProviderContext(
            self._link,
            None if call.context is None else unstructure(call.context),
            call.request_id,
            slots,
            streams=bool(call.stream),
        )
        fold = StreamFold()
        request = params if spec.observer.convert(params) is params else call
        stream = as_stream(spec, request, context)
        try:
            async for event in stream:
                fold.add(event)
                await context.delta(event)  # type: ignore[arg-type]  # the fold has checked it
            return fold.result()
        except (RpcError, asyncio.CancelledError):
            raise
        except BaseException as error:
            raise self._unexpected(error, f"the provider {call.provider} failed") from None
        finally:
            slots.release()
            # Its own `finally` runs now, not when the garbage is collected: it closes the upstream call.
            await stream.aclose()  # type: ignore[attr-defined]

    async def _oauth_login(self, params: dict[str, Any]) -> object:
        return await self._oauth(self._app.oauth_logins, params)

    async def _oauth_refresh(self, params: dict[str, Any]) -> object:
        return await self._oauth(self._app.oauth_refreshes, params)

    async def _oauth(self, table: dict[str, ObserverSpec], params: dict[str, Any]) -> object:
        call = _checked(params, messages.OAuthParams)
        spec = table.get(call.provider)
        if spec is None:
            raise InvalidParams(f"no OAuth handler for provider {call.provider!r}", data={"known": list(table)})
        raw = None if call.context is None else unstructure(call.context)
        context = ProviderContext(self._link, raw, "", self._slots, streams=False)
        credentials = await self._call(spec, spec.convert(params), context)
        if not isinstance(credentials, messages.Credentials):
            got = type(credentials).__name__
            raise self._unexpected(
                TypeError(f"expected Credentials, got {got}"), f"the OAuth handler {spec.fn.__name__} failed"
            )
        return unstructure(credentials)

    # -- what handlers share -------------------------------------------------------------------------------------------

    async def _call(self, spec: ObserverSpec, value: object, context: object) -> object:
        """Call a handler of one value.

        Raises:
            InternalError: It raised; what it raised has been logged, and does not cross.
        """
        if self._watch.asleep:
            self._watch.wake()
        arguments = spec.arguments(value, context)
        try:
            return await (spec.fn(**arguments) if spec.is_async else self._threads.run(spec.fn, **arguments))
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            raise self._unexpected(error, f"the {spec.name} handler {spec.fn.__name__} failed") from None

    def _unexpected(self, error: BaseException, what: str) -> InternalError:
        internal = unexpected(error, what)
        if self._app.expose_errors:
            return InternalError(f"{internal.message}: {type(error).__name__}: {error}", data=internal.data)
        return internal

    # -- tasks ---------------------------------------------------------------------------------------------------------

    async def _launch_task(self, spec: TaskSpec, run: TaskRun) -> object:
        self._watch.wake()
        context = TaskContext(self._link, run)
        return await (spec.fn() if spec.context is None else spec.fn(**{spec.context: context}))

    def _task_changed(self, health: TaskHealth) -> None:
        # The exception's text stays here, as a tool's does; the supervisor has logged it with its traceback.
        error = health.error if self._app.expose_errors or health.error is None else health.error.partition(":")[0]
        _log.info("task %s: %s%s", health.task_id, health.status, f" ({error})" if error else "")


class _Lifespan:
    """An app's lifespan, entered and left in one task, as task groups and cancel scopes within it need."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._leave = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def enter(self) -> Any:
        """Enter it, and return what it yields."""
        entered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._task = asyncio.get_running_loop().create_task(self._run(entered), name="lifespan")
        return await entered

    async def _run(self, entered: asyncio.Future[Any]) -> None:
        assert self._app.lifespan is not None
        try:
            async with self._app.lifespan(self._app) as state:
                if not entered.done():
                    entered.set_result(state)
                await self._leave.wait()
        except BaseException as error:
            if entered.done():
                _log.error("the lifespan failed at its end", exc_info=error)
            else:
                entered.set_exception(_startable(error))

    async def leave(self, seconds: float) -> None:
        """Leave it; after ``seconds`` it is cancelled."""
        self._leave.set()
        if self._task is None:
            return
        _, left = await asyncio.wait([self._task], timeout=seconds)
        if left:
            _log.warning("the lifespan did not end within the grace")
            self._task.cancel()


def _startable(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")


def _checked(params: dict[str, Any], cls: Any) -> Any:
    try:
        return structure(params, cls)
    except InvalidData as error:
        raise InvalidParams(f"invalid params: {error}", data=_faults(error)) from None


def _faults(error: InvalidData) -> dict[str, Any]:
    return {"errors": [fault.as_dict() for fault in error.faults]}


async def _within(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    """Await ``work``; after ``seconds`` it is cancelled, which is no error."""
    task = asyncio.ensure_future(work)
    _, left = await asyncio.wait([task], timeout=seconds)
    if left:
        task.cancel()
        await asyncio.wait([task], timeout=0.1)


def _refuse_new(method: str) -> RequestHandler:
    raise InvalidRequest(f"{method!r} before the handshake; send initialize first")


def _refuse_ending(method: str) -> RequestHandler:
    raise InvalidRequest(f"{method!r} after the end; the extension is shutting down")


async def _refuse_second(params: dict[str, Any]) -> object:
    raise InvalidRequest("initialize was sent before")


def _handlers_by_code(app: App) -> dict[object, str]:
    """What the watch calls each handler by, if it finds its code on the loop's stack."""
    found: dict[object, str] = {}

    def add(what: str, fn: Any) -> None:
        code = getattr(fn, "__code__", None)
        if code is not None:
            found[code] = what

    for tool in app.tools.values():
        add(f"tool {tool.name}", tool.fn)
    for command in app.commands.values():
        add(f"command {command.name}", command.fn)
    for kind, table in (("hook", app.hooks), ("event", app.events)):
        for name, specs in table.items():
            for spec in specs:
                add(f"{kind} {name} handler {spec.fn.__name__}", spec.fn)
    for provider in app.providers.values():
        add(f"provider {provider.observer.name}", provider.observer.fn)
    for task in app.task_specs.values():
        add(f"task {task.name}", task.fn)
    return found
