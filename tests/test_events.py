"""Events, sent over a connection: who is told of them, in which order, with what, and what becomes of trouble."""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import attrs
import pytest

from sepkit import App, Block, EventContext, Patch, RpcError
from sepkit.wire.messages import UiRequest
from tests.checked_host import CheckedHost
from tests.memory_host import CONTEXT, HANDSHAKE, MemoryHost, on_each_loop


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# -- order -------------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_events_reach_each_handler_in_order_and_one_at_a_time_and_a_slow_one_delays_nothing_else() -> None:
    """Events keep the wire's order, one at a time for each handler; a slow handler delays nothing else."""
    app = App("t")
    count = 500
    go_on, all_quick, all_slow = asyncio.Event(), asyncio.Event(), asyncio.Event()
    quick_got: list[int] = []
    slow_got: list[int] = []
    running = 0

    @app.on("turn_start")
    async def slow(payload: dict[str, Any]) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await go_on.wait()
        await asyncio.sleep(0)
        slow_got.append(payload["n"])
        running -= 1
        if len(slow_got) == count:
            all_slow.set()

    @app.on("turn_start")
    async def quick(payload: dict[str, Any]) -> None:
        if payload["n"] % 3 == 0:  # some wait, some do not: the order holds all the same
            await asyncio.sleep(0)
        quick_got.append(payload["n"])
        if len(quick_got) == count:
            all_quick.set()

    @app.tool
    async def answer() -> str:
        """Answer."""
        return "at once"

    async with MemoryHost(app) as host:
        half = count // 2
        host.send(*(host.event("turn_start", {"n": n}, seq=n) for n in range(half)))
        for n in range(half, count):
            host.send(host.event("turn_start", {"n": n}, seq=n))
        assert await host.tool("answer") == {"content": "at once"}
        await all_quick.wait()
        assert quick_got == list(range(count))
        assert not slow_got
        go_on.set()
        await all_slow.wait()
        assert slow_got == list(range(count))


@on_each_loop
async def test_a_def_handler_is_told_one_at_a_time_in_a_thread() -> None:
    """``def`` handlers, which run in threads, also get events in order and one at a time."""
    app = App("t")
    got: list[int] = []
    threads: set[int] = set()
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    @app.on("turn_start")
    def handle(payload: dict[str, int]) -> None:
        threads.add(threading.get_ident())
        got.append(payload["n"])
        if payload["n"] == 49:
            loop.call_soon_threadsafe(done.set)

    async with CheckedHost(app) as host:
        for n in range(50):
            await host.send_event("turn_start", {"n": n}, wait=False)
        await done.wait()
    assert got == list(range(50))
    assert threading.get_ident() not in threads


@on_each_loop
async def test_events_that_came_before_the_end_of_the_input_are_delivered() -> None:
    """At end-of-file what was accepted finishes within the grace."""
    app = App("t")
    got: list[int] = []

    @app.on("turn_end")
    async def handle(payload: dict[str, int]) -> None:
        await asyncio.sleep(0)
        got.append(payload["n"])

    async with MemoryHost(app) as host:
        host.send(*(host.event("turn_end", {"n": n}) for n in range(20)))
        await host.ping()
        host.end_input()
        await host.end()
        assert got == list(range(20))


# -- what a handler is given -------------------------------------------------------------------------------------------


@attrs.frozen
class TurnAttrs:
    agent_id: str
    n: int = 0


@dataclass
class TurnData:
    agent_id: str
    n: int = 0


class TurnDict(TypedDict):
    agent_id: str
    n: NotRequired[int]


