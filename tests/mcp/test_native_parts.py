"""What MCP has and SEP has not, as each revision shows it: titles, rich results, resources, prompts, forms, pages."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Literal

import pytest

from sepkit import (
    App,
    Audio,
    CommandContext,
    EmbeddedResource,
    Icon,
    Image,
    Patch,
    PromptMessage,
    ResourceContext,
    ResourceLink,
    ToolCall,
    ToolContext,
    ToolError,
    ToolOutcome,
    ToolResult,
)
from sepkit.errors import InternalError, InvalidParams, RpcError
from sepkit.faces.mcp.protocol import MODERN
from tests.mcp.checked import VERSIONS, CheckedClient
from tests.memory_host import on_each_loop

BOTH = ("2025-11-25", MODERN)
PNG = b"\x89PNG\r\n\x1a\n0000"
WAV = b"RIFF0000WAVEfmt "


@dataclasses.dataclass
class Weather:
    city: str
    degrees: float


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.asyncio
async def test_titles_hints_icons_and_output_schemas_are_listed_where_the_revision_knows_them(version: str) -> None:
    app = App("about", instructions="Ask twice.", icons=["https://example.com/a.png"])

    @app.tool(title="The weather", read_only=True, open_world=False, icons=[Icon("https://example.com/i.png")])
    async def weather(city: str) -> Weather:
        return Weather(city, 20.5)

    @app.prompt(title="A greeting", icons=["https://example.com/p.png"])
    async def hello(who: str) -> str:
        return f"Greet {who}."

    async with CheckedClient(app, version) as client:
        (tool,), (prompt,) = await client.list_tools(), await client.list_prompts()
        result = await client.call_tool("weather", {"city": "Bern"})
        assert client.instructions == "Ask twice."
        assert ("icons" in client.server) == (version >= "2025-11-25")
    optional = {"title": "2025-06-18", "annotations": "2025-03-26", "outputSchema": "2025-06-18", "icons": "2025-11-25"}
    for member, since in optional.items():
        assert (member in tool) == (version >= since), member
    assert ("title" in prompt, "icons" in prompt) == (version >= "2025-06-18", version >= "2025-11-25")
    assert result.structured == ({"city": "Bern", "degrees": 20.5} if version >= "2025-06-18" else None)


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.asyncio
async def test_each_success_of_a_tool_with_an_output_schema_has_structured_content_that_fits_it(version: str) -> None:
    app = App("promises")
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    returns: dict[str, object] = {
        "plain": {"n": 1},
        "told": ToolResult("one", details={"n": 1}),
        "failed": ToolResult("no", is_error=True),
        "wrong": {"n": "one"},
    }

    @app.tool(output_schema=schema)
    async def number(how: str, ctx: ToolContext) -> object:
        return returns[how]

    @app.tool(output_schema=schema)
    async def simple(how: str) -> object:
        return returns[how]

    async with CheckedClient(app, version) as client:
        for name in ("number", "simple"):
            got = {how: await client.call_tool(name, {"how": how}) for how in returns}
            assert (got["plain"].text, got["plain"].structured) == ('{"n":1}', {"n": 1})
            assert (got["told"].text, got["told"].structured) == ("one", {"n": 1})
            assert (got["failed"].is_error, got["failed"].structured) == (True, None)
            assert got["wrong"].text.startswith(f"The result of {name} does not fit its output schema: ")


@pytest.mark.asyncio
async def test_where_a_hook_may_change_results_no_output_schema_is_promised() -> None:
    app = App("hooked")

    @app.tool
    async def weather() -> Weather:
        return Weather("Bern", 1)

    @app.hook("tool_result")
    async def shorten(outcome: ToolOutcome) -> Patch:
        return Patch(content="short")

    async with CheckedClient(app) as client:
        assert "outputSchema" not in (await client.list_tools())[0]
        assert (await client.call_tool("weather")).text == "short"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.asyncio
async def test_rich_results_are_content_and_text_where_the_revision_lacks_them(version: str) -> None:
    app = App("rich")

    @app.tool
    async def show() -> list[object]:
        link = ResourceLink("note://1", title="One")
        return ["look:", Image(PNG), Audio(WAV), link, EmbeddedResource("note://2", "two"), {"a": 1}]

    @app.tool
    async def unsendable() -> list[object]:
        return [Image(PNG), "\ud800"]

    @app.prompt
    async def review(style: Literal["kind", "strict"]) -> list[object]:
        return [f"Review it, {style}.", Image(PNG), Audio(WAV), PromptMessage("I see.", role="assistant")]

    async with CheckedClient(app, version) as client:
        blocks = (await client.call_tool("show")).content
        assert (await client.call_tool("unsendable")).is_error
        messages = await client.get_prompt("review", {"style": "kind"})
        with pytest.raises(InvalidParams, match="the arguments of review do not fit"):
            await client.get_prompt("review", {"style": "rude"})
    audio = "audio" if version >= "2025-03-26" else "text"
    link = "resource_link" if version >= "2025-06-18" else "text"
    assert [block["type"] for block in blocks] == ["text", "image", audio, link, "resource", "text"]
    assert [one["content"]["type"] for one in messages] == ["text", "image", audio, "text"]
    assert [one["role"] for one in messages] == ["user", "user", "user", "assistant"]


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.asyncio
async def test_an_image_stays_where_a_hook_changes_nothing_and_goes_where_it_redacts(version: str) -> None:
    app = App("redacted")

    @app.tool
    async def show(secret: bool) -> list[object]:
        return ["secret" if secret else "fine", Image(PNG)]

    @app.hook("tool_result")
    async def redact(outcome: ToolOutcome) -> Patch | None:
        return Patch(content="hidden") if "secret" in outcome.content else None

    async with CheckedClient(app, version) as client:
        shown = await client.call_tool("show", {"secret": False})
        assert [block["type"] for block in shown.content] == ["text", "image"]
        hidden = await client.call_tool("show", {"secret": True})
        assert hidden.content == [{"type": "text", "text": "hidden"}]
        assert hidden.details is None


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.asyncio
async def test_commands_are_prompts_tools_or_nothing_as_they_say(version: str) -> None:
    app, seen = App("exposed"), []

    @app.command(expose="tool")
    async def count(to: int, ctx: CommandContext) -> str:
        if to == 0:
            raise ToolError("nothing to count")
        return f"{list(range(to))} {await ctx.ui.confirm('Count?')}"

    @app.command(expose=None)
    async def hidden() -> None: ...

    @app.command
    async def asks() -> dict[str, str]:
        return {"kind": "text", "text": "a block"}

    @app.hook("tool_call")
    async def gate(call: ToolCall) -> None:
        seen.append(call.tool)

    async with CheckedClient(app, version, forms={"confirm": True}) as client:
        assert [tool["name"] for tool in await client.list_tools()] == ["count"]
        assert [prompt["name"] for prompt in await client.list_prompts()] == ["asks"]
        assert (await client.call_tool("count", {"to": 2})).text == "[0, 1] True"
        assert (await client.call_tool("count", {"to": 0})).text == "nothing to count"
        assert (await client.call_tool("count", {"to": "x"})).is_error
        assert (await client.get_prompt("asks"))[0]["content"]["text"] == "a block"
    assert seen == ["count"] * 3


@pytest.mark.parametrize("version", ["2025-03-26", "2025-06-18", *BOTH])
@pytest.mark.asyncio
async def test_a_tool_that_wants_to_be_confirmed_asks_by_a_form_and_does_not_run_without(version: str) -> None:
    app, ran = App("careful"), []

    @app.tool(confirm=True)
    async def delete(name: str) -> str:
        ran.append(name)
        return "gone"

    async with CheckedClient(app, version, forms={"confirm": [True, False]}) as client:
        first, second = [await client.call_tool("delete", {"name": name}) for name in "ab"]
    if version == "2025-03-26":
        assert "this host cannot ask for it" in first.text
        assert ran == []
        return
    assert (first.text, second.is_error, ran) == ("gone", True, ["a"])


def notes() -> App:
    app = App("notes")

    @app.resource("note://about", title="About", mime="text/markdown", icons=["https://example.com/n.png"])
    async def about() -> str:
        return "# Notes"

    @app.resource("note://{shelf}/{number}")
    async def note(shelf: Literal["red", "green"], number: int) -> bytes:
        if number == 9:
            raise ValueError("the password is x")
        return PNG

    @app.resource("sure://{+path}")
    async def sure(path: str, ctx: ResourceContext) -> str:
        return f"{path} {await ctx.ui.confirm('Sure?')}"

    @app.tool
    async def touch(uri: str) -> None:
        app.resource_changed(uri)

    return app


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.asyncio
async def test_resources_and_templates_are_listed_read_and_completed(version: str) -> None:
    async with CheckedClient(notes(), version) as client:
        (about,) = await client.list_resources()
        assert ("title" in about, "icons" in about) == (version >= "2025-06-18", version >= "2025-11-25")
        templates = await client.list_resource_templates()
        assert [one["uriTemplate"] for one in templates] == ["note://{shelf}/{number}", "sure://{+path}"]
        assert (await client.read_resource("note://about"))[0]["text"] == "# Notes"
        assert (await client.read_resource("note://red/41"))[0]["mimeType"] == "image/png"
        ref = {"type": "ref/resource", "uri": "note://{shelf}/{number}"}
        params = {"ref": ref, "argument": {"name": "shelf", "value": "r"}}
        assert (await client.request("completion/complete", params))["completion"]["values"] == ["red"]


@on_each_loop
async def test_a_resource_may_ask_and_what_cannot_be_read_is_an_error_of_its_era() -> None:
    for version in BOTH:
        async with CheckedClient(notes(), version, forms={"confirm": True}) as client:
            assert (await client.read_resource("sure://a/b"))[0]["text"] == "a/b True"
            with pytest.raises(RpcError) as missing:
                await client.read_resource("note://nothing")
            assert missing.value.code == (-32602 if version == MODERN else -32002)
            for uri in ("note://red/x", "note://pink/1", "no uri", "sure://../etc/passwd", "sure://a/%2e%2e/b"):
                with pytest.raises(InvalidParams):
                    await client.read_resource(uri)
            with pytest.raises(InternalError) as failed:
                await client.read_resource("note://red/9")
            assert "password" not in str(failed.value)


@pytest.mark.asyncio
async def test_who_has_subscribed_to_a_resource_is_told_of_its_changes() -> None:
    for version in ("2025-06-18", MODERN):
        async with CheckedClient(notes(), version) as client:
            if version == MODERN:
                assert await client.listen(uris=["note://red/1", "no uri"]) == {
                    "resourceSubscriptions": ["note://red/1"]
                }
            else:
                await client.request("resources/subscribe", {"uri": "note://red/1"})
            await client.call_tool("touch", {"uri": "note://red/2"})
            await client.call_tool("touch", {"uri": "note://red/1"})
            told = partial(client.told, "notifications/resources/updated")
            await client.until(told)
            assert [one["uri"] for one in told()] == ["note://red/1"]


@dataclasses.dataclass
class Trip:
    city: str
    days: int = 3
    how: Literal["train", "car"] = "train"
    note: str | None = None


def travel() -> App:
    app = App("travel")

    @app.tool
    async def book(ctx: ToolContext) -> str:
        return repr(await ctx.ui.form("Where to?", Trip))

    @app.tool
    async def log_in(ctx: ToolContext) -> str:
        return str(await ctx.ui.open_url("Log in", "https://example.com/login"))

    return app


@pytest.mark.parametrize("version", ["2025-06-18", *BOTH])
@pytest.mark.asyncio
async def test_a_form_asks_for_all_its_fields_at_once_and_again_where_they_do_not_fit(version: str) -> None:
    answers = iter([{"city": "Bern", "days": "many"}, {"city": "Bern", "days": 2, "note": None}])
    async with CheckedClient(travel(), version, forms=lambda form: next(answers)) as client:
        assert (await client.call_tool("book")).text == repr(Trip("Bern", 2))
        assert [form["requestedSchema"]["required"] for form in client.asked] == [["city"], ["city"]]
    for answer in ({"action": "decline"}, {"action": "cancel"}, {"action": "accept"}):
        async with CheckedClient(travel(), version, forms=lambda form, answer=answer: answer) as client:
            assert (await client.call_tool("book")).text == "None"


@pytest.mark.parametrize("version", ["2025-06-18", *BOTH])
@pytest.mark.asyncio
async def test_a_page_is_opened_where_the_client_can_and_else_shown(version: str) -> None:
    for answer, action in ((True, "accept"), (False, "decline")):
        given = {"action": action}
        capabilities: dict[str, Any] = {"elicitation": {"url": {}} if version in BOTH else {}}
        async with CheckedClient(
            travel(), version, forms=lambda form, given=given: given, capabilities=capabilities
        ) as client:
            result = await client.call_tool("log_in")
            if version == "2025-06-18":
                assert result.text == "True"
                continue
            assert result.text == str(answer)
            assert ("elicitationId" in client.asked[0]) == (version != MODERN)
            assert (await client.call_tool("book")).is_error, "it has no forms"
