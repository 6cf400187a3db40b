"""Random types and random values: schema and loader say the same, and no coercion loses anything."""

import json
import types
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, TypedDict, TypeVar

import annotated_types as at
import attrs
import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sepkit.errors import Fault, InvalidData
from sepkit.schema import compile_type, inspect_signature, schema_of

T = TypeVar("T")


@attrs.frozen
class Point:
    x: int
    label: str = ""


@attrs.frozen
class Box(Generic[T]):
    x: T
    ratings: list[T] = attrs.field(factory=list)


class Movie(TypedDict, total=False):
    title: str
    ratings: list[float]


# Sets hold strings only: in Python `1 == True == 1.0`, in JSON True is neither.
SCALARS = st.sampled_from(
    [
        int,
        float,
        bool,
        str,
        None,
        Any,
        Point,
        Movie,
        set[str],
        frozenset[str],
        dict[Literal["x", "a b"], int],
        Literal["a", None],
        Box[int],
        Box[Point | None],
        Annotated[int | None, at.Ge(0)],
        Literal["a", "b"],
        Literal[1, True],
        Annotated[int, at.Ge(-3), at.Lt(4)],
        Annotated[float, at.Gt(0)],
        Annotated[int, at.MultipleOf(2)],
        Annotated[str, at.Len(1, 2)],
        Annotated[list[int], at.MinLen(1)],
        Annotated[dict[str, Any], at.MaxLen(1)],
    ]
)


def _compound(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        inner.map(lambda item: list[item]),  # type: ignore[valid-type]
        inner.map(lambda item: dict[str, item]),  # type: ignore[valid-type]
        inner.map(lambda item: tuple[item, ...]),  # type: ignore[valid-type]
        st.tuples(inner, inner).map(lambda pair: types.GenericAlias(tuple, pair)),
        st.tuples(inner, inner).map(lambda pair: pair[0] | pair[1] if pair != (None, None) else None),
        inner.map(lambda item: Annotated[item, "described"]),
    )


ANNOTATIONS = st.recursive(SCALARS, _compound, max_leaves=4)

# No float that is an integer: JSON Schema takes 1.0 for an integer, `strict` does not.
NUMBERS = st.integers(-5, 5) | st.sampled_from([-0.5, 0.5, 2.5])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.sampled_from(["", "a", "b", "ccc", "1", "true"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["x", "label", "title", "ratings", "a b"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def fitting(draw: st.DrawFn, schema: dict[str, Any]) -> Any:
    """A value near a schema: most fit, so that acceptance is tested as well as refusal."""
    if "anyOf" in schema:
        return draw(fitting(draw(st.sampled_from(schema["anyOf"]))))
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    match schema.get("type"):
        case "array" if "prefixItems" in schema:
            return [draw(fitting(item)) for item in schema["prefixItems"]]
        case "array":
            return draw(st.lists(fitting(schema.get("items", {})), max_size=3))
        case "object":
            members = schema.get("properties", {})
            chosen = {name: draw(fitting(member)) for name, member in members.items() if draw(st.booleans())}
            if isinstance(rest := schema.get("additionalProperties"), dict):
                chosen |= draw(st.dictionaries(st.sampled_from(["x", "a b"]), fitting(rest), max_size=2))
            return chosen
        case "string":
            return draw(st.sampled_from(["", "a", "b", "ccc"]))
        case "integer" | "number":
            return draw(NUMBERS)
        case "boolean":
            return draw(st.booleans())
        case "null":
            return None
    return draw(VALUES)


def _loads(annotation: Any, value: Any, *, strict: bool) -> tuple[Fault, ...]:
    try:
        compile_type(annotation, what="it", strict=strict)(value)
    except InvalidData as error:
        return error.faults
    return ()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_strict_accepts_exactly_what_the_schema_accepts(data: st.DataObject) -> None:
    """What a host checks with the schema and what the extension accepts are the same."""
    annotation = data.draw(ANNOTATIONS)
    schema = schema_of(annotation, what="it")
    value = data.draw(fitting(schema) | VALUES)
    assert jsonschema_rs.is_valid(schema, value) == (not _loads(annotation, value, strict=True))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_strict_accepts_is_accepted_without_strict_and_means_the_same(data: st.DataObject) -> None:
    """Coercion only adds."""
    annotation = data.draw(ANNOTATIONS)
    value = data.draw(fitting(schema_of(annotation, what="it")) | VALUES)
    if not _loads(annotation, value, strict=True):
        strict, lax = (compile_type(annotation, what="it", strict=strict)(value) for strict in (True, False))
        assert strict == lax


@given(value=st.integers() | st.floats() | st.text() | st.booleans() | st.from_regex(r"\A-?[0-9]+(\.[0-9]+)?\Z"))
def test_a_coerced_number_says_the_same_as_what_was_sent(value: Any) -> None:
    """Coercion loses nothing."""
    for annotation in (int, float, bool):
        try:
            loaded = compile_type(annotation, what="it")(value)
        except InvalidData:
            continue
        assert type(loaded) is annotation
        if isinstance(value, str):
            sent = json.loads(value, parse_float=Decimal)
            assert (loaded if type(sent) is bool else Decimal(repr(loaded))) == sent
        elif type(value) is not int:
            assert loaded == value or loaded != loaded  # NaN


@given(
    arguments=st.dictionaries(st.sampled_from(["a", "b", "c", "d", "e"]), VALUES | st.sampled_from(["5", "[1]"])),
    strict=st.booleans(),
)
def test_binding_loads_each_argument_as_its_type(arguments: dict[str, Any], strict: bool) -> None:
    """The generated first pass changes nothing but the time it takes."""

    def f(a: str, b: int = 0, c: float | None = None, d: bool = False) -> None: ...

    declared = {"a": str, "b": int, "c": float | None, "d": bool}
    expected = sorted(
        [
            f"$.{name}"
            for name, value in arguments.items()
            if name in declared and _loads(declared[name], value, strict=strict)
        ]
        + [f"$.{name}" for name in arguments if name not in declared]
        + (["$.a"] if "a" not in arguments else [])
    )
    bind = inspect_signature(f, what="tool 'f'", contexts=(), strict=strict).bind
    if expected:
        with pytest.raises(InvalidData) as caught:
            bind(arguments)
        assert sorted(fault.path for fault in caught.value.faults) == expected
    else:
        assert bind(arguments) == {
            name: compile_type(declared[name], what="it", strict=strict)(value) for name, value in arguments.items()
        }
