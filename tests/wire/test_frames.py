"""Frames: any chunking gives the same lines, what is encoded decodes to itself, what is no frame raises FrameError."""

from __future__ import annotations

import json
import math
import re
import time
import tracemalloc
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, Final

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sepkit.errors import Code, EncodeError, FrameError
from sepkit.wire.frames import (
    MAX_FRAME_BYTES,
    Frame,
    LineSplitter,
    check,
    decode,
    dumps,
    encode_error,
    encode_notification,
    encode_request,
    encode_result,
    is_id,
    is_response,
)

BOM: Final = b"\xef\xbb\xbf"
TOO_LONG: Final = "too long"
PING: Final = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{}}'

# -- lines -------------------------------------------------------------------------------------------------------------


def split(pieces: Iterable[bytes], limit: int = MAX_FRAME_BYTES) -> list[bytes | str]:
    """What a splitter makes of ``pieces`` and their end."""
    splitter = LineSplitter(limit)
    lines: list[bytes | FrameError] = []
    for piece in pieces:
        lines += splitter.feed(piece)
    lines += splitter.end()
    return [TOO_LONG if isinstance(line, FrameError) else line for line in lines]


def lines_of(stream: bytes, limit: int) -> list[bytes | str]:
    """The same, told from the whole stream at once: the specification in three lines."""
    *whole, rest = stream.removeprefix(BOM).split(b"\n")
    lines = [*whole, rest] if rest else whole
    return [line if len(line) <= limit else TOO_LONG for line in lines]


def cut(stream: bytes, places: Iterable[int]) -> list[bytes]:
    """``stream`` in pieces, cut at ``places``."""
    marks = [0, *sorted(places), len(stream)]
    return [stream[a:b] for a, b in pairwise(marks)]


# Parts of what a splitter must tell apart, so that a generated stream is full of them.
STREAMS: Final = st.lists(
    st.sampled_from([b"\n", b"\r\n", b"\xef", b"\xbb", b"\xbf", BOM, b"a", b"bc", b"{}", b"0123456789"]), max_size=20
).map(b"".join)


def test_half_a_bom_that_ends_the_stream_is_measured_as_any_line() -> None:
    """It is held until it can be told from a frame; a limit below three bytes holds for it, too."""
    assert split([b"\xef\xbb"], 1) == lines_of(b"\xef\xbb", 1) == [TOO_LONG]


@given(data=st.data(), stream=STREAMS, limit=st.integers(1, 12))
def test_any_chunking_of_a_byte_stream_gives_the_same_lines(data: st.DataObject, stream: bytes, limit: int) -> None:
    """In whatever pieces it comes, a stream has the same lines. Source: docs/protocol.md, section 1."""
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    assert split(cut(stream, places), limit) == lines_of(stream, limit)


@given(stream=STREAMS | st.binary(max_size=60), limit=st.integers(1, 12))
def test_a_stream_that_comes_byte_by_byte_gives_the_same_lines(stream: bytes, limit: int) -> None:
    """Over-long lines, CRLF, blank lines and a BOM are read alike with a seam at every byte."""
    assert split((stream[i : i + 1] for i in range(len(stream))), limit) == lines_of(stream, limit)


def test_an_over_long_line_is_one_error_and_the_next_line_is_whole() -> None:
    """It is so in every chunking that there is."""
    stream = b"1234\n-----\n56\n7"
    for marks in range(2 ** (len(stream) - 1)):
        pieces = cut(stream, [place for place in range(1, len(stream)) if marks >> (place - 1) & 1])
        assert split(pieces, limit=4) == [b"1234", TOO_LONG, b"56", b"7"], pieces


def test_the_error_of_an_over_long_line_comes_before_its_end() -> None:
    """The error comes as soon as the limit is passed, though the line's end never comes."""
    splitter = LineSplitter(8)
    (error,) = splitter.feed(b"123456789")
    assert isinstance(error, FrameError)
    assert (error.code, error.id) == (Code.INVALID_REQUEST, None)
    assert "max_frame_bytes (8 bytes)" in str(error)
    assert splitter.feed(b"x" * 1000) == []
    assert splitter.end() == []


