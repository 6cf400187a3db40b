"""What every transport promises, and the one way in which all of them hold back what the peer does not read yet."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, Protocol

from sepkit.errors import ConnectionClosed, FrameError
from sepkit.forks import end_child, let_go_in_children

HIGH_WATER: Final = 1024 * 1024
"""Bytes waiting for the peer above which a sender waits in ``drain`` and lossy frames are dropped."""
LOW_WATER: Final = 256 * 1024
"""Bytes waiting below which senders go on."""
_LONG: Final = 512 * 1024  # bytes whose copy costs more than a write of their own


class Receiver(Protocol):
    """Who is told what comes in. All calls come from the loop, in order, and none may raise."""

    def frames_received(self, lines: list[bytes | FrameError]) -> None:
        """Lines without their ends, as they came together; an over-long line stands there as its error."""

    def input_ended(self) -> None:
        """The peer sends no more (end-of-file). What is written may still reach it."""

    def connection_lost(self, error: Exception | None) -> None:
        """Nothing comes in or goes out any more. The last call there is; ``error`` is None after ``aclose``."""


class Transport(Protocol):
    """Lines of bytes in, bytes out, close."""

    def start(self, receiver: Receiver) -> None:
        """Begin to deliver to ``receiver``. Call it once, in the running loop."""

    def write(self, data: bytes) -> None:
        """Send whole lines, line ends included. Never waits, never raises; what is written together goes together."""

    def write_long(self, parts: Sequence[bytes]) -> None:
        """Send one line that comes in parts, as ``write`` would, without a copy of what is long."""

    congested: bool
    """Whether more than ``HIGH_WATER`` bytes wait for the peer."""

    async def drain(self) -> None:
        """Wait while congested.

        Raises:
            ConnectionClosed: The connection ended first.
        """

    async def aclose(self) -> None:
        """Send what waits, then close. Cancel it to close at once."""


class BufferedTransport(ABC):
    """The sending half: frames gather until the loop's next turn, and leave in few writes.

    States: *open* until ``_lose``; while open, ``_size`` is the number of bytes that the peer has not taken.
    """

    def __init__(self) -> None:
        self._queue: list[bytes] = []
        self._size = 0
        self._mark = HIGH_WATER  # the size above which `_above_mark` is asked: one comparison a write, whatever it does
        self.congested = False  # _size > HIGH_WATER; kept as a fact, since each call asks for it
        self._flush_due = False
        self._lost = False
        self._is_inherited = False  # whether this process is a fork of the one that it belongs to
        self._receiver: Receiver | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, receiver: Receiver) -> None:
        """Begin to deliver to ``receiver``."""
        self._loop = asyncio.get_running_loop()
        self._receiver = receiver
        let_go_in_children(self)
        self._start_reading()

    def write(self, data: bytes) -> None:
        """Send whole lines, at the end of this turn of the loop."""
        if self._lost:
            if self._is_inherited:  # a handler has forked, and its child has returned
                end_child()
            return
        self._queue.append(data)
        self._size += len(data)
        if not self._flush_due:
            self._flush_due = True
            assert self._loop is not None, "write() before start()"
            self._loop.call_soon(self._flush)
        if self._size > self._mark:
            self._above_mark()

    def write_long(self, parts: Sequence[bytes]) -> None:
        """Send one line that comes in parts, at the end of this turn of the loop."""
        if not self._lost:
            self._size += sum(map(len, parts))
            self._queue += parts  # all at once: what a finalizer writes must not get in between
        self.write(b"")

    def _above_mark(self) -> None:
        self.congested = self._size > HIGH_WATER

    async def drain(self) -> None:
        """Wait while congested."""
        await self._wait_below(HIGH_WATER)

    async def aclose(self) -> None:
        """Send what waits, then close."""
        try:
            await self._wait_below(0)
        except ConnectionClosed:
            pass
        finally:
            self._lose(None)

    async def _wait_below(self, mark: int) -> None:
        while self._size > mark:
            if self._lost:
                break
            assert self._loop is not None
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
        if self._lost:
            raise ConnectionClosed("the connection is closed")

    def _taken(self, count: int) -> None:
        """The peer has taken ``count`` more bytes."""
        self._size -= count
        self.congested = self._size > HIGH_WATER
        if self._waiting and (self._size <= LOW_WATER):
            self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def _flush(self) -> None:
        self._flush_due = False
        if self._queue and not self._lost:
            if self.congested and len(self._queue) > 1:
                queue = self._cut_off()
            else:
                queue, self._queue = self._queue, []
            # One write for all: a call with 256 in flight costs a syscall for each 256 replies.
            self._push(queue[0] if len(queue) == 1 else b"".join(queue))

    def _cut_off(self) -> list[bytes]:
        """What goes out next of much that waits: what is long goes by itself, since to join it is to copy it."""
        count = next((n for n, data in enumerate(self._queue) if len(data) > _LONG), len(self._queue)) or 1
        queue = self._queue[:count]
        del self._queue[:count]
        if self._queue and not self._flush_due:
            self._flush_due = True
            assert self._loop is not None
            self._loop.call_soon(self._flush)
        return queue

    def _lose(self, error: Exception | None) -> None:
        """End the connection, once."""
        if self._lost:
            return
        self._lost = True
        self._queue.clear()
        self._stop()
        self._wake()
        if self._receiver is not None:
            self._receiver.connection_lost(error)

    def let_go(self) -> None:
        """In a forked child: be lost, without a word to the loop or the receiver, which are the parent's."""
        self._lost = self._is_inherited = True
        self._queue.clear()
        self._size = 0
        self.congested = False

    @abstractmethod
    def _start_reading(self) -> None:
        """Begin to call the receiver."""

    @abstractmethod
    def _push(self, data: bytes) -> None:
        """Hand ``data`` on; report each part that the peer took with ``_taken``."""

    @abstractmethod
    def _stop(self) -> None:
        """Stop reading and writing, and release what is held."""
