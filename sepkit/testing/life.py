"""The life of a test host, in a running loop: begun, asked, ended, and what must fail the test told at its end.

The App is served by the real dispatcher, a real peer stands at the host's end, and real bytes go between them; only the
process and its pipes are missing. What the host asks is ``asking.py``; its answers come from ``sepkit.capabilities``,
which asks ``scripted.py`` what the test's author wants; ``seen.py`` keeps what the extension did, ``inspection.py``
finds what breaks the protocol.

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
from typing import Any, ClassVar, Final, TypeVar, get_args

from sepkit import __version__
from sepkit.app import App
from sepkit.capabilities.local.backend import LocalBackend
from sepkit.capabilities.services import Services
from sepkit.contexts.backend import Hidden
from sepkit.contexts.secrets import Secrets
from sepkit.errors import ConnectionClosed, InternalError, LifespanEnded, RequestTimeout, SepkitError, sayable_path
from sepkit.faces.sep.dispatcher import Dispatcher
from sepkit.faces.sep.link import SepLink
from sepkit.faces.sep.log import WireHandler
from sepkit.peer import Peer
from sepkit.router import closest
from sepkit.serving.logs import attach, detach
from sepkit.serving.served import GRACE, MAX_CONCURRENCY, Served
from sepkit.testing.asking import Asking, fitted
from sepkit.testing.clock import VirtualClockLoop
from sepkit.testing.faults import Faults
from sepkit.testing.inspection import InspectedTransport
from sepkit.testing.scripted import ExecScript, ScriptedDelegate, UiScript
from sepkit.testing.seen import Kept, KvInMemory
from sepkit.transports.memory import memory_pair
from sepkit.wire import messages, methods
from sepkit.wire.writing import to_json, unstructure

H = TypeVar("H", bound="AsyncHost")

_HANDSHAKE_SECONDS: Final = 10.0  # a host waits no longer
_END_SECONDS: Final = 20.0

_tokens = itertools.count(1)


class AsyncHost(Asking):
    """The host of one App, as coroutines of a running loop; its arguments are those of ``TestHost``."""

    def __init__(
        self,
        app: App,
        *,
        ui: UiScript = None,
        exec: ExecScript = None,  # noqa: A002  (so named on the wire)
        flags: Mapping[str, Any] | None = None,
        capabilities: Mapping[str, bool] | None = None,
        kv: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        secrets: Mapping[str, str] | None = None,
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
        token, faults = f"test-{next(_tokens)}", Faults()
        super().__init__(kv or {}, token=token, on_fault=faults.found)
        self.app: Final = app
        enabled = {"tasks": True, **(capabilities or {})}
        delegate = ScriptedDelegate(
            self, token=token, ui=ui, exec=exec, session_state=session_state, on_fault=faults.found
        )
        kept = Kept(self, allowed_tools)
        grants = {group: enabled.get(group) is not False for group in get_args(methods.CapabilityGroup)}
        self._services = Services(app.name, token, grants, delegate, KvInMemory(self), kept, kept.told)
        self._handshake: Final = messages.InitializeParams(
            protocol_version=methods.PROTOCOL_VERSION,
            host=messages.HostInfo(name="sepkit.testing", version=__version__),
            workspace=messages.WorkspaceInfo(root=sayable_path(os.path.abspath(workspace or "")), trusted=trusted),
            mode=mode or ("headless" if ui is None else "tui"),
            session=messages.SessionInfo(id="test"),
            ui_capabilities=delegate.shown,
            flags=dict(flags or {}),
            capabilities_enabled=enabled,
        )
        self._settings = dict(settings or {})
        self._secrets = Hidden(secrets or {})
        self._timeout = timeout
        self._max_concurrency = max_concurrency
        self._grace = grace
        self._log_level = log_level
        self._faults = faults
        self._seq = itertools.count(1)
        self._waiting: list[asyncio.Future[None]] = []
        self._log: _LogToHost | None = None
        self._peer: Peer | None = None  # made when the life begins, of which there is one
        self._closing: asyncio.Task[None] | None = None

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
        served = Served(
            self.app, max_concurrency=self._max_concurrency, backend=lambda: LocalBackend(self.app.name, None)
        )
        self._dispatcher = Dispatcher(served, theirs, grace=self._grace, on_ready=self._ready)
        if isinstance(self._loop, VirtualClockLoop):
            # It beats on the loop's clock, which would never stand still, and measures on the wall's.
            served.watch.stop()
        peer = self._peer = Peer(
            InspectedTransport(ours, self._faults.found, self._look),
            routes=self._services.routes(),
            notifications={
                **self._services.notifications(),
                methods.TOOL_UPDATE: self._updated,
                methods.PROVIDER_DELTA: self._streamed,
            },
        )
        self._serving = self._loop.create_task(self._dispatcher.serve(), name="sepkit test host")
        self._serving.add_done_callback(lambda _: self._look())
        peer.start()
        try:
            await self._keep(served)
            answer = await peer.request(methods.INITIALIZE, unstructure(self._handshake), timeout=_HANDSHAKE_SECONDS)
            result = fitted(answer, messages.InitializeResult)
            self._check_names()
        except BaseException as error:
            with contextlib.suppress(Exception):
                await self._end(ask=False)
            failure = self._failure()
            self._faults.tell(error)
            if isinstance(error, SepkitError) and failure is not None:
                raise error from failure
            raise
        self.extension: messages.ExtensionInfo = result.extension
        """The extension's name and version."""
        self.registrations = result.registrations or messages.Registrations()
        return self

    async def _keep(self, served: Served) -> None:
        """Keep the settings and secrets that are there at the beginning."""
        for name, value in self._settings.items():
            await served.backend.settings.set(name, to_json(value, f"settings= {name}"))
        for name in self._secrets.names:
            await Secrets(served.backend.secrets, None).set(name, self._secrets.find(name) or "")

    def _check_names(self) -> None:
        """Refuse the value of a flag or setting that the app does not declare: the test would show nothing."""
        given = (
            ("flag", self._handshake.flags, self.app.flag_defaults),
            ("setting", self._settings, self.app.settings),
        )
        for kind, values, declared in given:
            for name in values:
                if name not in declared:
                    raise ValueError(f"{kind}s=: the app declares no {kind} {name!r}{closest(name, declared)}")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._alive()
        try:
            if self._closing is None or not self._closing.done():
                await self._end(ask=True)
        except Exception as at_end:
            self._faults.found(at_end)
        finally:
            self._unlog()
        if isinstance(ended := self._failure(), LifespanEnded):
            self._faults.found(ended)
        self._faults.tell(error)

    def __await__(self: H) -> Generator[Any, None, H]:
        """``host = await TestHost(app)`` is ``async with`` without the block; end it with ``aclose``."""
        return self.__aenter__().__await__()

    async def aclose(self) -> None:
        """Shut the App down, as the end of the block does."""
        await self.__aexit__(None, None, None)

    async def _end(self, *, ask: bool) -> None:
        # In a task of its own: the caller may be cancelled meanwhile, or again and again as in a scope of anyio.
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

    def _ready(self, link: SepLink) -> None:
        self._log = _LogToHost(link, self._log_level)

    def _unlog(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    async def shutdown(self) -> None:
        """Ask the extension to end, and wait until it has."""
        self._alive()
        await self._end(ask=True)

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
        if not await self._dispatcher.wait_observed(max(0.0, deadline - self._loop.time())):
            raise RequestTimeout(f"the handlers of the event {name!r}", seconds)

    def _look(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


class _LogToHost:
    """``logging`` reaches the host, as under ``sepkit run``, until ``close``."""

    _open: ClassVar[int] = 0  # there may be several hosts, closed in any order
    _before: ClassVar[int] = logging.NOTSET  # the root logger's level, before the first of them
    _lowered: ClassVar[int] = logging.NOTSET  # and what they made of it

    def __init__(self, link: SepLink, level: int) -> None:
        root = logging.getLogger()
        self._handler = WireHandler(link, level)
        if not _LogToHost._open:
            _LogToHost._before = _LogToHost._lowered = root.level
        _LogToHost._open += 1
        attach(self._handler)
        if root.level > level:
            root.setLevel(level)
            _LogToHost._lowered = level

    def close(self) -> None:
        root = logging.getLogger()
        detach(self._handler)
        _LogToHost._open -= 1
        if not _LogToHost._open and root.level == _LogToHost._lowered:  # else somebody has set it meanwhile
            root.setLevel(_LogToHost._before)
