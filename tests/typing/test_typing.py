"""mypy --strict accepts the right uses of the public API in ``api.py``, and refuses the wrong ones."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
API = Path(__file__).parent / "api.py"
IGNORED = re.compile(r"  # type: ignore\[([a-z, -]+)\]")


def mypy(file: Path) -> subprocess.CompletedProcess[str]:
    """Run mypy on one file, with the project's own settings and cache."""
    command = [sys.executable, "-m", "mypy", "--config-file", "setup.cfg", "--no-error-summary", str(file)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=110)


@pytest.mark.timeout(120)
def test_the_public_api_is_typed_as_its_users_expect() -> None:
    """Under ``--strict`` mypy reports each wrong use: an accepted mistake would be an unused ignore."""
    done = mypy(API)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


@pytest.mark.timeout(120)
def test_each_mistake_is_refused_for_the_reason_that_it_names(tmp_path: Path) -> None:
    """The test above sees something: without its ignores, each of those lines is an error, and no other is."""
    source = API.read_text(encoding="utf-8")
    expected = {
        (number, code)
        for number, line in enumerate(source.splitlines(), 1)
        for codes in IGNORED.findall(line)
        for code in codes.split(", ")
    }
    assert len(expected) > 40
    bare = tmp_path / "bare_api.py"
    bare.write_text(IGNORED.sub("", source), encoding="utf-8")
    done = mypy(bare)
    assert done.returncode == 1, done.stderr
    found = {(int(line), code) for line, code in re.findall(r":(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.M)}
    assert found == expected
