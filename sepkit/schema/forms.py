"""Forms: what a type is in JSON, as a schema that describes it and a function that loads a JSON value as it.

The building blocks, one function for each kind of form; which annotation has which is `types.py`.

Own closures, not cattrs, whose hooks don't know where in the value they stand and coerce by calling the type: here
every fault is wanted, with its path. A loader appends its faults with paths relative to itself, and whoever holds it
puts its own step before them, so that a path costs nothing where there is no fault. What a loader returns after it
has reported a fault is never used.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable
from enum import Enum
from math import isinf
from typing import Any

import attrs
import orjson

from sepkit.errors import MOST_FAULTS, Fault
from sepkit.wire.faults import JSON_TYPES

Load = Callable[[Any, list[Fault]], Any]


class FormError(Exception):
    """A type has no JSON form. The text completes "parameter 'x': …" and says what to write instead."""


class _Refused:
    """What a coercion returns when it would lose something."""


REFUSED: typing.Final = _Refused()

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


def prefix(faults: list[Fault], start: int, step: str) -> None:
    """Put the holder's step before the paths of the faults that were added since ``start``."""
    for fault in faults[start:]:
        fault.path = step + fault.path


@attrs.frozen
class Form:
    """How one annotation looks in JSON."""

    schema: dict[str, Any]
    expected: str
    """What a fault calls it."""

    takes: frozenset[str]
    """The JSON words it takes without coercion."""

    load: Load

    exact: frozenset[type] = frozenset()
    """Values of exactly these types are loaded as they are, so whoever holds the form need not call ``load``."""

    hashable: bool = True

    ordered: bool = False
    """A date or a decimal: a string in JSON, but bounds apply to what is loaded."""

    bare: dict[str, Any] | None = None
    """The schema without null, where the form is optional."""


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
    return _widened(value)


def _to_bool(value: Any) -> Any:
    if type(value) is str:
        return {"true": True, "false": False}.get(value, REFUSED)
    return REFUSED


def scalar(word: str, cls: type, coerce: Callable[[Any], Any] | None, *, takes: frozenset[str] | None = None) -> Form:
    """A form whose exact values are those of one Python type."""

    def load(value: Any, faults: list[Fault]) -> Any:
        if type(value) is cls:
            return value
        if coerce is not None and (coerced := coerce(value)) is not REFUSED:
            return coerced
        faults.append(Fault("", word, json_word(value)))
        return None

    return Form({"type": word}, word, takes or frozenset({word}), load, exact=frozenset({cls}))


STRING = scalar("string", str, None)
NULL = scalar("null", type(None), None)
_NUMBERS = frozenset({"integer", "number"})
# By strictness: lax, strict.
INTEGERS = (scalar("integer", int, _to_int), scalar("integer", int, None))
FLOATS = (scalar("number", float, _to_float, takes=_NUMBERS), scalar("number", float, _widened, takes=_NUMBERS))
BOOLEANS = (scalar("boolean", bool, _to_bool), scalar("boolean", bool, None))


def _anything(value: Any, faults: list[Fault]) -> Any:
    return value


ANY = Form({}, "any value", frozenset(JSON_TYPES.values()), _anything, exact=frozenset(JSON_TYPES))


def parsed(
    parse: Callable[[str], Any],
    expected: str,
    schema: dict[str, Any],
    *,
    ordered: bool = False,
    other: Callable[[Any], Any] | None = None,
) -> Form:
    """A string in JSON, something better in Python."""

    def load(value: Any, faults: list[Fault]) -> Any:
        try:
            if type(value) is str:
                return parse(value)
            if other is not None and (coerced := other(value)) is not REFUSED:
                return coerced
        except ValueError:
            pass
        faults.append(Fault("", expected, json_word(value)))
        return None

    return Form({"type": "string", **schema}, expected, frozenset({"string"}), load, ordered=ordered)


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
    return parsed(parse, "decimal string", schema, ordered=True, other=None if strict else from_number)


# --- constants -----------------------------------------------------------------------------------------------------


