"""What is said of data that does not fit a type: what was expected, what was received, and where.

It names types and never holds values, which may be secrets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import NoneType
from typing import Annotated, Any, Final, get_args, get_origin

from sepkit.wire.shapes import bounds_in, has_fields, is_choice, is_union

LESS_NESTING: Final = "less nesting"
"""What a fault expects where data is nested deeper than it can be read."""


class Mismatch(Exception):
    """A value does not fit. It becomes a fault: ``below`` is added to the path of the value."""

    def __init__(self, expected: str, received: object, below: str = "") -> None:
        super().__init__(expected)
        self.expected = expected
        self.received = json_type(received)
        self.below = below


class Nothing:
    """What was received for a field that is missing."""


JSON_TYPES: Final[dict[type, str]] = {
    NoneType: "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}
"""The types that orjson makes of JSON, by their JSON names."""

_RECEIVED: Final[dict[type, str]] = {**JSON_TYPES, tuple: "array", Nothing: "nothing"}


def json_type(value: object) -> str:
    """The JSON name of a value's type; the Python name if it has none."""
    return _RECEIVED.get(type(value)) or type(value).__name__


def describe(t: Any) -> str:
    """A type in the words of JSON: ``"string"``, ``"number between 0 and 1"``, ``"one of 'event', 'command'"``."""
    origin = get_origin(t)
    if origin is Annotated:
        base, *metadata = get_args(t)
        return describe(base) + "".join(map(_describe_limits, metadata))
    if is_choice(t):
        return one_of(get_args(t))
    if is_union(t):
        return " or ".join(dict.fromkeys(map(describe, get_args(t))))
    if t is Any:
        return "any value"
    if origin is dict or has_fields(t):
        return "object"
    if origin is list:
        return "array"
    name = JSON_TYPES.get(t) if isinstance(t, type) else None
    return name or str(getattr(t, "__name__", t))


def one_of(values: Iterable[Any]) -> str:
    """What a fault expects where only these values are allowed."""
    return "one of " + ", ".join(repr(v) for v in values)


def _describe_limits(metadata: Any) -> str:
    bounds = bounds_in(metadata)
    if bounds.keys() == {"ge", "le"}:
        return f" between {bounds['ge']} and {bounds['le']}"
    return "".join(f" {_BOUND_WORDS[name]} {bound}" for name, bound in bounds.items())


_BOUND_WORDS: Final = {"ge": "at least", "le": "at most"}


_PLAIN_KEY: Final = r"[A-Za-z_$][A-Za-z0-9_$-]*"


def step(place: object) -> str:
    """A key or an index, as the next step of a path: ``.name``, ``[2]``, ``["a b"]``."""
    if isinstance(place, str):
        return f".{place}" if re.fullmatch(_PLAIN_KEY, place) else f"[{place!a}]"
    return f"[{place}]"
