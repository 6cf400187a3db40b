"""Render blocks: what a frontend draws, as data. Each function checks what it is given, and returns it as a dict.

Source: docs/protocol.md, section 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sepkit.errors import InvalidData
from sepkit.wire.converter import structure_exactly
from sepkit.wire.messages import RenderBlock

Block = dict[str, Any]


def markdown(text: str) -> Block:
    """Text in Markdown: ``{"kind": "markdown", "text"}``."""
    return _checked({"kind": "markdown", "text": text})


def keyvalue(
    rows: Mapping[str, str] | Iterable[tuple[str, str]], *, title: str | None = None, text: str | None = None
) -> Block:
    """Names and values: ``{"kind": "keyvalue", "rows": [{"key", "value"}], "title"?, "text"?}``."""
    pairs = rows.items() if isinstance(rows, Mapping) else rows
    block = {"kind": "keyvalue", "rows": [{"key": key, "value": value} for key, value in pairs]}
    return _checked(block, title=title, text=text)


def table(columns: Iterable[str], rows: Iterable[Iterable[str]], *, text: str | None = None) -> Block:
    """A table of strings: ``{"kind": "table", "columns", "rows", "text"?}``.

    Raises:
        ValueError: A row has more or fewer cells than there are columns.
    """
    heads = list(columns)
    cells = [list(row) for row in rows]
    for index, row in enumerate(cells):
        if len(row) != len(heads):
            raise ValueError(f"row {index} has {len(row)} cells, and there are {len(heads)} columns")
    return _checked({"kind": "table", "columns": heads, "rows": cells}, text=text)


def diff(patch: str, *, text: str | None = None) -> Block:
    """A unified diff: ``{"kind": "diff", "patch", "text"?}``."""
    return _checked({"kind": "diff", "patch": patch}, text=text)


def progress(value: float, *, label: str | None = None, text: str | None = None) -> Block:
    """A progress bar, from 0 to 1: ``{"kind": "progress", "value", "label"?, "text"?}``."""
    return _checked({"kind": "progress", "value": value}, label=label, text=text)


def stack(*children: Block, text: str | None = None) -> Block:
    """Blocks below each other: ``{"kind": "stack", "children", "text"?}``."""
    return _checked({"kind": "stack", "children": list(children)}, text=text)


def widget(
    widget_id: str, body: Block, keybindings: Mapping[str, str | None] | None = None, *, text: str | None = None
) -> Block:
    """A block that takes keys.

    Wire: ``{"kind": "widget", "widget_id", "body", "keybindings": [{"key", "description"?}], "text"?}``.

    Args:
        widget_id: What ``@app.on_key`` is given.
        body: What is drawn.
        keybindings: Each key, and what it does.
        text: What is shown where no widget can be.
    """
    bindings = [
        {"key": key} if description is None else {"key": key, "description": description}
        for key, description in (keybindings or {}).items()
    ]
    return _checked({"kind": "widget", "widget_id": widget_id, "body": body, "keybindings": bindings}, text=text)


def _checked(block: Block, **optional: str | None) -> Block:
    block.update({name: value for name, value in optional.items() if value is not None})
    try:
        structure_exactly(block, RenderBlock)
    except InvalidData as error:
        raise ValueError(f"not a {block['kind']} block: {error}") from None
    return block
