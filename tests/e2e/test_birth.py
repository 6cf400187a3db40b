"""How an extension comes into the world: the wire is its own from the first byte, and any kind of descriptor does."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import termios
import textwrap
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sepkit.faces.runner import LoopKind
from tests.driver import CONTEXT, HANDSHAKE, PATIENCE, Collected, Extension

MIB = 1024 * 1024

ECHO = """
from sepkit import App

app = App("echo")

@app.tool
async def echo(text: str) -> str:
    return text
"""


def frame(rid: int, method: str, params: dict[str, Any]) -> bytes:
    """A request as a line."""
    return json.dumps({"jsonrpc": "2.0", "id": rid, "method": method, "params": params}).encode() + b"\n"


def tool_call(rid: int, tool: str, **arguments: object) -> bytes:
    """A call of a tool as a line."""
    return frame(
        rid, "tool/execute", {"call_id": f"call-{rid}", "tool": tool, "arguments": arguments, "context": CONTEXT}
    )


# -- nothing else is on the wire ---------------------------------------------------------------------------------------

LITTER = """
import atexit, ctypes, os, sys, threading
from itertools import count
from sepkit import App

libc = ctypes.CDLL(None)

def litter(place):
    print(f"print in {place}")
    print(f"print without an end in {place};", end="")
    sys.__stdout__.write(f"__stdout__ in {place}\\n")
    sys.stdout.buffer.write(f"buffer in {place}\\n".encode())
    sys.stdout.flush()
    os.write(1, f"os.write in {place}\\n".encode())
    libc.puts(f"puts in {place}".encode())
    libc.fflush(None)
    os.system(f"echo os.system in {place}")

def in_thread(place):
    thread = threading.Thread(target=litter, args=(place,))
    thread.start()
    thread.join()

def for_ever():
    for number in count():
        os.write(1, b"%d all the time\\n" % number)
        libc.usleep(1000)

litter("the import")
in_thread("a thread of the import")
threading.Thread(target=for_ever, daemon=True).start()
atexit.register(litter, "atexit")

app = App("litter")

@app.tool
async def coroutine() -> str:
    litter("an async tool")
    return "done"

@app.tool
def function() -> str:
    litter("a def tool")
    return "done"

@app.tool
async def thread() -> str:
    in_thread("a thread of a tool")
    return "done"

@app.hook("input")
async def hook(value: dict):
    litter("a hook")

@app.command
def command() -> str:
    litter("a command")
    return "done"
"""
WAYS = ("print", "print without an end", "__stdout__", "buffer", "os.write", "puts", "os.system")
PLACES = (
    "the import",
    "a thread of the import",
    "an async tool",
    "a def tool",
    "a thread of a tool",
    "a hook",
    "a command",
    "atexit",
)


def test_whatever_is_printed_goes_to_stderr_and_no_stray_byte_to_the_wire(loop_kind: LoopKind) -> None:
    """``print()``, ``os.write(1, …)``, ``puts``, ``os.system`` go to stderr: at import, in tools, threads, atexit."""
    with Extension(LITTER, "--loop", loop_kind) as extension:
        for tool in ("coroutine", "function", "thread"):
            assert extension.tool(tool) == {"content": "done"}
        hook = {"hook": "input", "context": CONTEXT, "input": {}}
        assert extension.ask("hook", hook) == {"action": "continue"}
        command = {"command": "command", "context": CONTEXT}
        assert extension.ask("command/execute", command) == {"content": "done"}
        assert extension.end() == 0
        assert extension.rest() == [], "each line was a frame, and each frame an answer"
        for place in PLACES:
            for way in WAYS:
                extension.wait_for_stderr(f"{way} in {place}")
        extension.wait_for_stderr(" all the time\n")


def test_what_a_module_prints_before_it_fails_to_import_is_not_on_the_wire() -> None:
    """The wire moves to private descriptors before the user's module is imported."""
    source = """
        import os
        print("printed")
        os.system("echo echoed")
        raise RuntimeError("no")
    """
    with Extension(source, handshake=False) as extension:
        assert extension.wait() != 0
        assert extension.lines.get(timeout=PATIENCE) is None
        extension.wait_for_stderr("printed\n")
        extension.wait_for_stderr("echoed\n")
        extension.wait_for_stderr("RuntimeError: no")


