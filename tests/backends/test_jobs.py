"""What keeps jobs: whichever it is, a time is started once, whoever else claims it. Moments are numbers here."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
from collections.abc import Callable, Coroutine
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from sepkit.capabilities.local.backend import LocalBackend
from sepkit.contexts.backend import NOT_AGAIN, Backend, JobBackend, StoredJob


def contract(test: Callable[[JobBackend], Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test of each kind of backend of an ``async def``."""

    @functools.wraps(test)
    def of_each(backend: Backend) -> None:
        async def run() -> None:
            try:
                await test(backend.jobs)
            finally:
                await backend.aclose()

        asyncio.run(run())

    of_each.__signature__ = inspect.signature(of_each, follow_wrapped=False)  # type: ignore[attr-defined]
    return of_each


def job(id_: str = "x", due: int | None = 100, schedule: str = "", **more: Any) -> StoredJob:
    return StoredJob(id=id_, name=more.pop("name", "work"), schedule=schedule, due=due, **more)


async def claim(
    jobs: JobBackend, owner: str, now: int, lease: int = 10, most: int = 64, *, take_over: bool = True
) -> tuple[list[str], int | None]:
    claimed, wake = await jobs.claim(owner, ["work"], now, now + lease, most, take_over=take_over)
    return [one.id for one in claimed], wake


@contract
async def test_what_is_due_is_claimed_once_and_what_is_not_says_when(jobs: JobBackend) -> None:
    """In the order in which it is due; functions that are not there are left alone."""
    for one in (job("b", 50), job("a", 40), job("later", 200), job("gone", 10, name="other")):
        await jobs.put(one)
    assert await claim(jobs, "me", 100, most=1) == (["a"], 50)
    assert await claim(jobs, "me", 100) == (["b"], 200)
    assert await claim(jobs, "you", 100) == ([], 110)
    assert [one.id for one in await jobs.all()] == ["gone", "a", "b", "later"]


@contract
async def test_a_claim_that_was_not_begun_is_another_ones_when_its_lease_is_over(jobs: JobBackend) -> None:
    """And may not begin any more where it was."""
    await jobs.put(job())
    (mine,), _ = await jobs.claim("me", ["work"], 100, 110, 64, take_over=True)
    assert await claim(jobs, "you", 109) == ([], 110)
    assert await claim(jobs, "you", 110, take_over=False) == ([], 110)
    (yours,), _ = await jobs.claim("you", ["work"], 110, 120, 64, take_over=True)
    assert await jobs.start(mine, "me", 100, None) is False
    assert await jobs.start(yours, "you", 100, None) is True
    await jobs.finish(mine, "me", None)  # nothing of it is mine
    assert [one.running for one in await jobs.all()] == [100]
    assert await jobs.finish(yours, "you", None) is None
    assert await jobs.all() == []


@contract
async def test_a_lease_is_renewed_and_one_from_before_the_clock_was_put_back_is_over(jobs: JobBackend) -> None:
    """A year of it, or ten minutes: no job waits for a clock that was wrong."""
    await jobs.put(job())
    await claim(jobs, "me", 100)
    await jobs.renew("me", 130)
    assert await claim(jobs, "you", 120) == ([], 130)
    await jobs.renew("me", 10_000_000)
    assert (await claim(jobs, "you", 120))[0] == ["x"]


@contract
async def test_a_run_that_was_cut_is_claimed_with_the_time_it_was_for(jobs: JobBackend) -> None:
    """It may begin once more, and counts how often it did."""
    await jobs.put(job(schedule="every"))
    (mine,), _ = await jobs.claim("me", ["work"], 100, 110, 64, take_over=True)
    assert await jobs.start(mine, "me", 100, 200)
    for repeats in range(3):
        now = 110 + 10 * repeats
        (cut,), _ = await jobs.claim(f"you{repeats}", ["work"], now, now + 10, 64, take_over=True)
        assert (cut.running, cut.due, cut.repeats) == (100, 200, repeats)
        assert await jobs.start(cut, f"you{repeats}", 100, 200)
    assert await jobs.finish(cut, "you2", 200) == 200
    assert [(one.due, one.running) for one in await jobs.all()] == [(200, None)]


@contract
async def test_what_is_released_in_the_middle_of_a_run_is_another_ones_at_once(jobs: JobBackend) -> None:
    """As at the end of a process."""
    await jobs.put(job())
    (mine,), _ = await jobs.claim("me", ["work"], 100, 110, 64, take_over=True)
    await jobs.start(mine, "me", 100, None)
    await jobs.release(mine, "me")
    assert (await claim(jobs, "you", 101, take_over=False))[0] == ["x"]


@contract
async def test_a_time_of_a_job_that_repeats_is_never_started_again(jobs: JobBackend) -> None:
    """Also where it is put back to it, as by a clock that was put back; its next time is taken then."""
    await jobs.add(job(schedule="every"))
    await jobs.add(job(schedule="every", due=7))  # there is one
    (mine,), _ = await jobs.claim("me", ["work"], 100, 110, 64, take_over=True)
    assert await jobs.start(mine, "me", 100, 200)
    await jobs.finish(mine, "me", 200)
    await jobs.put(job(schedule="every"))
    (again,), _ = await jobs.claim("me", ["work"], 100, 110, 64, take_over=True)
    assert await jobs.start(again, "me", 100, 200) is False
    assert await claim(jobs, "you", 100) == ([], 200)
    (next_,), _ = await jobs.claim("you", ["work"], 200, 210, 64, take_over=True)
    assert await jobs.start(next_, "you", 200, 300)


