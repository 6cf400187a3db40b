"""The whole round of a tool call, as an agent goes it: hooks before, the call, hooks after, and the events around it.

Source: docs/protocol.md, sections 6 and 7.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from attrs import evolve

from sepkit.errors import SepkitError
from sepkit.host.calls import OnUpdate
from sepkit.host.fold import Folded
from sepkit.wire import messages, methods


class Table(Protocol):
    """What a round needs of the host."""

    async def run_hook(self, hook: methods.HookName, value: Mapping[str, Any]) -> Folded:
        """Ask all extensions."""

    def dispatch_event(self, event: str, payload: Mapping[str, Any] | None = None) -> None:
        """Tell all extensions."""


Call = Callable[[dict[str, Any], OnUpdate], Awaitable[messages.ToolExecuteResult]]
"""Arguments, and a callback for progress in; the result."""


async def go(
    host: Table, call: Call, call_id: str, tool: str, arguments: dict[str, Any], on_update: OnUpdate | None
) -> messages.ToolExecuteResult:
    """Call a tool, with all that an agent does around it. What goes wrong is a result, which a model can read.

    Args:
        host: Asked for the hooks, and told of the events.
        call: Calls the tool.
        call_id: Tells this round from others, in its events.
        tool: The tool's full name.
        arguments: Its arguments, before any hook.
        on_update: Told how far it is.
    """
    before = await host.run_hook("tool_call", {"tool": tool, "arguments": arguments})
    if before.blocked:
        return _blocked(f"{tool} was not called", before)
    arguments = before.value["arguments"]
    about = {"call_id": call_id, "tool": tool}

    def updated(update: messages.ToolUpdateParams) -> None:
        told = {"message": update.message, "progress": update.progress, "details": update.details}
        said = {name: value for name, value in told.items() if value is not None}
        host.dispatch_event("tool_execution_update", {**about, **said})
        if on_update is not None:
            on_update(update)

    host.dispatch_event("tool_execution_start", {**about, "arguments": arguments})
    result = messages.ToolExecuteResult("the call was cancelled", is_error=True)
    try:
        result = await _result(call, arguments, updated)
        result = await _looked_at(host, tool, arguments, result)
    finally:
        told = {"content": result.content, "is_error": result.is_error, "details": result.details}
        host.dispatch_event("tool_execution_end", {**about, **told})
    return result


async def _result(call: Call, arguments: dict[str, Any], updated: OnUpdate) -> messages.ToolExecuteResult:
    try:
        return await call(arguments, updated)
    except SepkitError as error:
        return messages.ToolExecuteResult(str(error), is_error=True)


async def _looked_at(
    host: Table, tool: str, arguments: dict[str, Any], result: messages.ToolExecuteResult
) -> messages.ToolExecuteResult:
    """The result, as the hooks of ``tool_result`` leave it."""
    said = {"content": result.content, "is_error": result.is_error, "details": result.details}
    after = await host.run_hook("tool_result", {"tool": tool, "arguments": arguments, **said})
    if after.blocked:
        return _blocked(f"the result of {tool} is withheld", after)
    value = after.value
    return evolve(
        result, content=value["content"], is_error=value.get("is_error") or False, details=value.get("details")
    )


def _blocked(what: str, folded: Folded) -> messages.ToolExecuteResult:
    how = "blocked by" if folded.verdict == "denied" else "no answer that counts from"
    why = f": {folded.reason}" if folded.reason else ""
    about = {"verdict": folded.verdict, "by": folded.by, "reason": folded.reason}
    return messages.ToolExecuteResult(f"{what}: {how} {folded.by}{why}", is_error=True, details=about)