DESCRIPTORS = """
import os
from sepkit import App

def descriptors():
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = [os.readlink(f"/proc/self/fd/{name}"), os.get_inheritable(int(name))]
        except OSError:
            continue  # the one that listed them
    return found

AT_IMPORT = descriptors()
app = App("descriptors")

@app.tool
async def at_import() -> dict:
    return AT_IMPORT

@app.tool
async def now() -> dict:
    return descriptors()
"""


def test_the_wire_is_on_private_descriptors_before_the_import_and_stays_there(loop_kind: LoopKind) -> None:
    """The wire is on private, close-on-exec descriptors; fd 1 is stderr and fd 0 the null device, from start to end."""
    with Extension(DESCRIPTORS, "--loop", loop_kind) as extension:
        wire = wire_of(extension)
        stderr = link_of(extension.stderr_pipe.fileno())
        for tool in ("at_import", "now"):
            held = extension.tool(tool)["details"]
            assert [held[fd][0] for fd in ("0", "1", "2")] == [os.devnull, stderr, stderr]
            holders = {fd: entry for fd, entry in held.items() if entry[0] in wire}
            assert sorted(entry[0] for entry in holders.values()) == sorted(wire)
            assert not any(inheritable for _, inheritable in holders.values())


# -- subprocesses ------------------------------------------------------------------------------------------------------


def link_of(fd: int) -> str:
    """What ``/proc/…/fd`` shows for a descriptor of either end of the same pipe."""
    return os.readlink(f"/proc/self/fd/{fd}")


def wire_of(extension: Extension) -> set[str]:
    """The pipes of the wire, as ``/proc/…/fd`` shows them."""
    return {link_of(extension.stdin.fileno()), link_of(extension.stdout.fileno())}


CHILDREN = """
import asyncio, os, subprocess, sys, time
from sepkit import App

# A child that reads its stdin to the end, then tells what it holds.
CHILD = ["sh", "-c", "cat; echo end-of-file; ls -l /proc/self/fd"]
app = App("children")

@app.tool
async def itself() -> str:
    return "".join(os.readlink(f"/proc/self/fd/{fd}") for fd in range(3, 64) if os.path.exists(f"/proc/self/fd/{fd}"))

@app.tool
def plain() -> str:
    return subprocess.run(CHILD, stdout=subprocess.PIPE, text=True, check=True).stdout

@app.tool
def careless() -> str:
    return subprocess.run(CHILD, stdout=subprocess.PIPE, close_fds=False, text=True, check=True).stdout

@app.tool
async def awaited() -> str:
    child = await asyncio.create_subprocess_exec(*CHILD, stdout=subprocess.PIPE)
    told, _ = await child.communicate()
    return told.decode()

@app.tool
def system() -> str:
    os.system("(cat; echo end-of-file; ls -l /proc/self/fd) > told")
    return open("told").read()

@app.tool
def forked() -> str:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 1)
        print(os.read(0, 1) or "end-of-file", *(os.readlink(f"/proc/self/fd/{fd}") for fd in range(64)
              if os.path.exists(f"/proc/self/fd/{fd}")), flush=True)
        os._exit(0)
    os.close(writer)
    told = b""
    while data := os.read(reader, 65536):
        told += data
    os.waitpid(pid, 0)
    return told.decode()

@app.tool
async def orphans() -> list[int]:
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
        os._exit(0)
    return [child.pid, pid]
"""


def test_a_subprocess_sees_end_of_file_at_once_and_holds_no_descriptor_of_the_wire(loop_kind: LoopKind) -> None:
    """A subprocess reads end-of-file from stdin and holds no descriptor of the wire, however it is started."""
    with Extension(CHILDREN, "--loop", loop_kind) as extension:
        wire = wire_of(extension)
        assert all(pipe in extension.tool("itself")["content"] for pipe in wire), "the search finds what is there"
        rids = {tool: extension.start_tool(tool) for tool in ("plain", "careless", "awaited", "system", "forked")}
        for tool, rid in rids.items():
            told = extension.answer(rid)["result"]["content"]
            assert "end-of-file" in told, tool
            assert not any(pipe in told for pipe in wire), tool


