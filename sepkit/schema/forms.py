"""Forms: what a type is in JSON, as a schema that describes it and a function that loads a JSON value as it.

The building blocks, one function for each kind of form; which annotation has which is `types.py`.

Own closures, not cattrs, whose hooks don't know where in the value they stand and coerce by calling the type: here
every fault is wanted, with its path. A loader appends its faults with paths relative to itself, and its holder puts
its own step before them, so that a path costs nothing where there is no fault. What a loader returns after it has
reported a fault is never used.

Each loader looks at a value once: also a union tries each of its members only once, so the time for a value is linear
in the size of its schema, and that is bounded (``LARGEST``).
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Collection, Iterable
from enum import Enum
from math import isinf
from typing import Any

import orjson

from sepkit.errors import MOST_FAULTS, Fault, InvalidData
from sepkit.wire.faults import JSON_TYPES


class Faults(list[Fault]):
    """What a loader found wrong; and whether it had to coerce a value, which a union takes for the second best."""

    coerced = False


Load = Callable[[Any, Faults], Any]


class FormError(Exception):
    """A type has no JSON form. The text completes "parameter 'x': …" and says what to write instead."""


class _Refused:
    """What a coercion returns when it would lose something."""


REFUSED: typing.Final = _Refused()

LARGEST: typing.Final = 10_000
"""How many parts a schema may have. Schemas are inlined, so classes that use each other twice double it each time."""

# What an author's class, validator or predicate raises for a value that it does not like.
_WRONG_VALUE = (TypeError, ValueError, LookupError, ArithmeticError, AssertionError)

# The keys come from the peer, and a fault goes back to it.
_LONGEST_STEP = 100


def json_word(value: object) -> str:
    """What a value is in JSON, in one word. Never the value: it may be a secret."""
    return JSON_TYPES.get(type(value), "no JSON value")


def key_step(key: object) -> str:
    """The step of a path that leads to a member of an object."""
    text = str(key)
    if len(text) > _LONGEST_STEP:
        text = text[: _LONGEST_STEP - 1] + "…"
    if text.isidentifier():
        return f".{text}"
    return f"[{orjson.dumps(text, default=str).decode()}]" if text.isprintable() else f"[{text!r}]"


def prefix(faults: Faults, start: int, step: str) -> None:
    """Put the holder's step before the paths of the faults that were added since ``start``."""
    for fault in faults[start:]:
        fault.path = step + fault.path


class Form:
    """How one annotation looks in JSON. It is not changed.

    Args:
        schema: Its JSON Schema.
        expected: What a fault calls it.
        takes: The JSON words it takes without coercion.
        load: Loads a value.
        exact: Values of exactly these types are loaded as they are: the holder of the form need not call ``load``.
        hashable: Whether a set may hold what it loads.
        ordered: Of a date or a decimal, which is a string in JSON, but has bounds as what it is loaded: the types of
            bounds.
        is_parsed: A string in JSON that is something else when it is loaded: no lengths and no patterns apply.
        bare: The schema without null, where the form is optional.
        size: How many parts the schema has.
    """

    __slots__ = ("bare", "exact", "expected", "hashable", "is_parsed", "load", "ordered", "schema", "size", "takes")

    def __init__(
        self,
        schema: dict[str, Any],
        expected: str,
        takes: frozenset[str],
        load: Load,
        exact: frozenset[type] = frozenset(),
        hashable: bool = True,
        ordered: tuple[type, ...] = (),
        is_parsed: bool = False,
        bare: dict[str, Any] | None = None,
        size: int = 1,
    ) -> None:
        self.schema = schema
        self.expected = expected
        self.takes = takes
        self.load = load
        self.exact = exact
        self.hashable = hashable
        self.ordered = ordered
        self.is_parsed = is_parsed
        self.bare = bare
        self.size = size

    def but(self, **changes: Any) -> Form:
        """A copy with these changes."""
        made = Form.__new__(Form)
        for name in Form.__slots__:
            setattr(made, name, changes[name] if name in changes else getattr(self, name))
        return made


