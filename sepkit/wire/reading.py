"""How each kind of type is read from JSON data: the structure hooks of cattrs that ``converter.py`` puts together."""

from __future__ import annotations

import enum
import operator
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time
from functools import cache
from pathlib import PurePath
from types import GenericAlias, NoneType
from typing import Annotated, Any, Final, NotRequired, Required, cast, get_args, get_origin
from uuid import UUID

import cattrs
from cattrs.cols import list_structure_factory, mapping_structure_factory
from cattrs.errors import (
    AttributeValidationNote,
    ClassValidationError,
    IterableValidationError,
    IterableValidationNote,
    StructureHandlerNotFoundError,
)
from cattrs.gen import make_dict_structure_fn, override

from sepkit.errors import MOST_FAULTS
from sepkit.wire.faults import JSON_TYPES, Mismatch, Nothing, describe, one_of
from sepkit.wire.messages import ABSENT, REST, TAG, HasText, Record, Usage
from sepkit.wire.methods import OPEN
from sepkit.wire.shapes import admits_null, bounds_in, fields_of, is_choice, is_list, is_union, tag_of, without_null

Hook = Callable[[Any, Any], Any]


# ------------------------------------------------------------------------------------------------------------- scalars
# cattrs finds hooks of classes by inheritance, before it asks predicates: the hook of `str` is also called for a
# `class Color(str, Enum)`. So the hooks look at the type that was asked for.
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
            raise Mismatch("number", value) from None
    return value if t is float and type(value) is float else _derived(value, t, float)


def _boolean(value: Any, _: Any) -> Any:
    if type(value) is bool:
        return value
    raise Mismatch("boolean", value)


def _derived(value: Any, t: Any, base: type) -> Any:
    if t is not base and issubclass(t, enum.Enum):
        return _enum_hook(t)(value, t)
    if t is not base and type(value) is base:
        return t(value)
    raise Mismatch(JSON_TYPES[base], value)


@cache
def _enum_hook(t: Any) -> Hook:
    return _choice_hook(t, None)


def _null(value: Any, _: Any) -> Any:
    if value is None:
        return value
    raise Mismatch("null", value)


def _object(value: Any, _: Any) -> Any:
    if type(value) is dict:
        return value
    raise Mismatch("object", value)


def _anything(value: Any, _: Any) -> Any:
    return value


def _text_as(parse: Callable[[str], Any], expected: str) -> Hook:
    def hook(value: Any, _: Any) -> Any:
        if type(value) is str:
            try:
                return parse(value)
            except (ValueError, ArithmeticError):  # Decimal raises the second
                pass
        raise Mismatch(expected, value)

    return hook


def _no_bytes(value: Any, _: Any) -> Any:
    raise Mismatch("no bytes: JSON has none", value)


CLASSES: Final[dict[type, Hook]] = {str: _string, int: _integer, float: _number, bool: _boolean, bytes: _no_bytes}

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


# ------------------------------------------------------------------------------------------------------ composite types
def record_hook(cls: Any, conv: cattrs.Converter, *, exact: bool) -> Hook:
    """The hook for an attrs class, a dataclass or a record of the wire."""
    fields = fields_of(cls)
    strict = exact and issubclass(cls, Record)
    rest = next((f.name for f in fields if REST in f.metadata), None)
    tag = next((f.name for f in fields if TAG in f.metadata), None)
    droppable = frozenset(f.name for f in fields if f.droppable) - {tag}
    named = frozenset(f.name for f in fields) - {rest}
    absent = {} if strict else {f.name: f.metadata[ABSENT] for f in fields if ABSENT in f.metadata}
    overrides: dict[str, Any] = {}
    for field in fields:
        if strict and field.droppable and field.type is not Any:
            overrides[field.name] = override(struct_hook=_not_null_hook(field.type, conv))
        elif issubclass(cls, Record) and not exact and (hook := _liberal_hook(field.type, conv)) is not None:
            overrides[field.name] = override(struct_hook=hook)
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
        raise Mismatch("object", value)

    def structure_record(value: Any, _: Any) -> Any:
        if type(value) is not dict:
            raise Mismatch("object", value)
        if tag is not None and tag not in value:
            raise Mismatch(f"a field '{tag}'", Nothing())
        if not strict and None in value.values():
            value = {k: v for k, v in value.items() if v is not None or k not in droppable}
        for name, make in absent.items():
            if value.get(name) is None:
                value = {**value, name: make()}
        if rest is not None:
            kept = {k: v for k, v in value.items() if k not in named}
            value = {k: v for k, v in value.items() if k in named}
            if kept:
                value[rest] = kept
        return inner(value, _)

    if tag is not None or rest is not None or absent or (droppable and not strict):
        return structure_record
    if not conv.detailed_validation and not all(f.optional for f in fields):
        return inner  # looks up a field by name, which fails for anything but an object; the second reading explains
    return structure_plain


