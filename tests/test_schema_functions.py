"""How functions of others are read: what is bound, what they say of themselves, and the markers of other libraries."""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, Literal

import annotated_types as at
import attrs
import pydantic
import pytest

from sepkit import App
from sepkit.errors import InvalidData, RegistrationError
from sepkit.schema import Signature, compile_type, inspect_signature, schema_of


class Context: ...


class ToolContext(Context): ...


class EventContext(Context): ...


def inspected(fn: Callable[..., Any]) -> Signature:
    return inspect_signature(fn, what="tool 'f'", contexts=(ToolContext,), other_contexts=(Context,))


def properties(fn: Callable[..., Any]) -> dict[str, Any]:
    found: dict[str, Any] = inspected(fn).parameters["properties"]
    return found


def refused(fn: Callable[..., Any]) -> str:
    with pytest.raises(RegistrationError) as caught:
        inspected(fn)
    return str(caught.value)


# -- partials ----------------------------------------------------------------------------------------------------------


def fetch(city: str, api_key: str = "", unit: str = "C") -> str:
    """Fetch the weather.

    Args:
        city: The city.
        api_key: The secret.
        unit: The unit.
    """
    return f"{city} {api_key} {unit}"


class Service:
    def fetch(self, city: str, api_key: str) -> str:
        """Fetch the weather."""
        return f"{city} {api_key} C"

    bound = functools.partialmethod(fetch, api_key="sk-1")


@functools.wraps(functools.partial(fetch, api_key="sk-1"))
def wrapped_partial(*args: Any, **kwargs: Any) -> str:
    return functools.partial(fetch, api_key="sk-1")(*args, **kwargs)


@functools.wraps(fetch)
def wrapped(*args: Any, **kwargs: Any) -> str:
    return fetch(*args, **kwargs)


@pytest.mark.parametrize(
    "fn",
    [
        functools.partial(fetch, api_key="sk-1"),
        functools.partial(functools.partial(fetch, unit="C"), api_key="sk-1"),
        functools.partial(wrapped, api_key="sk-1"),
        functools.update_wrapper(functools.partial(fetch, api_key="sk-1"), fetch),
        functools.partial(Service().fetch, api_key="sk-1"),
        Service().bound,
        wrapped_partial,
    ],
    ids=["partial", "of a partial", "of a wrapper", "updated", "of a method", "method", "wrapped"],
)
def test_what_a_partial_binds_is_no_parameter(fn: Any) -> None:
    """A key that is bound neither goes out as a default, nor can the model put another in its place."""
    signature = inspected(fn)
    assert "api_key" not in signature.parameters["properties"]
    assert "sk-1" not in str(signature.parameters)
    assert signature.description == "Fetch the weather."
    with pytest.raises(InvalidData, match=r"\$\.api_key"):
        signature.bind({"city": "Rome", "api_key": "mine"})
    assert fn(**signature.bind({"city": "Rome"})) == "Rome sk-1 C"


def test_what_a_partial_binds_by_place_is_no_parameter() -> None:
    assert list(properties(functools.partial(fetch, "Rome"))) == ["api_key", "unit"]


# -- what a function says of itself ------------------------------------------------------------------------------------


def test_the_annotations_of_a_signature_that_a_decorator_wrote_count() -> None:
    """``__signature__`` is what ``inspect.signature`` tells; its strings are read where the function was written."""

    class Local: ...

    def f(*args: Any, **kwargs: Any) -> None: ...

    written = [
        inspect.Parameter("n", inspect.Parameter.KEYWORD_ONLY, annotation=int),
        inspect.Parameter("day", inspect.Parameter.KEYWORD_ONLY, annotation="date"),
    ]
    f.__signature__ = inspect.Signature(written)  # type: ignore[attr-defined]
    assert properties(f) == {"n": {"type": "integer"}, "day": {"type": "string", "format": "date"}}
    assert inspected(f).bind({"n": "1", "day": "2030-01-02"}) == {"n": 1, "day": date(2030, 1, 2)}


def test_a_parameter_that_a_decorator_takes_away_is_gone() -> None:
    def f(n: int, secret: str) -> None: ...

    @functools.wraps(f)
    def g(n: int) -> None: ...

    signature = inspect.signature(f)
    g.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[one for one in signature.parameters.values() if one.name != "secret"]
    )
    assert list(properties(g)) == ["n"]


@pytest.mark.parametrize("fn", [min, max, iter, print, len, str.upper, "".join, dict.get, open, re.compile("a").match])
def test_a_function_that_cannot_be_called_by_name_is_refused_in_words(fn: Any) -> None:
    """Builtins have no signature, or parameters without names and annotations."""
    assert refused(fn).startswith("tool 'f'")


