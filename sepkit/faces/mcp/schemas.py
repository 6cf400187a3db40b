"""JSON Schemas as clients take them: without ``$ref`` and ``$schema``, and with ``items`` on each array.

Kiro and Gemini CLI do not follow references; VS Code refuses an array without ``items``. Pure functions.
"""

from __future__ import annotations

from typing import Any, Final

_MOST: Final = 20_000  # schemas in one: references that double each other would make billions
_DEEPEST: Final = 64
_DROPPED: Final = frozenset({"$schema", "$id", "$defs", "definitions", "$anchor", "$comment", "$ref", "id"})
_ONE: Final = frozenset(
    {
        "additionalItems",
        "additionalProperties",
        "contains",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
_LISTS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_MAPS: Final = frozenset({"properties", "patternProperties", "dependentSchemas"})


def plain_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """``schema``, the schema of an object, as all clients read it.

    A reference to a schema that it stands in is cut there: what is within may be anything.
    """
    found = _Inliner(schema).plain(schema, ())
    assert isinstance(found, dict)
    return {"type": "object", **found} if "type" not in found else found


class _Inliner:
    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._left = _MOST

    def plain(self, schema: Any, within: tuple[str, ...], depth: int = 0) -> Any:
        """``schema``, found within those references."""
        if type(schema) is not dict:
            return schema  # true and false are schemas, too
        self._left -= 1
        if self._left < 0 or depth > _DEEPEST:
            return {}
        made: dict[str, Any] = {}
        reference = schema.get("$ref")
        if isinstance(reference, str):
            target = None if reference in within else self._target(reference)
            found = self.plain(target, (*within, reference), depth + 1)
            if isinstance(found, dict):
                made.update(found)
        for keyword, value in schema.items():
            if keyword in _DROPPED:
                continue
            if keyword in _LISTS or (keyword == "items" and type(value) is list):
                value = [self.plain(one, within, depth + 1) for one in value] if type(value) is list else value
            elif keyword in _ONE:
                value = self.plain(value, within, depth + 1)
            elif keyword in _MAPS and type(value) is dict:
                value = {name: self.plain(one, within, depth + 1) for name, one in value.items()}
            made[keyword] = value
        kind = made.get("type")
        if (kind == "array" or (type(kind) is list and "array" in kind)) and "items" not in made:
            made["items"] = {}
        return made

    def _target(self, reference: str) -> Any:
        """What a reference within the document leads to; None where it leads nowhere."""
        if not reference.startswith("#"):
            return None
        found: Any = self._root
        for step in reference[1:].split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if type(found) is dict and step in found:
                found = found[step]
            elif type(found) is list and step.isdecimal() and int(step) < len(found):
                found = found[int(step)]
            else:
                return None
        return found


def parsed_kinds(schema: dict[str, Any]) -> dict[str, tuple[type, ...]]:
    """The arguments that are never a string, but may be an array or an object: for each, which of them.

    Some clients send such an argument as its JSON text.
    """
    found: dict[str, tuple[type, ...]] = {}
    for name, one in (schema.get("properties") or {}).items():
        kinds = _types(one)
        if kinds is not None and "string" not in kinds:
            wanted: list[type] = [kind for word, kind in (("array", list), ("object", dict)) if word in kinds]
            if wanted:
                found[name] = tuple(wanted)
    return found


def _types(schema: Any, depth: int = 0) -> set[str] | None:
    """The types that a schema lets pass, as far as it says so; None for any."""
    if type(schema) is not dict or depth > _DEEPEST:
        return None
    kind = schema.get("type")
    if type(kind) is str:
        return {kind}
    if type(kind) is list:
        return {one for one in kind if type(one) is str}
    for keyword in ("anyOf", "oneOf"):
        if type(schema.get(keyword)) is list:
            all_of_them: set[str] = set()
            for one in schema[keyword]:
                kinds = _types(one, depth + 1)
                if kinds is None:
                    return None
                all_of_them |= kinds
            return all_of_them
    return None
