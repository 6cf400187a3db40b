"""The path of a line in memory, without pipes and handlers: split, decode, encode; by size and by batch.

Measured by pyperf, in processes of its own; its options are this program's (``--fast``, ``-o FILE``, …), and ``--only
WORD`` takes those steps alone whose names end so. Beside each step there is what it cannot do without: ``bytes.split``,
``orjson.loads``, ``orjson.dumps``.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.about import OURS, version
from benchmarks.pump import sep_call
from sepkit.wire.frames import LineSplitter, decode, encode_result

SIZES = {"100 B": 100, "4 KiB": 4 << 10, "256 KiB": 256 << 10}
BATCHES = (1, 16, 256)


def main() -> None:
    """Measure the steps."""
    if find_spec("pyperf") is None:  # mypy must not need what may not be installed
        print("pyperf is not installed: nothing is measured (pip install 'sepkit[bench]')")
        return
    noted = {f"{name}_version": version(name) or "" for name in OURS}
    runner = import_module("pyperf").Runner(metadata=noted, add_cmdline_args=_for_workers)
    runner.argparser.add_argument("--only", default="", metavar="WORD")
    only = runner.parse_args().only
    for name, step in steps().items():
        if name.endswith(only):
            runner.bench_func(name, *step)


def steps() -> dict[str, tuple[Any, ...]]:
    """What is measured: a function, and what it is called with."""
    found: dict[str, tuple[Any, ...]] = {}
    for batch in BATCHES:
        data = b"".join(map(sep_call, range(batch)))
        found[f"split, lines: {batch}"] = (LineSplitter().feed, data)
        found[f"bytes.split, lines: {batch}"] = (data.split, b"\n")
    for size, length in SIZES.items():
        text = "x" * length
        line = sep_call(1, text=text.encode())
        result = {"content": text}
        found[f"decode {size}"] = (decode, line)
        found[f"orjson.loads {size}"] = (orjson.loads, line)
        found[f"encode {size}"] = (encode_result, 1, result)
        found[f"orjson.dumps {size}"] = (orjson.dumps, {"jsonrpc": "2.0", "id": 1, "result": result})
    return found


def _for_workers(command: list[str], options: Any) -> None:
    command += ["--only", options.only]


if __name__ == "__main__":
    main()
