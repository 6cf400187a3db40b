"""Commands and their completion, asked over a connection: what they are given, what comes back, and how they fail."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from enum import Enum
from typing import Any

import attrs
import pytest

from sepkit import App, CommandContext, Completion, Router, RpcError, ToolError, ToolResult
from sepkit.errors import NoUI, RegistrationError
from tests.checked_host import CheckedHost, refused
from tests.memory_host import CONTEXT, MemoryHost, on_each_loop


class Colour(Enum):
    RED = "red"


@attrs.frozen
class Point:
    x: int
    y: int = 0


class Alien:
    """Nothing that JSON knows."""


def execute(command: str, arguments: object = None, **fields: object) -> dict[str, Any]:
    given = {} if arguments is None else {"arguments": arguments}
    return {"command": command, "context": CONTEXT, **given, **fields}


def complete(command: str, **fields: object) -> dict[str, Any]:
    return {"command": command, "context": CONTEXT, **fields}


def app_returning(value: object) -> App:
    app = App("t")

    @app.command
    async def give() -> object:
        return value

    return app


def app_completing(values: Any) -> App:
    app = App("t")

    @app.command
    async def paint() -> None: ...

    @app.complete("paint")
    async def colours(partial: str) -> list[str]:
        return values  # type: ignore[no-any-return]  # whatever the test wants

    return app


# -- arguments ---------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_a_command_takes_its_arguments_in_its_own_types() -> None:
    """A command's parameters are its arguments; a value is converted if nothing is lost."""
    app = App("t")
    given: list[object] = []

    @app.command
    async def paint(colour: Colour, points: list[Point], times: int = 1, label: str | None = None) -> None:
        given.append((colour, points, times, label))

    async with CheckedHost(app) as host:
        assert await host.run_command("paint", {"colour": "red", "points": [{"x": 1}]}) is None
        arguments = {"colour": "red", "points": [{"x": 1, "y": 2}], "times": "3", "label": "a"}
        assert await host.run_command("paint", arguments) is None
    assert given == [(Colour.RED, [Point(1)], 1, None), (Colour.RED, [Point(1, 2)], 3, "a")]


@on_each_loop
async def test_a_command_sees_the_raw_arguments_and_those_it_does_not_name() -> None:
    """``CommandContext`` has the raw arguments, including those that no parameter takes."""
    app = App("t")
    given: list[object] = []

    @app.command
    async def paint(ctx: CommandContext, times: int = 1) -> None:
        given.append((times, ctx.arguments, ctx.context.token, ctx.context.tier))

    async with MemoryHost(app) as host:
        arguments = {"times": "2", "rest": ["a", {"b": None}]}
        assert await host.ask("command/execute", execute("paint", arguments)) == {}
        assert await host.ask("command/execute", execute("paint")) == {}
        assert await host.ask("command/execute", execute("paint", {}, new_field=1)) == {}
    assert given == [
        (2, arguments, "epoch-1", "command"),
        (1, {}, "epoch-1", "command"),
        (1, {}, "epoch-1", "command"),
    ]


@on_each_loop
async def test_wrong_arguments_are_refused_with_every_fault() -> None:
    """The error is -32602 with every fault at once: path, expected type, received type."""
    app = App("t")
    called: list[object] = []

    @app.command
    async def paint(times: int, point: Point, colour: str) -> None:
        called.append(times)

    async with CheckedHost(app) as host:
        arguments = {"times": "5x", "point": {"x": None}}
        error = await refused(host.run_command("paint", arguments))
        await host.ping()
    assert error.code == -32602
    assert "paint" in error.message
    faults = {fault["path"]: fault for fault in error.data["errors"]}
    assert faults.keys() == {"$.times", "$.point.x", "$.colour"}
    for fault in faults.values():
        assert fault["expected"]
        assert fault["received"]
    assert not called


@pytest.mark.parametrize(
    ("params", "fault"),
    [
        ({}, "$: a field 'command'"),
        ({"command": 5, "context": CONTEXT}, "$.command: string"),
        ({"command": "paint"}, "$: a field 'context'"),
        ({"command": "paint", "context": {"token": "x", "tier": 5}}, "$.context.tier: "),
        (execute("paint", ["red"]), "$.arguments: object"),
        (execute("paint", "red"), "$.arguments: object"),
    ],
    ids=repr,
)
@on_each_loop
async def test_params_that_are_no_call_of_a_command_are_refused(params: dict[str, Any], fault: str) -> None:
    """Bad params are -32602, and the field is named."""
    app = App("t")
    called: list[object] = []

    @app.command
    async def paint() -> None:
        called.append(1)

    async with MemoryHost(app) as host:
        error = await host.refused("command/execute", params)
        assert error["code"] == -32602
        first = error["data"]["errors"][0]
        assert f"{first['path']}: {first['expected']}".startswith(fault)
    assert not called


