"""Tools under MCP: how they are listed, called, and gated by the App's own hooks; progress, log and changes."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any, Literal

import attrs
import orjson
import pytest

from sepkit import App, Block, Patch, ToolCall, ToolContext, ToolError, ToolOutcome, ToolResult
from sepkit.errors import InvalidParams, RegistrationError, RequestTimeout
from sepkit.faces.mcp.protocol import MODERN
from sepkit.faces.mcp.schemas import parsed_kinds, plain_schema
from sepkit.testing import McpClient, run_virtual
from tests.mcp.checked import VERSIONS, CheckedClient
from tests.memory_host import on_each_loop

BOTH = ("2025-06-18", MODERN)


@attrs.frozen
class Place:
    name: str
    tags: list[str] = attrs.field(factory=list)


# ---------------------------------------------------------------------------------------------------------------- lists
@pytest.mark.asyncio
async def test_names_are_served_as_all_clients_take_them_and_hooks_keep_the_apps_own() -> None:
    app, seen = App("names"), []

    @app.tool(name="file.read")
    async def read() -> str:
        return "text"

    @app.tool(name="x" * 80)
    async def long() -> str:
        return "long"

    @app.hook("tool_call")
    async def gate(call: ToolCall) -> None:
        seen.append(call.tool)

    async with CheckedClient(app) as client:
        assert [tool["name"] for tool in await client.list_tools()] == ["file_read", "x" * 64]
        assert (await client.call_tool("file_read")).text == "text"
        with pytest.raises(InvalidParams, match="known: file_read"):
            await client.call_tool("file.read")
    assert seen == ["file.read"]


@pytest.mark.asyncio
async def test_two_names_that_would_be_one_are_refused_at_start() -> None:
    app = App("names")

    @app.tool(name="a.b")
    async def one() -> None: ...

    @app.tool(name="a_b")
    async def two() -> None: ...

    with pytest.raises(RegistrationError, match=r"tools 'a\.b' and 'a_b' would both be 'a_b' to MCP clients"):
        await McpClient(app).__aenter__()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.asyncio
async def test_schemas_go_out_without_references_and_with_items_on_each_array(version: str) -> None:
    app = App("schemas")

    @app.tool
    async def walk(place: Place, pair: tuple[int, str], anything: list) -> None:  # type: ignore[type-arg]
        """Walk."""

    tree = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}}
    draft = "https://json-schema.org/draft/2020-12/schema"
    properties = {"a": {"type": ["array", "null"]}, "tree": {"$ref": "#/$defs/tree"}}

    @app.tool(parameters={"$schema": draft, "type": "object", "properties": properties, "$defs": {"tree": tree}})
    async def raw(**arguments: Any) -> None: ...

    async with CheckedClient(app, version) as client:
        tools = await client.list_tools()
    text = orjson.dumps(tools).decode()
    assert "$ref" not in text
    assert "$schema" not in text
    assert "$defs" not in text
    assert tools[1]["inputSchema"]["properties"]["a"] == {"type": ["array", "null"], "items": {}}
    assert tools[0]["inputSchema"]["properties"]["anything"]["items"] == {}
    assert tools[0]["inputSchema"]["properties"]["place"]["properties"]["tags"]["items"] == {"type": "string"}
    inlined = tools[1]["inputSchema"]["properties"]["tree"]
    assert inlined == {"type": "object", "properties": {"children": {"type": "array", "items": {}}}}, (
        "cut within itself"
    )


def test_only_schemas_are_looked_into_and_hostile_ones_end() -> None:
    """A property may be called ``$ref``; references that double each other would make billions."""
    schema = {"type": "object", "properties": {"$ref": {"type": "string"}, "x": {"default": {"$ref": "#/x"}}}}
    assert plain_schema(schema) == schema
    bomb: dict[str, Any] = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(60)}
    assert plain_schema({"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": bomb})
    lost = {"type": "object", "properties": {"a": {"$ref": "http://x"}, "b": {"$ref": "#/no"}, "c": {"$ref": "#"}}}
    assert plain_schema(lost)["properties"]["a"] == {}
    assert parsed_kinds({"properties": {"a": {"anyOf": [{"type": "array"}, {"type": "null"}]}, "b": {}}}) == {
        "a": (list,)
    }


# ---------------------------------------------------------------------------------------------------------------- calls
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.asyncio
async def test_what_a_tool_returns_is_text_and_structured_where_it_is_an_object(version: str) -> None:
    app = App("results")
    results: dict[str, object] = {
        "text": "plain",
        "nothing": None,
        "object": {"a": [1, 2]},
        "list": [1, 2],
        "number": 5,
        "full": ToolResult("for the model", details={"for": "people"}),
        "wrong": ToolResult("bad", is_error=True),
        "unsendable": object(),
        "surrogate": "\ud800",
    }

    @app.tool
    async def give(what: str) -> object:
        return results[what]

    async with CheckedClient(app, version) as client:
        got = {what: await client.call_tool("give", {"what": what}) for what in results}
    structured = version >= "2025-06-18"
    assert got["text"].content == [{"type": "text", "text": "plain"}]
    assert got["nothing"].content == []
    assert (got["object"].text, got["object"].structured) == ('{"a":[1,2]}', {"a": [1, 2]} if structured else None)
    assert (got["list"].text, got["list"].structured) == ("[1,2]", None)
    assert got["number"].text == "5"
    assert (got["full"].text, got["full"].details, got["full"].structured) == ("for the model", {"for": "people"}, None)
    assert (got["wrong"].text, got["wrong"].is_error) == ("bad", True)
    assert got["unsendable"].is_error
    assert got["surrogate"].is_error
    assert not got["text"].is_error


@on_each_loop
async def test_what_fails_is_a_result_that_the_model_can_learn_from_and_secrets_stay_here() -> None:
    app = App("failures")

    @app.tool
    async def fail(how: Literal["told", "raised", "exit"]) -> None:
        if how == "told":
            raise ToolError("try again tomorrow")
        raise (SystemExit if how == "exit" else ValueError)("the password is x")

    for version in BOTH:
        async with CheckedClient(app, version) as client:
            told = await client.call_tool("fail", {"how": "told"})
            assert (told.is_error, told.text) == (True, "try again tomorrow")
            for how in ("raised", "exit"):
                raised = await client.call_tool("fail", {"how": how})
                assert raised.is_error
                assert "password" not in orjson.dumps(raised.raw).decode()
            wrong = await client.call_tool("fail", {"hwo": "told"})
            assert wrong.is_error
            assert wrong.text.startswith("The arguments of fail do not fit its schema:\n- $.hwo: expected nothing")
            with pytest.raises(InvalidParams, match="there is no tool 'nothing'; known: fail"):
                await client.call_tool("nothing")
            wrong_params: tuple[dict[str, Any], ...] = ({}, {"name": 1}, {"name": "fail", "arguments": []})
            for params in wrong_params:
                with pytest.raises(InvalidParams):
                    await client.request("tools/call", params)


@pytest.mark.asyncio
async def test_the_json_text_of_an_array_or_an_object_is_parsed_and_no_other_string_is() -> None:
    app = App("strings")

    @app.tool
    async def take(items: list[int], about: dict[str, int] | None = None, text: str | list[int] = "") -> object:
        return [items, about, text]

    async with CheckedClient(app) as client:
        arguments = {"items": "[1, 2]", "about": '{"a": 1}', "text": "[3]"}
        assert (await client.call_tool("take", arguments)).text == '[[1,2],{"a":1},"[3]"]'
        assert (await client.call_tool("take", {"items": '{"a": 1}'})).is_error
        assert (await client.call_tool("take", {"items": "[1"})).is_error


@pytest.mark.asyncio
async def test_a_call_beyond_what_may_wait_is_refused_as_overloaded_and_never_hangs() -> None:
    app, go_on = App("busy"), asyncio.Event()

    @app.tool
    async def wait() -> str:
        await go_on.wait()
        return "done"

    async with CheckedClient(app, max_concurrency=1) as client:
        calls = [asyncio.create_task(client.call_tool("wait")) for _ in range(1026)]
        while not any(call.done() for call in calls):
            await asyncio.sleep(0)
        refused = [call for call in calls if call.done()]
        assert ["overloaded" in str(call.exception()) for call in refused] == [True]
        go_on.set()
        assert {call.result().text for call in await _all(calls) if call not in refused} == {"done"}


async def _all(tasks: list[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    await asyncio.wait(tasks)
    return tasks


# ---------------------------------------------------------------------------------------------------------------- hooks
@pytest.mark.parametrize("version", BOTH)
@pytest.mark.asyncio
async def test_the_apps_hooks_gate_change_and_redact_its_own_tools(version: str) -> None:
    app, ran = App("gated"), []

    @app.tool
    async def echo(text: str) -> str:
        ran.append(text)
        return f"{text} secret"

    @app.tool
    async def data() -> dict[str, str]:
        return {"key": "secret"}

    @app.hook("tool_call")
    async def gate(call: ToolCall) -> Block | Patch | None:
        text = call.arguments.get("text")
        if text == "no":
            return Block("not that one")
        if text == "fail":
            raise ValueError("broken")
        return Patch(arguments={"text": "changed"}) if text == "change" else None

    @app.hook("tool_result")
    async def redact(outcome: ToolOutcome) -> Patch | Block | None:
        if outcome.content.startswith("hide"):
            return Block("hidden")
        return Patch(content=outcome.content.replace("secret", "***"))

    async with CheckedClient(app, version) as client:
        assert (await client.call_tool("echo", {"text": "yes"})).text == "yes ***"
        assert (await client.call_tool("echo", {"text": "change"})).text == "changed ***"
        blocked = await client.call_tool("echo", {"text": "no"})
        assert (blocked.is_error, blocked.text) == (True, "echo was not called: not that one")
        failed = await client.call_tool("echo", {"text": "fail"})
        assert failed.is_error
        assert failed.text.startswith("echo was not called: ")
        hidden = await client.call_tool("echo", {"text": "hide"})
        assert (hidden.is_error, hidden.text) == (True, "the result of echo is withheld: hidden")
        redacted = await client.call_tool("data")
        assert "secret" not in orjson.dumps(redacted.raw).decode(), "nor by its structured content"
        assert redacted.text == '{"key":"***"}'
    assert ran == ["yes", "changed", "hide"]


# ------------------------------------------------------------------------------------------------------------- progress
@on_each_loop
async def test_progress_goes_under_the_requests_own_token_grows_strictly_and_ends_with_the_answer() -> None:
    app = App("progress")
    left: list[ToolContext] = []

    @app.tool
    async def steps(ctx: ToolContext) -> str:
        left.append(ctx)
        for part in (0, 0.5, 0.5, 0.2, 1):
            ctx.update(f"at {part}", progress=part)
        await ctx.ui.notify("nearly")
        return "done"

    @app.tool
    async def words(ctx: ToolContext) -> None:
        for word in "abc":
            ctx.update(word, details={"dropped": True})

    @app.tool
    def threads(ctx: ToolContext) -> None:
        def tell() -> None:
            for _ in range(20):
                ctx.update()

        workers = [threading.Thread(target=tell) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    for version in BOTH:
        async with CheckedClient(app, version) as client:
            told: list[dict[str, Any]] = []
            await client.call_tool("steps", on_progress=told.append)
            left[-1].update("too late", progress=1)
            numbers = [one["progress"] for one in told]
            assert numbers == sorted(set(numbers))
            assert [one.get("message") for one in told] == ["at 0", "at 0.5", "at 0.5", "at 0.2", "at 1", "nearly"]
            assert {one["total"] for one in told} == {1}
            assert len({one["progressToken"] for one in told}) == 1
            told.clear()
            await client.call_tool("words", on_progress=told.append)
            assert [(one["progress"], one["message"]) for one in told] == [(1, "a"), (2, "b"), (3, "c")]
            assert all("total" not in one and "details" not in one for one in told)
            told.clear()
            await client.call_tool("threads", on_progress=told.append)
            assert [one["progress"] for one in told] == list(range(1, 81))
            before = len(client.told("notifications/progress"))
            await client.call_tool("steps")
            assert len(client.told("notifications/progress")) == before, "not without a token"


def test_a_long_call_shows_a_sign_of_life_every_ten_seconds() -> None:
    app = App("slow")

    @app.tool
    async def slow() -> str:
        await asyncio.sleep(35)
        return "done"

    async def main() -> None:
        async with CheckedClient(app) as client:
            told: list[dict[str, Any]] = []
            assert (await client.call_tool("slow", on_progress=told.append)).text == "done"
            assert [one["progress"] for one in told] == [1, 2, 3]

    run_virtual(main())


@pytest.mark.asyncio
async def test_a_request_that_is_given_up_is_cancelled_at_the_server() -> None:
    app, stopped = App("slow"), asyncio.Event()

    @app.tool
    async def forever(ctx: ToolContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    for version in BOTH:
        stopped.clear()
        async with CheckedClient(app, version, forms={"confirm": True}) as client:
            with pytest.raises(RequestTimeout):
                await client.call_tool("forever", timeout=0.01)
            await asyncio.wait_for(stopped.wait(), 20)


# ------------------------------------------------------------------------------------------------------------------ log
@pytest.mark.asyncio
async def test_log_messages_come_only_where_they_are_wanted_and_from_the_wanted_level_on() -> None:
    app = App("logs")

    @app.tool
    async def say(ctx: ToolContext) -> None:
        ctx.log.debug("fine")
        ctx.log.warning("careful", extra={"why": "because"})

    for version in BOTH:
        async with CheckedClient(app, version) as client:
            await client.call_tool("say")
            assert client.told("notifications/message") == []
            await client.set_log_level("warning")
            await client.call_tool("say")
            (warned,) = client.told("notifications/message")
            assert (warned["level"], warned["logger"]) == ("warning", "logs")
            assert warned["data"] == {"message": "careful", "tool": "say", "call_id": warned["data"]["call_id"]} | {
                "why": "because"
            }
            await client.set_log_level("debug")
            await client.call_tool("say")
            assert [one["level"] for one in client.told("notifications/message")] == ["warning", "debug", "warning"]
        logging.getLogger("logs").setLevel(logging.NOTSET)


# -------------------------------------------------------------------------------------------------------------- changes
@pytest.mark.asyncio
async def test_a_tool_that_is_added_while_served_is_told_of_where_that_was_asked_for() -> None:
    app = App("grows")

    @app.tool
    async def grow(name: str) -> None:
        async def new() -> str:
            return name

        app.add_tool(new, name=name, replace=True)

    @app.command
    async def hello() -> str:
        return "hello"

    async with CheckedClient(app, "2025-11-25") as legacy:
        await legacy.call_tool("grow", {"name": "legacy"})
        await legacy.until(lambda: legacy.told("notifications/tools/list_changed"))
        assert [tool["name"] for tool in await legacy.list_tools()] == ["grow", "legacy"]
    async with CheckedClient(app) as client:
        await client.call_tool("grow", {"name": "unheard"})
        assert client.told("notifications/tools/list_changed") == []
        honoured = await client.listen(tools=True, resources=True, uris=["sepkit://tasks"])
        assert honoured == {"toolsListChanged": True}, "there are no resources"
        assert await client.listen(prompts=True) == {"promptsListChanged": True}
        await client.call_tool("grow", {"name": "modern"})
        await client.until(lambda: client.told("notifications/tools/list_changed"))
        (told,) = client.told("notifications/tools/list_changed")
        assert told["_meta"]["io.modelcontextprotocol/subscriptionId"] is not None
        assert client.told("notifications/prompts/list_changed") == []
        assert (await client.call_tool("modern")).text == "modern"
    ends = [one for one in client.frames.received if one.get("result", {}).get("_meta", {}).get(SUBSCRIPTION)]
    assert [one["result"]["_meta"][SUBSCRIPTION] == one["id"] for one in ends] == [True, True], "answered at the end"


SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
