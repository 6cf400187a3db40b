"""What the README and the pages in ``docs/`` show is what happens.

A block that begins with ``# name.py`` (or ``.toml``, ``.json``) is a file in the page's own folder. In a ``console``
block each ``$ python …`` is run there, after the files above it were written, and must print what is shown; ``…`` there
stands for anything within a line, and a line of its own for any lines. Other languages are not run.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page: language and text."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def file_name(text: str) -> str | None:
    """The name of the file that a block is, where it is one."""
    found = re.match(r"(?:#|//) ([\w.-]+\.\w+)\n", text)
    return found and found[1]


def matches(shown: str, printed: str) -> bool:
    pattern = "".join(
        r"(?:.*\n)*" if line == "…\n" else ".*".join(map(re.escape, line.split("…")))
        for line in shown.splitlines(keepends=True)
    )
    return re.fullmatch(pattern, printed) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_snippet_runs_and_prints_what_is_shown(page: Path, tmp_path: Path) -> None:
    """What is shown is run by a test."""
    ran = ""
    for language, text in blocks(page):
        if (name := file_name(text)) is not None:
            (tmp_path / name).write_text(text, encoding="utf-8")
        elif language == "python":
            pytest.fail(f"a snippet without a name is never run:\n{text}")
        elif language == "console":
            for shown in re.split(r"^(?=\$ )", text, flags=re.MULTILINE)[1:]:
                command, _, expected = shown.partition("\n")
                words = shlex.split(command.removeprefix("$ "), comments=True)
                assert words[0] == "python", f"{command}: only python is run"
                done = subprocess.run(
                    [sys.executable, *words[1:]],
                    cwd=tmp_path,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    timeout=60,
                    check=False,
                )
                printed = done.stdout.decode()
                assert matches(expected, printed), f"{command}\nprinted:\n{printed}"
                ran += command + "\n"
    ran += "".join(path.read_text(encoding="utf-8") for path in tmp_path.glob("*.toml"))
    tested = "-m pytest" in ran  # takes all of them
    for path in tmp_path.glob("*.py"):
        assert path.stem in ran or tested, f"{path.name} of {page.name} is never run"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_that_a_page_links_to_are_there(page: Path) -> None:
    """A link leads somewhere."""
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_names_each_page() -> None:
    """A page that nothing leads to is not read."""
    readme = PAGES[0].read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if f"docs/{page.name}" not in readme] == []


def test_what_is_shown_is_compared_with_what_is_printed() -> None:
    """The tests above would be worth nothing otherwise."""
    assert matches("a\nb\n", "a\nb\n")
    assert not matches("a\n", "a\nb\n")
    assert matches("a …s ago\n…\nend\n", "a 0.3 s ago\n1\n2\nend\n")
    assert not matches("a …s ago\n", "a 0.3 s\n")
    assert not matches("a.b\n", "axb\n")
