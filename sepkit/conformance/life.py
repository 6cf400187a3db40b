"""Between the handshake and the end: ping, shutdown, and the end of stdin."""

from __future__ import annotations

import json

from sepkit.conformance.connection import Connection
from sepkit.conformance.expectations import fitting
from sepkit.conformance.requirement import Process, requirement
from sepkit.conformance.violations import Violation
from sepkit.wire.messages import Empty


def _empty_result(answer: dict[str, object], method: str) -> None:
    if "result" not in answer:
        raise Violation(f"the result {{}} of {method}", json.dumps(answer))
    fitting(answer["result"], Empty, f"a result of {method}")


@requirement("life.ping", section="3", title="ping is answered with {}")
async def _ping(c: Connection) -> None:
    _empty_result(await c.ask(c.calls.request("ping")), "ping")


@requirement(
    "life.ping-without-params",
    section="1",
    title="a request may leave its params out (JSON-RPC), as ping can",
    after=("life.ping",),
)
async def _ping_without_params(c: Connection) -> None:
    frame = c.calls.request("ping")
    del frame["params"]
    answer = await c.ask(frame)
    if "result" not in answer:
        raise Violation("the result {} of ping", json.dumps(answer))


@requirement(
    "life.shutdown",
    section="3",
    title="shutdown is answered with {} within 5 s",
    process=Process.OWN,
    after=("life.shutdown-exit",),
)
async def _shutdown(c: Connection) -> None:
    _empty_result(await c.ask(c.calls.request("shutdown")), "shutdown")


async def _exits(c: Connection) -> int:
    code = await c.child.exit(c.patience.end)
    if code is None:
        raise Violation(f"the process's exit within {c.patience.end:g} s", "it still runs")
    return code


@requirement(
    "life.shutdown-exit",
    section="2",
    title="within 5 s of shutdown the process exits, though its stdin stays open",
    process=Process.OWN,
)
async def _shutdown_exit(c: Connection) -> None:
    c.send(c.calls.request("shutdown"))
    await _exits(c)


@requirement(
    "life.shutdown-while-busy",
    section="2",
    title="shutdown, sent together with a tool call, still ends the process within 5 s",
    process=Process.OWN,
    after=("life.shutdown-exit",),
)
async def _shutdown_while_busy(c: Connection) -> None:
    call = c.calls.tool(c.subject.slow)
    c.send(call, c.calls.request("shutdown"))
    await _exits(c)


@requirement(
    "life.exit-code",
    section="2",
    title="after shutdown the exit code is 0",
    process=Process.OWN,
    advice=True,
    after=("life.shutdown-exit",),
)
async def _exit_code(c: Connection) -> None:
    c.send(c.calls.request("shutdown"))
    if code := await _exits(c):
        raise Violation("the exit code 0", f"exit code {code}")


@requirement(
    "life.end-of-file",
    section="2",
    title="the end of its stdin ends the process within 5 s: a host that died cannot send shutdown",
    process=Process.OWN,
    advice=True,
)
async def _end_of_file(c: Connection) -> None:
    c.child.end_input()
    await _exits(c)


@requirement(
    "life.end-of-file-while-busy",
    section="2",
    title="a call that was sent before the end of its stdin is still answered",
    process=Process.OWN,
    advice=True,
)
async def _end_of_file_while_busy(c: Connection) -> None:
    call = c.calls.tool()
    c.send(call)
    await c.flushed()
    c.child.end_input()
    await c.answer(call, c.patience.end)
