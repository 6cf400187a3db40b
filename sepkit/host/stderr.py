"""A child's stderr: read until its end. A bounded tail is kept, and its lines are passed on one by one."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from typing import Final

from sepkit.terminal import one_line

TAIL_BYTES: Final = 16 * 1024
MOST_LINES: Final = 1000
"""Lines a second that are passed on. More are counted, and their number is passed on; the tail keeps the last ones."""

_MOST_LAST_LINES: Final = 20
_LONGEST_LAST_LINE: Final = 200

_CHUNK: Final = 65_536
_LONGEST_LINE: Final = 8192


class StderrReader:
    """Reads the stderr of ``process`` in the running loop.

    Args:
        process: Whose stderr is a pipe.
        on_line: Called with each line, without its end.
    """

    def __init__(self, process: subprocess.Popen[bytes], on_line: Callable[[str], None]) -> None:
        assert process.stderr is not None
        self._file = process.stderr
        self._on_line = on_line
        self._loop = asyncio.get_running_loop()
        self._kept = b""
        self._rest = b""
        self._second = 0.0
        self._told = 0
        self._untold = 0  # lines that were not passed on, since their number was last said
        os.set_blocking(self._file.fileno(), False)
        self._loop.add_reader(self._file.fileno(), self._read)

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
        now = self._loop.time()
        if now - self._second >= 1:
            self._second, self._told = now, 0
            self._tell_of_untold()
        if self._told >= MOST_LINES:
            self._untold += data.count(b"\n")
            self._rest = b""
            return
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-_LONGEST_LINE:]
        for line in lines[: MOST_LINES - self._told]:
            self._on_line(line[-_LONGEST_LINE:].decode("utf-8", "replace").rstrip("\r"))
        self._untold += max(0, len(lines) - (MOST_LINES - self._told))
        self._told += len(lines)

    def _tell_of_untold(self) -> None:
        if self._untold:
            untold, self._untold = self._untold, 0
            self._on_line(f"(and {untold:,} lines more than can be told)")

    def _end(self) -> None:
        if self._file.closed:
            return
        self._loop.remove_reader(self._file.fileno())
        self._file.close()
        if self._rest:
            rest, self._rest = self._rest, b""
            self._on_line(rest.decode("utf-8", "replace"))
        self._tell_of_untold()


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
