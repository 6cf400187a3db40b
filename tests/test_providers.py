"""Providers of models: what they are asked, what they stream, what it comes to, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest

from sepkit import (
    App,
    Cost,
    Credentials,
    Delta,
    Done,
    Model,
    ModelUsed,
    OAuthParams,
    ProviderContext,
    ProviderRequest,
    Reasoning,
    ResponseId,
    RpcError,
    ToolCallArgumentsDelta,
    ToolCallStart,
    Usage,
)
from sepkit.contexts.streams import StreamFold
from sepkit.errors import NoUI
from sepkit.testing import ProviderAnswer
from sepkit.wire.messages import StreamEvent, UiRequest
from tests.checked_host import CheckedHost, refused
from tests.memory_host import CONTEXT, MemoryHost, on_each_loop

REQUEST: dict[str, Any] = {
    "request_id": "r1",
    "provider": "p",
    "model": "m",
    "messages": [{"role": "user", "content": "hi"}],
}
MESSAGES: list[dict[str, Any]] = REQUEST["messages"]
EVENTS: list[StreamEvent] = [
    ModelUsed("m-2024"),
    ResponseId("resp-1"),
    Reasoning("hm"),
    Delta("Hel"),
    ToolCallStart(0, "c0", "look"),
    Delta("lo"),
    ToolCallArgumentsDelta(0, '{"at": '),
    Usage(prompt_tokens=3),
    ToolCallArgumentsDelta(0, "1}"),
    Usage(completion_tokens=5, extra={"cost": 1}),
    Cost(0.25),
    Done("tool_calls"),
]
RESULT = {
    "content": "Hello",
    "reasoning_content": "hm",
    "resolved_model": "m-2024",
    "tool_calls": [{"id": "c0", "name": "look", "arguments": {"at": 1}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8, "cost": 1},
    "finish_reason": "tool_calls",
}
ON_THE_WIRE = [
    {"type": "Model", "name": "m-2024"},
    {"type": "ResponseId", "id": "resp-1"},
    {"type": "Reasoning", "content": "hm"},
    {"type": "Delta", "content": "Hel"},
    {"type": "ToolCallStart", "index": 0, "id": "c0", "name": "look"},
    {"type": "Delta", "content": "lo"},
    {"type": "ToolCallArgumentsDelta", "index": 0, "arguments_chunk": '{"at": '},
    {"type": "ToolCallArgumentsDelta", "index": 0, "arguments_chunk": "1}"},
    {"type": "Usage", "prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8, "cost": 1},
    {"type": "Cost", "usd": 0.25},
    {"type": "Done", "finish_reason": "tool_calls"},
]


def app_yielding(*events: Any) -> App:
    app = App("t")

    @app.provider("p", models=[Model("m")])
    async def complete() -> AsyncIterator[StreamEvent]:
        for event in events:
            await asyncio.sleep(0)
            yield event

    return app


# -- streams -----------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_with_stream_each_event_is_a_delta_and_all_come_before_the_result() -> None:
    """With ``stream`` each event goes out as a delta, and the final result is folded from them."""
    async with MemoryHost(app_yielding(*EVENTS)) as host:
        rid = host.start("provider/complete", {**REQUEST, "stream": True})
        answer = await host.answer(rid)
    assert answer["result"] == RESULT
    assert host.told == [("provider/delta", {"request_id": "r1", "event": event}) for event in ON_THE_WIRE]
    assert host.frames[-1] is answer


@pytest.mark.parametrize("stream", [{}, {"stream": False}, {"stream": None}])
@on_each_loop
async def test_without_stream_there_is_only_the_result(stream: dict[str, Any]) -> None:
    """Without ``stream`` the result is the same. Source: docs/protocol.md, section 3."""
    async with MemoryHost(app_yielding(*EVENTS)) as host:
        assert await host.ask("provider/complete", {**REQUEST, **stream}) == RESULT
    assert not host.told


@on_each_loop
async def test_what_a_provider_sends_itself_is_part_of_the_answer() -> None:
    """``ProviderContext`` has ``await delta(event)``; the result includes what it sent."""
    app = App("t")

    @app.provider("p")
    async def complete(request: ProviderRequest, ctx: ProviderContext) -> AsyncIterator[StreamEvent]:
        await ctx.delta(Delta("one, "))
        yield Delta("two")
        await ctx.delta(Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3))

    usage = Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)
    expected = ProviderAnswer("one, two", [], "stop", usage, None, None, [])
    deltas: list[StreamEvent] = [Delta("one, "), Delta("two"), usage]
    async with CheckedHost(app) as host:
        assert await host.complete("p", "m", MESSAGES, stream=False) == expected
        assert await host.complete("p", "m", MESSAGES) == attrs.evolve(expected, deltas=deltas)


@on_each_loop
async def test_deltas_of_two_completions_are_told_apart() -> None:
    """``provider/delta`` carries the ``request_id``. Source: docs/protocol.md, section 4."""
    app = App("t")
    go_on = asyncio.Event()

    @app.provider("p")
    async def complete(request: ProviderRequest) -> AsyncIterator[StreamEvent]:
        yield Delta(f"{request.request_id} begins, ")
        await go_on.wait()
        yield Delta(f"{request.request_id} ends")

    async with CheckedHost(app) as host:
        told: list[object] = []
        asked = [asyncio.create_task(host.complete("p", "m", MESSAGES, on_delta=told.append)) for _ in range(3)]
        await host.until(lambda: len(told) == 3)
        go_on.set()
        answers = await asyncio.gather(*asked)
    names = [answer.content.split()[0] for answer in answers]
    assert len(set(names)) == 3
    for answer, name in zip(answers, names, strict=True):
        assert answer.content == f"{name} begins, {name} ends"
        assert answer.deltas == [Delta(f"{name} begins, "), Delta(f"{name} ends")]


@on_each_loop
async def test_a_provider_is_given_the_request_as_a_record_as_a_dict_or_as_its_own_class() -> None:
    """A handler takes the params of ``provider/complete`` as a record, a dict, or a class of its own.

    Source: docs/protocol.md, section 3.
    """
    app = App("t")
    given: list[Any] = []

    @attrs.frozen
    class Mine:
        model: str
        thinking: str = "none"

    @app.provider("p")
    async def record(request: ProviderRequest, ctx: ProviderContext) -> AsyncIterator[StreamEvent]:
        given.append((request, ctx.context.tier, ctx.context.token))
        yield Done("stop")

    @app.provider("raw")
    async def raw(request: dict[str, Any], ctx: ProviderContext) -> AsyncIterator[StreamEvent]:
        given.append((request, ctx.context.tier, ctx.context.token))
        yield Done("stop")

    @app.provider("mine")
    async def mine(request: Mine) -> AsyncIterator[StreamEvent]:
        given.append(request)
        yield Done("stop")

    full = {
        **REQUEST,
        "tools": [{"name": "t"}],
        "response_format": {"type": "json"},
        "thinking": "high",
        "context": CONTEXT,
        "new": 1,
    }
    async with MemoryHost(app) as host:
        await host.ask("provider/complete", full)
        await host.ask("provider/complete", {**REQUEST, "provider": "raw", "new": 1})
        await host.ask("provider/complete", {**full, "provider": "mine"})
        error = await host.refused("provider/complete", {**full, "provider": "mine", "thinking": 5})
        assert error["code"] == -32602
    (request, tier, token), raw_given, mine_given = given
    assert (request.model, request.thinking, request.tools) == ("m", "high", [{"name": "t"}])
    assert request.messages == REQUEST["messages"]
    assert (tier, token) == ("command", "epoch-1")
    assert raw_given == ({**REQUEST, "provider": "raw", "new": 1}, "event", ""), "no context, no rights"
    assert mine_given == Mine("m", "high")


# -- the fold ----------------------------------------------------------------------------------------------------------


def folded(*events: object) -> dict[str, Any]:
    fold = StreamFold()
    for event in events:
        fold.add(event)
    return fold.result()


NOTHING: dict[str, Any] = {"content": "", "tool_calls": [], "finish_reason": "stop"}


@pytest.mark.parametrize(
    ("events", "result"),
    [
        ([], NOTHING),
        ([Delta("a"), Delta(""), Delta("b")], {**NOTHING, "content": "ab"}),
        ([Done("length")], {**NOTHING, "finish_reason": "length"}),
        ([Done("stop"), Done("length")], {**NOTHING, "finish_reason": "length"}),
        ([Reasoning("a"), Delta("x"), Reasoning("b")], {**NOTHING, "content": "x", "reasoning_content": "ab"}),
        ([ModelUsed("a"), ModelUsed("b")], {**NOTHING, "resolved_model": "b"}),
        (
            [Usage(prompt_tokens=1), Usage(completion_tokens=2), Usage(prompt_tokens=3, extra={"cost": 0.5})],
            {**NOTHING, "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "cost": 0.5}},
        ),
    ],
    ids=["nothing", "text", "finish", "last finish", "reasoning", "model", "usage in pieces"],
)
def test_stream_events_fold_into_the_result(events: list[object], result: dict[str, Any]) -> None:
    """The final result is folded from the stream; ``Done`` may be missing."""
    assert folded(*events) == result


def test_interleaved_tool_calls_are_put_together_by_their_index() -> None:
    """``ToolCallStart`` {index, id, name} and ``ToolCallArgumentsDelta`` {index, arguments_chunk} belong by index.

    Source: docs/protocol.md, section 4.
    """
    result = folded(
        ToolCallStart(1, "c1", "second"),
        ToolCallArgumentsDelta(1, '{"b"'),
        ToolCallStart(0, "c0", "first"),
        ToolCallArgumentsDelta(0, "[1,"),
        ToolCallArgumentsDelta(1, ":2}"),
        ToolCallArgumentsDelta(0, ""),
        ToolCallArgumentsDelta(0, "2]"),
        ToolCallStart(7, "c7", "without arguments"),
    )
    assert result["tool_calls"] == [
        {"id": "c1", "name": "second", "arguments": {"b": 2}},
        {"id": "c0", "name": "first", "arguments": [1, 2]},
        {"id": "c7", "name": "without arguments", "arguments": {}},
    ]
    assert result["finish_reason"] == "tool_calls", "where no Done says otherwise"
    assert folded(ToolCallStart(0, "c", "n"), Done("stop"))["finish_reason"] == "stop"


def test_a_start_may_come_in_pieces_and_after_its_chunks() -> None:
    """Some upstreams repeat the start with the first chunk: a later name or id completes an earlier one."""
    result = folded(ToolCallArgumentsDelta(0, "{}"), ToolCallStart(0, "c0", ""), ToolCallStart(0, "", "look"))
    assert result["tool_calls"] == [{"id": "c0", "name": "look", "arguments": {}}]


@pytest.mark.parametrize(
    ("indices", "told"),
    [
        ([1, 1, 3, 1, 3], [0, 0, 1, 0, 1]),
        ([7, 0, 7], [0, 1, 0]),
        ([2**31, 5, 2**31], [0, 1, 0]),
    ],
)
@on_each_loop
async def test_tool_calls_are_told_under_indices_from_0_in_the_order_of_the_result(
    indices: list[int], told: list[int]
) -> None:
    """Hosts that know a call by its position in the result make a call twice that the stream has under another number.

    Source: docs/protocol.md, section 9.
    """
    begun: set[int] = set()
    events: list[StreamEvent] = []
    for index in indices:
        events.append(ToolCallArgumentsDelta(index, " ") if index in begun else ToolCallStart(index, f"c{index}", "t"))
        begun.add(index)
    async with CheckedHost(app_yielding(*events)) as host:
        answer = await host.complete("p", "m", MESSAGES)
    seen = [event for event in answer.deltas if isinstance(event, ToolCallStart | ToolCallArgumentsDelta)]
    assert [event.index for event in seen] == told
    starts = {event.id: event.index for event in seen if isinstance(event, ToolCallStart)}
    assert {call.id: position for position, call in enumerate(answer.tool_calls)} == starts


@on_each_loop
async def test_a_start_in_pieces_is_told_with_all_that_is_known() -> None:
    """A host that takes the last start as it stands has the whole one."""
    events = [
        ToolCallStart(3, "c", "", {"a": 1}),
        ToolCallStart(3, "", "look"),
        ToolCallStart(3, "", ""),
    ]
    async with CheckedHost(app_yielding(*events)) as host:
        answer = await host.complete("p", "m", MESSAGES)
    whole = ToolCallStart(0, "c", "look", {"a": 1})
    assert answer.deltas == [ToolCallStart(0, "c", "", {"a": 1}), whole, whole]
    (call,) = answer.tool_calls
    assert (call.id, call.name) == ("c", "look")


@pytest.mark.parametrize(
    ("pieces", "told"),
    [
        ([Usage(prompt_tokens=3)], []),
        ([Usage(completion_tokens=3)], []),
        ([Usage(total_tokens=3)], []),
        ([Usage(cached_tokens=3, extra={"cost": 1})], []),
        ([Usage()], []),
        ([Usage(prompt_tokens=3, completion_tokens=0)], [(3, 0, 3)]),
        ([Usage(prompt_tokens=3, total_tokens=5)], [(3, 2, 5)]),
        ([Usage(completion_tokens=3, total_tokens=5)], [(2, 3, 5)]),
        ([Usage(prompt_tokens=1, completion_tokens=1, total_tokens=9)], [(1, 1, 9)]),  # and its thoughts
        ([Usage(prompt_tokens=3), Usage(completion_tokens=1), Usage(completion_tokens=2)], [(3, 1, 4), (3, 2, 5)]),
        (
            [Usage(prompt_tokens=3, completion_tokens=1, total_tokens=4), Usage(completion_tokens=5)],
            [(3, 1, 4), (3, 5, 8)],
        ),
    ],
)
@on_each_loop
async def test_usage_is_complete_or_absent_in_the_stream_and_in_the_result(
    pieces: list[StreamEvent], told: list[tuple[int, int, int]]
) -> None:
    """Hosts refuse the whole answer where one of the three counts is missing. Source: docs/protocol.md, section 9."""
    async with MemoryHost(app_yielding(*pieces)) as host:
        result = await host.ask("provider/complete", {**REQUEST, "stream": True})
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    events = [params["event"] for _, params in host.told]
    assert [tuple(event[name] for name in names) for event in events] == told
    assert [event["type"] for event in events] == ["Usage"] * len(told)
    if told:
        assert tuple(result["usage"][name] for name in names) == told[-1]
    else:
        assert "usage" not in result


def test_arguments_that_are_not_json_are_kept_as_the_model_wrote_them() -> None:
    """The host tells the model, as with any wrong argument; nothing else of the answer is lost."""
    result = folded(
        Delta("so far"),
        ToolCallStart(0, "c0", "a"),
        ToolCallArgumentsDelta(0, "{}"),
        ToolCallStart(1, "c1", "b"),
        ToolCallArgumentsDelta(1, '{"at": '),
        ToolCallStart(2, "c2", "c"),
        ToolCallArgumentsDelta(2, "[" * 210 + "]" * 210),
    )
    assert result["content"] == "so far"
    assert [call["arguments"] for call in result["tool_calls"]] == [{}, '{"at": ', "[" * 210 + "]" * 210]


def test_a_call_that_was_cut_before_its_arguments_is_not_one_without_arguments() -> None:
    """At the limit of tokens an empty text is a beginning; a tool that takes no arguments would run."""
    cut = folded(ToolCallStart(0, "c", "delete_all"), Done("length"))
    whole = folded(ToolCallStart(0, "c", "delete_all"), Done("tool_calls"))
    assert [result["tool_calls"][0]["arguments"] for result in (cut, whole)] == ["", {}]


# -- failing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "events",
    [
        [Delta("x"), "text"],
        [Delta("x"), None],
        [{"type": "Delta", "content": "x"}],
        [Delta(5)],  # type: ignore[arg-type]  # on purpose
        [Delta("a\ud800")],
        [Reasoning(None)],  # type: ignore[arg-type]  # on purpose
        [ToolCallStart(-1, "c", "n")],
        [ToolCallStart(0, None, "n")],  # type: ignore[arg-type]  # on purpose
        [ToolCallArgumentsDelta(0, {})],  # type: ignore[arg-type]  # on purpose
        [Usage(prompt_tokens=True)],
        [Usage(prompt_tokens=1, completion_tokens=2**64)],
        [Usage(prompt_tokens=1, completion_tokens=1, extra={"cost": b"1"})],
        [Usage(prompt_tokens=1, completion_tokens=1, extra={"type": "Done"})],
        [Cost(float("nan"))],
        [Cost("1")],  # type: ignore[arg-type]  # on purpose
        [ResponseId(5)],  # type: ignore[arg-type]  # on purpose
        [Done(None)],  # type: ignore[arg-type]  # on purpose
    ],
    ids=repr,
)
@pytest.mark.parametrize("stream", [True, False])
@on_each_loop
async def test_what_is_no_stream_event_fails_that_completion(
    events: list[Any], stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """An author's mistake crosses as a fixed text and an id; the process lives."""
    async with MemoryHost(app_yielding(*events)) as host:
        error = await host.refused("provider/complete", {**REQUEST, "stream": stream})
        await host.ping()
    told = [params["event"] for _, params in host.told]
    assert told == ([{"type": "Delta", "content": "x"}] if stream and len(events) > 1 else []), "it is checked first"
    assert error["code"] == -32603
    assert error["message"].startswith("the provider p failed unexpectedly; its log names it ")
    assert error["data"]["correlation_id"] in caplog.text


