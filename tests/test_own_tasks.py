"""A handler's task is its own: whatever looks at it in the first step sees what it would see in plain asyncio."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sepkit import App
from tests.memory_host import CONTEXT, HANDSHAKE, MemoryHost, on_each_loop

KINDS = ("tool", "hook", "command", "event")


def own() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def four(look: Callable[[], object], kind: str = "tool", *, waits: bool = False) -> list[object]:
    """What ``look`` returns in the first step of four calls in one write."""
    app = App("t")
    seen: list[object] = []

    async def handle() -> None:
        seen.append(look())
        if waits:
            await asyncio.sleep(0)

    app.tool(name="look")(handle)
    app.hook("input")(handle)
    app.command(name="look")(handle)
    app.on("turn_start")(handle)
    async with MemoryHost(app) as host:
        sent = {
            "tool": ("tool/execute", {"call_id": "c", "tool": "look", "arguments": {}, "context": CONTEXT}),
            "hook": ("hook", {"hook": "input", "input": {}, "context": CONTEXT}),
            "command": ("command/execute", {"command": "look", "arguments": {}, "context": CONTEXT}),
        }
        frames = [host.event("turn_start") if kind == "event" else host.frame(*sent[kind]) for _ in range(4)]
        host.send(*frames)
        for _ in range(30):
            await asyncio.sleep(0)
        assert len(seen) == 4
        await host.ping()
    return seen


@pytest.mark.parametrize("kind", KINDS)
@on_each_loop
async def test_what_is_kept_under_the_task_is_not_found_by_the_next_call(kind: str) -> None:
    """A ``WeakKeyDictionary`` of tasks is how libraries keep what belongs to a call."""
    kept: weakref.WeakKeyDictionary[asyncio.Task[Any], int] = weakref.WeakKeyDictionary()

    def look() -> object:
        found = kept.get(own())
        kept[own()] = len(kept)
        return found

    assert await four(look, kind) == [None] * 4
    await asyncio.sleep(0)
    assert not kept, "a task that has ended is gone at once"


@on_each_loop
async def test_the_name_is_the_methods_from_the_first_step_on_and_a_new_one_stays_with_its_call() -> None:
    """The name of a task is what a log line shows."""
    assert await four(lambda: own().get_name()) == ["tool/execute"] * 4
    assert await four(lambda: own().get_name(), "hook") == ["hook"] * 4

    def rename() -> object:
        before = own().get_name()
        own().set_name("mine")
        return before

    assert await four(rename) == ["tool/execute"] * 4

    app = App("t")

    @app.tool
    async def look() -> list[str]:
        names = [own().get_name()]
        await asyncio.sleep(0)
        return [*names, own().get_name()]

    async with MemoryHost(app) as host:
        assert (await host.tool("look"))["details"] == ["tool/execute"] * 2


@pytest.mark.parametrize("waits", [False, True])
@on_each_loop
async def test_a_callback_is_called_when_its_own_call_has_ended_and_sees_a_task_that_returned(waits: bool) -> None:
    """A library that cleans up in a done callback of the current task."""
    ended: list[tuple[bool, object]] = []

    def look() -> None:
        own().add_done_callback(lambda task: ended.append((task.cancelled(), task.exception())))

    await four(look, waits=waits)
    assert ended == [(False, None)] * 4


@pytest.mark.parametrize("keep", ["a set", "a weak set"])
@on_each_loop
async def test_a_set_of_running_tasks_holds_one_at_a_time_where_none_waits(keep: str) -> None:
    """Calls that came together, and of which each ends within its first step."""
    running: Any = set() if keep == "a set" else weakref.WeakSet()

    def look() -> int:
        running.add(own())
        return sum(not task.done() for task in running)

    assert await four(look) == [1] * 4


@on_each_loop
async def test_attributes_of_the_task_stay_with_their_call() -> None:
    """Some libraries keep a call's data as an attribute of its task."""

    def look() -> object:
        found = getattr(own(), "request_id", None)
        own().request_id = 5  # type: ignore[attr-defined]
        return found

    assert await four(look) == [None] * 4


@pytest.mark.parametrize("how", ["kept", "weak", "all tasks", "uncancelled"])
@on_each_loop
async def test_a_later_cancel_reaches_no_other_call(how: str) -> None:
    """A reference to the task of a call that has ended is good for nothing."""
    app = App("t")
    kept: list[Any] = []

    @app.tool
    async def selfish() -> None:
        if how == "kept":
            kept.append(own())
        elif how == "weak":
            kept.append(weakref.ref(own()))
        elif how == "uncancelled":
            own().cancel()
            own().uncancel()
        else:
            kept.extend(weakref.ref(task) for task in asyncio.all_tasks() if task.get_name() == "tool/execute")

    @app.tool
    async def other() -> str:
        for one in kept:
            task = one() if isinstance(one, weakref.ref) else one
            if task is not None:
                task.cancel()
        await asyncio.sleep(0)
        return "lives"

    async with MemoryHost(app) as host:
        first, second = host.start_tool("selfish"), host.start_tool("other")
        assert "result" in await host.answer(first)
        assert (await host.answer(second))["result"] == {"content": "lives"}
        assert await host.tool("other") == {"content": "lives"}


