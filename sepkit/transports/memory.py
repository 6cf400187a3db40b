"""Two linked transports within one loop, for tests and embedding programs. Real bytes go between them."""

from __future__ import annotations

from sepkit.transports.base import BufferedTransport
from sepkit.wire.frames import MAX_FRAME_BYTES, LineSplitter


class MemoryTransport(BufferedTransport):
    """One end of a pair; make both with :func:`memory_pair`.

    ``pause_reading`` stands for a peer that does not read: what the other end writes waits there, and congests it.
    """

    def __init__(self, *, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        super().__init__()
        self._splitter = LineSplitter(max_frame_bytes)
        self._other: MemoryTransport | None = None
        self._held: list[bytes] = []  # written by this end, not yet taken by the other
        self._paused = False
        self._input_over = False

    def pause_reading(self) -> None:
        """Take nothing more from the other end."""
        self._paused = True

    def resume_reading(self) -> None:
        """Take what waits, and go on."""
        self._paused = False
        if self._other is not None:
            self._other._hand_over()

    def feed(self, data: bytes) -> None:
        """Receive ``data`` as if the other end had sent it, in this very piece."""
        lines = [] if self._input_over else self._splitter.feed(data)
        if lines and self._receiver is not None and not self._lost:
            self._receiver.frames_received(lines)
            self._flush()

    def end_input(self) -> None:
        """Receive the end of the other end's bytes."""
        if self._receiver is None or self._lost or self._input_over:
            return
        self._input_over = True
        if lines := self._splitter.end():
            self._receiver.frames_received(lines)
        self._receiver.input_ended()

    def _start_reading(self) -> None:
        if self._other is not None:
            self._other._hand_over()

    def _push(self, data: bytes) -> None:
        self._held.append(data)
        assert self._loop is not None
        # In a turn of its own: two ends that answer each other at once would nest without an end.
        self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        other = self._other
        if other is None or ((other._paused or other._receiver is None) and not other._lost):
            return
        held, self._held = self._held, []
        if other._lost and held:
            self._lose(BrokenPipeError("the other end is closed"))
            return
        for data in held:
            self._taken(len(data))
            if not other._lost:
                other.feed(data)
        if self._lost:
            other.end_input()

    def _stop(self) -> None:
        # In a turn of its own, both ends look at what has become of the other. One of them may not have begun.
        ends = [self] if self._other is None else [self, self._other]
        loop = next((end._loop for end in ends if end._loop is not None), None)
        if loop is not None:
            for end in ends:
                loop.call_soon(end._hand_over)


def memory_pair(*, max_frame_bytes: int = MAX_FRAME_BYTES) -> tuple[MemoryTransport, MemoryTransport]:
    """Two transports, each of which receives what the other one writes."""
    one = MemoryTransport(max_frame_bytes=max_frame_bytes)
    two = MemoryTransport(max_frame_bytes=max_frame_bytes)
    one._other, two._other = two, one
    return one, two
