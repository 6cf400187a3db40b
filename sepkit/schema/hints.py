"""Annotations → types, also under ``from __future__ import annotations`` and for names local to a function.

Registration happens where the function is defined, so the frames around it still run: a name that neither the module
nor the closure knows is looked up in them, and only in those whose code encloses the definition.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator
from types import FrameType, SimpleNamespace
from typing import Any

from sepkit.errors import RegistrationError


class HintError(Exception):
    """An annotation could not be evaluated. The text completes "parameter 'x': …"."""


def signature_of(fn: Callable[..., Any]) -> tuple[list[inspect.Parameter], Any]:
    """The parameters that a caller of ``fn`` fills in, without those that ``functools.partial`` binds; what it returns.

    Annotations are as they are written; ``Names`` evaluates them.

    Raises:
        HintError: Python cannot tell the signature.
    """
    try:
        signature = inspect.signature(_without_wraps(fn))
    except Exception as error:  # ValueError for a builtin; or what a `__signature__` of its own raises
        raise HintError(
            f"its signature can't be read ({error}); write a function around it, with annotated parameters"
        ) from None
    bound: set[str] = set()
    for layer in _layers(fn):
        if isinstance(layer, functools.partial):
            bound |= layer.keywords.keys()
        elif _signature_of_its_own(layer):
            break
    parameters = [parameter for parameter in signature.parameters.values() if parameter.name not in bound]
    return parameters, signature.return_annotation


def _is_evaluated(annotation: Any) -> bool:
    """Whether it is made of classes alone, as ``list[str] | None`` is: there is nothing left to look up."""
    if type(annotation) is type or annotation is Ellipsis:
        return True
    if type(annotation) is types.GenericAlias or type(annotation) is types.UnionType:
        return all(map(_is_evaluated, annotation.__args__))
    return False


@functools.lru_cache(maxsize=512)
def _code(annotation: str) -> types.CodeType:
    return compile(annotation, "<annotation>", "eval")


class Names:
    """What the annotations of one function may name.

    Args:
        fn: The function; or what is around it, such as a partial.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        layers = list(_layers(fn))
        first = next((index for index, layer in enumerate(layers) if _signature_of_its_own(layer)), len(layers) - 1)
        functions = [layer for layer in layers[first:] if code_of(layer) is not None]
        # A module may have thousands of names, so that they are copied only where there are several modules.
        self._known: dict[str, Any] = functions[0].__globals__ if len(functions) == 1 else {}
        self._scope: dict[str, Any] = {}
        for function in functions:  # the innermost wins
            if len(functions) > 1:
                self._known |= function.__globals__
            self._scope |= {variable.__name__: variable for variable in getattr(function, "__type_params__", ())}
            self._scope |= _names_around(function.__qualname__, function.__module__)
            self._scope |= _closure(function)

    def hint(self, parameter: inspect.Parameter) -> Any:
        """The evaluated annotation of a parameter, ``Parameter.empty`` where it has none. Raises ``HintError``."""
        annotation = parameter.annotation
        if annotation is parameter.empty:
            return annotation
        # Most annotations are classes, or made of classes alone: `typing` takes 20 µs and more to find out.
        if type(annotation) is str:
            annotation = self._scope.get(annotation, self._known.get(annotation, vars(builtins).get(annotation)))
            if annotation is None:
                with contextlib.suppress(Exception):  # `typing` says what is wrong
                    annotation = eval(_code(parameter.annotation), self._known, self._scope)
        if _is_evaluated(annotation):
            return annotation
        holder = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
        return _evaluate(holder, parameter.name, self._known, self._scope)[parameter.name]

    def returned(self, annotation: Any) -> Any:
        """The evaluated annotation of what is returned; None where it names no class of the author's, or cannot."""
        if type(annotation) is not str:
            return annotation
        head = annotation.partition("[")[0].strip()
        if head in _RETURNED_BY_MOST or "|" in annotation:
            return None
        try:
            return eval(_code(annotation), self._known, self._scope)
        except Exception:  # it is only there for the type checker; nothing depends on it
            return None


_RETURNED_BY_MOST = frozenset(
    {"str", "None", "int", "float", "bool", "list", "dict", "tuple", "set", "object", "Any", "ToolResult"}
)


def _type_parameters(cls: type) -> dict[str, Any]:
    """The type parameters of a class and its bases by name, which Python 3.12 does not look up for the bases.

    Not those that two classes call by one name: here there is one scope for all.
    """
    found: dict[str, set[Any]] = {}
    for base in cls.__mro__:
        for variable in getattr(base, "__type_params__", ()):
            found.setdefault(variable.__name__, set()).add(variable)
    return {name: next(iter(variables)) for name, variables in found.items() if len(variables) == 1}


def docstring_of(fn: Callable[..., Any]) -> str:
    """The docstring of a function; of a partial, that of the function below it."""
    for layer in _layers(fn):
        written = inspect.getdoc(layer)
        if written != _DOC_OF_PARTIALS:  # which `wraps` copies, too
            return written or ""
    return ""


_DOC_OF_PARTIALS = inspect.getdoc(functools.partial)


def resolve_class_hints(cls: type) -> dict[str, Any]:
    """The evaluated annotations of a class and its bases. Raises ``HintError``."""
    scope = _names_around(cls.__qualname__, cls.__module__)
    scope |= _type_parameters(cls)
    hints: dict[str, Any] = _evaluate(cls, None, None, scope or None)
    return hints


def underlying(fn: Callable[..., Any]) -> Any:
    """The plain function below decorators, methods and partials: the one that has code and globals."""
    *_, innermost = _layers(fn)
    return innermost


def code_of(fn: Any) -> types.CodeType | None:
    """The code of a plain function or method; None for anything else."""
    code = getattr(fn, "__code__", None)
    return code if type(code) is types.CodeType else None  # a mock says that it is one


def _layers(fn: Callable[..., Any]) -> Iterator[Any]:
    """``fn`` and what it calls in turn: below partials, decorators, methods and callable objects."""
    seen: set[int] = set()
    while id(fn) not in seen:
        seen.add(id(fn))
        yield fn
        if isinstance(fn, functools.partial):
            fn = fn.func
        elif inspect.ismethod(fn):
            fn = fn.__func__
        elif (wrapped := getattr(fn, "__wrapped__", None)) is not None:
            fn = wrapped
        elif not isinstance(fn, type) and code_of(fn) is None:
            call: Any = getattr(type(fn), "__call__", None)  # noqa: B004  (the function itself is wanted)
            fn = call if code_of(call) is not None or hasattr(call, "__wrapped__") else fn


def _signature_of_its_own(layer: Any) -> bool:
    return isinstance(getattr(layer, "__signature__", None), inspect.Signature)


def _without_wraps(fn: Callable[..., Any]) -> Callable[..., Any]:
    # `update_wrapper(partial(f, …), f)`: inspect would look at `f` itself, where nothing is bound.
    if isinstance(fn, functools.partial) and hasattr(fn, "__wrapped__"):
        return functools.partial(fn.func, *fn.args, **fn.keywords)
    return fn


def show(annotation: Any) -> str:
    """An annotation as its author wrote it, more or less."""
    if annotation is inspect.Parameter.empty:
        return "…"
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return annotation.__name__
    return inspect.formatannotation(annotation)


def refusal(what: str, fn: Callable[..., Any] | None, problems: list[str]) -> RegistrationError:
    """The error for everything that is wrong with one function: what it is, where it stands, and each problem."""
    where = ""
    if fn is not None and (code := code_of(underlying(fn))) is not None:
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
    if "." not in qualname:  # nothing is around it
        return found
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
