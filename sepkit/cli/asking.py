"""What ``call``, ``hook``, ``command``, ``complete`` and ``event`` have in common: one process, one question.

Each has the same options, shows progress and tasks on stderr, and writes its answer to stdout.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
from attrs import frozen

from sepkit.cli import ExitCode, output
from sepkit.cli.arguments import gather
from sepkit.cli.verbs import Seconds
from sepkit.errors import SepkitError

if TYPE_CHECKING:
    from sepkit.host import Host
    from sepkit.host.console import Console
    from sepkit.wire.messages import Registrations

A = TypeVar("A")


@frozen
class Options:
    """The options that all of them have."""

    target: str
    as_json: bool
    timeout: float
    quiet: bool
    flags: dict[str, Any]


@frozen
class Session:
    """The App's process, while it is asked."""

    host: Host
    name: str
    """The extension's, in this host."""
    console: Console
    options: Options

    @property
    def registered(self) -> Registrations:
        """What the App registers."""
        return self.host.registrations(self.name)


class Unknown(SepkitError):
    """The App has nothing of this kind and name."""

    def __init__(self, options: Options, kind: str, name: str, known: Iterable[str]) -> None:
        from sepkit.router import closest

        known = list(dict.fromkeys(known))
        hint = closest(name, known)
        if "did you mean" not in hint:
            hint = f"; known: {', '.join(known) or 'none'}"  # in the order in which they are registered
        super().__init__(f"{options.target} has no {kind} {name!r}{hint}")


def verb(name: str, *arguments: Callable[[Any], Any]) -> Callable[[Callable[..., None]], click.Command]:
    """Make a function a verb that asks an App: it takes ``options`` and what its own ``arguments`` say."""

    def made(function: Callable[..., None]) -> click.Command:
        def run(target: str, as_json: bool, timeout: float, quiet: bool, flags: tuple[str, ...], **own: Any) -> None:
            names = {flag.partition("=")[0].removesuffix(":") for flag in flags}  # with their dots
            values = gather(flags, {"properties": {name: {} for name in names}})
            function(Options(target, as_json, timeout, quiet, values), **own)

        run.__doc__ = function.__doc__
        decorators = [
            click.command(name),
            click.argument("target", metavar="MODULE:APP"),
            *arguments,
            click.option("--json", "as_json", is_flag=True, help="Print the whole answer as JSON."),
            click.option(
                "--timeout", type=Seconds(0, min_open=True), default=120.0, show_default=True, help="Seconds."
            ),
            click.option("--quiet", is_flag=True, help="No progress, no tasks, and nothing of the extension's stderr."),
            click.option(
                "--flag", "flags", multiple=True, metavar="NAME=VALUE", help="Set a flag; may be given many times."
            ),
        ]
        command: Any = run
        for decorator in reversed(decorators):
            command = decorator(command)
        made_command: click.Command = command
        return made_command

    return made


def ask(
    options: Options,
    question: Callable[[Session], Awaitable[A]],
    show: Callable[[A], ExitCode],
    finish: Callable[[Session], Awaitable[object]] | None = None,
) -> NoReturn:
    """Start the App, ask it, end it (with ``finish`` first), show its answer, and exit."""
    try:
        code = asyncio.run(_ask(options, question, show, finish))
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    sys.exit(code)


async def _ask(
    options: Options,
    question: Callable[[Session], Awaitable[A]],
    show: Callable[[A], ExitCode],
    finish: Callable[[Session], Awaitable[object]] | None,
) -> ExitCode:
    # What it needs of asyncio and attrs is imported when the arguments are right.
    from sepkit.cli.hosting import hosting, how_it_ended, tell_failure
    from sepkit.cli.tasks import lines
    from sepkit.host.console import Console
    from sepkit.terminal import columns_of

    console = Console(quiet=options.quiet)
    try:
        async with hosting(options.target, console, options.flags) as (host, name):
            session = Session(host, name, console, options)
            answer = await question(session)
            tasks = [] if options.quiet else session.registered.tasks
            width = columns_of(sys.stderr)
            shown = list(lines(tasks, await host.list_tasks(name), datetime.now(UTC), width)) if tasks else []
            if finish is not None:
                await finish(session)
    except SepkitError as error:
        return tell_failure(options.target, error, quiet=options.quiet)
    finally:
        console.close()
    code = show(answer)
    output.flush()
    if shown:
        output.tell("\n".join(["tasks:", *shown]))
    for status in host.status():
        if status.exit_code:  # after its answer, as in the handler of an event
            output.complain(f"{options.target} ended badly ({how_it_ended(status.exit_code)})")
            return ExitCode.FAILED
    return code