def size_of(parts: Iterable[Form]) -> int:
    """How many parts a schema made of these has. Raises ``FormError`` where they are too many."""
    size = 1 + sum(part.size for part in parts)
    if size > LARGEST:
        raise FormError(
            f"its schema would have more than {LARGEST:,} parts, since all that it uses is written out each time;"
            " use dict[str, Any] for some of it"
        )
    return size


# --- scalars -------------------------------------------------------------------------------------------------------

# Compiled by their first use (re keeps them): a start that compiles nothing is 1 ms shorter.
_INTEGER = r"(-?(?:0|[1-9][0-9]*))(?:\.0+)?"
_NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
# Past this no double has 17 digits to tell, and Python would work long on a hostile one.
_LONGEST_NUMBER = 400


def _to_int(value: Any) -> Any:
    if type(value) is float:
        return int(value) if value.is_integer() else REFUSED
    if type(value) is str and len(value) <= _LONGEST_NUMBER and (match := re.fullmatch(_INTEGER, value)):
        return int(match[1])
    return REFUSED


def _widened(value: Any) -> Any:
    # No coercion in JSON, which knows one type of number; a reader of JSON numbers rounds 2**53 + 1 too.
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return REFUSED
    return REFUSED


def _to_float(value: Any) -> Any:
    if type(value) is str and len(value) <= _LONGEST_NUMBER and re.fullmatch(_NUMBER, value):
        from decimal import Decimal  # 2 ms, needed by nobody who sends numbers as numbers

        number = float(value)
        try:
            lossless = not isinf(number) and Decimal(repr(number)) == Decimal(value)
        except ArithmeticError:  # an exponent past those of Decimal
            return REFUSED
        return number if lossless else REFUSED
    return REFUSED


def _to_bool(value: Any) -> Any:
    if type(value) is str:
        return {"true": True, "false": False}.get(value, REFUSED)
    return REFUSED


def scalar(
    word: str,
    cls: type,
    coerce: Callable[[Any], Any] | None,
    *,
    takes: frozenset[str] | None = None,
    widen: bool = False,
) -> Form:
    """A form whose exact values are those of one Python type; with ``widen`` it takes integers as floats."""

    def load(value: Any, faults: Faults) -> Any:
        if type(value) is cls:
            return value
        if widen and type(value) is int and (widened := _widened(value)) is not REFUSED:
            return widened
        if coerce is not None and (coerced := coerce(value)) is not REFUSED:
            faults.coerced = True
            return coerced
        faults.append(Fault("", word, json_word(value)))
        return None

    return Form({"type": word}, word, takes or frozenset({word}), load, exact=frozenset({cls}))


STRING = scalar("string", str, None)
NULL = scalar("null", type(None), None)
_NUMBERS = frozenset({"integer", "number"})
# By strictness: lax, strict.
INTEGERS = (scalar("integer", int, _to_int), scalar("integer", int, None))
FLOATS = (
    scalar("number", float, _to_float, takes=_NUMBERS, widen=True),
    scalar("number", float, None, takes=_NUMBERS, widen=True),
)
BOOLEANS = (scalar("boolean", bool, _to_bool), scalar("boolean", bool, None))


def _anything(value: Any, faults: Faults) -> Any:
    return value


ANY = Form({}, "any value", frozenset(JSON_TYPES.values()), _anything, exact=frozenset(JSON_TYPES))


def parsed(
    parse: Callable[[str], Any],
    expected: str,
    schema: dict[str, Any],
    *,
    ordered: tuple[type, ...] = (),
    other: Callable[[Any], Any] | None = None,
) -> Form:
    """A string in JSON, something better in Python. ``other`` coerces what is not a string."""

    def load(value: Any, faults: Faults) -> Any:
        try:
            if type(value) is str:
                return parse(value)
            if other is not None and (coerced := other(value)) is not REFUSED:
                faults.coerced = True
                return coerced
        except _WRONG_VALUE:
            pass
        faults.append(Fault("", expected, json_word(value)))
        return None

    schema = {"type": "string", **schema}
    return Form(schema, expected, frozenset({"string"}), load, ordered=ordered, is_parsed=True)


