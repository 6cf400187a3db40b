"""What is worth knowing of an extension: said once in the log, kept for its status, and bounded."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

from sepkit.terminal import visible

_MOST: Final = 50

_log = logging.getLogger("sepkit.host")


class Notes:
    """The notes on one life of an extension.

    Args:
        extension: Its name.
    """

    def __init__(self, extension: str) -> None:
        self._extension = extension
        self._said: dict[str, None] = {}
        self._more = 0

    def say(self, text: str) -> None:
        """Note something; what has been said already, and what is too much, is not logged."""
        if text in self._said:
            return
        if len(self._said) < _MOST:
            self._said[text] = None
            _log.warning("%s: %s", self._extension, text)
        else:
            self._more += 1
            if self._more == 1:
                _log.warning("%s: there is more of the kind, which is only counted", self._extension)

    def clear(self) -> None:
        """It begins a new life."""
        self._said.clear()
        self._more = 0

    def __iter__(self) -> Iterator[str]:
        yield from self._said
        if self._more:
            yield f"and {self._more:,} more"


class Shown(logging.Filter):
    """Has log lines show what extensions say, whatever terminal they end on: nothing in them is obeyed.

    A second line of a message is indented, so that it does not look like another record.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; it is always logged."""
        try:
            text = record.getMessage()
        except Exception:  # `logging` tells of it
            return True
        record.msg, record.args = visible(text).replace("\n", "\n  "), None
        if record.exc_info and not record.exc_text:
            record.exc_text = visible(logging.Formatter().formatException(record.exc_info))
        return True
