"""What is registered while the app is served: the host is told with ``registry/update``, and it works from then on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sepkit import App, Delta, EventContext, Model, ProviderRequest, Router, ToolContext
from sepkit.errors import RegistrationError
from sepkit.wire import messages
from sepkit.wire.converter import structure_exactly
from sepkit.wire.messages import Credentials, OAuthParams
from tests.checked_host import CheckedHost
from tests.memory_host import CONTEXT, MemoryHost, on_each_loop


def updates(host: MemoryHost) -> list[dict[str, Any]]:
    """What the host was told, each update checked against the protocol."""
    told = host.told_of("registry/update")
    for update in told:
        structure_exactly(update, messages.RegistryUpdateParams)
    return told


@on_each_loop
async def test_a_tool_added_by_a_tool_is_told_before_the_answer_and_can_be_called() -> None:
    """``registry/update`` has the new tools, in full. Source: docs/protocol.md, section 4."""
    app = App("t")

    async def double(n: int) -> int:
        """Twice n."""
        return 2 * n

    @app.tool
    async def learn() -> str:
        app.add_tool(double, deferred=True)
        return "learned"

    async with MemoryHost(app) as host:
        assert (await host.tool("double", n=4))["is_error"]
        assert (await host.tool("learn"))["content"] == "learned"
        schema = {
            "type": "object",
            "properties": {"n": {"type": "integer"}},
            "required": ["n"],
            "additionalProperties": False,
        }
        assert updates(host) == [
            {"tools": [{"name": "double", "description": "Twice n.", "parameters": schema, "deferred": True}]}
        ]
        methods = [frame.get("method", "answer") for frame in host.frames]
        assert methods[-2:] == ["registry/update", "answer"]
        assert (await host.tool("double", n=4))["content"] == "8"
        assert (await host.tool("double", n="x"))["is_error"], "its arguments are checked like any tool's"


@on_each_loop
async def test_each_family_that_the_protocol_knows_may_grow() -> None:
    """Tools, commands, flags, subscriptions and providers may be added, by decorators and by methods.

    Source: docs/protocol.md, section 4.
    """
    app = App("t")
    heard: list[tuple[str, object]] = []

    @app.tool
    async def flags(ctx: ToolContext) -> dict[str, Any]:
        return dict(ctx.flags)

    @app.tool
    async def grow(what: str) -> None:
        if what == "command":

            @app.command
            async def plan() -> str:
                """Plan."""
                return "planned"

            @app.complete("plan")
            async def ways(partial: str) -> list[str]:
                return [partial + "!"]
        elif what == "flag":
            app.flag("verbose", default=3)
        elif what == "event":

            @app.on("turn_start")
            async def first(payload: dict[str, Any], ctx: EventContext) -> None:
                heard.append(("first", payload))

            @app.on("turn_start")
            async def second(payload: dict[str, Any]) -> None:
                heard.append(("second", payload))
        elif what == "provider":

            async def answer(request: ProviderRequest) -> AsyncIterator[Delta]:
                yield Delta(f"from {request.model}")

            app.add_provider(answer, "p", models=[Model("m")])

            @app.oauth_login("p")
            async def login(params: OAuthParams) -> Credentials:
                return Credentials(api_key="k")

    async with MemoryHost(app) as host:
        for what in ("command", "flag", "event", "provider"):
            await host.tool("grow", what=what)
        assert updates(host) == [
            {"commands": [{"name": "plan", "description": "Plan."}]},
            {"flags": ["verbose"]},
            {"subscriptions": ["turn_start"]},
            {"providers": [{"name": "p", "models": [{"id": "m"}]}]},
            {"providers": [{"name": "p", "models": [{"id": "m"}], "oauth": True}]},
        ]
        assert (await host.tool("flags"))["details"]["verbose"] == 3
        assert await host.ask("command/execute", {"command": "plan", "context": CONTEXT}) == {"content": "planned"}
        assert await host.ask("command/complete", {"command": "plan", "context": CONTEXT, "partial": "o"}) == {
            "completions": [{"value": "o!"}]
        }
        host.send(host.event("turn_start", {"n": 1}))
        await host.ping()
        while len(heard) < 2:
            await asyncio.sleep(0)
        assert sorted(heard, key=str) == [("first", {"n": 1}), ("second", {"n": 1})]
        asked = {"request_id": "r", "provider": "p", "model": "m", "messages": []}
        assert (await host.ask("provider/complete", asked))["content"] == "from m"
        assert await host.ask("provider/oauth_login", {"provider": "p"}) == {"api_key": "k"}


@on_each_loop
async def test_a_replaced_registration_is_told_anew_and_running_calls_end_as_they_began() -> None:
    """Registrations are merged by name, and the last one wins. Source: docs/protocol.md, section 4."""
    app = App("t")
    going_on = asyncio.Event()
    began = asyncio.Event()

    @app.tool(name="greet")
    async def old() -> str:
        """Old."""
        began.set()
        await going_on.wait()
        return "old"

    async def new(name: str = "you") -> str:
        """New."""
        return f"new, {name}"

    async def models_of_today(request: ProviderRequest) -> AsyncIterator[Delta]:
        yield Delta("x")

    app.add_provider(models_of_today, "p", models=[Model("a")])
    async with MemoryHost(app) as host:
        call = host.start_tool("greet")
        await began.wait()
        with pytest.raises(RegistrationError, match="tool 'greet' is registered twice"):
            app.add_tool(new, name="greet")
        assert updates(host) == [], "what was refused is not told"
        app.add_tool(new, name="greet", replace=True)
        app.add_command(new, name="hi")
        app.add_command(old, name="hi", replace=True)
        app.add_provider(models_of_today, "p", models=[Model("a"), Model("b")], replace=True)
        going_on.set()
        assert (await host.answer(call))["result"]["content"] == "old"
        assert (await host.tool("greet"))["content"] == "new, you"
        told = updates(host)
        assert [tool["description"] for update in told for tool in update.get("tools", ())] == ["New."]
        assert [one["description"] for update in told for one in update.get("commands", ())] == ["New.", "Old."]
        assert told[-1] == {"providers": [{"name": "p", "models": [{"id": "a"}, {"id": "b"}]}]}


@on_each_loop
async def test_a_router_included_while_served_is_one_update_or_none() -> None:
    """One ``registry/update`` has all that is new; if a name is taken, nothing has happened.

    Source: docs/protocol.md, section 4.
    """
    app = App("t")
    router = Router()

    @router.tool
    async def one() -> None: ...
    @router.tool
    async def two() -> None: ...
    @router.on("turn_end")
    async def ended() -> None: ...
    @app.tool
    async def first() -> None: ...

    clashing = Router()
    clashing.add_tool(one, name="three")
    clashing.add_tool(one, name="first")

    async with MemoryHost(app) as host:
        with pytest.raises(RegistrationError, match="tool 'first' is registered twice"):
            app.include(clashing)
        assert "three" not in app.tools
        app.include(router)
        await host.ping()
        (update,) = updates(host)
        assert [tool["name"] for tool in update["tools"]] == ["one", "two"]
        assert update["subscriptions"] == ["turn_end"]
        clashing.tools.pop("first")
        app.include(clashing)
        await host.ping()
        assert [tool["name"] for tool in updates(host)[1]["tools"]] == ["three"]


@on_each_loop
async def test_what_the_protocol_cannot_add_later_is_refused_where_it_is_written() -> None:
    """``registry/update`` has no hooks, shortcuts, renderers or tasks. Source: docs/protocol.md, section 4."""
    app = App("t")

    @app.hook("tool_call")
    async def gate() -> None: ...
    @app.command
    async def plan() -> None: ...

    async def work() -> None: ...

    async with CheckedHost(app):
        for add in (
            lambda: app.hook("user_bash")(gate),
            lambda: app.shortcut("ctrl+p", "plan"),
            lambda: app.renderer("tag", {"kind": "markdown", "text": "{{x}}"}),
            lambda: app.task(work),
        ):
            with pytest.raises(RegistrationError, match=r"comes too late: .* register it before the app is served"):
                add()
        app.hook("tool_call")(gate)  # the host asks for this one anyway
    assert not app.shortcuts
    assert not app.renderers
    assert not app.task_specs
    app.shortcut("ctrl+p", "plan")  # nobody is told of it now


@on_each_loop
async def test_what_the_lifespan_registers_is_in_the_handshake() -> None:
    """The lifespan is entered before the handshake is answered, so its registrations need no update."""

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        async def found() -> str:
            return "found"

        app.add_tool(found)
        app.hook("user_bash")(found_hook)
        yield

    async def found_hook() -> None: ...

    app = App("t", lifespan=lifespan)
    async with MemoryHost(app) as host:
        registrations = host.initialized["registrations"]
        assert [tool["name"] for tool in registrations["tools"]] == ["found"]
        assert registrations["hooks"] == ["user_bash"]
        assert updates(host) == []
        assert (await host.tool("found"))["content"] == "found"


@on_each_loop
async def test_a_thread_may_add_a_tool() -> None:
    """``def`` handlers run in threads, and may do what other handlers do."""
    app = App("t")

    async def late() -> str:
        return "late"

    @app.tool
    def learn(ctx: ToolContext) -> None:
        app.add_tool(late)

    async with MemoryHost(app) as host:
        await host.tool("learn")
        await host.until(lambda: bool(host.told_of("registry/update")))
        assert [tool["name"] for tool in updates(host)[0]["tools"]] == ["late"]
        assert (await host.tool("late"))["content"] == "late"
