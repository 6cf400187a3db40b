"""What the extension asks the host for while a tool runs: whatever the host answers, the call is answered, too.

Applies where a tool asks for something; whether its questions are well-formed is judged by ``traffic``.
"""

from __future__ import annotations

from typing import Final

from sepkit.conformance.connection import Connection, Frame
from sepkit.conformance.flight import in_flight, tool_catches
from sepkit.conformance.host import Answer, error
from sepkit.conformance.requirements import NotApplicable, Violation, requirement
from sepkit.conformance.subject import Kind, expect_once, judge

_ACTS: Final = ("session/", "exec/")  # what carries a context


async def _answered_though(c: Connection, *answers: Answer | None) -> None:
    """The asking tool's call is answered, once, where the host answers its questions like this."""
    tool_catches(c, Kind.ASKING)
    for given in answers:
        c.refusal = lambda method, params, given=given: given  # type: ignore[misc]
        try:
            frame = c.subject.tool_call(c, c.subject.asking)
            c.send(frame)
            answer = await c.answer(frame, c.patience.call)
            await c.settle()
        finally:
            c.refusal = lambda method, params: None
        expect_once(c, frame)
        judge("tool/execute", answer)


@requirement(
    "callbacks.refused",
    section="8",
    title="a call is answered though the host refuses what it asks for, whatever the code",
)
async def _refused(c: Connection) -> None:
    await _answered_though(
        c, *(error(code, "refused by the host") for code in (-32601, -32001, -32002, -32003, -32004, -32603, -31000))
    )


@requirement("callbacks.cancelled", section="4", title="a call is answered though the user dismisses every question")
async def _cancelled(c: Connection) -> None:
    tool_catches(c, Kind.ASKING)
    asked: list[str] = []

    def dismiss(method: str, params: Frame) -> Answer | None:
        if method != "ui/request":
            return None
        asked.append(method)
        return {"result": {"cancelled": True}}

    c.refusal = dismiss
    try:
        frame = c.subject.tool_call(c, c.subject.asking)
        c.send(frame)
        judge("tool/execute", await c.answer(frame, c.patience.call))
    finally:
        c.refusal = lambda method, params: None
    if not asked:
        raise NotApplicable("no tool asks the user")


@requirement("callbacks.unknown-fields", section="1", title="unknown fields in the host's answers are ignored")
async def _unknown_fields(c: Connection) -> None:
    tool_catches(c, Kind.ASKING)
    plain = c.subject.tool_call(c, c.subject.asking)
    c.send(plain)
    before = await c.answer(plain, c.patience.call)

    def more(method: str, params: Frame) -> Answer:
        answer = c.host.answer(method, params)
        if "result" in answer:
            answer["result"]["unknown"] = {"deep": [1]}
        return {**answer, "unknown": 1}

    c.refusal = more
    try:
        frame = c.subject.tool_call(c, c.subject.asking)
        c.send(frame)
        answer = await c.answer(frame, c.patience.call)
    finally:
        c.refusal = lambda method, params: None
    if ("result" in before) != ("result" in answer):
        raise Violation("the same kind of answer as without the unknown fields")


@requirement(
    "callbacks.lookalike",
    section="1",
    title="an answer under another id, or one of another type, is none to its question",
)
async def _lookalike(c: Connection) -> None:
    for attempt in (1, 2, 3):
        async with in_flight(c, tool_catches(c, Kind.ASKING)[0]) as frame:
            rid = c.held[0]["id"]
            other: object = str(rid) if isinstance(rid, int) else f"{rid}-other"
            c.send({"jsonrpc": "2.0", "id": other, "result": {"value": "stray", "confirmed": True, "text": "stray"}})
            await c.settle()
            # A next question tells that the tool went on; but a task beside it may have one of its own, now and then.
            if not c.answers(frame["id"]) and len(c.held) == 1:
                return
            if attempt == 3:
                raise Violation(f"that it waits on for the answer to {rid!r}")


@requirement(
    "callbacks.out-of-order", section="1", title="answers of the host may come in another order than the questions"
)
async def _out_of_order(c: Connection) -> None:
    async with in_flight(c, tool_catches(c, Kind.ASKING)[0]) as first:
        second = c.subject.tool_call(c, c.subject.asking)
        c.send(second)
        if not await c.until(lambda: len(c.held) > 1, c.patience.answer):
            raise NotApplicable("its calls wait for each other, as their author may want it")
        c.held.reverse()
        c.release()
        for frame in (first, second):
            judge("tool/execute", await c.answer(frame, c.patience.call))


@requirement("callbacks.late", section="8", title="an answer to a question of a call that was cancelled is ignored")
async def _late(c: Connection) -> None:
    async with in_flight(c, tool_catches(c, Kind.ASKING)[0]) as frame:
        c.send(c.cancel(frame["id"]))
        await c.alive()
    await c.answer(frame, c.patience.call)
    await c.settle()
    expect_once(c, frame)


@requirement(
    "callbacks.own-context",
    section="5",
    title="what a call asks of the host carries the context of that call, also when another has begun since",
    advice=True,
)
async def _own_context(c: Connection) -> None:
    catch = tool_catches(c, Kind.ASKING)[0]
    alone = c.sent(catch.call(c))
    await c.answer(alone, c.patience.call)
    wanted = sum(x.method is not None and x.method.startswith(_ACTS) for x in c.log[c.mark :] if not x.sent)
    if not wanted:
        raise NotApplicable("no tool sends session/* or exec/run")
    _expect_acts(c, alone, wanted)
    async with in_flight(c, catch) as first:
        second = catch.call(c)
        c.send(second)
        if not await c.until(lambda: len(c.held) > 1, c.patience.answer):
            raise NotApplicable("its calls wait for each other, as their author may want it")
        c.release()
        for frame in (first, second):
            await c.answer(frame, c.patience.call)
    for frame in (first, second):
        _expect_acts(c, frame, wanted)


def _expect_acts(c: Connection, call: Frame, wanted: int) -> None:
    """Expect that so much has been asked in the context of a call."""
    found = [
        x
        for x in c.log[c.mark :]
        if not x.sent
        and x.method is not None
        and x.method.startswith(_ACTS)
        and isinstance(params := x.frame.get("params"), dict)
        and params.get("context") == call["params"]["context"]
    ]
    if len(found) != wanted:
        raise Violation(f"{wanted} x session/* or exec/run with the context of {call['params']['call_id']}")
