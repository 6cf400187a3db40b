"""Lines that a correct host never sends, and valid ones in unusual chunks: the extension goes on after each of them.

JSON-RPC answers a line that is not JSON with -32700 and one that is not a request with -32600, under its id, or null if
it has none. Going on is required. The error is advice only: a host does not need to be told of its own mistakes.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Final

from sepkit.conformance.connection import Connection
from sepkit.conformance.expectations import refuses
from sepkit.conformance.lines import Line, shown, written
from sepkit.conformance.requirement import requirement
from sepkit.conformance.violations import Violation

_NOT_JSON: Final = (-32700,)
_NOT_A_REQUEST: Final = (-32600,)
_BAD_PARAMS: Final = (-32600, -32602, -32601)  # the last: it may not have the method

# Name, description, the lines, and the codes that JSON-RPC has for them.
_HOSTILE: Final[tuple[tuple[str, str, tuple[bytes, ...], tuple[int, ...]], ...]] = (
    (
        "bad-json",
        "a line that is not JSON",
        (b"hello", b'{"jsonrpc": "2.0", "id": 90001, "method": "ping"', b"{'jsonrpc': '2.0'}", b"}"),
        _NOT_JSON,
    ),
    ("bad-utf-8", "a line that is not UTF-8", (b'{"jsonrpc": "2.0", "method": "\xff\xfe"}', b"\x80\x80"), _NOT_JSON),
    ("null", "null", (b"null",), _NOT_A_REQUEST),
    ("number", "a number", (b"5", b"-1.5"), _NOT_A_REQUEST),
    ("string", "a string", (b'"ping"', b'""'), _NOT_A_REQUEST),
    ("boolean", "true or false", (b"true", b"false"), _NOT_A_REQUEST),
    ("array", "an array", (b"[]", b"[1]"), _NOT_A_REQUEST),
    (
        "batch",
        "a batch, since there is one message a line",
        (b'[{"jsonrpc": "2.0", "id": 90002, "method": "ping", "params": {}}]',),
        _NOT_A_REQUEST,
    ),
    ("empty-object", "an object without a method", (b"{}", b'{"jsonrpc": "2.0", "id": 90003}'), _NOT_A_REQUEST),
    ("no-jsonrpc", "a frame without jsonrpc", (b'{"id": 90004, "method": "ping", "params": {}}',), _NOT_A_REQUEST),
    (
        "wrong-jsonrpc",
        "a frame of another JSON-RPC",
        (
            b'{"jsonrpc": "1.0", "id": 90005, "method": "ping", "params": {}}',
            b'{"jsonrpc": 2, "id": 90006, "method": "ping", "params": {}}',
        ),
        _NOT_A_REQUEST,
    ),
    (
        "method-no-string",
        "a method that is not a string",
        (
            b'{"jsonrpc": "2.0", "id": 90007, "method": 5, "params": {}}',
            b'{"jsonrpc": "2.0", "id": 90008, "method": ["ping"], "params": {}}',
            b'{"jsonrpc": "2.0", "method": {"name": "ping"}}',
        ),
        _NOT_A_REQUEST,
    ),
    (
        "params-no-object",
        "params that are not an object",
        (
            b'{"jsonrpc": "2.0", "id": 90009, "method": "tool/execute", "params": "text"}',
            b'{"jsonrpc": "2.0", "id": 90010, "method": "hook", "params": [1]}',
            b'{"jsonrpc": "2.0", "method": "event", "params": 5}',
        ),
        _BAD_PARAMS,
    ),
    (
        "id-no-id",
        "an id that is neither an integer nor a string",
        (
            b'{"jsonrpc": "2.0", "id": {"a": 1}, "method": "ping", "params": {}}',
            b'{"jsonrpc": "2.0", "id": [1], "method": "ping", "params": {}}',
            b'{"jsonrpc": "2.0", "id": true, "method": "ping", "params": {}}',
        ),
        _NOT_A_REQUEST,
    ),
)


def _hostile(name: str, what: str, lines: tuple[bytes, ...], codes: tuple[int, ...], before: tuple[str, ...]) -> None:
    """The requirement and the advice about one kind of bad line. ``before`` are the names of the kinds before it.

    What reads without care ends at many of them, so one after another is reported.
    """
    after = tuple(f"frames.{one}" for one in before)
    told = tuple(f"frames.{one}-told" for one in before)

    fine = f"silent or with the error {codes[0]}" if codes == _NOT_JSON else "with or without an error"

    @requirement(f"frames.{name}", section="1", title=f"after {what}: lives on, {fine}", after=after, odd=True)
    async def survives(c: Connection) -> None:
        for line in lines:
            begin = len(c.record.lines)
            c.send_raw(line + b"\n")
            await c.settle()
            # Of a line that cannot be read, only one thing can be said. About others, each error is a matter of taste.
            if codes != _NOT_JSON:
                continue
            for came in _about(c.record.lines[begin:], line):
                if "error" in came.frame and not refuses(came.frame, *codes, *_NOT_A_REQUEST):
                    raise Violation(f"an error with the code {codes[0]}, or none", str(came))

    @requirement(
        f"frames.{name}-told",
        section="1",
        title=f"after {what}: reports it, with one error of the code {' or '.join(map(str, codes))}",
        advice=True,
        after=("ids.zero", *after, f"frames.{name}", *told),
    )
    async def tells(c: Connection) -> None:
        for line in lines:
            frame = _request(line)
            if frame is not None and "id" not in frame and "method" in frame:
                continue  # it looks like a notification, which is never answered
            begin = len(c.record.lines)
            c.send_raw(line + b"\n")
            await c.settle()
            errors = [came.data for came in _about(c.record.lines[begin:], line) if refuses(came.frame, *codes)]
            if len(errors) != 1:
                wanted = " or ".join(map(str, codes))
                raise Violation(f"one error with the code {wanted}", " ".join(shown(errors)) or "none")


def _about(lines: list[Line], sent: bytes) -> list[Line]:
    """The answers among ``lines`` that can be about the line ``sent``; others are about the ping that followed."""
    return [x for x in lines if not x.sent and x.is_response and _is_about(x.frame.get("id"), sent)]


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


for _place, _entry in enumerate(_HOSTILE):
    _hostile(*_entry, before=tuple(one[0] for one in _HOSTILE[:_place]))


async def _echoed(c: Connection, rid: object) -> None:
    await c.ask(c.calls.fence(rid))


@requirement("frames.pieces", section="1", title="a frame may come in pieces, cut anywhere")
async def _pieces(c: Connection) -> None:
    frame = c.calls.fence("pieces é 😀")
    line = written(frame) + b"\n"
    cuts = sorted({0, 1, line.index(b"\xc3") + 1, line.index(b"\xf0") + 2, len(line) - 1, len(line)})
    await c.send_in_pieces(frame, (line[start:end] for start, end in pairwise(cuts)))
    await c.answer(frame)


@requirement("frames.many-at-once", section="1", title="200 requests in one write are each answered")
async def _many(c: Connection) -> None:
    frames = [c.calls.fence() for _ in range(200)]
    c.send(*frames)
    for frame in frames:
        await c.answer(frame)


@requirement(
    "frames.long",
    section="1",
    title="a line of 1 MiB is read like any other: none is too long",
    after=("methods.unknown-fields",),
)
async def _long(c: Connection) -> None:
    frame = c.calls.fence()
    frame["params"] = {"unknown": "x" * (1024 * 1024)}
    await c.ask(frame, c.patience.call)


@requirement(
    "frames.spelling",
    section="1",
    title="JSON may be written in other ways: spaces, another order, escapes, an unknown field between",
    after=("methods.unknown-fields",),
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


@requirement("frames.blank-line", section="1", title="a blank line between frames is ignored", advice=True)
async def _blank_line(c: Connection) -> None:
    c.send_raw(b"\n")
    await c.settle()
    if c.record.unasked():
        raise Violation("no answer to a blank line")


@requirement(
    "frames.crlf", section="1", title=r"a line that ends with \r\n is read: to JSON \r is a space", advice=True
)
async def _crlf(c: Connection) -> None:
    frame = c.calls.fence()
    c.send_raw(json.dumps(frame).encode() + b"\r\n")
    await c.answer(frame)


@requirement(
    "frames.deep",
    section="1",
    title="lives on after 100,000 nested brackets",
    advice=True,
    after=("frames.bad-json", "frames.long", "frames.bad-json-told"),
)
async def _deep(c: Connection) -> None:
    c.send_raw(b"[" * 100_000 + b"]" * 100_000 + b"\n")
    await c.settle()
