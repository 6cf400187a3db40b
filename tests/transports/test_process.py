"""A child's pipes: it is spawned in a session of its own, and when it has been stopped nothing of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import pytest

from sepkit.errors import SepkitError
from sepkit.transports.process import ChildProcess, SpawnError
from tests.driver import PATIENCE, Recorder

Run = Callable[[Coroutine[Any, Any, Any]], Any]

LONG: Final = "60"  # seconds that a child would live if nobody stopped it


def shell(script: str) -> ChildProcess:
    return ChildProcess(["sh", "-c", script])


def python(script: str) -> ChildProcess:
    return ChildProcess([sys.executable, "-SIc", script])


async def started(child: ChildProcess, lines: int = 1) -> Recorder:
    """Its recorder, when it has said its first lines."""
    told = Recorder()
    child.transport.start(told)
    await told.wait_lines(lines)
    return told


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has reaped yet does not."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], stdout=subprocess.PIPE, check=False)
    return found.stdout.strip() not in (b"",) and not found.stdout.strip().startswith(b"Z")


def wait_until_gone(pid: int, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while is_alive(pid):
        assert time.monotonic() < deadline, f"{pid} still runs"
        time.sleep(0.01)


def test_a_command_that_cannot_be_found_is_reported_with_the_path_that_was_searched() -> None:
    """A command that can't be spawned is reported with the PATH that was searched."""
    with pytest.raises(SpawnError, match=re.escape("'no-such-command'")) as caught:
        ChildProcess(["no-such-command", "--flag"], env={"PATH": "/nowhere:/neither"})
    assert "(searched PATH: /nowhere:/neither)" in str(caught.value)
    assert isinstance(caught.value, SepkitError)
    with pytest.raises(SpawnError, match=re.escape(f"(searched PATH: {os.environ['PATH']})")):
        ChildProcess(["no-such-command"])


