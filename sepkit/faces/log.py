"""``logging`` reaches the host as ``log`` notifications, or as what a face makes of them, and never holds up the loop.

Only a runner, or a test host, installs this handler: importing sepkit, or making an App, touches no logger.

Source: docs/protocol.md, section 4, ``log``.
"""

from __future__ import annotations

import logging
from typing import Any, Final, Protocol

from sepkit import files
from sepkit.app import SERVING
from sepkit.contexts.link import CURRENT_LINK, Link
from sepkit.errors import EncodeError, sayable
from sepkit.ownlog import is_on_its_way
from sepkit.serving.served import Served
from sepkit.wire import methods
from sepkit.wire.writing import to_json

_PLAIN: Final = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime", "taskName"}


def level_name(level: int) -> methods.LogLevel:
    """The wire's word for a level of ``logging``."""
    if level >= logging.ERROR:
        return "error"
    if level >= logging.WARNING:
        return "warn"
    if level >= logging.INFO:
        return "info"
    return "debug" if level >= logging.DEBUG else "trace"


def _is_own(name: str) -> bool:
    """Whether a logger is sepkit's, and not that of a module which sepkit has given a name."""
    return name.partition(".")[0] == "sepkit" and not name.startswith(files.PREFIX)


class LogLink(Link, Protocol):
    """A connection that is told of log records."""

    @property
    def served(self) -> Served:
        """What the connection is to."""

    def owns(self, link: Link) -> bool:
        """Whether what runs for ``link`` runs for this connection."""


class WireHandler(logging.Handler):
    """Sends records to the host. Lossy: while the host does not keep up they are dropped and counted.

    What a handler of another connection logs is not sent here; what belongs to no connection (a task, the lifespan, a
    thread of the author's) goes to all of them.

    A record's traceback stays here: what an exception says may be a secret. So do sepkit's own lines below ``INFO``:
    they are about what the host itself has sent.
    """

    def __init__(self, link: LogLink, level: int = logging.INFO) -> None:
        super().__init__(level)
        self._link = link

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record; never raises."""
        if is_on_its_way(record, self):
            return
        if record.levelno < logging.INFO and _is_own(record.name):
            return
        current = CURRENT_LINK.get()
        if current is not None and current is not self._link and not self._link.owns(current):
            return
        if SERVING.get() not in (None, self._link.served):
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
            self._link.tell(methods.LOG, params)
        except Exception:
            return
