"""Tools, called over a connection: what comes back for what they return and raise, and what their context offers."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import PurePosixPath
from typing import Annotated, Any, NamedTuple, TypedDict
from uuid import UUID

import attrs
import orjson
import pytest
from annotated_types import Ge, Le

from sepkit import App, Completion, RpcError, ToolContext, ToolError, ToolResult
from sepkit.testing import ToolAnswer
from tests.checked_host import CheckedHost
from tests.memory_host import CONTEXT, MemoryHost, on_each_loop


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


@attrs.frozen
class Point:
    x: int
    y: int


@dataclass
class Line:
    start: Point
    tags: set[str] = field(default_factory=set)


class Pair(NamedTuple):
    left: int
    right: str


class Person(TypedDict):
    name: str


class Text(str):
    """A text of a kind of its own."""


class Alien:
    """Nothing that JSON knows."""


def app_returning(value: object) -> App:
    app = App("t")

    @app.tool
    async def give() -> object:
        """Give the value."""
        return value

    return app


# -- results -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "result"),
    [
        ("text", {"content": "text"}),
        ("", {"content": ""}),
        ("grüße 🎈", {"content": "grüße 🎈"}),
        (None, {"content": ""}),
        (ToolResult("done"), {"content": "done"}),
        (ToolResult("no", is_error=True), {"content": "no", "is_error": True}),
        (ToolResult("at", details=Point(1, 2)), {"content": "at", "details": {"x": 1, "y": 2}}),
        (ToolResult("all", is_error=True, details=[1]), {"content": "all", "is_error": True, "details": [1]}),
        (ToolResult("none", details={}), {"content": "none", "details": {}}),
    ],
)
@on_each_loop
async def test_text_none_and_tool_results_go_out_as_they_are(returned: object, result: dict[str, Any]) -> None:
    """``str`` becomes content, ``None`` becomes "", ``ToolResult(content, is_error, details)`` is sent as it is."""
    async with MemoryHost(app_returning(returned)) as host:
        assert await host.tool("give") == result


@pytest.mark.parametrize(
    ("returned", "details"),
    [
        (True, True),
        (0, 0),
        (2**64 - 1, 2**64 - 1),
        (-(2**63), -(2**63)),
        (1.5, 1.5),
        ({"a": [1, None]}, {"a": [1, None]}),
        ([], []),
        ((1, "b"), [1, "b"]),
        (Pair(1, "b"), [1, "b"]),
        (Person(name="Ada"), {"name": "Ada"}),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset({"b", "a"}), ["a", "b"]),
        (Point(1, 2), {"x": 1, "y": 2}),
        (Line(Point(0, 0), {"b", "a"}), {"start": {"x": 0, "y": 0}, "tags": ["a", "b"]}),
        (Level.HIGH, 3),
        ({"when": date(2024, 2, 29)}, {"when": "2024-02-29"}),
        ([datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)], ["2024-01-02T03:04:05+00:00"]),
        ([time(3, 4)], ["03:04:00"]),
        ([UUID(int=1)], ["00000000-0000-0000-0000-000000000001"]),
        ([Decimal("1.10")], ["1.10"]),
        ([PurePosixPath("a/b")], ["a/b"]),
        ([Colour.RED], ["red"]),
        ({Colour.RED: 1, 2: Text("t")}, {"red": 1, "2": "t"}),
        (Completion("v"), {"value": "v"}),
    ],
)
@on_each_loop
async def test_data_is_its_json_text_as_content_and_itself_as_details(returned: object, details: object) -> None:
    """datetime, UUID, Enum, Path, Decimal, set, attrs and dataclass results are encoded by the table in the docs."""
    async with MemoryHost(app_returning(returned)) as host:
        result = await host.tool("give")
    assert result["details"] == details
    assert type(result["details"]) is type(details)
    assert orjson.loads(result["content"]) == details
    assert result.keys() == {"content", "details"}


@pytest.mark.parametrize(
    ("returned", "content"),
    [
        (Colour.RED, "red"),
        (date(2024, 2, 29), "2024-02-29"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Decimal("1.10"), "1.10"),
        (PurePosixPath("a/b"), "a/b"),
        (Text("text"), "text"),
    ],
)
@on_each_loop
async def test_what_is_a_string_in_json_is_content_without_quotes(returned: object, content: str) -> None:
    """A value that the table encodes as a string is content without quotes."""
    async with CheckedHost(app_returning(returned)) as host:
        assert await host.call_tool("give") == ToolAnswer(content, False, None, [])


def _itself() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


_DEEP: list[Any] = []
for _ in range(300):
    _DEEP = [_DEEP]


@pytest.mark.parametrize(
    ("returned", "path", "problem"),
    [
        (Alien(), "$", f"a value of type {__name__}.Alien has no form in JSON"),
        ({"a": [1, Alien()]}, "$.a[1]", f"a value of type {__name__}.Alien has no form in JSON"),
        (b"bytes", "$", "a value of type bytes has no form in JSON"),
        ({"a b": object}, "$['a b']", "a value of type type has no form in JSON"),
        (Line(Point(0, complex(1)), set()), "$.start.y", "a value of type complex has no form in JSON"),  # type: ignore[arg-type]
        ({"a": {(1, 2): 3}}, "$.a", "a value of type tuple cannot be the key of an object"),
        (_itself(), "$", "a value of type list that contains itself"),
        (_DEEP, None, "nested more than 200 levels deep"),
    ],
    ids=["object", "nested", "bytes", "class", "field", "key", "cycle", "depth"],
)
@on_each_loop
async def test_what_json_does_not_know_fails_that_call_with_path_and_type(
    returned: object, path: str | None, problem: str
) -> None:
    """Any other value fails that call, with path and type."""
    async with CheckedHost(app_returning(returned)) as host:
        result = await host.call_tool("give")
        await host.ping()
    assert result.is_error is True
    assert problem in result.content
    if path is not None:
        assert result.content == f"The result of give cannot be sent: {path}: {problem}"


@pytest.mark.parametrize("place", ["content", "details", "ToolResult.details"])
@pytest.mark.parametrize(
    "bad",
    [math.nan, math.inf, -math.inf, 2**64, -(2**63) - 1, "\ud800", Text("a\udfff")],
    ids=["nan", "inf", "-inf", "2**64", "-2**63-1", "surrogate", "surrogate-subclass"],
)
@on_each_loop
async def test_a_value_that_json_cannot_carry_fails_that_call_and_nothing_else(bad: object, place: str) -> None:
    """A non-finite float, an integer past 64 bits or a lone surrogate fails that call, with its path."""
    app = App("t")
    go_on = asyncio.Event()

    @app.tool
    async def give() -> object:
        """Give something bad."""
        if place == "content":
            return bad
        return {"a": [bad]} if place == "details" else ToolResult("fine", details={"a": [bad]})

    @app.tool
    async def wait() -> str:
        """Wait for the test."""
        await go_on.wait()
        return "still here"

    async with CheckedHost(app) as host:
        other = asyncio.create_task(host.call_tool("wait"))
        result = await host.call_tool("give")
        go_on.set()
        assert await other == ToolAnswer("still here", False, None, [])
    assert result.is_error is True
    path = {"content": "$", "details": "$.a[0]", "ToolResult.details": "$.details.a[0]"}[place]
    assert f"cannot be sent: {path}" in result.content


@on_each_loop
async def test_a_lone_surrogate_in_the_content_is_told_with_its_place() -> None:
    """The error has the path of the value."""
    for returned in ("ab\ud800", ToolResult("ab\ud800")):
        async with CheckedHost(app_returning(returned)) as host:
            result = await host.call_tool("give")
            expected = "The result of give cannot be sent: $.content: a lone surrogate at index 2 of the text"
            assert result == ToolAnswer(expected, True, None, [])


@on_each_loop
async def test_the_text_of_a_tool_error_is_sent_whatever_is_in_it() -> None:
    """A file name that is not UTF-8 (``os.fsdecode``) in an error's text still reaches the model."""
    app = App("t")

    @app.tool
    async def read() -> None:
        """Read."""
        raise ToolError("no such file: caf\udce9")

    async with CheckedHost(app) as host:
        assert await host.call_tool("read") == ToolAnswer("no such file: caf\\udce9", True, None, [])


