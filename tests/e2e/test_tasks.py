"""Background tasks that misbehave, in a real process: what they do stays theirs, and the end comes in time."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sepkit.faces.runner import LoopKind
from sepkit.transports import HIGH_WATER
from tests.driver import HANDSHAKE, PATIENCE, Extension

LOOPS: tuple[LoopKind, ...] = ("asyncio", "uvloop")
MIB = 1024 * 1024
GRACE = 5.0  # what a host gives `shutdown`, answer and exit together
QUICK = 0.1  # seconds; what a ping may take
WATCHED = {**HANDSHAKE, "capabilities_enabled": {"tasks": True}}


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """Ends at the end of the test what it started."""
    with contextlib.ExitStack() as stack:
        yield stack


def start(stack: contextlib.ExitStack, source: str, loop: LoopKind, handshake: dict[str, Any] = WATCHED) -> Extension:
    extension = stack.enter_context(Extension(source, "--loop", loop, handshake=False))
    extension.ask("initialize", handshake)
    return extension


def tasks(extension: Extension) -> dict[str, dict[str, Any]]:
    """How the tasks are, by id."""
    return {task["task_id"]: task for task in extension.ask("task/list", {})["tasks"]}


def until(found: Callable[[], bool]) -> None:
    """Wait for what only asking again can tell."""
    deadline = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def answers_quickly(extension: Extension) -> bool:
    """Whether pings are answered as if nothing were the matter: nine in ten, in the best of some rounds."""
    return any(statistics.quantiles([extension.ping() for _ in range(20)], n=10)[-1] < QUICK for _ in range(5))


def shut_down(extension: Extension) -> int:
    """End it as a host does; its exit code. The answer comes in time."""
    began = time.monotonic()
    assert extension.ask("shutdown", {}) == {}
    assert time.monotonic() - began < GRACE
    extension.kept()
    code = extension.wait()
    assert extension.rest() == [], "the answer is the last thing that it writes"
    return code


# -- what tasks raise --------------------------------------------------------------------------------------------------

RAISING = """
import asyncio
from sepkit import App, TaskContext

app = App("raising")

class Own(BaseException):
    pass

KINDS = {
    "value": lambda: ValueError("boom"),
    "exit": lambda: SystemExit(3),
    "interrupt": KeyboardInterrupt,
    "generator": GeneratorExit,
    "own": lambda: Own("mine"),
    "cancelled": lambda: asyncio.CancelledError("by itself"),
    "stop": StopAsyncIteration,
    "group": lambda: BaseExceptionGroup("two", [ValueError("a"), Own("b")]),
}

@app.task(autostart=False, max_restarts=3, initial_delay=0, jitter=0)
async def raises(ctx: TaskContext) -> None:
    await asyncio.sleep(0)
    raise KINDS[ctx.payload]()

@app.task
async def well(ctx: TaskContext) -> None:
    await ctx.wait_stop()
"""

RAISED = {
    "value": "ValueError", "exit": "SystemExit", "interrupt": "KeyboardInterrupt", "generator": "GeneratorExit",
    "own": "Own", "cancelled": "CancelledError", "stop": "StopAsyncIteration", "group": "ValueError, Own",
}  # fmt: skip


def test_whatever_a_task_raises_it_is_restarted_and_nobody_else_hears_of_it(loop_kind: LoopKind) -> None:
    """No exception reaches another task, the connection or the process."""
    with contextlib.ExitStack() as stack:
        extension = start(stack, RAISING, loop_kind)
        for kind in RAISED:
            extension.ask("task/start", {"name": "raises", "task_id": kind, "payload": kind})
        until(lambda: all(tasks(extension)[kind]["status"] == "failed" for kind in RAISED))
        found = tasks(extension)
        for kind, name in RAISED.items():
            assert found[kind]["error"] == f"restarts exhausted (3 of 3); the last run: {name}"
            assert found[kind]["restart_count"] == 3
        assert (found["well"]["status"], found["well"]["restart_count"]) == ("running", 0)
        assert answers_quickly(extension)
        told = [frame["params"] for frame in extension.kept() if frame.get("method") == "task/update"]
        for kind in RAISED:
            states = [update["status"] for update in told if update["task_id"] == kind]
            assert states == [*["running", "restarting"] * 3, "running", "failed"], kind
        assert shut_down(extension) == 0
        for kind in RAISED:
            for number in range(1, 5):
                extension.wait_for_stderr(f"task '{kind}': run {number} raised")
        assert extension.stderr.count("raise KINDS[ctx.payload]()") == 4 * len(RAISED)


CHILDREN = """
import asyncio, sys
from sepkit import App, TaskContext

