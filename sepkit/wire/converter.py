"""Records ⇄ JSON data, strictly.

``structure`` reads what came from the peer, ``unstructure`` writes a record for it, ``to_json`` writes whatever a
handler returned. Data that does not fit raises with all of its faults; they tell types and never values, which may be
secrets. No bytes here (``frames.py``) and no coercion (that is for arguments of tools, and stands with them).

1.0 is no integer here, though it is one to JSON Schema: as an id it must not meet 1, and one rule for all is easier.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import operator
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time
from functools import cache
from pathlib import PurePath
from types import GenericAlias, NoneType, UnionType
from typing import Annotated, Any, Final, Literal, NotRequired, Required, TypeVar, Union, cast, get_args, get_origin
from uuid import UUID

import attrs
import cattrs
import orjson
from cattrs.cols import list_structure_factory, mapping_structure_factory
from cattrs.errors import (
    AttributeValidationNote,
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
    StructureHandlerNotFoundError,
)
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from sepkit.errors import MOST_FAULTS, EncodeError, Fault, InvalidData
from sepkit.wire.messages import ALWAYS, REST, TAG, HasText, Record, StreamEvent, Usage

T = TypeVar("T")
Hook = Callable[[Any, Any], Any]

# orjson writes 254 levels; a result stands one or two levels down in its frame.
LESS_NESTING: Final = "less nesting"
"""What a fault expects where data is nested deeper than it can be read."""
MAX_DEPTH: Final = 200


# ------------------------------------------------------------------------------------------------------------- reading
def structure(data: object, cls: type[T] | Any) -> T:
    """``data`` as a ``cls``: a record, or any type that a payload may be declared as.

    Unknown fields are ignored. Where a field may be absent, null counts as absent.

    Raises:
        InvalidData: It does not fit; with every fault.
    """
    try:
        made: T = _HOOKS[cls](data, cls)
    except Exception:  # it does not fit, or it is the first of its type
        made = _structure_slowly(data, cls)
    return made


def structure_exactly(data: object, cls: type[T] | Any) -> T:
    """Like :func:`structure`, but what the protocol's schemas refuse is refused: unknown fields, and null for absent.

    Raises:
        InvalidData: It does not fit; with every fault.
    """
    made: T = _explained(data, cls, exact=True)
    return made


def can_structure(cls: Any) -> bool:
    """Whether data can be read as a ``cls`` at all; to be asked where the type is declared.

    Raises:
        NameError: An annotation of ``cls`` holds a name that leads nowhere.
    """
    try:
        converter(exact=False).get_structure_hook(cls)
    except (StructureHandlerNotFoundError, RecursionError):
        return False
    return True


# The hooks of the run-time direction. They stop at the first fault and tell nothing of it: data that does not fit is
# read a second time, by hooks that collect. So data that fits, nearly all of it, does not pay for faults.
_HOOKS: dict[Any, Hook] = {}


def _structure_slowly(data: object, cls: Any) -> Any:
    try:
        known = cls in _HOOKS
    except TypeError:  # Annotated with metadata that has no hash
        known = True
    if not known:
        _HOOKS[cls] = converter(exact=False, detailed=False).get_structure_hook(cls)
    return _explained(data, cls, exact=False)


def _explained(data: object, cls: Any, *, exact: bool) -> Any:
    hook = converter(exact=exact).get_structure_hook(cls)
    try:
        return hook(data, cls)
    except Exception as error:
        raise InvalidData(_faults(error, data, cls)) from None


@cache
def converter(*, exact: bool, detailed: bool = True) -> cattrs.Converter:
    """The converter behind :func:`structure`, or with ``exact`` the one behind :func:`structure_exactly`.

    With ``detailed`` it raises cattrs' groups of all errors, else the first error.
    """
    made = cattrs.Converter(detailed_validation=detailed)
    for cls, hook in _CLASSES.items():
        made.register_structure_hook(cls, hook)
    for matches, factory in _FACTORIES:  # of two that match, the later is asked first
        made.register_structure_hook_factory(matches, factory)

    def record_factory(cls: Any, conv: cattrs.Converter) -> Hook:
        return _record_hook(cls, conv, exact=exact)

    made.register_structure_hook_factory(_has_fields, record_factory)
    return made


class _Mismatch(Exception):
    """A value does not fit. Becomes a fault, whose path is found on the way out; ``below`` is added to that."""

    def __init__(self, expected: str, received: object, below: str = "") -> None:
        super().__init__(expected)
        self.expected = expected
        self.received = json_type(received)
        self.below = below


class _Nothing:
    """Received where a field is missing."""


def json_type(value: object) -> str:
    """The JSON name of a value's type; the Python name where there is none."""
    return _JSON_TYPES.get(type(value)) or type(value).__name__


