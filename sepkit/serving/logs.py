"""``logging`` reaches the host as ``log`` notifications, and stderr; neither may ever hold up the loop.

Only ``sepkit run`` installs these handlers. Importing sepkit, or making an App, touches no logger.

Source: docs/protocol.md, section 4, ``log``.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from typing import Any, Final

from sepkit.errors import EncodeError, sayable
from sepkit.peer import Peer
from sepkit.wire import methods
from sepkit.wire.converter import to_json

_MAX_WAITING_BYTES: Final = 1024 * 1024
_PLAIN: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

TRACE: Final = 5
"""What the wire calls ``trace`` is below ``logging.DEBUG``; ``logging`` has no name for it."""


def level_name(level: int) -> methods.LogLevel:
    """The wire's word for a level of ``logging``."""
    if level >= logging.ERROR:
        return "error"
    if level >= logging.WARNING:
        return "warn"
    if level >= logging.INFO:
        return "info"
    return "debug" if level >= logging.DEBUG else "trace"


class WireHandler(logging.Handler):
    """Sends records to the host. Lossy: while the host does not keep up they are dropped and counted.

    A record's traceback stays here: what an exception says may be a secret. So do sepkit's own lines below ``INFO``:
    they are about what the host itself has sent.
    """

    def __init__(self, peer: Peer, level: int = logging.INFO) -> None:
        super().__init__(level)
        self._peer = peer

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record; never raises."""
        if record.levelno < logging.INFO and record.name.partition(".")[0] == "sepkit":
            return
        try:
            fields: dict[str, Any] = {"logger": record.name}
            for name, value in record.__dict__.items():
                if name not in _PLAIN:
                    try:
                        fields[name] = to_json(value)
                    except EncodeError:
                        fields[name] = repr(value)
            message = record.getMessage()
            if record.name == "asyncio" and record.exc_info:
                # "Task exception was never retrieved", followed by the repr of the exception.
                message = message.partition("\n")[0]
            params = {"level": level_name(record.levelno), "message": sayable(message), "fields": fields}
            self._peer.notify(methods.LOG, params, lossy=True)
        except Exception:
            return


class StderrHandler(logging.Handler):
    """Writes records to stderr from a thread of its own, since a host may never read it.

    Up to 1 MiB waits; what does not fit is dropped, counted, and said once there is room. A dead stderr is silence.

    Nothing here takes a lock but the queue's own: a record may come out of a finalizer that the garbage collector runs
    in the middle of :meth:`emit`, or in the writing thread, and would wait for a lock that its own thread holds.
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
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
        # Not at the first record: `logging` holds the handler's lock then, which the thread may need to get going.
        threading.Thread(target=self._write, name="sepkit-stderr", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record; never waits and never raises."""
        if self._dead:
            return
        try:
            line = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
        except Exception as error:
            line = f"a log record could not be formatted: {error} ({record.msg!r})\n".encode(
                "utf-8", "backslashreplace"
            )
        if self._put - self._taken + len(line) > _MAX_WAITING_BYTES:
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
            try:
                while data and not self._dead:
                    data = data[os.write(self._fd, data[:65_536]) :]
            except OSError:
                self._dead = True
            for piece in pieces:
                if isinstance(piece, threading.Event):
                    piece.set()

    def flush_within(self, seconds: float) -> None:
        """Give what waits some time to be written."""
        written = threading.Event()
        self._waiting.put(written)
        written.wait(seconds)
