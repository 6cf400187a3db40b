"""What the extension logs reaches the test host, as it reaches a host under ``sepkit run``."""

from __future__ import annotations

import logging
from typing import ClassVar

from sepkit.faces.log import LogLink, WireHandler
from sepkit.serving.logs import attach, detach


class LogToHost:
    """``logging`` reaches the host, as under ``sepkit run``, until ``close``."""

    _open: ClassVar[int] = 0  # there may be several hosts, closed in any order
    _before: ClassVar[int] = logging.NOTSET  # the root logger's level, before the first of them
    _lowered: ClassVar[int] = logging.NOTSET  # and what they made of it

    def __init__(self, link: LogLink, level: int, *, all_that_is_made: bool = False) -> None:
        root = logging.getLogger()
        self._handler = WireHandler(link, logging.NOTSET if all_that_is_made else level)
        if not LogToHost._open:
            LogToHost._before = LogToHost._lowered = root.level
        LogToHost._open += 1
        attach(self._handler)
        if root.level > level:
            root.setLevel(level)
            LogToHost._lowered = level

    def close(self) -> None:
        """Nothing more of the log reaches the host."""
        root = logging.getLogger()
        detach(self._handler)
        LogToHost._open -= 1
        if not LogToHost._open and root.level == LogToHost._lowered:  # else somebody has set it meanwhile
            root.setLevel(LogToHost._before)
