"""Arguments as they came → keyword arguments: a generated first pass for what is right as it is, loaders for the rest.

Arguments are nearly always right, and scalars. The generated function looks whether each has exactly its type, and is
done; at the first that has not, all of them go to the loaders, which coerce and report. For ``(name: str)`` that takes
160 ns; the same as a loop over the arguments takes 350, and the loaders alone 950.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

from sepkit.errors import InvalidData

from .forms import Faults, Field, Form, prefix

Bind = Callable[[Mapping[str, Any]], dict[str, Any]]
Call = Callable[[Mapping[str, Any], object], Any]


def loading_binder(form: Form) -> Bind:
    """The binder for an arguments object of this form, by its loaders: no code is generated for it."""
    load = form.load

    def load_all(arguments: Any) -> dict[str, Any]:
        given = arguments
        if type(given) is not dict and isinstance(given, Mapping):
            given = dict(given)
        faults = Faults()
        bound: dict[str, Any] = load(given, faults)
        if faults:
            prefix(faults, 0, "$")
            raise InvalidData(faults)
        return bound

    return load_all


def compile_binder(load_all: Bind, fields: list[Field]) -> Bind:
    """The same with a first pass, if one pays off."""
    if any(field.required and not field.form.exact for field in fields):
        return load_all
    return _generate(fields, load_all)


def _generate(fields: list[Field], load_all: Bind) -> Bind:
    """Generate the first pass.

    For ``(name: str, count: int = 1)`` it reads as follows; names get into it only as string literals::

        def bind(arguments):
            if type(arguments) is not dict:
                return load_all(arguments)
            try:
                a0 = arguments["name"]
            except KeyError:
                return load_all(arguments)
            if not (type(a0) is t0):
                return load_all(arguments)
            bound = {"name": a0}
            if len(arguments) == 1:
                return bound
            a1 = arguments.get("count", missing)
            if type(a1) is t1:
                bound["count"] = a1
            elif a1 is not missing:
                return load_all(arguments)
            return bound if len(bound) == len(arguments) else load_all(arguments)
    """
    names: dict[str, Any] = {"load_all": load_all, "missing": object()}
    required = [field for field in fields if field.required]
    optional = [field for field in fields if not field.required]
    lines = ["def bind(arguments):", " if type(arguments) is not dict:", "  return load_all(arguments)"]
    tests = [_type_test(field, index, names) for index, field in enumerate(required + optional)]
    if required:
        lines.append(" try:")
        lines += [f"  a{index} = arguments[{field.name!r}]" for index, field in enumerate(required)]
        lines += [" except KeyError:", "  return load_all(arguments)"]
        lines += [f" if not ({' and '.join(tests[: len(required)])}):", "  return load_all(arguments)"]
    lines += [
        f" bound = {{{', '.join(f'{field.name!r}: a{index}' for index, field in enumerate(required))}}}",
        f" if len(arguments) == {len(required)}:",
        "  return bound",
    ]
    for index, field in enumerate(optional, len(required)):
        lines += [
            f" a{index} = arguments.get({field.name!r}, missing)",
            f" if {tests[index]}:",
            f"  bound[{field.name!r}] = a{index}",
            f" elif a{index} is not missing:",
            "  return load_all(arguments)",
        ]
    lines.append(" return bound if len(bound) == len(arguments) else load_all(arguments)")
    exec(compile("\n".join(lines), "<sepkit binder>", "exec"), names)
    bind: Bind = names["bind"]
    return bind


def bound_call(fn: Callable[..., Any], bind: Bind, context: str | None) -> Call:
    """Arguments and context as they came → the call of ``fn`` with them."""

    def call_bound(arguments: Mapping[str, Any], given: object) -> Any:
        bound = bind(arguments)
        if context is not None:
            bound[context] = given
        return fn(**bound)

    return call_bound


def compile_call(fn: Callable[..., Any], bind: Bind, context: str | None, fields: list[Field]) -> Call:
    """The same, in generated code.

    Where the arguments are just the required ones, each of exactly its type, the call is written out. That saves the
    dict of ``bind`` and its unpacking, 0.3 µs. For ``(name: str, ctx: ToolContext)`` it reads::

        def call(arguments, context):
            try:
                a0 = arguments["name"]
            except KeyError:
                return call_bound(arguments, context)
            if type(a0) is t0 and len(arguments) == 1:
                return fn(name=a0, ctx=context)
            return call_bound(arguments, context)
    """
    call_bound = bound_call(fn, bind, context)
    required = [field for field in fields if field.required]
    if not required or any(not field.form.exact or not field.name.isidentifier() for field in required):
        return call_bound
    names: dict[str, Any] = {"call_bound": call_bound, "fn": fn}
    # By position, where that is the same: 600 instructions less.
    by_position = _first_parameters(fn)[: len(required)] == [field.name for field in required]
    given = [f"a{index}" if by_position else f"{field.name}=a{index}" for index, field in enumerate(required)]
    if context is not None:
        given.append(f"{context}=context")
    tests = [
        *(_type_test(field, index, names) for index, field in enumerate(required)),
        f"len(arguments) == {len(required)}",
    ]
    lines = [
        "def call(arguments, context):",
        " try:",
        *(f"  a{index} = arguments[{field.name!r}]" for index, field in enumerate(required)),
        " except KeyError:",
        "  return call_bound(arguments, context)",
        f" if {' and '.join(tests)}:",
        f"  return fn({', '.join(given)})",
        " return call_bound(arguments, context)",
    ]
    exec(compile("\n".join(lines), "<sepkit call>", "exec"), names)
    call: Call = names["call"]
    return call


def value_call(fn: Callable[..., Any], value: str | None, context: str | None) -> Callable[[object, object], Any]:
    """The call of a handler of one value: a function of the value and the context, which it need not take."""
    names = [name for name in (value, context) if name is not None]
    if _first_parameters(fn)[: len(names)] != names:
        return lambda *given: fn(**{name: one for name, one in zip((value, context), given, strict=True) if name})
    # By position, without a dict: 1,000 instructions less.
    if context is None:
        return (lambda given, _: fn(given)) if value is not None else lambda *_: fn()
    return fn if value is not None else lambda _, given: fn(given)


def _first_parameters(fn: Callable[..., Any]) -> list[str]:
    """The parameters that may be given by position; none of what may be a decorator's function."""
    if not isinstance(fn, FunctionType) or hasattr(fn, "__wrapped__"):
        return []
    return list(fn.__code__.co_varnames[: fn.__code__.co_argcount])


def _type_test(field: Field, index: int, names: dict[str, Any]) -> str:
    """The test of one argument's type; the type stands in ``names``."""
    types = field.form.exact
    names[f"t{index}"] = next(iter(types)) if len(types) == 1 else types
    return f"type(a{index}) {'is' if len(types) == 1 else 'in'} t{index}"
