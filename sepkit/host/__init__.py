"""The other end of the wire: load extensions in any language, ask them, and survive them.

A program makes a :class:`Host`, loads what :func:`discover` finds, and is asked by its :class:`Delegate`.
"""

from __future__ import annotations

import logging

from sepkit.capabilities.delegate import Delegate
from sepkit.capabilities.store import KvStore
from sepkit.errors import StoreError
from sepkit.host.calls import CompletionStream, TakenTooSlowly, UnknownEvent
from sepkit.host.fold import Change, Folded
from sepkit.host.host import Host, HostTool
from sepkit.host.life import ExtensionDied
from sepkit.host.lives import ExtensionUnavailable, Status
from sepkit.host.manifest import Discovery, Manifest, ManifestError, Problem, discover, read
from sepkit.host.notes import Shown

# The log may end on a terminal, and quotes what extensions say.
for _name in ("sepkit.host", "sepkit.peer"):
    logging.getLogger(_name).addFilter(Shown())

__all__ = [
    "Change",
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
