"""What an extension stands: floods in both directions, a host that does not read, more calls than it has slots for.

Longer where ``SEPKIT_SOAK`` is set.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sepkit.faces.runner import LoopKind
from sepkit.transports import HIGH_WATER
from tests.driver import CONTEXT, EVENT_CONTEXT, PATIENCE, Collected, Extension

SOAK = bool(os.environ.get("SEPKIT_SOAK"))
KIB, MIB = 1024, 1024 * 1024
LOOPS: tuple[LoopKind, ...] = ("asyncio", "uvloop")


def best_of(attempts: int, measure: Callable[[], float], limit: float) -> float:
    """The best of some measurements: what else the machine does is no fault of ours. Stops below ``limit``."""
    best = measure()
    for _ in range(attempts - 1):
        if best < limit:
            break
        best = min(best, measure())
    return best


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """Ends at the end of the test what it started."""
    with contextlib.ExitStack() as stack:
        yield stack


# -- many large replies ------------------------------------------------------------------------------------------------

LARGE = """
import asyncio, logging, threading
from sepkit import App, ToolContext

app = App("large")
over = threading.Event()

@app.tool
async def large(number: int, size: int, delay: float = 0) -> str:
    await asyncio.sleep(delay)
    return f"{number} " * (size // len(f"{number} "))

@app.tool
async def length(text: str) -> int:
    return len(text)

def chatter(ctx, name):
    number = 0
    while not over.is_set():
        ctx.update(f"{name} {number}", details={"name": name})
        logging.info("%s %d", name, number)
        number += 1
        over.wait(0.0002)

@app.tool
async def chat(threads: int, ctx: ToolContext) -> None:
    running = [threading.Thread(target=chatter, args=(ctx, name)) for name in range(threads)]
    for thread in running:
        thread.start()
    while not over.is_set():
        await asyncio.sleep(0.01)
    for thread in running:
        thread.join()

@app.tool
async def hush() -> None:
    over.set()

@app.tool
def updates(threads: int, count: int, ctx: ToolContext) -> str:
    def tell(name):
        for number in range(count):
            ctx.update(f"{name} {number}")

    running = [threading.Thread(target=tell, args=(name,)) for name in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return "told"
"""


def repeated(number: int, size: int) -> str:
    """What the tool ``large`` returns."""
    return f"{number} " * (size // len(f"{number} "))


def test_two_hundred_large_replies_at_once_are_whole_lines(loop_kind: LoopKind) -> None:
    """200 replies of 256 KiB at once, with notifications from threads between them: every line parses."""
    count = 200
    with Extension(LARGE, "--loop", loop_kind) as extension:
        chat = extension.start_tool("chat", threads=4)
        while (frame := extension.next_frame()) is not None and frame.get("method") != "tool/update":
            continue
        # A little apart: while more than the mark waits for the host, notifications are dropped.
        rids = {
            extension.start_tool("large", number=number, size=256 * KIB, delay=number * 0.002): number
            for number in range(count)
        }
        answered, between = 0, 0
        while answered < count:
            frame = extension.next_frame()  # which it would fail to parse
            assert frame is not None
            if frame.get("id") in rids:
                assert frame["result"] == {"content": repeated(rids.pop(frame["id"]), 256 * KIB)}
                answered += 1
            else:
                assert frame["method"] in ("tool/update", "log")
                between += 0 < answered < count
        assert between, "some notifications came between the replies"
        extension.tool("hush")
        assert "result" in extension.answer(chat)
        assert extension.end() == 0
        extension.rest()


def test_sixteen_threads_tell_their_progress_at_once(loop_kind: LoopKind) -> None:
    """Nothing is lost below the mark, each thread's updates keep their order, and all precede the reply."""
    threads, count = 16, 500  # together below the mark, wherever the host stands
    with Extension(LARGE, "--loop", loop_kind) as extension:
        for _ in range(2):
            rid = extension.start_tool("updates", threads=threads, count=count)
            told: dict[str, list[int]] = defaultdict(list)
            while (frame := extension.next_frame()) is not None and frame.get("id") != rid:
                assert frame["params"]["call_id"] == f"call-{rid}"
                name, number = frame["params"]["message"].split()
                told[name].append(int(number))
            assert frame is not None
            assert frame["result"] == {"content": "told"}
            assert told == {str(name): list(range(count)) for name in range(threads)}


# -- nobody reads stderr -----------------------------------------------------------------------------------------------

LOGS = """
import asyncio, logging
from sepkit import App

app = App("logs")
RECORD = "%d " + "x" * 1017

@app.tool
def in_thread(count: int) -> None:
    for number in range(count):
        logging.info(RECORD, number)

@app.tool
async def in_loop(count: int) -> None:
    for number in range(count):
        logging.info(RECORD, number)
        if number % 10 == 0:
            await asyncio.sleep(0)
"""


@pytest.mark.parametrize("tool", ["in_thread", "in_loop"])
def test_logging_for_nobody_delays_nothing(loop_kind: LoopKind, tool: str) -> None:
    """If nothing reads stderr, 10 MiB of ``logging.info`` delays a ping by less than 100 ms.

    What was dropped is counted and said once.
    """
    count = 10 * KIB
    with Extension(LOGS, "--loop", loop_kind, "--log-level", "info", read_stderr=False) as extension:
        floods = 0

        def slowest_ping() -> float:
            nonlocal floods
            floods += 1
            slowest, pings = 0.0, 0
            rid = extension.start_tool(tool, count=count)
            while True:
                began = time.monotonic()
                ping = extension.request("ping", {})
                while (frame := extension.next_frame()) is not None and frame.get("id") != ping:
                    if frame.get("id") == rid:
                        assert "result" in frame
                        assert pings
                        extension.answer(ping)
                        return slowest
                slowest = max(slowest, time.monotonic() - began)
                pings += 1

        assert best_of(6, slowest_ping, 0.1) < 0.5  # 0.1 s is promised; a busy machine takes what it likes
        stderr = Collected(extension.stderr_pipe.fileno())
        assert extension.end() == 0
        said = stderr.result().decode()
    dropped = re.findall(r"\((\d+) log records were dropped here: nobody read stderr\)\n", said)
    written = said.count(" INFO    root: ")
    # On a busy machine a warning of the watch may be among those that were dropped.
    assert floods * count <= sum(map(int, dropped)) + written <= floods * count + 5
    assert MIB <= len(said) < 2 * MIB, "what fits is kept"


# -- the peer does not read --------------------------------------------------------------------------------------------

FIREHOSE = """
import asyncio, time
from contextlib import asynccontextmanager
from pathlib import Path
from sepkit import App
from sepkit.wire.messages import Delta

produced = {"deltas": 0, "replies": 0}
worst = 0.0
snapshot = {}

def peak_memory():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024

@asynccontextmanager
async def lifespan(app):
    task = asyncio.create_task(watch())
    yield
    task.cancel()

async def watch():
    global worst
    while True:
        before = time.monotonic()
        await asyncio.sleep(0.005)
        worst = max(worst, time.monotonic() - before - 0.005)

app = App("firehose", lifespan=lifespan)

@app.provider("firehose")
async def firehose(request: dict):
    for number in range(request["messages"][0]["count"]):
        piece = f"{number} "
        produced["deltas"] += 64 * 1024
        yield Delta(piece * (64 * 1024 // len(piece)))

@app.tool
async def reply(number: int) -> str:
    produced["replies"] += 256 * 1024
    return f"{number} " * (256 * 1024 // len(f"{number} "))

@app.tool
async def begin() -> int:
    global worst
    worst = 0.0
    produced.update(deltas=0, replies=0)
    return peak_memory()

@app.on("turn_end")
async def take_snapshot(payload: dict):
    snapshot.update(produced, worst=worst, memory=peak_memory())
    Path("snapshot").touch()

@app.tool
async def report() -> dict:
    return snapshot
"""


def test_a_host_that_does_not_read_holds_up_the_senders_and_nothing_else(stack: contextlib.ExitStack) -> None:
    """The peer does not read for 5 s with 10 MiB waiting: the loop runs on, and senders wait.

    The loop's lag stays < 50 ms, senders wait, memory stays under the mark, order holds.
    """
    extensions = [stack.enter_context(Extension(FIREHOSE, "--loop", loop)) for loop in LOOPS]
    lags: dict[Extension, float] = dict.fromkeys(extensions, 1.0)

    def largest_lag() -> float:
        for extension, lag in held_up(extensions).items():
            lags[extension] = min(lag, lags[extension])
        return max(lags.values())

    assert best_of(3, largest_lag, 0.05) < 0.05


def held_up(extensions: list[Extension]) -> dict[Extension, float]:
    """Have each extension send 10 MiB of deltas and 10 MiB of replies to a host that does not read; each loop's lag."""
    deltas, replies = 160, 40
    params = {"request_id": "1", "provider": "firehose", "model": "m", "stream": True, "messages": [{"count": deltas}]}
    waiting, lags = [], {}
    for extension in extensions:
        memory = extension.tool("begin")["details"]
        extension.pause()
        provider = extension.request("provider/complete", params)
        rids = {extension.start_tool("reply", number=number): number for number in range(replies)}
        waiting.append((extension, memory, provider, rids))
    time.sleep(5 if SOAK else 2)
    for extension, memory, provider, rids in waiting:
        snapshot = extension.folder / "snapshot"
        extension.notify("event", {"event": "turn_end", "context": EVENT_CONTEXT})
        deadline = time.monotonic() + PATIENCE
        while not snapshot.exists():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        snapshot.unlink()
        extension.resume()
        numbers: list[int] = []
        answered: list[int] = []
        while len(answered) < len(rids) + 1:
            frame = extension.next_frame()
            assert frame is not None
            if frame.get("method") == "provider/delta":
                content = frame["params"]["event"]["content"]
                number = content.partition(" ")[0]
                assert content == f"{number} " * (64 * KIB // len(f"{number} "))
                assert provider not in answered
                numbers.append(int(number))
            elif frame.get("id") in rids:
                assert frame["result"] == {"content": repeated(rids[frame["id"]], 256 * KIB)}
                answered.append(frame["id"])
            elif frame.get("id") == provider:
                assert len(frame["result"]["content"]) == sum(
                    64 * KIB // len(f"{number} ") * len(f"{number} ") for number in range(deltas)
                )
                answered.append(provider)
        assert numbers == list(range(deltas)), "the order holds"
        assert sorted(answered) == sorted([provider, *rids]), "one answer each"
        report = extension.tool("report")["details"]
        # The mark, what the pipe and a reader hold, and the one that crossed the mark.
        assert report["deltas"] + report["replies"] < HIGH_WATER + 128 * KIB + 2 * 256 * KIB, report
        assert report["memory"] - memory < 4 * MIB, report
        lags[extension] = report["worst"]
    return lags


# -- both at once ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [1, 160])
def test_both_sides_send_ten_mebibytes_at_the_same_moment(loop_kind: LoopKind, pieces: int) -> None:
    """Both sides finish, even if the host reads nothing until it has written everything."""
    size = 10 * MIB // pieces
    with Extension(LARGE, "--loop", loop_kind) as extension:
        extension.pause()
        larges = {extension.start_tool("large", number=number, size=size): number for number in range(pieces)}
        lengths: list[int] = []

        def send() -> None:
            lengths.extend(extension.start_tool("length", text="y" * size) for _ in range(pieces))

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        sender.join(PATIENCE)
        assert not sender.is_alive(), "it has stopped reading, since nobody reads from it"
        extension.resume()
        for rid, number in larges.items():
            assert extension.answer(rid)["result"] == {"content": repeated(number, size)}
        for rid in lengths:
            assert extension.answer(rid)["result"]["details"] == size


# -- more calls than slots ---------------------------------------------------------------------------------------------

BUSY = """
import asyncio
from sepkit import App, EventContext, ToolContext

app = App("busy")
gate = asyncio.Event()
running = most = 0
events = []

@app.tool
async def wait(number: int) -> int:
    global running, most
    running += 1
    most = max(most, running)
    try:
        await gate.wait()
    finally:
        running -= 1
    return number

@app.tool
async def ask(ctx: ToolContext) -> str:
    return await ctx.kv.get("key", str)

@app.hook("input")
async def hook(value: dict):
    return {"text": "seen"}

@app.on("turn_start")
async def on_turn(payload: dict, ctx: EventContext):
    await ctx.kv.set("observed", True)

@app.command
async def release() -> str:
    gate.set()
    return "released"

@app.tool
async def most_at_once() -> int:
    return most
"""


def test_calls_past_the_limit_wait_and_past_that_are_refused_and_nothing_else_waits(loop_kind: LoopKind) -> None:
    """Calls past ``max_concurrency`` wait in a bounded queue; past that they are refused at once.

    As overloaded, that is; ping, cancel, hooks, commands and replies never wait.
    """
    slots, queue, past = 4, 1024, 20
    with Extension(BUSY, "--loop", loop_kind, "--max-concurrency", str(slots), "--log-level", "error") as extension:
        # One that waits for the host, and has lent its slot.
        asking = extension.start_tool("ask")
        asked = extension.next_frame()
        assert asked is not None
        assert asked["method"] == "kv/get"

        running = [extension.start_tool("wait", number=number) for number in range(slots)]
        queued = [extension.start_tool("wait", number=number) for number in range(queue)]
        for number in range(past):
            error = extension.answer(extension.start_tool("wait", number=number))["error"]
            assert error["code"] == -32603
            assert error["data"] == {"reason": "overloaded"}
        extension.ping()
        hook = extension.ask("hook", {"hook": "input", "context": CONTEXT, "input": {"text": ""}})
        assert hook == {"action": "modify", "patch": {"text": "seen"}}
        extension.notify("event", {"event": "turn_start", "context": EVENT_CONTEXT})
        observed = extension.next_frame()
        assert observed is not None
        assert observed["method"] == "kv/set"
        extension.send({"jsonrpc": "2.0", "id": observed["id"], "result": {}})
        extension.send({"jsonrpc": "2.0", "id": asked["id"], "result": {"value": "a reply"}})
        assert extension.answer(asking)["result"] == {"content": "a reply"}

        # A cancel frees a place in the queue at once, and a slot for who waits longest.
        extension.notify("$/cancel", {"id": queued[500]})
        assert extension.answer(queued[500])["error"]["code"] == -32800
        queued[500] = extension.start_tool("wait", number=500)
        extension.notify("$/cancel", {"id": running[0]})
        assert extension.answer(running[0])["error"]["code"] == -32800
        queued.append(extension.start_tool("wait", number=queue))
        assert "overloaded" in extension.answer(extension.start_tool("wait", number=-1))["error"]["message"]

        assert extension.ask("command/execute", {"command": "release", "context": CONTEXT}) == {"content": "released"}
        for number, rid in [*list(enumerate(running))[1:], *enumerate(queued)]:
            assert extension.answer(rid)["result"]["details"] == number
        assert extension.tool("most_at_once")["details"] == slots
        assert extension.end() == 0


# -- threads, and who blocks the loop ----------------------------------------------------------------------------------

THREADS = """
import asyncio, contextvars, time
from sepkit import App, EventContext

app = App("threads")
variable = contextvars.ContextVar("variable", default="unseen")
variable.set("seen")

@app.tool
def sleeps(seconds: float) -> str:
    time.sleep(seconds)
    return variable.get()

@app.tool
async def through_a_task() -> list[str]:
    variable.set("own")
    return [variable.get(), await asyncio.to_thread(variable.get)]

@app.tool
async def blocks(seconds: float) -> None:
    time.sleep(seconds)

@app.hook("input")
async def blocking_hook(value: dict):
    time.sleep(0.6)

@app.tool
async def waits(seconds: float) -> None:
    await asyncio.sleep(seconds)
"""


def test_def_handlers_run_side_by_side_and_see_context_variables(loop_kind: LoopKind) -> None:
    """Three ``def`` handlers take less than 1.6 times as long as one; contextvars are seen."""
    seconds = 0.5
    with Extension(THREADS, "--loop", loop_kind) as extension:

        def three() -> float:
            began = time.monotonic()
            for rid in [extension.start_tool("sleeps", seconds=seconds) for _ in range(3)]:
                assert extension.answer(rid)["result"] == {"content": "seen"}
            return time.monotonic() - began

        assert seconds <= best_of(4, three, 1.6 * seconds) < 1.6 * seconds
        assert extension.tool("through_a_task")["details"] == ["own", "own"]
        assert extension.tool("sleeps", seconds=0) == {"content": "seen"}, "a call's variables are its own"


def test_an_async_handler_that_blocks_the_loop_is_named_once(stack: contextlib.ExitStack) -> None:
    """A handler that blocks for more than 250 ms is named on stderr; one that awaits or runs in a thread is not."""
    extensions = [stack.enter_context(Extension(THREADS, "--loop", loop)) for loop in LOOPS]
    waiting = [(each, each.start_tool(tool, seconds=0.6)) for each in extensions for tool in ("waits", "sleeps")]
    for each, rid in waiting:
        assert "result" in each.answer(rid)
    for each in extensions:
        each.start_tool("blocks", seconds=0.6)
        each.start_tool("blocks", seconds=0.6)
        each.request("hook", {"hook": "input", "context": CONTEXT, "input": {}})
        each.close_stdin()
    for each in extensions:
        assert each.wait() == 0
        each.wait_for_stderr("blocking_hook has blocked the loop")
        assert re.findall(r"sepkit\.watch: (.+) has blocked the loop for more than 250 ms", each.stderr) == [
            "tool blocks",
            "hook input handler blocking_hook",
        ]


# -- many calls --------------------------------------------------------------------------------------------------------

MANY = """
import asyncio, gc, threading
from pathlib import Path
from sepkit import App, ToolContext, ToolError
from sepkit.concurrency.lanes import Slots
from sepkit.peer import Peer
from sepkit.concurrency.threads import DaemonThreads

app = App("many")

@app.tool
async def succeeds(text: str) -> str:
    return text

@app.tool
async def waits() -> str:
    await asyncio.sleep(0)
    return "waited"

@app.tool
def in_thread() -> str:
    return "from a thread"

@app.tool
async def gives_up() -> str:
    raise ToolError("no")

@app.tool
async def fails() -> str:
    raise RuntimeError("no")

@app.tool(timeout=0.001)
async def times_out() -> str:
    await asyncio.sleep(3600)

@app.tool
async def hangs() -> str:
    await asyncio.sleep(3600)

@app.tool
async def asks(ctx: ToolContext) -> str:
    ctx.update("asking", progress=0.5)
    return await ctx.kv.get("key", str)

@app.tool
async def gives_up_asking(ctx: ToolContext) -> str:
    try:
        async with asyncio.timeout(0):
            await ctx.kv.get("late")
    except TimeoutError:
        return "gave up"

def only(kind):
    (found,) = [thing for thing in gc.get_objects() if type(thing) is kind]
    return found

@app.tool
async def tables() -> dict:
    await asyncio.sleep(0.05)  # what has been answered may still be ending
    gc.collect()
    peer, slots, threads = only(Peer), only(Slots), only(DaemonThreads)
    return {
        "inbound": len(peer._inbound), "pending": len(peer._pending), "to cancel": len(peer._to_cancel),
        "posted": len(peer._posted), "running": slots.running, "queued": len(slots), "in threads": len(threads.running),
        "tasks": len(asyncio.all_tasks()),
    }

@app.tool
async def memory() -> int:
    gc.collect()
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) * 1024
"""
EXPECTED: dict[str, Callable[[dict[str, Any]], bool]] = {
    "succeeds": lambda answer: bool(answer["result"] == {"content": "hi"}),
    "waits": lambda answer: bool(answer["result"] == {"content": "waited"}),
    "in_thread": lambda answer: bool(answer["result"] == {"content": "from a thread"}),
    "gives_up": lambda answer: bool(answer["result"] == {"content": "no", "is_error": True}),
    "fails": lambda answer: "unexpectedly" in answer["result"]["content"],
    "times_out": lambda answer: "took longer than" in answer["result"]["content"],
    "hangs": lambda answer: bool(answer["error"]["code"] == -32800),
    "asks": lambda answer: bool(answer["result"] == {"content": "value"}),
    "gives_up_asking": lambda answer: bool(answer["result"] == {"content": "gave up"}),
    "unknown": lambda answer: "no tool" in answer["result"]["content"],
}


def mixed_calls(extension: Extension, rounds: int, window: int = 10) -> None:
    """Make ``rounds`` calls of each kind, several rounds at once; answer what is asked twice, or too late, or never."""
    for _ in range(rounds // window):
        rids, write, hanging = {}, [], []
        for _ in range(window):
            for tool in EXPECTED:
                extension._next_id += 1
                rid = extension._next_id
                rids[rid] = tool
                arguments = {"text": "hi"} if tool == "succeeds" else {}
                params = {"call_id": str(rid), "tool": tool, "arguments": arguments, "context": CONTEXT}
                write.append({"jsonrpc": "2.0", "id": rid, "method": "tool/execute", "params": params})
                if tool == "hangs":
                    hanging.append({"jsonrpc": "2.0", "method": "$/cancel", "params": {"id": rid}})
        extension.write(b"".join(json.dumps(frame).encode() + b"\n" for frame in write + hanging))
        while rids:
            frame = extension.next_frame()
            assert frame is not None
            if "method" not in frame:
                tool = rids.pop(frame["id"])
                assert EXPECTED[tool](frame), (tool, frame)
            elif frame["method"] == "kv/get":
                late = frame["params"]["key"] == "late"
                for _ in range(frame["id"] % 2 if late else 2):  # half of what has been given up is never answered
                    extension.send({"jsonrpc": "2.0", "id": frame["id"], "result": {"value": "value"}})
            elif frame["method"] == "$/cancel" and frame["params"]["id"] % 2:
                # Too late as well, and an error for a change.
                error = {"code": -32800, "message": "cancelled"}
                extension.send({"jsonrpc": "2.0", "id": frame["params"]["id"], "error": error})


@pytest.mark.timeout(600 if SOAK else 60)
def test_after_many_mixed_calls_every_table_is_empty_and_memory_has_not_grown(loop_kind: LoopKind) -> None:
    """After successes, errors, time-outs, cancels and late replies memory has grown by less than 5 MiB."""
    calls = 100_000 if SOAK else 5_000
    with Extension(MANY, "--loop", loop_kind, "--log-level", "error") as extension:
        mixed_calls(extension, 100)  # code is loaded and caches are filled
        empty = extension.tool("tables")["details"]
        assert {name for name, count in empty.items() if count} == {"inbound", "running", "tasks"}
        assert empty["inbound"] == empty["running"] == 1, "the call that tells"
        before = extension.tool("memory")["details"]
        mixed_calls(extension, calls // len(EXPECTED))
        assert extension.tool("tables")["details"] == empty
        assert extension.tool("memory")["details"] - before < 5 * MIB
        assert extension.end() == 0
