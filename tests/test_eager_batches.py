"""Works that begin in one batch, as the peer starts them: what one does to its task is nothing to the others."""

from __future__ import annotations

import asyncio
import functools
import gc
import types
from collections.abc import Coroutine, Generator
from typing import Any

import pytest

from sepkit.faces.runner import new_loop
from tests.test_eager import Bench, Item, Run, own, where


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    def run(work: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=lambda: new_loop(request.param)) as runner:
            return runner.run(asyncio.wait_for(work, 30))

    return run


async def as_the_peer(bench: Bench, *items: Item) -> None:
    """Take works and steps in one batch."""
    await bench.take(*items)


def begin(bench: Bench, key: str, work: Coroutine[Any, Any, object]) -> Item:
    return key, work


async def finish(bench: Bench, before: set[asyncio.Task[Any]]) -> None:
    if bench.tasks:
        await asyncio.wait(bench.tasks.values())
    bench.starter.close()
    for _ in range(3):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


def cancel_later(bench: Bench, key: str) -> None:
    bench.loop.call_soon(bench.tasks[key].cancel)


@pytest.mark.parametrize("waits_for", ["nothing", "a future", "a task", "a finished future"])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_cancel_in_the_batch_itself_reaches_the_work_and_only_that(run: Run, waits_for: str, fresh: bool) -> None:
    """The cancel comes in the same write as its call."""

    async def work() -> object:
        loop = asyncio.get_running_loop()
        if waits_for == "nothing":
            await asyncio.sleep(0)
        elif waits_for == "a task":
            await loop.create_task(asyncio.sleep(20))
        else:
            future = loop.create_future()
            if waits_for == "a finished future":
                loop.call_soon(lambda: None if future.done() else future.set_result(1))
            await future
        return "ended"

    async def other() -> object:
        await asyncio.sleep(0)
        return "other", own().cancelling()

    async def main() -> None:
        before = asyncio.all_tasks()
        bench = Bench()
        if not fresh:  # the spare task has begun to wait
            await as_the_peer(bench)
            await asyncio.sleep(0.001)
        await as_the_peer(
            bench, begin(bench, "a", work()), lambda: bench.tasks["a"].cancel(), begin(bench, "b", other())
        )
        assert isinstance((await bench.end_of("a"))[1], asyncio.CancelledError)
        assert (await bench.end_of("b"))[0] == ("other", 0)
        await finish(bench, before)

    run(main())


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("real", [False, True])
def test_a_stubborn_task_swallows_a_cancel_exactly_as_in_asyncio(run: Run, turns: int, real: bool) -> None:
    """The call is cancelled while it waits for a task of its own, as in plain asyncio beside it."""

    async def stubborn() -> str:
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "swallowed"

    async def work() -> object:
        child = asyncio.get_running_loop().create_task(stubborn())
        return await child

    async def main() -> None:
        bench = Bench()
        # The child must have begun, else it is cancelled before its first step (in asyncio too).
        if real:
            task = asyncio.create_task(work())
            for _ in range(turns + 1):
                await asyncio.sleep(0)
        else:
            await as_the_peer(bench, begin(bench, "a", work()))
            task = bench.tasks["a"]
            for _ in range(turns):
                await asyncio.sleep(0)
        asked = task.cancel()
        assert asked
        if real:
            [out] = await asyncio.gather(task, return_exceptions=True)
        else:
            value, error = await bench.end_of("a")
            out = error or value
        if turns >= 2:
            assert out == "swallowed"
        bench.starter.close()

    run(main())


@pytest.mark.parametrize("keeps", [False, True])
def test_a_work_that_cancels_its_own_task_and_ends_cancels_nobody_else(run: Run, keeps: bool) -> None:
    """Tasks of first steps are reused, and a late cancel must not hit the next handler in one."""
    kept: list[asyncio.Task[Any]] = []

    async def selfish() -> object:
        if keeps:
            kept.append(own())
        else:
            own().cancel()
        return "gone"

    async def other() -> object:
        for _ in range(5):
            await asyncio.sleep(0)
        return "lives", own().cancelling()

    async def main() -> None:
        before = asyncio.all_tasks()
        bench = Bench()
        await as_the_peer(bench, begin(bench, "a", selfish()), begin(bench, "b", other()))
        for task in kept:
            task.cancel()
        await as_the_peer(bench, begin(bench, "c", other()))
        assert bench.ends["a"] == ("gone", None)
        assert (await bench.end_of("b"))[0] == ("lives", 0)
        assert (await bench.end_of("c"))[0] == ("lives", 0)
        await finish(bench, before)

    run(main())


def test_a_work_that_cancels_its_own_task_and_waits_is_cancelled(run: Run) -> None:
    """A handler that cancels its own task is cancelled at its next await, as in any task."""

    async def work() -> object:
        own().cancel()
        await asyncio.sleep(20)
        return "no"

    async def main() -> None:
        before = asyncio.all_tasks()
        bench = Bench()
        await as_the_peer(bench, begin(bench, "a", work()))
        assert isinstance((await bench.end_of("a"))[1], asyncio.CancelledError)
        await finish(bench, before)

    run(main())


