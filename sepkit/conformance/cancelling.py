"""Cancelling: one answer at any moment, and no effect on other calls."""

from __future__ import annotations

from typing import Final

from sepkit.conformance.calls import cancel, notification
from sepkit.conformance.connection import Connection
from sepkit.conformance.expectations import error_code, expect_error, expect_once, judge
from sepkit.conformance.flight import every_catch, in_flight, tool_catches
from sepkit.conformance.lines import Frame
from sepkit.conformance.requirement import requirement
from sepkit.conformance.subject import Kind
from sepkit.conformance.violations import NotApplicable, Violation

_CANCELLED = -32800


@requirement(
    "cancelling.unknown", section="8", title="a cancel of an unknown id has no effect, and is not answered", odd=True
)
async def _unknown(c: Connection) -> None:
    c.send(cancel(987_654), cancel("never"))
    await c.settle()
    if c.record.unasked():
        raise Violation("no answer to $/cancel, which is a notification")


@requirement(
    "cancelling.malformed",
    section="1",
    title="a cancel without an id, or with a wrong one, is not answered, and the extension lives on",
    after=("cancelling.unknown",),
    odd=True,
)
async def _malformed(c: Connection) -> None:
    for params in (None, {}, {"id": None}, {"id": {"a": 1}}):
        c.send(notification("$/cancel", params))
    await c.settle()
    if c.record.unasked():
        raise Violation("no answer to $/cancel, which is a notification")


@requirement(
    "cancelling.finished",
    section="8",
    title="a cancel of a request that is answered already gives no second answer",
    after=("cancelling.unknown", "tools.result"),
)
async def _finished(c: Connection) -> None:
    frame = c.calls.tool() if c.subject.named("tools") else c.calls.fence()
    await c.ask(frame)
    c.send(cancel(frame["id"]))
    await c.settle()
    expect_once(c.record, frame)


async def _at_once(c: Connection, frame: Frame) -> None:
    """Send a call and its cancel in one write: it is answered once, as cancelled or with its result."""
    c.send(frame, cancel(frame["id"]))
    answer = await c.answer(frame)
    await c.settle()
    expect_once(c.record, frame)
    if error_code(answer) != _CANCELLED:
        judge(frame["method"], answer)


_BEFORE: Final = ("cancelling.in-flight", "cancelling.unknown", "cancelling.finished")


@requirement(
    "cancelling.tool",
    section="8",
    title="a tool call and its cancel in one write give one answer",
    after=_BEFORE,
)
async def _tool(c: Connection) -> None:
    await _at_once(c, c.calls.tool())


@requirement(
    "cancelling.hook",
    section="8",
    title="a hook and its cancel in one write give one answer",
    after=(*_BEFORE, "cancelling.tool"),
)
async def _hook(c: Connection) -> None:
    await _at_once(c, c.calls.hook())


@requirement(
    "cancelling.command",
    section="8",
    title="a command and its cancel in one write give one answer",
    after=(*_BEFORE, "cancelling.tool", "cancelling.hook"),
)
async def _command(c: Connection) -> None:
    await _at_once(c, c.calls.command())


@requirement(
    "cancelling.provider",
    section="8",
    title="a streamed completion and its cancel in one write give one answer",
    after=(*_BEFORE, "cancelling.tool", "cancelling.hook", "cancelling.command"),
)
async def _provider(c: Connection) -> None:
    await _at_once(c, c.calls.provider(stream=True))


@requirement(
    "cancelling.in-flight",
    section="8",
    title="a call in flight that is cancelled is answered once, with -32800: a tool's, a hook's, a stream, any other",
    after=(
        "traffic.frames",
        "tools.ping-beside",
        "tools.concurrent",
        "tools.own-answer",
        "notifications.stray-answers",
        "cancelling.unknown",
    ),
)
async def _in_flight(c: Connection) -> None:
    missed: NotApplicable | None = None
    caught = 0
    for catch in every_catch(c):
        # A call that is not held may end in the moment in which its cancel comes, but hardly four times.
        for tries in range(4):
            try:
                async with in_flight(c, catch) as frame:
                    done = await _cancel_in_flight(c, frame, catch.kind, last=tries == 3)
            except NotApplicable as reason:
                missed = reason
                break
            caught += done
            if done:
                break
    if not caught:
        raise missed or NotApplicable("whatever was caught had finished before its cancel was read")


async def _cancel_in_flight(c: Connection, frame: Frame, kind: Kind, *, times: int = 1, last: bool = True) -> bool:
    """Cancel a call; False if it had finished before the cancel was read, or may have, and this is not the last try."""
    c.send(*[cancel(frame["id"])] * times)
    await c.alive()  # the cancel has been read
    if kind is not Kind.ASKING and any("result" in answer for answer in c.record.answers(frame["id"])):
        return False
    # A call that cannot be stopped while it waits for the host must stop when the host has answered.
    if not await c.answered(frame, c.patience.answer):
        c.replies.release()
    answer = await c.answer(frame)
    await c.settle()
    expect_once(c.record, frame)
    if not last and kind is not Kind.ASKING and "result" in answer:
        return False
    expect_error(answer, _CANCELLED)
    return True


_IN_FLIGHT: Final = ("tools.ping-beside", "traffic.ids", "notifications.stray-answers", "cancelling.in-flight")


@requirement(
    "cancelling.twice",
    section="8",
    title="a second cancel of a call in flight changes nothing: one answer",
    after=_IN_FLIGHT,
)
async def _twice(c: Connection) -> None:
    catch = tool_catches(c)[0]
    async with in_flight(c, catch) as frame:
        await _cancel_in_flight(c, frame, catch.kind, times=2)


@requirement(
    "cancelling.others", section="8", title="a cancel ends the call that it names, and no other", after=_IN_FLIGHT
)
async def _others(c: Connection) -> None:
    async with in_flight(c, tool_catches(c)[0]) as kept:
        cancelled = c.calls.tool(kept["params"]["tool"])
        c.send(cancelled, cancel(cancelled["id"]))
        await c.alive()
        c.replies.release()
        answer = await c.answer(kept)
        await c.answer(cancelled)
        if error_code(answer) == _CANCELLED:
            raise Violation("the result of the call that was not cancelled")


@requirement(
    "cancelling.lookalike",
    section="1",
    title='a cancel of "7" does not end the request 7',
    after=("cancelling.unknown", *_IN_FLIGHT, "cancelling.others"),
    advice=True,
)
async def _lookalike(c: Connection) -> None:
    async with in_flight(c, tool_catches(c)[0]) as frame:
        c.send(cancel(str(frame["id"])))
        await c.settle()
        c.replies.release()
        if error_code(await c.answer(frame)) == _CANCELLED:
            raise Violation("the result of the call, which was not cancelled")
