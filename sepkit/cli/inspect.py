"""``sepkit inspect``: what an App contributes, without running it; with ``--run``, how its tasks are as well."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import orjson

from sepkit.cli import ExitCode, Seconds, fail_to_load
from sepkit.errors import LoadError, SepkitError

if TYPE_CHECKING:
    from sepkit.app import App
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
    """Show what MODULE:APP registers: tools, hooks in the order in which they run, events, commands and the rest."""
    from sepkit.loader import load
    from sepkit.wire.writing import unstructure

    try:
        with contextlib.redirect_stdout(sys.stderr):  # what the module prints when it is imported is no data
            app = load(target)
    except LoadError as error:
        sys.exit(fail_to_load(error))
    description = describe(app)
    now = datetime.now(UTC)
    if seconds is not None:
        try:
            started, now = asyncio.run(_tasks_after(target, seconds))
        except SepkitError as error:
            click.echo(f"sepkit: {error}", err=True)
            sys.exit(ExitCode.FAILED)
        except KeyboardInterrupt:
            sys.exit(ExitCode.INTERRUPTED)
        description["started_tasks"] = [unstructure(task) for task in started]
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(description, option=orjson.OPT_INDENT_2) + b"\n")
    else:
        for line in _lines(description, now):
            click.echo(line)


def describe(app: App) -> dict[str, Any]:
    """What an App contributes, as JSON data: its registrations, and where and how each handler runs."""
    from sepkit.faces.sep.registrations import registrations
    from sepkit.handlers import name_of, where
    from sepkit.wire.writing import to_json, unstructure

    registered = unstructure(registrations(app))
    tools = [
        {**tool, "handler": where(spec.fn), "runs": _runs(spec.is_async), "timeout": spec.timeout}
        for tool, spec in zip(registered.pop("tools", []), app.tools.values(), strict=True)
    ]
    commands = [
        {
            **command,
            "handler": where(spec.fn),
            "runs": _runs(spec.is_async),
            "completes": spec.name in app.completers,
        }
        for command, spec in zip(registered.pop("commands", []), app.commands.values(), strict=True)
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
    return {
        "name": app.name,
        "version": app.version,
        "tools": tools,
        "commands": commands,
        **observers,
        "tasks": tasks,
        **registered,
        "flags": to_json(app.flag_defaults),
    }


async def _tasks_after(target: str, seconds: float) -> tuple[list[TaskHealth], datetime]:
    """How the tasks are when the App has run for so long, in a process of its own, and when that was."""
    from sepkit.cli.hosting import hosting
    from sepkit.host.console import Console

    async with hosting(target, Console()) as (host, name):
        await asyncio.sleep(seconds)
        return await host.list_tasks(name), datetime.now(UTC)


def _runs(is_async: bool) -> str:
    return "in the loop" if is_async else "in a thread"


def _lines(app: dict[str, Any], now: datetime) -> Iterator[str]:
    yield f"{app['name']} {app['version']}"
    yield from _section("tools", [_tool_lines(tool) for tool in app["tools"]])
    yield from _section("commands", [_command_lines(command) for command in app["commands"]])
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
    if started := app.get("started_tasks"):
        from sepkit.cli.tasks import state_line
        from sepkit.wire.converter import structure
        from sepkit.wire.messages import TaskHealth

        yield from _section("started tasks", [[state_line(structure(task, TaskHealth), now)] for task in started])
    yield from _section("flags", [[f"{name}  default {value!r}"] for name, value in app["flags"].items()])
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


def _tool_lines(tool: dict[str, Any]) -> list[str]:
    schema = tool["parameters"]
    required = set(schema.get("required", ()))
    arguments = [
        f"{name}: {_type_of(form)}" + ("" if name in required else " (optional)")
        for name, form in schema.get("properties", {}).items()
    ]
    notes = [tool["runs"]]
    if tool.get("deferred"):
        notes.append("deferred")
    if tool["timeout"] is not None:
        notes.append(f"at most {tool['timeout']:g} s")
    summary = tool["description"].splitlines()[:1]
    return [f"{tool['name']}({', '.join(arguments)})", *summary, f"{tool['handler']}, {', '.join(notes)}"]


def _type_of(form: dict[str, Any] | bool) -> str:
    if isinstance(form, bool):  # a JSON Schema may be just that
        return "any" if form else "none"
    if "enum" in form:
        return " | ".join(orjson.dumps(value).decode() for value in form["enum"])
    kind = form.get("type")
    if kind is None:
        return " | ".join(_type_of(one) for one in form.get("anyOf", ())) or "any"
    return " | ".join(kind) if isinstance(kind, list) else str(kind)


def _command_lines(command: dict[str, Any]) -> list[str]:
    summary = command["description"].splitlines()[:1]
    completes = ", completes" if command["completes"] else ""
    return [f"/{command['name']}", *summary, f"{command['handler']}, {command['runs']}{completes}"]


def _task_lines(task: dict[str, Any]) -> list[str]:
    from sepkit.cli.tasks import policy_line

    return [
        task["name"],
        *task["description"].splitlines()[:1],
        policy_line(task["policy"], per_user=task["per_user"], autostart=task["autostart"]),
        task["handler"],
    ]


def _provider_lines(provider: dict[str, Any]) -> list[str]:
    models = ", ".join(model["id"] for model in provider.get("models", []))
    return [provider["name"], *([f"models: {models}"] if models else [])]