def choice(constants: dict[tuple[type, Any], Any], strict: bool) -> Form:
    """One of some JSON constants; the keys are (type, value) because in Python ``1 == True``."""
    values = [value for _, value in constants]
    expected = "one of " + ", ".join(orjson.dumps(value).decode() for value in values)
    words = {JSON_TYPES[cls] for cls, _ in constants}
    known = _STRICT_COERCIONS if strict else COERCIONS
    coercions = [known[cls] for cls in dict.fromkeys(cls for cls, _ in constants)]

    def load(value: Any, faults: list[Fault]) -> Any:
        try:
            if (found := constants.get((type(value), value), REFUSED)) is not REFUSED:
                return found
        except TypeError:  # an array or an object
            pass
        for coerce in coercions:
            coerced = coerce(value)
            if coerced is not REFUSED and (type(coerced), coerced) in constants:
                return constants[type(coerced), coerced]
        faults.append(Fault("", expected, json_word(value)))
        return None

    schema: dict[str, Any] = {"type": next(iter(words))} if len(words) == 1 else {}
    return Form({**schema, "enum": values}, expected, frozenset(words), load)


def _keep(value: Any) -> Any:
    return REFUSED


COERCIONS: dict[type, Callable[[Any], Any]] = {
    type(None): _keep,
    bool: _to_bool,
    int: _to_int,
    float: _to_float,
    str: _keep,
}
_STRICT_COERCIONS = {**COERCIONS, bool: _keep, int: _keep, float: _widened}


# --- arrays --------------------------------------------------------------------------------------------------------


def array_form(item: Form, build: Callable[[list[Any]], Any], *, hashable: bool) -> Form:
    """An array of any size, its items all of one form."""
    load_item, exact = item.load, item.exact

    def load(value: Any, faults: list[Fault]) -> Any:
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
    return Form({"type": "array", **described}, "array", frozenset({"array"}), load, exact=as_is, hashable=hashable)


def set_form(item: Form, build: Callable[[list[Any]], Any], *, hashable: bool) -> Form:
    """An array of unique items: one that comes twice is refused, as the schema says, not dropped."""
    array = array_form(item, list, hashable=hashable)

    def load(value: Any, faults: list[Fault]) -> Any:
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

    return attrs.evolve(array, schema={**array.schema, "uniqueItems": True}, load=load, exact=frozenset())


def tuple_form(items: list[Form]) -> Form:
    """An array of a fixed size, each item of its own form."""
    size = len(items)
    expected = f"array of {size} item{'' if size == 1 else 's'}"

    def load(value: Any, faults: list[Fault]) -> Any:
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
    )


# --- objects -------------------------------------------------------------------------------------------------------


@attrs.frozen
class Field:
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
    fields: list[Field], build: Callable[[dict[str, Any]], Any], *, forbid: bool, name: str = "", noun: str = "field"
) -> Form:
    """An object with named members: a class, or the arguments of a call."""
    by_name = {field.name: field.form.load for field in fields}
    required = [(field.name, field.form.expected) for field in fields if field.required]
    known = f"known: {', '.join(by_name)}" if by_name else "there are none"
    unexpected = f"nothing (no such {noun}; {known})"
    expected = f"object ({name})" if name else "object"

    def load(value: Any, faults: list[Fault]) -> Any:
        if type(value) is not dict:
            faults.append(Fault("", expected, json_word(value)))
            return None
        start = end = len(faults)
        members = {}
        for key, member in value.items():
            load_member = by_name.get(key)
            if load_member is not None:
                members[key] = load_member(member, faults)
                if len(faults) > end:
                    prefix(faults, end, key_step(key))
                    end = len(faults)
            elif forbid:
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
        except (TypeError, ValueError) as error:
            # A validator of the author's class: its text tells the caller what to change.
            text = error.args[0] if error.args and isinstance(error.args[0], str) else type(error).__name__
            faults.append(Fault("", f"{expected}: {text}", "object"))
            return None

    schema: dict[str, Any] = {
        "type": "object",
        "properties": {field.name: field.schema for field in fields},
        "required": [field.name for field in fields if field.required],
    }
    if forbid:
        schema["additionalProperties"] = False
    return Form(schema, expected, frozenset({"object"}), load, hashable=False)


