"""The wire over a child's pipes: spawn it in a session of its own, and end it so that nothing of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from sepkit.errors import SepkitError
from sepkit.transports.descriptors import DescriptorTransport
from sepkit.wire.frames import MAX_FRAME_BYTES

_LAST_LINES: Final = 0.25  # seconds for what it has said last to be taken in, where that is done in turns
_LAST_OF_THE_SESSION: Final = 2.0  # seconds that killed processes may take to be gone


class SpawnError(SepkitError):
    """The command could not be started; the message says which one, and where it was looked for."""


class ChildProcess:
    """An extension's process, and the transport over its pipes.

    Args:
        command: The program and its arguments.
        cwd: Where it starts.
        env: Its whole environment; this process's by default.
        stderr: Where its stderr goes; where this process's goes by default.
        transport: Makes the transport over its pipes.

    Raises:
        SpawnError: It could not be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path | str | None = None,
        env: Mapping[str, str] | None = None,
        stderr: int | IO[bytes] | None = None,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        transport: Callable[..., DescriptorTransport] = DescriptorTransport,
    ) -> None:
        environment = dict(os.environ if env is None else env)
        try:
            self.process = subprocess.Popen(
                list(command),
                cwd=cwd,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise SpawnError(f"cannot start {command[0]!r}: {_reason(error, command[0], environment)}") from None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        # The transport closes what it reads and writes; Popen's own files must not do so a second time.
        try:
            with self.process.stdout as stdout, self.process.stdin as stdin:
                reads = os.dup(stdout.fileno())
                try:
                    self.transport = transport(reads, os.dup(stdin.fileno()), max_frame_bytes=max_frame_bytes)
                except BaseException:
                    os.close(reads)
                    raise
        except OSError as error:
            self._signal(signal.SIGKILL)
            self.process.wait()
            raise SpawnError(f"cannot start {command[0]!r}: {error.strerror}") from None

    @property
    def pid(self) -> int:
        """The process's id, and its session's."""
        return self.process.pid

    async def wait(self, seconds: float) -> int | None:
        """The exit code, as soon as it has exited; None after ``seconds``."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        pause = 0.001
        while (code := self.process.poll()) is None and loop.time() < deadline:
            await asyncio.sleep(min(pause, max(0.0, deadline - loop.time())))
            pause = min(pause * 2, 0.02)
        return code

    async def stop(self, *, grace: float = 5.0) -> int:
        """End it: its stdin ends, then SIGTERM, then SIGKILL for all of its session; the exit code."""
        if self.process.poll() is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self.transport.end_output()
        code = await self.wait(grace)
        for number, seconds in ((signal.SIGTERM, 1.0), (signal.SIGKILL, 5.0)):
            if code is None:
                self._signal(number)
                code = await self.wait(seconds)
        await self._kill_session()
        for _ in range(3):  # what it said last is in the pipe, which holds no more than one turn of the loop reads
            await asyncio.sleep(0)
        deadline = asyncio.get_running_loop().time() + _LAST_LINES
        while self.transport.behind and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110  (nothing tells)
            await asyncio.sleep(0.001)
        # Nobody reads any more what still waits; but a grandchild may hold the pipe, and never take it.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await self.transport.aclose()
        return self.process.wait() if code is None else code

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    async def _kill_session(self) -> None:
        """Kill what it left behind in its session, its group and, where the system tells of them, the others."""
        self._signal(signal.SIGKILL)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _LAST_OF_THE_SESSION
        # Who is killed is not gone yet, and may have forked in between.
        while left := _members(self.process.pid):
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if loop.time() >= deadline:
                break
            await asyncio.sleep(0.005)


def _members(session: int) -> list[int]:
    """The processes of a session that are not dead, where the system tells of them."""
    try:
        entries = os.listdir("/proc")
    except OSError:
        return []
    return [int(entry) for entry in entries if entry.isdecimal() and _lives_in(int(entry), session)]


def _lives_in(pid: int, session: int) -> bool:
    # The cheap question first: there may be thousands of processes, and few are ours. One that nobody reaps stays.
    try:
        if os.getsid(pid) != session:
            return False
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def _reason(error: OSError, command: str, environment: Mapping[str, str]) -> str:
    reason = error.strerror or str(error)
    if error.filename not in (None, command):  # the folder that it should start in
        return f"{reason}: {str(error.filename)!r}"
    path = environment.get("PATH", "")
    if os.sep in command or shutil.which(command, path=path):
        return reason
    return f"{reason} (searched PATH: {path})"
