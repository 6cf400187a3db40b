"""The wire over a child's pipes: spawn it in a session of its own, and end it so that nothing of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from sepkit.errors import SepkitError
from sepkit.transports.descriptors import DescriptorTransport
from sepkit.wire.frames import MAX_FRAME_BYTES

MARK: Final = "SEPKIT_LIFE"
"""The variable by which the processes of a child are known, also those that have left its session.

Its value has the form ``/…/`` and is part of one child's only. What a child starts inherits it; the system shows what a
process was started with, whatever that process makes of its variables afterwards.
"""

_LAST_LINES: Final = 0.25  # seconds for what it has said last to be taken in, where that is done in turns
_LAST_OF_THE_FAMILY: Final = 2.0  # seconds that killed processes may take to be gone
_LOOKED_AT_TOGETHER: Final = 200  # processes in one turn of the loop: about 2 ms


class SpawnError(SepkitError):
    """The command could not be started; the message says which one, and where it was looked for."""


class ChildProcess:
    """An extension's process, and the transport over its pipes.

    Args:
        command: The program and its arguments.
        executable: The program's file; by default it is looked up by its name.
        cwd: Where it starts.
        env: Its whole environment, but for its mark; this process's by default.
        mark: The value of ``SEPKIT_LIFE`` in its environment; a new one by default.
        stderr: Where its stderr goes; where this process's goes by default.
        transport: Makes the transport over its pipes.

    Raises:
        SpawnError: It could not be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        executable: Path | None = None,
        cwd: Path | str | None = None,
        env: Mapping[str, str] | None = None,
        mark: str | None = None,
        stderr: int | IO[bytes] | None = None,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        transport: Callable[..., DescriptorTransport] = DescriptorTransport,
    ) -> None:
        mark = mark or f"{os.environ.get(MARK, '/')}{secrets.token_hex(8)}/"
        environment = {**(os.environ if env is None else env), MARK: mark}
        self._mark = f"/{mark.split('/')[-2]}/".encode()
        self._is_over = False
        try:
            self.process = subprocess.Popen(
                list(command),
                executable=None if executable is None else str(executable),
                cwd=cwd,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise SpawnError(
                f"cannot start {command[0]!r}: {_reason(error, str(executable or command[0]), environment)}"
            ) from None
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
        if not self._is_over:
            await self._kill_family()
            self._is_over = True  # from now on its id may be another's
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

    async def _kill_family(self) -> None:
        """Kill what it left behind: in its group, its session, and elsewhere, where the system tells of processes."""
        self._signal(signal.SIGKILL)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _LAST_OF_THE_FAMILY
        strangers: set[int] = set()
        # What is killed is not gone yet, and what forks on and on is another process by the time that one is looked at:
        # it is over when all processes that there are have been looked at, and are none of ours.
        while (left := [pid for pid in _processes() if pid not in strangers]) and loop.time() < deadline:
            found = False
            for number, pid in enumerate(left, 1):
                if number % _LOOKED_AT_TOGETHER == 0:
                    await asyncio.sleep(0)
                if self._kill_relative(pid):
                    found = True
                else:
                    strangers.add(pid)
            if found:
                strangers.clear()  # one that is about to become another program shows no mark for a moment
            await asyncio.sleep(0.002 if found else 0)

    def _kill_relative(self, pid: int) -> bool:
        """Kill a process if it belongs to the child, and can be killed; whether that is so."""
        if not (_is_in_session(pid, self.process.pid) or _is_marked(pid, self._mark)):
            return False
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return False
        return True


def _processes() -> list[int]:
    """All processes, where the system tells of them."""
    try:
        return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]
    except OSError:
        return []


def _is_in_session(pid: int, session: int) -> bool:
    """Whether a process is in a session, and has not ended; one that is never reaped stays."""
    # The cheap question first: there may be thousands of processes, and few are ours.
    try:
        if os.getsid(pid) != session:
            return False
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def _is_marked(pid: int, mark: bytes) -> bool:
    """Whether a process was started with this mark in its environment, and has not ended."""
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            return mark in file.read()
    except OSError:  # another user's, or gone
        return False


def _reason(error: OSError, command: str, environment: Mapping[str, str]) -> str:
    reason = error.strerror or str(error)
    if error.filename not in (None, command):  # the folder that it should start in
        return f"{reason}: {str(error.filename)!r}"
    path = environment.get("PATH", "")
    if os.sep in command or shutil.which(command, path=path):
        return reason
    return f"{reason} (searched PATH: {path})"
