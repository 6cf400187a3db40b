"""Descriptors of every kind: file, null device, terminal, closed; broken ones; and a peer that asks and never reads."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import threading
import time
import tty
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from sepkit.errors import ConnectionClosed
from sepkit.transports import HIGH_WATER, LOW_WATER
from sepkit.transports.descriptors import DescriptorTransport
from tests.driver import PATIENCE, Recorder

Run = Callable[[Coroutine[Any, Any, Any]], Any]

PIPE_BYTES = 65_536  # what a pipe holds on Linux; elsewhere it is less


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe; each end is closed if it is still open."""
    ends = os.pipe()
    kept = [os.fstat(fd).st_ino for fd in ends]
    yield ends
    for fd, inode in zip(ends, kept, strict=True):
        with contextlib.suppress(OSError):
            if os.fstat(fd).st_ino == inode:
                os.close(fd)


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """The two sides of a raw pseudo terminal; each is closed if it is still open."""
    master, slave = os.openpty()
    tty.setraw(slave)
    yield master, slave
    for fd in (master, slave):
        with contextlib.suppress(OSError):
            if os.isatty(fd):
                os.close(fd)


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def read_all(fd: int, count: int) -> bytes:
    """``count`` bytes, waiting for them."""
    found = b""
    while len(found) < count and (data := os.read(fd, count - len(found))):
        found += data
    return found


# -- what stdin and stdout may be --------------------------------------------------------------------------------------


def test_a_regular_file_is_read_to_its_end(run: Run, tmp_path: Path) -> None:
    """Stdin may be a regular file (asyncio's own pipe transport raises on one), and its end is seen."""

    async def main() -> None:
        path = tmp_path / "in"
        large = b"x" * 5_000_000
        path.write_bytes(b"one\n\n" + large + b"\nlast")
        read_fd = os.open(path, os.O_RDONLY)
        transport = DescriptorTransport(read_fd, None)
        told = Recorder()
        transport.start(told)
        await asyncio.wait_for(told.ended.wait(), PATIENCE)
        assert told.lines == [b"one", b"", large, b"last"]
        assert told.calls == ["lines", "ended"]
        await transport.aclose()
        assert told.calls == ["lines", "ended", "lost"]
        for thread in threading.enumerate():
            if thread.name == "sepkit-stdin":
                thread.join(PATIENCE)
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.fstat(read_fd)

    run(main())


def test_a_regular_file_is_written_to_its_end(run: Run, tmp_path: Path) -> None:
    """Stdout may be a regular file; all of it is there after ``aclose``, behind its old contents."""

    async def main() -> None:
        path = tmp_path / "out"
        path.write_bytes(b"before\n")
        transport = DescriptorTransport(None, os.open(path, os.O_WRONLY | os.O_APPEND))
        transport.start(Recorder())
        lines = [b"%d\n" % n + b"x" * 10_000 + b"\n" for n in range(300)]
        for line in lines:
            transport.write(line)
        assert transport.congested
        await transport.drain()
        transport.write(b"last\n")
        await transport.aclose()
        assert path.read_bytes() == b"before\n" + b"".join(lines) + b"last\n"

    run(main())


def test_the_null_device_ends_at_once_and_takes_everything(run: Run) -> None:
    """``/dev/null`` works both ways, and its end is seen (asyncio's ``connect_read_pipe`` never reports it)."""

    async def main() -> None:
        transport = DescriptorTransport(os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_WRONLY))
        told = Recorder()
        transport.start(told)
        await asyncio.wait_for(told.ended.wait(), PATIENCE)
        transport.write(b"x" * 3 * HIGH_WATER + b"\n")
        await asyncio.wait_for(transport.drain(), PATIENCE)
        await transport.aclose()
        assert told.calls == ["ended", "lost"]
        assert told.error is None

    run(main())


