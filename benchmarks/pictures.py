"""Draw the results of the other benchmarks: ``pictures.py FOLDER`` reads FOLDER's JSON, and writes SVG beside it.

The same results give the same bytes. Colours are of middle brightness, so that they read on a light page and a dark
one. A picture whose results are missing is left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import click

WIDTH, LEFT, RIGHT = 640, 150, 110
GREY, BLUE, LINE = "#737b85", "#2f81f7", "#9aa2ab"
COLOURS = (GREY, BLUE)
REVERSED = {"median": "median", "least": "most", "most": "least"}

Bar = tuple[str, dict[str, float]]
Curve = tuple[str, list[tuple[float, float]]]


def svg(title: str, height: float, parts: Sequence[str], noted: str) -> str:
    """A whole picture, with its title above and what it was measured on below."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}"'
        f' font-family="system-ui, sans-serif" font-size="13" role="img">\n<title>{escape(title)}</title>\n'
        + text(0, 16, title, bold=True)
        + "".join(parts)
        + text(0, height - 6, noted, size=11)
        + "</svg>\n"
    )


def text(x: float, y: float, words: str, anchor: str = "start", size: int = 13, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{GREY}" text-anchor="{anchor}" font-size="{size}"{weight}>'
        f"{escape(words)}</text>\n"
    )


def line(x1: float, y1: float, x2: float, y2: float, colour: str = LINE, width: float = 1) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width:g}"/>\n'
    )


def short(number: float) -> str:
    """Three figures are enough to see."""
    if number >= 100:
        return f"{float(f'{number:.3g}'):,.0f}"
    return f"{number:.3g}"


def bars(title: str, rows: Sequence[Bar], unit: str, noted: str) -> str:
    """A bar for each median, with a thin line from the least to the most. Ours are blue."""
    widest = max(found["most"] for _, found in rows)
    room = WIDTH - LEFT - RIGHT
    parts = []
    for number, (label, found) in enumerate(rows):
        y = 34 + number * 26
        colour = BLUE if label.startswith("sepkit") else GREY
        long, least, most = (LEFT + found[key] / widest * room for key in ("median", "least", "most"))
        parts += [
            text(LEFT - 8, y + 13, label, "end"),
            f'<rect x="{LEFT}" y="{y}" width="{max(1.0, long - LEFT):.1f}" height="18" rx="2" fill="{colour}"/>\n',
            line(least, y + 9, most, y + 9, LINE, 2),
            text(max(long, most) + 6, y + 13, f"{short(found['median'])} {unit}".rstrip()),
        ]
    return svg(title, 34 + len(rows) * 26 + 26, parts, noted)


