"""Tools: the answer to a call, its progress, and several calls at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sepkit.conformance.connection import Connection
from sepkit.conformance.evidence import Evidence
from sepkit.conformance.expectations import expect_error, fitting, judge, same_answer
from sepkit.conformance.flight import in_flight, tool_catches
from sepkit.conformance.lines import Frame, key, shortened, shown, written
from sepkit.conformance.requirement import observation, requirement
from sepkit.conformance.subject import Kind
from sepkit.conformance.updates import Update, updates
from sepkit.conformance.violations import NotApplicable, Violation
from sepkit.wire import messages

_MOMENT: Final = 0.3  # seconds in which a tool that is not slow has answered


@observation("tools.result", section="3", title="each tool answers, and its result fits the schema")
def _result(e: Evidence) -> None:
    e.judge_survey("tool/execute")


@requirement(
    "tools.unknown",
    section="3",
    title="a tool that is not registered is answered: with is_error, or an error that is not -32601",
)
async def _unknown(c: Connection) -> None:
    c.subject.some("tools")
    _judge_unknown(await c.ask(c.calls.tool("conformance_unknown")))


def _judge_unknown(answer: Frame) -> None:
    judge("tool/execute", answer)
    if "result" in answer and answer["result"].get("is_error") is not True:
        raise Violation("is_error, or an error: there is no such tool", shortened(written(answer)))


@requirement(
    "tools.bad-params",
    section="8",
    title="tool/execute without its params, or with wrong ones, is answered with -32602",
)
async def _bad_params(c: Connection) -> None:
    tool = c.subject.some("tools")
    expect_error(await c.ask(c.calls.request("tool/execute", {})), -32602)
    wrong = {"call_id": "call", "tool": tool, "arguments": "text", "context": c.host.context()}
    expect_error(await c.ask(c.calls.request("tool/execute", wrong)), -32602)


@requirement("tools.bad-arguments", section="3", title="arguments that no schema allows are answered like any others")
async def _bad_arguments(c: Connection) -> None:
    judge("tool/execute", await c.ask(c.calls.tool(arguments={"conformance unknown": [{"deep": None}]})))


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
                raise Violation(f"is_error, since {name} requires {parameters['required']}")
            return
    raise NotApplicable("no tool has an argument that is required")


@requirement("tools.unknown-fields", section="1", title="unknown fields in a call and in its context are ignored")
async def _unknown_fields(c: Connection) -> None:
    plain = c.calls.tool()
    c.send(plain)
    frame = c.calls.tool(plain["params"]["tool"], unknown={"deep": [1]})
    frame["params"]["context"]["unknown"] = 1
    c.send(frame | {"unknown": "field"})
    same_answer(await c.answer(plain), await c.answer(frame))


@requirement("tools.concurrent", section="1", title="five calls in one write are each answered, under their own ids")
async def _concurrent(c: Connection) -> None:
    tool = c.subject.some("tools")
    # Swapped answers are noticed only if they differ. This order differs from its reverse.
    unknown = "conformance_unknown"
    frames = [c.calls.tool(name) for name in (tool, unknown, tool, tool, unknown)]
    c.send(*frames)
    for frame in frames:
        answer = await c.answer(frame)
        if frame["params"]["tool"] == tool:
            judge("tool/execute", answer)
        else:
            _judge_unknown(answer)


@requirement(
    "tools.own-answer",
    section="1",
    title="a call that waits for the host is not answered by what another call beside it has come to",
)
async def _own_answer(c: Connection) -> None:
    catch = tool_catches(c, Kind.ASKING)[0]
    async with in_flight(c, catch) as call:
        # A tool that waits for the host only for a moment is answered even without another call.
        if await c.answered(call, _MOMENT):
            raise NotApplicable(f"{catch.target.name} does not wait for the host's answer")
        other = c.calls.tool("conformance_unknown")
        c.send(other)
        await c.until(lambda: bool(c.record.answers(other["id"]) or c.record.answers(call["id"])), _MOMENT)
        await c.settle()
        if c.record.answers(call["id"]):
            raise Violation(f"no answer to the call of {catch.target.name}, whose question to the host has none")
    _judge_unknown(await c.answer(other))
    judge("tool/execute", await c.answer(call))


@requirement(
    "tools.ping-beside",
    section="2",
    title="a ping is answered while a call is in flight: the host would take silence for a crash",
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
    # In one write, and up to three times: on a busy machine even a slow tool may end before the ping is read.
    for attempt in (1, 2, 3):
        call, ping = c.calls.tool(c.subject.slow), c.calls.fence()
        c.send(call, ping)
        await c.answer(call)
        await c.answer(ping)
        try:
            _came_first(c, ping["id"], call["id"])
        except Violation:
            if attempt == 3:
                raise
        else:
            return


@requirement(
    "tools.call-beside",
    section="1",
    title="a call that asks the host holds up no other tool",
    advice=True,
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
    title="a request under the id of a call in flight is refused with -32600, and the call lives on",
    advice=True,
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


@observation("tools.update-call", section="4", title="each tool/update carries the call_id of a call that was sent")
def _update_call(e: Evidence) -> None:
    for update in _tool_updates(e):
        if update.call is None:
            raise Violation("the call_id of a call", str(update))


@observation("tools.update-in-time", section="4", title="no tool/update comes after the answer to its call")
def _update_in_time(e: Evidence) -> None:
    for update in _tool_updates(e):
        if update.answered:
            raise Violation("progress before the answer", str(update))
