"""Hooks, asked over a connection: what they are given, what their decisions come to, and how they fail."""

from __future__ import annotations

import asyncio
import copy
import itertools
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import attrs
import pytest

from sepkit import (
    App,
    Block,
    HookContext,
    Messages,
    Patch,
    RpcError,
    SystemPrompt,
    ToolCall,
    ToolError,
    ToolOutcome,
    UserBash,
)
from sepkit.errors import RegistrationError
from sepkit.router import HookReturn
from sepkit.wire.messages import (
    BlockOutcome,
    ConfirmRequest,
    ContinueOutcome,
    HookOutcome,
    ModifyOutcome,
    SessionAppendEntryParams,
)
from sepkit.wire.methods import HOOKS, HookName
from tests.checked_host import CheckedHost, refused
from tests.memory_host import CONTEXT, MemoryHost, on_each_loop

CONTINUE = ContinueOutcome()
INPUTS: dict[HookName, dict[str, Any]] = {
    "tool_call": {"tool": "bash", "arguments": {"command": "ls"}},
    "user_bash": {"command": "ls"},
    "tool_result": {"tool": "bash", "arguments": {}, "content": "a b", "is_error": False},
    "input": {"text": "hello"},
    "before_agent_start": {"system_prompt": "Be kind."},
    "context": {"messages": [{"role": "user", "content": "hi", "extra": 1}]},
    "before_provider_request": {"model": "m", "n": 1},
    "message_end": {"message": {"role": "assistant"}},
    "session_before_compact": {"reason": "full"},
    "session_before_tree": {"target": "x"},
}
EACH_HOOK = pytest.mark.parametrize("hook", sorted(INPUTS))


def params(hook: str, value: object) -> dict[str, Any]:
    return {"hook": hook, "context": CONTEXT, "input": value}


def modify(patch: dict[str, Any]) -> ModifyOutcome:
    return ModifyOutcome(patch)


# -- what a hook is given ----------------------------------------------------------------------------------------------


def test_each_hook_of_the_protocol_is_tried_here() -> None:
    """The table above has all ten hooks. Source: docs/protocol.md, section 6."""
    assert INPUTS.keys() == HOOKS


@EACH_HOOK
@on_each_loop
async def test_a_hook_takes_a_dict_and_returns_it_changed(hook: HookName) -> None:
    """A patch is the whole new input, with the fields that no handler named. Source: docs/protocol.md, section 6."""
    app = App("t")
    given: list[dict[str, Any]] = []
    value = {**INPUTS[hook], "of_the_host": [1]}

    @app.hook(hook)
    async def change(value: dict[str, Any]) -> dict[str, Any]:
        given.append(value)
        return {**value, "added": 1}

    async with CheckedHost(app) as host:
        assert host.registrations.hooks == [hook]
        assert await host.call_hook(hook, value) == modify({**value, "added": 1})
    assert given == [value]


@EACH_HOOK
@on_each_loop
async def test_a_hook_that_nobody_handles_goes_on(hook: HookName) -> None:
    """An extension may be asked for a hook that it does not handle. Source: docs/protocol.md, section 6."""
    async with MemoryHost(App("t")) as host:
        assert await host.ask("hook", params(hook, INPUTS[hook])) == {"action": "continue"}
        assert "hooks" not in host.initialized["registrations"]


@on_each_loop
async def test_an_unknown_hook_is_answered_with_continue() -> None:
    """A host may have hooks of its own; an extension that has no handler for one changes nothing."""
    async with CheckedHost(App("t")) as host:
        assert await host.call_hook("before_lunch", {"a": 1}) == ContinueOutcome()


