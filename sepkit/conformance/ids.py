"""Ids: integers and strings, which come back unchanged."""

from __future__ import annotations

import json

from sepkit.conformance.connection import Connection
from sepkit.conformance.expectations import expect_error, expect_once
from sepkit.conformance.requirement import requirement
from sepkit.conformance.violations import NotApplicable, Violation


def _returned(name: str, rid: int | str, what: str, *, advice: bool = False, after: tuple[str, ...] = ()) -> None:
    title = f"{what} comes back unchanged: {json.dumps(rid)}"

    @requirement(f"ids.{name}", section="1", title=title, advice=advice, after=after)
    async def returns(c: Connection) -> None:
        frame = c.calls.fence(rid)
        # An id that only advice asks for may be refused, under the id null.
        c.send_raw(json.dumps(frame).encode() + b"\n")
        if advice:
            await c.settle()
            expect_once(c.record, frame)
        else:
            try:
                await c.answer(frame)
            except Violation as violation:  # where it is rounded, the answer belongs to no request
                violation.suspects = tuple(one for one in violation.suspects if one != "traffic.unasked")
                raise


_returned("zero", 0, "the id 0")
_returned("negative", -7, "a negative id")
_returned("large", 2**53 - 1, "the largest integer that every JSON reader holds exactly")
_returned("64-bit", 2**63 - 1, "the largest integer of 64 bits", advice=True, after=("ids.zero", "ids.large"))
_returned("string", "request-1", "a string")
_returned("empty-string", "", "the empty string", after=("ids.zero",))


@requirement("ids.lookalikes", section="1", title='7 and "7" are two requests, each with its answer')
async def _lookalikes(c: Connection) -> None:
    number, text = c.calls.fence(7), c.calls.fence("7")
    c.send(number, text)
    await c.answer(number)
    await c.answer(text)
    await c.settle()
    expect_once(c.record, number)
    expect_once(c.record, text)


@requirement("ids.in-errors", section="1", title="an error has the id of its request, too")
async def _in_errors(c: Connection) -> None:
    if c.subject.fence is None:
        raise NotApplicable("it answers neither ping nor an unknown method")
    for rid in ("an error", 8001):
        try:
            await c.ask(c.calls.request("conformance/unknown", rid=rid))
        except Violation as violation:
            violation.suspects = violation.suspects or ("methods.unknown",)
            raise


@requirement(
    "ids.null",
    section="1",
    title="a request with the id null is refused with -32600, or taken for a notification",
    advice=True,
)
async def _null(c: Connection) -> None:
    frame = c.calls.fence()
    frame["id"] = None
    c.send_raw(json.dumps(frame).encode() + b"\n")
    await c.settle()
    answers = [x.frame for x in c.record.since_mark(sent=False) if x.is_response and x.frame.get("id") is None]
    if len(answers) > 1:
        raise Violation("one error with the code -32600 and the id null, or nothing")
    for answer in answers:
        expect_error(answer, -32600)
