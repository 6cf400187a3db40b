"""What else an App has under MCP: commands as prompts, completion, tasks, and what is answered in this process."""

from __future__ import annotations

import asyncio
import sys
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest

from sepkit import App, CommandContext, TaskContext, ToolContext, ToolError, render
from sepkit.errors import InternalError, InvalidParams, MethodNotFound, NoUI, RpcError
from sepkit.faces.mcp.catalogue import unserved
from sepkit.faces.mcp.face import local_store
from sepkit.faces.mcp.protocol import MODERN
from tests.mcp.checked import VERSIONS, CheckedClient
from tests.memory_host import on_each_loop

BOTH = ("2025-06-18", MODERN)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


def with_commands() -> App:
    app = App("commands")

    @app.command
    async def report(topic: str, days: int = 7, tone: Literal["dry", "warm"] = "dry") -> str:
        """Write a report.

        Args:
            topic: What about.
            days: How many.
            tone: How it sounds.
        """
        return f"Write about {topic}, {days} days, {tone}."

    @app.complete("report")
    async def topics(partial: str) -> list[str]:
        return [f"{partial}{number}" for number in range(150)]

    @app.command
    async def board() -> object:
        return render.table(["a"], [["1"]], text="a: 1")

    @app.command
    async def give_up(why: str = "") -> None:
        raise ToolError("not today") if not why else ValueError("secret")

    return app


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.asyncio
async def test_commands_are_prompts_and_what_they_return_is_a_message_of_the_user(version: str) -> None:
    async with CheckedClient(with_commands(), version) as client:
        assert client.server_capabilities["prompts"] == {"listChanged": True}
        assert ("completions" in client.server_capabilities) == (version > "2024-11-05")
        listed = await client.list_prompts()
        assert listed[0] == {
            "name": "report",
            "description": "Write a report.",
            "arguments": [
                {"name": "topic", "required": True, "description": "What about."},
                {"name": "days", "required": False, "description": "How many."},
                {"name": "tone", "required": False, "description": "How it sounds."},
            ],
        }
        (message,) = await client.get_prompt("report", {"topic": "birds", "days": "3"})
        assert message == {"role": "user", "content": {"type": "text", "text": "Write about birds, 3 days, dry."}}
        (message,) = await client.get_prompt("board")
        assert message["content"]["text"] == "a: 1"
        for name, arguments in (("report", {}), ("report", {"topic": "x", "days": "many"}), ("nothing", {})):
            with pytest.raises(InvalidParams):
                await client.get_prompt(name, arguments)
        with pytest.raises(InvalidParams, match="expected a string"):
            await client.request("prompts/get", {"name": "report", "arguments": {"topic": 5}})
        with pytest.raises(InternalError, match="not today"):
            await client.get_prompt("give_up")
        with pytest.raises(InternalError) as error:
            await client.get_prompt("give_up", {"why": "x"})
        assert "secret" not in str(error.value)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.asyncio
async def test_arguments_of_prompts_complete(version: str) -> None:
    app = with_commands()

    @app.command
    async def paint(colour: Colour, loud: bool = False) -> None: ...

    async with CheckedClient(app, version) as client:
        assert (await client.complete("report", "topic", "b"))[:2] == ["b0", "b1"]
        params = {"ref": {"type": "ref/prompt", "name": "report"}, "argument": {"name": "topic", "value": ""}}
        completion = (await client.request("completion/complete", params))["completion"]
        assert (len(completion["values"]), completion["total"], completion["hasMore"]) == (100, 150, True)
        assert await client.complete("report", "tone", "w") == ["warm"]
        assert await client.complete("report", "days", "1") == []
        assert await client.complete("paint", "colour", "") == ["red", "blue"]
        assert await client.complete("paint", "loud", "t") == ["true"]
        for name, argument in (("nothing", "x"), ("report", "x")):
            with pytest.raises(InvalidParams):
                await client.complete(name, argument, "")
        wrong: tuple[dict[str, Any], ...] = (
            {},
            {"ref": {"type": "ref/other", "name": "report"}, "argument": {"name": "x", "value": ""}},
            {"ref": {"type": "ref/prompt", "name": "report"}, "argument": {"name": "topic", "value": 1}},
        )
        for bad in wrong:
            with pytest.raises(InvalidParams):
                await client.request("completion/complete", bad)
        with pytest.raises(RpcError) as error:
            await client.request(
                "completion/complete",
                {"ref": {"type": "ref/resource", "uri": "x://y"}, "argument": {"name": "x", "value": ""}},
            )
        assert error.value.code == (-32602 if version == MODERN else -32002)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.asyncio
