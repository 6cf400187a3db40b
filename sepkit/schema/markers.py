"""What other libraries put into ``Annotated[T, …]`` or as a default: ``Field(…)``, ``Meta(…)``, ``Depends(…)``.

They are read where they say what a description, or a constraint of annotated-types, says. What else they ask for would
be lost without a word, so it is refused where it is written, with the words to write instead. Nothing is imported for
that: a marker is known by its library, or by its attributes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import Any, Final

from .forms import FormError

# Libraries whose markers say what becomes of a parameter. What others put into Annotated is their own business.
_LIBRARIES: Final = frozenset(
    {"annotated_types", "attr", "attrs", "click", "cyclopts", "dataclasses", "dishka", "fast_depends", "fastapi"}
    | {"fastmcp", "faststream", "langchain_core", "litestar", "msgspec", "pydantic", "pydantic_core", "sqlmodel"}
    | {"strawberry", "taskiq_dependencies", "typer", "tyro", "wireup"}
)
# Their parameter markers in the standard library and in attrs; other objects of these modules are plain values.
_FIELDS: Final = frozenset({"Field", "_CountingAttr"})

CONSTRAINTS: Final = {
    "ge": "Ge",
    "gt": "Gt",
    "le": "Le",
    "lt": "Lt",
    "multiple_of": "MultipleOf",
    "min_length": "MinLen",
    "max_length": "MaxLen",
}
_DESCRIPTIONS: Final = ("description", "documentation", "help")
_PATTERNS: Final = ("pattern", "regex")
# They change nothing about which values are right, or only how other libraries show or store them.
_HARMLESS: Final = frozenset(
    {"alias_priority", "allow_inf_nan", "annotation", "default_factory_takes_validated_data", "deprecated"}
    | {"deprecation_message", "discriminator", "embed", "example", "examples", "exclude", "exclude_if", "fail_fast"}
    | {"field_title_generator", "frozen", "in_", "include_in_schema", "init", "init_var", "kw_only", "media_type"}
    | {"metadata", "metadata_lookup", "openapi_examples", "repr", "title", "union_mode", "unit", "validate_default"}
)
_MAY_BE_EMPTY: Final = frozenset({"FieldInfo", "Meta"})
_OTHERWISE: Final = (
    "do in the function what it is for (functools.partial binds a value, ctx.state has the lifespan's); descriptions,"
    " bounds, lengths and patterns are read"
)
_INSTEAD: Final = {
    "default": "write the default after the annotation: `= …`",
    "default_factory": "let the default be None, and make the value in the function",
    "alias": "name the parameter so",
    "validation_alias": "name the parameter so",
    "strict": "write @app.tool(strict=True)",
}


def library_of(item: object) -> str | None:
    """The library of a parameter's marker; None for anything else."""
    library = type(item).__module__.partition(".")[0]
    if isinstance(item, type | Enum):
        return None
    if library in ("attr", "attrs", "dataclasses") and type(item).__name__ not in _FIELDS:
        return None
    return library if library in _LIBRARIES else None


def is_marker(item: object) -> bool:
    """Whether this asks something of a parameter: it is of such a library, or has bounds as attributes."""
    if isinstance(item, type | str | re.Pattern):
        return False
    return library_of(item) is not None or any(_is_set(getattr(item, name, None)) for name in CONSTRAINTS)


def read_marker(item: Any) -> Iterator[tuple[str, Any]]:
    """What a marker asks for: ``("description", text)``, ``("pattern", text)``, or a bound, as ``("ge", 1)``.

    Raises:
        FormError: It asks for something else.
    """
    library, name = library_of(item), type(item).__name__
    shown = name if library is None else f"{name} of {library}"
    settings = dict(_all_settings(item))
    for setting, value in settings.items():
        if setting in CONSTRAINTS:
            yield setting, value
        elif setting in _PATTERNS and isinstance(value, str):
            yield "pattern", value
        elif setting in _DESCRIPTIONS and isinstance(value, str):
            yield "description", value
        elif setting not in _HARMLESS:
            raise FormError(f"{setting} of {shown} is not read here; {_INSTEAD.get(setting, _OTHERWISE)}")
    if not settings and name not in _MAY_BE_EMPTY:
        raise FormError(f"{shown} is not read here; {_OTHERWISE}")


def written_instead(marker: Any, shown: str) -> str:
    """The words to write in place of a marker as the default: ``Annotated[int, Ge(1)] = 5``."""
    parts, default = [], ""
    for setting, value in _all_settings(marker):
        if setting in _DESCRIPTIONS:
            parts.append(repr(value))
        elif setting in _PATTERNS:
            parts.append(f"re.compile({value!r})")
        elif setting in CONSTRAINTS:
            parts.append(f"{CONSTRAINTS[setting]}({value!r})")
        elif setting in ("default", "default_factory"):
            default = f" = {value!r}" if setting == "default" else " = None"
    return (f"Annotated[{shown}, {', '.join(parts)}]" if parts else shown) + default


def _all_settings(item: Any) -> Iterator[tuple[str, Any]]:
    """What is set of a marker and of its parts: pydantic keeps constraints of its own in ``metadata``."""
    for setting, value in _settings(item).items():
        if setting == "metadata" and isinstance(value, list | tuple):
            for part in value:
                yield from _all_settings(part)
        else:
            yield setting, value


def _settings(item: Any) -> dict[str, Any]:
    """What is set of a marker: its public attributes, but for methods and what means "not set"."""
    found = {}
    if _is_set(default := getattr(item, "_default", None)):  # of attrs
        found["default"] = default
    for name in dir(item):
        if not name.startswith("_"):
            try:
                value = getattr(item, name)
            except Exception:  # a property that needs more than is there
                continue
            if _is_set(value) and (name == "default_factory" or not callable(value)):
                found[name] = value
    return found


def _is_set(value: object) -> bool:
    if value is None or value is False or value is ... or value == () or value == [] or value == {}:
        return False
    return "Undefined" not in type(value).__name__ and type(value).__name__ not in (
        "_Nothing",
        "_MISSING_TYPE",
        "NoDefault",
    )
