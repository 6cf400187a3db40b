"""The seam between what an author writes and the host it is served to: what contexts and services need of a connection.

A face implements :class:`Link`; nothing above this module knows which wire is behind it. The names of methods and the
shape of their params are those of SEP (``wire/methods.py``, ``wire/messages.py``), whatever the wire: a face
translates.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Protocol

from sepkit.contexts.backend import Backend, Principal
from sepkit.records import Record, record

if TYPE_CHECKING:
    from sepkit.contexts.settings import Setting


@record
class Workspace(Record):
    """Where the agent works."""

    root: str
    """An absolute path."""
    trusted: bool
    """Whether the user trusts that place."""


@record
class HostInfo(Record):
    """Who is at the other end, as far as it has said."""

    name: str
    version: str
    mode: str
    """What kind of program it is: ``"tui"``, ``"web"``, ``"widget"``, ``"cli"``, ``"headless"``, or its own word."""
    workspace: Workspace
    session_id: str | None = None
    """The session that it serves; None where it did not say."""
    disabled: frozenset[str] = frozenset()
    """The groups of methods that it has switched off for this extension, such as ``"kv"`` and ``"exec"``."""


class Outgoing(Protocol):
    """What is on its way to the host. Each tool call looks at it, so it is no more than two attributes away."""

    congested: bool
    """Whether the host does not keep up with what is sent."""

    async def drain(self) -> None:
        """Wait while the host does not keep up.

        Raises:
            ConnectionClosed: The host is gone.
        """


class Link(Protocol):
    """One connection to a host, as handlers and services see it.

    A request ends in one of four ways, as in :mod:`sepkit.peer`. What is told may be dropped under pressure; what is
    sent never is.
    """

    @property
    def host(self) -> HostInfo:
        """Who the host is."""

    @property
    def flags(self) -> Mapping[str, Any]:
        """The values of the app's flags on this connection: the host's, and the defaults of those it did not send."""

    @property
    def ui_kinds(self) -> frozenset[str] | None:
        """The kinds of ``ui/request`` that the host can show; None where it did not say."""

    @property
    def state(self) -> Any:
        """What the app's lifespan yielded; shared by all connections."""

    @property
    def backend(self) -> Backend:
        """Documents, settings, secrets, jobs, fetch and users: the host's where it has them, else local ones."""

    async def set_setting(self, setting: Setting[Any], value: Any) -> None:
        """Store the value of a setting, of this connection's app: see ``Context.set_setting``."""

    @property
    def principal(self) -> Principal | None:
        """Whom the call is made for; None where the host has no users.

        A face whose calls are made for different users gives each call a link of its own.
        """

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that handlers run in.

        Raises:
            ConnectionClosed: This process is a fork of the one that it runs in.
        """

    @property
    def logger(self) -> logging.Logger:
        """The app's logger."""

    @property
    def outgoing(self) -> Outgoing:
        """What waits for the host."""

    @property
    def busy(self) -> bool:
        """Whether anything that came over this connection is being worked on."""

    async def ask(self, method: str, params: dict[str, Any]) -> Any:
        """Ask the host, and wait for its answer.

        Raises:
            CapabilityDisabled: The host has switched the method's group off.
            MethodNotFound: The host does not know the method.
            RpcError: The host answered with an error.
            ConnectionClosed: The host is gone.
        """

    async def ask_client(self, method: str, params: dict[str, Any]) -> Any:
        """Ask the client in its own protocol: method and params as that has them.

        Raises:
            MethodNotFound: It knows no such method; no SEP host has any.
            RpcError: It answered with an error.
            ConnectionClosed: It is gone.
        """

    def tell(self, method: str, params: dict[str, Any], *, unless: Callable[[], bool] | None = None) -> None:
        """Notify the host, unless it does not keep up. From any thread; ``unless`` is asked again in the loop."""

    async def send(self, method: str, params: dict[str, Any]) -> None:
        """Notify the host; waits while it does not keep up.

        Raises:
            ConnectionClosed: The host is gone.
        """

    def flush(self) -> None:
        """Send now what other threads have told so far."""


CURRENT_LINK: Final[ContextVar[Link | None]] = ContextVar("sepkit_link", default=None)
"""The connection that the running code serves; None outside of handlers, and in what all connections share."""

CURRENT_USER: Final[ContextVar[str | None]] = ContextVar("sepkit_user", default=None)
"""The user that the running task or job works for: those have no connection that would tell."""


def current_user() -> str | None:
    """The id of the user that the running call, task or job works for; None where there is none."""
    link = CURRENT_LINK.get()
    if link is None:
        return CURRENT_USER.get()
    return None if link.principal is None else link.principal.id