_JSON_TYPES: Final[dict[type, str]] = {
    NoneType: "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    tuple: "array",
    dict: "object",
    _Nothing: "nothing",
}


# cattrs looks classes up by inheritance before it asks predicates: what is registered for `str` is called for a
# `class Color(str, Enum)` too. The type asked for tells.
def _string(value: Any, t: Any) -> Any:
    if type(value) is t:
        return value
    return _derived(value, t, str)


def _integer(value: Any, t: Any) -> Any:
    if type(value) is t:
        return value
    return _derived(value, t, int)


def _number(value: Any, t: Any) -> Any:
    if type(value) is t:
        return value
    if type(value) is int:  # JSON has one type of numbers
        try:
            value = float(value)
        except OverflowError:
            raise _Mismatch("number", value) from None
    return value if t is float and type(value) is float else _derived(value, t, float)


def _boolean(value: Any, _: Any) -> Any:
    if type(value) is bool:
        return value
    raise _Mismatch("boolean", value)


def _derived(value: Any, t: Any, base: type) -> Any:
    if t is not base and issubclass(t, enum.Enum):
        return _enum_hook(t)(value, t)
    if t is not base and type(value) is base:
        return t(value)
    raise _Mismatch(_JSON_TYPES[base], value)


@cache
def _enum_hook(t: Any) -> Hook:
    return _choice_hook(t, None)


def _null(value: Any, _: Any) -> Any:
    if value is None:
        return value
    raise _Mismatch("null", value)


def _object(value: Any, _: Any) -> Any:
    if type(value) is dict:
        return value
    raise _Mismatch("object", value)


def _anything(value: Any, _: Any) -> Any:
    return value


def _text_as(parse: Callable[[str], Any], expected: str) -> Hook:
    def hook(value: Any, _: Any) -> Any:
        if type(value) is str:
            try:
                return parse(value)
            except (ValueError, ArithmeticError):  # Decimal raises the second
                pass
        raise _Mismatch(expected, value)

    return hook


def _no_bytes(value: Any, _: Any) -> Any:
    raise _Mismatch("no bytes: JSON has none", value)


_CLASSES: Final[dict[type, Hook]] = {str: _string, int: _integer, float: _number, bool: _boolean, bytes: _no_bytes}

_SCALARS: Final[dict[Any, Hook]] = {
    NoneType: _null,
    None: _null,
    dict: _object,
    dict[str, Any]: _object,
    Any: _anything,
    object: _anything,
    datetime: _text_as(datetime.fromisoformat, "a date and time as ISO 8601"),
    date: _text_as(date.fromisoformat, "a date as ISO 8601"),
    time: _text_as(time.fromisoformat, "a time as ISO 8601"),
    UUID: _text_as(UUID, "a UUID"),
}


# --------------------------------------------------------------------------------------------- reading: composite types
def _has_fields(t: Any) -> bool:
    return isinstance(t, type) and get_origin(t) is None and (attrs.has(t) or dataclasses.is_dataclass(t))


@attrs.frozen
class _Field:
    """What attrs and dataclasses agree on about a field. ``droppable``: null may stand for absent."""

    name: str
    type: Any
    optional: bool
    droppable: bool
    metadata: Mapping[Any, Any]


@cache
def _fields(cls: Any) -> tuple[_Field, ...]:
    hints = typing.get_type_hints(cls, include_extras=True)
    found = []
    for field in attrs.fields(cls) if attrs.has(cls) else dataclasses.fields(cls):
        hint = hints.get(field.name, Any)
        if isinstance(field, dataclasses.Field):
            factory = field.default_factory is not dataclasses.MISSING
            optional = factory or field.default is not dataclasses.MISSING
        else:
            factory = isinstance(field.default, attrs.Factory)  # type: ignore[arg-type]
            optional = field.default is not attrs.NOTHING
        # Null is a value of its own only where it differs from what absence means.
        means_something = _admits_null(hint) and (factory or field.default is not None)
        found.append(_Field(field.name, hint, optional, optional and not means_something, field.metadata))
    return tuple(found)


