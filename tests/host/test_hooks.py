"""The chain of hooks against a separate model, written from docs/protocol.md, section 6; and what the guards accept."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sepkit.host import Host, KvStore, Manifest, hooks
from sepkit.host.budget import Budget, Neighbours
from sepkit.host.fold import Failed, Folded, MayModify, Outcome, step
from sepkit.host.manifest import Capabilities, Run
from sepkit.host.rewrites import refusal
from sepkit.wire.messages import BlockOutcome, ContinueOutcome, ModifyOutcome, Registrations, ToolRegistration
from sepkit.wire.methods import HOOKS, HookName

PLAIN = Path(__file__).with_name("children") / "plain.py"
PATIENCE = 20.0

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


# -- the model ---------------------------------------------------------------------------------------------------------

# What an extension may answer; each is told apart by its effect on a call of b's tool.
ANSWERS: dict[str, Outcome] = {
    "continue": ContinueOutcome(),
    "block with a reason": BlockOutcome("no"),
    "block": BlockOutcome(),
    "rewrite": ModifyOutcome({"tool": "b.t", "arguments": {"n": 2}}),
    "rewrite with more fields": ModifyOutcome({"tool": "b.t", "arguments": {"n": 3}, "more": True}),
    "rewrite against the schema": ModifyOutcome({"tool": "b.t", "arguments": {"n": "2"}}),
    "rewrite without arguments": ModifyOutcome({"tool": "b.t"}),
    "other tool": ModifyOutcome({"tool": "a.t", "arguments": {"n": 2}}),
    "no tool": ModifyOutcome({"arguments": {"n": 2}}),
    "nothing": ModifyOutcome({}),
    "failed": Failed("gone"),
}
ACCEPTED_FROM_THE_OWNER = {"rewrite", "rewrite with more fields"}
CALL = {"tool": "b.t", "arguments": {"n": 1}}


def model(hook: str, answers: list[tuple[str, str]]) -> tuple[str, str | None, str | None, object]:
    """Verdict, reason, who blocked, and the input at the end."""
    value: object = CALL
    for extension, answer in answers:
        if answer == "continue":
            continue
        if answer.startswith("block"):
            return "denied", "no" if "reason" in answer else None, extension, value
        if answer == "failed":
            if hook == "tool_call" or hook == "user_bash":
                return "failed", "gone", extension, value
            continue
        # The host accepts a tool_call modify only if the tool is unchanged and belongs to the acting extension.
        if hook != "tool_call" or (extension == "b" and answer in ACCEPTED_FROM_THE_OWNER):
            outcome = ANSWERS[answer]
            assert isinstance(outcome, ModifyOutcome)
            value = outcome.patch  # the whole new input, not a merge
    return "allowed", None, None, value


def guard_of(tools: Mapping[str, str], schema: dict[str, Any]) -> MayModify:
    """What a host with these tools, by name and owner, has against a rewrite; nothing runs."""
    table = {
        name: (cast(Any, SimpleNamespace(name=owner)), ToolRegistration(name, "", schema))
        for name, owner in tools.items()
    }
    return functools.partial(refusal, table)


def all_answers() -> Iterator[list[tuple[str, str]]]:
    for count in range(4):
        for answers in itertools.product(ANSWERS, repeat=count):
            yield list(zip("abc", answers, strict=False))


@pytest.mark.parametrize("hook", sorted(HOOKS))
def test_all_answers_of_up_to_three_extensions_come_to_what_the_protocol_says(hook: str) -> None:
    """All 1,464 chains of a hook fold as the protocol says. Source: docs/protocol.md, section 6."""
    guard = guard_of({"a.t": "a", "b.t": "b"}, SCHEMA) if hook == "tool_call" else None
    seen = 0
    for answers in all_answers():
        folded = Folded(CALL)
        for extension, answer in answers:
            folded = step(hook, folded, extension, ANSWERS[answer], guard)
        came_to = (folded.verdict, folded.reason, folded.by, folded.value)
        assert came_to == model(hook, answers), answers
        assert folded.blocked == (folded.verdict != "allowed")
        seen += 1
    assert seen == 1 + 11 + 121 + 1331


def test_what_did_not_count_is_noted_with_its_reason() -> None:
    """The host goes on without a modify that it does not accept, and its log says why.

    Source: docs/protocol.md, section 6.
    """
    guard = guard_of({"b.t": "b"}, SCHEMA)
    folded = Folded(CALL)
    for extension, answer in (("a", "rewrite"), ("b", "other tool"), ("b", "rewrite against the schema")):
        folded = step("tool_call", folded, extension, ANSWERS[answer], guard)
    assert folded.value == CALL
    assert len(folded.notes) == 3
    assert "not a tool of a" in folded.notes[0]
    assert "'b.t' into 'a.t'" in folded.notes[1]
    assert "integer" in folded.notes[2]
    assert "gone" in step("input", Folded({}), "a", Failed("gone")).notes[0]


def test_the_time_of_a_hook_follows_from_what_its_silence_means() -> None:
    """A hook has 60 s if it fails closed, and 5 s if it fails open. Source: docs/protocol.md, section 6."""
    assert {hook: hooks.default_timeout(hook) for hook in HOOKS} == {
        **dict.fromkeys(HOOKS, 5.0),
        "tool_call": 60.0,
        "user_bash": 60.0,
    }


# -- the guard of rewritten calls --------------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", ["a", "a.b"])
def test_an_extension_whose_name_begins_like_anothers_does_not_own_its_tools(owner: str) -> None:
    """The tool must belong to the acting extension, also if its name has dots. Source: docs/protocol.md, section 6."""
    guard = guard_of({"a.b.t": owner}, {"type": "object"})
    before, after = {"tool": "a.b.t", "arguments": {}}, {"tool": "a.b.t", "arguments": {"x": 1}}
    allowed = {extension for extension in ("a", "a.b", "a.", "", "a.b.t") if not guard(extension, before, after)}
    assert allowed == {owner}


@pytest.mark.parametrize("order", [["a", "a.b"], ["a.b", "a"], ["a", "a.b", "a"]])
def test_no_extension_takes_a_tool_of_another_by_a_name_with_dots(order: list[str]) -> None:
    """``<ext>.<tool>`` says which extension owns a tool; of two that match, the longer name wins.

    Source: docs/protocol.md, section 6.
    """
    host = Host(store=KvStore())
    tools = {"a": ["t", "b.t"], "a.b": ["t"]}
    for name, names in tools.items():
        said = Registrations(tools=[ToolRegistration(tool, "", {}) for tool in names])
        host._extensions[name] = cast(
            Any,
            SimpleNamespace(
                name=name,
                contributions=SimpleNamespace(registrations=said),
                lives=SimpleNamespace(budget=Budget(name, Neighbours())),
            ),
        )
    for name in order:
        host._registered(host._extensions[name])
    assert {name: entry[0].name for name, entry in host._tools.items()} == {"a.t": "a", "a.b.t": "a.b"}


@pytest.mark.parametrize("arguments", [None, [], "{}", 1])
def test_arguments_that_are_no_object_are_not_taken(arguments: object) -> None:
    """The arguments of a ``tool_call`` are an object, also for a tool that the host does not know.

    Source: docs/protocol.md, section 6.
    """
    for guard in (guard_of({"b.t": "b"}, {}), guard_of({}, {})):
        assert guard("b", CALL, {"tool": "b.t", "arguments": arguments}) is not None


@pytest.mark.parametrize("tool", [None, 1, ["b.t"]])
def test_a_call_whose_tool_is_no_text_is_nobodys(tool: object) -> None:
    """A call comes from the program around the host, which may err."""
    call = {"tool": tool, "arguments": {}}
    assert guard_of({"b.t": "b"}, {})("b", call, call) is not None


def test_a_schema_that_is_none_lets_no_rewrite_pass() -> None:
    """A rewritten input is checked again; if it cannot be checked, it is refused."""
    for schema in ({"type": "nonsense"}, {"properties": 1}, {"pattern": "("}):
        assert guard_of({"b.t": "b"}, schema)("b", CALL, CALL) is not None


def test_a_schema_makes_the_host_read_no_file_and_no_address(tmp_path: Path) -> None:
    """A schema is written by the extension; to follow its references would be to act for it."""
    (tmp_path / "all.json").write_text("{}")
    for address in ((tmp_path / "all.json").as_uri(), "http://127.0.0.1:1/all.json"):
        refused = guard_of({"b.t": "b"}, {"$ref": address})("b", CALL, CALL)
        assert refused is not None
        assert "that is not followed" in refused
    inside = {"$ref": "#/$defs/x", "$defs": {"x": SCHEMA}}
    assert guard_of({"b.t": "b"}, inside)("b", CALL, CALL) is None


def doubled(levels: int) -> dict[str, Any]:
    """A schema of so many definitions, each twice the one before."""
    definitions: dict[str, Any] = {"d0": {"type": "object"}}
    for level in range(1, levels + 1):
        definitions[f"d{level}"] = {"allOf": [{"$ref": f"#/$defs/d{level - 1}"}] * 2}
    return {"$ref": f"#/$defs/d{levels}", "$defs": definitions}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"not": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        doubled(40),
        {"$ref": "#"},
        {"properties": {"command": {"$ref": "#/properties/command"}}},
        {"$dynamicRef": "#/$defs/d40", **doubled(40)},
        {"$id": "urn:x", **doubled(40), "$ref": "urn:x#/$defs/d40"},
        {"$defs": {"here": {"$id": "urn:y", "$ref": "#/$defs/z", "$defs": {"z": {}}}}},
        {"$ref": "#there", "$defs": {"x": {"$anchor": "there", **doubled(40)}}},
        nested(5_000),
        {"enum": list(range(20_000))},
    ],
    ids=["doubling", "itself", "circle", "dynamic", "by its id", "nested id", "anchor", "deep", "large"],
)
def test_a_schema_that_would_hold_up_the_host_is_not_followed(schema: dict[str, Any]) -> None:
    """What the check costs is bounded, whatever a hostile extension registers; the rewrite does not pass."""
    began = time.perf_counter()
    refused = guard_of({"b.t": "b"}, schema)("b", CALL, CALL)
    assert refused is not None
    assert "that is not followed" in refused
    assert time.perf_counter() - began < 2


# -- through real extensions -------------------------------------------------------------------------------------------


def extension(name: str, place: Path, hook: str, answer: object, **registrations: object) -> Manifest:
    tool = {"name": "seen", "description": "", "parameters": SCHEMA}
    said = {"registrations": {"tools": [tool], "hooks": [hook], **registrations}, "hooks": {hook: answer}}
    run = Run(sys.executable, [str(PLAIN), json.dumps(said)])
    return Manifest(name, "1", place, run, capabilities=Capabilities(tools=True), hook_timeout=PATIENCE)


async def inputs_of(host: Host, name: str) -> Any:
    """The inputs of the hooks that an extension was asked."""
    result = await asyncio.wait_for(host.call_tool(f"{name}.seen", {"n": 0}), PATIENCE)
    return json.loads(result.content)["inputs"]


def test_each_extension_sees_what_the_one_before_made_of_it(tmp_path: Path) -> None:
    """In real processes, extensions are asked by name, one after another, until the first block."""

    async def main() -> None:
        answers = {
            "d": {"action": "modify", "patch": {"never": "seen"}},
            "c": {"action": "block", "reason": "enough"},
            "b": {"action": "continue"},
            "a": {"action": "modify", "patch": {"text": "changed", "more": 1}},
        }
        async with Host(store=tmp_path / "kv") as host:
            found = [extension(name, tmp_path, "input", answer) for name, answer in answers.items()]
            assert await host.load(found) == []
            folded = await host.run_hook("input", {"text": "said", "more": 1})
            assert (folded.verdict, folded.by, folded.reason) == ("denied", "c", "enough")
            assert folded.value == {"text": "changed", "more": 1}
            assert await inputs_of(host, "a") == [{"text": "said", "more": 1}]
            assert await inputs_of(host, "b") == [{"text": "changed", "more": 1}]
            assert await inputs_of(host, "c") == [{"text": "changed", "more": 1}]
            assert await inputs_of(host, "d") == []

    asyncio.run(main())


def test_a_rewritten_call_is_checked_against_the_schema_of_its_tool(tmp_path: Path) -> None:
    """In real processes, a modify counts only for an own tool and with arguments that fit its schema.

    Source: docs/protocol.md, section 6.
    """

    async def came_to(answer: object, tool: str) -> object:
        async with Host(store=tmp_path / "kv") as host:
            both = [extension("a", tmp_path, "tool_call", answer), extension("b", tmp_path, "input", {})]
            assert await host.load(both) == []
            folded = await host.run_hook("tool_call", {"tool": tool, "arguments": {"n": 1}})
            assert folded.verdict == "allowed"
            return folded.value

    def rewrite(tool: str, n: object) -> object:
        return {"action": "modify", "patch": {"tool": tool, "arguments": {"n": n}}}

    async def main() -> None:
        assert await came_to(rewrite("a.seen", 2), "a.seen") == {"tool": "a.seen", "arguments": {"n": 2}}
        assert await came_to(rewrite("a.seen", "2"), "a.seen") == {"tool": "a.seen", "arguments": {"n": 1}}
        assert await came_to(rewrite("b.seen", 2), "b.seen") == {"tool": "b.seen", "arguments": {"n": 1}}
        assert await came_to(rewrite("b.seen", 2), "a.seen") == {"tool": "a.seen", "arguments": {"n": 1}}

    asyncio.run(main())


BAD_ANSWERS: list[object] = [
    {},
    None,
    [],
    "continue",
    True,
    {"action": "allow"},
    {"action": None},
    {"action": "modify"},
    {"action": "modify", "patch": "x"},
    {"action": "modify", "patch": None},
    {"action": "block", "reason": 1},
]


@pytest.mark.parametrize("hook", ["tool_call", "user_bash", "tool_result", "input"])
def test_a_bad_answer_blocks_or_lets_pass_as_silence_does(tmp_path: Path, hook: HookName) -> None:
    """A bad reply blocks ``tool_call`` and ``user_bash``; the reason says that the hook failed.

    Source: docs/protocol.md, section 6.
    """

    async def main() -> None:
        async with Host(store=tmp_path / "kv") as host:
            several = [extension(f"e{at:02}", tmp_path, hook, answer) for at, answer in enumerate(BAD_ANSWERS)]
            assert await host.load(several) == []
            if hook in ("tool_call", "user_bash"):
                for manifest in several:
                    folded = await host.run_hook(hook, {"tool": "x", "arguments": {}})
                    assert (folded.verdict, folded.by) == ("failed", manifest.name)
                    assert folded.reason is not None
                    assert "no outcome of a hook" in folded.reason
                    await host.unload(manifest.name)
            else:
                folded = await host.run_hook(hook, {"x": 1})
                assert (folded.verdict, folded.by, folded.value) == ("allowed", None, {"x": 1})
                assert [note.partition(":")[0] for note in folded.notes] == [one.name for one in several]

    asyncio.run(main())


def test_an_extension_that_declares_hooks_is_not_asked_for_others(tmp_path: Path) -> None:
    """An extension that registers hooks is not asked for the hooks that it does not handle.

    Source: docs/protocol.md, section 6.
    """

    async def main() -> None:
        async with Host(store=tmp_path / "kv") as host:
            assert await host.load([extension("a", tmp_path, "input", {"action": "block"})]) == []
            assert (await host.run_hook("tool_call", CALL)).verdict == "allowed"
            assert await inputs_of(host, "a") == []

    asyncio.run(main())