@pytest.mark.parametrize("stream", [True, False])
@on_each_loop
async def test_a_model_that_is_cut_off_within_a_tool_call_has_answered(stream: bool) -> None:
    """The host sees why in the reason, and the model what it wrote."""
    events = [Delta("so far"), ToolCallStart(0, "c", "n"), ToolCallArgumentsDelta(0, '{"at": "'), Done("length")]
    async with CheckedHost(app_yielding(*events)) as host:
        answer = await host.complete("p", "m", MESSAGES, stream=stream)
    assert (answer.content, answer.finish_reason) == ("so far", "length")
    assert [(call.name, call.arguments) for call in answer.tool_calls] == [("n", '{"at": "')]


@pytest.mark.parametrize("error", [ValueError("secret"), SystemExit("secret"), asyncio.CancelledError("secret")])
@pytest.mark.parametrize("stream", [True, False])
@on_each_loop
async def test_what_a_provider_raises_does_not_cross(error: BaseException, stream: bool) -> None:
    """An exception crosses as a fixed text and an id; SystemExit does not end the process."""
    app = App("t")
    closed: list[str] = []

    @app.provider("p")
    async def complete() -> AsyncIterator[StreamEvent]:
        try:
            yield Delta("so far")
            raise error
        finally:
            closed.append("closed")

    async with MemoryHost(app, log=True) as host:
        answer = await host.refused("provider/complete", {**REQUEST, "stream": stream})
        await host.ping()
    assert answer["code"] == -32603
    assert answer["message"].startswith("the provider p failed unexpectedly")
    assert closed == ["closed"]
    assert not [line for line in host.lines if b"secret" in line]


