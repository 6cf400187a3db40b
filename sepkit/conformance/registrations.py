"""The registrations: each family fits its schema, and its names are unique."""

from __future__ import annotations

from typing import Any, Final

from sepkit.conformance.evidence import Evidence
from sepkit.conformance.expectations import fitting
from sepkit.conformance.requirement import observation
from sepkit.conformance.violations import NotApplicable, Violation
from sepkit.wire import messages, methods

_NAMES: Final = {
    "tools": "name",
    "commands": "name",
    "providers": "name",
    "shortcuts": "key",
    "message_renderers": "tag",
}
_FAMILIES: Final = (*_NAMES, "flags", "subscriptions", "hooks", "tasks")
_DIALECTS: Final = [
    "https://json-schema.org/draft/2020-12/schema",
    "http://json-schema.org/draft-07/schema#",
    "http://json-schema.org/draft-04/schema#",
]
_TYPES: Final = ("object", "array", "string", "number", "integer", "boolean", "null")


def _family(e: Evidence, name: str) -> list[Any]:
    """The entries of a family. ``registrations.shape`` reports a family that is not an array."""
    found = e.subject.registrations.get(name)
    if not isinstance(found, list) or not found:
        raise NotApplicable(f"it registers no {name.replace('_', ' ')}")
    return found


@observation("registrations.shape", section="8", title="registrations is an object, and each family in it an array")
def _shape(e: Evidence) -> None:
    result = e.subject.greeting.get("result", {})
    found = result.get("registrations")
    if found is None:
        raise NotApplicable("it registers nothing")
    if not isinstance(found, dict):
        raise Violation("registrations as an object", f"a {type(found).__name__}")
    if wrong := [name for name in _FAMILIES if not isinstance(found.get(name), list | None)]:
        raise Violation("an array for each family", f"none for {', '.join(wrong)}")


@observation(
    "registrations.known-families",
    section="8",
    title="registrations has no other families than the protocol, since hosts ignore them",
    advice=True,
)
def _known_families(e: Evidence) -> None:
    if unknown := e.subject.registrations.keys() - set(_FAMILIES):
        raise Violation(f"only {', '.join(_FAMILIES)}", ", ".join(sorted(unknown)))


def _each_fits(e: Evidence, family: str, record: Any) -> None:
    for place, entry in enumerate(_family(e, family)):
        fitting(entry, record, f"{family}[{place}]")


@observation("registrations.tools", section="8", title="each tool has a name, a description and parameters")
def _tools(e: Evidence) -> None:
    _each_fits(e, "tools", messages.ToolRegistration)


@observation(
    "registrations.tool-parameters", section="8", title="the parameters of each tool are a JSON Schema of an object"
)
def _tool_parameters(e: Evidence) -> None:
    for place, entry in enumerate(_family(e, "tools")):
        parameters = entry.get("parameters") if isinstance(entry, dict) else None
        if isinstance(parameters, dict) and (wrong := _no_schema(parameters)):
            raise Violation("the JSON Schema of an object", f"tools[{place}].parameters: {wrong}")


def _no_schema(schema: dict[str, Any]) -> str | None:
    """Why it is not a JSON Schema for arguments; None if it may be one."""
    kinds = schema.get("type", "object")
    if "object" not in (kinds if isinstance(kinds, list) else [kinds]):
        return f"type {kinds!r}, which no arguments have"
    if wrong := _malformed(schema, "$"):
        return wrong
    try:
        import jsonschema_rs
    except ImportError:
        return None
    # For an unknown dialect it would look for the schema on the network. The protocol names no dialect.
    given = str(schema.get("$schema"))
    dialects = [given] if "json-schema.org/" in given else _DIALECTS
    found = None
    for dialect in dialects:
        try:
            jsonschema_rs.meta.validate(schema | {"$schema": dialect})
        except (jsonschema_rs.ReferencingError, ValueError) as error:
            found = found or str(error).splitlines()[0]
        else:
            return None
    return found


