"""Jobs of an app that is served, on a virtual clock that the wall's follows. What is promised is in docs/jobs.md."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest

from sepkit import App, JobContext, Router, TaskContext, ToolContext
from sepkit.capabilities.local.backend import LocalBackend
from sepkit.contexts.backend import Principal, StoredJob
from sepkit.contexts.link import CURRENT_LINK
from sepkit.errors import InvalidParams, JobRefused, RegistrationError, StoreError
from sepkit.serving import jobs as engine
from sepkit.serving.served import Served
from sepkit.testing import TestHost, run_virtual
from sepkit.testing.clock import WallClock, current_loop
from tests.memory_host import on_each_loop
from tests.serving.test_connections import connections
from tests.test_schedules import LINES, SOAK, ZONES, expected

NOW: Final = datetime(2026, 6, 1, tzinfo=UTC)
HOUR: Final = 3600.0
DAY: Final = 86_400.0


def at(hours: float) -> datetime:
    return NOW + timedelta(hours=hours)


class Kept:
    """What outlives a life of an app: its store, and the moment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = NOW.timestamp()

    def serve(self, app: App, **options: Any) -> Alive:
        return Alive(self, app, options)


class Alive:
    """One life of an app on a store: held, with no connection; or killed, after which it stores nothing more."""

    def __init__(self, kept: Kept, app: App, options: dict[str, Any]) -> None:
        self._kept = kept
        self.app = app
        self.backend = LocalBackend(app.name, kept.folder)
        self._options = options

    async def __aenter__(self) -> Alive:
        self.wall = WallClock(asyncio.get_running_loop(), self._kept.now)
        self.served = Served(self.app, backend=lambda: self.backend, clock=self.wall.time, **self._options)
        self.served.watch.stop()
        await self.served.__aenter__()
        self.served.autostart()
        await self.served.jobs.looked()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.served.__aexit__(None, None, None)
        self._kept.now = self.wall.time()

    def kill(self) -> None:
        """As SIGKILL: from now on nothing that it does is stored."""

        async def gone(job: Any) -> Any:
            raise StoreError("killed")

        self.backend.database(None).do = gone  # type: ignore[method-assign]

    async def settle(self) -> None:
        """What is due has run."""
        await self.served.jobs.idle()


def said(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if text in record.getMessage()]


# -- when they run -----------------------------------------------------------------------------------------------------


def test_a_year_of_cron_lines_runs_in_six_zones_when_the_table_says() -> None:
    """All five lines in all six zones at once; in the suite only the weeks in which a zone changes its clocks."""
    app, ran = App("a"), dict[str, list[datetime]]()

    async def note(ctx: JobContext) -> None:
        ran.setdefault(ctx.job_id, []).append(ctx.scheduled_for)

    names = {(line, zone): f"j{n}.{m}" for n, line in enumerate(LINES) for m, zone in enumerate(ZONES)}
    for (line, zone), name in names.items():
        app.cron(line, tz=zone, name=name)(note)

    async def run(begin: datetime, end: datetime) -> None:
        ran.clear()
        async with TestHost(app, now=begin, capabilities={"tasks": False}) as host:
            await host.advance(end - begin - timedelta(seconds=1))
        tables = {zone: expected(zone, begin, end - timedelta(seconds=1)) for zone in ZONES}
        for (line, zone), name in names.items():
            assert ran.get(name, []) == tables[zone][line], (line, zone)

    def day(month: int, day: int) -> datetime:
        return datetime(2026, month, day, tzinfo=UTC)

    spans = [(day(3, 8), day(3, 9)), (day(3, 28), day(3, 30)), (day(4, 4), day(4, 5)), (day(10, 24), day(10, 26))]
    for begin, end in [(day(1, 1), datetime(2027, 1, 1, tzinfo=UTC))] if SOAK else spans:
        run_virtual(run(begin, end))


