"""``sepkit hook``: run an App in a process of its own, and ask one of its hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sepkit.cli import ExitCode, output
from sepkit.cli.arguments import gather
from sepkit.cli.asking import Options, Session, Unknown, ask, verb

if TYPE_CHECKING:
    from sepkit.host.fold import Outcome


@verb("hook", click.argument("hook"), click.argument("input", nargs=-1, metavar="[NAME=VALUE]..."))
def command(options: Options, hook: str, input: tuple[str, ...]) -> None:  # noqa: A002  (the wire's word)
    """Ask HOOK of MODULE:APP, and print its outcome.

    The outcome is continue, block or modify. The input is written as the arguments of `call` are: hook app:app
    tool_call tool=bash arguments.command="ls -l". An input that was modified is printed as JSON. The exit code is 1
    where the hook blocked, and where it failed.
    """

    async def question(session: Session) -> Outcome:
        from sepkit.schema import schema_of
        from sepkit.wire.messages import HOOK_INPUTS

        registered = session.registered.hooks
        if hook not in registered:
            raise Unknown(options, "hook", hook, registered)
        known = HOOK_INPUTS.get(hook)
        value = gather(input, {} if known is None else schema_of(known, what=f"hook {hook!r}"))
        return await session.host.ask_hook(session.name, hook, value, timeout=options.timeout)

    def show(outcome: Outcome) -> ExitCode:
        from sepkit.host.fold import Failed
        from sepkit.wire.messages import BlockOutcome, ModifyOutcome
        from sepkit.wire.writing import unstructure

        if isinstance(outcome, Failed):
            output.complain(outcome.reason)
            return ExitCode.FAILED
        if options.as_json:
            output.write_json(unstructure(outcome))
        elif isinstance(outcome, ModifyOutcome):
            output.write("modify")
            output.write_json(outcome.patch)
        elif isinstance(outcome, BlockOutcome):
            output.write_content(f"block: {outcome.reason}" if outcome.reason else "block")
        else:
            output.write("continue")
        return ExitCode.FAILED if isinstance(outcome, BlockOutcome) else ExitCode.OK

    ask(options, question, show)
