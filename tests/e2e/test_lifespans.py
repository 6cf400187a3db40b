"""A lifespan that ends while the app is served: it is said, what is in flight is answered, and the process ends."""

from __future__ import annotations

from typing import Final

import pytest

from sepkit.cli import ExitCode
from sepkit.faces.runner import LoopKind
from tests.driver import HANDSHAKE, Extension

SOURCE: Final = """
import asyncio, os, sys
from contextlib import asynccontextmanager, suppress
from sepkit import *

@asynccontextmanager
async def lifespan(app):
    {lifespan}

async def die():
    await app.dies.wait()
    raise ConnectionError("the database has gone")

app = App("lives", lifespan=lifespan)
app.dies = asyncio.Event()

@app.tool
async def kill() -> str:
    app.dies.set()
    return "killed"

@app.tool
async def short() -> str:
    await app.dies.wait()
    await asyncio.sleep(0.05)
    return "answered"

@app.tool
async def long() -> str:
    await asyncio.sleep(600)

@app.tool
def thread() -> str:
    import time
    while not app.dies.is_set():
        time.sleep(0.005)
    return "answered"
"""

WAYS: Final = {
    "a task group": """
    async with asyncio.TaskGroup() as group:
        group.create_task(die())
        yield
""",
    "a time limit": """
    async with asyncio.timeout(None) as limit:
        async def expire():
            await app.dies.wait()
            limit.reschedule(asyncio.get_running_loop().time())
        app.expiry = asyncio.create_task(expire())
        yield
""",
    "a cancel scope that says nothing": """
    async def cancel(task):
        await app.dies.wait()
        task.cancel()
    app.canceller = asyncio.create_task(cancel(asyncio.current_task()))
    with suppress(asyncio.CancelledError):
        yield
""",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_lifespan_that_ends_while_the_app_is_served_ends_the_process_with_its_own_exit_code(
    loop_kind: LoopKind, way: str
) -> None:
    """What is in flight is answered first: what finishes within the grace with its result, the rest as cancelled."""
    source = SOURCE.format(lifespan=WAYS[way].strip())
    with Extension(source, "--loop", loop_kind, "--grace", "0.5") as extension:
        rids = {tool: extension.start_tool(tool) for tool in ("short", "long", "thread")}
        assert extension.tool("kill") == {"content": "killed"}
        assert extension.answer(rids["short"])["result"] == {"content": "answered"}
        assert extension.answer(rids["thread"])["result"] == {"content": "answered"}
        assert extension.answer(rids["long"])["error"]["code"] == -32800
        assert extension.wait() == ExitCode.LIFESPAN_ENDED
        told = extension.wait_for_stderr("the lifespan has ended while the app was served")
        assert told.count("the lifespan has ended while the app was served") == 1
        if way == "a task group":
            extension.wait_for_stderr("ConnectionError: the database has gone")
        assert "failed at its end" not in told
        logged = [frame["params"]["message"] for frame in extension.rest() if frame.get("method") == "log"]
        assert any("the lifespan has ended" in message for message in logged), "the host reads it, too"


def test_a_lifespan_that_ends_before_the_handshake_is_answered_fails_it(loop_kind: LoopKind) -> None:
    """The host gets an error in place of registrations that cannot be served."""
    source = SOURCE.format(lifespan=WAYS["a task group"].strip().replace("yield", "app.dies.set(); yield"))
    with Extension(source, "--loop", loop_kind, handshake=False) as extension:
        rid = extension.request("initialize", HANDSHAKE)
        answer = extension.answer(rid)
        assert "result" in answer or answer["error"]["code"] == -32603
        assert extension.wait() == ExitCode.LIFESPAN_ENDED
