"""The schema of what a handler returns: of the class in its annotation, or a JSON Schema that the author wrote."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from typing import Any

from sepkit.errors import EncodeError, Fault, InvalidData, RegistrationError
from sepkit.records import Record
from sepkit.wire.shapes import is_attrs
from sepkit.wire.writing import to_json

from .forms import Faults, Form, FormError, json_word, prefix
from .hints import refusal, show
from .raw import compile_schema
from .types import Mode, form_of


class Output:
    """What a tool promises to return.

    Args:
        schema: Its JSON Schema, of an object.
        check: Raises InvalidData where an object does not fit, with every fault.
    """

    __slots__ = ("_check", "schema")

    def __init__(self, schema: dict[str, Any], check: Callable[[dict[str, Any]], None]) -> None:
        self.schema = schema
        self._check = check

    def written(self, value: object) -> dict[str, Any]:
        """What was returned, as plain JSON data that fits the schema.

        Raises:
            InvalidData: It does not fit; with every fault.
            EncodeError: It has no form in JSON.
        """
        plain = to_json(value)
        if type(plain) is not dict:
            raise InvalidData([Fault("$", "object", json_word(plain))])
        self._check(plain)
        return plain

    def __repr__(self) -> str:
        return f"Output({self.schema!r})"


def returned_output(annotation: Any) -> Output | None:
    """The output that a return annotation promises; None where it names no class with fields, or one without a schema.

    A class that holds itself has none: schemas are written out.
    """
    if not _writes_fields(annotation):
        return None
    try:
        return _of_form(form_of(annotation, Mode(strict=True, extra="written")))
    except FormError:
        return None


def given_output(given: Any, *, what: str, fn: Callable[..., Any]) -> Output:
    """The output that an author gave, as a JSON Schema or as a class.

    Raises:
        RegistrationError: It is neither a JSON Schema of an object nor a class that is written as one.
    """
    try:
        if isinstance(given, dict):
            return _raw(given)
        if not _writes_fields(given):
            raise FormError(f"output_schema={given!r}: write a JSON Schema, a dataclass, an attrs class or a TypedDict")
        return _of_form(form_of(given, Mode(strict=True, extra="written")))
    except FormError as error:
        raise _refused(what, fn, error, given) from None


def _refused(what: str, fn: Callable[..., Any], error: FormError, given: Any) -> RegistrationError:
    text = str(error)
    if not isinstance(given, dict) and "output_schema" not in text:
        text = f"output_schema={show(given)}: {text}"
    return refusal(what, fn, [text])


def _of_form(form: Form) -> Output:
    load = form.load
    try:
        to_json({"outputSchema": form.schema}, "")
    except EncodeError as error:
        raise FormError(f"output_schema= can't be sent: {error}") from None

    def check(value: dict[str, Any]) -> None:
        faults = Faults()
        load(value, faults)
        if faults:
            prefix(faults, 0, "$")
            raise InvalidData(faults)

    return Output(form.schema, check)


def _raw(given: dict[str, Any]) -> Output:
    try:
        schema = to_json(given)
    except EncodeError as error:
        raise FormError(f"output_schema= can't be sent: {error}") from None
    if schema.get("type") != "object":
        raise FormError('output_schema= must be the JSON Schema of an object: {"type": "object", "properties": {…}}')
    validate = compile_schema(schema, "output_schema", "field")

    def check(value: dict[str, Any]) -> None:
        if faults := validate(value):
            raise InvalidData(faults)

    return Output(schema, check)


def _writes_fields(annotation: Any) -> bool:
    """Whether values of this type are written as an object with named fields."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _writes_fields(typing.get_args(annotation)[0])
    cls = typing.get_origin(annotation) or annotation
    if not isinstance(cls, type) or issubclass(cls, Record | tuple):
        return False  # a record of sepkit, such as ToolResult, has a form of its own
    return is_attrs(cls) or dataclasses.is_dataclass(cls) or (issubclass(cls, dict) and hasattr(cls, "__total__"))
