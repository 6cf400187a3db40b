"""Lines that a correct host never sends, and valid ones in unusual chunks: the extension goes on after each of them.

JSON-RPC answers a line that is not JSON with -32700 and one that is not a request with -32600, under its id, or null if
it has none. Going on is required. The error is advice only: a host does not need to be told of its own mistakes.
"""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Final

from sepkit.conformance.connection import Connection
from sepkit.conformance.expectations import refuses
from sepkit.conformance.lines import shown, written
from sepkit.conformance.requirement import requirement
from sepkit.conformance.violations import Violation

_NO_JSON: Final = (-32700,)
_NO_REQUEST: Final = (-32600,)
_BAD_PARAMS: Final = (-32600, -32602, -32601)  # the last: it may not have the method

# Name, description, the lines, and the codes that may be answered to them.
_HOSTILE: Final[tuple[tuple[str, str, tuple[bytes, ...], tuple[int, ...]], ...]] = (
    (
        "bad-json",
        "a line that is no JSON",
        (b"hello", b'{"jsonrpc": "2.0", "id": 90001, "method": "ping"', b"{'jsonrpc': '2.0'}", b"}"),
        _NO_JSON,
    ),
    ("bad-utf-8", "a line that is no UTF-8", (b'{"jsonrpc": "2.0", "method": "\xff\xfe"}', b"\x80\x80"), _NO_JSON),
    ("null", "null", (b"null",), _NO_REQUEST),
    ("number", "a number", (b"5", b"-1.5"), _NO_REQUEST),
    ("string", "a string", (b'"ping"', b'""'), _NO_REQUEST),
    ("boolean", "true or false", (b"true", b"false"), _NO_REQUEST),
    ("array", "an array", (b"[]", b"[1]"), _NO_REQUEST),
    (
        "batch",
        "a batch, since there is one message a line",
        (b'[{"jsonrpc": "2.0", "id": 90002, "method": "ping", "params": {}}]',),
        _NO_REQUEST,
    ),
    ("empty-object", "an object without a method", (b"{}", b'{"jsonrpc": "2.0", "id": 90003}'), _NO_REQUEST),
    ("no-jsonrpc", "a frame without jsonrpc", (b'{"id": 90004, "method": "ping", "params": {}}',), _NO_REQUEST),
    (
        "wrong-jsonrpc",
        "a frame of another JSON-RPC",
        (
            b'{"jsonrpc": "1.0", "id": 90005, "method": "ping", "params": {}}',
            b'{"jsonrpc": 2, "id": 90006, "method": "ping", "params": {}}',
        ),
        _NO_REQUEST,
    ),
    (
        "method-no-string",
        "a method that is no string",
        (
            b'{"jsonrpc": "2.0", "id": 90007, "method": 5, "params": {}}',
            b'{"jsonrpc": "2.0", "id": 90008, "method": null, "params": {}}',
            b'{"jsonrpc": "2.0", "method": {"name": "ping"}}',
        ),
        _NO_REQUEST,
    ),
    (
        "params-no-object",
        "params that are no object",
        (
            b'{"jsonrpc": "2.0", "id": 90009, "method": "tool/execute", "params": "text"}',
            b'{"jsonrpc": "2.0", "id": 90010, "method": "hook", "params": null}',
            b'{"jsonrpc": "2.0", "method": "event", "params": 5}',
        ),
        _BAD_PARAMS,
    ),
    (
        "id-no-id",
        "an id that is none",
        (
            b'{"jsonrpc": "2.0", "id": {"a": 1}, "method": "ping", "params": {}}',
            b'{"jsonrpc": "2.0", "id": [1], "method": "ping", "params": {}}',
            b'{"jsonrpc": "2.0", "id": true, "method": "ping", "params": {}}',
        ),
        _NO_REQUEST,
    ),
)


