"""What it costs to have many: the curves must be flat.

``tools``: an extension of 10 to 10,000 tools is spawned, and answers ``initialize`` with all their schemas. CPU time
and memory until the answer, beyond those of an extension without tools, by the number of tools. Then the rate of calls
with 256 in flight, over ten tools of these. By turns, medians of the rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.about import about, as_text
from benchmarks.startup import SEP, spawned
from benchmarks.throughput import Pump

COMMAND = ["-m", "sepkit", "run", str(Path(__file__).parent / "children" / "many_tools.py:app")]
COUNTS = (10, 100, 1_000, 10_000)
SPREAD = 10
CALL = (
    b'{"jsonrpc":"2.0","id":%d,"method":"tool/execute","params":{"call_id":"call-%d","tool":"tool_%d",'
    b'"arguments":{"text":"hello, world"},"context":{"token":"epoch-1","tier":"command"}}}\n'
)


def tools(rounds: int, most: int) -> list[dict[str, Any]]:
    """What a tool costs, in extensions of up to ``most``."""
    counts = [count for count in COUNTS if count <= most]
    starts: dict[int, list[dict[str, float]]] = {count: [] for count in (0, *counts)}
    for _ in range(rounds):
        for count, found in starts.items():
            found.append(spawned(COMMAND, SEP, SEPKIT_TOOLS=str(count)))
    return [
        {
            "tools": count,
            "ms": statistics.median(
                (one["cpu"] - none["cpu"]) / count for one, none in zip(starts[count], starts[0], strict=True)
            ),
            "KiB": statistics.median(
                (one["resident"] - none["resident"]) * 1024 / count
                for one, none in zip(starts[count], starts[0], strict=True)
            ),
            "calls": _rate(count, rounds),
        }
        for count in counts
    ]


def _rate(count: int, rounds: int) -> float:
    os.environ["SEPKIT_TOOLS"] = str(count)
    step = max(1, count // SPREAD)
    calls = [CALL % (n, n, n % SPREAD * step) for n in range(1, 20_001)]
    running = Pump([sys.executable, *COMMAND])
    try:
        running.calls_per_second(calls[:2_000], 256)  # warm up
        return statistics.median(running.calls_per_second(calls, 256) for _ in range(rounds))
    finally:
        running.child.kill()
        running.child.wait()


PARTS: dict[str, Callable[[int, int], list[dict[str, Any]]]] = {"tools": tools}


@click.command()
@click.option("--part", "parts", type=click.Choice(list(PARTS)), multiple=True, help="Only this; may be repeated.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--most", default=COUNTS[-1], show_default=True, type=click.IntRange(COUNTS[0]), help="Not beyond this.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the results there, too.")
def main(parts: tuple[str, ...], rounds: int, most: int, file: Path | None) -> None:
    """Measure what it costs to have many."""
    result: dict[str, Any] = {**about(), "rounds": rounds}
    click.echo(f"{as_text(result)}\n{rounds} rounds, medians")
    for part in parts or PARTS:
        rows = result[part] = PARTS[part](rounds, most)
        columns = list(rows[0])
        click.echo(f"\n{part}\n" + "".join(f"{column:>12}" for column in columns))
        for row in rows:
            click.echo("".join(f"{row[column]:>12,.3f}" for column in columns))
    if file is not None:
        file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
