"""``sepkit job``: run an App in a process of its own, and run one of its jobs now."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import click

from sepkit.cli import ExitCode, output
from sepkit.cli.arguments import gather
from sepkit.cli.asking import Options, Session, Unknown, ask, verb

if TYPE_CHECKING:
    from sepkit.wire.messages import TaskHealth

_LOOK: Final = 0.05  # seconds between two looks at how it is


@verb("job", click.argument("name"), click.argument("payload", nargs=-1, metavar="[NAME=VALUE]..."))
def command(options: Options, name: str, payload: tuple[str, ...]) -> None:
    """Run the job NAME of MODULE:APP now, once more than its schedule says, and wait until it has ended.

    What is given is its payload, an object: a VALUE is JSON where it can be read as such, else text. NAME==TEXT is
    always text, NAME:=JSON always JSON, NAME=@FILE what a file holds, and @FILE is a JSON file with all of it.

    The App's other jobs run meanwhile, as far as they are due. The exit code is 1 where the job failed.
    """

    async def question(session: Session) -> TaskHealth:
        jobs = [one.name for one in session.registered.tasks if one.schedule is not None]
        if name not in jobs:
            raise Unknown(options, "job", name, jobs)
        values = gather(payload, {"properties": {}}) if payload else None
        async with asyncio.timeout(options.timeout):
            begun = await session.host.start_task(session.name, name, payload=values)
            while True:
                listed = {one.task_id: one for one in await session.host.list_tasks(session.name)}
                health = listed.get(begun.task_id, begun)
                if health.status in ("stopped", "failed"):
                    return health
                await asyncio.sleep(_LOOK)

    def show(health: TaskHealth) -> ExitCode:
        has_failed = health.status == "failed"
        if options.as_json:
            from sepkit.wire.writing import unstructure

            output.write_json(unstructure(health))
        elif has_failed:
            output.tell(f"{name} failed: {health.error}", is_error=True)
        return ExitCode.FAILED if has_failed else ExitCode.OK

    ask(options, question, show)