def _hostile(name: str, what: str, lines: tuple[bytes, ...], codes: tuple[int, ...]) -> None:
    @requirement(f"frames.{name}", section="1", title=f"after {what}: lives on, silent or with the right error")
    async def survives(c: Connection) -> None:
        for line in lines:
            before = len(c.record.lines)
            c.send_raw(line + b"\n", hostile=True)
            await c.settle()
            for came in c.record.lines[before:]:
                if (
                    not came.sent
                    and came.is_response
                    and "error" in came.frame
                    and _is_about(came.frame.get("id"), line)
                    and not refuses(came.frame, *codes)
                ):
                    wanted = " or ".join(map(str, codes))
                    raise Violation(f"an error with the code {wanted}, or none", str(came))

    @requirement(f"frames.{name}-told", section="1", title=f"after {what}: tells of it, with one error", advice=True)
    async def tells(c: Connection) -> None:
        for line in lines:
            frame = _request(line)
            if frame is not None and "id" not in frame and "method" in frame:
                continue  # it looks like a notification, which is never answered
            before = len(c.record.lines)
            c.send_raw(line + b"\n", hostile=True)
            await c.settle()
            told = [
                x.data
                for x in c.record.lines[before:]
                if not x.sent and x.is_response and refuses(x.frame, *codes) and _is_about(x.frame.get("id"), line)
            ]
            if len(told) != 1:
                wanted = " or ".join(map(str, codes))
                raise Violation(f"one error with the code {wanted}", " ".join(shown(told)) or "none")


def _request(line: bytes) -> dict[str, object] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _is_about(rid: object, line: bytes) -> bool:
    """Whether an error with this id can be about the line; otherwise it is about the ping that followed."""
    frame = _request(line)
    return rid is None or (frame is not None and frame.get("id") == rid)


for _entry in _HOSTILE:
    _hostile(*_entry)


async def _echoed(c: Connection, rid: object) -> None:
    await c.ask(c.calls.fence(rid))


@requirement("frames.pieces", section="1", title="a frame may come in pieces, cut anywhere")
async def _pieces(c: Connection) -> None:
    frame = c.calls.fence("pieces é 😀")
    line = written(frame) + b"\n"
    cuts = sorted({0, 1, line.index(b"\xc3") + 1, line.index(b"\xf0") + 2, len(line) - 1, len(line)})
    c.record.sent(line.removesuffix(b"\n"))
    for start, end in pairwise(cuts):
        c.child.write(line[start:end])
        await c.flushed()
        await asyncio.sleep(0.01)
    await c.answer(frame)


@requirement("frames.many-at-once", section="1", title="200 requests in one write are each answered")
async def _many(c: Connection) -> None:
    frames = [c.calls.fence() for _ in range(200)]
    c.send(*frames)
    for frame in frames:
        await c.answer(frame)


@requirement("frames.long", section="1", title="a line of 1 MiB is read like any other: none is too long")
async def _long(c: Connection) -> None:
    frame = c.calls.fence()
    frame["params"] = {"unknown": "x" * (1024 * 1024)}
    await c.ask(frame, c.patience.call)


@requirement(
    "frames.spelling",
    section="1",
    title="JSON may be spelt otherwise: spaces, another order, escapes, an unknown field between",
)
async def _spelling(c: Connection) -> None:
    method = c.calls.fence()["method"]
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in method)
    id_first = '{ "params" : { } , "unknown":[{"a":null}],\t"id":"sp\\u0065lling","jsonrpc":"2\\u002e0","method":"'
    line = f'{id_first}{escaped}" }} '
    c.send_raw(line.encode() + b"\n")
    await c.answer({"id": "spelling", "method": method})


@requirement(
    "frames.unicode",
    section="1",
    title="what JSON allows in a string comes back as it went: U+2028, NUL, emoji, quotes",
)
async def _unicode(c: Connection) -> None:
    await _echoed(c, 'a\u2028b\u0000c😀"\\/\u007f')


@requirement("frames.blank-line", section="1", title="a blank line between frames is passed over", advice=True)
async def _blank_line(c: Connection) -> None:
    c.send_raw(b"\n", hostile=True)
    await c.settle()
    if c.record.unasked():
        raise Violation("no answer to a blank line")


@requirement(
    "frames.crlf", section="1", title=r"a line that ends with \r\n is read: to JSON \r is a space", advice=True
)
async def _crlf(c: Connection) -> None:
    frame = c.calls.fence()
    c.send_raw(json.dumps(frame).encode() + b"\r\n", hostile=True)
    await c.answer(frame)


@requirement("frames.deep", section="1", title="lives on after 100,000 nested brackets", advice=True)
async def _deep(c: Connection) -> None:
    c.send_raw(b"[" * 100_000 + b"]" * 100_000 + b"\n", hostile=True)
    await c.settle()
