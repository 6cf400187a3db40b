"""One coroutine drives many calls: each of them ends as it would in a task of its own, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import weakref
from collections.abc import Awaitable, Callable, Generator, Iterator
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sepkit import App, ToolContext, ToolError
from sepkit.concurrency.eager import Seat, noting
from sepkit.faces.runner import LoopKind, new_loop
from sepkit.transports.memory import memory_pair
from tests.memory_host import CONTEXT, MemoryHost, on_each_loop


def call(host: MemoryHost, tool: str, **arguments: object) -> dict[str, Any]:
    """The frame of a tool's call."""
    return host.frame("tool/execute", {"call_id": "c", "tool": tool, "arguments": arguments, "context": CONTEXT})


async def turns(count: int = 12) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("waits_for", ["a future", "a task", "a future, shielded in one of them"])
@on_each_loop
async def test_calls_of_one_batch_may_await_the_same_thing(waits_for: str) -> None:
    """A cache that loads once, and whose callers wait for the one load."""
    app = App("t")
    loop = asyncio.get_running_loop()
    loaded: asyncio.Future[str] = loop.create_future()

    async def load() -> str:
        return await loaded

    shared: asyncio.Future[str] = loop.create_task(load()) if waits_for == "a task" else loaded
    seen = []

    @app.tool
    async def read(shielded: bool) -> str:
        seen.append(await asyncio.shield(shared) if shielded else await shared)
        return seen[-1]

    async with MemoryHost(app) as host:
        frames = [call(host, "read", shielded="shielded" in waits_for and index == 1) for index in range(3)]
        host.send(*frames)
        await turns(3)
        loaded.set_result("it")
        for frame in frames:
            assert (await host.answer(frame["id"]))["result"] == {"content": "it"}
    assert seen == ["it"] * 3


@on_each_loop
async def test_a_yield_that_no_await_has_made_is_told_as_in_asyncio_beside_calls_that_wait() -> None:
    """The mark of a future that is awaited is its first awaiter's, and is taken off by the task of that one."""
    app = App("t")
    shared: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    class Bare:
        def __await__(self) -> Generator[Any, Any, None]:
            yield shared

    @app.tool
    async def waits() -> str:
        await shared
        return "waited"

    @app.tool
    async def bare() -> str:
        try:
            await Bare()
        except RuntimeError as error:
            return str(error)
        return "no error"

    async with MemoryHost(app) as host:
        frames = [call(host, tool) for tool in ("waits", "bare", "waits")]
        host.send(*frames)
        await turns(3)
        shared.set_result(None)
        results = [(await host.answer(frame["id"]))["result"]["content"] for frame in frames]
    assert results[0] == results[2] == "waited"
    assert "yield was used instead of yield from" in results[1]


@on_each_loop
async def test_what_a_call_has_waited_for_is_not_kept_while_it_goes_on() -> None:
    """The result of the first wait may be large."""

    class Big: ...

    app = App("t")
    loaded: list[asyncio.Future[Big]] = []
    gone: list[weakref.ref[Big]] = []

    @app.tool
    async def load() -> bool:
        loaded.append(asyncio.get_running_loop().create_future())
        await loaded[0]
        loaded.clear()
        await asyncio.sleep(0)
        return gone[0]() is None

    async with MemoryHost(app) as host:
        rid = host.start_tool("load")
        await turns(3)
        big = Big()
        gone.append(weakref.ref(big))
        loaded[0].set_result(big)
        del big
        assert (await host.answer(rid))["result"] == {"content": "true", "details": True}


@on_each_loop
async def test_a_cancel_in_the_batch_itself_keeps_its_message() -> None:
    """Whichever the call waits for."""
    app = App("t")
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[Any]] = []

    @app.tool
    async def waits(future: bool) -> str:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        try:
            await (loop.create_future() if future else asyncio.sleep(0))
        except asyncio.CancelledError as error:
            return str(error)
        return "not cancelled"

    @app.tool
    async def cancels() -> None:
        for task in tasks:
            task.cancel("why")

    async with MemoryHost(app) as host:
        frames = [call(host, "waits", future=True), call(host, "waits", future=False), call(host, "cancels")]
        host.send(*frames)
        for frame in frames[:2]:
            assert (await host.answer(frame["id"]))["result"] == {"content": "why"}


