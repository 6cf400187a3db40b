"""Text on a terminal: what others have written is shown and not obeyed; its width, wrapping and colour."""

from __future__ import annotations

import functools
import os
import re
import struct
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Literal, TextIO

# What a terminal, or the reader's eye, would obey, and what is not seen: control characters (C0 and C1), marks that
# turn the direction of the text or end its line, characters without a shape, and halves of characters, which cannot
# be encoded. Tabs and ends of lines are text.
_OBEYED: Final = (
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\ud800-\udfff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# Compiled by their first use (re keeps them), as all patterns that a start does not need.
# Joiners and selectors are seen where they belong: in emojis, and in the scripts from Arabic to Malayalam.
_EMOJI: Final = (
    "[\xa9\xae\u203c\u2049\u2100-\u27bf\u2900-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff][\ufe0e\ufe0f]?"
)
_SCRIPT: Final = "[\u0620-\u06dc\u0900-\u0dff]"
_JOINED: Final = f"[#*0-9]\ufe0f\u20e3|(?:{_EMOJI})+(?:\u200d(?:{_EMOJI})+)*|{_SCRIPT}+(?:[\u200c\u200d]{_SCRIPT}+)*"
_PARTS: Final = f"{_JOINED}|({_OBEYED})"
_BREAKS: Final = "[\t\n]"

_NARROWEST: Final = 20  # columns; where a terminal has fewer, it wraps by itself

Style = Literal["bold", "dim", "red", "green", "yellow", "cyan"]
_CODES: Final[dict[Style, int]] = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "cyan": 36}


def visible(text: str) -> str:
    """``text`` with its control characters as escapes; its lines and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return _escapes(text.replace("\r\n", "\n"), _escaped)


def one_line(text: str) -> str:
    """The same in one line: ends of lines and tabs are escapes, too."""
    return re.sub(_BREAKS, lambda found: _escaped(found[0]), _escapes(text, _escaped))


def visible_json(text: str) -> str:
    """A JSON text that is still JSON, with the same meaning, and in which no control character is left."""
    return _escapes(text, _escaped_in_json)


def _escapes(text: str, escaped: Callable[[str], str]) -> str:
    if re.search(_OBEYED, text) is None:
        return text
    return re.sub(_PARTS, lambda found: found[0] if found[1] is None else escaped(found[1]), text)


@functools.lru_cache(maxsize=1024)
def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _escaped_in_json(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{unit:04x}" for unit in struct.unpack(f">{len(units) // 2}H", units))


def cells(text: str) -> int:
    """How many columns a text takes: Chinese, Japanese and Korean characters take two, accents of their own none."""
    if text.isascii():
        return len(text)
    return sum(_cells_of(character) for character in text)


def _cells_of(character: str) -> int:
    if unicodedata.combining(character) or character in "\u200b\u200d\ufe0e\ufe0f":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def wrapped(text: str, width: int | None, *, first: str = "", more: str = "") -> Iterator[str]:
    """``text``, which has one line, as lines of at most ``width`` columns; None is without a bound.

    It is broken at spaces; a word that is too long for a line, such as a path, stays whole.

    Args:
        text: The text.
        width: Columns.
        first: What the first line begins with.
        more: What all others begin with.
    """
    if width is None or cells(first) + cells(text) <= width:
        yield f"{first}{text}".rstrip()
        return
    line, empty = first, True
    for word in text.split(" "):
        if not empty and cells(line) + 1 + cells(word) > width:
            yield line.rstrip()
            line, empty = more, True
        line += word if empty else f" {word}"
        empty = False
    yield line.rstrip()


def folded(text: str, width: int | None, *, first: str = "", more: str = "") -> Iterator[str]:
    """Like :func:`wrapped`, but that no line is longer: what the terminal breaks would begin at its edge."""
    for line in wrapped(text, width, first=first, more=more):
        yield from [line] if width is None else _broken(line, width, more)


def _broken(line: str, width: int, more: str) -> Iterator[str]:
    """A line, broken wherever it is too long."""
    if cells(line) <= width:
        yield line
        return
    piece, taken = "", 0
    for character in line:
        if taken + _cells_of(character) > width and taken:
            yield piece
            piece, taken = more, cells(more)
        piece += character
        taken += _cells_of(character)
    yield piece


def cut(text: str, characters: int, lines: int) -> str:
    """As much of a long text as can be shown; what is missing is said."""
    shown = text[:characters]
    kept = shown.split("\n", lines)[:lines]
    shown = "\n".join(kept)
    if len(shown) == len(text):
        return text
    more = text.count("\n", len(shown) + 1)
    if more:
        return f"{shown}\n… {more:,} lines more"
    return f"{shown} … {len(text) - len(shown):,} characters more"


def table(rows: Iterable[Sequence[str]], width: int | None) -> Iterator[str]:
    """Rows of cells as lines of at most ``width`` columns: the widest cells are broken into several lines."""
    lines = [list(row) for row in rows]
    columns = max(map(len, lines), default=0)
    lines = [row + [""] * (columns - len(row)) for row in lines]
    widths = [max(map(cells, column)) for column in zip(*lines, strict=True)]
    while width is not None and columns and sum(widths) + 2 * (columns - 1) > width and max(widths) > 1:
        widths[widths.index(max(widths))] -= 1
    for row in lines:
        broken = [list(_pieces(cell, most)) for cell, most in zip(row, widths, strict=True)]
        for number in range(max(map(len, broken), default=1)):
            parts = [piece[number] if number < len(piece) else "" for piece in broken]
            padded = (part + " " * (most - cells(part)) for part, most in zip(parts, widths, strict=True))
            yield "  ".join(padded).rstrip()


def _pieces(text: str, width: int) -> Iterator[str]:
    """A cell as lines: broken at spaces, and within a word that is longer than a line."""
    for line in wrapped(text, width):
        yield from _broken(line, width, "")


def columns_of(stream: TextIO) -> int | None:
    """How many columns the terminal at ``stream`` has; None where there is none, and lines may have any length."""
    if not is_terminal(stream):
        return None
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    if not columns:  # it does not say
        said = os.environ.get("COLUMNS", "")
        columns = int(said) if said.isascii() and said.isdigit() else 0
    return max(_NARROWEST, columns or 80)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person may be reading, or typing, at the other end of ``stream``."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # it is closed
        return False


def has_colour(stream: TextIO | None) -> bool:
    """Whether ``stream`` takes colours: it is a terminal, and neither NO_COLOR nor TERM speaks against it."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def painted(text: str, style: Style, *, colour: bool) -> str:
    """``text`` in a style, where there is ``colour``."""
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if colour and text else text