@pytest.mark.parametrize("options", [{"content": 5}, {"content": "x", "is_error": 1}])
def test_a_tool_result_checks_its_fields(options: dict[str, Any]) -> None:
    """Content is a string and is_error a boolean; a mistake raises where it is made.

    Source: docs/protocol.md, section 3.
    """
    with pytest.raises(TypeError):
        ToolResult(**options)


# -- arguments ---------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_all_wrong_arguments_are_told_at_once_with_path_expected_and_received() -> None:
    """Every error has a path, the expected type and the received type."""
    app = App("t")
    called: list[object] = []

    @app.tool
    async def place(name: str, at: Point, times: Annotated[int, Ge(1), Le(9)] = 1) -> None:
        """Place something."""
        called.append(name)

    async with CheckedHost(app) as host:
        result = await host.call_tool("place", {"at": {"x": "1.5", "y": True}, "times": 10, "secret": "hunter2"})
    assert not called
    assert result.is_error is True
    errors = result.details["errors"]
    assert {(e["path"], e["received"]) for e in errors} == {
        ("$.name", "nothing"),
        ("$.at.x", "string"),
        ("$.at.y", "boolean"),
        ("$.times", "integer"),
        ("$.secret", "string"),
    }
    assert all(error.keys() == {"path", "expected", "received"} for error in errors)
    first, *lines = result.content.splitlines()
    assert first == "The arguments of place do not fit its schema:"
    assert lines == [f"- {e['path']}: expected {e['expected']}, got {e['received']}" for e in errors]
    assert "hunter2" not in result.content, "types are told, values are not"


