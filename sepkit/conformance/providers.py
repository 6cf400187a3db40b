"""Providers: completions, whole and streamed, and logins.

A model need not answer: a provider without a key or a network may answer with an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from sepkit.conformance.connection import Connection
from sepkit.conformance.evidence import Evidence
from sepkit.conformance.expectations import fitting, judge, known
from sepkit.conformance.lines import Frame, Line
from sepkit.conformance.params import bad_params
from sepkit.conformance.requirement import observation, requirement
from sepkit.conformance.updates import Update, updates
from sepkit.conformance.violations import NotApplicable, Violation
from sepkit.errors import InvalidData
from sepkit.wire import messages
from sepkit.wire.converter import structure

_USAGE: Final = ("prompt_tokens", "completion_tokens", "total_tokens")


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
    provider = c.subject.some("providers")

    def bare() -> Frame:
        frame = c.calls.provider(provider)
        del frame["params"]["stream"], frame["params"]["context"]
        return frame

    await c.same_answer(lambda: c.calls.provider(provider), bare)


def _bad_completions(c: Connection) -> list[Frame]:
    c.subject.some("providers")
    frame = c.calls.provider()
    frame["params"]["messages"] = "text"
    return [c.calls.request("provider/complete"), frame]


def _bad_logins(c: Connection) -> list[Frame]:
    if not c.subject.oauth_providers():
        raise NotApplicable("no provider has oauth")
    return [c.calls.request("provider/oauth_login")]


_BAD_PARAMS: Final = ("tools.bad-params", "hooks.bad-params", "commands.bad-params", "providers.bad-params")
bad_params("providers.bad-params", "provider/complete", _bad_completions, after=_BAD_PARAMS[:3])
bad_params("providers.login-bad-params", "provider/oauth_login", _bad_logins, after=_BAD_PARAMS)


@requirement(
    "providers.unknown",
    section="3",
    title="a provider that is not registered is answered, and not with -32601",
    after=_BAD_PARAMS,
    odd=True,
)
async def _unknown(c: Connection) -> None:
    c.subject.some("providers")
    known("provider/complete", await c.ask(c.calls.provider("conformance-unknown"), c.refusal))


@requirement(
    "providers.unknown-fields",
    section="1",
    title="unknown fields in a completion and in its context are ignored",
    after=("methods.unknown-fields", "tools.unknown-fields", "hooks.unknown-fields", "commands.unknown-fields"),
)
async def _unknown_fields(c: Connection) -> None:
    provider = c.subject.some("providers")

    def odd() -> Frame:
        frame = c.calls.provider(provider)
        frame["params"] |= {"unknown": {"deep": 1}}
        frame["params"]["context"]["unknown"] = 1
        return frame | {"unknown": "field"}

    await c.same_answer(lambda: c.calls.provider(provider), odd)


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
    after=("providers.delta", "providers.delta-request"),
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
    after=("providers.delta",),
)
def _delta_request(e: Evidence) -> None:
    for delta in _deltas(e):
        if delta.call is None:
            raise Violation("the request_id of a completion", str(delta))


@observation(
    "providers.delta-in-time",
    section="4",
    title="no provider/delta comes after the answer to its completion",
    after=("providers.delta", "tools.update-in-time"),
)
def _delta_in_time(e: Evidence) -> None:
    for delta in _deltas(e):
        if delta.answered:
            raise Violation("deltas before the answer", str(delta))


@observation(
    "providers.delta-asked-for",
    section="3",
    title="no provider/delta comes where stream was not set",
    after=("providers.delta",),
)
def _delta_asked_for(e: Evidence) -> None:
    for delta in _deltas(e):
        if delta.call is not None and delta.call.frame["params"].get("stream") is not True:
            raise Violation("no deltas of a completion that is not streamed", str(delta), sent=delta.call.data)


@observation(
    "providers.streams",
    section="3",
    title="a completion that is streamed comes in deltas, too",
    advice=True,
    after=("providers.delta", "providers.delta-request"),
)
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


@observation(
    "providers.whole-usage",
    section="3",
    title="usage has prompt_tokens, completion_tokens and total_tokens, or is left out: some hosts refuse a part of it",
    advice=True,
    after=("providers.result", "providers.delta"),
)
def _whole_usage(e: Evidence) -> None:
    told = [(x.answer.get("result"), x.sent) for x in e.asked("provider/complete") if x.answer is not None]
    found = [(result.get("usage"), sent) for result, sent in told if isinstance(result, dict)]
    with suppress(NotApplicable):
        found += [(event, line.data) for event, line in _events(e, "Usage")]
    for usage, sent in found:
        missing = [name for name in _USAGE if isinstance(usage, dict) and type(usage.get(name)) is not int]
        if missing:
            raise Violation(f"all of {', '.join(_USAGE)}", f"no {' and no '.join(missing)}", sent=sent)


@observation(
    "providers.indices",
    section="4",
    title="the tool calls of a stream have the indices 0, 1, 2 and so on: some hosts run a call twice otherwise",
    advice=True,
    after=("providers.delta",),
)
def _indices(e: Evidence) -> None:
    seen: dict[object, int] = {}
    for event, line in _events(e, "ToolCallStart"):
        stream = line.frame["params"].get("request_id")
        place = seen[stream] = seen.get(stream, -1) + 1
        if event.get("index") != place:
            raise Violation(f"the index {place}", str(line))


def _events(e: Evidence, kind: str) -> Iterator[tuple[Frame, Line]]:
    """The stream events of a type, each with its line."""
    for delta in _deltas(e):
        params = delta.line.frame.get("params")
        event = params.get("event") if isinstance(params, dict) else None
        if isinstance(event, dict) and event.get("type") == kind:
            yield event, delta.line
