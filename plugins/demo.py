"""``make demo``: the two plugins beside this file, each in a process of its own, driven over their real pipes."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from subprocess import DEVNULL

import click

from sepkit.cli.session import ExtensionSession, run_command
from sepkit.wire import messages

HERE = Path(__file__).parent


def say(text: str = "", **style: bool | str) -> None:
    click.secho(text, **style)  # type: ignore[arg-type]


def show_progress(update: messages.ToolUpdateParams) -> None:
    width = 24
    done = round((update.progress or 0) * width)
    say(f"    {'█' * done}{'░' * (width - done)} {update.progress or 0:4.0%}  {update.message or ''}", fg="cyan")


async def greet() -> None:
    say("hello: a tool that tells its progress", bold=True)
    async with ExtensionSession(run_command("app:app"), cwd=HERE / "hello", stderr=DEVNULL) as session:
        say(f"  {session.info.extension.name} {session.info.extension.version} is ready")
        say('  → greet(name="Ada", times=3)')
        result = await session.call_tool("greet", {"name": "Ada", "times": 3}, show_progress)
        for line in result.content.splitlines():
            say(f"  ← {line}", fg="green")


async def gate() -> None:
    say("permission-gate: a hook that decides what may run", bold=True)
    async with ExtensionSession(run_command("app:app"), cwd=HERE / "permission_gate", stderr=DEVNULL) as session:
        say(f"  {session.info.extension.name} {session.info.extension.version} is ready")
        for command in ("ls -la", "rm -rf build", "rm -rf /", "sudo dd if=/dev/zero of=/dev/sda"):
            say(f"  → tool_call bash: {command}")
            outcome = await session.run_hook("tool_call", {"tool": "bash", "arguments": {"command": command}})
            if isinstance(outcome, messages.BlockOutcome):
                say(f"  ← blocked: {outcome.reason}", fg="red")
            else:
                say("  ← allowed", fg="green")


async def main() -> None:
    say("─" * min(72, shutil.get_terminal_size().columns))
    await greet()
    say()
    await gate()
    say("─" * min(72, shutil.get_terminal_size().columns))


if __name__ == "__main__":
    asyncio.run(main())