@pytest.mark.parametrize("name", ["author", "sepkit_author"])
def test_a_variable_that_was_set_before_serving_is_set_for_one_call_only(name: str) -> None:
    """Also to a value that is equal to it, by whatever name."""
    variable: contextvars.ContextVar[object] = contextvars.ContextVar(name)

    async def main() -> None:
        variable.set(1)
        app = App("t")

        @app.tool
        async def look() -> bool:
            found = variable.get()
            variable.set(True)
            return found is True

        async with MemoryHost(app) as host:
            frames = [call(host, "look") for _ in range(3)]
            host.send(*frames)
            for frame in frames:
                assert (await host.answer(frame["id"]))["result"]["content"] == "false"

    contextvars.Context().run(lambda: asyncio.run(main()))


@on_each_loop
async def test_what_comes_within_a_first_step_is_taken_behind_it_and_the_call_keeps_its_slot() -> None:
    """A handler that feeds the very connection that it was called over."""
    app = App("t")
    inner: list[bytes] = []

    @app.tool
    async def feeds() -> str:
        host.dispatcher._peer.frames_received([*inner])
        await asyncio.sleep(0)
        return "fed"

    async with MemoryHost(app) as host:
        frame = call(host, "feeds")
        answered = host._loop.create_future()
        host._answers["inner"] = answered
        inner.append(b'{"jsonrpc":"2.0","id":"inner","method":"ping","params":{}}')
        host.send(frame)
        assert (await host.answer(frame["id"]))["result"] == {"content": "fed"}
        assert (await answered)["result"] == {}
        assert host.served.calls.slots.running == 0
        assert not host.dispatcher._peer.busy


def failing() -> App:
    app = App("t")

    @app.tool
    async def fails() -> None:
        raise ValueError

    @app.tool
    async def fails_later() -> None:
        await asyncio.sleep(0)
        raise ToolError("no")

    @app.tool
    async def fails_in_the_end() -> Awaitable[None]:
        return fails_later()

    @app.tool
    async def waits() -> None:
        await asyncio.Event().wait()

    @app.tool
    async def cancels_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    @app.tool
    async def unsendable() -> object:
        return object()

    @app.hook("input")
    async def hook() -> None:
        raise ValueError

    @app.command
    async def command() -> None:
        raise ValueError

    @app.command
    async def command_later() -> None:
        await asyncio.sleep(0)
        raise ToolError("no")

    return app


FAILING = ("fails", "fails_later", "fails_in_the_end", "waits", "cancels_itself", "unsendable", "hook", "command")


@contextlib.contextmanager
def no_garbage() -> Iterator[None]:
    """No exception, frame or task that the block leaves behind is left to the garbage collector."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
        gc.collect()
        left = [repr(thing) for thing in gc.garbage if isinstance(thing, BaseException | FrameType | Seat)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not left, left


@pytest.mark.parametrize("what", [*FAILING, "command_later", "wrong arguments"])
def test_a_call_that_has_failed_leaves_no_reference_cycle(what: str) -> None:
    """An exception holds the frames that it came through, and those what the handler had in hand."""

    async def main() -> None:
        logging.disable()  # a record that pytest keeps holds the exception
        async with MemoryHost(failing()) as host:

            async def once() -> None:
                if what == "hook":
                    rid = host.start("hook", {"hook": "input", "input": {}, "context": CONTEXT})
                elif what.startswith("command"):
                    rid = host.start("command/execute", {"command": what, "arguments": {}, "context": CONTEXT})
                elif what == "wrong arguments":
                    rid = host.start_tool("fails", x=1)
                else:
                    rid = host.start_tool(what)
                await turns(4)
                if what == "waits":
                    host.cancel(rid)
                await turns()
                assert host.is_answered(rid)

            await once()
            with no_garbage():
                await once()

    try:
        asyncio.run(main())
    finally:
        logging.disable(logging.NOTSET)


@on_each_loop
async def test_an_awaitable_whose_iterator_cannot_throw_is_noted() -> None:
    """``__await__`` may return any iterator."""

    class Once:
        def __await__(self) -> Any:
            return iter([None])

    noted: list[str] = []
    work = asyncio.get_running_loop().create_task(_through(Once(), lambda: noted.append("waits")))
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert noted == ["waits"]
    assert await _through(Once(), lambda: noted.append("waits")) is None


async def _through(work: Awaitable[object], waits: Callable[[], None]) -> object:
    return await noting(work, waits)


def test_a_loop_that_is_closed_with_calls_that_have_just_begun_to_wait_closes_them(
    loop_kind: LoopKind, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a coroutine in a task: its ``finally`` runs, and nothing is raised where nobody can catch it."""
    unraisable: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)
    closed = []
    loop = new_loop(loop_kind)
    heard: list[Any] = []
    loop.set_exception_handler(lambda _, context: heard.append(context))

    async def wait_for(future: asyncio.Future[None] | None) -> None:
        try:
            await (asyncio.sleep(0) if future is None else future)
        finally:
            closed.append(True)

    def last_turn() -> None:
        from sepkit.peer import Peer

        _, theirs = memory_pair()
        peer = Peer(theirs, routes={"wait": lambda params: wait_for(loop.create_future() if params["x"] else None)})
        peer.start()
        lines = [b'{"jsonrpc":"2.0","id":%d,"method":"wait","params":{"x":%d}}' % (rid, rid % 2) for rid in range(4)]
        peer.frames_received([*lines])
        loop.stop()

    async def start() -> None:
        loop.call_soon(last_turn)
        await asyncio.sleep(60)

    starting = loop.create_task(start())
    loop.run_forever()
    loop.close()
    starting.get_coro().close()
    gc.collect()
    assert len(closed) == 4
    assert not unraisable, [entry.exc_value for entry in unraisable]
    assert not recwarn.list


