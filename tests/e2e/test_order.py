"""What overtakes what: a cancel its call, a call back the call it serves. What may not: events, progress, replies."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from sepkit.faces.runner import LoopKind
from tests.driver import CONTEXT, EVENT_CONTEXT, PATIENCE, Extension

CANCELLED = -32800


def call_line(rid: object, tool: str, **arguments: object) -> bytes:
    """A call of a tool as a line."""
    params = {"call_id": f"call-{rid}", "tool": tool, "arguments": arguments, "context": CONTEXT}
    return line({"id": rid, "method": "tool/execute", "params": params})


def cancel_line(rid: object) -> bytes:
    """A cancel as a line."""
    return line({"method": "$/cancel", "params": {"id": rid}})


def line(frame: dict[str, Any]) -> bytes:
    """A frame as a line."""
    return json.dumps({"jsonrpc": "2.0", **frame}).encode() + b"\n"


def until(extension: Extension, method: str) -> dict[str, Any]:
    """The next frame of a method; others are skipped."""
    while (frame := extension.next_frame()) is not None:
        if frame.get("method") == method:
            return frame
    raise AssertionError(f"stdout ended before a {method}")


def answers_until_ping(extension: Extension) -> list[tuple[object, object]]:
    """All answers until that to a ping: each id, with its error's code or None."""
    fence = extension.request("ping", {})
    found: list[tuple[object, object]] = []
    while (frame := extension.next_frame()) is not None:
        if frame.get("id") == fence and "method" not in frame:
            return found
        if "method" not in frame:
            found.append((frame["id"], frame.get("error", {}).get("code")))
    raise AssertionError("stdout ended before the ping was answered")


# -- cancelling --------------------------------------------------------------------------------------------------------

POINTS = """
import asyncio, contextlib, threading
from sepkit import App, ToolContext

app = App("points")
gate = threading.Event()

async def sleep():
    await asyncio.sleep(3600)

async def event():
    await asyncio.Event().wait()

async def future():
    await asyncio.get_running_loop().create_future()

async def busy():
    while True:
        await asyncio.sleep(0)

async def thread():
    await asyncio.to_thread(gate.wait, 60)

async def subprocess():
    child = await asyncio.create_subprocess_exec("sleep", "600")
    try:
        await child.wait()
    finally:
        child.kill()
        await child.wait()

async def gather():
    await asyncio.gather(sleep(), event())

async def task_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(sleep())
        group.create_task(event())

async def other_task():
    await asyncio.create_task(sleep())

async def wait():
    await asyncio.wait([asyncio.create_task(event())])

async def wait_for():
    await asyncio.wait_for(event(), 3600)

async def timeout():
    async with asyncio.timeout(3600):
        await event()

async def shield():
    await asyncio.shield(event())

async def queue():
    await asyncio.Queue().get()

async def full_queue():
    queue = asyncio.Queue(1)
    await queue.put(1)
    await queue.put(2)

async def lock():
    lock = asyncio.Lock()
    await lock.acquire()
    await lock.acquire()

async def semaphore():
    await asyncio.Semaphore(0).acquire()

async def condition():
    condition = asyncio.Condition()
    async with condition:
        await condition.wait()

async def generator():
    async def endless():
        await event()
        yield

    async for _ in endless():
        pass

async def enter():
    @contextlib.asynccontextmanager
    async def context():
        await event()
        yield

    async with context():
        pass

async def leave():
    @contextlib.asynccontextmanager
    async def context():
        yield
        await event()

    async with context():
        pass

async def hold(reader, writer):
    await event()
    writer.close()  # kept until then: Python 3.13 closes a writer that nobody holds

async def connection():
    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    try:
        reader, _ = await asyncio.open_connection(*server.sockets[0].getsockname())
        await reader.read()
    finally:
        server.close()  # `async with` would wait for its connections from 3.12 on, and `hold` keeps them

async def slow_cleanup():
    try:
        await event()
    finally:
        await asyncio.sleep(0.02)

async def swallows():
    with contextlib.suppress(asyncio.CancelledError):
        await event()

async def raises_instead():
    try:
        await event()
    except asyncio.CancelledError:
        raise RuntimeError("instead") from None

async def exits_instead():
    try:
        await event()
    except asyncio.CancelledError:
        raise SystemExit(1) from None

@app.tool
async def stop_at(point: str, ctx: ToolContext) -> str:
    ctx.update("there")
    if point == "kv":
        await ctx.kv.get("key")
    elif point == "ui":
        await ctx.ui.confirm("sure?")
    elif point == "exec":
        await ctx.exec.run("true")
    else:
        await globals()[point]()
    return "not cancelled"

@app.tool(timeout=3600)
async def stop_with_timeout() -> None:
    await event()

@app.tool
async def steps(count: int, ctx: ToolContext) -> str:
    for _ in range(count):
        await ctx.kv.get("key")
    return "all"

@app.tool
async def blank() -> str:
    return ""

@app.tool
async def big() -> str:
    return "x" * 600_000
"""
POINT_NAMES = (
    *("sleep", "event", "future", "busy", "thread", "subprocess", "gather", "task_group", "other_task", "wait"),
    *("wait_for", "timeout", "shield", "queue", "full_queue", "lock", "semaphore", "condition", "generator"),
    *("enter", "leave", "connection", "slow_cleanup", "swallows", "raises_instead", "exits_instead"),
    *("kv", "ui", "exec"),
)


