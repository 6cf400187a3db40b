"""How fast a host asks and tells its extensions, beside the reference host in the same run with the same child.

Requests: ``Host.call_tool`` with 1, 64 and 256 in flight, and the reference's ``ExtensionProcess.request``. Events:
from one dispatch to 1, 10 and 50 processes, until each says that it has heard all. By turns, medians of the rounds.
CPU time is that of the host alone; at 1 and 256 in flight it is what a call costs the program that hosts.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.about import about, json_option, ratios, show, spread
from sepkit.faces.runner import new_loop
from sepkit.host import Host, KvStore, Manifest
from sepkit.host.manifest import Capabilities, Run

CHILD = Path(__file__).parent / "children" / "listener.py"
CONTEXT = {"token": "epoch-1", "tier": "command"}
BURST = 500  # events between two looks at whether they have arrived; a host may shed more than 1,024 unsent ones

Call = Callable[[], Awaitable[object]]


def manifest(name: str) -> Manifest:
    return Manifest(
        name=name,
        version="1",
        root=CHILD.parent,
        run=Run(command=sys.executable, args=[str(CHILD)]),
        capabilities=Capabilities(tools=True),
    )


@asynccontextmanager
async def ours(count: int) -> Any:
    """A host with so many extensions: how to call a tool, to dispatch an event, and to ask each what it has heard."""
    async with Host(store=KvStore()) as host:
        for problem in await host.load([manifest(f"listener-{number}") for number in range(count)]):
            raise problem.error

        async def heard() -> list[int]:
            names = [f"listener-{number}.heard" for number in range(count)]
            return [int((await host.call_tool(name)).content) for name in names]

        yield (
            lambda: host.call_tool("listener-0.echo", {"text": "hello, world"}),
            lambda: host.dispatch_event("turn_start", {"agent_id": "a", "turn": 1}),
            heard,
        )


@asynccontextmanager
async def reference(count: int) -> Any:
    """The same of the reference host, one ``ExtensionProcess`` for each."""
    from smooth_operator_core.extension.process import DefaultInboundHandler, ExtensionProcess, SpawnSpec

    processes = []
    handshake = {
        "protocol_version": 1,
        "host": {"name": "bench", "version": "1"},
        "workspace": {"root": "/", "trusted": True},
        "mode": "headless",
    }
    async with AsyncExitStack() as stack:
        for _ in range(count):
            spec = SpawnSpec(command=sys.executable, args=[str(CHILD)], cwd=CHILD.parent)
            process = await ExtensionProcess.spawn(spec, DefaultInboundHandler())
            stack.push_async_callback(process.shutdown, 5.0)
            await process.request("initialize", handshake, 10.0)
            processes.append(process)
        numbers = iter(range(10**9))

        def call() -> Awaitable[object]:
            params = {
                "call_id": f"call-{next(numbers)}",
                "tool": "echo",
                "arguments": {"text": "hello, world"},
                "context": CONTEXT,
            }
            result: Awaitable[object] = processes[0].request("tool/execute", params, 120.0)
            return result

        def dispatch() -> None:
            for process in processes:
                process.send_event("turn_start", {"token": "t", "tier": "event"}, {"agent_id": "a", "turn": 1})

        async def heard() -> list[int]:
            params = {"call_id": "c", "tool": "heard", "arguments": {}, "context": CONTEXT}
            return [int((await process.request("tool/execute", params, 120.0))["content"]) for process in processes]

        yield call, dispatch, heard


HOSTS = {"sepkit": ours, "reference": reference}


async def requests_per_second(call: Call, calls: int, in_flight: int) -> float:
    """So many workers, each of which calls again as soon as it has its answer."""
    left = iter(range(calls))

    async def work() -> None:
        for _ in left:
            await call()

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(in_flight)))
    return calls / (time.perf_counter() - began)


async def events_per_second(
    dispatch: Callable[[], None], heard: Callable[[], Awaitable[list[int]]], bursts: int
) -> float:
    """Events dispatched a second, each to all of them, the time that they need to hear of it included."""
    expected = await heard()
    began = time.perf_counter()
    for _ in range(bursts):
        for _ in range(BURST):
            dispatch()
        expected = [count + BURST for count in expected]
        # The reference lets requests overtake events: the first answers may be too early.
        deadline = time.perf_counter() + 10
        while (now := await heard()) != expected:
            if time.perf_counter() > deadline:
                raise SystemExit(f"events were lost: {now} of {expected}")
    return bursts * BURST / (time.perf_counter() - began)


async def measure(rounds: int, calls: int, most: int) -> list[dict[str, Any]]:
    rates: dict[str, dict[str, list[float]]] = {}
    cpu: dict[str, dict[str, list[float]]] = {}

    async def note(what: str, host: str, count: int, running: Awaitable[float]) -> None:
        before = time.process_time()
        rates.setdefault(what, {}).setdefault(host, []).append(await running)
        spent = (time.process_time() - before) / count * 1e6
        cpu.setdefault(what, {}).setdefault(host, []).append(spent)

    async with AsyncExitStack() as stack:
        hosts = {name: await stack.enter_async_context(make(1)) for name, make in HOSTS.items()}
        for call, _, _ in hosts.values():
            await requests_per_second(call, calls // 10, 64)  # warm up
        for _ in range(rounds):
            for in_flight in (1, 64, 256):
                for name, (call, _, _) in hosts.items():
                    count = calls // (5 if in_flight == 1 else 1)
                    what = f"requests/s, {in_flight} in flight"
                    await note(what, name, count, requests_per_second(call, count, in_flight))
    for children in (count for count in (1, 10, 50) if count <= most):
        async with AsyncExitStack() as stack:
            hosts = {name: await stack.enter_async_context(make(children)) for name, make in HOSTS.items()}
            bursts = max(2, 20 // children)
            for _ in range(rounds):
                for name, (_, dispatch, heard) in hosts.items():
                    what = f"events/s to {children}"
                    await note(what, name, bursts * BURST, events_per_second(dispatch, heard, bursts))
    return [
        {
            "kind": what,
            **{name: spread(found) for name, found in by_host.items()},
            **{f"{name}_cpu": spread(found) for name, found in cpu[what].items()},
            "ratio": ratios(by_host["sepkit"], by_host["reference"]),
        }
        for what, by_host in rates.items()
    ]


@click.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--calls", default=20_000, show_default=True, help="Requests in each round; a fifth with 1 in flight.")
@click.option("--most", default=50, show_default=True, help="No more processes than that.")
@click.option("--loop", "kind", type=click.Choice(["uvloop", "asyncio"]), default="uvloop", show_default=True)
@json_option
def main(rounds: int, calls: int, most: int, kind: Any, file: str | None) -> None:
    """Measure sepkit's host beside the reference host."""
    missing = [] if find_spec("smooth_operator_core") else ["the reference host (pip install 'sepkit[dev]')"]
    if missing:
        raise SystemExit(f"left out, all of it: {missing[0]} is what it is measured beside")
    with asyncio.Runner(loop_factory=lambda: new_loop(kind)) as runner:
        rows = runner.run(measure(rounds, calls, most))
    result = {
        **about(("smooai-smooth-operator-core",)),
        "rounds": rounds,
        "loop": kind,
        "missing": missing,
        "rows": rows,
    }
    table = f"{kind}, {rounds} rounds by turns, medians; ratio (least to most)\n\n"
    table += f"{'':28} {'sepkit':>10} {'CPU each':>10} {'reference':>10} {'CPU each':>10} {'ratio':>22}\n"
    for row in rows:
        table += f"{row['kind']:28}"
        for name in HOSTS:
            table += f" {row[name]['median']:>10,.0f} {row[f'{name}_cpu']['median']:>7.1f} µs"
        ratio = row["ratio"]
        table += f" {ratio['median']:>6.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})\n"
    show(result, table, file)


if __name__ == "__main__":
    main()
