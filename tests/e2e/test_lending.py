"""A call that waits for the host lends its slot, once; over real pipes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sepkit.faces.runner import LoopKind
from tests.driver import CONTEXT, Extension

LONG = 60.0  # seconds

Frame = dict[str, Any]


def line(frame: Frame) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **frame}).encode() + b"\n"


def command(extension: Extension, name: str) -> str:
    content: str = extension.ask("command/execute", {"command": name, "context": CONTEXT}, LONG)["content"]
    return content


LENDING = """
import asyncio
from sepkit import App, Model, ProviderContext, ToolContext
from sepkit import Delta

app = App("lending")
free = asyncio.Event()
running = most = 0
left = []

@app.tool
async def hold() -> str:
    global running, most
    running += 1
    most = max(most, running)
    await free.wait()
    running -= 1
    return "held"

@app.tool
async def wide(count: int, ctx: ToolContext) -> str:
    await asyncio.gather(*(ctx.kv.get(str(number)) for number in range(count)))
    return "done"

@app.provider("model", models=[Model("m")])
async def provider(request: dict, ctx: ProviderContext):
    await asyncio.gather(*(ctx.kv.get(str(number)) for number in range(request["count"])))
    yield Delta("done")

@app.tool
async def leave_behind(count: int, ctx: ToolContext) -> str:
    async def ask_later(number):
        await returned.wait()
        await ctx.kv.get(f"later {number}")
    returned = asyncio.Event()
    left.extend(asyncio.create_task(ctx.kv.get(str(number))) for number in range(count - 1))
    left.append(asyncio.create_task(ask_later(count)))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(asyncio.get_running_loop().call_soon, returned.set)
    return "done"

@app.command
async def free_all() -> str:
    free.set()
    return str(most)
"""


@pytest.mark.parametrize("who", ["tool", "provider", "left behind"])
def test_a_call_that_asks_the_host_many_things_lends_its_one_slot_and_no_more(loop_kind: LoopKind, who: str) -> None:
    """With one slot, one other call runs while the host is asked; code that outlives its call lends no slot."""
    count = 4
    with Extension(LENDING, "--loop", loop_kind, "--max-concurrency", "1") as extension:
        if who == "tool":
            call = extension.start_tool("wide", count=count)
        elif who == "provider":
            request = {"request_id": "r", "provider": "model", "model": "m", "messages": [], "count": count}
            call = extension.request("provider/complete", request)
        else:
            assert extension.tool("leave_behind", count=count) == {"content": "done"}
            call = None
        asked: list[object] = []
        while len(asked) < count:
            frame = extension.next_frame()
            assert frame is not None
            assert frame["method"] == "kv/get"
            asked.append(frame["id"])
        holding = [extension.start_tool("hold") for _ in range(4)]
        extension.ping()
        assert command(extension, "free_all") == "1"
        for rid in holding:
            assert extension.answer(rid)["result"] == {"content": "held"}
        extension.write(b"".join(line({"id": rid, "result": {"value": 1}}) for rid in asked))
        if call is not None:
            assert extension.answer(call)["result"]["content"] == "done"
        # The slot is back, and it is one.
        assert [extension.tool("hold") for _ in range(2)] == [{"content": "held"}] * 2
        assert command(extension, "free_all") == "1"
        assert extension.end() == 0
        assert extension.rest() == []


# -- threads, and who blocks the loop ----------------------------------------------------------------------------------