def test_every_first_runs_one_interval_after_the_first_start_and_does_not_drift() -> None:
    """What a run takes does not move the next one."""
    app, ran = App("a"), list[tuple[datetime, float]]()

    @app.every(60)
    async def slow(ctx: JobContext) -> None:
        ran.append((ctx.scheduled_for, asyncio.get_running_loop().time()))
        await ctx.sleep(7.5)

    async def test() -> None:
        async with TestHost(app, now=NOW) as host:
            await host.advance(59)
            assert ran == []
            await host.advance(600)
        assert [when for when, _ in ran] == [NOW + timedelta(minutes=n) for n in range(1, 11)]
        assert [clock for _, clock in ran] == pytest.approx([60.0 * n for n in range(1, 11)], abs=0.01)

    run_virtual(test())


def test_the_phase_of_every_outlives_restarts_and_what_was_missed_runs_once_at_start(tmp_path: Path) -> None:
    """The scheduled time is the last of those that went by."""
    kept, app, ran = Kept(tmp_path), App("a"), list[datetime]()

    @app.every(60)
    async def tick(ctx: JobContext) -> None:
        ran.append(ctx.scheduled_for)

    async def test() -> None:
        async with kept.serve(app):
            await asyncio.sleep(90)
        async with kept.serve(app):
            await asyncio.sleep(40)
        assert ran == [NOW + timedelta(seconds=60), NOW + timedelta(seconds=120)]
        ran.clear()
        kept.now = NOW.timestamp() + DAY + 30
        async with kept.serve(app) as alive:
            await alive.served.jobs.idle()
            assert ran == [NOW + timedelta(days=1)]
            await asyncio.sleep(31)
        assert ran == [NOW + timedelta(days=1), NOW + timedelta(days=1, seconds=60)]

    run_virtual(test())


def test_runs_of_one_job_never_overlap_and_late_ones_become_one() -> None:
    """A run of 150 s of a job for each minute; other jobs run meanwhile."""
    app, running, ran, others = App("a"), set[str](), list[int](), list[datetime]()

    @app.every(60)
    async def long(ctx: JobContext) -> None:
        assert "long" not in running
        running.add("long")
        ran.append(round((ctx.scheduled_for - NOW).total_seconds()))
        await asyncio.sleep(150)
        running.discard("long")

    @app.every(60)
    async def other(ctx: JobContext) -> None:
        others.append(ctx.scheduled_for)

    async def test() -> None:
        async with TestHost(app, now=NOW) as host:
            await host.advance(600)
        assert ran == [60, 180, 360, 480]
        assert len(others) == 10

    run_virtual(test())


@pytest.mark.parametrize("stands", [True, False], ids=["its clock stands", "its clock goes on"])
def test_a_laptop_that_slept_three_days_makes_up_for_it_once(stands: bool, tmp_path: Path) -> None:
    """Whether the loop's clock stands meanwhile or not; seen within seconds, although no timer of the loop tells."""
    kept, app, ran = Kept(tmp_path), App("a"), list[tuple[str, datetime]]()

    async def note(ctx: JobContext) -> None:
        ran.append((ctx.job_id, ctx.scheduled_for))

    app.cron("0 * * * *", name="hourly")(note)
    app.cron("0 9 * * *", tz="Europe/Stockholm", name="morning")(note)
    app.cron("0 12 * * *", name="noon", misfire="skip")(note)
    app.every(7200, name="second")(note)

    async def test() -> None:
        async with kept.serve(app) as alive:
            await asyncio.sleep(HOUR * 1.5)
            ran.clear()
            if stands:
                alive.wall.jump(3 * DAY)
            else:  # and all timers are late
                current_loop()._jumping._move(3 * DAY)
            await asyncio.sleep(engine.TICK + 0.1)
            assert sorted(ran) == [("hourly", at(73)), ("morning", at(55)), ("second", at(72))]
            ran.clear()
            await asyncio.sleep(HOUR)
            assert sorted(ran) == [("hourly", at(74)), ("second", at(74))]

    run_virtual(test())


def test_skip_drops_what_is_more_than_a_minute_late_and_nothing_else() -> None:
    """A time that went by 59 s ago runs; one of 61 s does not, and the schedule goes on."""
    app, ran = App("a"), list[datetime]()

    @app.every(HOUR, misfire="skip")
    async def tick(ctx: JobContext) -> None:
        ran.append(ctx.scheduled_for)

    async def test() -> None:
        async with TestHost(app, now=NOW) as host:
            await host.advance(HOUR + 59, asleep=True)
            await host.advance(1)
            assert ran == [at(1)]
            await host.advance(HOUR + 1, asleep=True)
            await host.advance(1)
            assert ran == [at(1)]
            await host.advance(HOUR - 60)
            assert ran == [at(1), at(3)]

    run_virtual(test())


