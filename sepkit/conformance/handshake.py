"""The handshake: how ``initialize`` is answered, and with which version.

The registrations in the answer are a topic of their own.
"""

from __future__ import annotations

import codecs
import json

from sepkit.conformance.calls import initialize_params
from sepkit.conformance.connection import Connection
from sepkit.conformance.evidence import Evidence
from sepkit.conformance.expectations import expect_error, fitting
from sepkit.conformance.lines import Frame, shortened
from sepkit.conformance.requirement import Process, observation, requirement
from sepkit.conformance.violations import Violation
from sepkit.wire import messages


async def _greet(c: Connection, **changes: object) -> Frame:
    """Do a handshake with these changes of its params; its result."""
    return _result(await c.ask(c.calls.initialize(**changes)))


def _result(answer: Frame) -> Frame:
    result = answer.get("result")
    if not isinstance(result, dict):
        raise Violation("a result of initialize", shortened(json.dumps(answer).encode()))
    return result


def _version_1(result: Frame) -> None:
    version = result.get("protocol_version")
    if type(version) is not int or version != 1:
        raise Violation("protocol_version 1, the only one there is today", f"protocol_version {json.dumps(version)}")


@requirement(
    "handshake.reply",
    section="2",
    title="initialize is answered with a result within 10 s",
    process=Process.BARE,
)
async def _replies(c: Connection) -> None:
    await _greet(c)


@observation("handshake.result", section="3", title="the result of initialize, registrations aside, fits its schema")
def _fits(e: Evidence) -> None:
    result = {name: value for name, value in _result(e.subject.greeting).items() if name != "registrations"}
    if "protocol_version" in result:
        result["protocol_version"] = 1  # handshake.version is about it
    fitting(result, messages.InitializeResult, "a result of initialize")


@observation(
    "handshake.version",
    section="1",
    title="a host of version 1 is answered with version 1, as an integer",
    after=("handshake.result",),
)
def _version(e: Evidence) -> None:
    _version_1(_result(e.subject.greeting))


@requirement(
    "handshake.newer-host",
    section="1",
    title="a host of a higher version is answered with version 1: the lower of the two counts",
    process=Process.BARE,
    after=("handshake.result", "handshake.version"),
)
async def _newer_host(c: Connection) -> None:
    _version_1(await _greet(c, protocol_version=7))


@requirement(
    "handshake.minimal",
    section="3",
    title="initialize needs none of its optional fields",
    process=Process.BARE,
    after=("handshake.nothing-enabled",),
)
async def _minimal(c: Connection) -> None:
    given = initialize_params(mode="headless")
    needed = {name: given[name] for name in ("protocol_version", "host", "workspace", "mode")}
    _result(await c.ask(c.calls.request("initialize", needed)))


@requirement(
    "handshake.nothing-enabled",
    section="3",
    title="a host without a screen, that has switched every capability off, is served as well",
    process=Process.BARE,
)
async def _nothing_enabled(c: Connection) -> None:
    groups = ("tools", "commands", "ui", "exec", "kv", "bus", "session", "providers")
    await _greet(c, mode="headless", ui_capabilities=[], capabilities_enabled=dict.fromkeys(groups, False))


@requirement(
    "handshake.unknown-fields",
    section="1",
    title="unknown fields in initialize are ignored, on every level",
    process=Process.BARE,
    after=(
        "methods.unknown-fields",
        "tools.unknown-fields",
        "hooks.unknown-fields",
        "commands.unknown-fields",
        "providers.unknown-fields",
    ),
)
async def _unknown_fields(c: Connection) -> None:
    params = initialize_params(unknown={"deep": [1]}, capabilities_enabled={"unknown": True})
    for name in ("host", "workspace", "session"):
        params[name] = {**params[name], "unknown": 1}
    _result(await c.ask(c.calls.request("initialize", params, unknown="field")))


@requirement(
    "handshake.ping-first",
    section="1",
    title="a ping before initialize is answered, if only with an error (JSON-RPC answers every request)",
    process=Process.BARE,
    odd=True,
)
async def _ping_first(c: Connection) -> None:
    early = c.calls.fence()
    c.send(early)
    await c.answered(early, c.patience.answer)
    await _greet(c)
    if not await c.answered(early, c.patience.answer):
        wanted, came = "an answer to the ping before initialize", "none, not even after the handshake"
        raise Violation(wanted, came, suspects=c.record.suspects("ping"))


@requirement(
    "handshake.burst",
    section="1",
    title="initialize and a ping in one write are both answered: lines are told apart by their ends alone",
    process=Process.BARE,
)
async def _burst(c: Connection) -> None:
    greeting, ping = c.calls.initialize(), c.calls.fence()
    c.send(greeting, ping)
    _result(await c.answer(greeting))
    await c.answer(ping)


@requirement(
    "handshake.twice",
    section="1",
    title="a second initialize is answered, with a result or an error, and the extension lives on",
    process=Process.OWN,
    odd=True,
)
async def _twice(c: Connection) -> None:
    await c.ask(c.calls.initialize())
    await c.alive()


@requirement(
    "handshake.request-first",
    section="2",
    title="a request before initialize is refused with -32600",
    process=Process.BARE,
    advice=True,
)
async def _request_first(c: Connection) -> None:
    params = {"call_id": "early", "tool": "early", "arguments": {}, "context": c.host.context()}
    expect_error(await c.ask(c.calls.request("tool/execute", params), c.patience.handshake), -32600)


@requirement(
    "handshake.byte-order-mark",
    section="1",
    title="a byte order mark before the first line is ignored",
    process=Process.BARE,
    advice=True,
)
async def _byte_order_mark(c: Connection) -> None:
    frame = c.calls.initialize()
    c.send_raw(codecs.BOM_UTF8 + json.dumps(frame).encode() + b"\n")
    # It may tell of the line instead, and need not be waited for then.
    await c.until(lambda: bool(c.record.answers(frame["id"]) or c.record.unasked()), c.patience.handshake)
    if not c.record.answers(frame["id"]):
        raise Violation("an answer to initialize")
    _result(await c.answer(frame))


@observation("handshake.quiet", section="2", title="it says nothing before it has answered initialize", advice=True)
def _quiet(e: Evidence) -> None:
    for connection in e.connections:
        greeted = False
        for line in connection.record.lines:
            greeted = greeted or (line.sent and line.method == "initialize")
            if line.method is not None and not line.sent:
                raise Violation("the answer to initialize before anything else", str(line))
            if greeted and line.is_response and not line.sent:
                break
