"""A function → its ``Signature``: the schema of its arguments and the binder that fits arguments to its parameters.

Tools and commands take arguments by name (``inspect_signature``), all other handlers one value (``inspect_value``);
both read functions, contexts and types by the same code.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import orjson

from sepkit.errors import EncodeError, InvalidData
from sepkit.wire.writing import to_json

from .binder import Bind, Call, bound_call, compile_binder, compile_call, loading_binder
from .defaults import check_default, check_no_marker
from .docstrings import read_docstring
from .forms import REFUSED, Faults, Field, Form, FormError, json_word, object_form, prefix
from .hints import HintError, Names, docstring_of, refusal, signature_of
from .raw import compile_schema, raw_binder
from .types import Extra, Mode, form_of

Convert = Callable[[Any], Any]


class Called(typing.NamedTuple):
    """How a handler of named arguments is called."""

    bind: Bind
    """Arguments as they came → keyword arguments. Raises InvalidData with every fault: ``$.name``, ``$.tags[2]``."""

    call: Call
    """Arguments and context as they came → the call of the function with them. Raises as ``bind`` does."""


class Signature(typing.NamedTuple):
    """What a handler of named arguments takes, inspected once."""

    parameters: dict[str, Any]
    """The JSON Schema of the arguments object: plain JSON data that can be sent."""

    description: str
    """The docstring up to the sections that describe parameters, return value and exceptions."""

    context: str | None
    """The parameter that takes the context."""

    loading: Called
    """What a call needs, without generated code."""

    compile: Callable[[], Called]
    """Makes the same in generated code: 0.5 ms, which pay off after some hundred calls."""

    returned: Any
    """The annotation of what it returns; None where it names no class of the author's."""

    @property
    def bind(self) -> Bind:
        """How arguments are bound."""
        return self.loading.bind


class ValueSignature(typing.NamedTuple):
    """What a handler of one value takes, inspected once."""

    value: str | None
    """The parameter that takes the value; None where the handler does not want it."""

    annotation: Any
    """The type of the value; ``Any`` where there is no parameter for it."""

    convert: Convert
    """The value, JSON data, as that type. Raises InvalidData with every fault."""

    context: str | None
    """The parameter that takes the context."""


def inspect_signature(
    fn: Callable[..., Any],
    *,
    what: str,
    contexts: tuple[type, ...],
    other_contexts: tuple[type, ...] = (),
    strict: bool = False,
    extra: typing.Literal["forbid", "ignore"] = "forbid",
    parameters: dict[str, Any] | None = None,
) -> Signature:
    """Inspect a function that takes arguments by name, where it is registered.

    ``what`` names it in messages: ``"tool 'greet'"``. A parameter annotated with one of ``contexts``, a subclass or a
    base of one, or a union of these (or None) takes the context; one of ``other_contexts`` is an error that says so.
    ``strict`` refuses coercions. ``extra="ignore"`` drops arguments that no parameter names; fields that a class does
    not name are refused all the same. ``parameters`` is a JSON Schema that replaces the one made from the annotations;
    see `raw.py` for where its values go.

    Raises:
        RegistrationError: The function can't be called by name with JSON arguments; lists everything that is wrong.
    """
    inspection = _Inspection(fn, what, contexts, other_contexts)
    description, documented = read_docstring(docstring_of(fn))
    context, given = inspection.context, parameters
    if given is not None:
        load, parameters = inspection.raw(given, forbid=extra == "forbid")
        fields: list[Field] = []
    else:
        form, fields = inspection.typed(documented, Mode(strict=strict), forbid=extra == "forbid")
        parameters, load = form.schema, loading_binder(form)

    def compiled() -> Called:
        bind = load if given is not None else compile_binder(load, fields)
        return Called(bind, compile_call(fn, bind, context, fields))

    return Signature(
        parameters, description, context, Called(load, bound_call(fn, load, context)), compiled, inspection.returned
    )


def inspect_value(
    fn: Callable[..., Any],
    *,
    what: str,
    contexts: tuple[type, ...],
    other_contexts: tuple[type, ...] = (),
    takes: str,
) -> ValueSignature:
    """Inspect a function that takes one value, such as an event's payload, where it is registered.

    The value is not coerced, and fields that its class does not name are ignored. Contexts are found as by
    ``inspect_signature``. ``takes`` says in messages what the value may be: ``"a dict"``.

    Raises:
        RegistrationError: The function can't be called with a value and a context; lists everything that is wrong.
    """
    return _Inspection(fn, what, contexts, other_contexts).one_value(takes)


