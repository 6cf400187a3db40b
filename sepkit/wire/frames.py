r"""Frames: newline-delimited JSON-RPC 2.0, bytes ⇄ plain dicts.

Pure functions, and one small accumulator for bytes that arrive in pieces. A frame is a dict, never a class: it lives
for microseconds. What a frame means is the peer's business; whether it *is* one is decided here.

Source: docs/protocol.md, section 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from typing import Any, Final, TypeGuard

import orjson

from sepkit.errors import Code, EncodeError, FrameError, sayable

Frame = dict[str, Any]
Id = int | str

MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
_BOM: Final = b"\xef\xbb\xbf"
_EMPTY: Final[Frame] = {}
_SMALL: Final = 4096
ID_TYPES: Final = (int, str)
_MENDABLE: Final = 1024 * 1024  # bytes; a hostile line of this size takes 50 ms to mend, of 64 MiB 3 s
# A high one without a low one behind it, or a low one without a high one before it.
_LONE_SURROGATE: Final = (
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)

# How an answer begins, whoever writes it; what is within a result cannot look like that.
_HEAD: Final = 100
_VERSION: Final = rb'(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?'
_ANSWER: Final = rb"\s*\{\s*" + _VERSION + rb'"id"\s*:\s*(\d{1,18})\s*,\s*' + _VERSION + rb'"(?:result|error)"'

loads: Final[Callable[[bytes], Any]] = orjson.loads
unchecked_dumps: Final[Callable[[object], bytes]] = orjson.dumps

RESULT: Final = b'{"jsonrpc":"2.0","id":%d,"result":%b}\n'
"""The line of a success response."""


class LineSplitter:
    r"""Cuts a stream of bytes into lines, whatever the pieces it arrives in.

    A line over ``limit`` bytes is thrown away while it comes in, and stands in the output as one :class:`FrameError`;
    the line after it is whole again. At most ``limit`` bytes (and the piece just fed) are held.
    """

    __slots__ = ("_at_start", "_held", "_pieces", "_skipping", "limit")

    def __init__(self, limit: int = MAX_FRAME_BYTES) -> None:
        self.limit = limit
        # The pieces of a line without its end yet. Joined once, when the end comes: adding to one buffer would copy a
        # 64 MiB line once a piece. Small ones gather in a bytearray: each as an object of its own weighs 40 bytes more.
        self._pieces: list[bytes | bytearray] = []
        self._held = 0
        self._skipping = False
        self._at_start = True

    def feed(self, data: bytes) -> list[bytes | FrameError]:
        """The lines that ``data`` completes, in order, without their line ends."""
        if self._at_start and data:
            data = self._without_bom(data)
        if b"\n" not in data:  # `split` looks at each byte by itself: that was a third of what a line of 1 MiB costs
            return self._hold(data)
        head, *parts = data.split(b"\n")
        rest = parts.pop()
        lines: list[bytes | FrameError] = [*self._finish(head), *parts]
        if len(data) > self.limit:  # only then can a line that lies within this piece be too long
            lines = [self._overlong(x) if isinstance(x, bytes) and len(x) > self.limit else x for x in lines]
        if rest:
            lines += self._hold(rest)
        return lines

    def end(self) -> list[bytes | FrameError]:
        """What the stream ended with, where its last line lacks its end."""
        if not self._pieces:
            return []
        line = b"".join(self._pieces)
        self._drop()
        return [line if len(line) <= self.limit else self._overlong(line)]

    def _hold(self, piece: bytes) -> list[bytes | FrameError]:
        """Keep a piece whose end has not come; the error, where the line grows too long by it."""
        if self._skipping or not piece:
            return []
        if len(piece) >= _SMALL:
            self._pieces.append(piece)
        elif self._pieces and type(self._pieces[-1]) is bytearray and len(self._pieces[-1]) < _SMALL:
            self._pieces[-1] += piece
        else:
            self._pieces.append(bytearray(piece))
        self._held += len(piece)
        if self._held <= self.limit:
            return []
        start = b"".join([held[:_HEAD] for held in self._pieces[:_HEAD]])
        self._drop()
        self._skipping = True
        return [self._overlong(start)]

    def _finish(self, piece: bytes) -> list[bytes | FrameError]:
        """The line that ends with ``piece``; nothing, where its error has been given already."""
        if self._skipping:
            self._skipping = False
            return []
        if not self._pieces:
            return [piece]
        line = b"".join((*self._pieces, piece))
        self._drop()
        return [line if len(line) <= self.limit else self._overlong(line)]

    def _drop(self) -> None:
        self._pieces = []
        self._held = 0

    def _without_bom(self, data: bytes) -> bytes:
        # Three bytes that may come one by one: wait until they can be told from a frame.
        data = b"".join((*self._pieces, data))
        self._drop()
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._pieces, self._held = [data], len(data)
            return b""
        self._at_start = False
        return data.removeprefix(_BOM)

    def _overlong(self, start: bytes) -> FrameError:
        return refused_line(start, f"the line is longer than max_frame_bytes ({self.limit} bytes)")


def refused_line(start: bytes, why: str) -> FrameError:
    """The error that stands for a line which is not read. From its start it is known what it would have answered."""
    found = re.match(_ANSWER, start[:_HEAD])
    return FrameError(Code.INVALID_REQUEST, why, answers=None if found is None else int(found[1]))


def is_id(value: object) -> TypeGuard[Id]:
    """Whether ``value`` may be an id: an integer or a string, and no boolean, fraction or null."""
    return type(value) is int or type(value) is str


def decode(line: bytes, one_way: Container[str] = (), frame: Any = None) -> Frame:
    """The frame in a line of bytes.

    Requests and notifications come back well-formed: ``jsonrpc``, ``method``, ``params`` and ``id`` have the right
    types. A response comes back as it is: an answer is never answered, and the peer settles what is wrong with it with
    whoever waits for it.

    Null is absent: for ``params``, for ``method`` and ``error`` in a response, and for the ``id`` of a method that is
    ``one_way``, which is only ever notified of. Any other null ``id`` is refused.

    ``frame`` is what the line holds, where it has been parsed already: a long line is not parsed twice.

    Half a character (a text that was cut within an emoji, which JavaScript sends as a lone surrogate) is read as
    U+FFFD: refused as a whole, the line would leave its call without an answer, since its id would be lost.

    Raises:
        FrameError: It is no frame: -32700 where it is no JSON (``NaN`` and bad UTF-8 included), else -32600.
    """
    if frame is None:
        try:
            frame = loads(line)
        except orjson.JSONDecodeError as error:
            frame = _without_lone_surrogates(line)
            if frame is None:
                # The message holds no part of the line but its position.
                raise FrameError(Code.PARSE_ERROR, f"not JSON: {error}") from None
    # What is well-formed is told in four lookups; what is not takes the long way, which finds the reason.
    if (
        type(frame) is dict
        and frame.get("jsonrpc") == "2.0"
        and type(frame.get("method")) is str
        and type(frame.get("params", _EMPTY)) is dict
        and type(frame.get("id", 0)) in ID_TYPES
    ):
        return frame
    return check(without_nulls(frame, one_way))


def _without_lone_surrogates(line: bytes) -> object:
    """What a line holds, with U+FFFD in place of half characters; None where that is not all that is wrong with it."""
    # Escaped backslashes are put aside as what no JSON holds, so that what looks like an escape is one.
    if b"\0" in line or len(line) > _MENDABLE:
        return None
    mended, count = re.subn(_LONE_SURROGATE, rb"\\ufffd", line.replace(rb"\\", b"\0"))
    if not count:
        return None
    try:
        frame = loads(mended.replace(b"\0", rb"\\"))
    except orjson.JSONDecodeError:
        return None
    # An id must go back as it came.
    return None if type(frame) is not dict or "\ufffd" in str(frame.get("id")) else frame


def without_nulls(frame: object, one_way: Container[str] = ()) -> object:
    """A frame without the members that are null where they may be absent: many libraries write null for absent."""
    if type(frame) is not dict or None not in frame.values():
        return frame
    absent = {"method", "params", "error"}
    if frame.get("method") is not None or frame.get("error") is not None:
        absent.add("result")
    elif "result" not in frame:
        absent.discard("error")  # an answer that holds nothing is an answer all the same
    method = frame.get("method")
    if type(method) is str and (method in one_way or method.startswith("$/")):
        absent.add("id")
    return {name: value for name, value in frame.items() if value is not None or name not in absent}


def check(frame: object) -> Frame:
    """``frame`` itself if it is a JSON-RPC 2.0 frame.

    Raises:
        FrameError: It is not; with its id where one can be read and an answer is due.
    """
    if type(frame) is not dict:
        what = (
            "a batch is not supported; send one message a line" if type(frame) is list else "a frame is a JSON object"
        )
        raise FrameError(Code.INVALID_REQUEST, what)
    if is_response(frame):
        return frame
    found = frame.get("id")
    rid = found if is_id(found) else None
    if frame.get("jsonrpc") != "2.0":
        raise FrameError(Code.INVALID_REQUEST, 'jsonrpc must be "2.0"', rid)
    if "method" not in frame:
        raise FrameError(Code.INVALID_REQUEST, "a frame has a method, a result or an error", rid)
    if type(frame["method"]) is not str:
        raise FrameError(Code.INVALID_REQUEST, "method must be a string", rid)
    if "id" in frame and rid is None:
        raise FrameError(Code.INVALID_REQUEST, "id must be an integer or a string")
    if type(frame.get("params", _EMPTY)) is not dict:
        raise FrameError(Code.INVALID_REQUEST, "params must be an object", rid, is_notification="id" not in frame)
    return frame


def is_response(frame: object) -> bool:
    """Whether ``frame`` answers rather than asks. What answers is never answered, however malformed."""
    return type(frame) is dict and "method" not in frame and ("result" in frame or "error" in frame)


def dumps(value: object) -> bytes:
    """``value`` as JSON.

    Raises:
        EncodeError: It is not plain JSON data: a lone surrogate, an integer past 64 bits, a foreign type, too deep.
    """
    try:
        return unchecked_dumps(value)
    except (TypeError, RecursionError) as error:
        raise EncodeError("$", str(error)) from None


# Frames are put together so that none of orjson's own buffers lives on in them: kept alive by the hundred while replies
# wait for one write, those cost ~1.9 µs each, since they are shrunk by realloc. For the reply to a call `%` is the
# quickest way: 0.37 µs, where dumps of the whole and a `+` take 0.44.


def encode_result(rid: Id, result: object) -> bytes:
    """A success response, line end included.

    Raises:
        EncodeError: ``result`` is not plain JSON data.
    """
    try:
        if type(rid) is int:
            return RESULT % (rid, unchecked_dumps(result))
        return unchecked_dumps({"jsonrpc": "2.0", "id": rid, "result": result}) + b"\n"
    except (TypeError, RecursionError) as error:
        raise EncodeError("$", str(error)) from None


def filled_in(line: bytes, rid: Id, body: bytes, *, in_parts: bool) -> bytes | tuple[bytes, bytes, bytes]:
    """A success response: ``line`` as :data:`RESULT`, with the id and what is encoded already in their places.

    Where it is to be in parts, none of them is a copy of ``body``.
    """
    head, tail = line.replace(b"%d", dumps(rid), 1).rsplit(b"%b", 1)
    return (head, body, tail) if in_parts else b"".join((head, body, tail))


def encode_error(rid: Id | None, code: int, message: str, data: object = None) -> bytes:
    """An error response, line end included. ``data`` is left out where it is None."""
    error: dict[str, object] = {"code": code, "message": sayable(message)}
    if data is not None:
        error["data"] = data
    return dumps({"jsonrpc": "2.0", "id": rid, "error": error}) + b"\n"


def encode_request(rid: Id, method: str, params: object) -> bytes:
    """A request, line end included."""
    return dumps({"jsonrpc": "2.0", "id": rid, "method": method, "params": params}) + b"\n"


def encode_notification(method: str, params: object) -> bytes:
    """A notification, line end included."""
    return dumps({"jsonrpc": "2.0", "method": method, "params": params}) + b"\n"
