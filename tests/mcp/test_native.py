"""What an App has for MCP clients: resources, prompts with messages, rich results, hints, instructions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from sepkit import (
    App,
    Audio,
    EmbeddedResource,
    Icon,
    Image,
    PromptMessage,
    ResourceContext,
    ResourceLink,
    ToolContext,
)
from sepkit.errors import RpcError
from sepkit.faces.mcp.protocol import MODERN, STRUCTURED
from tests.mcp.checked import VERSIONS, CheckedClient

PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 20


@dataclass
class Sum:
    total: int


def sample() -> App:
    app = App("native", instructions="Be brief.")

    @app.tool(title="Add up", read_only=True, open_world=False, icons=[Icon("https://example.org/i.png")])
    async def add(a: int, b: int) -> Sum:
        return Sum(a + b)

    @app.tool
    async def picture() -> list[Any]:
        return [
            "Look:",
            Image(PNG),
            Audio(b"ID3", mime="audio/mpeg"),
            ResourceLink("note://7", name="seven"),
            EmbeddedResource("note://8", "eight"),
        ]

    @app.resource("note://{id}", name="note", mime="text/plain")
    async def note(id: int, ctx: ResourceContext) -> str:  # noqa: A002
        if id == 13:
            return "yes" if await ctx.ui.confirm("Really?") else "no"
        return f"note {id}"

    @app.resource("logo://app", title="The logo")
    def logo() -> bytes:
        return PNG

    @app.prompt(title="Greet")
    async def greet(name: str) -> list[PromptMessage]:
        """Greet someone."""
        return [PromptMessage(f"Greet {name}."), PromptMessage("Gladly.", role="assistant")]

    @app.command(expose=None)
    async def hidden() -> str:
        return ""

    @app.tool
    async def touch(ctx: ToolContext) -> str:
        app.resource_changed("note://7")
        return "touched"

    return app


@pytest.mark.asyncio
@pytest.mark.parametrize("version", VERSIONS)
async def test_tools_have_titles_hints_and_output_schemas(version: str) -> None:
    async with CheckedClient(sample(), version) as client:
        tools = {tool["name"]: tool for tool in await client.list_tools()}
        assert tools["add"].get("title") == ("Add up" if version >= "2025-06-18" else None)
        if version >= "2025-03-26":
            assert tools["add"]["annotations"] == {"readOnlyHint": True, "openWorldHint": False}
        if version in STRUCTURED:
            assert tools["add"]["outputSchema"]["required"] == ["total"]
        icons = [{"src": "https://example.org/i.png"}]
        assert tools["add"].get("icons") == (icons if version >= "2025-11-25" else None)
        result = await client.call_tool("add", {"a": 1, "b": 2})
        assert result.text == '{"total":3}'
        assert result.structured == ({"total": 3} if version in STRUCTURED else None)


@pytest.mark.asyncio
@pytest.mark.parametrize("version", VERSIONS)
async def test_images_audio_and_resources_are_blocks_where_the_revision_has_them(version: str) -> None:
    async with CheckedClient(sample(), version) as client:
        kinds = [block["type"] for block in (await client.call_tool("picture")).content]
        audio = "text" if version == "2024-11-05" else "audio"
        link = "resource_link" if version in STRUCTURED else "text"
        assert kinds == ["text", "image", audio, link, "resource"]


@pytest.mark.asyncio
@pytest.mark.parametrize("version", VERSIONS)
async def test_resources_are_listed_read_and_told_of(version: str) -> None:
    async with CheckedClient(sample(), version, forms=lambda *_: True) as client:
        (logo,) = await client.list_resources()
        assert (logo["uri"], logo.get("title")) == ("logo://app", "The logo" if version >= "2025-06-18" else None)
        (template,) = await client.list_resource_templates()
        assert template["uriTemplate"] == "note://{id}"
        (read,) = await client.read_resource("note://7")
        assert (read["text"], read["mimeType"]) == ("note 7", "text/plain")
        (binary,) = await client.read_resource("logo://app")
        assert binary["mimeType"] == "image/png"
        with pytest.raises(RpcError) as caught:
            await client.read_resource("note://seven/8")
        assert caught.value.code == (-32602 if version == MODERN else -32002)
        with pytest.raises(RpcError, match="does not fit"):
            await client.read_resource("note://seven")


@pytest.mark.asyncio
async def test_a_subscriber_hears_of_a_resource_that_has_changed() -> None:
    async with CheckedClient(sample(), VERSIONS[0]) as client:
        await client.request("resources/subscribe", {"uri": "note://7"})
        await client.call_tool("touch")
        await client.until(lambda: client.told("notifications/resources/updated"))
        assert client.told("notifications/resources/updated")[0]["uri"] == "note://7"


@pytest.mark.asyncio
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_prompt_gives_its_messages_and_what_is_not_exposed_is_not_there(version: str) -> None:
    async with CheckedClient(sample(), version) as client:
        (prompt,) = await client.list_prompts()
        assert (prompt["name"], prompt.get("title")) == ("greet", "Greet" if version >= "2025-06-18" else None)
        messages = await client.get_prompt("greet", {"name": "Ada"})
        assert [(one["role"], one["content"]["text"]) for one in messages] == [
            ("user", "Greet Ada."),
            ("assistant", "Gladly."),
        ]


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", [True, False])
@pytest.mark.parametrize("version", [VERSIONS[2], MODERN])
async def test_a_tool_that_wants_it_runs_only_when_the_user_has_confirmed_it(version: str, answer: bool) -> None:
    app = App("confirming")

    @app.tool(confirm="Really?")
    async def wipe() -> str:
        return "gone"

    async with CheckedClient(app, version, forms=lambda *_: {"value": answer}) as client:
        result = await client.call_tool("wipe")
        assert result.is_error is not answer
        assert ("gone" in result.text) is answer
    async with CheckedClient(app, version) as client:
        assert "cannot ask for it" in (await client.call_tool("wipe")).text


@pytest.mark.asyncio
@pytest.mark.parametrize("version", VERSIONS)
async def test_instructions_are_told_in_the_greeting(version: str) -> None:
    async with CheckedClient(sample(), version) as client:
        if version == MODERN:
            greeting = await client.request("server/discover")
            assert greeting["instructions"] == "Be brief."
        else:
            assert client.instructions == "Be brief."


@pytest.mark.asyncio
async def test_a_hook_that_takes_something_out_of_a_result_breaks_no_promise() -> None:
    """Clients refuse a result without the data that its schema promises: with such a hook there is no schema."""
    app = sample()

    @app.hook("tool_result")
    async def redact(outcome: dict[str, Any]) -> dict[str, Any]:
        return {**outcome, "content": "[redacted]"}

    async with CheckedClient(app, MODERN) as client:
        tools = {tool["name"]: tool for tool in await client.list_tools()}
        assert "outputSchema" not in tools["add"]
        result = await client.call_tool("add", {"a": 1, "b": 2})
        assert (result.text, result.structured) == ("[redacted]", None)
        assert (await client.call_tool("picture")).text == "[redacted]"
