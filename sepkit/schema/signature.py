"""A function → its ``Signature``: the schema of its arguments and the binder that fits arguments to its parameters."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, Literal

import attrs
import orjson

from sepkit.errors import Fault, InvalidData

from .binder import Bind, Call, compile_binder, compile_call
from .docstrings import read_docstring
from .forms import REFUSED, Field, Form, FormError, json_word, object_form, prefix
from .hints import HintError, annotations_of, refusal, resolve_hint
from .raw import compile_schema, raw_binder
from .types import Mode, form_of

Extra = Literal["forbid", "ignore"]


@attrs.frozen
class Signature:
    """What a handler takes, inspected once."""

    parameters: dict[str, Any]
    """The JSON Schema of the arguments object."""

    description: str
    """The docstring up to the sections that describe parameters, return value and exceptions."""

    bind: Bind
    """Arguments as they came → keyword arguments. Raises InvalidData with every fault: ``$.name``, ``$.tags[2]``."""

    call: Call
    """Arguments and context as they came → the call of the function with them. Raises as ``bind`` does."""

    context: str | None
    """The parameter that takes the context."""


def inspect_signature(
    fn: Callable[..., Any],
    *,
    what: str,
    contexts: tuple[type, ...],
    other_contexts: tuple[type, ...] = (),
    strict: bool = False,
    extra: Extra = "forbid",
    parameters: dict[str, Any] | None = None,
) -> Signature:
    """Inspect a function where it is registered.

    ``what`` names it in messages: ``"tool 'greet'"``. A parameter annotated with one of ``contexts``, a subclass of
    one, or a union of these (or None) takes the context; one of ``other_contexts`` is an error that says so.
    ``strict`` refuses coercions. ``extra="ignore"`` drops unknown arguments, in nested classes too. ``parameters`` is a
    JSON Schema that replaces the one made from the annotations; see `raw.py` for where its values go.

    Raises:
        RegistrationError: The function can't be called by name with JSON arguments; lists everything that is wrong.
    """
    inspection = _Inspection(fn, what, contexts, other_contexts)
    description, documented = read_docstring(inspect.getdoc(fn))
    mode = Mode(strict=strict, forbid=extra == "forbid")
    if parameters is not None:
        bind = inspection.raw(parameters, mode)
        fields: list[Field] = []
    else:
        form, bind, fields = inspection.typed(documented, mode)
        parameters = form.schema
    call = compile_call(fn, bind, inspection.context, fields)
    return Signature(parameters, description, bind, call, inspection.context)


def compile_type(
    annotation: Any, *, what: str, strict: bool = False, extra: Extra = "forbid", path: str = "$"
) -> Callable[[Any], Any]:
    """A function that structures one JSON value as a type and raises InvalidData with every fault, below ``path``.

    Raises:
        RegistrationError: The type has no JSON form.
    """
    load = _form(annotation, what, Mode(strict=strict, forbid=extra == "forbid")).load

    def structure(value: Any) -> Any:
        faults: list[Fault] = []
        loaded = load(value, faults)
        if faults:
            prefix(faults, 0, path)
            raise InvalidData(faults)
        return loaded

    return structure


def schema_of(annotation: Any, *, what: str) -> dict[str, Any]:
    """The JSON Schema of a type. Raises RegistrationError where it has none."""
    return _form(annotation, what, Mode()).schema


def _form(annotation: Any, what: str, mode: Mode) -> Form:
    try:
        return form_of(annotation, mode)
    except FormError as error:
        raise refusal(what, None, [str(error)]) from error


class _Inspection:
    """One function under inspection: its parameters, apart from the context, and what is wrong with them."""

    def __init__(
        self, fn: Callable[..., Any], what: str, contexts: tuple[type, ...], other_contexts: tuple[type, ...]
    ) -> None:
        self.fn = fn
        self.what = what
        self.contexts = contexts
        self.other_contexts = other_contexts
        self.context: str | None = None
        self.problems: list[str] = []
        self.parameters: list[tuple[inspect.Parameter, Any]] = []
        self._sort()

    def _sort(self) -> None:
        annotated = annotations_of(self.fn)
        for name, parameter in inspect.signature(self.fn).parameters.items():
            annotation: Any = parameter.empty
            if name in annotated:
                try:
                    annotation = resolve_hint(self.fn, name)
                except HintError as error:
                    self.problems.append(f"parameter {name!r}: {error}")
                    continue
            if not self._is_context(name, annotation):
                self.parameters.append((parameter, annotation))

    def _is_context(self, name: str, annotation: Any) -> bool:
        # `ToolContext[State]` is a ToolContext.
        members = [typing.get_origin(member) or member for member in _members(annotation)]
        classes = [member for member in members if isinstance(member, type) and member is not type(None)]
        found = [cls for cls in classes if issubclass(cls, self.contexts)]
        foreign = [cls for cls in classes if issubclass(cls, self.other_contexts) and cls not in found]
        if not found and foreign:
            allowed = " or ".join(cls.__name__ for cls in self.contexts) or "no context"
            kind = self.what.partition(" '")[0]
            article = "an" if kind[:1] in "aeiou" else "a"
            self.problems.append(f"parameter {name!r}: {article} {kind} takes {allowed}, not {foreign[0].__name__}")
            return True
        if found and self.context is not None:
            self.problems.append(f"parameter {name!r}: {self.context!r} takes the context already; keep one of them")
        elif found:
            self.context = name
        return bool(found)

    def _context_hint(self, parameter: inspect.Parameter) -> str | None:
        """What is wrong with a parameter that is named like a context, and annotated with nothing."""
        name = parameter.name
        if parameter.annotation is not parameter.empty or not self.contexts or not is_context_name(name):
            return None
        return f"parameter {name!r} has no annotation; write `{name}: {self.contexts[0].__name__}`"

    def typed(self, documented: dict[str, str], mode: Mode) -> tuple[Form, Bind, list[Field]]:
        """The form of the arguments object, from the annotations, its binder and its fields."""
        fields: list[Field] = []
        for parameter, annotation in self.parameters:
            try:
                fields.append(_field(parameter, annotation, documented, mode))
            except FormError as error:
                self.problems.append(self._context_hint(parameter) or str(error))
        self._refuse()
        form = object_form(fields, lambda members: members, forbid=mode.forbid, noun="argument")
        return form, compile_binder(form, fields), fields

    def raw(self, schema: dict[str, Any], mode: Mode) -> Bind:
        """A binder for the author's own schema."""
        try:
            validate = compile_schema(schema)
        except FormError as error:
            self.problems.append(str(error))
            self._refuse()
            raise
        properties = schema.get("properties", {})
        keep, rest = False, None
        named: dict[str, bool] = {}
        for parameter, annotation in self.parameters:
            if parameter.kind is parameter.VAR_KEYWORD:
                keep = True
            elif (problem := _unfit(parameter) or self._context_hint(parameter)) is not None:
                self.problems.append(problem)
            elif parameter.name not in properties and len(self.parameters) == 1 and _is_mapping(annotation):
                rest = parameter.name
            else:
                named[parameter.name] = parameter.default is parameter.empty
        if rest is None:
            self.problems += [
                f"parameter {name!r} is not in the properties of parameters=; add it there or give it a default"
                for name, required in named.items()
                if required and name not in properties
            ]
            self.problems += [
                f"no parameter takes {name!r} of parameters=; add one, or take `**arguments`"
                for name in properties
                if not keep and name not in named
            ]
        self._refuse()
        required = [name for name, needed in named.items() if needed]
        return raw_binder(validate, named, required, rest, keep=keep, forbid=mode.forbid)

    def _refuse(self) -> None:
        if self.problems:
            raise refusal(self.what, self.fn, self.problems)


