"""A tool with progress, an observer of the agent's turns, and a command that tells what was observed."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from annotated_types import Ge, Le

from sepkit import App, CommandContext, EventContext, ToolContext

app = App("hello", version="0.1.0")

GREETINGS = {"en": "Hello", "fr": "Bonjour", "de": "Hallo"}

_turns = 0


@app.tool
async def greet(
    name: str,
    ctx: ToolContext,
    language: Literal["en", "fr", "de"] = "en",
    times: Annotated[int, Ge(1), Le(10)] = 1,
) -> str:
    """Greet someone by name.

    Args:
        name: Who to greet.
        language: In which language.
        times: How often.
    """
    greetings = []
    for done in range(times):
        ctx.update(f"greeting {name}", progress=done / times)
        greetings.append(f"{GREETINGS[language]}, {name}!")
        await asyncio.sleep(0.01)
    ctx.update("done", progress=1.0)
    return "\n".join(greetings)


@app.on("turn_start")
async def count_turn(payload: dict[str, object], ctx: EventContext) -> None:
    global _turns
    _turns += 1
    ctx.log.info("turn %d of %s begins", _turns, payload.get("agent_id", "the agent"))


@app.command
async def turns(ctx: CommandContext, unit: Literal["turns", "dozens"] = "turns") -> str:
    """Tell how many turns have begun since the extension was loaded."""
    return f"{_turns} turns" if unit == "turns" else f"{_turns / 12:.1f} dozen turns"


@app.complete("turns")
def complete_unit(partial: str) -> list[str]:
    return [unit for unit in ("turns", "dozens") if unit.startswith(partial)]
