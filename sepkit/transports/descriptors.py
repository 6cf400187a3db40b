"""Lines over a pair of file descriptors, whatever they are: pipe, socket, file, device, terminal, or closed.

Not asyncio's pipe transports: those refuse a regular file, and never tell that ``/dev/null`` has ended. What can be
polled is polled; for the rest a thread reads (a daemon in ``os.read``, which does not hold up the interpreter's end).
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import sys
import threading
from typing import Final

from sepkit.errors import ConnectionClosed, FrameError
from sepkit.transports.base import HIGH_WATER, LOW_WATER, BufferedTransport
from sepkit.wire.frames import MAX_FRAME_BYTES, LineSplitter

# A pipe holds 64 KiB on Linux, and a larger buffer is not filled by it.
_CHUNK: Final = 65_536
# A peer that asks and asks, and reads no answer, is no longer read from. Counted in frames, not only in bytes: two
# peers that each send something huge must both go on reading.
_FLOOD_FRAMES: Final = 10_000
_FLOOD_BYTES: Final = 8 * 1024 * 1024
_EARLY: Final = 16_384  # bytes that wait for the end of the turn; more of them go at once
_NOTHING: Final = memoryview(b"")


def _can_poll(fd: int) -> bool:
    if sys.platform == "win32":
        return False
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _wait_for(fd: int, event: int) -> None:
    """Wait for a terminal that an earlier program has left in non-blocking mode, as one in blocking mode would."""
    poll = select.poll()
    poll.register(fd, event)
    poll.poll()


class DescriptorTransport(BufferedTransport):
    """A transport over two descriptors that it owns, and closes at its end. None stands for a closed one."""

    def __init__(self, read_fd: int | None, write_fd: int | None, *, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        super().__init__()
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._splitter = LineSplitter(max_frame_bytes)
        self._polls_reading = read_fd is not None and _can_poll(read_fd)
        self._polls_writing = write_fd is not None and _can_poll(write_fd)
        self._reading = False
        self._input_over = False
        self._rest: memoryview | None = None  # set exactly while the loop watches the writing end
        self._was_blocking = True
        self._mark = _EARLY
        self._output_over = False

    @property
    def behind(self) -> bool:
        """Whether lines have been read that are still to be delivered."""
        return False

    def _start_reading(self) -> None:
        assert self._loop is not None
        if self._polls_writing:
            assert self._write_fd is not None
            # The flag belongs to the open pipe, not to our descriptor: whoever shares it shall find it as it was.
            self._was_blocking = os.get_blocking(self._write_fd)
            os.set_blocking(self._write_fd, False)
        if self._read_fd is None:
            self._loop.call_soon(self._end_input)
        elif self._polls_reading:
            self._resume()
        else:
            self._read_in_thread(self._read_fd)

    # -- in ------------------------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        if self._polls_reading and not (self._reading or self._input_over or self._lost):
            assert self._loop is not None
            assert self._read_fd is not None
            self._reading = True
            self._loop.add_reader(self._read_fd, self._on_readable)

    def _pause(self) -> None:
        if self._reading:
            assert self._loop is not None
            assert self._read_fd is not None
            self._reading = False
            self._loop.remove_reader(self._read_fd)

    def _on_readable(self) -> None:
        assert self._read_fd is not None
        try:
            data = os.read(self._read_fd, _CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # a terminal whose other side is gone says EIO, a reset socket ECONNRESET: all are an end
            data = b""
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        if self._lost or self._input_over:
            return
        if not data:
            self._end_input()
            return
        lines = self._splitter.feed(data)
        if lines:
            # What is answered at once leaves at once, without waiting for the loop's next turn. No flush is due then.
            self._flush_due = True
            try:
                self._deliver(lines)
            finally:
                self._flush()

    def _deliver(self, lines: list[bytes | FrameError]) -> None:
        assert self._receiver is not None
        self._receiver.frames_received(lines)

    def _end_input(self) -> None:
        if self._lost or self._input_over:
            return
        self._pause()
        self._input_over = True
        if lines := self._splitter.end():
            self._deliver(lines)
        assert self._receiver is not None
        self._receiver.input_ended()

    def _read_in_thread(self, fd: int) -> None:
        loop = self._loop
        assert loop is not None
        room = threading.Semaphore(4)  # pieces read and not yet taken

        def take(data: bytes) -> None:
            self._feed(data)
            room.release()

        def read() -> None:
            data = b"-"
            while data and not self._lost:
                room.acquire()
                try:
                    data = os.read(fd, _CHUNK)
                except BlockingIOError:
                    room.release()
                    _wait_for(fd, select.POLLIN)
                    continue
                except OSError:
                    data = b""
                try:
                    loop.call_soon_threadsafe(take, data)
                except RuntimeError:  # the loop has been closed
                    break
            os.close(fd)

        threading.Thread(target=read, name="sepkit-stdin", daemon=True).start()

    # -- out -----------------------------------------------------------------------------------------------------------

    async def end_output(self) -> None:
        """Send what waits, then let the peer's input end; what it still says is received. Cancel it to end at once."""
        with contextlib.suppress(ConnectionClosed):
            try:
                await self._wait_below(0)
            finally:
                if not self._lost:
                    self._output_over = True
                    self._queue.clear()
                    self._close_output()
                    self._taken(self._size)

    def _above_mark(self) -> None:
        # Who reads may begin while this turn of the loop still makes more: with 256 calls in flight a host makes 30 %
        # more of them a second. Whatever stands against it, the flush that is due finds out.
        if self._size <= HIGH_WATER and self._rest is None and self._polls_writing and self._write_fd is not None:
            self._mark = HIGH_WATER  # a finalizer may write from here on: behind this, and not by this way
            queue, self._queue = self._queue, []
            data = b"".join(queue)
            try:
                count = os.write(self._write_fd, data)
            except OSError:
                count = 0
            if count < len(data):
                self._queue.insert(0, data[count:])
            self._taken(count)
        self._mark = _EARLY if self._size <= _EARLY else HIGH_WATER  # no more of it in this turn
        super()._above_mark()

    def _flush(self) -> None:
        if self._rest is None:
            self._mark = HIGH_WATER  # as above
            super()._flush()
            self._mark = _EARLY
        else:
            self._flush_due = False  # what is queued goes out behind the rest
            if len(self._queue) > _FLOOD_FRAMES and self._size > _FLOOD_BYTES:
                self._pause()

    def _push(self, data: bytes) -> None:
        self._write(memoryview(data))

    def _on_writable(self) -> None:
        assert self._rest is not None
        self._write(self._rest)
        if not self._rest and not self._lost:
            self._flush()
        if self._size <= LOW_WATER:
            self._resume()

    def _write(self, view: memoryview) -> None:
        if self._write_fd is None:
            if self._output_over:
                self._taken(len(view))
            else:
                self._lose(BrokenPipeError("the writing end is closed"))
            return
        while view:
            try:
                count = os.write(self._write_fd, view)
            except InterruptedError:
                continue
            except BlockingIOError:
                count = 0
                if not self._polls_writing:
                    _wait_for(self._write_fd, select.POLLOUT)
            except OSError as error:
                self._lose(error)
                return
            view = view[count:]
            self._taken(count)
            # One piece a turn: a reader that keeps up would otherwise hold the loop for as long as a large reply lasts.
            if self._polls_writing:
                break
        if view or self._rest is not None:
            self._watch(view)

    def _watch(self, rest: memoryview) -> None:
        """Have the loop say when ``rest`` can go on; nothing is watched for when it is empty."""
        assert self._loop is not None
        assert self._write_fd is not None
        if rest and self._rest is None:
            self._loop.add_writer(self._write_fd, self._on_writable)
        elif not rest and self._rest is not None:
            self._loop.remove_writer(self._write_fd)
        self._rest = rest or None

    def _close_output(self) -> None:
        if self._write_fd is not None:
            if self._loop is not None:
                self._watch(_NOTHING)
            if self._polls_writing and self._was_blocking:
                with contextlib.suppress(OSError):
                    os.set_blocking(self._write_fd, True)
            os.close(self._write_fd)
            self._write_fd = None

    def let_go(self) -> None:
        """In a forked child: close its copies of the descriptors, whose numbers become free there."""
        super().let_go()
        for fd in (self._read_fd, self._write_fd):
            if fd is not None:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._read_fd = self._write_fd = None

    def _stop(self) -> None:
        self._pause()
        self._close_output()
        if self._read_fd is not None:
            # A thread that may be in os.read of it closes it itself: the number would be free for another file.
            if self._polls_reading:
                os.close(self._read_fd)
            self._read_fd = None
