"""``make demo``: two of the plugins beside this file, in processes of their own, behind one embedded host."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

import attrs
import click

from sepkit.host import Host, KvStore, Manifest, read
from sepkit.wire import messages

HERE = Path(__file__).parent


def say(text: str = "", **style: bool | str) -> None:
    click.secho(text, **style)  # type: ignore[arg-type]


def show_progress(update: messages.ToolUpdateParams) -> None:
    width = 24
    done = round((update.progress or 0) * width)
    say(f"    {'█' * done}{'░' * (width - done)} {update.progress or 0:4.0%}  {update.message or ''}", fg="cyan")


def manifest(plugin: str) -> Manifest:
    """The plugin's manifest; it is served by this very Python, which has sepkit."""
    found = read(HERE / plugin)
    return attrs.evolve(found, run=attrs.evolve(found.run, command=sys.executable))


async def greet(host: Host) -> None:
    say("hello: a tool that tells its progress", bold=True)
    say('  → hello.greet(name="Ada", times=3)')
    result = await host.call_tool("hello.greet", {"name": "Ada", "times": 3}, on_update=show_progress)
    for line in result.content.splitlines():
        say(f"  ← {line}", fg="green")


async def gate(host: Host) -> None:
    say("permission-gate: a hook that decides what may run", bold=True)
    for command in ("ls -la", "rm -rf build", "rm -rf /", "sudo dd if=/dev/zero of=/dev/sda"):
        say(f"  → tool_call bash: {command}")
        folded = await host.run_hook("tool_call", {"tool": "bash", "arguments": {"command": command}})
        if folded.blocked:
            say(f"  ← {folded.verdict} by {folded.by}: {folded.reason}", fg="red")
        else:
            say("  ← allowed", fg="green")


async def main() -> None:
    line = "─" * min(72, shutil.get_terminal_size().columns)
    say(line)
    async with Host("demo", workspace=HERE, trusted=True, store=KvStore()) as host:
        for problem in await host.load([manifest("hello"), manifest("permission_gate")]):
            raise problem.error
        for one in host.status():
            say(f"{one.name} {one.version} is {one.state}, in process {one.pid}")
        say()
        await greet(host)
        say()
        await gate(host)
    say(line)


if __name__ == "__main__":
    asyncio.run(main())
