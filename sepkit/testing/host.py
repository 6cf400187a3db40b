"""``TestHost``: a host in memory for the tests of an extension's author.

The App is served by the real dispatcher, a real peer stands at the host's end, and real bytes go between them; only the
process and its pipes are missing. What the host answers is ``services.py``, what it watches for ``inspection.py``.

Source: docs/protocol.md, sections 2 to 8; docs/tasks.md, "On the wire".
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeVar

import attrs

from sepkit import __version__
from sepkit.app import App
from sepkit.errors import ConnectionClosed, InternalError, InvalidData, RequestTimeout, SepkitError
from sepkit.faces.sep.dispatcher import GRACE, MAX_CONCURRENCY, Dispatcher
from sepkit.peer import Peer
from sepkit.serving.logs import WireHandler
from sepkit.testing.clock import VirtualClockLoop
from sepkit.testing.inspection import InspectedTransport
from sepkit.testing.services import ExecScript, Seen, Services, UiScript
from sepkit.transports.memory import memory_pair
from sepkit.wire import messages, methods
from sepkit.wire.converter import structure, unstructure

if TYPE_CHECKING:
    from sepkit.testing.blocking import BlockingTestHost

H = TypeVar("H", bound="TestHost")
R = TypeVar("R")

OnUpdate = Callable[[messages.ToolUpdateParams], object]
OnDelta = Callable[[messages.StreamEvent], object]

_HANDSHAKE_SECONDS: Final = 10.0  # a host waits no longer
_END_SECONDS: Final = 20.0

_tokens = itertools.count(1)


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


class TestHost(Seen):
    """The host of one App, for tests: ``async with TestHost(app) as host``, or ``with`` where no loop runs.

    Within the block the handshake is done; at its end the App has been shut down, and its lifespan left. The block
    fails if the extension broke the protocol, or if ``ui``, ``exec`` or a callback raised; never in place of what was
    raised within it.

    Args:
        app: What is served.
        ui: Answers by kind, such as ``{"confirm": True, "select": "a", "input": "text"}``: a list is used up one after
            another, None is a dismissal, and a kind that asks and is not there cannot be shown. Or a function of the
            request, sync or async. None: nobody is there.
        exec: What commands end with, by ``"git status"`` or ``"git"``: an ``ExecRunResult``, what it printed, or a list
            of them. Or a function of the request, sync or async. What is not there is denied; None denies all.
        flags: Their values.
        capabilities: Groups of methods, switched on or off. ``tasks`` are on.
        kv: What the key-value store holds at the beginning.
        session_state: What ``ctx.session.state()`` gives.
        allowed_tools: The tools that may be active; None where all may.
        workspace: The root of the workspace; None for the current directory.
        trusted: Whether its user trusts it.
        mode: Where the host runs; by default ``"tui"`` with a ``ui``, else ``"headless"``.
        timeout: Seconds that an answer may take, where a call does not say.
        max_concurrency: How many tool and provider calls run at once.
        grace: Seconds that accepted calls have to finish at the end.
        log_level: What of ``logging`` is on ``.logs``: records of this level and above.
    """

    __test__: ClassVar[bool] = False  # to pytest, a name that begins with Test is a class of tests

    def __init__(
        self,
        app: App,
        *,
        ui: UiScript = None,
        exec: ExecScript = None,  # noqa: A002  (so named on the wire)
        flags: Mapping[str, Any] | None = None,
        capabilities: Mapping[str, bool] | None = None,
        kv: Mapping[str, Any] | None = None,
        session_state: Mapping[str, Any] | None = None,
        allowed_tools: Sequence[str] | None = None,
        workspace: str | os.PathLike[str] | None = None,
        trusted: bool = True,
        mode: methods.Mode | None = None,
        timeout: float = 120.0,
        max_concurrency: int = MAX_CONCURRENCY,
        grace: float = GRACE,
        log_level: int = logging.INFO,
    ) -> None:
        super().__init__(kv or {})
        self.app: Final = app
        enabled = {"tasks": True, **(capabilities or {})}
        self._token = f"test-{next(_tokens)}"
        self._services = Services(
            self,
            token=self._token,
            capabilities=enabled,
            ui=ui,
            exec=exec,
            session_state=session_state,
            allowed_tools=allowed_tools,
            on_fault=self._found,
        )
        self._handshake: Final = messages.InitializeParams(
            protocol_version=methods.PROTOCOL_VERSION,
            host=messages.HostInfo(name="sepkit.testing", version=__version__),
            workspace=messages.WorkspaceInfo(root=os.path.abspath(workspace or ""), trusted=trusted),
            mode=mode or ("headless" if ui is None else "tui"),
            session=messages.SessionInfo(id="test"),
            ui_capabilities=self._services.ui_capabilities,
            flags=dict(flags or {}),
            capabilities_enabled=enabled,
        )
        self._timeout = timeout
        self._max_concurrency = max_concurrency
        self._grace = grace
        self._log_level = log_level
        self._faults: list[BaseException] = []
        self._calls = itertools.count(1)
        self._seq = itertools.count(1)
        self._updates: dict[str, tuple[list[messages.ToolUpdateParams], OnUpdate | None]] = {}  # by call_id
        self._deltas: dict[str, tuple[list[messages.StreamEvent], OnDelta | None]] = {}  # by request_id
        self._waiting: list[asyncio.Future[None]] = []
        self._log: _LogToHost | None = None
        self._peer: Peer | None = None  # made when the life begins, of which there is one
        self._closing: asyncio.Task[None] | None = None
        self._blocking: BlockingTestHost | None = None

    # -- the life: nothing in it belongs to a task, so it may begin and end in different ones --------------------------

    async def __aenter__(self: H) -> H:
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                "TestHost runs on asyncio, and no asyncio loop runs here. Under anyio's pytest plugin choose its "
                "asyncio backend (a fixture `anyio_backend` that returns 'asyncio'); in a test without a loop write "
                "`with TestHost(app) as host`"
            ) from None
        if self._peer is not None:
            raise RuntimeError("a TestHost lives once; make another one for the same app")
        ours, theirs = memory_pair()
        self._dispatcher = Dispatcher(
            self.app, theirs, max_concurrency=self._max_concurrency, grace=self._grace, on_ready=self._ready
        )
        if isinstance(self._loop, VirtualClockLoop):
            # It beats on the loop's clock, which would never stand still, and measures on the wall's.
            self._dispatcher._watch.stop()
        peer = self._peer = Peer(
            InspectedTransport(ours, self._found, self._look),
            routes=self._services.routes(),
            notifications={
                **self._services.notifications(),
                methods.TOOL_UPDATE: self._updated,
                methods.PROVIDER_DELTA: self._streamed,
            },
        )
        self._serving = self._loop.create_task(self._dispatcher.serve(), name="sepkit test host")
        peer.start()
        try:
            answer = await peer.request(methods.INITIALIZE, unstructure(self._handshake), timeout=_HANDSHAKE_SECONDS)
            result = _fits(answer, messages.InitializeResult)
        except BaseException as error:
            with contextlib.suppress(Exception):
                await self._end(ask=False)
            failure = self._failure()
            self._tell_faults(error)
            if isinstance(error, SepkitError) and failure is not None:
                raise error from failure
            raise
        self.extension: messages.ExtensionInfo = result.extension
        """The extension's name and version."""
        self.registrations = result.registrations or messages.Registrations()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._alive()
        try:
            if self._closing is None or not self._closing.done():
                await self._end(ask=True)
        except Exception as at_end:
            self._faults.append(at_end)
        finally:
            self._unlog()
        self._tell_faults(error)

    def __await__(self: H) -> Generator[Any, None, H]:
        """``host = await TestHost(app)`` is ``async with`` without the block; end it with ``aclose``."""
        return self.__aenter__().__await__()

    async def aclose(self) -> None:
        """Shut the App down, as the end of the block does."""
        await self.__aexit__(None, None, None)

    async def _end(self, *, ask: bool) -> None:
        # In a task of its own: who ends it may be cancelled meanwhile, or again and again as in a scope of anyio.
        if self._closing is None:
            self._closing = self._loop.create_task(self._close(ask), name="sepkit test host, closing")
        await asyncio.shield(self._closing)

    async def _close(self, ask: bool) -> None:
        assert self._peer is not None
        try:
            if ask and not self._serving.done():
                with contextlib.suppress(ConnectionClosed):
                    await self._peer.request(methods.SHUTDOWN, {}, timeout=self._grace + _END_SECONDS)
            if not ask:
                self._dispatcher.stop()
            _, left = await asyncio.wait([self._serving], timeout=self._grace + _END_SECONDS)
            if left:
                self._serving.cancel()
                raise InternalError(f"the extension has not ended within {self._grace + _END_SECONDS:g} s")
        finally:
            self._unlog()
            await self._peer.aclose()

    def _failure(self) -> BaseException | None:
        """What kept the extension from starting."""
        return self._serving.exception() if self._serving.done() and not self._serving.cancelled() else None

    def _ready(self, peer: Peer) -> None:
        self._log = _LogToHost(peer, self._log_level)

    def _unlog(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def _found(self, fault: BaseException) -> None:
        self._faults.append(fault)

    def _tell_faults(self, error: BaseException | None) -> None:
        """Raise the first of what must fail the test; what the block itself has raised is only noted on."""
        faults, self._faults = self._faults, []
        if error is None and faults:
            error, faults = faults[0], faults[1:]
            for fault in faults:
                error.add_note(f"And besides: {fault}")
            raise error
        if error is not None:
            for fault in faults:
                error.add_note(f"The TestHost adds: {fault}")

    def __enter__(self) -> BlockingTestHost:
        return self.blocking()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._blocking is not None
        self._blocking.__exit__(kind, error, traceback)

    def blocking(self) -> BlockingTestHost:
        """Begin in a thread of its own; what comes back has the same methods, without ``await``. ``close`` ends it."""
        from sepkit.testing.blocking import BlockingTestHost

        self._blocking = BlockingTestHost(self)
        return self._blocking

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
            result = _fits(await self._ask(methods.TOOL_EXECUTE, params, timeout), messages.ToolExecuteResult)
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
            RpcError: There is no such hook, or it failed.

        Source: docs/protocol.md, section 6.
        """
        params = {"hook": name, "context": self._context(), "input": dict(input)}
        union: Any = messages.HookOutcome
        outcome: messages.HookOutcome = _fits(await self._ask(methods.HOOK, params, timeout), union)
        return outcome

    async def run_command(
        self, name: str, arguments: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> str | None:
        """Run a command, its name without the slash; what it shows in the session.

        Raises:
            RpcError: There is no such command, the arguments do not fit, or it failed.

        Source: docs/protocol.md, section 3, ``command/execute``.
        """
        params = {"command": name, "context": self._context(), "arguments": dict(arguments or {})}
        answer = await self._ask(methods.COMMAND_EXECUTE, params, timeout)
        return _fits(answer, messages.CommandExecuteResult).content

    async def complete_command(
        self, name: str, partial: str = "", *, timeout: float | None = None
    ) -> list[messages.Completion]:
        """The ways to complete what was typed after a command.

        Raises:
            RpcError: There is no such command, or its completer failed.

        Source: docs/protocol.md, section 3, ``command/complete``.
        """
        params = {"command": name, "context": self._context(), "partial": partial}
        answer = await self._ask(methods.COMMAND_COMPLETE, params, timeout)
        return _fits(answer, messages.CommandCompleteResult).completions

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
            tools: Likewise.
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
        result = _fits(answer, _ProviderResult)
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
        return _fits(await self._ask(methods.PROVIDER_OAUTH_LOGIN, params, timeout), messages.Credentials)

    async def oauth_refresh(
        self, provider: str, refresh_token: str, *, timeout: float | None = None
    ) -> messages.Credentials:
        """Get newer credentials of a provider.

        Raises:
            RpcError: The provider cannot refresh, or failed.

        Source: docs/protocol.md, section 3, ``provider/oauth_refresh``.
        """
        params = {"provider": provider, "refresh_token": refresh_token, "context": self._context()}
        return _fits(await self._ask(methods.PROVIDER_OAUTH_REFRESH, params, timeout), messages.Credentials)

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
        return _fits(await self._ask(methods.TASK_START, params, timeout), messages.TaskHealth)

    async def stop_task(self, id: str, *, timeout: float | None = None) -> messages.TaskHealth:  # noqa: A002
        """Stop a background task, and wait until it has ended; how it is then.

        Raises:
            InvalidParams: No task was started under this id.

        Source: docs/tasks.md, "On the wire".
        """
        return _fits(await self._ask(methods.TASK_STOP, {"task_id": id}, timeout), messages.TaskHealth)

    async def list_tasks(self, *, timeout: float | None = None) -> list[messages.TaskHealth]:
        """The background tasks that were started.

        Source: docs/tasks.md, "On the wire".
        """
        return _fits(await self._ask(methods.TASK_LIST, {}, timeout), messages.TaskListResult).tasks

    async def ping(self, *, timeout: float | None = None) -> None:
        """Wait for a sign of life: what was sent before has been read, and what was written before has come."""
        await self._ask(methods.PING, {}, timeout)

    async def shutdown(self) -> None:
        """Ask the extension to end, and wait until it has."""
        self._alive()
        await self._end(ask=True)

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

    async def until(self, found: Callable[[], object], *, timeout: float | None = None) -> None:
        """Wait until ``found()`` is true; it is asked now, and again whenever something has come from the extension.

        Raises:
            TimeoutError: It was not, within ``timeout`` seconds.
            ConnectionClosed: The extension has ended first.
        """
        self._alive()
        seconds = self._timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(seconds):
                while not found():
                    if self._serving.done():
                        raise ConnectionClosed("the extension has ended, and nothing more will come from it")
                    waiter: asyncio.Future[None] = self._loop.create_future()
                    self._waiting.append(waiter)
                    await waiter
        except TimeoutError:
            raise TimeoutError(f"until({getattr(found, '__name__', found)}): not within {seconds:g} s") from None

    # -- how -----------------------------------------------------------------------------------------------------------

    def _context(self, tier: Literal["command", "event"] = "command") -> dict[str, Any]:
        return {"token": self._token, "tier": tier}

    def _alive(self) -> Peer:
        if self._peer is None:
            raise RuntimeError("this TestHost has not begun; write `async with TestHost(app) as host`")
        return self._peer

    async def _ask(self, method: str, params: dict[str, Any], timeout: float | None) -> Any:
        return await self._alive().request(method, params, timeout=self._timeout if timeout is None else timeout)

    async def _tell(
        self, name: str, payload: dict[str, Any], *, seq: int | None, wait: bool, timeout: float | None
    ) -> None:
        params: dict[str, Any] = {"event": name, "context": self._context("event"), "payload": payload}
        if name != "events_lost":
            params["seq"] = next(self._seq) if seq is None else seq
        if not self._alive().notify(methods.EVENT, params):
            raise ConnectionClosed(f"the event {name!r}: the connection has ended")
        if not wait:
            return
        seconds = self._timeout if timeout is None else timeout
        deadline = self._loop.time() + seconds
        await self.ping(timeout=seconds)  # then it has been read, and is being handled
        handling = self._dispatcher._observers.running
        if handling:
            _, left = await asyncio.wait(handling, timeout=max(0.0, deadline - self._loop.time()))
            if left:
                raise RequestTimeout(f"the handlers of the event {name!r}", seconds)

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
                self._found(error)

    def _look(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


_ProviderResult = messages.ProviderCompleteResult  # where a parameter is named `messages`


class _LogToHost:
    """``logging`` reaches the host, as under ``sepkit run``, until ``close``."""

    _open: ClassVar[int] = 0  # there may be several hosts, closed in any order
    _before: ClassVar[int] = logging.NOTSET  # the root logger's level, before the first of them
    _lowered: ClassVar[int] = logging.NOTSET  # and what they made of it

    def __init__(self, peer: Peer, level: int) -> None:
        root = logging.getLogger()
        self._handler = WireHandler(peer, level)
        if not _LogToHost._open:
            _LogToHost._before = _LogToHost._lowered = root.level
        _LogToHost._open += 1
        root.addHandler(self._handler)
        if root.level > level:
            root.setLevel(level)
            _LogToHost._lowered = level

    def close(self) -> None:
        root = logging.getLogger()
        root.removeHandler(self._handler)
        _LogToHost._open -= 1
        if not _LogToHost._open and root.level == _LogToHost._lowered:  # else somebody has set it meanwhile
            root.setLevel(_LogToHost._before)


def _fits(answer: object, record: type[R]) -> R:
    """The extension's answer as a record. What it lacks has been told as a violation."""
    try:
        made: R = structure(answer, record)
    except InvalidData as error:
        raise InternalError(f"the extension's answer does not fit the protocol: {error}") from None
    return made
