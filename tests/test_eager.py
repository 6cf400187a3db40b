"""A handler's first step is made at once, and it goes on as a real task: nobody can tell the difference."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sepkit.concurrency.eager import Seat, Starter

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Item = tuple[str, Coroutine[Any, Any, object]] | Callable[[], object]
Ends = dict[str, tuple[object, BaseException | None]]

where: contextvars.ContextVar[str] = contextvars.ContextVar("where", default="outside")


class Bench:
    """Drives works as the peer does: in batches, each from a callback of the loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.ends: Ends = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.ended = asyncio.Event()
        self.items: deque[Item] = deque()
        self.key = ""
        context = contextvars.copy_context()
        self.starter = Starter(self.loop, context, self.items, self._drive, self._went_on)

    async def _drive(self, seat: Seat) -> None:
        while True:
            if not self.items:
                if not await seat.rest():
                    return
                continue
            item = self.items.popleft()
            if isinstance(item, tuple):
                key, work = item
                self.key = key
                seat.rename(key)
                try:
                    end: tuple[object, BaseException | None] = await work, None
                except BaseException as error:
                    end = None, error
                assert key not in self.ends, "told twice"
                self.ends[key] = end
                self.ended.set()
                if seat.taken:
                    return
            else:
                item()
            if not seat.is_as_before():
                return

    def _went_on(self, task: asyncio.Task[None]) -> None:
        self.tasks[self.key] = task

    def batch(self, works: dict[str, Coroutine[Any, Any, object]]) -> asyncio.Future[None]:
        return self.take(*works.items())

    def take(self, *items: Item) -> asyncio.Future[None]:
        """Take ``items`` in a batch, and what must wait for it in the next turns."""
        made: asyncio.Future[None] = self.loop.create_future()
        self.items.extend(items)

        def take() -> None:
            self.starter.run()
            if self.items:
                self.loop.call_soon(take)
            else:
                made.set_result(None)

        self.loop.call_soon(take)
        return made

    async def end_of(self, key: str) -> tuple[object, BaseException | None]:
        async with asyncio.timeout(20):
            while key not in self.ends:
                self.ended.clear()
                await self.ended.wait()
        return self.ends[key]


def own() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def test_the_current_task_is_the_same_in_the_first_and_in_later_steps(run: Run) -> None:
    """``asyncio.timeout`` and cancel scopes ask for the task in one step and use it in another."""

    async def work() -> object:
        first = own()
        await asyncio.sleep(0)
        second = own()
        await asyncio.sleep(0.001)
        return first is second is own()

    async def main() -> None:
        bench = Bench()
        await bench.batch({"a": work(), "b": work()})
        assert (await bench.end_of("a"))[0] is True
        assert (await bench.end_of("b"))[0] is True
        assert bench.tasks["a"] is not bench.tasks["b"]
        await asyncio.wait(bench.tasks.values())
        assert bench.tasks["a"].get_name() == "a"
        bench.starter.close()

    run(main())


def test_context_variables_stay_with_their_work(run: Run) -> None:
    """What a handler sets is seen later by it and its children, and by no other handler."""

    async def child() -> str:
        return where.get()

    async def work(name: str) -> object:
        before = where.get()
        where.set(name)
        await asyncio.sleep(0)
        return before, where.get(), await asyncio.create_task(child())

    async def at_once(name: str) -> object:
        before = where.get()
        where.set(name)
        return before

    async def main() -> None:
        bench = Bench()
        await bench.batch({"a": work("a"), "b": at_once("b"), "c": work("c"), "d": at_once("d")})
        assert (await bench.end_of("a"))[0] == ("outside", "a", "a")
        assert (await bench.end_of("c"))[0] == ("outside", "c", "c")
        assert bench.ends["b"] == ("outside", None)
        assert bench.ends["d"] == ("outside", None)
        assert where.get() == "outside"
        bench.starter.close()

    run(main())


def test_a_timeout_entered_in_the_first_step_expires_in_a_later_one(run: Run) -> None:
    """A limit that begins before the first wait cancels this work and no other."""

    async def limited() -> object:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(20)
        except TimeoutError:
            return "expired", own().cancelling()
        return "not"

    async def grouped() -> object:
        async with asyncio.TaskGroup() as group:
            one = group.create_task(asyncio.sleep(0, "one"))
            two = group.create_task(asyncio.wait_for(asyncio.sleep(0, "two"), 20))
        return one.result(), two.result()

    async def main() -> None:
        bench = Bench()
        await bench.batch({"limited": limited(), "grouped": grouped()})
        assert (await bench.end_of("limited"))[0] == ("expired", 0)
        assert (await bench.end_of("grouped"))[0] == ("one", "two")
        bench.starter.close()

    run(main())


