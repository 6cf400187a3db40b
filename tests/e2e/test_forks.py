"""What is forked in an extension is an ordinary process, and the extension goes on as if nothing had been.

Default signals, log lines on stderr, ``sys.exit`` ends it, nothing of the wire or the loop within reach; and no child
of multiprocessing outlives the extension.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from sepkit import App, ToolContext
from sepkit.errors import ConnectionClosed
from sepkit.faces.runner import LoopKind, new_loop
from sepkit.testing import TestHost
from tests.driver import CONTEXT, EVENT_CONTEXT, PATIENCE, Extension

HEAD: Final = """
import asyncio, logging, multiprocessing, os, signal, socket, subprocess, sys, threading, time
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from sepkit import *

FORK = multiprocessing.get_context("fork")
log = logging.getLogger("author")

def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

"""

WORK: Final = (
    HEAD
    + """
def work(path, lines=400):
    with open(path, "w") as file:
        file.write("begin\\n")
        file.flush()
        ours, theirs = socket.socketpair()
        for number in range(lines):
            log.info("line %d of the child", number)
        ours.send(b"end\\n")
        file.write(theirs.recv(100_000).decode())
        file.flush()

@asynccontextmanager
async def lifespan(app):
    with FORK.Pool(2) as pool, ProcessPoolExecutor(2, mp_context=FORK) as executor:
        yield {"pool": pool, "executor": executor}

app = App("forks", lifespan=lifespan)

def read(path):
    with open(path) as file:
        return file.read()

@app.tool
def process_of_a_thread(path: str) -> str:
    child = FORK.Process(target=work, args=(path,))
    child.start()
    child.join()
    return read(path)

@app.tool
async def process_of_the_loop(path: str) -> str:
    child = FORK.Process(target=work, args=(path,))
    child.start()
    await asyncio.to_thread(child.join)
    return read(path)

@app.tool
def pool_of_the_lifespan(path: str, ctx: ToolContext) -> str:
    ctx.state["pool"].apply(work, (path, 400))
    return read(path)

@app.tool
async def executor_of_the_lifespan(path: str, ctx: ToolContext) -> str:
    await asyncio.get_running_loop().run_in_executor(ctx.state["executor"], work, path)
    return read(path)

@app.tool
def fork_of_a_thread(path: str) -> str:
    if (pid := os.fork()) == 0:
        work(path)
        os._exit(0)
    ended(pid)
    return read(path)

@app.tool
async def child_of_a_child(path: str) -> str:
    if (pid := os.fork()) == 0:
        kept = [open(path + str(number), "w") for number in range(8)]  # on the numbers that were the wire's, too
        if (inner := os.fork()) == 0:
            work(path)
            for file in kept:
                file.write("still mine")
                file.flush()
            sys.exit(0)
        sys.exit(ended(inner))
    assert ended(pid) == 0
    assert all(read(path + str(number)) == "still mine" for number in range(8))
    return read(path)

@app.tool
def forkserver(path: str) -> str:
    child = multiprocessing.get_context("forkserver").Process(target=work, args=(path,))
    child.start()
    child.join()
    return read(path)
"""
)


@pytest.mark.parametrize("by", ["process", "pool", "fork"])
def test_what_a_child_writes_to_a_file_or_a_socket_is_what_arrives_there(
    loop_kind: LoopKind, by: str, tmp_path: Path
) -> None:
    """No log frame goes to whatever has the number that was the wire's; each line of the child's log is on stderr."""
    tools = {
        "process": ["process_of_a_thread", "process_of_the_loop"],
        "pool": ["pool_of_the_lifespan", "executor_of_the_lifespan", "pool_of_the_lifespan"],
        "fork": ["fork_of_a_thread", "child_of_a_child"],
    }[by]
    with Extension(WORK, "--loop", loop_kind) as extension:
        for number, tool in enumerate(tools):
            assert extension.tool(tool, path=str(tmp_path / str(number))) == {"content": "begin\nend\n"}, tool
        extension.ping()
        assert extension.end() == 0
        assert not [frame for frame in extension.rest() if frame["method"] != "log"]
        told = [line.rpartition(": ")[2] for line in extension.stderr.splitlines() if "of the child" in line]
        for number in range(400):
            assert told.count(f"line {number} of the child") == len(tools)


def test_a_forkserver_serves_an_extension(tmp_path: Path) -> None:
    """Its server and its children are not forks of the extension, and hold nothing of the wire."""
    with Extension(WORK) as extension:
        assert extension.tool("forkserver", path=str(tmp_path / "file")) == {"content": "begin\nend\n"}
        assert extension.end() == 0


SIGNALS: Final = (
    HEAD
    + """
