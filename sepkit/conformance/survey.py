"""Finds out how the extension behaves: what it can always be asked, and how each thing that it registers answers.

It fills in the subject; judging the answers is left to the topics.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from sepkit.conformance.connection import Connection
from sepkit.conformance.subject import Asked, Catch, Fence, Kind
from sepkit.conformance.violations import Violation
from sepkit.wire import methods

_SLOW: Final = 0.25  # seconds; a call that takes as long can be caught in flight


async def find_fence(c: Connection) -> None:
    """Find a request that it answers without any work."""
    for fence in Fence:
        with suppress(Violation):
            await c.ask(c.calls.request(fence.value))
            c.subject.fence = fence
            return
    c.subject.fence = None


async def survey(c: Connection, again: Callable[[], Awaitable[Connection]]) -> None:
    """Call each thing that it registers once; on a new connection from ``again`` where one breaks."""
    subject, loop = c.subject, asyncio.get_running_loop()
    # The record must hold an error and a letter beyond ASCII, whichever checks are run.
    with suppress(Violation):
        await c.ask(c.calls.request("conformance/unknown", rid="survey é"))
    for target in subject.targets():
        frame, answer, trouble, late = c.calls.of(target), None, "", False
        mark = len(c.record.lines)
        try:
            if c.over:
                await c.child.aclose()
                c = await again()
                frame, mark = c.calls.of(target), len(c.record.lines)
            began = loop.time()
            answer = await c.ask(frame)
            seconds = loop.time() - began
            subject.longest = max(subject.longest, seconds)
        except Violation as violation:
            trouble, late = violation.came or "", not c.over
            c.doomed = True
        asks = any(not x.sent and x.method is not None and "id" in x.frame for x in c.record.lines[mark:])
        updates = len(c.record.told(methods.TOOL_UPDATE, call_id=frame["params"].get("call_id", "")))
        subject.asked.append(Asked(target, frame, answer, trouble, late, asks, updates))
        if answer is None:
            continue
        if asks:
            kind = Kind.ASKING
        elif c.record.told(methods.PROVIDER_DELTA, request_id=frame["params"].get("request_id", "")):
            kind = Kind.STREAMING
        elif seconds >= _SLOW:
            kind = Kind.SLOW
        else:
            continue
        if not any((one.target.method, one.kind) == (target.method, kind) for one in subject.catches):
            subject.catches.append(Catch(target, kind))
