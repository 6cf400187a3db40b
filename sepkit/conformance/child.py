"""The extension's process and its three pipes: bytes go in, chunks come out.

Not a transport of frames (sepkit's own would share its mistakes with sepkit's own extensions), and not the record of
what was said.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from sepkit.transports.process import SpawnError

STDERR_BYTES: Final = 4096
"""How much of the end of stderr is kept."""


class Child:
    """A running extension.

    ``ended`` is whether its stdout is not read any more: it is closed, or :meth:`stop_reading` was called.
    ``ended_by_itself`` is whether that was so before the process was killed.

    Args:
        command: What to start.
        cwd: Where it starts.
        received: Is given each chunk of its stdout; at the end of stdout, ``b""``.
        flushed: Is called when it has taken all that was written to it.

    Raises:
        SpawnError: It could not be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        cwd: Path | str | None,
        *,
        received: Callable[[bytes], None],
        flushed: Callable[[], None],
    ) -> None:
        self.ended = self.ended_by_itself = False
        self._received = received
        self._flushed = flushed
        self._loop = asyncio.get_running_loop()
        self._unwritten = bytearray()
        self._stderr = bytearray()
        self._process = _spawn(command, cwd)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._in, self._out, self._err = self._process.stdin, self._process.stdout, self._process.stderr
        for pipe in (self._in, self._out, self._err):
            os.set_blocking(pipe.fileno(), False)
        self._loop.add_reader(self._out.fileno(), self._read)
        self._loop.add_reader(self._err.fileno(), self._read_stderr)

    # -- its stdin -----------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Write to its stdin, now or as soon as it takes more; nothing once its stdin is closed."""
        if self._in.closed:
            return
        if not self._unwritten:
            self._loop.add_writer(self._in.fileno(), self._write)
        self._unwritten += data
        self._write()

    def _write(self) -> None:
        try:
            count = os.write(self._in.fileno(), self._unwritten)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # it does not read any more; the end of its stdout tells whether it has ended
            count = len(self._unwritten)
        del self._unwritten[:count]
        if not self._unwritten:
            self._loop.remove_writer(self._in.fileno())
            self._flushed()

    @property
    def has_taken_all(self) -> bool:
        """Whether it has taken all that was written to it."""
        return not self._unwritten

    def end_input(self) -> None:
        """Close its stdin."""
        if not self._in.closed:
            if self._unwritten:
                self._loop.remove_writer(self._in.fileno())
                self._unwritten.clear()
            self._in.close()

    # -- its stdout and stderr -----------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            data = os.read(self._out.fileno(), 262_144)
        except (BlockingIOError, InterruptedError):
            return
        if not data:
            self.stop_reading()
        self._received(data)

    def stop_reading(self) -> None:
        """Read no more of its stdout."""
        self._loop.remove_reader(self._out.fileno())
        self.ended = True

    def _read_stderr(self) -> None:
        try:
            data = os.read(self._err.fileno(), 65_536)
        except (BlockingIOError, InterruptedError):
            return
        if not data:
            self._loop.remove_reader(self._err.fileno())
        self._stderr = (self._stderr + data)[-STDERR_BYTES:]

    @property
    def stderr(self) -> str:
        """The end of its stderr so far."""
        return self._stderr.decode("utf-8", "replace")

    # -- its end -------------------------------------------------------------------------------------------------------

    async def exit(self, seconds: float) -> int | None:
        """The exit code, as soon as it has exited; None after ``seconds``."""
        deadline, pause = self._loop.time() + seconds, 0.002
        while (code := self._process.poll()) is None and self._loop.time() < deadline:
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.02)
        return code

    async def aclose(self) -> None:
        """End it and its whole session: close its stdin, then kill."""
        if self._err.closed:
            return
        try:
            self.end_input()
            await self.exit(0.5)
        finally:
            self.ended_by_itself = self.ended
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            if not self.ended:
                with contextlib.suppress(OSError):
                    self._read()  # its last lines
            for pipe in (self._out, self._err):
                self._loop.remove_reader(pipe.fileno())
                pipe.close()


def _spawn(command: Sequence[str], cwd: Path | str | None) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            list(command),
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
    except OSError as error:
        reason = error.strerror or str(error)
        where = (
            ""
            if os.sep in command[0] or error.filename == str(cwd)
            else f" (searched PATH: {os.environ.get('PATH', '')})"
        )
        raise SpawnError(f"cannot start {command[0]!r}: {reason}{where}") from None
