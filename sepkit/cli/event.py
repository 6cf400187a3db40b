"""``sepkit event``: run an App in a process of its own, and tell it of an event."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sepkit.cli import ExitCode, output
from sepkit.cli.arguments import gather
from sepkit.cli.asking import Options, Session, Unknown, ask, verb
from sepkit.wire.methods import SHUTDOWN

if TYPE_CHECKING:
    from sepkit.host.console import Console


@verb("event", click.argument("event"), click.argument("payload", nargs=-1, metavar="[NAME=VALUE]..."))
def command(options: Options, event: str, payload: tuple[str, ...]) -> None:
    """Tell MODULE:APP of EVENT.

    It has ended when the handlers have ended, which are cancelled after 4 seconds, as at any shutdown. The payload
    is written as the arguments of `call` are: event app:app bus/event topic=news payload.text=hello. An event has
    no answer. What its handlers print, log and raise is shown on stderr; the exit code is 1 where one fails or logs
    an error.
    """

    async def question(session: Session) -> Console:
        registered = session.registered.subscriptions
        if event not in registered:
            raise Unknown(options, "handler of event", event, registered)
        session.host.dispatch_event(event, gather(payload))
        return session.console

    async def finish(session: Session) -> None:
        # Not left to the host's end, which hears nothing any more: a handler that fails last is told of in the log.
        await session.host.ask(session.name, SHUTDOWN, {}, timeout=options.timeout)

    def show(console: Console) -> ExitCode:
        if options.as_json:
            output.write_json({"errors": console.errors})
        return ExitCode.FAILED if console.errors else ExitCode.OK

    ask(options, question, show, finish)
