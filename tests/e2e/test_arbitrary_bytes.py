"""Any bytes at all, and any chunking of a conversation, over real pipes.

What is expected of a line stands here a second time, written with the standard library's ``json``: whether it is
answered, with which id, and with which of the codes that frames can earn.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.driver import CONTEXT, EVENT_CONTEXT, Extension

SOAK: Final = bool(os.environ.get("SEPKIT_SOAK"))
EXAMPLES: Final = settings(
    max_examples=5_000 if SOAK else 60,
    derandomize=not SOAK,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
PATIENT: Final = pytest.mark.timeout(3600 if SOAK else 120)

APP: Final = """
import asyncio
from sepkit import App, Delta, Model, ProviderRequest, ToolCall, ToolContext

app = App("any-bytes", version="1.0.0")
observed = {}
changed = asyncio.Condition()

@app.tool
async def echo(text: str) -> str:
    return text

@app.tool
def threaded(text: str) -> str:
    return text

@app.tool
async def counted(ctx: ToolContext) -> str:
    for step in range(3):
        ctx.update(f"step {step}", progress=step / 3)
        await asyncio.sleep(0)
    return "counted"

@app.tool
async def hold() -> str:
    await asyncio.Event().wait()
    return "never"

@app.on("turn_start")
async def observe(payload: dict) -> None:
    async with changed:
        observed.setdefault(str(payload.get("talk")), []).append(payload.get("turn"))
        changed.notify_all()

@app.tool
async def turns(talk: str, count: int) -> list[int]:
    async with changed:
        await changed.wait_for(lambda: len(observed.get(talk, ())) >= count)
    return observed.pop(talk)

@app.hook("tool_call")
async def gate(call: ToolCall) -> None:
    return None

@app.command
async def greet(name: str = "you") -> str:
    return f"Hello, {name}!"

@app.provider("models", models=[Model("one")])
async def models(request: ProviderRequest):
    yield Delta("text")
