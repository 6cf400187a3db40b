"""Events on their way to an extension that reads, reads late, or never reads, over real bytes in memory."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sepkit.host.budget import Budget, Neighbours
from sepkit.host.lane import MOST_UNSENT, EventLane
from sepkit.peer import Peer
from sepkit.transports import HIGH_WATER
from sepkit.transports.memory import memory_pair

PATIENCE = 20.0
CONTEXT = {"token": "t", "tier": "event"}

Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Reader:
    """The extension's side: what it was told of, and a switch that stops its reading."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self._ours, self.wire = memory_pair()
        self.host = Peer(self._ours)
        self.lane = EventLane(self.host, CONTEXT, Budget("reader", Neighbours()))
        self._peer = Peer(self.wire, notifications={"event": self.got.append})

    def start(self) -> Reader:
        self.host.start()
        self._peer.start()
        return self

    @property
    def events(self) -> list[dict[str, Any]]:
        return [one for one in self.got if one["event"] != "events_lost"]

    @property
    def lost(self) -> list[int]:
        return [one["payload"]["lost"] for one in self.got if one["event"] == "events_lost"]

    async def settle(self) -> None:
        """Until nothing is on its way."""
        async with asyncio.timeout(PATIENCE):
            while self._ours._size or self.lane._sending is not None or self._peer._items:
                await asyncio.sleep(0)

    async def aclose(self) -> None:
        await self._peer.aclose()
        await self.host.aclose()


