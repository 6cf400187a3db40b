"""What a person is asked before a tool runs that wants it: ``@app.tool(confirm=True)``. Imported by its first call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from sepkit.concurrency.lanes import Hold, Slots
from sepkit.contexts.link import Link
from sepkit.contexts.services import UI
from sepkit.errors import RpcError, ToolError
from sepkit.handlers import ToolSpec
from sepkit.terminal import one_line

_MOST_OF_A_VALUE: Final = 200  # characters
_MOST_VALUES: Final = 8


async def confirm(tool: ToolSpec, arguments: Mapping[str, Any], link: Link, slots: Slots) -> None:
    """Ask the person in front of the host whether a tool may run. The call lends its slot meanwhile.

    Raises:
        ToolError: It may not: the answer is no, or was dismissed, or the host cannot ask.
        ConnectionClosed: The host is gone.
    """
    hold = Hold(slots)

    async def ask(method: str, params: dict[str, Any]) -> Any:
        return await hold.lend(link.ask(method, params))

    try:
        is_confirmed = await UI(ask, link.ui_kinds).confirm(question(tool, arguments))
    except RpcError:  # NoUI, CapabilityDisabled, or an answer that is none
        raise ToolError(
            f"{tool.name} was not run: it needs the user's confirmation, and this host cannot ask for it."
        ) from None
    finally:
        hold.end()
    if is_confirmed is not True:
        raise ToolError(f"{tool.name} was not run: the user did not confirm it.")


def question(tool: ToolSpec, arguments: Mapping[str, Any]) -> str:
    """What is asked: the text of the tool; else its name, with the arguments in one line, of a bounded length."""
    if isinstance(tool.confirm, str):
        return tool.confirm
    shown = [f"{one_line(name[:100])}={_shown(value)}" for name, value in list(arguments.items())[:_MOST_VALUES]]
    if (more := len(arguments) - len(shown)) > 0:
        shown.append(f"and {more} more")
    return f"Run {tool.name}?" if not shown else f"Run {tool.name} with {', '.join(shown)}?"


def _shown(value: Any) -> str:
    """A value as JSON in one line, without characters that a terminal or the reader's eye would obey."""
    try:
        text = orjson.dumps(value).decode()
    except TypeError:  # a number of more than 64 bits
        text = repr(value)
    left = len(text) - _MOST_OF_A_VALUE
    return one_line(text) if left <= 0 else f"{one_line(text[:_MOST_OF_A_VALUE])}… ({left} more characters)"
