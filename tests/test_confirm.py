"""``@app.tool(confirm=)``: nothing runs that the user has not confirmed."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from sepkit import App, ToolContext
from sepkit.errors import InternalError, NoUI, RegistrationError
from sepkit.serving.confirming import question
from sepkit.serving.served import Served
from sepkit.testing import TestHost
from tests.memory_host import on_each_loop
from tests.serving.test_other_face import Caller

REFUSED = "delete was not run: the user did not confirm it."
CANNOT_ASK = "delete was not run: it needs the user's confirmation, and this host cannot ask for it."


def an_app(ran: list[str], confirm: bool | str | None = True) -> App:
    app = App("files")

    @app.tool(confirm=confirm)
    async def delete(path: str, force: bool = False) -> str:
        ran.append(path)
        return f"deleted {path}"

    @app.tool(confirm=confirm)
    async def with_context(path: str, ctx: ToolContext) -> str:
        ran.append(path)
        return ctx.call_id and f"deleted {path}"

    @app.tool(confirm=confirm)
    def in_a_thread(path: str) -> str:
        ran.append(path)
        return f"deleted {path}"

    @app.tool(confirm=confirm, timeout=5)
    async def with_a_limit(path: str) -> str:
        ran.append(path)
        return f"deleted {path}"

    @app.tool(confirm=confirm, parameters={"type": "object", "properties": {"path": {"type": "string"}}})
    async def with_a_schema(path: str) -> str:
        ran.append(path)
        return f"deleted {path}"

    return app


@on_each_loop
async def test_a_confirmed_tool_runs_and_the_user_has_seen_its_arguments() -> None:
    ran: list[str] = []
    async with TestHost(an_app(ran), ui={"confirm": True}) as host:
        for tool in host.app.tools:
            answer = await host.call_tool(tool, {"path": "/tmp/a"})
            assert (answer.content, answer.is_error) == ("deleted /tmp/a", False)
        assert [getattr(one, "prompt", "") for one in host.ui_requests] == [
            f'Run {tool} with path="/tmp/a"?' for tool in host.app.tools
        ]
    assert len(ran) == 5


@pytest.mark.parametrize("answer", [False, None], ids=["no", "dismissed"])
@on_each_loop
async def test_a_tool_that_is_not_confirmed_does_not_run_and_the_model_is_told_in_one_sentence(answer: Any) -> None:
    ran: list[str] = []
    async with TestHost(an_app(ran), ui={"confirm": answer}) as host:
        for tool in host.app.tools:
            result = await host.call_tool(tool, {"path": "/tmp/a"})
            assert result.is_error
            assert result.content == REFUSED.replace("delete", tool)
    assert ran == []


@on_each_loop
async def test_where_there_is_no_user_to_ask_it_does_not_run() -> None:
    def fails(request: Any) -> Any:
        raise NoUI("gone") if request.prompt.startswith("Run delete") else InternalError("broken")

    ran: list[str] = []
    for options in (
        {},
        {"ui": {"input": "x"}},
        {"ui": {"confirm": True}, "capabilities": {"ui": False}},
        {"ui": fails},
    ):
        async with TestHost(an_app(ran), **options) as host:
            result = await host.call_tool("delete", {"path": "/tmp/a"})
            assert (result.content, result.is_error) == (CANNOT_ASK, True)
            assert (await host.call_tool("in_a_thread", {"path": "/tmp/a"})).is_error
    assert ran == []


@on_each_loop
async def test_nothing_is_asked_of_arguments_that_do_not_fit_nor_of_a_tool_that_wants_no_question() -> None:
    ran: list[str] = []
    async with TestHost(an_app(ran), ui={"confirm": True}) as host:
        result = await host.call_tool("delete", {"path": 5, "forse": True})
        assert result.is_error
        assert "do not fit" in result.content
        assert host.ui_requests == []
    for confirm in (False, None):
        async with TestHost(an_app(ran, confirm)) as host:
            assert (await host.call_tool("delete", {"path": "a"})).content == "deleted a"
        assert host.app.tools["delete"].is_alone, "nothing stands between it and its call"
    async with TestHost(an_app(ran, "Really?"), ui={"confirm": True}) as host:
        await host.call_tool("delete", {"path": "a"})
        assert [getattr(one, "prompt", "") for one in host.ui_requests] == ["Really?"]


@on_each_loop
async def test_a_question_holds_no_slot_and_its_time_is_not_the_tools() -> None:
    app, asked = App("files"), asyncio.Event()

    @app.tool(confirm=True, timeout=0.01)
    async def delete() -> str:
        return "deleted"

    @app.tool
    async def other(ctx: ToolContext) -> str:
        await asyncio.sleep(0)
        return "other"

    may_answer = asyncio.Event()

    async def ui(request: Any) -> bool:
        asked.set()
        await may_answer.wait()
        await asyncio.sleep(0.05)
        return True

    async with TestHost(app, ui=ui, max_concurrency=1) as host:
        calls = [asyncio.create_task(host.call_tool("delete")) for _ in range(3)]
        await asked.wait()
        assert (await host.call_tool("other")).content == "other"
        may_answer.set()
        assert [(await call).content for call in calls] == ["deleted"] * 3
        assert (await host.call_tool("other")).content == "other"


@on_each_loop
async def test_a_call_that_is_cancelled_while_the_user_is_asked_does_not_run() -> None:
    ran: list[str] = []
    asked = asyncio.Event()

    async def ui(request: Any) -> bool:
        asked.set()
        await asyncio.Event().wait()
        return True

    async with TestHost(an_app(ran), ui=ui) as host:
        call = asyncio.create_task(host.call_tool("delete", {"path": "a"}, timeout=0.1))
        await asked.wait()
        with pytest.raises(TimeoutError):
            await call
    assert ran == []


@on_each_loop
async def test_a_face_whose_host_asks_by_itself_switches_it_off() -> None:
    ran: list[str] = []
    caller = Caller(Served(an_app(ran), confirms=False))
    await caller.served.start(caller)
    for tool in caller.app.tools:
        assert await caller.call(tool, path="a") == ("ok", "deleted a")
    caller.served.begin_leave(caller, 1)
    await caller.served.leave(caller, 1)


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ({}, "Run delete?"),
        ({"path": "a", "force": True}, 'Run delete with path="a", force=true?'),
        ({"path": "a\nSafe? Yes!\x1b[2J\u202ecod.exe"}, r'Run delete with path="a\nSafe? Yes!\u001b[2J\u202ecod.exe"?'),
        ({"path": "x" * 1000}, f'Run delete with path="{"x" * 199}… (802 more characters)?'),
        ({"path": {"a": [1, None]}}, 'Run delete with path={"a":[1,null]}?'),
        ({"path": 2**70}, f"Run delete with path={2**70}?"),
        ({f"a{n}": n for n in range(10)}, f"Run delete with {', '.join(f'a{n}={n}' for n in range(8))}, and 2 more?"),
    ],
)
def test_what_is_asked_is_one_line_of_a_bounded_length_that_cannot_pretend_to_be_more(
    arguments: dict[str, Any], asked: str
) -> None:
    assert question(an_app([]).tools["delete"], arguments) == asked


@pytest.mark.parametrize("confirm", ["", "  ", 1, 0, "x" * 1001, "\ud800", ["Sure?"]])
def test_a_confirm_that_is_no_question_is_refused_where_it_is_written(confirm: Any) -> None:
    with pytest.raises(RegistrationError, match=re.escape("tool 'delete' (")) as raised:
        an_app([], confirm)
    assert "confirm=" in str(raised.value)
    assert len(str(raised.value)) < 300