@pytest.mark.parametrize("back", [HOUR / 2, 2 * HOUR, 400 * DAY])
def test_a_clock_that_is_put_back_repeats_no_time_and_stops_no_job(back: float) -> None:
    """Of any length: a clock that was years ahead does not keep its jobs waiting for years."""
    app, ran = App("a"), list[tuple[str, datetime]]()

    async def note(ctx: JobContext) -> None:
        ran.append((ctx.job_id, ctx.scheduled_for))

    app.cron("0 * * * *", name="hourly")(note)
    app.every(600, name="tenth")(note)

    async def test() -> None:
        async with TestHost(app, now=NOW) as host:
            await host.advance(HOUR * 3.2)
            host._wall.jump(-back)
            host._served.jobs.wake()
            ran_before = len(ran)
            await host.advance(HOUR * 4)
            after = [name for name, _ in ran[ran_before:]]
            assert after.count("tenth") >= 23
            assert after.count("hourly") >= (4 if back > DAY else 1)
        assert len(ran) == len(set(ran))

    run_virtual(test())


# -- app.schedule ------------------------------------------------------------------------------------------------------


def test_at_runs_a_job_once_with_its_payload_and_its_user() -> None:
    """What it was given arrives as JSON data; a moment that is past runs at once."""
    app, ran = App("a"), list[tuple[Any, ...]]()

    @app.job
    async def remind(ctx: JobContext) -> None:
        ran.append((ctx.job_id, ctx.payload, ctx.user_id, ctx.scheduled_for))

    async def test() -> None:
        async with TestHost(app, now=NOW) as host:
            when = at(2).astimezone(ZoneInfo("Asia/Kolkata"))
            job = await app.schedule.at(when, remind, payload={"text": ("a", 1)}, user_id="ada", id="r1")
            assert (job.id, job.name, job.when, job.user_id) == ("r1", "remind", at(2), "ada")
            assert job.payload == {"text": ["a", 1]}
            made = await app.schedule.at(timedelta(hours=1), "remind")
            assert [one.id for one in await app.schedule.list()] == [made.id, "r1"]
            await host.advance(2 * HOUR)
            assert ran == [(made.id, None, None, at(1)), ("r1", {"text": ["a", 1]}, "ada", at(2))]
            assert await app.schedule.list() == []
            past = datetime(2001, 1, 1, tzinfo=UTC)
            app.schedule.at(past, remind, id="past")  # not awaited: it is stored and runs all the same
            await host.advance(0.001)
            assert ran[2] == ("past", None, None, past)
            await host.advance(DAY)
            assert len(ran) == 3

    run_virtual(test())


def test_the_same_id_again_replaces_the_job_and_a_cancelled_one_does_not_run() -> None:
    """A run that has begun goes on in both cases; the new one waits for its end."""
    app, ran = App("a"), list[tuple[str, Any]]()

    @app.job
    async def work(ctx: JobContext) -> None:
        ran.append(("begun", ctx.payload))
        await asyncio.sleep(100)
        ran.append(("ended", ctx.payload))

    async def test() -> None:
        async with TestHost(app, now=NOW) as host:
            await app.schedule.at(at(1), work, payload=1, id="x")
            await app.schedule.at(at(2), work, payload=2, id="x")
            assert [(one.payload, one.when) for one in await app.schedule.list()] == [(2, at(2))]
            await host.advance(2 * HOUR + 1)
            await app.schedule.at(timedelta(0), work, payload=3, id="x")
            await host.advance(50)
            assert ran == [("begun", 2)]
            await host.advance(60)
            assert ran == [("begun", 2), ("ended", 2), ("begun", 3)]
            assert await app.schedule.cancel("x") is False  # it is running, for the last time
            await host.advance(100)
            assert ran[-1] == ("ended", 3)
            await app.schedule.at(at(5), work, id="y")
            assert await app.schedule.cancel("y") is True
            assert await app.schedule.cancel("y") is False
            assert await app.schedule.cancel("never") is False
            await host.advance(DAY)
            assert len(ran) == 4

    run_virtual(test())


