"""The other end of the wire: load extensions in any language, ask them, and survive them.

A program makes a :class:`Host`, loads what :func:`discover` finds, and is asked by its :class:`Delegate`.
"""

from __future__ import annotations

from sepkit.capabilities.delegate import Delegate
from sepkit.capabilities.kv import StoreError
from sepkit.capabilities.store import KvStore
from sepkit.host.calls import CompletionStream, TakenTooSlowly, UnknownEvent
from sepkit.host.fold import Folded
from sepkit.host.host import Host, HostTool
from sepkit.host.life import ExtensionDied
from sepkit.host.lives import ExtensionUnavailable, Status
from sepkit.host.manifest import Discovery, Manifest, ManifestError, Problem, discover, read

__all__ = [
    "CompletionStream",
    "Delegate",
    "Discovery",
    "ExtensionDied",
    "ExtensionUnavailable",
    "Folded",
    "Host",
    "HostTool",
    "KvStore",
    "Manifest",
    "ManifestError",
    "Problem",
    "Status",
    "StoreError",
    "TakenTooSlowly",
    "UnknownEvent",
    "discover",
    "read",
]
