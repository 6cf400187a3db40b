"""The records of the wire: params and result of every method, as frozen attrs classes.

Data only: how a record is read and written is in ``converter.py`` and ``writing.py``, what a method does elsewhere.
``PARAMS`` and ``RESULTS``, at the end, find the records of a method by its name. A field with a default may be absent
on the wire; one without must be there.

Source: docs/protocol.md, sections 3 to 8; ``Task*`` are sepkit's addition (docs/tasks.md, "On the wire").
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from sepkit import records
from sepkit.records import field, record
from sepkit.wire import methods
from sepkit.wire.methods import (
    DeliverAs,
    HookName,
    LogLevel,
    Mode,
    NotifyLevel,
    RestartType,
    Role,
    TaskStatus,
    Tier,
)


class Record(records.Record):
    """What all records of the wire have in common."""


class Bounds:
    """The least and the greatest value of a number, both allowed. Used as ``Annotated[int, Bounds(ge=0)]``."""

    __slots__ = ("ge", "le")

    def __init__(self, ge: float | None = None, le: float | None = None) -> None:
        self.ge = ge
        self.le = le


class HasText:
    """An object must have a string under ``name``; whatever else it holds is kept."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


Json = Any
JsonObject = dict[str, Any]
Fraction = Annotated[float, Bounds(ge=0, le=1)]
Count = Annotated[int, Bounds(ge=0)]
Version = Annotated[int, Bounds(ge=1)]
EventObject = Annotated[dict[str, Any], HasText("type")]

# What is special about a field; the converter, the writer and the schemas look for these.
TAG: Final = "sepkit.tag"  # tells the member of a union: required when read, always written
ALWAYS: Final = "sepkit.always"  # written even where it is the default, because hosts look for it
ABSENT: Final = "sepkit.absent"  # makes what stands for it where a host leaves it out
REST: Final = "sepkit.rest"  # holds the keys that no other field names; stands in no object of its own


def _tag(value: str) -> Any:
    return field(default=value, kw_only=True, repr=False, metadata={TAG: True})


def _always(**options: Any) -> Any:
    return field(metadata={ALWAYS: True}, **options)


# ------------------------------------------------------------------------------------------------------ common records
@record
class Empty(Record):
    """No params, or nothing to say but that it is done.

    Wire: ``{}``. Source: docs/protocol.md, sections 3 and 4.
    """


@record
class Context(Record):
    """The right to act that a call comes with.

    Wire: ``{"token", "tier"}``; the token is opaque. Source: docs/protocol.md, section 5.
    """

    token: str
    tier: Tier


@record
class CancelParams(Record):
    """``$/cancel``: give up the request with this id.

    Wire: ``{"id"}``, an integer or a string. Source: docs/protocol.md, section 3.
    """

    id: int | str


# ---------------------------------------------------------------------------------------------------------- initialize
@record
class HostInfo(Record):
    """Who the host is.

    Wire: ``{"name", "version"}``. Source: docs/protocol.md, section 3.
    """

    name: str
    version: str


@record
class WorkspaceInfo(Record):
    """Where the agent works, and whether its user trusts that place.

    Wire: ``{"root", "trusted"}``; the root is an absolute path. Source: docs/protocol.md, section 3.
    """

    root: str
    trusted: bool


@record
class SessionInfo(Record):
    """The host's session.

    Wire: ``{"id"?}``. Source: docs/protocol.md, section 3.
    """

    id: str | None = None


@record(kw_only=True)
class InitializeParams(Record):
    """``initialize``: the host introduces itself.

    Wire: ``{"protocol_version", "host", "workspace", "mode", "session"?, "ui_capabilities"?, "flags"?,
    "capabilities_enabled"?}``. Without ``ui_capabilities`` the host did not say. Source: docs/protocol.md, section 3.
    """

    protocol_version: Version
    host: HostInfo
    workspace: WorkspaceInfo
    mode: Mode
    session: SessionInfo | None = None
    ui_capabilities: list[str] | None = None
    flags: JsonObject = field(factory=dict)
    capabilities_enabled: dict[str, bool] = field(factory=dict)


@record
class ExtensionInfo(Record):
    """Who the extension is; its name goes before the names of its tools.

    Wire: ``{"name", "version"}``. Source: docs/protocol.md, section 3.
    """

    name: str
    version: str