@pytest.mark.parametrize(
    ("start", "answers"),
    [
        (b'{"jsonrpc":"2.0","id":7,"result":"', 7),
        (b' { "id" : 7, "jsonrpc": "2.0", "error": {"', 7),
        (b'{"id":123456789012345678,"result":"', 123456789012345678),
        (b'{"jsonrpc":"2.0","id":"7","result":"', None),
        (b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"x":"', None),
        (b'{"jsonrpc":"2.0","method":"m","params":{"id":7,"result":"', None),
        (b'{"x":{"id":7,"result":"', None),
        (b"x", None),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1_000, 100_000])
def test_an_answer_that_is_too_long_is_known_by_its_start(start: bytes, answers: int | None, size: int) -> None:
    """Whoever waits for it must not wait for ever; in any chunking."""
    line = start + b"x" * 20_000 + b"\n"
    splitter = LineSplitter(10_000)
    found = [one for at in range(0, len(line), size) for one in splitter.feed(line[at : at + size])]
    (error,) = found
    assert isinstance(error, FrameError)
    assert error.answers == answers


@pytest.mark.parametrize("size", [1, 2, 100, 4_095, 65_536])
def test_a_line_that_never_ends_takes_bounded_memory(size: int) -> None:
    """Memory is bounded by the limit, in pieces of any size, before the line is given up and after."""
    limit = 64 * 1024
    splitter = LineSplitter(limit)
    errors = 0
    tracemalloc.start()
    try:
        for i in range(limit // size + 100):
            errors += len(splitter.feed((b"%07d" % i * (size // 7 + 1))[:size]))  # each piece an object of its own
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert errors == 1
    assert peak < 2 * limit + 3 * size


def test_a_64_mib_line_in_pieces_costs_little_more_than_in_one() -> None:
    """A 64 MiB line in 8 KiB pieces costs less than 3 times the same line in one piece."""
    line = b"x" * (MAX_FRAME_BYTES - 1) + b"\n"
    pieces = cut(line, range(8_192, len(line), 8_192))

    def cost(pieces: list[bytes]) -> float:
        splitter = LineSplitter()
        began = time.perf_counter()
        lines = [line for piece in pieces for line in splitter.feed(piece)]
        took = time.perf_counter() - began
        assert [len(line) for line in lines if isinstance(line, bytes)] == [MAX_FRAME_BYTES - 1]
        return took

    # Taken in turns, so that a neighbour's burst hits both.
    in_one, in_pieces = zip(*((cost([line]), cost(pieces)) for _ in range(3)), strict=True)
    assert min(in_pieces) < 3 * min(in_one)


def test_a_line_of_exactly_the_limit_passes() -> None:
    """The limit is ``max_frame_bytes`` itself, without the line's end."""
    for pieces in ([b"12345678\n"], [b"1234", b"5678", b"\n"], [b"12345678", b"\n"]):
        assert split(pieces, limit=8) == [b"12345678"]
        assert split([b"x", *pieces], limit=8) == [TOO_LONG]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\n\n", b"\r\n \r\n\n"])
@pytest.mark.parametrize("places", [[], [1], [2], [1, 2], [1, 2, 3], [3], [2, 4]])
def test_the_reader_takes_crlf_blank_lines_and_one_leading_bom(ending: bytes, places: list[int]) -> None:
    r"""The reader takes ``\r\n``, blank lines and one leading BOM (in pieces too)."""
    lines = split(cut(BOM + (PING + ending) * 2, places))
    assert [decode(line) for line in lines if isinstance(line, bytes) and line.strip()] == [orjson.loads(PING)] * 2


def test_only_the_streams_first_bytes_are_a_bom() -> None:
    """*One leading* BOM is skipped. A second one is not JSON."""
    assert split([BOM + BOM + b"{}\n"]) == [BOM + b"{}"]
    assert split([b"{}\n" + BOM + b"{}\n"]) == [b"{}", BOM + b"{}"]
    assert split([BOM[:2]]) == [BOM[:2]], "a stream that ends within a BOM"
    with pytest.raises(FrameError, match="not JSON"):
        decode(BOM + PING)


# -- frames ------------------------------------------------------------------------------------------------------------

IDS: Final = st.integers(-(2**63), 2**64 - 1) | st.text()
LEAVES: Final = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
VALUES: Final = st.recursive(
    LEAVES, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(), x, max_size=3), max_leaves=6
)
PARAMS: Final = st.dictionaries(st.text(), VALUES, max_size=3)


def decoded(line: bytes) -> Frame:
    """The frame in ``line``, which must be one line with exactly one end."""
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    return decode(line[:-1])


def same(one: object, other: object) -> bool:
    """Whether two values are the same JSON; 1, True and 1.0 are equal in Python, and three things on the wire."""
    return repr(one) == repr(other)


@given(rid=IDS, method=st.text(), params=PARAMS)
def test_an_encoded_request_decodes_to_itself(rid: int | str, method: str, params: dict[str, Any]) -> None:
    """``decode(encode(f)) == f``. Source: docs/protocol.md, section 1."""
    frame = {"jsonrpc": "2.0", "id": rid, "method": method, "params": params}
    assert same(decoded(encode_request(rid, method, params)), frame)


@given(method=st.text(), params=PARAMS)
def test_an_encoded_notification_decodes_to_itself(method: str, params: dict[str, Any]) -> None:
    """``decode(encode(f)) == f``, and no id appears. Source: docs/protocol.md, section 1."""
    assert same(decoded(encode_notification(method, params)), {"jsonrpc": "2.0", "method": method, "params": params})


@given(rid=IDS, result=VALUES)
def test_an_encoded_result_decodes_to_itself(rid: int | str, result: object) -> None:
    """``decode(encode(f)) == f``; ids come back as they came. Source: docs/protocol.md, section 1."""
    assert same(decoded(encode_result(rid, result)), {"jsonrpc": "2.0", "id": rid, "result": result})


@given(rid=IDS | st.none(), code=st.integers(-(2**63), 2**63 - 1), message=st.text(), data=VALUES)
def test_an_encoded_error_decodes_to_itself(rid: int | str | None, code: int, message: str, data: object) -> None:
    """``decode(encode(f)) == f``; ``data`` is left out where there is none. Source: docs/protocol.md, section 1."""
    error = {"code": code, "message": message, "data": data}
    if data is None:
        del error["data"]
    assert same(decoded(encode_error(rid, code, message, data)), {"jsonrpc": "2.0", "id": rid, "error": error})


def is_frame(frame: object) -> bool:
    """Whether ``frame`` is what ``decode`` promises to return."""
    if type(frame) is not dict:
        return False
    if "method" not in frame:
        return "result" in frame or "error" in frame
    return (
        frame.get("jsonrpc") == "2.0"
        and type(frame["method"]) is str
        and type(frame.get("params", {})) is dict
        and ("id" not in frame or type(frame["id"]) in (int, str))
    )


def check_decode(line: bytes) -> None:
    """``decode`` returns a frame or raises FrameError, and the error can be sent as it is."""
    try:
        frame = decode(line)
    except FrameError as raised:
        error = raised
    else:
        assert is_frame(frame)
        return
    assert error.code in (Code.PARSE_ERROR, Code.INVALID_REQUEST)
    assert error.id is None or type(error.id) in (int, str)
    assert decoded(encode_error(error.id, error.code, error.message))["error"]["code"] == error.code


@given(line=st.binary())
@example(line=b"")
@example(line=b"\x00")
@example(line=BOM)
def test_arbitrary_bytes_raise_only_frame_error(line: bytes) -> None:
    """No line raises anything but FrameError."""
    check_decode(line)


@given(
    data=st.data(),
    frame=st.dictionaries(st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error"]), VALUES),
)
def test_frames_with_damage_raise_only_frame_error(data: st.DataObject, frame: dict[str, Any]) -> None:
    """The input is nearly a frame: fields of any kind, then overwritten bytes and a cut-off end."""
    if data.draw(st.booleans()):
        frame["jsonrpc"] = "2.0"
    line = bytearray(orjson.dumps(frame))
    check_decode(bytes(line))
    for place, byte in data.draw(st.lists(st.tuples(st.integers(0, len(line) - 1), st.integers(0, 255)), max_size=3)):
        line[place] = byte
    check_decode(bytes(line[: data.draw(st.integers(0, len(line)))]))


@given(
    frame=st.dictionaries(st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error"]), VALUES) | VALUES
)
def test_check_takes_exactly_the_frames(frame: Any) -> None:
    """A frame passes unchanged; anything else raises FrameError."""
    if is_frame(frame):
        assert check(frame) is frame
    else:
        with pytest.raises(FrameError):
            check(frame)


NO_JSON: Final = {
    "nothing": b"",
    "a word": b"hello",
    "half a frame": b'{"jsonrpc":"2.0","id":1,"method":"pi',
    "two frames": PING + PING,
    "bad UTF-8": b'{"jsonrpc":"2.0","id":1,"method":"\xff"}',
    "half a code point": b'{"jsonrpc":"2.0","id":1,"method":"\xe2\x82"}',
    "UTF-16": PING.decode().encode("utf-16"),
    "a NUL": b"\x00" + PING,
    "a NUL in a string": b'{"jsonrpc":"2.0","id":1,"method":"a\x00b"}',
    "NaN": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":NaN}}',
    "Infinity": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":Infinity}}',
    "a lone surrogate in the id": b'{"jsonrpc":"2.0","id":"\\ud800","method":"ping"}',
    "a lone surrogate, and more": b'{"jsonrpc":"2.0","id":1,"method":"\\ud800",}',
    "a lone surrogate and a NUL": b'{"jsonrpc":"2.0","id":1,"method":"\\ud800\x00"}',
    "single quotes": b"{'jsonrpc':'2.0'}",
    "a trailing comma": b'{"jsonrpc":"2.0","id":1,"method":"ping",}',
}

NO_FRAME: Final[dict[str, tuple[bytes, int | str | None]]] = {
    "null": (b"null", None),
    "a number": (b"5", None),
    "a string": (b'"ping"', None),
    "true": (b"true", None),
    "[]": (b"[]", None),
    "a batch": (b"[" + PING + b"]", None),
    "an empty object": (b"{}", None),
    "no jsonrpc": (b'{"id":1,"method":"ping"}', 1),
    "jsonrpc 1.0": (b'{"jsonrpc":"1.0","id":"a","method":"ping"}', "a"),
    "jsonrpc as a number": (b'{"jsonrpc":2.0,"id":0,"method":"ping"}', 0),
    "jsonrpc null": (b'{"jsonrpc":null,"id":"","method":"ping"}', ""),
    "a notification without jsonrpc": (b'{"method":"event"}', None),
    "neither method nor result": (b'{"jsonrpc":"2.0","id":7}', 7),
    "a method that is a number": (b'{"jsonrpc":"2.0","id":7,"method":5}', 7),
    "a method that is null": (b'{"jsonrpc":"2.0","id":7,"method":null}', 7),
    "params that are a list": (b'{"jsonrpc":"2.0","id":7,"method":"ping","params":[]}', 7),
    "a notification's params that are a string": (b'{"jsonrpc":"2.0","method":"event","params":"x"}', None),
    "id null": (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', None),
    "id true": (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', None),
    "id false": (b'{"jsonrpc":"2.0","id":false,"method":"ping"}', None),
    "id 1.0": (b'{"jsonrpc":"2.0","id":1.0,"method":"ping"}', None),
    "id 1.5": (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', None),
    "id {}": (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', None),
    "id []": (b'{"jsonrpc":"2.0","id":[1],"method":"ping"}', None),
    "an id past 64 bits": (b'{"jsonrpc":"2.0","id":18446744073709551616,"method":"ping"}', None),
}


@pytest.mark.parametrize("line", NO_JSON.values(), ids=NO_JSON.keys())
def test_what_is_no_json_is_a_parse_error_with_id_null(line: bytes) -> None:
    """Bad JSON, bad UTF-8, a NUL and ``NaN`` are -32700 with id null."""
    with pytest.raises(FrameError) as caught:
        decode(line)
    assert (caught.value.code, caught.value.id) == (Code.PARSE_ERROR, None)


# Bits of JSON that make surrogates, pairs of them, and what only looks like them.
PIECES: Final = ("\\", "u", "d83d", "\ud83d", "\udbff", "\udc00", "\udfff", "\U0001f600", "a", '"', "\n", "\ufffd", "8")


@given(st.lists(st.sampled_from(PIECES), max_size=10).map("".join), st.booleans())
@example("\ud83d", True)
@example("\\ud83d\\\ud83d", True)
@example("\udc00\ud83d\ud83d\udc00\udc00", True)
def test_half_a_character_is_read_as_a_replacement_character(text: str, upper: bool) -> None:
    """What JavaScript makes of a text cut within an emoji does not cost the call its answer; nothing else changes."""
    written = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "m", "params": {"text": text, text: 1}})
    if upper:
        written = re.sub(r"\\u[0-9a-f]{4}", lambda found: r"\u" + found[0][2:].upper(), written)
    whole = re.sub("[\ud800-\udfff]", "\ufffd", json.loads(written)["params"]["text"])
    assert decode(written.encode()) == {"jsonrpc": "2.0", "id": 1, "method": "m", "params": {"text": whole, whole: 1}}


def test_half_a_character_in_an_answer_is_read_too() -> None:
    """Whoever waits for it gets it."""
    line = rb'{"jsonrpc":"2.0","id":7,"result":{"content":"hi \ud83d"}}'
    assert decode(line) == {"jsonrpc": "2.0", "id": 7, "result": {"content": "hi \ufffd"}}


def test_half_a_character_in_a_very_long_line_is_a_parse_error() -> None:
    """To mend 64 MiB of escapes would hold up the loop for seconds."""
    text = rb"\ud83d" + b"x" * (4 * 1024 * 1024)
    with pytest.raises(FrameError) as caught:
        decode(b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"text":"%b"}}' % text)
    assert caught.value.code == Code.PARSE_ERROR


@pytest.mark.parametrize(("line", "rid"), NO_FRAME.values(), ids=NO_FRAME.keys())
def test_json_that_is_no_frame_is_an_invalid_request_with_its_id(line: bytes, rid: int | str | None) -> None:
    """It is one -32600, with the id where it can be read; what is not an id is not read as one."""
    with pytest.raises(FrameError) as caught:
        decode(line)
    assert caught.value.code == Code.INVALID_REQUEST
    assert same(caught.value.id, rid)


@pytest.mark.parametrize(
    "deep",
    [
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    ],
    ids=["open", "closed", "objects", "in params"],
)
def test_100_000_nested_brackets_are_an_error(deep: bytes) -> None:
    """100,000 nested brackets are an error, not a crash."""
    with pytest.raises(FrameError) as caught:
        decode(deep)
    assert caught.value.code == Code.PARSE_ERROR


def test_a_parse_error_does_not_repeat_the_line() -> None:
    """A line may hold a secret, so the error names a position only."""
    with pytest.raises(FrameError) as caught:
        decode(b'{"password": hunter2}')
    assert "hunter2" not in str(caught.value)
    assert "password" not in str(caught.value)


@pytest.mark.parametrize("rid", [0, "", 1, "1", -1, 2**64 - 1, -(2**63), "a\nb", "\u2028", "é", "x" * 1000])
def test_ids_come_back_as_they_came(rid: int | str) -> None:
    """``0`` and ``""`` are valid ids."""
    assert is_id(rid)
    for line in (encode_result(rid, {}), encode_error(rid, -32603, "x"), encode_request(rid, "ping", {})):
        assert same(decoded(line)["id"], rid)


@pytest.mark.parametrize("value", [None, True, False, 1.0, 0.5, {}, [], b"1", math.inf])
def test_what_is_no_id_is_told_from_ids(value: object) -> None:
    """null, bool, fraction and object are not ids."""
    assert not is_id(value)


@pytest.mark.parametrize(
    "line",
    [
        b'{"id":1,"result":{}}',
        b'{"jsonrpc":"1.0","id":1,"result":{}}',
        b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"?"}}',
        b'{"jsonrpc":"2.0","id":{},"result":null}',
        b'{"jsonrpc":"2.0","result":1}',
        b'{"jsonrpc":"2.0","id":1,"error":"oops"}',
        b'{"jsonrpc":"2.0","id":1,"result":1,"error":{"code":1,"message":""},"params":[]}',
    ],
)
def test_a_response_is_never_refused_however_malformed(line: bytes) -> None:
    """An answer is never answered: at the peer the id of our error might be that of another request.

    Source: docs/protocol.md, section 1.
    """
    frame = decode(line)
    assert is_response(frame)
    assert frame == orjson.loads(line)


def test_unknown_fields_are_kept_and_ignored() -> None:
    """Unknown fields are ignored. Source: docs/protocol.md, section 1."""
    assert decode(b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"new":1},"extra":[1]}')["extra"] == [1]
    assert "params" not in decode(b'{"jsonrpc":"2.0","method":"x"}')


class Foreign:
    pass


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def cyclic() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value",
    ["\ud800", {"\ud800": 1}, 2**64, -(2**63) - 1, Foreign(), {1: 2}, {"a", "b"}, b"bytes", nested(5_000), cyclic()],
    ids=["surrogate", "surrogate key", "large", "small", "foreign", "integer key", "set", "bytes", "deep", "cyclic"],
)
@pytest.mark.parametrize(
    "encode",
    [
        dumps,
        lambda value: encode_result(1, value),
        lambda value: encode_error(1, -32603, "", value),
        lambda value: encode_request(1, "x", {"a": value}),
        lambda value: encode_notification("x", {"a": value}),
    ],
    ids=["dumps", "result", "error", "request", "notification"],
)
def test_what_is_no_plain_json_raises_encode_error(encode: Callable[[object], bytes], value: object) -> None:
    """An integer past 64 bits, a lone surrogate or a foreign type raises EncodeError, in any kind of frame."""
    with pytest.raises(EncodeError):
        encode(value)
