"""MCP's :class:`~sepkit.contexts.link.Link`: one for the connection, and one for each request that may ask or tell.

What a handler says in the words of the house becomes progress, log messages and forms; what MCP has no words for is
answered in this process.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from sepkit.contexts.backend import Backend, Principal
from sepkit.contexts.link import CURRENT_LINK, HostInfo, Link, Workspace
from sepkit.errors import MethodNotFound, NoUI
from sepkit.faces.mcp.asking import Form, Questions, ask_at_once
from sepkit.faces.mcp.protocol import LEVELS, Client
from sepkit.peer import Peer
from sepkit.serving.served import Served
from sepkit.wire import methods

if TYPE_CHECKING:
    from sepkit.capabilities.kv import Store
    from sepkit.contexts.settings import Setting
    from sepkit.faces.mcp.local import LocalHost

_LEVELS: Final = {"trace": "debug", "debug": "debug", "info": "info", "warn": "warning", "error": "error"}
_NUMBERS: Final = (10, 20, 25, 30, 40, 50, 60, 60)
"""The levels of MCP, as those of ``logging``."""
_SHOWN: Final = frozenset({"notify", "set_status"})
_ASKED: Final = frozenset({"confirm", "input", "select", "form"})
_OPENED: Final = frozenset({"open_url"})
_NO_MODE: Final = "mcp"


CONTEXT: Final[dict[str, Any]] = {"token": "mcp", "tier": "command"}
"""The context of all calls: clients have none of their own."""


class ConnectionLink:
    """The connection as such: for background tasks, the lifespan, and what handlers of requests ask beside them.

    Args:
        served: What the connection is to.
        peer: Its wire.
        root: The folder that the agent works in.
        flags: What the client sets flags to; MCP has no way to do so, but tests have.
        store: Makes the store of keys and values; called when it is first used.
        publish: Tells the handlers of the bus.
        observing: Whether such handlers run.
    """

    ui_kinds: frozenset[str] | None = _SHOWN
    principal: Principal | None = None

    def __init__(
        self,
        served: Served,
        peer: Peer,
        *,
        root: str,
        flags: Mapping[str, Any],
        store: Callable[[], Store],
        publish: Callable[[str, str, dict[str, Any]], None],
        observing: Callable[[], bool],
    ) -> None:
        self.served = served
        self.peer = peer
        self._flags = flags
        self.logger = logging.getLogger(served.app.name)
        self.outgoing = peer.transport
        self.root = root
        self.host = self.host_of({})
        self.log_level: str | None = None
        """From which level on the client wants log messages, whatever they belong to; None for none of them."""
        self._store = store
        self._publish = publish
        self._observing = observing
        self._local: LocalHost | None = None

    def host_of(self, info: Mapping[str, Any]) -> HostInfo:
        """Who the host is, as a client has said."""
        # A client that does not trust a folder starts no servers for it.
        workspace = Workspace(self.root, trusted=True)
        return HostInfo(info.get("name", "unknown"), info.get("version", ""), _NO_MODE, workspace)

    def want(self, level: str) -> None:
        """See to it that the App's logger makes records of this level at all."""
        number = _NUMBERS[LEVELS.index(level)]
        if number < self.logger.getEffectiveLevel():
            self.logger.setLevel(number)

    @property
    def state(self) -> Any:
        """What the lifespan yielded."""
        return self.served.state

    @property
    def flags(self) -> Mapping[str, Any]:
        """The values of the App's flags."""
        return self.served.flags(self._flags)

    async def set_setting(self, setting: Setting[Any], value: Any) -> None:
        """Store the value of a setting."""
        await self.served.settings.set(self, setting, value)

    @property
    def backend(self) -> Backend:
        """Documents, settings and the like."""
        return self.served.backend

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that handlers run in."""
        return self.served.loop

    @property
    def busy(self) -> bool:
        """Whether a request is being worked on, or an event."""
        return self.peer.busy or self._observing()

    def owns(self, link: Link) -> bool:
        """Whether what runs for ``link`` runs for this connection."""
        return isinstance(link, RequestLink) and link.connection is self

    async def ask(self, method: str, params: dict[str, Any]) -> Any:
        """Ask in the words of the house; there is no user here.

        Raises:
            NoUI: It is a question to the user.
            MethodNotFound: MCP has no such thing.
            RpcError: As a host of SEP would answer.
        """
        if method == methods.UI_REQUEST:
            if params.get("kind") not in _SHOWN:
                raise NoUI("there is no user to ask outside of a call")
            self.message(_LEVELS.get(params.get("level") or "info", "info"), _shown(params))
            return {}
        if self._local is None:
            from sepkit.faces.mcp.local import LocalHost  # only for handlers that ask

            self._local = LocalHost(self.served.app.name, CONTEXT["token"], self.root, self._store(), self._publish)
        return await self._local.ask(method, params)

    async def ask_client(self, method: str, params: dict[str, Any]) -> Any:
        """A client is asked within a call.

        Raises:
            MethodNotFound: In any case.
        """
        raise MethodNotFound(f"{method}: a client can be asked within a call only")

    def tell(self, method: str, params: dict[str, Any], *, unless: Callable[[], bool] | None = None) -> None:
        """Notify the client, unless it does not keep up. Of what the house tells, log records have a place here."""
        if method == methods.LOG:
            self.log(params, unless=unless)

    def log(self, params: dict[str, Any], *, unless: Callable[[], bool] | None = None) -> None:
        """Send a record of ``logging`` on, where the client wants it."""
        link = CURRENT_LINK.get()
        wanted = link.wanted_level if isinstance(link, RequestLink) else self.log_level
        fields = dict(params["fields"])
        logger = fields.pop("logger", None)
        data: object = {"message": params["message"], **fields} if fields else params["message"]
        self._message(wanted, _LEVELS.get(params["level"], "info"), data, logger, unless)

    def message(self, level: str, text: str) -> None:
        """Send a log message that is not a record of ``logging``."""
        self._message(self.log_level, level, text, self.logger.name, None)

    def _message(
        self, wanted: str | None, level: str, data: object, logger: str | None, unless: Callable[[], bool] | None
    ) -> None:
        if wanted is None or LEVELS.index(level) < LEVELS.index(wanted):
            return
        params: dict[str, Any] = {"level": level, "data": data}
        if logger is not None:
            params["logger"] = logger
        self.peer.notify("notifications/message", params, lossy=True, unless=unless)

    async def send(self, method: str, params: dict[str, Any]) -> None:
        """What must not be dropped belongs to providers, which MCP does not have."""

    def flush(self) -> None:
        """Send now what other threads have told so far."""
        self.peer.send_posted()


class RequestLink:
    """One request, as its handlers see it. A call that is suspended moves from one request to the next.

    Args:
        connection: The connection.
        client: What its client has said of itself.
        token: Under which the client wants progress; None where it does not.
        log_level: From which level on a modern request's log messages are wanted.
        questions: How a modern client is asked; None for a legacy one.
        greeted: Whether the client may be sent requests.
    """

    __slots__ = (
        "_client",
        "_counts",
        "_greeted",
        "_host",
        "_last",
        "_lock",
        "_questions",
        "_token",
        "closed",
        "connection",
        "last_told",
        "log_level",
        "ui_kinds",
    )

    def __init__(
        self,
        connection: ConnectionLink,
        client: Client,
        token: str | int | None,
        log_level: str | None,
        questions: Questions | None,
        *,
        greeted: bool,
    ) -> None:
        self.connection = connection
        self._client = client
        self._host: HostInfo | None = None
        self._token = token
        self.log_level = log_level
        self._questions = questions
        self._greeted = greeted
        kinds = _SHOWN
        if client.is_modern or greeted:
            if client.shows_forms:
                kinds |= _ASKED
            if client.opens_pages:
                kinds |= _OPENED
        self.ui_kinds: frozenset[str] | None = kinds
        self.closed = False
        self._last = -math.inf
        self._counts = True  # no handler has said which part is done
        self._lock = threading.Lock()
        self.last_told = 0.0

    # -- what is the connection's --------------------------------------------------------------------------------------

    @property
    def host(self) -> HostInfo:
        """Who the host is, as it said with this request."""
        if self._host is None:
            self._host = self.connection.host_of(self._client.info)
        return self._host

    @property
    def flags(self) -> Mapping[str, Any]:
        """The values of the App's flags."""
        return self.connection.flags

    async def set_setting(self, setting: Setting[Any], value: Any) -> None:
        """Store the value of a setting."""
        await self.connection.set_setting(setting, value)

    @property
    def state(self) -> Any:
        """What the lifespan yielded."""
        return self.connection.state

    @property
    def backend(self) -> Backend:
        """Documents, settings and the like."""
        return self.connection.backend

    @property
    def principal(self) -> Principal | None:
        """Whom the call is made for."""
        return self.connection.principal

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that handlers run in."""
        return self.connection.loop

    @property
    def logger(self) -> logging.Logger:
        """The App's logger."""
        return self.connection.logger

    @property
    def outgoing(self) -> Any:
        """What waits for the client."""
        return self.connection.outgoing

    @property
    def busy(self) -> bool:
        """Whether anything that came over the connection is being worked on."""
        return self.connection.busy

    # -- what is the request's -----------------------------------------------------------------------------------------

    def move(self, request: RequestLink | None) -> None:
        """Speak under another request from now on; with None, under none: the call is suspended."""
        with self._lock:
            if request is None:
                self._token = self.log_level = None
            else:
                self._token, self.log_level = request._token, request.log_level
                self._last, self._counts = -math.inf, True

    def close(self) -> None:
        """The request is about to be answered: nothing is told of it from now on."""
        self.closed = True
        self._token = self.log_level = None

    @property
    def wanted_level(self) -> str | None:
        """From which level on log messages are wanted: of this request, or of the legacy connection."""
        return self.log_level if self._client.is_modern else self.connection.log_level

    @property
    def wants_progress(self) -> bool:
        """Whether the client wants to be told how far it is."""
        return self._token is not None

    def is_closed(self) -> bool:
        """Whether it is about to be answered, or has been."""
        return self.closed

    async def ask(self, method: str, params: dict[str, Any]) -> Any:
        """Ask: the user by a form, all else in this process.

        Raises:
            NoUI: The client cannot show it.
            RpcError: As a host of SEP would answer.
        """
        if method != methods.UI_REQUEST:
            return await self.connection.ask(method, params)
        kind = params.get("kind")
        if kind in _SHOWN:
            level = _LEVELS.get(params.get("level") or "info", "info")
            if not self._progress(None, _shown(params), self.is_closed):
                self.message(level, _shown(params))
            return {}
        if self.closed or self.ui_kinds is None or kind not in self.ui_kinds:
            raise NoUI(f"the client cannot show {kind!r}")
        form = Form(params, is_modern=self._client.is_modern)
        if form.is_empty:
            return {"cancelled": True}
        if self._questions is not None:
            return await self._questions.ask(form, params.get("key"))
        return await ask_at_once(form, self.connection.peer.request)

    async def ask_client(self, method: str, params: dict[str, Any]) -> Any:
        """Ask the client in MCP's own words; a legacy one, since a modern one takes no requests.

        Raises:
            MethodNotFound: The client is modern, has not been greeted, or knows no such method.
            RpcError: It answered with an error.
        """
        if self._questions is not None or not self._greeted or self.closed:
            raise MethodNotFound(f"{method}: this client takes no requests here")
        return await self.connection.peer.request(method, params)

    def tell(self, method: str, params: dict[str, Any], *, unless: Callable[[], bool] | None = None) -> None:
        """Notify the client, unless it does not keep up: progress under the request's own token, and log records."""
        if method == methods.TOOL_UPDATE:
            self._progress(params.get("progress"), params.get("message"), unless or self.is_closed)
        elif method == methods.LOG:
            self.connection.log(params, unless=unless)

    def message(self, level: str, text: str) -> None:
        """Send a log message, where this request or the connection wants it."""
        self.connection._message(self.wanted_level, level, text, self.logger.name, self.is_closed)

    def beat(self) -> None:
        """Show the client that the request is alive."""
        self._progress(None, None, self.is_closed)

    def _progress(self, progress: float | None, message: str | None, unless: Callable[[], bool]) -> bool:
        """Tell how far it is; whether the request wants to be told.

        From any thread. Numbers grow strictly: some clients close the connection at one that does not.
        """
        with self._lock:
            token = self._token
            if token is None or self.closed:
                return False
            params: dict[str, Any] = {"progressToken": token}
            if progress is not None and self._counts:
                self._counts = False
            if self._counts:
                self._last = 1 if self._last < 0 else int(self._last) + 1
                params["progress"] = self._last
            else:
                value = self._last if progress is None else float(progress)
                self._last = value if value > self._last else math.nextafter(self._last, math.inf)
                params["progress"] = self._last
                if self._last < 2:  # after counts the part that is done cannot be told as one of 1
                    params["total"] = 1
            if message is not None:
                params["message"] = message
            self.last_told = self.connection.loop.time()
            # What another thread has told waits for the loop, and by then the request may have been answered.
            self.connection.peer.notify(
                "notifications/progress", params, lossy=True, unless=lambda: self._token is not token or unless()
            )
            return True

    async def send(self, method: str, params: dict[str, Any]) -> None:
        """What must not be dropped belongs to providers, which MCP does not have."""

    def flush(self) -> None:
        """Send now what other threads have told so far."""
        self.connection.flush()


def _shown(params: Mapping[str, Any]) -> str:
    return str(params.get("message") if params.get("kind") == "notify" else params.get("status"))
