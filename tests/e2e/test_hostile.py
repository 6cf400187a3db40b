"""Hostile lines over real pipes: after each of them the extension lives, and has said the right thing once.

One process for each kind of loop serves the whole table. After each row a ping is sent; what was answered until then
must be exactly what the row expects, and at the end nothing more may have come.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.driver import CONTEXT, EVENT_CONTEXT, HANDSHAKE, Extension

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
CANCELLED: Final = -32800
RESULT: Final = 0  # in place of a code: it succeeds

LIMIT: Final = 1024 * 1024  # --max-frame-bytes, where a row needs a small one

APP: Final = """
import asyncio
from sepkit import (
    App, Completion, Credentials, Delta, Done, Model, OAuthParams, ProviderRequest, RpcError, ToolCall, ToolContext,
    ToolError,
)

app = App("hostile", version="1.0.0")
held = {}

@app.tool
async def echo(text: str) -> str:
    return text

@app.tool
async def hold(name: str) -> str:
    held[name] = asyncio.Event()
    try:
        await held[name].wait()
    finally:
        del held[name]
    return name

@app.tool
async def release(name: str) -> bool:
    if name in held:
        held[name].set()
        return True
    return False

@app.tool
async def ask(ctx: ToolContext) -> str:
    try:
        return str(await ctx.kv.get("key"))
    except RpcError as error:
        raise ToolError(str(error)) from None

@app.hook("tool_call")
async def gate(call: ToolCall) -> None:
    return None

@app.on("turn_start")
async def observe(payload: dict) -> None:
    pass

@app.on("turn_start")
async def observe_too(payload: dict) -> None:
    pass

@app.command
async def greet(name: str = "you") -> str:
    return f"Hello, {name}!"

@app.complete("greet")
async def names(partial: str) -> list[Completion]:
    return [Completion(partial + "Ada")]

@app.provider("models", models=[Model("one")])
async def models(request: ProviderRequest):
    yield Delta("text")
    yield Done("stop")

@app.oauth_login("models")
async def login(params: OAuthParams) -> Credentials:
    return Credentials(api_key="k")

@app.oauth_refresh("models")
async def refresh(params: OAuthParams) -> Credentials:
    return Credentials(api_key="k")
