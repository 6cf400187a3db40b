"""What extensions should never do, under a load of calls: the host and its other extensions do not notice.

Each fault three times in the suite, fifty times where ``SEPKIT_SOAK`` is set.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest

from sepkit.errors import SepkitError
from sepkit.faces.runner import LoopKind, new_loop
from sepkit.host import ExtensionDied, Host, KvStore, Manifest
from sepkit.host.lives import ExtensionUnavailable
from sepkit.host.manifest import Capabilities, Run

ILL: Final = Path(__file__).with_name("children") / "ill.py"
SOAK: Final = bool(os.environ.get("SEPKIT_SOAK"))
ROUNDS: Final = 50 if SOAK else 3
PATIENCE: Final = 20.0

# Those after which the process is another one.
DEADLY: Final = ("dies", "freezes", "half a reply", "grandchild", "child")
HARMLESS: Final = ("endless line", "garbage", "flood", "wrong id", "two replies", "stderr")


def manifest(name: str) -> Manifest:
    return Manifest(
        name=name,
        version="1",
        root=ILL.parent,
        run=Run(command=sys.executable, args=[str(ILL)]),
        capabilities=Capabilities(tools=True),
    )


def session_of(pid: int) -> list[int]:
    """The processes of a session that are there and no zombies."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) == pid and state != "Z":
            found.append(int(entry.name))
    return found


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Load:
    """Calls to one extension, again and again, from several callers; each must settle, once."""

    def __init__(self, host: Host, tool: str, callers: int) -> None:
        self.begun = self.settled = 0
        self.ends: Counter[str] = Counter()
        self._host, self._tool = host, tool
        self._over = False
        self._callers = [asyncio.ensure_future(self._call(number)) for number in range(callers)]

    async def _call(self, number: int) -> None:
        while not self._over:
            text = f"{number}-{self.begun}"
            self.begun += 1
            try:
                result = await self._host.call_tool(self._tool, {"text": text}, timeout=PATIENCE)
                assert result.content == text, "an answer to somebody else's call"
                self.ends["answered"] += 1
            except ExtensionUnavailable:
                self.ends["unavailable"] += 1
                await asyncio.sleep(0.005)
            except ExtensionDied:
                self.ends["died"] += 1
            self.settled += 1
            await asyncio.sleep(0)

    async def end(self) -> None:
        self._over = True
        await asyncio.wait_for(asyncio.gather(*self._callers), PATIENCE)
        assert self.begun == self.settled, "each call has settled, once"


class Pulse:
    """Calls another extension every few milliseconds, and notes how long each took."""

    def __init__(self, host: Host, tool: str) -> None:
        self.longest = 0.0
        self._beating = asyncio.ensure_future(self._beat(host, tool))

    async def _beat(self, host: Host, tool: str) -> None:
        while True:
            began = time.perf_counter()
            await host.call_tool(tool, {"text": "x"})
            self.longest = max(self.longest, time.perf_counter() - began)
            await asyncio.sleep(0.003)

    async def end(self) -> None:
        self._beating.cancel()
        await asyncio.wait([self._beating])
        if not self._beating.cancelled():
            self._beating.result()


