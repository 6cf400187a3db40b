"""Background tasks, on a virtual clock: times are exact, and nothing sleeps.

What is promised is in docs/tasks.md. Any of it in any order is in ``test_tasks_machine.py``.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import math
import random
import re
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from sepkit.errors import RegistrationError, SepkitError
from sepkit.ownlog import OwnLog
from sepkit.tasks import (
    MIN_DELAY,
    RestartPolicy,
    Supervisor,
    TaskHandle,
    TaskHealth,
    TaskRefused,
    TaskRun,
    TaskSpec,
    UnknownTask,
)
from sepkit.tasks import supervisor as supervisor_module
from tests.virtual_clock import BusyLoop, Deadlock, current_loop, run_virtual

Body = Callable[[TaskRun], Awaitable[object]]
QUICK = 0.02  # the first delay of the scenarios


def exact(**changes: Any) -> RestartPolicy:
    return RestartPolicy(**{"initial_delay": QUICK, "jitter": 0, **changes})


def spec(body: Body, name: str = "watch", policy: RestartPolicy | None = None, **more: Any) -> TaskSpec:
    return TaskSpec(name=name, fn=body, policy=policy or exact(), **more)


class Desk:
    """A supervisor, and what it told: each change with its time."""

    def __init__(self) -> None:
        self.told: list[TaskHealth] = []
        self.times: list[float] = []
        self.supervisor = Supervisor(self._launch, on_change=self._changed)

    async def _launch(self, spec: TaskSpec, run: TaskRun) -> object:
        return await spec.fn(run)

    def _changed(self, health: TaskHealth) -> None:
        self.told.append(health)
        self.times.append(current_loop().time())

    @property
    def states(self) -> list[str]:
        return [health.status for health in self.told]

    def begun(self) -> list[float]:
        return [at for at, health in zip(self.times, self.told, strict=True) if health.status == "running"]


def nothing_armed() -> bool:
    return current_loop().armed() == []


async def turn() -> None:
    await asyncio.sleep(0)


async def until_stopped(run: TaskRun) -> None:
    await run.wait_stop()


async def forever(run: TaskRun) -> None:
    await asyncio.sleep(1_000_000)


async def crash(run: TaskRun) -> None:
    raise ValueError("boom")


async def finish(run: TaskRun) -> None:
    return None


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on the virtual clock."""

    # No functools.wraps: pytest would see a coroutine function. It needs the signature, though, for fixtures.
    def wrapped(**arguments: Any) -> None:
        run_virtual(test(**arguments))

    wrapped.__name__, wrapped.__doc__, wrapped.__module__ = test.__name__, test.__doc__, test.__module__
    wrapped.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return wrapped


# -- the scenarios -----------------------------------------------------------------------------------------------------


@virtual
async def test_a_stopped_task_is_reported_once_and_stays_stopped() -> None:
    """A running `always` task that returns at once when stopped."""
    desk = Desk()
    handle = desk.supervisor.start(spec(until_stopped))
    await turn()
    assert (await handle.stop()).status == "stopped"
    await asyncio.sleep(3600)
    assert desk.states == ["running", "stopped"]
    assert nothing_armed()


@virtual
async def test_a_stop_waits_for_the_clean_up() -> None:
    """A task that needs 50 ms to clean up: no second run beside it, and stop returns when it has ended."""
    desk = Desk()
    runs: list[int] = []

    async def slow(run: TaskRun) -> None:
        runs.append(run.number)
        await run.wait_stop()
        await asyncio.sleep(0.05)

    handle = desk.supervisor.start(spec(slow))
    await asyncio.sleep(1)
    await handle.stop()
    assert current_loop().time() == 1.05
    await asyncio.sleep(3600)
    assert runs == [1]
    assert desk.states == ["running", "stopped"]
    assert desk.times == [0, 1.05], "it is told to have stopped when it has"


