"""What hosts are told of a tool, and what it promises to return."""

from __future__ import annotations

import dataclasses
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Generic, NamedTuple, NotRequired, TypedDict, TypeVar

import attrs
import pytest
from annotated_types import Ge

from sepkit import App, Icon, Router, ToolContext, ToolError, ToolResult
from sepkit.errors import RegistrationError
from sepkit.faces.sep.registrations import registrations
from sepkit.schema import returned_output
from sepkit.testing import TestHost
from sepkit.wire.writing import unstructure
from tests.memory_host import on_each_loop

T = TypeVar("T")


@dataclasses.dataclass
class Report:
    city: str
    degrees: float
    days: list[date] = dataclasses.field(default_factory=list)


@attrs.frozen
class Attrs:
    n: Annotated[int, Ge(1)]
    _private: str = "p"


class Typed(TypedDict):
    a: int
    b: NotRequired[str]


class Weather(Report):
    wind: int = 3


@dataclasses.dataclass
class Box(Generic[T]):
    inside: T


@dataclasses.dataclass
class Nested:
    kids: list[Nested]


class Colour(Enum):
    RED = "red"


class Pair(NamedTuple):
    x: int
    y: str


PAIR = Pair(1, "y")


def give(value: Any, annotation: Any, **options: Any) -> App:
    """An App with a tool that returns ``value``."""
    app = App("x")

    async def tool() -> Any:
        return value

    tool.__annotations__["return"] = annotation
    app.tool(**options)(tool)
    return app


async def answer(value: Any, annotation: Any, **options: Any) -> tuple[str, bool, Any]:
    async with TestHost(give(value, annotation, **options)) as host:
        result = await host.call_tool("tool")
        return result.content, result.is_error, result.details


# -- what is told ------------------------------------------------------------------------------------------------------


def test_what_is_told_of_a_tool_is_kept_and_does_not_cross_the_wire_of_sep() -> None:
    """A SEP host sees the same tool as without it; also over a router, and of one that was added."""
    told, plain, router = App("x"), App("x"), Router()
    router.add_tool(lambda: "", name="more", read_only=True, replace=True)

    @told.tool(
        title="A tool",
        read_only=False,
        destructive=True,
        idempotent=False,
        open_world=True,
        icons=["https://x/a.png", Icon("data:,x")],
        output_schema={"type": "object"},
        long=True,
    )
    @plain.tool
    async def tool() -> dict[str, Any]:
        """A tool."""
        return {}

    told.include(router)
    spec = told.tools["tool"]
    assert (spec.title, spec.read_only, spec.destructive, spec.idempotent) == ("A tool", False, True, False)
    assert (spec.open_world, spec.long, [icon.src for icon in spec.icons]) == (
        True,
        True,
        ["https://x/a.png", "data:,x"],
    )
    assert spec.output is not None
    assert spec.output.schema == {"type": "object"}
    assert told.tools["more"].read_only is True
    assert unstructure(told.tools["tool"].registration) == unstructure(plain.tools["tool"].registration)
    assert registrations(plain).tools == registrations(told).tools[:1]
    unset = plain.tools["tool"]
    assert (unset.title, unset.read_only, unset.icons, unset.long, unset.output) == (None, None, (), False, None)
    assert unset.is_alone  # the quick way of a call is the same
    assert spec.is_alone


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"title": 5}, "title=5: write a text"),
        ({"title": "\ud800"}, "title can't be sent: a text with a lone surrogate"),
        ({"read_only": "yes"}, "read_only='yes': write True or False"),
        ({"long": 1}, "long=1: write True or False"),
        ({"read_only": True, "destructive": True}, "read_only=True and destructive=True exclude each other"),
        ({"icons": "https://x"}, "icons= takes a list of URLs"),
        ({"icons": ["x.png"]}, "an icon is a URL"),
        ({"icons": [5]}, "an icon is a URL"),
        ({"output_schema": {"type": "array"}}, "output_schema= must be the JSON Schema of an object"),
        ({"output_schema": {}}, "output_schema= must be the JSON Schema of an object"),
        ({"output_schema": {"type": "object", "properties": 5}}, "output_schema= is no valid JSON Schema"),
        ({"output_schema": {"type": "object", "x": object()}}, "output_schema= can't be sent"),
        ({"output_schema": {"type": "object", "$ref": "file:///etc/passwd"}}, "only references inside the schema"),
        ({"output_schema": int}, "write a JSON Schema, a dataclass, an attrs class or a TypedDict"),
        ({"output_schema": "Report"}, "write a JSON Schema, a dataclass"),
        ({"output_schema": Nested}, "output_schema=Nested: .*Nested holds itself"),
    ],
)
def test_what_cannot_be_told_is_refused_where_it_is_written(options: dict[str, Any], problem: str) -> None:
    app = App("x")
    with pytest.raises(RegistrationError, match=problem) as caught:
        app.add_tool(lambda: "", name="tool", **options)
    assert str(caught.value).startswith("tool 'tool' (")
    assert not app.tools