@record
class ToolRegistration(Record):
    """A tool: its bare name, what the model is told of it, and the JSON Schema of its arguments.

    Wire: ``{"name", "description", "parameters", "deferred"?}``. Source: docs/protocol.md, section 8.
    """

    name: str
    description: str
    parameters: JsonObject
    deferred: bool = False


@record
class CommandRegistration(Record):
    """A slash-command, its name without the slash.

    Wire: ``{"name", "description"}``. Source: docs/protocol.md, section 8.
    """

    name: str
    description: str


@record
class ShortcutRegistration(Record):
    """A chord of keys, such as ``ctrl+p``, that runs a command.

    Wire: ``{"key", "command", "description"?}``. Source: docs/protocol.md, section 8.
    """

    key: str
    command: str
    description: str | None = None


@record
class Model(Record):
    """A model of a provider.

    Wire: ``{"id", "display_name"?}``. Source: docs/protocol.md, section 8.
    """

    id: str
    display_name: str | None = None


@record
class ProviderRegistration(Record):
    """A provider of models; the address and the name of the key's variable only inform the host.

    Wire: ``{"name", "base_url"?, "api_key_env"?, "oauth"?, "models"?}``. Source: docs/protocol.md, section 8.
    """

    name: str
    base_url: str | None = None
    api_key_env: str | None = None
    oauth: bool = False
    models: list[Model] = field(factory=list)


@record
class MessageRendererRegistration(Record):
    """How messages with a tag are shown: a block whose strings hold ``{{path}}`` placeholders.

    Wire: ``{"tag", "template"}``. Source: docs/protocol.md, section 8.
    """

    tag: str
    template: RenderBlock


@record(kw_only=True)
class RestartPolicyMs(Record):
    """When and how soon a task is run again; ``max_restarts`` 0 is no limit.

    Wire: ``{"type", "max_restarts", "initial_delay_ms", "max_delay_ms", "multiplier"}``; delays in whole milliseconds.
    Source: docs/tasks.md, "On the wire".
    """

    type: RestartType
    max_restarts: Count
    initial_delay_ms: Count
    max_delay_ms: Count
    multiplier: Annotated[float, Bounds(ge=0)]


@record(kw_only=True)
class TaskRegistration(Record):
    """A background task or a job, told to hosts that asked for tasks.

    Wire: ``{"name", "description", "per_user", "autostart", "restart_policy", "schedule"?}``; only jobs have a
    ``schedule``, in words. Source: docs/tasks.md, "On the wire".
    """

    name: str
    description: str
    per_user: bool
    autostart: bool
    restart_policy: RestartPolicyMs
    schedule: str | None = None


@record(kw_only=True)
class Registrations(Record):
    """What an extension brings.

    Wire: ``{"tools"?, "commands"?, "flags"?, "shortcuts"?, "subscriptions"?, "providers"?, "hooks"?,
    "message_renderers"?, "tasks"?}``, each an array; ``tasks`` goes only to hosts that enabled it.
    Source: docs/protocol.md, section 8; docs/tasks.md, "On the wire".
    """

    tools: list[ToolRegistration] = field(factory=list)
    commands: list[CommandRegistration] = field(factory=list)
    flags: list[str] = field(factory=list)
    shortcuts: list[ShortcutRegistration] = field(factory=list)
    subscriptions: list[str] = field(factory=list)
    providers: list[ProviderRegistration] = field(factory=list)
    hooks: list[str] = field(factory=list)
    message_renderers: list[MessageRendererRegistration] = field(factory=list)
    tasks: list[TaskRegistration] = field(factory=list)


@record(kw_only=True)
class InitializeResult(Record):
    """The extension introduces itself; both go on with the lower of the two versions.

    Wire: ``{"protocol_version", "extension", "registrations"?}``. Source: docs/protocol.md, section 3.
    """

    protocol_version: Version
    extension: ExtensionInfo
    registrations: Registrations | None = None


@record(kw_only=True)
class RegistryUpdateParams(Record):
    """``registry/update``: more registrations, or newer ones; merged by name, the last wins.

    Wire: ``{"tools"?, "commands"?, "flags"?, "subscriptions"?, "providers"?}``. Source: docs/protocol.md, section 4.
    """

    tools: list[ToolRegistration] = field(factory=list)
    commands: list[CommandRegistration] = field(factory=list)
    flags: list[str] = field(factory=list)
    subscriptions: list[str] = field(factory=list)
    providers: list[ProviderRegistration] = field(factory=list)


