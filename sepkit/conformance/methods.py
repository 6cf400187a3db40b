"""Methods: unknown ones are refused, unknown fields of known ones are ignored."""

from __future__ import annotations

from sepkit.conformance.connection import Connection
from sepkit.conformance.expectations import expect_error, kind
from sepkit.conformance.lines import shortened, written
from sepkit.conformance.requirement import requirement
from sepkit.conformance.violations import Violation


@requirement("methods.unknown", section="8", title="an unknown method is answered with -32601")
async def _unknown(c: Connection) -> None:
    expect_error(await c.ask(c.calls.request("conformance/unknown")), -32601)


@requirement(
    "methods.near-miss",
    section="8",
    title="a method that only looks like a known one is unknown: -32601",
    after=("methods.unknown",),
)
async def _near_miss(c: Connection) -> None:
    for method in ("Ping", "ping ", "tool/execute/now", "toString"):
        expect_error(await c.ask(c.calls.request(method)), -32601)


@requirement(
    "methods.unknown-meta",
    section="8",
    title="an unknown request of the $/ kind is answered with -32601",
    after=("methods.unknown",),
)
async def _unknown_meta(c: Connection) -> None:
    expect_error(await c.ask(c.calls.request("$/conformance")), -32601)


@requirement(
    "methods.of-the-host",
    section="4",
    title="a method that only the host has is unknown to the extension: -32601",
    after=("methods.unknown", "methods.near-miss"),
)
async def _of_the_host(c: Connection) -> None:
    for method in ("kv/get", "ui/request"):
        expect_error(await c.ask(c.calls.request(method, {"key": "a"})), -32601)


@requirement("methods.unknown-fields", section="1", title="unknown fields of a frame and of its params are ignored")
async def _unknown_fields(c: Connection) -> None:
    frame = c.calls.fence()
    frame |= {"unknown": {"deep": [None]}, "params": {"unknown": 1}}
    answer, plain = await c.ask(frame), await c.ask(c.calls.fence())
    if kind(answer) != kind(plain):
        raise Violation("the same kind of answer as without them", shortened(written(answer)))
