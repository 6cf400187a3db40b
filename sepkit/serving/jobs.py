"""Runs the jobs of an app that is served: finds what is due, claims it from the store, and has the supervisor run it.

What has been started is in the store before its handler is called, so that it is never started twice, whatever becomes
of this process; other processes may serve the same app with the same store.

How a time of a job goes, and what follows:

==========================  ========================================================================================
it comes due                claimed with a lease, noted as started, run as a task that is not started again
it is late                  of all times that went by, the last one runs; with ``misfire="skip"`` not one that is more
                            than 60 s late
its handler raises          logged, shown in its health; the schedule goes on
it was claimed, not begun   claimed again by any process once the lease is over
its process is killed       once the lease is over, logged as failed; repeated only with ``retry=True``
the app shuts down          the run has the grace, then is cancelled, and counts as cut, too
the store fails             logged once, and tried again
==========================  ========================================================================================

Jobs follow the wall's clock, which may jump: it is looked at every few seconds, whatever the loop's clock does.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import math
import os
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from functools import partial
from typing import Any, Final

from sepkit.contexts.backend import JobBackend, StoredJob
from sepkit.contexts.contexts import JobContext, TaskContext
from sepkit.errors import ConnectionClosed, JobRefused, SepkitError
from sepkit.handlers import JobSpec
from sepkit.ownlog import OwnLog
from sepkit.records import changed
from sepkit.scheduling import Job
from sepkit.tasks import RestartPolicy, Supervisor, TaskHandle, TaskHealth, TaskRefused, TaskSpec
from sepkit.tasks.schedule import moment

LEASE: float = 15.0
"""Seconds that a claim is good for; renewed three times as often."""

TICK: Final = 5.0
"""Seconds after which the wall's clock is looked at, at the latest."""

LATE: Final = 60_000
"""Milliseconds after which ``misfire="skip"`` drops a run."""

MOST_RUNNING: Final = 64
"""So many runs at once in one process; what else is due waits."""

MOST_REPEATS: Final = 10
"""A run that was cut so often is not repeated any more: it may be what ends the process."""

_LOOK: Final = 30.0  # seconds until the store is looked at again: another process may have put jobs there
_AGAIN: Final = 5.0  # seconds until a store that failed is asked again
# ms until the next look where something is due that cannot be claimed yet; less does not count as a jump of the clock
_SOON: Final = 1000
_LAST: Final = 1.0  # seconds for what is being written, at the end
_STOP_GRACE: Final = 60.0  # a run has the grace of the shutdown, whatever that is
_MOST_TOLD: Final = 1_000  # runs that were cut, of which the health is remembered

_log = OwnLog("sepkit.jobs")

Call = Callable[[Any, dict[str, Any], bool], Awaitable[object]]
"""Calls a handler: the function, its arguments, and whether it is a coroutine function."""


class _Held:
    """A job that this process has claimed; its run, once it has been started."""

    __slots__ = ("is_over", "job", "scheduled", "spec")

    def __init__(self, job: StoredJob, spec: JobSpec) -> None:
        self.job = job
        self.spec = spec
        self.scheduled = 0
        self.is_over = False  # its handler has returned or raised, and was not cancelled


