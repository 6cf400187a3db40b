"""One contract for every kind of transport, on every kind of loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Literal

import pytest

from sepkit.errors import Code, ConnectionClosed, FrameError
from sepkit.transports import HIGH_WATER, Transport
from sepkit.transports.descriptors import DescriptorTransport
from sepkit.transports.memory import memory_pair
from sepkit.wire.frames import MAX_FRAME_BYTES
from tests.driver import Recorder

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Kind = Literal["memory", "pipes", "sockets"]


@pytest.fixture(params=["memory", "pipes", "sockets"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """The kinds of transport there are."""
    kind: Kind = request.param
    return kind


def make_pair(kind: Kind, max_frame_bytes: int) -> tuple[Transport, Transport]:
    """The two ends of a connection; one that has not been started does not read."""
    if kind == "memory":
        return memory_pair(max_frame_bytes=max_frame_bytes)
    if kind == "pipes":
        read_one, write_two = os.pipe()
        read_two, write_one = os.pipe()
    else:
        one, two = socket.socketpair()
        write_one, write_two = one.detach(), two.detach()
        read_one, read_two = os.dup(write_one), os.dup(write_two)
    return (
        DescriptorTransport(read_one, write_one, max_frame_bytes=max_frame_bytes),
        DescriptorTransport(read_two, write_two, max_frame_bytes=max_frame_bytes),
    )


@contextlib.asynccontextmanager
async def linked(kind: Kind, *, max_frame_bytes: int = MAX_FRAME_BYTES) -> AsyncIterator[tuple[Transport, Transport]]:
    """A pair that is closed in the end; then no descriptor is left open, and nothing was raised into the loop."""
    raised: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: raised.append(context))
    before = open_descriptors()
    pair = make_pair(kind, max_frame_bytes)
    try:
        yield pair
    finally:
        for end in pair:
            await close_now(end)
        await turns()
    assert raised == []
    assert open_descriptors() <= before


def open_descriptors() -> set[str]:
    # Listing them opens one more, which is closed again by the time it is looked at.
    return {fd for fd in os.listdir("/dev/fd") if os.path.exists(f"/dev/fd/{fd}")}


async def close_now(transport: Transport) -> None:
    closing = asyncio.ensure_future(transport.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])


async def turns(count: int = 10) -> None:
    """Let the loop turn: whatever could happen by itself, happens."""
    for _ in range(count):
        await asyncio.sleep(0)


def line_of(size: int, letter: bytes = b"x") -> bytes:
    """A line of ``size`` bytes, its end included."""
    return letter * (size - 1) + b"\n"


# -- in order, whole, together -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_lines_arrive_in_order_and_whole_in_any_write_chunking(run: Run, kind: Kind, size: int) -> None:
    """A message is one line, in whatever pieces it is written. Source: docs/protocol.md, section 1."""

    async def main() -> None:
        async with linked(kind) as (one, two):
            lines = [b'{"n":%d}' % n * (n % 4) for n in range(20)] + ["é→\u2028".encode(), b"", b"end"]
            stream = b"".join(line + b"\n" for line in lines)
            here, there = Recorder(), Recorder()
            one.start(here)
            two.start(there)
            for i in range(0, len(stream), size):
                one.write(stream[i : i + size])
                await turns(3)  # so that each piece goes alone
            assert await there.wait_lines(len(lines)) == lines
            assert here.lines == []

    run(main())


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 3 * 1024 * 1024])
def test_large_lines_pass_both_ways(run: Run, kind: Kind, size: int) -> None:
    """Frames of 65,535, 65,536, 65,537 bytes and more pass both ways."""

    async def main() -> None:
        async with linked(kind) as (one, two):
            here, there = Recorder(), Recorder()
            one.start(here)
            two.start(there)
            one.write(line_of(size) + line_of(size + 1))
            one.write(b"after\n")
            two.write(line_of(size, b"y"))
            assert await there.wait_lines(3) == [line_of(size)[:-1], line_of(size + 1)[:-1], b"after"]
            assert await here.wait_lines(1) == [line_of(size, b"y")[:-1]]

    run(main())


def test_what_is_written_together_goes_together(run: Run, kind: Kind) -> None:
    """``Transport.write``: a turn's frames leave in one write; 256 replies are not 256 system calls."""

    async def main() -> None:
        async with linked(kind) as (one, two):
            there = Recorder()
            one.start(Recorder())
            two.start(there)
            for n in range(200):
                one.write(b"%d\n" % n)
            assert await there.wait_lines(200) == [b"%d" % n for n in range(200)]
            assert there.batches == 1

    run(main())


