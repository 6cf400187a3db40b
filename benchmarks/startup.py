"""How long a host waits for an extension: from its spawn to the answer of ``initialize``.

A host may start every extension anew for each turn, so this is what its user feels first. Each child is spawned, asked,
and killed as soon as it has answered: wall time until then, the CPU time of the whole process, and what is resident.
The floor is an interpreter that imports sepkit's dependencies and answers at once. By turns, medians of the rounds;
"ratio" is the median of the rounds' own ratios of CPU time to the floor's.

What this does not show: a cold disk (the bytecode is written and the files are read before the first round), and what
the author's own imports take.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.about import about, json_option, ratios, show, spread
from benchmarks.pump import (
    CHILDREN,
    OURS,
    RUN,
    Child,
    chosen,
    environment,
    left_out,
    peer_options,
    resident,
)

STARTS = [sys.executable, str(CHILDREN / "starts.py")]
FLOOR = "imports alone"


def kinds(with_peers: bool, typescript: str | None) -> tuple[dict[str, Child], list[str]]:
    """What is started, and what is missing."""
    found, missing = chosen(with_peers, typescript)
    ours, others = found[OURS], list(found.items())[2:]
    return {
        "bare Python": Child([*STARTS, "bare"]),
        FLOOR: Child([*STARTS, "imports"]),
        "sepkit, one tool": ours,
        "sepkit, twenty typed": Child([*RUN, str(CHILDREN / "typed.py:app")]),
        **dict(others),
    }, missing


def spawned(child: Child, **variables: str) -> dict[str, float]:
    """Start a child: milliseconds of wall and CPU until it has answered, and MiB that are resident then."""
    began = time.perf_counter()
    process = subprocess.Popen(
        child.command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env=environment(**variables),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        process.stdin.write(child.opening)
        answer = b""
        while not answer.endswith(b"\n"):
            piece = process.stdout.read(1 << 20)
            if not piece:
                raise SystemExit(f"{child.command!r} ended before it answered")
            answer += piece
        wall = time.perf_counter() - began
        memory = resident(process.pid)
        process.kill()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if b'"result"' not in answer:
        raise SystemExit(f"{child.command!r} answered {answer[:200]!r}")
    return {"wall": wall * 1e3, "cpu": (used.ru_utime + used.ru_stime) * 1e3, "resident": memory}


def summary(rounds: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    rows = []
    for kind, found in rounds.items():
        row: dict[str, Any] = {"kind": kind}
        for measure in ("wall", "cpu", "resident"):
            values = [one[measure] for one in found]
            floors = [one[measure] for one in rounds[FLOOR]]
            row[measure] = {**spread(values), "ratio": ratios(values, floors)["median"]}
        rows.append(row)
    return rows


@click.command()
@click.option("--rounds", default=21, show_default=True, type=click.IntRange(1))
@peer_options
@json_option
def main(rounds: int, with_peers: bool, typescript: str | None, file: str | None) -> None:
    """Measure the start."""
    children, missing = kinds(with_peers, typescript)
    for child in children.values():
        spawned(child)  # writes the bytecode
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in children}
    for _ in range(rounds):
        for kind, child in children.items():
            found[kind].append(spawned(child))
    result = {**about(("mcp", "fastmcp")), "rounds": rounds, "missing": missing, "rows": summary(found)}
    table = f"{rounds} rounds by turns: median (least to most)\n\n"
    table += f"{'':22} {'spawn to answer, ms':>24} {'CPU, ms':>24} {'ratio':>6} {'resident, MiB':>14} {'ratio':>6}\n"
    for row in result["rows"]:
        wall, cpu = (
            f"{one['median']:.0f} ({one['least']:.0f} to {one['most']:.0f})" for one in (row["wall"], row["cpu"])
        )
        memory = row["resident"]
        table += f"{row['kind']:22} {wall:>24} {cpu:>24} {row['cpu']['ratio']:>6.2f}"
        table += f" {memory['median']:>14.1f} {memory['ratio']:>6.2f}\n"
    show(result, table + left_out(missing), file)


if __name__ == "__main__":
    main()
