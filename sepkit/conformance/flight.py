"""A call that is certainly in flight: it waits for an answer of the host that is held back, or is slow, or streams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sepkit.conformance.connection import Connection
from sepkit.conformance.lines import Frame
from sepkit.conformance.subject import Catch, Kind
from sepkit.conformance.violations import NotApplicable
from sepkit.wire import methods


def tool_catches(c: Connection, *among: Kind) -> list[Catch]:
    """The tools whose calls can be caught in flight; the most reliable kind first.

    Raises:
        NotApplicable: There is none.
    """
    every = [one for one in c.subject.catches if one.target.method == methods.TOOL_EXECUTE]
    found = [one for kind in (among or Kind) for one in every if one.kind is kind]
    if not found:
        slow = "" if among == (Kind.ASKING,) else " or takes longer than 0.25 s"
        raise NotApplicable(f"no tool asks the host for anything{slow}; give one that does its arguments")
    return found


def every_catch(c: Connection) -> list[Catch]:
    """Everything whose calls can be caught in flight.

    Raises:
        NotApplicable: There is nothing.
    """
    if not c.subject.catches:
        raise NotApplicable("nothing that can be called asks the host for anything, streams or takes over 0.25 s")
    return list(c.subject.catches)


@asynccontextmanager
async def in_flight(c: Connection, catch: Catch) -> AsyncIterator[Frame]:
    """A call that has begun and not ended. At the end of the block, its requests to the host are answered, and it ends.

    Raises:
        NotApplicable: This time it was answered at once.
    """
    frame = c.calls.of(catch.target)
    c.replies.holding = catch.kind is Kind.ASKING

    def begun() -> bool:
        if catch.kind is Kind.ASKING:
            return bool(c.replies.held)
        return bool(c.record.told("provider/delta", request_id=frame["params"]["request_id"]))

    try:
        c.send(frame)
        if catch.kind is not Kind.SLOW:
            await c.until(lambda: begun() or bool(c.record.answers(frame["id"])), c.patience.call)
        if catch.kind is not Kind.STREAMING:
            await _answers_a_ping(c, frame, catch.kind)
        if c.record.answers(frame["id"]) or not (catch.kind is Kind.SLOW or begun()):
            raise NotApplicable("the call could not be caught in flight this time")
        yield frame
    finally:
        c.replies.release()
        await c.answered(frame, c.patience.answer)  # what it still says is not the next check's matter


async def _answers_a_ping(c: Connection, call: Frame, kind: Kind) -> None:
    """Wait until a ping is answered beside a call, or the call is.

    A call that does not wait for the host is answered meanwhile, if something else has asked. And what does one thing
    after another answers the ping only after the call, so a slow one cannot be caught.
    """
    ping = c.calls.fence()
    c.send(ping)
    seconds = c.patience.moment if kind is Kind.ASKING else max(c.patience.answer, 2 * c.subject.longest)
    await c.until(lambda: bool(c.record.answers(call["id"]) or c.record.answers(ping["id"])), seconds)