def compile_type(
    annotation: Any, *, what: str, strict: bool = False, extra: Extra = "forbid", path: str = "$"
) -> Convert:
    """A function that structures one JSON value as a type and raises InvalidData with every fault, below ``path``.

    Raises:
        RegistrationError: The type has no JSON form.
    """
    return _converter(_form(annotation, what, Mode(strict=strict, extra=extra)), path)


def stored_type(annotation: Any, *, what: str) -> Convert:
    """Like ``compile_type``, for what was written with ``to_json``: no coercion, and no fields of other classes.

    Compiled once for each type.
    """
    try:
        # `int | str` and `str | int` are equal, but their text is not; and neither are types of different modules.
        return _stored_type(annotation, repr(annotation), what)
    except TypeError:  # what stands in an Annotated has no hash
        return compile_type(annotation, what=what, strict=True, extra="own")


@lru_cache(maxsize=256)
def _stored_type(annotation: Any, _text: str, what: str) -> Convert:
    return compile_type(annotation, what=what, strict=True, extra="own")


def schema_of(annotation: Any, *, what: str) -> dict[str, Any]:
    """The JSON Schema of a type. Raises RegistrationError where it has none."""
    return _form(annotation, what, Mode()).schema


def _form(annotation: Any, what: str, mode: Mode) -> Form:
    try:
        return form_of(annotation, mode)
    except FormError as error:
        raise refusal(what, None, [str(error)]) from error


def _converter(form: Form, path: str = "$") -> Convert:
    load, exact = form.load, form.exact

    def structure(value: Any) -> Any:
        if type(value) in exact:
            return value
        faults = Faults()
        loaded = load(value, faults)
        if faults:
            prefix(faults, 0, path)
            raise InvalidData(faults)
        return loaded

    return structure


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
        self.returned: Any = None
        self._sort()

    def _sort(self) -> None:
        try:
            parameters, returned = signature_of(self.fn)
        except HintError as error:
            raise refusal(self.what, self.fn, [str(error)]) from None
        names = Names(self.fn)
        self.returned = names.returned(returned)
        for parameter in parameters:
            try:
                annotation = names.hint(parameter)
            except HintError as error:
                self.problems.append(f"parameter {parameter.name!r}: {error}")
                continue
            try:
                check_no_marker(parameter.default, annotation, parameter.name)
            except FormError as error:
                self.problems.append(f"parameter {parameter.name!r}: {error}")
                continue
            if not self._is_context(parameter.name, annotation):
                self.parameters.append((parameter, annotation))

    def _is_context(self, name: str, annotation: Any) -> bool:
        family = self.contexts + self.other_contexts
        classes = [member for member in classes_in(annotation) if issubclass(member, family)]
        if not classes:
            return False
        # A base of the context fits too: it promises less than what is given.
        if not any(issubclass(cls, self.contexts) or self._is_base(cls) for cls in classes):
            allowed = " or ".join(cls.__name__ for cls in self.contexts) or "no context"
            given = classes[0].__name__
            article = "an" if given[:1] in "AEIOU" else "a"
            self.problems.append(f"parameter {name!r} is {article} {given}, which is not given here; write {allowed}")
        elif self.context is not None:
            self.problems.append(f"parameter {name!r}: {self.context!r} takes the context already; keep one of them")
        else:
            self.context = name
        return True

    def _is_base(self, cls: type) -> bool:
        return any(issubclass(context, cls) for context in self.contexts)

    def typed(self, documented: dict[str, str], mode: Mode, *, forbid: bool) -> tuple[Form, list[Field]]:
        """The form of the arguments object, from the annotations, and its fields."""
        fields: list[Field] = []
        for parameter, annotation in self.parameters:
            try:
                fields.append(_field(parameter, annotation, documented, mode, self._a_context))
            except FormError as error:
                self.problems.append(str(error))
        self._refuse()
        try:
            form = object_form(fields, lambda members: members, forbid=forbid, noun="argument")
        except FormError as error:
            self.problems.append(str(error))
        else:
            self.problems += _unsendable(form, fields)
        self._refuse()
        return form, fields

    def one_value(self, takes: str) -> ValueSignature:
        """The parameter of the one value, and how it is converted."""
        found: str | None = None
        value: Any = Any
        convert = _converter(form_of(Any, Mode()))
        for parameter, annotation in self.parameters:
            name = parameter.name
            at = f"parameter {name!r}"
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                self.problems.append(f"{at} has no name to be given by; write plain parameters")
            elif annotation is parameter.empty:
                if parameter.default is parameter.empty:  # else bound by the author: `lambda x=x: …`
                    hint = f"annotate it with {takes}, or with {self._a_context}"
                    if is_context_name(name) and self.context is None:
                        hint = f"write `{name}: {self._a_context}`"
                    self.problems.append(f"{at} has no annotation; {hint}")
            elif found is not None:
                if parameter.default is parameter.empty:
                    self.problems.append(
                        f"{at} is one too many: besides a {self._a_context} it takes one value ({takes}), "
                        f"and that is {found!r}"
                    )
            else:
                found, value = name, annotation
                try:
                    form = form_of(annotation, Mode(strict=True, extra="ignore"))
                    if parameter.default is not parameter.empty:
                        check_default(parameter.default, annotation, form)
                    convert = _converter(form)
                except FormError as error:
                    self.problems.append(f"{at}: {error}")
        self._refuse()
        return ValueSignature(found, value, convert, self.context)

    @property
    def _a_context(self) -> str:
        return self.contexts[0].__name__ if self.contexts else "nothing"

    def raw(self, given: dict[str, Any], *, forbid: bool) -> tuple[Bind, dict[str, Any]]:
        """A binder for the author's own schema, and a copy of the schema."""
        try:
            schema = _plain_schema(given)
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
            elif (problem := _unfit(parameter)) is not None:
                self.problems.append(problem)
            elif annotation is parameter.empty and is_context_name(parameter.name) and self.context is None:
                self.problems.append(
                    f"parameter {parameter.name!r} has no annotation; write `{parameter.name}: {self._a_context}`"
                )
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
        return raw_binder(validate, named, required, rest, keep=keep, forbid=forbid), schema

    def _refuse(self) -> None:
        if self.problems:
            raise refusal(self.what, self.fn, self.problems)