app = App("signals")

def describe(queue):
    queue.put([str(signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)])

@app.tool
async def pool() -> str:
    with FORK.Pool(1) as pool:
        pool.apply_async(time.sleep, (600,))
        ready = pool.apply_async(os.getpid)  # never begins
        assert not ready.ready()
    return "left"

@app.tool
def terminated() -> int:
    child = FORK.Process(target=time.sleep, args=(600,))
    child.start()
    child.terminate()  # at once: it may not even have let go of anything yet
    child.join()
    return child.exitcode

@app.tool
async def terminated_by_the_loop() -> int:
    child = FORK.Process(target=time.sleep, args=(600,))
    child.start()
    child.terminate()
    await asyncio.to_thread(child.join)
    return child.exitcode

@app.tool
async def handlers() -> list[str]:
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, lambda: log.info("a signal for the parent"))
    queue = FORK.SimpleQueue()
    child = FORK.Process(target=describe, args=(queue,))
    child.start()
    return await asyncio.to_thread(queue.get)

@app.tool
async def signalled() -> int:
    child = FORK.Process(target=time.sleep, args=(600,))
    child.start()
    os.kill(child.pid, signal.SIGUSR1)
    await asyncio.to_thread(child.join)
    return child.exitcode
"""
)


def test_a_child_has_the_signals_of_an_ordinary_process(loop_kind: LoopKind) -> None:
    """``terminate`` ends it, a busy pool can be left, and what the loop does on a signal is not done in its stead."""
    with Extension(SIGNALS, "--loop", loop_kind) as extension:
        assert extension.tool("pool") == {"content": "left"}
        for _ in range(5):
            assert extension.tool("terminated")["details"] == -signal.SIGTERM
            assert extension.tool("terminated_by_the_loop")["details"] == -signal.SIGTERM
        term, interrupt, own = extension.tool("handlers")["details"]
        assert "SIG_DFL" in term or term == "0"
        assert "default_int_handler" in interrupt
        assert "SIG_DFL" in own or own == "0"
        assert extension.tool("signalled")["details"] == -signal.SIGUSR1
        extension.ping()
        assert "a signal for the parent" not in extension.stderr
        os.kill(extension.process.pid, signal.SIGTERM)
        assert extension.wait() == 0, "the extension's own signals are as they were"


ENDS: Final = (
    HEAD
    + """
def child(how):
    if how == "exit":
        sys.exit(7)
    if how == "text":
        sys.exit("some text")
    if how == "raise":
        raise ValueError("of the child")
    if how == "give up":
        raise ToolError("of the child")
    if how == "loop":
        async def work():
            reader, writer = await asyncio.open_connection(sock=socket.socketpair()[0])
            writer.close()
            return 5
        sys.exit(asyncio.run(work()))
    if how == "thread":
        threading.Thread(target=lambda: (time.sleep(0.01), log.info("of the child's thread")), daemon=False).start()
    return "returned"

def forked(how):
    if (pid := os.fork()) == 0:
        return child(how)
    return ended(pid)

@asynccontextmanager
async def lifespan(app):
    log.info("lifespan: %s", forked("exit"))
    yield

app = App("ends", lifespan=lifespan)

@app.tool
async def of_the_loop(how: str) -> int:
    return forked(how)

