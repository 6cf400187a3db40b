"""An extension of ``SEPKIT_TOOLS`` tools, each a function of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from sepkit import App

app = App("many")


def made() -> Callable[..., Any]:
    async def tool(text: str, times: int = 1, tags: list[str] | None = None) -> str:
        """Repeat a text."""
        return text * times

    return tool


for number in range(int(os.environ["SEPKIT_TOOLS"])):
    app.add_tool(made(), name=f"tool_{number}")
