"""What the README shows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (source,) = blocks("python")
    (tmp_path / "app.py").write_text(source, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("shown", blocks("console"), ids=lambda shown: shown.splitlines()[0])
def test_a_command_prints_what_the_readme_shows(shown: str, folder: Path) -> None:
    """Style 12: an app in 12 lines with its printed output; its code is run by a test."""
    command, _, expected = shown.partition("\n")
    words = command.removeprefix("$ python ").split()
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False
    )
    assert done.stdout.decode() == expected


def test_the_app_has_twelve_lines() -> None:
    """Style 12: without its imports, blank lines and comment, the app fits in 12 lines."""
    (source,) = blocks("python")
    lines = [line for line in source.splitlines() if line.strip() and not line.startswith(("#", "from "))]
    assert len(lines) <= 12


def test_the_manifest_is_the_one_that_hosts_read() -> None:
    """Protocol section 10: name, version and the command to run."""
    (source,) = blocks("toml")
    manifest = tomllib.loads(source)
    assert manifest["name"] == "hello"
    assert manifest["run"]["args"] == ["-m", "sepkit", "run", "app:app"]


def test_the_files_that_it_links_to_are_there() -> None:
    """A link in the README leads somewhere."""
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", README):
        assert (Path(__file__).parents[1] / target).exists(), target
