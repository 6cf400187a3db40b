"""How fast a host asks and tells its extensions, beside the reference host in the same run with the same child.

Requests: ``Host.call_tool`` with 1, 64 and 256 in flight, and the reference's ``ExtensionProcess.request``. Events:
from one dispatch to 1, 10 and 50 processes, until each says that it has heard all. By turns, medians of the rounds.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import click

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


async def measure(rounds: int, calls: int) -> dict[str, Any]:
    rates: dict[str, dict[str, list[float]]] = {}

    def note(what: str, host: str, rate: float) -> None:
        rates.setdefault(what, {}).setdefault(host, []).append(rate)

    async with AsyncExitStack() as stack:
        hosts = {name: await stack.enter_async_context(make(1)) for name, make in HOSTS.items()}
        for call, _, _ in hosts.values():
            await requests_per_second(call, calls // 10, 64)  # warm up
        for _ in range(rounds):
            for in_flight in (1, 64, 256):
                for name, (call, _, _) in hosts.items():
                    rate = await requests_per_second(call, calls // (5 if in_flight == 1 else 1), in_flight)
                    note(f"requests/s, {in_flight} in flight", name, rate)
    for count in (1, 10, 50):
        async with AsyncExitStack() as stack:
            hosts = {name: await stack.enter_async_context(make(count)) for name, make in HOSTS.items()}
            for _ in range(rounds):
                for name, (_, dispatch, heard) in hosts.items():
                    rate = await events_per_second(dispatch, heard, max(2, 20 // count))
                    note(f"events/s to {count}", name, rate)
    return {
        what: {
            **{name: statistics.median(found) for name, found in by_host.items()},
            "ratio": statistics.median(
                mine / theirs for mine, theirs in zip(by_host["sepkit"], by_host["reference"], strict=True)
            ),
        }
        for what, by_host in rates.items()
    }


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--calls", default=20_000, show_default=True, help="Requests in each round; a fifth with 1 in flight.")
@click.option("--loop", "kind", type=click.Choice(["uvloop", "asyncio"]), default="uvloop", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def main(rounds: int, calls: int, kind: Any, as_json: bool) -> None:
    """Measure sepkit's host beside the reference host."""
    with asyncio.Runner(loop_factory=lambda: new_loop(kind)) as runner:
        found = runner.run(measure(rounds, calls))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    python = ".".join(map(str, sys.version_info[:3]))
    click.echo(f"Python {python}, {kind}, {rounds} rounds, medians\n")
    click.echo(f"{'':28} {'sepkit':>10} {'reference':>10} {'ratio':>6}")
    for what, row in found.items():
        click.echo(f"{what:28} {row['sepkit']:>10,.0f} {row['reference']:>10,.0f} {row['ratio']:>6.2f}")


if __name__ == "__main__":
    main()
