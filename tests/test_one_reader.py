"""One engine reads authors' types: the same types in the same way, whatever kind of handler declares them."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import InitVar, dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Generic, Literal, LiteralString, NamedTuple, NewType, NotRequired, TypeVar
from uuid import UUID

import annotated_types as at
import attrs
import pytest
from typing_extensions import Doc, TypeAliasType, TypedDict

from sepkit import App, Delta, StreamEvent, ToolCall
from sepkit.contexts.services import Kv
from sepkit.errors import InvalidData, RegistrationError

T = TypeVar("T")
Reader = Callable[[Any], Any]


# -- the uses ----------------------------------------------------------------------------------------------------------


def _handler(annotation: Any) -> Callable[..., Any]:
    async def handle(x: Any) -> None: ...

    handle.__annotations__["x"] = annotation
    return handle


def _tool(annotation: Any, **options: Any) -> Reader:
    app = App("t")
    app.add_tool(_handler(annotation), **options)
    return lambda value: app.tools["handle"].bind({"x": value})["x"]


def _command(annotation: Any) -> Reader:
    app = App("t")
    app.add_command(_handler(annotation))
    return lambda value: app.commands["handle"].bind({"x": value})["x"]


def _provider(annotation: Any) -> Reader:
    async def stream(x: Any) -> Any:
        yield Delta("")

    stream.__annotations__["x"] = annotation
    app = App("t")
    app.provider("p")(stream)
    return app.providers["p"].observer.convert


def _kv(annotation: Any) -> Reader:
    def read(value: Any) -> Any:
        async def ask(method: str, params: dict[str, Any]) -> Any:
            return {"value": value}

        return asyncio.run(Kv(ask).get("key", annotation))

    return read


def _observed(register: Callable[[App, Callable[..., Any]], Any], table: str) -> Callable[[Any], Reader]:
    def use(annotation: Any) -> Reader:
        app = App("t")
        register(app, _handler(annotation))
        (found,) = getattr(app, table).values()
        convert: Reader = (found[0] if isinstance(found, list) else found).convert
        return convert

    return use


COERCING: dict[str, Callable[[Any], Reader]] = {"tool": _tool, "command": _command}
LIBERAL: dict[str, Callable[[Any], Reader]] = {
    "hook": _observed(lambda app, fn: app.hook("tool_call")(fn), "hooks"),
    "event": _observed(lambda app, fn: app.on("turn_start")(fn), "events"),
    "bus": _observed(lambda app, fn: app.on_bus("news")(fn), "events"),
    "key": _observed(lambda app, fn: app.on_key("board")(fn), "events"),
    "completer": _observed(lambda app, fn: app.complete("paint")(fn), "completers"),
    "provider": _provider,
    "oauth login": _observed(lambda app, fn: app.oauth_login("p")(fn), "oauth_logins"),
    "oauth refresh": _observed(lambda app, fn: app.oauth_refresh("p")(fn), "oauth_refreshes"),
}
EXACT: dict[str, Callable[[Any], Reader]] = {"strict tool": lambda cls: _tool(cls, strict=True), "kv": _kv}
USES = COERCING | LIBERAL | EXACT


def read(use: str, annotation: Any, value: Any) -> Any:
    """What a use makes of a value; InvalidData itself where it does not fit."""
    reader = USES[use](annotation)
    try:
        return reader(value)
    except InvalidData as error:
        return error


# -- the types ---------------------------------------------------------------------------------------------------------


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


class Tag(StrEnum):
    A = "a"


class Name(str):
    __slots__ = ()


@attrs.frozen
class Point:
    x: int
    y: int = 0


@attrs.frozen
class Described:
    n: Annotated[int, "How many"]
    most: Annotated[int, at.Le(9)] = 9


@attrs.frozen
class Private:
    _secret: str
    size: int = attrs.field(init=False, default=3)


@attrs.frozen
class Renamed:
    kind: str = attrs.field(alias="of")


@dataclass
class Span:
    start: int
    end: int | None = None
    tags: list[str] = field(default_factory=list)


@dataclass
class WithInit:
    value: int = field(init=False)
    raw: InitVar[int]

    def __post_init__(self, raw: int) -> None:
        self.value = raw * 2


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


class Pair(NamedTuple):
    a: int
    b: str = "b"


@attrs.frozen
class Box(Generic[T]):
    item: T
    more: list[T] = attrs.field(factory=list)


@attrs.frozen
class IntBox(Box[int]):
    name: str = ""


class Page(TypedDict, Generic[T]):
    items: list[T]


UserId = NewType("UserId", str)
Alias = TypeAliasType("Alias", list[int])
Twin = TypeAliasType("Twin", tuple[T, T], type_params=(T,))

P = Point
TYPES: dict[str, tuple[Any, Any, Any, Any]] = {
    # name: the annotation, what comes over the wire, what the handler gets, and what does not fit
    "str": (str, "a", "a", 5),
    "int": (int, 5, 5, "5x"),
    "float of an integer": (float, 5, 5.0, "x"),
    "bool": (bool, True, True, 1),
    "None": (None, None, None, 0),
    "Any": (Any, [1], [1], None),
    "object": (object, {"a": 1}, {"a": 1}, None),
    "list": (list, [1, "a"], [1, "a"], {}),
    "list[int]": (list[int], [1], [1], [1.5]),
    "list[P]": (list[P], [{"x": 1}], [P(1)], [{}]),
    "tuple[int, ...]": (tuple[int, ...], [1, 2], (1, 2), ["a"]),
    "tuple[int, str]": (tuple[int, str], [1, "a"], (1, "a"), [1]),
    "set[str]": (set[str], ["a"], {"a"}, ["a", "a"]),
    "frozenset[int]": (frozenset[int], [1], frozenset({1}), [1, 1]),
    "Sequence[int]": (Sequence[int], [1], [1], 5),
    "Collection[int]": (Collection[int], [1], [1], 5),
    "Iterable[int]": (Iterable[int], [1], [1], 5),
    "Set[str]": (Set[str], ["a"], frozenset({"a"}), "a"),
    "dict": (dict, {"a": 1}, {"a": 1}, []),
    "dict[str, Any]": (dict[str, Any], {"a": [1]}, {"a": [1]}, 5),
    "dict[str, P]": (dict[str, P], {"a": {"x": 1}}, {"a": P(1)}, {"a": {}}),
    "Mapping[str, P]": (Mapping[str, P], {"a": {"x": 1}}, {"a": P(1)}, {"a": 1}),
    "dict[Literal, int]": (dict[Literal["a"], int], {"a": 1}, {"a": 1}, {"b": 1}),
    "dict[StrEnum, int]": (dict[Tag, int], {"a": 1}, {Tag.A: 1}, {"b": 1}),
    "dict[UUID, int]": (dict[UUID, int], {str(UUID(int=1)): 1}, {UUID(int=1): 1}, {"b": 1}),
    "Literal": (Literal["a", 1], 1, 1, True),
    "Enum": (Colour, "red", Colour.RED, "blue"),
    "IntEnum": (Level, 1, Level.LOW, True),
    "StrEnum": (Tag, "a", Tag.A, "b"),
    "int | None": (int | None, None, None, "x"),
    "int | str": (int | str, "5", "5", []),
    "P | str": (P | str, {"x": 1}, P(1), {"x": "a"}),
    "datetime": (datetime, "2030-01-02T03:04:05", datetime(2030, 1, 2, 3, 4, 5), "soon"),
    "date": (date, "2030-01-02", date(2030, 1, 2), "soon"),
    "time": (time, "03:04", time(3, 4), "soon"),
    "UUID": (UUID, str(UUID(int=7)), UUID(int=7), "x"),
    "Path": (Path, "a/b", Path("a/b"), 5),
    "Decimal": (Decimal, "1.50", Decimal("1.50"), "NaN"),
    "NewType": (UserId, "u", "u", 5),
    "subclass of str": (Name, "n", Name("n"), 5),
    "LiteralString": (LiteralString, "n", "n", 5),
    "Final": (Final[int], 5, 5, "x"),
    "attrs": (Point, {"x": 1}, Point(1), {"x": "a"}),
    "attrs, described": (Described, {"n": 5, "most": 9}, Described(5), {"n": 5, "most": 10}),
    "attrs, private": (Private, {"secret": "s"}, Private("s"), {"_secret": 5}),
    "attrs, alias": (Renamed, {"of": "s"}, Renamed("s"), {"of": 5}),
    "dataclass": (Span, {"start": 1, "tags": ["a"]}, Span(1, None, ["a"]), {"start": None}),
    "dataclass, InitVar": (WithInit, {"raw": 2}, WithInit(2), {"raw": "a"}),
    "TypedDict": (Movie, {"title": "t"}, {"title": "t"}, {"year": 1}),
    "NamedTuple": (Pair, {"a": 1}, Pair(1), {"b": "b"}),
    "NamedTuple as an array": (Pair, [1, "c"], Pair(1, "c"), [1, 2, 3]),
    "generic attrs": (Box[int], {"item": 1, "more": [2]}, Box(1, [2]), {"item": "a"}),
    "generic in generic": (Box[Box[str]], {"item": {"item": "a"}}, Box(Box("a")), {"item": {"item": 1}}),
    "bound generic base": (IntBox, {"item": 1}, IntBox(1), {"item": "a"}),
    "generic TypedDict": (Page[P], {"items": [{"x": 1}]}, {"items": [P(1)]}, {"items": [1]}),
    "alias": (Alias, [1], [1], ["a"]),
    "generic alias": (Twin[int], [1, 2], (1, 2), [1, "a"]),
    "Annotated, text": (Annotated[int, "How many"], 5, 5, "x"),
    "Annotated, Doc": (Annotated[int, Doc("How many")], 5, 5, "x"),
    "Annotated, Ge": (Annotated[int, at.Ge(1)], 1, 1, 0),
    "Annotated, Len": (Annotated[str, at.Len(1, 2)], "ab", "ab", "abc"),
    "Annotated, Len of a list": (Annotated[list[int], at.Len(1)], [1], [1], []),
    "Annotated, pattern": (Annotated[str, re.compile("^a")], "ab", "ab", "b"),
    "Annotated, Predicate": (at.LowerCase[str], "ab", "ab", "B"),
    "Annotated, bare Predicate": (Annotated[str, at.LowerCase], "ab", "ab", "B"),
    "Annotated, date": (Annotated[date, at.Ge(date(2030, 1, 1))], "2030-01-02", date(2030, 1, 2), "2029-01-01"),
    "record of the wire": (ToolCall, {"tool": "t"}, ToolCall("t"), {"tool": 5}),
    "records of the wire": (StreamEvent, {"type": "Delta", "content": "a"}, Delta("a"), {"type": "None"}),
}
NO_TYPES: dict[str, Any] = {
    "bytes": bytes,
    "complex": complex,
    "a plain class": type("Plain", (), {}),
    "list[bytes]": list[bytes],
    "set[list[int]]": set[list[int]],
    "dict[int, str]": dict[int, str],
    "Callable": Callable[[], None],
    "a type variable": T,
    "a generic class without its arguments": Box,
    "Literal of bytes": Literal[b"x"],
    "Ge of a str": Annotated[str, at.Ge(1)],
    "Timezone": Annotated[datetime, at.Timezone(None)],
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", TYPES)
def test_each_type_is_read_alike_by_each_kind_of_handler(name: str, use: str) -> None:
    """What fits is the same value everywhere, and what does not fit is refused everywhere."""
    annotation, sent, expected, wrong = TYPES[name]
    got = read(use, annotation, sent)
    if sent is None and use == "kv":  # null in the store is "not there"
        assert got is None
        return
    assert got == expected
    assert type(got) is type(expected)
    if wrong is not None:
        assert isinstance(read(use, annotation, wrong), InvalidData)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", NO_TYPES)
def test_a_type_without_a_form_in_json_is_refused_by_each_kind_of_handler(name: str, use: str) -> None:
    """Where it is written; and never with the error of a library below."""
    with pytest.raises(RegistrationError):
        read(use, NO_TYPES[name], {})


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("annotation", "sent", "coerced"),
    [
        (int, "5", 5),
        (int, 5.0, 5),
        (float, "1.5", 1.5),
        (bool, "true", True),
        (Decimal, 1.5, Decimal("1.5")),
        (Level, "1", Level.LOW),
        (list[int], ["5"], [5]),
        (Point, {"x": "1"}, Point(1)),
        (int | None, "5", 5),
    ],
    ids=str,
)
def test_only_arguments_of_tools_and_commands_are_coerced(annotation: Any, sent: Any, coerced: Any, use: str) -> None:
    """What an event or a store brings was written by a program, and is of the type that it is of."""
    got = read(use, annotation, sent)
    if use in COERCING:
        assert got == coerced
    else:
        assert isinstance(got, InvalidData)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("annotation", "sent", "expected"),
    [
        (Point, {"x": 1, "new": 2}, Point(1)),
        (list[Point], [{"x": 1, "new": 2}], [Point(1)]),
        (Span, {"start": 1, "new": {}}, Span(1)),
        (Movie, {"title": "t", "new": 1}, {"title": "t"}),
        (Pair, {"a": 1, "new": 1}, Pair(1)),
        (ToolCall, {"tool": "t", "new": 1}, ToolCall("t")),
    ],
    ids=str,
)
def test_unknown_fields_are_ignored_by_observers_only(annotation: Any, sent: Any, expected: Any, use: str) -> None:
    """A newer host may send more; a model that does is told so, and what a store holds is of another class."""
    got = read(use, annotation, sent)
    if use in LIBERAL:
        assert got == expected
    else:
        assert isinstance(got, InvalidData)


@pytest.mark.parametrize("use", LIBERAL)
def test_null_is_absent_where_an_observers_field_is_optional(use: str) -> None:
    """Hosts write null for what is not there; a field that takes null gets it."""
    assert read(use, Point, {"x": 1, "y": None}) == Point(1)
    assert read(use, Span, {"start": 1, "end": None, "tags": None}) == Span(1)
    assert read(use, Movie, {"title": "t", "year": None}) == {"title": "t"}
    assert isinstance(read(use, Point, {"x": None}), InvalidData)


@pytest.mark.parametrize(
    "stored",
    [
        Point(1, 2),
        Private("s"),
        Renamed("s"),
        Span(1, 2, ["a"]),
        Pair(1, "c"),
        Box(1, [2]),
        {Tag.A, "b"},
        (1, "a"),
        {Tag.A: 1},
        Decimal("1.50"),
        datetime(2030, 1, 2),
        Colour.RED,
        Path("a"),
        ToolCall("t", {"a": 1}),
    ],
)
def test_what_kv_stored_comes_back_as_its_type(stored: Any) -> None:
    """``set`` and ``get`` agree on the names of private fields, on named tuples and on what a class makes itself."""
    kept: dict[str, Any] = {}
    types: dict[type, Any] = {Box: Box[int], set: set[str], tuple: tuple[int, str], dict: dict[Tag, int]}

    async def ask(method: str, params: dict[str, Any]) -> Any:
        if method == "kv/set":
            kept[params["key"]] = params["value"]
        return {"value": kept.get(params["key"])}

    async def there_and_back() -> Any:
        kv = Kv(ask)
        await kv.set("key", stored)
        return await kv.get("key", types.get(type(stored), type(stored)))

    assert asyncio.run(there_and_back()) == stored


def test_kv_keeps_apart_types_that_python_calls_equal() -> None:
    """``datetime | str == str | datetime``, and the first reads a date where the second does not."""
    day = "2030-01-02T00:00:00"
    assert read("kv", datetime | str, day) == datetime(2030, 1, 2)
    assert read("kv", str | datetime, day) == day
    assert read("kv", datetime | str, day) == datetime(2030, 1, 2)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type parameters of Python 3.12")
@pytest.mark.parametrize("use", USES)
def test_the_type_parameters_of_python_3_12_are_read_alike(use: str) -> None:
    """``type X = …``, generic aliases, classes and functions with type parameters."""
    names: dict[str, Any] = {"__name__": __name__}
    exec(
        "import attrs\n"
        "type Names = list[str]\n"
        "type Twin[A] = tuple[A, A]\n"
        "type Nested[A] = dict[str, Twin[A]]\n"
        "@attrs.frozen\n"
        "class Crate[A]:\n"
        "    item: A\n"
        "    more: 'list[A]' = attrs.field(factory=list)\n"
        "class Apples(Crate[int]): pass\n",
        names,
    )
    crate = names["Crate"]
    assert read(use, names["Names"], ["a"]) == ["a"]
    assert read(use, names["Twin"][int], [1, 2]) == (1, 2)
    assert read(use, names["Nested"][int], {"a": [1, 2]}) == {"a": (1, 2)}
    assert isinstance(read(use, names["Nested"][int], {"a": [1, "a"]}), InvalidData)
    assert read(use, crate[int], {"item": 1, "more": [2]}) == crate(1, [2])
    assert isinstance(read(use, crate[int], {"item": 1, "more": ["a"]}), InvalidData)
    assert read(use, names["Apples"], {"item": 1}) == names["Apples"](1)
    with pytest.raises(RegistrationError, match="type variable"):
        read(use, names["Twin"], [1, 2])
