"""A host at byte level: spawns ``sepkit run`` on a small app, and speaks with it in raw lines. Synchronous on purpose.

Not sepkit's own peer, which would share its mistakes.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import textwrap
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from sepkit.errors import FrameError

CONTEXT = {"token": "epoch-1", "tier": "command"}
EVENT_CONTEXT = {"token": "epoch-1", "tier": "event"}
HANDSHAKE: dict[str, Any] = {
    "protocol_version": 1,
    "host": {"name": "driver", "version": "1"},
    "workspace": {"root": "/", "trusted": True},
    "mode": "cli",
}
PATIENCE = 20.0  # seconds; the machine may be busy with something else


class Extension:
    """A running extension.

    Args:
        source: The app's module, written to ``app.py`` in a folder of its own; or, as a Path, a folder with an app.
        options: More of ``sepkit run``'s options.
        env: Its environment; this process's by default.
        read_stderr: Whether anybody reads its stderr; else it is a pipe that fills up.
        handshake: Whether to do it; its result is ``registrations`` then.
    """

    def __init__(
        self,
        source: str | Path,
        *options: str,
        env: Mapping[str, str] | None = None,
        read_stderr: bool = True,
        handshake: bool = True,
        python: tuple[str, ...] = (sys.executable,),
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="sepkit-test-")
        self.folder = source if isinstance(source, Path) else Path(self._folder.name)
        if isinstance(source, str):
            (self.folder / "app.py").write_text(textwrap.dedent(source), encoding="utf-8")
        self.process = subprocess.Popen(
            [*python, "-m", "sepkit", "run", "app:app", *options],
            cwd=self.folder,
            env=None if env is None else dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.stdin, self.stdout, self.stderr_pipe = self.process.stdin, self.process.stdout, self.process.stderr
        self.lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()  # raw lines of stdout; None at its end
        self._stderr = bytearray()
        self._next_id = 1000
        self._kept: list[dict[str, Any]] = []  # frames that were read while another was waited for
        self._reading = threading.Event()
        self._reading.set()
        self._paused = threading.Event()
        self._threads = [threading.Thread(target=self._read_stdout, daemon=True)]
        if read_stderr:
            self._threads.append(threading.Thread(target=self._read_stderr, daemon=True))
        for thread in self._threads:
            thread.start()
        self.registrations: dict[str, Any] = {}
        if handshake:
            try:
                self.greet()
            except BaseException:
                self.__exit__(None, None, None)  # nobody has entered it, and nobody will leave it
                raise

    def greet(self) -> None:
        """Do the handshake."""
        self.registrations = self.ask("initialize", HANDSHAKE)["registrations"]

    # -- bytes ---------------------------------------------------------------------------------------------------------

    def _read_stdout(self) -> None:
        held = b""
        while True:
            if not self._reading.is_set():
                self._paused.set()
                self._reading.wait()
            data = os.read(self.stdout.fileno(), 65_536)
            if not data:
                if held:
                    self.lines.put(held)  # a line without its end: for a test to find
                self.lines.put(None)
                return
            *whole, held = (held + data).split(b"\n") if b"\n" in data else ([held + data])
            for line in whole:
                self.lines.put(line)

    def _read_stderr(self) -> None:
        while data := os.read(self.stderr_pipe.fileno(), 65_536):
            self._stderr += data

    def write(self, data: bytes) -> None:
        """Write raw bytes."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.stdin.fileno(), view) :]

    def pause(self) -> None:
        """Read no more from its stdout, until ``resume``."""
        self._paused.clear()
        self._reading.clear()
        self.request("ping", {})  # the reader may be waiting for something to read
        assert self._paused.wait(PATIENCE)

    def resume(self) -> None:
        """Read on from its stdout."""
        self._reading.set()

    def wait_until_read(self, seconds: float = PATIENCE) -> None:
        """Wait until it has taken every byte that was written, so that the next ones come to it alone."""
        deadline = time.monotonic() + seconds
        while struct.unpack("i", fcntl.ioctl(self.stdin.fileno(), termios.FIONREAD, bytes(4)))[0]:
            assert time.monotonic() < deadline, f"it does not read; stderr:\n{self.stderr}"
            time.sleep(0)

    @property
    def stderr(self) -> str:
        """What it has written to stderr so far."""
        return self._stderr.decode("utf-8", "replace")

    def wait_for_stderr(self, text: str, seconds: float = PATIENCE) -> str:
        """Wait until ``text`` stands in its stderr."""
        deadline = time.monotonic() + seconds
        while text not in self.stderr:
            if time.monotonic() > deadline:
                raise AssertionError(f"{text!r} did not appear on stderr, but:\n{self.stderr}")
            time.sleep(0.005)
        return self.stderr

    # -- frames --------------------------------------------------------------------------------------------------------

    def send(self, frame: object) -> None:
        """Write one frame."""
        self.write(json.dumps(frame).encode() + b"\n")

    def notify(self, method: str, params: object) -> None:
        """Send a notification."""
        self.send({"jsonrpc": "2.0", "method": method, "params": params})

    def request(self, method: str, params: object, rid: object = None) -> Any:
        """Send a request; its id."""
        if rid is None:
            self._next_id += 1
            rid = self._next_id
        self.send({"jsonrpc": "2.0", "id": rid, "method": method, "params": params})
        return rid

    def next_frame(self, seconds: float = PATIENCE) -> dict[str, Any] | None:
        """The next frame on stdout; None at its end. Fails where a line is no JSON object.

        Log lines that somebody blocks the loop are left out: under load the machine does that to any of them.
        """
        if self._kept:
            return self._kept.pop(0)
        return self._read_frame(seconds)

    def _read_frame(self, seconds: float) -> dict[str, Any] | None:
        try:
            line = self.lines.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"no frame within {seconds} s; stderr:\n{self.stderr}") from None
        if line is None:
            return None
        frame = json.loads(line)
        assert isinstance(frame, dict), f"a line on stdout is no frame: {line!r}"
        if frame.get("method") == "log" and b"has blocked the loop for more than" in line:
            return self._read_frame(seconds)
        return frame

    def answer(self, rid: object, seconds: float = PATIENCE) -> dict[str, Any]:
        """The answer to ``rid``; other frames are kept for ``next_frame``."""
        for index, frame in enumerate(self._kept):
            if _answers(frame, rid):
                return self._kept.pop(index)
        deadline = time.monotonic() + seconds
        while True:
            read = self._read_frame(max(0.01, deadline - time.monotonic()))
            if read is None:
                raise AssertionError(f"stdout ended before the answer to {rid!r}; stderr:\n{self.stderr}")
            if _answers(read, rid):
                return read
            self._kept.append(read)

    def kept(self) -> list[dict[str, Any]]:
        """Take the frames that came while another one was waited for."""
        found, self._kept = self._kept, []
        return found

    def ask(self, method: str, params: object, seconds: float = PATIENCE) -> Any:
        """Send a request and wait for its result; an error fails the test."""
        answer = self.answer(self.request(method, params), seconds)
        assert "result" in answer, f"{method} was answered with {answer.get('error')}; stderr:\n{self.stderr}"
        return answer["result"]

    def start_tool(self, tool: str, /, **arguments: object) -> Any:
        """Call a tool; the request's id. Its ``call_id`` is ``call-<id>``."""
        self._next_id += 1
        rid = self._next_id
        params = {"call_id": f"call-{rid}", "tool": tool, "arguments": arguments, "context": CONTEXT}
        return self.request("tool/execute", params, rid)

    def tool(self, tool: str, /, **arguments: object) -> dict[str, Any]:
        """Call a tool, and wait for its result."""
        result: dict[str, Any] = self.answer(self.start_tool(tool, **arguments))["result"]
        return result

    def ping(self, seconds: float = PATIENCE) -> float:
        """Ping it; the seconds until the answer."""
        began = time.monotonic()
        assert self.ask("ping", {}, seconds) == {}
        return time.monotonic() - began

    def rest(self, seconds: float = PATIENCE) -> list[dict[str, Any]]:
        """All frames until the end of stdout."""
        found = self.kept()
        while (frame := self._read_frame(seconds)) is not None:
            found.append(frame)
        return found

    # -- the end -------------------------------------------------------------------------------------------------------

    def close_stdin(self) -> None:
        """Send end-of-file."""
        self.stdin.close()

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for its end; the exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s; stderr:\n{self.stderr}") from None

    def end(self, seconds: float = PATIENCE) -> int:
        """Send end-of-file and wait for its end; the exit code."""
        self.close_stdin()
        return self.wait(seconds)

    def __enter__(self) -> Extension:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.resume()
        for thread in self._threads:
            thread.join(5)
        for pipe in (self.stdin, self.stdout, self.stderr_pipe):
            pipe.close()
        self._folder.cleanup()