def _admits_null(t: Any) -> bool:
    return t is Any or t is object or (get_origin(t) in (Union, UnionType) and NoneType in get_args(t))


def _record_hook(cls: Any, conv: cattrs.Converter, *, exact: bool) -> Hook:
    """The hook for a class with fields: attrs, dataclass or a record of the wire."""
    fields = _fields(cls)
    strict = exact and issubclass(cls, Record)
    rest = next((f.name for f in fields if REST in f.metadata), None)
    tag = next((f.name for f in fields if TAG in f.metadata), None)
    droppable = frozenset(f.name for f in fields if f.droppable) - {tag}
    named = frozenset(f.name for f in fields) - {rest}
    overrides: dict[str, Any] = {}
    for field in fields:
        if strict and field.droppable and field.type is not Any:
            overrides[field.name] = override(struct_hook=_without_null(field.type, conv))
    inner = make_dict_structure_fn(
        cls,
        conv,
        _cattrs_forbid_extra_keys=strict and rest is None,
        _cattrs_detailed_validation=conv.detailed_validation,
        **overrides,
    )

    def structure_plain(value: Any, _: Any) -> Any:
        if type(value) is dict:
            return inner(value, _)
        raise _Mismatch("object", value)

    def structure_record(value: Any, _: Any) -> Any:
        if type(value) is not dict:
            raise _Mismatch("object", value)
        if tag is not None and tag not in value:
            raise _Mismatch(f"a field '{tag}'", _Nothing())
        if not strict and None in value.values():
            value = {k: v for k, v in value.items() if v is not None or k not in droppable}
        if rest is not None:
            kept = {k: v for k, v in value.items() if k not in named}
            value = {k: v for k, v in value.items() if k in named}
            if kept:
                value[rest] = kept
        return inner(value, _)

    if tag is not None or rest is not None or (droppable and not strict):
        return structure_record
    if not conv.detailed_validation and not all(f.optional for f in fields):
        return inner  # it takes a field by its name, which no JSON but an object stands; the second reading says so
    return structure_plain


def _without_null(t: Any, conv: cattrs.Converter) -> Hook:
    members = [member for member in get_args(t) if member is not NoneType] if _admits_null(t) else [t]
    wanted: Any = Union[tuple(members)]  # noqa: UP007  (built at run time)

    def hook(value: Any, _: Any) -> Any:
        if value is None:
            raise _Mismatch(describe(wanted), value)
        return conv.structure(value, wanted)

    return hook


def _list_hook(t: Any, conv: cattrs.Converter) -> Hook:
    """Lists, and what is made of one: homogeneous tuples, sets, frozensets."""
    origin = get_origin(t) or t
    element = (get_args(t) or (Any,))[0]
    items: Hook = list_structure_factory(cast("Any", GenericAlias(list, (element,))), conv)
    if conv.detailed_validation and element is not Any:
        items = _each(element, conv, enumerate)
    make = {tuple: tuple, set: set, frozenset: frozenset}.get(origin)

    def hook(value: Any, _: Any) -> Any:
        if type(value) is not list:
            raise _Mismatch("array", value)
        structured = items(value, t)
        return structured if make is None else make(structured)

    return hook


def _each(wanted: Any, conv: cattrs.Converter, places: Callable[[Any], Iterable[tuple[Any, Any]]]) -> Hook:
    """The items of an array or an object, all of one type: like cattrs', but it ends where nobody would read on."""
    try:
        fit = conv.get_structure_hook(wanted)
    except RecursionError:  # it is being made, further out
        fit = conv.structure

    def hook(value: Any, t: Any) -> Any:
        errors, made = [], []
        for place, item in places(value):
            try:
                made.append(fit(item, wanted))
            except Exception as error:
                error.add_note(IterableValidationNote("", place, wanted))
                errors.append(error)
                if len(errors) == MOST_FAULTS:
                    break
        if errors:
            raise IterableValidationError("", errors, t)
        return made

    return hook