@on_each_loop
async def test_the_faults_of_a_huge_list_are_cut_off_and_counted() -> None:
    """An answer with a million faults would help no caller."""
    app = App("t")

    @app.tool
    async def add(numbers: list[int]) -> int:
        """Add."""
        return sum(numbers)

    async with CheckedHost(app) as host:
        result = await host.call_tool("add", {"numbers": ["x"] * 1000})
    assert len(result.details["errors"]) == 50
    assert result.content.endswith("\n- and 950 more")


@pytest.mark.parametrize(
    ("given", "loose", "strict"),
    [
        ({"n": 5}, 5, 5),
        ({"n": "5"}, 5, None),
        ({"n": "5x"}, None, None),
        ({"n": True}, None, None),
        ({"n": 5.0}, 5, None),
        ({"flag": True}, True, True),
        ({"flag": "true"}, True, None),
        ({"x": 1.5}, 1.5, 1.5),
        ({"x": "1.5"}, 1.5, None),
        ({"s": "5"}, "5", "5"),
        ({"s": 5}, None, None),
        ({"many": [1]}, [1], [1]),
        ({"many": "[1]"}, [1], None),
        ({"s": "[1]"}, "[1]", "[1]"),
    ],
)
@on_each_loop
async def test_arguments_are_coerced_where_nothing_is_lost_and_never_when_strict(
    given: dict[str, Any], loose: object, strict: object
) -> None:
    """``"5"`` becomes 5, ``"true"`` becomes True, ``"1.5"`` becomes 1.5; with ``strict`` each is refused.

    ``"5x"``, True for an int and 5 for a str fail. A JSON string is decoded only for a parameter that takes a list or
    an object and no string.
    """
    app = App("t")

    def add(name: str, *, strict: bool) -> None:
        @app.tool(name=name, strict=strict)
        async def echo(
            n: int | None = None,
            flag: bool | None = None,
            x: float | None = None,
            s: str | None = None,
            many: list[int] | None = None,
        ) -> ToolResult:
            """Say what came."""
            value = next(v for v in (n, flag, x, s, many) if v is not None)
            return ToolResult(type(value).__name__, details=value)

    add("loose", strict=False)
    add("strict", strict=True)
    async with CheckedHost(app) as host:
        for name, expected in (("loose", loose), ("strict", strict)):
            result = await host.call_tool(name, given)
            if expected is None:
                assert result.is_error is True
                (path,) = [f"$.{key}" for key in given]
                assert [error["path"] for error in result.details["errors"]] == [path]
            else:
                assert result == ToolAnswer(type(expected).__name__, False, expected, [])