"""

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
ANY: Final = None  # a request that is one: answered once, with whatever its handler has to say

Expected = tuple[str, int | None]
"""The JSON of an id, and a code."""


class Talk:
    """A process that lives through all examples."""

    def __init__(self, loop: str) -> None:
        self.extension = Extension(APP, "--loop", loop, "--log-level", "error")
        self._pings = itertools.count()

    def exchange(self, data: bytes, at_least: int) -> list[dict[str, Any]]:
        """Write ``data`` and a ping behind it; what comes until that and ``at_least`` more answers have come."""
        ping = f"the ping behind example {next(self._pings)}"
        self.extension.write(
            data + b"\n" + json.dumps({"jsonrpc": "2.0", "id": ping, "method": "ping"}).encode() + b"\n"
        )
        seen: list[dict[str, Any]] = []
        answers, ponged = 0, False
        while not ponged or answers < at_least:
            received = self.extension.next_frame()
            assert received is not None, f"it has ended:\n{self.extension.stderr}"
            assert received["jsonrpc"] == "2.0"
            if received.get("id") == ping:
                assert received["result"] == {}
                ponged = True
            else:
                answers += "method" not in received
                seen.append(received)
        return seen


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def talk(request: pytest.FixtureRequest) -> Iterator[Talk]:
    made = Talk(request.param)
    with made.extension as extension:
        yield made
        assert extension.end() == 0
        assert [one for one in extension.rest() if "method" not in one] == []
        assert "Traceback" not in extension.stderr


# ------------------------------------------------------------------------------------------- what a line is, once more
def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _integer(text: str) -> float:
    number = int(text) if len(text) < 400 else math.inf
    return number if -(2**63) <= number < 2**64 else _number(text)  # past 64 bits there are only floats


def _constant(text: str) -> object:
    raise ValueError(text)


def expected_of(line: bytes) -> Expected | None:
    """The answer that a line must have; None where it must have none."""
    if not line.strip():
        return None
    try:
        value = json.loads(line.decode(), parse_float=_number, parse_int=_integer, parse_constant=_constant)
        text = json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):
        return "null", PARSE_ERROR
    # Half a character is read as U+FFFD; but an id must go back as it came.
    mended = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if mended != text:
        value = json.loads(mended)
        if not isinstance(value, dict) or "\ufffd" in str(value.get("id")):
            return "null", PARSE_ERROR
    if not isinstance(value, dict):
        return "null", INVALID_REQUEST
    # Null is absent: for the method of what answers, for params, and for the id of what is only ever told.
    method = value.get("method")
    if method is None and ("result" in value or "error" in value):
        return None
    if value.get("params", {}) is None:
        del value["params"]
    if type(method) is str and (method == "event" or method.startswith("$/")) and value.get("id", 0) is None:
        del value["id"]
    rid = value.get("id")
    readable = json.dumps(rid) if type(rid) in (int, str) else "null"
    if value.get("jsonrpc") != "2.0" or type(method) is not str or ("id" in value and readable == "null"):
        return readable, INVALID_REQUEST
    if type(value.get("params", {})) is not dict:
        return (readable, INVALID_REQUEST) if "id" in value else None  # what tells is never answered
    return (readable, ANY) if "id" in value else None


def answered(seen: list[dict[str, Any]], expected: list[Expected]) -> Counter[Expected]:
    """The answers in the form of what is expected; the codes of requests that have any are left out."""
    free = {rid for rid, code in expected if code is ANY}
    found: Counter[Expected] = Counter()
    for one in seen:
        if "method" not in one:
            rid = json.dumps(one["id"])
            found[rid, ANY if rid in free else one["error"]["code"]] += 1
    return found


def check_lines(talk: Talk, data: bytes) -> None:
    lines = data.split(b"\n")
    expected = [found for line in lines if (found := expected_of(line)) is not None]
    # Where one id stands for a good request and for a bad one, only the number of its answers is known.
    free = {rid for rid, code in expected if code is ANY}
    wanted = Counter((rid, ANY if rid in free else code) for rid, code in expected)
    assert answered(talk.exchange(data, len(expected)), expected) == wanted


# ------------------------------------------------------------------------------------------------------- hostile bytes
def line(method: str, rid: object = 1, /, **params: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": rid, "method": method, "params": params}, ensure_ascii=False).encode()


def tool(name: str, rid: object, **arguments: object) -> bytes:
    return line("tool/execute", rid, call_id=f"call {rid}", tool=name, arguments=arguments, context=CONTEXT)


MESSAGE: Final = {"role": "user", "content": "Hi."}
VALID: Final = [
    line("ping", "é✓😀"),
    line("initialize", 2**63, protocol_version=1),
    tool("echo", 5, text='tab\t, quote" and backslash\\'),
    tool("threaded", "", text="é✓😀"),
    line("hook", 0, hook="tool_call", context=CONTEXT, input={"tool": "bash", "arguments": {"command": "ls"}}),
    line("command/execute", -1, command="greet", context=CONTEXT, arguments={"name": "Ada"}),
    line("command/complete", "c", command="greet", context=CONTEXT, partial="A"),
    line("provider/complete", 1.5, request_id="r", provider="models", model="one", messages=[MESSAGE], stream=True),
    line("provider/oauth_login", None, provider="models"),
    json.dumps(
        {"jsonrpc": "2.0", "method": "event", "params": {"event": "turn_start", "context": EVENT_CONTEXT}}
    ).encode(),
    json.dumps({"jsonrpc": "2.0", "method": "$/cancel", "params": {"id": 5}}).encode(),
    json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"value": [1, 2.5, None]}}).encode(),
    json.dumps({"jsonrpc": "2.0", "id": 1, "error": {"code": -32603, "message": "x", "data": {}}}).encode(),
]
PIECES: Final = [
    b"\n", b"\r", b"\0", b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\\u", b"\\ud800", b"1e999", b"NaN", b"null",
    b"true", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc0\xaf", b'"id":', b'"method":', b'"result":', b"9" * 30,
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid line with a few bytes flipped, cut out, put in, doubled."""
    data = draw(st.sampled_from(VALID))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        match draw(st.sampled_from(["flip", "cut", "insert", "double", "end"])):
            case "flip" if start < len(data):
                data = data[:start] + bytes([data[start] ^ draw(st.integers(1, 255))]) + data[start + 1 :]
            case "cut":
                data = data[:start] + data[end:]
            case "double":
                data = data[:end] + data[start:]
            case "end":
                data = data[:end]
            case _:
                data = data[:start] + draw(st.sampled_from(PIECES) | st.binary(max_size=6)) + data[start:]
    return data


JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
METHODS: Final = [
    "ping", "initialize", "event", "hook", "tool/execute", "command/execute", "command/complete", "provider/complete",
    "provider/oauth_login", "provider/oauth_refresh", "$/cancel", "$/unknown", "log", "",
]  # fmt: skip
CONTEXTS: Final = st.just(CONTEXT) | JSON
PARAMS: Final = st.fixed_dictionaries(
    {},
    optional={
        "call_id": JSON,
        "tool": st.sampled_from(["echo", "threaded", "counted", "none"]) | JSON,
        "arguments": st.fixed_dictionaries({}, optional={"text": JSON}) | JSON,
        "context": CONTEXTS,
        "hook": st.just("tool_call") | JSON,
        "input": st.fixed_dictionaries({"tool": JSON}) | JSON,
        "command": st.just("greet") | JSON,
        "partial": JSON,
        "event": st.just("turn_start") | JSON,
        "payload": JSON,
        "seq": JSON,
        "request_id": JSON,
        "provider": st.just("models") | JSON,
        "model": JSON,
        "messages": st.lists(st.just(MESSAGE) | JSON, max_size=2) | JSON,
        "stream": JSON,
        "id": JSON,
    },
)
NEARLY_FRAMES: Final = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.sampled_from(["2.0", "2.0", "2.0", "2.0", "1.0", 2.0, None]),
        "id": st.integers(0, 3) | st.text(max_size=3) | JSON,
        "method": st.sampled_from(METHODS) | JSON,
        "params": PARAMS | JSON,
        "result": JSON,
        "error": JSON,
    },
).map(lambda made: json.dumps(made).encode())


@PATIENT
@EXAMPLES
@given(data=st.lists(st.binary(max_size=40) | st.sampled_from(PIECES), max_size=8).map(b"".join))
def test_arbitrary_bytes_are_refused_line_by_line_and_a_ping_is_answered(talk: Talk, data: bytes) -> None:
    """After any bytes a ping is answered, and each line has had the one answer that is due."""
    check_lines(talk, data)


@PATIENT
@EXAMPLES
@given(lines=st.lists(mutated(), min_size=1, max_size=4))
def test_mutated_frames_are_answered_as_what_they_have_become(talk: Talk, lines: list[bytes]) -> None:
    """No flip, cut or insertion ends the process or causes an answer too many or too few."""
    check_lines(talk, b"\n".join(lines))


@PATIENT
@EXAMPLES
@given(lines=st.lists(NEARLY_FRAMES, min_size=1, max_size=4))
def test_frames_with_arbitrary_values_are_answered_once(talk: Talk, lines: list[bytes]) -> None:
    """Whatever the values in a frame, each readable id has one answer, and the process lives."""
    check_lines(talk, b"\n".join(lines))


def test_the_oracle_tells_right_from_wrong() -> None:
    """The tests above mean something only where what they expect differs from line to line."""
    assert [expected_of(one) for one in VALID[:4]] == [(json.dumps(rid), ANY) for rid in ("é✓😀", 2**63, 5, "")]
    assert expected_of(b"{") == ("null", PARSE_ERROR)
    assert expected_of(b'{"a":1e999}') == expected_of(b'"\\ud800"') == expected_of(b"NaN") == ("null", PARSE_ERROR)
    assert expected_of(b"[]") == expected_of(line("ping", 2**64)) == ("null", INVALID_REQUEST)
    assert expected_of(b'{"id":7,"method":"ping"}') == ("7", INVALID_REQUEST)
    assert expected_of(b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"x":"\\ud800"}}') == ("7", ANY)
    assert expected_of(b'{"jsonrpc":"2.0","id":"\\ud800","method":"ping"}') == ("null", PARSE_ERROR)
    assert expected_of(b" \r") is expected_of(VALID[-1]) is expected_of(VALID[-3]) is None


# ---------------------------------------------------------------------------------------------------- any chunking
TAG: Final = "T-000000"  # stands for the example in ids and names, so that no two examples share one