def _pair_hook(t: Any, conv: cattrs.Converter) -> Hook:
    """Tuples of a fixed length, each place with its own type; named tuples are arrays, too."""
    if get_args(t):
        types, make = get_args(t), tuple
    else:
        hints = typing.get_type_hints(t, include_extras=True)
        types, make = tuple(hints.get(name, Any) for name in t._fields), t._make
    hooks = [(wanted, conv.get_structure_hook(wanted)) for wanted in types]
    expected = f"array of {len(types)} items"

    def hook(value: Any, _: Any) -> Any:
        if type(value) is not list or len(value) != len(types):
            raise _Mismatch(expected, value)
        errors, made = [], []
        for index, (item, (wanted, fit)) in enumerate(zip(value, hooks, strict=True)):
            try:
                made.append(fit(item, wanted))
            except Exception as error:
                error.add_note(IterableValidationNote("", index, wanted))
                errors.append(error)
        if errors:
            raise IterableValidationError("", errors, tuple)
        return make(made)

    return hook


def _dict_hook(t: Any, conv: cattrs.Converter) -> Hook:
    base: Hook = mapping_structure_factory(t, conv, detailed_validation=conv.detailed_validation)
    key, member = get_args(t) or (Any, Any)
    if conv.detailed_validation and key is str:
        fits = _each(member, conv, dict.items)

        def base(value: Any, _: Any) -> Any:
            return dict(zip(value, fits(value, t), strict=True))

    def hook(value: Any, _: Any) -> Any:
        if type(value) is dict:
            return base(value, t)
        raise _Mismatch("object", value)

    return hook


def _typed_dict_hook(t: Any, conv: cattrs.Converter) -> Hook:
    """TypedDicts. Keys they do not name are kept: the outcome is a dict all the same."""
    fields: list[tuple[str, Any, Hook, bool]] = []
    for name, hint in typing.get_type_hints(t, include_extras=True).items():
        # `__required_keys__` misses a NotRequired that stands in a string (`from __future__ import annotations`).
        wrapper = get_origin(hint)
        required = name in t.__required_keys__ if wrapper not in (Required, NotRequired) else wrapper is Required
        wanted = get_args(hint)[0] if wrapper in (Required, NotRequired) else hint
        fields.append((name, wanted, conv.get_structure_hook(wanted), required))

    def hook(value: Any, _: Any) -> Any:
        if type(value) is not dict:
            raise _Mismatch("object", value)
        made, errors = dict(value), []
        for name, wanted, fit, required in fields:
            if not required and (name not in value or (value[name] is None and not _admits_null(wanted))):
                made.pop(name, None)
                continue
            try:
                made[name] = fit(value[name], wanted)
            except Exception as error:
                error.add_note(AttributeValidationNote("", name, wanted))
                errors.append(error)
        if errors:
            raise ClassValidationError("", errors, t)
        return made

    return hook


def _choice_hook(t: Any, _: object) -> Hook:
    """Literals and enums: equal in value *and* type, so that ``True`` is not 1."""
    members = get_args(t) or tuple(t)
    by_value = {(type(v), v): m for m in members for v in [m.value if isinstance(m, enum.Enum) else m]}
    expected = describe(t)
    if all(kind is str and value is member for (kind, value), member in by_value.items()):
        words = frozenset(members)

        def word(value: Any, _: Any) -> Any:
            if type(value) is str and value in words:
                return value
            raise _Mismatch(expected, value)

        return word

    def hook(value: Any, _: Any) -> Any:
        try:
            return by_value[type(value), value]
        except (KeyError, TypeError):  # TypeError: a list or an object has no hash
            raise _Mismatch(expected, value) from None

    return hook


def _union_hook(t: Any, conv: cattrs.Converter) -> Hook:
    members = [member for member in get_args(t) if member is not NoneType]
    nullable = len(members) < len(get_args(t))
    tagged = _tagged_members(members)
    wanted = members[0]
    if tagged is not None:
        base = _tagged_hook(*tagged, conv)
    elif len(members) == 1:
        base = conv.get_structure_hook(wanted)
    else:
        base = _first_fit_hook([(member, conv.get_structure_hook(member)) for member in members], describe(t))
    if not nullable:
        return base

    def hook(value: Any, _: Any) -> Any:
        return None if value is None else base(value, wanted)

    return hook


