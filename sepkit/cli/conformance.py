"""``sepkit conformance``: check any extension, in whatever language, against what SEP demands."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import click
import orjson

from sepkit.cli import ExitCode


@click.command("conformance", context_settings={"allow_interspersed_args": False})
@click.argument("command_line", metavar="COMMAND...", nargs=-1)
@click.option("--only", multiple=True, metavar="GROUP|ID", help="Check only these; may be given many times.")
@click.option(
    "--arguments", multiple=True, metavar="TOOL=JSON", help="Call TOOL with these arguments; may be given many times."
)
@click.option(
    "--cwd", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Start it there."
)
@click.option(
    "--timeout-factor",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="How many times longer than usual an answer may take.",
)
@click.option(
    "--parallel", type=click.IntRange(1, 16), default=3, show_default=True, help="How many processes of it run at once."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--list", "only_list", is_flag=True, help="List the requirements, and check nothing.")
def command(
    command_line: tuple[str, ...],
    only: tuple[str, ...],
    arguments: tuple[str, ...],
    cwd: Path | None,
    timeout_factor: float,
    parallel: int,
    as_json: bool,
    only_list: bool,
) -> None:
    """Check the extension that COMMAND starts: write it after --, as in `conformance -- node extension.mjs`.

    It is started many times, and each of its tools is called, with arguments made from its schema. The exit code is 1
    where a requirement is not met, 2 where COMMAND cannot be started.
    """
    from sepkit.conformance import requirements, run_conformance
    from sepkit.errors import SepkitError

    given = dict(_parse(one) for one in arguments)
    try:
        listed = requirements(only)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if only_list:
        for one in listed:
            click.echo(f"{one.id:34} §{one.section}  {'advice: ' if one.advice else ''}{one.title}")
        return
    if not command_line:
        raise click.UsageError("give the command that starts the extension, after --")
    try:
        report = asyncio.run(
            run_conformance(
                command_line,
                cwd=cwd,
                only=only,
                timeout_factor=timeout_factor,
                parallel=parallel,
                arguments=given,
            )
        )
    except SepkitError as error:
        click.echo(f"sepkit: {error}", err=True)
        sys.exit(ExitCode.USAGE)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(report.as_dict(), option=orjson.OPT_INDENT_2) + b"\n")
        sys.stdout.flush()
    else:
        click.echo(report.table(), nl=False)
    sys.exit(ExitCode.OK if report.ok else ExitCode.FAILED)


def _parse(argument: str) -> tuple[str, dict[str, Any]]:
    tool, equals, text = argument.partition("=")
    try:
        value = orjson.loads(text) if equals else None
    except orjson.JSONDecodeError as error:
        raise click.UsageError(f"{argument!r}: what stands after = is not valid JSON: {error}") from None
    if not tool or not isinstance(value, dict):
        raise click.UsageError(f'{argument!r} gives a tool no arguments; write TOOL={{"name": "value"}}')
    return tool, value
