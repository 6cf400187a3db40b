"""Binds what serves an App to one transport, for the life of one MCP connection. Both eras may speak on it.

=========  ===========================================================================================
starting   the lifespan is being entered: ``initialize``, ``server/discover`` and ``ping`` are
           answered, since clients probe with them and do not wait; all else waits for it
ready      everything
ending     requests are refused with -32600. Accepted calls finish, at most for the grace
=========  ===========================================================================================

There is no method that ends it: end-of-file does.

Source: docs/mcp.md, "Two eras".
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from sepkit.errors import BadSettings, InternalError, InvalidParams, InvalidRequest, RpcError, StoreError
from sepkit.faces.connection import Connection
from sepkit.faces.mcp.batches import Batches
from sepkit.faces.mcp.catalogue import Catalogue, unserved
from sepkit.faces.mcp.changes import Changes
from sepkit.faces.mcp.link import CONTEXT, ConnectionLink
from sepkit.faces.mcp.protocol import (
    BATCHING,
    CANCELLING,
    MODERN,
    SERVER,
    SINCE,
    VERSION,
    Client,
    greeted,
    level_of,
    meta_of,
    modern_client,
    need,
)
from sepkit.faces.mcp.requests import Requests
from sepkit.faces.mcp.resources import TASKS
from sepkit.faces.mcp.results import Shapes
from sepkit.ownlog import OwnLog
from sepkit.peer import Peer, RequestHandler, unknown_method
from sepkit.router import Change
from sepkit.serving.observers import Event, Observers
from sepkit.serving.served import GRACE, Ending, Served
from sepkit.tasks import TaskHealth
from sepkit.transports.base import Transport
from sepkit.wire.frames import Id

if TYPE_CHECKING:
    from sepkit.capabilities.kv import Store

_Handle = Callable[[dict[str, Any], Client], Awaitable[object]]

_MOST_EARLY: Final = 1024  # requests that wait for the lifespan to be entered
_MOST_HELD: Final = 1024  # requests that wait for the client to read
_log = OwnLog("sepkit")


class Dispatcher(Connection):
    """Serves an App to an MCP client over one transport, once.

    Args:
        served: The App, as it is served; it ends with its last connection, unless something holds it.
        transport: Where the client is.
        store: Makes the store of the App's keys and values; called when it is first used.
        flags: What the client sets flags to.
        root: The folder that the agent works in.
        grace: Seconds that accepted calls have to finish, once the connection ends.

    Raises:
        RegistrationError: Two names of the App would be the same to clients.
    """

    def __init__(
        self,
        served: Served,
        transport: Transport,
        *,
        store: Callable[[], Store],
        flags: Mapping[str, Any] | None = None,
        root: str | None = None,
        grace: float = GRACE,
    ) -> None:
        super().__init__(served, grace)
        app = served.app
        self._catalogue = Catalogue(app)
        self._store: Store | None = None
        self._make_store = store
        self._peer = Peer(
            transport,
            notifications={"notifications/initialized": self._initialized},
            on_end=self._input_ended,
            cancelling=CANCELLING,
            answers_unreadable=False,
        )
        self._link: ConnectionLink = ConnectionLink(
            served,
            self._peer,
            root=root or os.environ.get("CLAUDE_PROJECT_DIR") or os.getcwd(),
            # A flag that is declared later has its default, too.
            flags=dict(flags or {}),
            store=self._opened,
            publish=self._published,
            observing=lambda: self._observers.busy,
        )
        self._peer.context = served.context(self._link)
        self._observers = Observers(app, self._link, served.calls, self._peer.spawn)
        server = {"name": app.name, "version": app.version}
        self._server = server
        self._shapes = Shapes(server)
        self._requests = Requests(served, self._link, self._catalogue, self._shapes)
        self._changes = Changes(self._peer, self._requests.resources.knows, self._capabilities, lambda: self._declared)
        self._batches = Batches(self._peer)
        self._legacy: Client | None = None
        self._told: dict[str, Any] | None = None  # the capabilities that the handshake declared
        self._declared: dict[str, Any] | None = None  # the same, once the client has ended its handshake
        self._early: list[asyncio.Future[None]] | None = []  # until the lifespan has been entered
        self._held = 0  # requests that wait for the client to read
        self._starting: asyncio.Task[None] | None = None
        self._unlisten: list[Callable[[], None]] = []
        both: dict[str, _Handle] = {
            "tools/list": self._requests.tools_list,
            "tools/call": self._requests.tools_call,
            "prompts/list": self._requests.prompts_list,
            "prompts/get": self._requests.prompts_get,
            "resources/list": self._requests.resources_list,
            "resources/templates/list": self._requests.templates_list,
            "resources/read": self._requests.resources_read,
            "completion/complete": self._requests.complete,
        }
        legacy: dict[str, _Handle] = {
            "logging/setLevel": self._set_level,
            "resources/subscribe": self._subscribe,
            "resources/unsubscribe": self._unsubscribe,
        }
        self._at_once: dict[str, RequestHandler] = {
            "initialize": self._initialize,
            "ping": self._ping,
            "server/discover": self._discover,
        }
        self._ready: dict[str, RequestHandler] = {
            **self._at_once,
            **{method: self._route(handle) for method, handle in both.items()},
            **{method: self._route(_legacy_only(method, handle)) for method, handle in legacy.items()},
            "subscriptions/listen": self._listen,
        }
        self._peer.routes, self._peer.fallback = self._at_once, self._later

    @property
    def link(self) -> ConnectionLink:
        """The connection, as handlers see it."""
        return self._link

    # -- the life ------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if left := unserved(self._served.app):
            _log.warning("mcp: not served: %s", ", ".join(left))
        self._peer.start()
        self._starting = asyncio.get_running_loop().create_task(self._start(), name="sepkit mcp start")

    async def _start(self) -> None:
        """Enter the lifespan, and serve what waits for it."""
        served = self._served
        try:
            await served.start(self._link)
        except (asyncio.CancelledError, Ending) as error:
            self._release(InternalError("the server is shutting down"))
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        except Exception as error:
            self._failure = error
            if not isinstance(error, BadSettings | StoreError):  # which say all, without a traceback
                served.calls.unexpected(error, "the server's lifespan failed")
            self._release(InternalError("the server could not start"))
            self._begin_end()
            return
        self._catalogue.refresh()  # the lifespan may have registered more
        self._unlisten = [
            served.changed(self._registered),
            served.task_changed(self._task_changed),
            served.on_resource_changed(self._resources_changed),
        ]
        if not self._ending:
            self._peer.routes, self._peer.fallback = self._ready, unknown_method
            served.autostart()
        self._release(None)

    def _release(self, error: RpcError | None) -> None:
        early, self._early = self._early or [], None
        for turn in early:
            if turn.done():
                continue
            if error is None:
                turn.set_result(None)
            else:
                turn.set_exception(error)

    def _later(self, method: str) -> RequestHandler:
        """The handler of a request that came while the lifespan was being entered."""
        early = self._early
        if early is None:
            return unknown_method(method)

        if len(early) >= _MOST_EARLY:
            raise InternalError("the server is still starting, and too many requests wait for it")

        async def wait(params: dict[str, Any]) -> object:
            rid = self._peer.begun_id
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            early.append(turn)
            await turn
            if method == "subscriptions/listen":
                return await self._listen(params, rid)
            return await (self._ready.get(method) or unknown_method(method))(params)

        return wait

    def _subject(self, params: dict[str, Any]) -> object:
        return params.get("name") or params.get("uri") or ""

    def _refuse_more(self) -> None:
        self._peer.routes, self._peer.fallback = {}, _refuse_ending
        self._changes.close()
        self._requests.suspended.cancel_all()

    async def _wait_for_more(self, seconds: float) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        if self._starting is not None:  # the lifespan is left once it has been entered
            await asyncio.wait([self._starting], timeout=seconds)
        await self._requests.suspended.wait_idle(seconds)
        await self._observers.wait_idle(max(0.0, deadline - asyncio.get_running_loop().time()))

    def _cancel_more(self) -> None:
        if left := self._observers.cancel():
            _log.warning("still handling events at the end of the grace, cancelled: %s", ", ".join(left))
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()

    def _let_go(self) -> None:
        for end in self._unlisten:
            end()

    async def _close(self, deadline: float) -> None:
        if self._store is not None and hasattr(self._store, "aclose"):
            await self._store.aclose()
        await super()._close(deadline)

    def _opened(self) -> Store:
        if self._store is None:
            self._store = self._make_store()
        return self._store

    # -- who speaks ----------------------------------------------------------------------------------------------------

    def _client(self, params: dict[str, Any]) -> Client:
        """Who sent a request, and in which era.

        Raises:
            InvalidParams: It belongs to neither.
            RpcError: -32022, a revision that is not spoken.
        """
        meta = meta_of(params)
        if VERSION in meta or self._legacy is None:
            if VERSION not in meta:
                raise InvalidParams(
                    f"this request belongs to no session: send initialize first, or have params._meta hold {VERSION!r} "
                    f"({MODERN!r}) and the client's capabilities"
                )
            return modern_client(meta)
        return self._legacy

    def _route(self, handle: _Handle) -> RequestHandler:
        def begin(params: dict[str, Any]) -> Awaitable[object]:
            client = self._client(params)
            if self._peer.congested:
                return self._once_read(handle, params, client)
            return handle(params, client)

        return begin

    async def _once_read(self, handle: _Handle, params: dict[str, Any], client: Client) -> object:
        """A request whose client does not read what it has been answered before: it waits for that."""
        if self._held >= _MOST_HELD:
            raise InternalError(
                "overloaded: the client does not read its answers, and too many requests wait for that",
                data={"reason": "overloaded"},
            )
        self._held += 1
        try:
            await self._peer.drain()
        finally:
            self._held -= 1
        return await handle(params, client)

    # -- greetings -----------------------------------------------------------------------------------------------------

    def _capabilities(self) -> dict[str, Any]:
        """What the server can do now: only what something is registered for."""
        found: dict[str, Any] = {"logging": {}}
        if self._catalogue.tools:
            found["tools"] = {"listChanged": True}
        if self._catalogue.prompts:
            found["prompts"] = {"listChanged": True}
        if self._requests.resources.any:
            found["resources"] = {"subscribe": True, "listChanged": True}
        if self._catalogue.completes or self._requests.resources.completes:
            found["completions"] = {}
        return found

    def _with_icons(self) -> dict[str, Any]:
        """Who serves, for revisions with icons; told in greetings only, since a picture may be in it."""
        icons = [icon.as_json() for icon in self._served.app.icons]
        return {**self._server, "icons": icons} if icons else self._server

    def _instructed(self, result: dict[str, Any]) -> dict[str, Any]:
        if self._served.app.instructions is not None:
            result["instructions"] = self._served.app.instructions
        return result

    async def _initialize(self, params: dict[str, Any]) -> object:
        client = greeted(params)
        self._legacy = client
        self._link.host = self._link.host_of(client.info)
        self._batches.switch(on=client.version == BATCHING)
        capabilities = self._told = self._capabilities()
        if client.version == "2024-11-05":
            capabilities = {name: value for name, value in capabilities.items() if name != "completions"}
        server = self._with_icons() if client.version >= SINCE["icons"] else self._server
        return self._instructed({"protocolVersion": client.version, "capabilities": capabilities, "serverInfo": server})

    def _initialized(self, params: dict[str, Any]) -> None:
        if self._legacy is not None:
            self._declared = self._told
            self._requests.greeted = True

    async def _discover(self, params: dict[str, Any]) -> object:
        client = self._client(params)
        if not client.is_modern:
            return await unknown_method("server/discover")(params)
        result = self._shapes.of(client).cacheable(
            self._instructed({"supportedVersions": [MODERN], "capabilities": self._capabilities()})
        )
        result["_meta"][SERVER] = self._with_icons()
        return result

    async def _ping(self, params: dict[str, Any]) -> object:
        meta = meta_of(params)
        if VERSION in meta:
            modern_client(meta)
            return await unknown_method("ping")(params)
        return {}

    # -- log, subscriptions, changes -----------------------------------------------------------------------------------

    async def _set_level(self, params: dict[str, Any], client: Client) -> object:
        level = self._link.log_level = level_of(params.get("level"), "level")
        self._link.want(level)
        return {}

    async def _subscribe(self, params: dict[str, Any], client: Client) -> object:
        uri = need(params, "uri", str)
        if not self._requests.resources.knows(uri):
            raise self._requests.no_resource(uri, client)
        self._changes.subscribe(uri)
        return {}

    async def _unsubscribe(self, params: dict[str, Any], client: Client) -> object:
        self._changes.unsubscribe(need(params, "uri", str))
        return {}

    async def _listen(self, params: dict[str, Any], rid: Id | None = None) -> object:
        rid = self._peer.begun_id if rid is None else rid
        assert rid is not None
        client = self._client(params)
        if not client.is_modern:
            return await unknown_method("subscriptions/listen")(params)
        meta = await self._changes.listen(params, rid)
        result = self._shapes.of(client).plain({})
        result["_meta"].update(meta)
        return result

    def _registered(self, changes: Sequence[Change]) -> None:
        for listed in self._catalogue.refresh():
            self._changes.list_changed(listed)
        if any(kind == "resource" for kind, _ in changes):
            self._changes.list_changed("resources")

    def _resources_changed(self, uris: Sequence[str]) -> None:
        for uri in uris:
            self._changes.resource_updated(uri)

    def _task_changed(self, health: TaskHealth) -> bool:
        self._changes.resource_updated(TASKS)
        return False  # a client that has not subscribed reads of it in the log

    def _published(self, sender: str, topic: str, payload: dict[str, Any]) -> None:
        if not self._ending:
            event = {"from": sender, "topic": topic, "payload": payload}
            self._observers.take(Event("bus/event", event, CONTEXT))


def _legacy_only(method: str, handle: _Handle) -> _Handle:
    def begin(params: dict[str, Any], client: Client) -> Awaitable[object]:
        return unknown_method(method)(params) if client.is_modern else handle(params, client)

    return begin


def _refuse_ending(method: str) -> RequestHandler:
    raise InvalidRequest(f"{method[:200]!r} after the end; the server is shutting down")
