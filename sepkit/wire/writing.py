"""Records and handlers' results → plain JSON data.

:func:`unstructure` writes a record for the peer, :func:`to_json` any value that a handler returned. No bytes here
(``frames.py``); ``converter.py`` is the other direction.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable
from datetime import date, time
from functools import cache, partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import orjson

from sepkit.errors import EncodeError
from sepkit.records import MANY, declared
from sepkit.wire.faults import step
from sepkit.wire.messages import ALWAYS, REST, TAG, Record, StreamEvent, Usage
from sepkit.wire.shapes import field_names, fields_of, has_fields, without_null

if TYPE_CHECKING:
    import cattrs

# orjson writes 254 levels; a result is one or two levels down in its frame.
MAX_DEPTH: Final = 200


def unstructure(record: Record) -> dict[str, Any]:
    """A record as the object that goes on the wire: with its tags, without the fields that have their default value.

    Free-form parts (arguments, details, payloads) are passed on unchanged; :func:`to_json` turns those into plain data.
    """
    cls = type(record)
    try:
        write = _WRITERS[cls]
    except KeyError:
        write = _WRITERS[cls] = _compiled(cls) if declared(cls) is None else _interpreted(cls)
    return write(record)


def unstructure_event(event: StreamEvent) -> dict[str, Any]:
    """A stream event as the object in ``provider/delta``. Unlike in a result, :class:`Usage` has a ``type`` there."""
    written = unstructure(event)
    return {"type": "Usage", **written} if type(event) is Usage else written


_Write = Callable[[Any], dict[str, Any]]
_WRITERS: dict[type, _Write] = {}


def _interpreted(cls: Any) -> _Write:
    """Writes a record by a loop over its fields. One that is written often goes to generated code, as when it is read.

    :func:`_compiled` has the rules; a test sees to it that both write the same.
    """
    plan = []
    rest = None
    for known, field in zip(declared(cls) or (), fields_of(cls), strict=True):
        if REST in field.metadata:
            rest = field.name
        else:
            always = known.required or TAG in field.metadata or ALWAYS in field.metadata
            make = known.factory or partial(_same, known.default)
            plan.append((field.name, always, make, _is_free_form(without_null(field.type))))
    plan.sort(key=lambda one: not one[1])  # what is always there comes first, as cattrs has it
    left = MANY

    def write(record: Any) -> dict[str, Any]:
        nonlocal left
        left -= 1
        if left == 0:
            _WRITERS[cls] = _compiled(cls)
        written = {} if rest is None else dict(getattr(record, rest))
        for name, always, make, is_free in plan:
            value = getattr(record, name)
            if always or value != make():
                written[name] = value if is_free else _part(value)
        return written

    return write


def _same(value: object) -> object:
    return value


def _part(value: Any) -> Any:
    """A field's value on the wire."""
    if isinstance(value, Record):
        return unstructure(value)
    if type(value) is list:
        return [_part(item) for item in value]
    return {key: _part(item) for key, item in value.items()} if type(value) is dict else value


def _compiled(cls: type[Record]) -> _Write:
    hook: _Write = _writer().get_unstructure_hook(cls)
    return hook


@cache
def _writer() -> cattrs.Converter:
    import cattrs

    made = cattrs.Converter()
    made.register_unstructure_hook_func(_is_free_form, lambda value: value)
    made.register_unstructure_hook_factory(lambda t: isinstance(t, type) and issubclass(t, Record), _write_hook)
    return made


def _is_free_form(t: Any) -> bool:
    return t is Any or t == dict[str, Any]


def _write_hook(cls: Any, conv: cattrs.Converter) -> _Write:
    from cattrs.gen import make_dict_unstructure_fn, override

    overrides: dict[str, Any] = {}
    rest = None
    for field in fields_of(cls):
        if TAG in field.metadata or ALWAYS in field.metadata:
            overrides[field.name] = override(omit_if_default=False)
        elif REST in field.metadata:
            rest = field.name
            overrides[field.name] = override(omit=True)
    base = make_dict_unstructure_fn(cls, conv, _cattrs_omit_if_default=True, **overrides)
    if rest is None:
        return base
    return lambda record: {**getattr(record, rest), **base(record)}