def notification(method: str, **params: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": method, "params": params}).encode()


CONVERSATION: Final = b"\n".join(
    [
        tool("echo", f"{TAG} echo", text="é✓😀 \u2028"),
        tool("hold", f"{TAG} held"),
        line("ping", f"{TAG} ping"),
        notification("event", event="turn_start", seq=1, context=EVENT_CONTEXT, payload={"talk": TAG, "turn": 1}),
        b"{'not': 'json'}",
        tool("threaded", f"{TAG} threaded", text="in a thread"),
        b"\r",
        b"null",
        notification("event", event="turn_start", seq=2, context=EVENT_CONTEXT, payload={"talk": TAG, "turn": 2}),
        notification("$/cancel", id=f"{TAG} nobody"),
        line("ping", f"{TAG} held"),  # a duplicate of an id in flight
        tool("counted", f"{TAG} counted") + b"\r",
        b"",
        b"[" + line("ping", f"{TAG} in a batch") + b"]",
        notification("$/cancel", id=f"{TAG} held"),
        line("command/execute", f"{TAG} command", command="greet", context=CONTEXT, arguments={"name": "Ada"}),
        line("unknown", f"{TAG} unknown"),
        b"\xff\xfe \x00",
        line("tool/execute", f"{TAG} bad params", call_id=5),
        json.dumps({"jsonrpc": "2.0", "id": 999, "result": {}}).encode(),
        line("hook", f"{TAG} hook", hook="tool_call", context=CONTEXT, input={"tool": "bash", "arguments": {}}),
        notification("event", event="turn_start", seq=3, context=EVENT_CONTEXT, payload={"talk": TAG, "turn": 3}),
        b'{"jsonrpc":"2.0","id":"' + TAG.encode() + b' NaN","method":"ping","params":{"x":NaN}}',
        tool("turns", f"{TAG} turns", talk=TAG, count=3),
        tool("echo", f"{TAG} is long", text="x" * 70_000),
        line("ping", f"{TAG} é✓😀"),
    ]
)
ANSWERS: Final = sum(expected_of(one) is not None for one in CONVERSATION.split(b"\n"))
_examples = itertools.count(1)


def converse(talk: Talk, cuts: list[int]) -> Counter[str]:
    """Hold the conversation once more, cut as told; the frames that came of it, as a bag."""
    tag = f"T-{next(_examples):06d}"
    data = CONVERSATION.replace(TAG.encode(), tag.encode())
    start = 0
    for cut in sorted(set(cuts)):
        talk.extension.write(data[start:cut])
        talk.extension.wait_until_read()
        start = cut
    seen = talk.exchange(data[start:], ANSWERS)
    return Counter(json.dumps(one, sort_keys=True).replace(tag, TAG) for one in seen)


def test_the_conversation_in_one_write_is_answered_as_it_should_be(talk: Talk) -> None:
    """What the test below compares with: each question of the conversation has its one answer."""
    answers = [one for one in map(json.loads, converse(talk, []).elements()) if "method" not in one]
    assert len(answers) == ANSWERS == 18
    told: dict[str | None, list[object]] = {}
    for one in answers:
        name = one["id"] and one["id"].removeprefix(f"{TAG} ")
        result = one.get("result", {})
        told.setdefault(name, []).append(one["error"]["code"] if "error" in one else result.get("content", result))
    assert sorted(told.pop(None), key=str) == [INVALID_REQUEST, INVALID_REQUEST] + [PARSE_ERROR] * 3
    assert sorted(told.pop("held"), key=str) == [INVALID_REQUEST, -32800]
    assert told == {
        "echo": ["é✓😀 \u2028"],
        "ping": [{}],
        "threaded": ["in a thread"],
        "counted": ["counted"],
        "command": ["Hello, Ada!"],
        "unknown": [-32601],
        "bad params": [-32602],
        "hook": [{"action": "continue"}],
        "turns": ["[1,2,3]"],
        "is long": ["x" * 70_000],
        "é✓😀": [{}],
    }


@PATIENT
@EXAMPLES
@given(
    cuts=st.lists(
        # Mostly in the short lines in front; now and then within the long one.
        st.integers(1, CONVERSATION.index(b"x" * 100)) | st.integers(1, len(CONVERSATION) - 1),
        max_size=20,
    )
)
@example(cuts=list(range(1, CONVERSATION.index(b"x" * 100))))
@example(cuts=list(range(1, len(CONVERSATION), 997)))
@example(cuts=[at for at, byte in enumerate(CONVERSATION) if byte == ord("\n")])
@example(cuts=[at + 1 for at, byte in enumerate(CONVERSATION) if byte == ord("\n")])
@example(cuts=[at + 2 for at, byte in enumerate(CONVERSATION) if byte == ord("\n")])
def test_any_chunking_of_a_conversation_gives_the_same_answers(talk: Talk, cuts: list[int]) -> None:
    """Any chunking of a byte stream gives the same frames, and so the same answers.

    Source: docs/protocol.md, section 1.
    """
    assert converse(talk, cuts) == converse(talk, [])