def _first_fit_hook(members: Sequence[tuple[Any, Hook]], expected: str) -> Hook:
    # No hook coerces, so at most one member fits, except an integer where a number is named first.
    def hook(value: Any, _: Any) -> Any:
        for member, fit in members:
            try:
                return fit(value, member)
            except Exception as error:
                if isinstance(error, StructureHandlerNotFoundError):
                    raise
        raise _Mismatch(expected, value)

    return hook


def _tagged_members(members: Iterable[Any]) -> tuple[str, dict[str, Any]] | None:
    """The name of the field that tells the members of a union apart, and the member for each of its values."""
    by_tag: dict[str, Any] = {}
    names = set()
    for member in members:
        if member is Usage:  # the same record stands in results, where it has no tag
            names.add("type")
            by_tag["Usage"] = member
            continue
        field = next((f for f in _fields(member) if TAG in f.metadata), None) if _has_fields(member) else None
        if field is None:
            return None
        names.add(field.name)
        by_tag[get_args(field.type)[0]] = member
    return (names.pop(), by_tag) if len(names) == 1 and len(by_tag) > 1 else None


def _tagged_hook(name: str, members: dict[str, Any], conv: cattrs.Converter) -> Hook:
    expected = _one_of(members)

    def hook(value: Any, _: Any) -> Any:
        if type(value) is not dict:
            raise _Mismatch("object", value)
        if name not in value:
            raise _Mismatch(f"a field '{name}'", _Nothing())
        tag = value[name]
        member = members.get(tag) if type(tag) is str else None
        if member is None:
            raise _Mismatch(expected, tag, f".{name}")
        if member is Usage:
            value = {k: v for k, v in value.items() if k != name}
        # Looked up late: a block holds blocks.
        return conv.structure(value, member)

    return hook


def _annotated_hook(t: Any, conv: cattrs.Converter) -> Hook:
    base_type, *metadata = get_args(t)
    base = conv.get_structure_hook(base_type)
    checks = [m for m in metadata if _limits(m) or isinstance(m, HasText)]
    if not checks:
        return base
    expected = describe(t)
    text = next((m.name for m in checks if isinstance(m, HasText)), None)
    limits = [limit for m in checks for limit in _limits(m)]

    def bounded(value: Any, _: Any) -> Any:
        try:
            made = base(value, base_type)
        except _Mismatch:
            raise _Mismatch(expected, value) from None
        for within, bound in limits:
            if not within(made, bound):
                raise _Mismatch(expected, value)
        return made

    def with_text(value: Any, _: Any) -> Any:
        made = base(value, base_type)
        if text not in made:
            raise _Mismatch(f"a field '{text}'", _Nothing())
        if type(made[text]) is not str:
            raise _Mismatch("string", made[text], f".{text}")
        return made

    return bounded if text is None else with_text


_COMPARE: Final[dict[str, tuple[Callable[[Any, Any], bool], str]]] = {
    "ge": (operator.ge, "at least"),
    "gt": (operator.gt, "more than"),
    "le": (operator.le, "at most"),
    "lt": (operator.lt, "less than"),
}


def _limits(metadata: Any) -> list[tuple[Callable[[Any, Any], bool], Any]]:
    """The comparisons that ``Bounds`` (or annotated-types' ``Ge``, ``Lt``, ``Interval``, …) asks for."""
    return [
        (compare, bound)
        for name, (compare, _) in _COMPARE.items()
        if (bound := getattr(metadata, name, None)) is not None
    ]


def _is_choice(t: Any) -> bool:
    return get_origin(t) is Literal or (isinstance(t, type) and issubclass(t, enum.Enum))


def _is_list(t: Any) -> bool:
    origin, args = get_origin(t) or t, get_args(t)
    if origin is tuple:
        return not args or args[-1] is Ellipsis
    return origin in _LIST_LIKE


def _hashable_scalar(t: Any) -> bool:
    try:
        return t in _SCALARS
    except TypeError:
        return False


_LIST_LIKE: Final = (list, set, frozenset, Sequence)