def test_two_ends_that_answer_each_other_at_once_go_on_and_on(run: Run, kind: Kind) -> None:
    """A receiver may write while it is told of lines; the answers keep their order and do not nest."""

    async def main() -> None:
        async with linked(kind) as (one, two):
            here = Recorder(lambda line: one.write(b"%d\n" % (int(line) + 1)) if int(line) < 3_000 else None)
            there = Recorder(lambda line: two.write(b"%d\n" % (int(line) + 1)))
            one.start(here)
            two.start(there)
            one.write(b"1\n")
            assert await here.wait_lines(1_500) == [b"%d" % n for n in range(2, 3_001, 2)]
            assert there.lines == [b"%d" % n for n in range(1, 3_000, 2)]

    run(main())


def test_both_ends_send_10_mib_at_once_and_both_finish(run: Run, kind: Kind) -> None:
    """Both sides send 10 MiB at the same moment, and both finish."""

    async def main() -> None:
        async with linked(kind) as (one, two):
            here, there = Recorder(), Recorder()
            one.start(here)
            two.start(there)
            huge = line_of(10 * 1024 * 1024)
            one.write(huge)
            two.write(huge)
            await asyncio.gather(one.drain(), two.drain())
            assert await here.wait_lines(1) == [huge[:-1]]
            assert await there.wait_lines(1) == [huge[:-1]]

    run(main())


@pytest.mark.parametrize("size", [1, 5, 100_000])
def test_an_over_long_line_is_one_error_and_the_next_line_is_whole(run: Run, kind: Kind, size: int) -> None:
    """A line over ``max_frame_bytes`` is one error; the lines around it are processed."""

    async def main() -> None:
        async with linked(kind, max_frame_bytes=10) as (one, two):
            there = Recorder()
            one.start(Recorder())
            two.start(there)
            stream = b"before\n" + line_of(50) + b"0123456789\n" + line_of(12) + b"after\n"
            for i in range(0, len(stream), size):
                one.write(stream[i : i + size])
                await turns(3)
            lines = await there.wait_lines(5)
            assert [line for line in lines if isinstance(line, bytes)] == [b"before", b"0123456789", b"after"]
            errors = [line for line in lines if isinstance(line, FrameError)]
            assert [error.code for error in errors] == [Code.INVALID_REQUEST] * 2
            assert [type(line) for line in lines] == [bytes, FrameError, bytes, FrameError, bytes]

    run(main())


# -- a peer that does not read -----------------------------------------------------------------------------------------


def test_a_transport_is_congested_above_the_high_water_mark(run: Run, kind: Kind) -> None:
    """``Transport.congested``: more than ``HIGH_WATER`` bytes wait; told at once, and until they have been taken."""

    async def main() -> None:
        async with linked(kind) as (one, two):
            told = []
            one.start(Recorder())
            # Of what is much, pipes and sockets take a part at once.
            for data in (b"", line_of(HIGH_WATER), b"\n" if kind == "memory" else line_of(HIGH_WATER)):
                one.write(data)
                told.append(one.congested)
            there = Recorder()
            two.start(there)
            await there.wait_lines(2)
            await one.drain()
            assert [*told, one.congested] == [False, False, True, False]

    run(main())


