"""The names of the wire: methods, hooks, events, and the few closed sets of words around them.

Names only. What a method carries stands in ``messages.py``; what it does, with whoever handles it.

Source: docs/protocol.md, sections 3 to 7; ``task/*`` is sepkit's addition (docs/tasks.md, "On the wire").
"""

from __future__ import annotations

from typing import Final, Literal, get_args

PROTOCOL_VERSION: Final = 1

# Both ways.
PING: Final = "ping"
CANCEL: Final = "$/cancel"

# Host → extension.
INITIALIZE: Final = "initialize"
SHUTDOWN: Final = "shutdown"
EVENT: Final = "event"
HOOK: Final = "hook"
TOOL_EXECUTE: Final = "tool/execute"
COMMAND_EXECUTE: Final = "command/execute"
COMMAND_COMPLETE: Final = "command/complete"
PROVIDER_COMPLETE: Final = "provider/complete"
PROVIDER_OAUTH_LOGIN: Final = "provider/oauth_login"
PROVIDER_OAUTH_REFRESH: Final = "provider/oauth_refresh"
TASK_START: Final = "task/start"
TASK_STOP: Final = "task/stop"
TASK_LIST: Final = "task/list"

# Extension → host.
TOOL_UPDATE: Final = "tool/update"
PROVIDER_DELTA: Final = "provider/delta"
LOG: Final = "log"
REGISTRY_UPDATE: Final = "registry/update"
BUS_PUBLISH: Final = "bus/publish"
TOOLS_SET_ACTIVE: Final = "tools/set_active"
UI_REQUEST: Final = "ui/request"
KV_GET: Final = "kv/get"
KV_SET: Final = "kv/set"
KV_DELETE: Final = "kv/delete"
KV_LIST: Final = "kv/list"
EXEC_RUN: Final = "exec/run"
SESSION_SEND_MESSAGE: Final = "session/send_message"
SESSION_SEND_USER_MESSAGE: Final = "session/send_user_message"
SESSION_APPEND_ENTRY: Final = "session/append_entry"
SESSION_SET_MODEL: Final = "session/set_model"
SESSION_STATE: Final = "session/state"
TASK_UPDATE: Final = "task/update"

Mode = Literal["tui", "web", "widget", "cli", "headless"]
Tier = Literal["event", "command"]
LogLevel = Literal["trace", "debug", "info", "warn", "error"]
NotifyLevel = Literal["info", "warn", "error"]
Role = Literal["user", "assistant"]
DeliverAs = Literal["steer", "follow_up", "next_turn"]
UiKind = Literal["select", "confirm", "input", "notify", "set_status", "set_widget", "set_title"]
CapabilityGroup = Literal["tools", "commands", "ui", "exec", "kv", "bus", "session", "providers", "tasks"]
TaskStatus = Literal["pending", "running", "stopped", "failed", "restarting"]
RestartType = Literal["always", "on-failure", "never"]

HookName = Literal[
    "tool_call",
    "user_bash",
    "tool_result",
    "input",
    "before_agent_start",
    "context",
    "before_provider_request",
    "message_end",
    "session_before_compact",
    "session_before_tree",
]
HOOKS: Final[frozenset[str]] = frozenset(get_args(HookName))

# Hosts and extensions have words of their own for these, so they are read as any text.
OPEN: Final[tuple[object, ...]] = (Mode, Tier, LogLevel, NotifyLevel, HookName)

# Without an answer these block; all others let pass.
FAIL_CLOSED_HOOKS: Final[frozenset[str]] = frozenset({"tool_call", "user_bash"})

EventName = Literal[
    "agent_start",
    "agent_end",
    "turn_start",
    "turn_end",
    "message_start",
    "message_update",
    "message_end",
    "tool_execution_start",
    "tool_execution_update",
    "tool_execution_end",
    "model_select",
    "session_start",
    "session_compact",
    "session_shutdown",
    "session_tree",
    "bus/event",
    "widget/key",
    "events_lost",
]
EVENTS: Final[frozenset[str]] = frozenset(get_args(EventName))

# Which group of `capabilities_enabled` switches a method off. What is not here cannot be switched off.
GROUP_OF: Final[dict[str, CapabilityGroup]] = {
    KV_GET: "kv",
    KV_SET: "kv",
    KV_DELETE: "kv",
    KV_LIST: "kv",
    UI_REQUEST: "ui",
    EXEC_RUN: "exec",
    BUS_PUBLISH: "bus",
    SESSION_SEND_MESSAGE: "session",
    SESSION_SEND_USER_MESSAGE: "session",
    SESSION_APPEND_ENTRY: "session",
    SESSION_SET_MODEL: "session",
    SESSION_STATE: "session",
    TOOLS_SET_ACTIVE: "tools",
}