@on_each_loop
async def test_each_hook_with_an_input_of_the_engine_has_a_record_for_it() -> None:
    """The inputs are those of the reference engine; fields that a record does not know are kept.

    Source: docs/protocol.md, section 6.
    """
    app = App("t")
    given: list[object] = []

    @app.hook("tool_call")
    async def on_call(call: ToolCall) -> None:
        given.append(call)

    @app.hook("tool_result")
    async def on_result(outcome: ToolOutcome) -> None:
        given.append(outcome)

    @app.hook("user_bash")
    async def on_bash(typed: UserBash) -> None:
        given.append(typed)

    @app.hook("before_agent_start")
    async def on_start(prompt: SystemPrompt) -> None:
        given.append(prompt)

    @app.hook("context")
    async def on_context(context: Messages) -> None:
        given.append(context)

    async with CheckedHost(app) as host:
        for hook in ("tool_call", "tool_result", "user_bash", "before_agent_start", "context"):
            assert await host.call_hook(hook, {**INPUTS[hook], "new": 1}) == CONTINUE
        assert await host.call_hook("tool_result", {"tool": "t", "arguments": {}, "content": ""}) == CONTINUE
    assert given == [
        ToolCall(tool="bash", arguments={"command": "ls"}),
        ToolOutcome(tool="bash", arguments={}, content="a b", is_error=False),
        UserBash(command="ls"),
        SystemPrompt(system_prompt="Be kind."),
        Messages(messages=[{"role": "user", "content": "hi", "extra": 1}]),
        ToolOutcome(tool="t", arguments={}, content=""),
    ]


@on_each_loop
async def test_a_hook_without_a_parameter_and_one_with_only_a_context_are_called() -> None:
    """A parameter annotated with a context type receives it; a hook may leave out its input."""
    app = App("t")
    seen: list[object] = []

    @app.hook("input")
    async def bare() -> None:
        seen.append("called")

    @app.hook("input")
    async def only_context(ctx: HookContext) -> None:
        seen.append((ctx.hook, ctx.context.tier, ctx.context.token))

    @app.hook("input")
    def in_a_thread(ctx: HookContext, value: dict[str, Any]) -> Patch:
        seen.append(threading.get_ident() == loop_thread)
        return Patch(text=value["text"].upper())

    loop_thread = threading.get_ident()
    async with CheckedHost(app) as host:
        assert await host.call_hook("input", {"text": "hi"}) == modify({"text": "HI"})
    assert seen == ["called", ("input", "command", host.token), False]


@on_each_loop
async def test_a_callable_object_can_be_a_hook() -> None:
    """A decorator takes an instance, a partial or a bound method, too."""
    app = App("t")

    class Gate:
        async def __call__(self, call: ToolCall) -> Block | None:
            return Block("no") if call.tool == "bash" else None

        async def method(self, call: ToolCall) -> None:
            called.append(call.tool)

        async def failing(self, call: ToolCall) -> None:
            raise ValueError

    called: list[str] = []
    app.hook("tool_call")(Gate().method)
    app.hook("tool_call")(Gate())
    async with CheckedHost(app) as host:
        assert await host.call_hook("tool_call", INPUTS["tool_call"]) == BlockOutcome("no")
        assert called == ["bash"]


# -- failing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("secret"), SystemExit(1), ToolError("secret"), RpcError("secret")])
@pytest.mark.parametrize("hook", ["tool_call", "user_bash", "input"])
@on_each_loop
async def test_a_hook_that_raises_is_an_error_so_that_the_host_decides(error: BaseException, hook: HookName) -> None:
    """On an exception the host gets an error, for which ``tool_call`` and ``user_bash`` fail closed.

    Nothing of the exception crosses, and the handlers behind it are not asked.
    """
    app = App("t")
    asked: list[str] = []

    @app.hook(hook)
    async def fail(value: dict[str, Any]) -> None:
        if isinstance(error, SystemExit):
            sys.exit(1)
        raise error

    @app.hook(hook)
    async def behind(value: dict[str, Any]) -> None:
        asked.append("behind")

    async with MemoryHost(app, log=True) as host:
        answer = await host.refused("hook", params(hook, INPUTS[hook]))
        await host.ping()
    assert answer["code"] == -32603
    assert answer["message"].startswith(f"the {hook} handler fail failed unexpectedly; its log names it ")
    assert not asked
    assert not [line for line in host.lines if b"secret" in line]


