"""Annotation → form: which types have a JSON form, and the sentence that helps where one has none."""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Callable
from datetime import date, datetime, time
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

import attrs

from .constraints import check_for, constraints_in, description_in
from .forms import (
    ANY,
    BOOLEANS,
    COERCIONS,
    FLOATS,
    INTEGERS,
    NULL,
    REFUSED,
    STRING,
    Field,
    Form,
    FormError,
    array_form,
    choice,
    constrained,
    decimal_form,
    mapping_form,
    object_form,
    parsed,
    set_form,
    tuple_form,
    union_form,
)
from .hints import HintError, resolve_class_hints


@attrs.frozen
class Mode:
    """How the types of one signature are read, and the classes we are inside of."""

    strict: bool = False
    forbid: bool = True
    parents: tuple[Any, ...] = ()

    def inside(self, cls: Any) -> Mode:
        """The mode for what a class or an alias holds. Schemas are inlined, so it must not hold itself."""
        if cls in self.parents:
            chain = " → ".join(show(parent) for parent in (*self.parents[self.parents.index(cls) :], cls))
            raise FormError(
                f"{show(cls)} holds itself ({chain}), and schemas are inlined; write dict[str, Any] where it begins"
                " again, or describe it with parameters=<JSON Schema>"
            )
        return attrs.evolve(self, parents=(*self.parents, cls))


def show(annotation: Any) -> str:
    """An annotation as its author wrote it, more or less."""
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return annotation.__name__
    return inspect.formatannotation(annotation)


def form_of(annotation: Any, mode: Mode) -> Form:
    """The form of an annotation. Raises ``FormError``."""
    if annotation is Any or annotation is object:
        return ANY
    if annotation is None or annotation is type(None):
        return NULL
    if isinstance(annotation, typing.NewType):
        return form_of(annotation.__supertype__, mode)
    if type(annotation).__name__ == "TypeAliasType":  # `type X = …`, from Python 3.12 on
        return _alias(annotation, mode)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _annotated(arguments[0], arguments[1:], mode)
    if origin is typing.Union or origin is types.UnionType:
        return _union(list(arguments), mode)
    if origin is typing.Literal:
        return _literal(annotation, mode)
    if isinstance(origin or annotation, type):
        form = _container(origin or annotation, arguments, annotation, mode)
        if form is None and origin is None:
            form = _scalar(annotation, mode) or _class(annotation, mode)
        if form is not None:
            return form
    raise FormError(_no_form(annotation))


def _no_form(annotation: Any) -> str:
    if annotation in (bytes, bytearray, memoryview):
        return f"{show(annotation)} has no JSON form; take str and decode it, as base64 for example"
    if isinstance(annotation, typing.TypeVar):
        return f"the type variable {show(annotation)} has no JSON form; name the type"
    if annotation is Callable or typing.get_origin(annotation) is collections.abc.Callable:
        return f"{show(annotation)} has no JSON form: nobody can send a function; take a name and look it up"
    hint = "take an int, a float or a str" if annotation in (complex,) else _DEFAULT_HINT
    if getattr(annotation, "__name__", None) == "timedelta":
        hint = "take the seconds as float"
    return f"{show(annotation)} has no JSON form; {hint}"


_DEFAULT_HINT = "write an attrs class, a dataclass, a TypedDict or dict[str, Any], or give parameters=<JSON Schema>"


def _alias(alias: Any, mode: Mode) -> Form:
    try:
        value = alias.__value__
    except NameError as error:
        raise FormError(f"the alias {alias} names {error.name!r}, which is not defined") from error
    return form_of(value, mode.inside(alias))


# --- one type after the other --------------------------------------------------------------------------------------


