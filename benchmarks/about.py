"""What figures were measured with: the machine, the Python build, the versions. Each benchmark notes it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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
    optimised = "with" if python["profile-guided"] else "without"
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
