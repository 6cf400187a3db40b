"""A small value that a JSON Schema allows: the arguments of a tool for which the user gave none.

Not a validator. It ignores ``pattern``, ``not`` and ``if``, so its values may be wrong. That is harmless: a tool that
refuses them conforms, too.
"""

from __future__ import annotations

import math
from typing import Any, Final

_DEEPEST: Final = 12
_MOST: Final = 1000  # items or letters, even if a schema demands more
_FORMATS: Final = {
    "date": "2024-01-31",
    "date-time": "2024-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "duration": "P1D",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "email": "ada@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uri-reference": "/",
}
# The keywords from which the type of a schema without ``type`` is guessed.
_KEYWORDS: Final = {
    "object": ("properties", "required", "minProperties", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "uniqueItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}


def arguments_for(schema: object) -> dict[str, Any]:
    """The arguments for a tool with these parameters: what is required, and nothing else."""
    try:
        made = example(schema)
    except (
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
    ):  # registrations.tool-parameters reports it
        return {}
    return made if isinstance(made, dict) else {}


def example(schema: object) -> Any:
    """A small value that ``schema`` allows."""
    return _example(schema, schema, 0)


def _example(schema: object, root: object, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return "text" if depth <= _DEEPEST else None
    schema = _whole(schema, root, depth)
    if "const" in schema:
        return schema["const"]
    for known in ("enum", "examples"):
        if isinstance(schema.get(known), list) and schema[known]:
            return schema[known][0]
    if "default" in schema:
        return schema["default"]
    for choice in ("anyOf", "oneOf"):
        if isinstance(schema.get(choice), list) and schema[choice]:
            rest = {key: value for key, value in schema.items() if key != choice}
            return _example(_merged(rest, schema[choice][0]), root, depth + 1)
    kind = _type(schema)
    if kind == "object":
        return _object(schema, root, depth)
    if kind == "array":
        return _array(schema, root, depth)
    if kind in ("integer", "number"):
        return _number(schema, whole=kind == "integer")
    if kind == "boolean":
        return False
    if kind == "null":
        return None
    return _string(schema)


def _type(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if isinstance(kind, str):
        return kind
    return next((kind for kind, words in _KEYWORDS.items() if any(word in schema for word in words)), "string")


def _whole(schema: dict[str, Any], root: object, depth: int) -> dict[str, Any]:
    """The schema merged with its ``$ref`` and ``allOf``."""
    while "$ref" in schema and depth <= _DEEPEST:
        depth += 1
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        schema = _merged(rest, _referred(schema["$ref"], root))
    parts = schema.get("allOf")
    if isinstance(parts, list):
        schema = {key: value for key, value in schema.items() if key != "allOf"}
        for part in parts:
            if isinstance(part, dict):
                schema = _merged(schema, _whole(part, root, depth + 1) if depth <= _DEEPEST else {})
    return schema


def _referred(reference: object, root: object) -> object:
    found = root
    if not isinstance(reference, str) or not reference.startswith("#"):
        return {}
    for step in reference[1:].strip("/").split("/") if len(reference) > 1 else ():
        step = step.replace("~1", "/").replace("~0", "~")
        found = found.get(step) if isinstance(found, dict) else None
    return found


def _merged(one: dict[str, Any], other: object) -> dict[str, Any]:
    if not isinstance(other, dict):
        return one
    made = {**other, **one}
    if isinstance(one.get("properties"), dict) and isinstance(other.get("properties"), dict):
        made["properties"] = {**other["properties"], **one["properties"]}
    if isinstance(one.get("required"), list) and isinstance(other.get("required"), list):
        made["required"] = [*dict.fromkeys(one["required"] + other["required"])]
    return made


def _object(schema: dict[str, Any], root: object, depth: int) -> dict[str, Any]:
    properties = schema.get("properties")
    known = properties if isinstance(properties, dict) else {}
    required = schema.get("required")
    names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
    least = schema.get("minProperties", 0)
    names += [name for name in known if name not in names][: max(0, least - len(names))]
    return {name: _example(known.get(name, {}), root, depth + 1) for name in names}


def _array(schema: dict[str, Any], root: object, depth: int) -> list[Any]:
    first = schema.get("prefixItems")
    given = first if isinstance(first, list) else []
    made = [_example(one, root, depth + 1) for one in given]
    items = schema.get("items", {})
    while len(made) < min(schema.get("minItems", 0), _MOST):
        made.append(
            _unlike(_example(items, root, depth + 1), made, items)
            if schema.get("uniqueItems")
            else _example(items, root, depth + 1)
        )
    return made


def _unlike(value: Any, others: list[Any], schema: object) -> Any:
    """``value``, or another of its kind that is not among ``others``."""
    choices = schema.get("enum") if isinstance(schema, dict) else None
    if isinstance(choices, list):
        return next((one for one in choices if one not in others), value)
    if isinstance(value, str) and value in others:
        return f"{value}{len(others)}"
    if isinstance(value, int | float) and not isinstance(value, bool) and value in others:
        return value + len(others)
    return value


def _number(schema: dict[str, Any], *, whole: bool) -> int | float:
    """The number nearest to 0 between the bounds, on the grid of ``multipleOf``."""
    step = _limit(schema, "multipleOf") or (1 if whole else None)
    low, high = _limit(schema, "minimum"), _limit(schema, "maximum")
    above, below = _limit(schema, "exclusiveMinimum"), _limit(schema, "exclusiveMaximum")
    if step is None and above is not None and (low is None or above >= low):
        low = (above + below) / 2 if below is not None else above + 0.5
    if step is None and below is not None and (high is None or below <= high):
        high = (above + below) / 2 if above is not None else below - 0.5
    value = 0 if low is None or low <= 0 else low
    value = value if high is None or value <= high else high
    if step is not None:
        up = value > 0 or (value == 0 and above == 0)
        value = (math.ceil(value / step) if up else math.floor(value / step)) * step
        if above is not None and value <= above:
            value = (math.floor(above / step) + 1) * step
        if below is not None and value >= below:
            value = (math.ceil(below / step) - 1) * step
    return int(value) if whole else value


def _limit(schema: dict[str, Any], name: str) -> int | float | None:
    found = schema.get(name)
    return None if isinstance(found, bool) or not isinstance(found, int | float) else found


def _string(schema: dict[str, Any]) -> str:
    text: str = _FORMATS.get(schema.get("format", ""), "text")
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    text += "x" * (min(least, _MOST) - len(text))
    return text if most is None else text[:most]