@app.tool
async def later_of_the_loop(how: str) -> int:
    await asyncio.sleep(0)
    return forked(how)

@app.tool
def of_a_thread(how: str) -> int:
    return forked(how)

@app.tool
async def of_an_executor(how: str) -> int:
    return await asyncio.to_thread(forked, how)

@app.tool(timeout=60)
async def with_a_time_limit(how: str) -> int:
    return forked(how)

@app.tool
async def of_a_task(how: str) -> int:
    async def work():
        return forked(how)
    return await asyncio.create_task(work())

@app.tool
async def other() -> str:
    log.info("the other tool in %d", os.getpid())
    return "other"

@app.on("turn_start")
async def observe(payload: dict) -> None:
    log.info("event: %s", forked(payload["how"]))

@app.hook("tool_call")
async def hook(call: ToolCall) -> None:
    log.info("hook: %s", forked(call.tool))

@app.command
async def command(how: str) -> str:
    return str(forked(how))

@app.task(autostart=True)
async def task() -> None:
    log.info("task: %s", forked("exit"))
"""
)

CODES: Final = {"exit": 7, "text": 1, "raise": 1, "give up": 1, "loop": 5, "thread": 0, "return": 0}


@pytest.mark.parametrize(
    "tool", ["of_the_loop", "later_of_the_loop", "of_a_thread", "of_an_executor", "with_a_time_limit", "of_a_task"]
)
def test_a_child_of_a_tool_ends_as_a_program_does_and_only_the_parent_answers(loop_kind: LoopKind, tool: str) -> None:
    """``sys.exit``, an exception and a ``return`` end it, with Python's exit codes; nothing runs twice."""
    with Extension(ENDS, "--loop", loop_kind) as extension:
        for how, code in CODES.items():
            # In one write with another call: what waits for its turn must not have it in the child.
            extension.write(
                b"".join(
                    b'{"jsonrpc":"2.0","id":%d,"method":"tool/execute","params":{"call_id":"%d","tool":"%b",'
                    b'"arguments":%b,"context":{"token":"epoch-1","tier":"command"}}}\n' % (rid, rid, name, arguments)
                    for rid, name, arguments in (
                        (1, tool.encode(), b'{"how":"%b"}' % how.encode()),
                        (2, b"other", b"{}"),
                    )
                )
            )
            assert extension.answer(1)["result"] == {"content": str(code), "details": code}, how
            assert extension.answer(2)["result"] == {"content": "other"}
        extension.ping()
        assert extension.end() == 0
        assert not [frame for frame in extension.rest() if frame["method"] != "log"]
        for text in ("ValueError: of the child", "some text\n", "of the child's thread"):
            extension.wait_for_stderr(text)
        ran_in = {line.split()[-1] for line in extension.stderr.splitlines() if "the other tool in" in line}
        assert ran_in == {str(extension.process.pid)}


def test_a_child_of_any_other_handler_ends_as_a_program_does(loop_kind: LoopKind) -> None:
    """Events, hooks, commands, background tasks, and the lifespan."""
    with Extension(ENDS, "--loop", loop_kind) as extension:
        extension.wait_for_stderr("lifespan: 7")
        extension.wait_for_stderr("task: 7")
        for how, code in (("exit", 7), ("raise", 1), ("return", 0)):
            params = {"event": "turn_start", "context": EVENT_CONTEXT, "seq": 1, "payload": {"how": how}}
            extension.notify("event", params)
            extension.wait_for_stderr(f"event: {code}")
            asked = {"hook": "tool_call", "input": {"tool": how, "arguments": {}}, "context": CONTEXT}
            assert extension.ask("hook", asked) == {"action": "continue"}
            extension.wait_for_stderr(f"hook: {code}")
            params = {"command": "command", "arguments": {"how": how}, "context": CONTEXT}
            assert extension.ask("command/execute", params) == {"content": str(code)}
        assert extension.end() == 0


