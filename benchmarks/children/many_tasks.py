"""So many tasks in one process: how fast each step is, and what a sleeping task weighs. Prints JSON.

``many_tasks.py sepkit|told|no-gc|plain COUNT``: supervised, supervised for a host that wants to be told of each change,
supervised with the garbage collector off, or by hand. With ``--memory`` it weighs instead of measuring, since weighing
slows all else.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

from sepkit import App, TaskContext
from sepkit.faces.runner import new_loop
from sepkit.faces.sep.dispatcher import Dispatcher
from sepkit.peer import Peer
from sepkit.serving.served import Served
from sepkit.transports.memory import memory_pair

HANDSHAKE = {
    "protocol_version": 1,
    "host": {"name": "bench", "version": "1"},
    "workspace": {"root": "/", "trusted": True},
    "mode": "headless",
}
LOOKS = 5  # the status is asked for so often; once would measure the garbage collector's luck

Steps = dict[str, Callable[[], Awaitable[None]]]


app = App("many")
contexts: list[TaskContext] = []


@app.task(autostart=False)
async def sleeper(ctx: TaskContext) -> None:
    contexts.append(ctx)
    await ctx.wait_stop()


def supervised(count: int) -> Steps:
    """The steps with sepkit's supervisor, as an author takes them."""
    contexts.clear()

    async def start() -> None:
        for number in range(count):
            app.tasks.start(sleeper, id=f"sleeper-{number}")
        while len(contexts) < count:  # noqa: ASYNC110  (an Event would be measured, too)
            await asyncio.sleep(0)

    async def report() -> None:
        for ctx in contexts:
            ctx.report_health("well")

    async def status() -> None:
        assert len(app.tasks.status()) == count

    async def stop() -> None:
        await asyncio.gather(*(app.tasks.stop(f"sleeper-{number}") for number in range(count)))

    return {"start": start, "report": report, "status": status, "stop": stop}


def plain(count: int) -> Steps:
    """The same with ``asyncio.create_task`` and a loop around it: no one at a time, no stop but cancel, no counts."""
    tasks: dict[str, asyncio.Task[None]] = {}
    health: dict[str, tuple[str, float]] = {}
    begun = 0

    async def sleeper() -> None:
        nonlocal begun
        begun += 1
        await asyncio.Event().wait()

    async def again_and_again() -> None:
        while True:
            try:
                await sleeper()
            except Exception:
                await asyncio.sleep(1)

    async def start() -> None:
        for number in range(count):
            tasks[f"sleeper-{number}"] = asyncio.create_task(again_and_again())
        while begun < count:  # noqa: ASYNC110  (an Event would be measured, too)
            await asyncio.sleep(0)

    async def report() -> None:
        for name in tasks:
            health[name] = ("well", time.time())

    async def status() -> None:
        assert len([(name, task.done(), health.get(name)) for name, task in tasks.items()]) == count

    async def stop() -> None:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)

    return {"start": start, "report": report, "status": status, "stop": stop}


async def measure(kind: str, count: int, weigh: bool) -> dict[str, Any]:
    make_steps = plain if kind == "plain" else supervised
    ours, theirs = memory_pair()
    serving = asyncio.create_task(Dispatcher(Served(app), theirs).serve())
    host = Peer(ours, notifications={"task/update": lambda params: None})
    host.start()
    await host.request("initialize", {**HANDSHAKE, "capabilities_enabled": {"tasks": kind == "told"}})
    found: dict[str, Any] = {}
    for warm_up in make_steps(1).values():
        await warm_up()
    steps = make_steps(count)
    gc.collect()
    if kind == "no-gc":
        gc.disable()
    if weigh:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        await steps["start"]()
        gc.collect()
        found["bytes"] = (tracemalloc.get_traced_memory()[0] - before) / count
        tracemalloc.stop()
    else:
        for name, step in steps.items():
            began = time.perf_counter()
            for _ in range(LOOKS if name == "status" else 1):
                await step()
            if kind == "told":
                await host.request("ping", {})  # what was told has arrived
            found[name] = count * (LOOKS if name == "status" else 1) / (time.perf_counter() - began)
    await host.request("shutdown", {})
    await serving
    return found


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_loop) as runner:
        print(json.dumps(runner.run(measure(sys.argv[1], int(sys.argv[2]), "--memory" in sys.argv))))
