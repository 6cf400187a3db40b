"""The peer: whoever is on either side may ask, each question gets one answer, and nothing is left in any table."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import logging
import os
import socket
import threading
import tracemalloc
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

import hypothesis.strategies as st
import orjson
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sepkit.errors import (
    Code,
    ConnectionClosed,
    EncodeError,
    FrameError,
    InternalError,
    InvalidParams,
    InvalidRequest,
    MethodNotFound,
    RequestTimeout,
    RpcError,
)
from sepkit.faces.runner import LoopKind, new_loop
from sepkit.peer import Peer, RequestHandler
from sepkit.transports import HIGH_WATER, Transport
from sepkit.transports.descriptors import DescriptorTransport
from sepkit.transports.memory import MemoryTransport, memory_pair
from tests.driver import PATIENCE, Recorder
from tests.virtual_clock import VirtualClockLoop

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Routes = Mapping[str, RequestHandler]


# -- two ends ----------------------------------------------------------------------------------------------------------


async def ping(params: dict[str, Any]) -> object:
    return {}


async def echo(params: dict[str, Any]) -> object:
    return params


def peer_over(transport: Transport, routes: Routes | None = None, **more: Any) -> Peer:
    return Peer(transport, routes={"ping": ping, "echo": echo, **(routes or {})}, **more)


def tables(peer: Peer) -> dict[str, object]:
    """What a peer and its transport still hold of requests, answers, and who waits for them."""
    held: dict[str, object] = {}
    for part in (peer, peer.transport):
        for name, value in vars(part).items():
            if isinstance(value, (dict, set, list, deque)) and value and not isinstance(value, Counter):
                held[name] = value
    for name in ("_routes", "notifications"):
        held.pop(name, None)
    return held


def linked_transports(kind: str) -> tuple[Transport, Transport]:
    if kind == "memory":
        return memory_pair()
    ours, theirs = socket.socketpair()
    one, two = (DescriptorTransport(os.dup(end.fileno()), end.detach()) for end in (ours, theirs))
    return one, two


async def close_now(peer: Peer) -> None:
    closing = asyncio.ensure_future(peer.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])


async def turns(count: int = 10) -> None:
    """Let the loop turn: whatever could happen by itself, happens."""
    for _ in range(count):
        await asyncio.sleep(0)


def own_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


@contextlib.asynccontextmanager
async def watched() -> AsyncIterator[None]:
    """Fails where something was raised into the loop, or a task is left."""
    raised: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: raised.append(context))
    before = asyncio.all_tasks()
    yield
    await turns()
    gc.collect(0)  # a future with an exception that nobody has looked at says so when it is collected
    assert raised == []
    assert asyncio.all_tasks() <= before


@contextlib.asynccontextmanager
async def two_peers(
    here: Routes | None = None, there: Routes | None = None, *, kind: str = "memory", **more: Any
) -> AsyncIterator[tuple[Peer, Peer]]:
    """Two linked peers, closed in the end; then all tables are empty."""
    async with watched():
        one, two = linked_transports(kind)
        ours, theirs = peer_over(one, here), peer_over(two, there, **more)
        ours.start()
        theirs.start()
        try:
            yield ours, theirs
        finally:
            for peer in (ours, theirs):
                peer.cancel_all()
                await peer.wait_idle(PATIENCE)
                await close_now(peer)
            await turns()
        assert [tables(ours), tables(theirs)] == [{}, {}]


class Wire:
    """The other side of a peer, at byte level."""

    def __init__(self, transport: MemoryTransport) -> None:
        self.transport = transport
        self.told = Recorder()

    @property
    def frames(self) -> list[dict[str, Any]]:
        """What has come so far. A line that is no JSON fails the test."""
        return [orjson.loads(line) for line in self.told.lines if isinstance(line, bytes)]

    def send(self, *frames: Mapping[str, Any] | bytes) -> None:
        """Send frames, or raw lines, in one piece."""
        lines = [frame if isinstance(frame, bytes) else orjson.dumps(frame) for frame in frames]
        self.transport.write(b"\n".join(lines) + b"\n")

    def answers(self, rid: object) -> list[dict[str, Any]]:
        """The answers to ``rid``: 1, "1", 1.0 and True are four things."""
        return [f for f in self.frames if "method" not in f and repr(f.get("id")) == repr(rid)]

    async def answer(self, rid: object) -> dict[str, Any]:
        """Wait for the answer to ``rid``."""
        while not (found := self.answers(rid)):
            await self.told.wait_lines(len(self.told.lines) + 1)
        return found[0]

    async def ping(self) -> None:
        """Check that the peer lives, and that all it had to say before has come."""
        self.send(request("ping", rid="is it alive?"))
        assert (await self.answer("is it alive?"))["result"] == {}
        self.told.lines.pop()


def request(method: str, params: Mapping[str, Any] | None = None, *, rid: object = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": rid, "method": method, "params": dict(params or {})}


def cancel(rid: object) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": "$/cancel", "params": {"id": rid}}


@contextlib.asynccontextmanager
async def raw(routes: Routes | None = None, **more: Any) -> AsyncIterator[tuple[Peer, Wire]]:
    """A peer, and the other side of it at byte level; in the end all tables are empty."""
    async with watched():
        one, two = memory_pair(max_frame_bytes=more.pop("max_frame_bytes", 64 * 2**20))
        peer, wire = peer_over(one, routes, **more), Wire(two)
        peer.start()
        two.start(wire.told)
        try:
            yield peer, wire
        finally:
            peer.cancel_all()
            await peer.wait_idle(PATIENCE)
            await close_now(peer)
            await turns()
            await wire.transport.aclose()
        assert tables(peer) == {}


class Handler:
    """A handler that waits to be told what to do, and keeps what becomes of it."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.cancelled = asyncio.Event()
        self.release: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    async def __call__(self, params: dict[str, Any]) -> object:
        self.begun.put_nowait(params)
        try:
            return await asyncio.shield(self.release)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


# -- the four ends of a request ----------------------------------------------------------------------------------------


def test_an_answer_returns_to_who_asked(run: Run) -> None:
    """The table of ``sepkit.peer``, *answered*: params and result cross as they are; both entries are taken out."""

    async def main() -> None:
        async with two_peers() as (here, there):
            params: dict[str, Any] = {
                "text": "é\u2028\n",
                "numbers": [0, -1, 2**63, 1.5],
                "nothing": None,
                "deep": {"a": [{}]},
            }
            assert await here.request("echo", params) == params
            assert await there.request("echo", {"other": "way"}) == {"other": "way"}
            assert await asyncio.gather(*(here.request("echo", {"n": n}) for n in range(100))) == [
                {"n": n} for n in range(100)
            ]
            assert (here.pending, here.busy, there.busy) == (0, False, False)

    run(main())


@pytest.mark.parametrize("result", [None, {}, [], "", 0, False, "text", [1, {"a": None}]])
def test_any_result_is_a_result(run: Run, result: object) -> None:
    """``id`` and ``result`` make a success, also if the result is false in Python.

    Source: docs/protocol.md, section 1.
    """

    async def give(params: dict[str, Any]) -> object:
        return result

    async def main() -> None:
        async with two_peers(there={"give": give}) as (here, _):
            answer = await here.request("give", {})
            assert answer == result
            assert type(answer) is type(result)

    run(main())


@pytest.mark.parametrize("code", [*Code, -32050, 7])
def test_an_error_is_raised_in_the_class_of_its_code(run: Run, code: int) -> None:
    """Code, message and data cross; each code of SEP has a class of its own. Source: docs/protocol.md, section 8."""

    async def fail(params: dict[str, Any]) -> object:
        raise RpcError("because", code=int(code), data={"reason": ["x"]})

    async def main() -> None:
        async with two_peers(there={"fail": fail}) as (here, _):
            with pytest.raises(RpcError) as caught:
                await here.request("fail", {})
            assert (caught.value.code, caught.value.message, caught.value.data) == (code, "because", {"reason": ["x"]})
            assert (type(caught.value) is RpcError) is (code not in list(Code))

    run(main())


@pytest.mark.parametrize("kind", ["memory", "sockets"])
def test_an_asker_that_is_cancelled_tells_the_handler_and_the_answer_comes_once(run: Run, kind: str) -> None:
    """The table, *cancelled*: ``$/cancel`` is sent, the handler is cancelled; its late answer finds no entry."""

    async def main() -> None:
        work = Handler()
        async with two_peers(there={"work": work}, kind=kind) as (here, there):
            asking = asyncio.create_task(here.request("work", {"n": 1}))
            assert await work.begun.get() == {"n": 1}
            assert (here.pending, there.busy) == (1, True)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert here.pending == 0
            await asyncio.wait_for(work.cancelled.wait(), PATIENCE)
            assert await here.request("ping", {}) == {}  # the -32800, which nobody waits for, has come before this
            assert not there.busy

    run(main())