@pytest.mark.parametrize("cls", [TurnAttrs, TurnData, TurnDict])
@on_each_loop
async def test_a_payload_is_structured_into_the_class_that_the_handler_names(
    cls: type, caplog: pytest.LogCaptureFixture
) -> None:
    """The payload is a dict, or a class that it is structured into; unknown fields are ignored.

    A payload that does not fit is a warning, and the handler is not called.
    """
    app = App("t")
    got: asyncio.Queue[Any] = asyncio.Queue()

    async def handle(turn: object) -> None:
        got.put_nowait(turn)

    handle.__annotations__["turn"] = cls
    app.on("turn_start")(handle)
    async with CheckedHost(app) as host:
        sent: list[dict[str, Any]] = [
            {"agent_id": "a", "n": 1, "new": [1]},
            {"agent_id": "a"},
            {"agent_id": 5, "n": "x"},
            {},
            {"agent_id": "last"},
        ]
        for payload in sent:
            await host.send_event("turn_start", payload)
        turns = [got.get_nowait() for _ in range(3)]
        assert got.empty()
    if cls is TurnDict:
        assert [turn["agent_id"] for turn in turns] == ["a", "a", "last"]
        assert turns[0]["n"] == 1
    else:
        assert turns == [cls("a", 1), cls("a"), cls("last")]
    first, second = warnings(caplog)
    assert first.startswith("the turn_start handler handle was not called: the payload does not fit: ")
    assert "$.agent_id: expected string, got integer" in first
    assert "$.n: expected integer, got string" in first
    assert "agent_id" in second


@on_each_loop
async def test_a_handler_knows_the_events_name_and_number() -> None:
    """An ``EventContext`` has ``name`` and ``seq``; events have the tier ``event``.

    Source: docs/protocol.md, section 5.
    """
    app = App("t")
    got: asyncio.Queue[Any] = asyncio.Queue()

    @app.on("agent_end")
    @app.on("host_defined/event")
    async def handle(ctx: EventContext, payload: dict[str, Any]) -> None:
        got.put_nowait((ctx.name, ctx.seq, ctx.context.tier, ctx.context.token, payload))

    @app.on("agent_start")
    async def bare() -> None:
        got.put_nowait("bare")

    async with MemoryHost(app) as host:
        subscriptions = host.initialized["registrations"]["subscriptions"]
        assert sorted(subscriptions) == ["agent_end", "agent_start", "host_defined/event"]
        host.send(host.event("agent_end", {"a": 1}, seq=7))
        assert await got.get() == ("agent_end", 7, "event", "epoch-1", {"a": 1})
        host.send(host.event("host_defined/event"))
        assert await got.get() == ("host_defined/event", None, "event", "epoch-1", {})
        host.send(host.event("agent_start", seq=8))
        assert await got.get() == "bare"
        frame = host.event("agent_end")
        frame["params"].pop("payload")
        host.send(frame)
        assert (await got.get())[-1] == {}


@on_each_loop
async def test_what_the_event_tier_forbids_is_not_there_to_call() -> None:
    """``EventContext`` has no ``session``, since events only observe. Source: docs/protocol.md, section 5."""
    app = App("t")
    got: asyncio.Queue[EventContext] = asyncio.Queue()

    @app.on("turn_start")
    async def handle(ctx: EventContext) -> None:
        got.put_nowait(ctx)

    async with CheckedHost(app) as host:
        await host.send_event("turn_start")
        ctx = got.get_nowait()
        for forbidden in ("session", "exec", "update"):
            assert not hasattr(ctx, forbidden)
        await ctx.kv.set("seen", 1)
        assert host.kv == {"seen": 1}


@on_each_loop
async def test_a_handler_may_ask_the_host_while_the_host_sends_more() -> None:
    """The reader never awaits the user's code."""
    app = App("t")
    done = asyncio.Event()

    @app.on("turn_start")
    async def handle(ctx: EventContext) -> None:
        await ctx.ui.notify("hello")
        done.set()

    async def notified(request: UiRequest) -> None:
        await host.ping()

    async with CheckedHost(app, ui=notified) as host:
        await host.send_event("turn_start")
        assert done.is_set()


@on_each_loop
async def test_the_loss_of_events_is_an_event() -> None:
    """``events_lost`` {lost: n} has no ``seq``. Source: docs/protocol.md, section 7."""
    app = App("t")
    got: asyncio.Queue[Any] = asyncio.Queue()

    @app.on("events_lost")
    async def handle(payload: dict[str, int], ctx: EventContext) -> None:
        got.put_nowait((payload, ctx.seq))

    async with CheckedHost(app) as host:
        await host.send_event("events_lost", {"lost": 3})
        assert got.get_nowait() == ({"lost": 3}, None)


