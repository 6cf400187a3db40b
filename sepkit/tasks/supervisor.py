"""The supervisor of background tasks: starts them, starts them again, stops them, and says how they are.

A task is what was started under an id; a run is one call of its coroutine. At most one run of a task is alive, and
nothing runs again once the wish is ``stop``. All of it happens in one loop, by callbacks: no caller that goes away
leaves a stop half done. The clock is the loop's, except in ``last_health_time``.

How a run ends, and what follows:

=====================  =============================================================================================
it returns or raises   the policy decides: ``restarting``, ``stopped`` (returned), or ``failed`` (raised, or exhausted)
it is silent           past ``heartbeat_timeout`` it is cancelled; however it ends then, it has failed
it is asked to stop    signal, ``stop_grace``, cancel, CANCEL_GRACE; however it ends then, it is ``stopped``
it ignores all that    it is named in the log and left behind; ``stopped`` once it does end, and refused a second run
=====================  =============================================================================================

However it ends, asyncio tasks that it has started and left behind end with it (``leftovers``).
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Literal

from sepkit.errors import SepkitError, sayable
from sepkit.ownlog import OwnLog
from sepkit.tasks.leftovers import Leftovers, Owner
from sepkit.tasks.policy import TaskSpec
from sepkit.tasks.run import Latch, TaskRun
from sepkit.tracebacks import Told, authors_part, cut
from sepkit.userids import user_fault
from sepkit.wire.messages import TaskHealth
from sepkit.wire.methods import TaskStatus

Launch = Callable[[TaskSpec, TaskRun], Coroutine[Any, Any, object]]

CANCEL_GRACE: Final = 5.0
"""Seconds that a cancelled run has before it is named in the log."""

MAX_ENDED: Final = 10_000
"""So many ended tasks are remembered, the newest: ids may be made up for ever, the list may not grow for ever."""

_TICK: Final = 0.001  # a timer may go off so much too early: uvloop counts in milliseconds
_LAST_GRACE: Final = 0.01  # even with no grace at all, a cancelled run gets the turns of the loop that it takes to end
_LATE: Final = 0.1  # a timer that goes off later than this was held up, and so was every run
_MAX_TEXT: Final = 2_000


class TaskRefused(SepkitError):
    """A task cannot be started: its id is running, its user is missing, or no more tasks are started."""


class UnknownTask(SepkitError, LookupError):
    """No task was started under this id. ``known`` are the ids that there are."""

    def __init__(self, task_id: str, known: Iterable[str]) -> None:
        self.task_id = task_id
        self.known = tuple(known)
        shown = ", ".join(map(repr, self.known[:10])) + (", …" if len(self.known) > 10 else "")
        super().__init__(f"no task {task_id!r}; there are {shown or 'none'}")


class _Entry:
    """One start of a task, until it has stopped or failed for good. The next start of the id makes another."""

    # One timer serves all: backing off, listening for heartbeats and stopping never happen at the same time.
    __slots__ = (
        "began", "cancel_at", "cancelled", "delay", "ended", "error", "give_up_at", "heard", "id", "last_health_status",
        "last_health_time", "name", "number", "owner", "payload", "restarts", "run", "settled", "silent", "spared",
        "spec", "status", "task", "timer", "user_id", "wish",
    )  # fmt: skip

    def __init__(self, spec: TaskSpec, task_id: str, user_id: str | None, payload: Any, name: str) -> None:
        self.spec = spec
        self.id = task_id
        self.name = name
        self.user_id = user_id
        self.payload = payload
        self.wish: Literal["run", "stop"] = "run"  # never goes back to "run"
        self.status: TaskStatus = "pending"
        self.restarts = 0  # since the last healthy run
        self.delay = 0.0  # the one before the present run
        self.error: str | None = None
        self.last_health_status: str | None = None
        self.last_health_time: str | None = None
        # The present run. `run` and `task` are both set or both None; `began` is None until its first turn of the loop.
        self.number = 0
        self.run: TaskRun | None = None
        self.task: asyncio.Task[BaseException | None] | None = None
        self.owner: weakref.ref[Owner] | None = None  # of what the present run starts
        self.began: float | None = None
        self.heard = 0.0  # when it last reported, or began
        self.silent = False  # whether it was cancelled for having reported nothing
        self.spared = False  # whether it was forgiven once that it reported nothing
        # How it stops.
        self.timer: asyncio.TimerHandle | None = None
        self.cancel_at = math.inf
        self.give_up_at = math.inf
        self.cancelled = False
        self.settled = Latch()  # has ended, or was asked to stop and given up
        self.ended = Latch()  # `stopped` or `failed`, never to change again


class TaskHandle:
    """One start of a task. As an async context manager it stops the task at its end.

    It stays with the start it came from: a later start of the same id is not this handle's to stop.
    """

    __slots__ = ("_entry", "_supervisor")

    def __init__(self, supervisor: Supervisor, entry: _Entry) -> None:
        self._supervisor = supervisor
        self._entry = entry

    @property
    def id(self) -> str:
        """The task's id."""
        return self._entry.id

    @property
    def health(self) -> TaskHealth:
        """How the task is now, or was when it ended."""
        return self._supervisor._health(self._entry)

    async def stop(self) -> TaskHealth:
        """Stop the task; see :meth:`Supervisor.stop`."""
        return await self._supervisor._stop(self._entry)

    async def join(self) -> TaskHealth:
        """Wait until the task has stopped or failed for good.

        Raises:
            RuntimeError: The task itself asks: it would wait for ever.
        """
        if self._entry.task is not None and self._entry.task is asyncio.current_task():
            raise RuntimeError(f"task {self.id!r} cannot wait for its own end")
        await self._entry.ended.wait()
        return self.health

    async def __aenter__(self) -> TaskHandle:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


