"""sepkit: extend an AI agent in Python, over SEP, the Smooth Extension Protocol.

Write tools, hooks, commands, providers and background tasks as decorated coroutines on an :class:`App`, and serve them
with ``python -m sepkit run app:app``.
"""

from __future__ import annotations

__version__ = "0.1.0"

from sepkit import render
from sepkit.app import App
from sepkit.contexts.contexts import (
    CommandContext,
    EventContext,
    HookContext,
    JobContext,
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
    "JobContext",
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
