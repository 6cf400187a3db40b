"""A file of any name can be served, and what multiprocessing spawns for it can import it and what stands beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.driver import PATIENCE

SOURCE: Final = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from sepkit import App
import app as sibling, calendar, code_app

app = App("names")

def double(number):
    return number * 2

@app.tool
def work(method: str) -> list:
    context = multiprocessing.get_context(method)
    with context.Pool(1) as pool:
        mapped = pool.map_async(double, [1, 2]).get(60)
        triples = pool.map_async(sibling.triple, [1]).get(60)
    return [mapped, triples, calendar.IS_BESIDE, __file__]
"""

NAMES: Final = [
    "my-ext.py",  # no identifier
    "server.v2.py",  # no name of a module at all
    "__main__.py",
    "code.py",  # Python's own
    "json.py",  # Python's own, which every process needs
    "click.py",  # sepkit's needs
    "typing_extensions.py",  # what those need
    "server.py",  # beside a package of that name
]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_any_name_works_with_a_spawned_pool(tmp_path: Path, name: str) -> None:
    """``Pool.map`` returns, for functions of the file and of its siblings; siblings of any name are found first."""
    folder = tmp_path / "folder"
    (folder / "server").mkdir(parents=True)
    (folder / "server" / "__init__.py").touch()
    (folder / name).write_text(SOURCE)
    (folder / "app.py").write_text("def triple(number):\n    return number * 3\n")  # a name that one might invent
    (folder / "code_app.py").touch()
    (folder / "calendar.py").write_text("IS_BESIDE = True\n")
    called = subprocess.run(
        [sys.executable, "-m", "sepkit", "call", f"folder/{name}:app", "work", "method=spawn"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
    )
    assert called.returncode == 0, called.stderr
    assert called.stdout.strip() == f'[[2,4],[3],true,"{folder / name}"]'