@on_each_loop
async def test_what_one_handler_does_to_its_payload_another_does_not_see() -> None:
    """Handlers do not share the payload that they are given."""
    app = App("t")
    got: asyncio.Queue[Any] = asyncio.Queue()

    async def handle(payload: dict[str, Any], *, at: int = 0) -> None:
        got.put_nowait(dict(payload["nested"]))
        payload["nested"]["of"] = at

    for at in range(3):
        app.on("turn_start")(functools.partial(handle, at=at))
    async with CheckedHost(app) as host:
        await host.send_event("turn_start", {"nested": {}})
        assert [got.get_nowait() for _ in range(3)] == [{}, {}, {}]


# -- the bus, and keys -------------------------------------------------------------------------------------------------


@on_each_loop
async def test_a_bus_handler_hears_of_its_topic_only_and_gets_what_was_published() -> None:
    """``@app.on_bus(topic)`` takes the payload of ``bus/event`` {from, topic, payload}.

    Source: docs/protocol.md, section 7.
    """
    app = App("t")
    news: asyncio.Queue[Any] = asyncio.Queue()
    every: asyncio.Queue[Any] = asyncio.Queue()
    typed: asyncio.Queue[Any] = asyncio.Queue()

    @app.on_bus("news")
    async def on_news(payload: dict[str, Any], ctx: EventContext) -> None:
        news.put_nowait((ctx.name, ctx.seq, payload))

    @app.on_bus("turns")
    async def on_turns(turn: TurnAttrs) -> None:
        typed.put_nowait(turn)

    @app.on("bus/event")
    async def on_any(payload: dict[str, Any]) -> None:
        every.put_nowait(payload)

    async with MemoryHost(app) as host:
        assert host.initialized["registrations"]["subscriptions"] == ["bus/event"]
        sent: list[dict[str, Any]] = [
            {"from": "other", "topic": "weather", "payload": {"n": 0}},
            {"from": "other", "topic": "news", "payload": {"n": 1}},
            {"from": "other", "topic": "turns", "payload": {"agent_id": "a", "new": 1}},
            {"from": "other", "topic": "news"},
        ]
        host.send(*(host.event("bus/event", payload, seq=seq) for seq, payload in enumerate(sent)))
        assert await news.get() == ("bus/event", 1, {"n": 1})
        assert await news.get() == ("bus/event", 3, {})
        assert await typed.get() == TurnAttrs("a")
        assert [await every.get() for _ in sent] == sent, "an observer of the event has all of it"
        assert news.empty()
        assert typed.empty()


@on_each_loop
async def test_a_key_handler_hears_of_its_widget_only() -> None:
    """``widget/key`` {widget_id?, key} reaches the handler of that widget. Source: docs/protocol.md, section 7."""
    app = App("t")
    board: asyncio.Queue[Any] = asyncio.Queue()

    @app.on_key("board")
    async def on_board(payload: dict[str, Any]) -> None:
        board.put_nowait(payload["key"])

    async with MemoryHost(app) as host:
        assert host.initialized["registrations"]["subscriptions"] == ["widget/key"]
        sent = [("other", "x"), ("board", "up"), (None, "y"), ("board", "down")]
        host.send(*(host.event("widget/key", {"widget_id": widget, "key": key}) for widget, key in sent))
        assert [await board.get(), await board.get()] == ["up", "down"]
        assert board.empty()


@on_each_loop
async def test_message_end_as_an_event_and_as_a_hook_are_kept_apart() -> None:
    """``message_end`` is a hook *and* an event, in two separate lists. Source: docs/protocol.md, section 6."""
    observer, gate, both = App("observer"), App("gate"), App("both")
    events: asyncio.Queue[str] = asyncio.Queue()
    hooked: list[str] = []
    for app in (observer, both):

        @app.on("message_end")
        async def observe(payload: dict[str, Any], ctx: EventContext) -> None:
            events.put_nowait(ctx.name)

    for app in (gate, both):

        @app.hook("message_end")
        async def decide(value: dict[str, Any]) -> Patch:
            hooked.append("message_end")
            return Patch(seen=True)

    for app, registered in (
        (observer, {"subscriptions": ["message_end"]}),
        (gate, {"hooks": ["message_end"]}),
        (both, {"subscriptions": ["message_end"], "hooks": ["message_end"]}),
    ):
        async with MemoryHost(app) as host:
            assert host.initialized["registrations"] == registered
            host.send(host.event("message_end", {"n": 1}))
            outcome = await host.ask("hook", {"hook": "message_end", "context": CONTEXT, "input": {}})
            assert outcome["action"] == ("modify" if "hooks" in registered else "continue")
            if "subscriptions" in registered:
                assert await events.get() == "message_end"
    assert events.empty()
    assert len(hooked) == 2


