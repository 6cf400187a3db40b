"""Says who blocks the loop: an ``async`` handler that computes or sleeps without awaiting stops everything else.

A thread looks at the loop's stack when its heartbeat is late. On the hot path this costs one attribute look-up a call.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Final

from sepkit.forks import let_go_in_children
from sepkit.ownlog import OwnLog

LIMIT: Final = 0.25
_BEAT: Final = 0.1

_log = OwnLog("sepkit.watch")


class LoopWatch:
    """Names, once each, the handlers that hold the loop for more than 250 ms.

    ``asleep`` is True while nothing runs: then nothing beats and nothing looks.

    Args:
        names: What to call the code objects of handlers.
        busy: Whether anything runs.
    """

    def __init__(self, names: Mapping[object, str], busy: Callable[[], bool]) -> None:
        self.asleep = True
        self._names = names
        self._busy = busy
        self._named: set[str] = set()
        self._last = 0.0
        self._awake = threading.Event()
        self._context = Context()  # not that of the call which happened to wake it
        self._stopped = False
        self._loop_thread = 0
        let_go_in_children(self)

    def wake(self) -> None:
        """Something runs from now on. Call it in the loop, as often as you like."""
        if self.asleep and not self._stopped:
            self.asleep = False
            if not self._loop_thread:
                self._loop_thread = threading.get_ident()
                threading.Thread(target=self._look, name="sepkit-watch", daemon=True).start()
            self._beat()
            self._awake.set()

    def stop(self) -> None:
        """Look no more."""
        self._stopped = True
        self._awake.set()

    def let_go(self) -> None:
        """In a forked child: the loop is its parent's."""
        self._stopped = True

    def _beat(self) -> None:
        if self._stopped:
            return
        self._last = time.monotonic()
        if self._busy():
            asyncio.get_running_loop().call_later(_BEAT, self._beat, context=self._context)
        elif not self.asleep and self._awake.is_set():
            self._awake.clear()
            self.asleep = True
        else:  # just woken: what is about to run does not show yet
            asyncio.get_running_loop().call_later(_BEAT, self._beat, context=self._context)

    def _look(self) -> None:
        while not self._stopped:
            self._awake.wait()
            time.sleep(_BEAT)
            if self._awake.is_set() and time.monotonic() - self._last > LIMIT:
                self._name_culprit()

    def _name_culprit(self) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        place = None
        while frame is not None:
            if place is None:
                place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            name = self._names.get(frame.f_code)
            if name is not None:
                if name not in self._named:
                    self._named.add(name)
                    _log.warning(
                        "%s has blocked the loop for more than %d ms (now at %s): nothing else can run meanwhile. "
                        "Await instead, or write it as `def`, which runs in a thread.",
                        name,
                        LIMIT * 1000,
                        place,
                    )
                return
            frame = frame.f_back