# ------------------------------------------------------------------------------------------------------- render blocks
@record
class MarkdownBlock(Record):
    """Text with Markdown in it.

    Wire: ``{"kind": "markdown", "text"}``. Source: docs/protocol.md, section 8.
    """

    text: str
    kind: Literal["markdown"] = _tag("markdown")


@record
class KeyValueRow(Record):
    """A line of a :class:`KeyValueBlock`.

    Wire: ``{"key", "value"}``. Source: docs/protocol.md, section 8.
    """

    key: str
    value: str


@record
class KeyValueBlock(Record):
    """Names with their values.

    Wire: ``{"kind": "keyvalue", "rows": [{"key", "value"}], "title"?, "text"?}``. Source: docs/protocol.md, section 8.
    """

    rows: list[KeyValueRow]
    title: str | None = None
    text: str | None = None
    kind: Literal["keyvalue"] = _tag("keyvalue")


@record
class TableBlock(Record):
    """A table of strings.

    Wire: ``{"kind": "table", "columns", "rows", "text"?}``. Source: docs/protocol.md, section 8.
    """

    columns: list[str]
    rows: list[list[str]]
    text: str | None = None
    kind: Literal["table"] = _tag("table")


@record
class DiffBlock(Record):
    """A change, as a unified diff.

    Wire: ``{"kind": "diff", "patch", "text"?}``. Source: docs/protocol.md, section 8.
    """

    patch: str
    text: str | None = None
    kind: Literal["diff"] = _tag("diff")


@record
class ProgressBlock(Record):
    """A bar; ``value`` from 0 (nothing) to 1 (done).

    Wire: ``{"kind": "progress", "value", "label"?, "text"?}``. Source: docs/protocol.md, section 8.
    """

    value: Fraction
    label: str | None = None
    text: str | None = None
    kind: Literal["progress"] = _tag("progress")


@record
class StackBlock(Record):
    """Blocks, one under the other.

    Wire: ``{"kind": "stack", "children", "text"?}``. Source: docs/protocol.md, section 8.
    """

    children: list[RenderBlock]
    text: str | None = None
    kind: Literal["stack"] = _tag("stack")


@record
class Keybinding(Record):
    """A key that a widget wants to hear of.

    Wire: ``{"key", "description"?}``. Source: docs/protocol.md, section 8.
    """

    key: str
    description: str | None = None


@record
class WidgetBlock(Record):
    """A block that takes keys; they come back as ``widget/key`` events.

    Wire: ``{"kind": "widget", "widget_id", "body", "keybindings", "text"?}``. Source: docs/protocol.md, section 8.
    """

    widget_id: str
    body: RenderBlock
    keybindings: list[Keybinding]
    text: str | None = None
    kind: Literal["widget"] = _tag("widget")


RenderBlock = MarkdownBlock | KeyValueBlock | TableBlock | DiffBlock | ProgressBlock | StackBlock | WidgetBlock


# --------------------------------------------------------------------------------------------------- events and hooks
@record
class EventParams(Record):
    """``event``: something has happened. ``events_lost`` alone has no ``seq``.

    Wire: ``{"event", "context", "seq"?, "payload"?}``. Source: docs/protocol.md, section 7.
    """

    event: str
    context: Context
    seq: Count | None = None
    payload: JsonObject = field(factory=dict)


@record
class HookParams(Record):
    """``hook``: something is about to happen, and may be stopped or changed.

    Wire: ``{"hook", "context", "input"}``. Source: docs/protocol.md, section 6.
    """

    hook: HookName
    context: Context
    input: JsonObject


@record
class ContinueOutcome(Record):
    """Go on as it is.

    Wire: ``{"action": "continue"}``. Source: docs/protocol.md, section 6.
    """

    action: Literal["continue"] = _tag("continue")


@record
class BlockOutcome(Record):
    """Don't.

    Wire: ``{"action": "block", "reason"?}``. Source: docs/protocol.md, section 6.
    """

    reason: str | None = None
    action: Literal["block"] = _tag("block")


@record
class ModifyOutcome(Record):
    """Go on with another input; ``patch`` is the whole of it.

    Wire: ``{"action": "modify", "patch"}``. Source: docs/protocol.md, section 6.
    """

    patch: JsonObject
    action: Literal["modify"] = _tag("modify")


HookOutcome = ContinueOutcome | BlockOutcome | ModifyOutcome