@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "non-blocking"])
def test_a_terminal_is_read_and_written(run: Run, terminal: tuple[int, int], blocking: bool) -> None:
    """Stdin and stdout may be a pty, also one that an earlier program left in non-blocking mode."""

    async def main() -> None:
        master, slave = terminal
        os.set_blocking(slave, blocking)
        transport = DescriptorTransport(os.dup(slave), os.dup(slave))
        told = Recorder(lambda line: transport.write(b"<" + line + b">\n"))
        transport.start(told)
        await asyncio.sleep(0.01)  # time in which a reader that takes "nothing yet" for the end would end
        os.write(master, b"first\nsecond ")
        os.write(master, "line é\n".encode())
        assert await told.wait_lines(2) == [b"first", "second line é".encode()]
        answer = "<first>\n<second line é>\n".encode()
        assert await asyncio.to_thread(read_all, master, len(answer)) == answer
        assert told.calls == ["lines"]
        os.close(master)  # the terminal hangs up
        await asyncio.wait_for(told.ended.wait(), PATIENCE)
        await transport.aclose()
        assert told.calls == ["lines", "ended", "lost"]

    run(main())


def test_a_large_reply_reaches_a_terminal_in_non_blocking_mode(run: Run, terminal: tuple[int, int]) -> None:
    """A full terminal in non-blocking mode is waited for, and nothing is lost."""

    async def main() -> None:
        master, slave = terminal
        os.set_blocking(slave, False)
        transport = DescriptorTransport(None, os.dup(slave))
        transport.start(Recorder())
        reply = b"x" * 200_000 + b"\n"
        reading = asyncio.create_task(asyncio.to_thread(read_all, master, len(reply)))
        transport.write(reply)
        await transport.aclose()
        assert await reading == reply

    run(main())


def test_reading_the_dead_side_of_a_terminal_is_the_end(run: Run, terminal: tuple[int, int]) -> None:
    """EIO, which a terminal reports when its other side is gone, is an end like any other."""

    async def main() -> None:
        master, slave = terminal
        transport = DescriptorTransport(os.dup(master), None)
        told = Recorder()
        transport.start(told)
        os.write(slave, b"last words")
        await turns()
        os.close(slave)
        await asyncio.wait_for(told.ended.wait(), PATIENCE)
        assert told.lines == [b"last words"]
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            os.read(master, 1)
        await transport.aclose()
        assert told.calls == ["lines", "ended", "lost"]

    run(main())


def test_a_socket_that_is_reset_has_ended(run: Run) -> None:
    """A socket reports ECONNRESET if its other end closed with unread data; it is an end like any other."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        transport = DescriptorTransport(os.dup(ours.fileno()), ours.detach())
        told = Recorder()
        transport.start(told)
        transport.write(b"unread\n")
        await turns()
        theirs.close()
        await asyncio.wait_for(told.ended.wait(), PATIENCE)
        await transport.aclose()
        assert told.calls == ["ended", "lost"]

    run(main())


def test_a_closed_stdin_is_the_end_of_input(run: Run, pipe: tuple[int, int]) -> None:
    """Stdin may be closed: the end comes after ``start`` has returned, and what is written goes out."""

    async def main() -> None:
        read_fd, write_fd = pipe
        transport = DescriptorTransport(None, write_fd)
        told = Recorder()
        transport.start(told)
        assert told.calls == []
        transport.write(b"hello\n")
        await asyncio.wait_for(told.ended.wait(), PATIENCE)
        await transport.aclose()
        assert told.calls == ["ended", "lost"]
        assert os.read(read_fd, 100) == b"hello\n"

    run(main())


def test_a_closed_stdout_is_lost_at_the_first_write(run: Run, pipe: tuple[int, int]) -> None:
    """Stdout may be closed: the first writer is told that the connection is lost, and nothing else raises."""

    async def main() -> None:
        read_fd, write_fd = pipe
        transport = DescriptorTransport(read_fd, None)
        told = Recorder()
        transport.start(told)
        os.write(write_fd, b"still read\n")
        assert await told.wait_lines(1) == [b"still read"]
        transport.write(b"nobody\n")
        await asyncio.wait_for(told.lost.wait(), PATIENCE)
        assert isinstance(told.error, BrokenPipeError)
        assert told.calls == ["lines", "lost"]
        with pytest.raises(ConnectionClosed):
            await transport.drain()
        await transport.aclose()
        assert told.calls == ["lines", "lost"]

    run(main())


def test_both_closed_is_an_end_too(run: Run) -> None:
    """Stdin and stdout may both be closed."""

    async def main() -> None:
        transport = DescriptorTransport(None, None)
        told = Recorder()
        transport.start(told)
        await asyncio.wait_for(told.ended.wait(), PATIENCE)
        await transport.aclose()
        assert told.calls == ["ended", "lost"]

    run(main())


def test_a_file_is_read_no_faster_than_it_is_taken(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded where a thread reads: a few pieces wait for a busy loop, and no more."""
    path = tmp_path / "in"
    path.write_bytes(b"line\n" * 2_000_000)
    reads: list[int] = []
    seen: list[int] = []
    read, thread = os.read, threading.get_ident()

    def counting(fd: int, size: int) -> bytes:
        if threading.get_ident() != thread:
            reads.append(fd)
        return read(fd, size)

    def look(line: bytes) -> None:
        if not seen:
            time.sleep(0.1)  # a loop that is busy, while a thread that nothing holds back reads all of it
            seen.append(len(reads))

    async def main() -> None:
        monkeypatch.setattr(os, "read", counting)
        transport = DescriptorTransport(os.open(path, os.O_RDONLY), None)
        told = Recorder(look)
        transport.start(told)
        await asyncio.wait_for(told.ended.wait(), PATIENCE)
        await transport.aclose()
        assert len(told.lines) == 2_000_000
        assert seen[0] <= 5
        assert len(reads) > 100

    run(main())


