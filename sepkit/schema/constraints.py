"""What stands in ``Annotated[T, …]``: a description, and constraints, checked on loading and said in the schema.

A constraint is one of annotated-types (Ge, Gt, Le, Lt, Interval, MultipleOf, MinLen, MaxLen, Len, Predicate), a
compiled ``re.Pattern``, which is searched for as JSON Schema does, or a ``Format``. What other libraries write for the
same is read by ``markers.py``. Anything else that stands there belongs to others.
"""

from __future__ import annotations

import math
import operator
import re
import sys
import typing
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sepkit.errors import EncodeError
from sepkit.wire.writing import to_json

from .forms import Check, Form, FormError
from .markers import CONSTRAINTS, is_marker, read_marker

_NUMBERS = frozenset({"integer", "number"})
_KNOWN = {"Ge", "Gt", "Le", "Lt", "MultipleOf", "MinLen", "MaxLen", "Predicate"}
_SIZES = {
    "string": ("minLength", "maxLength"),
    "array": ("minItems", "maxItems"),
    "object": ("minProperties", "maxProperties"),
}


class Format:
    """Stands in ``Annotated[str, Format("email")]``: the text is an e-mail address or a URI.

    Args:
        name: ``"email"`` or ``"uri"``. Dates have types of their own: ``date`` and ``datetime``.
    """

    __slots__ = ("name",)

    def __init__(self, name: typing.Literal["email", "uri"]) -> None:
        if name not in _FORMATS:
            raise ValueError(f"Format({name!r}): write 'email' or 'uri'; dates have types of their own")
        self.name = name

    def __repr__(self) -> str:
        return f"Format({self.name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Format) and other.name == self.name

    def __hash__(self) -> int:
        return hash((Format, self.name))


# No more than a reader sees at once: whether an address exists, only a message to it shows.
_FORMATS = {
    "email": r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)*",
    "uri": r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+",
}


def read_metadata(metadata: tuple[Any, ...]) -> tuple[str | None, list[Any]]:
    """The description, which is the first text, and the constraints, with groups such as Interval taken apart.

    Raises:
        FormError: A marker of another library asks for something that has no place here.
    """
    description, constraints = None, []
    for item in _read(metadata):
        if isinstance(item, str):
            description = item if description is None else description
        else:
            constraints.append(item)
    return description, constraints


def _read(metadata: tuple[Any, ...]) -> Iterator[Any]:
    # An author who constrains with annotated-types has imported it; others do not pay for the import.
    known = sys.modules.get("annotated_types")
    for item in metadata:
        text = item if isinstance(item, str) else getattr(item, "documentation", None)
        if isinstance(text, str):  # also Doc("…") of annotated-types or typing_extensions
            yield text
        elif isinstance(item, re.Pattern | Format):
            yield item
        elif typing.get_origin(item) is typing.Annotated:  # `Annotated[str, LowerCase]`, with or without the type
            yield from _read(item.__metadata__)
        elif known is not None and isinstance(item, known.GroupedMetadata):
            yield from _read(tuple(item))
        elif known is not None and type(item).__name__ in _KNOWN and isinstance(item, known.BaseMetadata):
            yield item
        elif is_marker(item):
            import annotated_types

            for setting, value in read_marker(item):
                if setting == "pattern":
                    yield _compiled(value)
                else:
                    yield value if setting == "description" else getattr(annotated_types, CONSTRAINTS[setting])(value)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise FormError(f"the pattern {pattern!r} is not valid in Python: {error}") from None


def check_for(constraint: Any, form: Form, shown: str) -> Check:
    """The check of one constraint on one form. Raises ``FormError`` where the two do not go together."""
    kind = type(constraint).__name__
    if isinstance(constraint, re.Pattern):
        return _pattern(constraint, form, shown)
    if isinstance(constraint, Format):
        return _format(constraint, form, shown)
    if kind == "Predicate":
        name = getattr(constraint.func, "__name__", type(constraint.func).__name__)
        return Check(name, {}, lambda value: bool(constraint.func(value)))
    if kind in ("MinLen", "MaxLen"):
        return _size(constraint, kind, form, shown)
    if not (form.takes <= _NUMBERS or form.ordered):
        raise FormError(f"{kind} does not apply to {shown}; it is for numbers and dates")
    if kind == "MultipleOf":
        divisor = constraint.multiple_of
        number = _number(divisor, kind)
        if not number > 0 or math.isinf(number):
            raise FormError(f"{kind}({divisor!r}): a divisor is a number above 0")
        keywords = {"multipleOf": number} if form.takes <= _NUMBERS else {}
        return Check(f"multiple of {divisor}", keywords, lambda value: _is_multiple(value, divisor))
    return _bound(constraint, kind, form, shown)