def test_what_the_collector_has_closed_from_within_is_closed_without_an_error() -> None:
    """It ends the coroutines of a cycle in any order."""

    async def wait() -> None:
        await asyncio.sleep(0)

    outer: Any = _through(wait(), lambda: None)
    outer.send(None)
    outer.cr_await.gi_frame.f_locals["steps"].close()
    outer.close()


# -- stories -----------------------------------------------------------------------------------------------------------

KINDS = ("at once", "waits", "raises", "raises later", "asks", "asks twice", "asks badly", "forever", "def", "leaves")
STEPS = st.one_of(
    st.tuples(st.just("call"), st.sampled_from(KINDS)),
    st.tuples(st.just("cancel"), st.integers(0, 8)),
    st.tuples(st.just("same id"), st.integers(0, 8)),
    st.tuples(
        st.just("odd"), st.sampled_from(["{", "[]", '{"jsonrpc":"2.0","id":{}}', '{"jsonrpc":"2.0","method":"x"}'])
    ),
)


def storyteller() -> App:
    app = App("t")

    @app.tool
    async def tell(kind: str, ctx: ToolContext) -> str:
        if kind == "waits":
            await asyncio.sleep(0)
        elif kind.startswith("raises"):
            await asyncio.sleep(0) if kind.endswith("later") else None
            raise ValueError
        elif kind.startswith("asks"):
            if kind == "asks badly":
                with contextlib.suppress(Exception):
                    await ctx.kv.set("k", float("nan"))
            else:
                await ctx.kv.get("k")
            if kind == "asks twice":
                await asyncio.gather(ctx.kv.get("k"), ctx.kv.get("k"))
        elif kind == "leaves":
            left.add(asyncio.create_task(ctx.kv.get("k")))
            await asyncio.sleep(0)
        elif kind == "forever":
            await asyncio.Event().wait()
        return kind

    @app.tool(name="at_once")
    async def at_once(kind: str) -> str:
        return kind

    @app.tool(name="def")
    def in_a_thread(kind: str) -> str:
        return kind

    left: set[asyncio.Task[Any]] = set()
    return app


@settings(derandomize=True, max_examples=30, deadline=None)
@given(
    size=st.integers(1, 3),
    waiting=st.integers(0, 4),
    story=st.lists(st.lists(STEPS, max_size=8), min_size=1, max_size=4),
)
def test_after_any_story_each_id_has_one_answer_and_nothing_is_held(
    size: int, waiting: int, story: list[list[tuple[str, Any]]]
) -> None:
    """Batches of calls that end at once, wait, raise, ask the host or are cancelled, with few slots."""

    async def main() -> None:
        answers = {"kv/get": {"value": None}, "kv/set": {}}
        async with MemoryHost(storyteller(), answers, max_concurrency=size, max_waiting=waiting) as host:
            host.errors.clear()
            ids: list[int] = []
            for batch in story:
                sent: list[object] = []
                for step, what in batch:
                    if step == "call":
                        tool = {"at once": "at_once", "def": "def"}.get(what, "tell")
                        sent.append(call(host, tool, kind=what))
                        ids.append(host._next_id)
                    elif step == "cancel" and what < len(ids):
                        sent.append({"jsonrpc": "2.0", "method": "$/cancel", "params": {"id": ids[what]}})
                host.send(*sent)
                await asyncio.sleep(0)
            await turns()
            for rid in ids:
                host.cancel(rid)
            for rid in ids:
                await host.answer(rid)
            await host.ping()
            await turns()
            slots, peer = host.served.calls.slots, host.dispatcher._peer
            assert (slots.running, len(slots)) == (0, 0)
            assert not peer.busy
            assert not peer.pending
            assert not peer._to_cancel
            assert not peer._answers

    logging.disable()
    try:
        asyncio.run(main())
    finally:
        logging.disable(logging.NOTSET)
