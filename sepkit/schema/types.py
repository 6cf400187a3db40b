"""Annotation → form: which types have a JSON form, and the sentence that helps where one has none."""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time
from enum import Enum
from functools import lru_cache
from pathlib import PurePath
from typing import Any
from uuid import UUID

from sepkit.errors import EncodeError
from sepkit.wire.converter import structure, structure_exactly
from sepkit.wire.messages import Record
from sepkit.wire.shapes import field_names, is_attrs
from sepkit.wire.writing import to_json

from .constraints import check_for, read_metadata
from .defaults import check_default, check_no_marker
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
    derived,
    mapping_form,
    named_tuple_form,
    object_form,
    parsed,
    read_by,
    set_form,
    tuple_form,
    union_form,
)
from .hints import HintError, resolve_class_hints, show

Extra: typing.TypeAlias = typing.Literal["forbid", "ignore", "own", "written"]
"""What becomes of fields that a class does not read: ``own`` ignores those that it writes, and forbids all others.

``written`` is another direction: the form is that of what ``to_json`` makes of a value. A class has the fields that it
writes, a subclass may write more of them, and nothing of the author's is called to check it.
"""

_DEEPEST = 64


class Mode(typing.NamedTuple):
    """How the types of one signature are read, and the classes we are inside of.

    ``ignore`` is the liberal reading of what the wire brings (docs/protocol.md, section 1): null is absent there, too.
    """

    strict: bool = False
    extra: Extra = "forbid"
    parents: tuple[Any, ...] = ()
    variables: Mapping[Any, Any] = types.MappingProxyType({})
    """What the type variables stand for."""

    @property
    def or_schema(self) -> str:
        """What else an author can write where a type does not do; only tools have it."""
        return ", or give parameters=<JSON Schema>" if self.extra == "forbid" else ""

    @property
    def forbid(self) -> bool:
        """Whether unknown fields are refused."""
        return self.extra not in ("ignore", "written")

    @property
    def written(self) -> bool:
        """Whether the form is that of what is written, not of what is read."""
        return self.extra == "written"

    def inside(self, cls: Any, variables: Mapping[Any, Any]) -> Mode:
        """The mode for what a class or an alias holds. Schemas are inlined, so it must not hold itself."""
        if cls in self.parents:
            chain = " → ".join(show(parent) for parent in (*self.parents[self.parents.index(cls) :], cls))
            raise FormError(
                f"{show(cls)} holds itself ({chain}), and schemas are inlined; write dict[str, Any] where it begins"
                f" again{self.or_schema}"
            )
        if len(self.parents) >= _DEEPEST:
            raise FormError(f"{show(cls)} is nested more than {_DEEPEST} classes deep")
        return self._replace(parents=(*self.parents, cls), variables=variables)


def form_of(annotation: Any, mode: Mode) -> Form:
    """The form of an annotation. Raises ``FormError``."""
    try:
        try:
            # `int | str` and `str | int` are equal, but their text is not; and neither are types of different modules.
            text = repr(annotation)
            hash(annotation)
        except Exception:  # what stands in an Annotated may have neither
            return _form_of(annotation, mode)
        return _kept(annotation, text, mode.strict, mode.extra)
    except RecursionError:
        raise FormError("its type is nested too deeply") from None


@lru_cache(maxsize=512)
def _kept(annotation: Any, _text: str, strict: bool, extra: Extra) -> Form:
    """Most functions of an extension take the same few types."""
    return _form_of(annotation, Mode(strict=strict, extra=extra))


