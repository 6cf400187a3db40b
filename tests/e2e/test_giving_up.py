"""A caller that gives up tells the other side, over the wire; and a cancel during the handshake."""

from __future__ import annotations

import time

import pytest

from sepkit.faces.runner import LoopKind
from tests.driver import HANDSHAKE, Extension

CANCELLED = -32800

GIVING_UP = """
import asyncio
from sepkit import App, ToolContext

app = App("giving-up")

@app.tool
async def ask(ctx: ToolContext) -> str:
    return str(await ctx.kv.get("key"))

@app.tool(timeout=0.05)
async def limited(ctx: ToolContext) -> str:
    return str(await ctx.kv.get("key"))

@app.tool
async def impatient(ctx: ToolContext) -> str:
    try:
        async with asyncio.timeout(0.05):
            return str(await ctx.kv.get("key"))
    except TimeoutError:
        return "gave up"
"""


def next_id(extension: Extension, method: str) -> object:
    """The next frame, which has to be a ``method``: the id that it bears, or speaks of."""
    frame = extension.next_frame()
    assert frame is not None
    assert frame["method"] == method
    return frame["params"]["id"] if method == "$/cancel" else frame["id"]


def test_the_host_hears_within_100_ms_that_a_cancelled_handler_asks_no_more(loop_kind: LoopKind) -> None:
    """The caller that is cancelled sends ``$/cancel``, and the handler sees it within 100 ms."""
    taken = []
    with Extension(GIVING_UP, "--loop", loop_kind) as extension:
        for _ in range(5):
            call = extension.start_tool("ask")
            asked = next_id(extension, "kv/get")
            began = time.monotonic()
            extension.notify("$/cancel", {"id": call})
            assert next_id(extension, "$/cancel") == asked
            assert extension.answer(call)["error"]["code"] == CANCELLED
            taken.append(time.monotonic() - began)
        assert extension.end() == 0
        assert extension.rest() == []
    assert min(taken) < 0.1, taken


@pytest.mark.parametrize("tool", ["limited", "impatient"])
def test_a_request_that_times_out_is_cancelled_and_its_late_answer_is_nobodys(loop_kind: LoopKind, tool: str) -> None:
    """A caller that times out sends ``$/cancel``, and does not use the id again."""
    with Extension(GIVING_UP, "--loop", loop_kind) as extension:
        call = extension.start_tool(tool)
        late = next_id(extension, "kv/get")
        assert next_id(extension, "$/cancel") == late
        assert extension.answer(call)["result"].get("is_error", False) is (tool == "limited")
        call = extension.start_tool("ask")
        asked = next_id(extension, "kv/get")
        assert asked != late
        extension.send({"jsonrpc": "2.0", "id": late, "result": {"value": "late"}})
        extension.send({"jsonrpc": "2.0", "id": asked, "result": {"value": "in time"}})
        assert extension.answer(call)["result"] == {"content": "in time"}
        assert extension.end() == 0


LIFESPAN = """
import asyncio, os
from contextlib import asynccontextmanager
from sepkit import App

@asynccontextmanager
async def lifespan(app):
    while not os.path.exists("go"):
        await asyncio.sleep(0.005)
    yield

app = App("lifespan", lifespan=lifespan)

@app.tool
async def hello() -> str:
    return "hello"
"""


def test_a_call_that_waits_for_the_handshake_is_cancelled_at_once_and_so_is_the_handshake(loop_kind: LoopKind) -> None:
    """A call that waits for the handshake is answered before the lifespan goes on."""
    with Extension(LIFESPAN, "--loop", loop_kind, handshake=False) as extension:
        first = extension.request("initialize", HANDSHAKE)
        call = extension.start_tool("hello")
        for rid in (call, first):
            extension.notify("$/cancel", {"id": rid})
            assert extension.answer(rid)["error"]["code"] == CANCELLED
        (extension.folder / "go").touch()
        extension.ask("initialize", HANDSHAKE)
        assert extension.tool("hello") == {"content": "hello"}
        assert extension.end() == 0
        assert extension.rest() == []