def is_context_name(name: str) -> bool:
    """Whether a parameter's name says that a context is meant: ``ctx``, ``context``, ``tool_ctx``."""
    return name.strip("_").rpartition("_")[2] in ("ctx", "context")


def _members(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _is_mapping(annotation: Any) -> bool:
    origin = typing.get_origin(annotation) or annotation
    return isinstance(origin, type) and issubclass(dict, origin) and origin is not object


def _unfit(parameter: inspect.Parameter) -> str | None:
    """Why a parameter can't be given by name."""
    name = parameter.name
    if parameter.kind is parameter.POSITIONAL_ONLY:
        return f"parameter {name!r} is positional-only, but arguments come by name; remove the `/`"
    if parameter.kind is parameter.VAR_POSITIONAL:
        return f"parameter '*{name}': arguments come by name; write `{name}: list[str]`"
    if parameter.kind is parameter.VAR_KEYWORD:
        return f"parameter '**{name}': arguments are named one by one; write them out, or give parameters=<JSON Schema>"
    return None


def _field(parameter: inspect.Parameter, annotation: Any, documented: dict[str, str], mode: Mode) -> Field:
    name = parameter.name
    if (problem := _unfit(parameter)) is not None:
        raise FormError(problem)
    if annotation is parameter.empty:
        if name == "self":
            raise FormError("parameter 'self' has no annotation; register the bound method of an instance")
        raise FormError(f"parameter {name!r} has no annotation; write its type, as in `{name}: str`")
    try:
        form = form_of(annotation, mode)
    except FormError as error:
        raise FormError(f"parameter {name!r}: {error}") from error
    if not mode.strict:
        form = _decoding(form)
    required = parameter.default is parameter.empty
    description = None if "description" in form.schema else documented.get(name)
    return Field(name, form, required, REFUSED if required else parameter.default, description)


def _decoding(form: Form) -> Form:
    """The form of a parameter that takes an array or an object and no string: it takes them as JSON text, too."""
    if "string" in form.takes or form.takes.isdisjoint({"array", "object"}):
        return form
    load = form.load

    def load_decoded(value: Any, faults: list[Fault]) -> Any:
        if type(value) is str:
            try:
                decoded = orjson.loads(value)
            except orjson.JSONDecodeError:
                pass
            else:
                if json_word(decoded) in form.takes and type(decoded) in (list, dict):
                    value = decoded
        return load(value, faults)

    return attrs.evolve(form, load=load_decoded)