def _form_of(annotation: Any, mode: Mode) -> Form:
    if annotation is Any or annotation is object:
        return ANY
    if annotation is None or annotation is type(None):
        return NULL
    if annotation is typing.LiteralString:
        return STRING
    if isinstance(annotation, typing.NewType):
        return _form_of(annotation.__supertype__, mode)
    if isinstance(annotation, typing.TypeVar):
        return _form_of(_meant(annotation, mode), mode)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if _is_alias(annotation) or _is_alias(origin):  # `type X = …`, from Python 3.12 on
        return _alias(annotation, origin, arguments, mode)
    if getattr(annotation, "__unpacked__", False) or any(_is_unpacked(argument) for argument in arguments):
        raise FormError(f"{show(annotation)} has no JSON form; write list[…], or a tuple of a fixed size")
    if origin is typing.Annotated:
        return _annotated(arguments[0], arguments[1:], mode)
    if origin is typing.Final:
        return _form_of(arguments[0], mode)
    if origin is typing.Union or origin is types.UnionType:
        return _union(list(arguments), annotation, mode)
    if origin is typing.Literal:
        return _literal(annotation, mode)
    if isinstance(origin or annotation, type):
        form = _container(origin or annotation, arguments, annotation, mode)
        if form is None and origin is None:
            form = _scalar(annotation, mode)
        if form is None:
            form = _class(origin or annotation, arguments, annotation, mode)
        if form is not None:
            return form
    raise FormError(_no_form(annotation, mode))


def _is_alias(annotation: Any) -> bool:
    return type(annotation).__name__ == "TypeAliasType"


def _is_unpacked(argument: Any) -> bool:
    return typing.get_origin(argument) is typing.Unpack or bool(getattr(argument, "__unpacked__", False))


def _meant(variable: Any, mode: Mode) -> Any:
    """What a type variable stands for here."""
    if variable in mode.variables:
        return mode.variables[variable]
    if getattr(variable, "has_default", bool)():  # from Python 3.13 on
        return variable.__default__
    raise FormError(f"the type variable {show(variable)} has no JSON form; name the type")


def _no_form(annotation: Any, mode: Mode) -> str:
    if annotation in (bytes, bytearray, memoryview):
        return f"{show(annotation)} has no JSON form; take str and decode it, as base64 for example"
    if annotation is Callable or typing.get_origin(annotation) is collections.abc.Callable:
        return f"{show(annotation)} has no JSON form: a function can't be sent; take a name and look it up"
    if (written := _INSTEAD.get(getattr(annotation, "__qualname__", ""))) is not None:
        return f"{show(annotation)} has no JSON form; write {written}"
    hint = "take an int, a float or a str" if annotation in (complex,) else _DEFAULT_HINT + mode.or_schema
    if getattr(annotation, "__name__", None) == "timedelta":
        hint = "take the seconds as float"
    return f"{show(annotation)} has no JSON form; {hint}"


_INSTEAD = {
    "deque": "list[…], and make a deque of it in the function",
    "OrderedDict": "dict[str, …]: it keeps its order",
    "defaultdict": "dict[str, …], and make a defaultdict of it in the function",
    "Counter": "dict[str, int], and make a Counter of it in the function",
    "Iterator": "list[…]",
    "AsyncIterator": "list[…]",
}
_DEFAULT_HINT = "write an attrs class, a dataclass, a TypedDict or dict[str, Any]"


def _alias(annotation: Any, origin: Any, arguments: tuple[Any, ...], mode: Mode) -> Form:
    alias = annotation if origin is None else origin
    try:
        value = alias.__value__
    except NameError as error:
        raise FormError(f"the alias {alias} names {error.name!r}, which is not defined") from error
    variables = _variables(alias.__type_params__, arguments, mode)
    return _form_of(value, mode.inside(annotation, variables))


def _variables(parameters: Sequence[Any], arguments: Sequence[Any], mode: Mode) -> dict[Any, Any]:
    """What the type variables of a class or an alias stand for, where it is used with these arguments."""
    return dict(zip(parameters, (_put_in(argument, mode.variables) for argument in arguments), strict=False))


