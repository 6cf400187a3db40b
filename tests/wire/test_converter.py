"""The converter: strict, every fault with its path, and never a value in an error."""

from __future__ import annotations

import copy
from typing import Annotated, Any, Final, Literal

import attrs
import orjson
import pytest
from annotated_types import Ge
from hypothesis import given
from hypothesis import strategies as st

from sepkit.errors import InvalidData
from sepkit.records import MANY, declared
from sepkit.wire import messages as m
from sepkit.wire import writing
from sepkit.wire.converter import converter, structure, structure_exactly
from sepkit.wire.reading import Interpreter
from sepkit.wire.writing import unstructure, unstructure_event
from tests.wire.json_values import PLAIN

CONTEXT: Final = {"token": "epoch-7", "tier": "command"}
HEALTH: Final = {"task_id": "t1", "name": "poll", "user_id": None, "status": "running", "restart_count": 2}
POLICY: Final = {
    "type": "on-failure",
    "max_restarts": 3,
    "initial_delay_ms": 20,
    "max_delay_ms": 60_000,
    "multiplier": 1.5,
}

# For every record: an instance with all of its fields, and what to put in it (path → value) to make it wrong.
FIXTURES: Final[list[tuple[Any, dict[str, Any], dict[str, Any]]]] = [
    (m.Empty, {}, {}),
    (m.Context, CONTEXT, {"token": 7, "tier": 5}),
    (m.CancelParams, {"id": 0}, {"id": True}),
    (m.CancelParams, {"id": ""}, {"id": 1.0}),
    (m.HostInfo, {"name": "h", "version": "1"}, {"name": None, "version": 1}),
    (m.WorkspaceInfo, {"root": "/w", "trusted": True}, {"root": [], "trusted": 1}),
    (m.SessionInfo, {"id": "s"}, {"id": 5}),
    (
        m.InitializeParams,
        {
            "protocol_version": 1,
            "host": {"name": "h", "version": "1"},
            "workspace": {"root": "/w", "trusted": False},
            "mode": "cli",
            "session": {"id": "s"},
            "ui_capabilities": ["select"],
            "flags": {"verbose": True},
            "capabilities_enabled": {"kv": True, "new_group": False},
        },
        {
            "protocol_version": 0,
            "host": "h",
            "workspace.root": 1,
            "mode": ["gui"],
            "session.id": 3,
            "ui_capabilities": "select",
            "flags": [],
            "capabilities_enabled": {"kv": "yes"},
        },
    ),
    (m.ExtensionInfo, {"name": "e", "version": "1"}, {"name": {}, "version": 2}),
    (
        m.InitializeResult,
        {
            "protocol_version": 1,
            "extension": {"name": "e", "version": "1"},
            "registrations": {"flags": ["verbose"], "hooks": ["tool_call"]},
        },
        {"protocol_version": "1", "extension": None, "registrations": []},
    ),
    (
        m.ToolRegistration,
        {"name": "greet", "description": "d", "parameters": {"type": "object"}, "deferred": True},
        {"name": 1, "description": None, "parameters": [], "deferred": "no"},
    ),
    (m.CommandRegistration, {"name": "c", "description": "d"}, {"name": 1, "description": 2}),
    (m.ShortcutRegistration, {"key": "ctrl+p", "command": "c", "description": "d"}, {"key": 1, "command": 2}),
    (m.Model, {"id": "x", "display_name": "X"}, {"id": 1, "display_name": 2}),
    (
        m.ProviderRegistration,
        {"name": "p", "base_url": "u", "api_key_env": "K", "oauth": True, "models": [{"id": "x"}]},
        {"name": 1, "oauth": "yes", "models": [{}]},
    ),
    (
        m.MessageRendererRegistration,
        {"tag": "t", "template": {"kind": "markdown", "text": "{{a}}"}},
        {"tag": 1, "template": {"kind": "video"}},
    ),
    (m.RestartPolicyMs, POLICY, {"type": "often", "max_restarts": -1, "initial_delay_ms": 0.5, "multiplier": True}),
    (
        m.TaskRegistration,
        {"name": "t", "description": "", "per_user": False, "autostart": True, "restart_policy": POLICY},
        {"per_user": 0, "restart_policy": {}},
    ),
    (
        m.Registrations,
        {
            "tools": [{"name": "t", "description": "d", "parameters": {}}],
            "commands": [{"name": "c", "description": "d"}],
            "flags": ["f"],
            "shortcuts": [{"key": "f2", "command": "c"}],
            "subscriptions": ["turn_start"],
            "providers": [{"name": "p"}],
            "hooks": ["context"],
            "message_renderers": [{"tag": "t", "template": {"kind": "diff", "patch": "-a"}}],
        },
        {"tools": {}, "commands": [1], "flags": [None], "hooks": "context"},
    ),
    (m.RegistryUpdateParams, {"flags": ["f"], "subscriptions": ["turn_end"]}, {"flags": 1, "providers": [{}]}),
    (m.MarkdownBlock, {"kind": "markdown", "text": "*a*"}, {"kind": "diff", "text": 1}),
    (
        m.KeyValueBlock,
        {"kind": "keyvalue", "rows": [{"key": "a", "value": "b"}], "title": "T", "text": "a: b"},
        {"rows": [{"key": "a", "value": 1}]},
    ),
    (m.TableBlock, {"kind": "table", "columns": ["a"], "rows": [["1"]], "text": "a 1"}, {"rows": ["1"]}),
    (m.DiffBlock, {"kind": "diff", "patch": "+a", "text": "a"}, {"patch": None}),
    (m.ProgressBlock, {"kind": "progress", "value": 1, "label": "l", "text": "t"}, {"value": 1.01}),
    (m.StackBlock, {"kind": "stack", "children": [{"kind": "markdown", "text": "a"}], "text": "a"}, {"children": [{}]}),
    (
        m.WidgetBlock,
        {
            "kind": "widget",
            "widget_id": "w",
            "body": {"kind": "stack", "children": []},
            "keybindings": [{"key": "q", "description": "quit"}],
            "text": "t",
        },
        {"body": [], "keybindings": [{}], "widget_id": 1},
    ),
    (
        m.EventParams,
        {"event": "turn_start", "context": {"token": "t", "tier": "event"}, "seq": 0, "payload": {"a": 1}},
        {"event": None, "context": "t", "seq": -1, "payload": []},
    ),
    (
        m.HookParams,
        {"hook": "tool_call", "context": CONTEXT, "input": {"tool": "bash", "arguments": {}}},
        {"hook": 5, "context": {}, "input": "x"},
    ),
    (m.HookOutcome, {"action": "continue"}, {"action": "allow"}),
    (m.HookOutcome, {"action": "block", "reason": "no"}, {"reason": 5}),
    (m.HookOutcome, {"action": "modify", "patch": {"a": None}}, {"patch": [], "action": None}),
    (m.ToolCall, {"tool": "bash", "arguments": {"command": "ls"}}, {"tool": 1, "arguments": []}),
    (
        m.ToolOutcome,
        {"tool": "bash", "arguments": {}, "content": "c", "is_error": True, "details": [1]},
        {"content": None, "is_error": 0},
    ),
    (m.UserBash, {"command": "ls"}, {"command": ["ls"]}),
    (m.SystemPrompt, {"system_prompt": "Be brief."}, {"system_prompt": 1}),
    (m.Messages, {"messages": [{"role": "user", "content": "hi"}]}, {"messages": ["hi"]}),
    (
        m.ToolExecuteParams,
        {"call_id": "c1", "tool": "greet", "arguments": {"name": "Ada"}, "context": CONTEXT},
        {"call_id": 1, "tool": None, "arguments": "{}", "context": None, "context.tier": None},
    ),
    (m.ToolExecuteResult, {"content": "c", "is_error": True, "details": {"a": None}}, {"content": 1, "is_error": 1}),
    (
        m.ToolUpdateParams,
        {"call_id": "c1", "message": "half", "progress": 0.5, "details": 5},
        {"call_id": 1, "message": 2, "progress": 50},
    ),
    (m.CommandExecuteParams, {"command": "c", "context": CONTEXT, "arguments": {"a": 1}}, {"arguments": "a"}),
    (m.CommandExecuteResult, {"content": "c"}, {"content": 1}),
    (m.CommandCompleteParams, {"command": "c", "context": CONTEXT, "partial": "a"}, {"partial": 1}),
    (m.CommandCompleteResult, {"completions": [{"value": "a", "description": "A"}]}, {"completions": ["a"]}),
    (
        m.ProviderCompleteParams,
        {
            "request_id": "r",
            "provider": "p",
            "model": "x",
            "messages": [{"role": "user"}],
            "tools": [{}],
            "stream": True,
            "response_format": {},
            "thinking": "low",
            "context": CONTEXT,
        },
        {"messages": [1], "tools": {}, "stream": 1, "response_format": "json", "thinking": 3, "context": {}},
    ),
    (
        m.ProviderCompleteResult,
        {
            "content": "c",
            "tool_calls": [{"id": "1", "name": "t", "arguments": None}],
            "finish_reason": "tool_calls",
            "usage": {"prompt_tokens": 3, "audio_tokens": 1},
            "reasoning_content": "r",
            "resolved_model": "x-1",
        },
        {"tool_calls": [{"id": "1", "name": "t"}], "usage": {"total_tokens": -1}, "finish_reason": 0},
    ),
    (
        m.DeltaParams,
        {"request_id": "r", "event": {"type": "Later", "x": 1}},
        {"event": {"type": 1}, "request_id": 1},
    ),
    (m.StreamEvent, {"type": "Delta", "content": "a"}, {"content": None, "type": "delta"}),
    (m.StreamEvent, {"type": "Reasoning", "content": "a"}, {"content": 1}),
    (m.StreamEvent, {"type": "ToolCallStart", "index": 0, "id": "1", "name": "t"}, {"index": -1, "id": 1}),
    (m.StreamEvent, {"type": "ToolCallArgumentsDelta", "index": 0, "arguments_chunk": "{"}, {"arguments_chunk": {}}),
    (m.StreamEvent, {"type": "Model", "name": "x"}, {"name": None}),
    (m.StreamEvent, {"type": "Done", "finish_reason": "stop"}, {"finish_reason": 1}),
    (m.StreamEvent, {"type": "Cost", "usd": 0.25}, {"usd": "0.25"}),
    (m.StreamEvent, {"type": "ResponseId", "id": "resp-1"}, {"id": 1}),
    (m.OAuthParams, {"provider": "p", "refresh_token": "t", "context": CONTEXT}, {"provider": 1, "refresh_token": 2}),
    (
        m.Credentials,
        {"api_key": "k", "access_token": "a", "refresh_token": "r", "expires_at": 1_900_000_000, "extra": {"s": 1}},
        {"api_key": 1, "expires_at": "soon", "extra": []},
    ),
    (m.LogParams, {"level": "warn", "message": "m", "fields": {"a": 1}}, {"level": 3, "fields": []}),
    (m.BusPublishParams, {"topic": "t", "payload": {}}, {"topic": 1, "payload": None}),
    (m.SetActiveParams, {"tools": ["a"]}, {"tools": "a"}),
    (m.SetActiveResult, {"active": []}, {"active": [1]}),
    (m.UiRequest, {"kind": "select", "prompt": "p", "options": ["a"]}, {"options": [1], "kind": "choose"}),
    (m.UiRequest, {"kind": "confirm", "prompt": "p"}, {"prompt": None}),
    (m.UiRequest, {"kind": "input", "prompt": "p", "default": "d"}, {"default": 1}),
    (m.UiRequest, {"kind": "notify", "message": "m", "level": "error"}, {"level": 3}),
    (m.UiRequest, {"kind": "set_status", "status": "s"}, {"status": 1}),
    (m.UiRequest, {"kind": "set_widget", "widget": {"kind": "chart"}}, {"widget": "w"}),
    (m.UiRequest, {"kind": "set_title", "title": "t"}, {"title": 1}),
    (
        m.UiResult,
        {"value": "v", "confirmed": False, "text": "t", "cancelled": True},
        {"confirmed": 0, "cancelled": "n"},
    ),
    (m.KvGetParams, {"key": "k"}, {"key": None}),
    (m.KvGetResult, {"value": None}, {}),
    (m.KvSetParams, {"key": "k", "value": None}, {"key": 1}),
    (m.KvDeleteParams, {"key": "k"}, {"key": 1}),
    (m.KvListParams, {"prefix": "p"}, {"prefix": 1}),
    (m.KvListResult, {"keys": ["k"]}, {"keys": {"k": 1}}),
    (m.ExecRunParams, {"command": "ls", "context": CONTEXT, "args": ["-l"], "cwd": "/"}, {"args": "-l", "cwd": 1}),
    (m.ExecRunResult, {"stdout": "", "stderr": "", "exit_code": -9}, {"stdout": None, "exit_code": "0"}),
    (m.SessionSendMessageParams, {"context": CONTEXT, "text": "t", "role": "user"}, {"role": "system"}),
    (m.SessionSendUserMessageParams, {"context": CONTEXT, "text": "t", "deliver_as": "steer"}, {"deliver_as": "now"}),
    (m.SessionAppendEntryParams, {"context": CONTEXT, "entry": {}}, {"entry": "e"}),
    (
        m.SessionSetModelParams,
        {"context": CONTEXT, "model": "x", "provider": "p", "thinking": "low"},
        {"model": None, "provider": 1, "thinking": False},
    ),
    (m.SessionStateParams, {"context": CONTEXT}, {"context": [CONTEXT]}),
    (m.SessionStateResult, {"state": {}}, {"state": "s"}),
    (
        m.TaskHealth,
        {**HEALTH, "last_health_status": "ok", "last_health_time": "2030-01-02T03:04:05.006Z", "error": "e"},
        {"status": "lost", "restart_count": -1, "user_id": 3},
    ),
    (
        m.TaskStartParams,
        {"name": "poll", "task_id": "t1", "user_id": "u", "payload": {"a": [1]}},
        {"name": None, "task_id": 1, "user_id": 2},
    ),
    (m.TaskStopParams, {"task_id": "t1"}, {"task_id": None}),
    (m.TaskListResult, {"tasks": [HEALTH]}, {"tasks": [{}]}),
]
WRONG: Final = [(cls, valid, path, value) for cls, valid, wrong in FIXTURES for path, value in wrong.items()]