def test_drain_waits_while_the_other_end_does_not_read_and_goes_on_when_it_does(run: Run, kind: Kind) -> None:
    """Senders wait, and order holds."""

    async def main() -> None:
        async with linked(kind) as (one, two):
            one.start(Recorder())
            await asyncio.wait_for(one.drain(), 5)  # nothing waits: neither does this
            for n in range(40):
                one.write(b"%02d" % n + line_of(100_000))
            waiting = [asyncio.create_task(one.drain()) for _ in range(3)]
            await turns(50)
            assert not any(task.done() for task in waiting)
            there = Recorder()
            two.start(there)
            await asyncio.gather(*waiting)
            assert not one.congested
            lines = await there.wait_lines(40)
            assert [line[:2] for line in lines if isinstance(line, bytes)] == [b"%02d" % n for n in range(40)]

    run(main())


@pytest.mark.parametrize("meanwhile", [0, 10])
def test_a_cancelled_drain_takes_nobody_with_it(run: Run, kind: Kind, meanwhile: int) -> None:
    """A caller that gives up, even just when it may go on, affects no other caller and no bytes."""

    async def main() -> None:
        async with linked(kind) as (one, two):
            one.start(Recorder())
            one.write(line_of(3 * HIGH_WATER))
            given_up, patient = asyncio.create_task(one.drain()), asyncio.create_task(one.drain())
            await turns()
            given_up.cancel()
            await turns(meanwhile)
            assert not patient.done()
            there = Recorder()
            two.start(there)
            await patient
            await there.wait_lines(1)
            assert given_up.cancelled()

    run(main())


# -- the ends ----------------------------------------------------------------------------------------------------------


def test_aclose_sends_what_waits_and_then_closes(run: Run, kind: Kind) -> None:
    """Replies are flushed. The other end gets all of them, then the end, once."""

    async def main() -> None:
        async with linked(kind) as (one, two):
            here, there = Recorder(), Recorder()
            one.start(here)
            for n in range(30):
                one.write(b"%02d" % n + line_of(100_000))
            closing = asyncio.create_task(one.aclose())
            await turns(50)
            assert not closing.done()
            assert here.calls == []
            two.start(there)
            await closing
            assert here.calls == ["lost"]
            assert here.error is None
            await there.ended.wait()
            assert [line[:2] for line in there.lines if isinstance(line, bytes)] == [b"%02d" % n for n in range(30)]
            await two.aclose()
            assert there.calls == ["lines", "ended", "lost"]

    run(main())


def test_aclose_that_is_cancelled_closes_at_once(run: Run, kind: Kind) -> None:
    """``Transport.aclose``: cancel it to close at once, though the other end has not read."""

    async def main() -> None:
        async with linked(kind) as (one, _):
            here = Recorder()
            one.start(here)
            one.write(line_of(3 * HIGH_WATER))
            closing = asyncio.create_task(one.aclose())
            await turns(50)
            assert not closing.done()
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
            assert here.calls == ["lost"]
            assert here.error is None

    run(main())


def test_the_end_of_input_comes_once_after_the_last_line_which_may_lack_its_end(run: Run, kind: Kind) -> None:
    """``Receiver.input_ended``: once, and what came before it is delivered; then ``connection_lost``, once and last."""

    async def main() -> None:
        async with linked(kind) as (one, two):
            there = Recorder()
            one.start(Recorder())
            two.start(there)
            one.write(b"first\nlast")
            await one.aclose()
            await there.ended.wait()
            assert there.lines == [b"first", b"last"]
            assert there.calls == ["lines", "ended"]
            await turns()
            await asyncio.gather(two.aclose(), two.aclose())
            await two.aclose()
            await turns()
            assert there.calls == ["lines", "ended", "lost"]

    run(main())


def test_both_ends_close_at_the_same_moment(run: Run, kind: Kind) -> None:
    """``Receiver.connection_lost``: once and last, for both."""

    async def main() -> None:
        async with linked(kind) as (one, two):
            here, there = Recorder(), Recorder()
            one.start(here)
            two.start(there)
            one.write(b"1\n")
            two.write(b"2\n")
            await asyncio.gather(one.aclose(), two.aclose())
            await turns()
            for end in (here, there):
                assert end.calls[-1] == "lost"
                assert end.calls.count("lost") == 1
                assert end.calls.count("ended") <= 1

    run(main())