@pytest.mark.parametrize(
    "error", [ValueError("boom"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()]
)
@pytest.mark.parametrize("cancelled", [False, True])
def test_what_is_raised_on_stop_is_no_failure(error: BaseException, cancelled: bool) -> None:
    """An `on-failure` task that raises on stop is stopped, whatever it raises, even when cancelled."""

    async def main() -> None:
        desk = Desk()

        async def sore(run: TaskRun) -> None:
            try:
                await (asyncio.sleep(1000) if cancelled else run.wait_stop())
            except asyncio.CancelledError:
                raise error from None
            raise error

        handle = desk.supervisor.start(spec(sore, policy=exact(type="on-failure", max_restarts=1)))
        await turn()
        health = await handle.stop()
        assert current_loop().time() == (5 if cancelled else 0)
        await asyncio.sleep(3600)
        assert (health.status, health.error, health.restart_count) == ("stopped", None, 0)
        assert desk.states == ["running", "stopped"]

    run_virtual(main())


@virtual
async def test_a_stop_of_the_last_run_there_is_does_not_exhaust_it() -> None:
    """The last run of an `always` task whose restarts are used up raises on stop."""
    desk = Desk()

    async def body(run: TaskRun) -> None:
        if run.number == 2:
            await run.wait_stop()
        raise ValueError("boom")

    handle = desk.supervisor.start(spec(body, policy=exact(max_restarts=1)))
    await asyncio.sleep(1)
    health = await handle.stop()
    await asyncio.sleep(3600)
    assert (health.status, health.error, health.restart_count) == ("stopped", None, 1)
    assert desk.states == ["running", "restarting", "running", "stopped"]


@virtual
async def test_a_stop_during_back_off_leaves_nothing_armed() -> None:
    """A stop during the back-off cancels it, and no timer is left."""
    desk = Desk()
    handle = desk.supervisor.start(spec(crash))
    await asyncio.sleep(0.01)
    assert handle.health.status == "restarting"
    assert (await handle.stop()).status == "stopped"
    assert current_loop().time() == 0.01, "there was nothing to wait for"
    assert nothing_armed()
    assert (handle.health.error, handle.health.restart_count) == (None, 1)
    await asyncio.sleep(3600)
    assert desk.states == ["running", "restarting", "stopped"]


@virtual
async def test_a_task_stopped_straight_after_its_start_is_never_called() -> None:
    """A stop straight after the start."""
    desk = Desk()
    called: list[TaskRun] = []

    async def note(run: TaskRun) -> None:
        called.append(run)

    handle = desk.supervisor.start(spec(note))
    assert handle.health.status == "pending"
    assert (await handle.stop()).status == "stopped"
    assert current_loop().time() == 0
    await asyncio.sleep(3600)
    assert called == []
    assert desk.states == ["stopped"]


@virtual
async def test_a_restart_that_has_not_had_its_turn_can_be_stopped() -> None:
    """The back-off is over, and the next run has not begun."""
    desk = Desk()
    handle = desk.supervisor.start(spec(crash))
    await asyncio.sleep(QUICK)  # armed before the back-off: this wakes one step ahead of the second run
    assert handle.health.status == "restarting"
    assert nothing_armed()
    await handle.stop()
    await asyncio.sleep(3600)
    assert desk.states == ["running", "restarting", "stopped"]
    assert handle.health.restart_count == 1


@virtual
async def test_a_stop_does_not_use_up_restarts() -> None:
    """An `always` task with max_restarts 1."""
    desk = Desk()
    handle = desk.supervisor.start(spec(until_stopped, policy=exact(max_restarts=1)))
    await turn()
    health = await handle.stop()
    await asyncio.sleep(3600)
    assert (health.status, health.error, health.restart_count) == ("stopped", None, 0)
    assert desk.states == ["running", "stopped"]


@virtual
async def test_a_running_id_is_refused_in_every_state_but_the_last() -> None:
    """A second start of a running id is refused."""
    desk = Desk()
    runs: list[int] = []

    async def slow(run: TaskRun) -> None:
        runs.append(run.number)
        await run.wait_stop()
        await asyncio.sleep(1)
        raise ValueError("boom")

    task = spec(slow)
    handle = desk.supervisor.start(task)
    with pytest.raises(TaskRefused, match="'watch' is pending"):
        desk.supervisor.start(task)
    await turn()
    with pytest.raises(TaskRefused, match="'watch' is running"):
        desk.supervisor.start(task)
    stopping = asyncio.ensure_future(handle.stop())
    await turn()
    with pytest.raises(TaskRefused, match="'watch' is still stopping"):
        desk.supervisor.start(task)
    await stopping
    assert runs == [1]
    desk.supervisor.start(spec(crash, name="other"))
    await asyncio.sleep(0.01)
    with pytest.raises(TaskRefused, match="'other' is restarting"):
        desk.supervisor.start(spec(crash, name="other"))
    await desk.supervisor.aclose()


@virtual
async def test_a_healthy_run_takes_count_and_delay_back_to_zero() -> None:
    """7 failures, a long healthy run, a failure: the delay is 1 s again, not 64 s."""
    desk = Desk()

    async def body(run: TaskRun) -> None:
        if run.number == 8:
            await asyncio.sleep(1000)
        raise ValueError("boom")

    handle = desk.supervisor.start(spec(body, policy=exact(initial_delay=1)))
    await asyncio.sleep(123 + 1)
    assert handle.health.restart_count == 7
    assert handle.health.status == "running"
    await asyncio.sleep(998)  # healthy by now: it counts no more, though it still runs
    assert (handle.health.restart_count, handle.health.status) == (0, "running")
    await asyncio.sleep(1.5)
    assert handle.health.restart_count == 1
    # 1 + 2 + 4 + 8 + 16 + 32 + 60 = 123, the run of 1000, then the first delay again.
    await asyncio.sleep(1)
    assert desk.begun() == [0, 1, 3, 7, 15, 31, 63, 123, 1124]
    await desk.supervisor.aclose()


@virtual
async def test_a_healthy_run_is_forgiven_for_good() -> None:
    """The count goes back to zero, and a stop does not bring the old one back."""
    desk = Desk()

    async def body(run: TaskRun) -> None:
        if run.number < 4:
            raise ValueError("boom")
        await run.wait_stop()

    handle = desk.supervisor.start(spec(body))
    await asyncio.sleep(50)
    assert handle.health.restart_count == 3
    await asyncio.sleep(50)
    assert handle.health.restart_count == 0
    assert (await handle.stop()).restart_count == 0
    assert [h.restart_count for h in desk.told] == [0, 1, 1, 2, 2, 3, 3, 0]


@pytest.mark.parametrize(
    ("policy", "lasts", "count"),
    [
        (exact(initial_delay=1), 59.9, 2),
        (exact(initial_delay=1), 60.1, 1),
        (exact(initial_delay=40), 79.9, 2),  # twice the last delay
        (exact(initial_delay=40), 80.1, 1),
        (exact(initial_delay=1, reset_after=3), 2.9, 2),
        (exact(initial_delay=1, reset_after=3), 3.1, 1),
    ],
)
def test_a_run_is_healthy_after_reset_after(policy: RestartPolicy, lasts: float, count: int) -> None:
    """`reset_after` is by default max(60 s, 2 × the last delay)."""

    async def main() -> None:
        desk = Desk()

        async def body(run: TaskRun) -> None:
            if run.number == 2:
                await asyncio.sleep(lasts)
            raise ValueError("boom")

        handle = desk.supervisor.start(spec(body, policy=policy))
        await asyncio.sleep(policy.initial_delay + lasts + 0.5)
        assert (handle.health.status, handle.health.restart_count) == ("restarting", count)
        await handle.stop()

    run_virtual(main())


@virtual
async def test_after_the_process_everything_begins_anew() -> None:
    """The process dies with tasks running: nothing is kept here, and autostart brings them back.

    That the host shows them as failed meanwhile is the host's.
    """
    task = spec(until_stopped)
    first = Desk()
    first.supervisor.start(task)
    await turn()
    await first.supervisor.aclose()
    second = Desk()
    assert second.supervisor.status() == []
    second.supervisor.autostart([task])
    await turn()
    assert [(h.status, h.restart_count) for h in second.supervisor.status()] == [("running", 0)]
    await second.supervisor.aclose()


@virtual
async def test_payload_and_user_reach_every_run() -> None:
    """Each run has the `payload` and the `user_id` of its start."""
    desk = Desk()
    seen: list[tuple[object, ...]] = []

    async def body(run: TaskRun) -> None:
        seen.append((run.task_id, run.name, run.user_id, run.payload, run.number))

    task = spec(body, per_user=True, policy=exact(max_restarts=1))
    handle = desk.supervisor.start(task, user_id="u1", payload={"city": "Bern"}, name="Watch Bern")
    await handle.join()
    assert seen == [("watch:u1", "Watch Bern", "u1", {"city": "Bern"}, n) for n in (1, 2)]
    assert (handle.health.name, handle.health.user_id) == ("Watch Bern", "u1")


@virtual
async def test_an_id_starts_anew_after_it_stopped() -> None:
    """The count is 0, and nothing of the old health or error is left."""
    desk = Desk()

    async def body(run: TaskRun) -> None:
        run.report_health(f"run {run.number}")
        if run.number == 1:
            raise ValueError("boom")
        await run.wait_stop()

    handle = desk.supervisor.start(spec(body))
    await asyncio.sleep(1)
    stopped = await handle.stop()
    assert (stopped.restart_count, stopped.last_health_status) == (1, "run 2")
    again = desk.supervisor.start(spec(until_stopped))
    await turn()
    assert again.health == TaskHealth(
        task_id="watch", name="watch", user_id=None, status="running", restart_count=0,
        last_health_status=None, last_health_time=None, error=None,
    )  # fmt: skip
    assert handle.health == stopped
    await handle.stop()  # the old handle is not the new task's
    assert again.health.status == "running"
    await again.stop()


DURATIONS = ("initial_delay", "max_delay", "reset_after")


@pytest.mark.parametrize("field", [*DURATIONS, "multiplier", "jitter"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, 2**40, 10**400, True, "1"])
def test_an_absurd_policy_is_refused_with_the_fields_name(field: str, value: object) -> None:
    """NaN, inf, -1 and 2**40 are refused as delays."""
    with pytest.raises(RegistrationError, match=rf"^RestartPolicy: {field} must be a number .*, not "):
        RestartPolicy(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", "sometimes"),
        ("type", None),
        ("type", []),
        ("max_restarts", -1),
        ("max_restarts", 1.5),
        ("max_restarts", True),
        ("multiplier", 0.5),
        ("jitter", 1.1),
        ("initial_delay", None),
    ],
)
def test_a_policy_field_out_of_range_is_refused(field: str, value: object) -> None:
    """Delays are checked at registration."""
    with pytest.raises(RegistrationError, match=f"^RestartPolicy: {field} must be "):
        RestartPolicy(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", " "),
        ("name", None),
        ("fn", "watch"),
        ("policy", "always"),
        ("stop_grace", -1),
        ("stop_grace", math.nan),
        ("heartbeat_timeout", 0),
        ("heartbeat_timeout", math.inf),
    ],
)
def test_a_task_field_out_of_range_is_refused(field: str, value: object) -> None:
    """Durations and the other fields are checked at registration."""
    with pytest.raises(RegistrationError, match=f"^TaskSpec: {field} must be "):
        TaskSpec(**{"name": "watch", "fn": forever, field: value})  # type: ignore[arg-type]