@on_each_loop
async def test_an_unknown_tool_is_a_result_that_lists_the_known_ones() -> None:
    """An unknown tool is a tool-level failure, so that the model can correct itself."""
    app = app_returning("x")

    @app.tool
    async def take() -> None:
        """Take."""

    async with CheckedHost(app) as host:
        result = await host.call_tool("gvie")
        assert result == ToolAnswer("There is no tool 'gvie'. Known: give, take.", True, None, [])
    async with CheckedHost(App("empty")) as host:
        assert (await host.call_tool("x")).content == "There is no tool 'x'. Known: none."


@pytest.mark.parametrize("missing", ["call_id", "tool", "arguments", "context"])
@on_each_loop
async def test_params_that_lack_a_field_are_refused_as_such(missing: str) -> None:
    """Params without ``call_id`` or another field are -32602, with the fault."""
    params = {"call_id": "1", "tool": "give", "arguments": {}, "context": CONTEXT}
    async with MemoryHost(app_returning("x")) as host:
        error = await host.refused("tool/execute", {k: v for k, v in params.items() if k != missing})
        assert error["code"] == -32602
        assert error["data"]["errors"] == [{"path": "$", "expected": f"a field '{missing}'", "received": "nothing"}]
        error = await host.refused("tool/execute", {**params, missing: 5})
        assert error["code"] == -32602
        assert [(e["path"], e["received"]) for e in error["data"]["errors"]] == [(f"$.{missing}", "integer")]


@on_each_loop
async def test_unknown_fields_of_the_protocol_are_ignored() -> None:
    """Unknown fields are ignored. Source: docs/protocol.md, section 1."""
    params = {"call_id": "1", "tool": "give", "arguments": {}, "context": {**CONTEXT, "new": 1}, "newer": 2}
    async with MemoryHost(app_returning("x")) as host:
        assert await host.ask("tool/execute", params) == {"content": "x"}


# -- what tools raise --------------------------------------------------------------------------------------------------

SECRET = "sk-planted-secret"


def app_that_fails(**options: Any) -> App:
    app = App("t", **options)

    @app.tool
    async def in_loop() -> None:
        """Fail."""
        raise ValueError(f"bad key {SECRET}")

    @app.tool
    def in_thread() -> None:
        """Fail."""
        raise ValueError(f"bad key {SECRET}")

    @app.tool(timeout=100)
    async def in_time() -> None:
        """Fail."""
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            raise ValueError(f"bad key {SECRET}") from error

    @app.tool
    async def in_background() -> None:
        """Leave a task behind that fails."""

        async def fail() -> None:
            raise ValueError(f"bad key {SECRET}")

        task = asyncio.create_task(fail())
        await asyncio.wait([task])
        del task

    return app


