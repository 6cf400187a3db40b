"""``sepkit call``: run an App in a process of its own, and call one of its tools."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from sepkit.cli import ExitCode, output
from sepkit.cli.arguments import gather
from sepkit.cli.asking import Options, Session, Unknown, ask, verb

if TYPE_CHECKING:
    from sepkit.wire.messages import ToolExecuteResult


@verb("call", click.argument("tool"), click.argument("arguments", nargs=-1, metavar="[NAME=VALUE]..."))
def command(options: Options, tool: str, arguments: tuple[str, ...]) -> None:
    """Call TOOL of MODULE:APP and print its result.

    A VALUE is text where the tool's schema takes a string, else JSON: name=1 is "1" for a str, and 1 for an int.
    NAME==TEXT is always text, NAME:=JSON always JSON, NAME=@FILE what a file holds (- is stdin). NAME.KEY=VALUE fills
    a part of an object or an array, NAME=A NAME=B an array, and @FILE is a JSON file with all arguments.

    A resource is read by its URI in place of TOOL, as in note://7.

    Progress goes to stderr, and how the background tasks are after the call; the exit code is 1 where the tool failed.
    """
    if ":" in tool:  # no tool's name has one
        if arguments:
            raise click.UsageError("a resource takes no arguments: what it needs is in its URI")
        from sepkit.cli.reading import read

        read(options, tool)

    async def question(session: Session) -> ToolExecuteResult:
        tools = {one.name: one for one in session.registered.tools}
        if tool not in tools:
            raise Unknown(options, "tool", tool, tools)
        values = gather(arguments, tools[tool].parameters)
        on_update = partial(session.console.progress, extension=session.name)
        return await session.host.call_tool(
            f"{session.name}.{tool}", values, on_update=on_update, timeout=options.timeout
        )

    def show(result: ToolExecuteResult) -> ExitCode:
        if options.as_json:
            from sepkit.wire.writing import unstructure

            output.write_json(unstructure(result))
        elif result.is_error:
            output.tell(result.content, is_error=True)
        else:
            output.write_content(result.content)
        return ExitCode.FAILED if result.is_error else ExitCode.OK

    ask(options, question, show)