"""

Answers = list[tuple[object, int]]
"""Of each answer the id, and the code of its error or ``RESULT``; in the order in which they came."""


def frame(method: object, params: object = None, *, rid: object = None, **more: object) -> bytes:
    """A line, as JSON allows it: right or wrong."""
    made: dict[str, object] = {"jsonrpc": "2.0"}
    if rid is not None:
        made["id"] = rid
    made["method"] = method
    if params is not None:
        made["params"] = params
    return json.dumps({**made, **more}).encode()


class Table:
    """A process that is asked one row after another."""

    def __init__(self, loop: str, *options: str, handshake: bool = True) -> None:
        self.loop = loop
        self._options = options
        self._handshake = handshake
        self._pings = 0
        self.extension = self._spawn()

    def _spawn(self) -> Extension:
        return Extension(APP, "--loop", self.loop, "--log-level", "warning", *self._options, handshake=self._handshake)

    def send(self, *lines: bytes) -> None:
        self.extension.write(b"".join(line + b"\n" for line in lines))

    def answers(self, at_least: int = 0) -> tuple[Answers, list[dict[str, Any]]]:
        """What has been answered when a ping, sent now, is; where ``at_least`` says so, what comes until then, too."""
        self._pings += 1
        ping = f"ping-{self._pings}"
        self.send(frame("ping", {}, rid=ping))
        found: Answers = []
        seen: list[dict[str, Any]] = []
        ponged = False
        while not ponged or len(found) < at_least:
            received = self.extension.next_frame()
            assert received is not None, f"it has ended:\n{self.extension.stderr}"
            check_form(received)
            if received.get("id") == ping:
                assert received["result"] == {}
                assert not ponged, "the ping was answered twice"
                ponged = True
            elif "method" not in received:
                found.append((received["id"], received["error"]["code"] if "error" in received else RESULT))
            seen.append(received)
        return found, seen

    def expect(self, data: bytes, expected: Answers) -> list[dict[str, Any]]:
        """Write a row, and check what is answered; all frames that came."""
        self.extension.write(data)
        found, seen = self.answers(at_least=len(expected))
        assert sorted(map(tagged, found)) == sorted(map(tagged, expected)), seen
        assert self.extension.process.poll() is None
        return seen

    def close(self) -> None:
        """End it; what it has not said until now it shall not say at all."""
        with self.extension as extension:
            assert extension.end() == 0
            late = [one for one in extension.rest() if "method" not in one]
            assert late == [], "answers to questions that were answered before"
            assert "Traceback" not in extension.stderr

    def revive(self) -> None:
        """After a row that failed, the next one shall find a fresh process."""
        with self.extension:
            pass
        self.extension = self._spawn()


def tagged(answer: tuple[object, int]) -> tuple[str, str, int]:
    """An answer with the type of its id: 1, True and 1.0 are equal in Python, and three things on the wire."""
    rid, code = answer
    return type(rid).__name__, repr(rid), code


def check_form(received: dict[str, Any]) -> None:
    """Whatever leaves the extension is JSON-RPC 2.0, letter by letter."""
    assert received["jsonrpc"] == "2.0", received
    if "method" in received:
        assert set(received) <= {"jsonrpc", "id", "method", "params"}, received
    elif "error" in received:
        assert set(received) == {"jsonrpc", "id", "error"}, received
        assert set(received["error"]) <= {"code", "message", "data"}, received
        assert type(received["error"]["code"]) is int, received
        assert type(received["error"]["message"]) is str, received
        assert received["error"]["message"], received
    else:
        assert set(received) == {"jsonrpc", "id", "result"}, received


LOOPS: Final = ["asyncio", "uvloop"]


@pytest.fixture(scope="module", params=LOOPS)
def whole_table(request: pytest.FixtureRequest) -> Iterator[Table]:
    made = Table(request.param)
    yield made
    made.close()


@pytest.fixture
def table(whole_table: Table) -> Iterator[Table]:
    """The process of the whole table."""
    try:
        yield whole_table
        alive = whole_table.answers() == ([], [{"jsonrpc": "2.0", "id": f"ping-{whole_table._pings}", "result": {}}])
    except BaseException:
        whole_table.revive()
        raise
    if not alive:
        whole_table.revive()


@pytest.fixture(params=LOOPS)
def new_table(request: pytest.FixtureRequest) -> Iterator[Table]:
    """A process before its handshake."""
    made = Table(request.param, handshake=False)
    try:
        yield made
    finally:
        with made.extension:
            pass


# ----------------------------------------------------------------------------------------------------- bad JSON: -32700
PING: Final = frame("ping", {}, rid=1)

BAD_JSON: Final[dict[str, bytes]] = {
    "a truncated object": PING[:-1],
    "a truncated object after a colon": b'{"jsonrpc":',
    "a truncated object after a key": b'{"jsonrpc"',
    "a truncated array": b"[1, 2",
    "a truncated literal": b'{"jsonrpc":"2.0","id":1,"method":tru',
    "a truncated escape": b'{"jsonrpc":"2.0","id":"\\u12',
    "a truncated number": b'{"id":-',
    "an unterminated string": b'{"jsonrpc":"2.0","id":1,"method":"ping',
    "a string whose end is escaped": b'{"jsonrpc":"2.0","id":1,"method":"ping\\"}',
    "a trailing comma in an object": b'{"jsonrpc":"2.0","id":1,"method":"ping",}',
    "a trailing comma in an array": b"[1,]",
    "a missing comma": b'{"jsonrpc":"2.0" "id":1}',
    "a missing colon": b'{"jsonrpc" "2.0"}',
    "single quotes": b"{'jsonrpc':'2.0','id':1,'method':'ping'}",
    "keys without quotes": b'{jsonrpc:"2.0",id:1,method:"ping"}',
    "a number as a key": b'{1:"2.0"}',
    "a comment": b'{"jsonrpc":"2.0","id":1,"method":"ping"} // ping',
    "a comment before": b'/* ping */ {"jsonrpc":"2.0","id":1,"method":"ping"}',
    "NaN": b"NaN",
    "NaN in params": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":NaN}}',
    "NaN as the id": b'{"jsonrpc":"2.0","id":NaN,"method":"ping"}',
    "Infinity": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":Infinity}}',
    "-Infinity": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":-Infinity}}',
    "undefined": b'{"jsonrpc":"2.0","id":undefined,"method":"ping"}',
    "Python's None and True": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":None,"b":True}}',
    "a number past every double": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":1e999}}',
    "a negative number past every double": b'{"jsonrpc":"2.0","id":-1e999,"method":"ping"}',
    "an id of 400 digits": b'{"jsonrpc":"2.0","id":' + b"9" * 400 + b',"method":"ping"}',
    "an integer of 400 digits in params": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":'
    + b"9" * 400
    + b"}}",
    "a number with a leading zero": b'{"jsonrpc":"2.0","id":01,"method":"ping"}',
    "a number with a plus": b'{"jsonrpc":"2.0","id":+1,"method":"ping"}',
    "a number that begins with a point": b'{"jsonrpc":"2.0","id":.5,"method":"ping"}',
    "a number that ends with a point": b'{"jsonrpc":"2.0","id":1.,"method":"ping"}',
    "a hexadecimal number": b'{"jsonrpc":"2.0","id":0x10,"method":"ping"}',
    "a number with underscores": b'{"jsonrpc":"2.0","id":1_000,"method":"ping"}',
    "bad UTF-8": b'{"jsonrpc":"2.0","id":"\xff","method":"ping"}',
    "bad UTF-8 alone": b"\xff\xfe\xfd",
    "Latin-1": '{"jsonrpc":"2.0","id":"é","method":"ping"}'.encode("latin-1"),
    "UTF-8 cut within a character": b'{"jsonrpc":"2.0","id":"\xe2\x82","method":"ping"}',
    "a continuation byte alone": b'{"jsonrpc":"2.0","id":"\x80","method":"ping"}',
    "an overlong slash": b'{"jsonrpc":"2.0","id":"\xc0\xaf","method":"ping"}',
    "an overlong NUL": b'{"jsonrpc":"2.0","id":"\xc0\x80","method":"ping"}',
    "an overlong quote": b'{"jsonrpc":"2.0","id":"\xe0\x80\xa2","method":"ping"}',
    "a surrogate in UTF-8": b'{"jsonrpc":"2.0","id":"\xed\xa0\x80","method":"ping"}',
    "a character past U+10FFFF": b'{"jsonrpc":"2.0","id":"\xf4\x90\x80\x80","method":"ping"}',
    "UTF-16 with its BOM": '\ufeff{"jsonrpc":"2.0","id":1,"method":"ping"}'.encode("utf-16-le"),
    "UTF-16, big end first, with its BOM": '\ufeff{"jsonrpc":"2.0","id":1,"method":"ping"}'.encode("utf-16-be"),
    "UTF-16 without a BOM": '{"jsonrpc":"2.0","id":1,"method":"ping"}'.encode("utf-16-le"),
    "UTF-32": '{"jsonrpc":"2.0","id":1,"method":"ping"}'.encode("utf-32"),
    "a BOM that is not the stream's first": b"\xef\xbb\xbf" + PING,
    "a NUL": b"\0",
    "a NUL before": b"\0" + PING,
    "a NUL behind": PING + b"\0",
    "a NUL in a string": b'{"jsonrpc":"2.0","id":"a\0b","method":"ping"}',
    "a NUL between": b'{"jsonrpc":"2.0",\0"id":1,"method":"ping"}',
    "1,000 NULs": b"\0" * 1000,
    "a lone high surrogate": b'{"jsonrpc":"2.0","id":"\\ud800","method":"ping"}',
    "a lone low surrogate": b'{"jsonrpc":"2.0","id":"\\udc00","method":"ping"}',
    "surrogates the wrong way round": b'{"jsonrpc":"2.0","id":"\\udc00\\ud800","method":"ping"}',
    "an unknown escape": b'{"jsonrpc":"2.0","id":"\\x41","method":"ping"}',
    "a control character in a string": b'{"jsonrpc":"2.0","id":"\x01","method":"ping"}',
    "a tab in a string": b'{"jsonrpc":"2.0","id":"\t","method":"ping"}',
    "a carriage return in a string": b'{"jsonrpc":"2.0","id":"\r","method":"ping"}',
    "an escape sequence of a terminal": b"\x1b[31m" + PING + b"\x1b[0m",
    "a vertical tab before": b"\x0b" + PING,
    "a no-break space before": b"\xc2\xa0" + PING,
    "100,000 open brackets": b"[" * 100_000,
    "100,000 open objects": b'{"a":' * 100_000,
    "100,000 closed brackets": b"[" * 100_000 + b"]" * 100_000,
    "100,000 closed objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "100,000 closing brackets": b"]" * 100_000,
    "100,000 brackets in params": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":'
    + b"[" * 100_000
    + b"]" * 100_000
    + b"}}",
    "2,000 objects in params": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":'
    + b'{"a":' * 2_000
    + b"1"
    + b"}" * 2_000
    + b"}",
    "two frames without a line end between": PING + PING,
    "two frames and a comma": PING + b"," + PING,
    "a frame and a word": PING + b" ping",
    "a word": b"ping",
    "a closing brace": b"}",
    "a colon": b":",
    "a backslash": b"\\",
    "a quote": b'"',
    "1 MiB of letters": b"a" * 1024 * 1024,
    "1 MiB of bytes that are no UTF-8": b"\xff" * 1024 * 1024,
    "1 MiB of quotes": b'"' * 1024 * 1024,
    "markup": b"<?xml version='1.0'?><ping/>",
    "a request of HTTP": b"GET / HTTP/1.1\r",
    "a header of another framing": b"Content-Length: 40\r",
    "a shell's prompt": b"$ python -m sepkit run app:app",
    "a traceback's first line": b"Traceback (most recent call last):",
    "a frame that printf has cut": b'{"jsonrpc":"2.0","id":%d,"method":"ping"}',
}


@pytest.mark.parametrize("line", BAD_JSON.values(), ids=list(BAD_JSON))
def test_bad_json_is_one_parse_error_without_id(table: Table, line: bytes) -> None:
    """Bad JSON, bad UTF-8, a NUL, ``NaN`` and 100,000 nested brackets are answered with one -32700 and the id null."""
    table.expect(line + b"\n", [(None, PARSE_ERROR)])


# ---------------------------------------------------------------------------------------- JSON, but no request: -32600
NO_FRAMES: Final[dict[str, bytes]] = {
    "null": b"null",
    "a number": b"5",
    "a negative number": b"-1",
    "a fraction": b"1.5",
    "a string": b'"ping"',
    "the empty string": b'""',
    "true": b"true",
    "false": b"false",
    "an empty array": b"[]",
    "an array": b"[null]",
    "a batch of one": b"[" + PING + b"]",
    "a batch of two": b"[" + PING + b"," + frame("ping", {}, rid=2) + b"]",
    "a batch of notifications": b"[" + frame("event", {}) + b"]",
    "1,000 closed brackets": b"[" * 1_000 + b"]" * 1_000,
    "an empty object": b"{}",
    "a foreign object": b'{"level":"info","msg":"started"}',
    "no method and no id": b'{"jsonrpc":"2.0"}',
    "no method, params alone": b'{"jsonrpc":"2.0","params":{}}',
    "no jsonrpc, a notification": b'{"method":"event","params":{}}',
    "a wrong jsonrpc, a notification": b'{"jsonrpc":"1.0","method":"event","params":{}}',
    "a notification whose method is a number": b'{"jsonrpc":"2.0","method":5}',
    "a notification whose method is null": b'{"jsonrpc":"2.0","method":null}',
    "the id null": b'{"jsonrpc":"2.0","id":null,"method":"ping"}',
    "the id true": b'{"jsonrpc":"2.0","id":true,"method":"ping"}',
    "the id false": b'{"jsonrpc":"2.0","id":false,"method":"ping"}',
    "the id 1.5": b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}',
    "the id 1.0": b'{"jsonrpc":"2.0","id":1.0,"method":"ping"}',
    "the id -0.0": b'{"jsonrpc":"2.0","id":-0.0,"method":"ping"}',
    "the id 1e2": b'{"jsonrpc":"2.0","id":1e2,"method":"ping"}',
    "an object as the id": b'{"jsonrpc":"2.0","id":{},"method":"ping"}',
    "an array as the id": b'{"jsonrpc":"2.0","id":[1],"method":"ping"}',
    "the id 2**64": b'{"jsonrpc":"2.0","id":18446744073709551616,"method":"ping"}',
    "the id -2**63 - 1": b'{"jsonrpc":"2.0","id":-9223372036854775809,"method":"ping"}',
    "the id null and no jsonrpc": b'{"id":null,"method":"ping"}',
    "the id true and params in an array": b'{"jsonrpc":"2.0","id":true,"method":"ping","params":[]}',
    "an array as the id and no method": b'{"jsonrpc":"2.0","id":[1]}',
    "keys in capitals": b'{"JSONRPC":"2.0","ID":1,"METHOD":"ping"}',
}


@pytest.mark.parametrize("line", NO_FRAMES.values(), ids=list(NO_FRAMES))
def test_what_is_no_request_is_one_invalid_request_without_id(table: Table, line: bytes) -> None:
    """``null``, a number, a string, ``true``, ``[]``, a batch and a bad id are each one -32600 with the id null."""
    table.expect(line + b"\n", [(None, INVALID_REQUEST)])


SILENT: Final[dict[str, bytes]] = {
    "event with params null": b'{"jsonrpc":"2.0","method":"event","params":null}',
    "event with params in an array": b'{"jsonrpc":"2.0","method":"event","params":[]}',
    "event with params in a string": b'{"jsonrpc":"2.0","method":"event","params":"x"}',
    "a cancel with params in an array": b'{"jsonrpc":"2.0","method":"$/cancel","params":[1]}',
    "a cancel with params in a number": b'{"jsonrpc":"2.0","method":"$/cancel","params":1}',
    "an unknown notification with params true": b'{"jsonrpc":"2.0","method":"$/unknown","params":true}',
    "method null beside a result": b'{"jsonrpc":"2.0","id":"r","method":null,"result":{}}',
    "method null beside an error": b'{"jsonrpc":"2.0","id":"r","method":null,"error":{"code":1,"message":"x"}}',
}


@pytest.mark.parametrize("line", SILENT.values(), ids=list(SILENT))
def test_a_notification_and_an_answer_are_never_answered_whatever_they_hold(table: Table, line: bytes) -> None:
    """A null is absent: a method of null beside a result is an answer. What follows is served."""
    table.expect(line + b"\n", [])


def test_null_params_are_absent(table: Table) -> None:
    """Many libraries write null where a field is absent."""
    table.expect(b'{"jsonrpc":"2.0","id":"p","method":"ping","params":null}\n', [("p", RESULT)])
    table.expect(b'{"jsonrpc":"2.0","id":"u","method":"unknown","params":null}\n', [("u", METHOD_NOT_FOUND)])


WRONG: Final[dict[str, bytes]] = {
    "no jsonrpc": b'{"id":"r","method":"ping"}',
    "jsonrpc null": b'{"jsonrpc":null,"id":"r","method":"ping"}',
    "jsonrpc true": b'{"jsonrpc":true,"id":"r","method":"ping"}',
    "jsonrpc 2": b'{"jsonrpc":2,"id":"r","method":"ping"}',
    "jsonrpc 2.0, a number": b'{"jsonrpc":2.0,"id":"r","method":"ping"}',
    "jsonrpc 1.0": b'{"jsonrpc":"1.0","id":"r","method":"ping"}',
    "jsonrpc 2, a string": b'{"jsonrpc":"2","id":"r","method":"ping"}',
    "jsonrpc with a space": b'{"jsonrpc":"2.0 ","id":"r","method":"ping"}',
    "jsonrpc empty": b'{"jsonrpc":"","id":"r","method":"ping"}',
    "jsonrpc in an array": b'{"jsonrpc":["2.0"],"id":"r","method":"ping"}',
    "jsonrpc in an object": b'{"jsonrpc":{"2":0},"id":"r","method":"ping"}',
    "no method": b'{"jsonrpc":"2.0","id":"r"}',
    "no method, but params": b'{"jsonrpc":"2.0","id":"r","params":{}}',
    "method null": b'{"jsonrpc":"2.0","id":"r","method":null}',
    "method true": b'{"jsonrpc":"2.0","id":"r","method":true}',
    "method 5": b'{"jsonrpc":"2.0","id":"r","method":5}',
    "method 1.5": b'{"jsonrpc":"2.0","id":"r","method":1.5}',
    "method in an array": b'{"jsonrpc":"2.0","id":"r","method":["ping"]}',
    "method in an object": b'{"jsonrpc":"2.0","id":"r","method":{"name":"ping"}}',
    "params true": b'{"jsonrpc":"2.0","id":"r","method":"ping","params":true}',
    "params 5": b'{"jsonrpc":"2.0","id":"r","method":"ping","params":5}',
    "params 1.5": b'{"jsonrpc":"2.0","id":"r","method":"ping","params":1.5}',
    "params in a string": b'{"jsonrpc":"2.0","id":"r","method":"ping","params":"{}"}',
    "params in an array": b'{"jsonrpc":"2.0","id":"r","method":"ping","params":[]}',
    "params in an array of objects": b'{"jsonrpc":"2.0","id":"r","method":"ping","params":[{}]}',
    "params in an array, to a tool": b'{"jsonrpc":"2.0","id":"r","method":"tool/execute","params":["echo"]}',
}


@pytest.mark.parametrize("line", WRONG.values(), ids=list(WRONG))
def test_a_request_with_a_wrong_part_is_one_invalid_request_with_its_id(table: Table, line: bytes) -> None:
    """A wrong or missing ``jsonrpc``, method or params is one -32600, with the id where it can be read."""
    table.expect(line + b"\n", [("r", INVALID_REQUEST)])


# ----------------------------------------------------------------------------------------------------- methods and ids
UNKNOWN: Final = [
    "",
    " ",
    "unknown",
    "$/unknown",
    "$/cancel",
    "event",
    "rpc.",
    "rpc.discover",
    "Ping",
    "ping ",
    "ping\n",
    "/ping",
    "tool/execute/",
    "tool\\execute",
    "tool/update",
    "log",
    "kv/get",
    "ui/request",
    "initialized",
    "tools/call",
    "__class__",
    "{method!r}",
    "%s%s%n",
    "\0",
    "\u2028",
    "é✓😀",
    "unknown/" + "x" * 1024 * 1024,
]


@pytest.mark.parametrize("method", UNKNOWN, ids=lambda name: ascii(name)[1:21] + " of a request")
def test_an_unknown_method_is_method_not_found(table: Table, method: str) -> None:
    """An unknown method is -32601, whatever its params, and also if it is the name of a notification or of ours."""
    table.expect(frame(method, {"call_id": 5}, rid="m") + b"\n", [("m", METHOD_NOT_FOUND)])


@pytest.mark.parametrize(
    "method",
    [name for name in UNKNOWN if name not in {"event", "$/cancel"}]
    + ["ping", "initialize", "shutdown", "tool/execute", "hook", "command/execute", "provider/complete"],
    ids=lambda name: ascii(name)[1:21] + " of a notification",
)
def test_an_unknown_notification_is_not_answered(table: Table, method: str) -> None:
    """A notification is never answered, and one with a request's name does not do what the request does."""
    table.expect(frame(method, {"x": 1}) + b"\n" + frame(method) + b"\n", [])