app = App("children")
KINDS = {"exit": SystemExit, "interrupt": KeyboardInterrupt}

async def child(kind: str) -> None:
    await asyncio.sleep(0)
    raise KINDS[kind](3)

@app.task(autostart=False, max_restarts=1, initial_delay=0, jitter=0)
async def awaits(ctx: TaskContext) -> None:
    await asyncio.create_task(child(ctx.payload))

@app.task(autostart=False)
async def leaves(ctx: TaskContext) -> None:
    left = asyncio.create_task(child(ctx.payload))
    asyncio.get_running_loop().call_soon(sys.exit, 4)
    await ctx.wait_stop()

@app.tool
async def wait_for(kind: str) -> str:
    await asyncio.create_task(child(kind))
    return "not reached"
"""


def test_children_that_exit_end_neither_the_process_nor_anybody_elses_call(loop_kind: LoopKind) -> None:
    """A loop of asyncio ends on a SystemExit or KeyboardInterrupt from any of its tasks; sepkit goes on."""
    with contextlib.ExitStack() as stack:
        extension = start(stack, CHILDREN, loop_kind)
        for kind in ("exit", "interrupt"):
            for name in ("awaits", "leaves"):
                extension.ask("task/start", {"name": name, "task_id": f"{name} {kind}", "payload": kind})
            until(lambda kind=kind: tasks(extension)[f"awaits {kind}"]["status"] == "failed")  # type: ignore[misc]
            assert extension.tool("wait_for", kind=kind)["is_error"] is True
            assert tasks(extension)[f"leaves {kind}"]["status"] == "running"
        assert answers_quickly(extension)
        assert shut_down(extension) == 0
        for name in ("SystemExit", "KeyboardInterrupt"):  # uvloop tells the last of those in one turn of the loop
            said = f"an asyncio task or callback raised {name}; going on\nTraceback (most recent call last):\n"
            assert said + f'  File "{extension.folder}/app.py"' in extension.stderr


# -- tasks that do not end, and what they leave behind ---------------------------------------------------------------

STUBBORN = """
import asyncio, subprocess, threading, time
from sepkit import App, TaskContext

app = App("stubborn")
left = []

@app.task
async def sleeps_on() -> None:
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

@app.task
async def works_on() -> None:
    while True:
        try:
            await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            pass

@app.task
async def raises_instead() -> None:
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        raise SystemExit(7)

@app.task(restart="never")
async def leaves_behind(ctx: TaskContext) -> None:
    async def deaf() -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass

    left.append(asyncio.create_task(deaf()))
    left.append(asyncio.create_task(asyncio.sleep(3600)))
    left.append(await asyncio.create_subprocess_exec("sleep", "3600"))
    left.append(subprocess.Popen(["sleep", "3600"]))
    for daemon in (True, False):
        threading.Thread(target=time.sleep, args=(3600,), daemon=daemon).start()
    ctx.report_health("left")
    raise RuntimeError("and is gone")

@app.task(per_user=True)
async def one_of_many(ctx: TaskContext) -> None:
    await ctx.wait_stop()
