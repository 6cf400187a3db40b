"""An extension with one handler of each kind that an instruction count compares; each does nothing of its own."""

from __future__ import annotations

import asyncio
from typing import Any

from sepkit import App, ToolCall, ToolContext

app = App("kinds")


@app.tool
async def echo(text: str) -> str:
    """Return the text."""
    return text


@app.tool
async def told(text: str, ctx: ToolContext) -> str:
    """Return the text, and could report progress."""
    return text


@app.tool
async def waits(text: str) -> str:
    """Return the text after giving way to the loop once."""
    await asyncio.sleep(0)
    return text


@app.tool
async def sleeps(text: str) -> str:
    """Return the text after ten milliseconds."""
    await asyncio.sleep(0.01)
    return text


@app.hook("tool_call")
async def gate(call: ToolCall) -> None: ...


@app.command
async def say(text: str) -> str:
    """Return the text."""
    return text


@app.on("turn_start")
async def turn(payload: dict[str, Any]) -> None: ...