async def test_how_tasks_are_is_a_resource_that_can_be_subscribed_to(version: str) -> None:
    app = App("tasks")

    @app.task
    async def watch(ctx: TaskContext) -> None:
        ctx.report_health("watching")
        await ctx.wait_stop()

    async with CheckedClient(app, version) as client:
        assert client.server_capabilities["resources"] == {"subscribe": True, "listChanged": True}
        (resource,) = await client.list_resources()
        assert resource["uri"] == "sepkit://tasks"
        (contents,) = await client.read_resource("sepkit://tasks")
        (task,) = orjson.loads(contents["text"])["tasks"]
        assert (task["task_id"], task["status"]) == ("watch", "running")
        for uri in ("sepkit://other", "x"):
            with pytest.raises(RpcError) as error:
                await client.read_resource(uri)
            assert error.value.code == (-32602 if version == MODERN else -32002)
        if version == MODERN:
            assert await client.listen(uris=["sepkit://other"]) == {}
            assert await client.listen(uris=["sepkit://tasks"]) == {"resourceSubscriptions": ["sepkit://tasks"]}
        else:
            with pytest.raises(RpcError, match="there is no resource"):
                await client.request("resources/subscribe", {"uri": "sepkit://other"})
            await client.request("resources/subscribe", {"uri": "sepkit://tasks"})
        assert client.dispatcher is not None
        await app.tasks.stop("watch")
        await client.until(lambda: client.told("notifications/resources/updated"))
        assert client.told("notifications/resources/updated")[0]["uri"] == "sepkit://tasks"


# --------------------------------------------------------------------------------------------- answered in this process
@on_each_loop
async def test_kv_bus_exec_flags_and_the_client_are_there_and_the_session_is_not(tmp_path: Path) -> None:
    app, heard = App("services"), []
    app.flag("loud", default=False)

    @app.on_bus("news")
    async def hear(payload: dict[str, Any]) -> None:
        heard.append(payload)

    @app.tool
    async def everything(ctx: ToolContext) -> dict[str, Any]:
        await ctx.kv.set("a", {"b": 1})
        found: dict[str, Any] = {"kv": await ctx.kv.get("a"), "keys": await ctx.kv.list()}
        await ctx.kv.delete("a")
        found["deleted"] = await ctx.kv.get("a")
        found["published"] = await ctx.bus.publish("news", {"x": 1})
        ran = await ctx.exec.run(sys.executable, ["-c", "print(input.__name__); raise SystemExit(3)"])
        found["exec"] = [ran.stdout, ran.exit_code]
        found["host"] = [ctx.host.name, ctx.workspace.root, ctx.flags["loud"]]
        found["model"], found["state"] = await ctx.session.set_model("x"), await ctx.session.state()
        found["active"] = await ctx.tools.set_active(["everything"])
        for name, work in (("send", ctx.session.send_message("x")), ("title", ctx.ui.set_title("x"))):
            try:
                await work
            except (MethodNotFound, NoUI) as error:
                found[name] = type(error).__name__
        try:
            await ctx.exec.run("/nothing/there")
        except InvalidParams as error:
            found["missing"] = str(error)
        await ctx.ping()
        return found

    for version in BOTH:
        heard.clear()
        async with CheckedClient(app, version, flags={"loud": True}) as client:
            result = await client.call_tool("everything")
            found = result.structured
        assert not result.is_error
        assert found["kv"] == {"b": 1}
        assert (found["keys"], found["deleted"], found["published"]) == (["a"], None, True)
        assert found["exec"] == ["input\n", 3]
        assert found["host"] == ["sepkit.testing", str(Path.cwd()), True]
        assert (found["model"], found["state"], found["active"]) == (False, {}, [])
        assert (found["send"], found["title"]) == ("MethodNotFound", "NoUI")
        assert found["missing"].startswith("exec/run: '/nothing/there' cannot be started: No such file")
        assert heard == [{"x": 1}]


@pytest.mark.asyncio
async def test_a_command_that_is_cancelled_is_ended_and_its_output_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    app, running = App("exec"), asyncio.Event()
    monkeypatch.setattr("sepkit.capabilities.local.shell.MOST_OUTPUT", 1000)

    @app.tool
    async def sleep(ctx: ToolContext) -> None:
        running.set()
        await ctx.exec.run("sleep", ["60"])

    @app.tool
    async def shout(ctx: ToolContext) -> int:
        return len((await ctx.exec.run(sys.executable, ["-c", "print('x' * 100_000)"])).stdout)

    async with CheckedClient(app) as client:
        assert (await client.call_tool("shout")).text == "1000"
        task = asyncio.create_task(client.call_tool("sleep"))
        await running.wait()
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.asyncio
async def test_what_is_kept_is_there_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEPKIT_DATA_DIR", str(tmp_path))
    for expected in (None, 5):
        store: Any = local_store("keeps")
        assert await store.get("keeps", "a") == expected
        await store.set("keeps", "a", 5)
        await store.aclose()
    assert (tmp_path / "keeps" / "kv.sqlite3").is_file()


def test_what_is_not_served_is_named() -> None:
    app = App("more")

    @app.hook("input")
    async def gate() -> None: ...

    @app.on("turn_start")
    async def observe() -> None: ...

    @app.command
    async def plan(ctx: CommandContext) -> None: ...

    app.shortcut("ctrl+p", "plan")
    app.renderer("x", render.markdown("{{a}}"))
    assert unserved(app) == ["hook input (gate)", "event turn_start", "shortcut ctrl+p", "renderer x"]