def test_a_cancelled_request_is_answered_when_its_work_has_stopped_and_not_before(run: Run) -> None:
    """A cancelled request is answered once, with -32800, when its work has stopped.

    Source: docs/protocol.md, section 8.
    """

    async def main() -> None:
        cleaning, cleaned = asyncio.Event(), asyncio.Event()

        async def work(params: dict[str, Any]) -> object:
            try:
                await asyncio.sleep(PATIENCE)
            finally:
                cleaning.set()
                await cleaned.wait()
            return None

        async with raw({"work": work}) as (_, wire):
            wire.send(request("work", rid="a"))
            await wire.ping()
            wire.send(cancel("a"))
            await cleaning.wait()
            await wire.ping()
            assert wire.frames == []
            cleaned.set()
            assert (await wire.answer("a"))["error"]["code"] == Code.CANCELLED
            await wire.ping()
            assert len(wire.frames) == 1

    run(main())


@pytest.mark.parametrize("kind", ["memory", "sockets"])
def test_a_request_that_is_given_up_raises_and_cancels_the_handler(run: Run, kind: str) -> None:
    """The table, *given up*: time is over: RequestTimeout, which is a TimeoutError, and ``$/cancel``."""

    async def main() -> None:
        work = Handler()
        async with two_peers(there={"work": work}, kind=kind) as (here, _):
            with pytest.raises(RequestTimeout, match=r"work: no answer within 0\.01 s") as caught:
                await here.request("work", {}, timeout=0.01)
            assert isinstance(caught.value, TimeoutError)
            assert (caught.value.method, caught.value.seconds) == ("work", 0.01)
            await asyncio.wait_for(work.cancelled.wait(), PATIENCE)
            assert await here.request("echo", {}, timeout=PATIENCE) == {}

    run(main())


def test_a_request_is_given_up_in_time_though_the_other_side_does_not_read(run: Run) -> None:
    """Given up (the table above): the time counts from the call on, also while nothing can be sent."""

    async def main() -> None:
        async with raw() as (peer, wire):
            wire.transport.pause_reading()
            peer.notify("large", {"x": "x" * 2 * HIGH_WATER})
            assert peer.congested
            with pytest.raises(RequestTimeout) as caught:
                await asyncio.wait_for(peer.request("late", {}, timeout=0.02), PATIENCE)
            assert caught.value.seconds == 0.02
            wire.transport.resume_reading()
            await wire.ping()
            # What was never asked is not cancelled either.
            assert [frame["method"] for frame in wire.frames] == ["large"]

    run(main())


@pytest.mark.parametrize("end", ["end of input", "lost", "closed here"])
def test_a_request_whose_connection_ends_raises_connection_closed(run: Run, end: str) -> None:
    """Connection gone (the table above): no ExceptionGroup, and no CancelledError that is not the caller's own."""

    async def main() -> None:
        ended: list[Exception | None] = []
        async with raw(on_end=ended.append) as (peer, wire):
            asking = [asyncio.create_task(peer.request("never", {"n": n}, timeout=PATIENCE)) for n in range(3)]
            await turns()
            if end == "end of input":
                peer.transport.end_input()  # type: ignore[attr-defined]
            elif end == "lost":
                await wire.transport.aclose()
                peer.notify("anybody?", {})
            else:
                await peer.aclose()
            done, _ = await asyncio.wait(asking, timeout=PATIENCE)
            assert [type(task.exception()) for task in done] == [ConnectionClosed] * 3
            assert peer.pending == 0
            assert len(ended) == 1
            with pytest.raises(ConnectionClosed):
                await peer.request("too late", {}, timeout=PATIENCE)
            assert peer.notify("too late", {}) is (end == "end of input"), "what is written may still go out then"

    run(main())


def test_what_was_asked_of_us_is_not_answered_when_the_connection_is_gone(run: Run) -> None:
    """The table, *connection gone*: nothing is written, nothing raises; the handler ends as it will."""

    async def main() -> None:
        work = Handler()
        async with raw({"work": work}) as (peer, wire):
            wire.send(request("work", rid=1), request("work", rid=2))
            await work.begun.get()
            await work.begun.get()
            await peer.aclose()
            assert peer.busy
            work.release.set_result({})
            assert await peer.wait_idle(PATIENCE)
            assert wire.frames == []
            assert not peer.busy

    run(main())


def test_what_was_asked_before_the_end_of_input_is_still_answered(run: Run) -> None:
    """Accepted requests finish, and their replies are flushed."""

    async def main() -> None:
        work = Handler()
        async with raw({"work": work}) as (peer, wire):
            wire.send(request("work", rid="last"))
            await work.begun.get()
            peer.transport.end_input()  # type: ignore[attr-defined]
            work.release.set_result({"done": True})
            assert (await wire.answer("last"))["result"] == {"done": True}

    run(main())


def test_a_caller_cancelled_in_the_moment_of_the_answer_is_cancelled_and_nothing_is_left(run: Run) -> None:
    """The caller gets its own CancelledError, whatever arrived in the same turn: answer, error, or the end."""

    async def main() -> None:
        for frames in ([{"result": 1}], [{"error": {"code": -1, "message": ""}}], []):
            async with raw() as (peer, wire):
                asking = asyncio.create_task(peer.request("work", {}))
                await turns()
                (asked,) = wire.frames
                for frame in frames:
                    peer.transport.feed(  # type: ignore[attr-defined]
                        orjson.dumps({"jsonrpc": "2.0", "id": asked["id"], **frame}) + b"\n"
                    )
                if not frames:
                    peer.transport.end_input()  # type: ignore[attr-defined]
                asking.cancel()
                await asyncio.wait([asking])
                assert asking.cancelled()
                await turns()
                assert len(wire.frames) == 1, "an answer that has come is not cancelled"

    run(main())


# -- what is no request ------------------------------------------------------------------------------------------------

BAD_LINES: Final[dict[str, tuple[bytes, int, object]]] = {
    "bad JSON": (b"{", -32700, None),
    "bad UTF-8": (b'"\xff"', -32700, None),
    "a NUL": (b"\x00", -32700, None),
    "NaN": (b"NaN", -32700, None),
    "null": (b"null", -32600, None),
    "a number": (b"5", -32600, None),
    "a string": (b'"x"', -32600, None),
    "true": (b"true", -32600, None),
    "[]": (b"[]", -32600, None),
    "a batch": (b'[{"jsonrpc":"2.0","id":1,"method":"ping","params":{}}]', -32600, None),
    "no jsonrpc": (b'{"id":"a","method":"ping","params":{}}', -32600, "a"),
    "jsonrpc 1.0": (b'{"jsonrpc":"1.0","id":"a","method":"ping","params":{}}', -32600, "a"),
    "a method that is no string": (b'{"jsonrpc":"2.0","id":0,"method":["ping"],"params":{}}', -32600, 0),
    "params that are a list": (b'{"jsonrpc":"2.0","id":"","method":"ping","params":[]}', -32600, ""),
    "id null": (b'{"jsonrpc":"2.0","id":null,"method":"ping","params":{}}', -32600, None),
    "id true": (b'{"jsonrpc":"2.0","id":true,"method":"ping","params":{}}', -32600, None),
    "id 1.0": (b'{"jsonrpc":"2.0","id":1.0,"method":"ping","params":{}}', -32600, None),
    "id {}": (b'{"jsonrpc":"2.0","id":{},"method":"ping","params":{}}', -32600, None),
    "nested": (b"[" * 100_000, -32700, None),
    "over-long": (b"x" * 200_000, -32600, None),
}


