"""One App being served in this process: what its connections share. It knows no wire.

Shared are the lifespan and what it yields, the background tasks, the threads of ``def`` handlers, the slots of running
calls, and the watch over the loop. What belongs to one connection (handshake, flags, mode, events) stays with its
:class:`~sepkit.contexts.link.Link`. A second Served of one App shares nothing with the first.

A connection goes through ``join``, ``start`` (its handshake), ``begin_leave`` and ``leave``. The last one to begin to
leave stops the tasks; the last one to leave ends the lifespan.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context, copy_context
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final

from sepkit.app import SERVING, App
from sepkit.concurrency.lanes import Slots
from sepkit.concurrency.threads import DaemonThreads
from sepkit.concurrency.watch import LoopWatch
from sepkit.contexts.backend import Backend, Principal
from sepkit.contexts.contexts import TaskContext
from sepkit.contexts.link import CURRENT_LINK, CURRENT_USER, HostInfo, Link, Outgoing
from sepkit.errors import ConnectionClosed, LifespanEnded, SepkitError
from sepkit.forks import end_if_child
from sepkit.handlers import name_of
from sepkit.ownlog import OwnLog
from sepkit.records import changed
from sepkit.router import Change
from sepkit.serving.calls import Calls
from sepkit.serving.lifespan import Lifespan
from sepkit.tasks import Supervisor, TaskHealth, TaskRun, TaskSpec

if TYPE_CHECKING:
    from sepkit.contexts.settings import Setting, Texts
    from sepkit.serving.jobs import Jobs
    from sepkit.serving.settings import Settings

MAX_CONCURRENCY: Final = 256
MAX_WAITING: Final = 1024
GRACE: Final = 5.0
MOST_CHANGED: Final = 1024  # resources that change within one turn of the loop

OnChange = Callable[[Sequence[Change]], None]
"""Told of what is registered while the app is served."""
OnResource = Callable[[Sequence[str]], None]
"""Told of the URIs of resources that have changed."""
OnTask = Callable[[TaskHealth], bool]
"""Told how a background task is; whether the host behind it has been told."""

_log = OwnLog("sepkit")


class Ending(SepkitError):
    """What is served is ending, and takes no more connections."""


class Served:
    """An App that is served, over one connection or many.

    It begins with the first handshake, and ends with its last connection. A server whose connections come and go holds
    it: ``async with Served(app) as served`` enters the lifespan at once, and ends it with the block.

    Args:
        app: What is served.
        max_concurrency: How many tool and provider calls run at once, over all connections.
        max_waiting: How many more may wait; past that they are refused as overloaded.
        grace: Seconds that tasks and the lifespan have to end, where a block holds it.
        confirms: Whether tools that want it are confirmed by ``ctx.ui``; False where the host asks by itself.
        backend: Makes what documents, settings and the like stand on; called when the first of them is used.
        texts: What the command line and the environment set flags to; None where they say nothing.
        clock: The wall's clock, in seconds since 1970.
        tick: Seconds after which jobs look at it at the latest, because it may jump; infinite where it does not.
    """

    def __init__(
        self,
        app: App,
        *,
        max_concurrency: int = MAX_CONCURRENCY,
        max_waiting: int = MAX_WAITING,
        grace: float = GRACE,
        confirms: bool = True,
        backend: Callable[[], Backend] | None = None,
        texts: Texts | None = None,
        clock: Callable[[], float] = time.time,
        tick: float = 5.0,
    ) -> None:
        app.check()  # what is wrong with the registrations is said before there is a host
        self.app: Final = app
        self.state: Any = None
        """What the lifespan yielded; None before it has been entered, and without one."""
        self.links: list[Link] = []
        """The connections whose handshake has begun and that have not left, oldest first."""
        self.ending = False
        """Whether it ends, or has: no connection can begin any more."""
        self.failure: LifespanEnded | None = None
        """Why it ends, where the lifespan has ended by itself."""
        self._base = copy_context()
        self._base.run(SERVING.set, self)
        self._base.run(CURRENT_LINK.set, None)
        self._threads = DaemonThreads()
        self._names: dict[object, str] = handler_names(app)
        self.watch: Final = LoopWatch(self._names, self._busy)
        self.calls: Final = Calls(
            app, Slots(max_concurrency, max_waiting), self._threads, self.watch, confirms=confirms
        )
        self.supervisor: Final = Supervisor(
            self._launch, on_change=self._task_changed, on_report=self._task_reported, context=self._base
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = os.getpid()
        self._make_backend = backend
        self._backend: Backend | None = None
        self._texts = texts
        self._settings: Settings | None = None
        self._clock = clock, tick
        self._jobs: Jobs | None = None
        self._grace = grace
        self._held = False
        self._joined: list[Link] = []  # those that keep it alive: from `join` until they begin to leave
        self._leaving: list[Link] = []  # those that have begun to leave, and are not gone
        self._on_change: list[OnChange] = []
        self._on_task: list[OnTask] = []
        self._on_failure: list[Callable[[LifespanEnded], None]] = []
        self._on_resource: list[OnResource] = []
        self._changing = threading.Lock()
        self._changed_resources: dict[str, None] = {}  # of which no listener has been told yet
        self._changes_lost = 0
        self._entering = asyncio.Lock()  # one at a time enters the lifespan
        self._entered = False
        self._lifespan: Lifespan | None = None
        self._over = False  # the end has begun that comes once
        self._stopping_tasks: asyncio.Task[None] | None = None
        self._autostarted = False

    # -- its connections -----------------------------------------------------------------------------------------------

    def context(self, link: Link) -> Context:
        """The context variables of what a connection's handlers run in; each call gets a copy."""
        context = self._base.copy()
        context.run(CURRENT_LINK.set, link)
        return context

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that it is served in.

        Raises:
            ConnectionClosed: No connection has begun yet; or this process is a fork of the one that serves it.
        """
        if self._loop is None or os.getpid() != self._process:
            raise ConnectionClosed("the app is not served in this process")
        return self._loop

    @property
    def backend(self) -> Backend:
        """Documents, settings and the like.

        Raises:
            ConnectionClosed: This process is a fork of the one that serves the app.
            SepkitError: What serves the app has none of it.
        """
        if os.getpid() != self._process:
            raise ConnectionClosed("the app is not served in this process")
        if self._backend is None:
            if self._make_backend is None:
                raise SepkitError("what serves this app keeps no documents, settings, secrets or jobs")
            self._backend = self._make_backend()
        return self._backend

    @property
    def settings(self) -> Settings:
        """The settings; their modules are imported where there are any."""
        if self._settings is None:
            from sepkit.serving.settings import Settings

            self._settings = Settings(self.app, self._texts, self.calls, lambda: self.backend, self._base)
        return self._settings

    def flags(self, host: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values of the flags on a connection whose host has sent these."""
        if self._has_settings:
            return self.settings.flags(host)
        return MappingProxyType(ChainMap(dict(host), self.app.flag_defaults))

    @property
    def _has_settings(self) -> bool:
        return bool(self.app.settings) or self._texts is not None

    async def _check_settings(self, link: Link | None, *, complete: bool) -> None:
        """Load what is stored, and look at what this connection's flags and settings are.

        Raises:
            BadSettings: Some do not fit.
        """
        if self._has_settings:
            await self.settings.load()
            self.settings.check(self.flags({}) if link is None else link.flags, complete=complete)

    def join(self, link: Link) -> None:
        """A connection is there, and keeps it alive until it begins to leave."""
        self._loop = asyncio.get_running_loop()
        self._joined.append(link)

    async def start(self, link: Link) -> None:
        """The handshake of a connection: the lifespan is entered, if no other connection has done so.

        Raises:
            Ending: It is ending; LifespanEnded where that is why.
            BadSettings: What flags and settings are set to does not fit.
            Exception: What the lifespan raised. The next one to start tries again.
        """
        if self.ending:
            raise self.failure or Ending("the extension is shutting down")
        self.links.append(link)
        self._show_in_app()
        try:
            await self._enter(link)
        except BaseException:
            _remove(self.links, link)
            self._show_in_app()
            raise

    async def _enter(self, link: Link | None) -> None:
        # Before the lifespan, which may take long; and after it, since it may have registered more.
        await self._check_settings(link, complete=self._entered or self.app.lifespan is None)
        async with self._entering:
            if not self._entered and not self._over:
                if self._lifespan is not None:  # an attempt that failed; what it started must not meet the next one
                    await self._stop_started()
                if self.app.lifespan is not None:
                    self._lifespan = Lifespan(self.app, self._base.copy(), self._lifespan_ended)
                    self.state = await self._lifespan.enter()
                self._entered = True
        if self.app.lifespan is not None:
            await self._check_settings(link, complete=True)
        if self.failure is not None:
            raise self.failure
        if self._over:  # meanwhile
            raise Ending("the extension is shutting down")

    def autostart(self) -> None:
        """A handshake has been answered: with the first one the tasks start that do so by themselves."""
        if not self._autostarted and not self.ending:
            self._autostarted = True
            self.supervisor.autostart(list(self.app.task_specs.values()))
            if self.app.job_specs:
                self.jobs.begin()

    def changed(self, listener: OnChange) -> Callable[[], None]:
        """Have ``listener`` told of what is registered from now on; what comes back ends that."""
        self._on_change.append(listener)
        return lambda: _remove(self._on_change, listener)

    def task_changed(self, listener: OnTask) -> Callable[[], None]:
        """Have ``listener`` told of each change of a task's state and of each report; what comes back ends that."""
        self._on_task.append(listener)
        return lambda: _remove(self._on_task, listener)

    def failed(self, listener: Callable[[LifespanEnded], None]) -> Callable[[], None]:
        """Have ``listener`` told if the lifespan ends by itself; what comes back ends that.

        A connection ends then, as if its host had ended it: what is being worked on is still answered.
        """
        self._on_failure.append(listener)
        return lambda: _remove(self._on_failure, listener)

    def _lifespan_ended(self, failure: LifespanEnded) -> None:
        self.failure = failure
        self.ending = True
        for listener in list(self._on_failure):
            listener(failure)

    def begin_leave(self, link: Link, grace: float) -> asyncio.Task[None] | None:
        """A connection ends. With the last one the tasks are stopped, within ``grace`` seconds.

        Returns:
            What stops the tasks; None while other connections need them.
        """
        if any(one is link for one in self._joined):
            _remove(self._joined, link)
            self._leaving.append(link)
            if not self._joined and not self._held:
                self._stop_tasks(grace)
        return self._stopping_tasks

    async def leave(self, link: Link, seconds: float) -> None:
        """A connection works on nothing any more. With the last one the lifespan is left, within ``seconds``."""
        _remove(self._leaving, link)
        _remove(self.links, link)
        if self.ending and not self._leaving and not self._held:
            await self._end(seconds)
        else:
            self._show_in_app()

    def _show_in_app(self) -> None:
        """``app.tasks`` acts on those that serve it: this one does from its first handshake until its very end."""
        serves = bool(self.links) or self._held or (self._entered and not self._over)
        if serves and self not in self.app.serving:
            self.app.serving.append(self)
        elif not serves:
            _remove(self.app.serving, self)

    @property
    def open_link(self) -> Link | None:
        """The oldest connection that is open, else the oldest that is leaving; None where there is none."""
        staying = (link for link in self.links if not any(link is one for one in self._leaving))
        return next(staying, self.links[0] if self.links else None)

    # -- held by a server ----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Served:
        self._loop = asyncio.get_running_loop()
        self._held = True
        self._show_in_app()
        try:
            await self._enter(None)
        except BaseException:
            self._held = False
            self._show_in_app()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it. Connections that are still there must have been ended by their server."""
        await asyncio.wait([self._stop_tasks(self._grace * 0.75)])
        self._held = False
        await self._end(self._grace / 4)

    # -- jobs ----------------------------------------------------------------------------------------------------------

    @property
    def jobs(self) -> Jobs:
        """Its jobs; made, with all that they need, when they are first asked for.

        Raises:
            ConnectionClosed: It is not served yet, or not in this process.
        """
        loop = self.loop
        if self._jobs is None:
            from sepkit.serving.jobs import Jobs  # only for apps that have a job

            clock, tick = self._clock
            self._jobs = Jobs(
                self.app.job_specs,
                backend=lambda: self.backend.jobs,
                supervisor=self.supervisor,
                call=self.calls.plain,
                tell=self._task_changed,
                loop=loop,
                context=self._base,
                clock=clock,
                tick=tick,
            )
        return self._jobs

    def status(self) -> list[TaskHealth]:
        """How the tasks are, and the jobs."""
        jobs = [] if self._jobs is None else self._jobs.status()
        return [*map(self._as_job, self.supervisor.status()), *jobs]

    def _as_job(self, health: TaskHealth) -> TaskHealth:
        """A job that repeats waits for its next run where a task would have ended."""
        spec = self.app.job_specs.get(health.task_id)
        if spec is None or spec.schedule is None or health.status != "stopped" or self.ending:
            return health
        return changed(health, status="pending")

    # -- its end -------------------------------------------------------------------------------------------------------

    def _stop_tasks(self, grace: float) -> asyncio.Task[None]:
        self.ending = True
        if self._stopping_tasks is None:
            loop = asyncio.get_running_loop()
            self._stopping_tasks = loop.create_task(
                self._stop_runs(grace), name="sepkit stops tasks", context=self._base.copy()
            )
        return self._stopping_tasks

    async def _stop_runs(self, grace: float) -> None:
        if self._jobs is not None:
            await self._jobs.stop()
        await self.supervisor.aclose(grace)
        if self._jobs is not None:
            await self._jobs.aclose()

    async def _stop_started(self) -> None:
        """Stop the tasks there are, side by side; others may start afterwards."""
        await asyncio.gather(*(self.supervisor.stop(health.task_id) for health in self.supervisor.status()))

    async def _end(self, seconds: float) -> None:
        if self._over:
            return
        self._over = True
        if self._settings is not None:
            seconds = await self._settings.aclose(seconds)
        try:
            if self._lifespan is not None:
                await self._lifespan.leave(seconds)
        finally:
            self._entered = False
            self._show_in_app()
        if self._backend is not None:
            await self._backend.aclose()
        self.watch.stop()
        if stuck := self._threads.running:
            _log.warning("left behind in their threads: %s", ", ".join(stuck))

    # -- what is registered while it is served -------------------------------------------------------------------------

    @property
    def told(self) -> bool:
        """Whether a host has been told what the app registers."""
        return bool(self._on_change)

    def registered(self, changes: Sequence[Change]) -> None:
        """The app has registered something."""
        self._names.update(handler_names(self.app))
        for listener in list(self._on_change):
            listener(changes)

    # -- resources -----------------------------------------------------------------------------------------------------

    def on_resource_changed(self, listener: OnResource) -> Callable[[], None]:
        """Have ``listener`` told of the URIs of resources that change from now on; what comes back ends that."""
        self._on_resource.append(listener)
        return lambda: _remove(self._on_resource, listener)

    def resource_changed(self, uri: str) -> None:
        """A resource is another now; from any thread. Listeners hear of each URI once, in the loop's next turn."""
        if not self._on_resource:
            return
        with self._changing:
            is_first = not self._changed_resources
            if uri not in self._changed_resources and len(self._changed_resources) >= MOST_CHANGED:
                self._changes_lost += 1
                return
            self._changed_resources[uri] = None
        if is_first:
            self.loop.call_soon_threadsafe(self._tell_changed)

    def _tell_changed(self) -> None:
        with self._changing:
            found, self._changed_resources = list(self._changed_resources), {}
            lost, self._changes_lost = self._changes_lost, 0
        if lost:
            _log.warning("more than %d resources changed at once; no host is told of %d of them", MOST_CHANGED, lost)
        for listener in list(self._on_resource):
            listener(found)

    # -- background tasks ----------------------------------------------------------------------------------------------

    async def _launch(self, spec: TaskSpec, run: TaskRun) -> object:
        self.watch.wake()
        CURRENT_USER.set(run.user_id)  # in the context of this run
        given = {} if spec.context is None else {spec.context: TaskContext(_Home(self, run.user_id), run)}
        try:
            return await spec.fn(**given)
        except BaseException as error:
            end_if_child(self._process, error)
            raise

    def _task_changed(self, health: TaskHealth) -> None:
        health = self._as_job(health)
        told = [listener(health) for listener in list(self._on_task)]
        if not all(told) or not told:  # a host that does not know tasks reads of them in its log
            error = self.shown(health.error)
            # Each run of a job would be two lines.
            level = logging.DEBUG if health.name in self.app.job_specs and error is None else logging.INFO
            _log.log(level, "task %s: %s%s", health.task_id, health.status, f" ({error})" if error else "")

    def _task_reported(self, health: TaskHealth) -> None:
        for listener in list(self._on_task):
            listener(health)

    def shown(self, error: str | None) -> str | None:
        """What a host is told of a task's error. The text of an exception may be a secret: only its type crosses."""
        if error is None or self.app.expose_errors:
            return error
        used, found, last = (
            error.partition("; the last run: ") if error.startswith("restarts exhausted (") else ("", "", error)
        )
        return used + found + last.partition(":")[0]

    def _busy(self) -> bool:
        return self.supervisor.busy or any(link.busy for link in self.links)


