"""sepkit: extend an AI agent in Python, over SEP, the Smooth Extension Protocol.

Write tools, hooks, commands, providers and background tasks as decorated coroutines on an :class:`App`, and serve them
with ``python -m sepkit run app:app``.
"""

from __future__ import annotations

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any, Final

from sepkit import render
from sepkit.app import App
from sepkit.contexts.contexts import (
    CommandContext,
    EventContext,
    HookContext,
    JobContext,
    ProviderContext,
    ResourceContext,
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
    from sepkit.content import (
        Audio,
        Contents,
        EmbeddedResource,
        Icon,
        Image,
        PromptMessage,
        ResourceLink,
    )
    from sepkit.contexts.backend import Principal
    from sepkit.contexts.settings import Setting
    from sepkit.schema import Format

__all__ = [
    "App",
    "Audio",
    "Block",
    "CommandContext",
    "Completion",
    "Contents",
    "Cost",
    "Credentials",
    "Delta",
    "Done",
    "EmbeddedResource",
    "EventContext",
    "Format",
    "HookContext",
    "Icon",
    "Image",
    "JobContext",
    "Messages",
    "Model",
    "ModelUsed",
    "OAuthParams",
    "Patch",
    "Principal",
    "PromptMessage",
    "ProviderContext",
    "ProviderRequest",
    "Reasoning",
    "ResourceContext",
    "ResourceLink",
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

# Imported at the first use: most extensions have none of them.
_LATER: Final = {
    "sepkit.content": (
        "Audio",
        "Contents",
        "EmbeddedResource",
        "Icon",
        "Image",
        "PromptMessage",
        "ResourceLink",
    ),
    "sepkit.contexts.backend": ("Principal",),
    "sepkit.contexts.settings": ("Setting",),
    "sepkit.schema": ("Format",),
}


if not TYPE_CHECKING:  # a type checker would take it for leave to import any name

    def __getattr__(name: str) -> Any:
        for home, names in _LATER.items():
            if name in names:
                from importlib import import_module

                found = globals()[name] = getattr(import_module(home), name)
                return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
