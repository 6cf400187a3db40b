"""Tools: the answer to a call, its progress, and several calls at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from sepkit.conformance.connection import Connection
from sepkit.conformance.evidence import Evidence
from sepkit.conformance.expectations import expect_error, fitting, judge, kind, known
from sepkit.conformance.flight import in_flight, tool_catches
from sepkit.conformance.lines import Frame, key, shortened, shown, written
from sepkit.conformance.params import bad_params
from sepkit.conformance.requirement import observation, requirement
from sepkit.conformance.subject import SLOW, Kind
from sepkit.conformance.updates import Update, updates
from sepkit.conformance.violations import NotApplicable, Violation
from sepkit.wire import messages

_UNKNOWN: Final = "conformance_unknown"
_RESULT: Final = ("traffic.frames", "tools.result")
_MOMENT: Final = 0.3  # seconds in which a tool that is not slow has answered


@observation("tools.result", section="3", title="each tool answers, and its result fits the schema")
def _result(e: Evidence) -> None:
    e.judge_survey("tool/execute")


@requirement(
    "tools.unknown",
    section="3",
    title="a tool that is not registered is answered, and not with -32601",
    after=("tools.bad-params",),
    odd=True,
)
async def _unknown(c: Connection) -> None:
    c.subject.some("tools")
    known("tool/execute", await c.ask(c.calls.tool(_UNKNOWN), c.refusal))


@requirement(
    "tools.unknown-told",
    section="3",
    title="a tool that is not registered is answered with is_error, or an error",
    after=("tools.unknown",),
    advice=True,
)
async def _unknown_told(c: Connection) -> None:
    c.subject.some("tools")
    answer = await c.ask(c.calls.tool(_UNKNOWN))
    result = answer.get("result")
    if "result" in answer and not (isinstance(result, dict) and result.get("is_error") is True):
        raise Violation("is_error, or an error: there is no such tool", shortened(written(answer)), suspects=_RESULT)


def _bad_requests(c: Connection) -> list[Frame]:
    wrong = {"call_id": "call", "tool": c.subject.some("tools"), "arguments": "text", "context": c.host.context()}
    return [c.calls.request("tool/execute"), c.calls.request("tool/execute", wrong)]


bad_params("tools.bad-params", "tool/execute", _bad_requests)


@requirement(
    "tools.bad-arguments",
    section="3",
    title="arguments that no schema allows are answered, and not with -32601",
    after=("tools.bad-params",),
    odd=True,
)
async def _bad_arguments(c: Connection) -> None:
    known("tool/execute", await c.ask(c.calls.tool(arguments={"conformance unknown": [{"deep": None}]})))


@requirement(
    "tools.arguments-checked",
    section="3",
    title="arguments that the tool's schema refuses are answered with is_error",
    advice=True,
)
async def _arguments_checked(c: Connection) -> None:
    for name, tool in c.subject.named("tools").items():
        parameters = tool.get("parameters")
        if isinstance(parameters, dict) and parameters.get("required"):
            frame = c.calls.tool(name, arguments={})
            answer = await c.ask(frame)
            result = answer.get("result")
            if not isinstance(result, dict) or result.get("is_error") is not True:
                raise Violation(f"is_error, since {name} requires {parameters['required']}", suspects=_RESULT)
            return
    raise NotApplicable("no tool has an argument that is required")


@requirement(
    "tools.unknown-fields",
    section="1",
    title="unknown fields in a call and in its context are ignored",
    after=("methods.unknown-fields",),
)
async def _unknown_fields(c: Connection) -> None:
    tool = c.subject.some("tools")

    def odd() -> Frame:
        frame = c.calls.tool(tool, unknown={"deep": [1]})
        frame["params"]["context"]["unknown"] = 1
        return frame | {"unknown": "field"}

    await c.same_answer(lambda: c.calls.tool(tool), odd)


@requirement(
    "tools.concurrent",
    section="1",
    title="five calls in one write are each answered, under their own ids",
    after=("tools.unknown",),
    odd=True,
)
async def _concurrent(c: Connection) -> None:
    tool = c.subject.some("tools")
    # An answer that went to the wrong call is noticed only where the answers differ, and the other is always the same.
    alone = [(await c.ask(c.calls.tool(name)), name) for name in (_UNKNOWN, _UNKNOWN, tool)]
    (unknown, _), (again, _), (plain, _) = alone
    differs = kind(plain) != kind(unknown) and kind(again) == kind(unknown)
    frames = [c.calls.tool(name) for name in (tool, _UNKNOWN, tool, tool, _UNKNOWN)]  # unlike its reverse
    c.send(*frames)
    for frame in frames:
        answer = await c.answer(frame)
        if frame["params"]["tool"] == tool:
            judge("tool/execute", answer)
        elif differs and kind(answer) != kind(unknown):
            raise Violation(f"the answer to an unknown tool, as it was before: {shortened(written(unknown))}")


@requirement(
    "tools.own-answer",
    section="1",
    title="a call that waits for the host does not get the answer of another call beside it",
    after=("tools.unknown", "tools.ping-beside"),
    odd=True,
)
async def _own_answer(c: Connection) -> None:
    catch = tool_catches(c, Kind.ASKING)[0]
    async with in_flight(c, catch) as call:
        # A tool that waits for the host only for a moment is answered even without another call.
        if await c.answered(call, _MOMENT):
            raise NotApplicable(f"{catch.target.name} does not wait for the host's answer")
        other = c.calls.tool(_UNKNOWN)
        c.send(other)
        await c.until(lambda: bool(c.record.answers(other["id"]) or c.record.answers(call["id"])), _MOMENT)
        await c.settle()
        # If both have one, the call has given up waiting for the host.
        if c.record.answers(call["id"]) and not c.record.answers(other["id"]):
            raise Violation(f"no answer to the call of {catch.target.name}, whose question to the host has none")
    await c.answer(other)
    judge("tool/execute", await c.answer(call))


@requirement(
    "tools.ping-beside",
    section="2",
    title="a ping is answered while a call waits for the host, which would take silence for a crash",
)
async def _ping_beside(c: Connection) -> None:
    for catch in tool_catches(c):
        if catch.kind is Kind.SLOW:
            await _ping_beside_slow(c)
            continue
        async with in_flight(c, catch) as call:
            ping = c.calls.fence()
            c.send(ping)
            await c.answered(ping, c.patience.answer)
            _came_first(c, ping["id"], call["id"])


async def _ping_beside_slow(c: Connection) -> None:
    call, ping = c.calls.tool(c.subject.slow), c.calls.fence()
    c.send(call, ping)
    await c.answer(call)
    # One that does one thing after another is dead to its host only if a single thing takes too long.
    if not await c.answered(ping, c.patience.answer):
        raise Violation("an answer to the ping", "none, though the call has ended")


@requirement(
    "tools.ping-beside-slow",
    section="2",
    title="a ping is answered while a tool is busy, and not after it",
    advice=True,
    after=("tools.ping-beside",),
)
async def _answered_meanwhile(c: Connection) -> None:
    tool_catches(c, Kind.SLOW)
    # Up to three times: on a busy machine a slow tool may end before the ping is read, or be slow no more.
    held_up = 0
    for _ in range(3):
        call, ping = c.calls.tool(c.subject.slow), c.calls.fence()
        began = asyncio.get_running_loop().time()
        c.send(call, ping)
        await c.answer(call)
        slow = asyncio.get_running_loop().time() - began >= SLOW
        await c.answer(ping)
        try:
            _came_first(c, ping["id"], call["id"])
        except Violation:
            held_up += slow
            if held_up == 3:
                raise
        else:
            return
    raise NotApplicable(f"{c.subject.slow} is not slow any more")


@requirement(
    "tools.call-beside",
    section="1",
    title="a call that asks the host holds up no other tool",
    advice=True,
    after=("tools.ping-beside",),
)
async def _call_beside(c: Connection) -> None:
    catch, quick = tool_catches(c, Kind.ASKING)[0], c.subject.some("tools")
    if quick == catch.target.name:
        raise NotApplicable("it has no tool beside the one that asks the host")
    other = c.calls.tool(quick)
    async with in_flight(c, catch) as call:
        c.send(other)
        await c.answered(other, c.patience.answer)
        _came_first(c, other["id"], call["id"])


def _came_first(c: Connection, rid: object, later: object) -> None:
    order = [key(x.frame.get("id")) for x in c.record.lines if not x.sent and x.is_response]
    if key(rid) not in order or (key(later) in order and order.index(key(later)) < order.index(key(rid))):
        raise Violation("its answer before that of the call in flight")


@requirement(
    "tools.id-in-use",
    section="1",
    title="a request under the id of a call in flight is refused with -32600, and the call goes on",
    advice=True,
    after=("tools.ping-beside", "traffic.answered-once"),
)
async def _id_in_use(c: Connection) -> None:
    async with in_flight(c, tool_catches(c)[0]) as call:
        c.send(c.calls.fence(call["id"]))
        await c.settle()
        expect_error(await c.answer(call, c.patience.answer), -32600)
        c.replies.release()
        await c.until(lambda: len(c.record.answers(call["id"])) > 1, c.patience.call)
        if len(c.record.answers(call["id"])) != 2:
            raise Violation("an answer to the call, too")
        judge("tool/execute", c.record.answers(call["id"])[1])


# ------------------------------------------------------------------------------------------------------------ progress
@requirement(
    "tools.own-progress",
    section="4",
    title="progress carries the call_id of its own call, while another call is in flight, too",
    after=("tools.update", "tools.update-call", "tools.ping-beside"),
)
async def _own_progress(c: Connection) -> None:
    catch = tool_catches(c, Kind.ASKING)[0]
    tools = {x.target.name: x for x in c.subject.asked if x.target.method == "tool/execute"}
    busy = next((name for name, tool in tools.items() if tool.done and tool.updates and not tool.asks), None)
    if busy is None or tools[catch.target.name].updates:
        raise NotApplicable("no tool tells of its progress, beside one that asks the host and tells of none")
    for first in (True, False):  # "the newest call" and "the oldest call" are both wrong
        call = c.calls.tool(busy)
        if first:
            c.send(call)
        async with in_flight(c, catch) as waiting:
            if not first:
                c.send(call)
            seconds = c.patience.answer + c.subject.longest
            if not await c.answered(call, seconds):
                raise NotApplicable(f"it has {busy} wait for {catch.target.name}")
            if mixed := c.record.told("tool/update", call_id=waiting["params"]["call_id"]):
                wanted = f"the call_id of the call of {busy}, and not that of {catch.target.name}"
                raise Violation(wanted, " ".join(shown([x.data for x in mixed])))
        await c.answer(waiting)


def _tool_updates(e: Evidence) -> Iterator[Update]:
    """Every ``tool/update`` that came."""
    return updates(e, "tool/update", "call_id", "tool/execute")


@observation("tools.update", section="4", title="each tool/update fits its schema, its progress between 0 and 1")
def _update(e: Evidence) -> None:
    for update in _tool_updates(e):
        params = update.line.frame.get("params")
        fitting(params, messages.ToolUpdateParams, f"params of tool/update, in {update},")


@observation(
    "tools.update-call",
    section="4",
    title="each tool/update carries the call_id of a call that was sent",
    after=("tools.update",),
)
def _update_call(e: Evidence) -> None:
    for update in _tool_updates(e):
        if update.call is None:
            raise Violation("the call_id of a call", str(update))


@observation(
    "tools.update-in-time",
    section="4",
    title="no tool/update comes after the answer to its call",
    after=("tools.update", "traffic.ids"),
)
def _update_in_time(e: Evidence) -> None:
    for update in _tool_updates(e):
        if update.answered:
            raise Violation("progress before the answer", str(update))
