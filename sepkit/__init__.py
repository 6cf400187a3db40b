"""sepkit: extend an AI agent in Python, over SEP, the Smooth Extension Protocol.

Write tools, hooks, commands, providers and background tasks as decorated coroutines on an :class:`App`, and serve them
with ``python -m sepkit run app:app``.
"""

from __future__ import annotations

__version__ = "0.1.0"

from typing import TYPE_CHECKING

from sepkit import render
from sepkit.app import App
from sepkit.contexts.contexts import (
    CommandContext,
    EventContext,
    HookContext,
    ProviderContext,
    TaskContext,
    ToolContext,
)
from sepkit.errors import RpcError, ToolError
from sepkit.results import Block, Patch, ToolResult
from sepkit.router import Router
from sepkit.tasks import RestartPolicy, TaskHealth
from sepkit.wire.messages import (
    Completion,
    Cost,
    Credentials,
    Delta,
    Done,
    Messages,
    Model,
    ModelUsed,
    OAuthParams,
    Reasoning,
    ResponseId,
    StreamEvent,
    SystemPrompt,
    ToolCall,
    ToolCallArgumentsDelta,
    ToolCallStart,
    ToolOutcome,
    Usage,
    UserBash,
)
from sepkit.wire.messages import ProviderCompleteParams as ProviderRequest

if TYPE_CHECKING:
    from sepkit.contexts.settings import Setting


def __getattr__(name: str) -> object:
    if name == "Setting":  # imported by apps that have settings only: a host waits for the start
        from sepkit.contexts.settings import Setting

        return Setting
    raise AttributeError(f"module 'sepkit' has no attribute {name!r}")


__all__ = [
    "App",
    "Block",
    "CommandContext",
    "Completion",
    "Cost",
    "Credentials",
    "Delta",
    "Done",
    "EventContext",
    "HookContext",
    "Messages",
    "Model",
    "ModelUsed",
    "OAuthParams",
    "Patch",
    "ProviderContext",
    "ProviderRequest",
    "Reasoning",
    "ResponseId",
    "RestartPolicy",
    "Router",
    "RpcError",
    "Setting",
    "StreamEvent",
    "SystemPrompt",
    "TaskContext",
    "TaskHealth",
    "ToolCall",
    "ToolCallArgumentsDelta",
    "ToolCallStart",
    "ToolContext",
    "ToolError",
    "ToolOutcome",
    "ToolResult",
    "Usage",
    "UserBash",
    "__version__",
    "render",
]