def test_wait_for_in_the_first_step_limits_that_work(run: Run) -> None:
    """Time limits and task groups find the task in which the work goes on."""

    async def late() -> object:
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 0.01)
        except TimeoutError:
            return "late", own().cancelling()
        return "no"

    async def in_time() -> object:
        return await asyncio.wait_for(asyncio.sleep(0, "in time"), 20), own().cancelling()

    async def failing() -> object:
        async def fail() -> None:
            raise ValueError("x")

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                await asyncio.sleep(20)
        except* ValueError:
            pass
        return "caught", own().cancelling()

    async def main() -> None:
        before = asyncio.all_tasks()
        bench = Bench()
        await as_the_peer(bench, begin(bench, "a", late()), begin(bench, "b", in_time()), begin(bench, "c", failing()))
        assert (await bench.end_of("a"))[0] == ("late", 0)
        assert (await bench.end_of("b"))[0] == ("in time", 0)
        assert (await bench.end_of("c"))[0] == ("caught", 0)
        await finish(bench, before)

    run(main())


@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_a_close_in_a_batch_leaves_nothing_and_harms_nobody(
    run: Run, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection may be lost while a batch is being read."""

    async def other() -> object:
        first = own()
        await asyncio.sleep(0)
        return first is own(), own().cancelling()

    async def main() -> None:
        before = asyncio.all_tasks()
        bench = Bench()
        a, b = begin(bench, "a", other()), begin(bench, "b", other())
        steps = {
            "before": [bench.starter.close, a, b],
            "between": [a, bench.starter.close, b],
            "after": [a, b, bench.starter.close],
        }[when]
        await as_the_peer(bench, *steps)
        ends = [await bench.end_of("a"), await bench.end_of("b")]
        assert [error for _, error in ends] == [None, None]
        await finish(bench, before)

    run(main())
    gc.collect()
    assert not caplog.records


def test_a_batch_after_the_close_leaves_no_spare(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Every table is empty at the end."""

    async def other() -> object:
        await asyncio.sleep(0)
        return "other"

    async def main() -> None:
        before = asyncio.all_tasks()
        bench = Bench()
        bench.starter.close()
        await as_the_peer(bench, begin(bench, "a", other()))
        assert await bench.end_of("a") == ("other", None)
        await asyncio.wait(bench.tasks.values())
        for _ in range(3):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == before

    run(main())
    gc.collect()
    assert not caplog.records


@types.coroutine
def odd() -> Generator[Any, Any, None]:
    yield 5


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_work_that_yields_what_no_loop_understands_is_told(run: Run, cancelled: bool) -> None:
    """The call gets one answer, whatever its handler awaits."""

    async def work() -> None:
        await odd()

    async def main() -> None:
        bench = Bench()
        steps: list[Item] = [begin(bench, "a", work())]
        if cancelled:
            steps.append(lambda: bench.tasks["a"].cancel())
        await as_the_peer(bench, *steps)
        await asyncio.wait(bench.tasks.values())
        assert "a" in bench.ends, repr(bench.tasks["a"])
        bench.starter.close()

    run(main())


def test_a_thousand_mixed_works_are_each_told_once(run: Run, recwarn: pytest.WarningsRecorder) -> None:
    """Successes, errors, cancels, time limits and groups: each ends once, in its own context."""

    async def work(n: int) -> object:
        seen = where.get()
        where.set(str(n))
        kind = n % 8
        if kind == 0:
            return seen
        if kind == 1:
            raise ValueError(n)
        if kind == 2:
            raise SystemExit(n)
        first = own()
        if kind == 3:
            async with asyncio.timeout(None):
                await asyncio.sleep(0)
        elif kind == 4:
            await asyncio.sleep(0)
            raise KeyboardInterrupt
        elif kind == 5:
            await asyncio.sleep(20)  # cancelled
        elif kind == 6:
            own().cancel()
            if n % 16 < 8:
                return seen
            await asyncio.sleep(0)
        else:
            async with asyncio.TaskGroup() as group:
                child = group.create_task(asyncio.sleep(0, n))
            assert child.result() == n
        assert first is own()
        assert where.get() == str(n)
        return seen

    async def main() -> None:
        before = asyncio.all_tasks()
        bench = Bench()
        for start in range(0, 1000, 50):
            steps: list[Item] = []
            for n in range(start, start + 50):
                steps.append(begin(bench, str(n), work(n)))
                if n % 8 == 5:
                    steps.append(functools.partial(cancel_later, bench, str(n)))
            await as_the_peer(bench, *steps)
            assert len(asyncio.all_tasks() - before) <= 1 + sum(not t.done() for t in bench.tasks.values()) + 50
        for n in range(1000):
            value, error = await bench.end_of(str(n))
            kind = n % 8
            late = {1: ValueError, 2: SystemExit, 4: KeyboardInterrupt, 5: asyncio.CancelledError}.get(kind)
            if kind == 6 and n % 16 >= 8:
                late = asyncio.CancelledError
            if late:
                assert type(error) is late, (n, value, error)
            else:
                assert (value, error) == ("outside", None), n
        await finish(bench, before)

    run(main())
    gc.collect()
    assert not recwarn.list
