"""The threads in which ``def`` handlers run: what they see, what comes back, how many there are, and when they end."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sepkit.concurrency import threads as threads_module
from sepkit.concurrency.threads import DaemonThreads
from tests.driver import PATIENCE

Run = Callable[[Coroutine[Any, Any, Any]], Any]

user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")


@pytest.fixture(autouse=True)
def short_lived(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle threads end soon, so that one test does not see another's."""
    monkeypatch.setattr(threads_module, "_IDLE_SECONDS", 0.2)


def handler_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("sepkit-handler-")]


def wait_until_gone(gone: list[threading.Thread]) -> None:
    for thread in gone:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_a_function_runs_in_another_thread_with_its_arguments(run: Run) -> None:
    """The threads are daemons, which do not keep the process alive."""

    def look(*, a: int, b: str) -> tuple[int, str, threading.Thread]:
        return a, b, threading.current_thread()

    async def main() -> None:
        a, b, thread = await DaemonThreads().run(look, a=1, b="2")
        assert (a, b) == (1, "2")
        assert thread is not threading.current_thread()
        assert thread.daemon

    run(main())


def test_three_functions_run_at_the_same_time(run: Run) -> None:
    """Three of 1 s take less than 1.6 s, and the loop runs on meanwhile."""

    async def main() -> None:
        meeting = threading.Barrier(4)
        threads = DaemonThreads()
        waiting = [asyncio.create_task(threads.run(meeting.wait, timeout=PATIENCE)) for _ in range(3)]
        for _ in range(10):
            await asyncio.sleep(0)
        assert sorted(threads.running) == ["wait"] * len(threads.running)
        await asyncio.to_thread(meeting.wait, PATIENCE)
        await asyncio.gather(*waiting)
        assert threads.running == []

    run(main())


def test_context_variables_are_seen_and_what_is_set_stays_there(run: Run) -> None:
    """Each call has a copy of the context variables."""

    def change(*, to: str) -> tuple[str, str]:
        before = user.get()
        user.set(to)
        return before, user.get()

    async def main() -> None:
        threads = DaemonThreads(1)  # one after the other in the same thread
        assert await threads.run(change, to="x") == ("nobody", "x")
        token = user.set("Ada")
        assert await threads.run(change, to="y") == ("Ada", "y")
        assert user.get() == "Ada"
        user.reset(token)
        assert await threads.run(change, to="z") == ("nobody", "z")

    run(main())


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
def test_what_a_function_raises_is_raised_to_its_caller(run: Run, error: BaseException) -> None:
    """``sys.exit()`` in a handler fails that call, not the thread, and not the process."""

    def fail() -> None:
        raise error

    async def main() -> None:
        threads = DaemonThreads(1)
        with pytest.raises(type(error)) as caught:
            await threads.run(fail)
        if not isinstance(error, asyncio.CancelledError):
            assert caught.value is error
            assert caught.traceback[-1].name == "fail", "the traceback says where"
        assert await threads.run(threading.get_ident) != threading.get_ident()
        assert threads.running == []

    run(main())


def test_a_stop_iteration_is_an_error_like_any_other(run: Run) -> None:
    """A StopIteration, which no coroutine can raise, still gives an answer."""

    async def main() -> None:
        threads = DaemonThreads()
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.wait_for(threads.run(lambda: next(iter(()))), PATIENCE)

    run(main())


def test_there_are_no_more_threads_than_allowed_and_the_rest_waits_in_order(run: Run) -> None:
    """``DaemonThreads(size)``: at most ``size`` at once; what does not fit waits, first come first served."""

    async def main() -> None:
        lock = threading.Lock()
        now, most, begun = 0, 0, []
        gate = threading.Event()

        def work(*, n: int) -> int:
            nonlocal now, most
            with lock:
                begun.append(n)
                now += 1
                most = max(most, now)
            gate.wait(PATIENCE)
            with lock:
                now -= 1
            return n

        before = {*handler_threads()}
        threads = DaemonThreads(2)
        waiting = [asyncio.create_task(threads.run(work, n=n)) for n in range(10)]
        while len(threads.running) < 2:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len({*handler_threads()} - before) == 2
        assert threads.running == ["work", "work"]
        gate.set()
        assert await asyncio.gather(*waiting) == list(range(10))
        assert most == 2
        assert sorted(begun[:2]) == [0, 1]
        assert sorted(begun) == list(range(10))

    run(main())


def test_an_idle_thread_is_used_again(run: Run) -> None:
    """``DaemonThreads``: threads are made as needed; one call after the other needs one."""

    async def main() -> None:
        threads = DaemonThreads()
        seen = set()
        for _ in range(20):
            seen.add(await threads.run(threading.get_ident))
            # Its thread says that it is idle after it has answered.
            await asyncio.sleep(0.002)
        assert len(seen) <= 3

    run(main())


