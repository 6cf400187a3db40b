"""``logging`` reaches stderr without ever holding up the loop. How it reaches a host is the face's.

Only a runner installs this handler: importing sepkit, or making an App, touches no logger.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import threading
from typing import Any, Final

from sepkit.forks import let_go_in_children
from sepkit.ownlog import is_on_its_way, sure_handlers
from sepkit.tracebacks import formatted

_MAX_WAITING_BYTES: Final = 1024 * 1024

TRACE: Final = 5
"""What the wire calls ``trace`` is below ``logging.DEBUG``; ``logging`` has no name for it."""


class _Formatter(logging.Formatter):
    """Cuts the texts of exceptions that are too long."""

    def formatException(self, ei: Any) -> str:  # noqa: N802  (the name in `logging`)
        """The traceback."""
        return super().formatException(ei) if ei[1] is None else formatted(ei[1], ei[2])


class StderrHandler(logging.Handler):
    """Writes records to stderr from a thread of its own, since a host may never read it.

    Up to 1 MiB waits; what does not fit is dropped, counted, and said once there is room. A dead stderr is silence.

    Nothing here takes a lock but the queue's own: a record may come out of a finalizer that the garbage collector runs
    in the middle of :meth:`emit`, or in the writing thread, and would wait for a lock that its own thread holds.

    A forked child has no such thread, and ends without waiting for one: there each record is written at once.
    """

    def __init__(self, fd: int = 2, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self._fd = fd
        self._waiting: queue.SimpleQueue[bytes | threading.Event] = queue.SimpleQueue()
        # What is counted up in one thread only, and read in the other, needs no lock.
        self._put = 0  # bytes, by `emit`
        self._taken = 0  # bytes, by the thread
        self._dropped = 0  # records, by `emit`
        self._dead = False
        self._at_once = False
        let_go_in_children(self)
        self.setFormatter(_Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
        # Not at the first record: `logging` holds the handler's lock then, which the thread may need to get going.
        threading.Thread(target=self._write, name="sepkit-stderr", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record; never waits and never raises."""
        if self._dead or is_on_its_way(record, self):
            return
        try:
            line = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
        except Exception as error:
            line = f"a log record could not be formatted: {error} ({record.msg!r})\n".encode(
                "utf-8", "backslashreplace"
            )
        if self._at_once:
            self._write_out(line)
            return
        waiting = self._put - self._taken
        if waiting and waiting + len(line) > _MAX_WAITING_BYTES:  # a long record alone is kept whole
            self._dropped += 1
            return
        self._put += len(line)
        self._waiting.put(line)

    def _write(self) -> None:
        told = 0
        while True:
            pieces = [self._waiting.get()]
            while not self._waiting.empty():
                pieces.append(self._waiting.get())
            lines = [piece for piece in pieces if isinstance(piece, bytes)]
            data = b"".join(lines)
            self._taken += len(data)
            if dropped := self._dropped - told:
                data += b"(%d log records were dropped here: nobody read stderr)\n" % dropped
                told += dropped
            self._write_out(data)
            for piece in pieces:
                if isinstance(piece, threading.Event):
                    piece.set()

    def _write_out(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left and not self._dead:
                try:
                    left = left[os.write(self._fd, left[:65_536]) :]
                except BlockingIOError:  # the host has made the pipe non-blocking, which its other end shares
                    select.select([], [self._fd], [])
        except OSError:
            self._dead = True

    def let_go(self) -> None:
        """In a forked child: what waits is written by the parent's thread, what comes by the one that logs it."""
        self._at_once = True

    def flush_within(self, seconds: float) -> None:
        """Give what waits some time to be written."""
        if self._at_once:
            return
        written = threading.Event()
        self._waiting.put(written)
        written.wait(seconds)


def attach(handler: logging.Handler) -> None:
    """Have ``handler`` get what is logged, and sepkit's own errors even where ``logging`` does not pass them on."""
    logging.getLogger().addHandler(handler)
    sure_handlers.append(handler)


def detach(handler: logging.Handler) -> None:
    """Have ``handler`` get nothing more."""
    logging.getLogger().removeHandler(handler)
    if handler in sure_handlers:
        sure_handlers.remove(handler)
