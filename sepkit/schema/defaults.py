"""Whether the default that an author wrote is a value of the annotated type, and can be shown to a host."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

from sepkit.errors import EncodeError
from sepkit.wire.writing import to_json

from .forms import ANY, REFUSED, Faults, Form, FormError
from .markers import is_marker, library_of, written_instead

_ARRAYS = (list, tuple, set, frozenset)


def check_default(default: Any, annotation: Any, form: Form, name: str, show: Callable[[Any], str]) -> None:
    """Refuse a default that is not a value of the annotated type, or that no host can be told of.

    None is always fine: it means "not given". So is what has a form in Python only, such as a float that is infinite.

    Raises:
        FormError: It is something else.
    """
    if default is None or default is REFUSED:
        return
    if is_marker(default) and library_of(default) is not None:
        marker = f"{type(default).__name__} of {library_of(default)}"
        written = written_instead(default, show(annotation))
        raise FormError(f"the default is a {marker}, which the function would get as it is; write `{name}: {written}`")
    if type(default) is float and not math.isfinite(default) and form.takes & {"number"}:
        return
    try:
        plain = to_json(default)
    except EncodeError as error:
        # `Any` takes sentinels, which no host need know of; but what looks like JSON must be JSON.
        if form.load is ANY.load and not isinstance(default, str | int | float | dict | list | tuple):
            return
        raise FormError(f"the default can't be sent: {error}; {_say(form, default)}") from None
    if isinstance(default, tuple(_classes(annotation))):
        return
    faults = Faults()
    loaded = form.load(plain, faults)
    if faults or faults.coerced or not _is_alike(default, loaded):
        found = f" ({faults[0]})" if faults and faults[0].path else ""
        raise FormError(
            f"the default is a {type(default).__name__} that is not a value of its type{found}; {_say(form, default)}"
        )


def _say(form: Form, default: Any) -> str:
    hint = ", or None for none at all" if not isinstance(default, str | int | float) else ""
    return f"write {form.expected}{hint}"


def _is_alike(default: Any, loaded: Any) -> bool:
    """Whether the function gets, by default, what it gets where the same is sent."""
    if isinstance(default, type(loaded)) or isinstance(loaded, type(default)):
        return True
    if isinstance(default, _ARRAYS) and isinstance(loaded, _ARRAYS):  # `()` is the usual default of a list
        return True
    return type(default) is int and type(loaded) is float


def _classes(annotation: Any) -> Iterator[type]:
    """The classes that an annotation names directly; an instance of a subclass may write more fields than they read."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated or origin in (typing.Union, types.UnionType):
        for member in typing.get_args(annotation)[: 1 if origin is typing.Annotated else None]:
            yield from _classes(member)
    elif isinstance(annotation, type) and origin is None and annotation.__module__ != "builtins":
        yield annotation
