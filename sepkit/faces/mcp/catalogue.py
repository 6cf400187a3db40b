"""What an App offers, as MCP's lists show it: tools, and commands as prompts, under names that all clients take.

A name with a dot makes Claude Desktop drop all tools of a server: it is served with ``_`` in its place, and cut to 64
characters. Hooks and logs keep the App's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

from sepkit.app import App
from sepkit.errors import RegistrationError
from sepkit.faces.mcp.schemas import choices, parsed_kinds, plain_schema
from sepkit.handlers import CommandSpec, ToolSpec, name_of
from sepkit.ownlog import OwnLog

S = TypeVar("S", ToolSpec, CommandSpec)

_LONGEST_NAME: Final = 64
_HINTS: Final = (
    ("read_only", "readOnlyHint"),
    ("destructive", "destructiveHint"),
    ("idempotent", "idempotentHint"),
    ("open_world", "openWorldHint"),
)
_log = OwnLog("sepkit")


class ServedTool:
    """A tool, as it is listed and called."""

    __slots__ = ("listed", "parsed", "spec")

    def __init__(self, spec: ToolSpec, name: str, *, promises: bool = True) -> None:
        schema = plain_schema(spec.parameters)
        self.spec = spec
        self.parsed = parsed_kinds(schema)
        """The arguments that some clients send as their JSON text, and what that may hold."""
        self.listed: dict[str, Any] = {"name": name, "inputSchema": schema}
        if spec.description:
            self.listed["description"] = spec.description
        if spec.title is not None:
            self.listed["title"] = spec.title
        hints = {hint: value for name, hint in _HINTS if (value := getattr(spec, name)) is not None}
        if hints:
            self.listed["annotations"] = hints
        if spec.icons:
            self.listed["icons"] = [icon.as_json() for icon in spec.icons]
        if spec.output is not None and promises:
            self.listed["outputSchema"] = plain_schema(spec.output.schema)


class ServedPrompt:
    """A command, as a prompt is listed and fetched."""

    __slots__ = ("listed", "parsed", "schema", "spec")

    def __init__(self, spec: CommandSpec, name: str) -> None:
        self.spec = spec
        self.schema = plain_schema(spec.parameters)
        self.parsed = parsed_kinds(self.schema)
        required = self.schema.get("required", ())
        arguments = []
        for argument, one in self.schema.get("properties", {}).items():
            about = {"name": argument, "required": argument in required}
            if type(one) is dict and one.get("description"):
                about["description"] = one["description"]
            arguments.append(about)
        self.listed: dict[str, Any] = {"name": name}
        if spec.description:
            self.listed["description"] = spec.description
        if arguments:
            self.listed["arguments"] = arguments
        if spec.title is not None:
            self.listed["title"] = spec.title
        if spec.icons:
            self.listed["icons"] = [icon.as_json() for icon in spec.icons]

    @property
    def arguments(self) -> list[str]:
        """The names of its arguments, in their order."""
        return list(self.schema.get("properties", {}))

    def choices(self, argument: str) -> list[str]:
        """The values of an argument that has few."""
        return choices(self.schema.get("properties", {}).get(argument))


class Catalogue:
    """The lists of one App. They are made anew when something is registered.

    Raises:
        RegistrationError: Two names would be the same to clients.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self.tools: dict[str, ServedTool] = {
            name: ServedTool(spec, name, promises=self._promises) for name, spec in self._tools(strict=True)
        }
        self.prompts: dict[str, ServedPrompt] = {
            name: ServedPrompt(spec, name) for name, spec in self._prompts(strict=True)
        }

    @property
    def _promises(self) -> bool:
        """Whether output schemas are listed: a hook may take the data out of a result, and clients would refuse it."""
        return "tool_result" not in self._app.hooks

    def _tools(self, *, strict: bool) -> Iterable[tuple[str, ToolSpec]]:
        own = {name: spec for name, spec in self._app.tools.items() if spec.stands_for is None}
        return _named("tool", own, strict=strict)

    def _prompts(self, *, strict: bool) -> Iterable[tuple[str, CommandSpec]]:
        shown = {spec.name: spec for spec in self._app.exposed("prompt")}
        return _named("command", shown, strict=strict)

    def refresh(self, kinds: Iterable[str]) -> None:
        """Something of these kinds has been registered."""
        if "tool" in kinds:
            known = {id(one.spec): one for one in self.tools.values()}
            self.tools = {
                name: known.get(id(spec)) or ServedTool(spec, name, promises=self._promises)
                for name, spec in self._tools(strict=False)
            }
        if "command" in kinds or "prompt" in kinds:
            self.prompts = {name: ServedPrompt(spec, name) for name, spec in self._prompts(strict=False)}

    @property
    def completes(self) -> bool:
        """Whether any argument of a prompt can be completed."""
        return bool(self._app.completers) or any(
            prompt.choices(argument) for prompt in self.prompts.values() for argument in prompt.arguments
        )


def served_name(name: str) -> str:
    """The name under which clients see what the App calls ``name``."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:_LONGEST_NAME]


def _named(kind: str, table: Mapping[str, S], *, strict: bool) -> list[tuple[str, S]]:
    found: dict[str, S] = {}
    for name, spec in list(table.items()):
        served = served_name(name)
        if served in found:
            problem = (
                f"{kind}s {found[served].name!r} and {name!r} would both be {served!r} to MCP clients, which take "
                f"letters, digits, '_' and '-' only, and {_LONGEST_NAME} of them; rename one"
            )
            if strict:
                raise RegistrationError(problem)
            _log.error("not served: %s", problem)
            continue
        found[served] = spec
    return list(found.items())


def unserved(app: App) -> list[str]:
    """What of an App no MCP client is told of, in words."""
    hooks = [
        f"hook {name} ({', '.join(name_of(spec.fn) for spec in specs)})"
        for name, specs in app.hooks.items()
        if name not in ("tool_call", "tool_result")
    ]
    events = [f"event {name}" for name in app.events if name != "bus/event"]
    return [
        *hooks,
        *events,
        *(f"provider {name}" for name in app.providers),
        *(f"shortcut {key}" for key in app.shortcuts),
        *(f"renderer {tag}" for tag in app.renderers),
        *(f"command {spec.name} as a tool" for spec in app.exposed("tool")),
    ]
