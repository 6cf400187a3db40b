"""The lives of one extension: started, started again after a death, reloaded, stopped.

It knows nothing of tools, hooks and tasks: those are told of each life by :class:`Lifecycle`. States, and what leads
from one to the next::

    starting ──handshake──▶ ready ──death──▶ restarting ──1, 5, 25 s──▶ starting …
        └─fails─▶ failed (at its first start, or after the last restart) ──reload──▶ starting

Source: docs/protocol.md, sections 2 and 8.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import attrs

from sepkit.errors import SepkitError
from sepkit.host.budget import Budget, short
from sepkit.host.launch import Launch, prepared
from sepkit.host.life import Life
from sepkit.host.manifest import Manifest
from sepkit.host.setting import Setting
from sepkit.host.supervision import Restarts
from sepkit.peer import NotificationHandler, RequestHandler
from sepkit.wire import messages

State = Literal["starting", "ready", "restarting", "failed", "stopped"]

_log = logging.getLogger("sepkit.host")


class ExtensionUnavailable(SepkitError):
    """The extension cannot be asked now: it is starting, restarting, failed or stopped."""


@attrs.frozen
class Status:
    """How an extension is. Times are seconds."""

    name: str
    version: str
    state: State
    epoch: int
    pid: int | None
    """None where there is no process."""
    restarts: int
    """How often it has been restarted since it was last healthy."""
    uptime: float
    """Since its present life began."""
    pending: int
    """Requests that wait for its answer."""
    error: str | None
    """Why it is not ready, or was not; None where it has never failed."""
    stderr: str
    """What it, or its last life, wrote to its stderr last."""
    exit_code: int | None = None
    """How its last process ended, negative for a signal; None while it runs, and where there was none."""
    held: int = 0
    """Bytes that the host holds for it: what waits for an answer or a reader, and what is remembered of it."""
    waited: float = 0.0
    """For how long its pipe was not read, so that its neighbours were."""
    counts: Mapping[str, int] = attrs.field(factory=dict)
    """What was shed, refused, or said only once, by what it was."""
    notes: tuple[str, ...] = ()
    """What else is worth knowing: what was not taken of it, and why; whose names it wants; what it does not answer."""


class Lifecycle(Protocol):
    """What is told of each life, in this order. Only ``ready`` may wait."""

    def spawned(self, life: Life) -> tuple[Mapping[str, RequestHandler], Mapping[str, NotificationHandler]]:
        """There is a new process: what it may ask, and what it may tell."""

    def introduced(self, said: messages.Registrations) -> None:
        """It has shaken hands, and is ready when this returns."""

    async def ready(self, life: Life) -> None:
        """It is ready. An error ends the life: it could not be started."""

    def stopping(self) -> None:
        """It is ended on purpose, and is not asked any more."""

    def ended(self, why: str) -> None:
        """Its process has ended."""


class Lives:
    """One life of an extension at a time, and what comes after it.

    Args:
        manifest: The extension's; another one after a reload.
        setting: What it shares with the others of its host.
        lifecycle: Told of each life.
    """

    def __init__(self, manifest: Manifest, setting: Setting, lifecycle: Lifecycle) -> None:
        self.name = manifest.name
        self.manifest = manifest
        self.budget = Budget(self.name, setting.neighbours)
        self.state: State = "stopped"
        self.epoch = 0
        self.current: Life | None = None
        """The life that is begun or asked; None where there is none. What an earlier one tells counts no more."""
        self._last_error: Exception | None = None
        self._setting = setting
        self._lifecycle = lifecycle
        self._restarts = Restarts(setting.restart_delays, setting.healthy_after)
        self._leaving: Life | None = None  # what was stopped, and whose end has not been waited for yet
        self._latest: Life | None = None  # whether it is alive or not
        self._lock = asyncio.Lock()  # one start, stop or reload at a time
        self._again: asyncio.Task[None] | None = None  # waits for the next restart, or does it
        self._over = False  # unloaded: nothing starts it any more

    # -- asking --------------------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """How the extension is."""
        life = self.current
        return Status(
            name=self.name,
            version=self.manifest.version,
            state=self.state,
            epoch=self.epoch,
            pid=None if life is None else life.pid,
            restarts=self._restarts.count,
            uptime=0.0 if life is None else asyncio.get_running_loop().time() - life.began,
            pending=0 if life is None else life.peer.pending,
            error=None if self._last_error is None else short(self._last_error),
            stderr="" if self._latest is None else self._latest.stderr.tail,
            exit_code=None if self._latest is None else self._latest.exit_code,
            held=self.budget.held,
            waited=self.budget.waited,
            counts=dict(self.budget.counts),
        )

    def alive(self) -> Life:
        """The life that can be asked.

        Raises:
            ExtensionUnavailable: The extension is not ready.
        """
        life = self.current
        if life is None or self.state != "ready":
            why = f": {self._last_error}" if self._last_error is not None and self.state != "stopped" else ""
            raise ExtensionUnavailable(f"{self.name} is {self.state}{why}") from self._last_error
        return life

    @property
    def context(self) -> dict[str, str]:
        """The context of tools, hooks and commands."""
        return self.alive().contexts["command"]

    async def ask(self, method: str, params: dict[str, Any], timeout: float | None) -> Any:
        """Ask the extension.

        Raises:
            ExtensionUnavailable: It is not ready.
            ExtensionDied: It died before it answered.
            RequestTimeout: It did not answer in time.
            RpcError: It answered with an error.
        """
        return await self.alive().request(method, params, timeout=timeout)

    # -- begun and ended on purpose ------------------------------------------------------------------------------------

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
        life, self.current = self.current, None
        self._become(state)
        self._lifecycle.stopping()
        self._leaving = life or self._leaving
        if self._leaving is not None:
            await self._leaving.stop(self._setting.shutdown_grace)
            self._leaving = None
        self._lifecycle.ended("the extension was stopped")
        self.budget.sum_up()

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
        life = self._spawn(await self._prepared())
        self.current = self._latest = life
        routes, notifications = self._lifecycle.spawned(life)
        try:
            introduction = await life.begin(
                self._setting.handshake(self.manifest),
                routes=routes,
                notifications=notifications,
                timeout=self._setting.initialize_timeout,
            )
        except BaseException:
            self.current = None
            life.early.clear()  # the error's traceback keeps the life
            self.budget.sum_up()
            raise
        if introduction.extension.name != self.name:
            _log.info("%s calls itself %s", self.name, short(introduction.extension.name))
        self._lifecycle.introduced(introduction.registrations or messages.Registrations())
        self._become("ready")
        try:
            await self._lifecycle.ready(life)
        except BaseException:
            await life.kill()
            raise

    async def _prepared(self) -> Launch:
        preparing = asyncio.ensure_future(asyncio.to_thread(prepared, self.manifest, isolation=self._setting.isolation))
        try:
            return await asyncio.shield(preparing)
        except asyncio.CancelledError:  # its thread goes on all the same
            preparing.add_done_callback(_unused)
            raise

    def _spawn(self, launch: Launch) -> Life:
        guard = self._setting.guard

        def ended(_: object = None) -> None:
            guard.end()
            launch.close()

        self.epoch += 1
        mark = guard.begin()
        try:
            life = self._new_life(launch, mark)
        except BaseException:
            ended()
            raise
        life.died.add_done_callback(ended)
        return life

    def _new_life(self, launch: Launch, mark: str) -> Life:
        manifest, setting = self.manifest, self._setting
        return Life(
            self.name,
            self.epoch,
            launch,
            cwd=manifest.root,
            mark=mark,
            on_death=self._died,
            on_stderr=functools.partial(self.budget.inform, setting.delegate.stderr),
            budget=self.budget,
            max_frame_bytes=setting.max_frame_bytes,
            ping_after=setting.ping_after,
            ping_timeout=setting.ping_timeout,
        )

    def _become(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self.budget.inform(self._setting.delegate.state_changed, state)

    def _fail(self, error: Exception) -> None:
        self._last_error = error
        self.current = None
        self._become("failed")

    # -- started again -------------------------------------------------------------------------------------------------

    def _died(self, life: Life) -> None:
        """A life has ended that was not stopped."""
        if life is not self.current:
            return
        self.current = None
        error = life.died.result()
        _log.warning("%s", error)
        self._lifecycle.ended(f"its process has ended: {error}".partition("\n")[0])
        self.budget.sum_up()
        if self.state != "starting":  # else the start that waits for the handshake fails with it
            self._start_again(error, asyncio.get_running_loop().time() - life.began)

    def _start_again(self, error: Exception, uptime: float) -> None:
        delay = self._restarts.after_death(uptime)
        if delay is None:
            self._fail(error)
            return
        self._last_error = error
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
            except Exception as error:  # no caller waits for it: it is logged here, or lost
                _log.warning("%s could not be restarted: %s", self.name, short(error))
                self._start_again(error, asyncio.get_running_loop().time() - began)


def _unused(preparing: asyncio.Future[Launch]) -> None:
    if not preparing.cancelled() and preparing.exception() is None:
        preparing.result().close()
