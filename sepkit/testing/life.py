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
import math
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, ClassVar, Final, TypeVar, get_args

from sepkit import __version__
from sepkit.app import App
from sepkit.capabilities.local.backend import LocalBackend
from sepkit.capabilities.services import Services
from sepkit.errors import ConnectionClosed, InternalError, LifespanEnded, RequestTimeout, SepkitError, sayable_path
from sepkit.faces.sep.dispatcher import Dispatcher
from sepkit.faces.sep.link import SepLink
from sepkit.faces.sep.log import WireHandler
from sepkit.peer import Peer
from sepkit.router import closest
from sepkit.serving.logs import attach, detach
from sepkit.serving.served import GRACE, MAX_CONCURRENCY, Served
from sepkit.testing.asking import Asking, fitted
from sepkit.testing.clock import VirtualClockLoop, WallClock
from sepkit.testing.faults import Faults
from sepkit.testing.inspection import InspectedTransport
from sepkit.testing.scripted import ExecScript, ScriptedDelegate, UiScript
from sepkit.testing.seen import Kept, KvInMemory
from sepkit.transports.memory import memory_pair
from sepkit.wire import messages, methods
from sepkit.wire.writing import unstructure

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
        session_state: Mapping[str, Any] | None = None,
        allowed_tools: Sequence[str] | None = None,
        workspace: str | os.PathLike[str] | None = None,
        trusted: bool = True,
        mode: methods.Mode | None = None,
        timeout: float = 120.0,
        max_concurrency: int = MAX_CONCURRENCY,
        grace: float = GRACE,
        log_level: int = logging.INFO,
        now: datetime | None = None,
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
        self._timeout = timeout
        self._max_concurrency = max_concurrency
        self._grace = grace
        self._log_level = log_level
        self._faults = faults
        if now is not None and now.tzinfo is None:
            raise ValueError(f"now={now.isoformat()} has no time zone; write datetime(…, tzinfo=UTC)")
        self._began_at = now
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
        began_at = time.time() if self._began_at is None else self._began_at.timestamp()
        self._wall = WallClock(self._loop, began_at)
        served = self._served = Served(
            self.app,
            max_concurrency=self._max_concurrency,
            backend=lambda: LocalBackend(self.app.name, None),
            clock=self._wall.time,
            tick=math.inf,
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
            answer = await peer.request(methods.INITIALIZE, unstructure(self._handshake), timeout=_HANDSHAKE_SECONDS)
            result = fitted(answer, messages.InitializeResult)
            self._check_flags()
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

    def _check_flags(self) -> None:
        """Refuse the value of a flag that the app does not declare: the test would show nothing."""
        declared = self.app.flag_defaults
        for flag in self._handshake.flags:
            if flag not in declared:
                raise ValueError(f"flags=: the app declares no flag {flag!r}{closest(flag, declared)}")

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

    # -- jobs ----------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """What the wall's clock shows here, in UTC. It goes as the loop's clock does, and ``advance`` sets it."""
        self._alive()
        return datetime.fromtimestamp(self._wall.time(), UTC)

    async def run_job(
        self, name: str, *, payload: Any = None, user_id: str | None = None, timeout: float | None = None
    ) -> messages.TaskHealth:
        """Run a job now, whatever its schedule, and wait until it has ended; how it was then.

        Args:
            name: The job's name.
            payload: What it is scheduled with.
            user_id: For whom it runs.
            timeout: Seconds until it must have ended.

        Returns:
            Its health: ``status`` is ``"stopped"``, or ``"failed"`` where it raised, with ``error``.

        Raises:
            InvalidParams: There is no such job.
            TimeoutError: It has not ended within ``timeout``.

        Source: docs/jobs.md.
        """
        begun = await self.start_task(name, payload=payload, user_id=user_id, timeout=timeout)
        ended: list[messages.TaskHealth] = []

        def has_ended() -> bool:
            told = self.task_updates
            ended[:] = [one for one in told if one.task_id == begun.task_id and one.status in ("stopped", "failed")]
            return bool(ended)

        await self.until(has_ended, timeout=timeout)
        return ended[-1]

    async def advance(self, seconds: float | timedelta, *, asleep: bool = False) -> None:
        """Let time pass, in which jobs run as they come due; those that were due have run, or begun, when it returns.

        On a virtual clock all timers run with it. On any other loop only the wall's clock is set, from one job to the
        next, and each job is waited for.

        Args:
            seconds: How much.
            asleep: The computer sleeps meanwhile: the wall's clock jumps, and the loop's stands still.

        Raises:
            TimeoutError: A job has not ended within the host's ``timeout``.

        Source: docs/jobs.md.
        """
        self._alive()
        left = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
        jobs = self._served.jobs if self.app.job_specs else None
        if jobs is not None:
            await jobs.looked()  # what repeats counts from its start, and not from later
        if isinstance(self._loop, VirtualClockLoop) and not asleep:
            await asyncio.sleep(left)
            if jobs is not None:
                await jobs.looked()
            return
        end = self._wall.time() + left
        while jobs is not None and not asleep:
            async with asyncio.timeout(self._timeout):
                await jobs.idle()
            due = jobs.next_due
            if due is None or due / 1000 > end:
                break
            self._wall.jump(max(0.0, due / 1000 - self._wall.time()))
        self._wall.jump(end - self._wall.time())
        if jobs is not None and isinstance(self._loop, VirtualClockLoop):
            await jobs.looked()
        elif jobs is not None:
            async with asyncio.timeout(self._timeout):
                await jobs.idle()

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