def test_the_name_of_a_per_user_task_has_no_colon() -> None:
    """Ids are unique: "a:b" for "c" and "a" for "b:c" would be one."""
    assert TaskSpec(name="a:b", fn=forever).name == "a:b"
    with pytest.raises(RegistrationError, match="name must be free of colons"):
        TaskSpec(name="a:b", fn=forever, per_user=True)


@virtual
async def test_a_delay_of_zero_is_no_busy_loop() -> None:
    """With a delay of 0 at least MIN_DELAY passes between two runs."""
    for policy in (exact(initial_delay=0), exact(max_delay=0), RestartPolicy(initial_delay=QUICK, jitter=1)):
        desk = Desk()
        handle = desk.supervisor.start(spec(crash, policy=policy))
        await asyncio.sleep(0.105)
        await handle.stop()
        gaps = [later - sooner for sooner, later in zip(desk.begun(), desk.begun()[1:], strict=False)]
        assert min(gaps) >= MIN_DELAY - 1e-9
        assert policy.jitter or len(gaps) == 10


@pytest.mark.parametrize("user_id", [None, "", "  ", 7])
def test_a_per_user_task_needs_its_user(user_id: Any) -> None:
    """A per-user task with an empty user id is refused, and a failed start leaves no trace."""

    async def main() -> None:
        desk = Desk()
        with pytest.raises(TaskRefused, match="user"):
            desk.supervisor.start(spec(until_stopped, per_user=True), user_id=user_id)
        await asyncio.sleep(1)
        assert desk.supervisor.status() == []
        assert desk.told == []
        assert nothing_armed()

    run_virtual(main())


@virtual
async def test_users_do_not_share_a_task() -> None:
    """Each user's run of a task has an id of its own."""
    desk = Desk()
    task = spec(until_stopped, per_user=True)
    desk.supervisor.start(task, user_id="u1")
    desk.supervisor.start(task, user_id="u2")
    with pytest.raises(TaskRefused):
        desk.supervisor.start(task, user_id="u1")
    await turn()
    await desk.supervisor.stop("watch:u1")
    assert [(h.task_id, h.user_id, h.status) for h in desk.supervisor.status()] == [
        ("watch:u1", "u1", "stopped"),
        ("watch:u2", "u2", "running"),
    ]
    await desk.supervisor.aclose()


@virtual
async def test_used_up_restarts_are_a_failure_until_started_again() -> None:
    """N restarts are N + 1 runs; `failed` is left by start, and by nothing else."""
    desk = Desk()
    handle = desk.supervisor.start(spec(crash, policy=exact(max_restarts=2)))
    health = await handle.join()
    await asyncio.sleep(3600)
    assert desk.states == ["running", "restarting", "running", "restarting", "running", "failed"]
    assert health.error == "restarts exhausted (2 of 2); the last run: ValueError: boom"
    assert health.restart_count == 2
    assert desk.begun() == [0, 0.02, 0.06], "and nothing after that"
    assert nothing_armed()
    assert await handle.stop() == health  # a stop takes nothing away from it
    again = desk.supervisor.start(spec(until_stopped, policy=exact(max_restarts=2)))
    await turn()
    assert (again.health.status, again.health.restart_count, again.health.error) == ("running", 0, None)
    await again.stop()


@virtual
async def test_clean_returns_use_up_restarts_too() -> None:
    """An `always` task that returns uses up `max_restarts` too."""
    desk = Desk()
    health = await desk.supervisor.start(spec(finish, policy=exact(max_restarts=1))).join()
    assert (health.status, health.error) == ("failed", "restarts exhausted (1 of 1); the last run: returned")


# -- what the reference's own tests pin --------------------------------------------------------------------------------


def test_the_defaults() -> None:
    """The defaults are those of the table in docs/tasks.md."""
    policy = RestartPolicy()
    assert (policy.type, policy.max_restarts, policy.initial_delay, policy.max_delay) == ("always", 0, 1.0, 60.0)
    assert (policy.multiplier, policy.jitter, policy.reset_after) == (2.0, 0.5, None)
    task = TaskSpec(name="watch", fn=forever)
    assert (task.policy, task.stop_grace, task.heartbeat_timeout) == (policy, 5.0, None)
    assert (task.per_user, task.autostart, task.description) == (False, True, "")


