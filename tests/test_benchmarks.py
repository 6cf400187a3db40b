"""The benchmarks run, and say what they measured. Not how fast anything is: a machine is busy with other things."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from benchmarks import frames, pictures

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
RESULTS = BENCHMARKS / "results"
NOTHING_ELSE = "left out: all other SDKs (--no-peers)"
# Stands in for the TypeScript SDK: what echo.mjs asks of it, and no more.
STAND_IN = """
import { createInterface } from "node:readline";
export const defineTool = (tool) => tool;
export const defineExtension = (setUp) => ({
  serve() {
    const tools = {};
    setUp({ registerTool: (tool) => (tools[tool.name] = tool) });
    createInterface({ input: process.stdin }).on("line", async (line) => {
      const { id, method, params } = JSON.parse(line);
      const result = method === "tool/execute" ? await tools[params.tool].execute(params.arguments) : {};
      process.stdout.write(JSON.stringify({ jsonrpc: "2.0", id, result }) + "\\n");
    });
  },
});
"""


def _run(folder: Path, name: str, *options: str) -> str:
    """What a benchmark prints."""
    words = [sys.executable, str(BENCHMARKS / name), *options]
    done = subprocess.run(words, capture_output=True, text=True, timeout=50, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _measured(folder: Path, name: str, *options: str) -> tuple[str, dict[str, Any]]:
    """What a benchmark prints, and the results that it writes."""
    file = folder / "results.json"
    shown = _run(folder, name, *options, "--json", str(file))
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    assert results["machine"]["cores"] >= 1
    assert results["python"]["version"] in shown
    assert results["versions"].keys() >= {"sepkit", "uvloop", "orjson", "attrs", "cattrs"}
    return shown, results


def test_the_start_is_measured_beside_the_imports_alone(tmp_path: Path) -> None:
    """Each kind has its wall time, CPU time and memory, with the ratio to the floor."""
    shown, results = _measured(tmp_path, "startup.py", "--no-peers", "--rounds", "1")
    rows = {row["kind"]: row for row in results["rows"]}
    assert rows.keys() == {"bare Python", "imports alone", "sepkit, one tool", "sepkit, twenty typed"}
    for kind, row in rows.items():
        assert kind in shown
        assert row["wall"]["median"] > 0
        assert row["cpu"]["median"] > 0
    assert rows["imports alone"]["cpu"]["ratio"] == 1
    assert NOTHING_ELSE in shown


def test_the_rate_of_calls_is_measured_beside_the_bare_loop(tmp_path: Path) -> None:
    """With its spread, the CPU time of a call, and the rounds' ratios."""
    shown, results = _measured(tmp_path, "throughput.py", "--no-peers", "--rounds", "2", "--calls", "500")
    assert [row["kind"] for row in results["rows"]] == ["bare loop", "sepkit"]
    for row in results["rows"]:
        assert 0 < row["rate"]["least"] <= row["rate"]["median"] <= row["rate"]["most"]
        assert f"{row['rate']['median']:,.0f}" in shown
    assert NOTHING_ELSE in shown