# The inputs of hooks, as their authors meet them. Hosts may send more than these fields: whoever turns one back into a
# patch lays it over the input it came from. All fields are written, so that a value changed to its default arrives.
@record
class ToolCall(Record):
    """The input of ``tool_call``: a tool is about to run.

    Wire: ``{"tool", "arguments"}``. Source: docs/protocol.md, section 6.
    """

    tool: str
    arguments: JsonObject = _always(factory=dict)


@record
class ToolOutcome(Record):
    """The input of ``tool_result``: a tool has run.

    Wire: ``{"tool", "arguments", "content", "is_error"?, "details"?}``. Source: docs/protocol.md, section 6.
    """

    # A hook that changes the content must not fail because a host leaves out something else.
    tool: str = field(metadata={ABSENT: str})
    arguments: JsonObject = field(metadata={ABSENT: dict})
    content: str
    is_error: bool = _always(default=False)
    details: Json = None


@record
class UserBash(Record):
    """The input of ``user_bash``: the user is about to run a shell command.

    Wire: ``{"command"}``. Source: docs/protocol.md, section 6.
    """

    command: str


@record
class SystemPrompt(Record):
    """The input of ``before_agent_start``.

    Wire: ``{"system_prompt"}``. Source: docs/protocol.md, section 6.
    """

    system_prompt: str


@record
class Messages(Record):
    """The input of ``context``: the messages that are about to go to the model.

    Wire: ``{"messages": [{"role", "content", …}]}``. Source: docs/protocol.md, section 6.
    """

    messages: list[JsonObject]


HOOK_INPUTS: Final[dict[str, type[Record]]] = {
    "tool_call": ToolCall,
    "user_bash": UserBash,
    "tool_result": ToolOutcome,
    "before_agent_start": SystemPrompt,
    "context": Messages,
}


# -------------------------------------------------------------------------------------------------- tools and commands
@record
class ToolExecuteParams(Record):
    """``tool/execute``: run a tool, by its bare name.

    Wire: ``{"call_id", "tool", "arguments", "context"}``. Source: docs/protocol.md, section 3.
    """

    call_id: str
    tool: str
    arguments: JsonObject
    context: Context


@record
class ToolExecuteResult(Record):
    """What a tool says to the model (``content``) and to the user interface (``details``).

    Wire: ``{"content", "is_error"?, "details"?}``. Source: docs/protocol.md, section 3.
    """

    content: str
    is_error: bool = False
    details: Json = None


@record
class ToolUpdateParams(Record):
    """``tool/update``: how far a running call has come; ``progress`` from 0 to 1.

    Wire: ``{"call_id", "message"?, "progress"?, "details"?}``. Source: docs/protocol.md, section 4.
    """

    call_id: str
    message: str | None = None
    progress: Fraction | None = None
    details: Json = None


@record
class CommandExecuteParams(Record):
    """``command/execute``: run a slash-command, its name without the slash.

    Wire: ``{"command", "context", "arguments"?}``. Source: docs/protocol.md, section 3.
    """

    command: str
    context: Context
    arguments: JsonObject = field(factory=dict)


@record
class CommandExecuteResult(Record):
    """What a command shows in the session.

    Wire: ``{"content"?}``. Source: docs/protocol.md, section 3.
    """

    content: str | None = None


@record
class CommandCompleteParams(Record):
    """``command/complete``: the ways to complete what the user has typed.

    Wire: ``{"command", "context", "partial"?}``. Source: docs/protocol.md, section 3.
    """

    command: str
    context: Context
    partial: str = ""


@record
class Completion(Record):
    """One way on: the text to insert, and a label for it.

    Wire: ``{"value", "description"?}``. Source: docs/protocol.md, section 3.
    """

    value: str
    description: str | None = None


@record
class CommandCompleteResult(Record):
    """The ways on; none is an empty array.

    Wire: ``{"completions"}``. Source: docs/protocol.md, section 3.
    """

    completions: list[Completion] = _always(factory=list)


# ----------------------------------------------------------------------------------------------------------- providers
@record(kw_only=True)
class ProviderCompleteParams(Record):
    """``provider/complete``: one completion by a model of the extension; messages and tools in the host's own form.

    Wire: ``{"request_id", "provider", "model", "messages", "tools"?, "stream"?, "response_format"?, "thinking"?,
    "context"?}``. Source: docs/protocol.md, section 3.
    """

    request_id: str
    provider: str
    model: str
    messages: list[JsonObject]
    tools: list[JsonObject] | None = None
    stream: bool = False
    response_format: JsonObject | None = None
    thinking: str | None = None
    context: Context | None = None


