"""Annotations → types, also under ``from __future__ import annotations`` and for names local to a function.

Registration happens where the function is defined, so the frames around it still run: a name that neither the module
nor the closure knows is looked up in them, and only in those whose code encloses the definition.
"""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Callable, Iterator
from types import FrameType, SimpleNamespace
from typing import Any

from sepkit.errors import RegistrationError


class HintError(Exception):
    """An annotation could not be evaluated. The text completes "parameter 'x': …"."""


def resolve_hints(fn: Callable[..., Any], *, what: str) -> dict[str, Any]:
    """The evaluated annotations of a function, ``Annotated`` and ``return`` included.

    Raises:
        RegistrationError: A name in an annotation can't be resolved; all such parameters are listed.
    """
    hints: dict[str, Any] = {}
    problems: list[str] = []
    for name in annotations_of(fn):
        try:
            hints[name] = resolve_hint(fn, name)
        except HintError as error:
            problems.append(f"{'the return annotation' if name == 'return' else f'parameter {name!r}'}: {error}")
    if problems:
        raise refusal(what, fn, problems)
    return hints


def resolve_hint(fn: Callable[..., Any], name: str) -> Any:
    """One evaluated annotation of a function. Raises ``HintError``."""
    function = underlying(fn)
    annotation = annotations_of(fn)[name]
    holder = SimpleNamespace(__annotations__={name: annotation})
    scope = _names_around(function.__qualname__, function.__module__)
    scope |= _closure(function)
    return _evaluate(holder, name, function.__globals__, scope)[name]


def resolve_class_hints(cls: type) -> dict[str, Any]:
    """The evaluated annotations of a class and its bases. Raises ``HintError``."""
    scope = _names_around(cls.__qualname__, cls.__module__)
    hints: dict[str, Any] = _evaluate(cls, None, None, scope or None)
    return hints


def settle_class_hints(annotation: Any) -> None:
    """Evaluate, for good, the annotations of classes in ``annotation`` that only the running frames can evaluate.

    What structures values of them later, in other frames, could not. Raises ``HintError``.
    """
    left, seen = [annotation], []
    while left:
        found = left.pop()
        left += typing.get_args(found)
        if not isinstance(found, type) or not getattr(found, "__annotations__", None) or found in seen:
            continue
        seen.append(found)
        try:
            hints = typing.get_type_hints(found, include_extras=True)
        except NameError:
            hints = resolve_class_hints(found)
            for cls in found.__mro__:
                own = cls.__dict__.get("__annotations__", {})  # noqa: RUF063  (they are changed in place)
                own.update({n: hints[n] for n, written in own.items() if isinstance(written, str | typing.ForwardRef)})
        left += hints.values()


def annotations_of(fn: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function as they are written."""
    return dict(inspect.get_annotations(underlying(fn)))


def underlying(fn: Callable[..., Any]) -> Any:
    """The plain function below decorators, methods and partials: the one that has code and globals."""
    found: Any = inspect.unwrap(fn)
    while isinstance(found, functools.partial):
        found = inspect.unwrap(found.func)
    found = getattr(found, "__func__", found)
    if not hasattr(found, "__code__") and not isinstance(found, type):
        found = getattr(type(found).__call__, "__func__", type(found).__call__)
    return found


def refusal(what: str, fn: Callable[..., Any] | None, problems: list[str]) -> RegistrationError:
    """The error for everything that is wrong with one function: what it is, where it stands, and each problem."""
    where = ""
    if fn is not None and (code := getattr(underlying(fn), "__code__", None)) is not None:
        where = f" ({code.co_filename}:{code.co_firstlineno})"
    if len(problems) == 1:
        return RegistrationError(f"{what}{where}: {problems[0]}")
    return RegistrationError("".join([f"{what}{where}:", *(f"\n  {problem}" for problem in problems)]))


def _evaluate(holder: Any, name: str | None, names: dict[str, Any] | None, scope: dict[str, Any] | None) -> Any:
    try:
        return typing.get_type_hints(holder, names, scope, include_extras=True)
    except NameError as error:
        annotations = holder.__annotations__
        written = f"`{annotations[name]}` names " if name else f"an annotation of {holder.__name__} names "
        raise HintError(
            f"{written}{error.name or str(error)!r}, which is not defined there; import it at the top of the module,"
            " not below `if TYPE_CHECKING:`"
        ) from error
    except Exception as error:
        written = f"`{holder.__annotations__[name]}`" if name else f"an annotation of {holder.__name__}"
        raise HintError(f"{written} can't be evaluated ({type(error).__name__}: {error})") from error


def _closure(function: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet: the function stands above what it names
            continue
    return found


def _names_around(qualname: str, module: str) -> dict[str, Any]:
    """The local names of the running frames whose code encloses the definition, the innermost winning."""
    found: dict[str, Any] = {}
    for frame in _frames():
        code = frame.f_code
        if frame.f_globals.get("__name__") == module and qualname.startswith(f"{code.co_qualname}."):
            found = {**frame.f_locals, **found}
    return found


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
