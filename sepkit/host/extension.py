"""One loaded extension, over all its lives: started, started again after a death, reloaded, stopped.

States and what leads from one to the next::

    starting ──handshake──▶ ready ──death──▶ restarting ──1, 5, 25 s──▶ starting …
        └─fails─▶ failed (at its first start, or after the last restart) ──reload──▶ starting

Source: docs/protocol.md, sections 2, 4 and 8; docs/tasks.md, "On the wire".
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import shutil
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, TypeVar

import attrs

from sepkit.capabilities.delegate import Delegate
from sepkit.capabilities.services import Room, Services
from sepkit.capabilities.store import KvStore
from sepkit.errors import InvalidData, SepkitError
from sepkit.host.lane import EventLane
from sepkit.host.life import INITIALIZE_TIMEOUT, PING_AFTER, PING_TIMEOUT, SHUTDOWN_GRACE, ExtensionDied, Life, fitted
from sepkit.host.manifest import Manifest, ManifestError, Sandbox, inherited
from sepkit.host.stderr import StderrReader
from sepkit.host.supervision import DELAYS, HEALTHY_AFTER, Restarts
from sepkit.wire import messages, methods
from sepkit.wire.converter import structure, unstructure
from sepkit.wire.frames import MAX_FRAME_BYTES

State = Literal["starting", "ready", "restarting", "failed", "stopped"]
OnUpdate = Callable[[messages.ToolUpdateParams], None]

_log = logging.getLogger("sepkit.host")

_RUNNING: Final = frozenset({"pending", "running", "restarting"})
_MOST_EARLY: Final = 1_000
_MOST_NAMES: Final = 2_000  # tools, and commands, of one extension: each update costs as much as all of them
_MOST_TASKS: Final = 20_000  # that are remembered: an extension may make up ids for ever
_LAST_ACTS: Final = 5.0  # seconds before a death in which an orderly end stops its tasks
_STARTED_AGAIN: Final = 10.0  # seconds for the answer to a task/start after a restart


class ExtensionUnavailable(SepkitError):
    """The extension cannot be asked now: it is starting, restarting, failed or stopped."""


@attrs.frozen(kw_only=True)
class Setting:
    """What all extensions of one host share. Times are seconds."""

    handshake: Callable[[Manifest], messages.InitializeParams]
    delegate: Delegate
    store: KvStore
    room: Room
    isolation: bool = False
    initialize_timeout: float = INITIALIZE_TIMEOUT
    shutdown_grace: float = SHUTDOWN_GRACE
    ping_after: float = PING_AFTER
    ping_timeout: float = PING_TIMEOUT
    restart_delays: tuple[float, ...] = DELAYS
    healthy_after: float = HEALTHY_AFTER
    max_frame_bytes: int = MAX_FRAME_BYTES


class Extension:
    """An extension of a host."""

    def __init__(self, manifest: Manifest, setting: Setting, on_registered: Callable[[Extension], None]) -> None:
        self.manifest = manifest
        self.name = manifest.name
        self.state: State = "stopped"
        self.epoch = 0
        self.last_error: Exception | None = None
        """Why it is not ready, or was not; None where it has never failed."""
        self.registrations = messages.Registrations()
        """What it contributes, as far as it is granted. Stays while it restarts: a gate that is down blocks."""
        self.tasks: dict[str, messages.TaskHealth] = {}
        """The background tasks that it has told of."""
        self._setting = setting
        self._on_registered = on_registered
        self._restarts = Restarts(setting.restart_delays, setting.healthy_after)
        self._life: Life | None = None
        self._leaving: Life | None = None  # what was stopped, and whose end nobody has waited for yet
        self._lane: EventLane | None = None
        self._stderr: StderrReader | None = None
        self._lock = asyncio.Lock()  # one start, stop or reload at a time
        self._again: asyncio.Task[None] | None = None  # waits for the next restart, or does it
        # Told between the answer to the handshake and our look at it; who tells more before loses the oldest.
        self._early: deque[tuple[str, Any]] = deque(maxlen=_MOST_EARLY)
        self._too_many: set[str] = set()  # kinds of which it has been said
        self._updates: dict[str, OnUpdate] = {}
        self._streams: dict[str, Callable[[messages.StreamEvent], None]] = {}
        self._wanted_tasks: dict[str, messages.TaskStartParams] = {}  # started by the host, and to come back
        self._died_at = 0.0
        self._over = False  # unloaded: nothing starts it any more
        self._updates_due: list[messages.RegistryUpdateParams] = []  # of this turn of the loop
        self._ended_tasks: dict[str, float] = {}  # when the extension told that they have ended

    # -- what it says of itself ----------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """The process's id; None where there is none."""
        return None if self._life is None else self._life.pid

    @property
    def uptime(self) -> float:
        """Seconds since its present life began."""
        return 0.0 if self._life is None else asyncio.get_running_loop().time() - self._life.began

    @property
    def restarts(self) -> int:
        """How often it has been restarted since it was last healthy."""
        return self._restarts.count

    @property
    def pending(self) -> int:
        """Requests that wait for its answer."""
        return 0 if self._life is None else self._life.peer.pending

    @property
    def stderr(self) -> str:
        """What it, or its last life, wrote to its stderr last."""
        return "" if self._stderr is None else self._stderr.tail

    @property
    def context(self) -> dict[str, str]:
        """The context of tools, hooks and commands."""
        return self._alive().contexts["command"]

    # -- asking it -----------------------------------------------------------------------------------------------------

    async def ask(self, method: str, params: dict[str, Any], timeout: float | None) -> Any:
        """Ask it.

        Raises:
            ExtensionUnavailable: It is not ready.
            ExtensionDied: It died before it answered.
            RequestTimeout: It did not answer in time.
            RpcError: It answered with an error.
        """
        return await self._alive().request(method, params, timeout=timeout)

    def tell(self, event: str, payload: dict[str, Any]) -> None:
        """Dispatch an event to it, if it is there. Never waits."""
        if self._lane is not None:
            self._lane.dispatch(event, payload)

    async def call_tool(
        self, tool: str, arguments: dict[str, Any], call_id: str, on_update: OnUpdate | None, timeout: float | None
    ) -> messages.ToolExecuteResult:
        """Call one of its tools, by the bare name."""
        life = self._alive()
        params = {"call_id": call_id, "tool": tool, "arguments": arguments, "context": life.contexts["command"]}
        if on_update is not None:
            self._updates[call_id] = on_update
        try:
            answer = await life.request(methods.TOOL_EXECUTE, params, timeout=timeout)
        finally:
            if on_update is not None:
                del self._updates[call_id]
        # Most results; to look at it as at any other takes 0.6 µs more.
        if type(answer) is dict and len(answer) == 1 and type(content := answer.get("content")) is str:
            return messages.ToolExecuteResult(content)
        result: messages.ToolExecuteResult = fitted(self.name, answer, messages.ToolExecuteResult)
        return result

    @contextlib.contextmanager
    def streaming(self, request_id: str, take: Callable[[messages.StreamEvent], None]) -> Any:
        """Have the stream events of a request given to ``take`` within the block."""
        self._streams[request_id] = take
        try:
            yield
        finally:
            del self._streams[request_id]

    async def start_task(self, params: messages.TaskStartParams) -> messages.TaskHealth:
        """Start a background task; should the process die, it is started again with the next one."""
        asked = asyncio.get_running_loop().time()
        answer = await self.ask(methods.TASK_START, unstructure(params), _STARTED_AGAIN)
        health: messages.TaskHealth = fitted(self.name, answer, messages.TaskHealth)
        if self._ended_tasks.get(health.task_id, 0.0) < asked:  # an earlier start; but this one may have ended already
            self._ended_tasks.pop(health.task_id, None)
        self._wanted_tasks[health.task_id] = attrs.evolve(params, task_id=health.task_id)
        self.tasks.setdefault(health.task_id, health)
        return health

    async def stop_task(self, task_id: str, timeout: float | None = None) -> messages.TaskHealth:
        """Stop a background task, and wait until it has ended."""
        self._wanted_tasks.pop(task_id, None)
        self._ended_tasks.pop(task_id, None)
        answer = await self.ask(methods.TASK_STOP, {"task_id": task_id}, timeout)
        health: messages.TaskHealth = fitted(self.name, answer, messages.TaskHealth)
        self.tasks[task_id] = health
        return health

    async def list_tasks(self, timeout: float | None = None) -> list[messages.TaskHealth]:
        """Ask for all background tasks, those that wait for their first turn included."""
        answer = await self.ask(methods.TASK_LIST, {}, timeout)
        listed: messages.TaskListResult = fitted(self.name, answer, messages.TaskListResult)
        self.tasks.update({task.task_id: task for task in listed.tasks})
        return listed.tasks

    def _alive(self) -> Life:
        life = self._life
        if life is None or self.state != "ready":
            why = f": {self.last_error}" if self.last_error is not None and self.state != "stopped" else ""
            raise ExtensionUnavailable(f"{self.name} is {self.state}{why}")
        return life

    # -- its life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start it for the first time.

        Raises:
            SepkitError: It could not be started, or the handshake failed; it is ``failed``, and stays so.
        """
        async with self._lock:
            await self._begin_or_fail()

    async def stop(self, *, for_good: bool = False) -> None:
        """End it, whatever its state. ``for_good``: a reload that comes too late does not start it again."""
        self._over = self._over or for_good
        self._cancel_restart()
        async with self._lock:
            await self._stop()

    async def reload(self, manifest: Manifest) -> None:
        """Stop it, and start it anew in a new epoch. Leaves ``failed``, too.

        Raises:
            SepkitError: It could not be started; it is ``failed``.
        """
        self._cancel_restart()
        async with self._lock:
            try:
                await self._stop("starting")  # not `stopped`: a gate that is reloaded blocks meanwhile
            except asyncio.CancelledError:
                self._fail(SepkitError(f"the reload of {self.name} was given up"))
                raise
            self.manifest = manifest
            self._restarts.reset()
            await self._begin_or_fail()

    def _cancel_restart(self) -> None:
        if self._again is not None:
            self._again.cancel()

    async def _stop(self, state: State = "stopped") -> None:
        life, self._life, self._lane = self._life, None, None
        self._become(state)
        for task_id in self._ended_tasks:  # by themselves: they do not come back
            self._wanted_tasks.pop(task_id, None)
        self._ended_tasks.clear()
        self._leaving = life or self._leaving
        if self._leaving is not None:
            await self._leaving.stop(self._setting.shutdown_grace)
            self._leaving = None
        self._tasks_died("the extension was stopped")

    async def _begin_or_fail(self) -> None:
        try:
            await self._begin()
        except BaseException as error:
            self._fail(error if isinstance(error, Exception) else SepkitError(f"the start of {self.name} was given up"))
            raise

    async def _begin(self) -> None:
        if self._over:
            raise ExtensionUnavailable(f"{self.name} was unloaded meanwhile")
        self._become("starting")
        manifest, setting = self.manifest, self._setting
        manifest.check_hash(manifest.environment())
        command, environment = self._command()
        self.epoch += 1
        self._early.clear()
        life = Life(
            self.name,
            self.epoch,
            command,
            cwd=manifest.root,
            env=environment,
            on_death=self._died,
            on_stderr=functools.partial(inform, setting.delegate.stderr, self.name),
            max_frame_bytes=setting.max_frame_bytes,
            ping_after=setting.ping_after,
            ping_timeout=setting.ping_timeout,
        )
        services = Services(
            self.name,
            life.contexts["command"]["token"],
            manifest.capabilities.grants(),
            setting.delegate,
            setting.store,
            setting.room,
            functools.partial(self._told, life),
            life.peer.drain,
        )
        self._life, self._stderr = life, life.stderr
        try:
            introduction = await life.begin(
                setting.handshake(manifest),
                routes=services.routes(),
                notifications={
                    **services.notifications(),
                    methods.TOOL_UPDATE: functools.partial(self._updated, life),
                    methods.PROVIDER_DELTA: functools.partial(self._streamed, life),
                },
                timeout=setting.initialize_timeout,
            )
        except BaseException:
            self._life = None
            self._early.clear()
            raise
        if introduction.extension.name != self.name:
            _log.info("%s calls itself %s", self.name, introduction.extension.name)
        self._lane = EventLane(life.peer, life.contexts["event"])
        self.registrations = self._granted(introduction.registrations or messages.Registrations())
        self._become("ready")
        early = list(self._early)
        self._early.clear()
        for method, record in early:
            self._told(life, method, record)
        self._on_registered(self)
        if self._wanted_tasks:
            try:
                await self._start_tasks_again()
            except BaseException:
                await life.kill()
                raise

    def _command(self) -> tuple[list[str], dict[str, str]]:
        """What is spawned, and in which environment."""
        run, sandbox = self.manifest.run, self.manifest.sandbox
        if sandbox is None:
            return [run.command, *run.args], self.manifest.environment()
        if not self._setting.isolation:
            raise ManifestError(f"{self.name} wants to run in a sandbox, and this host was not asked for isolation")
        # msb itself runs outside: a PATH or an LD_PRELOAD that the manifest names must not reach it.
        outside = inherited()
        path = outside.get("PATH", "")
        if (msb := shutil.which("msb", path=path)) is None:
            raise ManifestError(f"{self.name} wants to run in a sandbox, and there is no msb on PATH {path!r}")
        options = _sandbox_options(sandbox, self.manifest.named())
        return [msb, *options, "--", run.command, *run.args], outside

    def _become(self, state: State) -> None:
        if state != self.state:
            self.state = state
            inform(self._setting.delegate.state_changed, self.name, state)

    def _fail(self, error: Exception) -> None:
        self.last_error = error
        self._life = self._lane = None
        self._become("failed")

    def _died(self, life: Life) -> None:
        """A life has ended that nobody has stopped."""
        if life is not self._life:
            return
        self._life = self._lane = None
        error = life.died.result()
        self._died_at = asyncio.get_running_loop().time()
        _log.warning("%s", error)
        self._tasks_died(f"its process has ended: {error}".partition("\n")[0])
        if self.state != "starting":  # else whoever waits for the handshake sees to it
            self._start_again(error, asyncio.get_running_loop().time() - life.began)

    def _start_again(self, error: Exception, uptime: float) -> None:
        delay = self._restarts.after_death(uptime)
        if delay is None:
            self._fail(error)
            return
        self.last_error = error
        self._become("restarting")
        self._again = asyncio.get_running_loop().create_task(self._restart(delay), name=f"sepkit restart {self.name}")

    async def _restart(self, delay: float) -> None:
        await asyncio.sleep(delay)
        async with self._lock:
            if self.state != "restarting":  # it was stopped, or reloaded, meanwhile
                return
            began = asyncio.get_running_loop().time()
            try:
                await self._begin()
            except asyncio.CancelledError:  # by a stop or a reload, which may be cancelled itself
                self._fail(SepkitError(f"the restart of {self.name} was given up"))
                raise
            except Exception as error:  # whatever it is, there is nobody else to whom it could go
                _log.warning("%s could not be restarted: %s", self.name, error)
                self._start_again(error, asyncio.get_running_loop().time() - began)

    # -- what it tells -------------------------------------------------------------------------------------------------

    def _told(self, life: Life, method: str, record: Any) -> None:
        if life is not self._life:  # the last words of an earlier life
            return
        if method == methods.LOG:  # at once: it may tell why the start fails
            inform(self._setting.delegate.log, self.name, record)
        elif self.state == "starting":
            self._early.append((method, record))
        elif method == methods.REGISTRY_UPDATE:
            if not self._updates_due:  # one look at all tools for all that come in one turn, not one for each
                asyncio.get_running_loop().call_soon(self._take_updates, life)
            self._updates_due.append(record)
        elif method == methods.TASK_UPDATE:
            self.tasks[record.task_id] = record
            if len(self.tasks) > _MOST_TASKS:
                del self.tasks[next(iter(self.tasks))]
            self._task_told(record)
            inform(self._setting.delegate.task_changed, self.name, record)

    def _take_updates(self, life: Life) -> None:
        due, self._updates_due = self._updates_due, []
        if life is not self._life:
            return
        update = messages.RegistryUpdateParams(
            tools=[one for each in due for one in each.tools],
            commands=[one for each in due for one in each.commands],
            flags=[one for each in due for one in each.flags],
            subscriptions=[one for each in due for one in each.subscriptions],
            providers=[one for each in due for one in each.providers],
        )
        self.registrations = self._granted(_merged(self.registrations, update))
        self._on_registered(self)

    def _task_told(self, task: messages.TaskHealth) -> None:
        """A task has ended, or begun. An orderly end of the process tells of it, too."""
        self._ended_tasks.pop(task.task_id, None)
        if task.status not in _RUNNING:
            self._ended_tasks[task.task_id] = asyncio.get_running_loop().time()
            if len(self._ended_tasks) > _MOST_TASKS:
                del self._ended_tasks[next(iter(self._ended_tasks))]

    def _updated(self, life: Life, params: dict[str, Any]) -> None:
        on_update = self._updates.get(params.get("call_id", ""))
        if on_update is None or life is not self._life:
            return
        try:
            update: messages.ToolUpdateParams = structure(params, messages.ToolUpdateParams)
        except InvalidData as error:
            _log.warning("%s: ignored a malformed tool/update: %s", self.name, error)
            return
        on_update(update)

    def _streamed(self, life: Life, params: dict[str, Any]) -> None:
        take = self._streams.get(params.get("request_id", ""))
        if take is None or life is not self._life:
            return
        try:
            event: messages.StreamEvent = structure(params.get("event"), messages.StreamEvent)
        except InvalidData as error:
            _log.debug("%s: ignored a stream event: %s", self.name, error)
            return
        take(event)

    def _granted(self, said: messages.Registrations) -> messages.Registrations:
        """What its manifest allows of what it says that it contributes."""
        allowed = self.manifest.capabilities
        bound = set(allowed.events)
        kept = attrs.evolve(
            said,
            tools=said.tools if allowed.tools else [],
            commands=said.commands if allowed.commands else [],
            shortcuts=said.shortcuts if allowed.commands else [],
            providers=said.providers if allowed.providers else [],
            subscriptions=[event for event in said.subscriptions if not bound or event in bound],
        )
        for kind in ("tools", "commands", "providers", "subscriptions"):
            before, after = getattr(said, kind), getattr(kept, kind)
            if len(after) < len(before):
                _log.warning("%s: its manifest does not grant all of its %s", self.name, kind)
        for kind in ("tools", "commands"):
            if len(getattr(kept, kind)) > _MOST_NAMES and kind not in self._too_many:
                self._too_many.add(kind)
                _log.warning("%s: it has over %d %s; the others are not taken", self.name, _MOST_NAMES, kind)
        return attrs.evolve(
            kept,
            tools=_last(kept.tools)[:_MOST_NAMES],
            commands=_last(kept.commands)[:_MOST_NAMES],
            providers=_last(kept.providers)[:_MOST_NAMES],
        )

    def _tasks_died(self, why: str) -> None:
        for task_id, health in self.tasks.items():
            if health.status in _RUNNING:
                self.tasks[task_id] = dead = attrs.evolve(health, status="failed", error=why)
                inform(self._setting.delegate.task_changed, self.name, dead)

    async def _start_tasks_again(self) -> None:
        ended, self._ended_tasks = self._ended_tasks, {}
        for task_id, when in ended.items():
            if when < self._died_at - _LAST_ACTS:
                self._wanted_tasks.pop(task_id, None)
        await asyncio.gather(*(self._start_task_again(params) for params in self._wanted_tasks.values()))

    async def _start_task_again(self, params: messages.TaskStartParams) -> None:
        try:
            await self.ask(methods.TASK_START, unstructure(params), _STARTED_AGAIN)
        except SepkitError as error:
            _log.warning("%s: its task %r did not come back: %s", self.name, params.task_id, error)


def inform(tell: Callable[..., None], extension: str, *said: object) -> None:
    """Tell the program around the host. Where it fails at that, no extension's life or death may hang on it."""
    try:
        tell(extension, *said)
    except Exception:
        _log.exception("the host's delegate failed when it was told of %s", extension)


