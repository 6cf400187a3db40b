"""One App on several connections at once: each sees only its own, and what is shared is there once.

Over memory and over pipes; through one ``Served``, or through several.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Literal

import pytest

from sepkit import App, Block, EventContext, HookContext, TaskContext, ToolCall, ToolContext
from sepkit.errors import InvalidRequest, RegistrationError, RpcError, SepkitError
from sepkit.faces.log import WireHandler
from sepkit.faces.sep.dispatcher import Dispatcher
from sepkit.faces.sep.link import SepLink
from sepkit.peer import Peer
from sepkit.serving.served import Served
from sepkit.testing import TestHost
from sepkit.transports.base import Transport
from sepkit.transports.descriptors import DescriptorTransport
from sepkit.transports.memory import memory_pair
from tests.memory_host import on_each_loop

Wire = Literal["memory", "pipes"]
MODES = ("tui", "web", "widget", "cli", "headless")
ROUNDS = 1000 if os.environ.get("SEPKIT_SOAK") else 40


def pair(wire: Wire) -> tuple[Transport, Transport]:
    if wire == "memory":
        return memory_pair()
    (ours, to_them), (theirs, to_us) = os.pipe(), os.pipe()
    return DescriptorTransport(theirs, to_them), DescriptorTransport(ours, to_us)


def mode_of(name: str) -> str:
    return MODES[sum(map(ord, name)) % len(MODES)]


class Connection:
    """A host of its own on one connection to what is served; it keeps all that it is told."""

    def __init__(self, name: str, served: Served, wire: Wire, *, tasks: bool = False) -> None:
        self.name = name
        self.kv: dict[str, Any] = {}
        self.updates: list[dict[str, Any]] = []
        self.logs: list[dict[str, Any]] = []
        self.tasks: list[dict[str, Any]] = []
        self.registered: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.failure: BaseException | None = None
        self._tasks = tasks
        self._calls = 0
        self._handler: WireHandler | None = None
        ours, theirs = pair(wire)
        self.dispatcher = Dispatcher(served, theirs, on_ready=self._ready)
        self.peer = Peer(
            ours,
            routes={"kv/get": self._get, "kv/set": self._set, "ui/request": self._ui},
            notifications={
                "tool/update": self.updates.append,
                "log": self.logs.append,
                "task/update": self.tasks.append,
                "registry/update": self.registered.append,
            },
        )

    def _ready(self, link: SepLink) -> None:
        self._handler = WireHandler(link)
        logging.getLogger().addHandler(self._handler)

    async def _get(self, params: dict[str, Any]) -> object:
        return {"value": self.kv.get(params["key"])}

    async def _set(self, params: dict[str, Any]) -> object:
        self.kv[params["key"]] = params["value"]
        return {}

    async def _ui(self, params: dict[str, Any]) -> object:
        await asyncio.sleep(0)
        self.asked.append(params["prompt"])
        return {"text": self.name}

    async def begin(self) -> dict[str, Any]:
        self.serving = asyncio.create_task(self.dispatcher.serve())
        self.peer.start()
        params = {
            "protocol_version": 1,
            "host": {"name": self.name, "version": "1"},
            "workspace": {"root": f"/{self.name}", "trusted": True},
            "session": {"id": f"session of {self.name}"},
            "mode": mode_of(self.name),
            "flags": {"who": self.name},
            "ui_capabilities": ["input"],
            "capabilities_enabled": {"tasks": self._tasks},
        }
        result: dict[str, Any] = await self.peer.request("initialize", params)
        return result

    async def call(self, tool: str, **arguments: object) -> Any:
        self._calls += 1
        context = {"token": f"token of {self.name}", "tier": "command"}
        params = {
            "call_id": f"{self.name}-{self._calls}",
            "tool": tool,
            "arguments": arguments,
            "context": context,
        }
        return await self.peer.request("tool/execute", params)

    def event(self, name: str, payload: dict[str, Any]) -> None:
        context = {"token": f"event of {self.name}", "tier": "event"}
        self.peer.notify("event", {"event": name, "context": context, "payload": payload, "seq": 1})

    async def end(self) -> None:
        if self._handler is not None:
            logging.getLogger().removeHandler(self._handler)
        if not self.serving.done():
            with contextlib.suppress(SepkitError):
                await self.peer.request("shutdown", {}, timeout=10)
        await self.peer.aclose()
        await asyncio.wait([self.serving], timeout=10)
        self.failure = self.serving.exception()


@asynccontextmanager
async def connections(served: Served, count: int, wire: Wire, **options: Any) -> AsyncIterator[list[Connection]]:
    """So many hosts, hands shaken; at the end they leave one after another."""
    made = [Connection(f"host{number}", served, wire, **options) for number in range(count)]
    await asyncio.gather(*(one.begin() for one in made))
    try:
        yield made
    finally:
        for one in made:
            await one.end()


def an_app(entered: list[str] | None = None) -> App:
    found = [] if entered is None else entered

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[dict[str, Any]]:
        found.append("entered")
        await asyncio.sleep(0)
        yield {"seen": []}
        found.append("left")

    app = App("shared", lifespan=lifespan)
    app.flag("who", default="no host")

    @app.tool
    async def work(n: int, ctx: ToolContext) -> dict[str, Any]:
        """All that a handler can ask and tell, with pauses in which others run."""
        ctx.update(f"{ctx.flags['who']} {n}")
        ctx.log.info("work of %s", ctx.flags["who"])
        await ctx.kv.set("mine", ctx.flags["who"])
        await asyncio.sleep(0)
        typed = await ctx.ui.input(f"who is it in {n}?")
        logging.getLogger("elsewhere").warning("elsewhere for %s", ctx.flags["who"])
        kept = await ctx.kv.get("mine")
        return {
            "flag": ctx.flags["who"],
            "host": ctx.host.name,
            "mode": ctx.host.mode,
            "root": ctx.workspace.root,
            "session": ctx.host.session_id,
            "typed": typed,
            "kept": kept,
            "token": ctx.context.token,
            "n": n,
        }

    @app.tool
    def in_a_thread(ctx: ToolContext) -> str:
        logging.getLogger("elsewhere").warning("thread of %s", ctx.flags["who"])
        ctx.update(f"{ctx.flags['who']} in a thread")
        return str(ctx.flags["who"])

    @app.tool
    async def share(value: int, ctx: ToolContext) -> list[int]:
        ctx.state["seen"].append(value)
        return list(ctx.state["seen"])

    @app.hook("tool_call")
    async def gate(call: ToolCall, ctx: HookContext) -> Block | None:
        await asyncio.sleep(0)
        return Block(f"not for {ctx.flags['who']}")

    @app.on("turn_start")
    async def turn(payload: dict[str, Any], ctx: EventContext) -> None:
        await asyncio.sleep(0)
        await ctx.kv.set("turn", [payload["n"], ctx.flags["who"]])

    return app


async def until(found: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not found():
            await asyncio.sleep(0.001)


def same(found: dict[str, Any], key: str, expected: object) -> bool:
    return bool(found.get(key) == expected)


def reported(host: Connection) -> bool:
    return any(task.get("last_health_status") for task in host.tasks)


def stopped(host: Connection) -> bool:
    return bool(host.tasks[-1]["status"] == "stopped")


@pytest.fixture(autouse=True)
def all_levels() -> Any:
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.INFO)
    yield
    root.setLevel(before)


@pytest.mark.parametrize("wire", ["memory", "pipes"])
@pytest.mark.parametrize("count", [2, 10])
@on_each_loop
async def test_each_of_many_connections_under_load_sees_only_its_own(wire: Wire, count: int) -> None:
    """Flags, mode, workspace, answers, updates and logs of one connection reach no other one."""
    entered: list[str] = []
    served = Served(an_app(entered), max_concurrency=64)
    async with connections(served, count, wire) as hosts:

        async def drive(host: Connection) -> None:
            for first in range(0, ROUNDS, 20):
                host.event("turn_start", {"n": first})
                calls = [host.call("work", n=n) for n in range(first, first + 20)]
                answers = await asyncio.gather(*calls, host.call("in_a_thread"))
                for n, answer in enumerate(answers[:-1], first):
                    assert answer["details"] == {
                        "flag": host.name,
                        "host": host.name,
                        "mode": mode_of(host.name),
                        "root": f"/{host.name}",
                        "session": f"session of {host.name}",
                        "typed": host.name,
                        "kept": host.name,
                        "token": f"token of {host.name}",
                        "n": n,
                    }
                assert answers[-1] == {"content": host.name}
                context = {"token": "t", "tier": "command"}
                asked = {"hook": "tool_call", "context": context, "input": {"tool": "t", "arguments": {}}}
                assert await host.peer.request("hook", asked) == {"action": "block", "reason": f"not for {host.name}"}

        await asyncio.gather(*(drive(host) for host in hosts))
        for host in hosts:
            await until(partial(same, host.kv, "turn", [ROUNDS - 20, host.name]))
            assert {update["message"].split()[0] for update in host.updates} == {host.name}
            assert {update["call_id"].split("-")[0] for update in host.updates} == {host.name}
            said = [log["message"] for log in host.logs if not log["fields"]["logger"].startswith("sepkit")]
            assert len(said) == ROUNDS * 2 + ROUNDS // 20
            assert {message.rpartition(" ")[2] for message in said} == {host.name}
            assert len(host.asked) == ROUNDS
        assert entered == ["entered"], "the lifespan is entered once for all"
    assert entered == ["entered", "left"], "and left with the last"
    assert served.app.serving == []
    assert served.links == []


@on_each_loop
async def test_the_state_is_shared_by_the_connections_and_by_no_second_served() -> None:
    entered: list[str] = []
    app = an_app(entered)
    one, other = Served(app), Served(app)
    async with connections(one, 2, "memory") as (first, second), connections(other, 1, "memory") as (third,):
        assert (await first.call("share", value=1))["details"] == [1]
        assert (await second.call("share", value=2))["details"] == [1, 2]
        assert (await third.call("share", value=3))["details"] == [3]
        assert entered == ["entered", "entered"]
    assert entered == ["entered", "entered", "left", "left"]


@on_each_loop
async def test_two_test_hosts_of_one_app_do_not_mix() -> None:
    """Each has flags, mode, tasks and registry updates of its own."""
    app = App("t")
    app.flag("who", default="?")
    beats: list[str] = []

    @app.task
    async def beat(ctx: TaskContext) -> None:
        beats.append(ctx.host.mode)
        ctx.report_health(f"beating for {ctx.flags['who']}")
        await ctx.wait_stop()

    @app.tool
    async def who(ctx: ToolContext) -> str:
        return f"{ctx.flags['who']} {ctx.host.mode} {len(app.tasks.status())}"

    @app.tool
    async def stop() -> str:
        health = await app.tasks.stop("beat")
        assert health is not None
        return health.status

    async with TestHost(app, flags={"who": "a"}, mode="web") as a, TestHost(app, flags={"who": "b"}, mode="cli") as b:
        assert (await a.call_tool("who")).content == "a web 1"
        assert (await b.call_tool("who")).content == "b cli 1"
        await a.until(lambda: a.task_updates and a.task_updates[-1].last_health_status)
        await b.until(lambda: b.task_updates and b.task_updates[-1].last_health_status)
        assert [(await one.list_tasks())[0].last_health_status for one in (a, b)] == ["beating for a", "beating for b"]
        assert sorted(beats) == ["cli", "web"]
        assert (await a.call_tool("stop")).content == "stopped"
        assert [(await one.list_tasks())[0].status for one in (a, b)] == ["stopped", "running"]
        with pytest.raises(RegistrationError, match="served 2 times in this process"):
            app.tasks.status()
    assert app.tasks.status() == []


@on_each_loop
async def test_tasks_run_once_for_all_connections_and_each_host_that_asked_is_told() -> None:
    app = App("t")
    runs: list[str] = []

    @app.task
    async def beat(ctx: TaskContext) -> None:
        runs.append(ctx.host.name)
        ctx.report_health("well")
        await ctx.wait_stop()

    @app.tool
    async def later(ctx: ToolContext) -> str:
        return str(len(app.tasks.status()))

    served = Served(app)
    async with connections(served, 3, "memory", tasks=True) as hosts:
        for host in hosts:
            await until(partial(reported, host))
            assert (await host.call("later")) == {"content": "1"}
            listed = await host.peer.request("task/list", {})
            assert [task["task_id"] for task in listed["tasks"]] == ["beat"]
        assert runs == ["host0"]
        await hosts[1].peer.request("task/stop", {"task_id": "beat"})
        for host in hosts:
            await until(partial(stopped, host))
    assert runs == ["host0"], "a task that has ended does not start with the next connection"


@on_each_loop
async def test_a_task_inherits_nothing_of_the_call_that_started_it() -> None:
    """Neither its context variables nor its connection, and its restarts do not either: it logs to every host."""
    app = App("t")
    mark: ContextVar[str] = ContextVar("mark", default="unset")
    seen: list[str] = []

    @app.task(autostart=False, initial_delay=0, jitter=0, max_restarts=1)
    async def look(ctx: TaskContext) -> None:
        seen.append(mark.get())
        ctx.log.info("looked")

    @app.tool
    async def begin() -> str:
        mark.set("of the call")
        app.tasks.start(look)
        return mark.get()

    async with connections(Served(app), 2, "memory") as hosts:
        assert await hosts[1].call("begin") == {"content": "of the call"}
        for host in hosts:
            await until(partial(looked_twice, host))
    assert seen == ["unset", "unset"]


def looked_twice(host: Connection) -> bool:
    return [log["message"] for log in host.logs].count("looked") == 2


@on_each_loop
async def test_a_task_goes_on_when_the_connection_that_came_first_leaves() -> None:
    app = App("t")
    ended: list[str] = []

    @app.task
    async def keep(ctx: TaskContext) -> None:
        while not await ctx.wait_stop(0.001):
            await ctx.kv.set("beat", ctx.host.name)
        ended.append(ctx.host.name)

    served = Served(app)
    async with connections(served, 2, "memory") as (first, second):
        await until(lambda: first.kv.get("beat") == "host0")
        await first.end()
        assert not ended
        await until(lambda: second.kv.get("beat") == "host1")
    assert ended == ["host1"]


@on_each_loop
async def test_what_is_registered_later_is_told_to_every_host_that_has_shaken_hands() -> None:
    app = App("t")

    @app.tool
    async def grow() -> None:
        app.add_tool(lambda: "new", name="new")

    served = Served(app)
    async with connections(served, 2, "memory") as (first, second):
        await second.call("grow")
        for host in (first, second):
            await until(host.registered.__len__)
            assert [tool["name"] for tool in host.registered[0]["tools"]] == ["new"]
            assert (await host.call("new")) == {"content": "new"}
        with pytest.raises(RegistrationError, match="comes too late"):
            app.shortcut("ctrl+p", "nothing")


@on_each_loop
async def test_the_slots_are_one_number_for_all_connections() -> None:
    app = App("t")
    running = most = 0

    @app.tool
    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1

    served = Served(app, max_concurrency=3)
    async with connections(served, 4, "memory") as hosts:
        await asyncio.gather(*(host.call("work") for host in hosts for _ in range(10)))
    assert most == 3


@on_each_loop
async def test_a_server_that_holds_it_keeps_the_lifespan_between_connections() -> None:
    entered: list[str] = []
    served = Served(an_app(entered))
    async with served:
        for value in (1, 2):
            async with connections(served, 1, "memory") as (host,):
                assert (await host.call("share", value=value))["details"] == list(range(1, value + 1))
            assert entered == ["entered"]
    assert entered == ["entered", "left"]
    late = Connection("late", served, "memory")
    with pytest.raises(InvalidRequest, match="the extension is shutting down"):
        await late.begin()
    await late.end()
    assert entered == ["entered", "left"]


@on_each_loop
async def test_a_lifespan_that_fails_for_one_connection_is_tried_again_for_the_next() -> None:
    attempts: list[int] = []

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[str]:
        attempts.append(len(attempts))
        await asyncio.sleep(0.01)
        if len(attempts) == 1:
            raise ValueError("not yet")
        yield "open"

    app = App("t", lifespan=lifespan)

    @app.tool
    async def look(ctx: ToolContext) -> str:
        return str(ctx.state)

    served = Served(app)
    first, second = Connection("first", served, "memory"), Connection("second", served, "memory")
    outcomes = await asyncio.gather(first.begin(), second.begin(), return_exceptions=True)
    assert isinstance(outcomes[0], RpcError)
    assert isinstance(outcomes[1], dict)
    assert (await second.call("look")) == {"content": "open"}
    await asyncio.wait([first.serving], timeout=10)
    assert isinstance(first.serving.exception(), ValueError)
    assert (await second.call("look")) == {"content": "open"}, "the one that failed took nothing with it"
    await first.end()
    await second.end()
    assert attempts == [0, 1]


@on_each_loop
async def test_a_cancelled_handshake_does_not_cancel_that_of_another_connection() -> None:
    attempts: list[str] = []
    go_on = asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[str]:
        attempts.append("begun")
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            attempts.append("cancelled")
            raise
        yield "open"

    served = Served(App("t", lifespan=lifespan))
    first, second = Connection("first", served, "memory"), Connection("second", served, "memory")
    beginning = asyncio.create_task(first.begin())
    await until(lambda: attempts == ["begun"])
    other = asyncio.create_task(second.begin())
    await asyncio.sleep(0.01)
    beginning.cancel()
    await until(lambda: attempts == ["begun", "cancelled", "begun"])
    go_on.set()
    assert (await other)["extension"]["name"] == "t"
    await second.end()
    await first.end()


@on_each_loop
async def test_a_connection_that_breaks_takes_no_call_of_another_with_it() -> None:
    served = Served(an_app())
    async with connections(served, 2, "pipes") as (first, second):
        calls = [asyncio.ensure_future(second.call("work", n=n)) for n in range(20)]
        doomed = [asyncio.ensure_future(first.call("work", n=n)) for n in range(20)]
        await asyncio.sleep(0)
        await first.peer.aclose()
        assert all(isinstance(one, SepkitError) for one in await asyncio.gather(*doomed, return_exceptions=True))
        assert [answer["details"]["n"] for answer in await asyncio.gather(*calls)] == list(range(20))