# -- broken in the middle ----------------------------------------------------------------------------------------------


def test_a_reader_that_goes_in_the_middle_of_a_large_write_is_an_orderly_end(run: Run, pipe: tuple[int, int]) -> None:
    """The host closing its read end in the middle of a 1 MiB reply is an orderly end (EPIPE)."""

    async def main() -> None:
        read_fd, write_fd = pipe
        read_ours, write_theirs = os.pipe()
        transport = DescriptorTransport(read_ours, write_fd)
        told = Recorder()
        transport.start(told)
        transport.write(b"x" * 2**20 + b"\n")
        await turns()
        assert len(os.read(read_fd, 10_000)) == 10_000
        waiting = asyncio.create_task(transport.drain())
        await turns()
        transport.write(b"y" * 2**20 + b"\n")
        os.close(read_fd)
        await asyncio.wait_for(told.lost.wait(), PATIENCE)
        assert isinstance(told.error, BrokenPipeError)
        await asyncio.wait([waiting])
        assert told.calls == ["lost"]
        with pytest.raises(BrokenPipeError):  # nobody reads what the host says either
            os.write(write_theirs, b"hello?\n")
        os.close(write_theirs)

    run(main())


def test_input_may_end_while_output_goes_on(run: Run, pipe: tuple[int, int]) -> None:
    """After end-of-file on stdin the replies are still flushed."""

    async def main() -> None:
        read_fd, write_fd = pipe
        read_ours, write_theirs = os.pipe()
        transport = DescriptorTransport(read_ours, write_fd)
        told = Recorder()
        transport.start(told)
        os.write(write_theirs, b"do it")
        os.close(write_theirs)
        await asyncio.wait_for(told.ended.wait(), PATIENCE)
        assert told.lines == [b"do it"]
        reply = b"x" * 2**20 + b"\n"
        transport.write(reply)
        reading = asyncio.create_task(asyncio.to_thread(read_all, read_fd, len(reply)))
        await transport.aclose()
        assert await reading == reply
        assert told.calls == ["lines", "ended", "lost"]

    run(main())


