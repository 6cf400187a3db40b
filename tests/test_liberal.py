"""What hosts send that the schemas do not have: null for absent, words of their own, params of the wrong type."""

from __future__ import annotations

import logging
from typing import Any, TypedDict

import pytest

from sepkit import App, HookContext, Patch, TaskContext, ToolContext
from sepkit.errors import InvalidParams
from sepkit.testing import TestHost
from sepkit.wire import messages
from sepkit.wire.converter import structure
from tests.memory_host import CONTEXT, EVENT_CONTEXT, Malformed, MemoryHost, on_each_loop


def everything() -> App:
    app = App("t")
    got: list[object] = []

    @app.on("turn_start")
    async def begin(payload: dict[str, Any]) -> None:
        got.append(payload)

    @app.command
    async def paint() -> str:
        return "painted"

    @app.tool
    async def look() -> list[object]:
        return got

    @app.tool
    async def ask(ctx: ToolContext) -> object:
        return await ctx.kv.get("k")

    return app


@on_each_loop
async def test_null_is_absent_in_each_place_of_the_envelope() -> None:
    """``"params": null`` and ``"error": null`` beside a result are what many JSON-RPC libraries write."""
    async with MemoryHost(everything(), {"kv/get": Malformed(result={"value": 5}, error=None)}) as host:
        assert await host.ask("ping", None) == {}
        for more in ({"result": None}, {"error": None}, {"result": None, "error": None}):
            frame = host.frame("ping", None) | more
            host.send(frame)
            assert (await host.answer(frame["id"]))["result"] == {}
        assert await host.tool("ask") == {"content": "5", "details": 5}
        host.answers["kv/get"] = Malformed(result={"value": 6}, error=None, method=None, params=None)
        assert await host.tool("ask") == {"content": "6", "details": 6}
        host.answers["kv/get"] = Malformed(result=None, error={"code": -32001, "message": "no", "data": None})
        assert (await host.tool("ask"))["is_error"] is True
        params = {"event": "turn_start", "context": EVENT_CONTEXT, "payload": None, "seq": None}
        host.send({"jsonrpc": "2.0", "id": None, "method": "event", "params": params, "result": None})
        assert (await host.tool("look"))["details"] == [{}]
        assert not host.errors


@on_each_loop
async def test_null_is_absent_in_params_where_a_field_is_optional() -> None:
    """Optional fields, and the members of an optional table."""
    nulls = {"session": None, "ui_capabilities": None, "flags": None, "capabilities_enabled": {"kv": None, "ui": False}}
    async with MemoryHost(everything(), {"kv/get": {"value": 5}}, handshake=nulls) as host:
        assert await host.tool("ask") == {"content": "5", "details": 5}
        params = {"command": "paint", "context": CONTEXT, "arguments": None}
        assert await host.ask("command/execute", params) == {"content": "painted"}
        assert await host.ask("command/complete", {**params, "partial": None}) == {"completions": []}
    async with MemoryHost(everything(), handshake={"capabilities_enabled": None, "session": {"id": None}}) as host:
        await host.ping()


@pytest.mark.parametrize("params", [[], "x", 5, True, None, {"event": 5}, {}])
@pytest.mark.parametrize("method", ["event", "$/cancel", "unknown"])
@on_each_loop
async def test_a_notification_is_never_answered_whatever_its_params_are(method: str, params: object) -> None:
    """An answer to it would be one to a question that nobody asked."""
    async with MemoryHost(everything()) as host:
        host.send({"jsonrpc": "2.0", "method": method, "params": params})
        await host.ping()
        assert not host.errors
        assert not host.told


@pytest.mark.parametrize("params", [[], "x", 5, True])
@on_each_loop
async def test_params_of_a_wrong_type_are_refused_in_a_request(params: object) -> None:
    """Null is absent; anything else but an object is -32600."""
    async with MemoryHost(everything()) as host:
        assert (await host.refused("ping", params))["code"] == -32600


@on_each_loop
async def test_words_that_nobody_knows_are_text() -> None:
    """The mode, hooks, tiers: hosts have their own."""
    app = everything()
    seen: list[str] = []

    @app.hook("input")
    async def look(value: dict[str, Any], ctx: HookContext) -> None:
        seen.extend((ctx.host.mode, ctx.context.tier))

    async with MemoryHost(app, handshake={"mode": "test"}) as host:
        context = {"token": "x", "tier": "admin"}
        assert await host.ask("hook", {"hook": "input", "input": {}, "context": context}) == {"action": "continue"}
        assert await host.ask("hook", {"hook": "before_lunch", "input": {}, "context": context}) == {
            "action": "continue"
        }
        assert seen == ["test", "admin"]
        params = {"call_id": "c", "tool": "look", "arguments": {}, "context": context}
        assert await host.ask("tool/execute", params) == {"content": "[]", "details": []}
    notify: Any = structure({"kind": "notify", "message": "m", "level": "loud"}, messages.UiRequest)
    assert notify.level == "loud"
    assert structure({"level": "notice", "message": "m"}, messages.LogParams).level == "notice"


