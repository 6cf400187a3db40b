"""Text on a terminal: nothing in it is obeyed, and it fits."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepkit.terminal import (
    cells,
    columns_of,
    has_colour,
    is_terminal,
    one_line,
    painted,
    table,
    visible,
    visible_json,
    wrapped,
)

OBEYED = ["\x1b[31m", "\x07", "\x08", "\r", "\x9b2J", "\x00", "\x7f", "\u202e", "\u2066", "\u2028", "\ud800", "\x0b"]


@pytest.mark.parametrize("text", OBEYED, ids=ascii)
def test_what_a_terminal_would_obey_is_shown(text: str) -> None:
    """C0 and C1 controls, marks of direction and half characters become escapes, which can be read."""
    for made in (visible(f"a{text}b\n\tc"), one_line(f"a{text}b\n\tc")):
        assert text not in made
        assert made.startswith("a\\")
    assert visible("a\r\n\tb") == "a\n\tb", "ends of lines and tabs are text"
    assert one_line("a\n\tb") == r"a\n\tb"


@given(st.text(alphabet=st.characters(max_codepoint=0x3000)))
def test_nothing_that_is_shown_controls_anything(text: str) -> None:
    """Whatever is written, only printable characters, tabs and ends of lines are left, and it can be encoded."""
    for made in (visible(text), one_line(text)):
        assert not {c for c in made if ord(c) < 32 or 0x7F <= ord(c) < 0xA0} - {"\n", "\t"}
        made.encode()
    assert "\n" not in one_line(text)
    assert visible(visible(text)) == visible(text)


@given(st.text())
def test_json_that_is_shown_means_the_same(text: str) -> None:
    """The escapes of JSON are used there."""
    assert json.loads(visible_json(json.dumps({text: text}, ensure_ascii=False))) == {text: text}


@given(st.lists(st.text(alphabet="ab漢é", max_size=12), max_size=12), st.integers(20, 60))
def test_wrapped_text_fits_and_loses_no_word(words: list[str], width: int) -> None:
    """Each line fits, also with characters that take two columns."""
    lines = list(wrapped(" ".join(words), width, first="- ", more="    "))
    assert all(cells(line) <= max(width, 4 + max(map(cells, words), default=0)) for line in lines)
    assert " ".join(lines).split()[1:] == " ".join(words).split()


@given(st.lists(st.lists(st.text(alphabet="ab 漢", max_size=70), min_size=3, max_size=3), max_size=5))
def test_a_table_fits(rows: list[list[str]]) -> None:
    """Columns that are too wide are broken into several lines; nothing is lost."""
    lines = list(table(rows, 40))
    assert all(cells(line) <= 40 for line in lines)
    assert sorted("".join(lines).replace(" ", "")) == sorted("".join(map("".join, rows)).replace(" ", ""))


def test_a_table_without_a_width_has_one_line_a_row() -> None:
    """As in a pipe; rows need not have equally many cells."""
    assert list(table([["a", "bb"], ["ccc", "d", "e"]], None)) == ["a    bb", "ccc  d   e"]
    assert list(table([], 80)) == []


def test_a_pipe_has_no_width_and_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither do a closed stream and none at all."""
    monkeypatch.setenv("COLUMNS", "40")
    closed = io.StringIO()
    closed.close()
    for stream in (io.StringIO(), closed):
        assert columns_of(stream) is None
        assert not has_colour(stream)
    assert not is_terminal(None)
    assert painted("x", "red", colour=False) == "x"
    assert painted("x", "red", colour=True) == "\x1b[31mx\x1b[0m"