@on_each_loop
async def test_an_unknown_command_is_answered_with_content_that_says_so() -> None:
    """As the reference SDK does: its conformance runner runs `say` and completes `plan` with any extension."""
    async with CheckedHost(app_completing([])) as host:
        assert await host.run_command("say") == "There is no command 'say'. Known: paint."
        assert await host.complete_command("plan") == []
    async with CheckedHost(App("t")) as host:
        assert await host.run_command("größe") == "There is no command 'größe'. Known: none."


# -- results -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "content"),
    [
        (None, None),
        ("", ""),
        ("päint\n", "päint\n"),
        (5, "5"),
        (True, "true"),
        ({"a": [1, None]}, '{"a":[1,null]}'),
        (Point(1, 2), '{"x":1,"y":2}'),
        (ToolResult("shown", details={"hidden": 1}), "shown"),
    ],
    ids=repr,
)
@on_each_loop
async def test_what_a_command_returns_is_shown(returned: object, content: str | None) -> None:
    """``command/execute`` is answered with ``content`` alone; a command has no details.

    Source: docs/protocol.md, section 3.
    """
    async with CheckedHost(app_returning(returned)) as host:
        assert await host.run_command("give") == content


@pytest.mark.parametrize(
    ("returned", "path", "what"),
    [
        (Alien(), "$", "Alien"),
        ({"a": [Alien()]}, "$.a[0]", "Alien"),
        ({"a": float("nan")}, "$.a", "not finite"),
        ("\ud800", "$.content", "surrogate"),
    ],
    ids=["object", "nested", "nan", "surrogate"],
)
@on_each_loop
async def test_a_result_that_cannot_be_sent_fails_that_command_only(returned: object, path: str, what: str) -> None:
    """It fails that call, with the path and the type of the value, and nothing else."""
    async with CheckedHost(app_returning(returned)) as host:
        error = await refused(host.run_command("give"))
        assert error.code == -32603
        assert path in error.message
        assert what in error.message
        await host.ping()


@on_each_loop
async def test_a_def_command_runs_in_a_thread_and_holds_nobody_up() -> None:
    """A ``def`` handler runs in a thread."""
    app = App("t")
    go_on, loop_thread = threading.Event(), threading.get_ident()

    @app.command
    def wait(ctx: CommandContext, word: str) -> str:
        assert threading.get_ident() != loop_thread
        assert go_on.wait(20)
        return f"{word} {ctx.context.token}"

    async with CheckedHost(app) as host:
        call = asyncio.create_task(host.run_command("wait", {"word": "done"}))
        await host.ping()
        assert not call.done()
        go_on.set()
        assert await call == f"done {host.token}"


@on_each_loop
async def test_a_commands_name_and_description_can_be_given() -> None:
    """A command has a name, without the slash, and a description. Source: docs/protocol.md, section 8."""
    router = Router()

    @router.command(name="/paint-it", description="Paint.")
    async def one() -> str:
        return "one"

    @router.command
    async def two() -> str:
        """Do the other thing.

        At length.
        """
        return "two"

    app = App("t")
    app.include(router)
    async with CheckedHost(app) as host:
        commands = {one.name: one.description for one in host.registrations.commands}
        assert commands.keys() == {"paint-it", "two"}
        assert commands["paint-it"] == "Paint."
        assert commands["two"].startswith("Do the other thing.")
        assert await host.run_command("paint-it") == "one"
        assert await host.run_command("two") == "two"


