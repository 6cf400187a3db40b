"""How each kind of type is read from JSON data: the hooks that ``converter.py`` puts together.

A hook asks the :class:`Reader` that it is made for about the parts of its type. There are two kinds of readers: cattrs'
converters, and :class:`Interpreter`. They differ only in how the fields of a record are gone through, by code that
cattrs generates or by a loop: all that decides what fits is here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, get_args, get_origin

from sepkit.records import MANY, declared
from sepkit.wire.faults import Mismatch, Nothing, describe, one_of
from sepkit.wire.messages import ABSENT, REST, TAG, HasText, Record, Usage
from sepkit.wire.methods import OPEN
from sepkit.wire.shapes import (
    Field,
    admits_null,
    bounds_in,
    fields_of,
    has_fields,
    is_choice,
    is_union,
    tag_of,
    without_null,
)

if TYPE_CHECKING:
    import cattrs

Hook = Callable[[Any, Any], Any]

_MOST_FAULTS: Final = 50
"""Of the items of an array or an object: as many as are told. Arrays within arrays have the product of it, all of it in
one turn of a host's loop."""


class Reader(Protocol):
    """What the hooks of composite types ask about the types of their parts."""

    @property
    def detailed_validation(self) -> bool:
        """Whether all faults are wanted: an exception group. Otherwise the first fault is raised."""

    def get_structure_hook(self, type: Any, /) -> Hook:  # noqa: A002  (as cattrs calls it)
        """The hook of a type."""

    def structure(self, obj: Any, cl: Any, /) -> Any:
        """Read ``obj`` as a ``cl``."""


# ------------------------------------------------------------------------------------------------------------- scalars
def _string(value: Any, _: Any) -> Any:
    if type(value) is str:
        return value
    raise Mismatch("string", value)


def _integer(value: Any, _: Any) -> Any:
    if type(value) is int:
        return value
    raise Mismatch("integer", value)


def _number(value: Any, _: Any) -> Any:
    if type(value) is float:
        return value
    if type(value) is int:  # JSON has one type of numbers
        try:
            return float(value)
        except OverflowError:
            pass
    raise Mismatch("number", value)


def _boolean(value: Any, _: Any) -> Any:
    if type(value) is bool:
        return value
    raise Mismatch("boolean", value)


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


CLASSES: Final[dict[type, Hook]] = {str: _string, int: _integer, float: _number, bool: _boolean}

_SCALARS: Final[dict[Any, Hook]] = {
    NoneType: _null,
    None: _null,
    dict: _object,
    dict[str, Any]: _object,
    Any: _anything,
}


# ------------------------------------------------------------------------------------------------------ composite types
def record_hook(cls: Any, conv: Reader, *, exact: bool) -> Hook:
    """The hook for a record."""
    fields = fields_of(cls)
    strict = exact
    rest = next((f.name for f in fields if REST in f.metadata), None)
    tag = next((f.name for f in fields if TAG in f.metadata), None)
    droppable = frozenset(f.name for f in fields if f.droppable) - {tag}
    named = frozenset(f.name for f in fields) - {rest}
    absent = {} if strict else {f.name: f.metadata[ABSENT] for f in fields if ABSENT in f.metadata}
    own: dict[str, Hook] = {}
    for field in fields:
        if strict and field.droppable and field.type is not Any:
            own[field.name] = _not_null_hook(field.type, conv)
        elif issubclass(cls, Record) and not exact and (hook := _liberal_hook(field.type, conv)) is not None:
            own[field.name] = hook
    forbid = strict and rest is None
    if isinstance(conv, Interpreter):
        inner = conv.fields_hook(cls, fields, own, forbid=forbid)
    else:
        inner = generated(cls, conv, own, forbid=forbid)

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


def generated(cls: Any, conv: Any, own: Mapping[str, Hook], *, forbid: bool) -> Hook:
    """The hook for the fields of a class, in code that cattrs generates. ``own`` has hooks for some fields."""
    from cattrs.gen import make_dict_structure_fn, override

    overrides: dict[str, Any] = {name: override(struct_hook=hook) for name, hook in own.items()}
    made: Hook = make_dict_structure_fn(
        cls,
        conv,
        _cattrs_forbid_extra_keys=forbid,
        _cattrs_detailed_validation=conv.detailed_validation,
        **overrides,
    )
    return made