def test_a_grandchild_that_outlives_the_extension_does_not_keep_the_wire_open(loop_kind: LoopKind) -> None:
    """When the extension is gone the host sees both ends of the wire closed, whatever processes it left behind."""
    with Extension(CHILDREN, "--loop", loop_kind) as extension, contextlib.ExitStack() as orphanage:
        orphans = extension.tool("orphans")["details"]
        for pid in orphans:
            orphanage.callback(os.kill, pid, signal.SIGKILL)
        assert extension.ask("shutdown", {}) == {}
        assert extension.rest() == [], "end-of-file on stdout"
        assert extension.wait() == 0
        with pytest.raises(BrokenPipeError):
            extension.write(b"\n")
        for pid in orphans:
            os.kill(pid, 0)  # it lives


# -- lines -------------------------------------------------------------------------------------------------------------


def test_a_frame_of_any_size_passes_both_ways(loop_kind: LoopKind) -> None:
    """Frames of 65,535, 65,536, 65,537 bytes and 10 MiB pass both ways with default settings."""
    asked = len(tool_call(1, "echo", text=""))
    answered = len(b'{"jsonrpc":"2.0","id":1,"result":{"content":""}}\n')
    with Extension(ECHO, "--loop", loop_kind) as extension:
        for size in (65_535, 65_536, 65_537, 10 * MIB):
            text = "".join(chr(97 + at % 26) for at in range(1024)) * (size // 1024 + 1)
            for overhead in (asked, answered):  # first the request has that size, then the answer
                extension.write(tool_call(1, "echo", text=text[: size - overhead]))
                line = extension.lines.get(timeout=PATIENCE)
                assert line is not None
                assert len(line) + 1 == size - overhead + answered
                assert json.loads(line)["result"] == {"content": text[: size - overhead]}


def peak_memory(pid: int) -> int:
    """The most resident memory that a process has had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def test_a_line_that_never_ends_is_one_error_in_bounded_memory(loop_kind: LoopKind) -> None:
    """A line that never ends is capped at ``max_frame_bytes``: one error, the next line is processed."""
    with Extension(ECHO, "--loop", loop_kind, "--max-frame-bytes", str(MIB)) as extension:
        longest = tool_call(1, "echo", text="")
        longest = longest[:-1] + b" " * (MIB - len(longest) + 1) + b"\n"
        extension.write(longest)
        assert extension.answer(1)["result"] == {"content": ""}, "a line of exactly max_frame_bytes is a frame"
        before = peak_memory(extension.process.pid)
        extension.write(longest[:-1] + b" \n")
        for _ in range(64 * 16):
            extension.write(b"x" * 65_536)
        for _ in range(2):  # the second is said before its line ends, if it ever does
            error = extension.answer(None)["error"]
            assert error["code"] == -32600
            assert str(MIB) in error["message"]
        extension.write(b"\n" + frame(2, "ping", {}))
        assert extension.answer(2)["result"] == {}
        # One line and the piece just read, and the allocator's slack; the line itself had 64 MiB.
        assert peak_memory(extension.process.pid) - before < 4 * MIB
        extension.write(b"x" * 65_536)
        assert extension.end() == 0, "end-of-file in the middle of a line"
        answers = [frame for frame in extension.rest() if "method" not in frame]
        assert [answer["id"] for answer in answers] == [None], "one error a line"


def test_the_reader_takes_other_line_ends_and_the_writer_writes_one(loop_kind: LoopKind) -> None:
    r"""The reader takes ``\r\n``, blank lines and one leading BOM; the writer writes exactly ``\n``."""
    text = "a\r\nb\u2028c\x85ä→🎉\n"
    env = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    with Extension(ECHO, "--loop", loop_kind, env=env, handshake=False) as extension:
        extension.write(b"\xef\xbb\xbf" + frame(1, "initialize", HANDSHAKE)[:-1] + b"\r\n\r\n\n  \n")
        extension.write(tool_call(2, "echo", text=text)[:-1] + b"\r\n")
        extension.write(json.dumps(json.loads(tool_call(3, "echo", text=text)), ensure_ascii=False).encode() + b"\n")
        assert extension.end() == 0
        handshake, *lines = iter(extension.lines.get, None)
        assert json.loads(handshake)["result"]["protocol_version"] == 1
        assert [json.loads(line)["id"] for line in lines] == [2, 3], "nothing else was answered"
        for line in lines:
            assert json.loads(line)["result"] == {"content": text}
            assert b"\r" not in line
            assert "ä→🎉".encode() in line


def test_initialize_and_the_first_call_in_one_write_both_succeed(loop_kind: LoopKind) -> None:
    """``initialize`` and a call in one write both succeed, with a slow lifespan and without one."""
    for lifespan in ("", "await asyncio.sleep(0.1)"):
        source = f"""
            import asyncio
            from contextlib import asynccontextmanager
            from sepkit import App, ToolContext

            @asynccontextmanager
            async def lifespan(app):
                {lifespan}
                yield "state"

            app = App("quick", lifespan=lifespan)

            @app.tool
            async def state(ctx: ToolContext) -> str:
                return ctx.state
        """
        with Extension(source, "--loop", loop_kind, handshake=False) as extension:
            extension.write(frame(1, "initialize", HANDSHAKE) + tool_call(2, "state") + frame(3, "ping", {}))
            assert "registrations" in extension.answer(1)["result"]
            assert extension.answer(2)["result"] == {"content": "state"}
            assert extension.answer(3)["result"] == {}


def test_a_call_behind_a_handshake_that_fails_is_refused_and_the_next_handshake_succeeds(loop_kind: LoopKind) -> None:
    """A bad handshake is answered with -32602 and the calls behind it with -32600; the next handshake succeeds."""
    with Extension(ECHO, "--loop", loop_kind, handshake=False) as extension:
        extension.write(frame(1, "initialize", {}) + tool_call(2, "echo", text="too early"))
        assert extension.answer(1)["error"]["code"] == -32602
        assert extension.answer(2)["error"]["code"] == -32600
        extension.write(frame(3, "initialize", HANDSHAKE) + tool_call(4, "echo", text="in time"))
        assert "registrations" in extension.answer(3)["result"]
        assert extension.answer(4)["result"] == {"content": "in time"}
        assert "Traceback" not in extension.stderr


# -- whatever stdin and stdout are -------------------------------------------------------------------------------------

KINDS = ("pipe", "socketpair", "file", "null", "pty", "closed")
CARRIES = ("pipe", "socketpair", "file", "pty")
WATCHED = {"pipe", "socketpair"}
LOOPS: tuple[LoopKind, ...] = ("asyncio", "uvloop")

MARKS = """
import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from sepkit import App

@asynccontextmanager
async def lifespan(app):
    try:
        await asyncio.sleep(0.2)  # end-of-file may come meanwhile
        yield
    finally:
        await asyncio.sleep(0.01)
        Path("ended").touch()

print("printed")
app = App("marks", lifespan=lifespan)

@app.tool
async def greet(name: str) -> str:
    await asyncio.sleep(0.05)
    return f"Hello, {name}!"
"""
CONVERSATION = frame(1, "initialize", HANDSHAKE) + tool_call(2, "greet", name="Ada") + frame(3, "ping", {})
CONTROL_D = b"\x04"


class Ends:
    """Makes ends of whatever kind. The caller closes the child's; ours are closed with ``stack``."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack

    def _ours(self, fd: int) -> int:
        self._stack.callback(os.close, fd)
        return fd

    def _terminal(self) -> tuple[int, int]:
        """Both sides of a terminal, without echo and without changing what is written."""
        ours, theirs = os.openpty()
        mode = termios.tcgetattr(theirs)
        mode[tty.OFLAG] &= ~termios.OPOST
        mode[tty.LFLAG] &= ~termios.ECHO
        termios.tcsetattr(theirs, termios.TCSANOW, mode)
        return self._ours(ours), theirs

    def stdin(self, kind: str, folder: Path, data: bytes) -> tuple[int | None, Callable[[], object]]:
        """The child's descriptor, and what sends ``data`` and end-of-file through it."""
        if kind == "pipe":
            theirs, ours = os.pipe()

            def send_pipe() -> None:
                os.write(ours, data)
                os.close(ours)

            return theirs, send_pipe
        if kind == "socketpair":
            end, other = socket.socketpair()

            def send_socket() -> None:
                end.sendall(data)
                end.close()

            return other.detach(), send_socket
        if kind == "file":
            path = folder / "stdin"
            path.write_bytes(data)
            return os.open(path, os.O_RDONLY), lambda: None
        if kind == "pty":
            ours, theirs = self._terminal()
            return theirs, lambda: os.write(ours, data + CONTROL_D)
        return (os.open(os.devnull, os.O_RDONLY) if kind == "null" else None), lambda: None

    def stdout(self, kind: str, folder: Path) -> tuple[int | None, Callable[[], bytes]]:
        """The child's descriptor, and what gives all that came out of it, once the child is gone."""
        if kind == "file":
            path = folder / "stdout"
            return os.open(path, os.O_WRONLY | os.O_CREAT), path.read_bytes
        if kind == "null":
            return os.open(os.devnull, os.O_WRONLY), lambda: b""
        if kind == "closed":
            return None, lambda: b""
        if kind == "pty":
            ours, theirs = self._terminal()
        else:
            ours, theirs = os.pipe() if kind == "pipe" else (end.detach() for end in socket.socketpair())
            self._ours(ours)
        return theirs, Collected(ours).result


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """Closes at the end of the test what it opened."""
    with contextlib.ExitStack() as stack:
        yield stack


def spawn(
    stack: contextlib.ExitStack, folder: Path, source: str, stdin: int | None, stdout: int | None, *options: str
) -> tuple[subprocess.Popen[bytes], Collected]:
    """Start an extension over any descriptors; None closes one. ``stack`` ends it if nothing else does."""
    (folder / "app.py").write_text(textwrap.dedent(source))
    closing = ("<&- " if stdin is None else "") + (">&- " if stdout is None else "")
    shell = ("sh", "-c", f'exec "$@" {closing}', "sh") if closing else ()
    process = subprocess.Popen(
        [*shell, sys.executable, "-m", "sepkit", "run", "app:app", *options],
        cwd=folder,
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=subprocess.DEVNULL if stdout is None else stdout,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    stack.enter_context(process)
    stack.callback(process.kill)
    assert process.stderr is not None
    return process, Collected(process.stderr.fileno())


def ended_orderly(process: subprocess.Popen[bytes], stderr: Collected) -> str:
    """Check that a process ends with 0, and without a traceback; what it wrote to stderr."""
    code = process.wait(PATIENCE)
    said = stderr.result().decode()
    assert code == 0, said
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("stdin", KINDS)
def test_stdin_and_stdout_may_be_anything(
    loop_kind: LoopKind, stdin: str, tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    """Stdin and stdout may be a pipe, a socketpair, a regular file, ``/dev/null``, a pty or closed."""
    ends = Ends(stack)
    running = []
    for stdout in KINDS:
        # What no loop watches, but a thread reads or nobody does, is tried on one of them, by turns.
        if not {stdin, stdout} & WATCHED and LOOPS[(KINDS.index(stdin) + KINDS.index(stdout)) % 2] != loop_kind:
            continue
        folder = tmp_path / stdout
        folder.mkdir()
        reads, send = ends.stdin(stdin, folder, CONVERSATION)
        writes, output = ends.stdout(stdout, folder)
        process, stderr = spawn(stack, folder, MARKS, reads, writes, "--loop", loop_kind)
        # Ours too would keep it open, and its end would never come.
        for fd in (reads, writes):
            if fd is not None:
                os.close(fd)
        running.append((stdout, folder, process, stderr, output))
        send()
    for stdout, folder, process, stderr, output in running:
        said = ended_orderly(process, stderr)
        if stdout != "closed":  # there is no sys.stdout then
            assert "printed\n" in said, stdout
        answers = {answer["id"]: answer for answer in map(json.loads, output().splitlines())}
        if stdin in CARRIES and stdout in CARRIES:
            assert sorted(answers) == [1, 2, 3], stdout
            assert answers[2]["result"] == {"content": "Hello, Ada!"}, stdout
        else:
            assert answers == {}, stdout
        assert (folder / "ended").exists() == (stdin in CARRIES), f"{stdout}: the lifespan ends where it began"


def test_a_conversation_in_a_file_is_answered_into_a_file(
    loop_kind: LoopKind, tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    """Stdin may be a regular file with a whole conversation, and stdout one that receives all answers."""
    count = 1000
    with (tmp_path / "in").open("wb") as into:
        into.write(frame(0, "initialize", HANDSHAKE))
        into.writelines(tool_call(rid, "greet", name=f"{rid} " + "x" * 300) for rid in range(1, count))
        into.write(frame(count, "shutdown", {}))
    with (tmp_path / "in").open("rb") as stdin, (tmp_path / "out").open("wb") as stdout:
        ended_orderly(*spawn(stack, tmp_path, MARKS, stdin.fileno(), stdout.fileno(), "--loop", loop_kind))
    answers = [json.loads(line) for line in (tmp_path / "out").read_bytes().splitlines()]
    assert sorted(answer["id"] for answer in answers) == list(range(count + 1))
    assert answers[0]["id"] == 0
    assert answers[-1] == {"jsonrpc": "2.0", "id": count, "result": {}}
    for answer in answers[1:-1]:
        assert answer["result"]["content"].startswith(f"Hello, {answer['id']} ")


def test_one_socket_may_be_both_stdin_and_stdout(
    loop_kind: LoopKind, tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    """One socket may be both stdin and stdout, as inetd starts a program."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process, stderr = spawn(stack, tmp_path, MARKS, theirs.fileno(), theirs.fileno(), "--loop", loop_kind)
        collected = Collected(ours.fileno())
        ours.sendall(CONVERSATION)
        ours.shutdown(socket.SHUT_WR)
        ended_orderly(process, stderr)
        assert os.get_blocking(theirs.fileno()), "whoever else uses it finds it as it was"
        theirs.close()
        answers = {answer["id"]: answer for answer in map(json.loads, collected.result().splitlines())}
    assert sorted(answers) == [1, 2, 3]
    assert answers[2]["result"] == {"content": "Hello, Ada!"}


def test_one_terminal_may_be_all_of_it(loop_kind: LoopKind, tmp_path: Path, stack: contextlib.ExitStack) -> None:
    """A person can type frames into a terminal that echoes, and end with Ctrl+D."""
    (tmp_path / "app.py").write_text(MARKS)
    host, child = os.openpty()
    stack.callback(os.close, host)
    flags_before = fcntl.fcntl(child, fcntl.F_GETFL)
    process = subprocess.Popen(
        [sys.executable, "-m", "sepkit", "run", "app:app", "--loop", loop_kind],
        cwd=tmp_path,
        stdin=child,
        stdout=child,
        stderr=child,
        start_new_session=True,
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    try:
        os.write(host, CONVERSATION)
        seen = b""
        deadline = time.monotonic() + PATIENCE
        while b"Hello, Ada!" not in seen:
            assert time.monotonic() < deadline, seen
            seen += os.read(host, 65_536)
        os.write(host, CONTROL_D)
        assert process.wait(PATIENCE) == 0
        assert fcntl.fcntl(child, fcntl.F_GETFL) == flags_before, "the shell goes on in that terminal"
    finally:
        os.close(child)
    answers = [json.loads(line) for line in seen.splitlines() if b'"result"' in line]
    assert {answer["id"] for answer in answers} >= {1, 2}
    assert b"Traceback" not in seen