def test_a_cancel_at_any_await_gives_one_answer_and_a_live_process(loop_kind: LoopKind) -> None:
    """There is one slot, so each call shows that the slot of the one before is free."""
    with Extension(POINTS, "--loop", loop_kind, "--max-concurrency", "1") as extension:
        for point in POINT_NAMES:
            rid = extension.start_tool("stop_at", point=point)
            assert until(extension, "tool/update")["params"]["message"] == "there", point
            asked = None
            if point in ("kv", "ui", "exec"):
                asked = until(extension, {"kv": "kv/get", "ui": "ui/request", "exec": "exec/run"}[point])
            extension.notify("$/cancel", {"id": rid})
            if asked is not None:
                # Nobody waits for what it asked any more, and the host is told; its late answer harms nobody.
                told = until(extension, "$/cancel")
                assert told["params"] == {"id": asked["id"]}, point
                extension.send({"jsonrpc": "2.0", "id": asked["id"], "result": {}})
            assert extension.answer(rid)["error"]["code"] == CANCELLED, point
            extension.notify("$/cancel", {"id": rid})
            assert answers_until_ping(extension) == [], point
            assert extension.tool("blank") == {"content": ""}, point
        assert extension.end() == 0


def test_a_cancel_at_each_step_of_a_conversation_gives_one_answer(loop_kind: LoopKind) -> None:
    """The cancel comes before, with and after each answer that the call waits for."""
    count = 4
    with Extension(POINTS, "--loop", loop_kind, "--max-concurrency", "1") as extension:
        for step in range(count + 1):
            for order in ("cancel first", "answer first", "cancel alone"):
                rid = extension.start_tool("steps", count=count)
                for _ in range(step):
                    asked = until(extension, "kv/get")
                    extension.send({"jsonrpc": "2.0", "id": asked["id"], "result": {"value": 1}})
                if step == count:  # it is about to be answered
                    extension.notify("$/cancel", {"id": rid})
                else:
                    asked = until(extension, "kv/get")
                    answer = line({"id": asked["id"], "result": {"value": 1}})
                    both = {"cancel first": (cancel_line(rid), answer), "answer first": (answer, cancel_line(rid))}
                    extension.write(b"".join(both.get(order, (cancel_line(rid),))))
                settled = extension.answer(rid)
                if "result" in settled:
                    assert step == count, "only the last step may have been too late to cancel"
                    assert settled["result"] == {"content": "all"}
                else:
                    assert settled["error"]["code"] == CANCELLED
                assert answers_until_ping(extension) == []