@virtual
async def test_a_start_starts() -> None:
    """A task that is started runs."""
    desk = Desk()
    handle = desk.supervisor.start(spec(until_stopped), id="mine")
    assert handle.id == "mine"
    await turn()
    assert desk.supervisor.health("mine").status == "running"
    await desk.supervisor.aclose()


@virtual
async def test_autostart_takes_those_that_want_it() -> None:
    """Per-user tasks are never started so, and a task that runs is left alone."""
    desk = Desk()
    tasks = [
        spec(until_stopped, "a"),
        spec(until_stopped, "b", autostart=False),
        spec(until_stopped, "c", per_user=True),
        spec(until_stopped, "d"),
    ]
    desk.supervisor.start(tasks[3])
    assert [handle.id for handle in desk.supervisor.autostart(tasks)] == ["a"]
    assert [health.task_id for health in desk.supervisor.status()] == ["d", "a"]
    await desk.supervisor.aclose()


@pytest.mark.parametrize(
    ("kind", "body", "runs_again", "end"),
    [
        ("always", finish, True, "restarting"),
        ("always", crash, True, "restarting"),
        ("on-failure", finish, False, "stopped"),
        ("on-failure", crash, True, "restarting"),
        ("never", finish, False, "stopped"),
        ("never", crash, False, "failed"),
    ],
)
def test_the_policy_decides_what_follows_a_run(kind: str, body: Body, runs_again: bool, end: str) -> None:
    """`never` restarts nothing, `on-failure` leaves a clean return alone, `always` restarts both."""

    async def main() -> None:
        desk = Desk()
        handle = desk.supervisor.start(spec(body, policy=exact(type=kind)))
        await asyncio.sleep(0.01)
        assert handle.health.status == end
        assert handle.health.error == ("ValueError: boom" if body is crash else None)
        assert nothing_armed() is not runs_again
        await desk.supervisor.aclose()

    run_virtual(main())


@virtual
async def test_delays_grow_to_the_millisecond_up_to_the_cap() -> None:
    """Delays are 1, 2, 4 s to the millisecond without jitter, up to the cap; ten failures give ten restarts."""
    desk = Desk()
    handle = desk.supervisor.start(spec(crash, policy=RestartPolicy(jitter=0)))
    await asyncio.sleep(1 + 2 + 4 + 8 + 16 + 32 + 60 * 4 + 0.001)
    assert desk.begun() == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243, 303]
    health = await handle.stop()
    assert desk.states.count("restarting") == health.restart_count == 11


@virtual
async def test_the_count_rises_when_the_restart_is_scheduled() -> None:
    """It does not wait for the next run."""
    desk = Desk()
    handle = desk.supervisor.start(spec(crash))
    await asyncio.sleep(0.05)
    assert [(h.status, h.restart_count) for h in desk.told] == [
        ("running", 0),
        ("restarting", 1),
        ("running", 1),
        ("restarting", 2),
    ]
    assert [h.error for h in desk.told] == [None, "ValueError: boom"] * 2
    await handle.stop()


@virtual
async def test_the_list_holds_all_tasks() -> None:
    """The list has all tasks, whatever their state."""
    desk = Desk()
    for name, body in (("up", until_stopped), ("down", finish), ("sick", crash)):
        desk.supervisor.start(spec(body, name, policy=exact(type="never")))
    await asyncio.sleep(0.01)
    assert [(h.task_id, h.status) for h in desk.supervisor.status()] == [
        ("up", "running"),
        ("down", "stopped"),
        ("sick", "failed"),
    ]
    await desk.supervisor.aclose()


@virtual
async def test_health_keeps_text_and_time() -> None:
    """The time is UTC in ISO 8601 with milliseconds and Z. Health outlives the run that reported it."""
    desk = Desk()

    async def body(run: TaskRun) -> None:
        run.report_health("42 messages")
        await run.wait_stop()

    handle = desk.supervisor.start(spec(body))
    await turn()
    assert desk.told[-1].last_health_status == "42 messages"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", desk.told[-1].last_health_time or "")
    assert (await handle.stop()).last_health_status == "42 messages"
    assert len(desk.told) == 3


@virtual
async def test_an_unknown_id_is_harmless() -> None:
    """An unknown id changes nothing, and the error has the known ids."""
    desk = Desk()
    desk.supervisor.start(spec(until_stopped))
    with pytest.raises(UnknownTask, match=r"^no task 'nope'; there are 'watch'$") as caught:
        await desk.supervisor.stop("nope")
    assert isinstance(caught.value, LookupError)
    assert isinstance(caught.value, SepkitError)
    assert (caught.value.task_id, caught.value.known) == ("nope", ("watch",))
    with pytest.raises(UnknownTask):
        desk.supervisor.health("nope")
    await turn()
    assert desk.states == ["running"]
    await desk.supervisor.aclose()


# -- stopping ----------------------------------------------------------------------------------------------------------


@virtual
async def test_stop_may_be_asked_again_and_together() -> None:
    """A stop may be repeated and is reported once."""
    desk = Desk()
    handle = desk.supervisor.start(spec(until_stopped))
    await turn()
    answers = await asyncio.gather(handle.stop(), desk.supervisor.stop("watch"), handle.stop())
    assert {health.status for health in answers} == {"stopped"}
    assert (await handle.stop()).status == "stopped"
    assert desk.states == ["running", "stopped"]


@virtual
async def test_a_run_that_ignores_the_signal_is_cancelled_after_its_grace() -> None:
    """Signal, grace, cancel: in this order."""
    desk = Desk()
    handle = desk.supervisor.start(spec(forever, stop_grace=2.5))
    await asyncio.sleep(1)
    assert (await handle.stop()).status == "stopped"
    assert current_loop().time() == 3.5
    assert desk.states == ["running", "stopped"]


@virtual
async def test_no_grace_cancels_at_once() -> None:
    """With a stop_grace of 0 the clean-up of the cancelled run is still waited for."""
    desk = Desk()

    async def tidy(run: TaskRun) -> None:
        try:
            await run.wait_stop()
        finally:
            await asyncio.sleep(0.3)

    handle = desk.supervisor.start(spec(tidy, stop_grace=0))
    await turn()
    assert (await handle.stop()).status == "stopped"
    assert current_loop().time() == 0.3