@on_each_loop
async def test_an_unknown_provider_is_refused_with_the_known_ones() -> None:
    """An unknown provider name is -32602."""
    async with CheckedHost(app_yielding()) as host:
        error = await refused(host.complete("q", "m", MESSAGES))
        assert error.code == -32602
        assert error.data == {"known": ["p"]}
        for asked in (host.oauth_login("p"), host.oauth_refresh("p", "r1")):
            error = await refused(asked)
            assert error.code == -32602
            assert error.data == {"known": []}


@pytest.mark.parametrize("field", ["request_id", "provider", "model", "messages"])
@on_each_loop
async def test_a_request_that_lacks_a_field_is_refused(field: str) -> None:
    """Bad params are -32602."""
    async with MemoryHost(app_yielding()) as host:
        error = await host.refused("provider/complete", {k: v for k, v in REQUEST.items() if k != field})
        assert error["code"] == -32602


@on_each_loop
async def test_a_completion_that_fails_gives_its_slot_back() -> None:
    """After successes, errors and cancels every table is empty: with one slot, calls go on."""
    app = app_yielding(Delta("x"))

    @attrs.frozen
    class Mine:
        nowhere: str

    @app.provider("mine")
    async def mine(request: Mine) -> AsyncIterator[StreamEvent]:
        yield Done("stop")

    @app.provider("bad")
    async def bad() -> AsyncIterator[StreamEvent]:
        try:
            yield Done("stop")
        finally:
            raise ValueError

    async with CheckedHost(app, max_concurrency=1) as host:
        for _ in range(3):
            for name in ("mine", "bad", "unknown"):
                await refused(host.complete(name, "m", MESSAGES))
            assert (await host.complete("p", "m", MESSAGES)).content == "x"