@pytest.mark.parametrize("tool", ["in_loop", "in_thread", "in_time"])
@on_each_loop
async def test_an_unexpected_exception_crosses_as_a_fixed_text_and_an_id(
    tool: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A fixed text and a correlation id cross; the traceback is logged under that id.

    The planted secret is in no line of the wire.
    """
    async with MemoryHost(app_that_fails(), log=True) as host:
        result = await host.tool(tool)
        await host.until(lambda: bool(host.told_of("log")))
        await host.ping()
    correlation = result["details"]["correlation_id"]
    text = f"The tool {tool} failed unexpectedly; its log names it {correlation}"
    assert result == {"content": text, "is_error": True, "details": {"correlation_id": correlation}}
    assert len(correlation) == 8
    assert not [line for line in host.lines if SECRET.encode() in line]
    assert any(correlation in params["message"] for params in host.told_of("log")), "the host's log has the id, too"
    (record,) = [record for record in caplog.records if correlation in record.getMessage()]
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert f"bad key {SECRET}" in str(record.exc_info[1])
    assert record.exc_info[2] is not None


@on_each_loop
async def test_an_exception_that_nobody_awaits_does_not_cross_in_the_log() -> None:
    """The message "never retrieved" of asyncio has the exception's text, so the host is not sent it."""
    async with MemoryHost(app_that_fails(), log=True) as host:
        asyncio.get_running_loop().set_exception_handler(None)  # asyncio's own, which logs
        await host.tool("in_background")
        await host.until(lambda: bool(host.told_of("log")))
        await host.ping()
    (params,) = host.told_of("log")
    assert params["message"] == "Task exception was never retrieved"
    assert not [line for line in host.lines if SECRET.encode() in line]


@pytest.mark.parametrize("tool", ["in_loop", "in_thread", "in_time"])
@on_each_loop
async def test_expose_errors_lets_the_text_cross(tool: str) -> None:
    """``App(expose_errors=True)`` lets the text of an unexpected exception cross."""
    async with CheckedHost(app_that_fails(expose_errors=True)) as host:
        result = await host.call_tool(tool)
    assert result.is_error is True
    assert result.content.endswith(f": ValueError: bad key {SECRET}")
    assert result.details["correlation_id"] in result.content


@pytest.mark.parametrize("kind", ["async", "def", "timeout"])
@on_each_loop
async def test_a_tool_error_crosses_as_written(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """``ToolError("…")`` crosses as written."""
    app = App("t")

    async def give_up() -> None:
        """Give up."""
        raise ToolError("No such city: Atlantis.\nTry another.")

    def give_up_in_thread() -> None:
        """Give up."""
        raise ToolError("No such city: Atlantis.\nTry another.")

    if kind == "def":
        app.tool(name="give_up")(give_up_in_thread)
    else:
        app.tool(timeout=100 if kind == "timeout" else None)(give_up)
    async with CheckedHost(app) as host:
        assert await host.call_tool("give_up") == ToolAnswer("No such city: Atlantis.\nTry another.", True, None, [])
    assert not caplog.records, "the author's own answer is no trouble"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), StopIteration(1)], ids=repr)
@pytest.mark.parametrize("kind", ["async", "def"])
@on_each_loop
async def test_sys_exit_in_a_tool_fails_that_call_not_the_process(error: BaseException, kind: str) -> None:
    """``sys.exit()`` in a handler fails that call, not the process; so do other BaseExceptions."""
    app = App("t")

    def leave_in_thread() -> None:
        """Leave."""
        if isinstance(error, SystemExit):
            sys.exit(3)
        raise error

    async def leave() -> None:
        """Leave."""
        await asyncio.sleep(0)
        leave_in_thread()

    app.tool(name="leave")(leave if kind == "async" else leave_in_thread)
    async with CheckedHost(app) as host:
        result = await host.call_tool("leave")
        assert result.is_error is True
        assert result.content.startswith("The tool leave failed unexpectedly")
        await host.ping()


@on_each_loop
async def test_a_cancellation_that_nobody_asked_for_is_a_failure_of_the_tool() -> None:
    """A tool that awaits a cancelled task fails as with any exception."""
    app = App("t")

    @app.tool
    async def cancel_itself() -> None:
        """Await what was cancelled."""
        other = asyncio.create_task(asyncio.sleep(60))
        other.cancel()
        await other

    async with CheckedHost(app) as host:
        result = await host.call_tool("cancel_itself")
        assert result.is_error is True
        assert result.content.startswith("The tool cancel_itself failed unexpectedly")


@pytest.mark.parametrize("kind", ["async", "def", "timeout"])
@on_each_loop
async def test_a_call_that_the_host_cancels_is_answered_as_cancelled(kind: str) -> None:
    """A cancelled request is answered once, with -32800, when its work has stopped.

    Source: docs/protocol.md, section 8.
    """
    app = App("t")
    begun = asyncio.Event()
    go_on = threading.Event()
    loop = asyncio.get_running_loop()

    async def wait() -> None:
        """Wait."""
        begun.set()
        await asyncio.Event().wait()

    def wait_in_thread() -> None:
        """Wait."""
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(20)

    if kind == "def":
        app.tool(name="wait")(wait_in_thread)
    else:
        app.tool(timeout=100 if kind == "timeout" else None)(wait)
    async with MemoryHost(app) as host:
        rid = host.start_tool("wait")
        await begun.wait()
        host.cancel(rid)
        assert (await host.answer(rid))["error"]["code"] == -32800
        go_on.set()