def test_a_cancel_in_the_same_write_as_its_call_gives_one_answer(loop_kind: LoopKind) -> None:
    """The cancel may come before the first step of a call, which may wait, or may not exist at all."""
    with Extension(POINTS, "--loop", loop_kind) as extension:
        tools = ("blank", "stop_with_timeout", "unknown", "stop_at")
        write, rids = b"", []
        for number in range(20):
            for tool in tools:
                rid = f"{tool} {number}"
                rids.append(rid)
                arguments = {"point": "event"} if tool == "stop_at" else {}
                # One before there is anything to cancel, and one too many.
                write += cancel_line(rid) + call_line(rid, tool, **arguments) + cancel_line(rid) + cancel_line(rid)
        extension.write(write)
        settled = {rid: extension.answer(rid) for rid in rids}
        assert answers_until_ping(extension) == [], "one answer each"
        for rid, answer in settled.items():
            must = rid.startswith("stop")
            assert answer.get("error", {}).get("code") == CANCELLED or (not must and "result" in answer), rid


def test_a_cancel_for_what_is_not_there_is_ignored(loop_kind: LoopKind) -> None:
    """A cancel for an unknown id has no effect; ``1`` does not cancel ``"1"``. Source: docs/protocol.md, section 8."""
    with Extension(POINTS, "--loop", loop_kind) as extension:
        for rid in (1, "1"):
            extension.write(call_line(rid, "stop_at", point="event"))
            until(extension, "tool/update")
        for other in (2, "", True, 1.0, None, [1], {"id": 1}):
            extension.notify("$/cancel", {"id": other})
        extension.notify("$/cancel", {})
        extension.notify("$/cancel", {"id": "1"})
        assert extension.answer("1")["error"]["code"] == CANCELLED
        assert answers_until_ping(extension) == []
        extension.notify("$/cancel", {"id": 1})
        assert extension.answer(1)["error"]["code"] == CANCELLED


def test_a_cancel_never_waits_behind_what_it_cancels(loop_kind: LoopKind) -> None:
    """It waits neither for the one slot, nor in its queue, nor for replies that the host does not read."""
    with Extension(POINTS, "--loop", loop_kind, "--max-concurrency", "1") as extension:
        running = extension.start_tool("stop_at", point="event")
        until(extension, "tool/update")
        queued = [extension.start_tool("blank") for _ in range(3)]
        extension.notify("$/cancel", {"id": queued[1]})
        assert extension.answer(queued[1])["error"]["code"] == CANCELLED
        assert answers_until_ping(extension) == [], "the others still wait"
        extension.notify("$/cancel", {"id": running})
        assert extension.answer(running)["error"]["code"] == CANCELLED
        assert extension.answer(queued[0])["result"] == {"content": ""}
        assert extension.answer(queued[2])["result"] == {"content": ""}

        extension.pause()
        bigs = [extension.start_tool("big") for _ in range(4)]
        waiting = extension.start_tool("blank")
        extension.notify("$/cancel", {"id": waiting})
        extension.resume()
        assert extension.answer(waiting)["error"]["code"] == CANCELLED
        assert all(len(extension.answer(rid)["result"]["content"]) == 600_000 for rid in bigs)
        assert extension.tool("blank") == {"content": ""}


TURNS = """
import asyncio
from sepkit import App

app = App("turns")
gate = asyncio.Event()

@app.tool
async def waits() -> None:
    await gate.wait()
    gate.clear()

@app.tool
async def blank() -> str:
    return ""

@app.command
async def release() -> None:
    gate.set()
"""


def test_a_cancel_at_the_moment_of_its_turn_loses_no_slot(loop_kind: LoopKind) -> None:
    """A call that is cancelled just when it gets the slot hands the slot on."""
    with Extension(TURNS, "--loop", loop_kind, "--max-concurrency", "1") as extension:
        params = {"command": "release", "context": CONTEXT}
        release = line({"id": "release", "method": "command/execute", "params": params})
        for number in range(20):
            running, queued, last = (f"{name} {number}" for name in ("running", "queued", "last"))
            extension.write(call_line(running, "waits") + call_line(queued, "waits") + call_line(last, "blank"))
            extension.ping()
            extension.write(release + cancel_line(queued) if number % 2 else cancel_line(queued) + release)
            assert "result" in extension.answer(running)
            assert extension.answer(queued)["error"]["code"] == CANCELLED
            assert extension.answer(last)["result"] == {"content": ""}