def test_idle_threads_end_and_new_ones_are_made_when_there_is_work_again(run: Run) -> None:
    """``DaemonThreads``: an idle thread ends after a while; none is kept for ever for one burst of calls."""

    async def main() -> None:
        before = {*handler_threads()}
        threads = DaemonThreads(4)
        meeting = threading.Barrier(4)
        await asyncio.gather(*(threads.run(meeting.wait, timeout=PATIENCE) for _ in range(4)))
        made = {*handler_threads()} - before
        assert len(made) == 4
        await asyncio.to_thread(wait_until_gone, list(made))
        meeting = threading.Barrier(4)
        await asyncio.wait_for(
            asyncio.gather(*(threads.run(meeting.wait, timeout=PATIENCE) for _ in range(4))), PATIENCE
        )

    run(main())


def test_no_call_is_lost_to_a_thread_that_was_about_to_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that is given in the moment in which an idle thread gives up waiting is taken all the same."""
    monkeypatch.setattr(threads_module, "_IDLE_SECONDS", 0.001)

    async def main() -> None:
        threads = DaemonThreads(2)
        for n in range(200):
            await asyncio.wait_for(threads.run(threading.get_ident), PATIENCE)
            if n % 3:
                time.sleep(0.0009 + n % 7 * 0.0001)  # noqa: ASYNC251  # about when it gives up; the loop is too coarse

    run(main())


def test_a_cancelled_caller_goes_on_at_once_and_what_comes_back_later_is_dropped(run: Run) -> None:
    """The cancel does not wait for the thread, and a thread that is left behind can be named."""

    async def main() -> None:
        raised: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: raised.append(context))
        threads = DaemonThreads()
        gates = [threading.Event(), threading.Event()]

        def stuck() -> str:
            gates[0].wait(PATIENCE)
            return "too late"

        def failing() -> None:
            gates[1].wait(PATIENCE)
            raise SystemExit

        calls = [asyncio.create_task(threads.run(stuck)), asyncio.create_task(threads.run(failing))]
        while len(threads.running) < 2:
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls, timeout=PATIENCE)
        assert [call.cancelled() for call in calls] == [True, True]
        assert sorted(threads.running) == ["failing", "stuck"]
        for gate in gates:
            gate.set()
        while threads.running:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        assert raised == []
        assert await threads.run(threading.get_ident)

    run(main())


def test_what_was_cancelled_before_a_thread_began_with_it_never_runs(run: Run) -> None:
    """A call that has been answered as cancelled does nothing any more."""

    async def main() -> None:
        threads = DaemonThreads(1)
        gate = threading.Event()
        ran: list[int] = []

        def note(*, n: int) -> None:
            ran.append(n)

        first = asyncio.create_task(threads.run(gate.wait, timeout=PATIENCE))
        rest = [asyncio.create_task(threads.run(note, n=n)) for n in range(3)]
        while not threads.running:
            await asyncio.sleep(0)
        rest[1].cancel()
        await asyncio.wait([rest[1]])
        gate.set()
        await asyncio.gather(first, rest[0], rest[2])
        assert ran == [0, 2]

    run(main())


def test_a_thread_that_outlives_the_loop_ends_quietly(run: Run) -> None:
    """A thread that returns after the loop was closed finds no loop, and does not raise."""
    gate = threading.Event()
    found: list[threading.Thread] = []

    def work() -> None:
        found.append(threading.current_thread())
        gate.wait(PATIENCE)

    async def main() -> None:
        threads = DaemonThreads()
        call = asyncio.create_task(threads.run(work))
        while not found:
            await asyncio.sleep(0)
        call.cancel()

    run(main())
    gate.set()
    wait_until_gone(found)  # an exception in a thread is a warning, and a warning fails a test


def test_where_the_system_has_no_more_threads_those_there_are_do_the_work(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that could not be started fails the call that has no other one, and costs later calls nothing."""
    start = threading.Thread.start
    refused: list[str] = []

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("sepkit-handler-") and len(refused) < allowed_from:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    allowed_from = 3

    async def main() -> None:
        nonlocal allowed_from
        before = {*handler_threads()}
        threads = DaemonThreads(2)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await threads.run(threading.get_ident)
        gate = threading.Event()
        first = asyncio.create_task(threads.run(gate.wait, timeout=PATIENCE))
        while not threads.running:
            await asyncio.sleep(0)
        allowed_from = 4
        second = asyncio.create_task(threads.run(threading.get_ident))
        await asyncio.sleep(0)
        gate.set()
        assert await asyncio.wait_for(asyncio.gather(first, second), PATIENCE)
        assert len(refused) == 4
        await asyncio.to_thread(wait_until_gone, [*{*handler_threads()} - before])  # it knows that it is idle

    run(main())