def curves(
    title: str, found: Sequence[Curve], ticks: Sequence[tuple[float, str]], unit: str, below: str, noted: str
) -> str:
    """A line for each, from zero up; ``ticks`` are the places along the bottom and what stands under them."""
    left, right, top, bottom = 50, WIDTH - 110, 46, 226
    begin, end = ticks[0][0], ticks[-1][0]
    highest = _round_up(max(y for _, points in found for _, y in points))

    def across(x: float) -> float:
        return left + (x - begin) / (end - begin or 1) * (right - left)

    def up(y: float) -> float:
        return bottom - y / highest * (bottom - top)

    parts = [text(0, 34, unit, size=11)]
    for quarter in range(5):
        value = highest * quarter / 4
        parts += [
            line(left, up(value), right, up(value), LINE, 0.4),
            text(left - 6, up(value) + 4, f"{value:g}", "end"),
        ]
    parts += [text(across(x), bottom + 18, words, "middle", 11) for x, words in ticks]
    parts.append(text((left + right) / 2, bottom + 36, below, "middle", 11))
    ends = _apart([up(points[-1][1]) for _, points in found])
    for (label, points), colour, y in zip(found, COLOURS, ends, strict=True):
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>\n')
        parts += [f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3" fill="{colour}"/>\n' for x, y in points]
        parts.append(text(right + 10, y + 4, label, bold=label == "sepkit"))
    return svg(title, bottom + 66, parts, noted)


def _round_up(number: float) -> float:
    """The next number that quarters well."""
    unit = 10.0 ** math.floor(math.log10(number))
    return next(step * unit for step in (1, 2, 4, 6, 8, 10) if step * unit >= number)


def _apart(places: list[float]) -> list[float]:
    """Labels that would lie over each other are moved."""
    first, second = places
    if abs(first - second) >= 14:
        return places
    middle = (first + second) / 2
    return [middle - 7, middle + 7] if first <= second else [middle + 7, middle - 7]


def size(kib: float) -> str:
    return f"{kib / 1024:g} MiB" if kib >= 1024 else f"{kib:g} KiB"


def noted(results: dict[str, Any]) -> str:
    machine, python = results["machine"], results["python"]
    taken = f"medians of {results['rounds']} rounds" if results["rounds"] > 1 else "one run"
    return f"{machine['processor']}, {machine['cores']} cores · Python {python['version']} · {taken}"


def throughput(results: dict[str, Any]) -> str:
    # Of CPU time: a rate by the clock says as much of what else the machine does.
    rows = [(row["kind"], {key: 1e6 / row["cpu"][other] for key, other in REVERSED.items()}) for row in results["rows"]]
    title = f"Tool calls in a second of CPU time, {results['in_flight']} in flight (more is better)"
    return bars(title, rows, "", noted(results))


def start(results: dict[str, Any]) -> str:
    rows = [(row["kind"], row["cpu"]) for row in results["rows"]]
    return bars("CPU time from spawn to the answer of initialize (less is better)", rows, "ms", noted(results))


def latency(results: dict[str, Any]) -> str:
    rows = [(row["kind"], row["p50"]) for row in results["rows"]]
    return bars("Time of one call, nothing else in flight, p50 (less is better)", rows, "µs", noted(results))


def _by_power(
    rows: Sequence[dict[str, Any]], title: str, unit: str, below: str, say: Callable[[float], str], note: str
) -> str:
    """Curves over a logarithmic bottom line: the rows' first column, then the floor's, then ours."""
    place, floor, ours = list(rows[0])[:3]
    found: list[Curve] = [
        (label, [(math.log2(row[place]), row[column]) for row in rows])
        for label, column in (("bare loop", floor), ("sepkit", ours))
    ]
    ticks = [(math.log2(row[place]), say(row[place])) for row in rows]
    return curves(title, found, ticks, unit, below, note)


def in_flight(results: dict[str, Any]) -> str:
    title = "CPU time of a call by the number in flight (less is better)"
    return _by_power(results["in-flight"], title, "µs", "calls in flight", "{:,}".format, noted(results))


def frames(results: dict[str, Any]) -> str:
    title = "CPU time a MiB by the size of the frame, both ways (less is better)"
    return _by_power(results["frames"], title, "ms", "the request, and its answer", size, noted(results))


def memory(results: dict[str, Any]) -> str:
    rows = results["memory"]
    found: list[Curve] = [
        (label, [(row["calls"], row[column]) for row in rows])
        for label, column in (("bare loop", "bare, MiB"), ("sepkit", "sepkit, MiB"))
    ]
    last = rows[-1]["calls"]
    ticks = [(last * share / 4, f"{last * share / 4:,.0f}") for share in range(5)]
    title = f"Resident memory over {last:,} calls (flat is better)"
    return curves(title, found, ticks, "MiB", "calls answered", noted({**results, "rounds": 1}))


# The picture, the results that it is drawn from, and the part of these that it needs.
PICTURES: dict[str, tuple[str, str, Callable[[dict[str, Any]], str]]] = {
    "throughput.svg": ("throughput.json", "rows", throughput),
    "start.svg": ("startup.json", "rows", start),
    "latency.svg": ("latency.json", "rows", latency),
    "in-flight.svg": ("scale.json", "in-flight", in_flight),
    "frames.svg": ("scale.json", "frames", frames),
    "memory.svg": ("scale.json", "memory", memory),
}


def drawn(folder: Path) -> dict[str, str]:
    """The pictures of the results in a folder, by their names."""
    found = {}
    for name, (source, part, draw) in PICTURES.items():
        if (folder / source).is_file():
            results = json.loads((folder / source).read_text(encoding="utf-8"))
            if results.get(part):
                found[name] = draw(results)
    return found


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Draw the results in FOLDER."""
    found = drawn(folder)
    for name, picture in found.items():
        (folder / name).write_text(picture, encoding="utf-8")
        click.echo(folder / name)
    if missing := [name for name in PICTURES if name not in found]:
        click.echo(f"left out, since their results are missing: {', '.join(missing)}")


if __name__ == "__main__":
    main()
