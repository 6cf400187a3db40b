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
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args

from sepkit import __version__
from sepkit.app import App
from sepkit.capabilities.local.backend import LocalBackend
from sepkit.capabilities.services import Services
from sepkit.concurrency.cancelling import cancel
from sepkit.contexts.backend import Hidden, Principal
from sepkit.contexts.contexts import CommandContext
from sepkit.contexts.secrets import Secrets
from sepkit.errors import (
    ConnectionClosed,
    InternalError,
    InvalidParams,
    LifespanEnded,
    RequestTimeout,
    SepkitError,
    sayable_path,
)
from sepkit.faces.sep.dispatcher import Dispatcher
from sepkit.faces.sep.link import SepLink
from sepkit.peer import Peer
from sepkit.router import closest
from sepkit.serving.served import GRACE, MAX_CONCURRENCY, Served
from sepkit.testing.asking import Asking, fitted
from sepkit.testing.clock import VirtualClockLoop, WallClock
from sepkit.testing.faults import Faults
from sepkit.testing.inspection import InspectedTransport
from sepkit.testing.logs import LogToHost
from sepkit.testing.scripted import ExecScript, FetchScript, ScriptedDelegate, UiScript
from sepkit.testing.seen import Kept, KvInMemory
from sepkit.transports.memory import memory_pair
from sepkit.wire import messages, methods
from sepkit.wire.writing import to_json, unstructure

if TYPE_CHECKING:
    import httpx

    from sepkit.content import Contents, PromptMessage

H = TypeVar("H", bound="AsyncHost")
R = TypeVar("R")

Users = Mapping[str, Mapping[str, str]] | Sequence[str]
"""The ids of users, or what a host tells of each."""

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
        fetch: FetchScript = None,
        flags: Mapping[str, Any] | None = None,
        capabilities: Mapping[str, bool] | None = None,
        kv: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        secrets: Mapping[str, str] | None = None,
        session_state: Mapping[str, Any] | None = None,
        allowed_tools: Sequence[str] | None = None,
        workspace: str | os.PathLike[str] | None = None,
        trusted: bool = True,
        user: str | None = None,
        users: Users = (),
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
        self._network: Final = partial(_network, self, fetch, delegate)
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
        self._principal = None if user is None else Principal(user)
        self._profiles = _profiles(users, user)
        self._settings = dict(settings or {})
        self._secrets = Hidden(secrets or {})
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
        self._link: SepLink | None = None
        self._log: LogToHost | None = None
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
            backend=lambda: LocalBackend(
                self.app.name,
                None,
                profiles=self._profiles,
                needs=self.app.needs,
                transport=self._network,
            ),
            clock=self._wall.time,
            tick=math.inf,
        )
        self._dispatcher = Dispatcher(
            served, theirs, grace=self._grace, on_ready=self._ready, principal=self._principal
        )
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

    # -- what SEP has no method for ------------------------------------------------------------------------------------

    async def read_resource(self, uri: str, *, timeout: float | None = None) -> Contents:
        """Read a resource, as a host that knows resources does. SEP has none, so that nothing goes over the wire.

        Args:
            uri: A URI, or one that a template matches.
            timeout: Seconds until it is cancelled.

        Returns:
            Its ``data`` (a str, or bytes), and its ``mime``.

        Raises:
            InvalidParams: No resource has this URI, or a variable does not fit.
            RequestTimeout: It took too long, and has been cancelled.
            RpcError: It failed.
        """
        from sepkit.resources import find

        found = find(self.app.resources, uri)
        if found is None:
            known = ", ".join(spec.uri for spec in self.app.resources.values()) or "none"
            raise InvalidParams(f"no resource has the URI {uri!r}; known: {known}")
        spec, arguments = found
        link = self._open_link()
        work = self._served.calls.resource(spec, arguments, uri, self._context(), link)
        return await self._directly(work, link, f"the resource {uri}", timeout)

    async def get_prompt(
        self, name: str, arguments: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> list[PromptMessage]:
        """The messages of a prompt, as a host that knows prompts gets them; under SEP it is a command.

        Args:
            name: The prompt's name, or that of a command that is exposed as one.
            arguments: As a person fills them in.
            timeout: Seconds until it is cancelled.

        Raises:
            InvalidParams: There is no such prompt, or the arguments do not fit.
            RequestTimeout: It took too long, and has been cancelled.
            RpcError: It failed.
        """
        from sepkit.content import message_block

        def checked(messages: list[PromptMessage]) -> object:
            for message in messages:
                message_block(message)  # what can't be sent fails here, too
            return messages

        prompts = {spec.name: spec for spec in self.app.exposed("prompt")}
        if name not in prompts:
            raise InvalidParams(f"there is no prompt {name!r}{closest(name, prompts)}")
        link = self._open_link()
        context = CommandContext[Any](link, self._context(), name, dict(arguments or {}))
        work = self._served.calls.prompt(prompts[name], context, checked)
        found: Any = await self._directly(work, link, f"the prompt {name}", timeout)
        return list(found)

    def _open_link(self) -> SepLink:
        self._alive()
        if self._link is None or self._serving.done():
            raise ConnectionClosed("the extension has ended")
        return self._link

    async def _directly(self, work: Coroutine[Any, Any, R], link: SepLink, what: str, timeout: float | None) -> R:
        """What a call comes to that no frame asks for, in the connection's context."""
        seconds = self._timeout if timeout is None else timeout
        task = self._loop.create_task(work, name=what, context=self._served.context(link))
        try:
            await asyncio.wait([task], timeout=seconds)
            if not task.done():
                raise RequestTimeout(what, seconds)
            return task.result()
        finally:
            if not task.done():
                cancel(task)

    def _ready(self, link: SepLink) -> None:
        self._link = link
        self._log = LogToHost(link, self._log_level)

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

    @property
    def user(self) -> str | None:
        """Whom calls are made for, by id. Another one may be put here between calls: ``host.user = "bo"``."""
        return None if self._principal is None else self._principal.id

    @user.setter
    def user(self, user: str | None) -> None:
        self._alive()
        self._principal = self._dispatcher.link.principal = None if user is None else Principal(user)

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


def _profiles(users: Users, user: str | None) -> dict[str, Mapping[str, str]]:
    """The users of the host, with what it tells of each."""
    if isinstance(users, str):
        raise ValueError(f"users={users!r}: write a list of ids, [{users!r}], or a dict with what is known of each")
    profiles = dict(users) if isinstance(users, Mapping) else {one: {} for one in users}
    for one in profiles:
        Principal(one)
    return profiles if user is None else {user: {}, **profiles}


def _network(host: AsyncHost, script: FetchScript, delegate: ScriptedDelegate) -> httpx.AsyncBaseTransport:
    from sepkit.testing.fetching import ScriptedTransport  # needs httpx

    return ScriptedTransport(host, script, delegate.following, delegate.unforeseen)