class Interpreter:
    """A reader that generates no code, and needs no cattrs, which takes 12 ms to import.

    It raises the first fault. A record that is read often goes to the generated code of another reader.

    Args:
        exact: As for ``converter.structure_exactly``.
        compiled: Makes the other reader, which reads the same.
    """

    detailed_validation: Final = False

    def __init__(self, *, exact: bool, compiled: Callable[[], cattrs.Converter]) -> None:
        self._exact = exact
        self._compiled = compiled
        self._hooks: dict[Any, Hook] = dict(CLASSES)

    def get_structure_hook(self, type: Any, /) -> Hook:  # noqa: A002  (as cattrs calls it)
        """The hook of a type.

        Raises:
            TypeError: Nothing can be read as that type: a mistake in the program.
        """
        hook = self._hooks.get(type)
        if hook is None:
            hook = self._hooks[type] = self._made(type)
        return hook

    def structure(self, obj: Any, cl: Any, /) -> Any:
        """Read ``obj`` as a ``cl``."""
        return self.get_structure_hook(cl)(obj, cl)

    def _made(self, t: Any) -> Hook:
        for matches, factory in reversed(FACTORIES):
            if matches(t):
                made: Hook = factory(t, self)
                return made
        if has_fields(t):
            return record_hook(t, self, exact=self._exact)
        raise TypeError(f"{describe(t)} is not a type of the wire")

    def fields_hook(self, cls: Any, fields: Sequence[Field], own: Mapping[str, Hook], *, forbid: bool) -> Hook:
        """The hook for the fields of a record. ``own`` has hooks for some of them."""
        if declared(cls) is None:  # an author's class, of which only attrs knows how it is made
            return generated(cls, self._compiled(), own, forbid=forbid)
        plan = [(f.name, f.type, f.optional, own.get(f.name) or self.get_structure_hook(f.type)) for f in fields]
        left = MANY
        compiled: Hook | None = None

        def read(value: Any, _: Any) -> Any:
            nonlocal left, compiled
            if compiled is not None:
                return compiled(value, _)
            given = {}
            for name, t, optional, hook in plan:
                if not optional or name in value:
                    given[name] = hook(value[name], t)
            if forbid and len(given) < len(value):
                raise Mismatch("no other fields", value)
            left -= 1
            if left == 0:
                compiled = generated(cls, self._compiled(), own, forbid=forbid)
            return cls(**given)

        return read


def _liberal_hook(t: Any, conv: Reader) -> Hook | None:
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


def _not_null_hook(t: Any, conv: Reader) -> Hook:
    wanted = without_null(t)

    def hook(value: Any, _: Any) -> Any:
        if value is None:
            raise Mismatch(describe(wanted), value)
        return conv.structure(value, wanted)

    return hook


def _list_hook(t: Any, conv: Reader) -> Hook:
    (element,) = get_args(t)
    if element is Any:
        items: Hook = _copied
    elif conv.detailed_validation:
        items = _each(element, conv, enumerate)
    else:
        fit = conv.get_structure_hook(element)

        def items(value: Any, _: Any) -> Any:
            return [fit(item, element) for item in value]

    def hook(value: Any, _: Any) -> Any:
        if type(value) is not list:
            raise Mismatch("array", value)
        return items(value, t)

    return hook


def _copied(value: Any, _: Any) -> Any:
    return value.copy()


def _each(wanted: Any, conv: Reader, places: Callable[[Any], Iterable[tuple[Any, Any]]]) -> Hook:
    """The items of an array or an object, all of one type: like cattrs', but it stops after ``_MOST_FAULTS`` faults."""
    from cattrs.errors import IterableValidationError, IterableValidationNote

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
                if len(errors) == _MOST_FAULTS:
                    break
        if errors:
            raise IterableValidationError("", errors, t)
        return made

    return hook


def _dict_hook(t: Any, conv: Reader) -> Hook:
    _, member = get_args(t)  # the keys of a JSON object are strings
    if member is Any:
        base: Hook = _copied
    elif conv.detailed_validation:
        fits = _each(member, conv, dict.items)

        def base(value: Any, _: Any) -> Any:
            return dict(zip(value, fits(value, t), strict=True))
    else:
        fit = conv.get_structure_hook(member)

        def base(value: Any, _: Any) -> Any:
            return {key: fit(item, member) for key, item in value.items()}

    def hook(value: Any, _: Any) -> Any:
        if type(value) is dict:
            return base(value, t)
        raise Mismatch("object", value)

    return hook


def _choice_hook(t: Any, _: object) -> Hook:
    """Literals: equal in value *and* type, so that ``True`` is not 1."""
    by_value = {(type(value), value): value for value in get_args(t)}
    expected = describe(t)
    if all(kind is str for kind, _ in by_value):
        words = frozenset(get_args(t))

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


def _union_hook(t: Any, conv: Reader) -> Hook:
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
            except Exception:
                pass
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


def _tagged_hook(name: str, members: dict[str, Any], conv: Reader) -> Hook:
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


def _annotated_hook(t: Any, conv: Reader) -> Hook:
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


_HOLDS: Final[dict[str, Callable[[Any, Any], bool]]] = {"ge": operator.ge, "le": operator.le}


def _hashable_scalar(t: Any) -> bool:
    try:
        return t in _SCALARS
    except TypeError:
        return False


FACTORIES: Final[list[tuple[Callable[[Any], bool], Callable[[Any, Reader], Hook]]]] = [
    (lambda t: get_origin(t) is dict, _dict_hook),
    (lambda t: get_origin(t) is list, _list_hook),
    (is_choice, _choice_hook),
    (is_union, _union_hook),
    (lambda t: get_origin(t) is Annotated, _annotated_hook),
    (_hashable_scalar, lambda t, _: _SCALARS[t]),
]