EVERYTHING = """
import asyncio, threading
from sepkit import App, HookContext, CommandContext, ProviderContext
from sepkit.wire.messages import Delta

app = App("everything")
left = []

async def hang(name):
    try:
        await asyncio.Event().wait()
    finally:
        left.append(name)

@app.hook("input")
async def hook(value: dict):
    await hang("hook")

@app.command
async def command() -> None:
    await hang("command/execute")

@app.complete("command")
async def complete(partial: str) -> list[str]:
    await hang("command/complete")
    return []

@app.provider("provider")
async def provider(request: dict):
    try:
        yield Delta("begun")
        await hang("a step of the provider")
    finally:
        left.append("provider/complete")

@app.oauth_login("provider")
async def login(params: dict):
    await hang("provider/oauth_login")

@app.tool
async def what_was_left() -> list[str]:
    return left

gate = threading.Event()
running = threading.Semaphore(0)

@app.tool
def in_thread() -> str:
    running.release()
    gate.wait(60)
    left.append("thread")
    return "too late"

@app.tool
async def is_running() -> bool:
    return running.acquire(blocking=False)

@app.tool
async def open_gate() -> None:
    gate.set()
"""


def test_whatever_a_host_asks_can_be_cancelled(loop_kind: LoopKind) -> None:
    """Hooks, commands, completions, streams and logins can be cancelled, and their handlers see it."""
    asks: dict[str, dict[str, Any]] = {
        "hook": {"hook": "input", "context": CONTEXT, "input": {}},
        "command/execute": {"command": "command", "context": CONTEXT},
        "command/complete": {"command": "command", "context": CONTEXT, "partial": ""},
        "provider/complete": {"request_id": "1", "provider": "provider", "model": "m", "messages": [], "stream": True},
        "provider/oauth_login": {"provider": "provider", "context": CONTEXT},
    }
    with Extension(EVERYTHING, "--loop", loop_kind) as extension:
        for method, params in asks.items():
            rid = extension.request(method, params)
            if method == "provider/complete":
                until(extension, "provider/delta")
            extension.ping()
            extension.notify("$/cancel", {"id": rid})
            assert extension.answer(rid)["error"]["code"] == CANCELLED, method
            assert answers_until_ping(extension) == [], method
            assert method in extension.tool("what_was_left")["details"]


def test_a_cancelled_def_tool_is_answered_at_once(loop_kind: LoopKind) -> None:
    """It is answered while its thread, which cannot be stopped, still runs; the thread's result is dropped."""
    with Extension(EVERYTHING, "--loop", loop_kind, "--max-concurrency", "2") as extension:
        rid = extension.start_tool("in_thread")
        deadline = time.monotonic() + PATIENCE
        while extension.tool("is_running")["details"] is not True:
            assert time.monotonic() < deadline
        extension.notify("$/cancel", {"id": rid})
        assert extension.answer(rid)["error"]["code"] == CANCELLED
        assert extension.tool("what_was_left")["details"] == [], "its thread still runs"
        extension.tool("open_gate")
        while extension.tool("what_was_left")["details"] != ["thread"]:
            assert time.monotonic() < deadline
        assert answers_until_ping(extension) == []
        assert extension.end() == 0


# -- calling back ------------------------------------------------------------------------------------------------------