# -- around the handshake ----------------------------------------------------------------------------------------------


@on_each_loop
async def test_an_event_in_the_same_write_as_the_handshake_waits_for_the_lifespan() -> None:
    """``initialize`` and the event behind it in one write both succeed, in that order."""
    go_on, told = asyncio.Event(), asyncio.Event()
    order: list[str] = []

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[str]:
        order.append("starting")
        await go_on.wait()
        order.append("started")
        yield "state"

    app = App("t", lifespan=lifespan)

    @app.on("session_start")
    async def handle(ctx: EventContext) -> None:
        order.append(f"told with {ctx.state}")
        told.set()

    async with MemoryHost(app, handshake=None) as host:
        handshake = host.frame("initialize", HANDSHAKE)
        host.send(handshake, host.event("session_start"))
        await host.ping()
        assert order == ["starting"]
        go_on.set()
        assert "result" in await host.answer(handshake["id"])
        await told.wait()
    assert order == ["starting", "started", "told with state"]


@on_each_loop
async def test_events_before_the_handshake_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    """Only what follows the handshake belongs to the session; an event is never answered.

    Source: docs/protocol.md, section 2.
    """
    app = App("t")
    got: asyncio.Queue[int] = asyncio.Queue()

    @app.on("turn_start")
    async def handle(payload: dict[str, int]) -> None:
        got.put_nowait(payload["n"])

    async with MemoryHost(app, handshake=None) as host:
        host.send(host.event("turn_start", {"n": 0}))
        await host.ping()
        assert "result" in await host.answer(host.start("initialize", HANDSHAKE))
        host.send(host.event("turn_start", {"n": 1}))
        assert await got.get() == 1
        assert len(host.frames) == 2
    assert not warnings(caplog)


@on_each_loop
async def test_an_event_behind_a_handshake_that_fails_is_dropped_and_the_next_one_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One write may hold a bad ``initialize``, an event, a good one, and another event."""
    app = App("t")
    got: asyncio.Queue[int] = asyncio.Queue()

    @app.on("turn_start")
    async def handle(payload: dict[str, int]) -> None:
        got.put_nowait(payload["n"])

    async with MemoryHost(app, handshake=None) as host:
        bad = host.frame("initialize", {**HANDSHAKE, "mode": 5})
        host.send(bad, host.event("turn_start", {"n": 0}))
        assert (await host.answer(bad["id"]))["error"]["code"] == -32602
        good = host.frame("initialize", HANDSHAKE)
        host.send(good, host.event("turn_start", {"n": 1}))
        assert "result" in await host.answer(good["id"])
        assert await got.get() == 1
        assert got.empty()
    assert not warnings(caplog)


@on_each_loop
async def test_events_are_dropped_where_the_lifespan_fails() -> None:
    """Only the lifespan's own error is raised."""

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        await asyncio.sleep(0)
        if app.name:
            raise ValueError("no database")
        yield

    app = App("t", lifespan=lifespan)
    told: list[object] = []

    @app.on("turn_start")
    async def handle() -> None:
        told.append(1)

    async with MemoryHost(app, handshake=None) as host:
        handshake = host.frame("initialize", HANDSHAKE)
        host.send(handshake, host.event("turn_start"), host.event("turn_start"))
        assert (await host.answer(handshake["id"]))["error"]["code"] == -32603
        assert isinstance(await host.end(), ValueError)
    assert not told


# -- trouble -----------------------------------------------------------------------------------------------------------


def observing(app: App, returned: object) -> asyncio.Queue[int]:
    """Add two observers that return something, a coroutine and a ``def``; the queue gets what they are told of."""

    async def observe(payload: dict[str, Any]) -> Any:
        done.put_nowait(payload["n"])
        return returned

    def observe_in_thread(payload: dict[str, Any]) -> Any:
        loop.call_soon_threadsafe(done.put_nowait, payload["n"])
        return returned

    loop = asyncio.get_running_loop()
    done: asyncio.Queue[int] = asyncio.Queue()
    app.on("message_end")(observe)
    app.on("message_end")(observe_in_thread)
    return done


