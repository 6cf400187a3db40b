"""The handshake, the life between it and the end, and the services that a handler asks of the host."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypedDict

import attrs
import pytest

from sepkit import (
    App,
    CommandContext,
    Delta,
    HookContext,
    Model,
    OAuthParams,
    ProviderRequest,
    TaskContext,
    ToolContext,
    ToolError,
    render,
)
from sepkit.errors import (
    Blocked,
    CapabilityDisabled,
    ContextViolation,
    EncodeError,
    InternalError,
    InvalidData,
    InvalidParams,
    MethodNotFound,
    NotTrusted,
    NoUI,
    RegistrationError,
    RpcError,
    SepkitError,
)
from sepkit.faces.sep.link import SepLink
from sepkit.tasks import TaskRefused
from sepkit.wire.messages import Credentials
from sepkit.wire.methods import GROUP_OF, UiKind
from tests.memory_host import CONTEXT, HANDSHAKE, PATIENCE, Malformed, MemoryHost, on_each_loop

CALL: Final = {"call_id": "c", "tool": "echo", "arguments": {"word": "hi"}, "context": CONTEXT}


def echoing(**options: Any) -> App:
    app = App("t", **options)

    @app.tool
    async def echo(word: str, ctx: ToolContext) -> str:
        return f"{word} {ctx.state}"

    @app.command
    async def say() -> str:
        return "said"

    return app


# -- what the handshake says -------------------------------------------------------------------------------------------


@on_each_loop
async def test_an_app_that_has_everything_registers_everything() -> None:
    """Each kind of registration has its shape on the wire. Source: docs/protocol.md, section 8."""
    app = App("full", version="1.2.3")

    @app.tool
    async def greet(name: str) -> str:
        """Greet.

        Args:
            name: Who.
        """
        return name

    @app.tool(name="rare", description="Seldom.", parameters={"type": "object"}, deferred=True)
    async def seldom(arguments: dict[str, Any]) -> None: ...

    @app.command(description="Paint.")
    async def paint() -> None: ...

    @app.hook("tool_call")
    async def one(value: dict[str, Any]) -> None: ...

    @app.hook("tool_call")
    async def two(value: dict[str, Any]) -> None: ...

    @app.on("turn_start")
    async def turn() -> None: ...

    @app.on_bus("topic")
    async def on_bus() -> None: ...

    @app.on_key("widget")
    async def on_key() -> None: ...

    @app.provider("mine", models=[Model("m", "The Model"), Model("n")], base_url="http://x", api_key_env="KEY")
    async def mine(request: ProviderRequest) -> AsyncIterator[Delta]:
        yield Delta("")

    @app.oauth_login("mine")
    async def login(params: OAuthParams) -> Credentials:
        return Credentials()

    @app.provider("bare")
    async def bare(request: ProviderRequest) -> AsyncIterator[Delta]:
        yield Delta("")

    app.flag("verbose", default=False)
    app.shortcut("ctrl+p", "paint", "Paint now")
    app.shortcut("ctrl+q", "paint")
    app.renderer("note", render.markdown("{{text}}"))

    async with MemoryHost(app) as host:
        assert host.initialized == {
            "protocol_version": 1,
            "extension": {"name": "full", "version": "1.2.3"},
            "registrations": {
                "tools": [
                    {
                        "name": "greet",
                        "description": "Greet.",
                        "parameters": {
                            "type": "object",
                            "properties": {"name": {"type": "string", "description": "Who."}},
                            "required": ["name"],
                            "additionalProperties": False,
                        },
                    },
                    {"name": "rare", "description": "Seldom.", "parameters": {"type": "object"}, "deferred": True},
                ],
                "commands": [{"name": "paint", "description": "Paint."}],
                "flags": ["verbose"],
                "shortcuts": [
                    {"key": "ctrl+p", "command": "paint", "description": "Paint now"},
                    {"key": "ctrl+q", "command": "paint"},
                ],
                "subscriptions": ["turn_start", "bus/event", "widget/key"],
                "hooks": ["tool_call"],
                "providers": [
                    {
                        "name": "mine",
                        "base_url": "http://x",
                        "api_key_env": "KEY",
                        "oauth": True,
                        "models": [{"id": "m", "display_name": "The Model"}, {"id": "n"}],
                    },
                    {"name": "bare"},
                ],
                "message_renderers": [{"tag": "note", "template": {"kind": "markdown", "text": "{{text}}"}}],
            },
        }


@on_each_loop
async def test_an_app_that_has_nothing_registers_nothing() -> None:
    """``initialize`` is answered with protocol_version, extension and, if there are any, registrations.

    Source: docs/protocol.md, section 3.
    """
    async with MemoryHost(App("t")) as host:
        assert host.initialized.pop("registrations", {}) == {}
        assert host.initialized == {"protocol_version": 1, "extension": {"name": "t", "version": "0.0.0"}}


@pytest.mark.parametrize("theirs", [1, 2, 99, 2**53])
@on_each_loop
async def test_the_lower_of_two_protocol_versions_counts(theirs: int) -> None:
    """The effective protocol version is min(host, extension); ours is 1. Source: docs/protocol.md, section 1."""
    async with MemoryHost(App("t"), handshake={"protocol_version": theirs}) as host:
        assert host.initialized["protocol_version"] == 1


@on_each_loop
async def test_fields_of_the_handshake_that_nobody_knows_are_ignored() -> None:
    """Unknown fields are ignored; fields that may be absent may be null. Source: docs/protocol.md, section 1."""
    handshake = {
        "new": 1,
        "host": {"name": "h", "version": "1", "new": 1},
        "workspace": {"root": "/", "trusted": False, "new": 1},
        "session": {"id": "s", "new": 1},
        "ui_capabilities": ["hologram"],
        "capabilities_enabled": {"holograms": False},
    }
    nulls = dict.fromkeys(("session", "ui_capabilities", "flags", "capabilities_enabled"))
    for one in (handshake, nulls):
        async with MemoryHost(echoing(), handshake=one) as host:
            assert await host.tool("echo", word="hi") == {"content": "hi None"}


@on_each_loop
async def test_flags_have_the_hosts_values_and_else_their_defaults() -> None:
    """``app.flag(name, default=)`` → ``ctx.flags[name]``, each connection with its own."""
    app = App("t")
    app.flag("colour", default="red")
    app.flag("verbose", default=False)
    app.flag("depth")

    @app.tool
    async def look(ctx: ToolContext) -> dict[str, Any]:
        return dict(ctx.flags)

    # What one host said is not what the next one says.
    for sent, flags in (
        ({"verbose": True, "depth": 0, "new": [1]}, {"colour": "red", "verbose": True, "depth": 0, "new": [1]}),
        ({"colour": None}, {"colour": None, "verbose": False, "depth": None}),
        ({}, {"colour": "red", "verbose": False, "depth": None}),
    ):
        async with MemoryHost(app, handshake={"flags": sent}) as host:
            assert host.initialized["registrations"]["flags"] == ["colour", "verbose", "depth"]
            assert (await host.tool("look"))["details"] == flags


@on_each_loop
async def test_nothing_is_sent_before_the_answer_to_the_handshake() -> None:
    """``initialize`` is answered first; what is sent when it is ready comes behind it, once.

    Source: docs/protocol.md, section 2.
    """
    ready: list[SepLink] = []

    class Probing(MemoryHost):
        def _ready(self, link: SepLink) -> None:
            ready.append(link)
            assert len(self.frames) == 2
            asyncio.get_running_loop().call_soon(link.peer.notify, "probe", {})

    async with Probing(App("t"), handshake=None) as host:
        await host.refused("initialize", {})
        await host.ping()
        assert not ready
        await host.ask("initialize", HANDSHAKE)
        await host.refused("initialize", HANDSHAKE)
        assert len(ready) == 1
        assert ["probe" if "method" in frame else frame["id"] for frame in host.frames] == [1, 2, 3, "probe", 4]


# -- what is no handshake ----------------------------------------------------------------------------------------------


@on_each_loop
async def test_a_bad_handshake_is_refused_with_every_fault_and_a_second_try_succeeds() -> None:
    """The error is -32602 with all faults at once, so that the host can correct itself."""
    entered: list[str] = []

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[str]:
        entered.append("entered")
        yield "state"

    async with MemoryHost(echoing(lifespan=lifespan), handshake=None) as host:
        error = await host.refused(
            "initialize",
            {"protocol_version": "1", "host": {"name": 5}, "workspace": {"root": "/", "trusted": "yes"}, "flags": []},
        )
        assert error["code"] == -32602
        faults = {(fault["path"], fault["received"]) for fault in error["data"]["errors"]}
        assert {path for path, _ in faults} == {
            "$",  # there is no mode
            "$.protocol_version",
            "$.host",  # there is no version
            "$.host.name",
            "$.workspace.trusted",
            "$.flags",
        }
        assert {received for _, received in faults} == {"nothing", "string", "integer", "array"}
        assert (await host.refused("tool/execute", CALL))["code"] == -32600
        assert not entered
        assert (await host.ask("initialize", HANDSHAKE))["protocol_version"] == 1
        assert await host.ask("tool/execute", CALL) == {"content": "hi state"}
    assert entered == ["entered"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("protocol_version", 0),
        ("protocol_version", -1),
        ("protocol_version", True),
        ("protocol_version", 1.5),
        ("protocol_version", "1"),
        ("protocol_version", None),
        ("mode", None),
        ("mode", 5),
        ("host", None),
        ("host", "h"),
        ("host", []),
        ("host", {}),
        ("workspace", {"root": "/", "trusted": 1}),
        ("ui_capabilities", "select"),
        ("capabilities_enabled", {"kv": "no"}),
        ("session", "s"),
    ],
    ids=repr,
)
@on_each_loop
async def test_a_field_of_the_wrong_type_is_named(field: str, value: object) -> None:
    """Each error has a path; no value of the handshake is converted."""
    async with MemoryHost(App("t"), handshake=None) as host:
        error = await host.refused("initialize", {**HANDSHAKE, field: value})
    assert error["code"] == -32602
    assert error["data"]["errors"]
    for fault in error["data"]["errors"]:
        assert fault["path"].startswith(f"$.{field}")


@pytest.mark.parametrize(
    "method", ["tool/execute", "hook", "command/execute", "provider/complete", "shutdown", "no/such/method"]
)
@on_each_loop
async def test_a_request_before_the_handshake_is_refused(method: str) -> None:
    """Requests other than ``initialize`` and ``ping`` before the handshake are answered with -32600."""
    async with MemoryHost(echoing(), handshake=None) as host:
        error = await host.refused(method, CALL)
        assert error["code"] == -32600
        assert "before the handshake" in error["message"]
        assert await host.ask("ping", {}) == {}
        await host.ask("initialize", HANDSHAKE)
        assert await host.ask("tool/execute", CALL) == {"content": "hi None"}


@on_each_loop
async def test_a_second_handshake_is_refused_and_changes_nothing() -> None:
    """A connection has one ``initialize``: a second is -32600, while the first runs and afterwards.

    Source: docs/protocol.md, section 2.
    """
    entered: list[str] = []
    go_on = asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[str]:
        entered.append("entered")
        await go_on.wait()
        yield "first"

    app = echoing(lifespan=lifespan)
    app.flag("n")

    @app.tool
    async def look(ctx: ToolContext) -> dict[str, Any]:
        return dict(ctx.flags)

    async with MemoryHost(app, handshake=None) as host:
        first = host.frame("initialize", {**HANDSHAKE, "flags": {"n": 1}})
        second = host.frame("initialize", {**HANDSHAKE, "flags": {"n": 2}})
        host.send(first, second)
        assert (await host.answer(second["id"]))["error"]["code"] == -32600
        assert not host.is_answered(first["id"])
        go_on.set()
        assert "result" in await host.answer(first["id"])
        assert (await host.refused("initialize", {**HANDSHAKE, "flags": {"n": 3}}))["code"] == -32600
        assert (await host.tool("look"))["details"] == {"n": 1}
        assert await host.ask("tool/execute", CALL) == {"content": "hi first"}
    assert entered == ["entered"]


# -- the lifespan ------------------------------------------------------------------------------------------------------

_inside: contextvars.ContextVar[str] = contextvars.ContextVar("_inside", default="outside")


@on_each_loop
async def test_a_lifespan_is_entered_and_left_in_one_task() -> None:
    """The lifespan is an async context manager; what it yields is ``ctx.state`` in each handler.

    Task groups, time limits and context variables that it enters can only be left in the task they were entered in.
    """
    order: list[object] = []
    stop = asyncio.Event()

    async def work() -> None:
        order.append("begun")
        try:
            await stop.wait()
        finally:
            order.append("ended")

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[list[object]]:
        task, token = asyncio.current_task(), _inside.set("inside")
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            group.create_task(work())
            yield order
            assert asyncio.current_task() is task
            assert _inside.get() == "inside"
            stop.set()
        _inside.reset(token)  # raises in another context
        order.append("left")

    app = App("t", lifespan=lifespan)

    @app.tool
    async def tool(ctx: ToolContext) -> None:
        ctx.state.append("tool")

    @app.command
    async def command(ctx: CommandContext) -> None:
        ctx.state.append("command")

    @app.hook("input")
    async def hook(ctx: HookContext) -> None:
        ctx.state.append("hook")

    async with MemoryHost(app) as host:
        await host.tool("tool")
        await host.ask("command/execute", {"command": "command", "context": CONTEXT})
        await host.ask("hook", {"hook": "input", "context": CONTEXT, "input": {}})
    assert order == ["begun", "tool", "command", "hook", "ended", "left"]


@on_each_loop
async def test_requests_in_the_same_write_as_the_handshake_wait_for_a_slow_lifespan() -> None:
    """``initialize`` and a call in one write both succeed. A ping does not wait for them."""
    go_on = asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[str]:
        await go_on.wait()
        yield "started"

    async with MemoryHost(echoing(lifespan=lifespan), handshake=None) as host:
        sent = [
            host.frame("initialize", HANDSHAKE),
            host.frame("tool/execute", CALL),
            host.frame("command/execute", {"command": "say", "context": CONTEXT}),
            host.frame("hook", {"hook": "input", "context": CONTEXT, "input": {}}),
            host.frame("no/such/method", {}),
            host.frame("tool/execute", {}),
        ]
        host.send(*sent)
        await host.ping()
        assert len(host.frames) == 1
        go_on.set()
        answers = [await host.answer(frame["id"]) for frame in sent]
        assert [answer["result"] for answer in answers[1:4]] == [
            {"content": "hi started"},
            {"content": "said"},
            {"action": "continue"},
        ]
        assert [answer["error"]["code"] for answer in answers[4:]] == [-32601, -32602]
        # The host knows of the tools before it reads what one of them gave.
        assert host.frames[1]["id"] == sent[0]["id"]


@on_each_loop
async def test_what_waits_for_the_handshake_can_be_cancelled() -> None:
    """A cancelled call gets exactly one answer, also if it has not begun."""
    go_on = asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        await go_on.wait()
        yield

    async with MemoryHost(echoing(lifespan=lifespan), handshake=None) as host:
        handshake, call = host.frame("initialize", HANDSHAKE), host.frame("tool/execute", CALL)
        host.send(handshake, call)
        host.cancel(call["id"])
        assert (await host.answer(call["id"]))["error"]["code"] == -32800
        assert not host.is_answered(handshake["id"])
        go_on.set()
        assert "result" in await host.answer(handshake["id"])
        assert await host.ask("tool/execute", CALL) == {"content": "hi None"}


@on_each_loop
async def test_a_cancelled_handshake_leaves_its_lifespan_and_may_be_tried_again() -> None:
    """The answer is one -32800, the calls behind it are refused, and the process lives."""
    order: list[str] = []
    never = asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[str]:
        order.append("entering")
        try:
            if len(order) == 1:
                await never.wait()
            yield "second"
        finally:
            order.append("left")

    async with MemoryHost(echoing(lifespan=lifespan), handshake=None) as host:
        handshake, call = host.frame("initialize", HANDSHAKE), host.frame("tool/execute", CALL)
        host.send(handshake, call)
        await host.ping()
        host.cancel(handshake["id"])
        assert (await host.answer(handshake["id"]))["error"]["code"] == -32800
        assert (await host.answer(call["id"]))["error"]["code"] == -32600
        await host.ask("initialize", HANDSHAKE)
        assert await host.ask("tool/execute", CALL) == {"content": "hi second"}
    assert order == ["entering", "left", "entering", "left"]


@pytest.mark.parametrize("swallows", [False, True])
@on_each_loop
async def test_a_cancelled_handshake_is_answered_when_its_lifespan_has_stopped(swallows: bool) -> None:
    """A cancelled request is answered once, with -32800, when its work has stopped.

    The next lifespan must not open what the one before is still closing.

    Source: docs/protocol.md, section 8.
    """
    order: list[str] = []
    entering, closing, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[str]:
        order.append("entering")
        try:
            if not entering.is_set():
                entering.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    if not swallows:
                        raise
            yield "second"
        finally:
            closing.set()
            await go_on.wait()
            order.append("left")

    async with MemoryHost(echoing(lifespan=lifespan), handshake=None) as host:
        handshake = host.start("initialize", HANDSHAKE)
        await entering.wait()
        host.cancel(handshake)
        await closing.wait()
        await host.ping()
        assert not host.is_answered(handshake)
        go_on.set()
        assert (await host.answer(handshake))["error"]["code"] == -32800
        assert order == ["entering", "left"]
        await host.ask("initialize", HANDSHAKE)
        assert await host.ask("tool/execute", CALL) == {"content": "hi second"}
    assert order == ["entering", "left"] * 2


@on_each_loop
async def test_a_lifespan_that_fails_at_its_start_is_told_to_the_host_and_raised_by_serve(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All calls that wait are answered with -32603, without the text of the exception, then it ends."""

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        await asyncio.sleep(0)
        if app.name:
            raise ValueError("secret")
        yield

    async with MemoryHost(echoing(lifespan=lifespan), handshake=None) as host:
        handshake, call = host.frame("initialize", HANDSHAKE), host.frame("tool/execute", CALL)
        host.send(handshake, call)
        answer = await host.answer(handshake["id"])
        assert answer["error"]["code"] == -32603
        correlation = answer["error"]["data"]["correlation_id"]
        expected = f"the extension's lifespan failed unexpectedly; its log names it {correlation}"
        assert answer["error"]["message"] == expected
        answer = await host.answer(call["id"])
        assert answer["error"] == {"code": -32603, "message": "the extension could not start"}
        failure = await host.end()
    assert isinstance(failure, ValueError)
    assert str(failure) == "secret"
    assert not [line for line in host.lines if b"secret" in line]
    assert [record for record in caplog.records if correlation in record.getMessage() and record.exc_info]


