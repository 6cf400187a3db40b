"""What a tool asks the host for while it runs: whatever the host answers, the call is answered, too.

It needs a tool that asks for something. Whether the questions are well-formed is judged by ``traffic``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from sepkit.conformance.calls import cancel
from sepkit.conformance.connection import Connection
from sepkit.conformance.expectations import expect_once, judge
from sepkit.conformance.flight import in_flight, tool_catches
from sepkit.conformance.host import Answer, error
from sepkit.conformance.lines import Frame, Line
from sepkit.conformance.requirement import requirement
from sepkit.conformance.subject import Kind
from sepkit.conformance.violations import NotApplicable, Violation

_PRESUPPOSED: Final = ("tools.ping-beside", "traffic.ids", "notifications.stray-answers")
_ACTS: Final = ("session/", "exec/")  # the methods that carry a context


def _refusing(code: int, method: str, params: Frame) -> Answer:
    return error(code, "refused by the host")


@requirement(
    "callbacks.refused",
    section="8",
    title="a call is answered even if the host refuses what it asks for, with any code",
    after=("tools.result",),
)
async def _refused(c: Connection) -> None:
    tool_catches(c, Kind.ASKING)
    for code in (-32601, -32001, -32002, -32003, -32004, -32603, -31000):
        frame = c.calls.tool(c.subject.asking)
        with c.replies.answering(partial(_refusing, code)):
            answer = await c.ask(frame)
            await c.settle()
        expect_once(c.record, frame)
        judge("tool/execute", answer, registered=False)  # it may pass on the error of the host


@requirement("callbacks.cancelled", section="4", title="a call is answered even if the user dismisses every question")
async def _cancelled(c: Connection) -> None:
    tool_catches(c, Kind.ASKING)
    asked: list[str] = []

    def dismiss(method: str, params: Frame) -> Answer | None:
        if method != "ui/request":
            return None
        asked.append(method)
        return {"result": {"cancelled": True}}

    with c.replies.answering(dismiss):
        judge("tool/execute", await c.ask(c.calls.tool(c.subject.asking)))
    if not asked:
        raise NotApplicable("no tool asks the user")


@requirement("callbacks.unknown-fields", section="1", title="unknown fields in the host's answers are ignored")
async def _unknown_fields(c: Connection) -> None:
    tool_catches(c, Kind.ASKING)
    before = await c.ask(c.calls.tool(c.subject.asking))

    def more(method: str, params: Frame) -> Answer:
        answer = c.host.answer(method, params)
        if "result" in answer:
            answer["result"]["unknown"] = {"deep": [1]}
        return {**answer, "unknown": 1}

    with c.replies.answering(more):
        answer = await c.ask(c.calls.tool(c.subject.asking))
    if ("result" in before) != ("result" in answer):
        raise Violation("the same kind of answer as without the unknown fields")


@requirement(
    "callbacks.other-id",
    section="1",
    title="an answer under another id is not taken for the answer to its question",
    after=_PRESUPPOSED,
    odd=True,
)
async def _other_id(c: Connection) -> None:
    await _waits_on(c, lambda rid: rid + 100_000 if isinstance(rid, int) else f"{rid}-other")


@requirement(
    "callbacks.lookalike",
    section="1",
    title='an answer under the id "7" is not taken for the answer to its question 7',
    after=(*_PRESUPPOSED, "callbacks.other-id"),
    advice=True,
)
async def _lookalike(c: Connection) -> None:
    await _waits_on(c, lambda rid: str(rid) if isinstance(rid, int) else f"{rid}-other")


async def _waits_on(c: Connection, other: Callable[[Any], object]) -> None:
    """Expect that a call waits on when an answer comes under another id than that of its question."""
    for attempt in (1, 2, 3):
        async with in_flight(c, tool_catches(c, Kind.ASKING)[0]) as frame:
            rid = c.replies.held[0]["id"]
            # A second question tells that the tool went on. But other parts of the extension may ask something, too.
            before = len(c.replies.held)
            await c.settle()
            others = len(c.replies.held) - before
            before += others
            stray = {"value": "stray", "confirmed": True, "text": "stray"}
            c.send({"jsonrpc": "2.0", "id": other(rid), "result": stray})
            await c.settle()
            if not c.record.answers(frame["id"]) and len(c.replies.held) - before <= others:
                return
            if attempt == 3:
                raise Violation(f"that it waits on for the answer to {rid!r}")


@requirement(
    "callbacks.out-of-order",
    section="1",
    title="answers of the host may come in another order than the questions",
    after=(*_PRESUPPOSED, "tools.own-answer"),
)
async def _out_of_order(c: Connection) -> None:
    async with in_flight(c, tool_catches(c, Kind.ASKING)[0]) as first:
        second = c.calls.tool(c.subject.asking)
        c.send(second)
        if not await c.until(lambda: len(c.replies.held) > 1, c.patience.answer):
            raise NotApplicable("its calls wait for each other, as their author may want it")
        c.replies.held.reverse()
        c.replies.release()
        for frame in (first, second):
            judge("tool/execute", await c.answer(frame))


@requirement(
    "callbacks.late",
    section="8",
    title="an answer to a question of a call that was cancelled is ignored",
    after=(*_PRESUPPOSED, "cancelling.in-flight", "cancelling.twice"),
)
async def _late(c: Connection) -> None:
    async with in_flight(c, tool_catches(c, Kind.ASKING)[0]) as frame:
        c.send(cancel(frame["id"]))
        await c.alive()
    await c.answer(frame)
    await c.settle()
    expect_once(c.record, frame)


@requirement(
    "callbacks.own-context",
    section="5",
    title="what a call asks of the host carries the context of that call, also when another has begun since",
    advice=True,
    after=(*_PRESUPPOSED, "traffic.params", "traffic.contexts"),
)
async def _own_context(c: Connection) -> None:
    catch = tool_catches(c, Kind.ASKING)[0]
    alone = c.calls.of(catch.target)
    await c.ask(alone)
    wanted = len(_acts(c))
    if not wanted:
        raise NotApplicable("no tool sends session/* or exec/run")
    _expect_acts(c, alone, wanted)
    async with in_flight(c, catch) as first:
        second = c.calls.of(catch.target)
        c.send(second)
        if not await c.until(lambda: len(c.replies.held) > 1, c.patience.answer):
            raise NotApplicable("its calls wait for each other, as their author may want it")
        c.replies.release()
        for frame in (first, second):
            await c.answer(frame)
    for frame in (first, second):
        _expect_acts(c, frame, wanted)


def _acts(c: Connection) -> list[Line]:
    """The requests with a context that came since the check began."""
    return [x for x in c.record.since_mark(sent=False) if x.method is not None and x.method.startswith(_ACTS)]


def _expect_acts(c: Connection, call: Frame, wanted: int) -> None:
    """Expect that so many requests came with the context of a call."""
    params = [x.frame.get("params") for x in _acts(c)]
    found = [x for x in params if isinstance(x, dict) and x.get("context") == call["params"]["context"]]
    if len(found) != wanted:
        raise Violation(f"{wanted} x session/* or exec/run with the context of {call['params']['call_id']}")
