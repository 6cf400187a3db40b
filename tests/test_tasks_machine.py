"""Background tasks in any order: start, stop, crash, clean up, report, swallow a cancellation, shut down, at any time.

Beside the supervisor runs what the specification says of it, as an account of its own: when each run begins and ends,
what is told, and how often a task was restarted. After each step the two must agree, to the millisecond; time is a
virtual clock's. Not the single scenarios: those are in ``test_tasks.py``. Longer where ``SEPKIT_SOAK`` is set.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, reject, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sepkit.tasks import (
    MIN_DELAY,
    RestartPolicy,
    Supervisor,
    TaskHealth,
    TaskRefused,
    TaskRun,
    TaskSpec,
    UnknownTask,
)
from sepkit.tasks import supervisor as supervisor_module
from sepkit.wire.methods import TaskStatus
from tests.virtual_clock import VirtualClockLoop

SOAK: Final = bool(os.environ.get("SEPKIT_SOAK"))
CANCEL_GRACE: Final = 5.0  # "wait again, bounded"
AT_ONCE: Final = 0.002  # what is so close together has no order that anybody promised
DICE: Final = 0.5  # what each roll for the jitter gives

Ending = Literal["return", "crash", "exit", "cancel", "stop itself"]


# -- what a run does ---------------------------------------------------------------------------------------------------


@attrs.frozen
class Plan:
    """One run: how long it lasts by itself and how it ends then, and what it does when it should end."""

    lasts: float  # inf: until it should end
    ending: Ending
    listens: bool  # to the signal; else it goes on until it is cancelled
    tidies: float  # seconds from the signal to its end
    ignores: float  # seconds from the cancellation to its end, and whoever cancels it again is ignored
    sore: bool  # whether it raises at the end of those


# All durations are odd, so that hardly ever two things happen at once.
PLANS: Final = st.builds(
    Plan,
    lasts=st.sampled_from([0, 0.3701, 1.3103, 7.1307, 61.7011, 131.9017, math.inf, math.inf]),
    ending=st.sampled_from(["return", "crash", "crash", "exit", "cancel", "stop itself"]),
    listens=st.booleans(),
    tidies=st.sampled_from([0, 0, 0.0531, 2.2109, 8.3119]),
    ignores=st.sampled_from([0, 0, 0.3117, 3.3121, 12.7129, 150.3137]),
    sore=st.booleans(),
)

# A delay of nothing is for tasks that give up soon: 100 runs a second would be all that the stories tell of.
POLICIES: Final = st.builds(
    lambda kind, delays, limit, jitter, reset: RestartPolicy(
        type=kind,
        max_restarts=limit or (3 if delays[0] * delays[2] == 0 else 0),
        initial_delay=delays[0],
        multiplier=delays[1],
        max_delay=delays[2],
        jitter=jitter,
        reset_after=reset,
    ),
    st.sampled_from(["always", "always", "on-failure", "never"]),
    st.sampled_from([(0.02, 2, 60), (0.5, 1, 60), (1, 2, 4.1), (40, 3.5, 1000), (1, 1000, 10), (0, 2, 60), (1, 2, 0)]),
    st.sampled_from([0, 1, 2]),
    st.sampled_from([0, 0, 0.5, 1]),
    st.sampled_from([None, None, 0.2903, 5.9011]),
)


@attrs.frozen
class Start:
    """A task, its user, and what its runs do, one after the other and from the first again."""

    spec: TaskSpec
    user: str | None
    plans: list[Plan]
    stopped_at_once: bool


def start_of(
    user: str | None,
    policy: RestartPolicy,
    grace: float,
    heartbeat: float | None,
    plans: list[Plan],
    stopped_at_once: bool,
) -> Start:
    spec = TaskSpec(
        name="watch" if user is None else "feed",
        fn=print,  # never called: the machine launches
        policy=policy,
        per_user=user is not None,
        stop_grace=grace,
        heartbeat_timeout=heartbeat,
    )
    return Start(spec, user, plans, stopped_at_once)


STARTS: Final = st.builds(
    start_of,
    user=st.sampled_from([None, None, "ada", "bo"]),
    policy=POLICIES,
    grace=st.sampled_from([0, 0.5519, 5]),
    heartbeat=st.sampled_from([None, 3.1719]),
    plans=st.lists(PLANS, min_size=1, max_size=4),
    stopped_at_once=st.sampled_from([False, False, False, False, True]),
)


# -- what the specification says of it ---------------------------------------------------------------------------------


@attrs.frozen
class Told:
    """What the host is told of a change; an error is there, or is not."""

    at: float
    status: TaskStatus
    restarts: int
    error: bool


class Account:
    """One start of a task, from the specification alone: it moves from event to event in a time of its own."""

    def __init__(self, spec: TaskSpec, task_id: str, plans: list[Plan], now: float) -> None:
        self.spec = spec
        self.id = task_id
        self.plans = plans
        self.now = now
        self.status: TaskStatus = "pending"
        self.restarts = 0
        self.delay = 0.0
        self.error: str | None = None
        self.health: str | None = None
        self.runs = 0
        self.told: list[Told] = []
        self.silenced = False  # nobody is told any more
        self.settled_at = math.inf  # from then on a stop has nothing left to wait for
        self.stopping = False
        self.cancel_at = self.give_up_at = math.inf
        self.due: dict[str, float] = {"begin": now}  # what will happen when, if nothing else happens first

    @property
    def plan(self) -> Plan:
        return self.plans[(self.runs - 1) % len(self.plans)]

    @property
    def ended(self) -> bool:
        return self.status in ("stopped", "failed")

    @property
    def settled(self) -> bool:
        return self.settled_at < math.inf

    @property
    def next(self) -> float:
        return min(self.due.values(), default=math.inf)

    def advance(self, until: float) -> bool:
        """Let happen what happens until then. False where it depends on which of two things at once comes first."""
        while self.next <= until:
            self.now = self.next
            event, *others = [event for event, at in self.due.items() if at <= self.now + AT_ONCE]
            if others:
                return False
            del self.due[event]
            getattr(self, "_" + event)()
        self.now = until
        return True

    def _in(self, seconds: float, event: str) -> None:
        self.due[event] = round(self.now + seconds, 9)  # as the virtual clock does

    # -- the course of a run -----------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self.runs += 1
        self.began = self.now
        self.cancelled = self.silent = False
        self.status, self.error = "running", None
        healthy_after = self.spec.policy.reset_after
        if healthy_after is None:
            healthy_after = max(60, 2 * self.delay)
        self.due = {}
        self._in(healthy_after, "heal")
        if self.plan.lasts < math.inf:
            self._in(self.plan.lasts, "end")
        self._tell()
        self._hear()

    def _hear(self) -> None:
        if self.spec.heartbeat_timeout is not None and not self.stopping and not self.silent:
            self._in(self.spec.heartbeat_timeout, "miss")

    def _heal(self) -> None:
        self.restarts = 0

    def _miss(self) -> None:
        self.silent = True
        self._in(CANCEL_GRACE, "give_up")
        self._cancel()

    def _cancel(self) -> None:
        if not self.cancelled:
            self.cancelled = True
            self._in(self.plan.ignores, "end")

    def _give_up(self) -> None:
        self.error = "it ignores its cancellation"
        self._tell()
        if self.stopping:
            self.settled_at = self.now

    def _end(self) -> None:
        self.due = {}
        policy = self.spec.policy
        if self.stopping or (self.plan.ending == "stop itself" and not self.cancelled):
            self.stopping = True
            self._finish("stopped", None)
            return
        failed = self.silent or self.plan.ending != "return"
        reason = "it failed" if failed else None
        if policy.type == "never" or (policy.type == "on-failure" and not failed):
            self._finish("failed" if failed else "stopped", reason)
        elif policy.max_restarts and self.restarts >= policy.max_restarts:
            self._finish("failed", "exhausted")
        else:
            try:
                delay = min(policy.initial_delay * policy.multiplier**self.restarts, policy.max_delay)
            except OverflowError:
                delay = policy.max_delay
            self.delay = max(MIN_DELAY, delay * (1 - policy.jitter * DICE)) if policy.initial_delay else MIN_DELAY
            self.restarts += 1
            self.status, self.error = "restarting", reason
            self._in(self.delay, "begin")
            self._tell()

    def _finish(self, status: TaskStatus, error: str | None) -> None:
        self.status, self.error = status, error
        self.settled_at = min(self.settled_at, self.now)
        self.due = {}
        self._tell()

    def _tell(self) -> None:
        if not self.silenced:
            self.told.append(Told(self.now, self.status, self.restarts, self.error is not None))

    # -- what is done to it ------------------------------------------------------------------------------------------

    def stop(self, within: float = math.inf) -> None:
        """The wish is ``stop`` from now on; a shutdown has so many seconds, a stop has all it takes."""
        if self.ended or self.settled or (self.stopping and within == math.inf):
            return
        first, self.stopping = not self.stopping, True
        if self.status != "running":
            self._finish("stopped", None)
            return
        self.due.pop("miss", None)
        if first:
            self.due.pop("give_up", None)
            if self.plan.listens and not self.cancelled:
                self._in(self.plan.tidies, "end")
        grace = min(self.spec.stop_grace, within * 0.75)
        self.cancel_at = round(min(self.cancel_at, self.now + grace), 9)
        self.give_up_at = round(min(self.give_up_at, self.cancel_at + CANCEL_GRACE, self.now + max(within, 0.01)), 9)
        self.due["give_up_stop"] = self.give_up_at
        if self.cancel_at <= self.now:
            self.due.pop("cancel", None)
            self._cancel()
        else:
            self.due["cancel"] = self.cancel_at

    _give_up_stop = _give_up

    def abandon(self) -> None:
        """Nobody waits for the shutdown any more: what still runs is cancelled, and left alone."""
        for event in ("cancel", "give_up", "give_up_stop", "miss"):
            self.due.pop(event, None)
        if self.status == "running" and not self.settled:
            self._cancel()

    def report(self, text: str) -> None:
        """The present run says how it is."""
        self.health = text
        self._hear()

    @property
    def timers(self) -> int:
        """How many timers there is a reason for."""
        return int(any(event in self.due for event in ("begin", "miss", "cancel", "give_up", "give_up_stop")))


# -- both of them ------------------------------------------------------------------------------------------------------


@attrs.define
class Stop:
    """A stop that was asked for, and what it came to."""

    account: Account
    answer: asyncio.Task[TaskHealth]


class AnyOrder(RuleBasedStateMachine):
    """The supervisor, and the specification's account of it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualClockLoop()
        self.accounts: dict[str, Account] = {}
        self.told: dict[str, list[Told]] = {}
        self.reports = [0, 0]  # told, and expected
        self.runs: list[tuple[TaskRun, Account, int]] = []
        self.alive: dict[str, int] = {}
        self.wrong: list[str] = []
        self.naps = 0  # timers that belong to the runs
        self.stops: list[Stop] = []
        self.closed = self.rejected = False
        log = logging.Logger("unheard", level=logging.CRITICAL + 1)
        self.supervisor = Supervisor(
            self.launch, on_change=self.changed, on_report=self.reported, random=lambda: DICE, logger=log
        )

    # The first tasks are there at once, and the end is not among the first steps: else most stories would be short.
    @initialize(starts=st.lists(STARTS, min_size=1, max_size=3), steps=st.integers(4, 30))
    def open(self, starts: list[Start], steps: int) -> None:
        self.steps_to_the_end = steps
        for start in starts:
            self.start(start)

    # -- what the supervisor meets -----------------------------------------------------------------------------------

    async def launch(self, spec: TaskSpec, run: TaskRun) -> None:
        account = self.accounts[run.task_id]
        plan = run.payload[(run.number - 1) % len(run.payload)]
        # Noted and not raised: the supervisor would take it for the task's own failure.
        if self.closed:
            self.wrong.append(f"{run.task_id} began after the shutdown")
        if run.stopping or account.stopping:
            self.wrong.append(f"{run.task_id} began after its stop")
        if self.alive.get(run.task_id):
            self.wrong.append(f"two runs of {run.task_id} at once")
        self.alive[run.task_id] = 1
        self.runs.append((run, account, run.number))
        try:
            await self.course(run, plan)
        finally:
            self.alive[run.task_id] = 0

    async def course(self, run: TaskRun, plan: Plan) -> None:
        try:
            with self.napping(plan.lasts):
                if plan.listens:
                    stopping = await run.wait_stop(plan.lasts)
                elif plan.lasts < math.inf:
                    stopping = await asyncio.sleep(plan.lasts, False)
                else:
                    await asyncio.get_running_loop().create_future()
            if stopping:
                with self.napping(plan.tidies):
                    await asyncio.sleep(plan.tidies)
        except asyncio.CancelledError:
            await self.ignore(plan.ignores)
            if plan.sore:
                raise OSError("sore") from None
            if plan.ending == "return":
                return
            raise
        if stopping:
            if plan.sore:
                raise OSError("sore")
        elif plan.ending == "crash":
            raise ValueError("boom")
        elif plan.ending == "exit":
            raise SystemExit(3)
        elif plan.ending == "cancel":
            raise asyncio.CancelledError
        elif plan.ending == "stop itself":
            await self.supervisor.stop(run.task_id)

    async def ignore(self, seconds: float) -> None:
        until = self.loop.time() + seconds
        while (left := until - self.loop.time()) > 1e-7:
            try:
                with self.napping(left):
                    await asyncio.sleep(left)
            except asyncio.CancelledError:
                continue

    @contextmanager
    def napping(self, seconds: float) -> Iterator[None]:
        timers = int(0 < seconds < math.inf)
        self.naps += timers
        try:
            yield
        finally:
            self.naps -= timers

    def changed(self, health: TaskHealth) -> None:
        told = Told(round(self.loop.time(), 6), health.status, health.restart_count, health.error is not None)
        self.told[health.task_id].append(told)

    def reported(self, health: TaskHealth) -> None:
        self.reports[0] += 1

    # -- steps -------------------------------------------------------------------------------------------------------

    def do(self, act: Callable[[], object]) -> None:
        """Do something in the loop, and let happen what follows at once."""

        async def work() -> None:
            act()
            await turns()

        self.loop.run_until_complete(work())
        self.catch_up()

    def catch_up(self) -> None:
        self.advance_all(self.loop.time())

    def advance_all(self, until: float) -> None:
        for account in self.accounts.values():
            if not account.advance(until):
                self.reject()

    def reject(self) -> None:
        """Two things happen at once, and nobody has promised in which order: another story, please."""
        self.rejected = True
        reject()

    def quiet_moment(self, at: float) -> float:
        """The first moment from then on at which nothing happens by itself."""
        while True:
            before = at
            for account in self.accounts.values():
                if abs(account.next - at) < 2 * AT_ONCE:
                    at = account.next + 3 * AT_ONCE
            if at == before:
                return at

    def wait_until(self, at: float) -> None:
        async def work() -> None:
            await asyncio.sleep(at - self.loop.time())
            await turns()

        self.loop.run_until_complete(work())
        self.catch_up()

    @rule(seconds=st.sampled_from([0.011, 0.3, 1.7, 4.9]))
    def wait_a_little(self, seconds: float) -> None:
        self.wait(seconds)

    @rule(seconds=st.sampled_from([9, 70, 300]))
    def wait_long(self, seconds: float) -> None:
        self.wait(seconds)

    def wait(self, seconds: float) -> None:
        # Step by step, since what happens on the way decides what happens next to `at`.
        end = self.loop.time() + seconds
        while (upcoming := min((a.next for a in self.accounts.values()), default=math.inf)) < end - 3 * AT_ONCE:
            self.wait_until(self.quiet_moment(upcoming + 3 * AT_ONCE))
        if end > self.loop.time():
            self.wait_until(self.quiet_moment(end))

    @rule(start=STARTS)
    def start(self, start: Start) -> None:
        spec = start.spec
        task_id = spec.name if start.user is None else f"{spec.name}:{start.user}"
        former = self.accounts.get(task_id)

        async def work() -> None:
            if self.closed or (former is not None and not former.ended):
                before = self.supervisor.status()
                with pytest.raises(TaskRefused):
                    self.supervisor.start(spec, user_id=start.user, payload=start.plans)
                assert self.supervisor.status() == before
                return
            account = self.accounts[task_id] = Account(spec, task_id, start.plans, self.loop.time())
            account.told = [] if former is None else former.told
            self.told.setdefault(task_id, [])
            handle = self.supervisor.start(spec, user_id=start.user, payload=start.plans)
            assert (handle.health.status, handle.health.restart_count) == ("pending", 0)
            if start.stopped_at_once:  # in the same turn of the loop
                account.stop()
                async with asyncio.timeout(1):
                    assert (await handle.stop()).status == "stopped"
            await turns()

        self.loop.run_until_complete(work())
        self.catch_up()

    @precondition(lambda self: self.accounts)
    @rule(data=st.data(), times=st.integers(1, 2), waits=st.booleans())
    def stop(self, data: st.DataObject, times: int, waits: bool) -> None:
        account = self.accounts[data.draw(st.sampled_from(sorted(self.accounts)))]
        asked: list[Stop] = []

        def act() -> None:
            with pytest.raises(UnknownTask):
                self.supervisor.stop("nobody").send(None)
            for _ in range(times):
                asked.append(Stop(account, self.loop.create_task(self.supervisor.stop(account.id))))
                account.stop()

        self.do(act)
        if waits:
            self.stops += asked
        else:  # whoever asked goes away, which takes nothing back
            self.do(lambda: [stop.answer.cancel() for stop in asked])

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), again=st.integers(1, 3))
    def report(self, data: st.DataObject, again: int) -> None:
        # The newest run more often than any other.
        back = data.draw(st.one_of(st.just(1), st.integers(1, len(self.runs))))
        run, account, number = self.runs[-back]
        is_present = account.status == "running" and account.runs == number
        text = f"{len(self.runs)} {self.loop.time()}"
        if is_present:
            account.report(text)
            self.reports[1] += 0 if self.closed else again

        def act() -> None:
            for _ in range(again):
                run.report_health(text)

        self.do(act)

    @precondition(lambda self: not self.closed and self.steps_to_the_end <= 0)
    @rule(grace=st.sampled_from([0, 0.9, 4, 60]), patience=st.sampled_from([math.inf, math.inf, 0.1113, 2.3147]))
    def shut_down(self, grace: float, patience: float) -> None:
        """The connection ends; or whoever ends it goes away after so many seconds."""
        began = self.loop.time()
        for account in self.accounts.values():
            account.stop(within=grace)

        async def work() -> None:
            closing = asyncio.ensure_future(self.supervisor.aclose(grace))
            await asyncio.wait([closing], timeout=min(patience, grace + 1))
            if not closing.done():
                closing.cancel()
            await turns()
            self.closed = True

        self.loop.run_until_complete(work())
        given_up_at = began + patience
        while waited_for := [account for account in self.accounts.values() if not account.settled]:
            upcoming = min(account.next for account in waited_for)
            if abs(upcoming - given_up_at) < AT_ONCE:
                self.reject()
            if upcoming > given_up_at:
                break
            self.advance_all(upcoming)
        expected = (
            given_up_at
            if waited_for
            else max([began, *(a.settled_at for a in self.accounts.values() if a.settled_at > began)])
        )
        assert self.loop.time() == pytest.approx(expected, abs=1e-6)
        assert self.loop.time() - began <= max(grace, 0.01) + 1e-6, "it took more than its grace"
        self.catch_up()
        for account in self.accounts.values():
            account.silenced = True
            if not account.settled:
                account.abandon()
        self.catch_up()

    # -- what is always so -------------------------------------------------------------------------------------------

    @invariant()
    def the_account_is_right(self) -> None:
        self.steps_to_the_end -= 1
        assert not self.wrong
        status = self.supervisor.status()
        assert [health.task_id for health in status] == list(self.accounts)
        for health, account in zip(status, self.accounts.values(), strict=True):
            found = (health.status, health.restart_count, health.last_health_status)
            expected = (account.status, account.restarts, account.health)
            assert found == expected, f"{account.id} is {found}, and should be {expected}"
            assert (health.error is None) == (account.error is None), (health.error, account.error)
            assert account.error != "exhausted" or "exhausted" in (health.error or "")
            assert self.alive.get(account.id, 0) == (account.status == "running"), account.id
        for task_id, told in self.told.items():
            all_told = [attrs.evolve(each, at=round(each.at, 6)) for each in self.accounts[task_id].told]
            assert told == all_told, f"{task_id}: {told} was told, not {all_told}"
        assert self.reports[0] == self.reports[1], "a report was dropped, or an old run's was not"

    @invariant()
    def a_stop_returns_when_there_is_nothing_left_to_wait_for(self) -> None:
        for stop in self.stops:
            assert stop.answer.done() == stop.account.settled, stop.account.id
            if stop.answer.done():
                assert stop.answer.result().task_id == stop.account.id

    @invariant()
    def nothing_is_armed_without_a_reason(self) -> None:
        due = 0 if self.closed else sum(account.timers for account in self.accounts.values())
        assert len(self.loop.armed()) - self.naps <= due

    def teardown(self) -> None:
        try:
            if self.rejected:
                return
            if not self.closed:
                self.shut_down(4, math.inf)
            self.the_account_is_right()
            self.nothing_is_armed_without_a_reason()
            self.wait_until(self.loop.time() + 1000)
            self.the_account_is_right()
            assert not any(self.alive.values())
            assert self.loop.armed() == []
            assert asyncio.all_tasks(self.loop) == set()
        finally:
            for left in asyncio.all_tasks(self.loop):  # only after a failure, which has been told by now
                left._log_destroy_pending = False  # type: ignore[attr-defined]
            self.loop.close()


