"""``sepkit inspect``: what an App contributes, without running it; with ``--run``, how its tasks are as well."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TextIO

import click
import orjson

from sepkit.cli import ExitCode, fail_to_load, output
from sepkit.cli.verbs import Seconds
from sepkit.errors import LoadError, SepkitError
from sepkit.terminal import columns_of, has_colour, one_line, painted, wrapped

if TYPE_CHECKING:
    from sepkit.app import App
    from sepkit.handlers import ToolSpec
    from sepkit.wire.messages import TaskHealth


@click.command("inspect")
@click.argument("target", metavar="MODULE:APP")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.option(
    "--run",
    "seconds",
    type=Seconds(0, min_open=True),
    metavar="SECONDS",
    help="Also run it for so long, and show how its background tasks are then.",
)
def command(target: str, as_json: bool, seconds: float | None) -> None:
    """Show what MODULE:APP registers.

    That is its tools, its hooks in the order in which they run, its events, commands, tasks, settings, flags and
    the rest.
    """
    from sepkit.cli.serving import take_secrets
    from sepkit.loader import load
    from sepkit.wire.writing import unstructure

    secrets = take_secrets()  # as `run` does: the module may start a child when it is imported
    stdin = output.keep_clean()  # the module may print when it is imported, or when the process ends
    try:
        app = load(target)
    except LoadError as error:
        sys.exit(fail_to_load(error))
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    description = describe(app)
    now = datetime.now(UTC)
    if seconds is not None:
        from sepkit.cli.hosting import tell_failure

        os.environ.update({name: secrets.find(name) or "" for name in secrets.names})  # for the process that runs it
        try:
            started, now = asyncio.run(_tasks_after(target, seconds, stdin))
        except SepkitError as error:
            sys.exit(tell_failure(target, error, quiet=False))
        except KeyboardInterrupt:
            sys.exit(ExitCode.INTERRUPTED)
        description["started_tasks"] = [unstructure(task) for task in started]
    if as_json:
        output.write_json(description)
    else:
        _write(_lines(description, now))


def describe(app: App) -> dict[str, Any]:
    """What an App contributes, as JSON data: its registrations, and where and how each handler runs."""
    from sepkit.contexts.backend import FLAG, variable_of
    from sepkit.faces.sep.registrations import registrations
    from sepkit.handlers import name_of, where
    from sepkit.wire.writing import to_json, unstructure

    registered = unstructure(registrations(app))
    tools = [
        {
            **tool,
            "handler": where(spec.fn),
            "runs": _runs(spec.is_async),
            "timeout": spec.timeout,
            "confirm": spec.confirm,
            **_told_of(spec),
        }
        for tool, spec in zip(registered.pop("tools", []), app.tools.values(), strict=True)
    ]
    commands = [
        {
            **command,
            "handler": where(spec.fn),
            "runs": _runs(spec.is_async),
            "completes": spec.name in app.completers,
            "expose": spec.expose,
        }
        for command, spec in zip(registered.pop("commands", []), app.commands.values(), strict=True)
        if not spec.is_prompt
    ]
    prompts = [
        {
            "name": spec.name,
            "title": spec.title,
            "description": spec.description,
            "parameters": spec.parameters,
            "handler": where(spec.fn),
            "runs": _runs(spec.is_async),
            "completes": spec.name in app.completers,
            "icons": [icon.as_json() for icon in spec.icons],
        }
        for spec in app.prompts.values()
    ]
    resources = [
        {
            "uri": spec.uri,
            "name": spec.name,
            "title": spec.title,
            "description": spec.description,
            "mime": spec.mime,
            "parameters": spec.parameters,
            "handler": where(spec.fn),
            "runs": _runs(spec.is_async),
            "tool": None if spec.tool is None else spec.tool.name,
            "icons": [icon.as_json() for icon in spec.icons],
        }
        for spec in app.resources.values()
    ]
    for kind in ("hooks", "subscriptions"):
        registered.pop(kind, None)
    tables = {"hooks": app.hooks, "events": app.events}
    observers = {
        kind: {
            name: [
                {
                    "handler": where(spec.fn),
                    "function": name_of(spec.fn),
                    "runs": _runs(spec.is_async),
                    "only": spec.only,
                }
                for spec in specs
            ]
            for name, specs in table.items()
        }
        for kind, table in tables.items()
    }
    tasks = [
        {
            "name": spec.name,
            "description": spec.description,
            "handler": where(spec.fn),
            "per_user": spec.per_user,
            "autostart": spec.autostart,
            "policy": to_json(spec.policy),
            "stop_grace": spec.stop_grace,
            "heartbeat_timeout": spec.heartbeat_timeout,
        }
        for spec in app.task_specs.values()
    ]
    jobs = [
        {
            "name": spec.name,
            "description": spec.description,
            "handler": where(spec.fn),
            "runs": _runs(spec.is_async),
            "schedule": spec.text,
            "misfire": spec.misfire,
            "retry": spec.retry,
        }
        for spec in app.job_specs.values()
    ]
    return {
        "name": app.name,
        "version": app.version,
        "instructions": app.instructions,
        "needs": list(app.needs),
        **({"icons": [icon.as_json() for icon in app.icons]} if app.icons else {}),
        "tools": tools,
        "commands": commands,
        "prompts": prompts,
        "resources": resources,
        **observers,
        "tasks": tasks,
        "jobs": jobs,
        "collections": [
            {
                "name": one.name,
                "type": name_of(one.type),
                "version": one.version,
                "indexes": list(one.indexes),
                "migrations": {str(number): where(fn) for number, fn in sorted(one.migrations.items())},
            }
            for one in app.collections.values()
        ],
        **registered,
        "settings": [
            {
                "name": setting.name,
                "schema": setting.schema,
                "default": setting.default,
                "description": setting.description,
                "variable": variable_of(FLAG, setting.name),
            }
            for setting in app.settings.values()
        ],
        "flags": {name: to_json(value) for name, value in app.flag_defaults.items() if name not in app.settings},
        "flag_descriptions": {name: text for name, text in app.flag_descriptions.items() if name not in app.settings},
    }


def _told_of(tool: ToolSpec) -> dict[str, Any]:
    """What is set of a tool that SEP has no place for."""
    told: dict[str, Any] = {
        "title": tool.title,
        "read_only": tool.read_only,
        "destructive": tool.destructive,
        "idempotent": tool.idempotent,
        "open_world": tool.open_world,
        "output_schema": None if tool.output is None else tool.output.schema,
        "icons": [icon.as_json() for icon in tool.icons] or None,
        "long": tool.long or None,
        "stands_for": tool.stands_for,
    }
    return {name: value for name, value in told.items() if value is not None}


async def _tasks_after(target: str, seconds: float, stdin: TextIO | None) -> tuple[list[TaskHealth], datetime]:
    """How the tasks are when the App has run for so long, in a process of its own, and when that was."""
    from sepkit.cli.hosting import hosting
    from sepkit.host.console import Console

    async with hosting(target, Console(stdin=stdin)) as (host, name):
        await asyncio.sleep(seconds)
        return await host.list_tasks(name), datetime.now(UTC)


def _runs(is_async: bool) -> str:
    return "in the loop" if is_async else "in a thread"


def _write(lines: Iterable[str]) -> None:
    """Write a description: it fits the terminal, else 80 columns; its headings and names are in colour."""
    stream = output.stdout()
    width, colour = (80, False) if stream is None else (columns_of(stream) or 80, has_colour(stream))
    for line in lines:
        text = one_line(line)
        indent = len(text) - len(text.lstrip())
        first, *more = wrapped(text.lstrip(), width, first=" " * indent, more=" " * (indent + 4))
        if indent == 0:
            first = painted(first, "bold", colour=colour)
        elif indent == 2:
            name = _NAME.match(first)
            end = len(first) if name is None else name.end()
            first = f"  {painted(first[2:end], 'cyan', colour=colour)}{first[end:]}"
        for part in (first, *more):
            output.write(part)


_NAME: Final = re.compile(r"  [^ (]+")


def _lines(app: dict[str, Any], now: datetime) -> Iterator[str]:
    yield f"{app['name']} {app['version']}"
    if app["instructions"] is not None:
        yield from _section(
            "instructions", [[line] for line in app["instructions"].strip().splitlines() if line.strip()]
        )
    yield from _section("needs", [[need] for need in app["needs"]])
    yield from _section("tools", [_tool_lines(tool) for tool in app["tools"]])
    yield from _section("commands", [_command_lines(command) for command in app["commands"]])
    yield from _section("prompts (commands under SEP)", [_prompt_lines(prompt) for prompt in app["prompts"]])
    yield from _section("resources (not under SEP)", [_resource_lines(one) for one in app["resources"]])
    for kind in ("hooks", "events"):
        rows = []
        for name, handlers in app[kind].items():
            ordered = len(handlers) > 1 and kind == "hooks"
            for number, handler in enumerate(handlers, 1):
                order = f" (runs {number} of {len(handlers)})" if ordered else ""
                only = f" [{handler['only']}]" if handler["only"] is not None else ""
                rows.append([f"{name}{only}{order}  {handler['function']}  {handler['handler']}"])
        yield from _section(kind, rows)
    yield from _section("tasks", [_task_lines(task) for task in app["tasks"]])
    yield from _section("jobs", [_job_lines(job) for job in app["jobs"]])
    if started := app.get("started_tasks"):
        from sepkit.cli.tasks import state_line
        from sepkit.wire.converter import structure
        from sepkit.wire.messages import TaskHealth

        yield from _section("started tasks", [[state_line(structure(task, TaskHealth), now)] for task in started])
    yield from _section("collections", [_collection_lines(one) for one in app["collections"]])
    about = app["flag_descriptions"]
    flags = [[f"{name}  default {value!r}", *_summary(about.get(name, ""))] for name, value in app["flags"].items()]
    yield from _section("settings", [_setting_lines(setting) for setting in app["settings"]])
    yield from _section("flags", flags)
    shortcuts = app.get("shortcuts", [])
    yield from _section("shortcuts", [[f"{one['key']}  /{one['command']}"] for one in shortcuts])
    yield from _section("providers", [_provider_lines(provider) for provider in app.get("providers", [])])
    yield from _section("message renderers", [[one["tag"]] for one in app.get("message_renderers", [])])


def _section(title: str, items: list[list[str]]) -> Iterator[str]:
    if items:
        yield ""
        yield f"{title}:"
        for first, *more in items:
            yield f"  {first}"
            yield from (f"      {line}" for line in more)


def _summary(text: str) -> list[str]:
    return text.strip().splitlines()[:1]


def _tool_lines(tool: dict[str, Any]) -> list[str]:
    notes = [tool["runs"]]
    notes += [word for name, word in _HINTS.items() if tool.get(name) is True]
    notes += [f"not {word}" for name, word in _HINTS.items() if tool.get(name) is False]
    if tool.get("stands_for"):
        notes.append(f"stands for a {tool['stands_for']}")
    if tool.get("deferred"):
        notes.append("deferred")
    if tool["timeout"] is not None:
        notes.append(f"at most {tool['timeout']:g} s")
    if tool["confirm"]:
        notes.append("asks the user before it runs")
    returns = [f"returns {_members(tool['output_schema']) or 'an object'}"] if "output_schema" in tool else []
    return [
        f"{tool['name']}({_members(tool['parameters'])}){_title(tool)}",
        *_summary(tool["description"]),
        *returns,
        f"{tool['handler']}, {', '.join(notes)}",
    ]


_HINTS: Final = {
    "read_only": "read only",
    "destructive": "destructive",
    "idempotent": "idempotent",
    "open_world": "open world",
    "long": "long",
}


def _members(schema: dict[str, Any]) -> str:
    """The members of an object, each with its type."""
    required = set(schema.get("required", ()))
    return ", ".join(
        f"{name}: {_type_of(form)}" + ("" if name in required else " (optional)")
        for name, form in schema.get("properties", {}).items()
    )


def _title(one: dict[str, Any]) -> str:
    return f"  {one['title']!r}" if one.get("title") else ""


def _prompt_lines(prompt: dict[str, Any]) -> list[str]:
    completes = ", completes" if prompt["completes"] else ""
    return [
        f"{prompt['name']}({_members(prompt['parameters'])}){_title(prompt)}",
        *_summary(prompt["description"]),
        f"{prompt['handler']}, {prompt['runs']}{completes}",
    ]


def _resource_lines(resource: dict[str, Any]) -> list[str]:
    members = _members(resource["parameters"])
    notes = [resource["runs"]]
    if resource["mime"]:
        notes.insert(0, resource["mime"])
    if resource["tool"]:
        notes.append(f"the tool {resource['tool']} under SEP")
    return [
        f"{resource['uri']}{f' ({members})' if members else ''}{_title(resource)}",
        *_summary(resource["description"]),
        f"{resource['handler']}, {', '.join(notes)}",
    ]


def _type_of(form: dict[str, Any] | bool) -> str:
    if isinstance(form, bool):  # a JSON Schema may be just that
        return "any" if form else "none"
    if "enum" in form:
        return " | ".join(orjson.dumps(value).decode() for value in form["enum"])
    kind = form.get("type")
    if kind is None:
        return " | ".join(_type_of(one) for one in form.get("anyOf", ())) or "any"
    return " | ".join(kind) if isinstance(kind, list) else str(kind)


def _setting_lines(setting: dict[str, Any]) -> list[str]:
    first = f"{setting['name']}: {_type_of(setting['schema'])}  default {setting['default']!r}"
    return [first, *_summary(setting["description"]), f"--flag {setting['name']}=…, or {setting['variable']}"]


def _command_lines(command: dict[str, Any]) -> list[str]:
    summary = _summary(command["description"])
    completes = ", completes" if command["completes"] else ""
    exposed = {"prompt": "", "tool": ", a tool of MCP clients", None: ", not for MCP clients"}[command["expose"]]
    return [f"/{command['name']}", *summary, f"{command['handler']}, {command['runs']}{completes}{exposed}"]


def _task_lines(task: dict[str, Any]) -> list[str]:
    from sepkit.cli.tasks import policy_line

    return [
        task["name"],
        *_summary(task["description"]),
        policy_line(task["policy"], per_user=task["per_user"], autostart=task["autostart"]),
        task["handler"],
    ]


def _job_lines(job: dict[str, Any]) -> list[str]:
    late = "" if job["misfire"] == "once" else "; skipped if late"
    cut = "; repeated if cut" if job["retry"] else ""
    return [
        job["name"],
        *_summary(job["description"]),
        f"{job['schedule']}{late}{cut}",
        f"{job['handler']}, {job['runs']}",
    ]


def _collection_lines(collection: dict[str, Any]) -> list[str]:
    indexes = ", ".join(collection["indexes"])
    return [
        f"{collection['name']}  {collection['type']}, version {collection['version']}",
        *([f"indexes: {indexes}"] if indexes else []),
        *(f"from version {number}: {place}" for number, place in collection["migrations"].items()),
    ]


def _provider_lines(provider: dict[str, Any]) -> list[str]:
    models = ", ".join(model["id"] for model in provider.get("models", []))
    return [provider["name"], *([f"models: {models}"] if models else [])]