IDS: Final[dict[str, object]] = {
    "0": 0,
    "1": 1,
    "-1": -1,
    "2**53 + 1": 2**53 + 1,
    "2**63": 2**63,
    "2**64 - 1": 2**64 - 1,
    "-2**63": -(2**63),
    "the empty string": "",
    "a space": " ",
    "the string 0": "0",
    "the string 1": "1",
    "the string 1.0": "1.0",
    "the string true": "true",
    "the string null": "null",
    "letters": "é✓😀",
    "a NUL, escaped": "a\0b",
    "a line end, escaped": "a\nb\r\n",
    "separators": "\u2028\u2029\u0085",
    "quotes and backslashes": '"\\"\\',
    "DEL": "\x7f",
    "a string of 1 MiB": "i" * 1024 * 1024,
}


@pytest.mark.parametrize("rid", IDS.values(), ids=list(IDS))
@pytest.mark.parametrize("method", ["ping", "tool/execute", "unknown"])
def test_an_id_comes_back_as_it_came(table: Table, rid: object, method: str) -> None:
    """Ids keep their type and every digit, in results and in errors."""
    code = {"ping": RESULT, "tool/execute": INVALID_PARAMS, "unknown": METHOD_NOT_FOUND}[method]
    table.expect(frame(method, {}, rid=rid) + b"\n", [(rid, code)])