# -- cancelling --------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_a_cancelled_provider_has_cleaned_up_before_its_answer() -> None:
    """-32800 comes when the work has stopped: the generator's ``finally`` has run.

    Source: docs/protocol.md, section 8.
    """
    app = App("t")
    begun = asyncio.Event()
    closed = False

    @app.provider("p")
    async def complete() -> AsyncIterator[StreamEvent]:
        nonlocal closed
        try:
            yield Delta("x")
            begun.set()
            await asyncio.Event().wait()
        finally:
            for _ in range(10):
                await asyncio.sleep(0)
            assert not host.is_answered(rid)
            closed = True

    async with MemoryHost(app) as host:
        rid = host.start("provider/complete", REQUEST)
        await begun.wait()
        host.cancel(rid)
        assert (await host.answer(rid))["error"]["code"] == -32800
        assert closed


@on_each_loop
async def test_a_provider_cancelled_between_two_events_has_cleaned_up_before_its_answer() -> None:
    """While the host does not read, the generator waits at its ``yield``, and is closed there.

    Source: docs/protocol.md, section 8.
    """
    app = App("t")
    full, closed = asyncio.Event(), asyncio.Event()
    yielded = 0

    @app.provider("p")
    async def complete() -> AsyncIterator[StreamEvent]:
        nonlocal yielded
        try:
            while True:
                yielded += 1
                if yielded == 12:  # more than 1 MiB waits
                    full.set()
                yield Delta("x" * 100_000)
        finally:
            await asyncio.sleep(0)
            assert not host.is_answered(rid)
            closed.set()

    async with MemoryHost(app) as host:
        host.pause_reading()
        rid = host.start("provider/complete", {**REQUEST, "stream": True})
        await full.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        assert yielded == 12, "it waits for the host"
        host.cancel(rid)
        await closed.wait()
        host.resume_reading()
        assert (await host.answer(rid))["error"]["code"] == -32800