def test_a_child_whose_pipes_cannot_be_kept_is_not_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptors are left: it says so, and neither the process nor a descriptor stays."""
    real, real_dup = subprocess.Popen, os.dup
    spawned: list[subprocess.Popen[bytes]] = []
    duplicates: list[int] = []

    def spawn(*arguments: Any, **options: Any) -> Any:
        spawned.append(real(*arguments, **options))
        return spawned[-1]

    for works in (0, 1):

        def dup(fd: int, works: int = works) -> int:
            if len(duplicates) == works:
                raise OSError(24, os.strerror(24))
            duplicates.append(real_dup(fd))
            return duplicates[-1]

        duplicates.clear()
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", spawn)
            patch.setattr(os, "dup", dup)
            with pytest.raises(SpawnError, match=f"cannot start 'sleep': {os.strerror(24)}"):
                ChildProcess(["sleep", LONG])
        assert spawned[-1].returncode == -signal.SIGKILL
        for pipe in (spawned[-1].stdin, spawned[-1].stdout):
            assert pipe is not None
            assert pipe.closed
        for fd in duplicates:
            with pytest.raises(OSError, match=os.strerror(9)):
                os.fstat(fd)


def test_a_command_with_a_path_is_reported_without_the_path_variable(tmp_path: Path) -> None:
    """The PATH was not searched and is not named; the real fault is."""
    program = tmp_path / "program"
    with pytest.raises(SpawnError, match=os.strerror(2)) as caught:
        ChildProcess([str(program)])
    assert str(program) in str(caught.value)
    assert "PATH" not in str(caught.value)
    program.write_text("#!/bin/sh\n")
    with pytest.raises(SpawnError, match=os.strerror(13)):
        ChildProcess([str(program)])


def test_a_folder_that_is_not_there_is_what_is_reported(tmp_path: Path) -> None:
    """If the folder to start in is missing, the message says so, and does not blame the command."""
    with pytest.raises(SpawnError, match=re.escape(str(tmp_path / "nowhere"))) as caught:
        ChildProcess(["sh"], cwd=tmp_path / "nowhere")
    assert "PATH" not in str(caught.value)


def test_a_child_speaks_over_its_pipes(run: Run, tmp_path: Path) -> None:
    """Its stdin and stdout are the wire, in the folder and the environment that were given.

    Source: docs/protocol.md, section 1.
    """

    async def main() -> None:
        (tmp_path / "here").touch()
        child = ChildProcess(
            ["sh", "-c", 'ls; echo "$NAME $HOME"; cat'],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "NAME": "Ada"},
            max_frame_bytes=100,
        )
        told = await started(child, 2)
        child.transport.write(b"ping\n" + b"x" * 101 + b"\nafter\n")
        await told.wait_lines(5)
        assert [line for line in told.lines if isinstance(line, bytes)] == [b"here", b"Ada ", b"ping", b"after"]
        assert await child.stop() == 0

    run(main())


def test_a_child_that_ends_when_its_stdin_ends_is_not_killed(run: Run) -> None:
    """Stdin is closed, then it is waited for; its own exit code and its last output are received."""

    async def main() -> None:
        child = shell("echo ready; cat; echo last words; exit 7")
        told = await started(child)
        child.transport.write(b"flushed\n" * 1000)
        stopping = asyncio.create_task(child.stop(grace=PATIENCE))
        assert await stopping == 7, "not -13: nobody has closed its stdout while it still spoke"
        assert told.lines == [b"ready", *[b"flushed"] * 1000, b"last words"]
        child.transport.write(b"too late\n")
        assert await child.stop(grace=PATIENCE) == 7, "a second time changes nothing"
        assert told.calls == ["lines", "ended", "lost"]

    run(main())


def test_the_exit_code_is_there_as_soon_as_it_has_exited(run: Run) -> None:
    """The child's death is seen at once; ``wait`` returns None while it runs."""

    async def main() -> None:
        child = shell("echo ready; read line; exit 3")
        told = await started(child)
        assert await child.wait(0) is None
        assert await child.wait(0.01) is None
        began = time.monotonic()
        child.transport.write(b"go\n")
        assert await child.wait(PATIENCE) == 3
        await asyncio.wait_for(told.ended.wait(), PATIENCE)
        assert time.monotonic() - began < PATIENCE / 2
        assert await child.stop() == 3

    run(main())


def test_what_it_said_last_is_received_though_it_has_exited_already(run: Run) -> None:
    """The tail of a dying child's output is in its pipe, and is still read."""

    async def main() -> None:
        child = shell("echo ready; read line; echo last words; exit 3")
        told = await started(child)
        child.transport.write(b"go\n")
        await asyncio.sleep(0)
        child.process.wait(PATIENCE)  # the loop does not turn meanwhile
        assert told.lines == [b"ready"]
        assert await child.stop() == 3
        assert told.lines == [b"ready", b"last words"]
        assert told.calls == ["lines", "ended", "lost"]

    run(main())


def test_a_child_that_ignores_the_end_of_its_stdin_gets_sigterm(run: Run) -> None:
    """Stdin is closed, then it is waited for, then its group gets SIGTERM."""

    async def main() -> None:
        child = shell(f"echo ready; exec sleep {LONG}")
        await started(child)
        assert await child.stop(grace=0.05) == -signal.SIGTERM
        assert not is_alive(child.pid)

    run(main())


def test_a_child_that_ends_in_order_on_sigterm_is_not_killed(run: Run) -> None:
    """After SIGTERM its handler has time, and its exit code is received."""

    async def main() -> None:
        child = shell(f"trap 'sleep 0.1; exit 4' TERM; echo ready; while :; do sleep {LONG} & wait; done")
        await started(child)
        assert await child.stop(grace=0.05) == 4

    run(main())


