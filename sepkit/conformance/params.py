"""Params that do not fit: each method that takes params answers a request without them, and one with wrong ones.

The protocol has a code for it, -32602, and does not say who checks what: an extension that validates nothing conforms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sepkit.conformance.connection import Connection
from sepkit.conformance.expectations import expect_error, known
from sepkit.conformance.lines import Frame
from sepkit.conformance.requirement import Process, requirement


def bad_params(
    name: str, method: str, requests: Callable[[Connection], Iterable[Frame]], *, after: tuple[str, ...] = ()
) -> None:
    """Register the requirement ``name``, and the advice about the code of the error.

    Args:
        name: The id of the requirement; the advice has ``-told`` behind it.
        method: The method.
        requests: Makes the requests for a connection. It raises ``NotApplicable`` where there is nothing to send.
        after: What the requirement presupposes.
    """
    title = f"{method} without its params, or with wrong ones, is answered"

    @requirement(
        name, section="8", title=f"{title}, and not with -32601", process=Process.SHARED, after=after, odd=True
    )
    async def answers(c: Connection) -> None:
        for frame in requests(c):
            known(method, await c.ask(frame, c.refusal))

    told = tuple(f"{one}-told" for one in after)

    @requirement(
        f"{name}-told",
        section="8",
        title=f"{title} with -32602",
        process=Process.SHARED,
        after=(name, *after, *told),
        advice=True,
    )
    async def refuses(c: Connection) -> None:
        for frame in requests(c):
            expect_error(await c.ask(frame, c.refusal), -32602)