@pytest.mark.parametrize(
    "returned",
    [
        True,
        False,
        "no",
        0,
        (),
        [],
        {"action": "block"},
        Block,
        UserBash("ls"),
        Patch(arguments=5),
        Patch(tool=None),
        Patch(arguments={"x": float("nan")}),
        Patch(arguments={"x": ...}),
    ],
    ids=repr,
)
@on_each_loop
async def test_a_bad_decision_is_an_error_and_never_a_yes(returned: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A bad return value is answered with an error, not with "continue"."""
    app = App("t")

    @app.hook("tool_call")
    async def decide(call: ToolCall) -> HookReturn:
        return returned  # type: ignore[no-any-return]  # on purpose

    async with CheckedHost(app) as host:
        error = await refused(host.call_hook("tool_call", INPUTS["tool_call"]))
    assert error.code == -32603
    assert error.message.startswith("the tool_call hook decide gave a bad decision unexpectedly; its log names it ")
    assert error.data["correlation_id"] in caplog.text


@on_each_loop
async def test_a_bad_decision_of_a_dict_handler_is_an_error() -> None:
    """The new input is checked against the hook's own type, however the handler takes it."""
    app = App("t")

    @app.hook("tool_call")
    async def decide(call: dict[str, Any]) -> dict[str, Any]:
        return {"arguments": {}}

    async with CheckedHost(app) as host:
        assert (await refused(host.call_hook("tool_call", INPUTS["tool_call"]))).code == -32603


@pytest.mark.parametrize(
    ("hook", "value", "path"),
    [
        ("tool_call", {"arguments": {}}, "$"),
        ("tool_call", {"tool": 5, "arguments": {}}, "$.tool"),
        ("tool_call", {"tool": "x", "arguments": []}, "$.arguments"),
        ("user_bash", {}, "$"),
        ("user_bash", {"cmd": "rm -rf /"}, "$"),
        ("user_bash", {"command": ["rm"]}, "$.command"),
        ("tool_result", {"tool": "x", "arguments": {}}, "$"),
        ("before_agent_start", {"system_prompt": None}, "$.system_prompt"),
        ("context", {"messages": [5]}, "$.messages[0]"),
    ],
)
@on_each_loop
async def test_an_input_that_does_not_fit_is_refused_so_that_the_host_fails_closed(
    hook: HookName, value: dict[str, Any], path: str
) -> None:
    """An input that cannot be read is -32602 with the fault, and the handler is not called."""
    app = App("t")
    called: list[object] = []
    records = {
        "tool_call": ToolCall,
        "user_bash": UserBash,
        "tool_result": ToolOutcome,
        "before_agent_start": SystemPrompt,
        "context": Messages,
    }

    async def decide(value: object) -> None:
        called.append(value)

    decide.__annotations__["value"] = records[hook]
    app.hook(hook)(decide)
    async with CheckedHost(app) as host:
        error = await refused(host.call_hook(hook, value))
    assert error.code == -32602
    assert [fault["path"] for fault in error.data["errors"]] == [path]
    assert not called


@pytest.mark.parametrize("field", ["hook", "context", "input"])
@on_each_loop
async def test_a_hook_request_that_lacks_a_field_is_refused(field: str) -> None:
    """Bad params are -32602."""
    broken = {k: v for k, v in params("tool_call", INPUTS["tool_call"]).items() if k != field}
    async with MemoryHost(App("t")) as host:
        assert (await host.refused("hook", broken))["code"] == -32602


@pytest.mark.parametrize(
    ("block", "outcome"),
    [
        (Block("rm -rf is blocked"), BlockOutcome("rm -rf is blocked")),
        (Block(), BlockOutcome()),
        (Block("caf\udce9"), BlockOutcome("caf\\udce9")),
    ],
)
@EACH_HOOK
@on_each_loop
async def test_a_block_is_told_as_a_block_and_not_as_an_error(
    hook: HookName, block: Block, outcome: BlockOutcome
) -> None:
    """A denial and a failure can be told apart; a block counts, whatever its reason holds."""
    app = App("t")

    @app.hook(hook)
    async def decide() -> Block:
        return block

    async with CheckedHost(app) as host:
        assert await host.call_hook(hook, INPUTS[hook]) == outcome


@on_each_loop
async def test_a_cancelled_hook_is_answered_as_cancelled() -> None:
    """A cancelled request is answered once, with -32800, when its work has stopped.

    Source: docs/protocol.md, section 8.
    """
    app = App("t")
    begun, stopped = asyncio.Event(), asyncio.Event()

    @app.hook("tool_call")
    async def think() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with MemoryHost(app) as host:
        rid = host.start("hook", params("tool_call", INPUTS["tool_call"]))
        await begun.wait()
        host.cancel(rid)
        assert (await host.answer(rid))["error"]["code"] == -32800
        assert stopped.is_set()


@on_each_loop
async def test_a_cancellation_that_nobody_asked_for_fails_the_hook() -> None:
    """Every kind of exception is an error with a correlation id."""
    app = App("t")

    @app.hook("tool_call")
    async def cancel_itself() -> None:
        raise asyncio.CancelledError

    async with CheckedHost(app) as host:
        error = await refused(host.call_hook("tool_call", INPUTS["tool_call"]))
    assert error.code == -32603
    assert error.message.startswith("the tool_call handler cancel_itself failed unexpectedly")


# -- deciding ----------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_a_patch_is_laid_over_the_input_with_the_fields_that_its_record_does_not_know() -> None:
    """``Patch(**fields)`` is merged over the input, and the whole input goes out."""
    app = App("t")

    @app.hook("tool_call")
    async def decide(call: ToolCall) -> Patch:
        return Patch(arguments={"command": "ls -l"}, note="mine")

    value = {**INPUTS["tool_call"], "call_id": "c1", "nested": {"kept": None}}
    async with CheckedHost(app) as host:
        outcome = await host.call_hook("tool_call", value)
    assert outcome == modify({**value, "arguments": {"command": "ls -l"}, "note": "mine"})


@on_each_loop
async def test_an_evolved_record_goes_out_whole_with_the_fields_that_it_does_not_know() -> None:
    """An input changed with ``attrs.evolve`` goes out whole, with fields that are back at their default."""
    app = App("t")

    @app.hook("tool_result")
    async def decide(outcome: ToolOutcome) -> ToolOutcome:
        return attrs.evolve(outcome, content="c", is_error=False, details=None)

    value = {"tool": "t", "arguments": {}, "content": "a", "is_error": True, "details": {"x": 1}, "new": [1]}
    async with CheckedHost(app) as host:
        outcome = await host.call_hook("tool_result", value)
    assert isinstance(outcome, ModifyOutcome)
    patch = outcome.patch
    assert patch.pop("details", None) is None
    assert patch == {"tool": "t", "arguments": {}, "content": "c", "is_error": False, "new": [1]}


Handler = Callable[..., Any]


def changed_dict(value: dict[str, Any]) -> dict[str, Any]:
    value["arguments"]["command"] = "changed"
    return value


def changed_record(call: ToolCall) -> ToolCall:
    call.arguments["command"] = "changed"
    return call


def changed_dict_and_block(value: dict[str, Any]) -> Block:
    value["arguments"]["command"] = "changed"
    return Block("no")


@pytest.mark.parametrize("handler", [changed_dict, changed_record], ids=["dict", "record"])
@pytest.mark.parametrize("others", [0, 1])
@on_each_loop
async def test_an_input_that_is_changed_in_place_and_returned_is_a_change(handler: Handler, others: int) -> None:
    """The changed input is a decision, however it was changed."""
    app = App("t")
    seen: list[object] = []

    async def decide(value: object) -> Any:
        return handler(value)

    decide.__annotations__["value"] = dict if handler is changed_dict else ToolCall
    app.hook("tool_call")(decide)
    for _ in range(others):

        @app.hook("tool_call")
        async def look(value: dict[str, Any]) -> None:
            seen.append(value)

    expected = {"tool": "bash", "arguments": {"command": "changed"}}
    async with CheckedHost(app) as host:
        assert await host.call_hook("tool_call", INPUTS["tool_call"]) == modify(expected)
    assert seen == [expected] * others


@pytest.mark.parametrize("annotation", [dict, ToolCall])
@pytest.mark.parametrize("then", [None, Patch(note=1)], ids=["None", "Patch"])
@pytest.mark.parametrize("others", [0, 1])
@on_each_loop
async def test_what_a_hook_changes_in_place_and_does_not_return_is_no_decision(
    annotation: type, then: HookReturn, others: int
) -> None:
    """None means "continue", so a change must be returned."""
    app = App("t")
    seen: list[object] = []

    async def decide(value: Any) -> HookReturn:
        (value["arguments"] if isinstance(value, dict) else value.arguments)["command"] = "rm -rf /"
        return then

    decide.__annotations__["value"] = annotation
    app.hook("tool_call")(decide)
    for _ in range(others):

        @app.hook("tool_call")
        async def look(value: dict[str, Any]) -> None:
            seen.append(value)

    given = INPUTS["tool_call"]
    expected = given if then is None else {**given, "note": 1}
    async with CheckedHost(app) as host:
        outcome = await host.call_hook("tool_call", given)
    assert outcome == (CONTINUE if then is None else modify(expected))
    assert seen == [expected] * others


@on_each_loop
async def test_an_input_that_is_returned_as_it_was_goes_on() -> None:
    """The host drops a modify of another extension's tool, so an unchanged input is answered with "continue".

    Source: docs/protocol.md, section 6.
    """
    app = App("t")

    @app.hook("tool_call")
    async def same_record(call: ToolCall) -> ToolCall:
        return attrs.evolve(call)

    @app.hook("tool_call")
    async def same_dict(call: dict[str, Any]) -> dict[str, Any]:
        return dict(call)

    @app.hook("tool_call")
    async def empty() -> Patch:
        return Patch()

    async with CheckedHost(app) as host:
        same: list[dict[str, Any]] = [INPUTS["tool_call"], {"tool": "t"}, {"tool": "t", "arguments": {}, "x": None}]
        for value in same:
            assert await host.call_hook("tool_call", value) == CONTINUE


@attrs.define
class Typed:
    text: str
    tags: list[str] = attrs.field(factory=list)


@dataclass
class TypedData:
    text: str
    tags: list[str] = field(default_factory=list)


@pytest.mark.parametrize("cls", [Typed, TypedData])
@on_each_loop
async def test_a_hook_takes_its_input_as_a_class_of_the_authors_own(cls: type[Typed]) -> None:
    """The changed input is a decision, whatever its class."""
    app = App("t")

    async def decide(value: Any) -> Any:
        value.tags.append("seen")
        return value

    decide.__annotations__["value"] = cls
    app.hook("input")(decide)
    async with CheckedHost(app) as host:
        outcome = await host.call_hook("input", {"text": "hi", "of_the_host": 1})
        assert outcome == modify({"text": "hi", "tags": ["seen"], "of_the_host": 1})
        assert (await refused(host.call_hook("input", {"text": 5}))).code == -32602


class TypedTuple(NamedTuple):
    text: str
    n: int = 0


@attrs.frozen
class TypedPrivately:
    _text: str


@pytest.mark.parametrize(
    ("cls", "change"),
    [
        (TypedTuple, lambda value: value._replace(text="new")),
        (TypedPrivately, lambda value: attrs.evolve(value, text="new")),
        (Annotated[TypedPrivately, "described"], lambda value: attrs.evolve(value, text="new")),
        (TypedPrivately | None, lambda value: attrs.evolve(value, text="new")),
    ],
    ids=["tuple", "private", "described", "optional"],
)
@on_each_loop
async def test_a_changed_input_is_a_decision_whatever_kind_of_class_it_is(cls: Any, change: Any) -> None:
    """What is read as a class is written as it was read: a private field by the name that sets it."""
    app = App("t")

    async def decide(value: Any) -> Any:
        return change(value)

    decide.__annotations__["value"] = cls
    app.hook("input")(decide)
    async with CheckedHost(app) as host:
        outcome = await host.call_hook("input", {"text": "hi", "of_the_host": 1})
        assert outcome == modify({"text": "new", "of_the_host": 1})


@pytest.mark.parametrize("annotation", [ToolOutcome, ToolOutcome | None, Annotated[ToolOutcome, "x"]], ids=str)
def test_the_input_of_another_hook_is_refused_however_it_is_annotated(annotation: Any) -> None:
    def decide(value: Any) -> None: ...

    decide.__annotations__["value"] = annotation
    with pytest.raises(RegistrationError, match="a ToolOutcome, which another hook gives"):
        App("t").hook("tool_call")(decide)
    decide.__annotations__["value"] = ToolOutcome | ToolCall
    App("t").hook("tool_call")(decide)


@pytest.mark.parametrize(("before", "after"), [(1, True), (True, 1), (0, False), (1, 1.0), (0.0, 0)])
@on_each_loop
async def test_values_that_python_calls_equal_and_json_does_not_are_a_change(before: object, after: object) -> None:
    """``1``, ``true`` and ``1.0`` are three different values on the wire."""
    app = App("t")

    @app.hook("input")
    async def decide(value: dict[str, Any]) -> Patch:
        return Patch(nested=[after])

    async with CheckedHost(app) as host:
        outcome = await host.call_hook("input", {"nested": [before]})
    assert isinstance(outcome, ModifyOutcome)
    assert [type(item) for item in outcome.patch["nested"]] == [type(after)]


@on_each_loop
async def test_hooks_run_in_the_order_of_registration_and_each_sees_the_one_before() -> None:
    """Hooks run one after another in a fixed order, and each sees the result of the one before."""
    app = App("t")
    seen: list[tuple[str, Any]] = []
    running = 0

    def add(name: str, *, threaded: bool) -> None:
        async def decide(call: ToolCall) -> Patch:
            nonlocal running
            running += 1
            assert running == 1, "one after another"
            seen.append((name, call.arguments["command"]))
            await asyncio.sleep(0)
            running -= 1
            return Patch(arguments={"command": call.arguments["command"] + name})

        def decide_in_thread(call: dict[str, Any]) -> dict[str, Any]:
            seen.append((name, call["arguments"]["command"]))
            return {**call, "arguments": {"command": call["arguments"]["command"] + name}}

        app.hook("tool_call")(decide_in_thread if threaded else decide)

    for number in range(6):
        add(str(number), threaded=number % 2 == 1)
    async with CheckedHost(app) as host:
        outcome = await host.call_hook("tool_call", {"tool": "bash", "arguments": {"command": "x"}})
    assert outcome == modify({"tool": "bash", "arguments": {"command": "x012345"}})
    assert seen == [(str(n), "x" + "012345"[:n]) for n in range(6)]


@on_each_loop
async def test_the_first_block_ends_it_and_drops_the_patches_before() -> None:
    """The first block ends the chain."""
    app = App("t")
    called: list[str] = []

    @app.hook("tool_call")
    async def patch() -> Patch:
        return Patch(tool="other")

    @app.hook("tool_call")
    async def block(call: ToolCall) -> Block:
        called.append(call.tool)
        return Block("second")

    @app.hook("tool_call")
    async def behind() -> Block:
        called.append("behind")
        return Block("third")

    async with CheckedHost(app) as host:
        outcome = await host.call_hook("tool_call", INPUTS["tool_call"])
    assert outcome == BlockOutcome("second")
    assert called == ["other"]


@on_each_loop
async def test_a_rewritten_input_is_checked_again_before_anyone_sees_it() -> None:
    """A rewritten input is checked again: a gate behind the rewriter never sees one that does not fit."""
    app = App("t")
    gated: list[object] = []

    @app.hook("user_bash")
    async def rewrite(typed: dict[str, Any]) -> dict[str, Any]:
        return {"command": typed["command"].split()}

    @app.hook("user_bash")
    async def gate(typed: UserBash) -> None:
        gated.append(typed)

    async with CheckedHost(app) as host:
        error = await refused(host.call_hook("user_bash", {"command": "rm -rf /"}))
    assert error.code == -32603
    assert not gated


# -- all of it, against a model ----------------------------------------------------------------------------------------

STEPS = ("none", "block", "patch", "evolve", "dict", "raise", "bad")


def reference(steps: tuple[str, ...]) -> tuple[str, list[int], dict[str, Any]]:
    """What ``steps`` come to: the outcome, what each handler that was called saw, and the input at the end."""
    count, seen = 0, []
    for step in steps:
        seen.append(count)
        if step in ("raise", "bad"):
            return "error", seen, {}
        if step == "block":
            return "block", seen, {}
        if step != "none":
            count += 1
    return ("modify" if count else "continue"), seen, {"tool": "t", "arguments": {"count": count}, "kept": 1}


@pytest.mark.parametrize("number", [0, 1, 2, 3])
@on_each_loop
async def test_any_sequence_of_decisions_folds_as_the_model_says(number: int) -> None:
    """The handlers of one hook fold: the first block wins, patches thread through."""
    for steps in itertools.product(STEPS, repeat=number):
        app = App("t")
        seen: list[int] = []

        def add(app: App, step: str, seen: list[int]) -> None:
            async def on_record(call: ToolCall) -> Any:
                seen.append(call.arguments["count"])
                more = {"count": call.arguments["count"] + 1}
                match step:
                    case "none":
                        call.arguments["count"] = 99
                        return None
                    case "block":
                        return Block("model")
                    case "patch":
                        return Patch(arguments=more)
                    case "evolve":
                        return attrs.evolve(call, arguments=more)
                    case "raise":
                        raise RuntimeError("model")
                return True

            def on_dict(call: dict[str, Any]) -> dict[str, Any]:
                seen.append(call["arguments"]["count"])
                call["arguments"]["count"] += 1
                return call

            app.hook("tool_call")(on_dict if step == "dict" else on_record)

        for step in steps:
            add(app, step, seen)
        given = {"tool": "t", "arguments": {"count": 0}, "kept": 1}
        outcome: HookOutcome | int
        async with CheckedHost(app) as host:
            try:
                outcome = await host.call_hook("tool_call", copy.deepcopy(given))
            except RpcError as error:
                outcome = error.code
        kind, expected, patch = reference(steps)
        assert seen == expected, steps
        outcomes = {"error": -32603, "block": BlockOutcome("model"), "modify": modify(patch), "continue": CONTINUE}
        assert outcome == outcomes[kind], steps


# -- what a hook may ask -----------------------------------------------------------------------------------------------


@on_each_loop
async def test_a_hook_asks_the_person_and_acts_on_the_session_in_its_context() -> None:
    """Hooks have the tier ``command``, and their requests carry the context that they came with.

    Source: docs/protocol.md, section 5.
    """
    app = App("t")

    @app.hook("tool_call")
    async def gate(call: ToolCall, ctx: HookContext) -> Block | None:
        await ctx.session.append_entry({"asked": call.tool})
        return None if await ctx.ui.confirm(f"Run {call.tool}?") else Block("not wanted")

    async with CheckedHost(app, ui={"confirm": [False, True]}) as host:
        outcome = await host.call_hook("tool_call", INPUTS["tool_call"])
        assert outcome == BlockOutcome("not wanted")
        assert await host.call_hook("tool_call", INPUTS["tool_call"]) == CONTINUE
    # The host lets no other context act than its own of tier command.
    assert [call.entry for call in host.session_calls if isinstance(call, SessionAppendEntryParams)] == [
        {"asked": "bash"},
        {"asked": "bash"},
    ]
    assert host.ui_requests == [ConfirmRequest("Run bash?")] * 2