BATCH: Final = (
    HEAD
    + """
app = App("batch")

@app.on("turn_start")
async def forks(payload: dict):
    if os.fork() == 0 and payload["waits"]:
        await asyncio.sleep(0)

@app.on("turn_start")
async def other(payload: dict):
    print("other in", os.getpid(), file=sys.stderr, flush=True)

@app.tool
async def tool():
    return "tool"
"""
)


def test_a_child_that_is_forked_in_the_middle_of_a_batch_takes_nothing_of_the_rest(loop_kind: LoopKind) -> None:
    """Neither the other handlers of the event nor the calls behind it; and it says nothing."""
    with Extension(BATCH, "--loop", loop_kind) as extension:
        for rid, waits in ((1, b"false"), (2, b"true")):
            extension.write(
                b'{"jsonrpc":"2.0","method":"event","params":{"event":"turn_start","seq":%d,"payload":{"waits":%b},'
                b'"context":{"token":"epoch-1","tier":"event"}}}\n'
                b'{"jsonrpc":"2.0","id":%d,"method":"tool/execute","params":{"call_id":"c","tool":"tool",'
                b'"arguments":{},"context":{"token":"epoch-1","tier":"command"}}}\n' % (rid, waits, rid)
            )
            assert extension.answer(rid)["result"] == {"content": "tool"}
        extension.ping()
        assert extension.end() == 0
        said = {line for line in extension.stderr.splitlines() if line.strip()}
        assert said == {f"other in {extension.process.pid}"}


REACH: Final = (
    HEAD
    + """
app = App("reach")

def told(what):
    try:
        what()
    except BaseException as error:
        return type(error).__name__
    return "nothing"

@app.tool
async def child_reaches_for_the_host(ctx: ToolContext) -> dict:
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        ctx.update("from the child")
        ctx.log.info("a line of the child")
        found = [told(asyncio.get_running_loop), told(lambda: asyncio.run(ctx.kv.get("x")))]
        os.write(writer, " ".join(found).encode())
        os._exit(0)
    assert ended(pid) == 0
    return {"told": os.read(reader, 1000).decode()}

@app.tool
async def child_leaves_the_loop_alone() -> str:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    came = loop.create_future()
    loop.add_reader(ours, lambda: came.done() or came.set_result(ours.recv(100)))
    await asyncio.sleep(0.01)  # now it polls
    if (pid := os.fork()) == 0:
        loop.remove_reader(ours)  # as destructors of many libraries do
        ours.close()
        os._exit(0)
    assert ended(pid) == 0
    theirs.send(b"it came")
    return (await asyncio.wait_for(came, 10)).decode()

@app.tool
async def subprocesses() -> list[int]:
    hooked = subprocess.run(["true"], preexec_fn=lambda: log.info("in the child"))
    child = await asyncio.create_subprocess_exec("true")
    other = await asyncio.create_subprocess_exec("true", preexec_fn=lambda: None)
    blocked = "grep", "SigBlk", "/proc/self/status"
    of_loop = await asyncio.create_subprocess_exec(*blocked, stdout=subprocess.PIPE)
    assert (await of_loop.communicate())[0].split()[1] == b"0" * 16, "signals reach it"
    of_hook = subprocess.run(blocked, preexec_fn=lambda: None, capture_output=True)
    assert of_hook.stdout.split()[1] == b"0" * 16, "signals reach it"
    return [hooked.returncode, await child.wait(), await other.wait()]
"""
)


def test_a_child_reaches_neither_the_host_nor_the_loop(loop_kind: LoopKind) -> None:
    """What it tells goes nowhere, what it asks fails, and what it takes out of the loop stays in the parent's."""
    with Extension(REACH, "--loop", loop_kind) as extension:
        result = extension.tool("child_reaches_for_the_host")
        assert result["details"] == {"told": "RuntimeError ConnectionClosed"}
        assert "a line of the child" in extension.wait_for_stderr("a line of the child")
        assert extension.tool("child_leaves_the_loop_alone") == {"content": "it came"}
        assert extension.tool("subprocesses")["details"] == [0, 0, 0]
        extension.wait_for_stderr("in the child")
        extension.ping()
        assert extension.end() == 0
        assert not extension.rest()


