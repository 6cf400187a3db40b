"""How fast bytes become a handler's call and its answer bytes again.

A child that runs ``sepkit run`` is kept busy by a neutral pump: pre-serialised requests, so many in flight, newlines
counted and nothing parsed. Beside it, in the same run and by turns, a bare orjson loop is the child. Prints calls per
second and their ratio, the latency at one in flight, and the time from spawn to the answer of ``initialize``.
"""

from __future__ import annotations

import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

HERE = Path(__file__).parent
CHILDREN = {
    "bare loop": [sys.executable, str(HERE / "children" / "bare.py")],
    "sepkit": [sys.executable, "-m", "sepkit", "run", str(HERE / "children" / "echo.py:app")],
}
INITIALIZE = (
    b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocol_version":1,'
    b'"host":{"name":"pump","version":"1"},"workspace":{"root":"/","trusted":true},"mode":"headless"}}\n'
)
CALL = (
    b'{"jsonrpc":"2.0","id":%d,"method":"tool/execute","params":{"call_id":"call-%d","tool":"echo",'
    b'"arguments":{"text":"hello, world"},"context":{"token":"epoch-1","tier":"command"}}}\n'
)


class Pump:
    """Keeps one child busy. Knows bytes and newlines only."""

    def __init__(self, command: list[str]) -> None:
        began = time.perf_counter()
        # A user has bytecode; a shell that forbids writing it would have each start compile everything.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=environment
        )
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self._in, self._out = self.child.stdin.fileno(), self.child.stdout.fileno()
        os.write(self._in, INITIALIZE)
        self._read_lines(1)
        self.seconds_to_initialize = time.perf_counter() - began
        os.set_blocking(self._in, False)

    def _read_lines(self, wanted: int) -> None:
        while wanted > 0:
            wanted -= os.read(self._out, 1 << 16).count(b"\n")

    def calls_per_second(self, calls: list[bytes], in_flight: int) -> float:
        """Send all ``calls``, never with more than ``in_flight`` unanswered."""
        sent = answered = 0
        unwritten = memoryview(b"")
        began = time.perf_counter()
        while answered < len(calls):
            if not unwritten and sent < len(calls) and (room := in_flight - (sent - answered)) > 0:
                unwritten = memoryview(b"".join(calls[sent : sent + room]))
                sent = min(sent + room, len(calls))
            readable, writable, _ = select.select([self._out], [self._in] if unwritten else [], [])
            if writable:
                unwritten = unwritten[os.write(self._in, unwritten) :]
            if readable:
                answered += os.read(self._out, 1 << 16).count(b"\n")
        return len(calls) / (time.perf_counter() - began)

    def latencies(self, calls: list[bytes]) -> list[float]:
        """Seconds of each call, one at a time."""
        found = []
        for call in calls:
            began = time.perf_counter()
            os.write(self._in, call)
            self._read_lines(1)
            found.append(time.perf_counter() - began)
        return found


@contextmanager
def pump(name: str) -> Iterator[Pump]:
    """A child that is ready, and ends with the block."""
    running = Pump(CHILDREN[name])
    try:
        yield running
    finally:
        assert running.child.stdin is not None
        running.child.stdin.close()
        if running.child.wait(10) != 0:
            raise SystemExit(f"{name} ended with exit code {running.child.returncode}")


@click.command()
@click.option("--calls", default=100_000, show_default=True, help="Calls in each round.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--in-flight", default=256, show_default=True)
@click.option("--at-least", type=float, default=None, help="Exit with 1 where the ratio is below this.")
def main(calls: int, rounds: int, in_flight: int, at_least: float | None) -> None:
    """Measure the transport's throughput beside a bare loop."""
    requests = [CALL % (n, n) for n in range(1, calls + 1)]
    rates: dict[str, list[float]] = {name: [] for name in CHILDREN}
    ratios = []
    with pump("bare loop") as bare, pump("sepkit") as served:
        pumps = {"bare loop": bare, "sepkit": served}
        for running in pumps.values():
            running.calls_per_second(requests[: calls // 10], in_flight)  # warm up
        for _ in range(rounds):
            for name, running in pumps.items():
                rates[name].append(running.calls_per_second(requests, in_flight))
            ratios.append(rates["sepkit"][-1] / rates["bare loop"][-1])
        waits = {name: running.latencies(requests[:3000]) for name, running in pumps.items()}
    starts: dict[str, list[float]] = {name: [] for name in CHILDREN}
    for _ in range(5):
        for name in CHILDREN:
            with pump(name) as running:
                starts[name].append(running.seconds_to_initialize)

    python = ".".join(map(str, sys.version_info[:3]))
    click.echo(f"Python {python}, {in_flight} in flight, {rounds} rounds of {calls:,} calls, medians\n")
    click.echo(f"{'':10} {'calls/s':>10} {'p50 at 1':>10} {'p99 at 1':>10} {'spawn to initialize':>21}")
    for name in CHILDREN:
        cuts = statistics.quantiles(waits[name], n=100)
        click.echo(
            f"{name:10} {statistics.median(rates[name]):>10,.0f} {cuts[49] * 1e6:>7.0f} µs {cuts[98] * 1e6:>7.0f} µs"
            f" {statistics.median(starts[name]) * 1e3:>18.0f} ms"
        )
    ratio = statistics.median(ratios)
    click.echo(f"\nratio {ratio:.2f} of the bare loop (rounds: {', '.join(f'{r:.2f}' for r in ratios)})")
    if at_least is not None and ratio < at_least:
        raise SystemExit(f"the ratio is below {at_least}")


if __name__ == "__main__":
    main()
