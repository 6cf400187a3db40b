"""The benchmarks run, and say what they measured. Not how fast anything is: a machine is busy with other things."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def _measured(folder: Path, name: str, *options: str) -> tuple[str, dict[str, Any]]:
    """What a benchmark prints, and the results that it writes."""
    file = folder / "results.json"
    words = [sys.executable, str(BENCHMARKS / name), *options, "--rounds", "1", "--json", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=50, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    assert results["rounds"] == 1
    assert results["machine"]["cores"] >= 1
    assert results["python"]["version"] in done.stdout
    assert results["versions"].keys() >= {"sepkit", "uvloop", "orjson", "attrs", "cattrs"}
    return done.stdout, results


def test_the_start_is_measured_beside_the_imports_alone(tmp_path: Path) -> None:
    """Each kind has its wall time, CPU time and memory, with the ratio to the floor."""
    shown, results = _measured(tmp_path, "startup.py", "--no-peers")
    rows = {row["kind"]: row for row in results["rows"]}
    assert rows.keys() == {"bare Python", "imports alone", "sepkit, one tool", "sepkit, twenty typed"}
    for kind, row in rows.items():
        assert kind in shown
        assert row["wall"]["median"] > 0
        assert row["cpu"]["median"] > 0
    assert rows["imports alone"]["cpu"]["ratio"] == 1
    assert f"left out: {', '.join(results['missing'])}" in shown


def test_many_tools_are_measured_by_their_number(tmp_path: Path) -> None:
    """CPU time and memory a tool, and the rate of calls."""
    shown, results = _measured(tmp_path, "scale.py", "--part", "tools", "--most", "10")
    assert "tools" in shown
    (row,) = results["tools"]
    assert row["tools"] == 10
    assert row["calls/s"] > 0