CHILDREN: Final = (
    HEAD
    + """
app = App("children")

@app.tool
def children() -> list[int]:
    daemon = FORK.Process(target=time.sleep, args=(600,), daemon=True)
    other = FORK.Process(target=time.sleep, args=(600,))
    daemon.start()
    other.start()
    return [daemon.pid, other.pid]

@app.tool
def daemon() -> list[int]:
    child = FORK.Process(target=time.sleep, args=(600,), daemon=True)
    child.start()
    return [child.pid]

@app.tool
def stuck_thread() -> None:
    threading.Thread(target=time.sleep, args=(600,)).start()

@app.tool
def pool() -> list[int]:
    app.pool = ProcessPoolExecutor(1, mp_context=FORK)
    pid = app.pool.submit(os.getpid).result()
    app.pool.submit(time.sleep, 600)
    return [pid]

@app.tool
def leave_and_fork() -> int:  # a child that ends by itself takes no child of its parent's with it
    if (pid := os.fork()) == 0:
        sys.exit(3)
    return ended(pid)
"""
)


def lives(pid: int) -> bool:
    """Whether a process is there, and is not a zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + PATIENCE
    while left := [pid for pid in pids if lives(pid)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.005)


@contextlib.contextmanager
def killed_at_the_end(pids: list[int]) -> Iterator[None]:
    """Kill what is left of ``pids``, so that a failed test leaves nothing behind."""
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("end", ["end-of-file", "end-of-file with a stuck thread", "two signals"])
def test_no_child_of_multiprocessing_outlives_the_extension(end: str) -> None:
    """Python ends the daemons and waits for the others; the extension does not wait, and ends them all."""
    with Extension(CHILDREN) as extension:
        pids = [pid for tool in ("children", "pool") for pid in extension.tool(tool)["details"]]
        with killed_at_the_end(pids):
            assert all(map(lives, pids))
            if end == "two signals":
                extension.start_tool("stuck_thread")
                extension.ping()
                os.kill(extension.process.pid, signal.SIGTERM)
                extension.lines.get(timeout=PATIENCE)
                os.kill(extension.process.pid, signal.SIGTERM)
                extension.wait()
            else:
                if "stuck" in end:
                    extension.tool("stuck_thread")
                assert extension.end() == 0
            wait_until_gone(pids)


def test_the_end_of_a_child_leaves_its_parents_other_children_alone() -> None:
    """A fork has a copy of multiprocessing's list of children; those are not its own."""
    with Extension(CHILDREN) as extension:
        pids = extension.tool("daemon")["details"]
        with killed_at_the_end(pids):
            assert extension.tool("leave_and_fork")["details"] == 3
            assert all(map(lives, pids))


def test_a_child_under_a_test_host_does_not_go_on_with_the_test(loop_kind: LoopKind) -> None:
    """It ends as in a real process, whatever ends it: the test is its parent's."""
    app = App("forks")

    def ended(pid: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    @app.tool
    async def forked(code: int) -> int:
        if (pid := os.fork()) == 0:
            if code:
                sys.exit(code)
            return code
        return ended(pid)

    @app.tool
    def of_a_thread(code: int, ctx: ToolContext) -> int:
        if (pid := os.fork()) == 0:
            try:
                ctx.wait(ctx.kv.get("x"))
            except ConnectionClosed:
                sys.exit(code)
        return ended(pid)

    async def work() -> None:
        async with TestHost(app) as host:
            for code in (7, 0):
                assert (await host.call_tool("forked", {"code": code})).details == code
                assert (await host.call_tool("of_a_thread", {"code": code})).details == code

    with asyncio.Runner(loop_factory=lambda: new_loop(loop_kind)) as runner:
        runner.run(work())