_FACTORIES: Final[list[tuple[Callable[[Any], bool], Callable[[Any, cattrs.Converter], Hook]]]] = [
    (lambda t: get_origin(t) in (dict, Mapping) or t is Mapping, _dict_hook),
    (lambda t: get_origin(t) is tuple and not _is_list(t), _pair_hook),
    (lambda t: isinstance(t, type) and issubclass(t, tuple) and hasattr(t, "_fields"), _pair_hook),
    (_is_list, _list_hook),
    (typing.is_typeddict, _typed_dict_hook),
    (
        lambda t: isinstance(t, type) and issubclass(t, PurePath),
        lambda t, _: _text_as(t, "a path in a string"),
    ),
    (
        # By name, so that only programs that use decimals import them.
        lambda t: isinstance(t, type) and t.__module__ == "decimal" and t.__name__ == "Decimal",
        lambda t, _: _text_as(t, "a decimal number in a string"),
    ),
    (_is_choice, _choice_hook),
    (lambda t: get_origin(t) in (Union, UnionType), _union_hook),
    (lambda t: get_origin(t) is Annotated, _annotated_hook),
    (_hashable_scalar, lambda t, _: _SCALARS[t]),
]


# ------------------------------------------------------------------------------------------------------ reading: faults
def describe(t: Any) -> str:
    """A type in JSON's words: ``"string"``, ``"number between 0 and 1"``, ``"one of 'event', 'command'"``."""
    origin = get_origin(t)
    if origin is Annotated:
        base, *metadata = get_args(t)
        return describe(base) + "".join(map(_describe_limits, metadata))
    if origin is Literal or (isinstance(t, type) and issubclass(t, enum.Enum)):
        return _one_of(m.value if isinstance(m, enum.Enum) else m for m in get_args(t) or tuple(t))
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(describe, get_args(t))))
    supertype = getattr(t, "__supertype__", None)
    if supertype is not None:
        return describe(supertype)
    if t is Any or t is object:
        return "any value"
    if origin in (dict, Mapping) or t is Mapping or typing.is_typeddict(t) or _has_fields(t):
        return "object"
    if (origin or t) is tuple or _is_list(t):
        return "array"
    name = _JSON_TYPES.get(t) if isinstance(t, type) else None
    return name or str(getattr(t, "__name__", t))


def _one_of(values: Iterable[Any]) -> str:
    return "one of " + ", ".join(repr(v) for v in values)


def _describe_limits(metadata: Any) -> str:
    bounds = {name: bound for name in _COMPARE if (bound := getattr(metadata, name, None)) is not None}
    if bounds.keys() == {"ge", "le"}:
        return f" between {bounds['ge']} and {bounds['le']}"
    return "".join(f" {_COMPARE[name][1]} {bound}" for name, bound in bounds.items())


def _faults(error: Exception, data: Any, cls: Any) -> Iterator[Fault]:
    """The faults in an error of cattrs, in the order of the fields. A stack, since data may be nested deeply."""
    stack: list[tuple[Exception, str, Any, Any]] = [(error, "$", data, cls)]
    while stack:
        error, path, value, wanted = stack.pop()
        if isinstance(error, ClassValidationError | IterableValidationError):
            stack.extend(reversed(_unfold(error, path, value)))
        elif isinstance(error, _Mismatch):
            yield Fault(path + error.below, error.expected, error.received)
        elif isinstance(error, ForbiddenExtraKeysError):
            for name in sorted(error.extra_fields):
                yield Fault(path, f"no field {name!r}", json_type(value[name]))
        elif isinstance(error, StructureHandlerNotFoundError):
            raise error  # a type that nothing can be read as: the program's mistake, not the data's
        elif isinstance(error, RecursionError):
            yield Fault(path, LESS_NESTING, json_type(value))
        else:
            # From a class of the user's own (a validator, a converter). Its text may hold the value.
            yield Fault(path, describe(wanted), json_type(value))


def _unfold(group: Any, path: str, value: Any) -> list[tuple[Exception, str, Any, Any]]:
    """The errors in a group, each with its path, and the value and the type that it is about."""
    noted, others = group.group_exceptions()
    found: list[tuple[Exception, str, Any, Any]] = []
    for error, note in noted:
        place = note.index if isinstance(note, IterableValidationNote) else note.name
        try:
            found.append((error, path + step(place), value[place], note.type))
        except (KeyError, IndexError, TypeError):
            found.append((_Mismatch(f"a field '{place}'", _Nothing()), path, None, note.type))
    found.extend((error, path, value, group.cl) for error in others)
    return found