def is_context_name(name: str) -> bool:
    """Whether a parameter's name says that a context is meant: ``ctx``, ``context``, ``tool_ctx``."""
    return name.strip("_").rpartition("_")[2] in ("ctx", "context")


def classes_in(annotation: Any) -> list[type]:
    """The classes that an annotation names: itself, or the members of a union."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return classes_in(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [cls for member in typing.get_args(annotation) for cls in classes_in(member)]
    if isinstance(annotation, typing.NewType):
        return classes_in(annotation.__supertype__)
    if isinstance(annotation, typing.TypeVar):
        return classes_in(annotation.__bound__)
    if type(origin or annotation).__name__ == "TypeAliasType":
        try:
            return classes_in((origin or annotation).__value__)
        except NameError:  # said where its form is made
            return []
    cls = origin or annotation  # a context may be generic: ToolContext[State]
    return [cls] if isinstance(cls, type) else []


def _plain_schema(given: Any) -> dict[str, Any]:
    """A copy of an author's schema, as plain JSON data."""
    try:
        plain = to_json(given)
    except EncodeError as error:
        raise FormError(f"parameters= can't be sent: {error}") from None
    if not isinstance(given, dict) or not isinstance(plain.get("properties", {}), dict):
        raise FormError('parameters= must be the JSON Schema of an object: {"type": "object", "properties": {…}}')
    return typing.cast("dict[str, Any]", plain)


def _unsendable(form: Form, fields: list[Field]) -> list[str]:
    """What of a schema can't be written as JSON, by the parameters that are to blame."""
    try:
        to_json({"parameters": form.schema}, "")  # as deep as in a registration
    except EncodeError as error:
        problems = [problem for field in fields if (problem := _cannot_be_described(field)) is not None]
        return problems or [f"its parameters can't be described to a host: {error.problem}"]
    return []


def _cannot_be_described(field: Field) -> str | None:
    try:
        to_json(field.schema, "")
    except EncodeError as error:
        return f"parameter {field.name!r} can't be described to a host: {error.path.lstrip('.')}: {error.problem}"
    return None


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


def _field(
    parameter: inspect.Parameter, annotation: Any, documented: dict[str, str], mode: Mode, context: str
) -> Field:
    name = parameter.name
    if (problem := _unfit(parameter)) is not None:
        raise FormError(problem)
    if annotation is parameter.empty:
        if name == "self":
            raise FormError("parameter 'self' has no annotation; register the bound method of an instance")
        hint = f"write `{name}: {context}`" if is_context_name(name) else f"write its type, as in `{name}: str`"
        raise FormError(f"parameter {name!r} has no annotation; {hint}")
    try:
        form = form_of(annotation, mode)
        if parameter.default is not parameter.empty:
            check_default(parameter.default, annotation, form)
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

    def load_decoded(value: Any, faults: Faults) -> Any:
        if type(value) is str:
            try:
                decoded = orjson.loads(value)
            except orjson.JSONDecodeError:
                pass
            else:
                if json_word(decoded) in form.takes and type(decoded) in (list, dict):
                    value = decoded
        return load(value, faults)

    return form.but(load=load_decoded)
