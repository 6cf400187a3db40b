"""Whether the default that an author wrote is a value of the annotated type, and can be shown to a host."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterator
from typing import Any

from sepkit.errors import EncodeError
from sepkit.wire.writing import to_json

from .forms import ANY, REFUSED, Faults, Form, FormError
from .hints import show
from .markers import library_of, written_instead

_ARRAYS = (list, tuple, set, frozenset)


def check_no_marker(default: Any, annotation: Any, name: str) -> None:
    """Refuse another library's marker in place of a default: the function would be given the marker itself.

    Raises:
        FormError: Says what to write instead.
    """
    if (library := library_of(default)) is not None and not _is_instance(default, annotation):
        raise FormError(
            f"the default is a {type(default).__name__} of {library}, which the function would get as it is;"
            f" write `{name}: {written_instead(default, show(annotation))}`"
        )


def check_default(default: Any, annotation: Any, form: Form) -> None:
    """Refuse a default that is not a value of the annotated type, or that no host can be told of.

    None is always fine: it means "not given". So is what has a form in Python only, such as a float that is infinite.

    Raises:
        FormError: It is something else.
    """
    if default is None or default is REFUSED:
        return
    if type(default) is float and not math.isfinite(default) and form.takes & {"number"}:
        return
    try:
        plain = to_json(default)
    except EncodeError as error:
        # `Any` takes sentinels, which no host need know of; but what looks like JSON must be JSON.
        if form.load is ANY.load and not isinstance(default, str | int | float | dict | list | tuple):
            return
        raise FormError(f"the default can't be sent: {_where(error)}; write None, or {form.expected}") from None
    if form.load is ANY.load or _is_instance(default, annotation):
        return
    faults = Faults()
    loaded = form.load(plain, faults)
    if faults:
        found = f" ({faults[0]})" if faults[0].path else ""
        raise FormError(f"the default, of type {type(default).__name__}, does not fit{found}; write {form.expected}")
    if faults.coerced or not _is_alike(default, loaded):
        given, wanted = type(default).__name__, type(loaded).__name__
        raise FormError(f"the default is of type {given}, where a caller's value becomes a {wanted}; write that")


def _where(error: EncodeError) -> str:
    return error.problem if error.path == "$" else f"{error.path.removeprefix('$')}: {error.problem}"


def _is_alike(default: Any, loaded: Any) -> bool:
    """Whether the function gets, by default, what it gets where the same is sent."""
    if isinstance(default, dict) and isinstance(loaded, dict):
        return default.keys() == loaded.keys()
    if isinstance(default, type(loaded)) or isinstance(loaded, type(default)):
        return True
    if isinstance(default, _ARRAYS) and isinstance(loaded, _ARRAYS):  # `()` is the usual default of a list
        return True
    return type(default) is int and type(loaded) is float


def _is_instance(default: Any, annotation: Any) -> bool:
    try:
        return isinstance(default, tuple(_classes(annotation)))
    except TypeError:  # a protocol; it has no JSON form, which is said elsewhere
        return False


def _classes(annotation: Any) -> Iterator[type]:
    """The classes that an annotation names directly; an instance of a subclass may write more fields than they read."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated or origin in (typing.Union, types.UnionType):
        for member in typing.get_args(annotation)[: 1 if origin is typing.Annotated else None]:
            yield from _classes(member)
    elif (
        annotation is not Any
        and isinstance(annotation, type)
        and origin is None
        and annotation.__module__ != "builtins"
    ):
        yield annotation