@record
class ToolCallResult(Record):
    """A tool call that a model asks for. The arguments are parsed JSON, or the model's text where it wrote no JSON.

    Wire: ``{"id", "name", "arguments"}``. Source: docs/protocol.md, section 3.
    """

    id: str
    name: str
    arguments: Json


@record(kw_only=True)
class Usage(Record):
    """What a completion has cost, in tokens; also a stream event. A provider may count other things besides.

    A provider may give it in pieces. What sepkit sends has the first three counts, or is not sent at all.

    Wire: ``{"prompt_tokens"?, "completion_tokens"?, "total_tokens"?, "cached_tokens"?, …}``, with ``"type": "Usage"``
    where it is a stream event. Source: docs/protocol.md, sections 3 and 4.
    """

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    total_tokens: Count | None = None
    cached_tokens: Count | None = None
    extra: JsonObject = field(factory=dict, metadata={REST: True})  # what a provider counts besides


@record(kw_only=True)
class ProviderCompleteResult(Record):
    """A completion as a whole, whether it was streamed or not.

    Wire: ``{"content", "tool_calls", "finish_reason", "usage"?, "reasoning_content"?, "resolved_model"?}``; all of it
    may be absent when read. Source: docs/protocol.md, section 3.
    """

    content: str = _always(default="")
    tool_calls: list[ToolCallResult] = _always(factory=list)
    finish_reason: str = _always(default="stop")
    usage: Usage | None = None
    reasoning_content: str | None = None
    resolved_model: str | None = None


@record
class DeltaParams(Record):
    """``provider/delta``: a piece of a streamed completion.

    Wire: ``{"request_id", "event": {"type", …}}``. The event stays an object, because hosts may know more types than
    :data:`StreamEvent` has. Source: docs/protocol.md, section 4.
    """

    request_id: str
    event: EventObject


@record
class Delta(Record):
    """A piece of the answer.

    Wire: ``{"type": "Delta", "content"}``. Source: docs/protocol.md, section 4.
    """

    content: str
    type: Literal["Delta"] = _tag("Delta")


@record
class Reasoning(Record):
    """A piece of the model's reasoning.

    Wire: ``{"type": "Reasoning", "content"}``. Source: docs/protocol.md, section 4.
    """

    content: str
    type: Literal["Reasoning"] = _tag("Reasoning")


@record
class ToolCallStart(Record):
    """A tool call begins; its arguments follow under the same ``index``.

    ``extra_content`` is sepkit's addition: what the upstream wants back with the call, for hosts that keep it.

    Wire: ``{"type": "ToolCallStart", "index", "id", "name", "extra_content"?}``. Source: docs/protocol.md, section 4.
    """

    index: Count
    id: str
    name: str
    extra_content: JsonObject | None = None
    type: Literal["ToolCallStart"] = _tag("ToolCallStart")


@record
class ToolCallArgumentsDelta(Record):
    """A piece of the JSON text of a tool call's arguments.

    Wire: ``{"type": "ToolCallArgumentsDelta", "index", "arguments_chunk"}``. Source: docs/protocol.md, section 4.
    """

    index: Count
    arguments_chunk: str
    type: Literal["ToolCallArgumentsDelta"] = _tag("ToolCallArgumentsDelta")


@record
class ModelUsed(Record):
    """Which model really answers.

    Wire: ``{"type": "Model", "name"}``. Source: docs/protocol.md, section 4.
    """

    name: str
    type: Literal["Model"] = _tag("Model")


@record
class Done(Record):
    """The answer is complete.

    Wire: ``{"type": "Done", "finish_reason"}``. Source: docs/protocol.md, section 4.
    """

    finish_reason: str
    type: Literal["Done"] = _tag("Done")


@record
class Cost(Record):
    """What the completion has cost so far, in US dollars.

    Wire: ``{"type": "Cost", "usd"}``. Source: docs/protocol.md, section 4.
    """

    usd: float
    type: Literal["Cost"] = _tag("Cost")


@record
class ResponseId(Record):
    """What the upstream calls this answer.

    Wire: ``{"type": "ResponseId", "id"}``. Source: docs/protocol.md, section 4.
    """

    id: str
    type: Literal["ResponseId"] = _tag("ResponseId")


StreamEvent = Delta | Reasoning | ToolCallStart | ToolCallArgumentsDelta | Usage | ModelUsed | Done | Cost | ResponseId

