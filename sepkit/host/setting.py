"""What all extensions of one host share: its program, its store, its times. Nothing here belongs to one extension."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from sepkit.capabilities.delegate import Delegate
from sepkit.capabilities.services import Room
from sepkit.capabilities.store import KvStore
from sepkit.host.budget import Neighbours
from sepkit.host.guard import Guard
from sepkit.host.life import INITIALIZE_TIMEOUT, PING_AFTER, PING_TIMEOUT, SHUTDOWN_GRACE
from sepkit.host.manifest import Manifest
from sepkit.host.supervision import DELAYS, HEALTHY_AFTER
from sepkit.wire import messages
from sepkit.wire.frames import MAX_FRAME_BYTES


@attrs.frozen(kw_only=True)
class Setting:
    """What all extensions of one host share. Times are seconds."""

    handshake: Callable[[Manifest], messages.InitializeParams]
    delegate: Delegate
    store: KvStore
    room: Room
    guard: Guard
    neighbours: Neighbours = attrs.field(factory=Neighbours)
    isolation: bool = False
    initialize_timeout: float = INITIALIZE_TIMEOUT
    shutdown_grace: float = SHUTDOWN_GRACE
    ping_after: float = PING_AFTER
    ping_timeout: float = PING_TIMEOUT
    restart_delays: tuple[float, ...] = DELAYS
    healthy_after: float = HEALTHY_AFTER
    max_frame_bytes: int = MAX_FRAME_BYTES
