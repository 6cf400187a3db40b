"""An extension's lines are taken in as far as its budget goes: a slice in a turn of the loop, and then its pipe waits.

Answers to what the host has asked are free, unless they are long: the host asks as it can take them.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Final

from sepkit.errors import FrameError
from sepkit.host.budget import LONG, Budget
from sepkit.peer import Peer
from sepkit.transports.base import Receiver
from sepkit.transports.descriptors import DescriptorTransport
from sepkit.wire.frames import refused_line

MOST_BRACKETS: Final = 500_000
"""Brackets in a line; one with more is refused. Each is an object: 33 MiB of empty lists are 12 s and gigabytes."""

_SLICE: Final = 0.003  # seconds of a turn of the loop
_TOGETHER: Final = 64  # lines between two looks at the clock
_BYTES_TOGETHER: Final = 6144  # bytes of them
_MOST_UNREAD: Final = 8 * 1024 * 1024  # bytes of answers that it has not read, above which it is not read
_POLL: Final = 0.01


class MeteredTransport(DescriptorTransport):
    """The transport of an extension with a budget.

    Args:
        read_fd: As of any transport; like ``write_fd`` and ``max_frame_bytes``.
        budget: The extension's.
    """

    def __init__(self, read_fd: int | None, write_fd: int | None, *, max_frame_bytes: int, budget: Budget) -> None:
        super().__init__(read_fd, write_fd, max_frame_bytes=max_frame_bytes)
        self._budget = budget
        self._untaken: list[bytes | FrameError] = []
        self._again: asyncio.Handle | None = None  # set exactly while the pipe is not read because of the budget
        self._since = 0.0  # when it was last looked at whether the pipe may be read
        self._lines = 0  # in the piece that is being taken in
        self._unasked = 0  # of them
        self._owed = 0  # bytes of answers that it has not read; at most as many as wait for it

    def start(self, receiver: Receiver) -> None:
        """Begin to deliver to a peer."""
        assert isinstance(receiver, Peer)
        self._peer = receiver
        super().start(receiver)

    @property
    def behind(self) -> bool:
        """Whether something that it has sent is still to be taken in."""
        return self._again is not None

    def _feed(self, data: bytes) -> None:
        self._budget.heard_at = began = perf_counter()
        if not data or self._lost or self._input_over:
            super()._feed(data)
            return
        lines, size = self._splitter.feed(data), self._size
        self._lines = len(lines)
        if lines:
            self._untaken = lines
            self._take_slice()
        if self._queue:
            self._owe(self._size - size)
        if self._unasked or self._untaken or not lines:
            self._account(began)

    def _take_long(self, line: bytes | FrameError) -> None:
        """Take a long line by itself. It is charged, also where the host has asked for it."""
        # Counting takes 0.7 ms a MiB. A shorter line cannot have as many.
        if type(line) is bytes and len(line) > MOST_BRACKETS and line.count(b"[") + line.count(b"{") > MOST_BRACKETS:
            line = refused_line(line, f"the line has more than {MOST_BRACKETS:,} brackets")
        self._budget.lines = [line]
        self._peer.frames_received([line])
        self._unasked += 1

    def _take_slice(self) -> None:
        """Take lines for as long as a slice lasts: a few short ones between two looks at the clock, or one long one."""
        peer, untaken = self._peer, self._untaken
        at, end = 0, 0.0
        while True:
            lines = untaken[at : at + _TOGETHER] if at or len(untaken) > _TOGETHER else untaken
            try:
                are_short = sum(map(len, lines)) <= _BYTES_TOGETHER  # type: ignore[arg-type]  # an error has no length
            except TypeError:
                are_short = False
            if not are_short:
                lines = lines[:1]
            at += len(lines)
            if type(first := lines[0]) is not bytes or len(first) > LONG:
                self._take_long(first)
            else:
                answered = peer.answered
                self._budget.lines = lines
                peer.frames_received(lines)
                self._unasked += len(lines) - peer.answered + answered
            if at >= len(untaken):
                break
            now = perf_counter()
            end = end or now + _SLICE
            if now >= end or peer.behind:
                break
        self._lines = at
        self._untaken = untaken[at:]

    def _owe(self, answers: int) -> None:
        """So many bytes were answered at once, and leave at once."""
        self._owed = max(0, min(self._owed, self._size) + answers)
        self._flush()

    def _account(self, began: float) -> None:
        now = perf_counter()
        part = self._unasked / self._lines if self._lines else 1.0
        # What the peer has put off to its next turns is paid now.
        self._budget.charge((now - began) * part + self._peer.behind * 50e-6)
        self._unasked = 0
        self._budget.lines = ()
        self._wait()

    def _wait(self) -> None:
        """Do not read its pipe for now, if there is a reason."""
        if self._lost or self._input_over:
            return
        assert self._loop is not None
        delay = self._budget.delay() or self._unread_delay()
        if delay:
            again: asyncio.Handle = self._loop.call_later(delay, self._go_on)
        elif self._untaken or self._peer.behind:
            again = self._loop.call_soon(self._go_on)
        else:
            return
        self._again = again
        self._since = perf_counter()
        self._pause()

    def _unread_delay(self) -> float:
        """It asks and asks, and does not read the answers."""
        # What waits for it because the host asks does not count: two that send each other much must both go on reading.
        self._owed = min(self._owed, self._size)
        return _POLL if self._owed > _MOST_UNREAD else 0.0

    def _go_on(self) -> None:
        self._again = None
        began = perf_counter()
        self._budget.waited += began - self._since
        delay = self._budget.delay() or self._unread_delay()
        if not delay and self._untaken and not self._peer.behind:
            size = self._size
            self._take_slice()
            self._owe(self._size - size)
            self._account(began)
        else:
            self._wait()
        self._resume()

    def _resume(self) -> None:
        if self._again is None:
            super()._resume()

    def _stop(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        super()._stop()
