"""How long a host waits for an extension: from its spawn to the answer of ``initialize``.

A host may start every extension anew for each turn, so this is what its user feels first. Each child is spawned, asked,
and killed as soon as it has answered: wall time until then, the CPU time of the whole process, and what is resident.
The floor is an interpreter that imports sepkit's dependencies and answers at once. By turns, medians of the rounds;
"ratio" is the median of the rounds' own ratios of CPU time to the floor's.

What this does not show: a cold disk (the bytecode is written and the files are read before the first round), and what
the author's own imports take.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.about import about, as_text, version

CHILDREN = Path(__file__).parent / "children"
SEP = {
    "protocol_version": 1,
    "host": {"name": "bench", "version": "1"},
    "workspace": {"root": "/", "trusted": True},
    "mode": "headless",
}
MCP = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
FLOOR = "imports alone"
RUN = ["-m", "sepkit", "run"]
KINDS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "bare Python": ([str(CHILDREN / "starts.py"), "bare"], SEP),
    FLOOR: ([str(CHILDREN / "starts.py"), "imports"], SEP),
    "sepkit, one tool": ([*RUN, str(CHILDREN / "echo.py:app")], SEP),
    "sepkit, twenty typed": ([*RUN, str(CHILDREN / "typed.py:app")], SEP),
    "mcp": ([str(CHILDREN / "starts.py"), "mcp"], MCP),
    "fastmcp": ([str(CHILDREN / "starts.py"), "fastmcp"], MCP),
}
PEERS = ("mcp", "fastmcp")


def started(kind: str) -> dict[str, float]:
    """Start one child: milliseconds of wall and CPU until it has answered, and MiB that are resident then."""
    return spawned(*KINDS[kind])


def spawned(command: list[str], params: dict[str, Any], **variables: str) -> dict[str, float]:
    """Start the interpreter with ``command``, and ``variables`` in its environment."""
    request = json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}).encode() + b"\n"
    # A user has bytecode; a shell that forbids writing it would have each start compile everything.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | variables
    began = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env=environment,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child.stdin, child.stdout:
        child.stdin.write(request)
        answer = b""
        while not answer.endswith(b"\n"):
            piece = child.stdout.read(1 << 20)
            if not piece:
                raise SystemExit(f"{' '.join(command)} ended before it answered")
            answer += piece
        wall = time.perf_counter() - began
        resident = _resident(child.pid)
        child.kill()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if b'"result"' not in answer:
        raise SystemExit(f"{' '.join(command)} answered {answer[:200]!r}")
    return {"wall": wall * 1e3, "cpu": (used.ru_utime + used.ru_stime) * 1e3, "resident": resident}


def _resident(pid: int) -> float:
    """MiB; NaN where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def summary(rounds: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    rows = []
    for kind, found in rounds.items():
        row: dict[str, Any] = {"kind": kind}
        for measure in ("wall", "cpu", "resident"):
            values = [one[measure] for one in found]
            row[measure] = {"median": statistics.median(values), "least": min(values), "most": max(values)}
            ratios = [one[measure] / floor[measure] for one, floor in zip(found, rounds[FLOOR], strict=True)]
            row[measure]["ratio"] = statistics.median(ratios)
        rows.append(row)
    return rows


@click.command()
@click.option("--rounds", default=21, show_default=True, type=click.IntRange(1))
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the results there, too.")
@click.option("--peers/--no-peers", default=True, show_default=True, help="With the MCP SDKs that are installed.")
def main(rounds: int, file: Path | None, peers: bool) -> None:
    """Measure the start."""
    missing = [name for name in PEERS if version(name) is None]
    kinds = [kind for kind in KINDS if kind not in PEERS or (peers and kind not in missing)]
    for kind in kinds:
        started(kind)  # writes the bytecode
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind in kinds:
            found[kind].append(started(kind))
    result = {**about(PEERS), "rounds": rounds, "missing": missing, "rows": summary(found)}
    if file is not None:
        file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    click.echo(f"{as_text(result)}\n{rounds} rounds: median (least to most)\n")
    click.echo(f"{'':22} {'spawn to answer, ms':>24} {'CPU, ms':>24} {'ratio':>6} {'resident, MiB':>14} {'ratio':>6}")
    for row in result["rows"]:
        wall, cpu = (
            f"{one['median']:.0f} ({one['least']:.0f} to {one['most']:.0f})" for one in (row["wall"], row["cpu"])
        )
        resident = row["resident"]
        click.echo(
            f"{row['kind']:22} {wall:>24} {cpu:>24} {row['cpu']['ratio']:>6.2f}"
            f" {resident['median']:>14.1f} {resident['ratio']:>6.2f}"
        )
    if missing:
        click.echo(f"\nNot installed, and left out: {', '.join(missing)} (pip install 'sepkit[bench]')")


if __name__ == "__main__":
    main()