@on_each_loop
async def test_what_a_service_cannot_send_is_no_fault_of_the_result(caplog: pytest.LogCaptureFixture) -> None:
    """Bytes given to ``kv.set`` are the author's mistake like any other, with a traceback in the log."""
    app = App("t")

    @app.tool
    async def store(ctx: ToolContext) -> str:
        """Store bytes."""
        await ctx.kv.set("key", b"bytes")
        return "stored"

    async with MemoryHost(app, {"kv/set": {}}) as host:
        result = await host.tool("store")
        assert not host.asked
    assert result["content"].startswith("The tool store failed unexpectedly")
    assert result["details"]["correlation_id"] in caplog.text
    assert "$.value: a value of type bytes has no form in JSON" in caplog.text


# -- time limits, threads ----------------------------------------------------------------------------------------------


@on_each_loop
async def test_a_tool_past_its_time_is_cancelled_and_fails() -> None:
    """After ``timeout=`` seconds the handler is cancelled, and the model is told."""
    app = App("t")
    cancelled = asyncio.Event()

    @app.tool(timeout=0.01)
    async def slow() -> None:
        """Never end."""
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with CheckedHost(app) as host:
        result = await host.call_tool("slow")
        assert cancelled.is_set()
    assert result == ToolAnswer("slow was stopped: it took longer than 0.01 s", True, None, [])


@on_each_loop
async def test_a_def_tool_past_its_time_fails_and_is_left_behind() -> None:
    """``timeout=`` also applies to a ``def``, though its thread cannot be stopped."""
    app = App("t")
    go_on = threading.Event()

    @app.tool(timeout=0.01)
    def slow() -> str:
        """Wait for the test."""
        go_on.wait(20)
        return "too late"

    async with CheckedHost(app) as host:
        result = await host.call_tool("slow")
        go_on.set()
    assert result == ToolAnswer("slow was stopped: it took longer than 0.01 s", True, None, [])


@on_each_loop
async def test_a_time_out_of_the_tools_own_is_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """A TimeoutError from within is an unexpected exception, not the end of ``timeout=``."""
    app = App("t")

    @app.tool(timeout=100)
    async def connect() -> None:
        """Fail to connect."""
        raise TimeoutError("upstream")

    async with CheckedHost(app) as host:
        assert (await host.call_tool("connect")).content.startswith("The tool connect failed unexpectedly")


@on_each_loop
async def test_a_def_tool_runs_in_a_thread_with_the_context_variables_of_its_call() -> None:
    """``def`` handlers run in threads and see contextvars."""
    app = App("t")
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    token = variable.set("from the loop")

    @app.tool
    def look(ctx: ToolContext) -> dict[str, object]:
        """Look around."""
        ctx.update("in a thread", progress=0.5)
        return {"variable": variable.get(), "in_loop": threading.get_ident() == loop_thread}

    loop_thread = threading.get_ident()
    async with MemoryHost(app) as host:
        rid = host.start_tool("look")
        answer = await host.answer(rid)
    variable.reset(token)
    assert answer["result"]["details"] == {"variable": "from the loop", "in_loop": False}
    methods = [frame.get("method", frame.get("id")) for frame in host.frames]
    assert methods[-2:] == ["tool/update", rid], "told before it returned, on the wire before the answer"


# -- the context -------------------------------------------------------------------------------------------------------


def app_that_updates(update: Callable[[ToolContext], None]) -> App:
    app = App("t")

    @app.tool
    async def work(ctx: ToolContext) -> None:
        """Work."""
        update(ctx)

    return app


@pytest.mark.parametrize(
    ("told", "sent"),
    [
        ({"message": "half"}, {"message": "half"}),
        ({"progress": 0}, {"progress": 0}),
        ({"progress": 1}, {"progress": 1}),
        ({"message": "all", "progress": 0.25, "details": Point(1, 2)}, None),
        ({"details": {"when": date(2024, 2, 29)}}, {"details": {"when": "2024-02-29"}}),
        ({}, {}),
    ],
)
@on_each_loop
async def test_progress_is_told_under_the_id_of_the_call(told: dict[str, Any], sent: dict[str, Any] | None) -> None:
    """``tool/update`` carries {call_id, message?, progress? (0..1), details?}. Source: docs/protocol.md, section 4."""
    if sent is None:
        sent = {"message": "all", "progress": 0.25, "details": {"x": 1, "y": 2}}
    async with MemoryHost(app_that_updates(lambda ctx: ctx.update(**told))) as host:
        rid = host.start_tool("work")
        await host.answer(rid)
    assert host.told_of("tool/update") == [{"call_id": f"call-{rid}", **sent}]