def test_an_option_that_is_not_there_is_named() -> None:
    with pytest.raises(TypeError, match=r"tool 'tool' \(.*\): there is no option titel="):
        App("x").add_tool(lambda: "", name="tool", titel="x")  # type: ignore[call-arg]


# -- what is promised --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "properties", "required"),
    [
        (Report, {"city": "string", "degrees": "number", "days": "array"}, ["city", "degrees", "days"]),
        (Attrs, {"n": "integer", "private": "string"}, ["n", "private"]),
        (Typed, {"a": "integer", "b": "string"}, ["a"]),
        (Box[int], {"inside": "integer"}, ["inside"]),
        (Annotated[Report, "text"], {"city": "string", "degrees": "number", "days": "array"}, None),
    ],
)
def test_the_schema_is_that_of_the_class_in_the_annotation(annotation: Any, properties: Any, required: Any) -> None:
    """All fields that are written, also those with a default."""
    output = give(None, annotation).tools["tool"].output
    assert output is not None
    assert {name: schema["type"] for name, schema in output.schema["properties"].items()} == properties
    assert required is None or output.schema["required"] == required
    assert "additionalProperties" not in output.schema  # a subclass writes more


@pytest.mark.parametrize(
    "annotation",
    [
        str,
        int,
        None,
        dict,
        dict[str, int],
        list[Report],
        Report | None,
        ToolResult,
        Any,
        Nested,
        Pair,
        Colour,
        "Missing",
    ],
)
def test_other_annotations_promise_nothing(annotation: Any) -> None:
    """A class that holds itself has no schema; a name that is there for the type checker only is no error."""
    assert give("", annotation).tools["tool"].output is None


def test_a_local_class_under_postponed_annotations_is_found() -> None:
    app = App("x")

    @dataclasses.dataclass
    class Local:
        n: int

    @app.tool
    async def tool() -> Local:
        return Local(1)

    output = app.tools["tool"].output
    assert output is not None
    assert output.schema["properties"] == {"n": {"type": "integer"}}


@on_each_loop
async def test_a_result_that_fits_is_what_it_was_without_a_schema() -> None:
    """The text is the JSON, the details are the data; a subclass, a dict and a ToolResult fit, too."""
    for value in (Report("Oslo", 1.5), {"city": "Oslo", "degrees": 1.5, "days": []}):
        data = {"city": "Oslo", "degrees": 1.5, "days": []}
        assert await answer(value, Report) == ('{"city":"Oslo","degrees":1.5,"days":[]}', False, data)
    assert (await answer(Weather("Oslo", 2), Report))[1] is False
    assert await answer(Attrs(1), Attrs) == ('{"n":1,"private":"p"}', False, {"n": 1, "private": "p"})
    assert await answer(ToolResult("text", details=Attrs(1)), Attrs) == ("text", False, {"n": 1, "private": "p"})
    assert await answer(ToolResult("no", is_error=True), Attrs) == ("no", True, None)
    assert await answer({"a": 1, "more": 2}, Typed) == ('{"a":1,"more":2}', False, {"a": 1, "more": 2})


