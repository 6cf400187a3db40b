"""``sepkit command``: run an App in a process of its own, and run one of its slash commands."""

from __future__ import annotations

import click

from sepkit.cli import ExitCode, output
from sepkit.cli.arguments import gather
from sepkit.cli.asking import Options, Session, Unknown, ask, verb


@verb("command", click.argument("name"), click.argument("arguments", nargs=-1, metavar="[NAME=VALUE]..."))
def command(options: Options, name: str, arguments: tuple[str, ...]) -> None:
    """Run the slash command NAME of MODULE:APP.

    What it shows is printed. Hosts do not know the arguments of a command, and so a VALUE is text, which the
    command takes as it needs it. NAME:=JSON is JSON, NAME=@FILE what a file holds, NAME.KEY=VALUE a part of an
    object, and @FILE a JSON file with all arguments. The slash may be left out. The exit code is 1 where the
    command failed.
    """
    name = name.removeprefix("/")

    async def question(session: Session) -> str | None:
        known = [one.name for one in session.registered.commands]
        if name not in known:
            raise Unknown(options, "command", name, known)
        return await session.host.run_command(name, gather(arguments, as_text=True), timeout=options.timeout)

    def show(content: str | None) -> ExitCode:
        if options.as_json:
            output.write_json({} if content is None else {"content": content})
        elif content is not None:
            output.write_content(content)
        return ExitCode.OK

    ask(options, question, show)