"""


def test_tasks_that_will_not_end_hold_up_neither_the_connection_nor_the_end(stack: contextlib.ExitStack) -> None:
    """The time for stopping is bounded, the task is named, and ``shutdown`` takes less than 5 s."""
    extensions = [start(stack, STUBBORN, loop) for loop in LOOPS]
    for each in extensions:
        for number in range(50):
            each.ask("task/start", {"name": "one_of_many", "user_id": f"u{number}"})
        until(lambda each=each: tasks(each)["leaves_behind"]["status"] == "failed")  # type: ignore[misc]
        assert answers_quickly(each)
    began = time.monotonic()
    asked = [each.request("shutdown", {}) for each in extensions]
    for each in extensions:
        assert each.ping() < GRACE / 2, "it answers while it ends"
    for each, rid in zip(extensions, asked, strict=True):
        assert each.answer(rid)["result"] == {}
        assert time.monotonic() - began < GRACE
    for each in extensions:
        assert each.wait() == 0
        assert time.monotonic() - began < GRACE + 2, "threads that never end keep it a second at most"
        each.rest()
        for culprit in ("sleeps_on", "works_on"):
            assert each.stderr.count(f"task '{culprit}': run 1 ignores its cancellation") == 1
        assert "raises_instead': run 1 ignores" not in each.stderr
        assert "Traceback" not in each.stderr.partition("left behind")[2]


def test_a_stop_of_a_task_that_will_not_end_is_answered_and_holds_up_nobody(stack: contextlib.ExitStack) -> None:
    """After ``stop_grace`` the run is cancelled, and the stop is answered in bounded time; a second run is refused."""
    source = STUBBORN.replace("@app.task\n", "@app.task(stop_grace=0.2)\n")
    extensions = [start(stack, source, loop) for loop in LOOPS]
    asked = []
    for each in extensions:
        until(lambda each=each: tasks(each)["works_on"]["status"] == "running")  # type: ignore[misc]
        asked.append((each, time.monotonic(), each.request("task/stop", {"task_id": "works_on"})))
    for each, _, _ in asked:
        assert answers_quickly(each)
        assert each.ask("task/stop", {"task_id": "raises_instead"})["status"] == "stopped"
    for each, began, rid in asked:
        health = each.answer(rid)["result"]
        assert 5.1 < time.monotonic() - began < 5.2 + PATIENCE / 4
        assert (health["status"], health["error"]) == ("running", "it ignores its cancellation")
        refused = each.answer(each.request("task/start", {"name": "works_on"}))["error"]
        assert refused["code"] == -32602
        assert "still stopping" in refused["message"]


# -- reports -----------------------------------------------------------------------------------------------------------

REPORTING = """
import asyncio, threading, time
from pathlib import Path
from sepkit import App, TaskContext

app = App("reporting")

@app.task(autostart=False)
async def in_the_loop(ctx: TaskContext) -> None:
    began = time.monotonic()
    number = 0
    while not ctx.stopping:
        while number < min((time.monotonic() - began) * 10_000, ctx.payload):
            number += 1
            ctx.report_health(f"report {number}")
        Path(ctx.task_id).write_text(str(number))
        await ctx.sleep(0.005)

@app.task(autostart=False)
async def in_a_thread(ctx: TaskContext) -> None:
    def work() -> None:
        began = time.monotonic()
        number = 0
        while not ctx.stopping:
            while number < min((time.monotonic() - began) * 10_000, ctx.payload):
                number += 1
                ctx.report_health(f"report {number}")
            Path(ctx.task_id).write_text(str(number))
            time.sleep(0.005)

    await asyncio.to_thread(work)