@pytest.mark.parametrize("how", ["exits", "is cancelled", "yields nothing", "is no context manager", "raises a group"])
@on_each_loop
async def test_a_lifespan_that_fails_in_an_odd_way_is_an_orderly_failure_too(how: str) -> None:
    """The caller gets no CancelledError that is not its own, and ``sys.exit()`` does not end the loop."""

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        if how == "exits":
            raise SystemExit(3)
        if how == "is cancelled":
            raise asyncio.CancelledError
        if how == "raises a group":
            raise ExceptionGroup("several", [ValueError("one"), KeyError("two")])
        if how == "is no context manager":
            yield

    def broken(app: App) -> Any:
        return None

    app = App("t", lifespan=broken if how == "is no context manager" else lifespan)
    async with MemoryHost(app, handshake=None) as host:
        assert (await host.refused("initialize", HANDSHAKE))["code"] == -32603
        assert isinstance(await host.end(), Exception)


@on_each_loop
async def test_a_lifespan_that_fails_at_its_end_is_logged_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    """Lifespans end with exit code 0; an exception there is logged and harms nothing else."""

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        yield
        raise ValueError("too late")

    async with MemoryHost(echoing(lifespan=lifespan)) as host:
        assert await host.tool("echo", word="hi") == {"content": "hi None"}
        assert await host.ask("shutdown", {}) == {}
        assert await host.end() is None
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.getMessage() == "the lifespan failed at its end"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "too late"