def mapping_form(value_form: Form) -> Form:
    """An object with any members, all of one form."""
    load_member, exact = value_form.load, value_form.exact

    def load(value: Any, faults: list[Fault]) -> Any:
        if type(value) is not dict:
            faults.append(Fault("", "object", json_word(value)))
            return None
        if exact.issuperset(map(type, value.values())):
            return value
        start = end = len(faults)
        members = {}
        for key, member in value.items():
            members[key] = load_member(member, faults)
            if len(faults) > end:
                prefix(faults, end, key_step(key))
                end = len(faults)
                if end - start >= MOST_FAULTS:
                    break
        return members if end == start else None

    schema = {"type": "object", "additionalProperties": value_form.schema} if value_form.schema else {"type": "object"}
    as_is = frozenset({dict}) if value_form is ANY else frozenset[type]()
    return Form(schema, "object", frozenset({"object"}), load, exact=as_is, hashable=False)


# --- unions and constraints ----------------------------------------------------------------------------------------


def union_form(strict: list[Form], lax: list[Form]) -> Form:
    """One of several forms: the first that takes the value as it is, else the first that can coerce it.

    A number that is written as an integer goes to float only after everything else: ``float | int`` keeps 5 an int.
    """
    exact: set[type] = set()
    taken: set[str] = set()
    for form in strict:
        # `datetime | str` reads a date where it can, so there a str is not exact; `str | datetime` keeps every str.
        exact.update(cls for cls in form.exact if JSON_TYPES[cls] not in taken)
        taken |= form.takes - ({"integer"} if float in form.exact else set())
    if any(form.takes == ANY.takes for form in strict):
        return ANY
    expected = " or ".join(dict.fromkeys(form.expected for form in strict))
    attempts = [form.load for form in sorted(strict, key=lambda form: "number" in form.takes)]
    attempts += [form.load for form in lax]
    candidates = {word: [form for form in lax if word in form.takes] for word in JSON_TYPES.values()}

    def load(value: Any, faults: list[Fault]) -> Any:
        if type(value) in exact:
            return value
        for attempt in attempts:
            tried: list[Fault] = []
            loaded = attempt(value, tried)
            if not tried:
                return loaded
        # Where only one member could have been meant, its own faults say more than "expected A or B".
        meant = candidates.get(json_word(value), ())
        if len(meant) == 1:
            meant[0].load(value, faults)
        else:
            faults.append(Fault("", expected, json_word(value)))
        return None

    schemas = [form.schema for form in strict]
    others = [form.schema for form in strict if form is not NULL]
    schema = any_of(schemas)
    if len(others) == 1 and "description" in others[0]:
        # `Annotated[int, "text"] | None`: the text is meant for the whole.
        schema = {**schema, "description": others[0]["description"]}
    return Form(
        schema,
        expected,
        frozenset(taken).union(*(form.takes for form in strict)),
        load,
        exact=frozenset(exact),
        hashable=all(form.hashable for form in strict),
        bare=any_of(others) if len(others) < len(schemas) else None,
    )


def any_of(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    """The schema of a union."""
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


@attrs.frozen
class Check:
    """One constraint: what a fault says of it, its keywords in the schema, and the test of a loaded value."""

    says: str
    keywords: dict[str, Any]
    test: Callable[[Any], bool]


def constrained(form: Form, checks: list[Check]) -> Form:
    """A form whose loaded values must also pass these checks."""
    expected = f"{form.expected} ({', '.join(check.says for check in checks)})"
    tests = [check.test for check in checks]
    load_inner = form.load

    def load(value: Any, faults: list[Fault]) -> Any:
        start = len(faults)
        loaded = load_inner(value, faults)
        if len(faults) == start and not all(test(loaded) for test in tests):
            faults.append(Fault("", expected, json_word(value)))
        return loaded

    schema = dict(form.schema)
    for check in checks:
        schema.update(check.keywords)
    return attrs.evolve(form, schema=schema, expected=expected, load=load, exact=frozenset())
