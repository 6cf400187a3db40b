"""What handlers raise in groups, and handlers that cancel themselves: failures like any other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sepkit import App, CommandContext, Delta, RpcError, ToolCall, ToolError
from sepkit.errors import ConnectionClosed, LifespanEnded
from sepkit.serving.served import Served
from sepkit.testing import TestHost
from tests.memory_host import MemoryHost, on_each_loop


async def give_up(text: str) -> None:
    raise ToolError(text)


async def fail() -> None:
    raise ValueError("a secret")


def an_app() -> App:
    app = App("groups")

    @app.tool
    async def grouped() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(give_up("as written"))
            group.create_task(asyncio.sleep(3600))

    @app.tool
    async def nested() -> None:
        async with asyncio.TaskGroup() as outer:
            outer.create_task(give_up("the first"))
            async with asyncio.TaskGroup() as inner:
                inner.create_task(give_up("the second"))

    @app.tool
    async def mixed() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(give_up("as written"))
            group.create_task(fail())

    @app.tool
    def plain() -> None:
        raise ExceptionGroup("of a def", [ToolError("as written")])

    @app.tool
    async def unforeseen() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    @app.command
    async def command(ctx: CommandContext) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(give_up("as written"))

    @app.provider("groups", models=[])
    async def provider(request: Any) -> AsyncIterator[Delta]:
        yield Delta("x")
        raise ExceptionGroup("upstream", [RpcError("denied upstream", code=-32001)])

    return app


@on_each_loop
async def test_a_tool_error_in_a_group_reaches_the_model_as_written() -> None:
    """Of a task group, nested ones, and beside an unexpected exception, whose text stays here."""
    async with TestHost(an_app()) as host:
        for tool, content in (("grouped", "as written"), ("plain", "as written")):
            result = await host.call_tool(tool)
            assert (result.content, result.is_error, result.details) == (content, True, None), tool
        result = await host.call_tool("nested")
        assert set(result.content.split("\n")) <= {"the first", "the second"}
        result = await host.call_tool("mixed")
        text, _, rest = result.content.partition("\n")
        assert text == "as written"
        assert rest.startswith("The tool mixed failed unexpectedly; its log names it ")
        assert result.details is not None
        assert "secret" not in result.content
        result = await host.call_tool("unforeseen")
        assert result.content.startswith("The tool unforeseen failed unexpectedly")
        with pytest.raises(RpcError, match="as written"):
            await host.run_command("command")


@on_each_loop
async def test_what_a_provider_tells_the_host_crosses_out_of_a_group() -> None:
    """An ``RpcError`` is for the host, however it was raised."""
    async with TestHost(an_app()) as host:
        with pytest.raises(RpcError, match="denied upstream") as raised:
            await host.complete("groups", model="m", messages=[])
        assert raised.value.code == -32001


def a_suicidal_app() -> App:
    app = App("cancels")

    @app.tool
    async def at_once() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)
        return "not reached"

    @app.tool
    async def later() -> str:
        await asyncio.sleep(0)
        return await at_once()

    @app.tool
    async def raises() -> str:
        raise asyncio.CancelledError

    @app.tool
    def in_a_thread() -> str:
        raise asyncio.CancelledError

    @app.tool(timeout=60)
    async def limited() -> str:
        return await later()

    @app.tool
    async def by_another() -> str:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)
        await asyncio.sleep(3600)
        return "not reached"

    @app.tool
    async def fine() -> str:
        await asyncio.sleep(0)
        return "fine"

    @app.hook("tool_call")
    async def hook(call: ToolCall) -> None:
        await at_once()

    @app.command
    async def command() -> str:
        return await at_once()

    app.seen = []  # type: ignore[attr-defined]

    @app.on("turn_start")
    async def observe(payload: dict[str, Any]) -> None:
        task = asyncio.current_task()
        assert task is not None
        app.seen.append((payload["n"], task.cancelling()))  # type: ignore[attr-defined]
        task.cancel()
        if payload["n"] % 2:
            await asyncio.sleep(0)
        # else the cancellation is still due when it returns

    return app


@on_each_loop
async def test_a_handler_that_cancels_itself_has_failed_like_any_other() -> None:
    """A tool gets a result that names an id, a hook and a command an error; no later call is cancelled for it."""
    async with TestHost(a_suicidal_app()) as host:
        for tool in ("at_once", "later", "raises", "in_a_thread", "limited", "by_another"):
            result = await host.call_tool(tool)
            assert result.content.startswith(f"The tool {tool} failed unexpectedly; its log names it "), tool
            assert result.is_error
            assert (await host.call_tool("fine")).content == "fine"
        with pytest.raises(RpcError, match="failed unexpectedly"):
            await host.call_hook("tool_call", {"tool": "x", "arguments": {}})
        with pytest.raises(RpcError, match="failed unexpectedly"):
            await host.run_command("command")


@on_each_loop
async def test_an_event_handler_that_cancels_itself_gets_the_next_events() -> None:
    """Each of them, in order, and with a task that is not cancelled."""
    app = a_suicidal_app()
    async with TestHost(app) as host:
        for number in range(6):
            await host.send_event("turn_start", {"n": number}, wait=False)
        await host.send_event("turn_start", {"n": 6})
        assert app.seen == [(number, 0) for number in range(7)]  # type: ignore[attr-defined]


@on_each_loop
async def test_a_lifespan_that_ends_by_itself_fails_the_test_that_did_not_expect_it() -> None:
    """What is in flight is answered; the block raises ``LifespanEnded``, whose cause is what the lifespan raised."""
    dies = asyncio.Event()

    async def die() -> None:
        await dies.wait()
        raise ConnectionError("the database has gone")

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            group.create_task(die())
            yield

    app = App("lives", lifespan=lifespan)

    @app.tool
    async def waits() -> str:
        dies.set()
        await asyncio.sleep(0.01)
        return "answered"

    async def work() -> None:
        async with TestHost(app) as host:
            assert (await host.call_tool("waits")).content == "answered"
            with pytest.raises(ConnectionClosed):
                await host.until(lambda: False)

    with pytest.raises(LifespanEnded) as raised:
        await work()
    assert isinstance(raised.value.__cause__, ExceptionGroup)
    assert isinstance(raised.value.__cause__.exceptions[0], ConnectionError)


@on_each_loop
async def test_the_end_of_a_lifespan_ends_every_connection_of_the_app() -> None:
    """And none can begin afterwards: the state that they would share is closed."""
    dies = asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        task = asyncio.current_task()
        assert task is not None
        killer = asyncio.create_task(dies.wait())
        killer.add_done_callback(lambda _: task.cancel())
        yield

    served = Served(App("lives", lifespan=lifespan))
    hosts = [MemoryHost(served.app, served=served) for _ in range(2)]
    async with hosts[0], hosts[1]:
        dies.set()
        assert [type(await host.end()) for host in hosts] == [LifespanEnded, LifespanEnded]
    assert isinstance(served.failure, LifespanEnded)
    with pytest.raises(LifespanEnded):
        await served.start(None)  # type: ignore[arg-type]  # refused before it is looked at
