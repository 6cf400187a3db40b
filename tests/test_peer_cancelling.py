"""How a wire cancels is data: another name and field, and no answer to what was cancelled."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import pytest

from sepkit.peer import Cancelling, Peer
from sepkit.transports.memory import memory_pair
from tests.memory_host import on_each_loop

SILENT: Final = Cancelling("notifications/cancelled", "requestId", answered=False)


@on_each_loop
async def test_a_wire_with_a_cancel_of_its_own_is_heard_and_answers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = memory_pair()
    cancelled = asyncio.Event()

    async def forever(params: dict[str, Any]) -> object:
        try:
            return await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def quick(params: dict[str, Any]) -> object:
        return params

    written: list[bytes] = []
    write = theirs.write

    def noted(data: bytes) -> None:
        written.append(data)
        write(data)

    monkeypatch.setattr(theirs, "write", noted)
    asked = Peer(theirs, routes={"forever": forever, "quick": quick}, cancelling=SILENT)
    asking = Peer(ours, cancelling=SILENT)
    asked.start()
    asking.start()
    waiting = asyncio.create_task(asking.request("forever", {}))
    await asking.request("quick", {"n": 1})
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.wait_for(cancelled.wait(), 10)
    assert await asking.request("quick", {"n": 2}) == {"n": 2}
    assert len(written) == 2, "what was cancelled is not answered"
    assert not asked.busy
    await asking.aclose()
    await asked.aclose()


@on_each_loop
async def test_the_cancel_of_another_wire_is_only_an_unknown_notification() -> None:
    ours, theirs = memory_pair()
    go_on = asyncio.Event()

    async def wait(params: dict[str, Any]) -> object:
        await go_on.wait()
        return "done"

    asked = Peer(theirs, routes={"wait": wait}, cancelling=SILENT)
    asking = Peer(ours)
    asked.start()
    asking.start()
    waiting = asyncio.create_task(asking.request("wait", {}))
    await asyncio.sleep(0)
    asking.notify("$/cancel", {"id": 1})
    await asyncio.sleep(0.01)
    go_on.set()
    assert await waiting == "done"
    await asking.aclose()
    await asked.aclose()
