"""What stands in ``Annotated[T, …]``: a description, and constraints, checked on loading and said in the schema.

A constraint is one of annotated-types (Ge, Gt, Le, Lt, Interval, MultipleOf, MinLen, MaxLen, Len, Predicate), or a
compiled ``re.Pattern``, which is searched for as JSON Schema does. Whatever else stands there belongs to others.
"""

from __future__ import annotations

import operator
import re
import sys
from collections.abc import Iterator
from typing import Any

from .forms import Check, Form, FormError

_NUMBERS = frozenset({"integer", "number"})
_KNOWN = {"Ge", "Gt", "Le", "Lt", "MultipleOf", "MinLen", "MaxLen", "Predicate"}
_SIZES = {
    "string": ("minLength", "maxLength"),
    "array": ("minItems", "maxItems"),
    "object": ("minProperties", "maxProperties"),
}


def description_in(metadata: tuple[Any, ...]) -> str | None:
    """The first text: a plain string, or ``Doc("…")`` of annotated-types or typing_extensions."""
    for item in metadata:
        text = item if isinstance(item, str) else getattr(item, "documentation", None)
        if isinstance(text, str):
            return text
    return None


def constraints_in(metadata: tuple[Any, ...]) -> list[Any]:
    """The constraints, groups such as Interval and Len taken apart."""
    return list(_constraints(metadata))


def _constraints(metadata: tuple[Any, ...]) -> Iterator[Any]:
    # Whoever constrains with annotated-types has imported it; nobody else pays for the import.
    known = sys.modules.get("annotated_types")
    for item in metadata:
        if isinstance(item, re.Pattern):
            yield item
        elif known is None:
            continue
        elif isinstance(item, known.GroupedMetadata):
            yield from _constraints(tuple(item))
        elif type(item).__name__ in _KNOWN and isinstance(item, known.BaseMetadata):
            yield item


def check_for(constraint: Any, form: Form, shown: str) -> Check:
    """The check of one constraint on one form. Raises ``FormError`` where the two do not go together."""
    kind = type(constraint).__name__
    if isinstance(constraint, re.Pattern):
        return _pattern(constraint, form, shown)
    if kind == "Predicate":
        name = getattr(constraint.func, "__name__", type(constraint.func).__name__)
        return Check(name, {}, lambda value: bool(constraint.func(value)))
    if kind in ("MinLen", "MaxLen"):
        return _size(constraint, kind, form, shown)
    if not (form.takes <= _NUMBERS or form.ordered):
        raise FormError(f"{kind} does not apply to {shown}; it is for numbers and dates")
    if kind == "MultipleOf":
        divisor = constraint.multiple_of
        return Check(f"multiple of {divisor}", {"multipleOf": divisor}, lambda value: _is_multiple(value, divisor))
    return _bound(constraint, kind, form)


_BOUNDS = {
    "Ge": ("ge", ">=", "minimum", operator.ge),
    "Gt": ("gt", ">", "exclusiveMinimum", operator.gt),
    "Le": ("le", "<=", "maximum", operator.le),
    "Lt": ("lt", "<", "exclusiveMaximum", operator.lt),
}


def _bound(constraint: Any, kind: str, form: Form) -> Check:
    attribute, sign, keyword, holds = _BOUNDS[kind]
    bound = getattr(constraint, attribute)
    # In the schema only where JSON has the order too: dates and decimals are strings there.
    keywords = {keyword: bound} if form.takes <= _NUMBERS else {}
    return Check(f"{sign} {bound}", keywords, lambda value: bool(holds(value, bound)))


def _size(constraint: Any, kind: str, form: Form, shown: str) -> Check:
    names = [_SIZES[word] for word in form.takes if word in _SIZES]
    if len(form.takes) != 1 or not names:
        raise FormError(f"{kind} does not apply to {shown}; it is for strings, arrays and objects")
    smallest, largest = names[0]
    if kind == "MinLen":
        least = constraint.min_length
        return Check(f"length >= {least}", {smallest: least}, lambda value: len(value) >= least)
    most = constraint.max_length
    return Check(f"length <= {most}", {largest: most}, lambda value: len(value) <= most)


def _pattern(pattern: re.Pattern[str], form: Form, shown: str) -> Check:
    if form.takes != {"string"} or not isinstance(pattern.pattern, str):
        raise FormError(f"a pattern does not apply to {shown}; it is for str")
    if pattern.flags & ~re.UNICODE:
        raise FormError(f"the flags of {pattern.pattern!r} have no place in a JSON Schema; write it without them")
    return Check(f"matching {pattern.pattern}", {"pattern": pattern.pattern}, lambda v: pattern.search(v) is not None)


def _is_multiple(value: Any, divisor: Any) -> bool:
    if type(value) is float or type(divisor) is float:
        from fractions import Fraction

        # As they are written, not as a double has them: 0.3 is a multiple of 0.1.
        value, divisor = Fraction(str(value)), Fraction(str(divisor))
    try:
        return bool(value % divisor == 0)
    except ArithmeticError:  # a Decimal with more digits than its context divides
        return False
