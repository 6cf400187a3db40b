"""Writing: records without their defaults, handlers' values as plain JSON data, and errors that name the place."""

from __future__ import annotations

import dataclasses
import enum
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID

import attrs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepkit.errors import EncodeError
from sepkit.wire import messages as m
from sepkit.wire.converter import structure
from sepkit.wire.writing import MAX_DEPTH, to_json, unstructure
from tests.wire.json_values import PLAIN


# ------------------------------------------------------------------------------------------------------------- records
def test_a_field_with_its_default_value_is_left_out() -> None:
    """Absent means the default; but some fields are always written, because hosts look for them."""
    assert unstructure(m.ToolExecuteResult("c")) == {"content": "c"}
    assert unstructure(m.Registrations()) == {}
    assert unstructure(m.BlockOutcome()) == {"action": "block"}
    assert unstructure(m.CommandCompleteResult()) == {"completions": []}
    assert unstructure(m.ProviderCompleteResult()) == {"content": "", "tool_calls": [], "finish_reason": "stop"}
    assert unstructure(m.TaskHealth(task_id="t", name="n", user_id=None, status="pending", restart_count=0)) == {
        "task_id": "t",
        "name": "n",
        "user_id": None,
        "status": "pending",
        "restart_count": 0,
    }


def test_a_hook_input_that_was_changed_to_its_default_is_written() -> None:
    """A patch is the whole input, so `is_error: false` must be in it."""
    failed: m.ToolOutcome = structure({"tool": "t", "arguments": {}, "content": "c", "is_error": True}, m.ToolOutcome)
    assert unstructure(attrs.evolve(failed, is_error=False))["is_error"] is False


# ------------------------------------------------------------------------------------------------------------- to_json
class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Pair:
    a: int
    b: str | None = None


class Row(NamedTuple):
    n: int


@attrs.frozen
class Price:
    amount: Decimal
    at: datetime


@dataclasses.dataclass
class Item:
    name: str
    tags: set[str]


class Text(str):
    __slots__ = ()


TABLE: Final[list[tuple[Any, Any]]] = [
    (None, None),
    (True, True),
    (-(2**63), -(2**63)),
    (2**64 - 1, 2**64 - 1),
    (0.1, 0.1),
    ("grüße", "grüße"),
    (Text("a"), "a"),
    ((1, [2]), [1, [2]]),
    (Row(1), [1]),
    ({"a": {1: "b", Colour.RED: 1, Level.LOW.name: 2}}, {"a": {"1": "b", "red": 1, "LOW": 2}}),
    ({UUID(int=1): 1}, {str(UUID(int=1)): 1}),
    ({3, 1, 2}, [1, 2, 3]),
    (frozenset({"b", "a"}), ["a", "b"]),
    ({1, "a", None}, ["a", 1, None]),
    (datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2))), "2030-01-02T03:04:05+02:00"),
    (date(2030, 1, 2), "2030-01-02"),
    (time(3, 4), "03:04:00"),
    (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (Decimal("1.50"), "1.50"),
    (Path("/a/b"), "/a/b"),
    (Colour.RED, "red"),
    (Level.LOW, 1),
    (Price(Decimal(1), datetime(2030, 1, 2)), {"amount": "1", "at": "2030-01-02T00:00:00"}),
    (Item("a", {"x"}), {"name": "a", "tags": ["x"]}),
    (m.MarkdownBlock("a"), {"kind": "markdown", "text": "a"}),
    ([m.StackBlock([m.DiffBlock("-")])], [{"kind": "stack", "children": [{"kind": "diff", "patch": "-"}]}]),
    (m.ToolExecuteResult("c", details={"at": date(2030, 1, 2)}), {"content": "c", "details": {"at": "2030-01-02"}}),
]


@pytest.mark.parametrize(("value", "expected"), TABLE)
def test_a_value_is_written_by_the_table(value: object, expected: object) -> None:
    """Each row of the table in the docstring of ``to_json``, with subclasses and keys."""
    made = to_json(value)
    assert made == expected
    assert type(made) is type(expected)
    assert orjson.loads(orjson.dumps(made)) == expected