def test_an_unannotated_context_is_told_its_type() -> None:
    def f(ctx) -> None: ...  # type: ignore[no-untyped-def]

    assert "write `ctx: ToolContext`" in refused(f)


@pytest.mark.parametrize(
    "annotation", [ToolContext, Context, ToolContext | None, Annotated[ToolContext, 1], ToolContext | EventContext]
)
def test_a_context_is_found_however_it_is_annotated(annotation: Any) -> None:
    def f(ctx: Any = None) -> None: ...

    f.__annotations__["ctx"] = annotation
    assert inspected(f).context == "ctx"


# -- markers of other libraries ----------------------------------------------------------------------------------------


@dataclasses.dataclass
class Depends:
    """As FastAPI's."""

    dependency: Any


Depends.__module__ = "fastapi.params"


class Meta:
    """As msgspec's, which is not installed here."""

    def __init__(self, **options: Any) -> None:
        self.__dict__.update({"ge": None, "max_length": None, "tz": None, "description": None, **options})


Meta.__module__ = "msgspec"


class Bounded:
    """Of a library that is not known here."""

    ge = 1
    title = "Bounded"


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (
            Annotated[int, pydantic.Field(ge=1, lt=9, description="How many")],
            {"type": "integer", "minimum": 1, "exclusiveMaximum": 9, "description": "How many"},
        ),
        (
            Annotated[str, pydantic.Field(min_length=1, pattern="^a")],
            {"type": "string", "minLength": 1, "pattern": "^a"},
        ),
        (Annotated[str, pydantic.StringConstraints(max_length=2)], {"type": "string", "maxLength": 2}),
        (Annotated[int, pydantic.Field(multiple_of=5, title="T", examples=[5])], {"type": "integer", "multipleOf": 5}),
        (pydantic.PositiveInt, {"type": "integer", "exclusiveMinimum": 0}),
        (pydantic.conint(ge=1), {"type": "integer", "minimum": 1}),
        (
            Annotated[list[int], pydantic.Field(max_length=2)],
            {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
        ),
        (
            Annotated[int, Meta(ge=1, description="How many")],
            {"type": "integer", "minimum": 1, "description": "How many"},
        ),
        (Annotated[int, Bounded()], {"type": "integer", "minimum": 1}),
        (Annotated[int, object()], {"type": "integer"}),
    ],
)
def test_a_marker_that_says_what_ours_say_is_read(annotation: Any, schema: dict[str, Any]) -> None:
    """Before, the bounds of pydantic's Field were dropped without a word."""
    assert schema_of(annotation, what="it") == schema
    structure = compile_type(annotation, what="it")
    if "minimum" in schema:
        with pytest.raises(InvalidData):
            structure(0)


@pytest.mark.parametrize(
    ("annotation", "says"),
    [
        (Annotated[int, pydantic.Field(default=5)], "write the default after the annotation: `= …`"),
        (Annotated[int, pydantic.Field(default_factory=int)], "let the default be None"),
        (Annotated[int, pydantic.Field(alias="n")], "name the parameter so"),
        (Annotated[int, pydantic.Field(strict=True)], "write @app.tool(strict=True)"),
        (Annotated[str, pydantic.StringConstraints(strip_whitespace=True)], "strip_whitespace of"),
        (Annotated[int, pydantic.AfterValidator(abs)], "AfterValidator of pydantic is not read here"),
        (Annotated[int, pydantic.Field(json_schema_extra={"minimum": 1})], "json_schema_extra of"),
        (Annotated[int, Depends(int)], "Depends of fastapi is not read here"),
        (Annotated[date, Meta(tz=True)], "tz of Meta of msgspec is not read here"),
    ],
)
def test_a_marker_that_says_more_is_refused_where_it_is_written(annotation: Any, says: str) -> None:
    with pytest.raises(RegistrationError) as caught:
        schema_of(annotation, what="it")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("annotation", "default", "instead"),
    [
        (int, pydantic.Field(5, ge=1), "`x: Annotated[int, Ge(1)] = 5`"),
        (int, pydantic.Field(ge=1, description="How many"), "`x: Annotated[int, 'How many', Ge(1)]`"),
        (list, pydantic.Field(default_factory=list), "`x: list = None`"),
        (Any, pydantic.Field(5), "= 5`"),
        (int, attrs.field(default=5), "`x: int = 5`"),
        (int, dataclasses.field(default=5), "`x: int = 5`"),
        (int, Depends(int), "a Depends of fastapi"),
    ],
)
def test_a_marker_as_a_default_is_refused_with_the_words_to_write(annotation: Any, default: Any, instead: str) -> None:
    """Before, the function was handed the marker itself; in each kind of handler, and with ``parameters=`` too."""

    def f(x: Any = default) -> None: ...

    f.__annotations__["x"] = annotation
    assert instead in refused(f)
    app = App("t")
    for register in (
        app.on("turn_start"),
        app.hook("tool_call"),
        app.command,
        app.tool(parameters={"properties": {"x": {}}}),
    ):
        with pytest.raises(RegistrationError, match=r"the default is a"):
            register(f)