# -- failing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threaded", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("secret"),
        RpcError("secret", code=-32602),
        NoUI("secret"),
        asyncio.CancelledError("secret"),
        SystemExit,
    ],
    ids=lambda error: error.__name__ if isinstance(error, type) else type(error).__name__,
)
@on_each_loop
async def test_a_command_that_raises_is_answered_with_a_fixed_text(
    error: BaseException, threaded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A fixed text and an id cross, the traceback is logged under that id, and the process lives on."""
    app = App("t")

    def fail() -> None:
        if error is SystemExit:  # type: ignore[comparison-overlap]
            sys.exit("secret")
        raise error

    if threaded:
        app.command(name="fail")(lambda: fail())
    else:

        @app.command(name="fail")
        async def fail_in_the_loop() -> None:
            fail()

    async with MemoryHost(app, log=True) as host:
        answer = await host.refused("command/execute", execute("fail"))
        await host.ping()
    assert answer["code"] == -32603
    correlation = answer["data"]["correlation_id"]
    assert answer["message"] == f"the command fail failed unexpectedly; its log names it {correlation}"
    assert not [line for line in host.lines if b"secret" in line]
    logged = [record for record in caplog.records if correlation in record.getMessage()]
    assert len(logged) == 1
    assert logged[0].exc_info


@on_each_loop
async def test_a_tool_error_from_a_command_crosses_as_written() -> None:
    """``ToolError("…")`` crosses as written, even if the text is not valid UTF-8."""
    app = App("t")

    @app.command
    async def fail(text: str) -> None:
        raise ToolError("\udcff is no file" if text == "odd" else text)

    async with CheckedHost(app) as host:
        error = await refused(host.run_command("fail", {"text": "No such färbe."}))
        assert (error.code, error.message, error.data) == (-32603, "No such färbe.", None)
        error = await refused(host.run_command("fail", {"text": "odd"}))
        assert (error.code, error.message, error.data) == (-32603, "\\udcff is no file", None)


@on_each_loop
async def test_an_unexpected_text_crosses_where_the_app_exposes_errors() -> None:
    """``App(expose_errors=True)`` lets the text of an exception cross."""
    app = App("t", expose_errors=True)

    @app.command
    async def fail() -> None:
        raise ValueError("the very reason")

    async with CheckedHost(app) as host:
        error = await refused(host.run_command("fail"))
    assert error.message.endswith(": ValueError: the very reason")


@on_each_loop
async def test_a_cancelled_command_is_answered_once_when_it_has_stopped() -> None:
    """A cancelled request is answered once, with -32800, when its work has stopped.

    Source: docs/protocol.md, section 8.
    """
    app = App("t")
    started, stopped = asyncio.Event(), asyncio.Event()

    @app.command
    async def wait() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            stopped.set()

    async with MemoryHost(app) as host:
        call = host.start("command/execute", execute("wait"))
        await started.wait()
        host.cancel(call)
        assert (await host.answer(call))["error"]["code"] == -32800
        assert stopped.is_set()
        await host.ping()  # a second answer would fail the test


@on_each_loop
async def test_commands_do_not_wait_behind_tools() -> None:
    """Ping, cancel, hooks, commands and replies never wait for a slot."""
    app = App("t")
    go_on = asyncio.Event()

    @app.tool
    async def wait() -> None:
        await go_on.wait()

    @app.command
    async def release(ctx: CommandContext) -> str:
        value = await ctx.kv.get("k")
        go_on.set()
        return str(value)

    @app.complete("release")
    async def ways(partial: str) -> list[str]:
        return [partial]

    async with MemoryHost(app, {"kv/get": {"value": 7}}, max_concurrency=1, max_waiting=1) as host:
        calls = [host.start_tool("wait"), host.start_tool("wait")]
        assert await host.ask("command/complete", complete("release", partial="x")) == {"completions": [{"value": "x"}]}
        assert not any(host.is_answered(call) for call in calls)
        assert await host.ask("command/execute", execute("release")) == {"content": "7"}
        for call in calls:
            assert "result" in await host.answer(call)


# -- completion --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "completions"),
    [
        ([], []),
        (None, []),
        (["red", "grün"], [Completion("red"), Completion("grün")]),
        (
            ("a", Completion("b"), Completion("c", "the third"), Completion("d", "")),
            [
                Completion("a"),
                Completion("b"),
                Completion("c", "the third"),
                Completion("d", ""),
            ],
        ),
        ({"one": 1}.keys(), [Completion("one")]),
    ],
    ids=repr,
)
@on_each_loop
async def test_a_completer_returns_strings_and_completions(values: object, completions: list[Completion]) -> None:
    """``command/complete`` answers {value, description?} items in the completer's order.

    Source: docs/protocol.md, section 3.
    """
    async with CheckedHost(app_completing(values)) as host:
        assert await host.complete_command("paint", "") == completions


@on_each_loop
async def test_a_completer_may_be_a_def_and_is_given_what_was_typed() -> None:
    """A completer takes ``partial: str``; a ``def`` runs in a thread."""
    app = App("t")
    loop_thread = threading.get_ident()

    @app.command
    async def paint() -> None: ...

    @app.command
    async def erase() -> None: ...

    @app.complete("paint")
    def colours(ctx: CommandContext, partial: str) -> list[str]:
        assert threading.get_ident() != loop_thread
        return [partial + ctx.context.token]

    @app.complete("erase")
    async def nothing_to_know() -> list[str]:
        return ["all"]

    async with MemoryHost(app) as host:
        for fields, value in (({"partial": "rö"}, "röepoch-1"), ({}, "epoch-1")):
            answer = await host.ask("command/complete", complete("paint", **fields))
            assert answer == {"completions": [{"value": value}]}
        assert await host.ask("command/complete", complete("erase")) == {"completions": [{"value": "all"}]}


@on_each_loop
async def test_a_command_without_a_completer_has_no_completions() -> None:
    """``completions`` is always there; with nothing to complete it is an empty array.

    Source: docs/protocol.md, section 3.
    """
    async with CheckedHost(app_returning(None)) as host:
        assert await host.complete_command("give", "x") == []


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ("red", "str"),
        (b"red", "bytes"),
        ({"red": 1}, "dict"),
        (5, "int"),
        (["red", 5], "$[1]"),
        ([None], "$[0]"),
        ([{"value": "red"}], "$[0]"),
        (["red", "\ud800"], "$[1]"),
        ([Completion("red", "\ud800")], "$[0].description"),
        ([Completion("red", 5)], "$[0].description"),  # type: ignore[arg-type]  # on purpose
        ([Completion(None)], "$[0].value"),  # type: ignore[arg-type]  # on purpose
        ([Completion(5)], "$[0].value"),  # type: ignore[arg-type]  # on purpose
    ],
    ids=repr,
)
@on_each_loop
async def test_what_is_no_list_of_completions_is_an_error_that_names_it(values: object, names: str) -> None:
    """Any other value fails that call, with path and type. A str is not taken as a list of its letters."""
    async with CheckedHost(app_completing(values)) as host:
        error = await refused(host.complete_command("paint"))
        assert error.code == -32603
        assert names in error.message
        await host.ping()


@on_each_loop
async def test_a_completer_that_raises_is_answered_with_a_fixed_text() -> None:
    """A fixed text and an id cross, whether the body of a completer raises or its result is wrong."""
    app = App("t")

    @app.command
    async def early() -> None: ...

    @app.command
    async def late() -> None: ...

    @app.complete("early")
    async def fail(partial: str) -> list[str]:
        raise ValueError("secret")

    @app.complete("late")
    async def fail_later(partial: str) -> list[str]:
        def failing() -> Any:
            yield "red"
            raise ValueError("secret")

        return failing()  # type: ignore[no-any-return]  # an iterable, which a caller may return

    async with MemoryHost(app, log=True) as host:
        for command in ("early", "late"):
            error = await host.refused("command/complete", complete(command))
            assert error["code"] == -32603
            assert error["data"]["correlation_id"] in error["message"]
        await host.ping()
    assert not [line for line in host.lines if b"secret" in line]


@pytest.mark.parametrize("fields", [{"partial": 5}, {"partial": ["r"]}, {"context": None}], ids=repr)
@on_each_loop
async def test_params_that_are_no_completion_are_refused(fields: dict[str, object]) -> None:
    """Bad params are -32602, and the field is named."""
    async with MemoryHost(app_completing(["red"])) as host:
        error = await host.refused("command/complete", {**complete("paint"), **fields})
    assert error["code"] == -32602
    assert [fault["path"] for fault in error["data"]["errors"]] == [f"$.{next(iter(fields))}"]


def _ways(partial: str) -> list[str]:
    return [partial]


def _a_second_command(app: App) -> None:
    app.command(name="paint")(lambda: None)


def _a_second_completer(app: App) -> None:
    app.complete("paint")(_ways)


def _a_completer_for_nothing(app: App) -> None:
    app.complete("pain")(_ways)
    app.check()


def _a_name_with_a_blank(app: App) -> None:
    app.command(name="paint it")(lambda: None)


@pytest.mark.parametrize(
    ("register", "says"),
    [
        (_a_second_command, "'paint' is registered twice"),
        (_a_second_completer, "'paint' is registered twice"),
        (_a_completer_for_nothing, "'pain'.*did you mean 'paint'"),
        (_a_name_with_a_blank, "write 'paint-it'"),
    ],
)
def test_a_wrong_registration_of_a_command_is_an_error_where_it_is_written(
    register: Callable[[App], None], says: str
) -> None:
    """A second registration of a name is an error where it is written; so is a completer without its command."""
    with pytest.raises(RegistrationError, match=says):
        register(app_completing([]))