@pytest.mark.parametrize(
    ("value", "path", "problem"),
    [
        (float("nan"), "$", "a float that is not finite"),
        ({"rows": [0, 1, 2, {"price": float("inf")}]}, "$.rows[3].price", "a float that is not finite"),
        ([2**64], "$[0]", "an integer that does not fit 64 bits"),
        ([-(2**63) - 1], "$[0]", "an integer that does not fit 64 bits"),
        ({"a b": "\ud800"}, "$['a b']", "a text with a lone surrogate"),
        ({"x": {"\udfff": 1}}, "$.x", "a text with a lone surrogate"),
        ({"x": b"abc"}, "$.x", "a value of type bytes has no form in JSON"),
        ([object()], "$[0]", "a value of type object has no form in JSON"),
        ((timedelta(1),), "$[0]", "a value of type datetime.timedelta has no form in JSON"),
        ({"t": Price}, "$.t", "a value of type type has no form in JSON"),
        ({None: 1}, "$", "a value of type NoneType cannot be the key of an object"),
        ({True: 1}, "$", "a value of type bool cannot be the key of an object"),
        ([{1: "a", "1": "b"}], "$[0]", "two keys of a value of type dict are both '1' as text"),
        ({"s": {float("inf")}}, "$.s[*]", "a float that is not finite"),
        (Item("\udc80", set()), "$.name", "a text with a lone surrogate"),
        (
            m.ToolExecuteResult("c", details=[1, complex(1)]),
            "$.details[1]",
            "a value of type complex has no form in JSON",
        ),
    ],
)
def test_a_value_without_a_form_is_told_by_path_and_type(value: object, path: str, problem: str) -> None:
    """The call that returned the value fails, with the path and the type of the value."""
    with pytest.raises(EncodeError) as caught:
        to_json(value)
    assert (caught.value.path, caught.value.problem) == (path, problem)


def test_the_path_begins_where_the_caller_says() -> None:
    """In a result the value is below `details`, and the path must say so."""
    with pytest.raises(EncodeError) as caught:
        to_json({"a": [float("nan")]}, "$.details")
    assert caught.value.path == "$.details.a[0]"


def test_a_cycle_is_named_where_it_closes_on_itself() -> None:
    """A cycle fails one call, and not with a RecursionError."""
    inner: dict[str, Any] = {}
    inner["again"] = inner
    with pytest.raises(EncodeError, match="dict that contains itself") as caught:
        to_json({"rows": [inner]})
    assert caught.value.path == "$.rows[0]"
    fan: list[Any] = []
    fan += [fan, fan]
    with pytest.raises(EncodeError, match="list that contains itself"):
        to_json(fan)


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: {"a": x}, lambda x: (x,), Pair])
def test_nesting_is_written_as_deep_as_a_frame_can_hold_it_and_no_deeper(wrap: Any) -> None:
    """The encoder refuses at 254 levels, so `to_json` refuses earlier, in the call that returned the value."""
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = wrap(value)
    orjson.dumps({"jsonrpc": "2.0", "result": {"details": to_json(value)}})
    with pytest.raises(EncodeError, match="more than 200 levels"):
        to_json(wrap(value))


def test_a_value_that_is_endlessly_deep_is_no_recursion_error() -> None:
    """The walk stops at the limit; it does not depend on the depth of Python's stack."""
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(EncodeError):
        to_json(value)


def test_the_outcome_shares_nothing_with_the_value() -> None:
    """A tool that goes on changing what it returned must not change what is being written."""
    value = {"rows": [1]}
    made = to_json(value)
    value["rows"].append(2)
    assert made == {"rows": [1]}


@given(PLAIN)
def test_plain_data_is_written_as_it_is(value: Any) -> None:
    """Values that JSON can hold are not changed."""
    assert to_json(value) == value
    assert orjson.loads(orjson.dumps(to_json(value))) == value


@given(
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text(st.characters(categories=None)) | st.binary(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers() | st.text(), inner, max_size=3),
    )
)
def test_whatever_is_written_orjson_takes(value: Any) -> None:
    """What cannot be written is refused here, with a path, and not by the encoder, without one."""
    try:
        made = to_json(value)
    except EncodeError:
        return
    assert orjson.loads(orjson.dumps(made)) == made
