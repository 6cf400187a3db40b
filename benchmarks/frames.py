"""The path of a line in memory, without pipes and handlers: split, decode, encode; by size and by batch.

Measured by pyperf, in processes of its own; its options are this program's (``--fast``, ``-o FILE``, …). Beside each
step there is what it cannot do without: ``bytes.split``, ``orjson.loads``, ``orjson.dumps``.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

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
    runner = import_module("pyperf").Runner(metadata={f"{name}_version": version(name) or "" for name in OURS})
    for batch in BATCHES:
        data = b"".join(map(sep_call, range(batch)))
        feed = LineSplitter().feed
        runner.bench_func(f"split {batch}", feed, data, inner_loops=1)
        runner.bench_func(f"bytes.split {batch}", data.split, b"\n", inner_loops=1)
    for size, length in SIZES.items():
        text = "x" * length
        line = sep_call(1, text=text.encode())
        result = {"content": text}
        runner.bench_func(f"decode {size}", decode, line)
        runner.bench_func(f"orjson.loads {size}", orjson.loads, line)
        runner.bench_func(f"encode {size}", encode_result, 1, result)
        runner.bench_func(f"orjson.dumps {size}", orjson.dumps, {"jsonrpc": "2.0", "id": 1, "result": result})


if __name__ == "__main__":
    main()