def decimal_form(cls: Any, strict: bool) -> Form:
    """A Decimal: a string that reads as a number."""

    def parse(text: str) -> Any:
        if len(text) > _LONGEST_NUMBER or not re.fullmatch(_NUMBER, text):
            raise ValueError("no number")
        try:
            return cls(text)
        except ArithmeticError as error:
            raise ValueError("too large an exponent") from error

    def from_number(value: Any) -> Any:
        # repr is the shortest text that reads back as the same double: what the sender most likely wrote.
        return cls(repr(value)) if type(value) is int or type(value) is float else REFUSED

    schema = {"pattern": f"^{_NUMBER}$"}
    return parsed(parse, "decimal string", schema, ordered=(cls, int, float), other=None if strict else from_number)


def derived(cls: Any, base: Form) -> Form:
    """A subclass of str, int or float, made from what its base takes."""
    load_base = base.load

    def load(value: Any, faults: Faults) -> Any:
        start = len(faults)
        loaded = load_base(value, faults)
        if len(faults) > start:
            return None
        try:
            return cls(loaded)
        except _WRONG_VALUE as error:
            faults.append(Fault("", _said(base.expected, error), json_word(value)))
            return None

    return base.but(load=load, exact=frozenset())


def _said(expected: str, error: Exception) -> str:
    # A validator of the author's class: its text tells the caller what to change.
    text = error.args[0] if error.args and isinstance(error.args[0], str) else type(error).__name__
    return f"{expected}: {text}"


# --- constants -----------------------------------------------------------------------------------------------------


def choice(constants: dict[tuple[type, Any], Any], strict: bool) -> Form:
    """One of some JSON constants; the keys are (type, value) because in Python ``1 == True``."""
    values = [value for _, value in constants]
    expected = "one of " + ", ".join(orjson.dumps(value).decode() for value in values)
    words = {JSON_TYPES[cls] for cls, _ in constants}
    classes = dict.fromkeys(cls for cls, _ in constants)
    coercions = [] if strict else [COERCIONS[cls] for cls in classes]
    if float in classes:
        coercions.insert(0, _widened)

    def load(value: Any, faults: Faults) -> Any:
        try:
            if (found := constants.get((type(value), value), REFUSED)) is not REFUSED:
                return found
        except TypeError:  # an array or an object
            pass
        for coerce in coercions:
            coerced = coerce(value)
            if coerced is not REFUSED and (type(coerced), coerced) in constants:
                faults.coerced |= coerce is not _widened
                return constants[type(coerced), coerced]
        faults.append(Fault("", expected, json_word(value)))
        return None

    schema: dict[str, Any] = {"type": next(iter(words))} if len(words) == 1 else {}
    return Form({**schema, "enum": values}, expected, frozenset(words), load, size=1 + len(values))


def _keep(value: Any) -> Any:
    return REFUSED


COERCIONS: dict[type, Callable[[Any], Any]] = {
    type(None): _keep,
    bool: _to_bool,
    int: _to_int,
    float: _to_float,
    str: _keep,
}


# --- arrays --------------------------------------------------------------------------------------------------------


def array_form(item: Form, build: Callable[[list[Any]], Any], *, hashable: bool) -> Form:
    """An array of any size, its items all of one form."""
    load_item, exact = item.load, item.exact

    def load(value: Any, faults: Faults) -> Any:
        if type(value) is not list:
            faults.append(Fault("", "array", json_word(value)))
            return None
        if exact.issuperset(map(type, value)):
            return build(value)
        items = []
        start = end = len(faults)
        for index, element in enumerate(value):
            items.append(load_item(element, faults))
            if len(faults) > end:
                prefix(faults, end, f"[{index}]")
                end = len(faults)
                if end - start >= MOST_FAULTS:
                    break
        return build(items) if end == start else None

    as_is = frozenset({list}) if item is ANY and build is list else frozenset[type]()
    described = {"items": item.schema} if item.schema else {}
    return Form(
        {"type": "array", **described},
        "array",
        frozenset({"array"}),
        load,
        exact=as_is,
        hashable=hashable,
        size=size_of([item]),
    )