def _name(value: Any) -> str | None:
    return value.__name__ if isinstance(value, type) else None


def _put(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    changed: dict[str, Any] = orjson.loads(orjson.dumps(data))
    inner = changed
    *above, last = path.split(".")
    for key in above:
        inner = inner[key]
    inner[last] = value
    return changed


def faults(data: object, cls: Any, read: Any = structure) -> list[tuple[str, str, str]]:
    with pytest.raises(InvalidData) as caught:
        read(data, cls)
    return [(fault.path, fault.expected, fault.received) for fault in caught.value.faults]


# ------------------------------------------------------------------------------------------------------------- records
@pytest.mark.parametrize(("cls", "valid", "_wrong"), FIXTURES, ids=_name)
def test_a_full_instance_goes_through_a_record_unchanged(cls: Any, valid: dict[str, Any], _wrong: object) -> None:
    """Nothing is lost on the way in and out. Source: docs/protocol.md, sections 3 and 4."""
    made = structure(valid, cls)
    assert structure_exactly(valid, cls) == made
    assert unstructure(made) == valid


@pytest.mark.parametrize(("cls", "valid", "path", "value"), WRONG)
def test_a_wrong_field_is_a_fault_at_its_path(cls: Any, valid: dict[str, Any], path: str, value: Any) -> None:
    """A fault has path, expected and received type; both readings agree on wrong types."""
    found = faults(_put(valid, path, value), cls)
    assert all(place.startswith((f"$.{path}", "$")) for place, _, _ in found)
    assert any(place.startswith(f"$.{path}") for place, _, _ in found)
    assert set(found) <= set(faults(_put(valid, path, value), cls, structure_exactly))


@pytest.mark.parametrize(("cls", "valid", "_wrong"), FIXTURES, ids=_name)
def test_an_unknown_field_is_ignored_at_run_time_and_told_by_exactness(
    cls: Any, valid: dict[str, Any], _wrong: object
) -> None:
    """Unknown fields are ignored when frames are read; the schemas refuse them. Source: docs/protocol.md, section 1."""
    more = {**valid, "of_a_later_version": 5}
    assert structure(more, cls) == structure(valid, cls)
    assert faults(more, cls, structure_exactly) == [("$", "no field 'of_a_later_version'", "integer")]


@pytest.mark.parametrize(("cls", "valid", "_wrong"), FIXTURES, ids=_name)
@pytest.mark.parametrize("data", [None, True, 1, "x", [], [["token", "x"]]], ids=repr)
def test_what_is_no_object_is_no_record(cls: Any, valid: object, _wrong: object, data: object) -> None:
    """A record is read from an object and from nothing else."""
    received = {"NoneType": "null", "bool": "boolean", "int": "integer", "str": "string", "list": "array"}
    expected = [("$", "object", received[type(data).__name__])]
    assert faults(data, cls) == faults(data, cls, structure_exactly) == expected


def test_each_record_has_a_fixture() -> None:
    """A record added without an instance of its own is not tested."""
    nested: set[Any] = {m.KeyValueRow, m.Keybinding, m.Completion, m.ToolCallResult, m.Usage}
    unions: set[Any] = {m.HookOutcome, m.StreamEvent, m.UiRequest}
    members = {member for union in unions for member in union.__args__}
    covered = {cls for cls, _, _ in FIXTURES} | members | nested
    records = {cls for cls in vars(m).values() if isinstance(cls, type) and issubclass(cls, m.Record)} - {m.Record}
    assert records <= covered


def test_null_for_a_field_that_may_be_absent_counts_as_absent() -> None:
    """Hosts that write their optional fields send nulls. Source: docs/protocol.md, section 9."""
    assert structure(
        {"event": "turn_start", "context": CONTEXT, "seq": None, "payload": None}, m.EventParams
    ) == m.EventParams("turn_start", m.Context("epoch-7", "command"))
    assert structure({"content": "c", "is_error": None, "details": None}, m.ToolExecuteResult).is_error is False
    assert structure({"tools": None, "hooks": None}, m.Registrations) == m.Registrations()


def test_null_for_a_field_that_may_be_absent_is_refused_exactly() -> None:
    """The schemas' word for a missing field is a missing field."""
    data = {"event": "turn_start", "context": CONTEXT, "seq": None, "payload": None}
    assert faults(data, m.EventParams, structure_exactly) == [
        ("$.seq", "integer at least 0", "null"),
        ("$.payload", "object", "null"),
    ]


def test_null_for_a_field_that_must_be_there_is_a_fault() -> None:
    """Leniency about nulls ends where a value is needed."""
    assert faults({"token": None, "tier": "event"}, m.Context) == [("$.token", "string", "null")]


def test_all_faults_are_told_at_once_with_their_paths() -> None:
    """All faults are reported, not only the first, each with its path."""
    data = {"call_id": 5, "arguments": [], "context": {"tier": 5}}
    assert faults(data, m.ToolExecuteParams) == [
        ("$.call_id", "string", "integer"),
        ("$", "a field 'tool'", "nothing"),
        ("$.arguments", "object", "array"),
        ("$.context", "a field 'token'", "nothing"),
        ("$.context.tier", "one of 'event', 'command'", "integer"),
    ]


def test_paths_lead_through_arrays_and_odd_keys() -> None:
    """A path is what one would write to reach the value."""
    data = {
        "tools": [{"name": "a", "description": "", "parameters": {}}, {"name": 1, "description": "", "parameters": 2}]
    }
    assert faults(data, m.Registrations) == [
        ("$.tools[1].name", "string", "integer"),
        ("$.tools[1].parameters", "object", "integer"),
    ]
    assert faults({"a b": "x", "c": "y"}, dict[str, int]) == [
        ("$['a b']", "integer", "string"),
        ("$.c", "integer", "string"),
    ]


def test_a_range_is_named_in_the_fault() -> None:
    """`progress` is 0..1, and the fault says so. Source: docs/protocol.md, section 4."""
    assert faults({"call_id": "c", "progress": 1.5}, m.ToolUpdateParams) == [
        ("$.progress", "number between 0 and 1", "number")
    ]
    assert structure({"call_id": "c", "progress": 1}, m.ToolUpdateParams).progress == 1.0


def test_no_fault_holds_a_value() -> None:
    """A received value may be a secret, so a fault has its type only."""
    secret = "planted-secret"

    @attrs.frozen
    class Login:
        password: int
        kind: Literal["a", "b"]
        port: Annotated[int, Ge(1)]
        checked: list[str] = attrs.field(factory=list, validator=attrs.validators.max_len(0))

    data = {"password": secret, "kind": secret, "port": secret, "checked": [secret]}
    reads: list[Any] = [structure, structure_exactly]
    for read in reads:
        with pytest.raises(InvalidData) as caught:
            read(data, Login)
        assert len(caught.value.faults) >= 3
        assert secret not in str(caught.value) + repr(caught.value) + repr(caught.value.faults)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


def test_nothing_is_coerced() -> None:
    """By default cattrs is lenient; on the protocol's own fields that is off everywhere."""
    values: list[object] = [None, True, 0, 1, 1.0, 0.5, "", "1", "true", [], [1], {}, {"1": 1}]
    admitted: dict[Any, list[object]] = {
        str: ["", "1", "true"],
        int: [0, 1],
        float: [0, 1, 1.0, 0.5],
        bool: [True],
        list[int]: [[], [1]],
        dict[str, Any]: [{}, {"1": 1}],
        dict[str, int]: [{}, {"1": 1}],
        int | str: [0, 1, "", "1", "true"],
        int | None: [None, 0, 1],
        Literal[1, "true"]: [1, "true"],
    }
    for cls, expected in admitted.items():
        for value in values:
            for read in (structure, structure_exactly):
                fits = any(value is e or (type(value) is type(e) and value == e) for e in expected)
                if fits:
                    read(value, cls)
                else:
                    assert faults(value, cls, read), (cls, value)


def test_an_integer_field_takes_no_fraction_even_if_it_is_zero() -> None:
    """1.0 and 1 are different. Draft 2020-12 accepts 1.0 as an integer; we do not."""
    assert faults({"id": 1.0}, m.CancelParams) == [("$.id", "integer or string", "number")]
    assert faults({"event": "e", "context": CONTEXT, "seq": 1.0}, m.EventParams) == [
        ("$.seq", "integer at least 0", "number")
    ]


def test_a_tag_that_is_missing_or_unknown_is_told_with_what_is_known() -> None:
    """Outcomes are told apart by `action`. Source: docs/protocol.md, section 6."""
    assert faults({}, m.HookOutcome) == [("$", "a field 'action'", "nothing")]
    assert faults({"action": ["block"]}, m.HookOutcome) == [
        ("$.action", "one of 'continue', 'block', 'modify'", "array")
    ]
    assert faults({"text": "a"}, m.MarkdownBlock) == [("$", "a field 'kind'", "nothing")]


def test_blocks_hold_blocks() -> None:
    """Stacks and widgets nest, and faults point into them. Source: docs/protocol.md, section 8."""
    block: dict[str, Any] = {"kind": "markdown", "text": "deep"}
    for _ in range(20):
        block = {"kind": "stack", "children": [block]}
    made: Any = structure(block, m.RenderBlock)
    assert isinstance(made, m.StackBlock)
    assert unstructure(made) == block
    wrong = {"kind": "stack", "children": [{"kind": "stack", "children": [{"kind": "progress", "value": 2}]}]}
    assert faults(wrong, m.RenderBlock) == [("$.children[0].children[0].value", "number between 0 and 1", "integer")]


@pytest.mark.parametrize("read", [structure, structure_exactly])
def test_nesting_without_end_is_a_fault_and_no_recursion_error(read: Any) -> None:
    """100,000 nested brackets are an error of the data, at this level too."""
    block: dict[str, Any] = {"kind": "markdown", "text": "deep"}
    for _ in range(5_000):
        block = {"kind": "stack", "children": [block]}
    assert faults(block, m.RenderBlock, read)[-1][1] == "less nesting"


def test_usage_keeps_what_a_provider_counts_besides() -> None:
    """`usage` is an open object; as a stream event it has a type, in a result it has none.

    Source: docs/protocol.md, section 3.
    """
    usage: Any = structure({"type": "Usage", "prompt_tokens": 3, "audio": {"in": 1}}, m.StreamEvent)
    assert usage == m.Usage(prompt_tokens=3, extra={"audio": {"in": 1}})
    assert unstructure(usage) == {"prompt_tokens": 3, "audio": {"in": 1}}
    assert unstructure_event(usage) == {"type": "Usage", "prompt_tokens": 3, "audio": {"in": 1}}
    assert unstructure_event(m.Delta("a")) == {"type": "Delta", "content": "a"}
    assert structure({"extra": 1}, m.Usage) == m.Usage(extra={"extra": 1})


@given(
    st.sampled_from([cls for cls, _, _ in FIXTURES]),
    PLAIN | st.dictionaries(st.sampled_from(["id", "key", "kind", "action", "type", "content", "context"]), PLAIN),
)
def test_whatever_is_read_raises_nothing_but_invalid_data(cls: Any, data: Any) -> None:
    """All bad params raise one kind of error, and the two readings agree that there is a fault."""
    try:
        structure(data, cls)
    except InvalidData:
        assert all(path.startswith("$") and expected and received for path, expected, received in faults(data, cls))
        assert faults(data, cls, structure_exactly)


# ---------------------------------------------------------------------------------------- rarely and often read records
def _read(reader: Any, data: Any, cls: Any) -> Any:
    try:
        return reader.structure(data, cls)
    except Exception:
        return InvalidData


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(("cls", "data"), [(cls, data) for cls, data, _ in FIXTURES])
def test_what_is_read_rarely_is_read_as_what_is_read_often(cls: Any, data: dict[str, Any], exact: bool) -> None:
    """The first objects are read by a loop over the fields, later ones by code of cattrs: with the same outcome."""
    loop = Interpreter(exact=exact, compiled=lambda: converter(exact=exact, detailed=False))
    compiled = converter(exact=exact, detailed=False)
    wrong: list[Any] = [
        5,
        None,
        [],
        "x",
        {**data, "more": 1},
        {**data, "more": None},
        *({**data, k: {"x": [1]}} for k in data),
    ]
    null = [{**data, name: None} for name in data]
    without = [{k: v for k, v in data.items() if k != name} for name in data]
    for value in (data, *wrong, *null, *without):
        before = copy.deepcopy(value)
        assert _read(loop, value, cls) == _read(compiled, value, cls), value
        assert value == before, "what is read is not changed"


@pytest.mark.parametrize(("cls", "data"), [(cls, data) for cls, data, _ in FIXTURES])
def test_what_is_written_rarely_is_written_as_what_is_written_often(cls: Any, data: dict[str, Any]) -> None:
    """Also when records are written: by a loop at first, later by code of cattrs."""
    whole = structure(data, cls)
    made = type(whole)
    required = {field.name for field in declared(made) or () if field.required}
    least = {name: value for name, value in vars(whole).items() if name in required}
    for one in (whole, made(**least)):
        by_loop, by_code = writing._interpreted(made)(one), writing._compiled(made)(one)
        assert by_loop == by_code
        assert list(by_loop) == list(by_code), "in the same order"
    once = writing._interpreted(made)(whole)
    for value in once.values():  # what is changed in it must not reach the record
        if type(value) is list:
            value.append(None)
    assert structure(data, cls) == whole


def test_the_switch_to_generated_code_is_not_seen() -> None:
    """After so many, other code reads and writes: the values are the same, and equal to those made before."""
    first: Any = structure(CONTEXT, m.Context)
    for _ in range(2 * MANY):
        again: Any = structure(CONTEXT, m.Context)
        assert again == first
        assert hash(again) == hash(first)
        assert repr(again) == repr(first)
        assert unstructure(again) == CONTEXT
    with pytest.raises(InvalidData, match="token"):
        structure({"tier": "event"}, m.Context)
    assert m.Context in writing._WRITERS
