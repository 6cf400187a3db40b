"""Whether a render block of an extension can be drawn: each part of it has its shape, and it is not too deep.

Source: docs/protocol.md, section 8.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sepkit.capabilities.names import RULE, is_name, quoted
from sepkit.errors import InvalidData, InvalidParams
from sepkit.wire.converter import structure
from sepkit.wire.messages import RenderBlock

MOST_DEPTH: Final = 50
"""Blocks within each other."""
MOST_BLOCKS: Final = 1_000
"""Blocks in one widget, all together."""

_KINDS: Final = frozenset({"markdown", "keyvalue", "table", "diff", "progress", "stack", "widget"})
_EMPTY: Final = {"kind": "markdown", "text": ""}


def widgets_in(block: dict[str, Any]) -> list[str]:
    """Check a block, and all in it. One of a kind that is not known may have any fields.

    Returns:
        The ids of the widgets in it.

    Raises:
        InvalidParams: It cannot be drawn; the error says which part of it.
    """
    found: list[str] = []
    seen = 0
    left: list[tuple[str, object, int]] = [("widget", block, 1)]
    while left:
        path, one, depth = left.pop()
        if depth > MOST_DEPTH:
            raise InvalidParams(f"a widget may have at most {MOST_DEPTH} blocks within each other")
        if (seen := seen + 1) > MOST_BLOCKS:
            raise InvalidParams(f"a widget may have at most {MOST_BLOCKS} blocks in it")
        if not isinstance(one, dict) or not isinstance(one.get("kind"), str):
            raise InvalidParams(f"{path}: expected a block, which is an object with a kind")
        if one["kind"] in _KINDS:
            _check(path, one)
        if one["kind"] == "widget":
            found.append(one["widget_id"])
        left += [(f"{path}.{name}", inner, depth + 1) for name, inner in _within(one)]
    return found


def _within(block: dict[str, Any]) -> Iterator[tuple[str, object]]:
    """The blocks in a block, and where. What is in one of a kind that is not known is not looked at."""
    if block["kind"] == "stack":
        yield from ((f"children[{place}]", child) for place, child in enumerate(block["children"]))
    elif block["kind"] == "widget":
        yield "body", block["body"]


def _check(path: str, block: dict[str, Any]) -> None:
    """Check one block without those in it, which are checked by themselves: there may be many, and deep ones."""
    alone = dict(block)
    if isinstance(block.get("children"), list):
        alone["children"] = []
    if isinstance(block.get("body"), dict):
        alone["body"] = _EMPTY
    try:
        structure(alone, RenderBlock)
    except InvalidData as error:
        raise InvalidParams(f"{path}: {error}") from None
    if block["kind"] == "widget" and not is_name(block["widget_id"]):
        raise InvalidParams(f"{path}.widget_id: expected {RULE}, got {quoted(block['widget_id'])}")
