"""What a type is made of: its fields, its tag, its bounds; whether it is a union, a choice, a list.

Questions about types only: ``reading.py`` and ``writing.py`` read and write data.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from sepkit.records import declared
from sepkit.wire.messages import TAG


def has_fields(t: Any) -> bool:
    """Whether ``t`` is an attrs class or a dataclass: a record of the wire, or an author's class that is written."""
    return isinstance(t, type) and get_origin(t) is None and (is_attrs(t) or dataclasses.is_dataclass(t))


def is_attrs(cls: type) -> bool:
    """``attrs.has``, without attrs: it takes 10 ms to import, and a record of the wire is one without it."""
    return declared(cls) is not None or hasattr(cls, "__attrs_attrs__")


class Field(NamedTuple):
    """A field of a record. ``droppable``: null counts as absent."""

    name: str
    type: Any
    optional: bool
    droppable: bool
    metadata: Mapping[Any, Any]


@cache
def fields_of(cls: Any) -> tuple[Field, ...]:
    """The fields of a record, or of an author's class that is derived from one, with their evaluated types."""
    hints = typing.get_type_hints(cls, include_extras=True)
    own = declared(cls)
    if own is not None:
        fields = [(one.name, one.required, one.default, one.metadata) for one in own]
    else:
        import attrs

        fields = [
            (field.name, field.default is attrs.NOTHING, field.default, field.metadata) for field in attrs.fields(cls)
        ]
    found = []
    for name, required, default, metadata in fields:
        # Null is a value of its own only if it differs from what absence means.
        means_something = admits_null(hints[name]) and default is not None
        found.append(Field(name, hints[name], not required, not required and not means_something, metadata))
    return tuple(found)


@cache
def field_names(cls: Any) -> tuple[tuple[str, str], ...]:
    """The fields' attributes, each with its name in JSON, which is that of the parameter that sets it.

    Unlike :func:`fields_of` it evaluates no annotations, which may not be possible.
    """
    if issubclass(cls, tuple):  # a named one
        return tuple((name, name) for name in cls._fields)
    return tuple((field.name, getattr(field, "alias", None) or field.name) for field in _declared(cls))


def _declared(cls: Any) -> tuple[Any, ...]:
    if not is_attrs(cls):
        return dataclasses.fields(cls)
    import attrs

    found: tuple[Any, ...] = attrs.fields(cls)
    return found


def tag_of(cls: Any) -> Field | None:
    """The field that tells a record from the other members of a union; its type is a Literal of one value."""
    return next((field for field in fields_of(cls) if TAG in field.metadata), None) if has_fields(cls) else None


def is_union(t: Any) -> bool:
    """Whether a type is a union, in either spelling."""
    return get_origin(t) in (Union, UnionType)


def admits_null(t: Any) -> bool:
    """Whether null is one of the values of a type."""
    return t is Any or (is_union(t) and NoneType in get_args(t))


def without_null(t: Any) -> Any:
    """A type without null, if it is a union that has it."""
    if not is_union(t):
        return t
    return Union[tuple(member for member in get_args(t) if member is not NoneType)]  # noqa: UP007  (built at run time)


def is_choice(t: Any) -> bool:
    """Whether a type lists its values."""
    return get_origin(t) is Literal


def bounds_in(metadata: Any) -> dict[str, Any]:
    """What ``Bounds`` sets of ``ge`` and ``le``."""
    return {name: bound for name in ("ge", "le") if (bound := getattr(metadata, name, None)) is not None}
