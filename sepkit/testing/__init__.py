"""Tests of an App without a process: a host in memory, a virtual clock, and a pytest plugin.

::

    async with TestHost(app, ui={"confirm": True}) as host:
        answer = await host.call_tool("greet", {"name": "Ada"})
    assert answer.content == "Hello, Ada!"
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sepkit.contexts.fetching import Response
    from sepkit.testing.asking import ProviderAnswer, ToolAnswer
    from sepkit.testing.blocking import BlockingTestHost
    from sepkit.testing.clock import BusyLoop, Deadlock, VirtualClockLoop, current_loop, run_virtual
    from sepkit.testing.host import TestHost
    from sepkit.testing.inspection import ProtocolViolation
    from sepkit.testing.mcp import McpClient, McpResult
    from sepkit.testing.seen import Fetched
    from sepkit.wire.messages import (
        BlockOutcome,
        ConfirmRequest,
        ContinueOutcome,
        ExecRunResult,
        InputRequest,
        ModifyOutcome,
        SelectRequest,
        UiRequest,
    )

__all__ = [
    "BlockOutcome",
    "BlockingTestHost",
    "BusyLoop",
    "ConfirmRequest",
    "ContinueOutcome",
    "Deadlock",
    "ExecRunResult",
    "Fetched",
    "InputRequest",
    "McpClient",
    "McpResult",
    "ModifyOutcome",
    "ProtocolViolation",
    "ProviderAnswer",
    "Response",
    "SelectRequest",
    "TestHost",
    "ToolAnswer",
    "UiRequest",
    "VirtualClockLoop",
    "current_loop",
    "run_virtual",
]

_HOMES: Final = {
    "sepkit.contexts.fetching": ("Response",),
    "sepkit.testing.asking": ("ProviderAnswer", "ToolAnswer"),
    "sepkit.testing.blocking": ("BlockingTestHost",),
    "sepkit.testing.clock": ("BusyLoop", "Deadlock", "VirtualClockLoop", "current_loop", "run_virtual"),
    "sepkit.testing.host": ("TestHost",),
    "sepkit.testing.inspection": ("ProtocolViolation",),
    "sepkit.testing.seen": ("Fetched",),
    "sepkit.testing.mcp": ("McpClient", "McpResult"),
    "sepkit.wire.messages": (
        "BlockOutcome",
        "ConfirmRequest",
        "ContinueOutcome",
        "ExecRunResult",
        "InputRequest",
        "ModifyOutcome",
        "SelectRequest",
        "UiRequest",
    ),
}


if not TYPE_CHECKING:  # a type checker would take it for leave to import any name

    def __getattr__(name: str) -> Any:
        # At the first use: pytest imports this package wherever sepkit is installed, for the plugin's sake.
        for home, names in _HOMES.items():
            if name in names:
                from importlib import import_module

                found = globals()[name] = getattr(import_module(home), name)
                return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