@contract
async def test_a_job_that_is_replaced_or_cancelled_does_not_begin_as_it_was(jobs: JobBackend) -> None:
    """Between the claim and the start; in the middle of a run the run goes on, and is not repeated."""
    await jobs.put(job(payload="1"))
    (mine,), _ = await jobs.claim("me", ["work"], 100, 110, 64, take_over=True)
    await jobs.put(job(payload="2", due=105))
    assert await jobs.start(mine, "me", 100, None) is False
    (mine,), _ = await jobs.claim("me", ["work"], 105, 115, 64, take_over=True)
    assert mine.payload == "2"
    assert await jobs.start(mine, "me", 105, None) is True
    await jobs.put(job(payload="3", due=300))
    assert await claim(jobs, "you", 106) == ([], 115)
    (cut,), _ = await jobs.claim("you", ["work"], 120, 130, 64, take_over=True)
    assert (cut.running, cut.repeats) == (105, NOT_AGAIN)
    assert await jobs.finish(cut, "you", cut.due) == 300
    assert await jobs.cancel("x") is True
    assert await jobs.all() == []
    assert await jobs.cancel("x") is False
    await jobs.put(job())
    (mine,), _ = await jobs.claim("me", ["work"], 100, 110, 64, take_over=True)
    assert await jobs.cancel("x") is True
    assert await jobs.start(mine, "me", 100, None) is False


SOAK = bool(os.environ.get("SEPKIT_SOAK"))
STEPS = st.lists(
    st.tuples(st.sampled_from(["claim", "start", "finish", "die", "later", "put", "renew"]), st.sampled_from("ab")),
    max_size=60,
)


@settings(max_examples=1000 if SOAK else 25)
@given(STEPS)
def test_whatever_two_owners_do_no_time_is_started_twice(steps: list[tuple[str, str]]) -> None:
    """In any order, with deaths: what was started is started once, and what is due is started in the end."""

    async def run() -> None:
        backend = LocalBackend("a", None)
        jobs, now, started = backend.jobs, 100, list[int]()
        held: dict[str, list[StoredJob]] = {"a": [], "b": []}
        running: dict[str, list[StoredJob]] = {"a": [], "b": []}
        lives = {"a": 0, "b": 0}

        async def act(what: str, who: str) -> None:
            nonlocal now
            owner = f"{who}{lives[who]}"
            if what == "claim":
                claimed, _ = await jobs.claim(owner, ["work"], now, now + 10, 1, take_over=True)
                held[who] += claimed
            elif what == "start" and held[who]:
                one = held[who].pop()
                if one.running is not None:
                    await jobs.finish(one, owner, one.due)
                elif one.due is not None and await jobs.start(one, owner, one.due, one.due + 20):
                    started.append(one.due)
                    running[who].append(StoredJob(**{**vars(one), "due": one.due + 20}))
            elif what == "finish" and running[who]:
                one = running[who].pop()
                await jobs.finish(one, owner, one.due)
            elif what == "die":
                lives[who] += 1
                held[who].clear()
                running[who].clear()
            elif what == "later":
                now += 7
            elif what == "put":
                await jobs.put(job(schedule="every", due=100))
            elif what == "renew":
                await jobs.renew(owner, now + 10)

        await jobs.add(job(schedule="every", due=100))
        for step in steps:
            await act(*step)
            assert len(started) == len(set(started))
        before = len(started)
        for who in "ab":
            await act("die", who)
        now += 100
        for _ in range(12):
            for what in ("claim", "start", "finish", "later"):
                await act(what, "a")
        assert len(started) > before
        assert len(started) == len(set(started))
        await backend.aclose()

    asyncio.run(run())


def test_no_table_is_made_for_an_app_that_keeps_other_things(tmp_path: Any) -> None:
    """Nor for one whose jobs were never asked for."""

    async def run() -> None:
        backend = LocalBackend("a", tmp_path)
        tables = "SELECT count(*) FROM sqlite_master WHERE name LIKE 'job%'"
        assert await backend.database(None).do(lambda database: database.execute(tables).fetchone()) == (0,)
        await backend.aclose()

    asyncio.run(run())


@pytest.mark.parametrize("count", [1500])
def test_what_is_remembered_of_started_times_is_bounded(count: int) -> None:
    """The newest thousand."""

    async def run() -> None:
        backend = LocalBackend("a", None)
        jobs = backend.jobs
        await jobs.add(job(schedule="every", due=0))
        for time in range(count):
            (mine,), _ = await jobs.claim("me", ["work"], time, time + 10, 64, take_over=True)
            assert await jobs.start(mine, "me", time, time + 1)
            await jobs.finish(mine, "me", time + 1)
        kept = "SELECT count(*), min(time) FROM job_starts"
        found = await backend.database(None).do(lambda database: database.execute(kept).fetchone())
        assert found == (1000, count - 1000)
        await backend.aclose()

    asyncio.run(run())
