"""How connections of one Served begin and end beside each other: none holds up, outlives or ends another."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sepkit import App, Delta, Model, ProviderRequest, TaskContext, ToolContext
from sepkit.errors import InternalError, InvalidRequest, RegistrationError, RpcError
from sepkit.faces.sep.dispatcher import Dispatcher
from sepkit.faces.sep.link import SepLink
from sepkit.serving.served import Served
from sepkit.tasks import TaskRefused
from sepkit.testing import TestHost
from sepkit.transports.base import Receiver
from sepkit.transports.memory import MemoryTransport, memory_pair
from tests.memory_host import on_each_loop
from tests.serving.test_connections import Connection, Wire, all_levels, connections, until

__all__ = ["all_levels"]  # a fixture for each test here


def pause(host: Connection) -> None:
    transport: Any = host.peer.transport
    transport.pause_reading() if isinstance(transport, MemoryTransport) else transport._pause()


def resume(host: Connection) -> None:
    transport: Any = host.peer.transport
    transport.resume_reading() if isinstance(transport, MemoryTransport) else transport._resume()


# -- tasks, and the lifespan's end -------------------------------------------------------------------------------------


@on_each_loop
async def test_the_end_of_a_lifespan_can_look_at_the_tasks_of_its_own_served_and_of_no_other() -> None:
    seen: list[object] = []

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        yield
        seen.append([health.status for health in app.tasks.status()])
        stopped = await app.tasks.stop("beat")
        assert stopped is not None
        seen.append(stopped.status)
        with pytest.raises(TaskRefused, match="shutting down"):
            app.tasks.start("beat")

    app = App("t", lifespan=lifespan)

    @app.task
    async def beat(ctx: TaskContext) -> None:
        await ctx.wait_stop()

    async with TestHost(app) as other:
        async with TestHost(app):
            pass
        assert seen == [["stopped"], "stopped"]
        assert [health.status for health in await other.list_tasks()] == ["running"]


@on_each_loop
async def test_what_an_ended_served_left_behind_does_not_act_on_the_tasks_of_another() -> None:
    app = App("t")
    go_on = asyncio.Event()
    left: list[asyncio.Task[object]] = []

    @app.task
    async def beat(ctx: TaskContext) -> None:
        await ctx.wait_stop()

    @app.tool
    async def leave_behind() -> None:
        async def later() -> object:
            await go_on.wait()
            return await app.tasks.stop("beat")

        left.append(asyncio.create_task(later()))

    async with TestHost(app) as other:
        async with TestHost(app) as host:
            await host.call_tool("leave_behind")
        go_on.set()
        with pytest.raises(RegistrationError, match="what served this one has ended"):
            await left[0]
        assert [health.status for health in await other.list_tasks()] == ["running"]


@on_each_loop
async def test_every_host_reads_how_a_task_ends_also_when_the_first_one_has_left() -> None:
    app = App("t")

    @app.task(restart="never")
    async def crash(ctx: TaskContext) -> None:
        await ctx.kv.get("wait for it")
        raise ValueError("broken")

    served = Served(app)
    async with connections(served, 3, "memory") as (first, second, third):
        await first.end()
        served.supervisor.start(app.task_specs["crash"], id="again")
        for host in (second, third):
            await until(lambda host=host: "task 'again': run 1 raised" in [log["message"] for log in host.logs])  # type: ignore[misc]


@pytest.mark.parametrize(
    "loop_kind", ["uvloop"]
)  # asyncio keeps cancelled timers, and what they hold, until they are due
@on_each_loop
async def test_a_task_keeps_no_connection_alive() -> None:
    app = App("t")

    @app.task(autostart=False)
    async def beat(ctx: TaskContext) -> None:
        await ctx.wait_stop()

    @app.tool
    async def begin(number: int) -> None:
        app.tasks.start(beat, id=str(number))

    async with Served(app) as served:
        links = []
        for number in range(5):
            async with connections(served, 1, "memory") as (host,):
                await host.call("begin", number=number)
                links.append(weakref.ref(host.dispatcher._link))
            del host
        await asyncio.sleep(0)
        gc.collect()
        assert sum(link() is not None for link in links) <= 1, "the last one may still be on the stack"


@on_each_loop
async def test_a_task_asks_a_connection_that_stays_rather_than_one_that_is_leaving() -> None:
    app = App("t")
    go_on = asyncio.Event()

    @app.tool
    async def slow() -> None:
        await go_on.wait()

    @app.task
    async def keep(ctx: TaskContext) -> None:
        while not await ctx.wait_stop(0.001):
            await ctx.kv.set("beat", ctx.host.name)

    async with connections(Served(app), 2, "memory") as (first, second):
        call = asyncio.create_task(first.call("slow"))
        await until(lambda: first.kv.get("beat") == "host0")
        first.dispatcher.stop()
        await until(lambda: second.kv.get("beat") == "host1")
        assert not call.done(), "the first one still works on its call"
        go_on.set()
        await call


# -- one that does not read --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", ["memory", "pipes"])
@on_each_loop
async def test_a_host_that_does_not_read_leaves_the_slots_to_the_others(wire: Wire) -> None:
    app = App("t")

    @app.tool
    async def big() -> str:
        return "x" * 600_000

    @app.tool
    async def small() -> str:
        return "ok"

    served = Served(app, max_concurrency=4, max_waiting=8)
    async with connections(served, 2, wire) as (deaf, other):
        pause(deaf)
        calls = [asyncio.create_task(deaf.call("big")) for _ in range(30)]
        await until(lambda: served.calls._draining)
        for _ in range(3):
            assert await asyncio.wait_for(other.call("small"), 20) == {"content": "ok"}
        resume(deaf)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, InternalError)]
        assert refused, "what waits for it to read is bounded"
        assert all(error.data == {"reason": "overloaded"} for error in refused)
        assert all(len(answer["content"]) == 600_000 for answer in answers if isinstance(answer, dict))
        assert served.calls.slots.running == 0
        assert not served.calls._draining


@on_each_loop
async def test_a_stream_to_a_host_that_does_not_read_holds_no_slot() -> None:
    app = App("t")

    @app.provider("p", models=[Model("m")])
    async def answer(request: ProviderRequest) -> AsyncIterator[Delta]:
        for _ in range(100):
            yield Delta("x" * 100_000)

    @app.tool
    async def small() -> str:
        return "ok"

    served = Served(app, max_concurrency=1)
    async with connections(served, 2, "memory") as (deaf, other):
        pause(deaf)
        params = {"request_id": "r", "provider": "p", "model": "m", "messages": [], "stream": True}
        completing = asyncio.create_task(deaf.peer.request("provider/complete", params))
        await until(lambda: deaf.dispatcher.peer.congested)
        assert await asyncio.wait_for(other.call("small"), 20) == {"content": "ok"}
        resume(deaf)
        assert len((await completing)["content"]) == 10_000_000
        assert served.calls.slots.running == 0


# -- ends that overlap -------------------------------------------------------------------------------------------------


@on_each_loop
async def test_a_server_that_cancels_what_is_ending_still_waits_for_its_calls() -> None:
    order: list[str] = []
    go_on = asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        yield
        order.append("lifespan left")

    app = App("t", lifespan=lifespan)

    @app.tool
    async def work() -> None:
        await go_on.wait()
        order.append("call ended")

    async with Served(app) as served:
        host = Connection("host", served, "memory")
        await host.begin()
        call = asyncio.create_task(host.call("work"))
        await until(lambda: served.calls.slots.running)
        host.dispatcher.stop()
        host.serving.cancel()
        await asyncio.sleep(0.01)
        host.serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await host.serving
        go_on.set()
        await call
        await until(lambda: not served.links)
    assert order == ["call ended", "lifespan left"]
    assert app.serving == []


@on_each_loop
async def test_one_that_comes_too_late_is_told_so_and_cuts_no_end_short() -> None:
    order: list[str] = []
    go_on = asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        yield
        order.append("closing")
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            order.append("cancelled")
            raise
        order.append("closed")

    served = Served(App("t", lifespan=lifespan))
    first, late = Connection("first", served, "memory"), Connection("late", served, "memory")
    await first.begin()
    ending = asyncio.create_task(first.end())
    await until(lambda: order)
    with pytest.raises(InvalidRequest, match="the extension is shutting down"):
        await late.begin()
    leaving = asyncio.create_task(late.end())
    await asyncio.sleep(0.05)
    go_on.set()
    await asyncio.gather(ending, leaving)
    assert order == ["closing", "closed"]
    assert late.failure is None


class Broken(MemoryTransport):
    def start(self, receiver: Receiver) -> None:
        raise OSError("no such wire")


@on_each_loop
async def test_a_connection_that_never_began_keeps_nothing_alive() -> None:
    served = Served(App("t"))
    broken = Dispatcher(served, Broken())
    with pytest.raises(OSError, match="no such wire"):
        await broken.serve()
    assert not served._joined

    served = Served(App("t"))
    early = Dispatcher(served, memory_pair()[0])
    early.stop()
    await asyncio.wait_for(early.serve(), 20)
    assert not served.ending, "what stopped before it served does not end it for others"
    async with connections(served, 1, "memory") as (host,):
        await host.peer.request("ping", {})
    assert served.ending


# -- beginnings --------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_a_lifespan_that_started_a_task_and_failed_can_be_entered_again() -> None:
    attempts = 0

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[str]:
        nonlocal attempts
        attempts += 1
        app.tasks.start("beat")
        if attempts == 1:
            raise ValueError("not yet")
        yield "open"

    app = App("t", lifespan=lifespan)

    @app.task(autostart=False)
    async def beat(ctx: TaskContext) -> None:
        await ctx.wait_stop()

    @app.tool
    async def look(ctx: ToolContext) -> str:
        return f"{ctx.state} {[health.status for health in app.tasks.status()]}"

    served = Served(app)
    first, second = Connection("first", served, "memory"), Connection("second", served, "memory")
    served.join(second.dispatcher._link)  # so that the first failure does not end it
    with pytest.raises(RpcError):
        await first.begin()
    await second.begin()
    assert await second.call("look") == {"content": "open ['running']"}
    await first.end()
    await second.end()


@on_each_loop
async def test_a_server_that_holds_it_has_the_lifespan_before_the_first_connection() -> None:
    states: list[object] = []

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[str]:
        yield "open"

    app = App("t", lifespan=lifespan)

    @app.task(autostart=False)
    async def look(ctx: TaskContext) -> None:
        states.append(ctx.state)

    async with Served(app):
        handle = app.tasks.start(look)
        await until(lambda: states)
        await handle.stop()
    assert states == ["open"]


@on_each_loop
async def test_what_a_runner_does_at_the_handshake_may_fail_and_is_told() -> None:
    def fail(link: SepLink) -> None:
        raise ValueError("no log today")

    served = Served(App("t"))
    host = Connection("host", served, "memory")
    host.dispatcher._on_ready = fail
    with pytest.raises(InternalError):
        await host.begin()
    await host.end()
    assert isinstance(host.failure, ValueError)


@on_each_loop
async def test_a_def_handler_may_register_while_another_connection_shakes_hands() -> None:
    app = App("t")
    numbers = iter(range(10_000))

    @app.tool
    def grow() -> None:
        for _ in range(200):
            app.add_tool(lambda: "new", name=f"new{next(numbers)}")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        async with Served(app) as served:
            first = Connection("first", served, "memory")
            await first.begin()
            for number in range(8):
                growing = asyncio.create_task(first.call("grow"))
                another = Connection(f"another{number}", served, "memory")
                await another.begin()
                await growing
                await another.end()
            await first.end()
    finally:
        sys.setswitchinterval(interval)


@on_each_loop
async def test_what_is_said_of_one_hosts_lines_is_not_told_to_another() -> None:
    app = App("t")
    app.flag("who")
    async with Served(app) as served, connections(served, 2, "memory") as (rude, other):
        rude.peer.transport.write(b"tru\n")
        rude.peer.notify("event", {"event": 1})
        await rude.peer.request("ping", {})
        await until(lambda: len(rude.logs) >= 2)
        await other.peer.request("ping", {})
        assert [log["message"].partition(":")[0] for log in rude.logs] == [
            "refused a line that is no frame",
            "ignored a malformed event",
        ]
        assert other.logs == []
        logging.getLogger("sepkit").info("said to all")
        await until(lambda: other.logs)