async def turns() -> None:
    """So many turns of the loop that whatever is to happen at this moment has happened."""
    for _ in range(12):
        await asyncio.sleep(0)


# -- the tests ---------------------------------------------------------------------------------------------------------

COMMON: Final = settings(
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


@pytest.mark.timeout(3600 if SOAK else 60)
def test_the_supervisor_does_what_the_specification_says_in_any_order() -> None:
    """State, count, time and every report are checked after each step of any sequence."""
    rounds = settings(
        COMMON, max_examples=5_000 if SOAK else 30, stateful_step_count=40 if SOAK else 25, derandomize=not SOAK
    )
    run_state_machine_as_test(AnyOrder, settings=rounds)


Fault = Callable[[pytest.MonkeyPatch], None]


def around(method: str, fault: Callable[..., Any], owner: type = Supervisor) -> Fault:
    """``fault`` takes the place of a method, and is given it first."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        original = getattr(owner, method)
        patch.setattr(owner, method, lambda *args, **named: fault(original, *args, **named))

    return plant


def restart_whatever_was_wished(original: Any, self: Any, entry: Any, task: Any) -> None:
    entry.wish = "run"
    original(self, entry, task)


def take_reports_of_old_runs(original: Any, self: Any, run: Any, text: str, moment: str) -> None:
    entry = self._entries[run.task_id]
    present, entry.run = entry.run, run
    original(self, run, text, moment)
    entry.run = present


def say_it_twice(original: Any, self: Any, entry: Any, status: str, error: str | None) -> None:
    original(self, entry, status, error)
    self._tell(entry)


def end_while_it_still_runs(original: Any, self: Any, entry: Any, *within: float) -> None:
    original(self, entry, *within)
    if not entry.ended.is_set:
        self._end(entry, "stopped", None)


def forget_that_it_was_silent(original: Any, self: Any, entry: Any, task: Any) -> None:
    entry.silent = False
    original(self, entry, task)


def cancel_without_grace(original: Any, self: Any, entry: Any, *within: float) -> None:
    original(self, entry, *within)
    if entry.task is not None:
        entry.task.cancel()


async def stop_only_while_somebody_waits(original: Any, self: Any, entry: Any) -> Any:
    try:
        return await original(self, entry)
    except asyncio.CancelledError:
        entry.wish = "run"
        raise


def start_again_while_it_stops(original: Any, self: Any, spec: Any, **named: Any) -> Any:
    task_id = spec.name if named["user_id"] is None else f"{spec.name}:{named['user_id']}"
    former = self._entries.get(task_id)
    if former is not None and former.wish == "stop":
        former.ended.set()
    return original(self, spec, **named)


def count_a_stop_as_it_was_before(original: Any, self: Any, entry: Any, task: Any) -> None:
    before = entry.restarts
    original(self, entry, task)
    if entry.wish == "stop":
        entry.restarts = before


FAULTS: Final[dict[str, Fault]] = {
    "it is restarted after its stop": around("_run_ended", restart_whatever_was_wished),
    "old runs are heard": around("_note", take_reports_of_old_runs),
    "the back-off goes on after the stop": around("_disarm", lambda original, self, entry: None),
    "its end is told twice": around("_end", say_it_twice),
    "it has stopped while it cleans up": around("_ask_to_stop", end_while_it_still_runs),
    "a long run heals nothing": around("_restarts", lambda original, self, entry: entry.restarts),
    "a stop brings the old count back": around("_run_ended", count_a_stop_as_it_was_before),
    "a silent run has not failed": around("_run_ended", forget_that_it_was_silent),
    "it is cancelled at once": around("_ask_to_stop", cancel_without_grace),
    "nobody is given up": around("_give_up", lambda original, self, entry: None),
    "a stop that nobody waits for is none": around("_stop", stop_only_while_somebody_waits),
    "it starts again while it stops": around("start", start_again_while_it_stops),
    "each delay is the next one": around(
        "delay", lambda original, self, n, random: original(self, n + 1, random), RestartPolicy
    ),
    "one restart too many": around(
        "after_run",
        lambda original, self, *, failed, restarts: original(self, failed=failed, restarts=max(0, restarts - 1)),
        RestartPolicy,
    ),
    "healthy a little too late": around(
        "healthy_after", lambda original, self, last_delay: original(self, last_delay) + 0.5, RestartPolicy
    ),
    "the cancelled have more time": lambda patch: patch.setattr(supervisor_module, "CANCEL_GRACE", 5.5),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_a_planted_fault_is_found(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine above: what it is for. Each of these would otherwise pass as a supervisor."""
    fault(monkeypatch)
    rounds = settings(
        COMMON,
        max_examples=400,
        stateful_step_count=25,
        derandomize=True,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(AnyOrder, settings=rounds)