def test_an_input_that_has_ended_is_not_looked_at_again(
    run: Run, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An end that stays readable for ever costs no CPU while the last calls finish."""

    async def main() -> None:
        read_fd, write_fd = pipe
        read, reads = os.read, 0

        def counting(fd: int, size: int) -> bytes:
            nonlocal reads
            reads += 1
            return read(fd, size)

        monkeypatch.setattr(os, "read", counting)
        transport = DescriptorTransport(read_fd, None)
        told = Recorder()
        transport.start(told)
        os.close(write_fd)
        await asyncio.wait_for(told.ended.wait(), PATIENCE)
        before = reads
        await asyncio.sleep(0.02)
        assert reads == before
        await transport.aclose()

    run(main())


def test_output_may_end_while_input_goes_on(run: Run, pipe: tuple[int, int]) -> None:
    """What the other side sends after the end of its input is still received."""

    async def main() -> None:
        read_fd, write_fd = pipe
        read_ours, write_theirs = os.pipe()
        transport = DescriptorTransport(read_ours, write_fd)
        told = Recorder()
        transport.start(told)
        request = b"x" * 2**20 + b"\n"
        transport.write(request)
        ending = asyncio.create_task(transport.end_output())
        assert await asyncio.to_thread(read_all, read_fd, len(request) + 1) == request, "and its end"
        await ending
        transport.write(b"too late\n")
        await asyncio.wait_for(transport.drain(), PATIENCE)
        os.write(write_theirs, b"last words\n")
        assert await told.wait_lines(1) == [b"last words"]
        assert told.calls == ["lines"]
        os.close(write_theirs)
        await asyncio.wait_for(told.ended.wait(), PATIENCE)
        await transport.end_output()
        await transport.aclose()
        await transport.end_output()
        assert told.calls == ["lines", "ended", "lost"]

    run(main())


def test_an_end_of_output_that_is_cancelled_ends_it_at_once(run: Run, pipe: tuple[int, int]) -> None:
    """A child that does not read does not delay its end: output that waits for it is thrown away."""

    async def main() -> None:
        read_fd, write_fd = pipe
        transport = DescriptorTransport(None, write_fd)
        told = Recorder()
        transport.start(told)
        transport.write(b"x" * 4 * HIGH_WATER + b"\n")
        waiting = asyncio.create_task(transport.drain())
        ending = asyncio.create_task(transport.end_output())
        await turns()
        assert not waiting.done()
        ending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ending
        await asyncio.wait_for(waiting, PATIENCE)
        assert len(await asyncio.to_thread(read_all, read_fd, HIGH_WATER)) == PIPE_BYTES, "what the pipe held"
        await asyncio.wait_for(transport.aclose(), PATIENCE)
        assert told.calls == ["ended", "lost"]

    run(main())


def test_senders_go_on_below_the_low_water_mark(run: Run, pipe: tuple[int, int]) -> None:
    """Senders wait until the peer has taken all but ``LOW_WATER`` bytes, not for each single byte."""

    async def main() -> None:
        read_fd, write_fd = pipe
        transport = DescriptorTransport(None, write_fd)
        transport.start(Recorder())
        total = 2 * HIGH_WATER
        transport.write(b"x" * (total - 1) + b"\n")
        waiting = asyncio.create_task(transport.drain())
        await turns()
        taken = 0
        while not waiting.done():
            taken += len(os.read(read_fd, 16_384))
            await turns(4)
        left = total - taken
        assert LOW_WATER - 32_768 <= left <= LOW_WATER + PIPE_BYTES, "between the mark, and the mark and a full pipe"
        assert not transport.congested
        reading = asyncio.create_task(asyncio.to_thread(read_all, read_fd, left))
        await transport.aclose()
        assert len(await reading) == left

    run(main())


def test_who_reads_may_begin_before_much_has_been_written(run: Run, pipe: tuple[int, int]) -> None:
    """A host with many calls in flight and its extension work at the same time; what is little goes together."""
    reading, writing = pipe
    os.set_blocking(reading, False)

    def there() -> bytes:
        try:
            return os.read(reading, 1_000_000)
        except BlockingIOError:
            return b""

    async def main() -> None:
        transport = DescriptorTransport(None, writing)
        transport.start(Recorder())
        await turns()
        sent, got = b"", b""
        sizes = []
        for number in range(200):  # in one turn of the loop
            data = b"%05d" % number * 200
            transport.write(data)
            sent += data
            piece = there()
            sizes.append(len(piece))
            got += piece
        assert {size for size in sizes if size} == {17_000}
        assert len(got) == len(sent) - 13_000
        await turns()
        got += there()
        assert got == sent
        # It goes on so in the next turn; and where nobody reads, nothing is lost, mixed up or tried again and again.
        for number in range(2_000):
            data = b"%05d" % number * 200
            transport.write(data)
            sent += data
        assert transport.congested
        while len(got) < len(sent):
            got += there()
            await asyncio.sleep(0)
        assert got == sent
        await transport.aclose()

    run(main())


@pytest.mark.parametrize("size", [10, 3_000, 20_000, 90_000])
def test_a_finalizer_may_write_in_the_middle_of_a_write(
    run: Run, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """The collector may run one anywhere, and what it logs is sent: a whole line, and no other twice, torn or lost."""
    reading, writing = pipe
    write, logged = os.write, 0

    def writing_more(fd: int, data: bytes) -> int:
        nonlocal logged
        count = write(fd, data)
        if fd == writing and logged < 500:
            logged += 1
            transport.write(b"log-%d " % logged + b"l" * size + b"\n")
        return count

    transport = DescriptorTransport(None, writing)

    async def main() -> None:
        received = bytearray()

        def receive() -> None:
            while data := os.read(reading, 65_536):
                received.extend(data)

        transport.start(Recorder())
        reader = asyncio.create_task(asyncio.to_thread(receive))
        monkeypatch.setattr(os, "write", writing_more)
        for number in range(300):
            transport.write(b"frame-%d " % number + b"f" * size + b"\n")
            if number % 7 == 0:
                await asyncio.sleep(0)
        await transport.end_output()
        monkeypatch.undo()
        await transport.aclose()
        await reader
        lines = bytes(received).splitlines()
        assert {line.split()[1][:1] * size == line.split()[1] for line in lines} == {True}
        names = [line.split()[0].decode() for line in lines]
        assert [x for x in names if x.startswith("frame")] == [f"frame-{number}" for number in range(300)]
        assert [x for x in names if x.startswith("log")] == [f"log-{number + 1}" for number in range(logged)]
        assert logged > 10

    run(main())


def test_a_reader_that_is_gone_is_told_of_in_the_next_turn_of_the_loop(run: Run, pipe: tuple[int, int]) -> None:
    """``write`` itself never calls the receiver: who writes is in the middle of something."""
    reading, writing = pipe

    async def main() -> None:
        transport, recorder = DescriptorTransport(None, writing), Recorder()
        transport.start(recorder)
        await turns()
        os.close(reading)
        for _ in range(10):
            transport.write(b"x" * 10_000)
        assert not recorder.lost.is_set()
        await turns()
        assert recorder.lost.is_set()

    run(main())


def test_the_loop_is_free_while_a_reader_keeps_up_with_a_large_reply(run: Run, pipe: tuple[int, int]) -> None:
    """10 MiB to a fast reader take more than one turn of the loop: other work runs in between."""

    async def main() -> None:
        read_fd, write_fd = pipe
        transport = DescriptorTransport(None, write_fd)
        transport.start(Recorder())
        reply = b"x" * (10 * 2**20) + b"\n"
        reading = asyncio.create_task(asyncio.to_thread(read_all, read_fd, len(reply)))
        transport.write(reply)
        others = 0
        closing = asyncio.create_task(transport.aclose())
        while not closing.done():
            others += 1
            await asyncio.sleep(0)
        assert len(await reading) == len(reply)
        assert others >= 10 * 2**20 // PIPE_BYTES

    run(main())


# -- a peer that asks and never reads ----------------------------------------------------------------------------------


def test_a_peer_that_asks_and_never_reads_is_no_longer_read_from(run: Run, pipe: tuple[int, int]) -> None:
    """Memory stays under the mark though the peer asks on; when it reads, every request is answered."""

    async def main() -> None:
        replies, write_fd = pipe
        read_ours, questions = os.pipe()
        os.set_blocking(questions, False)
        transport = DescriptorTransport(read_ours, write_fd)
        told = Recorder(lambda line: transport.write(line + b" " + b"x" * 1_000 + b"\n"))
        transport.start(told)

        def ask(numbers: Iterator[int]) -> Iterator[int]:
            """Ask until nothing more fits into the pipe."""
            for n in numbers:
                try:
                    os.write(questions, b"%06d\n" % n)
                except BlockingIOError:
                    return
                yield n

        asked, idle = 0, 0
        while idle < 50 and asked < 200_000:
            before = asked
            asked += sum(1 for _ in ask(iter(range(asked, 200_000))))
            idle = 0 if asked > before else idle + 1
            await asyncio.sleep(0)
        assert 20_000 < asked < 50_000, "it asks 20,000 times and more, and is stopped by a full pipe"
        assert len(told.lines) < asked
        assert transport.congested

        # Now it reads, and goes on asking for what it could not ask before.
        def read_replies(count: int) -> list[bytes]:
            with os.fdopen(os.dup(replies), "rb") as file:
                return [file.readline()[:6] for _ in range(count)]

        total = asked + 5_000
        reading = asyncio.create_task(asyncio.to_thread(read_replies, total))
        while asked < total:
            asked += sum(1 for _ in ask(iter(range(asked, total))))
            await asyncio.sleep(0)
        assert await reading == [b"%06d" % n for n in range(total)]
        os.close(questions)
        await asyncio.wait_for(told.ended.wait(), PATIENCE)
        await transport.aclose()

    run(main())


def test_two_large_messages_that_cross_are_no_flood(run: Run) -> None:
    """Both go on reading while each sends many MiB in few frames, however little has been taken."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        ends = [DescriptorTransport(os.dup(s.fileno()), s.detach()) for s in (ours, theirs)]
        told = [Recorder(), Recorder()]
        lines = [b"%d" % n + b"x" * 2**20 + b"\n" for n in range(10)]
        for end, recorder in zip(ends, told, strict=True):
            end.start(recorder)
            for line in lines:
                end.write(line)
        for recorder in told:
            assert [line + b"\n" for line in await recorder.wait_lines(10) if isinstance(line, bytes)] == lines
        await asyncio.gather(*(end.aclose() for end in ends))

    run(main())


# -- what is left behind -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["closed", "closed at once", "broken"])
@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "non-blocking"])
def test_the_pipes_non_blocking_flag_is_put_back(run: Run, pipe: tuple[int, int], blocking: bool, way: str) -> None:
    """The flag belongs to the pipe, which others share (a shell, a sibling): at the end it is as it was."""

    async def main() -> None:
        read_fd, write_fd = pipe
        shared = os.dup(write_fd)
        os.set_blocking(shared, blocking)
        transport = DescriptorTransport(None, write_fd)
        told = Recorder()
        transport.start(told)
        transport.write(b"x" * PIPE_BYTES * 3 + b"\n")
        await turns()
        assert not os.get_blocking(shared)
        closing = asyncio.create_task(transport.aclose())
        await turns()
        if way == "closed":
            assert len(await asyncio.to_thread(read_all, read_fd, PIPE_BYTES * 3)) == PIPE_BYTES * 3
        elif way == "broken":
            os.close(read_fd)
        else:
            closing.cancel()
        await asyncio.wait([closing])
        await told.lost.wait()
        assert os.get_blocking(shared) is blocking
        os.close(shared)

    run(main())