@on_each_loop
async def test_the_end_of_the_input_lets_the_handshake_and_what_waits_for_it_finish() -> None:
    """At end-of-file accepted requests finish within the grace, and lifespans end."""
    go_on, left = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[str]:
        await go_on.wait()
        yield "started"
        left.set()

    async with MemoryHost(echoing(lifespan=lifespan), handshake=None) as host:
        handshake, call = host.frame("initialize", HANDSHAKE), host.frame("tool/execute", CALL)
        host.send(handshake, call)
        await host.ping()
        host.end_input()
        go_on.set()
        assert "result" in await host.answer(handshake["id"])
        assert (await host.answer(call["id"]))["result"] == {"content": "hi started"}
        assert await host.end() is None
    assert left.is_set()


# -- background tasks --------------------------------------------------------------------------------------------------


@on_each_loop
async def test_tasks_start_after_the_answer_to_the_handshake_and_stop_before_the_lifespan() -> None:
    """Background tasks: they are started with the extension, once the host knows of it, and end with it."""
    order: list[str] = []
    began = asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[str]:
        order.append("entered")
        yield "state"
        order.append("left")

    app = App("t", lifespan=lifespan)

    @app.task
    async def watch(ctx: TaskContext) -> None:
        order.append(f"{ctx.task_id} began with {await ctx.kv.get('k')} and {ctx.state}")
        began.set()
        await ctx.wait_stop()
        order.append("stopped")

    @app.task(autostart=False)
    async def later() -> None:
        order.append("later began")

    @app.task(per_user=True)
    async def each() -> None:
        order.append("each began")

    async with MemoryHost(app, {"kv/get": {"value": 7}}) as host:
        await began.wait()
        assert "result" in host.frames[0]
        assert host.frames[1]["method"] == "kv/get"
    assert order == ["entered", "watch began with 7 and state", "stopped", "left"]