def test_of_two_equal_keys_the_last_one_counts(table: Table) -> None:
    """Duplicate keys are valid JSON: the frame has one answer, under the last id."""
    table.expect(b'{"jsonrpc":"2.0","id":1,"method":"unknown","id":"last","method":"ping"}\n', [("last", RESULT)])
    table.expect(b'{"jsonrpc":"2.0","id":"last","id":1.5,"method":"ping"}\n', [(None, INVALID_REQUEST)])


def test_fields_that_nobody_knows_are_ignored(table: Table) -> None:
    """Unknown fields are ignored, beside the method and in the params. Source: docs/protocol.md, section 1."""
    table.expect(frame("ping", {"unknown": [1, {}]}, rid="a", unknown={"x": 1}, meta=None) + b"\n", [("a", RESULT)])
    table.expect(frame("ping", {}, rid="b", result={}) + b"\n", [("b", RESULT)])
    table.expect(frame("ping", {}, rid="c", error={"code": 1, "message": "x"}) + b"\n", [("c", RESULT)])
    table.expect(frame("ping", rid="d") + b"\n", [("d", RESULT)])
    table.expect(rb'{"jsonrpc":"2.0","id":"e","method":"ping","params":{"\ud800":"\udc00"}}' + b"\n", [("e", RESULT)])
    table.expect(rb'{"jsonrpc":"2.0","id":"f","method":"\ud800"}' + b"\n", [("f", METHOD_NOT_FOUND)])


# ------------------------------------------------------------------------------------ notifications and stray responses
IGNORED: Final[dict[str, bytes]] = {
    "an event without params": b'{"jsonrpc":"2.0","method":"event"}',
    "an event with empty params": frame("event", {}),
    "an unknown event": frame("event", {"event": "unknown", "context": EVENT_CONTEXT}),
    "an event whose payload is an array": frame(
        "event", {"event": "turn_start", "context": EVENT_CONTEXT, "payload": []}
    ),
    "a cancel without params": b'{"jsonrpc":"2.0","method":"$/cancel"}',
    "a cancel without an id": frame("$/cancel", {}),
    "a cancel of null": frame("$/cancel", {"id": None}),
    "a cancel of true": frame("$/cancel", {"id": True}),
    "a cancel of 1.0": frame("$/cancel", {"id": 1.0}),
    "a cancel of 1.5": frame("$/cancel", {"id": 1.5}),
    "a cancel of an array": frame("$/cancel", {"id": [1]}),
    "a cancel of an object": frame("$/cancel", {"id": {"id": 1}}),
    "a cancel of an unknown number": frame("$/cancel", {"id": 999_999}),
    "a cancel of an unknown string": frame("$/cancel", {"id": "nobody"}),
    "a cancel of 2**63": frame("$/cancel", {"id": 2**63}),
    "a cancel of 2**64": frame("$/cancel", {"id": 2**64}),
    "a cancel of 1 MiB": frame("$/cancel", {"id": "i" * 1024 * 1024}),
    "a progress of the other direction": frame("tool/update", {"call_id": "c", "progress": "x"}),
    "an answer that nobody waits for": b'{"jsonrpc":"2.0","id":999,"result":{}}',
    "an error that nobody waits for": b'{"jsonrpc":"2.0","id":999,"error":{"code":-32603,"message":"x"}}',
    "an answer to a string": b'{"jsonrpc":"2.0","id":"nobody","result":{}}',
    "an answer to null": b'{"jsonrpc":"2.0","id":null,"result":{}}',
    "an error to null": b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"parse error"}}',
    "an answer to true": b'{"jsonrpc":"2.0","id":true,"result":{}}',
    "an answer to 1.0": b'{"jsonrpc":"2.0","id":1.0,"result":{}}',
    "an answer to an array": b'{"jsonrpc":"2.0","id":[1],"result":{}}',
    "an answer to an object": b'{"jsonrpc":"2.0","id":{},"result":{}}',
    "an answer to 2**63": b'{"jsonrpc":"2.0","id":9223372036854775808,"result":{}}',
    "an answer without an id": b'{"jsonrpc":"2.0","result":{}}',
    "an error without an id": b'{"jsonrpc":"2.0","error":{"code":1,"message":"x"}}',
    "an answer without jsonrpc": b'{"id":999,"result":{}}',
    "an error without jsonrpc": b'{"id":999,"error":{"code":1,"message":"x"}}',
    "an answer of jsonrpc 1.0": b'{"jsonrpc":"1.0","id":999,"result":{},"error":null}',
    "an answer of jsonrpc 2": b'{"jsonrpc":2,"id":999,"result":{}}',
    "a result and an error": b'{"jsonrpc":"2.0","id":999,"result":{},"error":{"code":1,"message":"x"}}',
    "an error that is a string": b'{"jsonrpc":"2.0","id":999,"error":"x"}',
    "an error that is null": b'{"jsonrpc":"2.0","id":999,"error":null}',
    "an error that is an array": b'{"jsonrpc":"2.0","id":999,"error":[]}',
    "an error without a code": b'{"jsonrpc":"2.0","id":999,"error":{"message":"x"}}',
    "an error whose code is a string": b'{"jsonrpc":"2.0","id":999,"error":{"code":"1","message":"x"}}',
    "an answer with params": b'{"jsonrpc":"2.0","id":999,"result":{},"params":[]}',
    "an answer with every fault": b'{"jsonrpc":[],"id":{},"result":1,"error":2,"params":3}',
}