def test_what_is_long_goes_out_by_itself_uncopied_and_in_its_place(
    run: Run, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line in parts is whole on the other side, whatever is written before, after, and by a finalizer meanwhile."""
    reading, writing = pipe
    pushed: list[bytes] = []
    push = DescriptorTransport._push

    def noting(transport: DescriptorTransport, data: bytes) -> None:
        pushed.append(data)
        transport.write(b"logged\n")
        push(transport, data)

    monkeypatch.setattr(DescriptorTransport, "_push", noting)
    bodies = [bytes([65 + number]) * (2 * HIGH_WATER) for number in range(2)]

    async def main() -> None:
        transport = DescriptorTransport(None, writing)
        transport.start(Recorder())
        received = bytearray()

        def receive() -> None:
            while data := os.read(reading, 1_000_000):
                received.extend(data)

        reader = asyncio.create_task(asyncio.to_thread(receive))
        transport.write(b"before\n")
        for body in bodies:
            transport.write_long((b"<", body, b">\n"))
        transport.write(b"after\n")
        while len(pushed) < 6:
            await asyncio.sleep(0)
        monkeypatch.undo()
        await transport.end_output()
        await transport.aclose()
        await reader
        lines = [line for line in bytes(received).splitlines() if line != b"logged"]
        assert lines == [b"before", *(b"<" + body + b">" for body in bodies), b"after"]
        assert all(any(data is body for data in pushed) for body in bodies)
        transport.write_long((b"too", b"late"))  # and nothing is kept of it
        assert not transport._queue

    run(main())