@pytest.mark.parametrize("returned", [Block("no"), Block(), Patch(x=1)], ids=repr)
@on_each_loop
async def test_a_decision_returned_from_an_observer_is_an_error_said_at_its_first_use(
    returned: object, caplog: pytest.LogCaptureFixture
) -> None:
    """A decision returned from an observer is logged as an error at its first use."""
    app = App("t")
    done = observing(app, returned)
    async with CheckedHost(app) as host:
        for n in range(3):
            await host.send_event("message_end", {"n": n})
            assert [done.get_nowait(), done.get_nowait()] == [n, n]
    said = [record for record in caplog.records if record.levelno == logging.ERROR]
    kind = type(returned).__name__
    text = (
        f"the message_end handler {{}} returned a {kind}, which has no effect: an event has already happened. "
        "Use @app.hook to decide."
    )
    expected = {text.format("observe"), text.format("observe_in_thread")}
    assert {record.getMessage() for record in said} == expected
    assert len(said) == 2, "once each"


@on_each_loop
async def test_what_an_observer_returns_otherwise_is_nobodys_business(caplog: pytest.LogCaptureFixture) -> None:
    """Only a returned decision is an error."""
    app = App("t")
    done = observing(app, {"any": "thing"})
    async with CheckedHost(app) as host:
        await host.send_event("message_end", {"n": 1})
        assert [done.get_nowait(), done.get_nowait()] == [1, 1]
    assert not warnings(caplog)


@pytest.mark.parametrize(
    "error",
    [ValueError("secret"), SystemExit("secret"), asyncio.CancelledError("secret"), RpcError("secret")],
    ids=repr,
)
@pytest.mark.parametrize("kind", ["async", "def"])
@on_each_loop
async def test_what_a_handler_raises_stays_with_that_event(
    error: BaseException, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The traceback is logged and does not cross; other handlers and the next event are not affected."""
    app = App("t")
    got: asyncio.Queue[Any] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def fail_first(payload: dict[str, Any]) -> None:
        if payload["n"] == 0:
            if isinstance(error, SystemExit):
                sys.exit("secret")
            raise error
        loop.call_soon_threadsafe(got.put_nowait, ("failing", payload["n"]))

    async def fail_first_in_loop(payload: dict[str, Any]) -> None:
        fail_first(payload)

    @app.on("turn_start")
    async def other(payload: dict[str, Any]) -> None:
        got.put_nowait(("other", payload["n"]))

    app.on("turn_start")(fail_first if kind == "def" else fail_first_in_loop)
    async with MemoryHost(app, log=True) as host:
        host.send(host.event("turn_start", {"n": 0}), host.event("turn_start", {"n": 1}))
        assert {await got.get() for _ in range(3)} == {("other", 0), ("other", 1), ("failing", 1)}
        await host.ping()
    assert not [line for line in host.lines if b"secret" in line]
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage().startswith("the turn_start handler fail_first")
    assert record.exc_info is not None


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"event": 5}, "$.event"),
        ({"context": {"token": "t", "tier": 5}}, "$.context.tier"),
        ({"payload": [1]}, "$.payload"),
        ({"seq": "1"}, "$.seq"),
        ({"seq": -1}, "$.seq"),
    ],
)
@on_each_loop
async def test_a_malformed_event_is_a_warning_and_nothing_else(
    changes: dict[str, Any], path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A notification is never answered; the next event is delivered."""
    app = App("t")
    got: asyncio.Queue[int | None] = asyncio.Queue()

    @app.on("turn_start")
    async def handle(ctx: EventContext) -> None:
        got.put_nowait(ctx.seq)

    async with MemoryHost(app) as host:
        bad, good = host.event("turn_start", seq=1), host.event("turn_start", seq=2)
        bad["params"].update(changes)
        host.send(bad, good)
        assert await got.get() == 2
        await host.ping()
        assert not host.errors
    (said,) = warnings(caplog)
    assert said.startswith(f"ignored a malformed event: {path}: ")


@on_each_loop
async def test_events_that_nobody_handles_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    """An unknown event causes no message."""
    async with MemoryHost(App("t")) as host:
        host.send(host.event("turn_start"), host.event("of the host's own"))
        await host.ping()
        assert len(host.frames) == 2
    assert not warnings(caplog)