def _scalar(cls: type, mode: Mode) -> Form | None:
    strict = int(mode.strict)
    if cls is str:
        return STRING
    if cls is int:
        return INTEGERS[strict]
    if cls is float:
        return FLOATS[strict]
    if cls is bool:
        return BOOLEANS[strict]
    if cls is datetime:
        return parsed(datetime.fromisoformat, "date-time string (ISO 8601)", {"format": "date-time"}, ordered=True)
    if cls is date:
        return parsed(date.fromisoformat, "date string (ISO 8601)", {"format": "date"}, ordered=True)
    if cls is time:
        return parsed(time.fromisoformat, "time string (ISO 8601)", {"format": "time"}, ordered=True)
    if cls is UUID:
        return parsed(UUID, "UUID string", {"format": "uuid"})
    if issubclass(cls, PurePath):
        return parsed(cls, "path string", {"format": "path"})
    # Whoever annotates with Decimal has imported it; nobody else pays for the import.
    if (decimal := sys.modules.get("decimal")) is not None and cls is decimal.Decimal:
        return decimal_form(cls, mode.strict)
    return None


_LISTS = (
    list,
    collections.abc.Sequence,
    collections.abc.MutableSequence,
    collections.abc.Collection,
    collections.abc.Iterable,
)
_SETS = (set, collections.abc.MutableSet)
_FROZEN_SETS = (frozenset, collections.abc.Set)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def _container(cls: type, arguments: tuple[Any, ...], annotation: Any, mode: Mode) -> Form | None:
    if cls in _MAPPINGS:
        key, value = arguments or (str, Any)
        if not _is_str(key):
            raise FormError(f"{show(annotation)}: keys are strings in JSON; write dict[str, {show(value)}]")
        return mapping_form(form_of(value, mode))
    if cls is tuple:
        if not arguments and annotation not in (tuple, typing.Tuple):  # noqa: UP006  (the old spelling of a bare tuple)
            return tuple_form([])  # tuple[()]
        if arguments and arguments[-1] is not ...:
            return tuple_form([form_of(argument, mode) for argument in arguments])
    elif cls not in _LISTS and cls not in _SETS and cls not in _FROZEN_SETS:
        return None
    item = form_of(arguments[0] if arguments else Any, mode)
    if cls is tuple:
        return array_form(item, tuple, hashable=item.hashable)
    if cls in _LISTS:
        return array_form(item, list, hashable=False)
    if not item.hashable:
        raise FormError(f"{show(annotation)}: a set can't hold what is not hashable; write list[{show(arguments[0])}]")
    return set_form(item, set if cls in _SETS else frozenset, hashable=cls in _FROZEN_SETS)


def _is_str(key: Any) -> bool:
    if isinstance(key, typing.NewType):
        return _is_str(key.__supertype__)
    return key is str or key is Any


def _class(cls: type, mode: Mode) -> Form | None:
    if issubclass(cls, Enum):
        return _enum(cls, mode)
    try:
        if attrs.has(cls):
            return _object(cls, _attrs_fields(cls), mode)
        if dataclasses.is_dataclass(cls):
            return _object(cls, _dataclass_fields(cls), mode)
        if issubclass(cls, tuple) and hasattr(cls, "_field_defaults"):
            return _object(cls, _named_tuple_fields(cls), mode)
        if issubclass(cls, dict) and hasattr(cls, "__total__"):
            return _object(cls, _typed_dict_fields(cls), mode)
    except HintError as error:
        raise FormError(str(error)) from error
    return None


def _enum(cls: type[Enum], mode: Mode) -> Form:
    members = {(type(member.value), member.value): member for member in cls if type(member.value) in COERCIONS}
    if not members or len(members) != len(cls):
        raise FormError(f"the values of {show(cls)} have no JSON form; give it str, int, float or bool values")
    return choice(members, mode.strict)


def _literal(annotation: Any, mode: Mode) -> Form:
    constants: dict[tuple[type, Any], Any] = {}
    for constant in typing.get_args(annotation):
        plain = constant.value if isinstance(constant, Enum) else constant
        if type(plain) not in COERCIONS:
            raise FormError(f"{show(annotation)} holds {show(type(constant))}; use str, int, bool or None in a Literal")
        constants[type(plain), plain] = constant
    null = constants.pop((type(None), None), REFUSED)
    if not constants:
        return NULL
    if null is REFUSED:
        return choice(constants, mode.strict)
    return union_form([choice(constants, True), NULL], [choice(constants, mode.strict), NULL])


def _union(members: list[Any], mode: Mode) -> Form:
    strict = attrs.evolve(mode, strict=True)
    return union_form([form_of(m, strict) for m in members], [] if mode.strict else [form_of(m, mode) for m in members])


