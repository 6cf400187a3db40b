"""Everything that the extension wrote: each line, each frame, each id, in the records of all checks."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any, Final, get_args

from sepkit.conformance.evidence import Evidence
from sepkit.conformance.expectations import fitting
from sepkit.conformance.lines import Frame, Key, Line, key, parsed, tidied
from sepkit.conformance.record import ABOUT, ABOUT_IDS, Record, misread
from sepkit.conformance.requirement import observation
from sepkit.conformance.violations import NotApplicable, Violation
from sepkit.errors import Fault, InvalidData
from sepkit.wire import messages, methods
from sepkit.wire.converter import structure_exactly

_NOTIFICATIONS: Final = {
    methods.TOOL_UPDATE,
    methods.PROVIDER_DELTA,
    methods.LOG,
    methods.REGISTRY_UPDATE,
    methods.CANCEL,
    methods.TASK_UPDATE,  # of sepkit (docs/tasks.md), as is the family of tasks
}
_REQUESTS: Final = {
    methods.PING,
    methods.TOOLS_SET_ACTIVE,
    methods.UI_REQUEST,
    methods.KV_GET,
    methods.KV_SET,
    methods.KV_DELETE,
    methods.KV_LIST,
    methods.EXEC_RUN,
    methods.SESSION_SEND_MESSAGE,
    methods.SESSION_SEND_USER_MESSAGE,
    methods.SESSION_APPEND_ENTRY,
    methods.SESSION_SET_MODEL,
    methods.SESSION_STATE,
}
_EITHER: Final = {methods.BUS_PUBLISH}
_WITH_CONTEXT: Final = {method for method in _REQUESTS if method.startswith(("session/", "exec/"))}
# The words for a level, of which a host may know no others.
_LEVELS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    methods.LOG: ("level", get_args(methods.LogLevel)),
    methods.UI_REQUEST: ("level", get_args(methods.NotifyLevel)),
}
# Their params are judged by the topics tools and providers.
_JUDGED_ELSEWHERE: Final = {methods.TOOL_UPDATE, methods.PROVIDER_DELTA}


@observation("traffic.utf-8", section="1", title="every line is UTF-8, without a byte order mark")
def _utf8(e: Evidence) -> None:
    for line in e.lines():
        if line.data.startswith(codecs.BOM_UTF8):
            raise Violation("UTF-8 without a byte order mark", str(line))
        try:
            line.data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Violation("UTF-8", f"{line} ({error.reason} at byte {error.start})") from None


@observation(
    "traffic.whole-characters",
    section="1",
    title="no text holds half of a surrogate pair, as where an emoji was cut: many JSON readers refuse the line",
    advice=True,
)
def _whole_characters(e: Evidence) -> None:
    for line in e.frames():
        # Only an escape can be one: UTF-8 cannot encode it, and traffic.utf-8 reports what is not UTF-8.
        if b"\\u" in line.data and not _is_encodable(line.frame):
            raise Violation("whole characters", str(line))


def _is_encodable(frame: dict[str, Any]) -> bool:
    try:
        json.dumps(frame, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    except RecursionError:  # too deep to be encoded here, so it is not known
        pass
    return True


@observation("traffic.line-ends", section="1", title=r"every line ends with one \n: no \r, no blank line, none cut off")
def _line_ends(e: Evidence) -> None:
    for line in e.lines():
        if line.data.endswith(b"\r"):
            raise Violation(r"a line that ends with \n alone", f"{line} before it is a \\r")
        if not line.data.strip():
            raise Violation("a frame in every line", "a blank line")
    for connection in e.connections:
        # A process that was killed while it wrote is not to blame.
        last = connection.record.lines[-1] if connection.record.lines else None
        if connection.ended_by_itself and last is not None and not (last.sent or last.ended):
            raise Violation(r"a line that ends with \n", f"the end of stdout after {last}")


@observation("traffic.json", section="1", title="every line is a JSON object: nothing else is ever printed to stdout")
def _json(e: Evidence) -> None:
    for line in e.lines():
        data = line.data.removeprefix(codecs.BOM_UTF8)
        if data.strip() and line.ended and not isinstance(line.frame, dict) and not _may_be_object(data):
            raise Violation("a JSON-RPC frame", str(line))


def _may_be_object(data: bytes) -> bool:
    """Whether a line that could not be read is an object all the same: nested too deeply to tell, or not in UTF-8."""
    try:
        return isinstance(json.loads(data.decode("utf-8", "replace"), parse_constant=_refuse), dict)
    except RecursionError:
        return True
    except ValueError:
        return False


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


@observation("traffic.jsonrpc", section="1", title='every frame says "jsonrpc": "2.0"')
def _jsonrpc(e: Evidence) -> None:
    for line in e.frames():
        if line.frame.get("jsonrpc") != "2.0":
            raise Violation('"jsonrpc": "2.0"', str(line))


@observation(
    "traffic.frames", section="1", title="every frame is one of the four: request, notification, result or error"
)
def _frames(e: Evidence) -> None:
    for line in e.frames():
        if wrong := _no_frame(line.frame):
            raise Violation("one of the four frames", f"{wrong}: {line}")


def _no_frame(frame: dict[str, Any]) -> str | None:
    if "method" in frame:
        if not isinstance(frame["method"], str):
            return "its method is not a string"
        if {"result", "error"} & frame.keys():
            return "it is a request and an answer at once"
        return None if isinstance(frame.get("params", {}), dict) else "its params are not an object"
    if "result" in frame and "error" in frame:
        return "it has a result and an error"
    if "result" not in frame and "error" not in frame:
        return "it has neither a method nor a result nor an error"
    if "id" not in frame:
        return "an answer without an id"
    return None


@observation("traffic.errors", section="1", title="every error has an integer code and a message that is a string")
def _errors(e: Evidence) -> None:
    errors = [line for line in e.frames() if line.is_response and "error" in line.frame]
    if not errors:
        raise NotApplicable("it never answered with an error")
    for line in errors:
        error = line.frame["error"]
        if not isinstance(error, dict) or type(error.get("code")) is not int or type(error.get("message")) is not str:
            raise Violation("an error {code: integer, message: string}", str(line))


def _some_answers(e: Evidence) -> None:
    if not any(line.is_response for line in e.lines()):
        raise NotApplicable("it answered nothing")


@observation(
    "traffic.answered-once",
    section="1",
    title="no request is answered twice",
    after=("ids.lookalikes", "tools.concurrent", "hooks.concurrent", "tools.own-answer"),
)
def _answered_once(e: Evidence) -> None:
    _some_answers(e)
    for connection in e.connections:
        record = connection.record
        for rid, lines in record.asked.items():
            count = len(record.answered.get(rid, []))
            # The requirements of the topic cancelling are about the others.
            if count > len(lines) and rid not in record.cancelled:
                suspects = ABOUT_IDS if record.lookalikes(rid[1]) else ()
                raise Violation(
                    f"one answer to the request {rid[1]!r}", f"{count} came", sent=lines[0], suspects=suspects
                )


@observation(
    "traffic.unasked",
    section="1",
    title="every answer is to a request that was sent, under exactly its id",
    after=(
        "traffic.utf-8",
        "traffic.frames",
        "ids.zero",
        "ids.negative",
        "ids.large",
        "ids.string",
        "notifications.unknown",
        "notifications.unknown-meta",
        "notifications.of-requests",
        "notifications.stray-answers",
        "notifications.stray-error",
        "notifications.events",
        "notifications.bare-event",
        "notifications.events-lost",
        "notifications.unsubscribed-event",
        "notifications.event-unknown-fields",
        "cancelling.unknown",
        "cancelling.finished",
    ),
)
def _unasked(e: Evidence) -> None:
    _some_answers(e)
    for connection in e.connections:
        record = connection.record
        for line in record.lines:
            if not line.sent and line.is_response and "id" in line.frame and key(line.frame["id"]) not in record.asked:
                raise Violation("answers to what was asked", str(line), suspects=_meant(record, line.frame))


def _meant(record: Record, answer: Frame) -> tuple[str, ...]:
    """The requirements that an answer under an id of no request may really be about."""
    rid = answer["id"]
    if rid is None:
        return (*misread([answer]), "ids.in-errors")
    if any(rid == alike.get("id") for asked in record.asked for alike in record.lookalikes(asked[1])):
        return ABOUT_IDS
    asked = [line for line in record.lines if line.sent and line.method is not None and "id" in line.frame]
    unanswered = [line.method or "" for line in asked if not record.answers(line.frame["id"])]
    return tuple(name for method in dict.fromkeys(unanswered) for name in ABOUT.get(method, ()))


def _some_requests(e: Evidence) -> None:
    if not any("id" in line.frame for line in e.sent_by_itself()):
        raise NotApplicable("it never asked the host for anything")


@observation("traffic.ids", section="1", title="the ids of its own requests are integers or strings, each used once")
def _ids(e: Evidence) -> None:
    _some_requests(e)
    for connection in e.connections:
        used: set[Key] = set()
        for line in connection.record.lines:
            if line.sent or line.method is None or "id" not in line.frame:
                continue
            rid = line.frame["id"]
            if type(rid) not in (int, str):
                raise Violation("an id that is an integer or a string", str(line))
            if key(rid) in used:
                raise Violation("an id that was not used before", str(line))
            used.add(key(rid))


@observation(
    "traffic.methods",
    section="4",
    title="it sends only methods that a host knows: requests as such, notifications as such",
)
def _methods(e: Evidence) -> None:
    spoke = False
    for line in e.sent_by_itself():
        spoke = True
        allowed = (_REQUESTS if "id" in line.frame else _NOTIFICATIONS) | _EITHER
        # A meta method that the host does not know may be ignored, as in other protocols over JSON-RPC.
        if line.method not in allowed and not str(line.method).startswith("$/"):
            kind = "a request" if "id" in line.frame else "a notification"
            raise Violation(f"the methods of section 4, in their kinds; {line.method} is not one for {kind}", str(line))
    if not spoke:
        raise NotApplicable("it never sent a request or a notification")


@observation("traffic.params", section="4", title="the params of what it sends fit their schemas")
def _params(e: Evidence) -> None:
    spoke = False
    for line in e.sent_by_itself():
        record = messages.PARAMS.get(line.method or "")
        if record is not None and line.method not in _JUDGED_ELSEWHERE:
            spoke = True
            params = line.frame.get("params", {})
            fitting(params, record, f"params of {line.method}, in {line},")
            name, words = _LEVELS.get(line.method or "", ("", ()))
            if (level := params.get(name)) is not None and level not in words:
                raise Violation(f"a {name} out of {', '.join(words)}", str(line))
    if not spoke:
        raise NotApplicable("it never sent a request or a notification that no other topic judges")


@observation(
    "traffic.contexts",
    section="5",
    title="session/* and exec/run carry a context of the command tier that the host has given",
    after=("traffic.params",),
)
def _contexts(e: Evidence) -> None:
    used = False
    for connection in e.connections:
        for line in connection.record.lines:
            if not line.sent and line.method in _WITH_CONTEXT and "id" in line.frame:
                used = True
                params = line.frame.get("params")
                given = params.get("context") if isinstance(params, dict) else None
                if not connection.host.allows(given):
                    raise Violation("a context as it came, of the tier command", str(line))
    if not used:
        raise NotApplicable("it never sent session/* or exec/run")


# -- what every reader of JSON takes, and a host with generated records may not ---------------------------------------
def _odd_fields(e: Evidence) -> Iterator[tuple[Fault, Line]]:
    """What the protocol's schemas refuse and most readers ignore: null for absent, and unknown fields."""
    e.lines()  # not applicable without any
    for connection in e.connections:
        methods_of = {key(x.frame["id"]): x.method for x in connection.record.lines if x.sent and _is_request(x.frame)}
        for line in connection.record.lines:
            if line.sent or not isinstance(line.frame, dict):
                continue
            if line.method is not None:
                value, cls = line.frame.get("params"), messages.PARAMS.get(line.method)
            else:
                value = line.frame.get("result")
                cls = messages.RESULTS.get(methods_of.get(key(line.frame.get("id"))) or "")
            if cls is not None and isinstance(value, dict):
                try:
                    structure_exactly(value, cls)
                except InvalidData as error:
                    # A context is opaque: it comes back as it went.
                    yield from ((fault, line) for fault in error.faults if not fault.path.startswith("$.context"))


def _is_request(frame: object) -> bool:
    return isinstance(frame, dict) and "method" in frame and "id" in frame


@observation(
    "traffic.nulls",
    section="1",
    title="what is absent is left out, not written as null: some hosts refuse it",
    advice=True,
    after=("handshake.result", "traffic.params", "traffic.frames", "traffic.errors"),
)
def _nulls(e: Evidence) -> None:
    for line in e.frames():
        if tidied(raw := parsed(line.data)) != raw:
            raise Violation("a frame without the field that is null", str(line))
    for fault, line in _odd_fields(e):
        if fault.received == "null":
            raise Violation(f"no null at {fault.path}", str(line))


@observation(
    "traffic.known-fields",
    section="1",
    title="it sends no fields that the protocol does not have: they are ignored, and may be misspelt",
    advice=True,
    after=("handshake.result", "traffic.params", "registrations.known-families", "traffic.nulls"),
)
def _known_fields(e: Evidence) -> None:
    for fault, line in _odd_fields(e):
        if fault.expected.startswith("no field "):
            raise Violation(f"{fault.expected} at {fault.path}", str(line))
