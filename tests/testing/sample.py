"""An app that uses all of SEP, for the tests of the test host."""

from __future__ import annotations

import asyncio
import typing
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sepkit import (
    App,
    Block,
    CommandContext,
    Credentials,
    Delta,
    Done,
    EventContext,
    HookContext,
    Model,
    OAuthParams,
    Patch,
    ProviderContext,
    ProviderRequest,
    Reasoning,
    StreamEvent,
    TaskContext,
    ToolCall,
    ToolContext,
    ToolError,
    ToolResult,
    Usage,
)
from sepkit.contexts.contexts import Context
from sepkit.faces.sep.link import SepLink
from sepkit.peer import Peer
from sepkit.wire.methods import UiKind


class Diary:
    """What handlers observed."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.alive = False


def sample(**options: Any) -> App:
    """The app; its lifespan yields a :class:`Diary`, which ``app.diary`` is too."""
    diary = Diary()

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[Diary]:
        diary.alive = True
        yield diary
        diary.alive = False

    app = App("sample", version="1.2", lifespan=lifespan, **options)
    app.diary = diary  # type: ignore[attr-defined]
    app.flag("loud", default=False)

    @app.tool
    async def greet(name: str, ctx: ToolContext) -> str:
        """Greet someone."""
        ctx.update("begin", progress=0.0)
        await asyncio.sleep(0)
        ctx.update("end", progress=1.0, details={"name": name})
        return f"Hello, {name}{'!' if ctx.flags['loud'] else '.'}"

    @app.tool
    async def give_up() -> str:
        raise ToolError("I give up")

    @app.tool
    async def described() -> ToolResult:
        return ToolResult("two", details={"count": 2})

    @app.tool
    async def forever(ctx: ToolContext) -> str:
        ctx.update("begun")
        try:
            await asyncio.sleep(10_000)
        except asyncio.CancelledError:
            diary.lines.append("cancelled")
            raise
        return ""

    @app.tool
    def in_a_thread(ctx: ToolContext) -> str:
        ctx.update("from a thread")
        return "done"

    @app.tool
    async def ask(ctx: ToolContext, kind: str = "confirm") -> Any:
        if kind == "select":
            return {"answer": await ctx.ui.select("Which?", ["a", "b"])}
        if kind == "input":
            return {"answer": await ctx.ui.input("Name?", default="Ada")}
        if kind == "confirm":
            return {"answer": await ctx.ui.confirm("Sure?")}
        await ctx.ui.notify("hear, hear", "warn")
        await ctx.ui.set_status("busy")
        await ctx.ui.set_title("a title")
        await ctx.ui.set_widget({"kind": "markdown", "text": "hi"})
        return {"answer": ctx.has_ui("select")}

    @app.tool
    async def raw(method: str, params: dict[str, Any], ctx: ToolContext) -> Any:
        """Ask the host anything, as no typed client would."""
        return await peer_of(ctx).request(method, params)

    @app.tool
    async def told(ctx: ToolContext) -> dict[str, Any]:
        """What the host said of itself."""
        kinds = typing.get_args(UiKind)
        shown = [kind for kind in kinds if ctx.has_ui(kind)]
        return {"mode": ctx.host.mode, "ui": shown, "disabled": sorted(ctx.host.disabled)}

    @app.tool
    async def keep(ctx: ToolContext) -> Any:
        await ctx.kv.set("a/1", {"n": 1})
        await ctx.kv.set("a/2", 2)
        await ctx.kv.delete("a/2")
        return {"given": await ctx.kv.get("given"), "keys": await ctx.kv.list("a/"), "none": await ctx.kv.get("none")}

    @app.tool
    async def act(ctx: ToolContext) -> Any:
        await ctx.session.send_message("said")
        await ctx.session.send_user_message("typed", deliver_as="steer")
        await ctx.session.append_entry({"kept": True})
        await ctx.session.set_model("big", provider="acme")
        return await ctx.session.state()

    @app.tool
    async def execute(ctx: ToolContext, command: str = "git", args: list[str] | None = None) -> Any:
        done = await ctx.exec.run(command, args or [], cwd="/tmp")
        return {"stdout": done.stdout, "stderr": done.stderr, "exit_code": done.exit_code}

    @app.tool
    async def activate(ctx: ToolContext) -> Any:
        return await ctx.tools.set_active(["greet", "bash"])

    @app.tool
    async def shout(ctx: ToolContext) -> str:
        return str(await ctx.bus.publish("news", {"text": "hear"}))

    @app.tool
    async def log(ctx: ToolContext) -> str:
        ctx.log.info("one thing", extra={"weight": 3})
        ctx.log.debug("not this")
        return ""

    @app.hook("tool_call")
    async def gate(call: ToolCall, ctx: HookContext) -> Block | Patch | None:
        if call.tool == "bash":
            return Block("no shells")
        return Patch(arguments={"name": "Ada"}) if call.tool == "sample.greet" else None

    @app.hook("user_bash")
    async def broken(given: dict[str, Any]) -> None:
        raise ValueError("a secret")

    @app.on("turn_start")
    async def turn(payload: dict[str, Any], ctx: EventContext) -> None:
        await asyncio.sleep(0.01)
        diary.lines.append(f"turn {payload.get('n')} #{ctx.seq} {ctx.context.tier}")

    @app.on("events_lost")
    async def lost(payload: dict[str, Any], ctx: EventContext) -> None:
        diary.lines.append(f"lost {payload['lost']} #{ctx.seq}")

    @app.on("turn_end")
    async def stuck(payload: dict[str, Any], ctx: EventContext) -> None:
        if payload.get("raw"):
            params = {**payload["params"], "context": {"token": ctx.context.token, "tier": ctx.context.tier}}
            await peer_of(ctx).request(payload["raw"], params)
        else:
            await asyncio.sleep(10_000)

    @app.on_bus("weather")
    async def weather(payload: dict[str, Any]) -> None:
        diary.lines.append(f"weather {payload['sky']}")

    @app.on("bus/event")
    async def heard(payload: dict[str, Any]) -> None:
        diary.lines.append(f"from {payload['from']}")

    @app.on_key("board")
    async def key(payload: dict[str, Any]) -> None:
        diary.lines.append(f"key {payload['key']}")

    @app.command
    async def count(ctx: CommandContext, upto: int = 2) -> str:
        return " ".join(map(str, range(1, upto + 1)))

    @app.command
    async def nothing() -> None: ...

    @app.complete("count")
    def complete_count(partial: str) -> list[str]:
        return [n for n in ("10", "12", "20") if n.startswith(partial)]

    @app.provider("acme", models=[Model("small", "Small")])
    async def acme(request: ProviderRequest, ctx: ProviderContext) -> AsyncIterator[StreamEvent]:
        yield Reasoning("hm")
        yield Delta(f"{request.model}: ")
        yield Delta(str(request.messages[-1]["content"]))
        if request.tools:
            yield Delta(f" with {len(request.tools)} tools, {request.thinking}, {request.response_format}")
        yield Usage(prompt_tokens=1, completion_tokens=2)
        yield Done("stop")

    @app.oauth_login("acme")
    async def login(request: OAuthParams) -> Credentials:
        return Credentials(access_token="first", refresh_token="r1", expires_at=5)

    @app.oauth_refresh("acme")
    async def refresh(request: OAuthParams) -> Credentials:
        return Credentials(access_token=f"after {request.refresh_token}")

    @app.task(autostart=False)
    async def watch(ctx: TaskContext) -> None:
        ctx.report_health(f"watching {ctx.payload}")
        await ctx.wait_stop()

    return app


def peer_of(ctx: Context) -> Peer:
    """The peer below a context's connection, for what no typed client sends."""
    link = ctx._link
    assert isinstance(link, SepLink)
    return link.peer


def diary(app: App) -> list[str]:
    """What its handlers observed."""
    lines: list[str] = app.diary.lines  # type: ignore[attr-defined]
    return lines


def is_alive(app: App) -> bool:
    """Whether its lifespan is entered."""
    alive: bool = app.diary.alive  # type: ignore[attr-defined]
    return alive