class _Unwritable(Exception):
    """A value has no JSON form. Each container around it adds its step to the path while the exception passes."""

    def __init__(self, problem: str, too_deep: object = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.too_deep = too_deep
        self.steps: list[str] = []

    def passes(self, container: object, place: str) -> None:
        self.steps.append(place)
        if container is self.too_deep:  # it is inside itself: a cycle, not just deep nesting
            self.problem = f"{_type_name(container)} that contains itself"
            self.steps.clear()

    @property
    def below(self) -> str:
        return "".join(reversed(self.steps))


def to_json(value: object, path: str = "$") -> Any:
    """Plain JSON data for any value that a handler may return.

    ========================================  ====================================================================
    None, bool, str                           themselves
    int                                       itself, from -2**63 to 2**64-1
    float                                     itself, if finite
    list, tuple, named tuple                  array
    dict, TypedDict                           object; keys may be str, int, UUID, or enums with a str or int in them
    set, frozenset                            array, sorted by the JSON of its items
    datetime, date, time                      string, ISO 8601
    UUID, Decimal, path                       string
    Enum                                      its value
    attrs class, dataclass                    object of its fields, named as the parameters that set them (``_n`` of
                                              attrs: ``n``); a record of the wire: its form on the wire
    ========================================  ====================================================================

    A subclass is written like its base. The result shares no container with ``value``. ``path`` is where ``value`` is:
    errors start with it.

    Raises:
        EncodeError: A value has none of these types (bytes, for example), is not finite, does not fit 64 bits, or is
            text with a lone surrogate; two keys are the same text; or it is nested over 200 levels, or in itself.
    """
    try:
        return _plain(value, 0)
    except _Unwritable as error:
        raise EncodeError(path + error.below, error.problem) from None
    except RecursionError:  # the caller's own stack is deep already
        raise EncodeError(path, "nested too deeply to be written from here") from None


def copied(data: Any) -> Any:
    """A deep copy of plain JSON data. Neither recursive nor through bytes: it may be nested 1,000 levels deep."""
    kind = type(data)
    if kind is not dict and kind is not list:
        return data
    made = data.copy()
    containers = [made]
    for container in containers:  # which become more
        for place, item in container.items() if type(container) is dict else enumerate(container):
            kind = type(item)
            if kind is dict or kind is list:
                container[place] = copy = item.copy()
                containers.append(copy)
    return made


def _plain(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind is str:
        return value if value.isascii() else _text(value)
    if kind is int:
        if -0x8000_0000_0000_0000 <= value <= 0xFFFF_FFFF_FFFF_FFFF:
            return value
        raise _Unwritable("an integer that does not fit 64 bits")
    if value is None or kind is bool:
        return value
    if kind is float:
        if math.isfinite(value):
            return value
        raise _Unwritable("a float that is not finite")
    if kind is dict:
        return _plain_dict(value, depth)
    if kind is list or kind is tuple:
        return _plain_list(value, depth)
    return _plain_other(value, kind, depth)


def _plain_dict(value: dict[Any, Any], depth: int, owner: object = None) -> dict[str, Any]:
    """``owner`` is the object whose fields these are, if they are those of an object."""
    container = value if owner is None else owner
    if depth >= MAX_DEPTH:
        raise _Unwritable(f"nested more than {MAX_DEPTH} levels deep", container)
    made: dict[str, Any] = {}
    for key, item in value.items():
        name = key if type(key) is str and key.isascii() else _key(key)
        if name in made:
            raise _Unwritable(f"two keys of {_type_name(value)} are both {name!r} as text")
        try:
            made[name] = _plain(item, depth + 1)
        except _Unwritable as error:
            error.passes(container, step(name))
            raise
    return made


def _plain_list(value: Iterable[Any], depth: int, place: str | None = None) -> list[Any]:
    if depth >= MAX_DEPTH:
        raise _Unwritable(f"nested more than {MAX_DEPTH} levels deep", value)
    made: list[Any] = []
    append = made.append
    for item in value:
        try:
            append(_plain(item, depth + 1))
        except _Unwritable as error:
            error.passes(value, place or f"[{len(made)}]")
            raise
    return made


def _plain_fields(value: Any, names: tuple[tuple[str, str], ...], depth: int) -> dict[str, Any]:
    if depth >= MAX_DEPTH:
        raise _Unwritable(f"nested more than {MAX_DEPTH} levels deep", value)
    made: dict[str, Any] = {}
    for attribute, name in names:
        try:
            made[name] = _plain(getattr(value, attribute), depth + 1)
        except _Unwritable as error:
            error.passes(value, step(name))
            raise
    return made


_FIELDS: Final[dict[type, tuple[tuple[str, str], ...]]] = {}
"""Of attrs classes and dataclasses that have been written, so that the next one is known at once."""


def _plain_other(value: Any, kind: type, depth: int) -> Any:
    if (names := _FIELDS.get(kind)) is not None:
        return _plain_fields(value, names, depth)
    if isinstance(value, Record):
        return _plain_dict(unstructure(value), depth, value)
    if isinstance(value, enum.Enum):
        return _plain(value.value, depth)
    for base, convert in _BASES:
        if isinstance(value, base):
            return _plain(convert(value), depth)
    if isinstance(value, dict):
        return _plain_dict(value, depth)
    if isinstance(value, list | tuple):
        return _plain_list(value, depth)
    if isinstance(value, set | frozenset):
        return _sorted(_plain_list(value, depth, "[*]"))
    if has_fields(kind):
        names = _FIELDS[kind] = field_names(kind)
        return _plain_fields(value, names, depth)
    if any(base.__module__ == "decimal" and base.__name__ == "Decimal" for base in kind.__mro__):
        return str(value)
    raise _Unwritable(f"{_type_name(value)} has no form in JSON")


# Each of these converts to a type that `_plain` handles first.
_BASES: Final[list[tuple[Any, Callable[[Any], Any]]]] = [
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (date | time, lambda value: value.isoformat()),  # a datetime is a date
    (UUID | PurePath, str),
]


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Unwritable("a text with a lone surrogate") from None
    return value


def _key(key: Any) -> str:
    if isinstance(key, enum.Enum):
        key = key.value
    if isinstance(key, str):
        return _text(str.__str__(key))
    if isinstance(key, UUID) or (isinstance(key, int) and not isinstance(key, bool)):
        return str(key)
    raise _Unwritable(f"{_type_name(key)} cannot be the key of an object")


def _sorted(items: list[Any]) -> list[Any]:
    try:
        return sorted(items)
    except TypeError:  # of mixed types
        return sorted(items, key=orjson.dumps)


def _type_name(value: object) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"a value of type {name}"