@dataclasses.dataclass
class Holds:
    x: int = pydantic.Field(5)


def test_a_marker_as_the_default_of_a_field_is_refused_with_its_class() -> None:
    with pytest.raises(RegistrationError, match=r"Holds\.x: the default is a FieldInfo of pydantic"):
        schema_of(Holds, what="it")


class Kept(enum.Enum):
    """Of a library whose markers are known."""

    A = "a"


Kept.__module__ = "typer.models"


class Anything:
    """A sentinel's class."""


_LOOP: list[Any] = []
_LOOP.append(_LOOP)


@pytest.mark.parametrize(
    ("annotation", "default"),
    [
        (int, "5"),
        (int, 5.5),
        (int, Anything()),
        (int, ...),
        (str, 5),
        (Path, "."),
        (date, "2030-01-02"),
        (Decimal, 0),
        (list[int], ["a"]),
        (list[int], _LOOP),
        (dict[str, int], {1: 1}),
        (Literal["a"], "b"),
        (Annotated[int, at.Ge(1)], 0),
    ],
    ids=lambda one: str(one)[:30],
)
def test_a_default_that_is_not_of_the_annotated_type_is_refused(annotation: Any, default: Any) -> None:
    def f(x: Any = default) -> None: ...

    f.__annotations__["x"] = annotation
    assert "parameter 'x': the default" in refused(f)


@pytest.mark.parametrize(
    ("annotation", "default"),
    [
        (int, None),
        (float, 1),
        (float, float("inf")),
        (Path, Path(".")),
        (date, date(2030, 1, 2)),
        (Decimal, Decimal(0)),
        (list[int], ()),
        (frozenset[str], frozenset({"a"})),
        (Any, Anything()),
        (Any, 5),
        (Any, "a"),
        (Any, [1]),
        (Kept, Kept.A),
        (Any, Kept.A),
        (Any, attrs.NOTHING),
        (Any, dataclasses.MISSING),
        (Literal["a"] | int, "a"),
        (dict[str, int], {"a": 1}),
    ],
    ids=lambda one: str(one)[:30],
)
def test_a_default_of_the_annotated_type_is_taken(annotation: Any, default: Any) -> None:
    """None too, and a sentinel where any value is taken."""

    def f(x: Any = default) -> None: ...

    f.__annotations__["x"] = annotation
    assert inspected(f).bind({}) == {}


# -- how long it takes -------------------------------------------------------------------------------------------------


def nested(depth: int, make: Callable[[Any], Any], seen: list[int]) -> Any:
    """Classes in each other, so many levels deep; the innermost field counts how often it is looked at."""

    def look(value: Any) -> bool:
        seen.append(1)
        return False

    inner: Any = Annotated[int, at.Predicate(look)]
    for level in range(depth):
        inner = attrs.make_class(f"Level{level}", {"x": attrs.field(type=make(inner))})
    return inner


@pytest.mark.parametrize(
    "make",
    [
        lambda inner: inner | None,
        lambda inner: inner | str | None,
        lambda inner: GenericAlias(list, (inner,)) | dict[str, int] | None,
    ],
    ids=["optional", "union", "lists"],
)
@pytest.mark.parametrize("strict", [False, True])
def test_a_wrong_value_is_looked_at_once_however_deep_it_is(make: Any, strict: bool) -> None:
    """Before, each level of optionals tripled the time: 30 levels would have taken years."""
    seen: list[int] = []
    depth = 30
    structure = compile_type(nested(depth, make, seen), what="it", strict=strict)
    value: Any = 5
    for _ in range(depth):
        value = {"x": [value] if "list" in str(make(int)) else value}
    with pytest.raises(InvalidData) as caught:
        structure(value)
    assert len(caught.value.faults) == 1
    assert len(seen) == 1


def test_a_schema_that_doubles_with_each_level_is_refused_before_it_is_made() -> None:
    """Schemas are inlined: what uses a class twice holds it twice, and 40 levels would be a terabyte."""
    inner: Any = int
    for level in range(40):
        inner = attrs.make_class(f"Level{level}", {name: attrs.field(type=inner) for name in ("a", "b")})
    with pytest.raises(RegistrationError, match=r"its schema would have more than 10,000 parts"):
        schema_of(inner, what="it")


def test_a_type_that_is_nested_without_end_is_refused() -> None:
    inner: Any = int
    for _ in range(5000):
        inner = GenericAlias(list, (inner,))
    with pytest.raises(RegistrationError, match="nested too deeply"):
        schema_of(inner, what="it")