def _dice() -> float:
    import random  # 1 ms to import, and most extensions start no task twice

    return random.random()


class Supervisor:
    """Runs tasks. Everything but ``TaskRun.report_health`` and ``TaskRun.stopping`` belongs to the loop's thread.

    Args:
        launch: Makes the coroutine of one run. It is called in that run's own asyncio task.
        on_change: Told of each change of state after ``pending``, and of a run that ignores its cancellation. Must not
            wait. Not called after ``aclose``.
        on_report: Told of each health report, likewise; by default ``on_change`` is.
        random: Gives numbers in [0, 1) for the jitter.
        logger: Gets what tasks raise, and the names of those that do not end.
        context: The context variables of which each run gets a copy; by default none at all.
    """

    def __init__(
        self,
        launch: Launch,
        *,
        on_change: Callable[[TaskHealth], None],
        on_report: Callable[[TaskHealth], None] | None = None,
        random: Callable[[], float] = _dice,
        logger: logging.Logger | None = None,
        context: Context | None = None,
    ) -> None:
        self._context = Context() if context is None else context
        self._launch = launch
        self._on_change = on_change
        self._on_report = on_report or on_change
        self._random = random
        self._log = OwnLog(logger or "sepkit.tasks")
        self._leftovers = Leftovers(self._log, CANCEL_GRACE)
        self._entries: dict[str, _Entry] = {}  # the newest start of each id
        self._over: OrderedDict[str, None] = OrderedDict()  # the ids in `_entries` that have ended, oldest first
        self._closing = False
        self._closed = False
        self._loop: asyncio.AbstractEventLoop = None  # type: ignore[assignment]  # of the first start, with its thread
        self._thread = 0

    # -- what may be asked ---------------------------------------------------------------------------------------------

    def start(
        self,
        spec: TaskSpec,
        *,
        id: str | None = None,  # noqa: A002  (the word of the API)
        user_id: str | None = None,
        payload: Any = None,
        name: str | None = None,
    ) -> TaskHandle:
        """Start a task; its first run begins in the loop's next turn.

        Args:
            spec: What to run.
            id: Unique among the tasks that have not ended. By default the spec's name, and ``name:user_id`` for a
                per-user task.
            user_id: For whom. A per-user task needs it.
            payload: Reaches every run as it is.
            name: For people. By default the spec's.

        Raises:
            TaskRefused: The id has not ended, the user is missing, the supervisor is closed, or this is another loop
                than that of the first start. Nothing has happened.
        """
        self._be_in_loop(f"task {spec.name!r} cannot be started")
        if self._closing:
            raise TaskRefused(f"task {spec.name!r}: the extension is shutting down, and starts no more tasks")
        if user_id is None and spec.per_user:
            raise TaskRefused(f"task {spec.name!r} is per user: start it with a user_id")
        if user_id is not None and (fault := user_fault(user_id)):
            raise TaskRefused(f"task {spec.name!r}: user_id {fault}")
        task_id = id
        if task_id is None:
            task_id = f"{spec.name}:{user_id}" if spec.per_user else spec.name
        for word, text in (("id", task_id), ("name", name)):
            if text is not None and not _is_text(text):
                raise TaskRefused(f"task {spec.name!r}: {word} must be a string that is not empty, not {text!r}")
        former = self._entries.get(task_id)
        if former is not None and not former.ended.is_set:
            state = "still stopping" if former.wish == "stop" else former.status
            raise TaskRefused(f"task {task_id!r} is {state}; stop it before it is started again")
        self._over.pop(task_id, None)
        entry = self._entries[task_id] = _Entry(spec, task_id, user_id, payload, spec.name if name is None else name)
        self._next_run(entry)
        return TaskHandle(self, entry)

    def autostart(self, specs: Iterable[TaskSpec]) -> list[TaskHandle]:
        """Start those that want it: ``autostart``, not per user, and not started already."""
        wanted = [spec for spec in specs if spec.autostart and not spec.per_user]
        return [self.start(spec) for spec in wanted if not self._lives(spec.name)]

    async def stop(self, task_id: str) -> TaskHealth:
        """Stop a task, whatever its state; how it is then.

        Returns when the run has ended, or ``stop_grace`` and CANCEL_GRACE are over: a run that has not ended by then is
        left behind, and what is returned still says ``running``, with an ``error``. A task that ended before stays as
        it is. A task that stops itself does not wait for its own end.

        Raises:
            UnknownTask: Nothing was started under this id.
            TaskRefused: This is another loop than that of the first start.
        """
        return await self._stop(self._find(task_id))

    def status(self) -> list[TaskHealth]:
        """How all tasks are, in the order of their first start."""
        return [self._health(entry) for entry in self._entries.values()]

    @property
    def busy(self) -> bool:
        """Whether any task has not ended."""
        return len(self._entries) > len(self._over)

    def health(self, task_id: str) -> TaskHealth:
        """How a task is.

        Raises:
            UnknownTask: Nothing was started under this id.
        """
        return self._health(self._find(task_id))

    async def aclose(self, grace: float = 5.0) -> None:
        """Stop all tasks side by side, within ``grace`` seconds, and start no more.

        A run is signalled at once and cancelled after its ``stop_grace``, or three quarters of ``grace`` where that is
        sooner. Afterwards nothing is armed; runs that have not ended even so are named in the log and left behind.
        """
        self._closing = True
        living = [entry for entry in self._entries.values() if not entry.ended.is_set]
        try:
            for entry in living:
                if not entry.settled.is_set:
                    self._ask_to_stop(entry, within=grace)
            for entry in living:
                await entry.settled.wait()
            if living:
                self._leftovers.look(self._loop)
            if left := self._leftovers.living:
                await asyncio.wait(set(left), timeout=_LAST_GRACE)
        finally:
            self._closed = True
            for entry in living:  # any are left only where this very call was cancelled
                if not entry.settled.is_set:
                    self._disarm(entry)
                    if entry.task is not None:
                        entry.task.cancel()

    # -- the course of a run -------------------------------------------------------------------------------------------

    def _next_run(self, entry: _Entry) -> None:
        entry.timer = None
        entry.number += 1
        entry.began = None
        entry.silent = entry.spared = False
        entry.run = TaskRun(
            task_id=entry.id,
            name=entry.name,
            user_id=entry.user_id,
            payload=entry.payload,
            number=entry.number,
            report=self._reported,
        )
        context = self._context.copy()
        entry.owner = self._leftovers.owned(context, f"task {entry.id!r}: run {entry.number}")
        # Not `create_task`: an eager task factory would call the task within `start`, before there is anything to stop.
        entry.task = asyncio.Task(
            self._contain(entry, entry.run),
            loop=self._loop,
            name=f"sepkit task {entry.id}",
            context=context,
        )
        # A callback and not the coroutine's last act: only now has it really ended; and a run that is cancelled before
        # its first turn never acts at all.
        entry.task.add_done_callback(lambda task: self._run_ended(entry, task), context=self._context)

    async def _contain(self, entry: _Entry, run: TaskRun) -> BaseException | None:
        entry.began = entry.heard = self._loop.time()
        entry.status = "running"
        entry.error = None
        if entry.spec.heartbeat_timeout is not None:
            self._arm(entry, entry.heard + entry.spec.heartbeat_timeout, self._listen)
        self._tell(entry)
        try:
            await self._launch(entry.spec, run)
        except (KeyboardInterrupt, SystemExit) as error:  # raised out of an asyncio task, these end the loop
            return error
        return None

    def _run_ended(self, entry: _Entry, task: asyncio.Task[BaseException | None]) -> None:
        restarts = entry.restarts = self._restarts(entry)
        if entry.run is not None:
            entry.run.signal_stop()  # for whatever it left behind: a thread, a child
        entry.run = entry.task = None
        self._disarm(entry)
        if entry.owner is not None:
            self._leftovers.run_ended(entry.owner, self._loop)
        error: BaseException | None
        try:
            error = task.exception() or task.result()
        except asyncio.CancelledError as cancelled:
            error = cancelled
        # That it was cancelled is no news where that was our doing; else it awaited what somebody cancelled.
        expected = isinstance(error, asyncio.CancelledError) and (entry.wish == "stop" or entry.silent)
        said = None if error is None or expected else Told(error)
        if error is not None and said is not None:
            what = (type(error), error, authors_part(error))
            place = entry.id, entry.number
            self._log.error("task %r: run %d raised", *place, exc_info=what, exc_text=said.traceback)
        if entry.wish == "stop":
            self._end(entry, "stopped", None)
            return
        reason: str | None = None
        if entry.silent:
            reason = f"no health report for {entry.spec.heartbeat_timeout:g} s"
        elif said is not None:
            reason = sayable(said.line)
        policy = entry.spec.policy
        follows = policy.after_run(failed=reason is not None, restarts=restarts)
        if follows == "restart":
            entry.delay = policy.delay(restarts, self._random)
            entry.restarts += 1
            entry.status = "restarting"
            entry.error = reason
            self._arm(entry, self._loop.time() + entry.delay, self._next_run)
            self._tell(entry)
        elif follows == "exhausted":
            used = f"restarts exhausted ({restarts} of {policy.max_restarts})"
            self._end(entry, "failed", f"{used}; the last run: {reason or 'returned'}")
        else:
            self._end(entry, follows, reason)

    def _listen(self, entry: _Entry) -> None:
        # A report only notes the time; the timer moves on when it finds one. Thousands of reports cost no timers.
        timeout = entry.spec.heartbeat_timeout
        if timeout is None or entry.task is None:
            return
        if self._loop.time() + _TICK < entry.heard + timeout:
            self._arm(entry, entry.heard + timeout, self._listen)
            return
        if self._loop.time() > entry.heard + timeout + _LATE and not entry.spared:
            # Somebody blocked the loop: the run had no turn in which to report. It gets one, and no more than that.
            entry.spared = True
            self._arm(entry, self._loop.time() + _LATE, self._listen)
            return
        self._log.warning("task %r: run %d reported nothing for %g s; cancelled", entry.id, entry.number, timeout)
        entry.silent = True
        entry.task.cancel()
        self._arm(entry, self._loop.time() + CANCEL_GRACE, self._give_up)

    def _end(self, entry: _Entry, status: Literal["stopped", "failed"], error: str | None) -> None:
        entry.status = status
        entry.error = error
        entry.ended.set()
        entry.settled.set()
        self._over[entry.id] = None
        if len(self._over) > MAX_ENDED:
            del self._entries[self._over.popitem(last=False)[0]]
        self._tell(entry)

    # -- stopping ------------------------------------------------------------------------------------------------------

    async def _stop(self, entry: _Entry) -> TaskHealth:
        self._be_in_loop(f"task {entry.id!r} cannot be stopped")
        if entry.wish == "run" and not entry.ended.is_set:
            self._ask_to_stop(entry)
        if entry.task is None or entry.task is not asyncio.current_task():
            await entry.settled.wait()
        return self._health(entry)

    def _ask_to_stop(self, entry: _Entry, within: float = math.inf) -> None:
        entry.wish = "stop"
        if entry.task is None or entry.run is None:  # backing off
            self._disarm(entry)
            self._end(entry, "stopped", None)
            return
        if entry.began is None:  # its task has had no turn yet: cancelled now, it never calls anything
            entry.task.cancel()
            return
        now = self._loop.time()
        grace = min(entry.spec.stop_grace, within * 0.75)
        # `aclose` may come while a stop is under way: what is due sooner holds.
        entry.cancel_at = min(entry.cancel_at, now + grace)
        entry.give_up_at = min(entry.give_up_at, entry.cancel_at + CANCEL_GRACE, now + max(within, _LAST_GRACE))
        entry.run.signal_stop()
        self._stop_step(entry)

    def _stop_step(self, entry: _Entry) -> None:
        if entry.task is None:
            return
        now = self._loop.time() + _TICK
        if not entry.cancelled and now >= entry.cancel_at:
            entry.cancelled = True
            entry.task.cancel()
        if now >= entry.give_up_at:
            self._give_up(entry)
        else:
            self._arm(entry, entry.give_up_at if entry.cancelled else entry.cancel_at, self._stop_step)

    def _give_up(self, entry: _Entry) -> None:
        self._disarm(entry)
        self._log.error("task %r: run %d ignores its cancellation, and still runs", entry.id, entry.number)
        entry.error = "it ignores its cancellation"
        if entry.wish == "stop":
            entry.settled.set()
        self._tell(entry)

    # -- reports, and small parts --------------------------------------------------------------------------------------

    def _be_in_loop(self, what: str) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is not None and not self._thread:
            self._loop = loop
            self._thread = threading.get_ident()
        elif loop is None or loop is not self._loop:
            raise TaskRefused(f"{what} outside of the extension's loop: do it in an `async def` handler")

    def _reported(self, run: TaskRun, text: str) -> None:
        moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if threading.get_ident() == self._thread:
            self._note(run, text, moment)
            return
        try:
            self._loop.call_soon_threadsafe(self._note, run, text, moment)
        except RuntimeError:  # the loop was closed in the meantime: nobody is left to tell
            return

    def _note(self, run: TaskRun, text: str, moment: str) -> None:
        entry = self._entries.get(run.task_id)
        if entry is None or entry.run is not run:  # a run that is over, or of a start that is over
            return
        entry.heard = self._loop.time()
        entry.spared = False
        entry.last_health_status = sayable(cut(text, _MAX_TEXT))  # a file name may be no UTF-8
        entry.last_health_time = moment
        self._tell(entry, self._on_report)

    def _tell(self, entry: _Entry, whom: Callable[[TaskHealth], None] | None = None) -> None:
        if self._closed:
            return
        try:
            (whom or self._on_change)(self._health(entry))
        except Exception:
            self._log.exception("task %r: its state could not be told", entry.id)

    def _health(self, entry: _Entry) -> TaskHealth:
        return TaskHealth(
            task_id=entry.id,
            name=entry.name,
            user_id=entry.user_id,
            status=entry.status,
            restart_count=self._restarts(entry),
            last_health_status=entry.last_health_status,
            last_health_time=entry.last_health_time,
            error=entry.error,
        )

    def _restarts(self, entry: _Entry) -> int:
        """The restarts since the last healthy run. The present one counts as soon as it has lasted, without a timer."""
        if entry.status == "running" and entry.task is not None and entry.began is not None:
            lasted = self._loop.time() - entry.began
            if lasted >= entry.spec.policy.healthy_after(entry.delay):
                return 0
        return entry.restarts

    def _lives(self, task_id: str) -> bool:
        entry = self._entries.get(task_id)
        return entry is not None and not entry.ended.is_set

    def _find(self, task_id: str) -> _Entry:
        try:
            return self._entries[task_id]
        except KeyError:
            raise UnknownTask(task_id, self._entries) from None

    def _arm(self, entry: _Entry, when: float, action: Callable[[_Entry], None]) -> None:
        self._disarm(entry)
        entry.timer = self._loop.call_at(when, action, entry, context=self._context)

    def _disarm(self, entry: _Entry) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and sayable(value) == value