@pytest.mark.parametrize("line", IGNORED.values(), ids=list(IGNORED))
def test_what_asks_nothing_is_not_answered(table: Table, line: bytes) -> None:
    """Notifications are never answered, and a cancel for an unknown id has no effect.

    And what answers (a result or an error, and no method) is never answered, however malformed.

    Source: docs/protocol.md, section 8.
    """
    table.expect(line + b"\n", [])


def test_the_unknown_notification_is_one_debug_line(tmp_path: Path) -> None:
    """It is one debug line on stderr, and only if debug lines are wanted."""
    with Extension(APP, "--log-level", "debug") as extension:
        extension.notify("$/sentinel", {"secret": "planted"})
        extension.ping()
        assert extension.end() == 0
        told = [line for line in extension.stderr.splitlines() if "$/sentinel" in line]
        assert len(told) == 1
        assert "DEBUG" in told[0]
        assert "planted" not in extension.stderr
        assert [one for one in extension.rest() if "sentinel" in json.dumps(one)] == []


LEVELS = """
import logging
from sepkit import App, ToolContext

app = App("levels")
lines = logging.getLogger("lines")

@app.tool
async def say(ctx: ToolContext) -> None:
    for level in (5, 10, 20, 30, 40):
        lines.log(level, "heard")
    ctx.log.debug("tagged")
"""


@pytest.mark.parametrize(
    ("level", "heard"),
    [
        ("trace", ["trace", "debug", "info", "warn", "error", "debug"]),
        ("debug", ["debug", "info", "warn", "error", "debug"]),
        ("info", ["info", "warn", "error"]),
        ("error", ["error"]),
    ],
)
def test_the_host_hears_the_levels_that_are_wanted(level: str, heard: list[str]) -> None:
    """``log`` has each level that is wanted, also from a call that came with the handshake.

    Source: docs/protocol.md, section 4.
    """
    with Extension(LEVELS, "--log-level", level, handshake=False) as extension:
        call = {"call_id": "c", "tool": "say", "arguments": {}, "context": {"token": "t", "tier": "command"}}
        extension.write(
            b"".join(
                json.dumps({"jsonrpc": "2.0", "id": rid, "method": method, "params": params}).encode() + b"\n"
                for rid, (method, params) in enumerate((("initialize", HANDSHAKE), ("tool/execute", call)))
            )
        )
        assert "result" in extension.answer(1)
        assert extension.end() == 0
        told = [one["params"] for one in extension.rest() if one.get("method") == "log"]
        assert [one["level"] for one in told if one["fields"]["logger"] in ("lines", "levels")] == heard


# ----------------------------------------------------------------------------------------- params: every wrong position
REPLACEMENTS: Final[tuple[object, ...]] = (None, True, 5, 1.5, "x", [], {})


class Missing:
    """In place of a value: the field is not there."""


