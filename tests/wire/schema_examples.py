"""What each entry of the schemas takes and what it refuses, written by hand: the word of nobody's generator.

For each file and each of its entries: the record behind it, examples that are right, and examples that are wrong.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sepkit.wire import messages as m
from sepkit.wire import spec


class Examples(NamedTuple):
    record: Any
    right: list[Any]
    wrong: list[Any]


CONTEXT: Final = {"token": "epoch-7", "tier": "command"}
OBSERVER: Final = {"token": "epoch-7", "tier": "event"}
HEALTH: Final = {"task_id": "t1", "name": "poll", "user_id": None, "status": "running", "restart_count": 0}
POLICY: Final = {
    "type": "on-failure",
    "max_restarts": 3,
    "initial_delay_ms": 20,
    "max_delay_ms": 60_000,
    "multiplier": 1.5,
}
TASK: Final = {"name": "poll", "description": "", "per_user": False, "autostart": True, "restart_policy": POLICY}
TOOL: Final = {"name": "greet", "description": "Greet.", "parameters": {"type": "object"}}
HANDSHAKE: Final = {
    "protocol_version": 1,
    "host": {"name": "h", "version": "1"},
    "workspace": {"root": "/w", "trusted": True},
    "mode": "cli",
}
COMPLETION: Final = {"request_id": "r", "provider": "p", "model": "x", "messages": []}
BLOCK: Final = {"kind": "markdown", "text": "a"}
WIDGET: Final = {"kind": "widget", "widget_id": "w", "body": BLOCK, "keybindings": [{"key": "q"}]}


def _without(data: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in names}


_NOTHING: Final = Examples(m.Empty, [{}], [None, [], "", {"more": 1}])
_CONTEXT: Final = Examples(
    m.Context,
    [CONTEXT, OBSERVER, {"token": "", "tier": "event"}],
    [{}, {"token": "t"}, {"token": 1, "tier": "event"}, {"token": "t", "tier": "root"}, {**CONTEXT, "epoch": 7}],
)
_TOOL: Final = Examples(
    m.ToolRegistration,
    [TOOL, {**TOOL, "deferred": True}, {**TOOL, "parameters": {}}],
    [_without(TOOL, "description"), {**TOOL, "deferred": "no"}, {**TOOL, "parameters": []}, {**TOOL, "timeout": 5}],
)
_COMMAND: Final = Examples(
    m.CommandRegistration,
    [{"name": "c", "description": ""}],
    [{"name": "c"}, {"name": None, "description": ""}, {"name": "c", "description": "", "arguments": {}}],
)
_PROVIDER: Final = Examples(
    m.ProviderRegistration,
    [
        {"name": "p"},
        {"name": "p", "base_url": "u", "api_key_env": "K", "oauth": True, "models": [{"id": "x", "display_name": "X"}]},
    ],
    [{}, {"name": "p", "oauth": 1}, {"name": "p", "models": [{}]}, {"name": "p", "base_url": None}],
)

EXAMPLES: Final[dict[tuple[str, str], Examples]] = {
    ("bus-publish", "Params"): Examples(
        m.BusPublishParams,
        [{"topic": "t", "payload": {}}, {"topic": "", "payload": {"deep": [None, 1.5]}}],
        [{"topic": "t"}, {"topic": "t", "payload": []}, {"topic": "t", "payload": {}, "to": "x"}],
    ),
    ("cancel", "Params"): Examples(
        m.CancelParams, [{"id": 0}, {"id": ""}, {"id": "a-1"}], [{}, {"id": None}, {"id": True}, {"id": 1.5}]
    ),
    ("command-complete", "Params"): Examples(
        m.CommandCompleteParams,
        [{"command": "c", "context": CONTEXT}, {"command": "c", "context": OBSERVER, "partial": ""}],
        [{"command": "c"}, {"command": "c", "context": CONTEXT, "partial": None}, {"command": 1, "context": CONTEXT}],
    ),
    ("command-complete", "Completion"): Examples(
        m.Completion,
        [{"value": "a"}, {"value": "a", "description": "A"}],
        [{}, {"value": 1}, {"value": "a", "label": ""}],
    ),
    ("command-complete", "Result"): Examples(
        m.CommandCompleteResult,
        [{}, {"completions": []}, {"completions": [{"value": "a"}]}],
        [{"completions": ["a"]}, {"completions": None}, {"completions": [{"value": "a", "label": ""}]}],
    ),
    ("command-execute", "Params"): Examples(
        m.CommandExecuteParams,
        [{"command": "c", "context": CONTEXT}, {"command": "c", "context": CONTEXT, "arguments": {"a": [1]}}],
        [{"context": CONTEXT}, {"command": "c", "context": CONTEXT, "arguments": "a"}, {"command": "c", "context": {}}],
    ),
    ("command-execute", "Result"): Examples(
        m.CommandExecuteResult, [{}, {"content": "c"}], [{"content": None}, {"content": 1}, {"is_error": True}]
    ),
    ("envelope", "Id"): Examples(spec.Id, [0, -1, "", "1"], [None, True, 0.5, [], {}]),
    ("envelope", "Request"): Examples(
        spec.Request,
        [
            {"jsonrpc": "2.0", "id": 1, "method": "ping"},
            {"jsonrpc": "2.0", "id": "", "method": "kv/get", "params": {"key": "k"}},
        ],
        [
            {"jsonrpc": "2.0", "method": "ping"},
            {"jsonrpc": "1.0", "id": 1, "method": "ping"},
            {"id": 1, "method": "ping"},
            {"jsonrpc": "2.0", "id": None, "method": "ping"},
            {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []},
        ],
    ),
    ("envelope", "Notification"): Examples(
        spec.Notification,
        [{"jsonrpc": "2.0", "method": "event"}, {"jsonrpc": "2.0", "method": "log", "params": {}}],
        [{"jsonrpc": "2.0"}, {"jsonrpc": "2.0", "method": 1}, {"jsonrpc": "2.0", "id": 1, "method": "event"}],
    ),
    ("envelope", "SuccessResponse"): Examples(
        spec.SuccessResponse,
        [{"jsonrpc": "2.0", "id": 1, "result": {}}, {"jsonrpc": "2.0", "id": "a", "result": None}],
        [{"jsonrpc": "2.0", "id": 1}, {"jsonrpc": "2.0", "id": None, "result": {}}, {"id": 1, "result": {}}],
    ),
    ("envelope", "ErrorResponse"): Examples(
        spec.ErrorResponse,
        [
            {"jsonrpc": "2.0", "id": 1, "error": {"code": -32603, "message": "m"}},
            {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "", "data": [1]}},
        ],
        [
            {"jsonrpc": "2.0", "error": {"code": 1, "message": "m"}},
            {"jsonrpc": "2.0", "id": True, "error": {"code": 1, "message": "m"}},
            {"jsonrpc": "2.0", "id": 1, "error": "m"},
        ],
    ),
    ("envelope", "Error"): Examples(
        spec.Error,
        [{"code": -32001, "message": "no UI"}, {"code": 0, "message": "", "data": None}],
        [{"code": -32001}, {"code": "1", "message": "m"}, {"code": 0.5, "message": "m"}],
    ),
    ("envelope", "Context"): _CONTEXT,
    ("event", "Params"): Examples(
        m.EventParams,
        [
            {"event": "turn_start", "context": OBSERVER, "seq": 0, "payload": {"a": 1}},
            {"event": "events_lost", "context": OBSERVER, "payload": {"lost": 3}},
        ],
        [
            {"event": "turn_start"},
            {"event": "turn_start", "context": OBSERVER, "seq": -1},
            {"event": "turn_start", "context": OBSERVER, "seq": None},
            {"event": "turn_start", "context": OBSERVER, "seq": 0.5},
            {"event": "turn_start", "context": OBSERVER, "payload": []},
        ],
    ),
    ("exec-run", "Params"): Examples(
        m.ExecRunParams,
        [{"command": "ls", "context": CONTEXT}, {"command": "ls", "context": CONTEXT, "args": ["-l"], "cwd": "/"}],
        [
            {"command": "ls"},
            {"command": ["ls"], "context": CONTEXT},
            {"command": "ls", "context": CONTEXT, "args": [1]},
        ],
    ),
    ("exec-run", "Result"): Examples(
        m.ExecRunResult,
        [{"stdout": "", "stderr": "", "exit_code": -9}],
        [{"stdout": "", "stderr": ""}, {"stdout": "", "stderr": "", "exit_code": 0.5}],
    ),
    ("hook", "Params"): Examples(
        m.HookParams,
        [{"hook": "tool_call", "context": CONTEXT, "input": {"tool": "bash", "arguments": {}}}],
        [
            {"hook": "turn_start", "context": CONTEXT, "input": {}},
            {"hook": "tool_call", "context": CONTEXT},
            {"hook": "tool_call", "context": CONTEXT, "input": []},
        ],
    ),
    ("hook", "Context"): _CONTEXT,
    **{
        ("hook", name): Examples(
            m.HookOutcome,
            [
                {"action": "continue"},
                {"action": "block"},
                {"action": "block", "reason": "no"},
                {"action": "modify", "patch": {}},
            ],
            [{}, {"action": "allow"}, {"action": "modify"}, {"action": "continue", "reason": "no"}, {"reason": "no"}],
        )
        for name in ("Result", "HookOutcome")
    },
    ("initialize", "Params"): Examples(
        m.InitializeParams,
        [
            HANDSHAKE,
            {
                **HANDSHAKE,
                "session": {"id": "s"},
                "ui_capabilities": ["select"],
                "flags": {"verbose": True},
                "capabilities_enabled": {"kv": True, "of_a_later_version": False},
            },
            {**HANDSHAKE, "session": {}},
        ],
        [
            _without(HANDSHAKE, "mode"),
            {**HANDSHAKE, "mode": "gui"},
            {**HANDSHAKE, "protocol_version": 0},
            {**HANDSHAKE, "protocol_version": 1.5},
            {**HANDSHAKE, "workspace": {"root": "/w"}},
            {**HANDSHAKE, "capabilities_enabled": {"kv": "yes"}},
            {**HANDSHAKE, "session": None},
        ],
    ),
    ("initialize", "Result"): Examples(
        m.InitializeResult,
        [
            {"protocol_version": 1, "extension": {"name": "e", "version": "1"}},
            {"protocol_version": 2, "extension": {"name": "e", "version": "1"}, "registrations": {"tools": [TOOL]}},
        ],
        [
            {"protocol_version": 1},
            {"protocol_version": 1, "extension": {"name": "e"}},
            {"protocol_version": 1, "extension": {"name": "e", "version": "1"}, "registrations": []},
        ],
    ),
    ("initialize", "Registrations"): Examples(
        m.Registrations,
        [
            {},
            {
                "tools": [TOOL],
                "commands": [{"name": "c", "description": "d"}],
                "flags": ["f"],
                "shortcuts": [{"key": "f2", "command": "c"}],
                "subscriptions": ["turn_start"],
                "providers": [{"name": "p"}],
                "hooks": ["context"],
                "message_renderers": [{"tag": "t", "template": BLOCK}],
            },
            {"tasks": [TASK]},
        ],
        [
            {"tools": {}},
            {"flags": [None]},
            {"hooks": "context"},
            {"renderers": []},
            {"tasks": [_without(TASK, "autostart")]},
            {"tasks": [{**TASK, "restart_policy": {**POLICY, "multiplier": -1}}]},
            {"tasks": [{**TASK, "restart_policy": {**POLICY, "max_restarts": 0.5}}]},
        ],
    ),
    ("initialize", "MessageRendererRegistration"): Examples(
        m.MessageRendererRegistration,
        [{"tag": "t", "template": {"kind": "markdown", "text": "{{a}}"}}],
        [{"tag": "t"}, {"tag": "t", "template": {"kind": "video"}}, {"tag": 1, "template": BLOCK}],
    ),
    ("initialize", "RenderBlock"): Examples(
        m.RenderBlock,
        [
            BLOCK,
            {"kind": "keyvalue", "rows": [{"key": "a", "value": "b"}], "title": "T", "text": "a: b"},
            {"kind": "table", "columns": ["a"], "rows": [["1"]]},
            {"kind": "diff", "patch": "+a"},
            {"kind": "progress", "value": 1, "label": "l"},
            {"kind": "stack", "children": [WIDGET, {"kind": "stack", "children": []}]},
            WIDGET,
        ],
        [
            {},
            {"kind": "markdown"},
            {"kind": "keyvalue", "rows": [{"key": "a", "value": 1}]},
            {"kind": "table", "columns": ["a"], "rows": ["1"]},
            {"kind": "progress", "value": 1.01},
            {"kind": "stack", "children": [{"kind": "video"}]},
            {**WIDGET, "keybindings": [{}]},
            {**BLOCK, "rows": []},
        ],
    ),
    ("initialize", "ProviderRegistration"): _PROVIDER,
    ("initialize", "ProviderModel"): Examples(
        m.Model, [{"id": "x"}, {"id": "x", "display_name": "X"}], [{}, {"id": "x", "display_name": None}, {"id": 1}]
    ),
    ("initialize", "ToolRegistration"): _TOOL,
    ("initialize", "CommandRegistration"): _COMMAND,
    ("initialize", "ShortcutRegistration"): Examples(
        m.ShortcutRegistration,
        [{"key": "ctrl+p", "command": "c"}, {"key": "f2", "command": "c", "description": "d"}],
        [{"key": "f2"}, {"key": ["f2"], "command": "c"}],
    ),
    ("kv", "GetParams"): Examples(m.KvGetParams, [{"key": ""}], [{}, {"key": None}, {"key": "k", "default": 1}]),
    ("kv", "GetResult"): Examples(
        m.KvGetResult, [{"value": None}, {"value": {"a": [1]}}], [{}, None, {"found": False}]
    ),
    ("kv", "SetParams"): Examples(
        m.KvSetParams,
        [{"key": "k", "value": None}, {"key": "k", "value": [1.5]}],
        [{"key": "k"}, {"key": 1, "value": 1}],
    ),
    ("kv", "SetResult"): _NOTHING,
    ("kv", "DeleteParams"): Examples(m.KvDeleteParams, [{"key": "k"}], [{}, {"key": 1}]),
    ("kv", "DeleteResult"): _NOTHING,
    ("kv", "ListParams"): Examples(
        m.KvListParams, [{}, {"prefix": ""}], [{"prefix": None}, {"prefix": 1}, {"glob": "*"}]
    ),
    ("kv", "ListResult"): Examples(
        m.KvListResult, [{"keys": []}, {"keys": ["k"]}], [{}, {"keys": {"k": 1}}, {"keys": [1]}]
    ),
    ("log", "Params"): Examples(
        m.LogParams,
        [{"level": "trace", "message": ""}, {"level": "warn", "message": "m", "fields": {"a": 1}}],
        [{"level": "warning", "message": "m"}, {"level": "info"}, {"level": "info", "message": "m", "fields": []}],
    ),
    ("ping", "Params"): _NOTHING,
    ("ping", "Result"): _NOTHING,
    ("provider", "Context"): _CONTEXT,
    ("provider", "CompleteParams"): Examples(
        m.ProviderCompleteParams,
        [
            COMPLETION,
            {
                **COMPLETION,
                "messages": [{"role": "user"}],
                "tools": [{}],
                "stream": True,
                "response_format": {},
                "thinking": "low",
                "context": CONTEXT,
            },
        ],
        [
            _without(COMPLETION, "messages"),
            {**COMPLETION, "messages": ["hi"]},
            {**COMPLETION, "stream": 1},
            {**COMPLETION, "tools": None},
            {**COMPLETION, "temperature": 1},
        ],
    ),
    ("provider", "CompleteResult"): Examples(
        m.ProviderCompleteResult,
        [
            {},
            {
                "content": "c",
                "tool_calls": [{"id": "1", "name": "t", "arguments": None}],
                "finish_reason": "tool_calls",
                "usage": {"prompt_tokens": 3, "of_one_provider": {"a": 1}},
                "reasoning_content": "r",
                "resolved_model": "x-1",
            },
        ],
        [
            {"content": None},
            {"tool_calls": [{"id": "1", "name": "t"}]},
            {"usage": {"total_tokens": -1}},
            {"usage": {"prompt_tokens": 0.5}},
            {"cost": 1},
        ],
    ),
    ("provider", "DeltaParams"): Examples(
        m.DeltaParams,
        [
            {"request_id": "r", "event": {"type": "Delta", "content": "a"}},
            {"request_id": "r", "event": {"type": "OfALaterVersion"}},
        ],
        [{"request_id": "r"}, {"request_id": "r", "event": {}}, {"request_id": "r", "event": {"type": 1}}],
    ),
    ("provider", "OAuthParams"): Examples(
        m.OAuthParams,
        [{"provider": "p"}, {"provider": "p", "refresh_token": "t", "context": CONTEXT}],
        [{}, {"provider": "p", "refresh_token": None}, {"provider": "p", "context": {}}],
    ),
    ("provider", "Credentials"): Examples(
        m.Credentials,
        [
            {},
            {"api_key": "k"},
            {"access_token": "a", "refresh_token": "r", "expires_at": 1_900_000_000, "extra": {"scopes": ["s"]}},
        ],
        [{"expires_at": "soon"}, {"expires_at": 0.5}, {"extra": []}, {"token": "t"}],
    ),
    ("registry-update", "Params"): Examples(
        m.RegistryUpdateParams,
        [
            {},
            {
                "tools": [TOOL],
                "commands": [],
                "flags": ["f"],
                "subscriptions": ["turn_end"],
                "providers": [{"name": "p"}],
            },
        ],
        [{"flags": 1}, {"tools": [{}]}, {"hooks": ["context"]}],
    ),
    ("registry-update", "ProviderRegistration"): _PROVIDER,
    ("registry-update", "ToolRegistration"): _TOOL,
    ("registry-update", "CommandRegistration"): _COMMAND,
    ("session", "Context"): _CONTEXT,
    ("session", "SendMessageParams"): Examples(
        m.SessionSendMessageParams,
        [{"context": CONTEXT, "text": "t"}, {"context": CONTEXT, "text": "", "role": "user"}],
        [{"context": CONTEXT}, {"context": CONTEXT, "text": "t", "role": "system"}, {"text": "t"}],
    ),
    ("session", "SendMessageResult"): _NOTHING,
    ("session", "SendUserMessageParams"): Examples(
        m.SessionSendUserMessageParams,
        [{"context": CONTEXT, "text": "t"}, {"context": CONTEXT, "text": "t", "deliver_as": "steer"}],
        [{"context": CONTEXT, "text": "t", "deliver_as": "now"}, {"context": CONTEXT, "text": None}],
    ),
    ("session", "SendUserMessageResult"): _NOTHING,
    ("session", "AppendEntryParams"): Examples(
        m.SessionAppendEntryParams,
        [{"context": CONTEXT, "entry": {}}],
        [{"context": CONTEXT, "entry": "e"}, {"entry": {}}],
    ),
    ("session", "AppendEntryResult"): _NOTHING,
    ("session", "SetModelParams"): Examples(
        m.SessionSetModelParams,
        [{"context": CONTEXT, "model": "x"}, {"context": CONTEXT, "model": "x", "provider": "p", "thinking": "low"}],
        [{"context": CONTEXT}, {"context": CONTEXT, "model": "x", "thinking": False}],
    ),
    ("session", "SetModelResult"): _NOTHING,
    ("session", "StateParams"): Examples(m.SessionStateParams, [{"context": OBSERVER}], [{}, {"context": [CONTEXT]}]),
    ("session", "StateResult"): Examples(
        m.SessionStateResult, [{}, {"state": {"a": None}}], [{"state": None}, {"state": "s"}, {"model": "x"}]
    ),
    ("shutdown", "Params"): _NOTHING,
    ("shutdown", "Result"): _NOTHING,
    ("task", "StartParams"): Examples(
        m.TaskStartParams,
        [
            {"name": "poll"},
            {"name": "poll", "task_id": "t1", "user_id": "u", "payload": [1]},
            {"name": "p", "payload": None},
        ],
        [{}, {"name": "poll", "task_id": None}, {"name": "poll", "user_id": 2}, {"name": "poll", "restart": "never"}],
    ),
    ("task", "TaskHealth"): Examples(
        m.TaskHealth,
        [
            HEALTH,
            {
                **HEALTH,
                "user_id": "u",
                "status": "failed",
                "restart_count": 5,
                "last_health_status": "ok",
                "last_health_time": "2030-01-02T03:04:05.006Z",
                "error": "e",
            },
        ],
        [
            _without(HEALTH, "user_id"),
            {**HEALTH, "status": "lost"},
            {**HEALTH, "restart_count": -1},
            {**HEALTH, "restart_count": 0.5},
            {**HEALTH, "error": None},
        ],
    ),
    ("task", "StopParams"): Examples(m.TaskStopParams, [{"task_id": "t1"}], [{}, {"task_id": None}, {"name": "poll"}]),
    ("task", "ListParams"): _NOTHING,
    ("task", "ListResult"): Examples(
        m.TaskListResult, [{"tasks": []}, {"tasks": [HEALTH]}], [{}, {"tasks": [{}]}, {"tasks": {"t1": HEALTH}}]
    ),
    ("tool-execute", "Params"): Examples(
        m.ToolExecuteParams,
        [{"call_id": "c1", "tool": "greet", "arguments": {"name": "Ada"}, "context": CONTEXT}],
        [
            {"tool": "greet", "arguments": {}, "context": CONTEXT},
            {"call_id": "c1", "tool": "greet", "arguments": "{}", "context": CONTEXT},
            {"call_id": "c1", "tool": "greet", "arguments": {}, "context": None},
            {"call_id": 1, "tool": "greet", "arguments": {}, "context": CONTEXT},
        ],
    ),
    ("tool-execute", "Result"): Examples(
        m.ToolExecuteResult,
        [{"content": ""}, {"content": "c", "is_error": True, "details": None}, {"content": "c", "details": [1.5, {}]}],
        [{}, {"content": None}, {"content": "c", "is_error": None}, {"content": "c", "is_error": 0}],
    ),
    ("tool-update", "Params"): Examples(
        m.ToolUpdateParams,
        [
            {"call_id": "c1"},
            {"call_id": "c1", "message": "half", "progress": 0.5, "details": 5},
            {"call_id": "c1", "progress": 0},
            {"call_id": "c1", "progress": 1},
        ],
        [
            {"progress": 0.5},
            {"call_id": "c1", "progress": 50},
            {"call_id": "c1", "progress": -0.01},
            {"call_id": "c1", "message": None},
        ],
    ),
    ("tools-set-active", "Params"): Examples(
        m.SetActiveParams, [{"tools": []}, {"tools": ["a"]}], [{}, {"tools": "a"}]
    ),
    ("tools-set-active", "Result"): Examples(
        m.SetActiveResult, [{"active": ["a"]}], [{}, {"active": [1]}, {"tools": []}]
    ),
    ("ui-request", "Params"): Examples(
        m.UiRequest,
        [
            {"kind": "select", "prompt": "p", "options": ["a"]},
            {"kind": "confirm", "prompt": "p"},
            {"kind": "input", "prompt": "p", "default": ""},
            {"kind": "notify", "message": "m", "level": "error"},
            {"kind": "set_status", "status": ""},
            {"kind": "set_widget", "widget": {"kind": "of_a_later_version"}},
            {"kind": "set_title", "title": "t"},
        ],
        [
            {"prompt": "p"},
            {"kind": "choose", "prompt": "p"},
            {"kind": "select", "prompt": "p"},
            {"kind": "confirm", "prompt": "p", "options": []},
            {"kind": "input", "prompt": "p", "default": None},
            {"kind": "notify", "message": "m", "level": "debug"},
            {"kind": "set_status", "status": None},
            {"kind": "set_widget", "widget": "w"},
            {"kind": "set_title"},
        ],
    ),
    ("ui-request", "Result"): Examples(
        m.UiResult,
        [{}, {"value": "v"}, {"confirmed": False}, {"text": ""}, {"cancelled": True}],
        [{"value": None}, {"confirmed": 0}, {"cancelled": "no"}, {"answer": "v"}],
    ),
}