@pytest.mark.parametrize("turns", range(5))
@pytest.mark.parametrize("waits_for", ["nothing", "a future", "a task", "a stubborn task"])
def test_a_cancel_reaches_the_work_wherever_it_waits(run: Run, waits_for: str, turns: int) -> None:
    """Also right after the first step, before the task knows what that step waits for."""

    async def stubborn() -> None:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            await asyncio.sleep(0)

    async def work() -> object:
        loop = asyncio.get_running_loop()
        try:
            if waits_for == "nothing":
                for _ in range(10):
                    await asyncio.sleep(0)
            elif waits_for == "a future":
                await loop.create_future()
            else:
                await loop.create_task(asyncio.sleep(20) if waits_for == "a task" else stubborn())
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # cleaning up takes a while
            raise
        return "ended"

    async def main() -> None:
        bench = Bench()
        cancelled = asyncio.Event()

        def cancel() -> None:
            bench.tasks["a"].cancel()
            cancelled.set()

        made = bench.batch({"a": work()})
        await made
        for _ in range(turns):
            await asyncio.sleep(0)
        bench.loop.call_soon(cancel)
        await cancelled.wait()
        value, error = await bench.end_of("a")
        if waits_for == "a stubborn task":  # it swallows what was meant for who waits, as it does in asyncio
            assert value == "ended" or isinstance(error, asyncio.CancelledError)
        else:
            assert isinstance(error, asyncio.CancelledError)
        bench.starter.close()

    run(main())


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), ValueError("x"), asyncio.CancelledError()])
def test_whatever_a_work_raises_is_told_once_and_ends_no_loop(run: Run, error: BaseException, late: bool) -> None:
    """The loop of asyncio would end on a SystemExit from a task."""

    async def work() -> object:
        if late:
            await asyncio.sleep(0)
        raise error

    async def main() -> None:
        bench = Bench()
        await bench.batch({"a": work()})
        assert (await bench.end_of("a"))[1] is error
        await asyncio.sleep(0)
        bench.starter.close()

    run(main())


def test_no_batch_begins_within_a_task(run: Run) -> None:
    """There is one current task at a time: no work begins inside of another's step."""

    async def main() -> None:
        bench = Bench()
        bench.items.append(("a", work := asyncio.sleep(0)))
        bench.starter.run()
        assert list(bench.items) == [("a", work)]
        work.close()
        bench.starter.close()

    run(main())


def test_batches_share_a_task_until_something_is_done_to_it(run: Run) -> None:
    """Between them it rests. Who cancels it then ends it at once, and the next batch has another."""

    async def at_once() -> object:
        return "at once"

    async def main() -> None:
        bench = Bench()
        before = asyncio.all_tasks()

        def spare() -> asyncio.Task[Any]:
            (task,) = asyncio.all_tasks() - before
            assert task.get_name() == "sepkit spare"
            return task

        await bench.batch({"a": at_once(), "b": at_once()})
        first = repr(spare())
        for key in "cd":
            await bench.batch({key: at_once()})
            assert repr(spare()) == first
        kept = spare()
        kept.cancel()
        done, _ = await asyncio.wait([kept], timeout=20)
        assert done == {kept}
        assert kept.cancelled()
        await bench.batch({"e": at_once()})
        assert spare() is not kept
        assert [bench.ends[key] for key in "abcde"] == [("at once", None)] * 5
        bench.starter.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before

    run(main())


def test_nothing_is_left_behind(run: Run, recwarn: pytest.WarningsRecorder) -> None:
    """A work that ends within its first step leaves no task; the end leaves no spare one."""

    async def at_once() -> object:
        return "at once"

    async def later() -> object:
        await asyncio.sleep(0)
        return "later"

    async def main() -> None:
        before = asyncio.all_tasks()
        bench = Bench()
        for number in range(100):
            await bench.batch({f"{number}-{kind}": at_once() if kind else later() for kind in range(2)})
        for number in range(100):
            await bench.end_of(f"{number}-0")
        assert len(bench.ends) == 200
        assert len(bench.tasks) == 100
        await asyncio.wait(bench.tasks.values())
        bench.starter.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before

    run(main())
    gc.collect()
    assert not recwarn.list