NESTED = """
from sepkit import App, CommandContext, HookContext, ProviderContext, ToolContext
from sepkit.wire.messages import Delta

app = App("nested")

@app.tool
async def by_kv(level: int, ctx: ToolContext) -> str:
    return f"{level} {await ctx.kv.get(str(level), str)}" if level else "0"

@app.tool
async def by_ui(level: int, ctx: ToolContext) -> str:
    return f"{level} {await ctx.ui.confirm(str(level))}" if level else "0"

@app.tool
async def by_command(ctx: ToolContext) -> str:
    return await ctx.kv.get("command", str)

@app.command
async def by_hook(ctx: CommandContext) -> str:
    return await ctx.kv.get("hook", str)

@app.hook("input")
async def by_provider(value: dict, ctx: HookContext):
    return {"text": await ctx.kv.get("provider", str)}

@app.provider("provider")
async def by_tool(request: dict, ctx: ProviderContext):
    yield Delta(await ctx.kv.get("tool", str))
"""


def ask_nested(extension: Extension, tool: str, level: int) -> str:
    """Call a tool; what it asks is answered only after it has been called again, a level deeper."""
    rid = extension.start_tool(tool, level=level)
    if level:
        asked = until(extension, "kv/get" if tool == "by_kv" else "ui/request")
        assert str(level) in asked["params"].values()
        deeper = ask_nested(extension, tool, level - 1)
        result = {"value": deeper} if tool == "by_kv" else {"confirmed": deeper == "0"}
        extension.send({"jsonrpc": "2.0", "id": asked["id"], "result": result})
    content = extension.answer(rid)["result"]["content"]
    assert isinstance(content, str)
    return content


@pytest.mark.parametrize("slots", [1, 256])
def test_calls_that_call_back_work_five_deep(loop_kind: LoopKind, slots: int) -> None:
    """Extension → host → extension → host, five deep, works with ``max_concurrency=1``."""
    with Extension(NESTED, "--loop", loop_kind, "--max-concurrency", str(slots)) as extension:
        assert ask_nested(extension, "by_kv", 5) == "5 4 3 2 1 0"
        assert ask_nested(extension, "by_ui", 5) == "5 False"
        assert extension.end() == 0


def test_every_kind_of_handler_can_be_called_back_into(loop_kind: LoopKind) -> None:
    """A tool, a command, a hook, a provider and a tool call back into each other with one slot."""
    with Extension(NESTED, "--loop", loop_kind, "--max-concurrency", "1") as extension:
        provider = {"request_id": "1", "provider": "provider", "model": "m", "messages": [], "context": CONTEXT}
        stack = []
        for method, params in (
            ("tool/execute", {"call_id": "1", "tool": "by_command", "arguments": {}, "context": CONTEXT}),
            ("command/execute", {"command": "by_hook", "context": CONTEXT}),
            ("hook", {"hook": "input", "context": CONTEXT, "input": {"text": ""}}),
            ("provider/complete", provider),
        ):
            rid = extension.request(method, params)
            stack.append((rid, until(extension, "kv/get")["id"]))
        answer = extension.tool("by_kv", level=0)["content"]
        for rid, asked in reversed(stack):
            extension.send({"jsonrpc": "2.0", "id": asked, "result": {"value": answer + "."}})
            result = extension.answer(rid)["result"]
            answer = result["patch"]["text"] if "patch" in result else result["content"]
        assert answer == "0...."


# -- events ------------------------------------------------------------------------------------------------------------

OBSERVERS = """
import asyncio, threading
from sepkit import App, EventContext

app = App("observers")
seen = {"slow": [], "fast": [], "thread": [], "failing": [], "both": []}
running = {name: 0 for name in seen}
gate = asyncio.Event()
in_thread = threading.Lock()

class Observed:
    def __init__(self, name, seq):
        self.name = name
        self.seq = seq

    def __enter__(self):
        running[self.name] += 1
        assert running[self.name] == 1, "one at a time"

    def __exit__(self, *_):
        seen[self.name].append(self.seq)
        running[self.name] -= 1

@app.on("turn_start")
async def slow(payload: dict, ctx: EventContext):
    with Observed("slow", ctx.seq):
        await gate.wait()
        await asyncio.sleep(0 if ctx.seq % 2 else 0.001)

@app.on("turn_start")
async def fast(payload: dict, ctx: EventContext):
    with Observed("fast", ctx.seq):
        pass

@app.on("turn_start")
def thread(payload: dict, ctx: EventContext):
    with Observed("thread", ctx.seq):
        pass

@app.on("turn_start")
async def failing(payload: dict, ctx: EventContext):
    with Observed("failing", ctx.seq):
        await asyncio.sleep(0)
        raise RuntimeError("no")

@app.on("turn_start")
@app.on("turn_end")
async def both(payload: dict, ctx: EventContext):
    with Observed("both", ctx.seq):
        for _ in range(3 if ctx.name == "turn_start" else 0):
            await asyncio.sleep(0)

@app.tool
async def told(name: str) -> list[int]:
    return seen[name]

@app.command
async def release() -> None:
    gate.set()
"""