@pytest.mark.parametrize(
    ("value", "annotation", "options", "problem"),
    [
        (Report(5, 1.5), Report, {}, "$.city: expected string, got integer"),  # type: ignore[arg-type]
        (Report("x", 1, ["y"]), Report, {}, "$.days[0]: expected date string"),  # type: ignore[list-item]
        ({"city": "x"}, Report, {}, "$.degrees: expected number, got nothing"),
        (Attrs(0), Attrs, {}, "$.n: expected integer (>= 1), got integer"),
        (None, Report, {}, "$: expected object, got null"),
        ("text", Report, {}, "$: expected object, got string"),
        ([Report("x", 1)], Report, {}, "$: expected object, got array"),
        (ToolResult("text"), Report, {}, "$: expected object, got null"),
        ({"a": "x"}, Any, {"output_schema": Typed}, "$.a: expected integer, got string"),
        (
            {"n": "x"},
            Any,
            {"output_schema": {"type": "object", "properties": {"n": {"type": "integer"}}}},
            "$.n: expected integer, got string",
        ),
        (
            {"n": 1},
            Any,
            {"output_schema": {"type": "object", "properties": {"m": {}}, "additionalProperties": False}},
            "$.n: expected nothing (no such field), got integer",
        ),
    ],
)
@on_each_loop
async def test_a_result_that_does_not_fit_is_one_clear_error(
    value: Any, annotation: Any, options: dict[str, Any], problem: str
) -> None:
    """It says where, and never shows the value; under SEP as everywhere."""
    text, is_error, details = await answer(value, annotation, **options)
    assert is_error
    assert text.startswith("The result of tool does not fit its output schema: ")
    assert problem in text
    assert "\n" not in text
    assert details["errors"][0]["path"] == problem.split(":")[0]


@on_each_loop
async def test_other_ways_of_failing_are_as_before() -> None:
    """No form in JSON, a ToolError, a time limit, a thread, a context."""
    text, is_error, details = await answer({"city": object()}, Report)
    assert text.endswith("its output schema: $.city: a value of type object has no form in JSON")
    assert (is_error, details) == (True, None)

    async def later() -> Any:
        return Report("Oslo", 1)

    assert (await answer(later(), Report))[1] is False
    app = App("x")

    @app.tool(timeout=60)
    def threaded(n: int, ctx: ToolContext) -> Attrs:
        if n == 0:
            raise ToolError("none")
        return Attrs(n)

    @app.tool
    async def often(n: int) -> Attrs:
        return Attrs(n)

    async with TestHost(app) as host:
        for _ in range(20):  # past the calls that are made without generated code
            assert (await host.call_tool("often", {"n": 2})).details == {"n": 2, "private": "p"}
            assert "does not fit its output schema" in (await host.call_tool("often", {"n": 0})).content
            assert "do not fit its schema" in (await host.call_tool("often", {"n": "x"})).content
        assert (await host.call_tool("threaded", {"n": 2})).details == {"n": 2, "private": "p"}
        assert (await host.call_tool("threaded", {"n": 0})).content == "none"
        assert "does not fit its output schema" in (await host.call_tool("threaded", {"n": -1})).content


def test_nothing_of_the_author_is_called_to_check_a_result() -> None:
    """``__post_init__``, converters and properties belong to reading: what is written is looked at as data."""
    made = []

    @dataclasses.dataclass
    class Counting:
        given: dataclasses.InitVar[int]
        n: int = dataclasses.field(init=False)
        colour: Colour = Colour.RED
        tags: frozenset[str] = frozenset()
        price: Decimal = Decimal(1)
        pair: Pair = PAIR

        def __post_init__(self, given: int) -> None:
            made.append(given)
            self.n = given

    output = returned_output(Counting)
    assert output is not None
    written = output.written(Counting(7, tags=frozenset({"a"})))
    assert written == {"n": 7, "colour": "red", "tags": ["a"], "price": "1", "pair": [1, "y"]}
    assert made == [7]
    assert list(output.schema["properties"]) == ["colour", "tags", "price", "pair", "n"]
