"""Arguments made from a tool's schema: they fit it, wherever the generator claims to know what stands there."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sepkit.conformance.arguments import arguments_for, example


def _of(schema: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a tool with one argument, called x, that it requires."""
    return {"type": "object", "properties": {"x": schema}, "required": ["x"]}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (_of({"type": "string"}) | {"properties": {"x": {"type": "string"}, "more": {}}}, {"x": "text"}),
        (_of({"type": "integer", "minimum": 3}), {"x": 3}),
        (_of({"type": "integer", "exclusiveMaximum": 0}), {"x": -1}),
        (_of({"type": "integer", "minimum": 7, "multipleOf": 5}), {"x": 10}),
        (_of({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}), {"x": 0.5}),
        (_of({"enum": ["red", "green"]}), {"x": "red"}),
        (_of({"const": 5}), {"x": 5}),
        (_of({"type": "string", "default": "de"}), {"x": "de"}),
        (_of({"anyOf": [{"type": "boolean"}, {"type": "null"}]}), {"x": False}),
        (_of({"type": ["null", "integer"]}), {"x": 0}),
        (_of({"type": "string", "minLength": 6, "maxLength": 7}), {"x": "textxx"}),
        (_of({"type": "string", "maxLength": 2}), {"x": "te"}),
        (_of({"type": "string", "format": "date"}), {"x": "2024-01-31"}),
        (_of({"type": "array", "items": {"type": "integer"}, "minItems": 2}), {"x": [0, 0]}),
        (_of({"items": {"type": "string"}, "minItems": 2, "uniqueItems": True}), {"x": ["text", "text1"]}),
        ({"$ref": "#/$defs/A", "$defs": {"A": _of({"type": "null"})}}, {"x": None}),
        (
            {"allOf": [_of({"type": "boolean"}), {"required": ["y"], "properties": {"y": {}}}]},
            {"x": False, "y": "text"},
        ),
        ({"type": "object", "minProperties": 1, "properties": {"a": {"type": "integer"}}}, {"a": 0}),
    ],
)
def test_what_is_required_is_made_as_small_as_the_schema_allows(schema: dict[str, Any], expected: object) -> None:
    """Each keyword that the generator knows, with a value that fits it; what is not required is left out."""
    made = arguments_for(schema)
    assert made == expected
    assert jsonschema_rs.is_valid(schema, made)


@pytest.mark.parametrize(
    "schema",
    [
        None,
        5,
        True,
        {"type": "string"},
        {"$ref": "#/nowhere"},
        {"$ref": "#"},
        {"required": ["a"], "properties": {"a": {"$ref": "#"}}},
        {"required": 5, "properties": []},
        {"required": ["n"], "properties": {"n": {"type": "array", "minItems": "5"}}},
        {"required": ["n"], "properties": {"n": {"type": "string", "minLength": 10**12}}},
        {"required": ["n"], "properties": {"n": {"type": "array", "minItems": 10**12}}},
        {"required": ["n"], "properties": {"n": {"type": "integer", "multipleOf": 0, "minimum": "x"}}},
        {"allOf": [{"allOf": [{"$ref": "#"}]}]},
    ],
)
def test_what_is_no_schema_gives_arguments_all_the_same(schema: object) -> None:
    """A registration may hold anything; the runner says so elsewhere, and must not end over it, nor be kept busy."""
    assert isinstance(arguments_for(schema), dict)


def _with_room(schema: dict[str, Any]) -> dict[str, Any]:
    """With an upper bound that leaves a number between."""
    return schema | {"maximum": max(schema.get("minimum", -20), schema.get("exclusiveMinimum", -20)) + 10}


_KINDS: st.SearchStrategy[Any] = st.sampled_from(["integer", "number"])
_BOUNDS: st.SearchStrategy[Any] = st.integers(-20, 20)
_NUMBERS = st.fixed_dictionaries(
    {"type": _KINDS},
    optional={"minimum": _BOUNDS, "exclusiveMinimum": _BOUNDS, "multipleOf": st.sampled_from([1, 2, 5])},
).map(_with_room)
_STRINGS = st.fixed_dictionaries(
    {"type": st.just("string")}, optional={"minLength": st.integers(0, 9), "maxLength": st.integers(9, 12)}
)
_LEAVES = _NUMBERS | _STRINGS | st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"enum": [1, "a"]}, {}])
_SCHEMAS = st.recursive(
    _LEAVES,
    lambda below: (
        st.fixed_dictionaries({"type": st.just("array"), "items": below}, optional={"minItems": st.integers(0, 3)})
        | st.dictionaries(st.sampled_from("abc"), below, max_size=3).map(
            lambda properties: {"type": "object", "properties": properties, "required": sorted(properties)}
        )
        | st.lists(below, min_size=1, max_size=3).map(lambda choices: {"anyOf": choices})
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(_SCHEMAS)
def test_an_example_fits_its_schema(schema: dict[str, Any]) -> None:
    """Whatever is put together of the keywords that it knows; judged by another's validator."""
    assert jsonschema_rs.is_valid(schema, example(schema)), example(schema)