def test_a_job_outlives_the_process_and_is_found_by_its_name_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The function may be another one by then; one that is gone is said once, kept, and does not run."""
    kept, ran = Kept(tmp_path), list[tuple[str, Any]]()

    def version(*names: str) -> App:
        app = App("a")

        async def note(ctx: JobContext) -> None:
            ran.append((ctx.job_id, ctx.payload))

        for name in names:
            app.job(name=name)(note)
        return app

    async def test() -> None:
        first = version("one", "two")
        async with kept.serve(first):
            await first.schedule.at(at(1), "one", payload=1, id="first")
            await first.schedule.at(at(1), "two", payload=2, id="second")
        kept.now += DAY
        async with kept.serve(version("one")) as alive:
            await alive.settle()
            await asyncio.sleep(2 * HOUR)
            assert ran == [("first", 1)]
            assert [job.id for job in await alive.app.schedule.list()] == ["second"]
        assert len(said(caplog, "there is no job 'two' any more")) == 1
        async with kept.serve(version("two")) as alive:
            await alive.settle()
        assert ran == [("first", 1), ("second", 2)]

    run_virtual(test())


def test_a_job_that_repeats_otherwise_or_no_more_is_as_the_code_says(tmp_path: Path) -> None:
    """A new interval counts from the start that brought it; a decorator that is gone leaves nothing that runs."""
    kept, ran = Kept(tmp_path), list[datetime]()

    async def tick(ctx: JobContext) -> None:
        ran.append(ctx.scheduled_for)

    async def test() -> None:
        first, second, third = App("a"), App("a"), App("a")
        first.every(HOUR)(tick)
        second.every(60)(tick)
        third.job(tick)
        async with kept.serve(first):
            await asyncio.sleep(30)
        async with kept.serve(second):
            await asyncio.sleep(61)
        assert len(ran) == 1
        async with kept.serve(third) as alive:
            assert await alive.app.schedule.list() == []
            await asyncio.sleep(DAY)
        assert len(ran) == 1

    run_virtual(test())


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"when": datetime(2026, 1, 1)}, "has no time zone"),
        ({"when": 60}, "write a datetime with a time zone"),
        ({"when": "2026-01-01"}, "write a datetime with a time zone"),
        ({"when": timedelta.max}, "past the year 9999"),
        ({"payload": b"x"}, "payload"),
        ({"payload": {"a": object()}}, "payload.a"),
        ({"payload": float("nan")}, "payload"),
        ({"payload": "x" * 70_000}, "65536 may have"),
        ({"id": ""}, "write a text of 1 to 200 characters"),
        ({"id": "x" * 201}, "write a text of 1 to 200 characters"),
        ({"id": 5}, "write a text of 1 to 200 characters"),
        ({"id": "\ud800"}, "write a text of 1 to 200 characters"),
        ({"id": "tick"}, "is the job that repeats"),
        ({"user_id": ""}, "user_id"),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_is_written(given: dict[str, Any], why: str) -> None:
    """At the call itself, before anything is stored."""
    app = App("a")

    @app.job
    async def work() -> None: ...

    @app.every(60)
    async def tick() -> None: ...

    async def test() -> None:
        async with TestHost(app) as host:
            with pytest.raises(JobRefused) as refused:
                app.schedule.at(**{"when": host.now, "fn": work, **given})
            assert why in str(refused.value)
            assert len(str(refused.value)) < 500
            assert [job.id for job in await app.schedule.list()] == ["tick"]
            with pytest.raises(JobRefused, match="is the job that repeats"):
                await app.schedule.cancel("tick")

    run_virtual(test())


def test_what_is_no_job_is_refused_since_it_could_not_be_found_again() -> None:
    """A function without a decorator, a lambda, a misspelt name; and outside of a life."""
    app = App("a")

    @app.job
    async def remind() -> None: ...

    async def plain() -> None: ...

    async def test() -> None:
        async with TestHost(app):
            for fn in (plain, lambda: None, "remid", None):
                with pytest.raises(RegistrationError, match=r"is not a job.*write @app\.job"):
                    app.schedule.at(timedelta(0), fn)  # type: ignore[arg-type]
        with pytest.raises(RegistrationError, match="jobs run while the app is served"):
            app.schedule.at(timedelta(0), remind)

    run_virtual(test())


def test_the_decorators_refuse_what_makes_no_sense() -> None:
    """A name that a task has, a context of another kind, an argument, a generator, a misfire that is none."""
    app = App("a")

    @app.task
    async def taken() -> None: ...

    async def wrong(ctx: ToolContext) -> None: ...
    async def asks(name: str) -> None: ...
    async def yields() -> Any:
        yield 1

    async def fine(ctx: JobContext) -> None: ...

    cases: list[tuple[Any, Any, str]] = [
        (app.job(name="taken"), fine, "task or job 'taken' is registered twice"),
        (app.job, wrong, "ToolContext"),
        (app.every(1), asks, "a job takes a JobContext and nothing else"),
        (app.job, yields, "generator"),
        (app.every(1, misfire="never"), fine, 'write "once"'),  # type: ignore[arg-type]
        (app.every(1, retry="yes"), fine, "write True or False"),  # type: ignore[arg-type]
        (app.cron("* * * * *", name="a b"), fine, "write 'a-b'"),
        (app.every, fine, "write the seconds"),
    ]
    for register, fn, why in cases:
        with pytest.raises(RegistrationError) as refused:
            register(fn)
        assert why in str(refused.value)
    app.job(fine)
    router = Router()
    router.task(name="fine")(taken)
    with pytest.raises(RegistrationError, match="task or job 'fine'"):
        app.include(router)
    other = Router()
    other.every(5)(fine)
    App("b").include(other)


def test_so_many_jobs_are_kept_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is refused when it is awaited; one that is replaced takes no place of its own."""
    from sepkit.capabilities.local import jobs

    monkeypatch.setattr(jobs, "_MOST_JOBS", 3)
    app = App("a")

    @app.job
    async def work() -> None: ...

    async def test() -> None:
        async with TestHost(app) as host:
            for number in range(3):
                await app.schedule.at(host.now + timedelta(hours=1), work, id=f"{number}")
            await app.schedule.at(host.now + timedelta(hours=2), work, id="2")
            with pytest.raises(JobRefused, match="no room for another one"):
                await app.schedule.at(host.now + timedelta(hours=1), work, id="3")

    run_virtual(test())