# --- classes -------------------------------------------------------------------------------------------------------

Described = tuple[str, Any, bool, Any]
"""A member of a class: its name in JSON, its annotation, whether it is required, its default."""


def _object(cls: Any, fields: list[Described], mode: Mode) -> Form:
    inner = mode.inside(cls)
    found = []
    for name, annotation, required, default in fields:
        try:
            found.append(Field(name, form_of(annotation, inner), required, default))
        except FormError as error:
            raise FormError(f"{show(cls)}.{name}: {error}") from error
    form = object_form(found, lambda members: cls(**members), forbid=mode.forbid, name=cls.__name__)
    return attrs.evolve(form, hashable=cls.__hash__ is not None)


def _attrs_fields(cls: Any) -> list[Described]:
    hints = resolve_class_hints(cls)
    found: list[Described] = []
    for field in attrs.fields(cls):
        if field.init:
            default = REFUSED if isinstance(field.default, attrs.Factory) else field.default  # type: ignore[arg-type]
            required = field.default is attrs.NOTHING
            found.append((field.alias, _hint(cls, hints, field.name), required, REFUSED if required else default))
    return found


def _dataclass_fields(cls: Any) -> list[Described]:
    hints = resolve_class_hints(cls)
    found: list[Described] = []
    for name, parameter in inspect.signature(cls).parameters.items():
        hint = _hint(cls, hints, name)
        # An InitVar is a parameter like the others; its type is what it wraps.
        annotation = hint.type if isinstance(hint, dataclasses.InitVar) else hint
        # With a default_factory the signature shows a placeholder, which no schema can show.
        required = parameter.default is parameter.empty
        found.append((name, annotation, required, REFUSED if required else parameter.default))
    return found


def _named_tuple_fields(cls: Any) -> list[Described]:
    hints, defaults = resolve_class_hints(cls), cls._field_defaults
    return [(n, _hint(cls, hints, n), n not in defaults, defaults.get(n, REFUSED)) for n in cls._fields]


def _typed_dict_fields(cls: Any) -> list[Described]:
    found: list[Described] = []
    for name, hint in resolve_class_hints(cls).items():
        # Under postponed annotations the class has not seen its own NotRequired: what is written wins.
        annotation, written = _unqualified(hint)
        found.append((name, annotation, name in cls.__required_keys__ if written is None else written, REFUSED))
    return found


_QUALIFIERS = {typing.Required: True, typing.NotRequired: False, getattr(typing, "ReadOnly", typing.Required): None}


def _unqualified(hint: Any) -> tuple[Any, bool | None]:
    """A TypedDict's annotation without Required, NotRequired and ReadOnly; and whether it says that it is required."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        inner, required = _unqualified(hint.__origin__)
        return (typing.Annotated[(inner, *hint.__metadata__)], required)
    if origin in _QUALIFIERS:
        inner, required = _unqualified(typing.get_args(hint)[0])
        own = _QUALIFIERS[origin]
        return inner, required if own is None else own
    return hint, None


def _hint(cls: Any, hints: dict[str, Any], name: str) -> Any:
    if name not in hints:
        raise FormError(f"{show(cls)}.{name} has no annotation; write its type")
    return hints[name]


# --- Annotated -----------------------------------------------------------------------------------------------------


def _annotated(annotation: Any, metadata: tuple[Any, ...], mode: Mode) -> Form:
    constraints = constraints_in(metadata)
    if constraints and typing.get_origin(annotation) in (typing.Union, types.UnionType):
        # `Annotated[int | None, Ge(1)]`: the constraint is meant for whatever is not None.
        members = typing.get_args(annotation)
        form = _union([m if m is type(None) else typing.Annotated[(m, *constraints)] for m in members], mode)
    else:
        form = form_of(annotation, mode)
        if constraints:
            form = constrained(form, [check_for(constraint, form, show(annotation)) for constraint in constraints])
    description = description_in(metadata)
    if description is None:
        return form
    bare = {**form.bare, "description": description} if form.bare is not None else None
    return attrs.evolve(form, schema={**form.schema, "description": description}, bare=bare)
