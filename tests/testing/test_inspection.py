"""What breaks the protocol fails the test, with the frame that did; what does not, does not."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import orjson
import pytest

from sepkit.testing import ProtocolViolation, TestHost, inspection
from sepkit.testing.inspection import InspectedTransport
from sepkit.wire import methods
from sepkit.wire.messages import PARAMS
from tests.testing.sample import sample


def notification(method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "params": params}


def request(method: str, params: dict[str, Any], rid: object = 900) -> dict[str, Any]:
    return {**notification(method, params), "id": rid}


def answer(rid: object, **fields: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": rid, **fields}


RUNNING = "the id of the running call"

VIOLATIONS: dict[str, tuple[object, str]] = {
    "no JSON": (b"printed", "it is no frame: not JSON"),
    "a batch": ([], "it is no frame: a batch"),
    "no version": ({"method": "log", "params": {}}, "it is no frame"),
    "answered twice": (answer(1, result={}), "a second answer to the request 1"),
    "never asked": (answer(99, result={}), "an answer to 99, which was never asked"),
    "an id of another type": (answer("1", result={}), "an answer to '1', which was never asked"),
    "result and error": (answer(RUNNING, result={}, error={}), "either a result or an error"),
    "an answer without its version": ({"id": RUNNING, "result": {"content": ""}}, "either a result or an error"),
    "a refusal": (answer(None, error={"code": -32700, "message": "what?"}), "it refuses what the host has sent"),
    "an error without a message": (answer(RUNNING, error={"code": 1}), "an error has a code"),
    "a result that does not fit": (answer(RUNNING, result={"content": 5}), r"does not fit its schema: \$\.content"),
    "a result with too much": (answer(RUNNING, result={"content": "", "x": 1}), "does not fit its schema: .*x"),
    "params that do not fit": (notification("log", {"level": "loud", "message": ""}), r"schema: \$\.level"),
    "params with too much": (notification("log", {"level": "info", "message": "", "x": 1}), "does not fit its schema"),
    "a bad question": (request("kv/get", {}), "schema: .*a field 'key'"),
    "an unknown method": (request("kv/rename", {}), "an extension sends no 'kv/rename'"),
    "a method of the host": (request("tool/execute", {}), "an extension sends no 'tool/execute'"),
    "a question as a notification": (notification("kv/get", {"key": ""}), "'kv/get' is a request"),
    "a notification as a question": (request("log", {"level": "info", "message": ""}), "'log' is no request"),
    "progress of no call": (notification("tool/update", {"call_id": "gone"}), "no call with the call_id 'gone'"),
    "a delta of no call": (
        notification("provider/delta", {"request_id": "gone", "event": {"type": "Delta", "content": ""}}),
        "no call with the request_id 'gone'",
    ),
    "a delta of no kind": (notification("provider/delta", {"request_id": "gone", "event": {"type": "X"}}), "schema"),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_fails_the_test_and_names_the_frame(name: str) -> None:
    """The test fails at the end of its block, and the host goes on until then.

    Source: docs/protocol.md, sections 1 to 4.
    """
    frame, problem = VIOLATIONS[name]

    async def test() -> None:
        async with TestHost(sample(), grace=0.05) as host:
            call = asyncio.ensure_future(host.call_tool("forever"))
            await host.ping()
            transport = host._alive().transport
            assert isinstance(transport, InspectedTransport)
            (running,) = transport._asked
            line = frame if isinstance(frame, bytes) else orjson.dumps(frame)
            line = line.replace(orjson.dumps(RUNNING), orjson.dumps(running))
            host._dispatcher.peer.transport.write(line + b"\n")
            await host.ping()
            call.cancel()
            await asyncio.wait([call])
            sent.append(line.decode())

    sent: list[str] = []
    with pytest.raises(ProtocolViolation, match=problem) as caught:
        asyncio.run(test())
    assert caught.value.frame == sent[0]
    assert sent[0] in str(caught.value)


def test_a_second_question_under_one_id_is_a_violation() -> None:
    """An id is unique among those in flight; after its answer it is free. Source: docs/protocol.md, section 1."""

    async def later(asked: object) -> None:
        await answered.wait()

    async def test() -> None:
        async with TestHost(sample(), ui=later) as host:
            write = host._dispatcher.peer.transport.write
            line = orjson.dumps(request("ui/request", {"kind": "notify", "message": "m"})) + b"\n"
            write(line)
            await host.ping()
            write(line)
            await host.ping()
            answered.set()

    answered = asyncio.Event()
    with pytest.raises(ProtocolViolation, match="a second request with the id 900"):
        asyncio.run(test())


def test_an_id_is_free_after_its_answer() -> None:
    async def test() -> None:
        async with TestHost(sample(), ui={}) as host:
            line = orjson.dumps(request("ui/request", {"kind": "notify", "message": "m"})) + b"\n"
            for _ in range(2):
                host._dispatcher.peer.transport.write(line)
                await host.until(lambda: host.ui_requests)
                await host.ping()
            assert len(host.ui_requests) == 2

    asyncio.run(test())


def test_a_long_frame_is_shown_in_part() -> None:
    """A megabyte in a failure message helps nobody; the exception holds all of it."""
    violation = ProtocolViolation("too long", "x" * 1_000_000)
    assert len(str(violation)) < 1000
    assert re.search(r"x… \(1000000 characters\)$", str(violation))
    assert len(violation.frame) == 1_000_000


def test_each_method_of_an_extension_is_known() -> None:
    """The host knows all methods, so none is taken for a mistake. Source: docs/protocol.md, section 4."""
    to_the_extension = {methods.INITIALIZE, methods.SHUTDOWN, methods.EVENT, methods.HOOK, methods.TOOL_EXECUTE}
    to_the_extension |= {methods.COMMAND_EXECUTE, methods.COMMAND_COMPLETE, methods.PROVIDER_COMPLETE}
    to_the_extension |= {methods.PROVIDER_OAUTH_LOGIN, methods.PROVIDER_OAUTH_REFRESH}
    to_the_extension |= {methods.TASK_START, methods.TASK_STOP, methods.TASK_LIST}
    assert set(PARAMS) - to_the_extension == inspection._REQUESTS | inspection._NOTIFICATIONS