def json_type(value: object) -> str:
    kinds = {type(None): "null", bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return kinds.get(type(value), "object")


Mutant = tuple[str, object, int]
"""Where something was changed, what the node is now, and what that should come to."""


@dataclass(frozen=True)
class Leaf:
    """A value of the types in ``takes``. ``otherwise``: what another value of a right type comes to."""

    value: object
    takes: str
    optional: bool = False
    nullable: bool | None = None  # where it is not the same as optional
    otherwise: int = RESULT

    def mutants(self) -> Iterator[Mutant]:
        for value in REPLACEMENTS:
            if json_type(value) != json_type(self.value) or value != self.value:
                yield f" = {value!r}", value, self._outcome(value)

    def _outcome(self, value: object) -> int:
        if value is None and (self.optional if self.nullable is None else self.nullable):
            return RESULT
        return self.otherwise if json_type(value) in self.takes.split() else INVALID_PARAMS


@dataclass(frozen=True)
class Obj:
    """An object with these fields."""

    fields: dict[str, Leaf | Obj | Items] = field(hash=False)
    optional: bool = False

    @property
    def value(self) -> dict[str, object]:
        return {name: node.value for name, node in self.fields.items()}

    def mutants(self) -> Iterator[Mutant]:
        for value in REPLACEMENTS:
            yield f" = {value!r}", value, self._outcome(value)
        for name, node in self.fields.items():
            rest = {key: other for key, other in self.value.items() if key != name}
            yield f".{name} missing", rest, RESULT if node.optional else INVALID_PARAMS
            for where, value, outcome in node.mutants():
                yield f".{name}{where}", {**self.value, name: value}, outcome

    def _outcome(self, value: object) -> int:
        if value is None and self.optional:
            return RESULT
        complete = value == {} and all(node.optional for node in self.fields.values())
        return RESULT if complete else INVALID_PARAMS


@dataclass(frozen=True)
class Items:
    """An array of one such item."""

    item: Leaf | Obj
    optional: bool = False

    @property
    def value(self) -> list[object]:
        return [self.item.value]

    def mutants(self) -> Iterator[Mutant]:
        for value in REPLACEMENTS:
            fits = value == [] or (value is None and self.optional)
            yield f" = {value!r}", value, RESULT if fits else INVALID_PARAMS
        for where, value, outcome in self.item.mutants():
            yield f"[0]{where}", [value], outcome
            yield f"[1]{where}", [self.item.value, value], outcome


def context(*, optional: bool = False) -> Obj:
    return Obj({"token": Leaf("epoch-1", "string"), "tier": Leaf("command", "string")}, optional)


OAUTH: Final = Obj(
    {
        "provider": Leaf("models", "string", otherwise=INVALID_PARAMS),
        "refresh_token": Leaf("token", "string", optional=True),
        "context": context(optional=True),
    }
)
REQUESTS: Final[dict[str, Obj]] = {
    "tool/execute": Obj(
        {
            "call_id": Leaf("call", "string"),
            "tool": Leaf("echo", "string"),  # an unknown tool is a result, for the model to read
            "arguments": Leaf({"text": "x"}, "object"),  # and so are wrong arguments
            "context": context(),
        }
    ),
    "hook": Obj(
        {
            "hook": Leaf("tool_call", "string"),
            "context": context(),
            "input": Obj({"tool": Leaf("bash", "string"), "arguments": Leaf({}, "object", optional=True)}),
        }
    ),
    "command/execute": Obj(
        {
            "command": Leaf("greet", "string"),
            "context": context(),
            "arguments": Obj({"name": Leaf("Ada", "string", optional=True, nullable=False)}, optional=True),
        }
    ),
    "command/complete": Obj(
        {
            "command": Leaf("greet", "string"),
            "context": context(),
            "partial": Leaf("A", "string", optional=True),
        }
    ),
    "provider/complete": Obj(
        {
            "request_id": Leaf("request", "string"),
            "provider": Leaf("models", "string", otherwise=INVALID_PARAMS),
            "model": Leaf("one", "string"),
            "messages": Items(Leaf({"role": "user", "content": "Hi."}, "object")),
            "tools": Items(Leaf({"name": "echo"}, "object"), optional=True),
            "stream": Leaf(False, "boolean", optional=True),
            "response_format": Leaf({"type": "text"}, "object", optional=True),
            "thinking": Leaf("low", "string", optional=True),
            "context": context(optional=True),
        }
    ),
    "provider/oauth_login": OAUTH,
    "provider/oauth_refresh": OAUTH,
}
EVENT: Final = Obj(
    {
        "event": Leaf("turn_start", "string"),
        "seq": Leaf(1, "integer", optional=True),
        "context": context(),
        "payload": Leaf({"turn": 1}, "object", optional=True),
    }
)
INITIALIZE: Final = Obj(
    {
        "protocol_version": Leaf(1, "integer"),
        "host": Obj({"name": Leaf("host", "string"), "version": Leaf("1", "string")}),
        "workspace": Obj({"root": Leaf("/", "string"), "trusted": Leaf(True, "boolean")}),
        "mode": Leaf("cli", "string"),
        "session": Obj({"id": Leaf("s", "string", optional=True)}, optional=True),
        "ui_capabilities": Items(Leaf("confirm", "string"), optional=True),
        "flags": Leaf({"verbose": True}, "object", optional=True),
        "capabilities_enabled": Obj({"kv": Leaf(True, "boolean", optional=True)}, optional=True),
    }
)


def check_mutants(table: Table, shape: Obj, line: Callable[[object, object], bytes], outcome: int | None) -> int:
    """Send each mutant of a shape, and check its answer; how many there were. All that fail are told together."""
    wrong: list[str] = []
    count = 0
    for where, params, expected in shape.mutants():
        if type(params) is not dict:
            continue  # params that are no object stand in the tables above
        count += 1
        rid = f"mutant-{count}"
        answers: Answers = [] if outcome == NOTHING else [(rid, expected if outcome is None else outcome)]
        table.extension.write(line(rid, params) + b"\n")
        found, seen = table.answers(at_least=len(answers))
        if found != answers:
            wrong.append(f"params{where}: expected {answers}, got {found} {seen[:2]}")
    assert not wrong, "\n".join(wrong)
    return count


NOTHING: Final = 1  # in place of a code: no answer


@pytest.mark.parametrize("method", REQUESTS)
def test_each_missing_field_and_wrong_type_is_invalid_params(table: Table, method: str) -> None:
    """Bad params are answered with -32602, not with -32600 or -32601. Source: docs/protocol.md, section 3.

    Null for an optional field counts as absent; an unknown tool and wrong arguments are a result, for the model.
    """
    shape = REQUESTS[method]
    table.expect(frame(method, shape.value, rid="valid") + b"\n", [("valid", RESULT)])
    assert check_mutants(table, shape, lambda rid, params: frame(method, params, rid=rid), None) >= 20


@pytest.mark.parametrize("method", REQUESTS)
def test_no_mutant_without_an_id_is_answered(table: Table, method: str) -> None:
    """A notification is never answered, also if it has a request's name and is wrong as well."""
    check_mutants(table, REQUESTS[method], lambda rid, params: frame(method, params), NOTHING)


def test_no_event_is_answered_whatever_is_wrong_with_it(table: Table) -> None:
    """An event, right or wrong in any field, is never answered; with an id it is an unknown method."""
    assert check_mutants(table, EVENT, lambda rid, params: frame("event", params), NOTHING) >= 30
    check_mutants(table, EVENT, lambda rid, params: frame("event", params, rid=rid), METHOD_NOT_FOUND)


def test_a_second_initialize_is_refused_whatever_it_says(table: Table) -> None:
    """There is one handshake in a life: a second one is -32600, and what the first said stays.

    Source: docs/protocol.md, section 2.
    """
    assert check_mutants(table, INITIALIZE, lambda rid, params: frame("initialize", params, rid=rid), INVALID_REQUEST)
    table.expect(frame("initialize", HANDSHAKE, rid="again") + b"\n", [("again", INVALID_REQUEST)])


def test_wrong_arguments_are_a_result_for_the_model(table: Table) -> None:
    """An unknown tool and arguments against the schema are answered with ``is_error``."""
    for tool, arguments in [
        ("unknown", {}),
        ("", {}),
        ("__class__", {}),
        ("echo", {}),
        *[("echo", {"text": value}) for value in REPLACEMENTS if value != "x"],
        ("echo", {"text": "x", "more": 1}),
        ("echo", {"TEXT": "x"}),
        ("echo", {"text": 2**64}),
    ]:
        params = {"call_id": "c", "tool": tool, "arguments": arguments, "context": CONTEXT}
        seen = table.expect(frame("tool/execute", params, rid="call") + b"\n", [("call", RESULT)])
        (result,) = (one["result"] for one in seen if one.get("id") == "call")
        assert result["is_error"] is True, (tool, arguments)
        assert result["content"], (tool, arguments)


def test_nesting_to_the_parsers_limit_is_no_trouble(table: Table) -> None:
    """Nesting that the parser still accepts fails its own call at most."""
    deep = json.loads("[" * 900 + "]" * 900)
    for method, shape in REQUESTS.items():
        for name in ("arguments", "input", "messages", "provider", "unknown"):
            params = {**shape.value, name: deep}
            table.extension.write(frame(method, params, rid=f"{method} {name}") + b"\n")
            found, _ = table.answers(at_least=1)
            assert len(found) == 1
            assert found[0][0] == f"{method} {name}"
            assert found[0][1] in (RESULT, INVALID_PARAMS)
    # Handlers have copies of these; a copy may be as deep.
    hook = {**REQUESTS["hook"].value, "input": {"tool": "bash", "arguments": {"deep": deep}}}
    table.expect(frame("hook", hook, rid="hook") + b"\n", [("hook", RESULT)])
    table.expect(frame("event", {**EVENT.value, "payload": {"deep": deep}}) + b"\n", [])


def test_a_million_wrong_values_are_one_answer_of_bounded_size(table: Table) -> None:
    """The size of an answer does not grow with the number of faults that it reports."""
    params = {**REQUESTS["provider/complete"].value, "messages": [0] * 200_000}
    seen = table.expect(frame("provider/complete", params, rid="many") + b"\n", [("many", INVALID_PARAMS)])
    assert max(len(json.dumps(one)) for one in seen) < 64 * 1024


# ----------------------------------------------------------------------------------------------------- ids in flight
def start_hold(table: Table, rid: object, name: str) -> None:
    """Have the tool ``hold`` run under this id, and wait until it does."""
    params = {"call_id": "held", "tool": "hold", "arguments": {"name": name}, "context": CONTEXT}
    table.send(frame("tool/execute", params, rid=rid))


def release(table: Table, name: str) -> bytes:
    params = {"call_id": "release", "tool": "release", "arguments": {"name": name}, "context": CONTEXT}
    return frame("tool/execute", params, rid=f"release {name}") + b"\n"


@pytest.mark.parametrize("rid", [0, 1, -1, 2**63, "", "1", "é✓😀"], ids=repr)
def test_a_duplicate_of_an_id_in_flight_is_refused_and_the_first_call_lives(table: Table, rid: object) -> None:
    """A duplicate of an id in flight is -32600, and the first call goes on."""
    start_hold(table, rid, "first")
    for duplicate in (frame("ping", {}, rid=rid), frame("unknown", {}, rid=rid), frame("tool/execute", {}, rid=rid)):
        table.expect(duplicate + b"\n", [(rid, INVALID_REQUEST)])
    table.expect(release(table, "first"), [(rid, RESULT), ("release first", RESULT)])
    table.expect(frame("ping", {}, rid=rid) + b"\n", [(rid, RESULT)])


def test_ids_that_are_equal_in_python_never_meet(table: Table) -> None:
    """``1``, ``"1"``, ``true`` and ``1.0`` are different ids, in requests and in a cancel."""
    start_hold(table, 1, "one")
    table.expect(frame("ping", {}, rid="1") + b"\n", [("1", RESULT)])
    table.expect(frame("ping", {}, rid=True) + b"\n", [(None, INVALID_REQUEST)])
    table.expect(frame("ping", {}, rid=1.0) + b"\n", [(None, INVALID_REQUEST)])
    for other in ("1", True, 1.0, [1], {"id": 1}, None, 2, "one"):
        table.expect(frame("$/cancel", {"id": other}) + b"\n", [])
    table.expect(b'{"jsonrpc":"2.0","id":1,"result":{}}\n', [])
    table.expect(release(table, "one"), [(1, RESULT), ("release one", RESULT)])


def test_a_cancelled_call_is_answered_once(table: Table) -> None:
    """A cancelled request is answered once, with -32800; more cancels of it have no effect.

    Source: docs/protocol.md, section 8.
    """
    for rid in (1, "1", "", 2**63):
        start_hold(table, rid, "cancelled")
        cancel = frame("$/cancel", {"id": rid, "reason": ["unknown fields are ignored"]}) + b"\n"
        table.expect(cancel * 3, [(rid, CANCELLED)])
        table.expect(cancel, [])
        table.expect(frame("ping", {}, rid=rid) + b"\n", [(rid, RESULT)])


MALFORMED_ANSWERS: Final[dict[str, dict[str, object]]] = {
    "no jsonrpc": {"result": {"value": 1}},
    "jsonrpc 1.0": {"jsonrpc": "1.0", "result": {"value": 1}},
    "a result that is null": {"jsonrpc": "2.0", "result": None},
    "a result that is a number": {"jsonrpc": "2.0", "result": 5},
    "a result that is an array": {"jsonrpc": "2.0", "result": []},
    "a result without its field": {"jsonrpc": "2.0", "result": {}},
    "an error that is a string": {"jsonrpc": "2.0", "error": "x"},
    "an error that is an array": {"jsonrpc": "2.0", "error": []},
    "an error without a code": {"jsonrpc": "2.0", "error": {"message": "x"}},
    "an error whose code is a fraction": {"jsonrpc": "2.0", "error": {"code": 1.5, "message": "x"}},
    "an error without a message": {"jsonrpc": "2.0", "error": {"code": -32603}},
    "an error whose message is null": {"jsonrpc": "2.0", "error": {"code": -32603, "message": None}},
    "an error that is null, and no result": {"jsonrpc": "2.0", "error": None},
    "a result and an error": {"jsonrpc": "2.0", "result": {"value": 1}, "error": {"code": 1, "message": "x"}},
}


@pytest.mark.parametrize("answer", MALFORMED_ANSWERS.values(), ids=list(MALFORMED_ANSWERS))
def test_a_malformed_answer_fails_the_call_that_waits_for_it(table: Table, answer: dict[str, object]) -> None:
    """The caller gets the error and the wire gets none; an answer with another id settles nothing."""
    params = {"call_id": "asks", "tool": "ask", "arguments": {}, "context": CONTEXT}
    table.send(frame("tool/execute", params, rid="asks"))
    question = table.extension.next_frame()
    assert question is not None
    assert question["method"] == "kv/get"
    rid = question["id"]
    for other in (str(rid), rid + 1000, float(rid), True, None, [rid]):
        table.expect(json.dumps({"jsonrpc": "2.0", "id": other, "result": {"value": 1}}).encode() + b"\n", [])
    seen = table.expect(json.dumps({**answer, "id": rid}).encode() + b"\n", [("asks", RESULT)])
    (result,) = (one["result"] for one in seen if one.get("id") == "asks")
    if answer.get("result") not in ({}, None):
        assert result["is_error"] is True, result
    table.expect(json.dumps({"jsonrpc": "2.0", "id": rid, "result": {"value": 1}}).encode() + b"\n", [])


# ------------------------------------------------------------------------------------------------------------- framing
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_a_frame_may_be_split_at_each_byte(table: Table, end: bytes) -> None:
    """A line ends at its line feed, in whatever pieces it arrives. Source: docs/protocol.md, section 1."""
    line = json.dumps({"jsonrpc": "2.0", "id": "é✓😀", "method": "ping"}, ensure_ascii=False).encode() + end
    for cut in range(1, len(line)):
        table.extension.write(line[:cut])
        table.extension.wait_until_read()
        table.expect(line[cut:], [("é✓😀", RESULT)])
    for byte in line[:-1]:
        table.extension.write(bytes([byte]))
        table.extension.wait_until_read()
    table.expect(line[-1:], [("é✓😀", RESULT)])


BLANKS: Final[dict[str, tuple[bytes, Answers]]] = {
    "two frames in one write": (PING + b"\n" + frame("ping", {}, rid=2) + b"\n", [(1, RESULT), (2, RESULT)]),
    "CRLF": (PING + b"\r\n" + frame("unknown", {}, rid=2) + b"\r\n", [(1, RESULT), (2, METHOD_NOT_FOUND)]),
    "a blank line": (b"\n", []),
    "1,000 blank lines": (b"\n" * 1_000, []),
    "a blank line that ends with CRLF": (b"\r\n", []),
    "a line of spaces and tabs": (b" \t \t  \n", []),
    "a line of carriage returns": (b"\r\r\r\n", []),
    "blank lines around a frame": (b"\n\r\n \n" + PING + b"\n\n", [(1, RESULT)]),
    "white space around a frame": (b" \t" + PING + b" \t\r\n", [(1, RESULT)]),
    "white space within a frame": (b'{ "jsonrpc" :\t"2.0",\r "id":1 , "method":"ping"}\n', [(1, RESULT)]),
    "a bad line between two good ones": (
        PING + b"\n{\n" + frame("ping", {}, rid=2) + b"\n",
        [(1, RESULT), (None, PARSE_ERROR), (2, RESULT)],
    ),
    "a frame over several lines": (
        b'{\n"jsonrpc": "2.0",\n"id": 1,\n"method": "ping"\n}\n',
        [(None, PARSE_ERROR)] * 5,
    ),
    "another framing's header, and its body": (
        b"Content-Length: 40\r\n\r\n" + PING + b"\n",
        [(None, PARSE_ERROR), (1, RESULT)],
    ),
    "200 frames in one write": (
        b"".join(frame("ping", {}, rid=n) + b"\n" for n in range(200)),
        [(n, RESULT) for n in range(200)],
    ),
    "200 bad lines in one write": (b"{\n[]\n" * 100, [(None, PARSE_ERROR), (None, INVALID_REQUEST)] * 100),
}


@pytest.mark.parametrize(("data", "expected"), BLANKS.values(), ids=list(BLANKS))
def test_lines_are_told_apart_whatever_stands_between_them(table: Table, data: bytes, expected: Answers) -> None:
    """The reader takes CRLF and blank lines; each line has its own answer, a blank one none."""
    table.expect(data, expected)


@pytest.mark.parametrize(
    ("pieces", "before"), [(False, b""), (True, b"\r\n\n")], ids=["in one piece", "byte by byte, then blank lines"]
)
def test_one_leading_bom_is_taken(new_table: Table, pieces: bool, before: bytes) -> None:
    """One leading BOM is skipped, and only at the start of the stream."""
    data = b"\xef\xbb\xbf" + before + PING + b"\n"
    for piece in [data[i : i + 1] for i in range(len(data))] if pieces else [data]:
        new_table.extension.write(piece)
        new_table.extension.wait_until_read()
    new_table.expect(b"", [(1, RESULT)])
    new_table.expect(b"\xef\xbb\xbf" + PING + b"\n", [(None, PARSE_ERROR)])


def test_two_leading_boms_are_bad_json(new_table: Table) -> None:
    """One leading BOM is skipped; a second one is not JSON, and fails its own line."""
    new_table.expect(b"\xef\xbb\xbf\xef\xbb\xbf" + PING + b"\n" + PING + b"\n", [(None, PARSE_ERROR), (1, RESULT)])


def test_a_last_frame_without_a_line_end_is_answered(new_table: Table) -> None:
    """A frame sent before end-of-file is accepted even without its line end."""
    extension = new_table.extension
    extension.write(PING)
    extension.wait_until_read()
    assert extension.end() == 0
    assert extension.rest() == [{"jsonrpc": "2.0", "id": 1, "result": {}}]


def test_a_last_line_that_is_cut_is_one_error(new_table: Table) -> None:
    """A line that end-of-file cuts is bad JSON, and the end is orderly."""
    extension = new_table.extension
    extension.write(PING[:-1])
    assert extension.end() == 0
    (answer,) = extension.rest()
    assert (answer["id"], answer["error"]["code"]) == (None, PARSE_ERROR)


# ----------------------------------------------------------------------------------------------------- over-long lines
@pytest.fixture(scope="module", params=LOOPS)
def small(request: pytest.FixtureRequest) -> Iterator[Table]:
    """A process that takes lines of 1 MiB at most."""
    made = Table(request.param, "--max-frame-bytes", str(LIMIT))
    yield made
    made.close()


def line_of(size: int, rid: object) -> bytes:
    """A ping whose line, without its end, has ``size`` bytes."""
    bare = frame("ping", {"x": ""}, rid=rid)
    return bare[:-3] + b"x" * (size - len(bare)) + bare[-3:]


def in_pieces(extension: Extension, data: bytes, size: int) -> None:
    for start in range(0, len(data), size):
        extension.write(data[start : start + size])
        extension.wait_until_read()


@pytest.mark.parametrize("trickled", [False, True], ids=["in one piece", "trickled"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_a_line_of_max_frame_bytes_passes_and_one_byte_more_is_refused(
    small: Table, trickled: bool, end: bytes
) -> None:
    """A line longer than ``max_frame_bytes`` is one error, and the next line is processed.

    The carriage return of a line end belongs to the line.
    """
    fits: Answers = [("big", RESULT)]
    refused: Answers = [(None, INVALID_REQUEST)]
    for size, expected in [(LIMIT, fits), (LIMIT + 1, refused)]:
        line = line_of(size - len(end) + 1, "big") + end
        if trickled:
            in_pieces(small.extension, line, 16 * 1024 - 1)
            line = b""
        small.expect(line + frame("ping", {}, rid="next") + b"\n", [*expected, ("next", RESULT)])


@pytest.mark.parametrize("factor", [2, 10])
def test_an_over_long_line_is_one_error_however_long_it_is(small: Table, factor: int) -> None:
    """A line that never ends is one error when it passes the limit, and no more when it ends."""
    line = line_of(factor * LIMIT, "big")
    small.extension.write(line)
    small.extension.wait_until_read()
    received = small.extension.next_frame()
    assert received is not None
    assert (received["id"], received["error"]["code"]) == (None, INVALID_REQUEST), "said before the line has ended"
    assert str(LIMIT) in received["error"]["message"]
    small.expect(b"\n" + frame("ping", {}, rid="next") + b"\n", [("next", RESULT)])
    small.expect((line + b"\n") * 2 + PING + b"\n", [(None, INVALID_REQUEST), (None, INVALID_REQUEST), (1, RESULT)])


def test_the_memory_that_a_line_without_an_end_costs_is_bounded() -> None:
    """Memory is bounded while a line of 96 MiB arrives and at most 1 MiB of it is accepted."""
    status = "/proc/{}/status"
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    with contextlib.closing(Table("asyncio", "--max-frame-bytes", str(LIMIT))) as table:
        extension = table.extension

        def peak() -> int:
            lines = Path(status.format(extension.process.pid)).read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

        table.expect(line_of(LIMIT, "warm") + b"\n", [("warm", RESULT)])
        before = peak()
        for _ in range(96):
            extension.write(b"x" * LIMIT)
        extension.wait_until_read()
        table.expect(b"\n", [(None, INVALID_REQUEST)])
        assert peak() - before < 8 * 1024, "KiB"


# ------------------------------------------------------------------------------------------------ before the handshake
def test_before_the_handshake_only_initialize_and_ping_are_answered(new_table: Table) -> None:
    """Requests other than ``initialize`` and ``ping`` before the handshake are answered with -32600.

    Unknown methods too, since nothing is known yet. Notifications are ignored, and bad lines refused as ever.
    """
    new_table.expect(PING + b"\n", [(1, RESULT)])
    for method, shape in REQUESTS.items():
        new_table.expect(frame(method, shape.value, rid=method) + b"\n", [(method, INVALID_REQUEST)])
        new_table.expect(frame(method, {}, rid=method) + b"\n", [(method, INVALID_REQUEST)])
        new_table.expect(frame(method, shape.value) + b"\n", [])
    new_table.expect(frame("shutdown", {}, rid="s") + b"\n", [("s", INVALID_REQUEST)])
    new_table.expect(frame("unknown", {}, rid="u") + b"\n", [("u", INVALID_REQUEST)])
    new_table.expect(frame("event", EVENT.value) + b"\n", [])
    new_table.expect(frame("$/cancel", {"id": 1}) + b"\n", [])
    new_table.expect(b'{"jsonrpc":"2.0","id":1,"result":{}}\n', [])
    new_table.expect(b"{\nnull\n", [(None, PARSE_ERROR), (None, INVALID_REQUEST)])
    new_table.expect(frame("initialize", HANDSHAKE, rid="i") + b"\n", [("i", RESULT)])
    new_table.expect(frame("tool/execute", REQUESTS["tool/execute"].value, rid="t") + b"\n", [("t", RESULT)])


def test_a_bad_handshake_is_invalid_params_and_may_be_repeated(new_table: Table) -> None:
    """Each missing field and wrong type in ``initialize`` is answered with -32602. Source: docs/protocol.md, section 3.

    Then a good one succeeds, with null for what is optional and fields that nobody knows.
    """
    wrong = []
    count = 0
    mutants = [(where, params) for where, params, outcome in INITIALIZE.mutants() if outcome == INVALID_PARAMS]
    mutants += [
        (f".protocol_version = {version}", {**INITIALIZE.value, "protocol_version": version}) for version in (0, -1)
    ]
    for where, params in mutants:
        if type(params) is not dict:
            continue
        count += 1
        rid = f"mutant-{count}"
        new_table.send(frame("initialize", params, rid=rid))
        found, seen = new_table.answers(at_least=1)
        if found != [(rid, INVALID_PARAMS)]:
            wrong.append(f"params{where}: {found} {seen[:2]}")
    assert not wrong, "\n".join(wrong)
    assert count > 50
    nulls = {name: None for name, node in INITIALIZE.fields.items() if node.optional}
    good = {**INITIALIZE.value, **nulls, "unknown": [1]}
    new_table.expect(frame("initialize", good, rid="good") + b"\n", [("good", RESULT)])
    new_table.expect(frame("tool/execute", REQUESTS["tool/execute"].value, rid="t") + b"\n", [("t", RESULT)])


def test_shutdown_ends_it_whatever_its_params_hold(new_table: Table) -> None:
    """``shutdown`` ignores its params; hostile lines behind it change nothing.

    Source: docs/protocol.md, sections 1 and 3.
    """
    new_table.expect(frame("initialize", HANDSHAKE, rid="i") + b"\n", [("i", RESULT)])
    extension = new_table.extension
    extension.write(frame("shutdown", {"unknown": [1], "grace": "x"}, rid="s") + b"\n")
    assert extension.answer("s")["result"] == {}
    with contextlib.suppress(BrokenPipeError):
        extension.write(b"{\nnull\n\xff\n")
    assert extension.wait() == 0
    assert "Traceback" not in extension.stderr
