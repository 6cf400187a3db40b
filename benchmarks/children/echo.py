"""The smallest extension that does what a tool does: checked arguments in, text out."""

from __future__ import annotations

from sepkit import App

app = App("echo")


@app.tool
async def echo(text: str) -> str:
    """Return the text."""
    return text
