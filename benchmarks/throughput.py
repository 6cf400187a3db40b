"""How fast bytes become a handler's call and its answer bytes again.

A child that runs ``sepkit run`` is kept busy with so many calls in flight. Beside it, in the same run and by turns, the
same is done with a bare orjson loop and with other SDKs. Printed are calls per second, CPU time per call, and the
ratios of each round to the bare loop: these hold on a busy machine, the rates do not.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.about import about, json_option, ratios, show, spread
from benchmarks.pump import BARE, OURS, chosen, left_out, peer_options, pump

WARM_UP = 500
SHORT = 0.5  # seconds that a round of a slow child takes


@click.command()
@click.option("--calls", default=100_000, show_default=True, help="Calls in each round; of a slow child, fewer.")
@click.option("--rounds", default=9, show_default=True, type=click.IntRange(1))
@click.option("--in-flight", default=256, show_default=True)
@click.option("--at-least", type=float, default=None, help="Exit with 1 where sepkit's ratio is below this.")
@peer_options
@json_option
def main(
    calls: int,
    rounds: int,
    in_flight: int,
    at_least: float | None,
    with_peers: bool,
    typescript: str | None,
    file: str | None,
) -> None:
    """Measure calls per second beside a bare loop and other SDKs."""
    children, missing = chosen(with_peers, typescript)
    rates: dict[str, list[float]] = {name: [] for name in children}
    cpu: dict[str, list[float]] = {name: [] for name in children}
    with ExitStack() as stack:
        pumps = {name: stack.enter_context(pump(child)) for name, child in children.items()}
        counts = {}
        for name, running in pumps.items():
            warm = running.rate(WARM_UP, in_flight)
            counts[name] = min(calls, max(WARM_UP, int(warm * SHORT))) if warm < 20_000 else calls
            running.rate(counts[name] // 10, in_flight)
        for _ in range(rounds):
            for name, running in pumps.items():
                before = running.cpu()
                rates[name].append(running.rate(counts[name], in_flight))
                cpu[name].append((running.cpu() - before) / counts[name] * 1e6)
    rows = [
        {
            "kind": name,
            "calls": counts[name],
            "rate": spread(rates[name]),
            "cpu": spread(cpu[name]),
            "ratio": ratios(rates[name], rates[BARE]),
            "cpu_ratio": ratios(cpu[BARE], cpu[name]),
        }
        for name in children
    ]
    result: dict[str, Any] = {
        **about(("mcp", "fastmcp")),
        "rounds": rounds,
        "in_flight": in_flight,
        "missing": missing,
        "rows": rows,
    }
    table = f"{in_flight} in flight, {rounds} rounds by turns: median (least to most)\n\n"
    table += f"{'':15} {'calls/s':>28} {'CPU a call':>11} {'ratio of calls/s':>24} {'of CPU':>7}\n"
    for row in result["rows"]:
        rate, ratio = row["rate"], row["ratio"]
        shown = f"{rate['median']:,.0f} ({rate['least']:,.0f} to {rate['most']:,.0f})"
        share = f"{ratio['median']:.3f} ({ratio['least']:.3f} to {ratio['most']:.3f})"
        table += f"{row['kind']:15} {shown:>28} {row['cpu']['median']:>8.1f} µs {share:>24}"
        table += f" {row['cpu_ratio']['median']:>7.3f}\n"
    show(result, table + left_out(missing), file)
    ours = next(row["ratio"]["median"] for row in result["rows"] if row["kind"] == OURS)
    if at_least is not None and ours < at_least:
        raise SystemExit(f"the ratio is {ours:.2f}, below {at_least}")


if __name__ == "__main__":
    main()