_PLAIN_KEY: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*")


def step(place: object) -> str:
    """A key or an index, as the next step of a path: ``.name``, ``[2]``, ``["a b"]``."""
    if isinstance(place, str):
        return f".{place}" if _PLAIN_KEY.fullmatch(place) else f"[{place!a}]"
    return f"[{place}]"


# ------------------------------------------------------------------------------------------------------------- writing
def unstructure(record: Record) -> dict[str, Any]:
    """A record as the object that goes on the wire: tags in, fields that say nothing out.

    Free-form parts (arguments, details, payloads) are passed on as they are; :func:`to_json` makes those plain.
    """
    cls = type(record)
    try:
        write = _WRITERS[cls]
    except KeyError:
        write = _WRITERS[cls] = _writer().get_unstructure_hook(cls)
    return write(record)


def unstructure_event(event: StreamEvent) -> dict[str, Any]:
    """A stream event as the object in ``provider/delta``. Unlike in a result, :class:`Usage` has a ``type`` there."""
    written = unstructure(event)
    return {"type": "Usage", **written} if type(event) is Usage else written


_WRITERS: dict[type, Callable[[Any], dict[str, Any]]] = {}


@cache
def _writer() -> cattrs.Converter:
    made = cattrs.Converter()
    made.register_unstructure_hook_func(_is_free_form, lambda value: value)
    made.register_unstructure_hook_factory(lambda t: isinstance(t, type) and issubclass(t, Record), _write_hook)
    return made


def _is_free_form(t: Any) -> bool:
    return t is Any or t == dict[str, Any]


def _write_hook(cls: Any, conv: cattrs.Converter) -> Callable[[Any], dict[str, Any]]:
    overrides: dict[str, Any] = {}
    rest = None
    for field in _fields(cls):
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
    """A value has no form in JSON. Each container it stands in adds its step while the exception passes."""

    def __init__(self, problem: str, too_deep: object = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.too_deep = too_deep
        self.steps: list[str] = []

    def passes(self, container: object, place: str) -> None:
        self.steps.append(place)
        if container is self.too_deep:  # met again on the way out: not deep, but a cycle
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
    attrs class, dataclass                    object of its fields; a record of the wire: its form on the wire
    ========================================  ====================================================================

    Subclasses go the way of their base. The outcome shares no container with ``value``, which stands at ``path``.

    Raises:
        EncodeError: A value in there is none of these (bytes, for one), or not finite, or past 64 bits, or a text with
            a lone surrogate; or two keys are the same text; or it is nested over 200 levels, or in itself.
    """
    try:
        return _plain(value, 0)
    except _Unwritable as error:
        raise EncodeError(path + error.below, error.problem) from None
    except RecursionError:  # the caller itself stands deep
        raise EncodeError(path, "nested too deeply to be written from here") from None


def copied(data: Any) -> Any:
    """A copy of plain JSON data; not by recursion, nor by way of bytes, since it may be nested 1,000 levels deep."""
    top = [data]
    left: list[Any] = [top]
    while left:
        container = left.pop()
        for place, item in container.items() if type(container) is dict else enumerate(container):
            if type(item) is dict or type(item) is list:
                container[place] = copy = item.copy()
                left.append(copy)
    return top[0]


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
    """``owner`` is the object whose fields these are, where it is one."""
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


def _plain_other(value: Any, kind: type, depth: int) -> Any:
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
    if _has_fields(kind):
        return _plain_dict({field.name: getattr(value, field.name) for field in _shape(kind)}, depth, value)
    if any(base.__module__ == "decimal" and base.__name__ == "Decimal" for base in kind.__mro__):
        return str(value)
    raise _Unwritable(f"{_type_name(value)} has no form in JSON")


# Each of these ends in a type that `_plain` knows at first sight.
_BASES: Final[list[tuple[Any, Callable[[Any], Any]]]] = [
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (date | time, lambda value: value.isoformat()),  # a datetime is a date
    (UUID | PurePath, str),
]


@cache
def _shape(cls: Any) -> tuple[Any, ...]:
    return tuple(attrs.fields(cls) if attrs.has(cls) else dataclasses.fields(cls))


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
