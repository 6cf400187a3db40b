"""Whatever a handler gives back awaitable is awaited, of whatever kind the handler is and however it was wrapped."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import pytest
from typing_extensions import deprecated

from sepkit import (
    App,
    Block,
    CommandContext,
    Credentials,
    Delta,
    EventContext,
    HookContext,
    ProviderContext,
    TaskContext,
    ToolCall,
    ToolContext,
)
from tests.checked_host import CheckedHost
from tests.memory_host import CONTEXT, MemoryHost, on_each_loop


def logged(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as most are written: a plain function around one that may be a coroutine function."""

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


def late(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A coroutine function that returns the coroutine of another one, as where an ``await`` is forgotten."""

    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


def future(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A coroutine function that returns a task."""

    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return asyncio.ensure_future(fn(*args, **kwargs))

    return wrapper


def bound(fn: Callable[..., Any]) -> Callable[..., Any]:
    return functools.partial(logged(fn))


old = deprecated("use another one")
pytestmark = pytest.mark.filterwarnings("ignore:use another one")
each_wrapper = pytest.mark.parametrize("wrap", [logged, late, future, bound, old], ids=lambda wrap: str(wrap)[:20])


@each_wrapper
@pytest.mark.parametrize("timeout", [None, 5.0])
@on_each_loop
async def test_a_wrapped_tool_gives_its_result(wrap: Any, timeout: float | None) -> None:
    """Before, its result could not be sent: it was a coroutine."""
    app = App("t")

    async def greet(name: str, ctx: ToolContext) -> str:
        await asyncio.sleep(0)
        return f"Hello, {name}: {ctx.call_id is not None}"

    app.add_tool(wrap(greet), timeout=timeout)
    async with CheckedHost(app) as host:
        assert (await host.call_tool("greet", {"name": "Ada"})).content == "Hello, Ada: True"


@each_wrapper
@on_each_loop
async def test_a_wrapped_hook_decides(wrap: Any) -> None:
    """Before, it was a bad decision, and so each tool was blocked."""
    app = App("t")

    async def gate(call: ToolCall, ctx: HookContext) -> Block | None:
        await asyncio.sleep(0)
        return Block("no") if call.tool == "bash" else None

    app.hook("tool_call")(wrap(gate))
    async with MemoryHost(app) as host:
        asked = {"hook": "tool_call", "context": CONTEXT}
        assert await host.ask("hook", {**asked, "input": {"tool": "read"}}) == {"action": "continue"}
        blocked = await host.ask("hook", {**asked, "input": {"tool": "bash"}})
        assert blocked == {"action": "block", "reason": "no"}


@each_wrapper
@on_each_loop
async def test_a_wrapped_observer_is_run(wrap: Any) -> None:
    """Before, it silently did nothing."""
    app = App("t")
    got: asyncio.Queue[object] = asyncio.Queue()

    async def heard(payload: dict[str, Any], ctx: EventContext) -> None:
        await asyncio.sleep(0)
        got.put_nowait((payload["n"], ctx.name))

    app.on("turn_start")(wrap(heard))
    async with CheckedHost(app) as host:
        await host.send_event("turn_start", {"n": 1})
        assert await got.get() == (1, "turn_start")


@each_wrapper
@on_each_loop
async def test_a_wrapped_command_and_its_completer_answer(wrap: Any) -> None:
    app = App("t")

    async def paint(colour: str, ctx: CommandContext) -> str:
        await asyncio.sleep(0)
        return f"{colour}!"

    async def colours(partial: str) -> list[str]:
        await asyncio.sleep(0)
        return [f"{partial}d"]

    app.add_command(wrap(paint))
    app.complete("paint")(wrap(colours))
    async with MemoryHost(app) as host:
        executed = {"command": "paint", "arguments": {"colour": "red"}, "context": CONTEXT}
        assert await host.ask("command/execute", executed) == {"content": "red!"}
        completed = {"command": "paint", "partial": "re", "context": CONTEXT}
        assert await host.ask("command/complete", completed) == {"completions": [{"value": "red"}]}


REQUEST = {"request_id": "r", "provider": "p", "model": "m", "messages": []}


@pytest.mark.parametrize("wrap", [logged, bound, old], ids=["wraps", "partial", "deprecated"])
@on_each_loop
async def test_a_wrapped_provider_streams_and_its_login_gives_credentials(wrap: Any) -> None:
    app = App("t")

    async def answer(request: dict[str, Any], ctx: ProviderContext) -> AsyncIterator[Delta]:
        await asyncio.sleep(0)
        yield Delta(request["model"])

    async def login(ctx: ProviderContext) -> Credentials:
        await asyncio.sleep(0)
        return Credentials(api_key="k")

    app.provider("p")(wrap(answer))
    app.oauth_login("p")(wrap(login))
    async with MemoryHost(app) as host:
        assert (await host.ask("provider/complete", REQUEST))["content"] == "m"
        assert await host.ask("provider/oauth_login", {"provider": "p"}) == {"api_key": "k"}


@on_each_loop
async def test_a_provider_may_be_a_function_that_returns_a_stream() -> None:
    """Its answer is the stream of another one, and what is no stream fails that completion only."""
    app = App("t")

    async def upstream() -> AsyncIterator[Delta]:
        yield Delta("a")

    def answer(request: dict[str, Any]) -> AsyncIterator[Delta]:
        return upstream() if request["model"] == "m" else None  # type: ignore[return-value]  # on purpose

    app.provider("p")(answer)
    async with MemoryHost(app) as host:
        assert (await host.ask("provider/complete", REQUEST))["content"] == "a"
        error = await host.refused("provider/complete", {**REQUEST, "model": "other"})
        assert error["code"] == -32603


@on_each_loop
async def test_a_wrapped_task_runs() -> None:
    app = App("t")
    ran: asyncio.Queue[str] = asyncio.Queue()

    async def tidy(ctx: TaskContext | None = None) -> None:
        assert ctx is not None
        ran.put_nowait(ctx.task_id)

    app.task(restart="never")(logged(tidy))
    async with CheckedHost(app):
        assert await ran.get() == "tidy"


@on_each_loop
async def test_a_lambda_that_returns_a_coroutine_is_awaited() -> None:
    """Of each kind that takes a function without annotations."""
    app = App("t")
    got: asyncio.Queue[str] = asyncio.Queue()

    async def put(text: str) -> str:
        await asyncio.sleep(0)
        got.put_nowait(text)
        return text

    app.add_tool(lambda: put("tool"), name="tool")
    app.add_tool(functools.partial(put, text="partial"), name="partial")
    app.add_command(lambda: put("command"), name="command")
    app.on("turn_start")(lambda: put("event"))  # type: ignore[type-var]  # on purpose
    async with CheckedHost(app) as host:
        assert (await host.call_tool("tool")).content == "tool"
        assert (await host.call_tool("partial")).content == "partial"
        assert await host.run_command("command") == "command"
        await host.send_event("turn_start", {})
        assert {await got.get() for _ in range(4)} == {"tool", "partial", "command", "event"}


@on_each_loop
async def test_a_coroutine_that_comes_after_the_time_limit_is_closed() -> None:
    """Python would warn that it was never awaited, in a log that names no call."""
    app = App("t")
    began, go_on = threading.Event(), threading.Event()
    made: list[Any] = []

    async def work() -> None: ...

    @app.tool(timeout=0.01)
    def slow() -> Any:
        began.set()
        go_on.wait(20)
        made.append(work())
        return made[0]

    async with CheckedHost(app) as host:
        while not began.is_set():  # a call whose time is over before a thread has begun with it is never made
            assert (await host.call_tool("slow")).is_error
        go_on.set()
        while not made or inspect.getcoroutinestate(made[0]) != inspect.CORO_CLOSED:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    "annotation",
    [EventContext, EventContext | None, Annotated[EventContext, "who sent it"], Annotated[EventContext | None, []]],
    ids=str,
)
@on_each_loop
async def test_a_context_is_given_however_it_is_annotated(annotation: Any) -> None:
    """Before, ``ctx: EventContext | None = None`` was always None in events and hooks."""
    app = App("t")
    got: asyncio.Queue[object] = asyncio.Queue()

    def heard(payload: dict[str, Any], ctx: Any = None) -> None:
        got.put_nowait(type(ctx))

    async def gate(ctx: Any = None) -> None:
        got.put_nowait(type(ctx))

    heard.__annotations__["ctx"] = annotation
    gate.__annotations__["ctx"] = HookContext | None
    app.on("turn_start")(heard)
    app.hook("tool_call")(gate)
    async with CheckedHost(app) as host:
        await host.send_event("turn_start", {})
        assert await got.get() is EventContext
        await host.call_hook("tool_call", {"tool": "t"})
        assert await got.get() is HookContext


@on_each_loop
async def test_a_payload_of_classes_in_a_dict_is_structured() -> None:
    """``dict[str, P]`` of an event is what it would be of a tool."""
    app = App("t")
    got: asyncio.Queue[object] = asyncio.Queue()

    @app.on("prices")
    async def heard(prices: dict[str, Annotated[int, "in cents", ["without a hash"]]]) -> None:
        got.put_nowait(prices)

    async with CheckedHost(app) as host:
        await host.send_event("prices", {"a": "x"})
        await host.send_event("prices", {"a": 5})
        assert await got.get() == {"a": 5}
        assert got.empty()