def test_events_reach_each_handler_in_order_and_one_at_a_time(loop_kind: LoopKind) -> None:
    """Events keep the wire's order, one at a time for each handler; a slow handler delays nothing else."""
    count = 400
    odd = list(range(1, count, 2))
    with Extension(OBSERVERS, "--loop", loop_kind, "--log-level", "error") as extension:
        for seq in range(1, count + 1):
            event = "turn_start" if seq % 2 else "turn_end"
            extension.notify("event", {"event": event, "seq": seq, "context": EVENT_CONTEXT, "payload": {}})
        deadline = time.monotonic() + PATIENCE

        def wait_for(name: str, expected: list[int]) -> None:
            while (told := extension.tool("told", name=name)["details"]) != expected:
                assert time.monotonic() < deadline, (name, told)
                assert told == expected[: len(told)], name

        for name in ("fast", "thread", "failing"):
            wait_for(name, odd)
        wait_for("both", list(range(1, count + 1)))  # one handler, whatever it is told of
        assert extension.tool("told", name="slow")["details"] == [], "it is still busy with the first"
        extension.ask("command/execute", {"command": "release", "context": CONTEXT})
        wait_for("slow", odd)


# -- progress ----------------------------------------------------------------------------------------------------------

PROGRESS = """
import asyncio, sys, threading, time
from sepkit import App, ProviderContext, ToolContext
from sepkit.wire.messages import Delta

app = App("progress")
kept = []
over = threading.Event()
spammers = []

def spam(ctx):
    while not over.is_set():
        ctx.update("spam")
        time.sleep(0)

async def go_on(ctx):
    while True:
        ctx.update("after")
        await asyncio.sleep(0)

@app.tool
async def coroutine(ctx: ToolContext) -> str:
    for number in range(10):
        ctx.update(str(number))
        if number % 3 == 0:
            await asyncio.sleep(0)
    kept.append(asyncio.create_task(go_on(ctx)))
    return "done"

@app.tool
def function(ctx: ToolContext) -> str:
    for number in range(10):
        ctx.update(str(number))
    return "done"

@app.tool
async def helped(ctx: ToolContext) -> str:
    def help():
        for number in range(10):
            ctx.update(str(number))

    await asyncio.to_thread(help)
    return "done"

@app.tool
async def joined(ctx: ToolContext) -> str:
    def help():
        for number in range(5):
            ctx.update(str(number))

    thread = threading.Thread(target=help)
    thread.start()
    thread.join()
    for number in range(5, 9):
        ctx.update(str(number))
    thread = threading.Thread(target=ctx.update, args=("9",))
    thread.start()
    thread.join()
    return "done"

@app.tool
async def leaves_a_thread(ctx: ToolContext) -> str:
    for number in range(10):
        ctx.update(str(number))
    sys.setswitchinterval(1e-6)  # so that it is interrupted anywhere
    for _ in range(3):
        spammers.append(threading.Thread(target=spam, args=(ctx,), daemon=True))
        spammers[-1].start()
    await asyncio.sleep(0.002)
    return "done"

@app.tool
async def fails(ctx: ToolContext) -> str:
    for number in range(10):
        ctx.update(str(number))
    kept.append(asyncio.create_task(go_on(ctx)))
    raise RuntimeError("no")

@app.tool
async def hush() -> None:
    over.set()
    sys.setswitchinterval(0.001)
    for thread in spammers:
        thread.join()
    over.clear()
    spammers.clear()

@app.provider("provider")
async def stream(request: dict):
    for number in range(10):
        yield Delta(str(number))
"""


