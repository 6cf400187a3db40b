"""The JSON Schemas of every method, made from the records of the wire.

Pure: types in, documents (plain dicts) out; ``cli/spec.py`` writes them to files. The fields come from the records
alone; the tables below only say which file a schema is in, and under which name. No schemas of tools' arguments:
``schema/`` makes those.

A schema accepts what :func:`sepkit.wire.converter.structure_exactly` accepts.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from types import NoneType
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import attrs

from sepkit.wire import messages as m
from sepkit.wire import methods
from sepkit.wire.faults import JSON_TYPES
from sepkit.wire.messages import REST, TAG, Bounds, HasText, JsonObject, Record
from sepkit.wire.shapes import is_union, tag_of, without_null

Schema = dict[str, Any]
Sender = Literal["host", "extension", "either"]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


# -------------------------------------------------------------------------------------------------------------- frames
# For their schema only: `wire/frames.py` reads and writes a frame as a dict.
Id = int | str


@attrs.frozen(kw_only=True)
class Request(Record):
    """A call that is answered under its ``id``, which is unique among those of its sender."""

    jsonrpc: Literal["2.0"]
    id: Id
    method: str
    params: JsonObject = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Notification(Record):
    """A call without an ``id``, which is never answered."""

    jsonrpc: Literal["2.0"]
    method: str
    params: JsonObject = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class SuccessResponse(Record):
    """The answer to a request; what ``result`` holds depends on the method."""

    jsonrpc: Literal["2.0"]
    id: Id
    result: Any


@attrs.frozen(kw_only=True)
class Error(Record):
    """Why a request failed, as a code for programs and a message for people."""

    code: int
    message: str
    data: Any = None


@attrs.frozen(kw_only=True)
class ErrorResponse(Record):
    """The answer to a request that failed; ``id`` is null where that of the request could not be read."""

    jsonrpc: Literal["2.0"]
    id: Id | None
    error: Error


# -------------------------------------------------------------------------------------------------- which file has what
# Methods that share a file; each of the others has one of its own.
_FAMILIES: Final = ("kv", "provider", "session", "task")

_BOTH_WAYS: Final = frozenset({methods.PING, methods.CANCEL})
_TO_EXTENSION: Final = frozenset(
    {
        methods.INITIALIZE,
        methods.SHUTDOWN,
        methods.EVENT,
        methods.HOOK,
        methods.TOOL_EXECUTE,
        methods.COMMAND_EXECUTE,
        methods.COMMAND_COMPLETE,
        methods.PROVIDER_COMPLETE,
        methods.PROVIDER_OAUTH_LOGIN,
        methods.PROVIDER_OAUTH_REFRESH,
        methods.TASK_START,
        methods.TASK_STOP,
        methods.TASK_LIST,
    }
)

# What a document of the file may be besides params and results. Frames belong to no method, so all of them are here.
_LISTED: Final[dict[str, dict[str, Any]]] = {
    "command-complete": {"Completion": m.Completion},
    "envelope": {
        "Request": Request,
        "Notification": Notification,
        "SuccessResponse": SuccessResponse,
        "ErrorResponse": ErrorResponse,
    },
}

# What has a name in a file's `$defs` and is referred to; everything else is written out where it is used. A type that
# contains itself must be here.
_PARTS: Final[dict[str, dict[str, Any]]] = {
    "envelope": {"Id": Id, "Error": Error, "Context": m.Context},
    "hook": {"HookOutcome": m.HookOutcome, "Context": m.Context},
    "initialize": {
        "Registrations": m.Registrations,
        "MessageRendererRegistration": m.MessageRendererRegistration,
        "RenderBlock": m.RenderBlock,
        "ProviderRegistration": m.ProviderRegistration,
        "ProviderModel": m.Model,
        "ToolRegistration": m.ToolRegistration,
        "CommandRegistration": m.CommandRegistration,
        "ShortcutRegistration": m.ShortcutRegistration,
    },
    "provider": {"Context": m.Context},
    "registry-update": {
        "ProviderRegistration": m.ProviderRegistration,
        "ToolRegistration": m.ToolRegistration,
        "CommandRegistration": m.CommandRegistration,
    },
    "session": {"Context": m.Context},
}

_ABOUT: Final = {
    "bus-publish": "Hosts of today act on it only where it is sent as a request, which they answer with `{}`.",
    "envelope": "The four frames of JSON-RPC 2.0, one a line, and the context that the host's calls carry.",
    "initialize": "`tasks` in `Registrations` is sepkit's addition to SEP, sent only to hosts that asked for it.",
    "task": "Background tasks: sepkit's addition to SEP, sent only where `capabilities_enabled.tasks` is true.",
}


@attrs.frozen
class MethodSchemas:
    """Where the schemas of a method are: the file without ``.schema.json``, and the names in its ``$defs``.

    ``result`` is None for a notification.
    """

    method: str
    sender: Sender
    file: str
    params: str
    result: str | None

    @property
    def kind(self) -> str:
        """``"request"`` or ``"notification"``."""
        return "notification" if self.result is None else "request"


def method_schemas() -> list[MethodSchemas]:
    """Every method of the wire, in the order of ``methods.py``."""
    return [
        MethodSchemas(
            method=method,
            sender="either" if method in _BOTH_WAYS else "host" if method in _TO_EXTENSION else "extension",
            file=_file_of(method),
            params=_entry_name(method, "Params", params),
            result=_entry_name(method, "Result", m.RESULTS[method]) if _has_result(method) else None,
        )
        for method, params in m.PARAMS.items()
    ]


def _has_result(method: str) -> bool:
    return method in m.RESULTS and method != methods.BUS_PUBLISH


def _file_of(method: str) -> str:
    family = method.partition("/")[0]
    return family if family in _FAMILIES else re.sub("[/_]", "-", method.removeprefix("$/"))


def _entry_name(method: str, half: str, record: Any) -> str:
    family, _, verb = method.partition("/")
    if family not in _FAMILIES:
        return half
    return record.__name__ if record in _shared(family) else _pascal(verb) + half


def _shared(family: str) -> set[Any]:
    """The records that several methods of a family have in common; they are listed by their own name."""
    used = [t for table in (m.PARAMS, m.RESULTS) for method, t in table.items() if method.startswith(f"{family}/")]
    return {t for t in used if used.count(t) > 1} - {m.Empty}


def _pascal(name: str) -> str:
    return "".join(word.capitalize() for word in re.split("[-_]", name))


# ----------------------------------------------------------------------------------------------------------- documents
def documents() -> dict[str, Schema]:
    """Every document by the name of its file, without ``.schema.json``, sorted."""
    files = {one.file for one in method_schemas()} | _LISTED.keys()
    return {file: document(file) for file in sorted(files)}


def document(file: str) -> Schema:
    """A file's document: an entry in ``$defs`` for everything in it, valid without any other file.

    Its ``oneOf`` lists what the file is about. To validate params or a result, use their entry: ``{}`` may fit several.
    """
    used = [one for one in method_schemas() if one.file == file]
    called: dict[str, Any] = {}
    for one in used:
        called[one.params] = m.PARAMS[one.method]
        if one.result is not None:
            called[one.result] = m.RESULTS[one.method]
    listed = called | _LISTED.get(file, {})
    parts = _PARTS.get(file, {})
    by_own_name = {name: t for name, t in called.items() if t in _shared(file)}
    # What is referred to by name. Params and results are not: one record may belong to many methods.
    names = {t: name for name, t in (by_own_name | _LISTED.get(file, {}) | parts).items()}

    title = _pascal(file)
    entries: dict[str, Schema] = {}
    for name, t in (listed | parts).items():
        schema = _body(t, names, ()) if names.get(t, name) == name else _ref(names[t])
        if "$ref" not in schema:
            schema = {"title": "", **schema} | {"title": title + name if name in called else name}
        entries[name] = schema
    return {
        "$schema": DIALECT,
        "$id": f"urn:sepkit:schema:{file}",
        "$comment": "Made by `sepkit spec`.",
        "title": title,
        "description": " ".join([*([_ABOUT[file]] if file in _ABOUT else []), *map(_told, used)]),
        "$defs": entries,
        # The result of `hook` is one of its parts by another name, and is listed as that part.
        "oneOf": [entries[name] if "$ref" in entries[name] else _ref(name) for name in listed],
    }


def _told(one: MethodSchemas) -> str:
    sender = "both sides" if one.sender == "either" else f"the {one.sender}"
    answer = f", answered with `{one.result}`" if one.result is not None else ""
    return f"`{one.method}` is a {one.kind} of {sender}: `{one.params}`{answer}."


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


# -------------------------------------------------------------------------------------------------------------- schemas
_SCALARS: Final[dict[Any, str]] = {t: JSON_TYPES[t] for t in (str, int, float, bool, NoneType)} | {None: "null"}


def schema_of(t: Any, names: Mapping[Any, str] | None = None) -> Schema:
    """The schema of a record, or of any type that a field of a record has.

    Within it, a type in ``names`` becomes a ``$ref`` to that entry of ``$defs``.

    Raises:
        TypeError: There is no schema for a type, or it contains itself and has no name.
    """
    return _body(t, names or {}, ())


def _schema(t: Any, names: Mapping[Any, str], around: tuple[Any, ...]) -> Schema:
    return _ref(names[t]) if t in names else _body(t, names, around)


def _body(t: Any, names: Mapping[Any, str], around: tuple[Any, ...]) -> Schema:
    if t in around:
        raise TypeError(f"{_name(t)} contains itself; give it a name, so that it can be referred to")
    if t is Any:
        return {}
    if t in _SCALARS:
        return {"type": _SCALARS[t]}
    if _is_record(t):
        return _record(t, names, (*around, t))
    origin, arguments = get_origin(t), get_args(t)
    if origin is list:
        return {"type": "array", "items": _schema(arguments[0], names, around)}
    if origin is dict and arguments[0] is str:
        values = _schema(arguments[1], names, around)
        return {"type": "object", **({"additionalProperties": values} if values else {})}
    if origin is Literal:
        return _choice(arguments)
    if origin is Annotated:
        return _constrained(_schema(arguments[0], names, around), arguments[1:])
    if is_union(t):
        return _union(arguments, names, (*around, t))
    raise TypeError(f"there is no schema for {_name(t)}")


def _name(t: Any) -> str:
    return t.__name__ if isinstance(t, type) else str(t)


def _choice(values: tuple[Any, ...]) -> Schema:
    if len(values) == 1:
        return {"const": values[0]}
    kinds = {type(value) for value in values}
    kind = {"type": _SCALARS[kinds.pop()]} if len(kinds) == 1 else {}
    return {**kind, "enum": list(values)}


def _constrained(schema: Schema, constraints: tuple[Any, ...]) -> Schema:
    for constraint in constraints:
        if isinstance(constraint, Bounds):
            limits = {"minimum": constraint.ge, "maximum": constraint.le}
            schema = {**schema, **{word: limit for word, limit in limits.items() if limit is not None}}
        elif isinstance(constraint, HasText):
            schema = {**schema, "required": [constraint.name], "properties": {constraint.name: {"type": "string"}}}
        else:
            raise TypeError(f"there is no schema for the constraint {constraint!r}")
    return schema


def _union(members: tuple[Any, ...], names: Mapping[Any, str], around: tuple[Any, ...]) -> Schema:
    schemas = [_schema(member, names, around) for member in members]
    records = [member for member in members if member is not NoneType]
    tags = [tag for tag in map(tag_of, records) if tag is not None]
    if len(records) > 1 and tags:
        field = tags[0].name
        if len(tags) < len(records) or any(tag.name != field for tag in tags):
            # `structure` may choose a member by its tag, which `anyOf` cannot.
            raise TypeError(f"{' | '.join(map(_name, members))}: no one field tells the members apart")
        words = ", ".join(f"`{get_args(tag.type)[0]}`" for tag in tags)
        return {"description": f"One of several kinds; `{field}` tells which: {words}.", "oneOf": schemas}
    if all(schema.keys() == {"type"} for schema in schemas):
        return {"type": [schema["type"] for schema in schemas]}
    return {"anyOf": schemas}


def _is_record(t: Any) -> bool:
    return isinstance(t, type) and issubclass(t, Record) and t is not Record


def _record(cls: Any, names: Mapping[Any, str], around: tuple[Any, ...]) -> Schema:
    hints = typing.get_type_hints(cls, include_extras=True)
    properties: dict[str, Schema] = {}
    required: list[str] = []
    is_open = False
    for field in attrs.fields(cls):
        hint = hints[field.name]
        if REST in field.metadata:
            is_open = True
        elif field.default is attrs.NOTHING or TAG in field.metadata:
            required.append(field.name)
            properties[field.name] = _schema(hint, names, around)
        elif field.default is None:  # None means absent, so null is not a value
            properties[field.name] = _schema(without_null(hint), names, around)
        else:
            factory = getattr(field.default, "factory", None)
            default = field.default if factory is None else factory()
            properties[field.name] = {**_schema(hint, names, around), "default": default}
    prose = _prose(cls)
    return {
        "title": cls.__name__,
        **({"description": prose} if prose else {}),
        "type": "object",
        **({"required": required} if required else {}),
        "additionalProperties": is_open,
        "properties": properties,
    }


_SHAPE: Final = re.compile(r"Wire: ``\{.*?\}``[,;.]? ?(.?)")
_SOURCE: Final = re.compile(r" ?Source: .*")
_ROLE: Final = re.compile(r":[a-z]+:`([^`]*)`")


def _prose(cls: type) -> str:
    """A docstring as one line, without Python's markup and without the shape, which the schema itself shows."""
    text = _SOURCE.sub("", " ".join((cls.__doc__ or "").split()))
    text = _SHAPE.sub(lambda match: match[1].upper(), text)
    return _ROLE.sub(r"`\1`", text).replace("``", "`").strip()
