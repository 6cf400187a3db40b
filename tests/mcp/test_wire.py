"""MCP's wire and the life of a connection: both eras in one process, from the first probe to end-of-file."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from sepkit import App, ToolContext
from sepkit.capabilities.store import KvStore
from sepkit.errors import InvalidParams, InvalidRequest, MethodNotFound, RpcError
from sepkit.faces.mcp.dispatcher import Dispatcher
from sepkit.faces.mcp.protocol import LEGACY, MODERN
from sepkit.serving.served import Served
from sepkit.transports.memory import memory_pair
from tests.driver import Recorder
from tests.mcp.checked import CHECKS, SCHEMAS, VERSIONS, WHY_NOT, CheckedClient, check, meta
from tests.memory_host import PATIENCE, on_each_loop


def an_app(**options: Any) -> App:
    app = App("demo", version="1.2.0", **options)

    @app.tool
    async def echo(text: str) -> str:
        """Say it again."""
        return text

    return app


class Raw:
    """A client of lines: what is sent is bytes, what comes is looked at as it is."""

    def __init__(self, app: App, **options: Any) -> None:
        self._ours, theirs = memory_pair()
        self._theirs = theirs
        self.dispatcher = Dispatcher(Served(app), theirs, store=lambda: KvStore(None), **options)
        self.recorder = Recorder()
        self._pings = 0

    async def __aenter__(self) -> Raw:
        self._ours.start(self.recorder)
        self.serving = asyncio.get_running_loop().create_task(self.dispatcher.serve())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *args: object) -> None:
        await self.end()
        await self._ours.aclose()

    async def end(self) -> None:
        self._theirs.end_input()
        await asyncio.wait_for(asyncio.shield(self.serving), PATIENCE)

    def send(self, *lines: object) -> None:
        data = b"".join((line if isinstance(line, bytes) else orjson.dumps(line)) + b"\n" for line in lines)
        self._ours.write(data)

    async def until(self, count: int) -> list[Any]:
        """Wait until so many lines have come; all of them."""
        async with asyncio.timeout(PATIENCE):
            while len(self.recorder.lines) < count:
                await asyncio.sleep(0.001)
        return self.lines()

    def lines(self) -> list[Any]:
        found = [orjson.loads(line) for line in self.recorder.lines if isinstance(line, bytes)]
        self.recorder.lines.clear()
        return found

    async def settled(self) -> list[Any]:
        """All that has come by the time that a ping is answered, without its answer."""
        self._pings += 1
        rid = f"ping-{self._pings}"
        self.send({"jsonrpc": "2.0", "id": rid, "method": "ping"})
        async with asyncio.timeout(PATIENCE):
            while not any(rid.encode() in line for line in self.recorder.lines if isinstance(line, bytes)):
                await asyncio.sleep(0.001)
        return [line for line in self.lines() if not isinstance(line, dict) or line.get("id") != rid]

    async def greet(self, version: str = "2025-11-25", **capabilities: Any) -> dict[str, Any]:
        self.send(initialize(version, **capabilities), {"jsonrpc": "2.0", "method": "notifications/initialized"})
        (answer,) = await self.until(1)
        result: dict[str, Any] = answer["result"]
        return result


def initialize(version: str, rid: object = "init", **capabilities: Any) -> dict[str, Any]:
    info = {"name": "raw", "version": "1"}
    params = {"protocolVersion": version, "capabilities": capabilities, "clientInfo": info}
    return {"jsonrpc": "2.0", "id": rid, "method": "initialize", "params": params}


def request(rid: object, method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": rid, "method": method, "params": params}


@pytest.mark.skipif(not CHECKS, reason=WHY_NOT)
def test_the_official_schemas_are_what_frames_are_held_against() -> None:
    """The other tests here would show less otherwise."""
    check(MODERN, "CallToolResult", {"content": [], "resultType": "complete"})
    with pytest.raises(AssertionError, match="content"):
        check(MODERN, "CallToolResult", {"resultType": "complete"})
    assert (SCHEMAS / "2024-11-05.schema.json").is_file()


# ------------------------------------------------------------------------------------------------------------- two eras
@on_each_loop
async def test_one_process_speaks_both_eras_side_by_side() -> None:
    async with CheckedClient(an_app(), "2025-06-18") as client:
        assert (await client.call_tool("echo", {"text": "legacy"})).text == "legacy"
        params = {"name": "echo", "arguments": {"text": "modern"}, "_meta": meta()}
        modern = await client.request("tools/call", params)
        assert modern["resultType"] == "complete"
        assert modern["content"] == [{"type": "text", "text": "modern"}]
        assert (await client.call_tool("echo", {"text": "again"})).raw == {
            "content": [{"type": "text", "text": "again"}]
        }


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.asyncio
async def test_each_revision_is_greeted_and_served(version: str) -> None:
    async with CheckedClient(an_app(), version) as client:
        assert client.server == {"name": "demo", "version": "1.2.0"}
        assert client.server_capabilities == {"logging": {}, "tools": {"listChanged": True}}
        assert [tool["name"] for tool in await client.list_tools()] == ["echo"]
        assert (await client.call_tool("echo", {"text": "hi"})).text == "hi"
        assert not CHECKS or client.frames.checked == 3


@pytest.mark.parametrize("asked", ["2026-07-28", "2023-01-01", "latest", ""])
@pytest.mark.asyncio
async def test_initialize_for_an_unknown_revision_is_answered_with_the_newest_that_has_a_handshake(asked: str) -> None:
    async with Raw(an_app()) as client:
        assert (await client.greet(asked))["protocolVersion"] == "2025-11-25"


@pytest.mark.asyncio
async def test_a_second_initialize_is_answered_like_the_first() -> None:
    async with Raw(an_app()) as client:
        first = await client.greet("2025-06-18")
        assert await client.greet("2025-06-18") == first


@pytest.mark.parametrize("missing", ["protocolVersion", "capabilities", "clientInfo"])
@pytest.mark.asyncio
async def test_an_initialize_that_lacks_something_is_invalid_params_and_may_be_repeated(missing: str) -> None:
    async with Raw(an_app()) as client:
        bad = initialize("2025-06-18", rid=1)
        del bad["params"][missing]
        client.send(bad)
        (answer,) = await client.until(1)
        assert answer["error"]["code"] == -32602
        assert missing in answer["error"]["message"]
        assert (await client.greet("2025-06-18"))["protocolVersion"] == "2025-06-18"


@pytest.mark.asyncio
async def test_a_request_of_neither_era_is_told_what_to_send_instead() -> None:
    async with Raw(an_app()) as client:
        client.send(request(1, "tools/list"), request(2, "server/discover"))
        for answer in await client.until(2):
            assert answer["error"]["code"] == -32602
            assert "send initialize first, or have params._meta hold" in answer["error"]["message"]


@pytest.mark.asyncio
async def test_a_revision_that_is_not_spoken_is_named_beside_those_that_are() -> None:
    async with CheckedClient(an_app()) as client:
        for method in ("tools/list", "server/discover", "ping"):
            with pytest.raises(RpcError) as error:
                await client.request(method, {"_meta": meta("2027-01-01")})
            assert error.value.code == -32022
            assert error.value.data == {"supported": ["2026-07-28"], "requested": "2027-01-01"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"io.modelcontextprotocol/clientCapabilities": None},
        {"io.modelcontextprotocol/clientCapabilities": []},
        {"io.modelcontextprotocol/protocolVersion": 1},
        {"io.modelcontextprotocol/clientInfo": {"name": "x"}},
        {"io.modelcontextprotocol/logLevel": "loud"},
        {"progressToken": 1.5},
    ],
)
@pytest.mark.asyncio
async def test_a_meta_that_does_not_fit_is_invalid_params(wrong: dict[str, Any]) -> None:
    app = an_app()

    @app.tool
    async def tell(ctx: ToolContext) -> None: ...

    async with CheckedClient(app) as client:
        with pytest.raises(InvalidParams):
            await client.request("tools/call", {"name": "tell", "_meta": {**meta(), **wrong}})


@pytest.mark.asyncio
async def test_what_a_revision_has_dropped_or_does_not_have_yet_is_not_found() -> None:
    async with CheckedClient(an_app()) as client:
        for method in ("ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "nothing/at-all"):
            with pytest.raises(MethodNotFound):
                await client.request(method, {"level": "info", "uri": "x://y"})
    async with CheckedClient(an_app(), "2025-11-25") as client:
        for method in ("server/discover", "subscriptions/listen", "nothing/at-all"):
            with pytest.raises(MethodNotFound):
                await client.request(method, {"notifications": {}})
        assert await client.request("ping") == {}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.asyncio
async def test_all_four_lists_are_answered_without_anything_in_them_and_nothing_is_declared_then(version: str) -> None:
    async with CheckedClient(App("empty"), version) as client:
        assert client.server_capabilities == {"logging": {}}
        for method, member in (
            ("tools/list", "tools"),
            ("prompts/list", "prompts"),
            ("resources/list", "resources"),
            ("resources/templates/list", "resourceTemplates"),
        ):
            result = await client.request(method)
            assert result[member] == []
            assert "nextCursor" not in result
            with pytest.raises(InvalidParams, match="cursor"):
                await client.request(method, {"cursor": "x"})


# ------------------------------------------------------------------------------------------------------------- the life
@pytest.mark.asyncio
async def test_probes_are_answered_before_the_lifespan_has_begun_and_all_else_waits_for_it() -> None:
    may_start, entered = asyncio.Event(), asyncio.Event()

    @contextlib.asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[str]:
        entered.set()
        await may_start.wait()
        yield "state"

    app = App("slow", lifespan=lifespan)

    @app.tool
    async def state(ctx: ToolContext) -> str:
        return str(ctx.state)

    async with CheckedClient(app) as modern:  # discovered already
        await entered.wait()
        call = asyncio.create_task(modern.call_tool("state"))
        stream = asyncio.create_task(modern.listen(tools=True))
        assert await modern.request("server/discover")
        assert not call.done()
        may_start.set()
        assert (await call).text == "state"
        assert await stream == {"toolsListChanged": True}
    may_start.clear()
    async with CheckedClient(app, "2025-11-25") as legacy:
        assert await legacy.request("ping") == {}
        may_start.set()
        assert (await legacy.call_tool("state")).text == "state"


@pytest.mark.asyncio
async def test_a_lifespan_that_fails_is_told_to_what_waits_and_ends_the_server() -> None:
    may_fail = asyncio.Event()

    @contextlib.asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        await may_fail.wait()
        if may_fail.is_set():
            raise ValueError("no database")
        yield

    async with Raw(an_app(lifespan=lifespan)) as client:
        client.send(request(1, "tools/list", _meta=meta()))
        assert await client.settled() == []
        may_fail.set()
        (answer,) = await client.until(1)
        assert answer["error"] == {"code": -32603, "message": "the server could not start"}
        with pytest.raises(ValueError, match="no database"):
            await client.serving
        client.serving = asyncio.create_task(asyncio.sleep(0))


@pytest.mark.asyncio
async def test_end_of_file_lets_calls_finish_and_leaves_the_lifespan() -> None:
    steps: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        steps.append("entered")
        yield
        steps.append("left")

    app, go_on = App("ends", lifespan=lifespan), asyncio.Event()

    @app.tool
    async def slow() -> str:
        await go_on.wait()
        return "finished"

    async with Raw(app) as client:
        await client.greet()
        client.send(request(1, "tools/call", name="slow"))
        await client.settled()
        ending = asyncio.create_task(client.end())
        await asyncio.sleep(0)
        go_on.set()
        await ending
        (answer,) = client.lines()
        assert answer["result"]["content"][0]["text"] == "finished"
    assert steps == ["entered", "left"]


@pytest.mark.asyncio
async def test_end_of_file_before_anything_was_said_ends_in_order() -> None:
    steps: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        steps.append("entered")
        await asyncio.sleep(0)
        yield
        steps.append("left")

    async with Raw(App("ends", lifespan=lifespan)) as client:
        await client.end()
        assert client.lines() == []
    assert steps in (["entered", "left"], [])


@pytest.mark.asyncio
async def test_a_lifespan_that_is_never_entered_does_not_outlive_the_grace() -> None:
    @contextlib.asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield

    async with Raw(an_app(lifespan=lifespan), grace=0.05) as client:
        client.send(request(1, "tools/list", _meta=meta()))
        assert await client.settled() == []
        await client.end()
        assert client.lines() == []


@pytest.mark.asyncio
async def test_no_request_is_sent_to_a_client_before_its_handshake_has_ended() -> None:
    app = an_app()

    @app.tool
    async def ask(ctx: ToolContext) -> str:
        return str(ctx.has_ui("confirm"))

    async with Raw(app) as client:
        client.send(initialize("2025-06-18", rid=1, elicitation={}), request(2, "tools/call", name="ask"))
        assert (await client.until(2))[1]["result"]["content"][0]["text"] == "False"
        client.send({"jsonrpc": "2.0", "method": "notifications/initialized"}, request(3, "tools/call", name="ask"))
        assert (await client.until(1))[0]["result"]["content"][0]["text"] == "True"


@pytest.mark.asyncio
async def test_requests_after_the_end_has_begun_are_refused() -> None:
    app, go_on = an_app(), asyncio.Event()

    @app.tool
    async def slow() -> None:
        await go_on.wait()

    async with CheckedClient(app) as client:
        call = asyncio.create_task(client.call_tool("slow"))
        assert await client.list_tools()
        assert client.dispatcher is not None
        client.dispatcher.stop()
        await asyncio.sleep(0)
        with pytest.raises(InvalidRequest, match="shutting down"):
            await client.list_tools()
        go_on.set()
        await call


# --------------------------------------------------------------------------------------------------------------- cancel
@on_each_loop
async def test_a_cancelled_request_stops_and_is_never_answered() -> None:
    app, stopped = an_app(), asyncio.Event()

    @app.tool
    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    def cancel(rid: object) -> dict[str, Any]:
        params = {"requestId": rid, "reason": "no need"}
        return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}

    async with Raw(app) as client:
        await client.greet()
        for rid in ("a", 1):
            stopped.clear()
            client.send(request(rid, "tools/call", name="forever"))
            await client.settled()
            client.send(cancel(rid), cancel(rid), cancel("unknown"), cancel(None))
            await asyncio.wait_for(stopped.wait(), PATIENCE)
            assert await client.settled() == []
            client.send(request(rid, "tools/call", name="echo", arguments={"text": "again"}))
            (answer,) = await client.until(1)
            assert answer["id"] == rid


# ------------------------------------------------------------------------------------------ a client that does not read
@pytest.mark.asyncio
async def test_a_client_that_does_not_read_has_its_requests_wait_and_those_past_a_limit_refused() -> None:
    app = App("large")

    @app.tool(description="x" * 20_000)
    async def large() -> None: ...

    async with Raw(app) as client:
        await client.greet()
        client._ours.pause_reading()
        for number in range(1500):
            client.send(request(number, "tools/list"))
        for _ in range(100):
            await asyncio.sleep(0)
        assert client.dispatcher.peer.transport.congested
        client._ours.resume_reading()
        answers = await client.until(1500)
        refused = [one for one in answers if "error" in one]
        assert 300 < len(refused) < 500
        assert {one["error"]["data"]["reason"] for one in refused} == {"overloaded"}


# --------------------------------------------------------------------------------------------------------- bad lines
@pytest.mark.parametrize(
    "line",
    [b"{", b"nonsense", b"\xff", b"null", b"5", b"{}", b'{"jsonrpc":"2.0","id":null,"method":"ping"}', b"[]", b"[1]"],
)
@pytest.mark.asyncio
async def test_an_unreadable_line_is_logged_and_never_answered(line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with Raw(an_app()) as client:
        await client.greet()
        client.send(line)
        assert await client.settled() == []
    assert "ignored a line that is not a frame" in caplog.text


@pytest.mark.asyncio
async def test_a_request_that_is_malformed_but_has_an_id_is_answered_under_it() -> None:
    """Its client waits for it; what it must not get is an answer without an id."""
    async with Raw(an_app()) as client:
        await client.greet()
        client.send({"jsonrpc": "2.0", "id": "x", "method": "ping", "params": [1]})
        (answer,) = await client.until(1)
        assert (answer["id"], answer["error"]["code"]) == ("x", -32600)


# -------------------------------------------------------------------------------------------------------------- batches
@pytest.mark.asyncio
async def test_a_batch_is_answered_in_one_array_in_the_revision_that_has_them() -> None:
    app = an_app()

    @app.tool
    async def forever() -> None:
        await asyncio.Event().wait()

    async with Raw(app) as client:
        await client.greet("2025-03-26")
        cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "c"}}
        client.send(
            [
                request("a", "tools/call", name="echo", arguments={"text": "one"}),
                {"jsonrpc": "2.0", "method": "notifications/unknown"},
                request("b", "nothing"),
                request("c", "tools/call", name="forever"),
                7,
            ]
        )
        assert await client.settled() == []
        client.send(cancel)
        (answers,) = await client.until(1)
        check("2025-03-26", "JSONRPCBatchResponse", answers)
        assert {answer["id"]: "result" in answer for answer in answers} == {"a": True, "b": False}
        client.send([{"jsonrpc": "2.0", "method": "notifications/unknown"}], [], [[request("d", "ping")]])
        assert await client.settled() == []


@pytest.mark.parametrize("version", [one for one in LEGACY if one != "2025-03-26"])
@pytest.mark.asyncio
async def test_a_batch_is_unreadable_in_all_other_revisions(version: str) -> None:
    async with Raw(an_app()) as client:
        await client.greet(version)
        client.send([request("a", "ping")])
        assert await client.settled() == []


# ----------------------------------------------------------------------------------------- the official examples
@pytest.mark.skipif(not CHECKS, reason=WHY_NOT)
@pytest.mark.asyncio
async def test_each_official_example_of_a_request_is_answered_and_each_notification_is_taken() -> None:
    """With the codes of MCP, and in time; the frames that come are held against the schemas."""
    examples = SCHEMAS / "examples-2026-07-28"
    found = [
        orjson.loads(path.read_bytes())
        for kind in ("*Request", "*Notification")
        for path in sorted(examples.glob(f"{kind}/*.json"))
    ]
    sent = 0
    async with CheckedClient(an_app(), forms={"confirm": True}) as client:
        for example in found:
            method, params = example["method"], example.get("params", {})
            if method.startswith("notifications/"):
                client.notify(method, params)
            elif method != "subscriptions/listen":
                sent += 1
                with contextlib.suppress(InvalidParams, MethodNotFound):
                    await client.request(method, params, timeout=PATIENCE)
        assert (await client.call_tool("echo", {"text": "alive"})).text == "alive"
    assert sent > 8
