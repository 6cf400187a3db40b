"""A signature becomes a JSON Schema and a binder. Annotations are postponed and classes local here."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired, Optional, TypedDict
from uuid import UUID

import annotated_types as at
import attrs
import pytest

from sepkit.errors import InvalidData
from sepkit.schema import Signature, compile_type, inspect_signature, schema_of


class Context: ...


class ToolContext(Context): ...


class EventContext(Context): ...


def inspected(fn: Callable[..., Any], **options: Any) -> Signature:
    return inspect_signature(fn, what=f"tool {fn.__name__!r}", contexts=(ToolContext,), **options)


def schema(fn: Callable[..., Any], name: str = "x") -> Any:
    return inspected(fn).parameters["properties"][name]


def faults(fn: Callable[[Any], Any], value: Any) -> list[tuple[str, str, str]]:
    with pytest.raises(InvalidData) as caught:
        fn(value)
    return [(fault.path, fault.expected, fault.received) for fault in caught.value.faults]


def typed(annotation: Any, **options: Any) -> Callable[[Any], Any]:
    return compile_type(annotation, what="the type", **options)


# --- schemas -------------------------------------------------------------------------------------------------------


def test_a_signature_becomes_the_schema_of_an_object() -> None:
    """An argument that is not in the schema is refused."""

    async def greet(name: str, ctx: ToolContext, times: int = 1, *, loud: bool = False) -> str:
        """Greet someone.

        Args:
            name: Who to
                greet.
            ctx: Not an argument.
            times: How often.
            loud: In capitals.
        """
        return name

    signature = inspected(greet)
    assert signature.parameters == {
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "Who to greet."},
            "times": {"type": "integer", "description": "How often.", "default": 1},
            "loud": {"type": "boolean", "description": "In capitals.", "default": False},
        },
        "required": ["name"],
        "additionalProperties": False,
    }
    assert signature.description == "Greet someone."
    assert signature.context == "ctx"
    assert signature.bind({"name": "Ada"}) == {"name": "Ada"}


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


UserId = NewType("UserId", int)


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (str, {"type": "string"}),
        (None, {"type": "null"}),
        (Any, {}),
        (object, {}),
        (list, {"type": "array"}),
        (list[Any], {"type": "array"}),
        (list[str], {"type": "array", "items": {"type": "string"}}),
        (Sequence[int], {"type": "array", "items": {"type": "integer"}}),
        (Iterable[int], {"type": "array", "items": {"type": "integer"}}),
        (tuple, {"type": "array"}),
        (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
        (tuple[()], {"type": "array", "minItems": 0, "maxItems": 0}),
        (
            tuple[int, str],
            {
                "type": "array",
                "prefixItems": [{"type": "integer"}, {"type": "string"}],
                "items": False,
                "minItems": 2,
                "maxItems": 2,
            },
        ),
        (set[int], {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}),
        (frozenset[str], {"type": "array", "items": {"type": "string"}, "uniqueItems": True}),
        (dict, {"type": "object"}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (Mapping[str, Any], {"type": "object"}),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Literal["a", 1], {"enum": ["a", 1]}),
        (Color, {"type": "string", "enum": ["red", "blue"]}),
        (Level, {"type": "integer", "enum": [1, 2]}),
        (UserId, {"type": "integer"}),
        (datetime, {"type": "string", "format": "date-time"}),
        (date, {"type": "string", "format": "date"}),
        (time, {"type": "string", "format": "time"}),
        (UUID, {"type": "string", "format": "uuid"}),
        (Path, {"type": "string", "format": "path"}),
        (int | str, {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (Literal["a", None], {"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "null"}]}),
        (Any | None, {}),
        (Annotated[int, "How many"], {"type": "integer", "description": "How many"}),
        (
            Annotated[int, "How many"] | None,
            {
                "anyOf": [{"type": "integer", "description": "How many"}, {"type": "null"}],
                "description": "How many",
            },
        ),
    ],
    ids=str,
)
def test_a_type_has_a_schema(annotation: Any, expected: dict[str, Any]) -> None:
    """Each type that an argument may have gives a schema."""
    assert schema_of(annotation, what="the type") == expected


@pytest.mark.parametrize(
    ("annotation", "keywords"),
    [
        (Annotated[int, at.Ge(1), at.Le(9)], {"type": "integer", "minimum": 1, "maximum": 9}),
        (Annotated[int, at.Interval(gt=1, lt=9)], {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 9}),
        (Annotated[float, at.MultipleOf(0.5)], {"type": "number", "multipleOf": 0.5}),
        (Annotated[str, at.Len(1, 5)], {"type": "string", "minLength": 1, "maxLength": 5}),
        (Annotated[list[int], at.MinLen(1)], {"type": "array", "items": {"type": "integer"}, "minItems": 1}),
        (Annotated[dict[str, Any], at.MaxLen(2)], {"type": "object", "maxProperties": 2}),
        (Annotated[str, re.compile("^a+$")], {"type": "string", "pattern": "^a+$"}),
        (Annotated[date, at.Ge(date(2024, 1, 1))], {"type": "string", "format": "date"}),
        (Annotated[str, at.Predicate(str.islower)], {"type": "string"}),
        (Annotated[int | None, at.Ge(1)], {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}),
        (Annotated[int, NotImplemented], {"type": "integer"}),
    ],
    ids=str,
)
def test_constraints_are_said_in_the_schema(annotation: Any, keywords: dict[str, Any]) -> None:
    assert schema_of(annotation, what="the type") == keywords


@pytest.mark.parametrize(
    ("annotation", "good", "bad", "expected"),
    [
        (Annotated[int, at.Ge(1), at.Le(9)], 9, 10, "integer (>= 1, <= 9)"),
        (Annotated[float, at.Gt(0)], 1, 0, "number (> 0)"),
        (Annotated[float, at.MultipleOf(0.1)], 0.3, 0.35, "number (multiple of 0.1)"),
        (Annotated[str, at.MinLen(2)], "ab", "a", "string (length >= 2)"),
        (Annotated[list[int], at.MaxLen(1)], [1], [1, 2], "array (length <= 1)"),
        (Annotated[str, re.compile("^a+$")], "aa", "b", "string (matching ^a+$)"),
        (Annotated[str, at.Predicate(str.islower)], "a", "A", "string (islower)"),
        (Annotated[int | None, at.Ge(1)], None, 0, "integer (>= 1)"),
    ],
    ids=str,
)
def test_constraints_are_checked_on_binding(annotation: Any, good: Any, bad: Any, expected: str) -> None:
    structure = typed(annotation)
    assert structure(good) == good
    assert [(path, wanted) for path, wanted, _ in faults(structure, bad)] == [("$", expected)]


def test_a_bound_on_a_date_is_checked_though_no_schema_says_it() -> None:
    structure = typed(Annotated[date, at.Ge(date(2024, 1, 1))])
    assert structure("2024-05-01") == date(2024, 5, 1)
    assert faults(structure, "2023-05-01") == [("$", "date string (ISO 8601) (>= 2024-01-01)", "string")]


def test_classes_are_inlined() -> None:
    """The schema has no $ref and no $defs. Local classes and postponed annotations work."""

    @attrs.define
    class Point:
        x: int
        y: Annotated[int, "Up"] = 0
        _secret: str | None = None

    @dataclasses.dataclass
    class Line:
        start: Point
        tags: list[str] = dataclasses.field(default_factory=list)
        end: Point | None = None

    def draw(line: Line, other: Point) -> None: ...

    point = {
        "type": "object",
        "properties": {
            "x": {"type": "integer"},
            "y": {"type": "integer", "description": "Up", "default": 0},
            "secret": {"type": "string"},
        },
        "required": ["x"],
        "additionalProperties": False,
    }
    signature = inspected(draw)
    assert signature.parameters["properties"] == {
        "line": {
            "type": "object",
            "properties": {"start": point, "tags": {"type": "array", "items": {"type": "string"}}, "end": point},
            "required": ["start"],
            "additionalProperties": False,
        },
        "other": point,
    }
    assert signature.bind({"line": {"start": {"x": 1, "secret": "s"}}, "other": {"x": "2"}}) == {
        "line": Line(Point(1, secret="s")),
        "other": Point(2),
    }


def test_typed_dicts_and_named_tuples_are_objects() -> None:
    """NotRequired is seen under postponed annotations, where the class itself has not seen it."""

    class Movie(TypedDict):
        title: str
        year: NotRequired[int]
        note: Annotated[NotRequired[str], "Free text"]

    class Pair(NamedTuple):
        left: int
        right: int = 2

    def watch(movie: Movie, pair: Pair) -> None: ...

    signature = inspected(watch)
    assert signature.parameters["properties"]["movie"] == {
        "type": "object",
        "properties": {
            "title": {"type": "string"},
            "year": {"type": "integer"},
            "note": {"type": "string", "description": "Free text"},
        },
        "required": ["title"],
        "additionalProperties": False,
    }
    bound = signature.bind({"movie": {"title": "Alien", "year": "1979"}, "pair": {"left": 1}})
    assert bound == {"movie": {"title": "Alien", "year": 1979}, "pair": Pair(1, 2)}
    assert isinstance(bound["pair"], Pair)


def test_an_optional_parameter_that_defaults_to_none_shows_no_null() -> None:
    """``x: int | None = None`` is ``{"type": "integer"}`` and not required; null is accepted."""

    def f(x: int | None = None, y: Optional[Annotated[int, "Y"]] = None, z: int | str | None = None) -> None: ...  # noqa: UP045

    signature = inspected(f)
    assert signature.parameters["properties"] == {
        "x": {"type": "integer"},
        "y": {"type": "integer", "description": "Y"},
        "z": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
    }
    assert signature.parameters["required"] == []
    assert signature.bind({"x": None, "z": None}) == {"x": None, "z": None}
    assert signature.bind({"x": 1}) == {"x": 1}


def test_an_optional_parameter_without_default_is_required_and_may_be_null() -> None:
    """``x: int | None`` without a default is required, and null is accepted."""

    def f(x: int | None) -> None: ...

    signature = inspected(f)
    assert signature.parameters["required"] == ["x"]
    assert schema(f) == {"anyOf": [{"type": "integer"}, {"type": "null"}]}
    assert signature.bind({"x": None}) == {"x": None}
    assert faults(signature.bind, {}) == [("$.x", "integer or null", "nothing")]


def test_defaults_are_shown_where_json_has_them() -> None:
    def f(
        a: Color = Color.RED,
        b: tuple[int, ...] = (1, 2),
        c: Path = Path("x"),
        d: float = float("inf"),
        e: dict[str, Any] = {"k": [None]},  # noqa: B006
        g: int | None = 5,
    ) -> None: ...

    shown = {name: part.get("default") for name, part in inspected(f).parameters["properties"].items()}
    assert shown == {"a": "red", "b": [1, 2], "c": None, "d": None, "e": {"k": [None]}, "g": 5}


# --- coercion ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (int, "5", 5),
        (int, "-5", -5),
        (int, "5.0", 5),
        (int, 5.0, 5),
        (float, 5, 5.0),
        (float, "1.5", 1.5),
        (float, "1e3", 1000.0),
        (float, "12", 12.0),
        (bool, "true", True),
        (bool, "false", False),
        (list[int], ["1", 2], [1, 2]),
        (dict[str, bool], {"a": "true"}, {"a": True}),
        (int | None, "5", 5),
        (int | bool, "true", True),
        (Literal[1, 2], "2", 2),
        (Literal["1", 1], "1", "1"),
        (Literal["a", 1], 1.0, 1),
        (Literal[True], "true", True),
        (Color, "red", Color.RED),
        (Level, "2", Level.HIGH),
        (Decimal, 0.1, Decimal("0.1")),
        (Decimal, 3, Decimal(3)),
    ],
    ids=repr,
)
def test_what_loses_nothing_is_coerced_and_strict_refuses_it(annotation: Any, value: Any, expected: Any) -> None:
    """``"5"`` becomes 5 and ``"true"`` becomes True; with ``strict`` both are refused."""
    coerced = typed(annotation)(value)
    assert coerced == expected
    assert type(coerced) is type(expected)
    if type(value) is not int and (annotation, value) not in [(Color, "red"), (Literal["1", 1], "1")]:
        assert faults(typed(annotation, strict=True), value)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, "5x"),
        (int, "5.5"),
        (int, " 5"),
        (int, "1_000"),
        (int, "007"),
        (int, "٣"),
        (int, "9" * 5000),
        (int, 5.5),
        (int, True),
        (int, None),
        (float, True),
        (float, "nan"),
        (float, "1e400"),
        (float, "12345678901234567891"),
        (float, "0.12345678901234567890123"),
        (float, "1e-9999999999999999999999"),
        (float, 10**400),
        (bool, 1),
        (bool, "True"),
        (bool, "yes"),
        (str, 5),
        (str, None),
        (list[int], "5"),
        (Literal[1], True),
        (Literal["a"], ["a"]),
        (Color, "RED"),
        (Level, True),
        (datetime, "yesterday"),
        (datetime, 5),
        (UUID, "x"),
        (Decimal, "nan"),
        (Decimal, True),
        (set[int], [1, 1]),
        (set[Any], [[]]),
        (tuple[int, int], [1]),
        (None, 0),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_would_lose_something_is_refused(annotation: Any, value: Any) -> None:
    """``"5x"``, ``True`` for an int and 5 for a str are refused."""
    assert faults(typed(annotation), value)
    assert faults(typed(annotation, strict=True), value)


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (int | str, "5", "5"),
        (str | int, 5, 5),
        (float | int, 5, 5),
        (Annotated[float, at.Ge(0)] | int, 5, 5),
        (int | float, 5.0, 5.0),
        (bool | int, 1, 1),
        (int | bool, "5", 5),
        (datetime | str, "2024-05-01", datetime(2024, 5, 1)),
        (datetime | str, "later", "later"),
        (str | datetime, "2024-05-01", "2024-05-01"),
        (list[int] | dict[str, int], {"a": 1}, {"a": 1}),
        (list[int] | list[str], ["1", "2"], ["1", "2"]),
        (Literal["auto"] | int, "3", 3),
    ],
    ids=repr,
)
def test_a_union_takes_the_exact_member_before_it_coerces(annotation: Any, value: Any, expected: Any) -> None:
    """A value that already is a member of the union is not converted to another one."""
    loaded = typed(annotation)(value)
    assert loaded == expected
    assert type(loaded) is type(expected)


def test_a_json_text_is_decoded_only_where_no_string_is_wanted() -> None:
    """A JSON text is decoded only for a parameter that takes a list or an object and no string."""

    def f(
        a: list[int] = [],  # noqa: B006
        b: dict[str, int] | None = None,
        c: list[int] | str = "",
        d: Any = None,
        e: int | list[int] = 0,
    ) -> None: ...

    bind = inspected(f).bind
    assert bind({"a": "[1, 2]", "b": '{"x": 1}', "e": "[3]"}) == {"a": [1, 2], "b": {"x": 1}, "e": [3]}
    assert bind({"c": "[1]", "d": "[1]", "e": "7"}) == {"c": "[1]", "d": "[1]", "e": 7}
    assert faults(bind, {"a": '["x"]'}) == [("$.a[0]", "integer", "string")]
    assert faults(bind, {"a": "[1"}) == [("$.a", "array", "string")]
    assert faults(bind, {"a": "5", "b": "null"}) == [("$.a", "array", "string"), ("$.b", "object or null", "string")]
    assert faults(inspected(f, strict=True).bind, {"a": "[1]"}) == [("$.a", "array", "string")]


def test_values_become_what_the_annotation_says() -> None:
    assert typed(datetime)("2024-05-01T10:00:00Z") == datetime(2024, 5, 1, 10, tzinfo=UTC)
    assert typed(time)("10:30") == time(10, 30)
    assert typed(Path)("a/b") == Path("a/b")
    assert typed(UUID)("12345678-1234-5678-1234-567812345678") == UUID("12345678-1234-5678-1234-567812345678")
    assert typed(Decimal, strict=True)("1.10") == Decimal("1.10")
    assert typed(tuple[int, ...])([1, 2]) == (1, 2)
    assert typed(tuple[int, str])([1, "a"]) == (1, "a")
    assert typed(frozenset[tuple[int, int]])([[1, 2]]) == frozenset({(1, 2)})
    assert typed(set[Color])(["red"]) == {Color.RED}


# --- faults --------------------------------------------------------------------------------------------------------


def test_every_argument_error_is_reported_at_once() -> None:
    """All errors are reported, not only the first, each with path, expected and received type."""

    @attrs.define
    class Point:
        x: int
        y: int

    def f(name: str, count: int, point: Point, tags: list[str], size: float = 1) -> None: ...

    arguments = {"nam": "Ada", "count": "5x", "point": {"x": "a", "z": 1}, "tags": ["a", 1, None], "size": [3]}
    assert faults(inspected(f).bind, arguments) == [
        ("$.nam", "nothing (no such argument; known: name, count, point, tags, size)", "string"),
        ("$.count", "integer", "string"),
        ("$.point.x", "integer", "string"),
        ("$.point.z", "nothing (no such field; known: x, y)", "integer"),
        ("$.point.y", "integer", "nothing"),
        ("$.tags[1]", "string", "integer"),
        ("$.tags[2]", "string", "null"),
        ("$.size", "number", "array"),
        ("$.name", "string", "nothing"),
    ]


def test_a_fault_never_quotes_the_value() -> None:
    """The error has the received type, which may be logged, not the value, which may be a secret."""

    def f(a: int, b: Literal["x"], c: datetime, d: dict[str, int], e: int | None, g: UUID) -> None: ...

    with pytest.raises(InvalidData) as caught:
        inspected(f).bind(dict.fromkeys("abcdeg", "hunter2"))
    assert len(caught.value.faults) == 6
    assert "hunter2" not in str(caught.value)


def test_the_first_pass_and_the_loaders_agree_on_names() -> None:
    """The generated first pass hands over whatever is not exactly right."""

    def f(a: str, b: int = 1) -> None: ...

    bind = inspected(f).bind
    assert bind({"a": "x", "b": 2}) == {"a": "x", "b": 2}
    assert faults(bind, {"a": "x", "c": 1}) == [("$.c", "nothing (no such argument; known: a, b)", "integer")]
    assert faults(bind, {"b": 1}) == [("$.a", "string", "nothing")]
    assert faults(bind, None) == [("$", "object", "null")]
    assert faults(bind, [1]) == [("$", "object", "array")]

    def none() -> None: ...

    assert inspected(none).bind({}) == {}
    assert faults(inspected(none).bind, {"c": 1}) == [("$.c", "nothing (no such argument; there are none)", "integer")]


def test_the_arguments_that_came_are_not_the_ones_that_are_bound() -> None:
    """The caller adds the context to them, and the frame must not change."""

    def f(a: str) -> None: ...

    arguments = {"a": "x"}
    assert inspected(f).bind(arguments) is not arguments


def test_unknown_arguments_are_dropped_where_they_may_come() -> None:
    """extra="ignore", for commands."""

    def f(a: str) -> None: ...

    signature = inspected(f, extra="ignore")
    assert signature.bind({"a": "x", "b": 1}) == {"a": "x"}
    assert "additionalProperties" not in signature.parameters


def test_an_odd_key_is_quoted_in_the_path() -> None:
    assert faults(typed(dict[str, int]), {"a b": "x", "c": []}) == [
        ('$["a b"]', "integer", "string"),
        ("$.c", "integer", "array"),
    ]


def test_a_long_key_is_cut_in_the_path() -> None:
    """The keys come from the peer; a megabyte of key is not sent back."""
    assert len(faults(typed(dict[str, int]), {"a" * 10**6: "x"})[0][0]) < 110


def test_a_union_member_that_alone_was_meant_reports_its_own_faults() -> None:
    @attrs.define
    class Point:
        x: int

    assert faults(typed(Point | None), {"x": "a"}) == [("$.x", "integer", "string")]
    assert faults(typed(Point | None), 5) == [("$", "object (Point) or null", "integer")]
    assert faults(typed(int | bool), "x") == [("$", "integer or boolean", "string")]


def test_a_validator_of_the_class_is_a_fault_with_its_text() -> None:
    @attrs.define
    class Range:
        low: int
        high: int

        def __attrs_post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError("low must not exceed high")

    def f(within: list[Range]) -> None: ...

    bind = inspected(f).bind
    assert faults(bind, {"within": [{"low": 1, "high": 2}, {"low": 3, "high": 2}]}) == [
        ("$.within[1]", "object (Range): low must not exceed high", "object")
    ]


def test_a_compiled_type_starts_its_paths_where_it_is_told() -> None:
    assert faults(typed(list[int], path="$.payload"), [1, "x"]) == [("$.payload[1]", "integer", "string")]


def test_a_compiled_type_may_ignore_what_it_does_not_know() -> None:
    @attrs.define
    class Payload:
        x: int

    assert typed(Payload, extra="ignore")({"x": 1, "new": 2}) == Payload(1)


# --- contexts ------------------------------------------------------------------------------------------------------


def test_the_context_is_found_wherever_it_stands() -> None:
    def first(ctx: ToolContext, x: int) -> None: ...
    def last(x: int, *, where: ToolContext | None = None) -> None: ...
    def several(x: int, ctx: ToolContext | EventContext) -> None: ...
    def without(x: int) -> None: ...

    assert [inspected(fn).context for fn in (first, last, several, without)] == ["ctx", "where", "ctx", None]
    assert list(inspected(last).parameters["properties"]) == ["x"]


def test_a_subclass_of_the_context_receives_it_too() -> None:
    class Special(ToolContext): ...

    def f(ctx: Special) -> None: ...

    assert inspected(f).context == "ctx"
