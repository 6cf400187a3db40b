"""Render blocks: the data that a frontend draws, checked where it is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from sepkit import render
from sepkit.wire.converter import structure_exactly
from sepkit.wire.messages import RenderBlock

TEXT: dict[str, Any] = {"kind": "markdown", "text": "hi"}

BLOCKS: list[tuple[render.Block, dict[str, Any]]] = [
    (render.markdown("**hi**"), {"kind": "markdown", "text": "**hi**"}),
    (
        render.keyvalue({"a": "1", "b": "2"}),
        {"kind": "keyvalue", "rows": [{"key": "a", "value": "1"}, {"key": "b", "value": "2"}]},
    ),
    (
        render.keyvalue([("a", "1"), ("a", "2")], title="Twice", text="a: 1, a: 2"),
        {
            "kind": "keyvalue",
            "rows": [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}],
            "title": "Twice",
            "text": "a: 1, a: 2",
        },
    ),
    (render.keyvalue({}), {"kind": "keyvalue", "rows": []}),
    (
        render.table(["n", "square"], [["1", "1"], ("2", "4")]),
        {"kind": "table", "columns": ["n", "square"], "rows": [["1", "1"], ["2", "4"]]},
    ),
    (
        render.table((c for c in "ab"), (row for row in [iter("12")]), text="a 1, b 2"),
        {"kind": "table", "columns": ["a", "b"], "rows": [["1", "2"]], "text": "a 1, b 2"},
    ),
    (render.table([], []), {"kind": "table", "columns": [], "rows": []}),
    (render.diff("--- a\n+++ b\n"), {"kind": "diff", "patch": "--- a\n+++ b\n"}),
    (render.diff("x", text="changed"), {"kind": "diff", "patch": "x", "text": "changed"}),
    (render.progress(0), {"kind": "progress", "value": 0}),
    (render.progress(1.0), {"kind": "progress", "value": 1.0}),
    (
        render.progress(0.5, label="half", text="50 %"),
        {"kind": "progress", "value": 0.5, "label": "half", "text": "50 %"},
    ),
    (render.stack(), {"kind": "stack", "children": []}),
    (
        render.stack(render.markdown("hi"), render.stack(render.markdown("hi")), text="hi hi"),
        {"kind": "stack", "children": [TEXT, {"kind": "stack", "children": [TEXT]}], "text": "hi hi"},
    ),
    (
        render.widget("board", render.markdown("hi")),
        {"kind": "widget", "widget_id": "board", "body": TEXT, "keybindings": []},
    ),
    (
        render.widget("board", render.markdown("hi"), {"q": "quit", "up": None}, text="a board"),
        {
            "kind": "widget",
            "widget_id": "board",
            "body": TEXT,
            "keybindings": [{"key": "q", "description": "quit"}, {"key": "up"}],
            "text": "a board",
        },
    ),
]


@pytest.mark.parametrize(("block", "wire"), BLOCKS)
def test_a_block_is_its_form_on_the_wire(block: render.Block, wire: dict[str, Any]) -> None:
    """Each block has its fields; what was not given is left out. Source: docs/protocol.md, section 8."""
    assert block == wire
    assert json.loads(orjson.dumps(block)) == wire
    structure_exactly(block, RenderBlock)


def test_each_kind_of_block_can_be_made() -> None:
    """The blocks are markdown, keyvalue, table, diff, progress, stack and widget.

    Source: docs/protocol.md, section 8.
    """
    kinds = {"markdown", "keyvalue", "table", "diff", "progress", "stack", "widget"}
    assert {wire["kind"] for _, wire in BLOCKS} == kinds
    assert all(callable(getattr(render, kind)) for kind in kinds)


untyped: Any = render


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: untyped.markdown(5), "not a markdown block: $.text: expected string, got integer"),
        (lambda: untyped.markdown(None), "not a markdown block: $.text: expected string, got null"),
        (
            lambda: untyped.keyvalue({"a": 1, "b": 2}),
            "not a keyvalue block: $.rows[0].value: expected string, got integer; "
            "$.rows[1].value: expected string, got integer",
        ),
        (lambda: untyped.keyvalue({}, title=5), "not a keyvalue block: $.title: expected string, got integer"),
        (lambda: untyped.table(["a"], [[1]]), "not a table block: $.rows[0][0]: expected string, got integer"),
        (lambda: render.table(["a", "b"], [["1", "2"], ["3"]]), "row 1 has 1 cells, and there are 2 columns"),
        (lambda: render.table(["a"], [["1", "2"]]), "row 0 has 2 cells, and there are 1 columns"),
        (lambda: untyped.diff(b"x"), "not a diff block: $.patch: expected string, got bytes"),
        (
            lambda: render.progress(1.5),
            "not a progress block: $.value: expected number between 0 and 1, got number",
        ),
        (
            lambda: render.progress(-0.01),
            "not a progress block: $.value: expected number between 0 and 1, got number",
        ),
        (
            lambda: render.progress(float("nan")),
            "not a progress block: $.value: expected number between 0 and 1, got number",
        ),
        (
            lambda: untyped.progress(True),
            "not a progress block: $.value: expected number between 0 and 1, got boolean",
        ),
        (
            lambda: render.stack({"kind": "video"}),
            "not a stack block: $.children[0].kind: expected one of 'markdown', 'keyvalue', 'table', 'diff', "
            "'progress', 'stack', 'widget', got string",
        ),
        (
            lambda: render.widget("w", {"text": "no kind"}),
            "not a widget block: $.body: expected a field 'kind', got nothing",
        ),
        (lambda: untyped.widget(5, TEXT), "not a widget block: $.widget_id: expected string, got integer"),
        (
            lambda: untyped.widget("w", TEXT, {"q": 5}),
            "not a widget block: $.keybindings[0].description: expected string, got integer",
        ),
    ],
)
def test_what_a_frontend_could_not_draw_is_refused_where_it_is_made(make: Callable[[], object], says: str) -> None:
    """The error says the path, what is expected, and what was received. Source: docs/protocol.md, section 8."""
    with pytest.raises(ValueError, match=r".") as caught:
        make()
    assert str(caught.value) == says


def test_a_block_is_plain_data_of_its_own() -> None:
    """``set_widget(block)`` takes a dict, which its maker may still change."""
    rows = [["1"]]
    block = render.table(["a"], rows)
    rows[0][0] = "2"
    assert block["rows"] == [["1"]]
    block["text"] = "changed"
    assert structure_exactly(block, RenderBlock)
