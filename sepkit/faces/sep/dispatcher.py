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

import attrs

from sepkit.app import App
from sepkit.concurrency.lanes import Slots
from sepkit.concurrency.threads import DaemonThreads
from sepkit.concurrency.watch import LoopWatch
from sepkit.contexts.contexts import TaskContext
from sepkit.contexts.services import Link
from sepkit.errors import InternalError, InvalidParams, InvalidRequest
from sepkit.faces.sep.tasks import TaskCalls
from sepkit.handlers import name_of
from sepkit.peer import Peer, RequestHandler, unknown_method
from sepkit.serving.calls import Calls, checked
from sepkit.serving.lifespan import Lifespan
from sepkit.serving.observers import Observers
from sepkit.tasks import Supervisor, TaskRun, TaskSpec
from sepkit.transports.base import Transport
from sepkit.wire import messages, methods
from sepkit.wire.writing import unstructure

MAX_CONCURRENCY: Final = 256
MAX_WAITING: Final = 1024
GRACE: Final = 5.0
SHUTDOWN_GRACE: Final = 4.0  # the host waits 5 s for the answer and for the exit together

# What is kept of the grace for those that must be cancelled, for the lifespan's end, and for the last bytes.
_RESERVE: Final = 1.0

_log = logging.getLogger("sepkit")