@on_each_loop
async def test_a_plain_function_schedules_from_its_thread_and_jobs_run_in_threads() -> None:
    """``app.schedule.at`` works in a ``def`` handler; ``ctx.wait`` waits for what it stores."""
    app, ran = App("a"), list[Any]()

    @app.job
    def work(ctx: JobContext) -> None:
        ran.append(ctx.payload)
        if ctx.payload == 1:
            job = ctx.wait(app.schedule.at(timedelta(0), work, payload=2))
            app.schedule.at(timedelta(0), "work", payload=3)
            assert job.name == "work"

    @app.tool
    def plan(ctx: ToolContext) -> str:
        app.schedule.at(timedelta(0), work, payload=1)
        return str(len(ctx.wait(app.schedule.list())))

    async with TestHost(app) as host:
        await host.call_tool("plan")
        await host.until(lambda: len([one for one in host.task_updates if one.status == "stopped"]) == 3)
    assert sorted(ran) == [1, 2, 3]


def test_a_job_is_for_the_user_of_the_call_that_schedules_it() -> None:
    """Unless it says for whom."""
    app, ran = App("a"), list[str | None]()

    @app.job
    async def work(ctx: JobContext) -> None:
        ran.append(ctx.user_id)

    async def test() -> None:
        async with TestHost(app) as host:

            class Link:
                principal = Principal("ada")

            token = CURRENT_LINK.set(Link())  # type: ignore[arg-type]
            app.schedule.at(timedelta(0), work)
            app.schedule.at(timedelta(0), work, user_id="bo")
            CURRENT_LINK.reset(token)
            app.schedule.at(timedelta(0), work)
            await host.advance(1)
        assert sorted(ran, key=str) == [None, "ada", "bo"]

    run_virtual(test())


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_handler_that_raises_is_logged_and_shown_and_the_schedule_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """``SystemExit`` too; the health is of the last run."""
    app, runs = App("a"), [0]

    @app.every(60, retry=True)
    async def bad() -> None:
        runs[0] += 1
        if runs[0] == 1:
            raise ValueError("first")
        if runs[0] == 2:
            raise SystemExit(2)

    async def test() -> None:
        async with TestHost(app, now=NOW) as host:
            assert [(one.task_id, one.status) for one in await host.list_tasks()] == [("bad", "pending")]
            seen = []
            for _ in range(3):
                await host.advance(60)
                (health,) = await host.list_tasks()
                seen.append((health.status, health.error))
            assert seen == [("failed", "ValueError"), ("failed", "SystemExit"), ("pending", None)]
            assert runs[0] == 3
            assert host.task_updates[0].status == "pending"
        assert len(said(caplog, "task 'bad': run 1 raised")) == 2

    run_virtual(test())