@on_each_loop
async def test_no_task_starts_where_the_handshake_fails() -> None:
    """Background tasks start when the handshake is done, so not where it is not."""
    began: list[int] = []

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        if app.name:
            raise ValueError
        yield

    for fails in (None, lifespan):
        app = App("t", lifespan=fails)

        @app.task
        async def watch() -> None:
            began.append(1)

        async with MemoryHost(app, handshake=None) as host:
            if fails is None:
                assert (await host.refused("initialize", {}))["code"] == -32602
                await host.ping()
            else:
                assert (await host.refused("initialize", HANDSHAKE))["code"] == -32603
                assert isinstance(await host.end(), ValueError)
    assert not began


@on_each_loop
async def test_a_lifespan_may_start_a_task_that_is_then_not_started_twice() -> None:
    """``app.tasks`` is there as soon as the lifespan is; autostart passes over what runs already."""
    runs: list[object] = []
    began = asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        app.tasks.start("watch", payload="early")
        yield

    app = App("t", lifespan=lifespan)

    @app.task
    async def watch(ctx: TaskContext) -> None:
        runs.append(ctx.payload)
        began.set()
        await ctx.wait_stop()

    async with MemoryHost(app) as host:
        await began.wait()
        await host.ping()
    assert runs == ["early"]


@on_each_loop
async def test_a_tool_starts_stops_and_watches_tasks() -> None:
    """``app.tasks.start(fn, id=, user_id=, payload=, name=)``, ``stop(id)`` and ``status()`` work in a tool."""
    app = App("t")
    began: asyncio.Queue[tuple[object, ...]] = asyncio.Queue()

    @app.task(per_user=True)
    async def feed(ctx: TaskContext) -> None:
        ctx.report_health("fine")
        began.put_nowait((ctx.task_id, ctx.user_id, ctx.payload, ctx.stopping))
        assert await ctx.wait_stop()
        began.put_nowait((ctx.task_id, ctx.stopping))

    @app.tool
    async def begin(user: str, id: str | None = None) -> str:  # noqa: A002
        try:
            return app.tasks.start(feed, user_id=user, payload={"n": 1}, id=id, name="Feed").id
        except TaskRefused as error:
            raise ToolError(str(error)) from None

    @app.tool
    async def end(id: str) -> str:  # noqa: A002
        health = await app.tasks.stop(id)
        return "unknown" if health is None else health.status

    @app.tool
    async def look() -> list[tuple[str, str, str | None, str, str | None]]:
        return [(t.task_id, t.name, t.user_id, t.status, t.last_health_status) for t in app.tasks.status()]

    @app.tool
    async def wrong() -> str:
        try:
            app.tasks.start("fed")
        except RegistrationError as error:
            return str(error)
        return "started"

    with pytest.raises(RegistrationError, match="while the app is served"):
        app.tasks.start(feed, user_id="ada")
    async with MemoryHost(app) as host:
        assert (await host.tool("begin", user="ada"))["content"] == "feed:ada"
        assert await began.get() == ("feed:ada", "ada", {"n": 1}, False)
        assert (await host.tool("begin", user="ada", id="two"))["content"] == "two"
        assert await began.get() == ("two", "ada", {"n": 1}, False)
        assert (await host.tool("look"))["details"] == [
            ["feed:ada", "Feed", "ada", "running", "fine"],
            ["two", "Feed", "ada", "running", "fine"],
        ]
        refused = await host.tool("begin", user="ada")
        assert refused["is_error"]
        assert "'feed:ada' is running" in refused["content"]
        assert (await host.tool("end", id="feed:ada"))["content"] == "stopped"
        assert await began.get() == ("feed:ada", True)
        assert (await host.tool("end", id="three"))["content"] == "unknown", "unknown ids are harmless"
        assert "known: feed" in (await host.tool("wrong"))["content"]
        assert [one[3] for one in (await host.tool("look"))["details"]] == ["stopped", "running"]
    assert await began.get() == ("two", True)
    assert app.tasks.status() == []
    with pytest.raises(RegistrationError, match="while the app is served"):
        app.tasks.start(feed, user_id="ada")


@on_each_loop
async def test_a_task_is_given_as_its_function_a_method_or_a_name() -> None:
    """``app.tasks.start(fn)`` tells two functions of one name apart."""
    app = App("t")
    ran: list[str] = []

    class Service:
        async def work(self) -> None:
            ran.append("method")

    async def work() -> None:
        ran.append("function")

    service = Service()
    app.task(autostart=False, restart="never")(service.work)
    app.task(name="other", autostart=False, restart="never")(work)

    @app.tool
    async def begin() -> None:
        for task in (service.work, work, "work", "other"):
            await app.tasks.start(task).join()
        for unknown in (Service().work, begin, "nothing"):
            with pytest.raises(RegistrationError, match="there is no task"):
                app.tasks.start(unknown)

    @app.tool
    def begin_in_a_thread() -> str:
        with pytest.raises(TaskRefused) as caught:
            app.tasks.start(work)
        return str(caught.value)

    async with MemoryHost(app) as host:
        assert (await host.tool("begin"))["content"] == ""
        assert ran == ["method", "function", "method", "function"]
        said = (await host.tool("begin_in_a_thread"))["content"]
        assert said == (
            "task 'other' cannot be started outside of the extension's loop: do it in an `async def` handler"
        )


