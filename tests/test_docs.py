"""What the README and the pages in ``docs/`` show is what happens.

A block that begins with ``# name.py`` (or ``.toml``, ``.json``) is a file in the page's own folder. In a ``console``
block each ``$ python …`` is run there, after the files above it were written, and must print what is shown; ``…`` there
stands for anything within a line, and a line of its own for any lines. Other languages are not run.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import attrs
import pytest

from sepkit import errors
from sepkit.wire import messages, methods

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


@pytest.mark.timeout(120)
def test_the_snippets_pass_mypy_strict(tmp_path: Path) -> None:
    """What is shown can be copied into a project that is checked by mypy --strict."""
    for page in PAGES:
        package = page.stem.lower()  # all pages in one run, each in a package of its own: their names are the same
        files = {name: text for _, text in blocks(page) if (name := file_name(text)) and name.endswith(".py")}
        modules = "|".join(name.removesuffix(".py") for name in files)
        for name, text in files.items():
            (tmp_path / package).mkdir(exist_ok=True)
            moved = re.sub(rf"^from ({modules}) import", rf"from {package}.\1 import", text, flags=re.MULTILINE)
            (tmp_path / package / name).write_text(moved, encoding="utf-8")
    assert len(list(tmp_path.glob("*/*.py"))) > 20
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary", "--namespace-packages"]
    done = subprocess.run(
        [*command, "--explicit-package-bases", "--cache-dir", ROOT / ".mypy_cache" / "docs", "."],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_the_reference_names_each_hook_event_exception_and_field() -> None:
    """The page is complete, and says of each hook what its input holds."""
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    for name in (*methods.HOOKS, *methods.EVENTS):
        assert f"`{name}`" in text, name
    for hook, record in messages.HOOK_INPUTS.items():
        (row,) = re.findall(rf"^\| `{hook}` \|.*$", text, re.MULTILINE)
        fields = ", ".join(f"`{field.name}`" for field in attrs.fields(cast("Any", record)))
        assert f"| `{record.__name__}` | {fields} |" in row
    known = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.SepkitError)]
    for error in known:
        assert f"`{error.__name__}`" in text, error
        if issubclass(error, errors.RpcError) and error is not errors.RpcError:
            assert f"| `{error.__name__}` | {error.default_code} |" in text


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
