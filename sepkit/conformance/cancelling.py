"""Cancelling: whatever the moment, one answer; and nothing happens to what was not meant."""

from __future__ import annotations

from sepkit.conformance.connection import Connection, Frame
from sepkit.conformance.flight import every_catch, in_flight, tool_catches
from sepkit.conformance.requirements import NotApplicable, Violation, requirement
from sepkit.conformance.subject import Kind, error_code, expect_error, expect_once, judge

_CANCELLED = -32800


@requirement("cancelling.unknown", section="8", title="a cancel of an unknown id is a no-op, and not answered")
async def _unknown(c: Connection) -> None:
    c.send(c.cancel(987_654), c.cancel("never"))
    await c.settle()
    if c.unasked():
        raise Violation("no answer to $/cancel, which is a notification")


@requirement(
    "cancelling.malformed",
    section="1",
    title="a cancel without an id, or with a wrong one, is not answered and ends nothing",
)
async def _malformed(c: Connection) -> None:
    c.send({"jsonrpc": "2.0", "method": "$/cancel"})
    for params in ({}, {"id": None}, {"id": {"a": 1}}):
        c.send({"jsonrpc": "2.0", "method": "$/cancel", "params": params})
    await c.settle()
    if c.unasked():
        raise Violation("no answer to $/cancel, which is a notification")


@requirement(
    "cancelling.finished", section="8", title="a cancel of a request that is answered already gives no second answer"
)
async def _finished(c: Connection) -> None:
    frame = c.subject.tool_call(c) if c.subject.named("tools") else c.fence()
    c.send(frame)
    await c.answer(frame, c.patience.call)
    c.send(c.cancel(frame["id"]))
    await c.settle()
    expect_once(c, frame)


async def _at_once(c: Connection, frame: Frame) -> None:
    """Send a call and its cancel in one write: it is answered once, as cancelled or with what it had done by then."""
    c.send(frame, c.cancel(frame["id"]))
    answer = await c.answer(frame, c.patience.call)
    await c.settle()
    expect_once(c, frame)
    if error_code(answer) != _CANCELLED:
        judge(frame["method"], answer)


@requirement("cancelling.tool", section="8", title="a tool call and its cancel in one write give one answer")
async def _tool(c: Connection) -> None:
    await _at_once(c, c.subject.tool_call(c))


@requirement("cancelling.hook", section="8", title="a hook and its cancel in one write give one answer")
async def _hook(c: Connection) -> None:
    await _at_once(c, c.subject.hook_call(c))


@requirement("cancelling.command", section="8", title="a command and its cancel in one write give one answer")
async def _command(c: Connection) -> None:
    await _at_once(c, c.subject.command_call(c))


@requirement(
    "cancelling.provider", section="8", title="a streamed completion and its cancel in one write give one answer"
)
async def _provider(c: Connection) -> None:
    await _at_once(c, c.subject.provider_call(c, stream=True))


@requirement(
    "cancelling.in-flight",
    section="8",
    title="a call in flight that is cancelled is answered once, with -32800: a tool's, a hook's, a stream, any other",
)
async def _in_flight(c: Connection) -> None:
    missed: NotApplicable | None = None
    caught = 0
    for catch in every_catch(c):
        try:
            async with in_flight(c, catch) as frame:
                caught += await _cancel_in_flight(c, frame, catch.kind)
        except NotApplicable as reason:
            missed = reason
    if not caught:
        raise missed or NotApplicable("whatever was caught had finished before its cancel was read")


async def _cancel_in_flight(c: Connection, frame: Frame, kind: Kind, times: int = 1) -> bool:
    """Cancel a call; whether it had not finished before that was read."""
    c.send(*[c.cancel(frame["id"])] * times)
    await c.alive()  # the cancel has been read
    if kind is not Kind.ASKING and any("result" in answer for answer in c.answers(frame["id"])):
        return False
    # What cannot be stopped while it waits for the host has stopped when the host has answered.
    await c.until(lambda: bool(c.answers(frame["id"])), c.subject.limit(frame["method"], c.patience.answer))
    c.release()
    answer = await c.answer(frame, c.patience.call)
    await c.settle()
    expect_once(c, frame)
    expect_error(answer, _CANCELLED)
    return True


@requirement("cancelling.twice", section="8", title="a second cancel of a call in flight changes nothing: one answer")
async def _twice(c: Connection) -> None:
    catch = tool_catches(c)[0]
    async with in_flight(c, catch) as frame:
        await _cancel_in_flight(c, frame, catch.kind, times=2)


@requirement("cancelling.others", section="8", title="a cancel ends the call that it names, and no other")
async def _others(c: Connection) -> None:
    async with in_flight(c, tool_catches(c)[0]) as kept:
        cancelled = c.subject.tool_call(c, kept["params"]["tool"])
        c.send(cancelled, c.cancel(cancelled["id"]))
        await c.alive()
        c.release()
        answer = await c.answer(kept, c.patience.call)
        await c.answer(cancelled, c.patience.call)
        if error_code(answer) == _CANCELLED:
            raise Violation("the result of the call that was not cancelled")


@requirement("cancelling.lookalike", section="1", title='a cancel of "7" does not end the request 7')
async def _lookalike(c: Connection) -> None:
    async with in_flight(c, tool_catches(c)[0]) as frame:
        c.send(c.cancel(str(frame["id"])))
        await c.settle()
        c.release()
        if error_code(await c.answer(frame, c.patience.call)) == _CANCELLED:
            raise Violation("the result of the call, which was not cancelled")
