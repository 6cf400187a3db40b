"""``sepkit conformance``: check any extension, in whatever language, against what SEP demands."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import click
import orjson

from sepkit.cli import ExitCode, output
from sepkit.terminal import Style, columns_of, has_colour, painted, visible, wrapped


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
    """Check an extension against the protocol.

    Write the COMMAND that starts it after --, as in `conformance -- node extension.mjs`. It is started many times,
    and each of its tools is called, with arguments made from its schema. The exit code is 1 where a requirement is
    not met, 2 where COMMAND cannot be started.
    """
    from sepkit.conformance import requirements, run_conformance
    from sepkit.errors import SepkitError

    given = dict(_parse(one) for one in arguments)
    try:
        listed = requirements(only)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if only_list:
        _write(f"{one.id:34} §{one.section}  {'advice: ' if one.advice else ''}{one.title}" for one in listed)
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
        output.complain(str(error))
        sys.exit(ExitCode.USAGE)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    if as_json:
        output.write_json(report.as_dict())
    else:
        _write(report.table().splitlines())
    output.flush()
    sys.exit(ExitCode.OK if report.ok else ExitCode.FAILED)


_MARKS: Final[dict[str, Style]] = {"✔": "green", "✘": "red", "!": "yellow"}


def _write(lines: Iterable[str]) -> None:
    """Write lines of the report, with what the extension says made visible; on a terminal they fit it, in colour."""
    stream = output.stdout()
    width, colour = (None, False) if stream is None else (columns_of(stream), has_colour(stream))
    for line in lines:
        text = visible(line)
        indent = " " * (len(text) - len(text.lstrip()))
        for number, part in enumerate(wrapped(text.lstrip(), width, first=indent, more=f"{indent}    ")):
            mark = part.lstrip()[:1]
            if number == 0 and mark in _MARKS:
                part = part.replace(mark, painted(mark, _MARKS[mark], colour=colour), 1)
            output.write(part)


def _parse(argument: str) -> tuple[str, dict[str, Any]]:
    tool, equals, text = argument.partition("=")
    try:
        value = orjson.loads(text) if equals else None
    except orjson.JSONDecodeError as error:
        raise click.UsageError(f"{argument!r}: what stands after = is not valid JSON: {error}") from None
    if not tool or not isinstance(value, dict):
        raise click.UsageError(f'{argument!r} gives a tool no arguments; write TOOL={{"name": "value"}}')
    return tool, value