# -- services: how they are asked --------------------------------------------------------------------------------------

Work = Callable[[ToolContext], Awaitable[object]]


async def use(
    work: Work, answers: Mapping[str, object] | None = None, **handshake: object
) -> tuple[object, list[tuple[str, dict[str, Any]]]]:
    """What ``work`` returned or raised, called within a tool, and what the host was asked meanwhile."""
    app = App("t")
    made: list[object] = []

    @app.tool
    async def call(ctx: ToolContext) -> None:
        try:
            made.append(await work(ctx))
        except (SepkitError, TypeError, ValueError) as error:
            made.append(error)

    async with MemoryHost(app, answers, handshake=handshake) as host:
        await host.tool("call")
    assert len(made) == 1
    return made[0], host.asked


@attrs.frozen
class Seen:
    name: str
    times: int = 0


class Place(TypedDict):
    x: int


WIDGET: Final = render.keyvalue([("a", "1")], title="t")
UI_REQUESTS: Final[list[tuple[UiKind, Work, dict[str, Any], dict[str, Any], object]]] = [
    (
        "select",
        lambda ctx: ctx.ui.select("which?", ("a", "b")),
        {"prompt": "which?", "options": ["a", "b"]},
        {"value": "b"},
        "b",
    ),
    ("confirm", lambda ctx: ctx.ui.confirm("sure?"), {"prompt": "sure?"}, {"confirmed": True}, True),
    ("confirm", lambda ctx: ctx.ui.confirm("sure?"), {"prompt": "sure?"}, {"confirmed": False}, False),
    ("input", lambda ctx: ctx.ui.input("who?"), {"prompt": "who?"}, {"text": ""}, ""),
    ("input", lambda ctx: ctx.ui.input("who?", "Ada"), {"prompt": "who?", "default": "Ada"}, {"text": "x"}, "x"),
    ("notify", lambda ctx: ctx.ui.notify("done"), {"message": "done", "level": "info"}, {}, None),
    ("notify", lambda ctx: ctx.ui.notify("oh", level="error"), {"message": "oh", "level": "error"}, {}, None),
    ("set_status", lambda ctx: ctx.ui.set_status("busy"), {"status": "busy"}, {}, None),
    ("set_widget", lambda ctx: ctx.ui.set_widget(WIDGET), {"widget": dict(WIDGET)}, {}, None),
    ("set_title", lambda ctx: ctx.ui.set_title("t"), {"title": "t"}, {}, None),
]
"""For each kind: how it is asked for, its params, a host's answer, and what comes of it."""

SERVICES: Final[list[tuple[str, Work, dict[str, Any], object, object]]] = [
    ("kv/get", lambda ctx: ctx.kv.get("k"), {"key": "k"}, {"value": {"a": [1, None]}}, {"a": [1, None]}),
    ("kv/get", lambda ctx: ctx.kv.get("k"), {"key": "k"}, {"value": None}, None),
    ("kv/get", lambda ctx: ctx.kv.get("k", default=5), {"key": "k"}, {"value": None}, 5),
    ("kv/get", lambda ctx: ctx.kv.get("k", default=5), {"key": "k"}, {"value": 0}, 0),
    ("kv/get", lambda ctx: ctx.kv.get("k", Seen), {"key": "k"}, {"value": {"name": "x"}}, Seen("x")),
    ("kv/get", lambda ctx: ctx.kv.get("k", Seen), {"key": "k"}, {"value": None}, None),
    ("kv/get", lambda ctx: ctx.kv.get("k", Seen, Seen("y")), {"key": "k"}, {"value": None}, Seen("y")),
    ("kv/get", lambda ctx: ctx.kv.get("k", list[Seen]), {"key": "k"}, {"value": [{"name": "x"}]}, [Seen("x")]),
    ("kv/get", lambda ctx: ctx.kv.get("k", Place), {"key": "k"}, {"value": {"x": 1}}, {"x": 1}),
    ("kv/set", lambda ctx: ctx.kv.set("k", {"a": 1}), {"key": "k", "value": {"a": 1}}, {}, None),
    ("kv/set", lambda ctx: ctx.kv.set("k", Seen("x")), {"key": "k", "value": {"name": "x", "times": 0}}, {}, None),
    ("kv/set", lambda ctx: ctx.kv.set("k", None), {"key": "k", "value": None}, {}, None),
    ("kv/delete", lambda ctx: ctx.kv.delete("k"), {"key": "k"}, {}, None),
    ("kv/list", lambda ctx: ctx.kv.list(), {}, {"keys": ["a", "b"]}, ["a", "b"]),
    ("kv/list", lambda ctx: ctx.kv.list("a"), {"prefix": "a"}, {"keys": []}, []),
    (
        "session/send_message",
        lambda ctx: ctx.session.send_message("hi"),
        {"context": CONTEXT, "text": "hi", "role": "assistant"},
        {},
        None,
    ),
    (
        "session/send_message",
        lambda ctx: ctx.session.send_message("hi", role="user"),
        {"context": CONTEXT, "text": "hi", "role": "user"},
        {},
        None,
    ),
    (
        "session/send_user_message",
        lambda ctx: ctx.session.send_user_message("hi"),
        {"context": CONTEXT, "text": "hi", "deliver_as": "follow_up"},
        {},
        None,
    ),
    (
        "session/send_user_message",
        lambda ctx: ctx.session.send_user_message("hi", deliver_as="steer"),
        {"context": CONTEXT, "text": "hi", "deliver_as": "steer"},
        {},
        None,
    ),
    (
        "session/append_entry",
        lambda ctx: ctx.session.append_entry({"a": {1}}),
        {"context": CONTEXT, "entry": {"a": [1]}},
        {},
        None,
    ),
    ("session/set_model", lambda ctx: ctx.session.set_model("m"), {"context": CONTEXT, "model": "m"}, {}, True),
    (
        "session/set_model",
        lambda ctx: ctx.session.set_model("m", provider="p", thinking="high"),
        {"context": CONTEXT, "model": "m", "provider": "p", "thinking": "high"},
        {},
        True,
    ),
    ("session/state", lambda ctx: ctx.session.state(), {"context": CONTEXT}, {"state": {"n": 1}}, {"n": 1}),
    ("session/state", lambda ctx: ctx.session.state(), {"context": CONTEXT}, {"state": None}, {}),
    ("session/state", lambda ctx: ctx.session.state(), {"context": CONTEXT}, {}, {}),
    ("session/state", lambda ctx: ctx.session.state(), {"context": CONTEXT}, MethodNotFound("no"), {}),
    ("bus/publish", lambda ctx: ctx.bus.publish("t", {"a": 1}), {"topic": "t", "payload": {"a": 1}}, {}, True),
    (
        "bus/publish",
        lambda ctx: ctx.bus.publish("t", Seen("x")),
        {"topic": "t", "payload": {"name": "x", "times": 0}},
        {},
        True,
    ),
    ("bus/publish", lambda ctx: ctx.bus.publish("t", {}), {"topic": "t", "payload": {}}, MethodNotFound("no"), False),
    ("tools/set_active", lambda ctx: ctx.tools.set_active(("a", "b")), {"tools": ["a", "b"]}, {"active": ["a"]}, ["a"]),
]
"""For each other service: its method, how it is asked for, its params, a host's answer, and what comes of it."""


