"""How long one call takes when nothing else is in flight: from its first byte written to its answer read.

By turns with a bare orjson loop and other SDKs: a hundred calls of each in turn, so that a busy moment meets them all.
The bare loop's own time is mostly that of two pipes and of waking two processes.
"""

from __future__ import annotations

import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.about import about, json_option, ratios, show, spread
from benchmarks.pump import BARE, Pump, chosen, left_out, peer_options, pump

TURN = 100


def latencies(running: Pump, calls: list[bytes]) -> list[float]:
    """Microseconds of each call, one at a time."""
    found = []
    for call in calls:
        began = time.perf_counter()
        running.send(call, 1)
        found.append((time.perf_counter() - began) * 1e6)
    return found


@click.command()
@click.option("--calls", default=1_000, show_default=True, type=click.IntRange(TURN), help="Of each child in a round.")
@click.option("--rounds", default=9, show_default=True, type=click.IntRange(1))
@peer_options
@json_option
def main(calls: int, rounds: int, with_peers: bool, typescript: str | None, file: str | None) -> None:
    """Measure the time of a call."""
    children, missing = chosen(with_peers, typescript)
    found: dict[str, list[list[float]]] = {name: [] for name in children}
    with ExitStack() as stack:
        pumps = {name: stack.enter_context(pump(child)) for name, child in children.items()}
        for running in pumps.values():
            running.rate(TURN * 2, 1)  # warm up
        for _ in range(rounds):
            waits: dict[str, list[float]] = {name: [] for name in children}
            for _ in range(calls // TURN):
                for name, running in pumps.items():
                    waits[name] += latencies(running, running.calls(TURN))
            for name, wait in waits.items():
                found[name].append(statistics.quantiles(wait, n=100))
    rows: list[dict[str, Any]] = []
    for name, cuts in found.items():
        row: dict[str, Any] = {"kind": name}
        for quantile in (50, 90, 99):
            row[f"p{quantile}"] = spread([one[quantile - 1] for one in cuts])
        row["ratio"] = ratios([one[49] for one in cuts], [one[49] for one in found[BARE]])
        rows.append(row)
    result = {**about(("mcp", "fastmcp")), "rounds": rounds, "calls": calls, "missing": missing, "rows": rows}
    table = f"one in flight, {rounds} rounds of {calls:,} calls by turns: microseconds, median (least to most)\n\n"
    table += f"{'':15} {'p50':>22} {'p90':>8} {'p99':>8} {'ratio of p50':>23}\n"
    for row in rows:
        middle, ratio = row["p50"], row["ratio"]
        shown = f"{middle['median']:,.0f} ({middle['least']:,.0f} to {middle['most']:,.0f})"
        share = f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"
        table += (
            f"{row['kind']:15} {shown:>22} {row['p90']['median']:>8,.0f} {row['p99']['median']:>8,.0f} {share:>23}\n"
        )
    show(result, table + left_out(missing), file)


if __name__ == "__main__":
    main()