"""
REPORTERS = ("in_the_loop", "in_a_thread")


def said(extension: Extension, task_id: str) -> int:
    """How many reports a task has made, whether anybody reads them or not."""
    with contextlib.suppress(OSError, ValueError):  # there is no file yet, or it is just being written
        return int((extension.folder / task_id).read_text())
    return 0


@pytest.mark.parametrize("name", REPORTERS)
def test_ten_thousand_reports_a_second_hold_up_nobody(name: str, loop_kind: LoopKind) -> None:
    """A host that reads gets the reports in order, and its answers between them.

    Source: docs/tasks.md, "On the wire".
    """
    with contextlib.ExitStack() as stack:
        extension = start(stack, REPORTING, loop_kind)
        extension.ask("task/start", {"name": name, "payload": 10**9})
        until(lambda: said(extension, name) > 3_000)
        assert answers_quickly(extension)
        health = extension.ask("task/stop", {"task_id": name})
        assert health["last_health_status"] == f"report {said(extension, name)}"
        updates = [frame["params"] for frame in extension.kept()]
        numbers = [int(u["last_health_status"].split()[1]) for u in updates if "last_health_status" in u]
        assert numbers[-2:] == [numbers[-2], numbers[-2]], "the last one again, with the news that it has stopped"
        assert numbers[:-1] == sorted(set(numbers)), "each at most once, and in their order"
        assert len(numbers) > 1_000
        assert shut_down(extension) == 0


def test_reports_to_a_host_that_does_not_read_do_not_pile_up(loop_kind: LoopKind) -> None:
    """10,000 reports a second, from loop and thread, become the newest one of each task.

    Source: docs/tasks.md, "On the wire".
    """
    with contextlib.ExitStack() as stack:
        extension = start(stack, REPORTING, loop_kind)
        for name in REPORTERS:
            extension.ask("task/start", {"name": name, "payload": 15_000})
        extension.pause()
        until(lambda: min(said(extension, name) for name in REPORTERS) == 15_000)
        extension.resume()
        updates: list[dict[str, Any]] = []

        def newest() -> set[str | None]:
            assert extension.ping() < PATIENCE
            updates.extend(frame for frame in extension.kept() if frame.get("method") == "task/update")
            by_task = {update["params"]["task_id"]: update["params"] for update in updates}
            return {update.get("last_health_status") for update in by_task.values()}

        until(lambda: newest() == {"report 15000"})
        size = sum(len(json.dumps(update, separators=(",", ":"))) + 1 for update in updates)
        # What may wait for a host, what its pipe holds, and what was told before it stopped to read.
        assert HIGH_WATER / 2 < size < HIGH_WATER + MIB, "all 30,000 would be 6 MiB"
        assert answers_quickly(extension)
        assert shut_down(extension) == 0


# -- the loop, and the process -----------------------------------------------------------------------------------------

BLOCKING = """
import time
from sepkit import App, TaskContext

app = App("blocking")

@app.task
async def blocks(ctx: TaskContext) -> None:
    for number in range(3):
        time.sleep(0.4)
        ctx.report_health(f"{number}")
        await ctx.sleep(0.05)

@app.task
async def waits(ctx: TaskContext) -> None:
    await ctx.wait_stop()
"""


def test_a_task_that_blocks_the_loop_is_named_once(stack: contextlib.ExitStack) -> None:
    """Blocking for more than 250 ms is told on stderr, once; a task that waits is not named."""
    extensions = [start(stack, BLOCKING, loop) for loop in LOOPS]
    for each in extensions:
        until(lambda each=each: tasks(each)["blocks"].get("last_health_status") == "2")  # type: ignore[misc]
        assert shut_down(each) == 0
        assert re.findall(r"sepkit\.watch: (.+) has blocked the loop for more than 250 ms", each.stderr) == [
            "task blocks"
        ]


REMEMBERING = """
from sepkit import App, TaskContext

app = App("remembering")

@app.task(initial_delay=0, jitter=0)
async def crashes_twice(ctx: TaskContext) -> None:
    app.runs = getattr(app, "runs", 0) + 1
    if app.runs < 3:
        raise ValueError
    ctx.report_health("up")
    await ctx.wait_stop()

@app.task(per_user=True)
async def feed(ctx: TaskContext) -> None:
    await ctx.wait_stop()
"""


def test_after_the_process_is_killed_its_tasks_begin_anew_with_the_next(loop_kind: LoopKind) -> None:
    """Tasks come back with the next process, and nothing of the old ones is kept."""
    for ended in (signal.SIGKILL, None):
        with contextlib.ExitStack() as stack:
            extension = start(stack, REMEMBERING, loop_kind)
            until(lambda each=extension: "last_health_status" in tasks(each)["crashes_twice"])  # type: ignore[misc]
            found = tasks(extension)
            assert found.keys() == {"crashes_twice"}, "a task of a user does not come back by itself"
            assert found["crashes_twice"]["restart_count"] == 2, "counted from the start of this process"
            extension.ask("task/start", {"name": "feed", "user_id": "ada"})
            if ended is None:
                assert shut_down(extension) == 0
            else:
                extension.process.send_signal(ended)
                assert extension.wait() == -ended
