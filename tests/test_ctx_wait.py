"""``ctx.wait``: a ``def`` handler reaches what is ``async`` of its context, from its thread."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from sepkit import App, CommandContext, EventContext, HookContext, ToolCall, ToolContext, ToolError
from sepkit.testing import TestHost
from sepkit.testing.clock import run_virtual
from tests.memory_host import on_each_loop


def an_app() -> App:
    app = App("waits")

    @app.tool
    def counts(ctx: ToolContext) -> int:
        count = ctx.wait(ctx.kv.get("count")) or 0
        ctx.wait(ctx.kv.set("count", count + 1))
        return int(count) + 1

    @app.tool
    def asks(ctx: ToolContext) -> str:
        return f"{ctx.wait(ctx.ui.confirm('Sure?'))}"

    @app.tool
    async def in_the_loop(ctx: ToolContext) -> str:
        with pytest.raises(RuntimeError, match="Write `await` here"):
            ctx.wait(ctx.kv.get("count"))
        return "raised"

    @app.tool
    def raises(ctx: ToolContext) -> None:
        async def give_up() -> None:
            raise ToolError("as written")

        ctx.wait(give_up())

    @app.tool
    def takes_no_value(ctx: ToolContext) -> None:
        with pytest.raises(TypeError, match="takes an awaitable, such as"):
            ctx.wait(5)  # type: ignore[arg-type]

    @app.tool
    def in_a_thread_of_its_own(ctx: ToolContext) -> Any:
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(ctx.wait(ctx.kv.get("count"))))
        thread.start()
        thread.join()
        return found

    @app.tool
    async def with_a_loop_of_its_own(ctx: ToolContext) -> Any:
        async def inner() -> Any:
            return ctx.wait(ctx.kv.get("count"))  # blocks this loop, and not the one that it waits for

        return await asyncio.to_thread(asyncio.run, inner())

    @app.hook("tool_call")
    def hook(call: ToolCall, ctx: HookContext) -> None:
        ctx.wait(ctx.kv.set("hook", call.tool))

    @app.command
    def command(ctx: CommandContext) -> str:
        return str(ctx.wait(ctx.kv.get("hook")))

    @app.on("turn_start")
    def observe(payload: dict[str, Any], ctx: EventContext) -> None:
        ctx.wait(ctx.kv.set("event", payload))

    return app


@on_each_loop
async def test_a_def_handler_waits_for_what_the_loop_does() -> None:
    """Of every kind: tools, hooks, commands and events; values come back, and exceptions are raised as they are."""
    async with TestHost(an_app(), ui={"confirm": True}) as host:
        assert [(await host.call_tool("counts")).details for _ in range(2)] == [1, 2]
        assert host.kv["count"] == 2
        assert (await host.call_tool("asks")).content == "True"
        assert (await host.call_tool("in_the_loop")).content == "raised"
        result = await host.call_tool("raises")
        assert (result.content, result.is_error) == ("as written", True)
        assert not (await host.call_tool("takes_no_value")).is_error
        assert (await host.call_tool("in_a_thread_of_its_own")).details == [2]
        assert (await host.call_tool("with_a_loop_of_its_own")).details == 2
        await host.call_hook("tool_call", {"tool": "x", "arguments": {}})
        assert await host.run_command("command") == "x"
        await host.send_event("turn_start", {"a": 1})
        assert host.kv["event"] == {"a": 1}


@on_each_loop
async def test_a_cancelled_call_ends_what_its_thread_waits_for() -> None:
    """The thread is told with ``CancelledError``, as an ``async`` handler is, and so it is not left behind."""
    ended = threading.Event()
    waits = threading.Event()
    app = App("waits")

    @app.tool
    def sleeps(ctx: ToolContext) -> None:
        async def sleep() -> None:
            waits.set()
            await asyncio.sleep(3600)

        for _ in range(2):  # the second is refused at once
            try:
                ctx.wait(sleep())
            except asyncio.CancelledError:
                continue
        ended.set()

    async with TestHost(app) as host:
        call = asyncio.create_task(host.call_tool("sleeps"))
        await asyncio.to_thread(waits.wait, 20)
        call.cancel()
        assert await asyncio.to_thread(ended.wait, 20)


@on_each_loop
async def test_a_time_limit_ends_what_a_thread_waits_for() -> None:
    """A tool's ``timeout`` is a cancellation, too."""
    ended = threading.Event()
    app = App("waits")

    @app.tool(timeout=0.3)  # its thread must have begun by then
    def sleeps(ctx: ToolContext) -> None:
        try:
            ctx.wait(asyncio.sleep(3600))
        finally:
            ended.set()

    async with TestHost(app) as host:
        assert "took longer than" in (await host.call_tool("sleeps")).content
        assert await asyncio.to_thread(ended.wait, 20)


def test_virtual_time_passes_while_a_thread_waits_for_the_loop() -> None:
    """An hour that the loop sleeps for a thread takes no time."""
    app = App("waits")

    @app.tool
    def sleeps(ctx: ToolContext) -> str:
        ctx.wait(asyncio.sleep(3600))
        return "slept"

    async def work() -> float:
        loop = asyncio.get_running_loop()
        async with TestHost(app, timeout=7200) as host:
            before = loop.time()
            assert (await host.call_tool("sleeps")).content == "slept"
            return loop.time() - before

    began = time.monotonic()
    assert 3600 <= run_virtual(work()) < 3700
    assert time.monotonic() - began < 20


@on_each_loop
async def test_wait_after_the_end_says_that_the_loop_is_gone_instead_of_waiting() -> None:
    """A thread that the author has left behind does not hang."""
    kept: list[ToolContext] = []
    app = App("waits")

    @app.tool
    def keep(ctx: ToolContext) -> None:
        kept.append(ctx)

    async with TestHost(app) as host:
        await host.call_tool("keep")
    with pytest.raises(Exception, match=r"closed|ended"):
        await asyncio.wait_for(asyncio.to_thread(kept[0].wait, kept[0].kv.get("x")), 20)
