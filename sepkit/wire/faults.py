"""Why data does not fit a type: cattrs' errors as :class:`~sepkit.errors.Fault`, each with its path.

A fault names types and never holds values, which may be secrets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from types import NoneType
from typing import Annotated, Any, Final, get_args, get_origin

from cattrs.errors import (
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
    StructureHandlerNotFoundError,
)

from sepkit.errors import Fault
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


def faults_in(error: Exception, data: Any, cls: Any) -> Iterator[Fault]:
    """The faults in an error of cattrs, in the order of the fields. Not recursive: data may be nested deeply."""
    stack: list[tuple[Exception, str, Any, Any]] = [(error, "$", data, cls)]
    while stack:
        error, path, value, wanted = stack.pop()
        if isinstance(error, ClassValidationError | IterableValidationError):
            stack.extend(reversed(_unfold(error, path, value)))
        elif isinstance(error, Mismatch):
            yield Fault(path + error.below, error.expected, error.received)
        elif isinstance(error, ForbiddenExtraKeysError):
            for name in sorted(error.extra_fields):
                yield Fault(path, f"no field {name!r}", json_type(value[name]))
        elif isinstance(error, StructureHandlerNotFoundError):
            raise error  # nothing can be read as this type: a mistake in the program, not in the data
        elif isinstance(error, RecursionError):
            yield Fault(path, LESS_NESTING, json_type(value))
        else:
            # From an author's class (a validator, a converter). Its text may hold the value.
            yield Fault(path, describe(wanted), json_type(value))


def _unfold(group: Any, path: str, value: Any) -> list[tuple[Exception, str, Any, Any]]:
    """The errors in a group, each with its path, its value and the type that was expected."""
    noted, others = group.group_exceptions()
    found: list[tuple[Exception, str, Any, Any]] = []
    for error, note in noted:
        place = note.index if isinstance(note, IterableValidationNote) else note.name
        try:
            found.append((error, path + step(place), value[place], note.type))
        except (KeyError, IndexError, TypeError):
            found.append((Mismatch(f"a field '{place}'", Nothing()), path, None, note.type))
    found.extend((error, path, value, group.cl) for error in others)
    return found


_PLAIN_KEY: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*")


def step(place: object) -> str:
    """A key or an index, as the next step of a path: ``.name``, ``[2]``, ``["a b"]``."""
    if isinstance(place, str):
        return f".{place}" if _PLAIN_KEY.fullmatch(place) else f"[{place!a}]"
    return f"[{place}]"