async def until_ready(host: Host, epoch: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            ill = host.status()[0]
            if ill.state == "ready" and ill.epoch > epoch:
                return
            assert ill.state != "failed", ill.error
            await asyncio.sleep(0.01)


async def one_round(host: Host, what: str) -> float:
    """Do it once, under load; the longest that the other extension took meanwhile."""
    before = host.status()[0]
    assert before.pid is not None
    load, pulse = Load(host, "ill.echo", 10), Pulse(host, "well.echo")
    slow = asyncio.ensure_future(host.call_tool("ill.slow", {"seconds": 0.05}, timeout=PATIENCE))
    await asyncio.sleep(0.02)
    asked = asyncio.ensure_future(host.call_tool("ill.do", {"what": what}, timeout=PATIENCE))
    await asyncio.wait([asked, slow])
    if what in HARMLESS:
        assert asked.result().content == ("first" if what == "two replies" else what)
        assert slow.result().content == "slow"
        assert host.status()[0].epoch == before.epoch, "it lives on"
    else:
        died = asked.exception()
        assert isinstance(died, ExtensionDied)
        assert died.exit_code == {"half a reply": 3, "grandchild": 4, "child": 5}.get(what, -9)
        assert slow.exception() is None or isinstance(slow.exception(), ExtensionDied)
        await until_ready(host, before.epoch)
        assert session_of(before.pid) == [], "nothing of its session is left"
    await asyncio.sleep(0.02)
    await load.end()
    await pulse.end()
    assert load.ends["answered"] > 0
    assert host.status()[0].pending == host.status()[1].pending == 0
    return pulse.longest


async def many_rounds(what: str) -> tuple[float, int]:
    """The median of the longest delays of the rounds, and by how much the host has grown."""
    options: dict[str, Any] = {
        "restart_delays": (0.01,) * 1000,
        "ping_after": 0.1,
        "ping_timeout": 0.2,
        "max_frame_bytes": 1024 * 1024,
    }
    if what != "freezes":
        options["ping_after"] = 60.0
    async with Host(store=KvStore(), **options) as host:
        assert await host.load([manifest("ill"), manifest("well")]) == []
        delays = [await one_round(host, what) for _ in range(2)]
        size = resident()
        for _ in range(ROUNDS - 1):
            delays.append(await one_round(host, what))
        grown = resident() - size
    if SOAK:
        print(
            f"\n{what}: {len(delays)} rounds, delays {sorted(round(d * 1000) for d in delays)} ms, grown {grown} bytes"
        )
    return statistics.median(delays), grown


KINDS: Final[list[tuple[LoopKind, str]]] = [
    *(("uvloop", what) for what in (*DEADLY, *HARMLESS)),
    *(("asyncio", what) for what in ((*DEADLY, *HARMLESS) if SOAK else ("dies", "garbage"))),
]


@pytest.mark.timeout(1800 if SOAK else 60)
@pytest.mark.parametrize(("loop_kind", "what"), KINDS)
def test_a_fault_is_the_extension_s_own(loop_kind: LoopKind, what: str) -> None:
    """Host, "What it must show": every call settles once, nobody else waits, nothing is left, memory is flat."""
    with asyncio.Runner(loop_factory=lambda: new_loop(loop_kind)) as runner:
        delay, grown = runner.run(many_rounds(what))
    # The machine has other things to do: what half of the rounds do without is not the host's.
    assert delay < 0.1
    assert grown < 5 * 1024 * 1024


def test_the_child_that_does_it_is_well_otherwise() -> None:
    """The tests above would be worth nothing otherwise: the process is the one that the host has spawned."""

    async def look() -> list[int]:
        async with Host(store=KvStore()) as host:
            assert await host.load([manifest("ill")]) == []
            pids: list[int] = json.loads((await host.call_tool("ill.pids")).content)
            assert host.status()[0].pid == pids[0]
            assert session_of(pids[1]) == [pids[0]]
            return pids

    pid, session = asyncio.run(look())
    assert pid == session, "a session of its own"
    assert session_of(session) == []


def test_an_extension_that_cannot_live_has_failed_and_can_be_left() -> None:
    """It is restarted after 1, 5 and 25 s, then it has failed; a reload resets the count.

    Source: docs/protocol.md, section 2.
    """

    async def main() -> None:
        async with Host(store=KvStore(), restart_delays=(0.01, 0.02, 0.03)) as host:
            assert await host.load([manifest("ill")]) == []
            for epoch in (1, 2, 3):
                with pytest.raises(ExtensionDied):
                    await host.call_tool("ill.do", {"what": "dies"})
                await until_ready(host, epoch)
                assert host.status()[0].restarts == epoch
            with pytest.raises(ExtensionDied):
                await host.call_tool("ill.do", {"what": "dies"})
            async with asyncio.timeout(PATIENCE):
                while host.status()[0].state != "failed":
                    await asyncio.sleep(0.01)
            with pytest.raises(ExtensionUnavailable, match="ill is failed: ill has ended"):
                await host.call_tool("ill.echo", {})
            with pytest.raises(SepkitError):  # children/ has no manifest
                await host.reload("ill")

    asyncio.run(main())
