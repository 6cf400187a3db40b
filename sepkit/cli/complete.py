"""``sepkit complete``: run an App in a process of its own, and ask how to complete what is typed after a command."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from sepkit.cli import ExitCode, output
from sepkit.cli.asking import Options, Session, Unknown, ask, verb

if TYPE_CHECKING:
    from sepkit.wire.messages import Completion


@verb("complete", click.argument("name"), click.argument("partial", default=""))
def command(options: Options, name: str, partial: str) -> None:
    """Print how to complete a command of MODULE:APP.

    PARTIAL is what is typed after the slash command NAME. There is one way a line, with its description.
    """
    name = name.removeprefix("/")

    async def question(session: Session) -> list[Completion]:
        known = [one.name for one in session.registered.commands]
        if name not in known:
            raise Unknown(options, "command", name, known)
        return await session.host.complete_command(name, partial, timeout=options.timeout)

    def show(completions: list[Completion]) -> ExitCode:
        from sepkit.terminal import columns_of, one_line, table
        from sepkit.wire.writing import unstructure

        if options.as_json:
            output.write_json([unstructure(one) for one in completions])
            return ExitCode.OK
        rows = [(one_line(one.value), one_line(one.description or "")) for one in completions]
        stream = output.stdout()
        for line in table(rows, columns_of(stream or sys.stderr)):
            output.write(line)
        if not completions and not options.quiet:
            output.tell(f"no completions of {partial!r}")
        return ExitCode.OK

    ask(options, question, show)
