"""What is not a request: events, unknown notifications, stray answers. None is answered, and none ends anything."""

from __future__ import annotations

from sepkit.conformance.calls import notification
from sepkit.conformance.connection import Connection
from sepkit.conformance.lines import Frame
from sepkit.conformance.record import misread
from sepkit.conformance.requirement import requirement
from sepkit.conformance.violations import NotApplicable, Violation


async def _unanswered(c: Connection, *frames: Frame) -> None:
    """Send what must not be answered, and expect that it is not."""
    if frames:
        c.send(*frames)
    await c.settle()
    if c.record.unasked():
        raise Violation("no answer to what is not a request", suspects=misread(c.record.unasked()))


@requirement("notifications.unknown", section="1", title="an unknown notification is not answered (JSON-RPC)")
async def _unknown(c: Connection) -> None:
    await _unanswered(c, notification("conformance/unknown", {}), notification("conformance/bare"))


@requirement(
    "notifications.unknown-meta",
    section="1",
    title="an unknown notification of the $/ kind is not answered",
    after=("notifications.unknown",),
)
async def _unknown_meta(c: Connection) -> None:
    await _unanswered(c, notification("$/conformance", {"id": 1}))


@requirement(
    "notifications.of-requests",
    section="1",
    title="a request's method without an id is a notification, and not answered",
    after=("notifications.unknown",),
    odd=True,
)
async def _of_requests(c: Connection) -> None:
    await _unanswered(c, notification("ping", {}), notification("tool/execute", {}), notification("hook", {}))


@requirement(
    "notifications.stray-answers",
    section="1",
    title="an answer to nothing that it asked is ignored, and not answered",
    odd=True,
)
async def _stray_answers(c: Connection) -> None:
    await _unanswered(
        c,
        {"jsonrpc": "2.0", "id": 987_654, "result": {}},
        {"jsonrpc": "2.0", "id": "never", "result": {"value": 1}},
        {"jsonrpc": "2.0", "id": 987_655, "error": {"code": -32603, "message": "a stray error"}},
    )


@requirement(
    "notifications.stray-error",
    section="1",
    title="an error with the id null, which tells of a bad line, is not answered",
    after=("notifications.stray-answers",),
    odd=True,
)
async def _stray_error(c: Connection) -> None:
    await _unanswered(c, {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "a bad line"}})


@requirement(
    "notifications.malformed-answers",
    section="1",
    title="a malformed answer is not answered",
    advice=True,
    after=(
        "notifications.stray-answers",
        "notifications.stray-error",
    ),
)
async def _malformed_answers(c: Connection) -> None:
    await _unanswered(
        c,
        {"jsonrpc": "2.0", "id": 987_656, "error": "text"},
        {"jsonrpc": "2.0", "id": 987_657, "result": {}, "error": {"code": 1, "message": "both"}},
    )


def _subscribed(c: Connection) -> list[str]:
    names = c.subject.names("subscriptions")
    if not names:
        raise NotApplicable("it subscribes to no events")
    return names


@requirement(
    "notifications.events", section="7", title="each event that it subscribes to is accepted, and not answered"
)
async def _events(c: Connection) -> None:
    names = _subscribed(c)
    await _unanswered(c, *(c.calls.event(name, seq) for seq, name in enumerate(names)))


@requirement(
    "notifications.event-burst",
    section="7",
    title="500 events at once are accepted, and a request after them is answered",
    after=("notifications.events",),
)
async def _event_burst(c: Connection) -> None:
    names = _subscribed(c)
    c.send(*(c.calls.event(names[seq % len(names)], 1000 + seq) for seq in range(500)))
    await c.alive(c.patience.events)  # one that does one thing after another may take its time
    await _unanswered(c)


@requirement(
    "notifications.events-lost",
    section="7",
    title="events_lost, which has no seq, is accepted, subscribed or not",
    after=(
        "notifications.events",
        "notifications.event-burst",
    ),
)
async def _events_lost(c: Connection) -> None:
    await _unanswered(c, c.calls.event("events_lost"))


@requirement(
    "notifications.bare-event",
    section="3",
    title="an event needs neither seq nor payload",
    after=(
        "notifications.events",
        "notifications.event-burst",
        "notifications.events-lost",
    ),
)
async def _bare_event(c: Connection) -> None:
    name = next(iter(c.subject.names("subscriptions")), "turn_start")
    await _unanswered(c, notification("event", {"event": name, "context": c.host.context("event")}))


@requirement(
    "notifications.unsubscribed-event",
    section="7",
    title="an event that it does not know is ignored, and not answered",
    after=(
        "notifications.events",
        "notifications.event-burst",
        "notifications.events-lost",
        "notifications.bare-event",
    ),
)
async def _unsubscribed_event(c: Connection) -> None:
    await _unanswered(c, c.calls.event("conformance_unknown", 5), c.calls.event("widget/key", 6))


@requirement(
    "notifications.event-unknown-fields",
    section="1",
    title="unknown fields in an event are ignored",
    after=(
        "notifications.events",
        "notifications.event-burst",
        "notifications.bare-event",
        "notifications.unsubscribed-event",
        "methods.unknown-fields",
        "tools.unknown-fields",
    ),
)
async def _event_unknown_fields(c: Connection) -> None:
    frame = c.calls.event(next(iter(c.subject.names("subscriptions")), "turn_start"), 7)
    frame["params"] |= {"unknown": [1], "payload": {"unknown": {}}}
    frame["params"]["context"]["unknown"] = True
    await _unanswered(c, frame | {"unknown": 1})


@requirement(
    "notifications.malformed-event",
    section="1",
    title="an event without params, or with wrong ones, is not answered and ends nothing",
    after=(
        "notifications.events",
        "notifications.event-burst",
        "notifications.bare-event",
        "notifications.unsubscribed-event",
    ),
    odd=True,
)
async def _malformed_event(c: Connection) -> None:
    await _unanswered(
        c,
        notification("event"),
        notification("event", {}),
        notification("event", {"event": 5, "context": "token"}),
        notification("event", {"event": "turn_start"}),
    )