@pytest.mark.parametrize(("kind", "work", "params", "answer", "value"), UI_REQUESTS)
@on_each_loop
async def test_a_person_is_asked_in_each_of_seven_ways(
    kind: UiKind, work: Work, params: dict[str, Any], answer: dict[str, Any], value: object
) -> None:
    """Each kind of ``ui/request`` sends its fields and returns its answer. Source: docs/protocol.md, section 4."""
    made, asked = await use(work, {"ui/request": answer}, ui_capabilities=[kind])
    assert made == value
    assert type(made) is type(value)
    assert asked == [("ui/request", {"kind": kind, **params})]
    assert await use(work, {"ui/request": {**answer, "new": 1}}) == (made, asked)  # the host did not say what it can


@pytest.mark.parametrize(("kind", "work"), [(kind, work) for kind, work, _, _, _ in UI_REQUESTS])
@on_each_loop
async def test_what_a_person_dismisses_is_none(kind: UiKind, work: Work) -> None:
    """Any kind may come back ``cancelled: true``. Source: docs/protocol.md, section 4."""
    made, asked = await use(work, {"ui/request": {"cancelled": True}}, ui_capabilities=[kind])
    assert made is None
    assert len(asked) == 1


@pytest.mark.parametrize(("kind", "work"), [(kind, work) for kind, work, _, _, _ in UI_REQUESTS])
@on_each_loop
async def test_what_the_host_cannot_show_is_not_asked_for(kind: UiKind, work: Work) -> None:
    """A kind that is not in ``ui_capabilities`` raises NoUI (-32001), like the same error from the host.

    Source: docs/protocol.md, section 4.
    """
    others = sorted({other for other, *_ in UI_REQUESTS} - {kind})
    for can in ([], others):
        made, asked = await use(work, {"ui/request": {}}, ui_capabilities=can)
        assert isinstance(made, NoUI)
        assert f"'{kind}'" in made.message
        assert asked == []
    for said in ({}, {"ui_capabilities": [kind]}):
        made, asked = await use(work, {"ui/request": NoUI("nobody is here")}, **said)
        assert isinstance(made, NoUI)
        assert made.message == "nobody is here"
        assert len(asked) == 1


def test_each_kind_and_each_method_is_tried_here() -> None:
    """The tables above have all seven kinds and every method that can be switched off.

    Source: docs/protocol.md, section 4.
    """
    assert {kind for kind, *_ in UI_REQUESTS} == set(UiKind.__args__)  # type: ignore[attr-defined]  # of a Literal
    assert {method for method, *_ in SERVICES} | {"ui/request", "exec/run"} == GROUP_OF.keys()


@on_each_loop
async def test_a_handler_can_find_out_what_the_host_can_show() -> None:
    """``has_ui(kind)`` says whether the host can show a kind."""

    async def look(ctx: ToolContext) -> object:
        return ctx.has_ui("select"), ctx.has_ui("confirm")

    assert await use(look, ui_capabilities=["select", "hologram"]) == ((True, False), [])
    assert await use(look, ui_capabilities=[]) == ((False, False), [])
    assert await use(look) == ((False, False), [])


@pytest.mark.parametrize(("method", "work", "params", "answer", "value"), SERVICES)
@on_each_loop
async def test_a_service_asks_as_the_protocol_says(
    method: str, work: Work, params: dict[str, Any], answer: object, value: object
) -> None:
    """The params of each method, and what its result comes to. Source: docs/protocol.md, sections 4 and 9.

    -32601 to ``bus/publish`` means that there is no bus, to ``session/state`` that there is no state: not an error.
    """
    made, asked = await use(work, {method: answer})
    assert made == value
    assert type(made) is type(value)
    assert asked == [(method, params)]


