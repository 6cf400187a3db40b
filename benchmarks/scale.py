"""What it costs to have many, and much: the curves must be flat.

``tools``: an extension of 10 to 10,000 tools is spawned, and answers ``initialize`` with all their schemas. CPU time
and memory until the answer, beyond those of an extension without tools, by the number of tools. Then the rate of calls
with 256 in flight, over ten tools of these.

``in-flight``: CPU time per call by the number of calls in flight, beside the bare loop.

``sleeping``: CPU time per call of a tool that sleeps ten milliseconds, by the number of calls in flight, beside a plain
loop with a task a call.

``frames``: CPU time per MiB of a call whose argument is as large, and whose answer is as well, beside a loop that
reads, joins once, parses, writes.

``memory``: what is resident after the handshake, and in ten steps to a million calls.

By turns, medians of the rounds. CPU time is that of the child alone.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.about import about, json_option, show
from benchmarks.pump import BARE, CHILDREN, OURS, RUN, Child, Pump, chosen, pump, sep_call
from benchmarks.startup import spawned

TOOLS = (10, 100, 1_000, 10_000)
IN_FLIGHT = (1, 4, 16, 64, 256, 1_024, 4_096)
SLEEPING = (100, 1_000, 10_000)
KIB, MIB = 1 << 10, 1 << 20
SLEEPERS = 5_000  # calls of a round, at least
SIZES = (KIB, 16 * KIB, 256 * KIB, MIB, 16 * MIB, 64 * MIB)
AROUND = 512  # bytes of a call around its argument: a line of 64 MiB is allowed, a longer one is not
SPREAD = 10
STEPS = 10

Rows = list[dict[str, Any]]


def tools(rounds: int, most: int) -> Rows:
    """What a tool costs, in extensions of up to ``most``."""

    def call(step: int, number: int) -> bytes:
        return sep_call(number, b"tool_%d" % (number % SPREAD * step))

    def child(count: int) -> Child:
        command = [*RUN, str(CHILDREN / "many_tools.py:app")]
        return Child(command, call=partial(call, max(1, count // SPREAD)))

    counts = [count for count in TOOLS if count <= most]
    starts: dict[int, list[dict[str, float]]] = {count: [] for count in (0, *counts)}
    for _ in range(rounds):
        for count, found in starts.items():
            found.append(spawned(child(count), SEPKIT_TOOLS=str(count)))
    rates: dict[int, list[float]] = {count: [] for count in counts}
    with ExitStack() as stack:
        pumps = {count: stack.enter_context(pump(child(count), SEPKIT_TOOLS=str(count))) for count in counts}
        for running in pumps.values():
            running.rate(2_000, 256)  # warm up
        for _ in range(rounds):
            for count, running in pumps.items():
                rates[count].append(running.rate(20_000, 256))

    def each(count: int, measure: str) -> float:
        pairs = zip(starts[count], starts[0], strict=True)
        return statistics.median((one[measure] - none[measure]) / count for one, none in pairs)

    return [
        {
            "tools": count,
            "ms a tool": each(count, "cpu"),
            "KiB a tool": each(count, "resident") * KIB,
            "calls/s": statistics.median(rates[count]),
        }
        for count in counts
    ]


def _beside(
    children: dict[str, Child], names: tuple[str, str], rounds: int, steps: list[Any], measure: Callable[..., float]
) -> list[tuple[Any, float, float, float]]:
    """For each step: the floor's figure, ours, and the median of the rounds' ratios."""
    found: dict[tuple[Any, str], list[float]] = {(step, name): [] for step in steps for name in names}
    with ExitStack() as stack:
        pumps = {name: stack.enter_context(pump(children[name])) for name in names}
        for step in steps:
            for running in pumps.values():
                measure(running, step)  # warm up
            for _ in range(rounds):
                for name, running in pumps.items():
                    found[step, name].append(measure(running, step))
    rows = []
    for step in steps:
        floor, ours = (found[step, name] for name in names)
        ratio = statistics.median(mine / bare for mine, bare in zip(ours, floor, strict=True))
        rows.append((step, statistics.median(floor), statistics.median(ours), ratio))
    return rows


def in_flight(rounds: int, most: int, calls: int) -> Rows:
    """Microseconds of CPU time a call."""

    def measure(running: Pump, step: int) -> float:
        frames = running.calls(min(calls, 4_000 if step < 64 else 20_000))
        before = running.cpu()
        running.run(frames, step)
        return (running.cpu() - before) / len(frames) * 1e6

    steps = [step for step in IN_FLIGHT if step <= most]
    children, _ = chosen(False, None)
    return [
        {"in flight": step, "bare, µs": floor, "sepkit, µs": ours, "ratio": ratio}
        for step, floor, ours, ratio in _beside(children, (BARE, OURS), rounds, steps, measure)
    ]


def sleeping(rounds: int, most: int, calls: int) -> Rows:
    """Microseconds of CPU time a call that sleeps."""

    def measure(running: Pump, step: int) -> float:
        frames = running.calls(max(step, min(calls, SLEEPERS)))
        before = running.cpu()
        running.run(frames, step)
        return (running.cpu() - before) / len(frames) * 1e6

    call = partial(sep_call, tool=b"sleeps")
    children = {
        "tasks": Child([sys.executable, str(CHILDREN / "waiting.py")], call=call),
        OURS: Child([*RUN, str(CHILDREN / "kinds.py:app")], call=call),
    }
    steps = [step for step in SLEEPING if step <= max(most, SLEEPING[0])]
    return [
        {"asleep": step, "tasks, µs": floor, "sepkit, µs": ours, "ratio": ratio}
        for step, floor, ours, ratio in _beside(children, ("tasks", OURS), rounds, steps, measure)
    ]


def frames(rounds: int, most: int) -> Rows:
    """Milliseconds of CPU time a MiB, of frames up to ``most`` KiB."""

    def measure(running: Pump, size: int) -> float:
        count = max(1, min(500, 8 * MIB // size))
        call = sep_call(1, text=b"x" * (size - AROUND))
        before = running.cpu()
        running.run([call] * count, 1)
        return (running.cpu() - before) / (count * size / MIB) * 1e3

    children = {
        "floor": Child([sys.executable, str(CHILDREN / "whole.py")]),
        OURS: Child([*RUN, str(CHILDREN / "echo.py:app")]),
    }
    steps = [size for size in SIZES if size <= most * KIB]
    return [
        {"KiB": size // KIB, "floor, ms/MiB": floor, "sepkit, ms/MiB": ours, "ratio": ratio}
        for size, floor, ours, ratio in _beside(children, ("floor", OURS), rounds, steps, measure)
    ]


def memory(calls: int) -> Rows:
    """MiB that are resident, after so many calls."""
    children, _ = chosen(False, None)
    with ExitStack() as stack:
        pumps = {name: stack.enter_context(pump(children[name])) for name in (BARE, OURS)}

        def row(done: int) -> dict[str, Any]:
            bare, ours = (running.resident() for running in pumps.values())
            return {"calls": done, "bare, MiB": bare, "sepkit, MiB": ours}

        rows = [row(0)]
        for step in range(1, STEPS + 1):
            for running in pumps.values():
                running.rate(calls // STEPS, 256)
            rows.append(row(calls // STEPS * step))
    return rows


@click.command()
@click.option("--part", "parts", multiple=True, help="Only this; may be repeated.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--most", type=click.IntRange(10), help="No more tools, calls in flight, or KiB than that.")
@click.option(
    "--calls",
    default=1_000_000,
    show_default=True,
    type=click.IntRange(STEPS),
    help="For the memory; no more in a round of the others.",
)
@json_option
def main(parts: tuple[str, ...], rounds: int, most: int | None, calls: int, file: str | None) -> None:
    """Measure what it costs to have many."""
    known: dict[str, Callable[[], Rows]] = {
        "tools": lambda: tools(rounds, most or TOOLS[-1]),
        "in-flight": lambda: in_flight(rounds, most or IN_FLIGHT[-1], calls),
        "sleeping": lambda: sleeping(rounds, most or SLEEPING[-1], calls),
        "frames": lambda: frames(rounds, most or SIZES[-1] // KIB),
        "memory": lambda: memory(calls),
    }
    if unknown := set(parts) - known.keys():
        raise click.BadParameter(f"{', '.join(sorted(unknown))}: one of {', '.join(known)}", param_hint="--part")
    result: dict[str, Any] = {**about(), "rounds": rounds}
    table = f"{rounds} rounds by turns, medians\n"
    for part in parts or known:
        rows = result[part] = known[part]()
        table += f"\n{part}\n" + "".join(f"{column:>15}" for column in rows[0]) + "\n"
        for row in rows:
            table += "".join(
                f"{value:>15,}" if isinstance(value, int) else f"{value:>15,.3f}" for value in row.values()
            )
            table += "\n"
    show(result, table, file)


if __name__ == "__main__":
    main()