# -- hooks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("takes", ["a dict", "the record"])
@pytest.mark.parametrize("missing", [{}, {"arguments": None}, {"is_error": None}, {"tool": None}])
@on_each_loop
async def test_a_hook_that_redacts_works_whatever_else_the_host_left_out(takes: str, missing: dict[str, None]) -> None:
    """A patch is checked in what it touches; ``tool_result`` without ``arguments`` comes from real hosts."""
    app = App("t")

    if takes == "a dict":

        @app.hook("tool_result")
        async def redact(value: dict[str, Any]) -> Patch:
            return Patch(content=value["content"].replace("secret", "…"))
    else:

        @app.hook("tool_result")
        async def redact_record(outcome: messages.ToolOutcome) -> Patch:
            return Patch(content=outcome.content.replace("secret", "…"))

    given = {"tool": "t", "content": "a secret", **missing}
    async with MemoryHost(app) as host:
        answer = await host.ask("hook", {"hook": "tool_result", "input": given, "context": CONTEXT})
    assert answer == {"action": "modify", "patch": {**given, "content": "a …"}}


@pytest.mark.parametrize(
    ("hook", "malformed"),
    [
        ("tool_result", {"tool": "t", "arguments": {}, "content": 5}),
        ("tool_result", {"tool": "t", "arguments": [], "content": "c"}),
        ("tool_result", {"tool": "t", "arguments": {}}),
        ("tool_call", {"arguments": {}}),
        ("tool_call", {"tool": "t", "arguments": "x"}),
        ("user_bash", {}),
        ("before_agent_start", {"system_prompt": 5}),
        ("context", {"messages": "x"}),
    ],
)
@on_each_loop
async def test_a_malformed_input_is_refused_before_any_hook_runs(hook: Any, malformed: dict[str, Any]) -> None:
    """It is the host's fault, -32602; in ``TestHost.call_hook`` too."""
    app = App("t")
    ran: list[object] = []

    @app.hook(hook)
    async def look(value: dict[str, Any]) -> None:
        ran.append(value)

    async with TestHost(app) as host:
        with pytest.raises(InvalidParams):
            await host.call_hook(hook, malformed)
    assert not ran


@on_each_loop
async def test_what_one_hook_makes_and_the_next_cannot_take_is_not_the_hosts_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """-32603 and not -32602: the input of the host did fit."""
    app = App("t")

    class Line(TypedDict):
        text: str

    @app.hook("input")
    async def one(value: dict[str, Any]) -> Patch:
        return Patch(text=5)

    @app.hook("input")
    async def two(value: Line) -> None: ...

    async with MemoryHost(app) as host:
        error = await host.refused("hook", {"hook": "input", "input": {"text": "a"}, "context": CONTEXT})
    assert error["code"] == -32603
    assert any(record.levelno == logging.ERROR for record in caplog.records)


# -- what may be lost --------------------------------------------------------------------------------------------------

LONG = ["x" * 70_000, "é" * 70_000, "\x00" * 70_000, "😀" * 70_000, '"\\' * 40_000]


@pytest.mark.parametrize("text", LONG, ids=["x", "é", "NUL", "emoji", "quotes"])
@on_each_loop
async def test_no_lossy_frame_is_longer_than_every_host_takes_and_what_was_cut_is_said(text: str) -> None:
    """64 KiB a line is what Python's readers take; the whole is in the reply, which is never cut."""
    app = App("t")

    @app.tool
    async def tell(ctx: ToolContext) -> str:
        ctx.update(text, progress=0.5)
        ctx.update(details={"text": text, "small": [1, 2], "many": list(range(50_000)), "deep": {"text": text}})
        ctx.log.info("%s", text, extra={"field": text, "other": 1})
        return text

    async with MemoryHost(app, log=True) as host:
        assert (await host.tool("tell"))["content"] == text
        lossy = [line for line in host.lines if b'"method":' in line]
        assert len(lossy) >= 3
        assert max(map(len, lossy)) < 64 * 1024
        updates = host.told_of("tool/update")
        assert updates[0]["message"].startswith(text[:1000])
        assert updates[0]["message"].endswith(" more characters)")
        kept, _, missing = updates[0]["message"].rpartition("… (")
        assert len(kept) + int(missing.split()[0]) == len(text)
        assert updates[1]["details"]["small"] == [1, 2]
        assert updates[1]["details"]["many"][-1].endswith(" more items)")
        (logged,) = [told for told in host.told_of("log") if "field" in told["fields"]]
        assert logged["message"].endswith(" more characters)")
        assert logged["fields"]["other"] == 1


@on_each_loop
async def test_what_a_task_says_of_its_health_is_cut_and_says_so() -> None:
    """A report is text for people, and any number of them is kept."""
    app = App("t")

    @app.task(autostart=True)
    async def work(ctx: TaskContext) -> None:
        ctx.report_health("x" * 70_000)
        await ctx.wait_stop()

    async with MemoryHost(app, handshake={"capabilities_enabled": {"tasks": True}}) as host:
        await host.until(lambda: any("last_health_status" in told for told in host.told_of("task/update")))
        assert max(map(len, host.lines)) < 64 * 1024
        assert host.told_of("task/update")[-1]["last_health_status"].endswith("… (68000 more characters)")


@on_each_loop
async def test_a_lossy_frame_that_cannot_be_cut_is_dropped() -> None:
    """The host's own name for the call must go back as it came, and may be longer than other hosts take."""
    app = App("t")

    @app.tool
    async def tell(ctx: ToolContext) -> str:
        ctx.update("half", progress=0.5)
        return "done"

    async with MemoryHost(app) as host:
        params = {"call_id": "c" * 70_000, "tool": "tell", "arguments": {}, "context": CONTEXT}
        assert await host.ask("tool/execute", params) == {"content": "done"}
        assert not host.told