@pytest.mark.parametrize(
    ("method", "work", "value"),
    [
        ("kv/list", lambda ctx: ctx.kv.list(), []),
        ("tools/set_active", lambda ctx: ctx.tools.set_active(["a"]), []),
        ("session/state", lambda ctx: ctx.session.state(), {}),
        ("session/set_model", lambda ctx: ctx.session.set_model("m"), False),
        ("bus/publish", lambda ctx: ctx.bus.publish("t", {}), False),
    ],
)
@on_each_loop
async def test_what_the_reference_hosts_do_not_know_degrades(
    method: str, work: Work, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    """The reference hosts answer -32601 to these; an extension goes on without them, and logs it once.

    Source: docs/protocol.md, section 9.
    """

    async def twice(ctx: ToolContext) -> object:
        return await work(ctx), await work(ctx)

    with caplog.at_level(logging.INFO):
        made, asked = await use(twice, {method: MethodNotFound("no")})
    assert made == (value, value)
    assert [name for name, _ in asked] == [method, method]
    assert [record.message for record in caplog.records if "does not know" in record.message] == [
        f"the host does not know {method}"
    ]


@on_each_loop
async def test_a_key_is_forgotten_even_where_the_host_cannot_delete() -> None:
    """After -32601 to ``kv/delete`` null is stored, which reads as a key that was never there.

    Source: docs/protocol.md, section 9.
    """
    kv: dict[str, object] = {"k": 1}

    def store(params: dict[str, Any]) -> dict[str, Any]:
        kv[params["key"]] = params["value"]
        return {}

    answers = {"kv/delete": MethodNotFound("no"), "kv/set": store, "kv/get": lambda p: {"value": kv.get(p["key"])}}

    async def forget(ctx: ToolContext) -> object:
        await ctx.kv.delete("k")
        return await ctx.kv.get("k", default="gone")

    made, asked = await use(forget, answers)
    assert made == "gone"
    assert [name for name, _ in asked] == ["kv/delete", "kv/set", "kv/get"]


@on_each_loop
async def test_a_host_that_knows_no_user_interface_has_none() -> None:
    """-32601 to ``ui/request`` means the same as -32001: no user interface.

    Source: docs/protocol.md, sections 4 and 9.
    """
    made, _ = await use(lambda ctx: ctx.ui.confirm("sure?"), {"ui/request": MethodNotFound("no")})
    assert isinstance(made, NoUI)


@on_each_loop
async def test_a_handler_can_ask_for_a_sign_of_life() -> None:
    """``ping`` goes both ways. Source: docs/protocol.md, section 4."""
    assert await use(lambda ctx: ctx.ping(), {"ping": {}}) == (None, [("ping", {})])


@on_each_loop
async def test_a_handler_knows_what_the_host_said_of_itself() -> None:
    """The author can read every field of ``initialize``. Source: docs/protocol.md, section 3."""
    app = App("t")

    @app.tool
    async def look(ctx: ToolContext) -> list[object]:
        said = ctx.host
        assert said.workspace is ctx.workspace
        return [
            said.name, said.version, said.mode, ctx.workspace.root, ctx.workspace.trusted, said.session_id,
            sorted(said.disabled), ctx.has_ui("confirm"), ctx.has_ui("select"), dict(ctx.flags),
        ]  # fmt: skip

    said = {
        "protocol_version": 7,
        "host": {"name": "memory", "version": "1"},
        "workspace": {"root": "/w", "trusted": False},
        "session": {"id": "s-1"},
        "mode": "web",
        "ui_capabilities": ["confirm"],
        "flags": {"x": 1},
        "capabilities_enabled": {"kv": False, "exec": True},
    }
    async with MemoryHost(app, handshake=said) as host:
        assert (await host.tool("look"))["details"] == [
            "memory", "1", "web", "/w", False, "s-1", ["kv"], True, False, {"x": 1},
        ]  # fmt: skip


@on_each_loop
async def test_a_command_is_run_by_the_host() -> None:
    """``exec/run`` {command, args?, cwd?, context} returns stdout, stderr and exit_code.

    Source: docs/protocol.md, section 4.
    """
    answer = {"stdout": "out", "stderr": "err", "exit_code": -9, "new": 1}

    async def run(ctx: ToolContext) -> object:
        one = await ctx.exec.run("ls", ("-l", "-a"), cwd="/tmp")
        two = await ctx.exec.run("ls")
        assert one == two
        return one.stdout, one.stderr, one.exit_code

    made, asked = await use(run, {"exec/run": answer})
    assert made == ("out", "err", -9)
    assert asked == [
        ("exec/run", {"command": "ls", "args": ["-l", "-a"], "cwd": "/tmp", "context": CONTEXT}),
        ("exec/run", {"command": "ls", "args": [], "context": CONTEXT}),
    ]


@on_each_loop
async def test_each_call_acts_in_the_context_it_came_with() -> None:
    """``session/*`` and ``exec/run`` send the context that the call came with. Source: docs/protocol.md, section 5."""
    app = App("t")

    @app.tool
    async def tool(ctx: ToolContext) -> None:
        await ctx.session.send_message("tool")

    @app.command
    async def command(ctx: CommandContext) -> None:
        await ctx.session.send_message("command")

    @app.hook("input")
    async def hook(ctx: HookContext) -> None:
        await ctx.exec.run("hook")

    ran = {"stdout": "", "stderr": "", "exit_code": 0}
    async with MemoryHost(app, {"session/send_message": {}, "exec/run": ran}) as host:
        contexts = [{"token": f"epoch-{n}", "tier": "command"} for n in range(3)]
        calls = [
            host.start("tool/execute", {"call_id": "c", "tool": "tool", "arguments": {}, "context": contexts[0]}),
            host.start("command/execute", {"command": "command", "context": contexts[1]}),
            host.start("hook", {"hook": "input", "input": {}, "context": contexts[2]}),
        ]
        for call in calls:
            assert "result" in await host.answer(call)
    found = {params.get("text") or params["command"]: params["context"] for _, params in host.asked}
    assert found == dict(zip(("tool", "command", "hook"), contexts, strict=True))


# -- services: what is switched off, and what fails --------------------------------------------------------------------

EACH_METHOD: Final[dict[str, Work]] = {
    **{method: work for method, work, *_ in SERVICES},
    "ui/request": lambda ctx: ctx.ui.confirm("sure?"),
    "exec/run": lambda ctx: ctx.exec.run("ls"),
}


@pytest.mark.parametrize("method", sorted(EACH_METHOD))
@on_each_loop
async def test_what_the_handshake_switched_off_is_not_asked_for(method: str) -> None:
    """A method that ``capabilities_enabled`` switches off raises without asking the host.

    What it does not mention is tried.
    """
    group = GROUP_OF[method]
    everything_else = {other: False for other in GROUP_OF.values() if other != group}
    made, asked = await use(EACH_METHOD[method], {method: {}}, capabilities_enabled={group: False})
    assert isinstance(made, CapabilityDisabled)
    assert made.code == -32004
    assert method in made.message
    assert asked == []
    for said in ({}, {group: True}, everything_else):
        made, asked = await use(EACH_METHOD[method], {method: {}}, capabilities_enabled=said)
        assert not isinstance(made, CapabilityDisabled)
        assert [name for name, _ in asked] == [method]


DEGRADING: Final = frozenset(
    {"bus/publish", "session/state", "session/set_model", "kv/list", "kv/delete", "tools/set_active", "ui/request"}
)


@pytest.mark.parametrize("method", sorted(EACH_METHOD.keys() - DEGRADING))
@on_each_loop
async def test_a_method_that_the_host_does_not_know_raises_so_that_the_author_can_degrade(method: str) -> None:
    """Hosts answer -32601 to many methods; the author can catch it by its class.

    Source: docs/protocol.md, section 9.
    """
    made, asked = await use(EACH_METHOD[method])
    assert isinstance(made, MethodNotFound)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (-32000, Blocked),
        (-32001, NoUI),
        (-32002, NotTrusted),
        (-32003, ContextViolation),
        (-32004, CapabilityDisabled),
        (-32602, InvalidParams),
        (-32603, InternalError),
        (-1, RpcError),
    ],
)
@on_each_loop
async def test_an_error_of_the_host_has_a_class_for_its_code(code: int, cls: type[RpcError]) -> None:
    """``RpcError(code, message, data)`` has a subclass for each SEP code."""
    answers = dict.fromkeys(EACH_METHOD, RpcError("because", code=code, data={"a": 1}))
    for method in ("exec/run", "session/state", "bus/publish", "kv/get"):
        made, _ = await use(EACH_METHOD[method], answers)
        assert type(made) is cls
        assert isinstance(made, RpcError)
        assert (made.code, made.message, made.data) == (code, "because", {"a": 1})