class Jobs:
    """The jobs of one app that is served.

    Args:
        specs: The app's jobs, by name.
        backend: Gives what keeps them.
        supervisor: Runs them.
        call: Calls a handler.
        tell: Told of the health of a job that the supervisor does not know: one that was cut before.
        loop: Where all of it runs.
        context: The context variables that it works in.
        clock: Seconds since 1970.
        tick: Seconds after which the clock is looked at.
    """

    def __init__(
        self,
        specs: Mapping[str, JobSpec],
        *,
        backend: Callable[[], JobBackend],
        supervisor: Supervisor,
        call: Call,
        tell: Callable[[TaskHealth], None],
        loop: asyncio.AbstractEventLoop,
        context: Context,
        clock: Callable[[], float],
        tick: float,
    ) -> None:
        self._specs = specs
        self._backend = backend
        self._supervisor = supervisor
        self._call = call
        self._tell = tell
        self._loop = loop
        self._context = context
        self._clock = clock
        self._tick = tick
        self._owner: Final = f"{os.getpid()}-{os.urandom(8).hex()}"
        self._held: dict[str, _Held] = {}  # by id
        self._cut: dict[str, TaskHealth] = {}  # by the id of the task
        self._at_work: set[asyncio.Task[None]] = set()  # what watches a run, or writes a job
        self._writing: set[asyncio.Task[None]] = set()  # those of them that write a job
        self._is_kicked = False
        self._waiter: asyncio.Future[None] | None = None
        self._looked: list[asyncio.Future[None]] = []
        self._working: asyncio.Task[None] | None = None
        self._closing = False
        self._is_planned = False  # the jobs that repeat are in the store
        self._trouble = ""
        self._unknown: set[str] = set()  # functions that are no more, told already
        self._loose: list[StoredJob] = []  # claimed, and to be let go of, once the store works again
        self._seen = 0, 0.0  # the wall's clock and the loop's, when they were last looked at
        self._no_take_over = 0.0  # until then, on the loop's clock
        self._renew_at = 0.0  # on the loop's clock
        self._next: int | None = None  # when the next job is due, as far as it is known

    # -- its life ------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Run what is due, from now on."""
        if self._working is None and not self._closing:
            self._working = self._spawn(self._work())
            for spec in self._specs.values():
                if spec.schedule is not None:
                    self._tell(self._waiting(spec))

    async def stop(self) -> None:
        """Start no more runs. Those that are being started begin first, so that they have the grace."""
        self._closing = True
        self.wake()
        if self._working is not None:
            await asyncio.wait([self._working], timeout=_LAST)

    async def aclose(self) -> None:
        """All runs have ended: write how."""
        if self._working is not None:
            self._working.cancel()
        if self._at_work:
            _, left = await asyncio.wait(set(self._at_work), timeout=_LAST)
            for task in left:
                task.cancel()

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(work, name="sepkit jobs", context=self._context.copy())
        return task

    def _watched(self, work: Any) -> asyncio.Task[None]:
        task = self._spawn(work)
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)
        return task

    # -- what may be asked ---------------------------------------------------------------------------------------------

    def now(self) -> int:
        """Milliseconds since 1970."""
        return int(self._clock() * 1000 + 0.01)  # a moment in whole milliseconds is itself

    def wake(self) -> None:
        """Something may be due."""
        self._is_kicked = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _woken(self) -> None:
        self._loop.call_soon_threadsafe(self.wake)

    def put(self, job: StoredJob) -> concurrent.futures.Future[None]:
        """Keep a job; from any thread. What comes back is done when it is stored."""
        written: concurrent.futures.Future[None] = concurrent.futures.Future()
        written.set_running_or_notify_cancel()
        try:
            self._loop.call_soon_threadsafe(self._begin_to_put, job, written, context=self._context)
        except RuntimeError:  # it has been closed
            raise JobRefused(f"job {job.id!r}: the extension has ended") from None
        return written

    def _begin_to_put(self, job: StoredJob, written: concurrent.futures.Future[None]) -> None:
        writing = self._watched(self._put(job, written))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)

    async def _put(self, job: StoredJob, written: concurrent.futures.Future[None]) -> None:
        try:
            await self._backend().put(job)
        except asyncio.CancelledError:
            written.set_exception(ConnectionClosed(f"job {job.id!r}: the extension has ended before it was stored"))
            raise
        except SepkitError as error:
            _log.error("job %r is not stored: %s", job.id, error)
            written.set_exception(error)
        else:
            written.set_result(None)
            self._be_due(job.due)

    async def cancel(self, id: str) -> bool:  # noqa: A002
        """Have a job not run any more; whether it would have."""
        await self._written()
        return await self._backend().cancel(id)

    async def coming(self) -> list[Job]:
        """What is to come."""
        await self._written()
        if not self._is_planned:
            await self.looked()
        found = await self._backend().all()
        return [Job(job, json.loads(job.payload)) for job in found if job.due is not None]

    async def _written(self) -> None:
        """Wait for what `put` has been given before."""
        await asyncio.sleep(0)
        if self._writing:
            await asyncio.wait(set(self._writing))

    def status(self) -> list[TaskHealth]:
        """How the jobs are of which the supervisor knows nothing: they wait for their first run here, or were cut."""
        known = {health.task_id for health in self._supervisor.status()}
        waiting = [
            self._waiting(spec)
            for spec in self._specs.values()
            if spec.schedule is not None and spec.name not in self._cut
        ]
        return [health for health in (*waiting, *self._cut.values()) if health.task_id not in known]

    def _waiting(self, spec: JobSpec) -> TaskHealth:
        return _health(spec.name, spec.name, None, "pending", None)

    async def looked(self) -> None:
        """Wait until what is due now has been started, or the store has failed."""
        if self._working is None or self._working.done():
            return
        looked: asyncio.Future[None] = self._loop.create_future()
        self._looked.append(looked)
        self.wake()
        await looked

    async def idle(self) -> None:
        """Wait until all that is due now has run. For tests."""
        await self.looked()
        while (self._held or self._is_kicked) and not self._closing:
            if self._at_work:
                await asyncio.wait(set(self._at_work), return_when=asyncio.FIRST_COMPLETED)
            await self.looked()

    @property
    def next_due(self) -> int | None:
        """When the next job is due, as far as it is known."""
        return self._next

    # -- what is due ---------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        self._seen = self.now(), self._loop.time()
        try:
            await self._go_on()
        finally:
            _settle(self._looked)

    async def _go_on(self) -> None:
        while not self._closing:
            self._is_kicked = False
            looked, self._looked = self._looked, []
            try:
                if not self._is_planned:
                    self._backend().listen(self._woken)
                    await self._plan()
                await self._renew()
                self._next = None
                self._be_due(await self._look())
            except Exception as error:  # of any kind: without this loop no job would ever run again
                self._ill(error)
                self._next = self.now() + round(_AGAIN * 1000)
            else:
                self._well()
            _settle(looked)
            await self._wait()

    def _ill(self, error: Exception) -> None:
        if str(error) == self._trouble:
            return
        self._trouble = str(error)
        if isinstance(error, SepkitError):
            _log.error("jobs do not run: %s; this is tried again every %g s", error, _AGAIN)
        else:
            _log.error("jobs do not run; this is tried again every %g s", _AGAIN, exc_info=error)

    def _well(self) -> None:
        if self._trouble:
            self._trouble = ""
            _log.info("jobs run again")

    def _be_due(self, due: int | None) -> None:
        """A job is due then, perhaps before any other."""
        if due is not None and (self._next is None or due < self._next):
            self._next = due
            if self._waiter is not None:
                _settle([self._waiter])

    async def _wait(self) -> None:
        """Wait until the next job is due on the wall's clock, or until something else happens."""
        deadline = self._loop.time() + (_LOOK if math.isfinite(self._tick) else math.inf)
        while not self._is_kicked:
            now, time = self.now(), self._loop.time()
            self._notice_jump(now, time)
            until = math.inf if self._next is None else time + (self._next - now) / 1000
            until = min(until, deadline, self._renew_at if self._held else math.inf)
            if until <= time or self._is_kicked:
                return
            await self._nap(min(until, time + self._tick))

    async def _nap(self, until: float) -> None:
        """Wait until then on the loop's clock, or until woken."""
        self._waiter = self._loop.create_future()
        timer = None if math.isinf(until) else self._loop.call_at(until, _settle, [self._waiter])
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
        if self._loop.time() - until > LEASE / 3:  # this process has slept, and those beside it may have
            self._no_take_over = self._loop.time() + LEASE

    def _notice_jump(self, now: int, time: float) -> None:
        """Whether the wall's clock has been set, or has gone on while the loop's stood still."""
        jump = (now - self._seen[0]) / 1000 - (time - self._seen[1])
        self._seen = now, time
        if abs(jump) > LEASE / 3:
            self._no_take_over = time + LEASE
        if jump < -1:
            self._is_planned = False  # what was next by the old clock may be far off by the new one
            self._is_kicked = True

    async def _renew(self) -> None:
        time = self._loop.time()
        if self._held and time >= self._renew_at:
            await self._backend().renew(self._owner, self.now() + _lease())
            self._renew_at = time + LEASE / 3

    async def _plan(self) -> None:
        """Have the jobs that repeat in the store, each with a time that is not too far off."""
        backend = self._backend()
        stored = {job.id: job for job in await backend.all()}
        now = self.now()  # not before that: another process may have moved a job on meanwhile
        for spec in list(self._specs.values()):
            found = stored.get(spec.name)
            if spec.schedule is None:
                if found is not None and found.schedule:  # it repeated before
                    await backend.cancel(spec.name)
                continue
            due = spec.schedule.after(now)
            if found is None:
                await backend.add(self._repeating(spec, due, now))
            elif (found.schedule, found.name) != (spec.text, spec.name) or found.due is None or found.due > due + _SOON:
                await backend.put(self._repeating(spec, due, now))
        self._tell_unknown(stored.values())
        self._is_planned = True

    def _repeating(self, spec: JobSpec, due: int, now: int) -> StoredJob:
        return StoredJob(id=spec.name, name=spec.name, schedule=spec.text, due=due, since=now)

    def _tell_unknown(self, stored: Any) -> None:
        gone = {job.name for job in stored} - self._specs.keys() - self._unknown
        self._unknown |= gone
        for name in sorted(gone):
            ids = [job.id for job in stored if job.name == name]
            more = ", …" if len(ids) > 3 else ""
            _log.warning(
                "there is no job %r any more, of which %d are stored (%s%s): they are kept, and do not run",
                name,
                len(ids),
                ", ".join(ids[:3]),
                more,
            )

    async def _look(self) -> int | None:
        """Start what is due; when to look again."""
        while self._loose:
            await self._backend().release(self._loose[-1], self._owner)
            self._loose.pop()
        free = MOST_RUNNING - len(self._held)
        if free <= 0:
            return None  # the end of a run wakes
        now, time = self.now(), self._loop.time()
        claimed, wake = await self._backend().claim(
            self._owner, list(self._specs), now, now + _lease(), free, take_over=time >= self._no_take_over
        )
        if claimed and not self._held:
            self._renew_at = time + LEASE / 3
        held = [_Held(job, self._specs[job.name]) for job in claimed]
        self._held.update({one.job.id: one for one in held})
        following: list[int | None] = list(await asyncio.gather(*(self._take(one, now) for one in held)))
        if wake is not None:
            following.append(max(wake, now + _SOON) if wake <= now else wake)
        return min((due for due in following if due is not None), default=None)

    async def _take(self, held: _Held, now: int) -> int | None:
        """Do with a job what is to be done now; when it is due next, if nothing of it runs."""
        try:
            return await self._taken(held, now)
        except Exception as error:
            self._ill(error)
            self._held.pop(held.job.id, None)
            self._loose.append(held.job)
            return now + round(_AGAIN * 1000)

    async def _taken(self, held: _Held, now: int) -> int | None:
        job, spec = held.job, held.spec
        if job.running is not None:
            again = spec.retry and job.repeats < MOST_REPEATS
            self._tell_cut(held, job.running, "its process has ended in the middle of it", again=again)
            if not again:
                await self._over(held, job.due)
                return None
            scheduled, due = job.running, job.due
        else:
            assert job.due is not None
            schedule = spec.schedule if job.schedule else None
            scheduled = job.due if schedule is None else schedule.latest(job.due, now)
            due = None if schedule is None else schedule.following(job.due, now)
            late = now - max(scheduled, job.since)
            if spec.misfire == "skip" and late > LATE:
                _log.info("job %r: the run for %s is %d s late, and skipped", job.id, moment(scheduled), late // 1000)
                await self._over(held, due)
                return due
        if not await self._backend().start(job, self._owner, scheduled, due):
            self._held.pop(job.id, None)
            self.wake()
            return None
        held.scheduled = scheduled
        held.job = changed(job, due=due)
        self._begin(held)
        return None

    # -- a run ---------------------------------------------------------------------------------------------------------

    def _begin(self, held: _Held) -> None:
        spec, job = held.spec, held.job
        task = TaskSpec(
            name=spec.name,
            fn=partial(self._run, held),
            policy=RestartPolicy(type="never"),
            stop_grace=_STOP_GRACE,
            autostart=False,
            context="ctx",
        )
        task_id = _task_id(job)
        self._cut.pop(task_id, None)
        try:
            handle = self._supervisor.start(task, id=task_id, user_id=job.user)
        except TaskRefused as error:
            self._watched(self._not_begun(held, error))
        else:
            self._watched(self._watch(held, handle))

    async def _run(self, held: _Held, ctx: TaskContext) -> None:
        spec = held.spec
        arguments: dict[str, Any] = {}
        if spec.context is not None:
            payload = json.loads(held.job.payload)
            arguments[spec.context] = JobContext(ctx._link, ctx._run, held.job.id, payload, moment(held.scheduled))
        me = asyncio.current_task()
        assert me is not None
        try:
            await self._call(spec.fn, arguments, spec.is_async)
        finally:
            held.is_over = not me.cancelling()

    async def _not_begun(self, held: _Held, error: TaskRefused) -> None:
        if not self._closing:
            _log.error("job %r: the run for %s cannot begin: %s", held.job.id, moment(held.scheduled), error)
            await self._over_surely(held)
        else:
            await self._end_cut(held)

    async def _watch(self, held: _Held, handle: TaskHandle) -> None:
        await handle.join()
        if held.is_over or not self._closing:
            await self._over_surely(held)
        else:
            await self._end_cut(held)
        held.job = changed(held.job, payload="null")  # the supervisor remembers what has ended

    async def _end_cut(self, held: _Held) -> None:
        """The shutdown has cut a run."""
        self._tell_cut(held, held.scheduled, "the extension has shut down in the middle of it", again=held.spec.retry)
        if not held.spec.retry:
            await self._over_surely(held)
            return
        try:
            if held.spec.is_async:  # a thread goes on until the process has ended: its lease has to be over first
                await self._backend().release(held.job, self._owner)
        except SepkitError as error:  # it counts as cut when its lease is over
            self._ill(error)
        self._held.pop(held.job.id, None)

    async def _over_surely(self, held: _Held) -> None:
        while True:
            try:
                return await self._over(held, held.job.due)
            except SepkitError as error:
                self._ill(error)
                if self._closing:
                    return None
            await asyncio.sleep(_AGAIN)

    async def _over(self, held: _Held, due: int | None) -> None:
        following = await self._backend().finish(held.job, self._owner, due)
        if len(self._held) >= MOST_RUNNING:
            self.wake()  # others may wait for this
        self._held.pop(held.job.id, None)
        self._be_due(following)

    def _tell_cut(self, held: _Held, scheduled: int, why: str, *, again: bool) -> None:
        job = held.job
        then = "it is repeated" if again else "it is not repeated"
        _log.error("job %r: the run for %s has failed: %s; %s", job.id, moment(scheduled), why, then)
        # A host is told what stands before the colon.
        health = _health(_task_id(job), job.name, job.user, "failed", f"{why}: the run for {moment(scheduled)}")
        if len(self._cut) >= _MOST_TOLD:
            del self._cut[next(iter(self._cut))]
        self._cut[health.task_id] = health
        self._tell(health)


def _lease() -> int:
    return round(LEASE * 1000)


def _task_id(job: StoredJob) -> str:
    """The id of a run for the supervisor and for hosts: no task has the name of a job."""
    return job.name if job.schedule else f"{job.name}:{job.id}"


def _settle(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)


def _health(task_id: str, name: str, user: str | None, status: Any, error: str | None) -> TaskHealth:
    return TaskHealth(task_id=task_id, name=name, user_id=user, status=status, restart_count=0, error=error)
