"""The virtual clock: an hour of timers takes milliseconds, and threads are waited for."""

from __future__ import annotations

import asyncio
import threading
import time
from itertools import pairwise
from typing import Any

import pytest

from sepkit import App, TaskContext
from sepkit.concurrency.threads import DaemonThreads
from sepkit.testing import BusyLoop, Deadlock, TestHost, VirtualClockLoop, clock, current_loop, run_virtual


def real_seconds(work: Any) -> float:
    """What ``work`` takes on the wall's clock; the best of a few attempts, since the machine may be busy."""
    best = 1e9
    for _ in range(3):
        began = time.perf_counter()
        run_virtual(work())
        best = min(best, time.perf_counter() - began)
        if best < 0.25:
            break
    return best


def test_an_hour_of_timers_takes_milliseconds() -> None:
    """Time is the loop's clock, so no test has to wait."""

    async def main() -> None:
        for _ in range(3600):
            await asyncio.sleep(1)
        assert current_loop().time() == 3600

    assert real_seconds(main) < 0.5


def test_an_hour_of_a_hosted_app_takes_milliseconds() -> None:
    """The watch of the loop beats ten times a second in real time; here it would be 36,000 beats."""
    app = App("t")

    @app.tool
    async def slow() -> str:
        await asyncio.sleep(3600)
        return "at last"

    async def main() -> None:
        async with TestHost(app) as host:
            before = current_loop().time()
            assert (await host.call_tool("slow", timeout=4000)).content == "at last"
            assert current_loop().time() - before == 3600

    assert real_seconds(main) < 0.25


def test_the_back_off_of_a_hosted_task_passes_at_once() -> None:
    """1, 2 and 4 s pass between the runs, to the millisecond."""
    app = App("t")
    begun: list[float] = []

    @app.task(restart="on-failure", jitter=0)
    async def fail(ctx: TaskContext) -> None:
        begun.append(current_loop().time())
        if len(begun) == 4:
            await ctx.wait_stop()
        raise RuntimeError("again")

    async def main() -> None:
        async with TestHost(app) as host:
            await host.until(lambda: len(begun) == 4)
            assert (await host.stop_task("fail")).restart_count == 3

    run_virtual(main())
    assert [round(b - a, 3) for a, b in pairwise(begun)] == [1, 2, 4]


def test_what_would_hang_is_said() -> None:
    async def wait_for_nothing() -> None:
        await asyncio.get_running_loop().create_future()

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Deadlock, match=r"no timer is armed at 0\.0 s; waiting are\n.*wait_for_nothing"):
        run_virtual(wait_for_nothing())
    with pytest.raises(BusyLoop):
        run_virtual(spin())


# ------------------------------------------------------------------------------------------------------------- threads
@pytest.mark.parametrize("way", ["handlers' threads", "executor", "to_thread"])
def test_time_stands_still_while_a_thread_works(way: str) -> None:
    """Armed timers are not passed over, and it is no deadlock either. Nothing of the work shows on the clock."""
    went_off: list[float] = []

    async def main() -> str:
        loop = current_loop()
        alarm = loop.call_later(5, lambda: went_off.append(loop.time()))
        begun = threading.Event()

        def work() -> str:
            begun.set()
            time.sleep(0.1)
            return "worked"

        if way == "executor":
            done = await loop.run_in_executor(None, work)
        elif way == "to_thread":
            done = await asyncio.to_thread(work)
        else:
            done = await DaemonThreads().run(work)
        assert (loop.time(), went_off) == (0, [])
        alarm.cancel()
        assert await asyncio.to_thread(work) == "worked"  # now with no timer at all
        return done

    assert run_virtual(main()) == "worked"


def test_a_def_tool_is_waited_for() -> None:
    """The virtual clock does not jump to the call's time limit of two minutes while the thread works."""
    app = App("t")

    @app.tool
    def work() -> str:
        time.sleep(0.1)
        return "worked"

    async def main() -> None:
        async with TestHost(app) as host:
            answers = await asyncio.gather(*(host.call_tool("work") for _ in range(3)))
            assert [answer.content for answer in answers] == ["worked"] * 3
            assert current_loop().time() == 0

    run_virtual(main())


def test_a_thread_that_waits_for_a_timer_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time that stood still for ever would be a deadlock of our own making: after a second it passes as on the wall."""
    monkeypatch.setattr(clock, "_STANDS_STILL", 0.05)

    async def main() -> None:
        loop = current_loop()
        rung = threading.Event()
        loop.call_later(0.1, rung.set)
        assert await asyncio.to_thread(rung.wait, 20)
        assert 0.1 <= loop.time() < 5

    run_virtual(main())


def test_a_time_limit_ends_the_wait_for_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled caller goes on at once; the thread is left behind, and time runs again."""
    monkeypatch.setattr(clock, "_STANDS_STILL", 0.05)
    free = threading.Event()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await DaemonThreads().run(free.wait)
        await asyncio.sleep(3600)
        free.set()

    began = time.monotonic()
    run_virtual(main())
    assert time.monotonic() - began < 20


def test_a_thread_that_never_ends_is_a_deadlock_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_STANDS_STILL", 0.01)
    monkeypatch.setattr(clock, "_MAX_WORK", 0.05)
    free = threading.Event()

    async def main() -> None:
        await DaemonThreads().run(free.wait)

    with pytest.raises(Deadlock, match=r"a thread has worked for 0\.05 real seconds"):
        run_virtual(main())
    free.set()


def test_a_thread_of_ones_own_is_told_of() -> None:
    """``expect_from_thread``, for threads that nobody else tells of."""

    async def main() -> str:
        loop = current_loop()
        answer: asyncio.Future[str] = loop.create_future()
        loop.expect_from_thread(answer)
        timer = threading.Timer(0.05, loop.call_soon_threadsafe, (answer.set_result, "settled"))
        timer.start()
        return await answer

    assert run_virtual(main()) == "settled"


def test_the_loop_itself_is_an_ordinary_one() -> None:
    """It closes, and its timers can be seen."""
    loop = VirtualClockLoop()
    timers = [loop.call_later(seconds, lambda: None) for seconds in (1, 2)]
    timers[0].cancel()
    assert loop.armed() == [timers[1]]
    loop.close()
    with pytest.raises(AssertionError):
        asyncio.run(_on_a_real_loop())


async def _on_a_real_loop() -> None:
    current_loop()
