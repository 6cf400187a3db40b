"""What an extension that floods its host costs a neighbour that is called all the time, for each kind of flood.

One process for each kind: a host, the flooding extension, and the neighbour, which is called every 5 ms, first without
the flood and then with it. Printed are the neighbour's calls (as a share of those without a flood), its longest call,
by how much the host has grown, and the longest that the loop's thread has worked between two ticks of a millisecond (in
time of the processor, so that other programs do not count).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.about import about, json_option, show
from sepkit.faces.runner import new_loop
from sepkit.host import Delegate, Host, KvStore, Manifest
from sepkit.host.manifest import GROUPS, Capabilities, Run
from sepkit.wire import messages

CHILDREN = Path(__file__).parent / "children"
KINDS = runpy.run_path(str(CHILDREN / "flooding.py"))["KINDS"]
PAUSE = 0.005
MB = 1024 * 1024


class Program(Delegate):
    """A program whose user never answers, and that takes all else."""

    ui_kinds = ("confirm", "select", "set_widget")

    def __init__(self) -> None:
        self.told = 0

    async def ui(self, extension: str, request: messages.UiRequest) -> messages.UiResult:
        await asyncio.Event().wait()
        raise AssertionError

    async def exec(self, extension: str, request: messages.ExecRunParams) -> messages.ExecRunResult:
        return messages.ExecRunResult("", "", 0)

    async def send_message(self, extension: str, request: messages.SessionSendMessageParams) -> None: ...

    async def send_user_message(self, extension: str, request: messages.SessionSendUserMessageParams) -> None: ...

    async def append_entry(self, extension: str, request: messages.SessionAppendEntryParams) -> None: ...

    async def set_model(self, extension: str, request: messages.SessionSetModelParams) -> None: ...

    async def session_state(self, extension: str) -> dict[str, Any]:
        return {"turn": 1}

    def log(self, extension: str, record: messages.LogParams) -> None:
        self.told += 1

    def stderr(self, extension: str, line: str) -> None:
        self.told += 1


def manifest(name: str, child: str, *args: str) -> Manifest:
    return Manifest(
        name=name,
        version="1",
        root=CHILDREN,
        run=Run(command=sys.executable, args=[str(CHILDREN / child), *args]),
        capabilities=Capabilities(**dict.fromkeys(GROUPS, True)),  # type: ignore[arg-type]
    )


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Watch:
    """The host's memory, and how long its loop's thread works between two ticks."""

    def __init__(self) -> None:
        self.worst = 0.0
        self.before = self.most = resident()
        self._ticking = asyncio.ensure_future(self._tick())

    async def _tick(self) -> None:
        last, tick = time.thread_time(), 0
        while True:
            await asyncio.sleep(0.001)
            now = time.thread_time()
            self.worst = max(self.worst, now - last)
            last = now
            if (tick := tick + 1) % 10 == 0:
                self.most = max(self.most, resident())

    async def end(self) -> None:
        self._ticking.cancel()
        await asyncio.wait([self._ticking])


async def call_all_the_time(host: Host, seconds: float) -> tuple[int, float]:
    """How many calls of the neighbour that makes, and the longest."""
    calls, longest = 0, 0.0
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        await host.call_tool("listener.echo", {"text": "hello"}, timeout=60)
        longest = max(longest, time.perf_counter() - began)
        calls += 1
        await asyncio.sleep(PAUSE)
    return calls, longest


def failing(update: messages.ToolUpdateParams) -> None:
    raise ValueError("the program's own fault")


async def slow_reader(host: Host) -> None:
    async for _ in host.complete("flooding", "m", []):
        await asyncio.sleep(0.01)


async def measure(kind: str, seconds: float) -> dict[str, Any]:
    logged = Counted()
    logging.getLogger("sepkit").addHandler(logged)
    async with Host(store=KvStore(), delegate=Program(), shutdown_grace=0.2, trusted=True) as host:
        both = [manifest("flooding", "flooding.py"), manifest("listener", "listener.py", "bus/event")]
        for problem in await host.load(both):
            raise problem.error
        running = [
            asyncio.ensure_future(host.call_tool("flooding.run", on_update=failing, timeout=None)),
            asyncio.ensure_future(slow_reader(host)),
        ]
        await call_all_the_time(host, 0.2)
        watch = Watch()
        idle, idle_longest = await call_all_the_time(host, seconds)
        idle_worst, watch.worst = watch.worst, 0.0
        flood = {"kind": kind, "seconds": seconds}
        running.append(asyncio.ensure_future(host.call_tool("flooding.flood", flood, timeout=None)))
        calls, longest = await call_all_the_time(host, seconds)
        await watch.end()
        status = next(one for one in host.status() if one.name == "flooding")
        for task in running:
            task.cancel()
        with contextlib.suppress(Exception):
            await asyncio.wait(running)
    return {
        "kind": kind,
        "idle_calls": idle,
        "idle_longest_ms": idle_longest * 1000,
        "idle_turn_ms": idle_worst * 1000,
        "calls": calls,
        "share": calls / idle,
        "longest_ms": longest * 1000,
        "turn_ms": watch.worst * 1000,
        "grown_mib": (watch.most - watch.before) / MB,
        "logged": logged.count,
        "held_mib": status.held / MB,
        "waited": status.waited,
        "state": status.state,
        "counts": dict(status.counts),
    }


class Counted(logging.Handler):
    """How many lines sepkit logs."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


def in_a_process(kind: str, seconds: float, loop: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--only", kind, "--seconds", str(seconds), "--loop", loop, "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{kind}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)["rows"][0]
    return found


HEAD = f"{'kind':46} {'calls':>6} {'longest':>8} {'turn':>7} {'grown':>8} {'logged':>6}   idle: longest, turn"


def row(found: dict[str, Any]) -> str:
    return (
        f"{found['kind']:46} {found['share']:>6.0%} {found['longest_ms']:>5.0f} ms {found['turn_ms']:>4.0f} ms"
        f" {found['grown_mib']:>4.0f} MiB {found['logged']:>6}"
        f"   {found['idle_longest_ms']:>5.0f} ms {found['idle_turn_ms']:>4.0f} ms"
    )


@click.command()
@click.option("--seconds", default=2.0, show_default=True, help="How long each flood lasts.")
@click.option("--only", multiple=True, help="Kinds whose names begin so.")
@click.option("--loop", "loop_kind", type=click.Choice(["uvloop", "asyncio"]), default="uvloop", show_default=True)
@json_option
def main(seconds: float, only: tuple[str, ...], loop_kind: Any, file: str | None) -> None:
    """Measure what each kind of flood costs a neighbour."""
    if len(only) == 1 and only[0] in KINDS:
        logging.getLogger("sepkit").propagate = False
        with asyncio.Runner(loop_factory=lambda: new_loop(loop_kind)) as runner:
            rows = [runner.run(measure(only[0], seconds))]
    else:
        rows = [in_a_process(kind, seconds, loop_kind) for kind in KINDS if not only or kind.startswith(only)]
    table = f"{loop_kind}, {seconds:g} s each\n\n{HEAD}\n" + "\n".join(map(row, rows))
    show({**about(), "loop": loop_kind, "seconds": seconds, "rows": rows}, table, file)


if __name__ == "__main__":
    main()