def _put_in(annotation: Any, variables: Mapping[Any, Any]) -> Any:
    """An annotation with its type variables replaced by what they stand for."""
    if isinstance(annotation, typing.TypeVar):
        return variables.get(annotation, annotation)
    parameters = getattr(annotation, "__parameters__", ())
    if not parameters or (isinstance(annotation, type) and typing.get_origin(annotation) is None):
        return annotation
    return annotation[tuple(variables.get(parameter, parameter) for parameter in parameters)]


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
        return parsed(
            datetime.fromisoformat, "date-time string (ISO 8601)", {"format": "date-time"}, ordered=(datetime,)
        )
    if cls is date:
        return parsed(date.fromisoformat, "date string (ISO 8601)", {"format": "date"}, ordered=(date,))
    if cls is time:
        return parsed(time.fromisoformat, "time string (ISO 8601)", {"format": "time"}, ordered=(time,))
    if cls is UUID:
        return parsed(UUID, "UUID string", {"format": "uuid"})
    if issubclass(cls, PurePath):
        return parsed(cls, "path string", {"format": "path"})
    # An author who annotates with Decimal has imported it; others do not pay for the import.
    if (decimal := sys.modules.get("decimal")) is not None and cls is decimal.Decimal:
        return decimal_form(cls, mode.strict)
    if not issubclass(cls, Enum):
        for base, form in ((str, STRING), (int, INTEGERS[strict]), (float, FLOATS[strict])):
            if issubclass(cls, base):
                return derived(cls, form)
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
        key_form = STRING if key is Any else _form_of(key, mode._replace(strict=True))
        if key_form.takes != {"string"}:
            raise FormError(f"{show(annotation)}: keys are strings in JSON; write dict[str, {show(value)}]")
        return mapping_form(_form_of(value, mode), key_form)
    if cls is tuple:
        if not arguments and annotation not in (tuple, typing.Tuple):  # noqa: UP006  (the old spelling of a bare tuple)
            return tuple_form([])  # tuple[()]
        if arguments and arguments[-1] is not ...:
            return tuple_form([_form_of(argument, mode) for argument in arguments])
    elif cls not in _LISTS and cls not in _SETS and cls not in _FROZEN_SETS:
        return None
    item = _form_of(arguments[0] if arguments else Any, mode)
    if cls is tuple:
        return array_form(item, tuple, hashable=item.hashable)
    if cls in _LISTS:
        return array_form(item, list, hashable=False)
    if mode.written:
        return array_form(item, list, hashable=True)
    if not item.hashable:
        raise FormError(f"{show(annotation)}: a set can't hold what is not hashable; write list[{show(arguments[0])}]")
    return set_form(item, set if cls in _SETS else frozenset, hashable=cls in _FROZEN_SETS)


def _class(cls: Any, arguments: tuple[Any, ...], annotation: Any, mode: Mode) -> Form | None:
    """The form of a class with fields, or of an Enum; ``annotation`` is the class with its type arguments."""
    if issubclass(cls, Enum):
        return _enum(cls, mode)
    if issubclass(cls, Record):
        return _record(cls, mode)
    try:
        if is_attrs(cls):
            fields = _attrs_fields(cls)
        elif dataclasses.is_dataclass(cls):
            fields = _dataclass_fields(cls)
        elif issubclass(cls, tuple) and hasattr(cls, "_field_defaults"):
            fields = _named_tuple_fields(cls)
        elif issubclass(cls, dict) and hasattr(cls, "__total__"):
            fields = _typed_dict_fields(cls)
        else:
            return None
    except HintError as error:
        raise FormError(str(error)) from error
    return _object(cls, arguments, annotation, fields, mode)


def _record(annotation: Any, mode: Mode) -> Form:
    """A record of the wire, or a union of some: by the wire's own reader, which knows their tags and their bounds.

    A record has one meaning wherever it stands, so it is not coerced. Its schema is made only where one is shown.
    """
    schema: dict[str, Any] = {"type": "object"}
    if mode.forbid:
        from sepkit.wire.spec import schema_of

        with contextlib.suppress(TypeError):  # a block contains blocks, and schemas here have no references
            schema = schema_of(annotation)
    read = structure_exactly if mode.forbid else structure
    expected = f"object ({show(annotation)})"
    return read_by(lambda value: read(value, annotation), expected, schema)


def _enum(cls: type[Enum], mode: Mode) -> Form:
    members = {(type(member.value), member.value): member for member in cls if type(member.value) in COERCIONS}
    if not members or len(members) != len(cls):
        raise FormError(f"the values of {show(cls)} have no JSON form; give it str, int, float or bool values")
    _check_constants(members, cls)
    return choice(members, mode.strict)


def _check_constants(constants: Iterable[tuple[type, Any]], annotation: Any) -> None:
    for _, constant in constants:
        try:
            to_json(constant)
        except EncodeError as error:
            raise FormError(f"{show(annotation)} holds {error.problem}, which can't be sent") from None


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
    _check_constants(constants, annotation)
    form = choice(constants, mode.strict)
    return form if null is REFUSED else union_form([form, NULL])


