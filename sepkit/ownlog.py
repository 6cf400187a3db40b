"""sepkit's own log. What it says of a failure reaches stderr and the host, whatever becomes of ``logging``.

An author's ``dictConfig`` disables every logger that it does not name, ``basicConfig(force=True)`` removes every
handler, and a handler of theirs may raise. But an answer may name an id, and under that id there must be a traceback.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]

sure_handlers: Final[list[logging.Handler]] = []
"""Told of every failure. Their ``emit`` must not raise, and leaves out what ``is_on_its_way`` to them."""

_under_way = threading.local()


def is_on_its_way(record: logging.LogRecord, to: logging.Handler) -> bool:
    """Whether a record comes to a handler by way of ``logging``, and comes to it as a sure one afterwards."""
    return getattr(_under_way, "record", None) is record and to in sure_handlers


class OwnLog:
    """A logger of sepkit's: as one of ``logging``, but that it never raises, and that its errors always arrive.

    Args:
        logger: The logger in ``logging``, or its name.
    """

    def __init__(self, logger: str | logging.Logger) -> None:
        self._logger = logging.getLogger(logger) if isinstance(logger, str) else logger

    def debug(self, message: str, *args: object) -> None:
        """What is of use to those who work on sepkit itself."""
        self.log(logging.DEBUG, message, *args)

    def info(self, message: str, *args: object) -> None:
        """What happens in an orderly course."""
        self.log(logging.INFO, message, *args)

    def warning(self, message: str, *args: object, sure: bool = False) -> None:
        """What may be a fault; ``sure`` where it must arrive like an error."""
        self.log(logging.WARNING, message, *args, sure=sure)

    def error(
        self,
        message: str,
        *args: object,
        exc_info: ExcInfo | BaseException | None = None,
        exc_text: Callable[[], str] | None = None,
    ) -> None:
        """A failure; ``exc_text`` formats its traceback, in place of what `logging` would make of it."""
        self.log(logging.ERROR, message, *args, exc_info=exc_info, exc_text=exc_text)

    def exception(self, message: str, *args: object) -> None:
        """A failure, by the exception that is being handled."""
        self.log(logging.ERROR, message, *args, exc_info=sys.exception())

    def log(
        self,
        level: int,
        message: str,
        *args: object,
        exc_info: ExcInfo | BaseException | None = None,
        exc_text: Callable[[], str] | None = None,
        sure: bool = False,
    ) -> None:
        """Log a record; from ``ERROR`` on, or where it is ``sure``, past all that an author has configured."""
        sure = sure or level >= logging.ERROR
        is_enabled = self._logger.isEnabledFor(level)
        if not (is_enabled or (sure and sure_handlers)):
            return
        if isinstance(exc_info, BaseException):
            exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
        record = self._record(level, message, args, exc_info)
        if exc_text is not None:
            record.exc_text = exc_text()
        # Where there is no handler at all, `logging` prints to stderr by itself, and so does a sure one.
        if is_enabled and (not sure or self._logger.hasHandlers()):
            if sure:
                _under_way.record = record
            with contextlib.suppress(Exception):  # of an author's filter or handler: it must not harm what goes on here
                self._logger.handle(record)
            _under_way.record = None
        if sure:
            for handler in sure_handlers:
                if level >= handler.level:
                    handler.emit(record)

    def _record(self, level: int, message: str, args: tuple[object, ...], exc_info: Any) -> logging.LogRecord:
        caller = sys._getframe(2)
        while caller.f_code.co_filename == __file__ and caller.f_back is not None:
            caller = caller.f_back
        what = (self._logger.name, level, caller.f_code.co_filename, caller.f_lineno, message, args, exc_info)
        try:
            return self._logger.makeRecord(*what, func=caller.f_code.co_name)
        except Exception:  # the author's record factory
            return logging.LogRecord(*what, func=caller.f_code.co_name)
