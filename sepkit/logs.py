"""``logging`` reaches the host as ``log`` notifications, and stderr; neither may ever hold up the loop.

Only ``sepkit run`` installs these handlers. Importing sepkit, or making an App, touches no logger.

Source: protocol section 4, ``log``.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
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
    they are about what the host itself has sent (trap 11).
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
    """

    def __init__(self, fd: int = 2, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self._fd = fd
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._ready = threading.Condition(threading.Lock())
        self._idle = threading.Event()
        self._idle.set()
        self._dead = False
        self._thread: threading.Thread | None = None
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))

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
        with self._ready:
            if self._size + len(line) > _MAX_WAITING_BYTES:
                self._dropped += 1
                return
            self._lines.append(line)
            self._size += len(line)
            self._idle.clear()
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="sepkit-stderr", daemon=True)
                self._thread.start()
            self._ready.notify()

    def _write(self) -> None:
        while True:
            with self._ready:
                while not self._lines:
                    self._idle.set()
                    self._ready.wait()
                data = b"".join(self._lines)
                self._lines.clear()
                self._size = 0
                dropped, self._dropped = self._dropped, 0
            if dropped:
                data += b"(%d log records were dropped here: nobody read stderr)\n" % dropped
            try:
                while data:
                    data = data[os.write(self._fd, data[:65_536]) :]
            except OSError:
                self._dead = True
                self._idle.set()
                return

    def flush_within(self, seconds: float) -> None:
        """Give what waits some time to be written."""
        self._idle.wait(seconds)