@pytest.mark.parametrize("progress", [-0.01, 1.01, math.nan, math.inf])
@on_each_loop
async def test_progress_outside_of_0_to_1_is_an_error_where_it_is_told(progress: float) -> None:
    """Progress is 0..1; a value that a host would refuse is not sent. Source: docs/protocol.md, section 4."""
    errors = []

    def update(ctx: ToolContext) -> None:
        try:
            ctx.update(progress=progress)
        except ValueError as error:
            errors.append(str(error))

    async with MemoryHost(app_that_updates(update)) as host:
        assert await host.tool("work") == {"content": ""}
    assert errors == [f"progress goes from 0 to 1, not {progress!r}"]
    assert not host.told


@on_each_loop
async def test_details_of_progress_without_a_form_in_json_fail_that_call() -> None:
    """It fails that call only."""
    async with MemoryHost(app_that_updates(lambda ctx: ctx.update(details={"a": math.nan}))) as host:
        assert (await host.tool("work"))["is_error"] is True
        await host.ping()
    assert not host.told


@on_each_loop
async def test_progress_told_after_the_return_is_dropped() -> None:
    """Progress sent before ``return`` is on the wire before the reply; progress after it is dropped."""
    app = App("t")
    kept: list[ToolContext] = []
    late = asyncio.Event()

    @app.tool
    async def work(ctx: ToolContext) -> None:
        """Tell before and after."""
        kept.append(ctx)

        async def tell_later() -> None:
            await late.wait()
            ctx.update("from a task that lives on")

        tasks.append(asyncio.create_task(tell_later()))
        for number in range(3):
            ctx.update(f"before {number}")

    @app.tool
    def fail(ctx: ToolContext) -> None:
        """Fail."""
        kept.append(ctx)
        raise ToolError("no")

    tasks: list[asyncio.Task[None]] = []
    async with MemoryHost(app) as host:
        rid = host.start_tool("work")
        await host.answer(rid)
        await host.tool("fail")
        late.set()
        await asyncio.gather(*tasks)
        for ctx in kept:
            ctx.update("too late")
            await asyncio.get_running_loop().run_in_executor(None, ctx.update, "too late, from a thread")
        await host.ping()
    assert [params.get("message") for params in host.told_of("tool/update")] == ["before 0", "before 1", "before 2"]
    order = [frame.get("method") or frame["id"] for frame in host.frames]
    assert order.index(rid) > max(i for i, what in enumerate(order) if what == "tool/update")


@on_each_loop
async def test_a_tool_knows_its_call_its_state_and_the_hosts_ui() -> None:
    """A tool reads ``call_id``, ``state``, ``context`` (token, tier) and ``has_ui(kind)``."""
    app = App("t")

    @app.tool
    async def look(who: str, ctx: ToolContext, also: int = 0) -> dict[str, object]:
        """Look around."""
        return {
            "call_id": ctx.call_id,
            "state": ctx.state,
            "token": ctx.context.token,
            "tier": ctx.context.tier,
            "ui": [ctx.has_ui("select"), ctx.has_ui("confirm")],
            "arguments": [who, also],
        }

    expected: dict[str, Any] = {"state": None, "token": "epoch-1", "tier": "command", "arguments": ["Ada", 2]}
    async with MemoryHost(app, handshake={"ui_capabilities": ["select"]}) as host:
        rid = host.start_tool("look", also=2, who="Ada")
        details = (await host.answer(rid))["result"]["details"]
        assert details == {**expected, "call_id": f"call-{rid}", "ui": [True, False]}
    async with MemoryHost(app) as host:
        assert (await host.tool("look", who="x"))["details"]["ui"] == [False, False], "the host did not say"


