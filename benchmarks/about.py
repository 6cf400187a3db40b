"""What every benchmark does alike: it notes machine, Python and versions, sums up rounds, writes its results."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

json_option = click.option(
    "--json",
    "file",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Write the results there, too (-: to stdout, instead of the table).",
)


def show(result: dict[str, Any], table: str, file: str | None) -> None:
    """Print the table under what it was measured with, and write the results where they are wanted."""
    text = json.dumps(result, indent=2) + "\n"
    if file == "-":
        sys.stdout.write(text)
        return
    print(f"{as_text(result)}\n\n{table.rstrip()}")
    if file is not None:
        Path(file).write_text(text, encoding="utf-8")


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median of the rounds, and how far they are apart."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """The rounds' own ratios: what a busy machine does to one round, it does to both sides of it."""
    return spread([mine / other for mine, other in zip(ours, theirs, strict=True)])


OURS = ("sepkit", "uvloop", "orjson", "attrs", "cattrs")


def about(packages: Iterable[str] = ()) -> dict[str, Any]:
    """The machine, the Python build, and the versions of sepkit's dependencies and of ``packages``."""
    return {
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "python": {
            "version": platform.python_version(),
            "build": " ".join(platform.python_build()),
            "compiler": platform.python_compiler(),
            "profile-guided": "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or ""),
        },
        "versions": {name: found for name in (*OURS, *packages) if (found := version(name)) is not None},
    }


def version(package: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def as_text(noted: dict[str, Any]) -> str:
    """The same for people, in three lines."""
    machine, python = noted["machine"], noted["python"]
    # Some builders leave it out of what they note: it may be optimised all the same.
    optimised = "with" if python["profile-guided"] else "no note of"
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}\n"
        f"Python {python['version']} ({python['compiler']}, {optimised} profile-guided optimisation)\n"
        + ", ".join(f"{name} {number}" for name, number in noted["versions"].items())
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
