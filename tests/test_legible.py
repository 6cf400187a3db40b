"""The text of the repository can be followed by anyone who has the repository, and nothing else.

Facts of the wire are cited as ``docs/protocol.md, section 6``, other pages as ``docs/tasks.md, "On the wire"``. Where
a docstring names its origin, the word "Source" stands in front.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PLACES: Final = ("sepkit", "tests", "plugins", "benchmarks", "scripts", "docs")
SUFFIXES: Final = {".py", ".md", ".toml", ".mjs", ".json", ""}

# A number in a list that readers do not have.
UNKNOWN_LISTS: Final = re.compile(
    r"\btraps?(?:'s)? \d|\bdesign(?:'s)?,? (?:section|decision)|\b(?:style|decision|promise) \d"
    r"|(?<!/)\bprotocol,? sections? \d|\bbackground tasks,? sections? \d|\bhost, item \d",
    re.IGNORECASE,
)
CITATION: Final = re.compile(
    r"(?P<page>docs/[\w-]+\.md)"
    r'(?:, (?:"(?P<heading>[^"]+)"|sections? (?P<numbers>\d+(?:(?:,| to| and)* \d+|,? ?\(``[^`]*``\))*)))?'
)
COMMENT: Final = re.compile(r"(?:^\s*|  )#+ (.*)$")  # or a string that looks like one, which does no harm
SOURCE: Final = re.compile(r"\bSource: (?P<cited>.*?)(?=\n\s*\n|\Z)", re.DOTALL)


def text_files() -> Iterator[Path]:
    """All files that people read: code, pages, manifests and scripts."""
    yield from (path for path in ROOT.iterdir() if path.is_file() and not path.name.startswith("."))
    for place in PLACES:
        for path in (ROOT / place).rglob("*"):
            if path.is_file() and path.suffix in SUFFIXES and "__pycache__" not in path.parts:
                yield path


FILES: Final = sorted(text_files())
MODULES: Final = [path for path in FILES if path.suffix == ".py"]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@functools.cache
def prose(path: Path) -> tuple[tuple[int, str], ...]:
    """The docstrings of a module, and its comments with those that continue them; each with its line."""
    text = path.read_text(encoding="utf-8")
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body
            if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
                value = body[0].value.value
                if isinstance(value, str):
                    found.append((body[0].lineno, value))
    last = -1
    for number, line in enumerate(text.splitlines(), 1):
        if comment := COMMENT.search(line):
            if number == last + 1:
                begun, before = found.pop()
                found.append((begun, f"{before} {comment[1]}"))
            else:
                found.append((number, comment[1]))
            last = number
    return tuple(found)


@functools.cache
def headings(page: str) -> tuple[str, ...]:
    return tuple(re.findall(r"^#+ (.+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE))


def sections(numbers: str) -> Iterator[int]:
    """The numbers in a citation, those between the ends of a range included."""
    numbers = re.sub(r"\(.*?\)", "", numbers)
    for first, last in re.findall(r"(\d+)(?: to (\d+))?", numbers):
        yield from range(int(first), int(last or first) + 1)


def missing(citation: re.Match[str]) -> str | None:
    """What a citation names and the repository does not have."""
    page, heading, numbers = citation["page"], citation["heading"], citation["numbers"]
    if not (ROOT / page).is_file():
        return page
    if heading is not None and heading not in headings(page):
        return f"{page} has no heading {heading!r}"
    for number in sections(numbers or ""):
        if not any(heading.startswith(f"{number}. ") for heading in headings(page)):
            return f"{page} has no section {number}"
    return None


def flat(text: str) -> str:
    return " ".join(text.split())


def test_no_file_names_a_number_of_a_list_that_is_not_here() -> None:
    """A demand is stated in words, so that nothing else has to be looked up."""
    found = [
        f"{name(path)}:{number}: {line.strip()}"
        for path in FILES
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if UNKNOWN_LISTS.search(line)
    ]
    assert found == []


def test_each_page_that_a_module_cites_has_what_is_cited() -> None:
    """The page, the numbered section or the heading exists."""
    found = [
        f"{name(path)}:{line}: {citation[0]}: {lacking}"
        for path in MODULES
        for line, text in prose(path)
        for citation in CITATION.finditer(flat(text))
        if (lacking := missing(citation)) is not None
    ]
    assert found == []


def test_each_source_is_a_page_of_the_repository() -> None:
    """What follows "Source:" begins with a page in ``docs/``."""
    found = [
        f"{name(path)}:{line}: {flat(source['cited'])}"
        for path in MODULES
        for line, text in prose(path)
        for source in SOURCE.finditer(text)
        if not CITATION.match(flat(source["cited"]))
    ]
    assert found == []


def test_what_is_looked_for_is_found() -> None:
    """The tests above would be worth nothing otherwise."""
    for bad in ("Trap 7: x", "traps 7 and 8", "trap 10's rule", "Design section 2", "design, section 2", "style 11"):
        assert UNKNOWN_LISTS.search(bad), bad
    for bad in ("Protocol section 6: x", "background tasks, section 3", "decision 1"):
        assert UNKNOWN_LISTS.search(bad), bad
    for good in ("docs/protocol.md, section 6", "trap 'exit 4' TERM", "a protocol in 10 sections"):
        assert not UNKNOWN_LISTS.search(good), good

    def lacks(text: str) -> str | None:
        citation = CITATION.match(text)
        assert citation is not None
        return missing(citation)

    assert lacks("docs/protocol.md, section 6, ``x``.") is None
    assert lacks("docs/protocol.md, sections 3 (``a/b``) and 4 (``c``).") is None
    assert lacks("docs/protocol.md, sections 3 (``a/b``) and 11.") == "docs/protocol.md has no section 11"
    assert lacks("docs/protocol.md, sections 8 to 11.") == "docs/protocol.md has no section 11"
    assert lacks("docs/protocol.md, sections 1, 2 and 12; more") == "docs/protocol.md has no section 12"
    assert lacks('docs/tasks.md, "On the wire".') is None
    assert lacks('docs/tasks.md, "On the air".') == "docs/tasks.md has no heading 'On the air'"
    assert lacks("docs/nothing.md, section 1.") == "docs/nothing.md"
    assert [found["cited"] for found in SOURCE.finditer("A. Source: a, b\nc.\n\nMore.")] == ["a, b\nc."]