@on_each_loop
async def test_a_provider_may_ask_the_host_while_it_cleans_up_with_one_slot_only() -> None:
    """Extension → host → extension works with ``max_concurrency=1``, to the very end of a stream."""
    app = App("t")

    @app.provider("p")
    async def complete(ctx: ProviderContext) -> AsyncIterator[StreamEvent]:
        try:
            value = await ctx.kv.get("key", int)
            yield Delta(str(value))
        finally:
            await ctx.kv.set("key", (value or 0) + 1)

    async with CheckedHost(app, kv={"key": 1}, max_concurrency=1) as host:
        for content in ("1", "2", "3"):
            assert (await host.complete("p", "m", MESSAGES, stream=False)).content == content
    assert host.kv == {"key": 4}


# -- OAuth -------------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_a_login_and_a_refresh_give_credentials() -> None:
    """Login and refresh take {provider, refresh_token?, context?} and return credentials.

    Source: docs/protocol.md, section 3.
    """
    app = app_yielding()
    given: list[Any] = []

    @app.oauth_login("p")
    async def login(ctx: ProviderContext) -> Credentials:
        code = await ctx.ui.input("Code?")
        return Credentials(access_token=code, refresh_token="r1", expires_at=1_700_000_000, extra={"scope": "all"})

    @app.oauth_refresh("p")
    async def refresh(request: OAuthParams) -> Credentials:
        given.append((request.provider, request.refresh_token))
        return Credentials(api_key="k")

    async with MemoryHost(app, {"ui/request": {"text": "c"}}) as host:
        (provider,) = host.initialized["registrations"]["providers"]
        assert provider == {"name": "p", "oauth": True, "models": [{"id": "m"}]}
        assert await host.ask("provider/oauth_login", {"provider": "p", "context": CONTEXT}) == {
            "access_token": "c",
            "refresh_token": "r1",
            "expires_at": 1_700_000_000,
            "extra": {"scope": "all"},
        }
        asked = {"provider": "p", "refresh_token": "r1", "new": 1}
        assert await host.ask("provider/oauth_refresh", asked) == {"api_key": "k"}
    assert given == [("p", "r1")]