class _Home:
    """The link of what belongs to no connection, as background tasks do: the oldest one that is open.

    It has a user of its own, or none.
    """

    def __init__(self, served: Served, user: str | None) -> None:
        self._served = served
        self.principal = None if user is None else Principal(user)

    @property
    def _link(self) -> Link:
        found = self._served.open_link
        if found is None:
            raise ConnectionClosed("no host is connected")
        return found

    @property
    def host(self) -> HostInfo:
        return self._link.host

    @property
    def flags(self) -> Mapping[str, Any]:
        found = self._served.open_link  # between the connections of a server, settings have values all the same
        return self._served.flags({}) if found is None else found.flags

    async def set_setting(self, setting: Setting[Any], value: Any) -> None:
        await self._served.settings.set(self, setting, value)

    @property
    def ui_kinds(self) -> frozenset[str] | None:
        return self._link.ui_kinds

    @property
    def state(self) -> Any:
        return self._served.state

    @property
    def backend(self) -> Backend:
        return self._served.backend

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._served.loop

    @property
    def logger(self) -> logging.Logger:
        return logging.getLogger(self._served.app.name)

    @property
    def outgoing(self) -> Outgoing:
        return self._link.outgoing

    @property
    def busy(self) -> bool:
        return self._link.busy

    async def ask(self, method: str, params: dict[str, Any]) -> Any:
        return await self._link.ask(method, params)

    async def ask_client(self, method: str, params: dict[str, Any]) -> Any:
        return await self._link.ask_client(method, params)

    def tell(self, method: str, params: dict[str, Any], *, unless: Callable[[], bool] | None = None) -> None:
        self._link.tell(method, params, unless=unless)

    async def send(self, method: str, params: dict[str, Any]) -> None:
        await self._link.send(method, params)

    def flush(self) -> None:
        self._link.flush()