# By their ``type`` on the wire; :class:`Usage` has one there only as an event.
STREAM_EVENTS: Final[dict[str, type[Record]]] = {
    "Delta": Delta,
    "Reasoning": Reasoning,
    "ToolCallStart": ToolCallStart,
    "ToolCallArgumentsDelta": ToolCallArgumentsDelta,
    "Usage": Usage,
    "Model": ModelUsed,
    "Done": Done,
    "Cost": Cost,
    "ResponseId": ResponseId,
}


@record
class OAuthParams(Record):
    """``provider/oauth_login`` and ``provider/oauth_refresh``: get credentials, or newer ones.

    Wire: ``{"provider", "refresh_token"?, "context"?}``. Source: docs/protocol.md, section 3.
    """

    provider: str
    refresh_token: str | None = field(default=None, repr=False)
    context: Context | None = None


@record(kw_only=True)
class Credentials(Record):
    """What a login brought.

    Wire: ``{"api_key"?, "access_token"?, "refresh_token"?, "expires_at"?, "extra"?}``; ``expires_at`` in seconds since
    1970. Source: docs/protocol.md, section 3.
    """

    # Secrets stay out of a `repr`, which may be logged.
    api_key: str | None = field(default=None, repr=False)
    access_token: str | None = field(default=None, repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    expires_at: int | None = None
    extra: JsonObject | None = field(default=None, repr=False)


# ------------------------------------------------------------------------------------------------ what the host offers
@record
class LogParams(Record):
    """``log``: a line for the host's log.

    Wire: ``{"level", "message", "fields"?}``. Source: docs/protocol.md, section 4.
    """

    level: LogLevel
    message: str
    fields: JsonObject = field(factory=dict)


@record
class BusPublishParams(Record):
    """``bus/publish``: tell the other extensions.

    Wire: ``{"topic", "payload"}``. Source: docs/protocol.md, sections 4 and 9.
    """

    topic: str
    payload: JsonObject


@record
class SetActiveParams(Record):
    """``tools/set_active``: which tools the model should have.

    Wire: ``{"tools"}``. Source: docs/protocol.md, section 4.
    """

    tools: list[str]


@record
class SetActiveResult(Record):
    """Which tools the model has now: never more than the host allows.

    Wire: ``{"active"}``. Source: docs/protocol.md, section 4.
    """

    active: list[str]


@record
class SelectRequest(Record):
    """Ask the user to choose one of ``options``; answered with ``value``.

    Wire: ``{"kind": "select", "prompt", "options"}``. Source: docs/protocol.md, section 4.
    """

    prompt: str
    options: list[str]
    kind: Literal["select"] = _tag("select")


@record
class ConfirmRequest(Record):
    """Ask the user yes or no; answered with ``confirmed``.

    Wire: ``{"kind": "confirm", "prompt"}``. Source: docs/protocol.md, section 4.
    """

    prompt: str
    kind: Literal["confirm"] = _tag("confirm")


@record
class InputRequest(Record):
    """Ask the user for a line of text; answered with ``text``.

    Wire: ``{"kind": "input", "prompt", "default"?}``. Source: docs/protocol.md, section 4.
    """

    prompt: str
    default: str | None = None
    kind: Literal["input"] = _tag("input")


@record
class NotifyRequest(Record):
    """Tell the user something; without a level it is for information.

    Wire: ``{"kind": "notify", "message", "level"?}``. Source: docs/protocol.md, section 4.
    """

    message: str
    level: NotifyLevel | None = None
    kind: Literal["notify"] = _tag("notify")


@record
class SetStatusRequest(Record):
    """Show a line of status.

    Wire: ``{"kind": "set_status", "status"}``. Source: docs/protocol.md, section 4.
    """

    status: str
    kind: Literal["set_status"] = _tag("set_status")


@record
class SetWidgetRequest(Record):
    """Show a render block. It stays an object here: frontends show of it what they know.

    Wire: ``{"kind": "set_widget", "widget"}``. Source: docs/protocol.md, section 4.
    """

    widget: JsonObject
    kind: Literal["set_widget"] = _tag("set_widget")


@record
class SetTitleRequest(Record):
    """Set the title of the window.

    Wire: ``{"kind": "set_title", "title"}``. Source: docs/protocol.md, section 4.
    """

    title: str
    kind: Literal["set_title"] = _tag("set_title")


UiRequest = (
    SelectRequest
    | ConfirmRequest
    | InputRequest
    | NotifyRequest
    | SetStatusRequest
    | SetWidgetRequest
    | SetTitleRequest
)


@record(kw_only=True)
class UiResult(Record):
    """What the user answered; which field it is in depends on the kind asked for.

    Wire: ``{"value"?, "confirmed"?, "text"?, "cancelled"?}``. Source: docs/protocol.md, section 4.
    """

    value: str | None = None
    confirmed: bool | None = None
    text: str | None = None
    cancelled: bool = False


@record
class KvGetParams(Record):
    """``kv/get``.

    Wire: ``{"key"}``. Source: docs/protocol.md, section 4.
    """

    key: str


@record
class KvGetResult(Record):
    """The value of a key; null where there is none.

    Wire: ``{"value"}``, any JSON. Source: docs/protocol.md, section 4.
    """

    value: Json


@record
class KvSetParams(Record):
    """``kv/set``.

    Wire: ``{"key", "value"}``, the value any JSON. Source: docs/protocol.md, section 4.
    """

    key: str
    value: Json


@record
class KvDeleteParams(Record):
    """``kv/delete``.

    Wire: ``{"key"}``. Source: docs/protocol.md, section 4.
    """

    key: str


@record
class KvListParams(Record):
    """``kv/list``: the keys that begin with ``prefix``, or all.

    Wire: ``{"prefix"?}``. Source: docs/protocol.md, section 4.
    """

    prefix: str | None = None


@record
class KvListResult(Record):
    """Keys.

    Wire: ``{"keys"}``. Source: docs/protocol.md, section 4.
    """

    keys: list[str]


@record
class ExecRunParams(Record):
    """``exec/run``: run a command under the host's own rules; in the workspace's root unless ``cwd`` says otherwise.

    Wire: ``{"command", "context", "args"?, "cwd"?}``. Source: docs/protocol.md, sections 4 and 5.
    """

    command: str
    context: Context
    args: list[str] = field(factory=list)
    cwd: str | None = None


@record
class ExecRunResult(Record):
    """What a command printed, and how it ended.

    Wire: ``{"stdout", "stderr", "exit_code"}``. Source: docs/protocol.md, section 4.
    """

    stdout: str
    stderr: str
    exit_code: int


@record
class SessionSendMessageParams(Record):
    """``session/send_message``: put a message into the session.

    Wire: ``{"context", "text", "role"?}``. Source: docs/protocol.md, section 4.
    """

    context: Context
    text: str
    role: Role = "assistant"


@record
class SessionSendUserMessageParams(Record):
    """``session/send_user_message``: speak for the user: now, after this turn, or as the next one.

    Wire: ``{"context", "text", "deliver_as"?}``. Source: docs/protocol.md, section 4.
    """

    context: Context
    text: str
    deliver_as: DeliverAs = "follow_up"


@record
class SessionAppendEntryParams(Record):
    """``session/append_entry``: keep something in the transcript that the model never sees.

    Wire: ``{"context", "entry"}``. Source: docs/protocol.md, section 4.
    """

    context: Context
    entry: JsonObject


@record
class SessionSetModelParams(Record):
    """``session/set_model``: go on with another model.

    Wire: ``{"context", "model", "provider"?, "thinking"?}``. Source: docs/protocol.md, section 4.
    """

    context: Context
    model: str
    provider: str | None = None
    thinking: str | None = None


@record
class SessionStateParams(Record):
    """``session/state``.

    Wire: ``{"context"}``. Source: docs/protocol.md, section 4.
    """

    context: Context


@record
class SessionStateResult(Record):
    """The session's state, in the host's own form.

    Wire: ``{"state"?}``. Source: docs/protocol.md, section 4.
    """

    state: JsonObject | None = None


# ---------------------------------------------------------------------------------------------------- background tasks
@record(kw_only=True)
class TaskHealth(Record):
    """How a task is; also the params of ``task/update``. ``user_id`` is null where the task belongs to nobody.

    Wire: ``{"task_id", "name", "user_id", "status", "restart_count", "last_health_status"?, "last_health_time"?,
    "error"?}``; the time in UTC as ISO 8601 with milliseconds and ``Z``. Source: docs/tasks.md, "On the wire".
    """

    task_id: str
    name: str
    user_id: str | None
    status: TaskStatus
    restart_count: Count
    last_health_status: str | None = None
    last_health_time: str | None = None
    error: str | None = None


@record
class TaskStartParams(Record):
    """``task/start``: start a registered task.

    Wire: ``{"name", "task_id"?, "user_id"?, "payload"?}``, the payload any JSON. Source: docs/tasks.md, "On the wire".
    """

    name: str
    task_id: str | None = None
    user_id: str | None = None
    payload: Json = None


@record
class TaskStopParams(Record):
    """``task/stop``: answered when the task has stopped.

    Wire: ``{"task_id"}``. Source: docs/tasks.md, "On the wire".
    """

    task_id: str


@record
class TaskListResult(Record):
    """All tasks of an extension.

    Wire: ``{"tasks"}``. Source: docs/tasks.md, "On the wire".
    """

    tasks: list[TaskHealth]


# --------------------------------------------------------------------------------------------------------- the tables
# The values are classes or unions of classes; mypy has no type for the second.
PARAMS: Final[dict[str, Any]] = {
    methods.PING: Empty,
    methods.CANCEL: CancelParams,
    methods.INITIALIZE: InitializeParams,
    methods.SHUTDOWN: Empty,
    methods.EVENT: EventParams,
    methods.HOOK: HookParams,
    methods.TOOL_EXECUTE: ToolExecuteParams,
    methods.COMMAND_EXECUTE: CommandExecuteParams,
    methods.COMMAND_COMPLETE: CommandCompleteParams,
    methods.PROVIDER_COMPLETE: ProviderCompleteParams,
    methods.PROVIDER_OAUTH_LOGIN: OAuthParams,
    methods.PROVIDER_OAUTH_REFRESH: OAuthParams,
    methods.TASK_START: TaskStartParams,
    methods.TASK_STOP: TaskStopParams,
    methods.TASK_LIST: Empty,
    methods.TOOL_UPDATE: ToolUpdateParams,
    methods.PROVIDER_DELTA: DeltaParams,
    methods.LOG: LogParams,
    methods.REGISTRY_UPDATE: RegistryUpdateParams,
    methods.BUS_PUBLISH: BusPublishParams,
    methods.TOOLS_SET_ACTIVE: SetActiveParams,
    methods.UI_REQUEST: UiRequest,
    methods.KV_GET: KvGetParams,
    methods.KV_SET: KvSetParams,
    methods.KV_DELETE: KvDeleteParams,
    methods.KV_LIST: KvListParams,
    methods.EXEC_RUN: ExecRunParams,
    methods.SESSION_SEND_MESSAGE: SessionSendMessageParams,
    methods.SESSION_SEND_USER_MESSAGE: SessionSendUserMessageParams,
    methods.SESSION_APPEND_ENTRY: SessionAppendEntryParams,
    methods.SESSION_SET_MODEL: SessionSetModelParams,
    methods.SESSION_STATE: SessionStateParams,
    methods.TASK_UPDATE: TaskHealth,
}

# Notifications have none; `bus/publish` has one, because hosts answer it.
RESULTS: Final[dict[str, Any]] = {
    methods.PING: Empty,
    methods.INITIALIZE: InitializeResult,
    methods.SHUTDOWN: Empty,
    methods.HOOK: HookOutcome,
    methods.TOOL_EXECUTE: ToolExecuteResult,
    methods.COMMAND_EXECUTE: CommandExecuteResult,
    methods.COMMAND_COMPLETE: CommandCompleteResult,
    methods.PROVIDER_COMPLETE: ProviderCompleteResult,
    methods.PROVIDER_OAUTH_LOGIN: Credentials,
    methods.PROVIDER_OAUTH_REFRESH: Credentials,
    methods.TASK_START: TaskHealth,
    methods.TASK_STOP: TaskHealth,
    methods.TASK_LIST: TaskListResult,
    methods.BUS_PUBLISH: Empty,
    methods.TOOLS_SET_ACTIVE: SetActiveResult,
    methods.UI_REQUEST: UiResult,
    methods.KV_GET: KvGetResult,
    methods.KV_SET: Empty,
    methods.KV_DELETE: Empty,
    methods.KV_LIST: KvListResult,
    methods.EXEC_RUN: ExecRunResult,
    methods.SESSION_SEND_MESSAGE: Empty,
    methods.SESSION_SEND_USER_MESSAGE: Empty,
    methods.SESSION_APPEND_ENTRY: Empty,
    methods.SESSION_SET_MODEL: Empty,
    methods.SESSION_STATE: SessionStateResult,
}
