"""SEP's :class:`~sepkit.contexts.link.Link`: a connection as handlers see it, over a peer.

The names and params of the house are SEP's own, so that nothing is translated here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sepkit.contexts.backend import Backend, Principal
from sepkit.contexts.link import HostInfo, Link, Workspace
from sepkit.errors import CapabilityDisabled, MethodNotFound
from sepkit.ownlog import OwnLog
from sepkit.peer import Peer
from sepkit.serving.served import Served
from sepkit.wire import messages, methods

if TYPE_CHECKING:
    from sepkit.contexts.settings import Setting

_log = OwnLog("sepkit")


class SepLink:
    """One SEP connection of an App that is served.

    Args:
        served: What the connection is to.
        peer: Its wire.
        observing: Whether event handlers of this connection run.
        principal: Whom its calls are made for.
    """

    host: HostInfo  # there are no calls before the handshake, which sets it

    def __init__(
        self, served: Served, peer: Peer, observing: Callable[[], bool], principal: Principal | None = None
    ) -> None:
        self.peer = peer
        self.logger = logging.getLogger(served.app.name)
        self.ui_kinds: frozenset[str] | None = None
        self._flags: dict[str, Any] = {}
        self.served = served
        self.principal = principal
        self.outgoing = peer.transport
        self._observing = observing
        self._unknown: set[str] = set()  # methods that the host has refused as unknown, and of which the log has told

    def greet(self, handshake: messages.InitializeParams) -> None:
        """Take over what the host said of itself."""
        self.host = HostInfo(
            name=handshake.host.name,
            version=handshake.host.version,
            mode=handshake.mode,
            workspace=Workspace(handshake.workspace.root, handshake.workspace.trusted),
            session_id=None if handshake.session is None else handshake.session.id,
            disabled=frozenset(group for group, is_on in handshake.capabilities_enabled.items() if not is_on),
        )
        self.ui_kinds = None if handshake.ui_capabilities is None else frozenset(handshake.ui_capabilities)
        self._flags = dict(handshake.flags or {})

    @property
    def flags(self) -> Mapping[str, Any]:
        """The values of the app's flags; one that is declared later has its default, too."""
        return self.served.flags(self._flags)

    async def set_setting(self, setting: Setting[Any], value: Any) -> None:
        """Store the value of a setting."""
        await self.served.settings.set(self, setting, value)

    @property
    def state(self) -> Any:
        """What the lifespan yielded."""
        return self.served.state

    @property
    def backend(self) -> Backend:
        """Documents, settings and the like, shared by all connections."""
        return self.served.backend

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that handlers run in."""
        return self.served.loop

    def owns(self, link: Link) -> bool:
        """Whether what runs for ``link`` runs for this connection."""
        return link is self

    @property
    def busy(self) -> bool:
        """Whether a request is being worked on, or an event."""
        return self.peer.busy or self._observing()

    async def ask(self, method: str, params: dict[str, Any]) -> Any:
        """Ask the host.

        Raises:
            CapabilityDisabled: The handshake switched the method's group off.
            MethodNotFound: The host does not know the method; the log says so, once.
            RpcError: The host answered with an error.
            ConnectionClosed: The host is gone.
        """
        group = methods.GROUP_OF.get(method)
        if group in self.host.disabled:
            raise CapabilityDisabled(f"{method}: the host has switched {group!r} off for this extension")
        try:
            return await self.peer.request(method, params)
        except MethodNotFound:
            if method not in self._unknown:
                self._unknown.add(method)
                _log.info("the host does not know %s", method)
            raise

    async def ask_client(self, method: str, params: dict[str, Any]) -> Any:
        """SEP has no methods but its own.

        Raises:
            MethodNotFound: In any case.
        """
        raise MethodNotFound(f"{method}: ctx.client asks MCP clients, and this host speaks SEP")

    def tell(self, method: str, params: dict[str, Any], *, unless: Callable[[], bool] | None = None) -> None:
        """Notify the host, unless it does not keep up; what is too long for some hosts is cut.

        From any thread; ``unless`` is asked again in the loop.
        """
        self.peer.notify(method, params, lossy=True, short=True, unless=unless)

    async def send(self, method: str, params: dict[str, Any]) -> None:
        """Notify the host; waits while it does not keep up."""
        await self.peer.drain()
        self.peer.notify(method, params)

    def flush(self) -> None:
        """Send now what other threads have told so far."""
        self.peer.send_posted()