def large(number: int = 0) -> dict[str, Any]:
    """Ten of these congest."""
    return {"number": number, "text": "x" * (HIGH_WATER // 8)}


def test_an_event_carries_its_name_number_context_and_payload(run: Run) -> None:
    """An event has its name, number, context and payload. Source: docs/protocol.md, sections 3, 5 and 7."""

    async def main() -> None:
        reader = Reader().start()
        reader.lane.dispatch("turn_start", {"a": 1})
        reader.lane.dispatch("turn_end", {})
        await reader.settle()
        assert reader.got == [
            {"event": "turn_start", "seq": 1, "context": CONTEXT, "payload": {"a": 1}},
            {"event": "turn_end", "seq": 2, "context": CONTEXT, "payload": {}},
        ]
        await reader.aclose()

    run(main())


def test_nothing_is_lost_while_the_extension_reads(run: Run) -> None:
    """20,000 events arrive, all of them in order. Source: docs/protocol.md, section 7."""

    async def main() -> None:
        reader = Reader().start()
        for number in range(20_000):
            reader.lane.dispatch("turn_start", {"number": number})
            if number % 500 == 0:
                await asyncio.sleep(0)
        await reader.settle()
        assert [one["seq"] for one in reader.got] == list(range(1, 20_001))
        assert [one["payload"]["number"] for one in reader.got] == list(range(20_000))
        await reader.aclose()

    run(main())


def test_what_is_shed_are_the_oldest_and_is_said_before_what_is_left(run: Run) -> None:
    """At most 1,024 unsent events are kept; the gap in ``seq`` is announced by ``events_lost``, which has no ``seq``.

    Source: docs/protocol.md, section 7.
    """

    async def main() -> None:
        reader = Reader().start()
        reader.wire.pause_reading()
        on_the_wire = 0
        while not reader.host.congested:
            reader.lane.dispatch("turn_start", large(on_the_wire))
            on_the_wire += 1
        for number in range(MOST_UNSENT + 500):
            reader.lane.dispatch("turn_end", {"number": number})
        reader.wire.resume_reading()
        await reader.settle()
        marker = reader.got[on_the_wire]
        assert marker == {"event": "events_lost", "context": CONTEXT, "payload": {"lost": 500}}
        assert "seq" not in marker
        assert reader.lost == [500]
        assert [one["seq"] for one in reader.got[:on_the_wire]] == list(range(1, on_the_wire + 1))
        after = reader.got[on_the_wire + 1 :]
        assert [one["payload"]["number"] for one in after] == list(range(500, MOST_UNSENT + 500))
        assert [one["seq"] for one in after] == list(range(on_the_wire + 501, on_the_wire + MOST_UNSENT + 501))
        await reader.aclose()

    run(main())


def test_exactly_1024_are_kept(run: Run) -> None:
    """The 1,024th event is kept, and the 1,025th drops one. Source: docs/protocol.md, section 7."""

    async def main(count: int) -> tuple[list[int], int]:
        reader = Reader().start()
        reader.wire.pause_reading()
        reader.lane.dispatch("turn_start", {"text": "x" * HIGH_WATER})
        for _ in range(count):
            reader.lane.dispatch("turn_end", {})
        reader.wire.resume_reading()
        await reader.settle()
        await reader.aclose()
        return reader.lost, len(reader.events) - 1

    async def all_of_them() -> None:
        assert await main(1024) == ([], 1024)
        assert await main(1025) == ([1], 1024)

    run(all_of_them())


@given(steps=st.lists(st.integers(0, 900) | st.sampled_from(["pause", "resume", "turn"]), max_size=30))
@settings(max_examples=60, deadline=None)
def test_each_gap_is_announced_and_as_wide_as_was_said(steps: list[int | str]) -> None:
    """Order holds in any mix of bursts, pauses and turns of the loop. Source: docs/protocol.md, section 7."""

    async def main() -> None:
        reader = Reader().start()
        dispatched = 0
        for one in steps:
            if one == "pause":
                reader.wire.pause_reading()
            elif one == "resume":
                reader.wire.resume_reading()
            elif one == "turn":
                await asyncio.sleep(0)
            else:
                assert isinstance(one, int)
                for _ in range(one):
                    dispatched += 1
                    reader.lane.dispatch("turn_start", {"number": dispatched, "text": "x" * 2500})
        reader.wire.resume_reading()
        await reader.settle()
        expected = 1
        for event in reader.got:
            if event["event"] == "events_lost":
                assert event["payload"]["lost"] > 0
                expected += event["payload"]["lost"]
            else:
                assert event["seq"] == event["payload"]["number"] == expected
                expected += 1
        assert expected == dispatched + 1
        await reader.aclose()

    asyncio.run(main())


def test_to_dispatch_never_waits_and_holds_no_more_than_1024(run: Run) -> None:
    """Memory is bounded, and a dispatch takes microseconds even if nothing reads.

    Source: docs/protocol.md, section 7.
    """

    async def main() -> None:
        reader = Reader().start()
        reader.wire.pause_reading()
        while not reader.host.congested:
            reader.lane.dispatch("turn_start", large())
        for _ in range(MOST_UNSENT):
            reader.lane.dispatch("turn_end", {"text": "x" * 1000})
        gc.collect()
        tracemalloc.start()
        slowest = 1.0
        for _ in range(5):  # the best of a few rounds: what else the machine does is no fault of ours
            before = time.perf_counter()
            for number in range(4000):
                reader.lane.dispatch("turn_end", {"number": number})
            slowest = min(slowest, time.perf_counter() - before)
            await asyncio.sleep(0)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert slowest / 4000 < 0.000_5
        assert held < 2 * 1024 * 1024
        assert len(reader.lane._unsent) == MOST_UNSENT
        reader.wire.resume_reading()
        await reader.settle()
        assert sum(reader.lost) == 20_000
        await reader.aclose()

    run(main())


def test_an_extension_that_reads_again_is_told_of_each_loss_once(run: Run) -> None:
    """The count starts again after each marker. Source: docs/protocol.md, section 7."""

    async def main() -> None:
        reader = Reader().start()
        for lost in (7, 1, 300):
            reader.wire.pause_reading()
            reader.lane.dispatch("turn_start", {"text": "x" * HIGH_WATER})
            for _ in range(MOST_UNSENT + lost):
                reader.lane.dispatch("turn_end", {})
            reader.wire.resume_reading()
            await reader.settle()
        reader.lane.dispatch("turn_end", {})
        await reader.settle()
        assert reader.lost == [7, 1, 300]
        await reader.aclose()

    run(main())


def test_a_loss_while_it_catches_up_is_told_where_it_happened(run: Run) -> None:
    """New events fill the wire again while the old ones leave, and the marker stands at the gap.

    Source: docs/protocol.md, section 7.
    """

    async def main() -> None:
        reader = Reader().start()
        reader.wire.pause_reading()
        for number in range(1100):
            reader.lane.dispatch("turn_start", large(number))
        for _ in range(40):
            reader.wire.resume_reading()
            await asyncio.sleep(0)
            reader.wire.pause_reading()
            for _ in range(20):
                reader.lane.dispatch("turn_start", large())
            await asyncio.sleep(0)
        reader.wire.resume_reading()
        await reader.settle()
        seqs = [one["seq"] for one in reader.events]
        assert seqs == sorted(set(seqs))
        assert len(seqs) + sum(reader.lost) == 1900 == seqs[-1]
        assert len(reader.lost) > 1
        await reader.aclose()

    run(main())


@pytest.mark.parametrize("who", ["host", "extension"])
def test_a_connection_that_ends_while_events_wait_leaves_nothing(run: Run, who: str) -> None:
    """Host: no task, no memory, no error of the lane outlives the connection; a late dispatch is no harm."""

    async def main() -> None:
        reader = Reader().start()
        reader.wire.pause_reading()
        for _ in range(50):
            reader.lane.dispatch("turn_start", large())
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(reader.host.aclose() if who == "host" else reader._peer.aclose())
        if who == "host":
            await asyncio.sleep(0)
            closing.cancel()
        await asyncio.wait([closing], timeout=PATIENCE)
        async with asyncio.timeout(PATIENCE):
            while reader.lane._sending is not None:
                await asyncio.sleep(0.001)
        for _ in range(3000):
            reader.lane.dispatch("turn_start", {})
        await asyncio.sleep(0)
        assert not reader.lane._unsent
        assert {task for task in asyncio.all_tasks() if task.get_name() == "sepkit events"} == set()
        await reader.aclose()

    run(main())


def test_a_payload_that_is_written_already_goes_out_as_it_is(run: Run) -> None:
    """Host.dispatch_event: written once, however many are told; what the caller changes later changes nothing."""

    async def main() -> None:
        reader = Reader().start()
        reader.lane.dispatch("turn_start", orjson.Fragment(b'{"a":1}'))
        await reader.settle()
        assert reader.got[0]["payload"] == {"a": 1}
        await reader.aclose()

    run(main())


def test_the_transport_of_these_tests_can_be_paused() -> None:
    """A reader that takes nothing: without this the tests above would prove nothing."""

    async def main() -> None:
        reader = Reader().start()
        reader.wire.pause_reading()
        reader.lane.dispatch("turn_start", {})
        for _ in range(5):
            await asyncio.sleep(0)
        assert reader.got == []
        await reader.aclose()

    asyncio.run(main())