def _malformed(schema: object, path: str) -> str | None:
    """What is obviously wrong with a schema. Only jsonschema-rs, where it is installed, checks everything."""
    if isinstance(schema, bool):
        return None
    if not isinstance(schema, dict):
        return f"{path} is not a schema"
    kinds = schema.get("type", [])
    if any(kind not in _TYPES for kind in (kinds if isinstance(kinds, list) else [kinds])):
        return f"{path}.type is {kinds!r}"
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        return f"{path}.required is not an array of strings"
    if not isinstance(schema.get("enum", []), list):
        return f"{path}.enum is not an array"
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        return f"{path}.properties is not an object"
    below = [(f"{path}.properties.{name}", one) for name, one in properties.items()]
    items = schema.get("items", [])  # an array of schemas until draft 2019-09
    below += [(f"{path}.items", one) for one in (items if isinstance(items, list) else [items])]
    for place, one in below:
        if (wrong := _malformed(one, place)) is not None:
            return wrong
    return None


@observation("registrations.commands", section="8", title="each command has a name and a description")
def _commands(e: Evidence) -> None:
    _each_fits(e, "commands", messages.CommandRegistration)


@observation("registrations.flags", section="8", title="each flag is a name")
def _flags(e: Evidence) -> None:
    _each_fits(e, "flags", str)


@observation("registrations.shortcuts", section="8", title="each shortcut has a key and a command")
def _shortcuts(e: Evidence) -> None:
    _each_fits(e, "shortcuts", messages.ShortcutRegistration)


@observation("registrations.shortcut-commands", section="8", title="each shortcut runs a command that is registered")
def _shortcut_commands(e: Evidence) -> None:
    commands = e.subject.named("commands")
    for entry in _family(e, "shortcuts"):
        command = entry.get("command") if isinstance(entry, dict) else None
        if isinstance(command, str) and command not in commands:
            raise Violation("the name of a registered command", f"{command!r}; registered: {', '.join(commands)}")


@observation("registrations.subscriptions", section="8", title="each subscription is a name")
def _subscriptions(e: Evidence) -> None:
    _each_fits(e, "subscriptions", str)


@observation(
    "registrations.subscriptions-no-hooks",
    section="6",
    title="no subscription is a hook: the two lists are never mixed",
)
def _no_hooks(e: Evidence) -> None:
    mixed = {x for x in _family(e, "subscriptions") if isinstance(x, str)} & methods.HOOKS - methods.EVENTS
    if mixed:
        raise Violation("names of events", f"hooks: {', '.join(sorted(mixed))}")


@observation("registrations.hooks", section="6", title="each hook is one of the ten that there are")
def _hooks(e: Evidence) -> None:
    wrong = [repr(x) for x in _family(e, "hooks") if not isinstance(x, str) or x not in methods.HOOKS]
    if wrong:
        raise Violation(f"names out of {', '.join(sorted(methods.HOOKS))}", ", ".join(wrong))


@observation("registrations.providers", section="8", title="each provider has a name, and its models have ids")
def _providers(e: Evidence) -> None:
    _each_fits(e, "providers", messages.ProviderRegistration)


@observation(
    "registrations.message-renderers", section="8", title="each renderer has a tag and a render block as its template"
)
def _message_renderers(e: Evidence) -> None:
    _each_fits(e, "message_renderers", messages.MessageRendererRegistration)


@observation(
    "registrations.unique", section="8", title="within a family each name occurs once: it is what the host asks for"
)
def _unique(e: Evidence) -> None:
    for family, name in _NAMES.items():
        found = e.subject.registrations.get(family)
        names = [one.get(name) for one in found if isinstance(one, dict)] if isinstance(found, list) else []
        if twice := {repr(one) for one in names if names.count(one) > 1}:
            raise Violation("each name once", f"{family}: {', '.join(sorted(twice))} more than once")
