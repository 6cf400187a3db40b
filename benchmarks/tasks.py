"""How many background tasks an extension can have: rates of start, report, status and stop, and memory a task.

At 100, 1,000 and 10,000 tasks; the curve must be flat. "told" is for a host that wants to hear of each change, "no-gc"
is without the garbage collector, whose passes over all that is alive are what makes a task of many dearer. Beside them,
by turns in the same run, the same with plain ``asyncio.create_task`` and a loop around it, which promises none of what
the supervisor does. Each in a fresh process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.about import about, json_option, show, spread

CHILD = Path(__file__).parent / "children" / "many_tasks.py"
COUNTS = (100, 1_000, 10_000)
KINDS = ("sepkit", "told", "no-gc", "plain")
STEPS = ("start", "report", "status", "stop")


def run(kind: str, count: int, *options: str) -> dict[str, Any]:
    command = [sys.executable, str(CHILD), kind, str(count), *options]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


@click.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--most", default=COUNTS[-1], show_default=True, type=click.IntRange(COUNTS[0]), help="Not beyond this.")
@json_option
def main(rounds: int, most: int, file: str | None) -> None:
    """Measure the supervisor of background tasks."""
    rates: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for count in (count for count in COUNTS if count <= most):
            for kind in KINDS:
                rates.setdefault((kind, count), []).append(run(kind, count))
    rows = [
        {
            "kind": kind,
            "tasks": count,
            **{step: spread([one[step] for one in found]) for step in STEPS},
            "bytes": run(kind, count, "--memory")["bytes"],
        }
        for (kind, count), found in sorted(rates.items(), key=lambda item: (KINDS.index(item[0][0]), item[0][1]))
    ]
    table = f"{rounds} rounds by turns, medians; tasks a second\n\n"
    table += f"{'':8} {'tasks':>7} {'start':>10} {'report':>10} {'status':>10} {'stop':>10} {'bytes a task':>13}\n"
    for row in rows:
        steps = " ".join(f"{row[step]['median']:>10,.0f}" for step in STEPS)
        table += f"{row['kind']:8} {row['tasks']:>7,} {steps} {row['bytes']:>13,.0f}\n"
    show({**about(), "rounds": rounds, "rows": rows}, table, file)


if __name__ == "__main__":
    main()