def handler_names(app: App) -> dict[object, str]:
    """What the watch calls each handler by, if it finds its code on the loop's stack."""
    found: dict[object, str] = {}

    def add(what: str, fn: Any) -> None:
        code = getattr(fn, "__code__", None)
        if code is not None:
            found[code] = what

    # Copies of the tables: a `def` handler may register something meanwhile, in its thread.
    for tool in list(app.tools.values()):
        add(f"tool {tool.name}", tool.fn)
    for command in list(app.commands.values()):
        add(f"command {command.name}", command.fn)
    for kind, table in (("hook", app.hooks), ("event", app.events)):
        for name, specs in list(table.items()):
            for spec in list(specs):
                add(f"{kind} {name} handler {name_of(spec.fn)}", spec.fn)
    for name, specs in list(app.setting_observers.items()):
        for spec in list(specs):
            add(f"setting {name} handler {name_of(spec.fn)}", spec.fn)
    for provider in list(app.providers.values()):
        add(f"provider {provider.observer.name}", provider.observer.fn)
    for resource in list(app.resources.values()):
        add(f"resource {resource.uri}", resource.fn)
    for task in list(app.task_specs.values()):
        add(f"task {task.name}", task.fn)
    for job in list(app.job_specs.values()):
        add(f"job {job.name}", job.fn)
    return found


def _remove(found: list[Any], gone: object) -> None:
    """Take ``gone`` itself out of a list, where it is there."""
    found[:] = [one for one in found if one is not gone]
