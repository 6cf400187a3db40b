"""``ctx.ui`` under MCP: forms in both eras, and calls that stay suspended while a modern client asks its user."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sepkit import App, Block, CommandContext, HookContext, ToolCall, ToolContext
from sepkit.errors import InvalidParams, NoUI
from sepkit.faces.mcp.asking import MOST_OF_ONE, PATIENCE
from sepkit.faces.mcp.protocol import MODERN
from sepkit.testing import McpClient, run_virtual
from tests.mcp.checked import VERSIONS, CheckedClient
from tests.memory_host import on_each_loop

ASKING = ("2025-06-18", "2025-11-25", MODERN)


class Asking:
    """An app that asks, and what became of its calls."""

    def __init__(self) -> None:
        self.app = App("asking")
        self.begun: list[str] = []
        self.ended: list[str] = []

        @self.app.tool
        async def three(ctx: ToolContext, name: str = "") -> str:
            self.begun.append(name)
            try:
                sure = await ctx.ui.confirm("Sure?")
                word = await ctx.ui.input("Word?", "none")
                pick = await ctx.ui.select("Which?", ["red", "blue"])
                ctx.update("asked", progress=0.9)
                return f"{sure} {word} {pick}"
            finally:
                self.ended.append(name)

        @self.app.tool
        async def together(ctx: ToolContext) -> str:
            self.begun.append("together")
            return str(await asyncio.gather(ctx.ui.confirm("One?"), ctx.ui.input("Two?")))

        @self.app.tool
        def blocking(ctx: ToolContext) -> str:
            return str(ctx.wait(ctx.ui.confirm("In a thread?")))


ANSWERS = {"confirm": True, "input": "hi", "select": "blue"}


def asked_of(result: dict[str, Any]) -> dict[str, str]:
    assert result["resultType"] == "input_required"
    return {key: one["params"]["message"] for key, one in result["inputRequests"].items()}


async def call(client: McpClient, name: str, arguments: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return await client.request("tools/call", {"name": name, "arguments": arguments or {}, **more})


def accept(value: object) -> dict[str, Any]:
    return {"action": "accept", "content": {"value": value}}


@on_each_loop
async def test_a_tool_asks_three_times_in_a_row_and_nothing_runs_twice() -> None:
    for version in ASKING:
        asking = Asking()
        async with CheckedClient(asking.app, version, forms=ANSWERS) as client:
            told: list[dict[str, Any]] = []
            result = await client.call_tool("three", on_progress=told.append)
            assert result.text == "True hi blue"
            assert [one["message"] for one in told] == ["asked"], "under the token of the request that is answered"
            assert [form["message"] for form in client.asked] == ["Sure?", "Word?", "Which?"]
            assert client.asked[1]["requestedSchema"]["properties"] == {"value": {"type": "string", "default": "none"}}
            assert (await client.call_tool("blocking")).text == "True"
        assert asking.begun == [""]


@pytest.mark.parametrize("version", ASKING)
@pytest.mark.asyncio
async def test_what_is_dismissed_is_none_and_an_accept_without_content_confirms(version: str) -> None:
    for answer, expected in (
        ({"action": "decline"}, "None None None"),
        ({"action": "cancel"}, "None None None"),
        ({"action": "accept"}, "True None None"),
    ):
        async with CheckedClient(Asking().app, version, forms=lambda form, answer=answer: answer) as client:
            assert (await client.call_tool("three")).text == expected


@pytest.mark.parametrize("version", ASKING)
@pytest.mark.asyncio
async def test_an_answer_of_the_wrong_type_is_asked_again_and_ten_of_them_fail_the_call(version: str) -> None:
    forms = {
        "confirm": ["yes", {"value": 1}, {"action": "dance"}, False],
        "input": [5, "w"],
        "select": ["green", "red"],
    }
    asking = Asking()
    async with CheckedClient(asking.app, version, forms=forms) as client:
        assert (await client.call_tool("three")).text == "False w red"
        assert len(asking.begun) == 1
    rounds: list[Any] = []

    def never(form: dict[str, Any]) -> str:
        rounds.append(form)
        return "wrong"

    async with CheckedClient(Asking().app, version, forms=never) as client:
        if version == MODERN:
            result = await call(client, "three")
            for _ in range(10):
                answers = {"q1": accept("wrong")}
                result = await call(client, "three", inputResponses=answers, requestState=result["requestState"])
            assert result["isError"]
        else:
            assert (await client.call_tool("three")).is_error
            assert len(rounds) == 10


@on_each_loop
async def test_questions_that_are_asked_at_once_go_out_together_and_missing_answers_are_asked_again() -> None:
    asking = Asking()
    async with CheckedClient(asking.app, forms=ANSWERS) as client:
        first = await call(client, "together")
        assert asked_of(first) == {"q1": "One?", "q2": "Two?"}
        second = await call(
            client, "together", requestState=first["requestState"], inputResponses={"q1": accept(True), "other": 5}
        )
        assert asked_of(second) == {"q2": "Two?"}
        assert second["requestState"] != first["requestState"]
        last = await call(
            client, "together", requestState=second["requestState"], inputResponses={"q2": accept("word")}
        )
        assert last["content"][0]["text"] == "[True, 'word']"
    assert asking.begun == ["together"]


@pytest.mark.asyncio
async def test_a_handle_is_good_once_and_for_its_own_call_only() -> None:
    asking = Asking()
    async with CheckedClient(asking.app, forms=ANSWERS) as client:
        first = await call(client, "three", {"name": "a"})
        state = first["requestState"]
        assert len(state) == 32
        for name, arguments, handle in (
            ("three", {"name": "b"}, state),
            ("together", {}, state),
            ("three", {"name": "a"}, "0" * 32),
            ("three", {"name": "a"}, state[:-1]),
        ):
            with pytest.raises(InvalidParams, match="requestState"):
                await call(client, name, arguments, requestState=handle, inputResponses={"q1": accept(True)})
        second = await call(client, "three", {"name": "a"}, requestState=state, inputResponses={"q1": accept(True)})
        assert asked_of(second) == {"q2": "Word?"}
        with pytest.raises(InvalidParams, match="requestState"):  # replayed
            await call(client, "three", {"name": "a"}, requestState=state, inputResponses={"q1": accept(True)})
        wrong: tuple[dict[str, Any], ...] = ({"requestState": 5}, {"inputResponses": []})
        for params in wrong:
            with pytest.raises(InvalidParams):
                await call(client, "three", {"name": "a"}, **params)
    assert asking.begun == ["a"]


@pytest.mark.asyncio
async def test_answers_without_a_handle_begin_anew_and_answer_those_questions() -> None:
    asking = Asking()
    async with CheckedClient(asking.app, forms=ANSWERS) as client:
        answers = {"q1": accept(True), "q2": accept("early"), "q3": accept("no such colour")}
        first = await call(client, "three", inputResponses=answers)
        assert asked_of(first) == {"q3": "Which?"}, "one that does not fit is asked"
        last = await call(client, "three", requestState=first["requestState"], inputResponses={"q3": accept("red")})
        assert last["content"][0]["text"] == "True early red"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.asyncio
async def test_a_client_without_forms_is_not_asked(version: str) -> None:
    app = App("asking")

    @app.tool
    async def ask(ctx: ToolContext) -> str:
        try:
            return str(await ctx.ui.confirm("Sure?"))
        except NoUI:
            return f"nobody: {ctx.has_ui('confirm')} {ctx.has_ui('notify')}"

    async with CheckedClient(app, version) as client:
        assert (await client.call_tool("ask")).text == "nobody: False True"
    async with CheckedClient(app, version, capabilities={"elicitation": {"url": {}}}) as client:
        assert (await client.call_tool("ask")).text == "nobody: False True"
    if version < "2025-06-18":
        async with CheckedClient(app, version, capabilities={"elicitation": {}}) as client:
            assert (await client.call_tool("ask")).text == "nobody: False True"


@on_each_loop
async def test_a_call_that_is_cancelled_between_its_questions_stops() -> None:
    app, asked, stopped = App("asking"), asyncio.Event(), asyncio.Event()

    @app.tool
    async def ask(ctx: ToolContext) -> None:
        await ctx.ui.confirm("Sure?")
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    for version in ASKING:
        asked.clear()
        stopped.clear()
        async with CheckedClient(app, version, forms=ANSWERS) as client:
            task = asyncio.create_task(client.call_tool("ask"))
            await asked.wait()
            task.cancel()
            await asyncio.wait_for(stopped.wait(), 20)


def test_a_client_that_never_comes_back_has_its_call_cancelled_after_ten_minutes() -> None:
    asking = Asking()

    async def main() -> None:
        async with CheckedClient(asking.app, forms=ANSWERS) as client:
            state = (await call(client, "three"))["requestState"]
            await asyncio.sleep(PATIENCE - 1)
            assert asking.ended == []
            await asyncio.sleep(2)
            assert asking.ended == [""]
            with pytest.raises(InvalidParams, match="expired"):
                await call(client, "three", requestState=state, inputResponses={"q1": accept(True)})

    run_virtual(main())


@pytest.mark.asyncio
async def test_of_more_than_64_suspended_calls_the_oldest_is_cancelled_and_the_end_cancels_all() -> None:
    asking = Asking()
    async with CheckedClient(asking.app, forms=ANSWERS) as client:
        first = await call(client, "three", {"name": "0"})
        for number in range(1, MOST_OF_ONE + 1):
            await call(client, "three", {"name": str(number)})
        await client.until(lambda: asking.ended == ["0"])
        with pytest.raises(InvalidParams):
            await call(client, "three", {"name": "0"}, requestState=first["requestState"], inputResponses={})
    assert len(asking.ended) == MOST_OF_ONE + 1


@pytest.mark.asyncio
async def test_the_arguments_of_suspended_calls_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sepkit.faces.mcp.asking.MOST_BYTES", 10_000)
    asking = Asking()
    async with CheckedClient(asking.app, forms=ANSWERS) as client:
        for name in ("a", "b", "c"):
            await call(client, "three", {"name": name * 4_000})
        await client.until(lambda: asking.ended == ["a" * 4_000])
        long_answers = {"q1": {**accept(True), "more": "x" * 100_000}}
        assert asked_of(await call(client, "three", inputResponses=long_answers)) == {"q1": "Sure?"}


@pytest.mark.parametrize("version", ASKING)
@pytest.mark.asyncio
async def test_hooks_and_commands_ask_too(version: str) -> None:
    app = App("asking")

    @app.tool
    async def delete(name: str) -> str:
        return f"deleted {name}"

    @app.hook("tool_call")
    async def gate(call: ToolCall, ctx: HookContext) -> Block | None:
        return None if await ctx.ui.confirm(f"Really {call.arguments['name']}?") else Block("you said no")

    @app.command
    async def report(ctx: CommandContext) -> str:
        return f"Report on {await ctx.ui.input('What?')}."

    forms = {"Really x?": True, "Really y?": False, "input": "birds"}
    async with CheckedClient(app, version, forms=forms) as client:
        assert (await client.call_tool("delete", {"name": "x"})).text == "deleted x"
        assert (await client.call_tool("delete", {"name": "y"})).text == "delete was not called: you said no"
        (message,) = await client.get_prompt("report")
        assert message == {"role": "user", "content": {"type": "text", "text": "Report on birds."}}