def test_progress_is_on_the_wire_before_the_reply_or_not_at_all(loop_kind: LoopKind) -> None:
    """Progress sent before ``return`` is on the wire before the reply; progress after it is dropped."""
    with Extension(PROGRESS, "--loop", loop_kind, "--log-level", "error") as extension:
        tools: dict[Any, str] = {}
        for tool in ("coroutine", "function", "helped", "joined", "fails", "leaves_a_thread"):
            for _ in range(20):
                tools |= {extension.start_tool(tool): tool for _ in range(5)}
                extension.ping()
                extension.tool("hush")
        extension.ping()
        extension.close_stdin()
        updates: dict[str, list[str]] = {f"call-{rid}": [] for rid in tools}
        answered = set()
        for frame in extension.rest():
            if frame.get("method") == "tool/update":
                assert frame["params"]["call_id"] not in answered, "progress after the reply"
                updates[frame["params"]["call_id"]].append(frame["params"]["message"])
            elif frame.get("id") in tools:
                answered.add(f"call-{frame['id']}")
        assert len(answered) == len(tools)
        for rid, tool in tools.items():
            told = updates[f"call-{rid}"]
            numbers = [one for one in told if one != "spam"]
            assert told[: len(numbers)] == numbers == sorted(numbers), tool
            # While the threads of other calls flood the host, progress may be lost.
            assert len(numbers) == 10 or tool == "leaves_a_thread", tool
        assert extension.wait() == 0


def test_deltas_are_on_the_wire_before_the_reply(loop_kind: LoopKind) -> None:
    """Deltas of a stream are on the wire before the result; later ones are dropped."""
    params = {"request_id": "1", "provider": "provider", "model": "m", "messages": [], "stream": True}
    with Extension(PROGRESS, "--loop", loop_kind) as extension:
        rid = extension.request("provider/complete", params)
        extension.close_stdin()
        frames = [frame for frame in extension.rest() if frame.get("method") != "log"]
        assert [frame["params"]["event"]["content"] for frame in frames[:-1]] == [str(number) for number in range(10)]
        assert frames[-1]["id"] == rid
        assert frames[-1]["result"]["content"] == "0123456789"


EVENTS = """
import asyncio, weakref
from sepkit import App

app = App("counts")
kept = weakref.WeakKeyDictionary()
turns = 0

@app.on("turn_start")
async def begin() -> None:
    global turns
    turns += 1

@app.command(name="turns")
async def turns_so_far() -> str:
    return str(turns)

@app.tool
async def count() -> str:
    task = asyncio.current_task()
    found = kept.get(task)
    kept[task] = len(kept)
    return f"{turns} {found} {task.get_name()}"
"""


def test_a_call_sees_the_event_that_was_sent_before_it_in_a_task_of_its_own(loop_kind: LoopKind) -> None:
    """Ten events, each with a command and a tool call behind it, in one write."""
    event = line({"method": "event", "params": {"event": "turn_start", "context": EVENT_CONTEXT, "payload": None}})
    with Extension(EVENTS, "--loop", loop_kind) as extension:
        command = {"command": "turns", "context": CONTEXT, "arguments": None}
        data = b""
        for n in range(1, 11):
            data += event + line({"id": f"c{n}", "method": "command/execute", "params": command})
            data += call_line(f"t{n}", "count")
        extension.write(data)
        extension.close_stdin()
        said = {frame["id"]: frame["result"]["content"] for frame in extension.rest() if "result" in frame}
    assert [said[f"c{n}"] for n in range(1, 11)] == [str(n) for n in range(1, 11)]
    assert [said[f"t{n}"] for n in range(1, 11)] == [f"{n} None tool/execute" for n in range(1, 11)]