class Collected:
    """Reads a descriptor to its end, in a thread."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._data = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # a terminal whose other side is gone says EIO
            while data := os.read(self._fd, 65_536):
                self._data += data

    def result(self, seconds: float = PATIENCE) -> bytes:
        """All that came, once its end has come."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"no end-of-file after {self._data!r}"
        return self._data


def _answers(frame: dict[str, Any], rid: object) -> bool:
    # 1, True and 1.0 are equal in Python, and three things on the wire.
    return "method" not in frame and frame.get("id") == rid and type(frame.get("id")) is type(rid)


class Recorder:
    """A transport's receiver that keeps what it is told, in the loop that it is made in.

    Args:
        on_line: Called with each line when it comes, unless it is over-long.
    """

    def __init__(self, on_line: Callable[[bytes], object] | None = None) -> None:
        self.lines: list[bytes | FrameError] = []
        self.batches = 0
        self.calls: list[str] = []  # "lines" (those in a row are one), "ended", "lost"
        self.error: Exception | None = None  # what the connection was lost by
        self.ended = asyncio.Event()
        self.lost = asyncio.Event()
        self._on_line = on_line
        self._more = asyncio.Event()

    def frames_received(self, lines: list[bytes | FrameError]) -> None:
        self.lines += lines
        self.batches += 1
        if self.calls[-1:] != ["lines"]:
            self.calls.append("lines")
        if self._on_line is not None:
            for line in lines:
                if isinstance(line, bytes):
                    self._on_line(line)
        self._more.set()

    def input_ended(self) -> None:
        self.calls.append("ended")
        self.ended.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.calls.append("lost")
        self.error = error
        self.lost.set()

    async def wait_lines(self, count: int) -> list[bytes | FrameError]:
        """Wait until ``count`` lines have come; all of them."""
        async with asyncio.timeout(PATIENCE):
            while len(self.lines) < count:
                self._more.clear()
                await self._more.wait()
        return self.lines