def set_form(item: Form, build: Callable[[list[Any]], Any], *, hashable: bool) -> Form:
    """An array of unique items: one that comes twice is refused, as the schema says, not dropped."""
    array = array_form(item, list, hashable=hashable)

    def load(value: Any, faults: Faults) -> Any:
        start = len(faults)
        items = array.load(value, faults)
        if len(faults) > start:
            return None
        try:
            built = build(items)
        except TypeError:  # Any, with an array or an object in it
            faults.append(Fault("", "array of scalars", "array"))
            return None
        if len(built) != len(items):
            faults.append(Fault("", "array of unique items", "array"))
        return built

    return array.but(schema={**array.schema, "uniqueItems": True}, load=load, exact=frozenset())


def tuple_form(items: list[Form]) -> Form:
    """An array of a fixed size, each item of its own form."""
    size = len(items)
    expected = f"array of {size} item{'' if size == 1 else 's'}"

    def load(value: Any, faults: Faults) -> Any:
        if type(value) is not list or len(value) != size:
            faults.append(Fault("", expected, json_word(value)))
            return None
        loaded = []
        for index, (item, element) in enumerate(zip(items, value, strict=True)):
            start = len(faults)
            loaded.append(item.load(element, faults))
            if len(faults) > start:
                prefix(faults, start, f"[{index}]")
        return tuple(loaded)

    prefixes = {"prefixItems": [item.schema for item in items], "items": False} if items else {}
    return Form(
        {"type": "array", **prefixes, "minItems": size, "maxItems": size},
        expected,
        frozenset({"array"}),
        load,
        hashable=all(item.hashable for item in items),
        size=size_of(items),
    )


# --- objects -------------------------------------------------------------------------------------------------------


class Field(typing.NamedTuple):
    """One member of an object."""

    name: str
    form: Form
    required: bool
    default: Any = REFUSED
    description: str | None = None

    @property
    def schema(self) -> dict[str, Any]:
        """The member's schema: a parameter that defaults to None need not say that null is fine."""
        form = self.form
        schema = form.bare if self.default is None and form.bare is not None else form.schema
        if self.description is not None:
            schema = {**schema, "description": schema.get("description", self.description)}
        if self.default is not None and (default := _as_json(self.default)) is not REFUSED:
            schema = {**schema, "default": default}
        return schema


def _as_json(value: Any) -> Any:
    if isinstance(value, Enum):
        return _as_json(value.value)
    if type(value) in (list, tuple):
        items = [_as_json(item) for item in value]
        return REFUSED if REFUSED in items else items
    if type(value) is dict:
        members = {key: _as_json(item) for key, item in value.items()}
        return REFUSED if REFUSED in members.values() or any(type(key) is not str for key in members) else members
    if type(value) is float:
        return value if value - value == 0 else REFUSED  # neither NaN nor infinite
    return value if value is None or type(value) in (bool, int, str) else REFUSED