@pytest.mark.parametrize(("line", "code", "rid"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_line_that_is_no_frame_is_answered_with_one_error_and_the_peer_lives(
    run: Run, line: bytes, code: int, rid: object
) -> None:
    """It is one -32700 or -32600, with the id where it can be read; after each a ping is answered."""

    async def main() -> None:
        async with raw(max_frame_bytes=150_000) as (_, wire):
            wire.send(line)
            await wire.ping()
            (answer,) = wire.frames
            assert (answer["error"]["code"], repr(answer["id"])) == (code, repr(rid))
            # Among others in one piece, too.
            wire.send(request("ping", rid=10), line, b"", b" \r", request("ping", rid=11))
            await wire.ping()
            assert [frame["id"] for frame in wire.frames] == [rid, 10, rid, 11]

    run(main())


def test_an_answer_that_is_too_long_fails_who_waits_for_it_at_once(run: Run) -> None:
    """The error is told to the caller that waits, not to the peer that answered."""

    async def main() -> None:
        async with raw(max_frame_bytes=1_000) as (peer, wire):
            asked = [asyncio.ensure_future(peer.request("m", {}, timeout=None)) for _ in range(2)]
            await turns()
            (first, second) = (frame["id"] for frame in wire.frames)
            wire.send(b'{"jsonrpc":"2.0","id":%d,"result":"%b"}' % (first, b"x" * 1_000))
            with pytest.raises(InternalError, match=r"the answer cannot be taken: .* max_frame_bytes \(1000 bytes\)"):
                await asked[0]
            wire.send(b'{"jsonrpc":"2.0","id":%d,"result":"%b"}' % (first, b"x" * 1_000))  # nobody waits any more
            wire.send(b'{"jsonrpc":"2.0","id":%d,"result":"x"}' % second)
            assert await asked[1] == "x"
            await wire.ping()
            assert len(wire.frames) == 2, "an answer is never answered"

    run(main())


def test_a_flood_of_bad_lines_is_one_warning(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Each line is answered, and only the first is a warning, so bad input cannot flood the log."""

    async def main() -> None:
        async with raw() as (_, wire):
            wire.send(*[b"bad"] * 100)
            await wire.ping()
            assert [frame["error"]["code"] for frame in wire.frames] == [Code.PARSE_ERROR] * 100

    with caplog.at_level(logging.INFO, "sepkit"):
        run(main())
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_unknown_methods_and_bad_params_are_never_mixed_up(run: Run) -> None:
    """An unknown method is -32601, bad params are -32602."""

    async def picky(params: dict[str, Any]) -> object:
        raise InvalidParams("x is missing", data={"errors": ["$.x"]})

    async def main() -> None:
        async with two_peers(there={"picky": picky}) as (here, _):
            with pytest.raises(MethodNotFound, match="nothing/here"):
                await here.request("nothing/here", {})
            with pytest.raises(InvalidParams) as caught:
                await here.request("picky", {})
            assert caught.value.data == {"errors": ["$.x"]}

    run(main())


def test_a_request_without_params_is_a_request(run: Run) -> None:
    """JSON-RPC 2.0: params may be left out; the handler gets an empty object."""

    async def main() -> None:
        async with raw() as (_, wire):
            wire.send(b'{"jsonrpc":"2.0","id":5,"method":"echo"}')
            assert (await wire.answer(5))["result"] == {}

    run(main())


def test_a_notification_is_never_answered(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """An unknown notification is one debug line; a failure in one is only logged here."""
    got: list[object] = []

    def take(params: dict[str, Any]) -> None:
        got.append(params)

    def fail(params: dict[str, Any]) -> None:
        raise RuntimeError("oh no")

    async def main() -> None:
        async with raw(notifications={"take": take, "fail": fail}) as (_, wire):
            for method in ("unknown", "fail", "take", "ping", "$/unknown"):
                wire.send({"jsonrpc": "2.0", "method": method, "params": {"x": 1}})
            wire.send({"jsonrpc": "2.0", "method": "take"})
            wire.send(cancel("nobody"), cancel(None), cancel([1]), cancel({}), cancel(True))
            wire.send({"jsonrpc": "2.0", "method": "$/cancel", "params": {}})
            await wire.ping()
            assert wire.frames == []
            assert got == [{"x": 1}, {}]

    with caplog.at_level(logging.DEBUG, "sepkit"):
        run(main())
    unknown = [record.levelname for record in caplog.records if "unknown'" in record.getMessage()]
    assert unknown == ["DEBUG", "DEBUG"]
    assert [record.levelname for record in caplog.records if "fail" in record.getMessage()] == ["ERROR"]


# -- ids ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rid", [0, "", 1, "1", -5, 2**64 - 1, "a\nb", "é"])
def test_ids_come_back_as_they_came(run: Run, rid: object) -> None:
    """``0`` and ``""`` are valid ids, in results, in errors, and in a cancel."""

    async def main() -> None:
        work = Handler()
        async with raw({"work": work}) as (_, wire):
            wire.send(request("ping", rid=rid))
            wire.send(request("unknown", rid=rid))
            wire.send(request("work", rid=rid))
            await work.begun.get()
            wire.send(cancel(rid))
            await asyncio.wait_for(work.cancelled.wait(), PATIENCE)
            await wire.ping()
            assert [repr(frame["id"]) for frame in wire.frames] == [repr(rid)] * 3
            assert [frame.get("error", {}).get("code") for frame in wire.frames] == [None, -32601, -32800]

    run(main())


def test_a_duplicate_of_an_id_in_flight_is_refused_and_the_first_call_lives(run: Run) -> None:
    """A duplicate of an id in flight is -32600, and the first call goes on. Afterwards the id is free."""

    async def main() -> None:
        work = Handler()
        async with raw({"work": work}) as (peer, wire):
            wire.send(request("work", {"first": 1}, rid=7), request("work", {"second": 2}, rid=7))
            wire.send(request("ping", rid=7), request("unknown", rid=7), b'{"jsonrpc":"2.0","id":7,"method":"ping"}')
            await wire.ping()
            assert [(f["id"], f["error"]["code"]) for f in wire.frames] == [(7, Code.INVALID_REQUEST)] * 4
            assert work.begun.get_nowait() == {"first": 1}
            assert work.begun.empty()
            assert not work.cancelled.is_set()
            work.release.set_result("lives")
            assert await peer.wait_idle(PATIENCE)
            wire.send(request("ping", rid=7))
            await wire.ping()
            assert [frame.get("result") for frame in wire.frames] == [None] * 4 + ["lives", {}]

    run(main())


def test_ids_that_python_calls_equal_never_meet(run: Run) -> None:
    """``1``, ``"1"``, ``true`` and ``1.0`` are different ids: in flight, in a cancel, in an answer."""

    async def main() -> None:
        number, text = Handler(), Handler()
        async with raw({"number": number, "text": text}) as (peer, wire):
            wire.send(request("number", rid=1), request("text", rid="1"))
            await number.begun.get()
            await text.begun.get()
            wire.send(request("ping", rid=True), request("ping", rid=1.0))
            wire.send(cancel(True), cancel(1.0), cancel([1]))
            await wire.ping()
            assert [(f["id"], f["error"]["code"]) for f in wire.frames] == [(None, Code.INVALID_REQUEST)] * 2
            wire.send(cancel("1"))
            assert (await wire.answer("1"))["error"]["code"] == Code.CANCELLED
            assert not number.cancelled.is_set()
            number.release.set_result("number")
            assert (await wire.answer(1))["result"] == "number"
            # An answer finds its question by the very id that we gave it.
            asking = asyncio.create_task(peer.request("ours", {}))
            await turns()
            ours = wire.frames[-1]["id"]
            assert type(ours) is int
            for other in (str(ours), float(ours), True, None, [ours], {"id": ours}):
                wire.send({"jsonrpc": "2.0", "id": other, "result": "wrong"})
            await wire.ping()
            assert not asking.done()
            wire.send({"jsonrpc": "2.0", "id": ours, "result": "right"})
            assert await asking == "right"

    run(main())


# -- answers -----------------------------------------------------------------------------------------------------------

MALFORMED: Final[dict[str, dict[str, Any]]] = {
    "no jsonrpc": {"result": {}},
    "jsonrpc 1.0": {"jsonrpc": "1.0", "result": {}},
    "an error of jsonrpc 1.0": {"jsonrpc": "1.0", "error": {"code": -32601, "message": "x"}},
    "an error that is null": {"jsonrpc": "2.0", "error": None},
    "an error that is a string": {"jsonrpc": "2.0", "error": "oops"},
    "an error without a code": {"jsonrpc": "2.0", "error": {"message": "x"}},
    "an error without a message": {"jsonrpc": "2.0", "error": {"code": -32601}},
    "a code that is a string": {"jsonrpc": "2.0", "error": {"code": "-32601", "message": "x"}},
    "a code that is true": {"jsonrpc": "2.0", "error": {"code": True, "message": "x"}},
    "a message that is a number": {"jsonrpc": "2.0", "error": {"code": -32601, "message": 5}},
    "an error in a list": {"jsonrpc": "2.0", "error": [{"code": -32601, "message": "x"}]},
}


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_answer_fails_who_waits_for_it_and_is_never_answered(run: Run, fields: dict[str, Any]) -> None:
    """An answer is never answered; its caller is not left waiting for a better one.

    Source: docs/protocol.md, section 1.
    """

    async def main() -> None:
        async with raw() as (peer, wire):
            asking = asyncio.create_task(peer.request("work", {}))
            await turns()
            rid = wire.frames[0]["id"]
            wire.send({"id": rid, **fields})
            with pytest.raises(InternalError, match="answer") as caught:
                await asyncio.wait_for(asking, PATIENCE)
            assert type(caught.value) is InternalError
            wire.send({"jsonrpc": "2.0", "id": rid, "result": "a better one"})
            wire.send({"id": "unknown", **fields})
            await wire.ping()
            assert len(wire.frames) == 1

    run(main())


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"result": 1, "error": None}, 1),
        ({"result": None, "error": {"code": -32601, "message": "no"}}, MethodNotFound),
        ({"result": 1, "new": [1]}, 1),
        ({"error": {"code": -32002, "message": "", "new": 1}}, "NotTrusted"),
    ],
)
def test_an_answer_is_read_as_json_rpc_says(run: Run, fields: dict[str, Any], outcome: object) -> None:
    """Unknown fields are ignored; a frame with an error is an error. Source: docs/protocol.md, section 1."""

    async def main() -> None:
        async with raw() as (peer, wire):
            asking = asyncio.create_task(peer.request("work", {}))
            await turns()
            wire.send({"jsonrpc": "2.0", "id": wire.frames[0]["id"], **fields})
            await asyncio.wait([asking], timeout=PATIENCE)
            error = asking.exception()
            if error is None:
                assert asking.result() == outcome
            else:
                assert outcome in (type(error), type(error).__name__)

    run(main())


def test_late_and_unknown_answers_are_ignored(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """The table: a late answer finds no entry; nor does one to what was never asked, or a second one."""

    async def main() -> None:
        async with raw() as (peer, wire):
            with pytest.raises(RequestTimeout):
                await peer.request("slow", {}, timeout=0.001)
            asking = asyncio.create_task(peer.request("cancelled", {}))
            await turns()
            asking.cancel()
            await asyncio.wait([asking])
            await turns()
            late = [frame["id"] for frame in wire.frames if "id" in frame]
            for rid in (*late, 999, -1, "x", None, 1.5):
                wire.send({"jsonrpc": "2.0", "id": rid, "result": "late"})
                wire.send({"jsonrpc": "2.0", "id": rid, "error": {"code": -32800, "message": "cancelled"}})
            wire.send({"jsonrpc": "2.0", "result": "to whom?"})
            before = len(wire.frames)
            await wire.ping()
            assert len(wire.frames) == before
            assert tables(peer) == {}

    with caplog.at_level(logging.INFO, "sepkit"):
        run(main())
    assert caplog.records == []


# -- exceptions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after a wait"])
@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopAsyncIteration(), asyncio.CancelledError()]
)
def test_what_would_end_the_process_fails_that_call_only(
    run: Run, error: BaseException, waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """``sys.exit()`` in a handler fails that call, not the process; so do other BaseExceptions."""

    async def leave(params: dict[str, Any]) -> object:
        if waits:
            await asyncio.sleep(0)
        raise error

    async def main() -> None:
        async with two_peers(there={"leave": leave}) as (here, _):
            with pytest.raises(InternalError):
                await here.request("leave", {})
            assert await here.request("ping", {}) == {}

    run(main())
    assert type(error).__name__ in caplog.text


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after a wait"])
def test_an_unexpected_exception_crosses_as_a_fixed_text_and_a_correlation_id(
    run: Run, waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A fixed text and an id cross; the traceback is logged here under that id; a planted secret does not cross."""

    async def leak(params: dict[str, Any]) -> object:
        if waits:
            await asyncio.sleep(0)
        raise ValueError("hunter2")

    async def main() -> None:
        async with raw({"leak": leak}) as (_, wire):
            wire.send(request("leak", rid=1), request("leak", rid=2))
            errors = [(await wire.answer(rid))["error"] for rid in (1, 2)]
            ids = [error["data"]["correlation_id"] for error in errors]
            assert len({*ids}) == 2
            for error, correlation in zip(errors, ids, strict=True):
                assert error["code"] == Code.INTERNAL_ERROR
                assert error["message"] == f"leak failed unexpectedly; its log names it {correlation}"
                (record,) = (record for record in caplog.records if correlation in record.getMessage())
                assert record.levelname == "ERROR"
                assert record.exc_info is not None
                assert "hunter2" in str(record.exc_info[1])
            assert not [line for line in wire.told.lines if isinstance(line, bytes) and b"hunter2" in line]

    run(main())
    assert "in leak" in caplog.text, "the traceback says where"


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after a wait"])
@pytest.mark.parametrize(
    "bad", ["\ud800", 2**64, object(), {1: 2}, {"deep": {"er": {"\udfff"}}}], ids=lambda bad: type(bad).__name__
)
def test_a_result_that_cannot_be_sent_fails_that_call_and_nothing_else(run: Run, waits: bool, bad: object) -> None:
    """An integer past 64 bits or a lone surrogate in a result fails that call, and nothing else."""

    async def give(params: dict[str, Any]) -> object:
        if waits:
            await asyncio.sleep(0)
        return bad

    async def data(params: dict[str, Any]) -> object:
        if waits:
            await asyncio.sleep(0)
        raise RpcError("see its data", code=7, data=bad)

    async def text(params: dict[str, Any]) -> object:
        if waits:
            await asyncio.sleep(0)
        raise EncodeError("$.\ud800", "\ud800")

    async def main() -> None:
        async with two_peers(there={"give": give, "data": data, "text": text}) as (here, _):
            for method in ("give", "data", "text"):
                with pytest.raises(InternalError, match="cannot be sent"):
                    await asyncio.wait_for(here.request(method, {}), PATIENCE)
            assert await here.request("ping", {}) == {}

    run(main())


def test_params_that_cannot_be_sent_raise_where_they_were_given(run: Run) -> None:
    """``Peer.request``: EncodeError, and nothing waits; the next request is none the worse for it."""

    async def main() -> None:
        async with two_peers() as (here, _):
            with pytest.raises(EncodeError):
                await here.request("echo", {"x": object()})
            with pytest.raises(EncodeError):
                here.notify("echo", {"x": "\ud800"})
            assert here.pending == 0
            assert await here.request("echo", {"x": 1}) == {"x": 1}

    run(main())


@pytest.mark.parametrize("params", [b"", b',"params":{}'], ids=["without params", "with params"])
def test_a_handler_that_raises_before_it_returns_a_coroutine_fails_that_call_only(run: Run, params: bytes) -> None:
    """``RequestHandler`` is any callable: what it raises at once is answered, and the lines behind it are read."""

    def refuse(params: dict[str, Any]) -> Coroutine[Any, Any, object]:
        raise InvalidRequest("not now")

    def break_(params: dict[str, Any]) -> Coroutine[Any, Any, object]:
        raise RuntimeError("broken")

    async def main() -> None:
        async with raw({"refuse": refuse, "break": break_}) as (_, wire):
            wire.send(
                b'{"jsonrpc":"2.0","id":1,"method":"refuse"%b}' % params,
                b'{"jsonrpc":"2.0","id":2,"method":"break"%b}' % params,
                b'{"jsonrpc":"2.0","id":3,"method":"ping"%b}' % params,
            )
            assert (await wire.answer(3))["result"] == {}
            assert (await wire.answer(1))["error"] == {"code": Code.INVALID_REQUEST, "message": "not now"}
            assert (await wire.answer(2))["error"]["code"] == Code.INTERNAL_ERROR

    run(main())


# -- cancelling --------------------------------------------------------------------------------------------------------


async def every_await(peer: Peer) -> None:
    """Wait in each way there is."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0)
    await asyncio.sleep(1e-6)
    done = loop.create_future()
    done.set_result(None)
    await done
    soon = loop.create_future()
    loop.call_soon(lambda: None if soon.done() else soon.set_result(None))
    await soon
    event = asyncio.Event()
    loop.call_soon(event.set)
    await event.wait()
    await asyncio.shield(asyncio.ensure_future(asyncio.sleep(0)))
    await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))
    await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0))])
    async with asyncio.timeout(PATIENCE):
        await asyncio.sleep(0)
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))
    lock = asyncio.Lock()
    async with lock:
        await asyncio.sleep(0)
    assert await peer.request("echo", {"from": "the handler"}) == {"from": "the handler"}


async def lets_go(peer: Peer) -> object:
    await every_await(peer)
    return "finished"


async def cleans_up(peer: Peer) -> object:
    try:
        await every_await(peer)
    finally:
        await asyncio.sleep(0)
        await asyncio.shield(asyncio.sleep(0))
    return "finished"


async def swallows(peer: Peer) -> object:
    with contextlib.suppress(asyncio.CancelledError):
        await every_await(peer)
        return "finished"
    await asyncio.sleep(0)
    return "swallowed"


async def fails(peer: Peer) -> object:
    try:
        await every_await(peer)
    except asyncio.CancelledError:
        raise RuntimeError("while it was cancelled") from None
    return "finished"


@pytest.mark.parametrize("way", [lets_go, cleans_up, swallows, fails], ids=lambda way: way.__name__)
@pytest.mark.parametrize("params", [b"", b',"params":{}'], ids=["without params", "with params"])
def test_a_cancel_at_every_await_point_gives_exactly_one_answer(
    run: Run, way: Callable[[Peer], Awaitable[object]], params: bytes
) -> None:
    """A cancel at every await point of a call gives exactly one answer and a live process.

    After 0, 1, 2, … turns of the loop, until the call has ended before its cancel comes. "0" is one write for both: the
    cancel arrives in the same batch as the request, before a task of its own has begun.
    """

    async def main() -> None:
        async def work(params: dict[str, Any]) -> object:
            return await way(peer)

        async with watched():
            # The other side is a peer too, so that what the handler asks for is answered.
            one, two = memory_pair()
            peer, other = peer_over(one, {"work": work}), peer_over(two)
            answers: list[dict[str, Any]] = []
            settle = other._settle

            def keep(frame: dict[str, Any]) -> None:
                answers.append(frame)
                settle(frame)

            other._settle = keep  # type: ignore[method-assign]
            peer.start()
            other.start()
            outcomes: list[int | str] = []
            for count in range(1_000):
                rid = f"call-{count}"
                asked = b'{"jsonrpc":"2.0","id":"%b","method":"work"%b}\n' % (rid.encode(), params)
                cancelled = orjson.dumps(cancel(rid)) + b"\n"
                if count == 0:
                    two.write(asked + cancelled)
                else:
                    two.write(asked)
                    await turns(count)
                    two.write(cancelled)
                async with asyncio.timeout(PATIENCE):
                    assert await other.request("ping", {}) == {}, "a cancel never waits behind what it cancels"
                    await turns(3)
                    while peer.busy:
                        await turns(1)
                assert await other.request("ping", {}) == {}
                (answer,) = (frame for frame in answers if frame.get("id") == rid)
                outcomes.append(answer["error"]["code"] if "error" in answer else answer["result"])
                answers.clear()
                if outcomes[-3:] == ["finished"] * 3:
                    break
            assert outcomes[-1] == "finished"
            assert set(outcomes[:-3]) == {Code.CANCELLED}
            assert len(outcomes) > 20, "each of the awaits was hit"
            assert [tables(peer), tables(other)] == [{}, {}]
            await peer.aclose()
            await other.aclose()

    run(main())


def test_an_asker_cancelled_at_every_await_point_leaves_nothing_behind(run: Run) -> None:
    """Whenever a caller is cancelled, the tables of both sides end empty, and both live."""

    async def work(params: dict[str, Any]) -> object:
        for _ in range(3):
            await asyncio.sleep(0)
        return {}

    async def main() -> None:
        async with two_peers(there={"work": work}) as (here, there):
            cancelled = []
            for count in range(40):
                asking = asyncio.create_task(here.request("work", {}))
                await turns(count)
                asking.cancel()
                await asyncio.wait([asking])
                cancelled.append(asking.cancelled())
                assert await here.request("ping", {}) == {}
                assert await there.wait_idle(PATIENCE)
                await here.request("ping", {})
                assert [tables(here), tables(there)] == [{}, {}]
            assert cancelled[0]
            assert not cancelled[-1]
            assert sorted(cancelled, reverse=True) == cancelled

    run(main())


def test_a_cancel_for_an_id_that_is_free_again_cancels_the_new_call_only(run: Run) -> None:
    """A cancel for an unknown id has no effect; a late one does not hit a later request.

    Source: docs/protocol.md, section 8.
    """

    async def main() -> None:
        work = Handler()
        async with raw({"work": work}) as (_, wire):
            wire.send(request("ping", rid=1), cancel(1), cancel(1))
            wire.send(request("work", rid=1))
            await work.begun.get()
            await wire.ping()
            assert not work.cancelled.is_set()
            wire.send(cancel(1), cancel(1))
            await asyncio.wait_for(work.cancelled.wait(), PATIENCE)
            await wire.ping()
            assert [frame.get("error", {}).get("code") for frame in wire.answers(1)] == [None, Code.CANCELLED]

    run(main())


@pytest.mark.parametrize("kind", ["memory", "sockets"])
@pytest.mark.parametrize("how", ["timed out", "cancelled"])
def test_the_handler_sees_within_100_ms_that_its_caller_has_left(run: Run, kind: str, how: str) -> None:
    """A caller that times out or is cancelled sends ``$/cancel``, and the handler sees it within 100 ms."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: asyncio.Queue[float] = asyncio.Queue()

        async def work(params: dict[str, Any]) -> object:
            try:
                await asyncio.sleep(PATIENCE)
            except asyncio.CancelledError:
                seen.put_nowait(loop.time())
                raise
            raise AssertionError("its caller stayed")

        async with two_peers(there={"work": work}, kind=kind) as (here, there):
            took = []
            for _ in range(5):  # the best of five: what others do on this machine is not our promise
                asking = asyncio.create_task(here.request("work", {}, timeout=0.01 if how == "timed out" else None))
                while not there.busy:
                    await asyncio.sleep(0)
                if how == "cancelled":
                    asking.cancel()
                await asyncio.wait([asking])
                left = loop.time()
                assert asking.cancelled() or asking.exception() is not None
                took.append(await asyncio.wait_for(seen.get(), PATIENCE) - left)
            assert min(took) < 0.1

    run(main())


# -- calling back, order -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "sockets"])
def test_five_calls_deep_each_side_asks_the_other(run: Run, kind: str) -> None:
    """The reader never awaits the user's code: extension → host → extension → host, five deep, works."""

    async def main() -> None:
        peers: dict[str, Peer] = {}

        def deeper(side: str) -> RequestHandler:
            async def handler(params: dict[str, Any]) -> object:
                if not params["depth"]:
                    return []
                return [side, *await peers[side].request("deeper", {"depth": params["depth"] - 1})]

            return handler

        async with two_peers({"deeper": deeper("here")}, {"deeper": deeper("there")}, kind=kind) as (here, there):
            peers.update(here=here, there=there)
            found = await asyncio.gather(*(here.request("deeper", {"depth": 5}) for _ in range(20)))
            assert found == [["there", "here", "there", "here", "there"]] * 20

    run(main())


def test_a_handler_that_never_ends_delays_nobody(run: Run) -> None:
    """The reader never awaits the user's code."""

    async def main() -> None:
        work = Handler()
        async with two_peers(there={"work": work}) as (here, there):
            asking = [asyncio.create_task(here.request("work", {})) for _ in range(100)]
            assert await asyncio.wait_for(here.request("echo", {"n": 1}), PATIENCE) == {"n": 1}
            assert len(there.working_on) == 100
            work.release.set_result("at last")
            assert await asyncio.gather(*asking) == ["at last"] * 100

    run(main())


def test_requests_begin_and_notifications_are_told_in_the_order_of_the_wire(run: Run) -> None:
    """Requests begin in the order in which they came, in one write and in several."""

    async def main() -> None:
        order: list[int] = []

        async def work(params: dict[str, Any]) -> object:
            order.append(params["n"])
            await asyncio.sleep(0)
            return {}

        def tell(params: dict[str, Any]) -> None:
            order.append(params["n"])

        async with raw({"work": work}, notifications={"tell": tell}) as (_, wire):
            frames = [
                request("work", {"n": n}, rid=n) if n % 3 else {"jsonrpc": "2.0", "method": "tell", "params": {"n": n}}
                for n in range(60)
            ]
            wire.send(*frames[:30])
            for frame in frames[30:]:
                wire.send(frame)
            await wire.answer(59)
            assert order == list(range(60))

    run(main())


def test_what_a_handler_says_before_it_returns_comes_before_its_answer(run: Run) -> None:
    """Progress sent before ``return`` is on the wire before the reply; from the loop and from a thread."""

    async def main() -> None:
        async def work(params: dict[str, Any]) -> object:
            peer.notify("progress", {"n": 1})
            await asyncio.sleep(0)
            peer.notify("progress", {"n": 2})
            await asyncio.to_thread(lambda: [peer.notify("progress", {"n": n}) for n in range(3, 30)])
            peer.notify("progress", {"n": 30})
            return {}

        async with raw({"work": work}) as (peer, wire):
            wire.send(request("work"))
            await wire.answer(1)
            assert [frame.get("params", {}).get("n") for frame in wire.frames] == [*range(1, 31), None]

    run(main())


def test_notifications_from_threads_keep_the_order_of_each_thread(run: Run) -> None:
    """``Peer.notify`` may be called from any thread and keeps the order of its calls; each line is whole."""

    async def main() -> None:
        async with raw() as (peer, wire):

            def say(thread: int) -> None:
                for n in range(300):
                    assert peer.notify("said", {"thread": thread, "n": n})

            saying = [asyncio.to_thread(say, thread) for thread in range(4)]
            await asyncio.gather(*saying, asyncio.to_thread(lambda: None))
            await wire.told.wait_lines(1_200)
            for thread in range(4):
                said = [f["params"]["n"] for f in wire.frames if f["params"]["thread"] == thread]
                assert said == list(range(300))
            assert len(wire.frames) == 1_200

    run(main())


def test_a_notification_from_a_thread_when_all_is_over_is_not_sent_and_does_not_raise() -> None:
    """``Peer.notify``: whether it was sent; a thread that outlives the connection, or the loop, is told False."""

    async def main() -> Peer:
        one, two = memory_pair()
        peer = peer_over(one)
        peer.start()
        two.start(Recorder())
        assert await asyncio.to_thread(peer.notify, "now", {})
        await turns()
        return peer

    peer = asyncio.run(main())
    told: list[bool] = []
    thread = threading.Thread(target=lambda: told.append(peer.notify("later", {})))
    thread.start()
    thread.join(PATIENCE)
    assert told == [False]


def test_a_finalizer_may_notify_while_what_threads_have_said_is_sent(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector may run one there, and its log line sends what is left itself: everything once, and no error."""

    async def main() -> None:
        async with raw({}) as (peer, wire):
            write, said = peer.transport.write, iter(range(2))

            def writing_more(data: bytes) -> None:
                write(data)
                for number in said:
                    peer.notify("log", {"n": number})

            thread = threading.Thread(target=lambda: [peer.notify("progress", {"n": n}) for n in range(5)])
            thread.start()
            thread.join()  # the loop must not get to it before this
            monkeypatch.setattr(peer.transport, "write", writing_more)
            peer.send_posted()
            await turns(20)
            sent = [(frame["method"], frame["params"]["n"]) for frame in wire.frames]
            assert sorted(sent) == [("log", 0), ("log", 1), *(("progress", n) for n in range(5))]
            assert [n for method, n in sent if method == "progress"] == [*range(5)]

    run(main())


# -- a peer that does not read -----------------------------------------------------------------------------------------


def test_lossy_notifications_are_dropped_and_counted_while_the_other_side_does_not_read(run: Run) -> None:
    """With 10 MiB waiting senders wait, lossy frames are counted, and order holds."""

    async def main() -> None:
        async with raw({"work": echo}) as (peer, wire):
            assert peer.notify("progress", {"n": 0}, lossy=True)
            await turns()
            wire.transport.pause_reading()
            chunk = "x" * 100_000
            for n in range(100):
                assert peer.notify("delta", {"n": n, "chunk": chunk}), "what is not lossy is never dropped"
            assert peer.congested
            assert [peer.notify("progress", {"n": n}, lossy=True) for n in (1, 2)] == [False, False]
            assert not await asyncio.to_thread(peer.notify, "log", {}, lossy=True)
            assert peer.dropped == {"progress": 2, "log": 1}
            # A question waits before it is asked; an answer does not wait.
            asking = asyncio.create_task(peer.request("question", {}))
            draining = asyncio.create_task(peer.drain())
            wire.send(request("work", {"n": "answer"}))
            await turns(20)
            assert not asking.done()
            assert not draining.done()
            assert peer.pending == 0
            wire.transport.resume_reading()
            await draining
            assert not bool(peer.congested)  # not narrowed by what it was
            await turns()
            assert [frame.get("method", "answer") for frame in wire.frames] == [
                "progress",
                *["delta"] * 100,
                "answer",
                "question",
            ]
            assert [frame["params"]["n"] for frame in wire.frames[1:101]] == list(range(100))
            assert peer.notify("progress", {"n": 3}, lossy=True)
            wire.send({"jsonrpc": "2.0", "id": wire.frames[-1]["id"], "result": "at last"})
            assert await asking == "at last"
            assert peer.dropped == {"progress": 2, "log": 1}

    run(main())


def test_an_asker_that_waits_to_ask_can_be_cancelled_and_learns_of_the_end(run: Run) -> None:
    """A caller that waits to send can be cancelled; a request that was not sent is not cancelled on the wire."""

    async def main() -> None:
        async with raw() as (peer, wire):
            wire.transport.pause_reading()
            peer.notify("large", {"x": "x" * 2 * HIGH_WATER})
            cancelled, ended = (asyncio.create_task(peer.request("question", {})) for _ in range(2))
            await turns()
            cancelled.cancel()
            await asyncio.wait([cancelled])
            assert cancelled.cancelled()
            await close_now(peer)
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(ended, PATIENCE)
            wire.transport.resume_reading()
            await turns()
            assert [frame["method"] for frame in wire.frames] == ["large"]

    run(main())


# -- what a handler can rely on ----------------------------------------------------------------------------------------


def test_a_handler_is_one_task_from_its_first_step_to_its_last(run: Run) -> None:
    """``current_task`` is the same before and after a wait, and no two handlers at work share one."""

    async def main() -> None:
        everybody: list[asyncio.Task[Any] | None] = []
        together = asyncio.Event()

        async def work(params: dict[str, Any]) -> object:
            first = asyncio.current_task()
            everybody.append(first)
            for _ in range(2):
                await asyncio.sleep(0)
                assert asyncio.current_task() is first
            if len(everybody) == 5:
                together.set()
            await together.wait()
            assert asyncio.current_task() is first
            return {}

        async with two_peers(there={"work": work}) as (here, there):
            asking = asyncio.gather(*(here.request("work", {}) for _ in range(5)))
            await turns(1)
            await asking
            assert None not in everybody
            assert len({*everybody}) == 5
            assert not there.busy

    run(main())


mark: contextvars.ContextVar[str] = contextvars.ContextVar("mark", default="unset")


def test_what_a_handler_sets_in_its_context_nobody_else_sees(run: Run) -> None:
    """Context variables live as long as the call, in its first step as in its last."""

    async def main() -> None:
        async def work(params: dict[str, Any]) -> object:
            before = mark.get()
            mark.set(params["name"])
            if params["waits"]:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            inner = await asyncio.create_task(read()) if params["waits"] else ""
            return [before, mark.get(), inner]

        async def read() -> str:
            return mark.get()

        async with two_peers(there={"work": work}) as (here, _):
            names = [str(n) for n in range(6)]
            found = await asyncio.gather(
                *(here.request("work", {"name": name, "waits": int(name) % 2}) for name in names)
            )
            assert found == [["unset", name, name if int(name) % 2 else ""] for name in names]

    run(main())


def test_time_limits_and_task_groups_work_from_the_first_step_on(run: Run) -> None:
    """``asyncio.timeout`` and ``TaskGroup`` cancel the handler they are in, and no other one."""

    async def main() -> None:
        async def limited(params: dict[str, Any]) -> object:
            try:
                async with asyncio.timeout(params["seconds"]):
                    await asyncio.sleep(PATIENCE)
            except TimeoutError:
                return "timed out"
            return "not"

        async def grouped(params: dict[str, Any]) -> object:
            async def fail() -> None:
                raise ValueError("in a group")

            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(fail())
                    await asyncio.sleep(PATIENCE)
            except* ValueError:
                pass
            return "grouped"

        async with two_peers(there={"limited": limited, "grouped": grouped}) as (here, _):
            asked = [here.request("limited", {"seconds": seconds}) for seconds in (0, 0.001, -1)]
            asked += [here.request("grouped", {}), here.request("echo", {})]
            assert await asyncio.gather(*asked) == ["timed out"] * 3 + ["grouped", {}]

    run(main())


@pytest.mark.parametrize("waits", [0, 1], ids=["ends at once", "waits"])
def test_a_handler_that_cancels_its_own_task_cancels_nobody_else(run: Run, waits: int) -> None:
    """What a handler does to its own task, even after its end, affects at most its own call."""

    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def now(params: dict[str, Any]) -> object:
            own_task().cancel()
            await turns(waits)
            return "not cancelled"

        async def soon(params: dict[str, Any]) -> object:
            loop.call_soon(own_task().cancel)
            await turns(waits)
            return "not cancelled yet"

        async def others(params: dict[str, Any]) -> object:
            await turns(5)
            return "unharmed"

        async with two_peers(there={"now": now, "soon": soon, "others": others}) as (here, there):
            for method in ("now", "soon"):
                for pause in range(4):
                    first = asyncio.create_task(here.request("others", {}))
                    asking = asyncio.create_task(here.request(method, {}))
                    second = asyncio.create_task(here.request("others", {}))
                    await turns(pause)
                    third = asyncio.create_task(here.request("others", {}))
                    assert [*await asyncio.gather(first, second, third)] == ["unharmed"] * 3
                    await asyncio.gather(asking, return_exceptions=True)  # it may have been cancelled
            assert not there.busy

    run(main())


def test_wait_idle_waits_for_all_but_one_and_no_longer_than_it_may(run: Run) -> None:
    """Accepted requests finish within the grace; the request that asks for it is not waited for."""

    async def main() -> None:
        work = Handler()
        idle: list[bool] = []

        async def finish(params: dict[str, Any]) -> object:
            idle.append(await there.wait_idle(0.01, except_for=asyncio.current_task()))
            there.cancel_all(except_for=asyncio.current_task())
            idle.append(await there.wait_idle(PATIENCE, except_for=asyncio.current_task()))
            return "finished"

        async with two_peers(there={"work": work, "finish": finish}) as (here, there):
            assert await there.wait_idle(PATIENCE)
            asking = asyncio.create_task(here.request("work", {}))
            await work.begun.get()
            assert await here.request("finish", {}) == "finished"
            assert idle == [False, True]
            with pytest.raises(RpcError) as caught:
                await asking
            assert caught.value.code == Code.CANCELLED

    run(main())


def test_what_comes_later_goes_to_the_routes_of_then(run: Run) -> None:
    """``Peer.routes`` may be exchanged at any time; what came before keeps its handler."""

    async def main() -> None:
        work = Handler()

        async def other(params: dict[str, Any]) -> object:
            return "other"

        def refuse(method: str) -> RequestHandler:
            raise InvalidRequest(f"no {method} any more")

        async with two_peers(there={"work": work}) as (here, there):
            asking = asyncio.create_task(here.request("work", {}))
            await work.begun.get()
            there.routes, there.fallback = {"work": other}, refuse
            assert await here.request("work", {}) == "other"
            with pytest.raises(InvalidRequest, match="no ping any more"):
                await here.request("ping", {})
            work.release.set_result("first")
            assert await asking == "first"

    run(main())


# -- any order ---------------------------------------------------------------------------------------------------------

OUTCOMES: Final = {
    "result": "result",
    "error": "error",
    "break": "internal",
    "unsendable": "internal",
    "exit": "internal",
    "foreign cancel": "internal",
}
"""What a handler may do, and what its asker is told of it."""


class Call:
    """A question, what may become of it, and the handler that it meets."""

    def __init__(self, n: int, asker: int, stubborn: bool, timeout: float | None, release: asyncio.Future[str]) -> None:
        self.n = n
        self.asker = asker
        self.stubborn = stubborn  # its handler does not heed its cancellation
        self.timeout = timeout
        self.release = release  # what its handler shall do, when it shall do it
        self.begun = 0
        self.allowed = set() if timeout is None else {"time-out"}
        self.task: asyncio.Task[Any]

    async def handle(self) -> object:
        self.begun += 1
        while True:
            try:
                outcome = await asyncio.shield(self.release)
            except asyncio.CancelledError:
                if not self.stubborn:
                    raise
                continue
            match outcome:
                case "result":
                    return {"n": self.n}
                case "error":
                    raise RpcError("as planned", code=7)
                case "break":
                    raise ValueError("unforeseen")
                case "unsendable":
                    return object()
                case "exit":
                    raise SystemExit(1)
                case _:
                    raise asyncio.CancelledError

    @property
    def outcome(self) -> str:
        """What its asker was told."""
        if self.task.cancelled():
            return "cancelled"
        match self.task.exception():
            case None:
                assert self.task.result() == {"n": self.n}
                return "result"
            case RequestTimeout():
                return "time-out"
            case ConnectionClosed():
                return "closed"
            case RpcError(code=Code.CANCELLED):
                return "cancelled over there"
            case RpcError(code=7):
                return "error"
            case InternalError():
                return "internal"
            case error:
                return repr(error)


class Tapped(Peer):
    """A peer that counts what comes in: requests, and answers, by their id."""

    def __init__(self, transport: Transport, **more: Any) -> None:
        super().__init__(transport, **more)
        self.requests: Counter[int] = Counter()
        self.answers: Counter[int] = Counter()

    def frames_received(self, lines: list[bytes | FrameError]) -> None:
        for line in lines:
            with contextlib.suppress(orjson.JSONDecodeError):
                frame = orjson.loads(line) if isinstance(line, bytes) else {}
                if type(frame.get("id")) is int and frame["id"] < NOISE:
                    (self.requests if "method" in frame else self.answers)[frame["id"]] += 1
        super().frames_received(lines)


NOISE: Final = 1_000_000
SIDES: Final = st.integers(0, 1)
TURNS: Final = st.integers(0, 4)
NOISES: Final = st.sampled_from(
    [
        b'{"jsonrpc":"2.0","id":1000000,"result":"late"}',
        b'{"jsonrpc":"2.0","id":1000001,"error":{"code":-32800,"message":"cancelled"}}',
        b'{"id":1000002,"result":{}}',
        b'{"jsonrpc":"2.0","id":"1","result":"not yours"}',
        b'{"jsonrpc":"2.0","id":1.0,"result":"not yours"}',
        b'{"jsonrpc":"2.0","method":"$/cancel","params":{"id":1000003}}',
        b'{"jsonrpc":"2.0","method":"$/cancel","params":{"id":"1"}}',
        b'{"jsonrpc":"2.0","method":"unknown"}',
        b"no JSON",
        b"",
    ]
)


class TwoPeers(RuleBasedStateMachine):
    """Two peers, and whatever may happen to what they ask each other, in any order, on a virtual clock."""

    def __init__(self) -> None:
        super().__init__()
        logging.getLogger("sepkit.peer").disabled = True
        self.calls: list[Call] = []
        self.closing: list[asyncio.Task[None]] = []
        self.over = False  # whether either side has closed, or been told of the other's end
        self.raised: list[dict[str, Any]] = []
        self.loop = VirtualClockLoop()
        self.loop.set_exception_handler(lambda loop, context: self.raised.append(context))
        self.transports = memory_pair()
        self.peers = [Tapped(transport, routes={"work": self.work}) for transport in self.transports]
        self.do(*(peer.start for peer in self.peers))

    async def work(self, params: dict[str, Any]) -> object:
        return await self.calls[params["n"]].handle()

    def do(self, *actions: Callable[[], object], count: int = 0, seconds: float = 0) -> None:
        """Do something in the loop, then let it turn, then let time pass."""

        async def run() -> None:
            for action in actions:
                action()
            await turns(count)
            if seconds:
                await asyncio.sleep(seconds)

        self.loop.run_until_complete(run())

    def open(self, which: Callable[[Call], bool] = lambda call: True) -> list[Call]:
        return [call for call in self.calls if not call.task.done() and which(call)]

    def everything_is_over(self) -> None:
        self.over = True
        for call in self.open():
            call.allowed.add("closed")

    @rule(
        side=SIDES,
        timeout=st.sampled_from([None, None, 0.0, 0.1, 1.0]),
        stubborn=st.booleans(),
        at_once=st.none() | st.sampled_from(sorted(OUTCOMES)),
        large=st.sampled_from([0, 0, 0, 0, HIGH_WATER]),
        count=TURNS,
    )
    def ask(
        self, side: int, timeout: float | None, stubborn: bool, at_once: str | None, large: int, count: int
    ) -> None:
        call = Call(len(self.calls), side, stubborn, timeout, self.loop.create_future())
        if at_once is not None:
            call.release.set_result(at_once)
            call.allowed.add(OUTCOMES[at_once])
        if self.over:
            call.allowed.add("closed")
        self.calls.append(call)
        asking = self.peers[side].request("work", {"n": call.n, "large": "x" * large}, timeout=timeout)
        call.task = self.loop.create_task(asking)
        self.do(count=count)

    @precondition(lambda self: any(not call.release.done() for call in self.calls))
    @rule(data=st.data(), outcome=st.sampled_from(sorted(OUTCOMES)), count=TURNS)
    def finish(self, data: st.DataObject, outcome: str, count: int) -> None:
        call = data.draw(st.sampled_from([call for call in self.calls if not call.release.done()]))
        call.allowed.add(OUTCOMES[outcome])
        self.do(lambda: call.release.set_result(outcome), count=count)

    @precondition(lambda self: self.open())
    @rule(data=st.data(), count=TURNS)
    def cancel(self, data: st.DataObject, count: int) -> None:
        call = data.draw(st.sampled_from(self.open()))
        call.allowed.add("cancelled")
        self.do(call.task.cancel, count=count)

    @rule(side=SIDES, count=TURNS)
    def cancel_all(self, side: int, count: int) -> None:
        for call in self.open(lambda call: call.asker != side):
            call.allowed.add("cancelled over there")
        self.do(self.peers[side].cancel_all, count=count)

    @rule(seconds=st.sampled_from([0.05, 0.1, 1.0]))
    def pass_time(self, seconds: float) -> None:
        self.do(seconds=seconds)

    @rule(side=SIDES, count=TURNS)
    def stop_reading(self, side: int, count: int) -> None:
        self.do(self.transports[side].pause_reading, count=count)

    @rule(side=SIDES, count=TURNS)
    def read_again(self, side: int, count: int) -> None:
        self.do(self.transports[side].resume_reading, count=count)

    @rule(side=SIDES, noise=NOISES, count=TURNS)
    def hear_noise(self, side: int, noise: bytes, count: int) -> None:
        self.do(lambda: self.transports[side].feed(noise + b"\n"), count=count)

    @rule(count=TURNS)
    def turn(self, count: int) -> None:
        self.do(count=count)

    @precondition(lambda self: len(self.calls) > 3)
    @rule(side=SIDES, at_once=st.booleans(), count=TURNS)
    def close(self, side: int, at_once: bool, count: int) -> None:
        self.everything_is_over()

        def close() -> None:
            closing = self.loop.create_task(self.peers[side].aclose())
            self.closing.append(closing)
            if at_once:
                self.loop.call_soon(lambda: self.loop.call_soon(closing.cancel))

        self.do(close, count=count)

    @precondition(lambda self: len(self.calls) > 3)
    @rule(side=SIDES, count=TURNS)
    def hear_the_end(self, side: int, count: int) -> None:
        self.everything_is_over()
        self.do(self.transports[side].end_input, count=count)

    @invariant()
    def each_request_begins_and_settles_at_most_once_and_as_it_may(self) -> None:
        assert self.raised == []
        for call in self.calls:
            assert call.begun <= 1
            if call.task.done():
                assert call.outcome in call.allowed
        for peer in self.peers:
            assert not [rid for rid, count in peer.answers.items() if count > 1]

    def teardown(self) -> None:
        try:
            self.look_at_the_end()
        finally:
            logging.getLogger("sepkit.peer").disabled = False
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.do(count=5)
            self.loop.close()

    def look_at_the_end(self) -> None:
        def finish() -> None:
            for transport in self.transports:
                transport.resume_reading()
            for call in self.calls:
                if not call.release.done():
                    call.allowed.add("result")
                    call.release.set_result("result")

        self.do(finish, count=20, seconds=5)
        one, two = self.peers
        assert not one.busy
        assert not two.busy
        if not self.over:
            assert self.open() == []
            # On the wire, too: exactly one answer for each question that was asked.
            assert (one.answers, two.answers) == (two.requests, one.requests)
        self.everything_is_over()
        self.do(*(functools.partial(self.loop.create_task, peer.aclose()) for peer in self.peers), count=20)
        self.each_request_begins_and_settles_at_most_once_and_as_it_may()
        assert self.open() == []
        assert [tables(peer) for peer in self.peers] == [{}, {}]
        assert asyncio.all_tasks(self.loop) == set()


TestTwoPeers = TwoPeers.TestCase
TestTwoPeers.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


# -- soak --------------------------------------------------------------------------------------------------------------

CALLS: Final = 100_000 if os.environ.get("SEPKIT_SOAK") else 20_000


@pytest.mark.timeout(600)
def test_after_many_calls_every_table_is_empty_and_memory_has_not_grown(
    loop_kind: LoopKind, caplog: pytest.LogCaptureFixture
) -> None:
    """After 100,000 calls of all kinds every table is empty and memory has grown < 5 MiB.

    They are mixed of success, error, time-out, cancel and late replies; 20,000, unless ``SEPKIT_SOAK`` is set.
    """
    caplog.set_level(logging.CRITICAL + 1, "sepkit")

    async def succeed(params: dict[str, Any]) -> object:
        return params

    async def wait_and_succeed(params: dict[str, Any]) -> object:
        await asyncio.sleep(0)
        return params

    async def fail(params: dict[str, Any]) -> object:
        raise RpcError("no", code=-32002)

    async def break_(params: dict[str, Any]) -> object:
        await asyncio.sleep(0)
        raise ValueError("unforeseen")

    async def hang(params: dict[str, Any]) -> object:
        await asyncio.sleep(PATIENCE)
        return {}

    async def answer_late(params: dict[str, Any]) -> object:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(PATIENCE)
        await asyncio.sleep(0.001)
        return "late"

    routes: Routes = {
        "succeed": succeed, "wait": wait_and_succeed, "fail": fail, "break": break_, "hang": hang, "late": answer_late
    }  # fmt: skip

    kinds: list[tuple[str, float | None]] = [
        ("succeed", None), ("wait", None), ("fail", None), ("break", None), ("succeed", None),
        ("hang", 0.001), ("hang", None), ("late", 0.001),
    ]  # fmt: skip

    async def call(peer: Peer, n: int) -> str:
        method, timeout = kinds[n % len(kinds)]
        asking = peer.request(method, {"n": n}, timeout=timeout)
        if method == "hang" and timeout is None:
            asyncio.get_running_loop().call_soon(own_task().cancel)
        try:
            assert await asking == {"n": n}
        except RequestTimeout:
            return f"{method}: time-out"
        except RpcError:
            return f"{method}: error"
        except asyncio.CancelledError:
            return f"{method}: cancel"
        return f"{method}: success"

    async def main() -> None:
        async with two_peers(routes, routes) as (here, there):

            async def some(first: int) -> Counter[str]:
                found = await asyncio.gather(*(call(here if n % 3 else there, n) for n in range(first, first + 400)))
                return Counter(found)

            async def settle() -> None:
                while here.busy or there.busy:
                    await asyncio.sleep(0.001)
                await turns()
                gc.collect()

            outcomes: Counter[str] = Counter()
            # Following each allocation is slow: the second half stands for the whole, and may grow by half as much.
            try:
                for first in range(0, CALLS, 400):
                    if first == CALLS // 2:
                        await settle()
                        tracemalloc.start()
                    outcomes += await some(first)
                await settle()
                grown, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert sum(outcomes.values()) == CALLS
            assert set(outcomes) == {
                *("succeed: success", "wait: success", "fail: error", "break: error"),
                *("hang: time-out", "hang: cancel", "late: time-out"),
            }
            assert [tables(here), tables(there)] == [{}, {}]
            assert grown < 5 * 2**20 / 2

    with asyncio.Runner(loop_factory=lambda: new_loop(loop_kind)) as runner:
        runner.run(main())


@pytest.mark.parametrize("kind", ["memory", "descriptors"])
def test_a_long_result_is_one_line_among_the_others(run: Run, kind: str) -> None:
    """Whether its handler has waited or not, with other answers before it and behind it, and cancelled."""
    text = "é\n" * 1_200_000

    async def at_once(params: dict[str, Any]) -> object:
        return text

    async def later(params: dict[str, Any]) -> object:
        await asyncio.sleep(0)
        return text

    async def stubborn(params: dict[str, Any]) -> object:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return text

    async def main() -> None:
        routes = {"at_once": at_once, "later": later, "stubborn": stubborn}
        async with two_peers(there=routes, kind=kind) as (ours, _):
            cancelled = asyncio.ensure_future(ours.request("stubborn", {}))
            await turns()
            asked = ["ping", "at_once", "echo", "later", "at_once", "ping"]
            answers = asyncio.gather(*(ours.request(method, {"n": n}) for n, method in enumerate(asked)))
            cancelled.cancel()
            expected = {"ping": {}, "at_once": text, "later": text}
            assert await answers == [expected.get(method, {"n": n}) for n, method in enumerate(asked)]
            await asyncio.wait([cancelled])
            assert cancelled.cancelled()

    run(main())


@pytest.mark.parametrize("rid", [7, "7", 'a "quoted" é'])
def test_a_long_result_answers_the_id_as_it_came(run: Run, rid: int | str) -> None:
    async def long(params: dict[str, Any]) -> object:
        return {"content": "x" * 2_000_000}

    async def main() -> None:
        here, there = memory_pair()
        recorder = Recorder()
        here.start(recorder)
        peer = peer_over(there, {"long": long})
        peer.start()
        here.write(orjson.dumps({"jsonrpc": "2.0", "id": rid, "method": "long", "params": {}}) + b"\n")
        while not recorder.lines:
            await asyncio.sleep(0)
        [line] = recorder.lines
        assert isinstance(line, bytes)
        assert orjson.loads(line) == {"jsonrpc": "2.0", "id": rid, "result": {"content": "x" * 2_000_000}}
        await close_now(peer)

    run(main())
