"""Providers: completions, whole and streamed, and logins.

A model need not answer: a provider without a key or a network may answer with an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from sepkit.conformance.connection import Connection
from sepkit.conformance.evidence import Evidence
from sepkit.conformance.expectations import expect_error, fitting, judge, same_answer
from sepkit.conformance.lines import Frame
from sepkit.conformance.requirement import observation, requirement
from sepkit.conformance.updates import Update, updates
from sepkit.conformance.violations import NotApplicable, Violation
from sepkit.errors import InvalidData
from sepkit.wire import messages
from sepkit.wire.converter import structure


@observation(
    "providers.result", section="3", title="each provider answers, and its result fits the schema, streamed or not"
)
def _result(e: Evidence) -> None:
    e.judge_survey("provider/complete")


@observation(
    "providers.login",
    section="3",
    title="each provider with oauth answers a login and a refresh; credentials fit the schema",
)
def _login(e: Evidence) -> None:
    if any(asked.late for asked in e.asked("provider/oauth_login", "provider/oauth_refresh")):
        raise NotApplicable("no answer yet; a login may wait for its user, for as long as 300 s")
    e.judge_survey("provider/oauth_login", "provider/oauth_refresh")


@requirement("providers.bare", section="3", title="provider/complete needs neither stream nor context")
async def _bare(c: Connection) -> None:
    frame = c.calls.provider()
    c.send(frame)
    bare = c.calls.provider(frame["params"]["provider"])
    del bare["params"]["stream"], bare["params"]["context"]
    c.send(bare)
    same_answer(await c.answer(frame), await c.answer(bare))


@requirement(
    "providers.unknown", section="3", title="a provider that is not registered is answered, and not with -32601"
)
async def _unknown(c: Connection) -> None:
    c.subject.some("providers")
    judge("provider/complete", await c.ask(c.calls.provider("conformance-unknown")))


@requirement(
    "providers.bad-params",
    section="8",
    title="provider/complete without its params, or with wrong ones, is answered with -32602",
)
async def _bad_params(c: Connection) -> None:
    c.subject.some("providers")
    expect_error(await c.ask(c.calls.request("provider/complete", {})), -32602)
    frame = c.calls.provider()
    frame["params"]["messages"] = "text"
    expect_error(await c.ask(frame), -32602)


@requirement("providers.login-bad-params", section="8", title="a login without its params is answered with -32602")
async def _login_bad_params(c: Connection) -> None:
    if not c.subject.oauth_providers():
        raise NotApplicable("no provider has oauth")
    expect_error(await c.ask(c.calls.request("provider/oauth_login", {})), -32602)


@requirement(
    "providers.unknown-fields", section="1", title="unknown fields in a completion and in its context are ignored"
)
async def _unknown_fields(c: Connection) -> None:
    plain = c.calls.provider()
    c.send(plain)
    frame = c.calls.provider(plain["params"]["provider"])
    frame["params"] |= {"unknown": {"deep": 1}}
    frame["params"]["context"]["unknown"] = 1
    c.send(frame | {"unknown": "field"})
    same_answer(await c.answer(plain), await c.answer(frame))


@requirement("providers.concurrent", section="1", title="two streams at once are each answered")
async def _concurrent(c: Connection) -> None:
    provider = c.subject.some("providers")
    frames = [c.calls.provider(provider, stream=True) for _ in range(2)]
    c.send(*frames)
    for frame in frames:
        judge("provider/complete", await c.answer(frame))


@requirement(
    "providers.own-deltas",
    section="4",
    title="of two streams at once, each one's deltas come under its own request_id",
)
async def _own_deltas(c: Connection) -> None:
    provider = c.subject.some("providers")
    alone = _stream(c, provider, "alone")
    if not _tells_all(c, alone, await c.ask(alone)):
        raise NotApplicable("what it streams is not what it answers with, even where nothing else is asked for")
    frames = [_stream(c, provider, "one"), _stream(c, provider, "the other")]
    c.send(*frames)
    for frame in frames:
        answer = await c.answer(frame)
        if "result" in answer and not _tells_all(c, frame, answer):
            wanted = f"deltas of {frame['params']['request_id']} that are its answer's content, as they were alone"
            raise Violation(wanted)


def _stream(c: Connection, provider: str, content: str) -> Frame:
    frame = c.calls.provider(provider, stream=True)
    frame["params"]["messages"][0]["content"] = content
    return frame


def _tells_all(c: Connection, call: Frame, answer: Frame) -> bool:
    """Whether the deltas of a stream add up to the content of its answer."""
    result = answer.get("result")
    content = result.get("content") if isinstance(result, dict) else None
    deltas = [
        x.frame["params"].get("event") for x in c.record.told("provider/delta", request_id=call["params"]["request_id"])
    ]
    told = [x.get("content") for x in deltas if isinstance(x, dict) and x.get("type") == "Delta"]
    return bool(told) and "".join(one for one in told if isinstance(one, str)) == content


def _deltas(e: Evidence) -> Iterator[Update]:
    return updates(e, "provider/delta", "request_id", "provider/complete")


@observation(
    "providers.delta", section="4", title="each provider/delta fits its schema, and its event the type that it names"
)
def _delta(e: Evidence) -> None:
    for delta in _deltas(e):
        params = delta.line.frame.get("params")
        fitting(params, messages.DeltaParams, f"params of provider/delta, in {delta},")
        event = params["event"]
        if (record := messages.STREAM_EVENTS.get(event["type"])) is not None:  # a host may know more types than these
            try:
                structure(event, record)
            except InvalidData as error:
                raise Violation(f"the fields of {event['type']}", f"{error}: {delta}") from None


@observation(
    "providers.delta-request",
    section="4",
    title="each provider/delta carries the request_id of a completion that was asked for",
)
def _delta_request(e: Evidence) -> None:
    for delta in _deltas(e):
        if delta.call is None:
            raise Violation("the request_id of a completion", str(delta))


@observation("providers.delta-in-time", section="4", title="no provider/delta comes after the answer to its completion")
def _delta_in_time(e: Evidence) -> None:
    for delta in _deltas(e):
        if delta.answered:
            raise Violation("deltas before the answer", str(delta))


@observation("providers.delta-asked-for", section="3", title="no provider/delta comes where stream was not set")
def _delta_asked_for(e: Evidence) -> None:
    for delta in _deltas(e):
        if delta.call is not None and delta.call.frame["params"].get("stream") is not True:
            raise Violation("no deltas of a completion that is not streamed", str(delta), sent=delta.call.data)


@observation("providers.streams", section="3", title="a completion that is streamed comes in deltas, too", advice=True)
def _streams(e: Evidence) -> None:
    streamed = [x for x in e.asked("provider/complete") if x.done and x.request["params"].get("stream") is True]
    if not streamed:
        raise NotApplicable("no streamed completion had a result")
    told: set[object] = set()
    with suppress(NotApplicable):
        told.update(delta.about for delta in _deltas(e))
    for asked in streamed:
        if asked.request["params"]["request_id"] not in told:
            raise Violation(f"at least one delta from {asked.target.name}", "none", sent=asked.sent)
