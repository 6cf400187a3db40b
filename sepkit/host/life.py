"""One life of an extension: its process from spawn to death, and the connection with it.

A life has an epoch, and tokens of its own: what an earlier life was given is worth nothing to a later one. It knows
neither hooks nor tools: what the extension may ask is answered by the routes that it is given. It does not start again:
what comes after its death is in ``lives``.

Source: docs/protocol.md, sections 2 and 5.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import secrets
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from sepkit.errors import ConnectionClosed, InternalError, InvalidData, RequestTimeout, RpcError
from sepkit.host.budget import Budget
from sepkit.host.intake import MeteredTransport
from sepkit.host.kept import Kept
from sepkit.host.lane import EventLane
from sepkit.host.launch import Launch
from sepkit.host.stderr import StderrReader, last_lines
from sepkit.peer import NotificationHandler, Peer, RequestHandler
from sepkit.transports.process import ChildProcess
from sepkit.wire import messages, methods
from sepkit.wire.converter import structure
from sepkit.wire.writing import unstructure

INITIALIZE_TIMEOUT: Final = 10.0
SHUTDOWN_GRACE: Final = 5.0
PING_AFTER: Final = 60.0
PING_TIMEOUT: Final = 10.0
_MISSED_PONGS: Final = 2

_MOST_ANSWERED: Final = 10_000  # items of a list in an answer: each becomes a record, in one turn of the loop
_LAST_BYTES: Final = 0.25  # seconds that a dead process's last output may take, before its pipe is closed on our side
_MOST_EARLY: Final = 1_000
_MOST_EARLY_BYTES: Final = 4 * 1024 * 1024


class ExtensionDied(ConnectionClosed):
    """The extension's process has ended while something was asked of it, or before.

    Attributes:
        extension: Its name.
        exit_code: How it ended; negative for a signal, None where it is not known yet.
        stderr: What it said last. The error's own text has the last 20 lines of it, of 200 characters each.
    """

    def __init__(self, extension: str, reason: str, exit_code: int | None, stderr: str) -> None:
        self.extension = extension
        self.exit_code = exit_code
        self.stderr = stderr
        how = "" if exit_code is None else f" ({_said(exit_code)})"
        last = last_lines(stderr)
        super().__init__(f"{extension} {reason}{how}" + (f"; it said last:\n{last}" if last else ""))


class Life:
    """One process of an extension. Made by :meth:`begin`, over when ``died`` is done.

    Args:
        name: The extension's.
        epoch: Which life this is, from 1.
        launch: What to spawn.
        cwd: Where.
        mark: What its processes are known by.
        on_death: Called once when it has died, unless it was stopped.
        on_stderr: Told of each line of its stderr, as far as they are not too many.
        budget: What it may cost.
        ping_after: Seconds of silence after which it is asked for a sign of life.
        ping_timeout: Seconds for its answer; two missed ones are a death.

    Raises:
        SpawnError: The command cannot be started.
    """

    def __init__(
        self,
        name: str,
        epoch: int,
        launch: Launch,
        *,
        cwd: Path,
        mark: str,
        on_death: Callable[[Life], None],
        on_stderr: Callable[[str], None],
        max_frame_bytes: int,
        budget: Budget,
        ping_after: float = PING_AFTER,
        ping_timeout: float = PING_TIMEOUT,
    ) -> None:
        self.name = name
        self.epoch = epoch
        # Opaque, and impossible to guess: an event's token must not be turned into a command's.
        self.contexts = {
            tier: {"token": f"{epoch}-{tier}-{secrets.token_hex(8)}", "tier": tier} for tier in ("command", "event")
        }
        self._on_death = on_death
        self._ping_after = ping_after
        self._ping_timeout = ping_timeout
        self._loop = asyncio.get_running_loop()
        self.began = self._loop.time()
        self._budget = budget
        self._child = ChildProcess(
            launch.command,
            executable=launch.executable,
            cwd=cwd,
            env=launch.environment,
            mark=mark,
            stderr=subprocess.PIPE,
            max_frame_bytes=max_frame_bytes,
            transport=functools.partial(MeteredTransport, budget=budget),
        )
        self.stderr = StderrReader(self._child.process, on_stderr, budget)
        self.peer = Peer(self._child.transport, on_end=self._input_ended)
        self.lane: EventLane | None = None
        """The way of its events; None before the handshake."""
        self.early: Kept[int, tuple[str, Any]] = budget.table("early", _MOST_EARLY, _MOST_EARLY_BYTES)
        """Notifications from before the handshake was looked at, with their methods. Of more the oldest are lost."""
        self.died: asyncio.Future[ExtensionDied] = self._loop.create_future()
        self._ending: asyncio.Task[None] | None = None
        self._stopped = False  # on purpose
        self._exit_fd: int | None = None
        self._watching: list[asyncio.Task[None]] = []

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._ending is None and not self._stopped

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it has not."""
        return self._child.process.poll()

    async def begin(
        self,
        handshake: messages.InitializeParams,
        *,
        routes: Mapping[str, RequestHandler],
        notifications: Mapping[str, NotificationHandler],
        timeout: float = INITIALIZE_TIMEOUT,
    ) -> messages.InitializeResult:
        """Shake hands; how the extension introduces itself.

        Raises:
            ExtensionDied: It ended first.
            RpcError, RequestTimeout: It refused, or did not answer in time. Its process has been ended.
        """
        self.peer.routes, self.peer.notifications = routes, notifications
        self.peer.start()
        self._watch_exit()
        try:
            answer = await self.request(methods.INITIALIZE, unstructure(handshake), timeout=timeout)
            if type(answer) is dict:
                answer = {**answer, "registrations": self._budget.bounded(answer.get("registrations"))}
            introduction: messages.InitializeResult = fitted(self.name, answer, messages.InitializeResult)
        except BaseException:
            await self.kill()
            raise
        self.lane = EventLane(self.peer, self.contexts["event"], self._budget)
        self._watching.append(self._loop.create_task(self._ping_the_silent(), name=f"sepkit ping {self.name}"))
        return introduction

    async def request(self, method: str, params: dict[str, Any], *, timeout: float | None) -> Any:
        """Ask the extension.

        Raises:
            ExtensionDied: It has died, or did before it answered.
            RequestTimeout: It did not answer in time; it has been told to stop.
            RpcError: It answered with an error.
        """
        try:
            return await self.peer.request(method, params, timeout=timeout)
        except ConnectionClosed:
            raise await self.last_words() from None

    async def last_words(self) -> ExtensionDied:
        """Why it died. A new error for each caller: each is raised with a traceback of its own."""
        await asyncio.wait([self.died], timeout=1.0)
        if self.died.done():
            died = self.died.result()
            return ExtensionDied(self.name, self._reason, died.exit_code, died.stderr)
        return ExtensionDied(self.name, "has closed its output", None, self.stderr.tail)

    # -- its end -------------------------------------------------------------------------------------------------------

    async def stop(self, grace: float = SHUTDOWN_GRACE) -> None:
        """End it as the protocol says: ``shutdown``, its stdin ends, SIGTERM, SIGKILL; nothing of it is left."""
        self._stopped = True
        deadline = self._loop.time() + grace
        try:
            if self._ending is None:
                with contextlib.suppress(RpcError, RequestTimeout, ConnectionClosed):
                    await self.peer.request(methods.SHUTDOWN, {}, timeout=grace)
            await self._end("was stopped", max(0.1, deadline - self._loop.time()))
        except asyncio.CancelledError:  # a caller that gives up waiting has it ended at once
            self._signal(signal.SIGKILL)
            self._die("was killed", 0.1)
            raise

    async def kill(self) -> None:
        """End it at once."""
        self._stopped = True
        self._signal(signal.SIGKILL)
        await self._end("was killed", 0.5)

    def _signal(self, number: int) -> None:
        if self.exit_code is not None:  # its id may be another's by now
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _input_ended(self, error: Exception | None) -> None:
        self._die("has ended", _LAST_BYTES)

    def _exited(self) -> None:
        if self._exit_fd is not None:
            self._loop.remove_reader(self._exit_fd)
            os.close(self._exit_fd)
            self._exit_fd = None
        # Its last output may still be in the pipe; a grandchild that holds the pipe open must not delay this.
        self._loop.call_later(_LAST_BYTES, self._die, "has ended", 0.0)

    def _die(self, reason: str, grace: float) -> None:
        if self._ending is None:
            self._ending = self._loop.create_task(self._finish(reason, grace), name=f"sepkit end of {self.name}")

    async def _end(self, reason: str, grace: float) -> None:
        self._die(reason, grace)
        assert self._ending is not None
        # A caller that is cancelled meanwhile has begun it all the same.
        await asyncio.shield(self._ending)

    async def _finish(self, reason: str, grace: float) -> None:
        self._reason = reason
        for task in self._watching:
            task.cancel()
        code = await self._child.stop(grace=grace)
        self.peer.cancel_all()  # their answers can reach no one
        if self._exit_fd is not None:
            self._loop.remove_reader(self._exit_fd)
            os.close(self._exit_fd)
            self._exit_fd = None
        self.stderr.close()
        self.died.set_result(ExtensionDied(self.name, reason, code, self.stderr.tail))
        if not self._stopped:
            self._on_death(self)

    # -- watching it ---------------------------------------------------------------------------------------------------

    def _watch_exit(self) -> None:
        # The end of its output does not tell of a death while a grandchild holds the pipe.
        try:
            self._exit_fd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):
            self._watching.append(self._loop.create_task(self._poll_exit()))
        else:
            self._loop.add_reader(self._exit_fd, self._exited)

    async def _poll_exit(self) -> None:
        while self._child.process.poll() is None:  # noqa: ASYNC110  (nothing would set an event)
            await asyncio.sleep(0.1)
        self._exited()

    async def _ping_the_silent(self) -> None:
        missed = 0
        while missed < _MISSED_PONGS:
            if not missed:
                since = perf_counter()
                await asyncio.sleep(self._ping_after)
                if self._budget.heard_at > since:  # only a silent one is asked for a sign of life
                    continue
            try:
                await self.peer.request(methods.PING, {}, timeout=self._ping_timeout)
                missed = 0
            except RequestTimeout:
                missed += 1
            except RpcError:  # an answer all the same
                missed = 0
            except ConnectionClosed:
                return
        self._signal(signal.SIGKILL)
        self._die("does not answer any more", 0.5)


def fitted(name: str, answer: object, cls: Any) -> Any:
    """An extension's answer as a record.

    Raises:
        InternalError: It does not fit the protocol.
    """
    if type(answer) is dict:
        for field, value in answer.items():
            if type(value) is list and len(value) > _MOST_ANSWERED:
                raise InternalError(f"the answer of {name} has over {_MOST_ANSWERED:,} {field[:100]}")
    try:
        return structure(answer, cls)
    except InvalidData as error:
        raise InternalError(f"the answer of {name} does not fit the protocol: {error}") from None


def _said(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
