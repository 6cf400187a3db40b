"""``sepkit call``: run an App in a process of its own, and call one of its tools."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from typing import Any

import click
import orjson

from sepkit.cli import ExitCode, Seconds
from sepkit.errors import ConnectionClosed, RpcError, SepkitError


@click.command("call")
@click.argument("target", metavar="MODULE:APP")
@click.argument("tool")
@click.argument("arguments", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="Print the whole result as JSON.")
@click.option("--timeout", type=Seconds(0, min_open=True), default=120.0, show_default=True, help="Seconds.")
@click.option("--quiet", is_flag=True, help="No progress, no tasks, and nothing of the extension's stderr.")
def command(target: str, tool: str, arguments: tuple[str, ...], as_json: bool, timeout: float, quiet: bool) -> None:
    """Call TOOL of MODULE:APP and print its result.

    A VALUE that is JSON is sent as such, so count=3 is a number; anything else is text. NAME:=VALUE is always JSON,
    NAME==VALUE always text. Progress goes to stderr, and how the background tasks are after the call; the exit code is
    1 where the tool failed.
    """
    values = dict(_parse(argument) for argument in arguments)
    try:
        code = asyncio.run(_call(target, tool, values, as_json=as_json, timeout=timeout, quiet=quiet))
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    sys.exit(code)


def _parse(argument: str) -> tuple[str, Any]:
    name, equals, value = argument.partition("=")
    if not equals or not name.strip(":"):
        raise click.UsageError(f"{argument!r} is no argument of the tool; write NAME=VALUE")
    if value.startswith("="):
        return name, value[1:]
    if name.endswith(":"):
        try:
            return name[:-1], orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise click.UsageError(f"{argument!r}: the value is no JSON: {error}") from None
    try:
        return name, orjson.loads(value)
    except orjson.JSONDecodeError:
        return name, value


async def _call(
    target: str, tool: str, values: dict[str, Any], *, as_json: bool, timeout: float, quiet: bool
) -> ExitCode:
    # What it needs of asyncio and attrs is imported when the arguments are right.
    from sepkit.cli.hosting import hosting
    from sepkit.cli.tasks import lines
    from sepkit.host.console import Console
    from sepkit.wire.writing import unstructure

    console = Console(quiet=quiet)
    try:
        async with hosting(target, console) as (host, name):
            known = [one.name for one in host.registrations(name).tools]
            if tool not in known:
                click.echo(f"sepkit: {target} has no tool {tool!r}; known: {', '.join(known) or 'none'}", err=True)
                return ExitCode.FAILED
            result = await host.call_tool(f"{name}.{tool}", values, on_update=console.progress, timeout=timeout)
            registered = [] if quiet else host.registrations(name).tasks
            shown = list(lines(registered, await host.list_tasks(name), datetime.now(UTC))) if registered else []
    except ConnectionClosed:
        click.echo(f"sepkit: {target} ended before it answered" + ("" if quiet else "; see above"), err=True)
        return ExitCode.FAILED
    except (RpcError, SepkitError) as error:
        click.echo(f"sepkit: {error}", err=True)
        return ExitCode.FAILED
    finally:
        console.close()
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(unstructure(result), option=orjson.OPT_INDENT_2) + b"\n")
    else:
        click.echo(result.content, err=result.is_error)
    sys.stdout.flush()
    if shown:
        click.echo("\n".join(["tasks:", *shown]), err=True)
    return ExitCode.FAILED if result.is_error else ExitCode.OK
