"""What is shown of a render block: as much of it as has its place on a screen; as plain lines, or drawn with rich.

All that an extension has sent is text here, in which nothing is obeyed; what does not have its shape is not shown.

Source: docs/protocol.md, section 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

from sepkit.terminal import cut, one_line, table, visible

BAR: Final = 20
"""Columns of a bar of progress."""

MOST_ROWS: Final = 100
_MOST_LINES: Final = 100
_MOST_COLUMNS: Final = 20
_MOST_CELL: Final = 200
_MOST_CHARACTERS: Final = 6_000  # of one block, with all in it
_LEAST: Final = 50  # characters that a block, a row or a line counts for
_MOST_DEPTH: Final = 50

T = TypeVar("T")


def bounded(block: object) -> dict[str, Any]:
    """A block with all its texts made visible, and as much of it as can be shown; what is missing is said."""
    return _Bound().block(block, 1)


class _Bound:
    """Takes parts of a block until there is enough of it."""

    def __init__(self) -> None:
        self._left = _MOST_CHARACTERS

    def block(self, block: Any, depth: int) -> dict[str, Any]:
        self._left -= _LEAST
        if depth > _MOST_DEPTH:
            return _note("(more blocks within each other than can be shown)")
        match block:
            case {"kind": "markdown", "text": str(text)}:
                return {"kind": "markdown", "text": self._text(text)}
            case {"kind": "keyvalue", "rows": list(rows)}:
                pairs = [row for row in rows if isinstance(row, dict)]
                shown, more = self._rows(pairs, lambda row: [str(row.get("key", "")), str(row.get("value", ""))])
                kept = [{"key": key, "value": value} for key, value in shown]
                return _with({"kind": "keyvalue", "rows": kept, "title": self._label(block.get("title"))}, more)
            case {"kind": "table", "columns": list(columns), "rows": list(rows)}:
                cells = [row for row in rows if isinstance(row, list)]
                shown, more = self._rows(cells, lambda row: list(map(str, row[:_MOST_COLUMNS])))
                heads = [self._cell(str(column)) for column in columns[:_MOST_COLUMNS]]
                wide = max([len(columns), *map(len, cells[: len(shown)])])
                if wide > _MOST_COLUMNS:
                    more = [*more, f"… {wide - _MOST_COLUMNS:,} columns more"]
                return _with({"kind": "table", "columns": heads, "rows": shown}, more)
            case {"kind": "diff", "patch": str(patch)}:
                return {"kind": "diff", "patch": self._text(patch)}
            case {"kind": "progress", "value": int(value) | float(value)}:
                value = min(1.0, max(0.0, value))
                return {"kind": "progress", "value": value, "label": self._label(block.get("label"))}
            case {"kind": "stack", "children": list(children)}:
                taken = []
                for child in children[:MOST_ROWS]:
                    if self._left <= 0:
                        break
                    taken.append(self.block(child, depth + 1))
                return _with({"kind": "stack", "children": taken}, _more(children, taken, "blocks"))
            case {"kind": "widget", "body": dict(body)}:
                return {"kind": "widget", "body": self.block(body, depth + 1), "keybindings": self._keys(block)}
            case {"text": str(text)}:
                return {"text": self._text(text)}
            case {"kind": str(kind)}:
                return _note(f"(a {one_line(kind[:_MOST_CELL])} block)")
        return _note("(a nameless block)")

    def _keys(self, block: dict[str, Any]) -> list[dict[str, Any]]:
        given = block.get("keybindings")
        bindings = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
        return [
            {"key": self._cell(str(one.get("key"))), "description": self._label(one.get("description"))}
            for one in bindings[:_MOST_COLUMNS]
        ]

    def _rows(self, rows: list[T], cells_of: Callable[[T], list[str]]) -> tuple[list[list[str]], list[str]]:
        shown: list[list[str]] = []
        for row in rows[:MOST_ROWS]:
            if self._left <= 0:
                break
            before = self._left
            shown.append([self._cell(cell) for cell in cells_of(row)])
            self._left = min(self._left, before - _LEAST)
        return shown, _more(rows, shown, "rows")

    def _cell(self, text: str) -> str:
        short = text if len(text) <= _MOST_CELL else f"{text[:_MOST_CELL]}…"
        self._left -= len(short) + 2
        return one_line(short)

    def _label(self, text: object) -> str | None:
        return None if text is None else self._cell(str(text))

    def _text(self, text: str) -> str:
        short = cut(text, max(0, self._left), min(_MOST_LINES, max(1, self._left // _LEAST)))
        self._left -= max(len(short), _LEAST * short.count("\n"))
        return visible(short)


def _more(given: list[T], shown: list[Any], what: str) -> list[str]:
    return [f"… {len(given) - len(shown):,} {what} more"] if len(given) > len(shown) else []


def _note(text: str) -> dict[str, Any]:
    return {"text": text}


def _with(block: dict[str, Any], notes: Iterable[str]) -> dict[str, Any]:
    """A block, and what is to be said of it below."""
    below = [_note(note) for note in notes]
    return {"kind": "stack", "children": [block, *below]} if below else block


def plain(block: dict[str, Any], width: int | None = None) -> Iterator[str]:
    """A render block as lines of text; tables are fitted into ``width`` columns."""
    match block:
        case {"kind": "markdown", "text": str(text)}:
            yield from text.splitlines()
        case {"kind": "keyvalue", "rows": list(rows)}:
            if block.get("title"):
                yield str(block["title"])
            yield from (f"{row.get('key', '')}: {row.get('value', '')}" for row in rows)
        case {"kind": "table", "columns": list(columns), "rows": list(rows)}:
            yield from table([[one_line(str(cell)) for cell in row] for row in [columns, *rows]], width)
        case {"kind": "diff", "patch": str(patch)}:
            yield from patch.splitlines()
        case {"kind": "progress", "value": int(value) | float(value)}:
            yield f"[{value:4.0%}] {block.get('label') or ''}".rstrip()
        case {"kind": "stack", "children": list(children)}:
            for child in children:
                yield from plain(child, width)
        case {"kind": "widget", "body": dict(body)}:
            yield from plain(body, width)
            if keys := "  ".join(_key(binding) for binding in block.get("keybindings", ())):
                yield keys
        case {"text": str(text)}:
            yield from text.splitlines()
        case _:
            yield f"(a {block.get('kind', 'nameless')!s} block)"


def drawn(block: dict[str, Any]) -> Any:
    """A render block for rich. A kind that it does not know is shown as plain text."""
    from rich.console import Group
    from rich.markdown import Markdown
    from rich.progress_bar import ProgressBar
    from rich.syntax import Syntax
    from rich.table import Table
    from rich.text import Text

    match block:
        case {"kind": "markdown", "text": str(text)}:
            return Markdown(text, hyperlinks=False)  # a reader sees where a link leads
        case {"kind": "keyvalue", "rows": list(rows)}:
            grid = Table.grid(padding=(0, 2))
            for row in rows:
                grid.add_row(Text(str(row.get("key", "")), style="bold"), Text(str(row.get("value", ""))))
            return Group(Text(block["title"], style="bold underline"), grid) if block.get("title") else grid
        case {"kind": "table", "columns": list(columns), "rows": list(rows)}:
            table = Table()
            for column in columns:
                table.add_column(Text(str(column)))
            for row in rows:
                table.add_row(*(Text(str(cell)) for cell in row))
            return table
        case {"kind": "diff", "patch": str(patch)}:
            return Syntax(patch, "diff", background_color="default")
        case {"kind": "progress", "value": int(value) | float(value)}:
            bar = ProgressBar(total=1.0, completed=value, width=BAR)
            return Group(Text(block["label"]), bar) if block.get("label") else bar
        case {"kind": "stack", "children": list(children)}:
            return Group(*(drawn(child) for child in children))
        case {"kind": "widget", "body": dict(body)}:
            keys = "  ".join(_key(binding) for binding in block.get("keybindings", ()))
            return Group(drawn(body), Text(keys, style="dim")) if keys else drawn(body)
    return Text("\n".join(plain(block)))


def _key(binding: dict[str, Any]) -> str:
    description = binding.get("description")
    return f"[{binding.get('key')}]" if description is None else f"[{binding.get('key')}] {description}"