@pytest.mark.parametrize("kind", ["returns a dict", "returns nothing", "raises"])
@on_each_loop
async def test_an_oauth_handler_that_fails_tells_no_secret(kind: str) -> None:
    """The error is -32603 with a fixed text."""
    app = app_yielding()

    async def login(request: dict[str, Any]) -> Any:
        if kind == "raises":
            raise ValueError(f"bad token {request['refresh_token']}")
        return {"access_token": "secret"} if kind == "returns a dict" else None

    app.oauth_login("p")(login)
    async with MemoryHost(app, log=True) as host:
        error = await host.refused("provider/oauth_login", {"provider": "p", "refresh_token": "secret"})
        await host.ping()
    assert error["code"] == -32603
    assert "failed unexpectedly" in error["message"]
    assert not [line for line in host.lines if b"secret" in line]


@on_each_loop
async def test_an_oauth_handler_may_tell_the_host_what_the_upstream_said() -> None:
    """Docs, providers: an ``RpcError`` crosses as it is written, as in a completion; the host's ``NoUI`` too."""
    app = app_yielding()

    @app.oauth_login("p")
    async def login(ctx: ProviderContext) -> Credentials:
        await ctx.ui.notify("Enter the code")
        return Credentials()

    @app.oauth_refresh("p")
    async def refresh() -> Credentials:
        raise RpcError("the login was denied", data={"retryable": False})

    def nobody(request: UiRequest) -> None:
        raise NoUI("nobody is there")

    async with CheckedHost(app, ui=nobody) as host:
        error = await refused(host.oauth_login("p"))
        assert (error.code, error.message) == (-32001, "nobody is there")
        error = await refused(host.oauth_refresh("p", "r1"))
        assert (error.code, error.message, error.data) == (-32603, "the login was denied", {"retryable": False})