def object_form(
    fields: list[Field],
    build: Callable[[dict[str, Any]], Any],
    *,
    forbid: bool,
    absent_null: bool = False,
    computed: Collection[str] = (),
    name: str = "",
    noun: str = "field",
) -> Form:
    """An object with named members: a class, or the arguments of a call.

    Args:
        fields: Its members.
        build: Makes the value of the loaded members.
        forbid: Other members are faults, and else ignored.
        absent_null: Null counts as absent, where a member is optional and takes no null.
        computed: Members that the class makes itself, and that are ignored in any case.
        name: What a fault calls it.
        noun: What a fault calls a member.
    """
    by_name = {field.name: (field.form.exact, field.form.load) for field in fields}
    droppable = {f.name for f in fields if absent_null and not f.required and "null" not in f.form.takes}
    required = [(field.name, field.form.expected) for field in fields if field.required]
    known = f"known: {', '.join(by_name)}" if by_name else "there are none"
    unexpected = f"nothing (no such {noun}; {known})"
    expected = f"object ({name})" if name else "object"

    def load(value: Any, faults: Faults) -> Any:
        if type(value) is not dict:
            faults.append(Fault("", expected, json_word(value)))
            return None
        start = end = len(faults)
        members = {}
        for key, member in value.items():
            form = by_name.get(key)
            if form is not None:
                exact, load_member = form
                if type(member) in exact:
                    members[key] = member
                    continue
                if member is None and key in droppable:
                    continue
                members[key] = load_member(member, faults)
                if len(faults) > end:
                    prefix(faults, end, key_step(key))
                    end = len(faults)
            elif forbid and key not in computed:
                faults.append(Fault(key_step(key), unexpected, json_word(member)))
                end += 1
                if end - start >= MOST_FAULTS:
                    break
        if len(members) < len(by_name):
            faults.extend(Fault(f".{key}", wanted, "nothing") for key, wanted in required if key not in value)
        if len(faults) > start:
            return None
        try:
            return build(members)
        except _WRONG_VALUE as error:
            faults.append(Fault("", _said(expected, error), "object"))
            return None

    schema: dict[str, Any] = {
        "type": "object",
        "properties": {field.name: field.schema for field in fields},
        "required": [field.name for field in fields if field.required],
    }
    if forbid:
        schema["additionalProperties"] = False
    size = size_of(field.form for field in fields)
    return Form(schema, expected, frozenset({"object"}), load, hashable=False, size=size)


def named_tuple_form(fields: list[Field], whole: Form, build: Callable[[dict[str, Any]], Any]) -> Form:
    """A named tuple: an object of its fields, as the schema says, or the array that Python's JSON makes of it."""
    least, expected = sum(field.required for field in fields), f"{whole.expected} or array of {len(fields)} items"

    def load(value: Any, faults: Faults) -> Any:
        if type(value) is not list:
            return whole.load(value, faults)
        start = len(faults)
        if not least <= len(value) <= len(fields):
            faults.append(Fault("", expected, "array"))
            return None
        loaded = {}
        for index, (field, element) in enumerate(zip(fields, value, strict=False)):
            end = len(faults)
            loaded[field.name] = field.form.load(element, faults)
            prefix(faults, end, f"[{index}]")
        return build(loaded) if len(faults) == start else None

    return whole.but(load=load, takes=whole.takes | {"array"})


def mapping_form(value_form: Form, key_form: Form = STRING) -> Form:
    """An object with any members, all of one form; the keys are of a form that JSON has as a string."""
    load_member, exact = value_form.load, value_form.exact
    load_key = None if str in key_form.exact else key_form.load

    def load(value: Any, faults: Faults) -> Any:
        if type(value) is not dict:
            faults.append(Fault("", "object", json_word(value)))
            return None
        if load_key is None and exact.issuperset(map(type, value.values())):
            return value
        start = end = len(faults)
        members: dict[Any, Any] = {}
        for key, member in value.items():
            loaded = key
            if load_key is not None:
                loaded = load_key(key, wrong := Faults())
                faults.extend(Fault("", f"a key that is {fault.expected}", f"{fault.received}") for fault in wrong)
                if loaded in members:
                    faults.append(Fault("", "one key only that means this", "two"))
            members[loaded] = load_member(member, faults)
            if len(faults) > end:
                prefix(faults, end, key_step(key))
                end = len(faults)
                if end - start >= MOST_FAULTS:
                    break
        return members if end == start else None

    schema: dict[str, Any] = {"type": "object"}
    if load_key is not None:
        schema["propertyNames"] = {word: value for word, value in key_form.schema.items() if word != "type"}
    if value_form.schema:
        schema["additionalProperties"] = value_form.schema
    as_is = frozenset({dict}) if value_form is ANY and load_key is None else frozenset[type]()
    size = size_of([key_form, value_form])
    return Form(schema, "object", frozenset({"object"}), load, exact=as_is, hashable=False, size=size)