def _union(members: list[Any], annotation: Any, mode: Mode) -> Form:
    records = [member for member in members if isinstance(member, type) and issubclass(member, Record)]
    if len(records) > 1:  # their tags tell them apart
        one: Any = typing.Union[tuple(records)]  # noqa: UP007  (built at run time)
        forms = [_record(one, mode)] + [_form_of(member, mode) for member in members if member not in records]
        return forms[0] if len(forms) == 1 else union_form(forms)
    return union_form([_form_of(member, mode) for member in members])


# --- classes -------------------------------------------------------------------------------------------------------


class _Member:
    """A member of a class, as its author declared it.

    Args:
        name: Its name in JSON.
        annotation: Its type.
        required: Whether it must be given.
        default: REFUSED where there is none, or none that a schema can show.
        owner: The class that declares it, whose type variables its annotation uses.
        is_input: Not where the class makes it itself.
    """

    __slots__ = ("annotation", "default", "is_input", "name", "owner", "required")

    def __init__(
        self,
        name: str,
        annotation: Any,
        required: bool,
        default: Any = REFUSED,
        owner: Any = None,
        *,
        is_input: bool = True,
    ) -> None:
        self.name = name
        self.annotation = annotation
        self.required = required
        self.default = default
        self.owner = owner
        self.is_input = is_input


def _object(cls: Any, arguments: tuple[Any, ...], annotation: Any, members: list[_Member], mode: Mode) -> Form:
    bound = _bound_variables(cls, arguments, mode)
    if mode.written:
        return _written_object(cls, annotation, members, mode, bound)
    found: list[Field] = []
    for member in members:
        if member.is_input:
            inner = mode.inside(annotation, bound.get(member.owner, bound[cls]))
            try:
                form = _form_of(member.annotation, inner)
                check_no_marker(member.default, member.annotation, member.name)
                check_default(member.default, member.annotation, form)
            except FormError as error:
                raise FormError(f"{show(annotation)}.{member.name}: {error}") from error
            found.append(Field(member.name, form, member.required, member.default))

    def build(loaded: dict[str, Any]) -> Any:
        return cls(**loaded)

    form = object_form(
        found,
        build,
        forbid=mode.forbid,
        absent_null=not mode.forbid,
        computed={member.name for member in members if not member.is_input} if mode.extra == "own" else (),
        name=show(annotation),
    )
    if issubclass(cls, tuple):
        form = named_tuple_form(found, form, build)
    return form.but(hashable=cls.__hash__ is not None)


def _written_object(
    cls: Any, annotation: Any, members: list[_Member], mode: Mode, bound: dict[Any, dict[Any, Any]]
) -> Form:
    """What ``to_json`` writes of a class: all of its fields; of a TypedDict, those that are there."""
    is_dict = issubclass(cls, dict)
    names = {member.name for member in members} if is_dict else {name for _, name in field_names(cls)}
    found: list[Field] = []
    for member in members:
        if member.name in names:  # a parameter that is no field is not written
            inner = mode.inside(annotation, bound.get(member.owner, bound[cls]))
            try:
                form = _form_of(member.annotation, inner)
            except FormError as error:
                raise FormError(f"{show(annotation)}.{member.name}: {error}") from error
            found.append(Field(member.name, form, member.required or not is_dict))
    if issubclass(cls, tuple):
        return tuple_form([field.form for field in found])
    return object_form(found, lambda loaded: loaded, forbid=False, name=show(annotation))


def _bound_variables(cls: Any, arguments: tuple[Any, ...], mode: Mode) -> dict[Any, dict[Any, Any]]:
    """What the type variables stand for, in ``cls`` and in each of its generic bases."""
    bound: dict[Any, dict[Any, Any]] = {cls: _variables(getattr(cls, "__parameters__", ()), arguments, mode)}
    left = [cls]
    while left:
        derived_class = left.pop()
        for base in _bases(derived_class):
            origin = typing.get_origin(base) or base
            if isinstance(origin, type) and origin not in bound and origin is not object:
                given = (_put_in(argument, bound[derived_class]) for argument in typing.get_args(base))
                bound[origin] = dict(zip(getattr(origin, "__parameters__", ()), given, strict=False))
                left.append(origin)
    return bound