@virtual
async def test_a_run_that_ignores_its_cancellation_is_named_and_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    """The second wait is bounded and the run is named. `stopped` follows when it has really ended."""
    desk = Desk()

    async def stubborn(run: TaskRun) -> None:
        for _ in range(2):
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                continue

    handle = desk.supervisor.start(spec(stubborn, "mule", stop_grace=1))
    await turn()
    health = await handle.stop()
    assert current_loop().time() == 1 + supervisor_module.CANCEL_GRACE
    assert (health.status, health.error) == ("running", "it ignores its cancellation")
    assert "task 'mule': run 1 ignores its cancellation" in caplog.text
    assert nothing_armed() or all(timer.when() == 101 for timer in current_loop().armed())  # its own sleep
    assert (await handle.stop()).status == "running"  # at once: there is nothing left to try
    with pytest.raises(TaskRefused, match="still stopping"):
        desk.supervisor.start(spec(until_stopped, "mule"))
    assert (await handle.join()).status == "stopped"
    assert current_loop().time() == 101
    assert desk.states == ["running", "running", "stopped"]


@virtual
async def test_a_caller_that_gives_up_does_not_stop_the_stop() -> None:
    """The stop goes on, even if its caller no longer waits."""
    desk = Desk()
    handle = desk.supervisor.start(spec(forever, stop_grace=2))
    await turn()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await handle.stop()
    await asyncio.sleep(1.5)
    assert desk.states == ["running", "stopped"]
    assert desk.times[-1] == 2


@virtual
async def test_a_task_may_stop_itself_but_not_wait_for_itself() -> None:
    """A stop from within does not wait for its own end."""
    desk = Desk()

    async def body(run: TaskRun) -> None:
        with pytest.raises(RuntimeError, match="its own end"):
            await handles[0].join()
        await handles[0].stop()
        assert run.stopping

    handles: list[TaskHandle] = [desk.supervisor.start(spec(body))]
    assert (await handles[0].join()).status == "stopped"
    assert current_loop().time() == 0
    assert desk.states == ["running", "stopped"]


@virtual
async def test_a_handle_stops_its_task_at_the_end_of_the_block() -> None:
    """``async with`` on the handle of a start stops the task."""
    desk = Desk()
    async with desk.supervisor.start(spec(until_stopped)) as handle:
        await turn()
        assert desk.states == ["running"]
    assert handle.health.status == "stopped"


@virtual
async def test_sleep_and_wait_stop_end_early_on_stop() -> None:
    """Both see the stop signal."""
    desk = Desk()
    seen: list[object] = []

    async def body(run: TaskRun) -> None:
        await run.sleep(1)
        seen.append((current_loop().time(), await run.wait_stop(0), await run.wait_stop(1), run.stopping))
        await run.sleep(math.inf)
        seen.append((current_loop().time(), await run.wait_stop(1), await run.wait_stop(), run.stopping))

    handle = desk.supervisor.start(spec(body))
    await asyncio.sleep(10)
    await handle.stop()
    assert seen == [(1, False, False, False), (10, True, True, True)]
    assert nothing_armed()


@virtual
async def test_a_loop_that_never_looks_at_the_signal_does_not_spin() -> None:
    """Stopping needs the loop to turn, so a sleep after the signal still lasts a moment."""
    desk = Desk()
    rounds = 0

    async def deaf(run: TaskRun) -> None:
        nonlocal rounds
        while True:
            await run.sleep(3600)
            rounds += 1

    handle = desk.supervisor.start(spec(deaf, stop_grace=1))
    await turn()
    await handle.stop()
    assert current_loop().time() == 1
    assert rounds <= 101


@pytest.mark.parametrize("seconds", [-1, 0])
def test_a_run_that_polls_does_not_starve_the_others(seconds: float) -> None:
    """Each wait takes at least one turn of the loop, so a task cannot hang others."""

    async def main() -> None:
        desk = Desk()

        async def poll(run: TaskRun) -> None:
            while not await run.wait_stop(seconds):
                await run.sleep(seconds)

        handle = desk.supervisor.start(spec(poll))
        for _ in range(10):
            await turn()
        await handle.stop()
        assert desk.states == ["running", "stopped"]

    run_virtual(main())