def read_by(read: Callable[[Any], Any], expected: str, schema: dict[str, Any]) -> Form:
    """A form of which another reader has the rules; it raises ``InvalidData``."""

    def load(value: Any, faults: Faults) -> Any:
        try:
            return read(value)
        except InvalidData as error:
            faults.extend(Fault(fault.path.removeprefix("$"), fault.expected, fault.received) for fault in error.faults)
            return None

    return Form(schema, expected, frozenset({"object"}), load, hashable=False)


# --- unions and constraints ----------------------------------------------------------------------------------------


def union_form(forms: list[Form]) -> Form:
    """One of several forms: the first that takes the value as it is, else the first that can coerce it.

    A number that is written as an integer goes to float only after everything else: ``float | int`` keeps 5 an int.
    """
    exact: set[type] = set()
    taken: set[str] = set()
    for form in forms:
        # `datetime | str` reads a date where it can, so there a str is not exact; `str | datetime` keeps every str.
        exact.update(cls for cls in form.exact if JSON_TYPES[cls] not in taken)
        taken |= form.takes - ({"integer"} if float in form.exact else set())
    if any(form.load is _anything for form in forms):
        return ANY
    expected = " or ".join(dict.fromkeys(form.expected for form in forms))
    attempts = sorted(enumerate(form.load for form in forms), key=lambda one: "number" in forms[one[0]].takes)
    candidates = {word: [n for n, form in enumerate(forms) if word in form.takes] for word in JSON_TYPES.values()}

    def load(value: Any, faults: Faults) -> Any:
        if type(value) in exact:
            return value
        second_best, loaded_second_best = len(forms), None
        wrong: dict[int, Faults] = {}
        for number, attempt in attempts:
            tried = Faults()
            loaded = attempt(value, tried)
            if tried:
                wrong[number] = tried
            elif not tried.coerced:
                return loaded
            elif number < second_best:
                second_best, loaded_second_best = number, loaded
        if second_best < len(forms):
            faults.coerced = True
            return loaded_second_best
        # Where only one member could have been meant, its own faults say more than "expected A or B".
        meant = candidates.get(json_word(value), ())
        if len(meant) == 1:
            faults.extend(wrong[meant[0]])
        else:
            faults.append(Fault("", expected, json_word(value)))
        return None

    schemas = [form.schema for form in forms]
    others = [form.schema for form in forms if form is not NULL]
    schema = any_of(schemas)
    if len(others) == 1 and "description" in others[0]:
        # `Annotated[int, "text"] | None`: the text is meant for the whole.
        schema = {**schema, "description": others[0]["description"]}
    return Form(
        schema,
        expected,
        frozenset(taken).union(*(form.takes for form in forms)),
        load,
        exact=frozenset(exact),
        hashable=all(form.hashable for form in forms),
        bare=any_of(others) if len(others) < len(schemas) else None,
        size=size_of(forms),
    )


def any_of(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    """The schema of a union."""
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


class Check(typing.NamedTuple):
    """One constraint: what a fault says of it, its keywords in the schema, and the test of a loaded value."""

    says: str
    keywords: dict[str, Any]
    test: Callable[[Any], bool]


def constrained(form: Form, checks: list[Check]) -> Form:
    """A form whose loaded values must also pass these checks."""
    expected = f"{form.expected} ({', '.join(check.says for check in checks)})"
    tests = [check.test for check in checks]
    load_inner = form.load

    def load(value: Any, faults: Faults) -> Any:
        start = len(faults)
        loaded = load_inner(value, faults)
        if len(faults) > start:
            return None
        try:
            fits = all(test(loaded) for test in tests)
        except (
            _WRONG_VALUE
        ):  # a date with a time zone is not compared with one without; a predicate takes no such value
            fits = False
        if not fits:
            faults.append(Fault("", expected, json_word(value)))
        return loaded

    schema = dict(form.schema)
    for check in checks:
        schema.update(check.keywords)
    return form.but(schema=schema, expected=expected, load=load, exact=frozenset())