def _bases(cls: Any) -> tuple[Any, ...]:
    bases: tuple[Any, ...] = cls.__dict__.get("__orig_bases__", cls.__bases__)
    return bases


def _owner(cls: Any, name: str) -> Any:
    """The class that declares an annotation."""
    return next((base for base in cls.__mro__ if name in inspect.get_annotations(base)), cls)


def _attrs_fields(cls: Any) -> list[_Member]:
    import attrs

    hints = resolve_class_hints(cls)
    found = []
    for field in attrs.fields(cls):
        required = field.default is attrs.NOTHING
        # What a factory makes can't be shown, and a converter takes other types than the annotation says.
        unknown = required or isinstance(field.default, attrs.Factory) or field.converter is not None  # type: ignore[arg-type]
        annotation = _hint(cls, hints, field.name) if field.init else Any
        default = REFUSED if unknown else field.default
        found.append(_Member(field.alias, annotation, required, default, _owner(cls, field.name), is_input=field.init))
    return found


def _dataclass_fields(cls: Any) -> list[_Member]:
    hints = resolve_class_hints(cls)
    made = {field.name for field in dataclasses.fields(cls) if field.default_factory is not dataclasses.MISSING}
    found = []
    for name, parameter in inspect.signature(cls).parameters.items():
        hint = _hint(cls, hints, name)
        # An InitVar is a parameter like the others; its type is what it wraps.
        annotation = hint.type if isinstance(hint, dataclasses.InitVar) else hint
        required = parameter.default is parameter.empty
        # With a default_factory the signature has a placeholder, which no schema can show.
        default = REFUSED if required or name in made else parameter.default
        found.append(_Member(name, annotation, required, default, _owner(cls, name)))
    names = {member.name for member in found}
    rest = [field.name for field in dataclasses.fields(cls) if field.name not in names]
    return found + [_Member(name, Any, required=False, is_input=False) for name in rest]


def _named_tuple_fields(cls: Any) -> list[_Member]:
    hints, defaults = resolve_class_hints(cls), cls._field_defaults
    return [
        _Member(n, _hint(cls, hints, n), n not in defaults, defaults.get(n, REFUSED), _owner(cls, n))
        for n in cls._fields
    ]


def _typed_dict_fields(cls: Any) -> list[_Member]:
    found = []
    owners = _typed_dict_owners(cls)
    for name, hint in resolve_class_hints(cls).items():
        # Under postponed annotations the class has not seen its own NotRequired: what is written wins.
        annotation, written = _unqualified(hint)
        required = name in cls.__required_keys__ if written is None else written
        found.append(_Member(name, annotation, required, owner=owners.get(name, cls)))
    return found


def _typed_dict_owners(cls: Any) -> dict[str, Any]:
    """The TypedDict that declares each key; Python leaves no trace of it in the class that inherits the key."""
    owners: dict[str, Any] = {}
    for base in _bases(cls):
        origin = typing.get_origin(base) or base
        if hasattr(origin, "__total__"):
            owners |= _typed_dict_owners(origin)
    own = {name: cls for name in inspect.get_annotations(cls) if name not in owners}
    return own | owners


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
    try:
        description, constraints = read_metadata(metadata)
    except FormError as error:
        raise FormError(f"{show(annotation)}: {error}") from None
    if constraints and typing.get_origin(annotation) in (typing.Union, types.UnionType):
        # `Annotated[int | None, Ge(1)]`: the constraint is meant for all that is not None.
        members = [m if m is type(None) else typing.Annotated[(m, *constraints)] for m in typing.get_args(annotation)]
        form = _union(members, annotation, mode)
    else:
        form = _form_of(annotation, mode)
        if constraints:
            form = constrained(form, [check_for(constraint, form, show(annotation)) for constraint in constraints])
    if description is None:
        return form
    bare = {**form.bare, "description": description} if form.bare is not None else None
    return form.but(schema={**form.schema, "description": description}, bare=bare)