def _liberal_hook(t: Any, conv: cattrs.Converter) -> Hook | None:
    """For the fields of the wire that are read more liberally than they are written."""
    if without_null(t) in OPEN:
        nullable, expected = admits_null(t), describe(without_null(t))

        def word(value: Any, _: Any) -> Any:
            if type(value) is str or (value is None and nullable):
                return value
            raise Mismatch(expected, value)

        return word
    if get_origin(t) is dict and not admits_null(get_args(t)[1]):
        base = conv.get_structure_hook(t)

        def members(value: Any, _: Any) -> Any:
            if type(value) is dict:
                value = {name: member for name, member in value.items() if member is not None}
            return base(value, t)

        return members
    return None


def _not_null_hook(t: Any, conv: cattrs.Converter) -> Hook:
    wanted = without_null(t)

    def hook(value: Any, _: Any) -> Any:
        if value is None:
            raise Mismatch(describe(wanted), value)
        return conv.structure(value, wanted)

    return hook


def _list_hook(t: Any, conv: cattrs.Converter) -> Hook:
    """Lists, and what is made from one: tuples of one type, sets, frozensets."""
    origin = get_origin(t) or t
    element = (get_args(t) or (Any,))[0]
    items: Hook = list_structure_factory(cast("Any", GenericAlias(list, (element,))), conv)
    if conv.detailed_validation and element is not Any:
        items = _each(element, conv, enumerate)
    make = {tuple: tuple, set: set, frozenset: frozenset}.get(origin)

    def hook(value: Any, _: Any) -> Any:
        if type(value) is not list:
            raise Mismatch("array", value)
        structured = items(value, t)
        return structured if make is None else make(structured)

    return hook


def _each(wanted: Any, conv: cattrs.Converter, places: Callable[[Any], Iterable[tuple[Any, Any]]]) -> Hook:
    """The items of an array or an object, all of one type: like cattrs', but it stops after ``MOST_FAULTS`` faults."""
    try:
        fit = conv.get_structure_hook(wanted)
    except RecursionError:  # its hook is being made, further up the stack
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
    """Tuples of a fixed length, each item of its own type; a named tuple is an array, too."""
    if get_args(t):
        types, make = get_args(t), tuple
    else:
        hints = typing.get_type_hints(t, include_extras=True)
        types, make = tuple(hints.get(name, Any) for name in t._fields), t._make
    hooks = [(wanted, conv.get_structure_hook(wanted)) for wanted in types]
    expected = f"array of {len(types)} items"

    def hook(value: Any, _: Any) -> Any:
        if type(value) is not list or len(value) != len(types):
            raise Mismatch(expected, value)
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
        raise Mismatch("object", value)

    return hook


