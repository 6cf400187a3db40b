"""What an App offers, as MCP's lists show it: tools and prompts, under names that all clients take.

A command is a prompt, or a tool, as its ``expose=`` says.

A name with a dot makes Claude Desktop drop all tools of a server: it is served with ``_`` in its place, and cut to 64
characters. Hooks and logs keep the App's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, TypeVar

from sepkit.app import App
from sepkit.errors import RegistrationError
from sepkit.faces.mcp.protocol import SINCE
from sepkit.faces.mcp.schemas import parsed_kinds, plain_schema
from sepkit.handlers import CommandSpec, ToolSpec, choices, name_of
from sepkit.ownlog import OwnLog

S = TypeVar("S", bound=ToolSpec | CommandSpec)

_LONGEST_NAME: Final = 64
_log = OwnLog("sepkit")


def _about(name: str, spec: ToolSpec | CommandSpec) -> dict[str, Any]:
    """What tools and prompts are listed with alike."""
    about: dict[str, Any] = {"name": name}
    if spec.title is not None:
        about["title"] = spec.title
    if spec.description:
        about["description"] = spec.description
    if spec.icons:
        about["icons"] = [icon.as_json() for icon in spec.icons]
    return about


def as_of(version: str, listed: dict[str, Any]) -> dict[str, Any]:
    """What is listed, without what a revision does not know."""
    return {member: value for member, value in listed.items() if SINCE.get(member, version) <= version}


class ServedTool:
    """A tool, as it is listed and called.

    Args:
        spec: The tool, or a command that is exposed as one.
        name: What clients call it.
    """

    __slots__ = ("is_simple", "listed", "parsed", "promises", "spec")

    def __init__(self, spec: ToolSpec | CommandSpec, name: str) -> None:
        schema = plain_schema(spec.parameters)
        self.spec = spec
        self.parsed = parsed_kinds(schema)
        """The arguments that some clients send as their JSON text, and what that may hold."""
        self.is_simple = isinstance(spec, ToolSpec) and spec.context is None and not spec.confirm
        """Whether it neither tells nor asks anything while it runs."""
        self.promises = isinstance(spec, ToolSpec) and spec.output is not None
        """Whether each result has structured content that fits its output schema."""
        self.listed: dict[str, Any] = {**_about(name, spec), "inputSchema": schema}
        if isinstance(spec, ToolSpec):
            if spec.output is not None:
                self.listed["outputSchema"] = plain_schema(spec.output.schema)
            hints = {
                "readOnlyHint": spec.read_only,
                "destructiveHint": spec.destructive,
                "idempotentHint": spec.idempotent,
                "openWorldHint": spec.open_world,
            }
            given = {hint: value for hint, value in hints.items() if value is not None}
            if given:
                self.listed["annotations"] = given


class ServedPrompt:
    """A prompt, or a command that is exposed as one, as it is listed and fetched."""

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
        self.listed = _about(name, spec)
        if arguments:
            self.listed["arguments"] = arguments

    @property
    def arguments(self) -> list[str]:
        """The names of its arguments, in their order."""
        return list(self.schema.get("properties", {}))


class Catalogue:
    """The lists of one App. They are made anew when something is registered.

    Raises:
        RegistrationError: Two names would be the same to clients.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self.tools: dict[str, ServedTool] = {}
        self.prompts: dict[str, ServedPrompt] = {}
        self._make(strict=True)

    def _make(self, *, strict: bool) -> None:
        tools = {id(tool.spec): tool for tool in self.tools.values()}
        self.tools = {
            name: tools.get(id(spec)) or ServedTool(spec, name)
            for name, spec in _named("tool", self._tool_specs(), strict=strict)
        }
        prompts = {id(prompt.spec): prompt for prompt in self.prompts.values()}
        self.prompts = {
            name: prompts.get(id(spec)) or ServedPrompt(spec, name)
            for name, spec in _named("prompt", self._app.exposed("prompt"), strict=strict)
        }

    def _tool_specs(self) -> list[ToolSpec | CommandSpec]:
        # What stands for a resource is there for hosts that know no resources.
        tools = [spec for spec in list(self._app.tools.values()) if spec.stands_for is None]
        return [*tools, *self._app.exposed("tool")]

    def refresh(self) -> list[str]:
        """Something has been registered; which of the lists are others now: ``tools``, ``prompts``."""
        tools, prompts = self.tools, self.prompts
        self._make(strict=False)
        changed = []
        if list(tools.items()) != list(self.tools.items()):
            changed.append("tools")
        if list(prompts.items()) != list(self.prompts.items()):
            changed.append("prompts")
        return changed

    @property
    def completes(self) -> bool:
        """Whether any argument of a prompt can be completed."""
        return any(
            prompt.spec.name in self._app.completers
            or any(choices(prompt.spec.parameters, argument, "") for argument in prompt.arguments)
            for prompt in self.prompts.values()
        )


def served_name(name: str) -> str:
    """The name under which clients see what the App calls ``name``."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:_LONGEST_NAME]


def _named(kind: str, specs: Iterable[S], *, strict: bool) -> list[tuple[str, S]]:
    found: dict[str, S] = {}
    for spec in specs:
        served = served_name(spec.name)
        if served in found:
            problem = (
                f"{kind}s {found[served].name!r} and {spec.name!r} would both be {served!r} to MCP clients, which take "
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
    ]