@on_each_loop
async def test_a_login_that_waits_for_a_person_holds_no_slot() -> None:
    """``max_concurrency`` counts tool and provider calls; a login is neither."""
    app = App("t")
    asked, go_on = asyncio.Event(), asyncio.Event()
    running, most = 0, 0

    @app.tool
    async def work() -> None:
        """Work."""
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    @app.provider("p")
    async def complete() -> AsyncIterator[StreamEvent]:
        yield Done("stop")

    @app.oauth_login("p")
    async def login(ctx: ProviderContext) -> Credentials:
        await ctx.ui.confirm("Log in?")
        return Credentials(api_key="k")

    async def confirmed(request: UiRequest) -> bool:
        asked.set()
        await go_on.wait()
        return True

    async with CheckedHost(app, ui=confirmed, max_concurrency=1) as host:
        logging_in = asyncio.create_task(host.oauth_login("p"))
        await asked.wait()
        await asyncio.gather(*(host.call_tool("work") for _ in range(5)))
        go_on.set()
        assert await logging_in == Credentials(api_key="k")
    assert most == 1, "and lends none that it does not have"


def test_an_oauth_handler_of_a_provider_that_is_not_there_is_a_mistake() -> None:
    """It fails when the app is loaded, and names what is near."""
    app = app_yielding()

    @app.oauth_login("pp")
    async def login() -> Credentials:
        return Credentials()

    with pytest.raises(
        Exception, match=r"^OAuth login of provider 'pp' \(.*\): there is no such provider; did you mean 'p'\?"
    ):
        app.check()


@on_each_loop
async def test_an_error_of_the_host_fails_the_completion() -> None:
    """An error of the host is an exception that the provider may catch."""
    app = App("t")

    @app.provider("p")
    async def complete(ctx: ProviderContext) -> AsyncIterator[StreamEvent]:
        try:
            await ctx.kv.get("key")
        except RpcError as error:
            yield Delta(f"{error.code}")

    async with MemoryHost(app, {"kv/get": RpcError("no", code=-32004)}) as host:
        assert (await host.ask("provider/complete", REQUEST))["content"] == "-32004"