def test_nothing_raises_after_the_end_but_drain(run: Run, kind: Kind) -> None:
    """``Transport``: ``write`` never raises; ``drain`` raises ConnectionClosed; ``aclose`` may be called again."""

    async def main() -> None:
        async with linked(kind) as (one, two):
            here, there = Recorder(), Recorder()
            one.start(here)
            two.start(there)
            await one.aclose()
            one.write(b"too late\n")
            one.write(line_of(3 * HIGH_WATER))
            with pytest.raises(ConnectionClosed):
                await one.drain()
            await one.aclose()
            await there.ended.wait()
            await turns()
            assert here.calls == ["lost"]
            assert there.lines == []

    run(main())


def test_a_drain_that_waits_when_the_other_end_closes_raises_connection_closed(run: Run, kind: Kind) -> None:
    """The host closing its read end in the middle of a large reply is an orderly end."""

    async def main() -> None:
        async with linked(kind) as (one, two):
            here = Recorder()
            one.start(here)
            one.write(line_of(8 * HIGH_WATER))
            waiting = asyncio.create_task(one.drain())
            await turns(50)
            assert not waiting.done()
            await close_now(two)
            with pytest.raises(ConnectionClosed):
                await waiting
            await here.lost.wait()
            assert isinstance(here.error, OSError)
            one.write(b"too late\n")
            with pytest.raises(ConnectionClosed):
                await one.drain()
            await one.aclose()
            await turns()
            assert here.calls[-1] == "lost"
            assert here.calls.count("lost") == 1
            assert here.calls.count("ended") <= 1

    run(main())


def test_writing_to_an_end_that_has_closed_loses_the_connection(run: Run, kind: Kind) -> None:
    """``Receiver.connection_lost``: told with the error, once and last; ``write`` itself does not raise."""

    async def main() -> None:
        async with linked(kind) as (one, two):
            here = Recorder()
            one.start(here)
            two.start(Recorder())
            await two.aclose()
            await here.ended.wait()
            assert here.calls == ["ended"]
            one.write(b"anybody there?\n")
            await here.lost.wait()
            assert isinstance(here.error, OSError)
            assert here.calls == ["ended", "lost"]

    run(main())


# -- memory, fed by hand -----------------------------------------------------------------------------------------------


def test_what_is_fed_by_hand_arrives_as_if_the_other_end_had_sent_it(run: Run) -> None:
    """``MemoryTransport.feed`` and ``end_input``: what is fed keeps the contract: one end, and nothing behind it."""

    async def main() -> None:
        one, two = memory_pair()
        told = Recorder()
        one.start(Recorder())
        two.start(told)
        two.feed(b"hal")
        two.feed(b"f a line\nlast")
        assert told.lines == [b"half a line"]
        two.end_input()
        two.end_input()
        two.feed(b"too late\n")
        one.write(b"too late\n")
        await one.aclose()
        await turns()
        await two.aclose()
        two.end_input()
        assert told.lines == [b"half a line", b"last"]
        assert told.calls == ["lines", "ended", "lost"]

    run(main())


def test_a_memory_end_that_does_not_read_holds_what_it_is_sent(run: Run) -> None:
    """``MemoryTransport.pause_reading``: it stands for a peer that does not read; nothing is lost, the end included."""

    async def main() -> None:
        one, two = memory_pair()
        told = Recorder()
        one.start(Recorder())
        two.start(told)
        two.pause_reading()
        one.write(b"waits\n" + line_of(2 * HIGH_WATER))
        waiting = asyncio.create_task(one.drain())
        closing = asyncio.create_task(one.aclose())
        await turns()
        assert told.calls == []
        assert not waiting.done()
        two.resume_reading()
        await asyncio.gather(waiting, closing)
        await told.ended.wait()
        assert told.lines[0] == b"waits"
        assert len(told.lines) == 2
        await two.aclose()

    run(main())