def test_a_child_that_ignores_everything_is_killed() -> None:
    """After SIGTERM and a wait comes SIGKILL, also if it does not read what is written to it."""

    async def main() -> None:
        child = python(
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True);"
            f"time.sleep({LONG})"
        )
        told = await started(child)
        child.transport.write(b"x" * 2**20 + b"\n")
        assert await asyncio.wait_for(child.stop(grace=0.05), PATIENCE) == -signal.SIGKILL
        assert told.calls[-1] == "lost"
        assert not is_alive(child.pid)

    asyncio.run(main())


def test_a_grandchild_is_gone_when_the_child_has_been_stopped(run: Run) -> None:
    """Nothing of the child's session is left, also if the child itself ends in order."""

    async def main() -> None:
        child = shell(f"sleep {LONG} & echo $!; cat")
        told = await started(child)
        (pid,) = (int(line) for line in told.lines if isinstance(line, bytes))
        assert is_alive(pid)
        assert await child.stop() == 0
        wait_until_gone(pid)

    run(main())


def test_a_grandchild_in_a_group_of_its_own_is_gone_too(run: Run) -> None:
    """A shell with job control gives each job its own group; the whole *session* is ended."""

    async def main() -> None:
        child = python(
            "import os, subprocess, sys;"
            f"job = subprocess.Popen(['sleep', '{LONG}'], process_group=0); print(job.pid, flush=True);"
            "sys.stdin.read()"
        )
        told = await started(child)
        (pid,) = (int(line) for line in told.lines if isinstance(line, bytes))
        assert (os.getpgid(pid), os.getsid(pid)) == (pid, child.pid)
        try:
            assert await child.stop() == 0
            wait_until_gone(pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    run(main())


def test_a_grandchild_that_left_and_holds_the_pipe_delays_nothing_and_is_gone_too(run: Run) -> None:
    """Stopping returns even if a grandchild holds the pipe (asyncio's ``wait()`` does not)."""

    async def main() -> None:
        child = python(
            "import subprocess, sys;"
            f"gone = subprocess.Popen(['sleep', '{LONG}'], start_new_session=True); print(gone.pid, flush=True);"
            "sys.stdin.read()"
        )
        told = await started(child)
        (pid,) = (int(line) for line in told.lines if isinstance(line, bytes))
        try:
            assert await asyncio.wait_for(child.stop(grace=PATIENCE), PATIENCE) == 0
            wait_until_gone(pid)
            assert told.calls[-1] == "lost"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    run(main())


def test_a_child_has_a_session_of_its_own(run: Run) -> None:
    """A signal to its group does not reach the host, and a Ctrl+C at the host does not reach the child."""

    async def main() -> None:
        child = shell(f"echo ready; exec sleep {LONG}")
        await started(child)
        assert os.getsid(child.pid) == os.getpgid(child.pid) == child.pid != os.getsid(0)
        os.killpg(child.pid, signal.SIGTERM)
        assert await child.wait(PATIENCE) == -signal.SIGTERM
        assert await child.stop() == -signal.SIGTERM

    run(main())


def test_a_child_inherits_no_other_childs_pipes(run: Run) -> None:
    """The end of a child's stdin or stdout is seen, though another was spawned after it and still runs."""

    async def main() -> None:
        first = shell("echo ready; cat; exit 5")
        told = await started(first)
        second = shell("echo ready; cat")
        await started(second)
        assert await first.stop(grace=PATIENCE) == 5
        assert told.calls == ["lines", "ended", "lost"]
        assert await second.wait(0) is None
        assert await second.stop() == 0

    run(main())


def test_stderr_goes_where_it_is_sent(run: Run, tmp_path: Path) -> None:
    """Stderr is not the wire. Source: docs/protocol.md, section 1."""

    async def main() -> None:
        with (tmp_path / "log").open("wb") as log:
            child = ChildProcess(["sh", "-c", "echo said >&2; echo ready; cat"], stderr=log)
        told = await started(child)
        assert await child.stop() == 0
        assert told.lines == [b"ready"]
        assert (tmp_path / "log").read_text() == "said\n"

    run(main())
