"""A child's stderr: read until its end. A bounded tail is kept, and its lines are passed on one by one."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from time import perf_counter
from typing import Final

from sepkit.host.budget import Budget
from sepkit.terminal import one_line

TAIL_BYTES: Final = 16 * 1024

_MOST_LAST_LINES: Final = 20
_LONGEST_LAST_LINE: Final = 200

_CHUNK: Final = 65_536
_LONGEST_LINE: Final = 8192


class StderrReader:
    """Reads the stderr of ``process`` in the running loop.

    Args:
        process: Whose stderr is a pipe.
        on_line: Called with each line, without its end. Of more than its budget allows, their number is passed on.
        budget: Its process's.
    """

    def __init__(self, process: subprocess.Popen[bytes], on_line: Callable[[str], None], budget: Budget) -> None:
        assert process.stderr is not None
        self._file = process.stderr
        self._on_line = on_line
        self._loop = asyncio.get_running_loop()
        self._kept = b""
        self._rest = b""
        self._budget = budget
        self._again: asyncio.TimerHandle | None = None  # set while it is not read because of the budget
        os.set_blocking(self._file.fileno(), False)
        self._loop.add_reader(self._file.fileno(), self._on_readable)

    @property
    def tail(self) -> str:
        """What it said last, at most TAIL_BYTES."""
        return self._kept.decode("utf-8", "replace")

    def close(self) -> None:
        """Read what is there, and close it."""
        if self._file.closed:
            return
        for _ in range(64):  # a grandchild may never stop writing
            if not self._read():
                break
        self._end()

    def _on_readable(self) -> None:
        began = perf_counter()
        self._read()
        self._budget.charge(perf_counter() - began)
        if not self._file.closed and (delay := self._budget.delay()):
            self._loop.remove_reader(self._file.fileno())
            self._again = self._loop.call_later(delay, self._go_on)

    def _go_on(self) -> None:
        self._again = None
        if delay := self._budget.delay():
            self._again = self._loop.call_later(delay, self._go_on)
        else:
            self._loop.add_reader(self._file.fileno(), self._on_readable)

    def _read(self) -> bool:
        try:
            data = os.read(self._file.fileno(), _CHUNK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._end()
            return False
        self._kept = (self._kept + data)[-TAIL_BYTES:]
        self._tell(data)
        return True

    def _tell(self, data: bytes) -> None:
        telling = self._budget.stderr
        self._tell_of(telling.begin(self._loop.time()))
        if telling.full:
            self._skip(data.count(b"\n"))
            self._rest = b""
            return
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-_LONGEST_LINE:]
        for number, line in enumerate(lines):
            if not self._tell_line(line[-_LONGEST_LINE:]):
                self._skip(len(lines) - number - 1)
                break

    def _tell_line(self, line: bytes) -> bool:
        if not self._budget.stderr.admits(len(line)):
            self._budget.counts["lines of stderr"] += 1
            return False
        self._on_line(line.decode("utf-8", "replace").rstrip("\r"))
        return True

    def _skip(self, lines: int) -> None:
        if lines:
            self._budget.stderr.skip(lines)
            self._budget.counts["lines of stderr"] += lines

    def _tell_of(self, untold: int) -> None:
        if untold:
            self._on_line(f"(and {untold:,} lines more than can be told)")

    def _end(self) -> None:
        if self._file.closed:
            return
        if self._again is None:
            self._loop.remove_reader(self._file.fileno())
        else:
            self._again.cancel()
        self._file.close()
        if self._rest:
            rest, self._rest = self._rest, b""
            self._tell_line(rest)
        self._tell_of(self._budget.stderr.take_untold())


def last_lines(stderr: str) -> str:
    """The last lines that say something, at most 20 of 200 characters, for a log line. Control characters are escaped.

    A line has its beginning and its end: the one tells what kind of line it is, the other is nearest to the death.
    """
    lines = [line.rstrip() for line in stderr.splitlines() if line.strip()]
    return "\n".join(_shortened(one_line(line)) for line in lines[-_MOST_LAST_LINES:])


def _shortened(line: str) -> str:
    if len(line) <= _LONGEST_LAST_LINE:
        return line
    half = _LONGEST_LAST_LINE // 2
    return f"{line[: half - 1]}…{line[-half:]}"