def test_a_run_that_was_cut_is_logged_as_failed_and_repeated_only_with_retry(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once its lease is over, by the next life; with the same scheduled time."""
    kept, app, ran = Kept(tmp_path), App("a"), list[tuple[str, datetime]]()

    async def work(ctx: JobContext) -> None:
        ran.append((ctx.job_id, ctx.scheduled_for))
        if len(ran) <= 2:
            await asyncio.sleep(5)

    app.every(60, name="once")(work)
    app.every(60, name="again", retry=True)(work)

    async def test() -> None:
        async with kept.serve(app, grace=0.1) as alive:
            await asyncio.sleep(60.5)
            assert len(ran) == 2
            alive.kill()
        async with kept.serve(app) as alive:
            await asyncio.sleep(5)
            assert len(ran) == 2  # the lease is not over
            await asyncio.sleep(engine.LEASE)
            assert ran[2:] == [("again", at(1 / 60))]
            health = {one.task_id: one for one in alive.served.status()}
            assert health["once"].status == "failed"
            error = alive.served.shown(health["once"].error)
            assert error == "its process has ended in the middle of it"
            await asyncio.sleep(60)
            assert len(ran) == 5
        lines = said(caplog, "its process has ended in the middle")
        assert sorted(line.rpartition("; ")[2] for line in lines) == ["it is not repeated", "it is repeated"]

    run_virtual(test())


def test_what_ends_the_process_each_time_is_not_repeated_for_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After so many repetitions it has failed for good."""
    kept, app, ran = Kept(tmp_path), App("a"), list[datetime]()

    @app.job(retry=True)
    async def deadly(ctx: JobContext) -> None:
        ran.append(ctx.scheduled_for)
        await asyncio.sleep(60)

    async def test() -> None:
        for life in range(engine.MOST_REPEATS + 3):
            async with kept.serve(app, grace=0.1) as alive:
                if not life:
                    await app.schedule.at(timedelta(0), deadly, id="x")
                await asyncio.sleep(1)
                alive.kill()
            kept.now += 60
        assert len(ran) == engine.MOST_REPEATS + 1
        assert len(said(caplog, "; it is not repeated")) >= 1

    run_virtual(test())


def test_at_the_shutdown_runs_have_the_grace_and_then_count_as_cut(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One that ends in time has ended; one that is cancelled is repeated at the next start, with ``retry``."""
    kept, app, ran = Kept(tmp_path), App("a"), list[str]()

    async def work(ctx: JobContext) -> None:
        ran.append(ctx.job_id)
        await asyncio.sleep(1 if ctx.job_id == "quick" else 1000)

    for name, retry in (("quick", True), ("long", False), ("longer", True)):
        app.job(name=name, retry=retry)(work)

    async def test() -> None:
        async with kept.serve(app) as alive:
            for name in ("quick", "long", "longer"):
                app.schedule.at(timedelta(0), name, id=name)
            await asyncio.sleep(0.1)
            assert sorted(ran) == ["long", "longer", "quick"]
            stopping = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - stopping < 5.5
        ran.clear()
        async with kept.serve(app, grace=0.1) as alive:
            await asyncio.sleep(0.1)  # at once, without waiting for the lease
            assert ran == ["longer"]
            assert await alive.app.schedule.list() == []
        lines = said(caplog, "the extension has shut down in the middle of it; it is not repeated")
        assert len(lines) == 1
        assert "'long'" in lines[0]

    run_virtual(test())


def test_a_store_that_fails_is_said_once_and_jobs_run_when_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is lost, and nothing runs twice."""
    kept, app, ran = Kept(tmp_path), App("a"), list[datetime]()

    @app.every(60)
    async def tick(ctx: JobContext) -> None:
        ran.append(ctx.scheduled_for)

    async def test() -> None:
        async with kept.serve(app) as alive:
            database = alive.backend.database(None)
            do = database.do
            alive.kill()
            await asyncio.sleep(200)
            assert ran == []
            assert len(said(caplog, "jobs do not run: killed")) == 1
            database.do = do  # type: ignore[method-assign]
            await asyncio.sleep(6)
            assert ran == [at(3 / 60)]
            await asyncio.sleep(60)
            assert len(ran) == 2

    run_virtual(test())


def test_a_folder_that_cannot_be_written_is_one_clear_sentence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The app is served all the same."""
    (tmp_path / "data").write_text("a file")
    kept, app = Kept(tmp_path / "data"), App("a")

    @app.every(60)
    async def tick() -> None: ...

    async def test() -> None:
        async with kept.serve(app):
            await asyncio.sleep(60)
        (line,) = said(caplog, "jobs do not run")
        assert "app.sqlite3 failed" in line
        assert "\n" not in line

    run_virtual(test())


# -- several at once ---------------------------------------------------------------------------------------------------


def test_two_lives_on_one_store_start_each_time_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As two processes do. What one of them has claimed, and never begun, the other starts after the lease."""
    kept, ran = Kept(tmp_path), list[tuple[str, datetime]]()

    def version(who: str) -> App:
        app = App("a")

        @app.every(1)
        async def tick(ctx: JobContext) -> None:
            ran.append((who, ctx.scheduled_for))

        return app

    async def test() -> None:
        async with kept.serve(version("a")) as one, kept.serve(version("b")):
            await asyncio.sleep(20.5)
            times = [when for _, when in ran]
            assert len(times) == len(set(times)) == 20
            ran.clear()
            claimed = list[str]()

            async def killed(job: StoredJob, *_: Any) -> bool:
                claimed.append(job.id)
                one.kill()
                raise StoreError("killed between the claim and the start")

            monkeypatch.setattr(one.backend.jobs, "start", killed)
            while not claimed:
                await asyncio.sleep(0.1)
            await asyncio.sleep(engine.LEASE + 3)
            assert {who for who, _ in ran} >= {"b"}
            times = [when for _, when in ran]
            assert len(times) == len(set(times))
            assert times[-1] >= NOW + timedelta(seconds=20.5 + engine.LEASE)

    run_virtual(test())


def test_a_process_that_wakes_up_does_not_take_what_others_are_about_to_renew(tmp_path: Path) -> None:
    """Both have slept in the middle of a long run: nobody has died."""
    kept, ran = Kept(tmp_path), list[str]()

    def version(who: str) -> App:
        app = App("a")

        @app.job(retry=True)
        async def long() -> None:
            ran.append(who)
            await asyncio.sleep(2 * HOUR)

        return app

    async def test() -> None:
        async with kept.serve(version("a"), grace=0.1) as one:
            await one.app.schedule.at(timedelta(0), "long")
            await asyncio.sleep(1)
            async with kept.serve(version("b"), grace=0.1) as other:
                await asyncio.sleep(10)
                for alive in (other, one):
                    alive.wall.jump(DAY)
                await asyncio.sleep(120)
        assert ran == ["a"]

    run_virtual(test())


@on_each_loop
async def test_several_connections_share_the_jobs_of_a_served() -> None:
    """They start with the first handshake, and each host that asked for tasks is told."""
    app, ran = App("a"), list[datetime]()

    @app.every(0.05)
    async def tick(ctx: JobContext) -> None:
        ran.append(ctx.scheduled_for)

    served = Served(app, backend=lambda: LocalBackend("a", None))
    async with connections(served, 3, "memory", tasks=True) as hosts:
        while not all(any(one["status"] == "running" for one in host.tasks) for host in hosts):
            await asyncio.sleep(0.01)
        for host in hosts:
            (listed,) = (await host.peer.request("task/list", {}))["tasks"]
            assert listed["task_id"] == "tick"
    assert len(ran) == len(set(ran))


def test_a_hundred_jobs_at_one_moment_all_run_and_64_of_them_at_once() -> None:
    """The others wait for a place."""
    app, running, most = App("a"), [0], [0, 0]

    @app.job
    async def work() -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        await asyncio.sleep(10)
        running[0] -= 1
        most[1] += 1

    async def test() -> None:
        async with TestHost(app, now=NOW) as host:
            for _ in range(100):
                app.schedule.at(at(1), work)
            await host.advance(HOUR + 30)
        assert most == [engine.MOST_RUNNING, 100]

    run_virtual(test())


# -- where they are seen -----------------------------------------------------------------------------------------------


def test_a_host_runs_a_job_now_stops_its_run_and_sees_it_among_the_tasks() -> None:
    """Whatever the schedule says; a payload that makes no sense and a name that is none are refused."""
    app, ran = App("a"), list[Any]()

    @app.cron("0 9 * * *", tz="Europe/Stockholm")
    async def morning(ctx: JobContext) -> None:
        """Say good morning."""
        ran.append(ctx.payload)
        if ctx.payload == "long":
            ctx.report_health("waits")
            await asyncio.sleep(1000)

    async def test() -> None:
        async with TestHost(app, now=NOW) as host:
            health = await host.run_job("morning", payload={"a": 1}, user_id="ada")
            assert (health.name, health.status, health.user_id) == ("morning", "stopped", "ada")
            begun = await host.start_task("morning", id="mine", payload="long")
            await host.until(lambda: any(one.last_health_status == "waits" for one in host.task_updates))
            assert begun.task_id == "morning:mine"
            stopped = await host.stop_task("morning:mine")
            assert stopped.status == "stopped"
            assert [job.id for job in await app.schedule.list()] == ["morning"]
            assert (await host.stop_task("morning")).status == "pending"
            with pytest.raises(InvalidParams, match="write a text"):
                await host.start_task("morning", id=" ")
            with pytest.raises(InvalidParams, match="no task"):
                await host.run_job("evening")
        assert ran == [{"a": 1}, "long"]

    run_virtual(test())


def test_the_test_host_runs_jobs_without_a_virtual_clock_too() -> None:
    """The blocking one; the wall's clock goes from one job to the next."""
    app, ran = App("a"), list[datetime]()

    @app.cron("0 * * * *")
    def hourly(ctx: JobContext) -> None:
        ran.append(ctx.scheduled_for)

    with TestHost(app, now=NOW) as host:
        began = time.monotonic()
        host.advance(timedelta(hours=5))
        assert ran == [at(n) for n in range(1, 6)]
        host.advance(3 * DAY, asleep=True)
        assert ran[5:] == [at(77)]
        assert host.run_job("hourly").status == "stopped"
        assert host.now >= at(77)
        assert time.monotonic() - began < 30


def test_a_job_context_has_what_a_task_has_and_no_session() -> None:
    """It outlives calls."""
    assert not hasattr(JobContext, "session")
    assert not hasattr(JobContext, "exec")
    for name in ("sleep", "wait_stop", "stopping", "report_health", "kv", "log", "state"):
        assert hasattr(JobContext, name)
        assert hasattr(TaskContext, name)
    assert inspect.signature(JobContext.sleep) == inspect.signature(TaskContext.sleep)


def test_an_app_that_is_served_where_nothing_is_kept_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """It is served all the same; so it is where the store is of a newer version."""
    app = App("a")

    @app.every(60)
    async def tick() -> None: ...

    async def test() -> None:
        async with Served(app) as served:
            served.watch.stop()
            served.autostart()
            await asyncio.sleep(20)
        (line,) = said(caplog, "jobs do not run")
        assert "keeps no documents, settings, secrets or jobs" in line

    run_virtual(test())


def test_a_store_that_a_newer_sepkit_has_written_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One clear sentence; nothing of it is changed."""
    kept, app = Kept(tmp_path), App("a")

    @app.every(60)
    async def tick() -> None: ...

    with contextlib.closing(sqlite3.connect(tmp_path / "app.sqlite3")) as database:
        database.execute("PRAGMA user_version = 99")

    async def test() -> None:
        async with kept.serve(app):
            await asyncio.sleep(100)
        (line,) = said(caplog, "jobs do not run")
        assert "a newer sepkit has written it" in line

    run_virtual(test())