def test_the_time_of_one_call_is_measured_beside_the_bare_loop(tmp_path: Path) -> None:
    """By its quantiles."""
    _, results = _measured(tmp_path, "latency.py", "--no-peers", "--rounds", "1", "--calls", "100")
    for row in results["rows"]:
        assert 0 < row["p50"]["median"] <= row["p90"]["median"] <= row["p99"]["median"]


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
def test_the_typescript_sdk_takes_part_where_its_folder_is_named(tmp_path: Path) -> None:
    """A child by the SDK that is found there, beside the others; what is not installed is named."""
    for path, content in {
        "package.json": '{"type": "module"}',
        "dist/index.js": STAND_IN,
        "node_modules/zod/package.json": '{"main": "index.js"}',
        "node_modules/zod/index.js": "exports.z = { object: (shape) => shape, string: () => ({}) };",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content, encoding="utf-8")
    options = ("--rounds", "1", "--calls", "500", "--typescript", ".")
    # Without site-packages of other SDKs, which take seconds to start.
    hide = "import importlib.util as u, runpy, sys; old = u.find_spec; "
    hide += "u.find_spec = lambda name, *more: None if 'mcp' in name else old(name, *more); "
    hide += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    words = [sys.executable, "-c", hide, str(BENCHMARKS / "throughput.py"), *options, "--json", "-"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=50, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert [row["kind"] for row in results["rows"]] == ["bare loop", "sepkit", "TypeScript SDK"]
    assert [one.partition(" ")[0] for one in results["missing"]] == ["mcp", "fastmcp"]


def test_documents_are_measured_beside_the_same_sql_by_hand(tmp_path: Path) -> None:
    """With the rounds' ratios; and what ten of many weigh, which is not more than ten of few."""
    shown, results = _measured(tmp_path, "store.py", "--rounds", "1", "--documents", "2000")
    assert [row["step"] for row in results["rows"]] == ["put_many", "find, indexed", "find, unindexed", "find, sorted"]
    for row in results["rows"]:
        assert row["step"] in shown
        assert row["ratio"]["median"] == row["sepkit"]["median"] / row["by hand"]["median"]
    few, many = results["find of ten"].values()
    assert many < 1.5 * few + 10_000


def test_many_tools_are_measured_by_their_number(tmp_path: Path) -> None:
    """CPU time and memory a tool, and the rate of calls."""
    shown, results = _measured(tmp_path, "scale.py", "--part", "tools", "--most", "10", "--rounds", "1")
    assert "tools" in shown
    (row,) = results["tools"]
    assert row["tools"] == 10
    assert row["calls/s"] > 0


def test_calls_in_flight_large_frames_and_memory_are_measured(tmp_path: Path) -> None:
    """Each beside its floor, from small to what is wanted."""
    parts = [word for part in ("in-flight", "sleeping", "frames", "memory") for word in ("--part", part)]
    shown, results = _measured(tmp_path, "scale.py", *parts, "--most", "16", "--calls", "1000", "--rounds", "1")
    assert [row["in flight"] for row in results["in-flight"]] == [1, 4, 16]
    assert [row["asleep"] for row in results["sleeping"]] == [100]
    assert [row["KiB"] for row in results["frames"]] == [1, 16]
    assert [row["calls"] for row in results["memory"]] == [*range(0, 1001, 100)]
    for part in ("in-flight", "sleeping", "frames", "memory"):
        assert part in shown
        assert all(value >= 0 for row in results[part] for value in row.values())


def test_a_part_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    """With those that do."""
    words = [sys.executable, str(BENCHMARKS / "scale.py"), "--part", "nothing"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=50, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "nothing: one of tools, in-flight, sleeping, frames, memory" in done.stderr


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_the_instructions_of_a_call_are_counted(tmp_path: Path) -> None:
    """The difference of two runs."""
    shown, results = _measured(tmp_path, "instructions.py", "--only", "bare loop", "--calls", "256")
    (row,) = results["rows"]
    assert 5_000 < row["instructions"] < 50_000
    assert f"{row['instructions']:,}" in shown


def test_without_valgrind_no_instructions_are_counted_and_that_is_said(tmp_path: Path) -> None:
    """It is no fault of the benchmark's: it ends with 0."""
    words = [sys.executable, str(BENCHMARKS / "instructions.py")]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=50, check=False, cwd=tmp_path, env={"PATH": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "valgrind is not installed: no instructions are counted\n"


def test_the_path_of_a_line_in_memory_is_measured(tmp_path: Path) -> None:
    """Split, decode and encode, each beside what it cannot do without; ``--only`` chooses by name."""
    pytest.importorskip("pyperf")
    _run(tmp_path, "frames.py", "--debug-single-value", "--quiet", "--only", "decode 4 KiB", "-o", "results.json")
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert found["metadata"]["name"] == "decode 4 KiB"
    kinds = {re.sub(r"[ ,].*", "", name) for name in frames.steps()}
    assert kinds == {"split", "bytes.split", "decode", "orjson.loads", "encode", "orjson.dumps"}
    for step, *arguments in frames.steps().values():
        assert step(*arguments)


def test_the_host_is_measured_beside_the_reference_host(tmp_path: Path) -> None:
    """Requests and events, with the CPU time of each."""
    _, results = _measured(tmp_path, "host.py", "--rounds", "1", "--calls", "200", "--most", "1")
    assert [row["kind"] for row in results["rows"]] == [
        "requests/s, 1 in flight",
        "requests/s, 64 in flight",
        "requests/s, 256 in flight",
        "events/s to 1",
    ]
    assert all(row["sepkit"]["median"] > 0 and row["sepkit_cpu"]["median"] > 0 for row in results["rows"])


def test_background_tasks_are_measured_by_their_number(tmp_path: Path) -> None:
    """Each kind, beside plain tasks."""
    _, results = _measured(tmp_path, "tasks.py", "--rounds", "1", "--most", "100")
    assert [row["kind"] for row in results["rows"]] == ["sepkit", "told", "no-gc", "plain"]
    assert all(row["start"]["median"] > 0 for row in results["rows"])


def test_the_pictures_in_the_repository_are_those_that_the_script_draws() -> None:
    """From the results that lie beside them."""
    drawn = pictures.drawn(RESULTS)
    assert drawn.keys() == pictures.PICTURES.keys()
    assert {path.name: path.read_text(encoding="utf-8") for path in RESULTS.glob("*.svg")} == drawn


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_a_picture_is_shown_by_a_page_and_holds_what_was_measured(name: str) -> None:
    """It is well-formed, names the machine's Python, and a page leads to it."""
    root = ET.fromstring((RESULTS / name).read_text(encoding="utf-8"))
    words = " ".join(root.itertext())
    assert "sepkit" in words
    assert re.search(r"Python 3\.\d+\.\d+", words)
    assert "nan" not in words.lower().split()
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert f"(../benchmarks/results/{name})" in page


def test_a_picture_without_results_is_left_out_and_that_is_said(tmp_path: Path) -> None:
    """The others are drawn."""
    shutil.copy(RESULTS / "latency.json", tmp_path)
    shown = _run(tmp_path, "pictures.py", ".")
    assert [path.name for path in tmp_path.glob("*.svg")] == ["latency.svg"]
    assert "left out, since their results are missing: throughput.svg, start.svg, in-flight.svg" in shown