class Dispatcher:
    """Serves one App over one transport, once.

    Args:
        app: What is served.
        transport: Where the host is.
        max_concurrency: How many tool and provider calls run at once.
        max_waiting: How many more may wait; past that they are refused as overloaded.
        grace: Seconds that accepted calls have to finish, once the connection ends.
        on_ready: Called once when the handshake has succeeded, right before it is answered: it sends nothing itself.
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
        self._grace = grace
        self._threads = DaemonThreads()
        self._handlers_by_code = _handlers_by_code(app)
        self._watch = LoopWatch(self._handlers_by_code, self._busy)
        self._peer = Peer(transport, notifications={methods.EVENT: self._event}, on_end=self._input_ended)
        self._link = Link(app.name, self._peer)
        self._calls = Calls(app, self._link, Slots(max_concurrency, max_waiting), self._threads, self._watch)
        self._observers = Observers(app, self._link, self._calls)
        self._task_calls = TaskCalls(app, self._peer)
        self._supervisor = Supervisor(
            self._launch_task, on_change=self._task_calls.changed, on_report=self._task_calls.reported
        )
        app.registrations()  # what is wrong with them is said before there is a host
        self._starting: asyncio.Future[None] | None = None  # done when the handshake has succeeded or failed
        self._lifespan: Lifespan | None = None
        self._ended: asyncio.Event = asyncio.Event()
        self._ending = False
        self._failure: BaseException | None = None
        self._ready: dict[str, RequestHandler] = {
            **self._calls.routes(),
            methods.PING: self._ping,
            methods.SHUTDOWN: self._shutdown,
            methods.INITIALIZE: _refuse_second,
        }
        self._be_new()

    @property
    def peer(self) -> Peer:
        """The connection."""
        return self._peer

    def _busy(self) -> bool:
        return self._peer.busy or bool(self._observers.running) or self._supervisor.busy

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

    def _shutdown(self, params: dict[str, Any]) -> Coroutine[Any, Any, object]:
        # The state changes before the next frame is looked at, and before end-of-file, as at the handshake.
        is_first, self._ending = not self._ending, True
        self._refuse_more()
        return self._shut_down() if is_first else self._end_too()

    async def _shut_down(self) -> object:
        """The answer to ``shutdown`` is the last thing that the host reads."""
        # In a task of its own: a host that cancels its `shutdown` gets its answer, and the end goes on.
        loop = asyncio.get_running_loop()
        grace = min(self._grace, SHUTDOWN_GRACE)
        deadline = loop.time() + grace
        winding_down = self._finishing = loop.create_task(self._wind_down(grace, asyncio.current_task()))
        try:
            await asyncio.shield(winding_down)
        finally:
            # Only in a later turn: a task that has not written its answer yet must not find the transport closed.
            winding_down.add_done_callback(lambda _: self._hang_up(deadline))
        return {}

    async def _end_too(self) -> object:
        """A ``shutdown`` that waited for the handshake, and meanwhile the end has begun without it."""
        await self._peer.wait_idle(SHUTDOWN_GRACE, except_for=asyncio.current_task())
        return {}

    def _hang_up(self, deadline: float) -> None:
        self._finishing = asyncio.get_running_loop().create_task(self._close(deadline))

    async def _close(self, deadline: float) -> None:
        """Let the host read what waits for it, then close."""
        left = deadline - asyncio.get_running_loop().time()
        try:
            await _within(max(_RESERVE / 2, left), self._peer.aclose())
        finally:
            self._ended.set()

    async def _end(self, grace: float) -> None:
        self._ending = True
        deadline = asyncio.get_running_loop().time() + grace
        await self._wind_down(grace)
        await self._close(deadline)

    def _refuse_more(self) -> None:
        self._peer.routes, self._peer.fallback = {methods.PING: self._ping}, _refuse_ending

    async def _wind_down(self, grace: float, asking: asyncio.Task[Any] | None = None) -> None:
        """Finish what was accepted, then end tasks, observers and the lifespan; all within ``grace`` seconds.

        ``asking`` is who asked for it, and is not waited for.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        reserve = min(_RESERVE, grace / 2)
        self._refuse_more()
        stopping_tasks = loop.create_task(self._supervisor.aclose(grace - reserve))
        idle = await self._peer.wait_idle(grace - reserve, except_for=asking)
        observing = self._observers.running
        if observing:
            await asyncio.wait(observing, timeout=max(0.0, deadline - reserve - loop.time()))
        if not idle:
            _log.warning("still running at the end of the grace, cancelled: %s", self._names_of_running(asking))
            self._peer.cancel_all(except_for=asking)
        for task in observing:
            task.cancel()
        if not idle:
            await self._peer.wait_idle(reserve / 4, except_for=asking)
        await asyncio.wait([stopping_tasks], timeout=max(0.0, deadline - reserve / 2 - loop.time()))
        self._task_calls.close()
        if self._lifespan is not None:
            await self._lifespan.leave(max(0.1, deadline - reserve / 4 - loop.time()))
        self._app.tasks.bind(None)
        self._app.told(None)
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
        self._starting = self._observers.started = asyncio.get_running_loop().create_future()
        self._peer.routes = {methods.PING: self._ping, methods.INITIALIZE: _refuse_second}
        self._peer.fallback = self._later

    def _be_ready(self) -> None:
        if not self._ending:
            self._peer.routes, self._peer.fallback = self._ready, unknown_method

    def _later(self, method: str) -> RequestHandler:
        """The handler of a request that came while the lifespan was being entered."""
        starting = self._starting
        assert starting is not None

        async def wait(params: dict[str, Any]) -> object:
            await asyncio.shield(starting)
            # Not the peer's routes: the end may have begun meanwhile, but this one was accepted before it.
            return await (self._ready.get(method) or unknown_method(method))(params)

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
            handshake: messages.InitializeParams = checked(params, messages.InitializeParams)
            self._link.greet(handshake)
            self._app.handshake = handshake
            self._app.set_flags(handshake.flags or {})
            self._app.tasks.bind(self._supervisor)
            if self._app.lifespan is not None:
                self._lifespan = Lifespan(self._app)
                self._link.state = await self._lifespan.enter()
            answer = self._introduction(handshake)
        except (InvalidParams, asyncio.CancelledError):
            if not self._ending:  # the host may try again
                self._be_new()
            starting.set_exception(InvalidRequest("the handshake failed"))
            starting.exception()  # nobody may be waiting
            raise
        except Exception as error:
            # An extension that could not start serves nobody: answer, then end.
            self._failure = error
            starting.set_exception(InternalError("the extension could not start"))
            starting.exception()
            asyncio.get_running_loop().call_soon(self._begin_end)
            raise self._calls.unexpected(error, "the extension's lifespan failed") from None
        self._be_ready()
        starting.set_result(None)
        if self._on_ready is not None:  # nothing of the author's runs between this and the answer
            self._on_ready(self._peer)
        asyncio.get_running_loop().call_soon(self._autostart)
        return answer

    def _introduction(self, handshake: messages.InitializeParams) -> object:
        """The answer to ``initialize``; what is registered from now on goes out in updates."""
        registrations = self._app.registrations()  # the lifespan may have added some
        if handshake.capabilities_enabled.get("tasks"):
            registrations = attrs.evolve(registrations, tasks=self._app.task_registrations())
            self._ready.update(self._task_calls.routes(self._supervisor))
        self._app.told(self._registered)
        self._handlers_by_code.update(_handlers_by_code(self._app))
        return unstructure(
            messages.InitializeResult(
                protocol_version=min(handshake.protocol_version, methods.PROTOCOL_VERSION),
                extension=messages.ExtensionInfo(name=self._app.name, version=self._app.version),
                registrations=registrations,
            )
        )

    def _registered(self, update: messages.RegistryUpdateParams) -> None:
        self._handlers_by_code.update(_handlers_by_code(self._app))
        self._peer.notify(methods.REGISTRY_UPDATE, unstructure(update))

    def _autostart(self) -> None:
        if not self._ending:
            self._task_calls.begin([health for health in self._supervisor.status() if health.status != "pending"])
            self._supervisor.autostart(list(self._app.task_specs.values()))

    async def _ping(self, params: dict[str, Any]) -> object:
        return {}

    # -- events and tasks --------------------------------------------------------------------------------------------

    def _event(self, params: dict[str, Any]) -> None:
        if self._starting is None or self._ending:
            _log.debug("ignored an event outside of the session")
        else:
            self._observers.take(params)

    async def _launch_task(self, spec: TaskSpec, run: TaskRun) -> object:
        self._watch.wake()
        context = TaskContext(self._link, run)
        return await (spec.fn() if spec.context is None else spec.fn(**{spec.context: context}))


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
                add(f"{kind} {name} handler {name_of(spec.fn)}", spec.fn)
    for provider in app.providers.values():
        add(f"provider {provider.observer.name}", provider.observer.fn)
    for task in app.task_specs.values():
        add(f"task {task.name}", task.fn)
    return found