@on_each_loop
async def test_what_a_tool_logs_reaches_the_host_with_the_tool_and_the_call() -> None:
    """``ctx.log`` reaches the host as ``log``, tagged with the tool and the call."""
    app = App("my-ext")

    @app.tool
    async def work(ctx: ToolContext) -> None:
        """Log."""
        ctx.log.warning("disk %s is %d %% full", "a", 97, extra={"disk": PurePosixPath("/a")})
        ctx.log.debug("not at this level")

    async with MemoryHost(app, log=True) as host:
        rid = host.start_tool("work")
        await host.answer(rid)
        await host.until(lambda: bool(host.told_of("log")))
    fields = {"logger": "my-ext", "tool": "work", "call_id": f"call-{rid}", "disk": "/a"}
    assert host.told_of("log") == [{"level": "warn", "message": "disk a is 97 % full", "fields": fields}]


@on_each_loop
async def test_the_context_goes_to_the_parameter_that_is_annotated_with_it() -> None:
    """The context's parameter may stand anywhere; all others are arguments, whatever their names."""
    app = App("t")

    @app.tool
    async def first(context: ToolContext, ctx: str) -> str:
        """Take the context first."""
        return f"{context.call_id} {ctx}"

    @app.tool
    async def keyword(ctx: str, *, last: ToolContext | None = None) -> str:
        """Take it last."""
        assert last is not None
        return f"{last.call_id} {ctx}"

    async with MemoryHost(app) as host:
        for name in ("first", "keyword"):
            rid = host.start_tool(name, ctx="mine")
            assert (await host.answer(rid))["result"] == {"content": f"call-{rid} mine"}
    for tool in host.initialized["registrations"]["tools"]:
        assert list(tool["parameters"]["properties"]) == ["ctx"]


# -- options of the registration ---------------------------------------------------------------------------------------


@on_each_loop
async def test_a_tool_with_a_schema_of_its_own_is_checked_against_that() -> None:
    """``parameters=<raw JSON Schema>`` replaces the annotations."""
    app = App("t")
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "minLength": 2}, "days": {"type": "integer", "maximum": 7}},
        "required": ["city"],
        "additionalProperties": False,
    }

    @app.tool(parameters=schema)
    async def forecast(ctx: ToolContext, **arguments: Any) -> dict[str, Any]:
        """Forecast."""
        return arguments

    async with CheckedHost(app) as host:
        (tool,) = host.registrations.tools
        assert tool.parameters == schema
        assert (await host.call_tool("forecast", {"city": "Oslo", "days": 3})).details == {"city": "Oslo", "days": 3}
        result = await host.call_tool("forecast", {"city": "O", "days": "3", "when": "now"})
    assert result.is_error is True
    assert {error["path"] for error in result.details["errors"]} == {"$.city", "$.days", "$.when"}


@on_each_loop
async def test_name_description_and_deferred_go_into_the_registration() -> None:
    """A tool is registered as {name, description, parameters (JSON Schema), deferred?}.

    Source: docs/protocol.md, section 8.
    """
    app = App("t")

    @app.tool
    async def plain(n: int) -> None:
        """What the model reads.

        More of it.

        Args:
            n: A number.
        """

    @app.tool(name="other.name", description="Told.", deferred=True)
    async def renamed() -> None:
        """Not told."""

    async with MemoryHost(app) as host:
        assert host.initialized["registrations"]["tools"] == [
            {
                "name": "plain",
                "description": "What the model reads.\n\nMore of it.",
                "parameters": {
                    "type": "object",
                    "properties": {"n": {"type": "integer", "description": "A number."}},
                    "required": ["n"],
                    "additionalProperties": False,
                },
            },
            {
                "name": "other.name",
                "description": "Told.",
                "parameters": {"type": "object", "properties": {}, "required": [], "additionalProperties": False},
                "deferred": True,
            },
        ]
        assert await host.tool("other.name") == {"content": ""}


@on_each_loop
async def test_an_rpc_error_that_a_tool_does_not_catch_stays_with_its_call() -> None:
    """An error of the host is the tool's failure; its code is not the answer's code."""
    app = App("t")

    @app.tool
    async def store(ctx: ToolContext) -> None:
        """Store."""
        await ctx.kv.set("key", 1)

    async with MemoryHost(app, {"kv/set": RpcError(SECRET, code=-32002)}) as host:
        result = await host.tool("store")
    assert result["content"].startswith("The tool store failed unexpectedly")
    assert SECRET not in result["content"]
