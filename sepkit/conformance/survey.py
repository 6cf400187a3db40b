"""Finds out how the extension behaves: what it can always be asked, and how each thing that it registers answers.

It fills in the subject; judging the answers is left to the topics.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from sepkit.conformance.connection import Connection
from sepkit.conformance.flight import in_flight
from sepkit.conformance.lines import Frame
from sepkit.conformance.record import ABOUT
from sepkit.conformance.subject import SLOW, Asked, Catch, Fence, Kind, Subject, Target
from sepkit.conformance.violations import NotApplicable, Violation
from sepkit.wire import methods


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
    unanswered: set[str] = set()
    # What it asks at its start must not be taken for a question of the first tool.
    with suppress(Violation):
        await c.settle()
    # The record must hold an error and a letter beyond ASCII, whichever checks are run.
    with suppress(Violation):
        await c.ask(c.calls.request("conformance/unknown", rid="survey é"))
    for target in subject.targets():
        frame, answer, trouble, late = c.calls.of(target), None, "", False
        suspects: tuple[str, ...] = ()
        mark = len(c.record.lines)
        try:
            if c.over:
                await c.child.aclose()
                c = await again()
                frame, mark = c.calls.of(target), len(c.record.lines)
            began = loop.time()
            if target.method in unanswered:
                # The requirement is broken already, so the others of the kind need not be waited for as long.
                answer = await c.ask(frame, max(c.patience.call / 10, 2 * subject.longest))
            else:
                answer = await _patiently(c, frame)
            seconds = loop.time() - began
            subject.longest = max(subject.longest, seconds)
        except Violation as violation:
            trouble, suspects, late = violation.came or "", violation.suspects, not c.over
            if late:
                unanswered.add(target.method)
            c.doomed = True
        asks = any(not x.sent and x.method is not None and "id" in x.frame for x in c.record.lines[mark:])
        updates = len(c.record.told(methods.TOOL_UPDATE, call_id=frame["params"].get("call_id", "")))
        subject.asked.append(Asked(target, frame, answer, trouble, suspects, late, asks, updates))
        if answer is None:
            continue
        if asks and await _waits(c, target, seconds):
            kind = Kind.ASKING
        elif c.record.told(methods.PROVIDER_DELTA, request_id=frame["params"].get("request_id", "")):
            kind = Kind.STREAMING
        elif SLOW <= seconds < c.patience.call / 2:
            kind = Kind.SLOW
        else:
            continue
        if not _has(subject, target.method, kind):
            subject.catches.append(Catch(target, kind))


async def _patiently(c: Connection, frame: Frame) -> Frame:
    """The answer to a call, for which hosts wait longer than is usual here.

    Raises:
        Violation: None came.
    """
    try:
        return await c.ask(frame)
    except Violation as violation:
        method = frame["method"]
        seconds = c.patience.host(method)
        # Something that came may be meant as the answer: then no more comes.
        if c.over or set(violation.suspects) - set(ABOUT[method]) or seconds <= c.patience.call:
            raise
        if not await c.answered(frame, seconds - c.patience.call):
            raise Violation(violation.expected, f"nothing within {seconds:g} s", suspects=violation.suspects) from None
        return c.record.answers(frame["id"])[0]


def _has(subject: Subject, method: str, kind: Kind) -> bool:
    return any((one.target.method, one.kind) == (method, kind) for one in subject.catches)


async def _waits(c: Connection, target: Target, seconds: float) -> bool:
    """Whether a call waits for what it asks of the host. Something else may have asked meanwhile, such as a task.

    The call took so many ``seconds`` before.
    """
    if _has(c.subject, target.method, Kind.ASKING):
        return True
    try:
        async with in_flight(c, Catch(target, Kind.ASKING)) as frame:
            return not await c.answered(frame, 0.1 + 2 * seconds)
    except (Violation, NotApplicable):
        return False
