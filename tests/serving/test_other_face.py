"""A face of its own, in forty lines: what serves an App needs nothing of SEP's wire, peer or frames."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from sepkit import (
    App,
    Block,
    CommandContext,
    Contents,
    Patch,
    PromptMessage,
    ResourceContext,
    ToolCall,
    ToolContext,
    ToolError,
)
from sepkit.contexts import contexts
from sepkit.contexts.backend import Backend, Principal
from sepkit.contexts.link import HostInfo, Workspace
from sepkit.contexts.settings import Setting
from sepkit.resources import find
from sepkit.serving.served import Served
from tests.memory_host import on_each_loop


class Nothing:
    """Nothing ever waits for the caller."""

    congested = False

    async def drain(self) -> None: ...


class Caller:
    """A host in the same process: it calls functions, and says what it is asked with Python values."""

    ui_kinds: frozenset[str] | None = frozenset({"confirm"})
    flags: Mapping[str, Any] = {"loud": True}
    state: Any = None
    busy = False
    outgoing = Nothing()
    principal: Principal | None = Principal("Ada, Ada!")
    logger = logging.getLogger("elsewhere")
    host = HostInfo("caller", "1", "cli", Workspace("/", trusted=True))

    def __init__(self, served: Served) -> None:
        self.served, self.app = served, served.app
        self.kv: dict[str, Any] = {}
        self.told: list[str] = []
        served.join(self)

    @property
    def backend(self) -> Backend:
        return self.served.backend

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self.served.loop

    async def set_setting(self, setting: Setting[Any], value: Any) -> None:
        await self.served.settings.set(self, setting, value)

    async def ask(self, method: str, params: dict[str, Any]) -> Any:
        if method == "ui/request":
            return {"confirmed": True}
        if method == "kv/set":
            self.kv[params["key"]] = params["value"]
        return {"value": self.kv.get(params["key"])}

    async def ask_client(self, method: str, params: dict[str, Any]) -> Any:
        return [method, params]

    def tell(self, method: str, params: dict[str, Any], *, unless: Callable[[], bool] | None = None) -> None:
        self.told.append(params["message"])

    async def send(self, method: str, params: dict[str, Any]) -> None: ...

    def flush(self) -> None: ...

    async def call(self, name: str, /, **arguments: object) -> Any:
        spec, calls = self.app.tools[name], self.served.calls
        context = contexts.ToolContext(self, {"token": "", "tier": "command"}, "call", name, calls.slots)
        return await calls.tool(spec, arguments, context, self, lambda value: ("ok", value), lambda *said: said)

    async def hook(self, name: str, value: dict[str, Any]) -> object:
        context = contexts.HookContext(self, {"token": "", "tier": "command"}, name)
        return await self.served.calls.hook(name, value, context)

    async def prompt(self, name: str, /, **arguments: object) -> object:
        context = contexts.CommandContext(self, {"token": "", "tier": "command"}, name, arguments)
        (spec,) = [spec for spec in self.app.exposed("prompt") if spec.name == name]
        return await self.served.calls.prompt(spec, context, lambda messages: messages)

    async def read(self, uri: str) -> Contents:
        found = find(self.app.resources, uri)
        assert found is not None
        return await self.served.calls.resource(*found, uri, {"token": "", "tier": "command"}, self)

    async def command(self, name: str, /, **arguments: object) -> object:
        context = contexts.CommandContext(self, {"token": "", "tier": "command"}, name, arguments)
        return await self.served.calls.command(self.app.commands[name], context, str)


def an_app() -> App:
    app = App("elsewhere")

    @app.tool
    async def greet(name: str, ctx: ToolContext, times: int = 1) -> str:
        """Greet someone."""
        ctx.update(f"greeting {name}")
        if not await ctx.ui.confirm(f"Greet {name}?"):
            raise ToolError("then not")
        await ctx.kv.set("last", name)
        return f"{await ctx.kv.get('last')}{'!' * times}{' LOUD' if ctx.flags['loud'] else ''}"

    @app.tool
    async def give_up() -> None:
        raise ToolError("I give up")

    @app.hook("tool_call")
    async def gate(call: ToolCall) -> Block | Patch | None:
        if call.tool == "bash":
            return Block("no shell")
        return Patch(arguments={"name": "Bo"}) if call.tool == "greet" else None

    @app.prompt
    async def ask(topic: str) -> PromptMessage:
        return PromptMessage(f"about {topic}", "assistant")

    @app.resource("note://{number}")
    async def note(number: int, ctx: ResourceContext) -> str:
        assert ctx.principal is not None
        method, params = await ctx.client.ask("roots/list", {"a": 1})
        assert (method, params) == ("roots/list", {"a": 1})
        await ctx.kv.set("last", "note")
        return f"note {number} for {ctx.principal.id}"

    @app.command
    async def say(word: str, ctx: CommandContext) -> str:
        return f"{word} to {ctx.host.name}"

    return app


@on_each_loop
async def test_a_tool_a_hook_and_a_command_run_under_another_face() -> None:
    caller = Caller(Served(an_app()))
    await caller.served.start(caller)
    assert await caller.call("greet", name="Ada", times="2") == ("ok", "Ada!! LOUD")
    assert caller.told == ["greeting Ada"]
    assert caller.kv == {"last": "Ada"}
    text, details = await caller.call("greet", nam="Ada")
    assert text.startswith("The arguments of greet do not fit its schema:\n- $.nam: expected nothing")
    assert [fault["path"] for fault in details["errors"]] == ["$.nam", "$.name"]
    assert await caller.call("give_up") == ("I give up",)
    assert await caller.hook("tool_call", {"tool": "bash", "arguments": {}}) == Block("no shell")
    changed = {"tool": "greet", "arguments": {"name": "Bo"}}
    assert await caller.hook("tool_call", {"tool": "greet", "arguments": {"name": "Ada"}}) == changed
    assert await caller.hook("tool_call", {"tool": "other", "arguments": {}}) is None
    assert await caller.command("say", word="hi") == "hi to caller"
    assert await caller.prompt("say", word="hi") == [PromptMessage("hi to caller")]
    assert await caller.prompt("ask", topic="ferns") == [PromptMessage("about ferns", "assistant")]
    assert await caller.read("note://5") == Contents("note 5 for Ada, Ada!", "text/plain")
    assert caller.kv == {"last": "note"}
    caller.served.begin_leave(caller, 1)
    await caller.served.leave(caller, 1)
    await asyncio.sleep(0)