@pytest.mark.parametrize(
    ("method", "work", "answer", "names"),
    [
        ("ui/request", lambda ctx: ctx.ui.select("?", ["a"]), {}, "'value'"),
        ("ui/request", lambda ctx: ctx.ui.select("?", ["a"]), {"confirmed": True}, "'value'"),
        ("ui/request", lambda ctx: ctx.ui.select("?", ["a"]), {"value": 5}, "$.value"),
        ("ui/request", lambda ctx: ctx.ui.confirm("?"), {}, "'confirmed'"),
        ("ui/request", lambda ctx: ctx.ui.confirm("?"), {"confirmed": "no"}, "$.confirmed"),
        ("ui/request", lambda ctx: ctx.ui.confirm("?"), {"confirmed": 0}, "$.confirmed"),
        ("ui/request", lambda ctx: ctx.ui.input("?"), {"value": "x"}, "'text'"),
        ("ui/request", lambda ctx: ctx.ui.input("?"), {"text": ["x"]}, "$.text"),
        ("ui/request", lambda ctx: ctx.ui.confirm("?"), {"cancelled": "yes"}, "$.cancelled"),
        ("ui/request", lambda ctx: ctx.ui.confirm("?"), [], "$: "),
        ("kv/get", lambda ctx: ctx.kv.get("k"), {}, "'value'"),
        ("kv/get", lambda ctx: ctx.kv.get("k", Seen), "x", "$: "),
        ("kv/list", lambda ctx: ctx.kv.list(), {}, "'keys'"),
        ("kv/list", lambda ctx: ctx.kv.list(), {"keys": ["a", 5]}, "$.keys[1]"),
        ("kv/list", lambda ctx: ctx.kv.list(), {"keys": "ab"}, "$.keys"),
        ("exec/run", lambda ctx: ctx.exec.run("ls"), {"stdout": "", "stderr": ""}, "'exit_code'"),
        ("exec/run", lambda ctx: ctx.exec.run("ls"), {"stdout": 5, "stderr": "", "exit_code": 0}, "$.stdout"),
        ("exec/run", lambda ctx: ctx.exec.run("ls"), {"stdout": "", "stderr": "", "exit_code": "0"}, "$.exit_code"),
        ("session/state", lambda ctx: ctx.session.state(), {"state": [1]}, "$.state"),
        ("session/state", lambda ctx: ctx.session.state(), None, "$: "),
        ("tools/set_active", lambda ctx: ctx.tools.set_active(["a"]), {}, "'active'"),
        ("tools/set_active", lambda ctx: ctx.tools.set_active(["a"]), {"active": [None]}, "$.active[0]"),
    ],
)
@on_each_loop
async def test_a_result_that_does_not_fit_is_the_hosts_fault_and_says_what_is_wrong(
    method: str, work: Work, answer: object, names: str
) -> None:
    """A wrong result of the host never becomes a wrong value: it is an error with the path of the fault."""
    made, _ = await use(work, {method: answer})
    assert isinstance(made, InternalError)
    assert "the host's answer" in made.message
    assert names in made.message


@pytest.mark.parametrize(
    "answer",
    [
        Malformed(error=None),
        Malformed(error="no"),
        Malformed(error={}),
        Malformed(error={"code": "5", "message": "m"}),
        Malformed(error={"code": 5}),
        Malformed(error={"code": True, "message": "m"}),
        Malformed(jsonrpc="1.0", result={"value": 1}),
        Malformed(jsonrpc=None, result={"value": 1}),
    ],
    ids=lambda answer: repr(answer.fields),
)
@on_each_loop
async def test_an_answer_that_is_no_response_fails_who_asked_and_nobody_else(answer: Malformed) -> None:
    """The caller is told; a malformed answer is never answered; a ping still is."""
    app = App("t")

    @app.tool
    async def call(ctx: ToolContext) -> str:
        try:
            await ctx.kv.get("k")
        except InternalError as error:
            return error.message
        return "got it"

    async with MemoryHost(app, {"kv/get": answer}) as host:
        result = await host.tool("call")
        assert "the peer" in result["content"]
        await host.ping()
        assert not host.errors


@pytest.mark.parametrize("result", [None, [], "ok", 5, {"new": 1}], ids=repr)
@on_each_loop
async def test_a_result_that_says_nothing_may_be_anything(result: object) -> None:
    """If nothing is read from a result, its shape is not checked: hosts differ. Source: docs/protocol.md, section 9."""
    for method in ("kv/set", "kv/delete", "session/send_message", "session/append_entry"):
        made, asked = await use(EACH_METHOD[method], {method: result})
        assert made is None
        assert len(asked) == 1
    for method in ("bus/publish", "session/set_model"):
        assert (await use(EACH_METHOD[method], {method: result}))[0] is True


@pytest.mark.parametrize(
    ("work", "value", "paths"),
    [
        (lambda ctx: ctx.kv.get("k", Seen), {"times": "x"}, {"$.name", "$.times"}),
        (lambda ctx: ctx.kv.get("k", Seen, Seen("y")), "x", {"$"}),
        (lambda ctx: ctx.kv.get("k", int), "x", {"$"}),
        (lambda ctx: ctx.kv.get("k", list[int]), [1, "x"], {"$[1]"}),
    ],
    ids=["fields", "with a default", "int", "list"],
)
@on_each_loop
async def test_what_is_stored_and_does_not_fit_is_invalid_data_and_not_the_default(
    work: Work, value: object, paths: set[str]
) -> None:
    """All faults are told; the default is for a missing value, not for one that an older version wrote."""
    made, _ = await use(work, {"kv/get": {"value": value}})
    assert isinstance(made, InvalidData)
    assert {fault.path for fault in made.faults} == paths


@pytest.mark.parametrize(
    ("work", "path"),
    [
        (lambda ctx: ctx.kv.set("k", {"a": object()}), "$.value.a"),
        (lambda ctx: ctx.kv.set("k", float("nan")), "$.value"),
        (lambda ctx: ctx.bus.publish("t", ["no object"]), "$.payload"),
        (lambda ctx: ctx.bus.publish("t", {"a": object()}), "$.payload.a"),
        (lambda ctx: ctx.session.append_entry(5), "$"),
        (lambda ctx: ctx.ui.set_widget([]), "$"),
    ],
    ids=["object", "nan", "no object", "in a payload", "entry", "widget"],
)
@on_each_loop
async def test_what_has_no_form_in_json_is_not_sent(work: Work, path: str) -> None:
    """It fails that call, with path and type of the value, and nothing else."""
    made, asked = await use(work)
    assert isinstance(made, EncodeError)
    assert made.path == path
    assert asked == []


@on_each_loop
async def test_what_is_still_asked_when_the_host_ends_fails_at_once() -> None:
    """A request whose answer can no longer come fails at once."""
    app = App("t")
    made: list[str] = []
    asking = asyncio.Event()

    async def silent(params: object) -> object:
        asking.set()
        await asyncio.Event().wait()
        return {}

    @app.tool
    async def call(ctx: ToolContext) -> str:
        try:
            await ctx.kv.get("k")
        except SepkitError as error:
            made.append(type(error).__name__)
        return "gave up"

    async with MemoryHost(app, {"kv/get": silent}) as host:
        rid = host.start_tool("call")
        await asking.wait()
        host.end_input()
        assert (await host.answer(rid))["result"] == {"content": "gave up"}
    assert made == ["ConnectionClosed"]