def _typed_dict_hook(t: Any, conv: cattrs.Converter) -> Hook:
    """TypedDicts. Keys that they do not name are kept, since the result is a dict anyway."""
    fields: list[tuple[str, Any, Hook, bool]] = []
    for name, hint in typing.get_type_hints(t, include_extras=True).items():
        # `__required_keys__` misses a NotRequired in a string annotation (`from __future__ import annotations`).
        wrapper = get_origin(hint)
        required = name in t.__required_keys__ if wrapper not in (Required, NotRequired) else wrapper is Required
        wanted = get_args(hint)[0] if wrapper in (Required, NotRequired) else hint
        fields.append((name, wanted, conv.get_structure_hook(wanted), required))

    def hook(value: Any, _: Any) -> Any:
        if type(value) is not dict:
            raise Mismatch("object", value)
        made, errors = dict(value), []
        for name, wanted, fit, required in fields:
            if not required and (name not in value or (value[name] is None and not admits_null(wanted))):
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
            raise Mismatch(expected, value)

        return word

    def hook(value: Any, _: Any) -> Any:
        try:
            return by_value[type(value), value]
        except (KeyError, TypeError):  # TypeError: a list or a dict is not hashable
            raise Mismatch(expected, value) from None

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
    # No hook coerces, so at most one member fits, except that an integer fits a number, too.
    def hook(value: Any, _: Any) -> Any:
        for member, fit in members:
            try:
                return fit(value, member)
            except Exception as error:
                if isinstance(error, StructureHandlerNotFoundError):
                    raise
        raise Mismatch(expected, value)

    return hook


def _tagged_members(members: Iterable[Any]) -> tuple[str, dict[str, Any]] | None:
    """The name of the tag of a union's members, and the member for each tag; None if they have no common one."""
    by_tag: dict[str, Any] = {}
    names = set()
    for member in members:
        if member is Usage:  # the same record is used in results, where it has no tag
            names.add("type")
            by_tag["Usage"] = member
            continue
        field = tag_of(member)
        if field is None:
            return None
        names.add(field.name)
        by_tag[get_args(field.type)[0]] = member
    return (names.pop(), by_tag) if len(names) == 1 and len(by_tag) > 1 else None


def _tagged_hook(name: str, members: dict[str, Any], conv: cattrs.Converter) -> Hook:
    expected = one_of(members)

    def hook(value: Any, _: Any) -> Any:
        if type(value) is not dict:
            raise Mismatch("object", value)
        if name not in value:
            raise Mismatch(f"a field '{name}'", Nothing())
        tag = value[name]
        member = members.get(tag) if type(tag) is str else None
        if member is None:
            raise Mismatch(expected, tag, f".{name}")
        if member is Usage:
            value = {k: v for k, v in value.items() if k != name}
        # Looked up late: a block contains blocks.
        return conv.structure(value, member)

    return hook


def _annotated_hook(t: Any, conv: cattrs.Converter) -> Hook:
    base_type, *metadata = get_args(t)
    base = conv.get_structure_hook(base_type)
    checks = [m for m in metadata if bounds_in(m) or isinstance(m, HasText)]
    if not checks:
        return base
    expected = describe(t)
    text = next((m.name for m in checks if isinstance(m, HasText)), None)
    limits = [(_HOLDS[name], bound) for m in checks for name, bound in bounds_in(m).items()]

    def bounded(value: Any, _: Any) -> Any:
        try:
            made = base(value, base_type)
        except Mismatch:
            raise Mismatch(expected, value) from None
        for holds, bound in limits:
            if not holds(made, bound):
                raise Mismatch(expected, value)
        return made

    def with_text(value: Any, _: Any) -> Any:
        made = base(value, base_type)
        if text not in made:
            raise Mismatch(f"a field '{text}'", Nothing())
        if type(made[text]) is not str:
            raise Mismatch("string", made[text], f".{text}")
        return made

    return bounded if text is None else with_text


_HOLDS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "ge": operator.ge,
    "gt": operator.gt,
    "le": operator.le,
    "lt": operator.lt,
}


def _hashable_scalar(t: Any) -> bool:
    try:
        return t in _SCALARS
    except TypeError:
        return False


FACTORIES: Final[list[tuple[Callable[[Any], bool], Callable[[Any, cattrs.Converter], Hook]]]] = [
    (lambda t: get_origin(t) in (dict, Mapping) or t is Mapping, _dict_hook),
    (lambda t: get_origin(t) is tuple and not is_list(t), _pair_hook),
    (lambda t: isinstance(t, type) and issubclass(t, tuple) and hasattr(t, "_fields"), _pair_hook),
    (is_list, _list_hook),
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
    (is_choice, _choice_hook),
    (is_union, _union_hook),
    (lambda t: get_origin(t) is Annotated, _annotated_hook),
    (_hashable_scalar, lambda t, _: _SCALARS[t]),
]
