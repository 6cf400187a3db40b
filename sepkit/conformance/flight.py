"""A call that is certainly in flight: of a tool whose question to the host is held back, or of a slow one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from sepkit.conformance.connection import Connection, Frame
from sepkit.conformance.requirements import NotApplicable

Kind = Literal["asking", "slow"]


def kinds(c: Connection, *among: Kind) -> list[Kind]:
    """How a call can be caught here.

    Raises:
        NotApplicable: It cannot.
    """
    tools: dict[Kind, str | None] = {"asking": c.subject.asking, "slow": c.subject.slow}
    found = [kind for kind in among or ("asking", "slow") if tools[kind] is not None]
    if not found:
        slow = "" if among == ("asking",) else " or takes longer than 0.25 s"
        raise NotApplicable(f"no tool asks the host for anything{slow}; give one that does its arguments")
    return found


@asynccontextmanager
async def in_flight(c: Connection, kind: Kind) -> AsyncIterator[Frame]:
    """A call that has begun and not ended. What it asks the host is answered when the block is left.

    Raises:
        NotApplicable: This time it was answered at once.
    """
    frame = c.subject.tool_call(c, c.subject.asking if kind == "asking" else c.subject.slow)
    c.holding = kind == "asking"
    try:
        c.send(frame)
        if kind == "asking":
            await c.until(lambda: bool(c.held or c.answers(frame["id"])), c.patience.call)
        else:
            await c.alive()
        if c.answers(frame["id"]) or (kind == "asking" and not c.held):
            raise NotApplicable("the call could not be caught in flight this time")
        yield frame
    finally:
        c.release()