@virtual
async def test_nan_is_no_time_to_sleep() -> None:
    """A timer at NaN would upset the order of all timers."""
    desk = Desk()

    async def body(run: TaskRun) -> None:
        await run.sleep(math.nan)

    health = await desk.supervisor.start(spec(body, policy=exact(type="never"))).join()
    assert health.error == "ValueError: NaN is not a number of seconds"


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [ValueError("boom"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError("odd")]
)
def test_whatever_is_raised_stays_in_its_task(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    """An exception never reaches another task or the process, and is logged with its traceback at once."""

    async def main() -> None:
        desk = Desk()

        async def body(run: TaskRun) -> None:
            raise error

        other = desk.supervisor.start(spec(until_stopped, "other"))
        handle = desk.supervisor.start(spec(body, policy=exact(type="on-failure")))
        await asyncio.sleep(0.01)
        assert handle.health.status == "restarting"
        assert (handle.health.error or "").startswith(type(error).__name__)
        assert other.health.status == "running"
        assert "task 'watch': run 1 raised" in caplog.text
        assert "raise error" in caplog.text
        await desk.supervisor.aclose()

    run_virtual(main())


@virtual
async def test_a_run_that_awaited_what_was_cancelled_is_shown_where(caplog: pytest.LogCaptureFixture) -> None:
    """A CancelledError that was not asked for is logged with its traceback, like any exception."""
    desk = Desk()

    async def body(run: TaskRun) -> None:
        elsewhere = asyncio.ensure_future(asyncio.sleep(1000))
        elsewhere.cancel()
        await elsewhere

    health = await desk.supervisor.start(spec(body, policy=exact(type="never"))).join()
    assert (health.status, health.error) == ("failed", "CancelledError")
    assert "await elsewhere" in caplog.text
    caplog.clear()
    handle = desk.supervisor.start(spec(forever, stop_grace=0))
    await turn()
    await handle.stop()
    health = await desk.supervisor.start(spec(forever, heartbeat_timeout=1, policy=exact(type="never"))).join()
    assert health.error == "no health report for 1 s"
    assert "raised" not in caplog.text, "that those were cancelled is no news"


@virtual
async def test_an_error_without_a_text_is_still_named() -> None:
    """An exception that cannot be printed is contained too."""

    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    async def mute(run: TaskRun) -> None:
        raise MuteError

    desk = Desk()
    logging.getLogger("sepkit.tasks").disabled = True  # logging cannot print it, either
    try:
        health = await desk.supervisor.start(spec(mute, policy=exact(type="never"))).join()
    finally:
        logging.getLogger("sepkit.tasks").disabled = False
    assert health.error == "MuteError"


@virtual
async def test_a_launch_that_fails_is_a_failed_run() -> None:
    """An exception is contained, wherever it is raised."""

    def launch(spec: TaskSpec, run: TaskRun) -> Coroutine[Any, Any, object]:
        raise TypeError("no such context")

    room = Supervisor(launch, on_change=lambda health: None)
    health = await room.start(spec(finish, policy=exact(type="never"))).join()
    assert (health.status, health.error) == ("failed", "TypeError: no such context")


@virtual
async def test_a_listener_that_fails_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """An exception of a listener does not reach a task."""

    async def launch(spec: TaskSpec, run: TaskRun) -> None:
        await run.wait_stop()

    def broken(health: TaskHealth) -> None:
        raise OSError("gone")

    room = Supervisor(launch, on_change=broken)
    handle = room.start(spec(finish))
    await turn()
    assert (await handle.stop()).status == "stopped"
    assert "its state could not be told" in caplog.text


def test_tasks_are_started_and_stopped_in_their_loop_alone() -> None:
    """A start in another loop would take over the timers of all tasks, and that loop may end at once."""

    async def main() -> None:
        desk = Desk()
        handle = desk.supervisor.start(spec(until_stopped, "first"))
        await turn()

        async def start() -> None:
            desk.supervisor.start(spec(until_stopped, "second"))

        def start_without_a_loop() -> None:
            desk.supervisor.start(spec(until_stopped, "second"))

        for work in (start_without_a_loop, lambda: asyncio.run(start()), lambda: asyncio.run(handle.stop())):
            with pytest.raises(TaskRefused, match=r"cannot be .* outside of the extension's loop: do it in an `async"):
                await asyncio.to_thread(work)
        assert [health.task_id for health in desk.supervisor.status()] == ["first"]
        assert (await handle.stop()).status == "stopped"
        await desk.supervisor.aclose()

    asyncio.run(main())


# -- reports and heartbeats --------------------------------------------------------------------------------------------


@virtual
async def test_what_an_old_run_reports_is_dropped() -> None:
    """Runs are numbered, and an old run's reports are dropped. Code that it left behind is told to stop."""
    desk = Desk()
    runs: list[TaskRun] = []

    async def body(run: TaskRun) -> None:
        runs.append(run)
        if run.number == 1:
            raise ValueError("boom")
        await run.wait_stop()

    handle = desk.supervisor.start(spec(body))
    await asyncio.sleep(1)
    assert [run.number for run in runs] == [1, 2]
    assert runs[0].stopping
    told = len(desk.told)
    runs[0].report_health("old")
    assert (handle.health.last_health_status, len(desk.told)) == (None, told)
    runs[1].report_health("new")
    assert handle.health.last_health_status == "new"
    await handle.stop()
    runs[1].report_health("late")
    again = desk.supervisor.start(spec(body))
    await turn()
    runs[1].report_health("from before the start")
    assert again.health.last_health_status is None
    await again.stop()


@virtual
async def test_health_may_be_reported_from_a_thread() -> None:
    """A task may call ``report_health`` from a thread."""
    desk = Desk()
    runs: list[TaskRun] = []

    async def body(run: TaskRun) -> None:
        runs.append(run)
        await run.wait_stop()

    handle = desk.supervisor.start(spec(body))
    await turn()
    thread = threading.Thread(target=runs[0].report_health, args=("from afar",))
    thread.start()
    thread.join()
    assert desk.states == ["running"]  # it is for the loop's thread to tell
    await turn()
    await turn()
    assert handle.health.last_health_status == "from afar"
    await handle.stop()


def test_a_report_after_the_loops_end_is_dropped() -> None:
    """A thread may outlive the loop; its reports are dropped."""
    runs: list[TaskRun] = []

    async def main() -> None:
        desk = Desk()

        async def body(run: TaskRun) -> None:
            runs.append(run)

        await desk.supervisor.start(spec(body, policy=exact(type="never"))).join()

    run_virtual(main())
    thread = threading.Thread(target=runs[0].report_health, args=("late",))
    thread.start()
    thread.join()


@virtual
async def test_health_is_a_text() -> None:
    """Anything but a text is the task's mistake, and raises where it is made."""
    desk = Desk()

    async def body(run: TaskRun) -> None:
        run.report_health(42)  # type: ignore[arg-type]

    health = await desk.supervisor.start(spec(body, policy=exact(type="never"))).join()
    assert health.error == "TypeError: report_health takes a string, not int"


@virtual
async def test_a_report_is_text_that_can_be_sent() -> None:
    """One task's text, such as a file name that is not UTF-8, must not fail the list of all tasks."""
    desk = Desk()
    desk.supervisor._log = OwnLog(logging.Logger("elsewhere"))  # pytest-xdist cannot send such text either

    async def body(run: TaskRun) -> None:
        run.report_health("file \udcff")
        run.report_health("x" * 5000)
        raise ValueError("no file \udcff")

    health = await desk.supervisor.start(spec(body, policy=exact(type="never"))).join()
    long = "x" * 2000 + "… (3000 more characters)"
    assert [told.last_health_status for told in desk.told] == [None, "file \\udcff", long, long]
    assert health.error == "ValueError: no file \\udcff"
    for wrong in ({"id": "\udcff"}, {"name": "\udcff"}, {"user_id": "\udcff"}, {"name": " "}):
        with pytest.raises(TaskRefused, match=next(iter(wrong))):
            desk.supervisor.start(spec(body), **wrong)


@virtual
async def test_a_silent_run_is_cancelled_and_has_failed() -> None:
    """The clock of heartbeat_timeout starts again with each report and with each run."""
    desk = Desk()

    async def body(run: TaskRun) -> None:
        if run.number == 1:
            for _ in range(3):
                await asyncio.sleep(4)
                run.report_health("here")
        await asyncio.sleep(1000)

    policy = exact(type="on-failure", initial_delay=1)
    handle = desk.supervisor.start(spec(body, policy=policy, heartbeat_timeout=5))
    await asyncio.sleep(23.5)
    assert [(at, h.status) for at, h in zip(desk.times, desk.told, strict=True) if h.last_health_status is None] == [
        (0, "running")
    ]
    assert [at for at, h in zip(desk.times, desk.told, strict=True) if h.status == "restarting"] == [17, 23]
    assert handle.health.error == "no health report for 5 s"
    await handle.stop()
    assert nothing_armed()


def test_a_run_that_had_no_turn_to_report_in_is_not_silent() -> None:
    """A blocked loop is not the task's fault; but the time-out is not put off for ever."""

    async def beat(run: TaskRun) -> None:
        while not await run.wait_stop(0.02):
            run.report_health("here")

    async def blocks(run: TaskRun) -> None:
        while True:
            await asyncio.sleep(0.05)
            time.sleep(0.45)  # noqa: ASYNC251  (that is the point)

    async def main() -> None:
        desk = Desk()
        beating = desk.supervisor.start(spec(beat, "beat", exact(type="never"), heartbeat_timeout=0.3))
        blocking = desk.supervisor.start(spec(blocks, "blocks", exact(type="never"), heartbeat_timeout=0.3))
        health = await asyncio.wait_for(blocking.join(), 20)
        assert (health.status, health.error) == ("failed", "no health report for 0.3 s")
        assert (beating.health.status, beating.health.restart_count) == ("running", 0)
        await desk.supervisor.aclose()

    asyncio.run(main())


@virtual
async def test_a_silent_run_that_returns_when_cancelled_has_failed_all_the_same() -> None:
    """It counts as failed, however the run ends."""
    desk = Desk()

    async def meek(run: TaskRun) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            return

    health = await desk.supervisor.start(spec(meek, policy=exact(type="never"), heartbeat_timeout=5)).join()
    assert (health.status, health.error) == ("failed", "no health report for 5 s")
    assert current_loop().time() == 5


@virtual
async def test_silence_is_forgiven_with_the_next_run() -> None:
    """heartbeat_timeout fails that run, not those after it."""
    desk = Desk()

    async def body(run: TaskRun) -> None:
        if run.number == 1:
            await asyncio.sleep(1000)

    health = await desk.supervisor.start(spec(body, policy=exact(type="on-failure"), heartbeat_timeout=5)).join()
    assert (health.status, health.error, health.restart_count) == ("stopped", None, 1)


@virtual
async def test_a_silent_run_that_ignores_its_cancellation_gets_no_second_beside_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The run is named, can still be stopped, and is restarted once it has ended."""
    desk = Desk()
    alive = 0

    async def stubborn(run: TaskRun) -> None:
        nonlocal alive
        alive += 1
        assert alive == 1
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            await asyncio.sleep(30)
        finally:
            alive -= 1

    handle = desk.supervisor.start(spec(stubborn, heartbeat_timeout=2))
    await asyncio.sleep(20)
    assert "run 1 ignores its cancellation" in caplog.text
    assert (handle.health.status, handle.health.error) == ("running", "it ignores its cancellation")
    await asyncio.sleep(12.01)
    assert (handle.health.status, handle.health.error) == ("restarting", "no health report for 2 s")
    await asyncio.sleep(3)  # the second run, cancelled for its silence and still at work
    assert (await handle.stop()).status == "stopped"
    assert desk.begun()[-1] == 32.02
    assert current_loop().time() == 40.01  # 35.01, and the grace


@virtual
async def test_no_heartbeat_is_awaited_while_stopping() -> None:
    """A silent run is stopped like any other."""
    desk = Desk()

    async def slow(run: TaskRun) -> None:
        await run.wait_stop()
        await asyncio.sleep(4)

    handle = desk.supervisor.start(spec(slow, heartbeat_timeout=2))
    await asyncio.sleep(1)
    health = await handle.stop()
    assert (health.status, health.error, current_loop().time()) == ("stopped", None, 5)


# -- the end of it all -------------------------------------------------------------------------------------------------


@virtual
async def test_aclose_stops_all_side_by_side_within_its_grace(caplog: pytest.LogCaptureFixture) -> None:
    """Tasks end in every state, and no more are started."""
    desk = Desk()
    ends: dict[str, float] = {}

    def body(name: str, seconds: float) -> Body:
        async def slow(run: TaskRun) -> None:
            await run.wait_stop()
            try:
                await asyncio.sleep(seconds)
            finally:
                ends[name] = current_loop().time()

        return slow

    async def mule(run: TaskRun) -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    released = asyncio.Event()
    for name, seconds in (("quick", 0), ("slow", 1), ("slower", 2), ("endless", 100)):
        desk.supervisor.start(spec(body(name, seconds), name, stop_grace=50))
    desk.supervisor.start(spec(mule, "mule"))
    desk.supervisor.start(spec(crash, "backing off", policy=exact(initial_delay=100)))
    await asyncio.sleep(1)
    stopping = asyncio.ensure_future(desk.supervisor.stop("endless"))  # its ladder is under way, with a long grace
    await turn()
    desk.supervisor.start(spec(finish, "pending"))
    await desk.supervisor.aclose(4)
    assert current_loop().time() == 5
    assert ends == {"quick": 1, "slow": 2, "slower": 3, "endless": 4}
    assert {h.task_id: h.status for h in desk.supervisor.status()} == {
        **dict.fromkeys(("quick", "slow", "slower", "endless", "backing off", "pending"), "stopped"),
        "mule": "running",
    }
    assert stopping.done()
    assert "task 'mule': run 1 ignores its cancellation" in caplog.text
    assert nothing_armed()
    with pytest.raises(TaskRefused, match="shutting down"):
        desk.supervisor.start(spec(finish, "late"))
    await desk.supervisor.aclose(4)
    assert current_loop().time() == 5
    told = len(desk.told)
    released.set()
    await turn()
    await turn()
    assert desk.supervisor.health("mule").status == "stopped"
    assert len(desk.told) == told  # nobody is there to be told


@virtual
async def test_aclose_without_grace_lets_what_is_cancelled_end() -> None:
    """The time is bounded, but a cancelled run has the turns of the loop that it needs to end."""
    desk = Desk()
    desk.supervisor.start(spec(forever))
    await turn()
    await desk.supervisor.aclose(0)
    assert desk.states == ["running", "stopped"]
    assert current_loop().time() == 0
    assert nothing_armed()


@virtual
async def test_a_cancelled_aclose_leaves_nothing_armed() -> None:
    """No timer is left, even if the caller no longer waits for the end."""
    desk = Desk()
    handle = desk.supervisor.start(spec(forever))
    await turn()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await desk.supervisor.aclose(4)
    await turn()
    await turn()
    assert nothing_armed()
    assert handle.health.status == "stopped"


@virtual
async def test_ended_tasks_are_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids made up for each start do not fill the memory."""
    monkeypatch.setattr(supervisor_module, "MAX_ENDED", 3)
    desk = Desk()
    desk.supervisor.start(spec(until_stopped, "alive"))
    for number in range(10):
        await desk.supervisor.start(spec(finish, policy=exact(type="never")), id=f"t{number}").join()
    again = desk.supervisor.start(spec(until_stopped), id="t7")  # alive: it is no longer among those to forget
    for number in range(10, 13):
        await desk.supervisor.start(spec(finish, policy=exact(type="never")), id=f"t{number}").join()
    assert [health.task_id for health in desk.supervisor.status()] == ["alive", "t7", "t10", "t11", "t12"]
    assert (await again.stop()).status == "stopped"
    await desk.supervisor.aclose()


@virtual
async def test_ten_thousand_tasks() -> None:
    """10,000 tasks run, and a sleeping one takes at most 6 KiB."""
    count = 10_000
    told = 0
    runs: list[TaskRun] = []

    async def launch(spec: TaskSpec, run: TaskRun) -> None:
        await spec.fn(run)

    async def sleeper(run: TaskRun) -> None:
        runs.append(run)
        while not run.stopping:
            await run.sleep(3600)

    def on_change(health: TaskHealth) -> None:
        nonlocal told
        told += 1

    room = Supervisor(launch, on_change=on_change)
    task = spec(sleeper, per_user=True)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(count):
            room.start(task, user_id=f"user-{number}")
        await turn()
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert used / count <= 6 * 1024
    for run in runs:
        run.report_health("well")
    assert len(room.status()) == count
    await room.aclose(4)
    assert told == 3 * count
    assert {health.status for health in room.status()} == {"stopped"}
    assert nothing_armed()


def test_start_report_status_and_stop_cost_the_same_for_each_of_many() -> None:
    """No step is quadratic in 10,000 tasks: with eight times as many, each costs little more."""

    async def launch(spec: TaskSpec, run: TaskRun) -> None:
        await run.wait_stop()

    async def seconds_a_task(count: int) -> dict[str, float]:
        room = Supervisor(launch, on_change=lambda health: None)
        task = spec(forever, per_user=True)
        marks = [time.perf_counter()]
        handles = [room.start(task, user_id=f"user-{number}") for number in range(count)]
        await turn()
        marks.append(time.perf_counter())
        for handle in handles:
            run = handle._entry.run
            assert run is not None
            run.report_health("well")
        marks.append(time.perf_counter())
        for handle in handles:
            assert room.health(handle.id).status == "running"
        assert len(room.status()) == count
        marks.append(time.perf_counter())
        await asyncio.gather(*(handle.stop() for handle in handles[: count // 2]))
        await room.aclose()
        marks.append(time.perf_counter())
        names = ("start", "report", "status", "stop")
        return {name: (end - began) / count for name, began, end in zip(names, marks[:-1], marks[1:], strict=True)}

    few = dict.fromkeys(("start", "report", "status", "stop"), math.inf)
    many, dearer = few.copy(), few.copy()
    gc.collect()
    gc.disable()  # else what other tests left behind is traversed again for each thousand of tasks
    try:
        for _ in range(20):  # what else the machine does makes a round dearer, not cheaper: the best of each count
            for best, count in ((few, 500), (many, 4000)):
                found = run_virtual(seconds_a_task(count))
                best.update({name: min(best[name], found[name]) for name in found})
            dearer = {name: many[name] / few[name] for name in few}
            if max(dearer.values()) < 4:
                break
    finally:
        gc.enable()
    assert max(dearer.values()) < 4, dearer  # a quadratic step would make it 8


# -- the delay, as a function ------------------------------------------------------------------------------------------


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False)


@given(
    initial=numbers(0, 1e6),
    cap=numbers(0, 1e6),
    multiplier=numbers(1, 1000) | st.integers(1, 1000),
    jitter=numbers(0, 1),
    n=st.integers(0, 2**70),
    dice=numbers(0, 0.999),
)
def test_a_delay_lies_between_its_floor_and_its_cap(
    initial: float, cap: float, multiplier: float, jitter: float, n: int, dice: float
) -> None:
    """The exponent is clamped, and jitter only shortens a delay, by its part."""
    policy = RestartPolicy(initial_delay=initial, max_delay=cap, multiplier=multiplier, jitter=jitter)
    sure = RestartPolicy(initial_delay=initial, max_delay=cap, multiplier=multiplier, jitter=0)
    delay, full = policy.delay(n, lambda: dice), sure.delay(n, lambda: dice)
    assert MIN_DELAY <= delay <= full <= max(cap, MIN_DELAY)
    assert delay >= full * (1 - jitter) - 1e-9
    assert full <= sure.delay(n + 1, lambda: dice)
    if n < 20:
        assert full == pytest.approx(max(min(initial * multiplier**n, cap), MIN_DELAY))


def test_the_delay_after_very_many_restarts_takes_no_time() -> None:
    """The exponent is clamped: a power of integers would be exact, and take seconds."""
    policy = RestartPolicy(initial_delay=1, max_delay=0.5, multiplier=1000, jitter=0)
    began = time.perf_counter()
    assert policy.delay(10**9, random.random) == 0.5
    assert time.perf_counter() - began < 0.5


def test_jitter_is_the_part_that_is_random() -> None:
    """0 is exact, 1 is full jitter."""

    def delays(jitter: float) -> list[float]:
        policy = RestartPolicy(jitter=jitter)
        return [policy.delay(3, iter([roll]).__next__) for roll in (0.0, 0.25, 0.75)]

    assert delays(0.5) == [8, 7, 5]
    assert delays(1) == [8, 6, 2]
    seeded = random.Random(7).random
    assert all(4 <= RestartPolicy().delay(3, seeded) <= 8 for _ in range(100))

    def never() -> float:
        raise AssertionError

    assert RestartPolicy(jitter=0).delay(3, never) == 8


# -- the clock of these tests ------------------------------------------------------------------------------------------


def test_a_deadlock_fails_loudly() -> None:
    """The virtual clock: nothing ready and no timer armed is no reason to wait."""

    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock, match=r"no timer is armed at 0\.0 s"):
        run_virtual(main())


def test_a_busy_loop_fails_loudly() -> None:
    """The virtual clock: time must pass."""

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def again() -> None:
            loop.call_soon(again)

        again()
        await asyncio.sleep(1)

    with pytest.raises(BusyLoop):
        run_virtual(main())


def test_an_hour_takes_no_time() -> None:
    """The virtual clock: time is exact, and timers go off in their order."""

    async def main() -> list[float]:
        async def at(seconds: float) -> float:
            await asyncio.sleep(seconds)
            return current_loop().time()

        return list(await asyncio.gather(at(3600), at(0.1), at(0.3), at(90_000)))

    assert run_virtual(main()) == [3600, 0.1, 0.3, 90_000]