_BOUNDS = {
    "Ge": ("ge", ">=", "minimum", operator.ge),
    "Gt": ("gt", ">", "exclusiveMinimum", operator.gt),
    "Le": ("le", "<=", "maximum", operator.le),
    "Lt": ("lt", "<", "exclusiveMaximum", operator.lt),
}


def _bound(constraint: Any, kind: str, form: Form, shown: str) -> Check:
    attribute, sign, keyword, holds = _BOUNDS[kind]
    bound = getattr(constraint, attribute)
    keywords = {}
    if form.ordered:
        # Not in the schema: dates and decimals are strings in JSON, which has no order for them.
        if not isinstance(bound, form.ordered) or (isinstance(bound, datetime) and datetime not in form.ordered):
            raise FormError(f"{kind}({bound!r}) does not apply to {shown}; the bound is a {type(bound).__name__}")
    else:
        number = _number(bound, kind)
        if math.isinf(number):
            if (number > 0) is (sign[0] == ">"):
                raise FormError(f"{kind}({bound!r}): no number is so large or so small")
        else:  # an infinite bound of the other kind bounds nothing
            keywords = {keyword: number}
    return Check(f"{sign} {bound}", keywords, lambda value: bool(holds(value, bound)))


def _number(given: Any, kind: str) -> int | float:
    """What JSON has for a number of any kind: Decimal and Fraction too, if a double has the same value."""
    if isinstance(given, int | float) and not isinstance(given, bool):
        number: int | float = given
    elif hasattr(given, "as_integer_ratio") and not isinstance(given, bool):
        number = _exactly(given)
    else:
        raise FormError(f"{kind}({given!r}): write a number")
    if math.isnan(number):
        raise FormError(f"{kind}({given!r}) is not a number")
    if not math.isinf(number):
        try:
            to_json(number)
        except EncodeError as error:
            raise FormError(f"{kind}({given!r}) can't be sent: {error.problem}") from None
    return number


def _exactly(given: Any) -> int | float:
    try:
        number = float(given)
        whole = int(given) if math.isfinite(number) else None
    except (ArithmeticError, ValueError):
        raise FormError(f"{given!r} is a number that JSON does not have; write a float") from None
    if whole is not None and whole == given:
        return whole
    if str(given) in (str(number), repr(number)) or number == given or math.isinf(number):
        return number
    raise FormError(f"{given!r} is a number that JSON does not have; write a float")


def _size(constraint: Any, kind: str, form: Form, shown: str) -> Check:
    names = [_SIZES[word] for word in form.takes if word in _SIZES]
    if len(form.takes) != 1 or not names or form.is_parsed:
        raise FormError(f"{kind} does not apply to {shown}; it is for strings, arrays and objects")
    smallest, largest = names[0]
    for given in (getattr(constraint, "min_length", 0), getattr(constraint, "max_length", 0)):
        if type(given) is not int or not 0 <= given < 2**53:
            raise FormError(f"{kind}({given!r}): a length is a whole number from 0 on")
    if kind == "MinLen":
        least = constraint.min_length
        return Check(f"length >= {least}", {smallest: least}, lambda value: len(value) >= least)
    most = constraint.max_length
    return Check(f"length <= {most}", {largest: most}, lambda value: len(value) <= most)


def _pattern(pattern: re.Pattern[str], form: Form, shown: str) -> Check:
    if form.takes != {"string"} or form.is_parsed or not isinstance(pattern.pattern, str):
        raise FormError(f"a pattern does not apply to {shown}; it is for str")
    if pattern.flags & ~re.UNICODE:
        raise FormError(f"the flags of {pattern.pattern!r} have no place in a JSON Schema; write it without them")
    return Check(f"matching {pattern.pattern}", {"pattern": pattern.pattern}, lambda v: pattern.search(v) is not None)


def _format(constraint: Format, form: Form, shown: str) -> Check:
    if form.takes != {"string"} or form.is_parsed:
        raise FormError(f"{constraint} does not apply to {shown}; it is for str")
    pattern = _FORMATS[constraint.name]
    return Check(
        "an e-mail address" if constraint.name == "email" else "a URI",
        {"format": constraint.name},
        lambda value: len(value) <= _LONGEST_FORMATTED and re.fullmatch(pattern, value) is not None,
    )


_LONGEST_FORMATTED = 8192


def _is_multiple(value: Any, divisor: Any) -> bool:
    if type(value) is float or type(divisor) is float:
        from fractions import Fraction

        # As they are written, not as a double has them: 0.3 is a multiple of 0.1.
        value, divisor = Fraction(str(value)), Fraction(str(divisor))
    try:
        return bool(value % divisor == 0)
    except ArithmeticError:  # a Decimal with more digits than its context divides
        return False