Named = TypeVar("Named", messages.ToolRegistration, messages.CommandRegistration, messages.ProviderRegistration)


def _last(registered: Iterable[Named]) -> list[Named]:
    """Of those with the same name the last."""
    return list({one.name: one for one in registered}.values())


def _merged(before: messages.Registrations, update: messages.RegistryUpdateParams) -> messages.Registrations:
    return attrs.evolve(
        before,
        tools=_last([*before.tools, *update.tools]),
        commands=_last([*before.commands, *update.commands]),
        providers=_last([*before.providers, *update.providers]),
        flags=list(dict.fromkeys([*before.flags, *update.flags])),
        subscriptions=list(dict.fromkeys([*before.subscriptions, *update.subscriptions])),
    )


def _sandbox_options(sandbox: Sandbox, environment: dict[str, str]) -> list[str]:
    options = ["run", "--image", sandbox.image, "--network", sandbox.network]
    if sandbox.memory is not None:
        options += ["--memory", str(sandbox.memory)]
    if sandbox.cpus is not None:
        options += ["--cpus", str(sandbox.cpus)]
    for domain in sandbox.allow_domains:
        options += ["--allow-domain", domain]
    for name, value in environment.items():
        options += ["--env", f"{name}={value}"]
    return options


__all__ = ["Extension", "ExtensionDied", "ExtensionUnavailable", "OnUpdate", "Setting", "State", "inform"]
