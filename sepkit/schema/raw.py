"""Arguments checked against a JSON Schema that the author wrote, with jsonschema-rs (the extra ``sepkit[jsonschema]``).

The schema rules: no coercion, and nothing is read from the annotations. Values go to the parameters by name;
``**kwargs`` takes those that no parameter names; a single parameter that the schema doesn't name, annotated as a dict,
takes the whole object.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import islice
from typing import Any

import orjson

from sepkit.errors import MOST_FAULTS, Fault, InvalidData

from .forms import FormError, json_word, key_step

Validate = Callable[[dict[str, Any]], list[Fault]]


def compile_schema(schema: Mapping[str, Any], option: str = "parameters", noun: str = "argument") -> Validate:
    """The schema as a function that lists the faults of an object. Raises ``FormError`` for a bad schema.

    Args:
        schema: What the author gave.
        option: As what it was given.
        noun: What a member of the object is.
    """
    try:
        import jsonschema_rs
    except ImportError as error:
        raise FormError(f"{option}=<JSON Schema> needs jsonschema-rs; pip install 'sepkit[jsonschema]'") from error

    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise FormError(f'{option}= must be the JSON Schema of an object: {{"type": "object", "properties": {{…}}}}')
    try:
        validator = jsonschema_rs.validator_for(schema, retriever=_retrieve)
    except ValueError as error:
        raise FormError(f"{option}= is no valid JSON Schema: {_reason(error)}") from error

    def validate(arguments: dict[str, Any]) -> list[Fault]:
        if validator.is_valid(arguments):
            return []
        errors = islice(validator.iter_errors(arguments), MOST_FAULTS)
        return [fault for error in errors for fault in _faults(error, arguments, noun)]

    return validate


def _retrieve(uri: str) -> Any:
    # The library would fetch it, over the network or from the disk.
    raise ValueError(f"$ref to {uri}: only references inside the schema are followed")


def _reason(error: ValueError) -> str:
    path = "".join(
        f"[{step}]" if isinstance(step, int) else key_step(step) for step in getattr(error, "instance_path", ())
    )
    message = getattr(error, "message", None) or str(error).splitlines()[0]
    return f"${path}: {message}"


def _faults(error: Any, arguments: dict[str, Any], noun: str) -> list[Fault]:
    path, value = "$", arguments
    for step in error.instance_path:
        path += f"[{step}]" if isinstance(step, int) else key_step(step)
        value = value[step]
    kind, keyword = error.kind, str(error.schema_path[-1]) if error.schema_path else "false"
    if keyword == "required":
        return [Fault(path + key_step(kind.property), "a value", "nothing")]
    if keyword in ("additionalProperties", "unevaluatedProperties") and hasattr(kind, "unexpected"):
        return [
            Fault(path + key_step(key), f"nothing (no such {noun})", json_word(value.get(key)))
            for key in kind.unexpected
        ]
    return [Fault(path, _expected(keyword, kind), json_word(value))]


def _expected(keyword: str, kind: Any) -> str:
    """What a keyword demands, in its own words. The library's message would quote the value."""
    if keyword == "type":
        return " or ".join(kind.types)
    if keyword == "enum":
        return "one of " + ", ".join(orjson.dumps(option).decode() for option in kind.options)
    for attribute in ("limit", "multiple_of", "pattern", "format", "expected_value"):
        if (demanded := getattr(kind, attribute, None)) is not None:
            return f"{keyword} {demanded}"
    return f"what {keyword!r} of the schema asks"


def raw_binder(
    validate: Validate, named: Collection[str], required: Collection[str], rest: str | None, *, keep: bool, forbid: bool
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """A binder for a raw schema. ``rest`` takes the whole object, ``keep`` says that there is a ``**kwargs``."""

    def bind(arguments: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(arguments, Mapping):
            raise InvalidData([Fault("$", "object", json_word(arguments))])
        given = dict(arguments)
        faults = validate(given)
        if rest is not None and not faults:
            return {rest: given}
        unknown = [] if keep or rest is not None else [key for key in given if key not in named]
        reported = {fault.path for fault in faults}
        for key in required:
            if key not in given and f"$.{key}" not in reported:
                faults.append(Fault(f"$.{key}", "a value", "nothing"))
        for key in unknown:
            value = given.pop(key)
            if forbid and f"${key_step(key)}" not in reported:
                faults.append(Fault(f"${key_step(key)}", "nothing (no such argument)", json_word(value)))
        if faults:
            raise InvalidData(faults)
        return given

    return bind
