"""The official Python client against ``run --mcp``, in its three modes. Skipped where it is not installed."""

from __future__ import annotations

import asyncio
import sys
import textwrap
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason="needs the official client: pip install 'sepkit[mcp-tests]'")

MODES = ("auto", "legacy", "2026-07-28")
APP = """
import asyncio
from sepkit import App, Block, TaskContext, ToolCall, ToolContext, ToolError, ToolOutcome, Patch

app = App("official", version="1.0.0")

@app.tool
async def greet(name: str, ctx: ToolContext) -> str:
    ctx.update("half", progress=0.5)
    await ctx.ui.notify("nearly")
    return f"Hello, {name}!"

@app.tool
async def data() -> dict:
    return {"sum": 3}

@app.tool
async def fail() -> None:
    raise ToolError("not today")

@app.tool
async def ask(ctx: ToolContext) -> str:
    sure = await ctx.ui.confirm("Sure?")
    both = await asyncio.gather(ctx.ui.input("Word?"), ctx.ui.select("Which?", ["red", "blue"]))
    return f"{sure} {both}"

@app.tool(name="forever.and.ever")
async def forever() -> None:
    await asyncio.Event().wait()

@app.hook("tool_call")
async def gate(call: ToolCall) -> Block | None:
    return Block("no") if call.arguments.get("name") == "Eve" else None

@app.hook("tool_result")
async def redact(outcome: ToolOutcome) -> Patch:
    return Patch(content=outcome.content.replace("secret", "***"))

@app.command
async def introduce(who: str = "you") -> str:
    return f"Introduce yourself to {who}."

@app.complete("introduce")
async def people(partial: str) -> list[str]:
    return [partial + "da"]

@app.task
async def watch(ctx: TaskContext) -> None:
    await ctx.wait_stop()
"""


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.asyncio
async def test_the_official_client_uses_all_of_an_app(mode: Any, tmp_path: Path) -> None:
    types: Any = import_module("mcp.types")  # it need not be there for the type checker
    client_of: Any = import_module("mcp.client").Client
    parameters: Any = import_module("mcp.client.stdio").StdioServerParameters
    (tmp_path / "app.py").write_text(textwrap.dedent(APP), encoding="utf-8")
    asked: list[str] = []

    async def elicit(context: Any, params: Any) -> Any:
        asked.append(params.message)
        value = {"Sure?": True, "Word?": "hi", "Which?": "blue"}[params.message]
        return types.ElicitResult(action="accept", content={"value": value})

    told: list[tuple[float, str | None]] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        told.append((done, message))

    server = parameters(
        command=sys.executable,
        args=["-m", "sepkit", "run", "app:app", "--mcp"],
        cwd=tmp_path,
        env={"SEPKIT_DATA_DIR": str(tmp_path / "data")},
    )
    async with asyncio.timeout(50), client_of(server, mode=mode, elicitation_callback=elicit) as client:
        assert client.protocol_version == ("2025-11-25" if mode == "legacy" else "2026-07-28")
        if mode != "2026-07-28":  # there it asks for nothing in advance
            assert client.server_info.name == "official"
        tools = (await client.list_tools()).tools
        assert [tool.name for tool in tools] == ["greet", "data", "fail", "ask", "forever_and_ever"]
        greeted = await client.call_tool("greet", {"name": "Ada"}, progress_callback=progress)
        assert greeted.content[0].text == "Hello, Ada!"
        assert [message for _, message in told] == ["half", "nearly"]
        data = await client.call_tool("data")
        assert data.structured_content == {"sum": 3}
        failed = await client.call_tool("fail")
        assert (failed.is_error, failed.content[0].text) == (True, "not today")
        blocked = await client.call_tool("greet", {"name": "Eve"})
        assert blocked.content[0].text == "greet was not called: no"
        wrong = await client.call_tool("greet", {"nam": "Ada"})
        assert wrong.is_error
        answered = await client.call_tool("ask")
        assert answered.content[0].text == "True ['hi', 'blue']"
        assert asked[0] == "Sure?"
        assert sorted(asked[1:]) == ["Which?", "Word?"]
        with pytest.raises(Exception, match=r"(?i)time"):
            await client.call_tool("forever_and_ever", read_timeout_seconds=0.05)
        prompts = (await client.list_prompts()).prompts
        assert [prompt.name for prompt in prompts] == ["introduce"]
        prompt = await client.get_prompt("introduce", {"who": "Ada"})
        assert prompt.messages[0].content.text == "Introduce yourself to Ada."
        completed = await client.complete(
            types.PromptReference(type="ref/prompt", name="introduce"), {"name": "who", "value": "A"}
        )
        assert completed.completion.values == ["Ada"]
        assert [str(one.uri) for one in (await client.list_resources()).resources] == ["sepkit://tasks"]
        contents = (await client.read_resource("sepkit://tasks")).contents
        assert '"watch"' in contents[0].text
        assert (await client.list_resource_templates()).resource_templates == []