@on_each_loop
async def test_code_that_looks_at_all_tasks_between_calls_reaches_no_later_call() -> None:
    """A watcher that cancels later what it saw running."""
    app = App("t")

    @app.tool
    async def other() -> str:
        await asyncio.sleep(0)
        return "lives"

    async with MemoryHost(app) as host:
        await host.ping()
        spare = [task for task in asyncio.all_tasks() if task.get_name() == "sepkit spare"]
        assert len(spare) == 1
        call = host.start_tool("other")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        spare[0].cancel()
        assert (await host.answer(call))["result"] == {"content": "lives"}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="new in 3.12")
@on_each_loop
async def test_the_context_of_the_task_is_the_one_that_the_call_runs_in() -> None:
    """``Task.get_context`` in the first step and later."""
    var: contextvars.ContextVar[int] = contextvars.ContextVar("var", default=0)

    def look() -> object:
        before = own().get_context().get(var)  # type: ignore[attr-defined,unused-ignore]
        var.set(1)
        return before, own().get_context().get(var)  # type: ignore[attr-defined,unused-ignore]

    assert await four(look) == [(None, 1)] * 4
    assert await four(look, waits=True) == [(None, 1)] * 4


@on_each_loop
async def test_a_handler_that_leaves_no_trace_costs_no_task() -> None:
    """Calls that do not look at their task share the spare one: it is made once."""
    made: list[int] = []
    await four(lambda: made.append(id(own())))
    assert len(set(made)) == 1
    gc.collect()


@on_each_loop
async def test_each_handler_of_one_event_has_a_task_of_its_own_that_is_done_when_the_next_begins() -> None:
    """Also where one event has several handlers, and each ends within its first step."""
    app = App("t")
    tasks: list[asyncio.Task[Any]] = []
    undone: list[int] = []

    def look() -> None:
        tasks.append(own())
        undone.append(sum(not task.done() for task in tasks))

    @app.on("turn_start")
    async def one() -> None:
        look()

    @app.on("turn_start")
    async def two() -> None:
        look()

    @app.tool
    async def ask() -> list[int]:
        look()
        return undone

    async with MemoryHost(app) as host:
        call = host.frame("tool/execute", {"call_id": "c", "tool": "ask", "arguments": {}, "context": CONTEXT})
        host.send(host.event("turn_start"), host.event("turn_start"), call)
        assert (await host.answer(call["id"]))["result"]["details"] == [1] * 5
    assert len(set(tasks)) == 5


# -- order -------------------------------------------------------------------------------------------------------------


def counting(app: App) -> None:
    turns = 0

    @app.on("turn_start")
    async def begin() -> None:
        nonlocal turns
        turns += 1

    @app.command
    async def turns_so_far() -> str:
        return str(turns)

    @app.tool
    async def count() -> str:
        return str(turns)


@pytest.mark.parametrize("lifespan", [False, True])
@pytest.mark.parametrize("method", ["tool/execute", "command/execute"])
@on_each_loop
async def test_a_call_sees_the_event_that_was_sent_before_it_and_none_that_was_sent_later(
    method: str, lifespan: bool
) -> None:
    """Ten times an event and a call, in one write; also in one write with the handshake, while the lifespan begins."""

    @asynccontextmanager
    async def life(app: App) -> AsyncIterator[None]:
        await asyncio.sleep(0.001)
        yield

    app = App("t", lifespan=life) if lifespan else App("t")
    counting(app)
    async with MemoryHost(app, handshake=None) as host:
        frames: list[dict[str, Any]] = [host.frame("initialize", HANDSHAKE)]
        calls = []
        for _ in range(10):
            params: dict[str, Any] = {"context": CONTEXT, "arguments": {}}
            params |= {"call_id": "c", "tool": "count"} if method == "tool/execute" else {"command": "turns_so_far"}
            calls.append(host.frame(method, params))
            frames += [host.event("turn_start"), calls[-1]]
        host.send(*frames)
        answers = [(await host.answer(call["id"]))["result"]["content"] for call in calls]
        assert answers == [str(n) for n in range(1, 11)]


@on_each_loop
async def test_a_handler_of_an_event_that_waits_delays_no_call() -> None:
    """Only its first step comes before what was sent later."""
    app = App("t")
    go_on = asyncio.Event()
    steps: list[str] = []

    @app.on("turn_start")
    async def slow() -> None:
        steps.append("began")
        await go_on.wait()
        steps.append("went on")

    @app.tool
    async def look() -> list[str]:
        return steps

    async with MemoryHost(app) as host:
        host.send(host.event("turn_start"), host.event("turn_start"))
        assert (await host.tool("look"))["details"] == ["began"]
        go_on.set()
        for _ in range(20):
            await asyncio.sleep(0)
        assert (await host.tool("look"))["details"] == ["began", "went on"] * 2


@on_each_loop
async def test_a_burst_of_events_behind_a_slow_one_is_handled_without_a_deep_stack() -> None:
    """What has waited is handled in turn, however much it is."""
    app = App("t")
    got: list[int] = []

    @app.on("turn_start")
    async def slow(payload: dict[str, int]) -> None:
        if payload["n"] == 0:
            await asyncio.sleep(0.001)
        got.append(payload["n"])

    async with MemoryHost(app) as host:
        host.send(*(host.event("turn_start", {"n": n}) for n in range(1000)))
        await host.ping()
        await host.dispatcher.wait_observed(20)
        assert got == list(range(1000))
